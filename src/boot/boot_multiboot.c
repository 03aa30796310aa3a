/*
 * Multiboot 1 loader. Called by boot_image.c and, for its parser, by fuzzers.
 * Invariant: an accepted image has an entry inside what is loaded and all of
 * it below 4 GiB, for the kernel starts in 32-bit mode.
 */
#include "boot/boot_multiboot.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "boot/boot_bytes.h"
#include "boot/boot_info.h"
#include "boot/boot_memory.h"

#define HEADER_MAGIC  0x1badb002u
#define HEADER_SEARCH 8192u
#define LOADER_MAGIC  0x2badb002u

/* Header flags: 0 to 15 are demands, of which a loader must refuse those it does not know. */
#define FLAG_PAGE_ALIGN  0x00001u
#define FLAG_MEMORY_INFO 0x00002u
#define FLAG_VIDEO       0x00004u /* there is no display: answered by leaving the video fields out */
#define FLAG_DEMANDS     0x0ffffu
#define FLAG_ADDRESSES   0x10000u

/* Boot information, offsets and flags. */
#define MBI_LEN          116
#define MBI_FLAGS        0
#define MBI_MEM_LOWER    4
#define MBI_MEM_UPPER    8
#define MBI_CMDLINE      16
#define MBI_MODS_COUNT   20
#define MBI_MODS_ADDR    24
#define MBI_MMAP_LENGTH  44
#define MBI_MMAP_ADDR    48
#define MBI_LOADER_NAME  64
#define INFO_MEMORY      0x001u
#define INFO_CMDLINE     0x004u
#define INFO_MODS        0x008u
#define INFO_MMAP        0x040u
#define INFO_LOADER_NAME 0x200u
#define MODULE_LEN       16
#define MMAP_LEN         24 /* 20 bytes and the size field before them */

/* Offset of the header, or len when there is none. */
static size_t header_find(const uint8_t *image, size_t len)
{
	size_t end = len < HEADER_SEARCH ? len : HEADER_SEARCH;

	for (size_t at = 0; at + 12 <= end; at += 4) {
		if (load32(image + at) == HEADER_MAGIC &&
		    load32(image + at) + load32(image + at + 4) + load32(image + at + 8) == 0)
			return at;
	}
	return len;
}

bool boot_multiboot_is(const uint8_t *image, size_t len)
{
	return header_find(image, len) < len;
}

/* The header names addresses itself ("a.out kludge"): one segment with the text, data and bss. */
static int addresses_parse(const uint8_t *image, size_t len, size_t header,
			   struct boot_multiboot *mb, const char **why)
{
	if (!bytes_inside(header, 32, len)) {
		*why = "truncated: its multiboot header is cut off";
		return -EINVAL;
	}
	uint32_t header_addr = load32(image + header + 12);
	uint32_t load_addr = load32(image + header + 16);
	uint32_t load_end = load32(image + header + 20);
	uint32_t bss_end = load32(image + header + 24);

	mb->entry = load32(image + header + 28);
	*why = "its multiboot header has addresses that make no sense";
	if (load_addr > header_addr || header_addr - load_addr > header)
		return -EINVAL;
	uint64_t offset = header - (header_addr - load_addr);
	uint64_t file_len = len - offset; /* load_end 0: all of the file */

	if (load_end) {
		if (load_end <= load_addr)
			return -EINVAL;
		file_len = load_end - load_addr;
		if (!bytes_inside(offset, file_len, len)) {
			*why = "truncated: its multiboot header promises more than the file has";
			return -EINVAL;
		}
	}
	uint64_t mem_len = file_len;

	if (bss_end) {
		if (bss_end < load_addr + file_len)
			return -EINVAL;
		mem_len = bss_end - load_addr;
	}
	if (load_addr + mem_len > RAM_HIGH_BASE)
		return -EINVAL;
	mb->elf = (struct boot_elf){
		.low = load_addr,
		.high = load_addr + mem_len,
		.segment_count = 1,
		.segment[0] = { load_addr, load_addr, offset, file_len, mem_len },
	};
	return 0;
}

int boot_multiboot_parse(const uint8_t *image, size_t len, struct boot_multiboot *mb,
			 const char **why)
{
	size_t header = header_find(image, len);

	*mb = (struct boot_multiboot){ 0 };
	if (header == len) {
		*why = "no multiboot header";
		return -EINVAL;
	}
	mb->flags = load32(image + header + 4);
	if (mb->flags & FLAG_DEMANDS & ~(FLAG_PAGE_ALIGN | FLAG_MEMORY_INFO | FLAG_VIDEO)) {
		*why = "its multiboot header demands something unknown";
		return -EINVAL;
	}
	if (mb->flags & FLAG_ADDRESSES) {
		int err = addresses_parse(image, len, header, mb, why);

		if (err)
			return err;
	} else if (!boot_elf_is(image, len)) {
		*why = "a multiboot kernel that is no ELF file and gives no load addresses";
		return -EINVAL;
	} else {
		int err = boot_elf_parse(image, len, &mb->elf, why);

		if (err)
			return err;
		uint64_t entry = boot_elf_physical(&mb->elf, mb->elf.entry);

		if (mb->elf.high > RAM_HIGH_BASE || entry > UINT32_MAX) {
			*why = "a multiboot kernel that wants to be loaded above 4 GiB";
			return -EINVAL;
		}
		mb->entry = (uint32_t)entry;
	}
	if (!boot_elf_overlaps(&mb->elf, mb->entry, 1)) {
		*why = "its entry point lies outside of what is loaded";
		return -EINVAL;
	}
	return 0;
}

static int modules_load(const struct boot_machine *machine, const struct boot_module *modules,
			size_t count, uint64_t *at, uint8_t *records, struct boot_info *info)
{
	for (size_t i = 0; i < count; i++) {
		const struct boot_file *file = &modules[i].file;
		uint32_t args = boot_info_string(info, modules[i].args ? modules[i].args : "");

		if (!args)
			return -E2BIG;
		*at = (*at + PAGE_SIZE - 1) & PAGE_MASK;
		if (*at >= RAM_HIGH_BASE || file->len > RAM_HIGH_BASE - *at ||
		    !boot_memory_is_ram(machine, *at, file->len ? file->len : 1))
			return -ENOSPC;
		int err = ram_write(machine->ram, *at, file->bytes, file->len);

		if (err)
			return err;
		store32(records + i * MODULE_LEN, (uint32_t)*at);
		store32(records + i * MODULE_LEN + 4, (uint32_t)(*at + file->len));
		store32(records + i * MODULE_LEN + 8, args);
		*at += file->len ? file->len : 1;
	}
	return 0;
}

/* KiB of RAM from 0, and from 1 MiB up to the first hole. */
static void memory_fill(uint8_t *mbi, const struct boot_machine *machine)
{
	uint64_t lower = 0, upper = 0;

	for (unsigned i = 0; i < machine->range_count; i++) {
		const struct boot_range *range = &machine->range[i];

		if (range->type == BOOT_RANGE_RAM && range->base == 0)
			lower = range->len >> 10;
		if (range->type == BOOT_RANGE_RAM && range->base == 0x100000)
			upper = range->len >> 10;
	}
	store32(mbi + MBI_MEM_LOWER, (uint32_t)(lower < 640 ? lower : 640));
	store32(mbi + MBI_MEM_UPPER, (uint32_t)upper);
}

static int info_fill(struct boot_info *info, const struct boot_machine *machine,
		     const struct boot_multiboot *mb, const struct boot_module *modules,
		     size_t module_count, const char *cmdline, uint32_t *mbi_gpa)
{
	uint32_t mods_gpa = 0, map_gpa = 0;
	uint64_t free_at = mb->elf.high > 0x100000 ? mb->elf.high : 0x100000;
	uint8_t *mbi = boot_info_alloc(info, MBI_LEN, mbi_gpa);
	uint8_t *mods = boot_info_alloc(info, (uint32_t)module_count * MODULE_LEN, &mods_gpa);
	uint8_t *map = boot_info_alloc(info, machine->range_count * MMAP_LEN, &map_gpa);
	uint32_t cmdline_gpa = boot_info_string(info, cmdline);
	uint32_t name_gpa = boot_info_string(info, "Insula");

	if (!mbi || !mods || !map || !cmdline_gpa || !name_gpa)
		return -E2BIG;
	store32(mbi + MBI_FLAGS,
		INFO_MEMORY | INFO_CMDLINE | INFO_MODS | INFO_MMAP | INFO_LOADER_NAME);
	memory_fill(mbi, machine);
	store32(mbi + MBI_CMDLINE, cmdline_gpa);
	store32(mbi + MBI_MODS_COUNT, (uint32_t)module_count);
	store32(mbi + MBI_MODS_ADDR, mods_gpa);
	store32(mbi + MBI_MMAP_LENGTH, machine->range_count * MMAP_LEN);
	store32(mbi + MBI_MMAP_ADDR, map_gpa);
	store32(mbi + MBI_LOADER_NAME, name_gpa);
	for (unsigned i = 0; i < machine->range_count; i++) {
		uint8_t *entry = map + i * MMAP_LEN;

		store32(entry, MMAP_LEN - 4);
		store64(entry + 4, machine->range[i].base);
		store64(entry + 12, machine->range[i].len);
		store32(entry + 20, machine->range[i].type);
	}
	int err = modules_load(machine, modules, module_count, &free_at, mods, info);

	/* The block itself sits at the top of memory if the kernel fills the low part; modules may
	 * not reach it. */
	if (!err && info->base >= mb->elf.high && module_count && free_at > info->base)
		err = -ENOSPC;
	return err ? err : ram_write(machine->ram, info->base, info->bytes, info->used);
}

int boot_multiboot_load(const struct boot_machine *machine, const struct boot_file *image,
			const struct boot_multiboot *mb, const struct boot_module *modules,
			size_t module_count, const char *cmdline, struct boot_entry *entry,
			char *why)
{
	uint32_t mbi_gpa = 0;
	int err = boot_elf_load(machine, image->bytes, &mb->elf);

	if (err) {
		snprintf(
			why, BOOT_WHY_MAX,
			"memory too small: it is loaded from %#llx to %#llx, the guest has %lu MiB",
			(unsigned long long)mb->elf.low, (unsigned long long)mb->elf.high,
			boot_memory_mib(machine));
		return err;
	}
	struct boot_info *info = malloc(sizeof(*info));

	if (!info) {
		snprintf(why, BOOT_WHY_MAX, "out of host memory");
		return -ENOMEM;
	}
	err = boot_info_init(info, machine, &mb->elf, mb->elf.high);
	if (!err)
		err = info_fill(info, machine, mb, modules, module_count, cmdline, &mbi_gpa);
	if (err == -E2BIG)
		snprintf(why, BOOT_WHY_MAX,
			 "the command lines do not fit the boot information (%u bytes)",
			 BOOT_INFO_MAX);
	else if (err)
		snprintf(why, BOOT_WHY_MAX,
			 "the modules do not fit beside the kernel into %lu MiB of memory",
			 boot_memory_mib(machine));
	if (!err) {
		boot_info_entry(info, entry);
		entry->protocol = "multiboot";
		entry->rip = mb->entry;
		entry->rax = LOADER_MAGIC;
		entry->rbx = mbi_gpa;
	}
	free(info);
	return err;
}
