/*
 * PVH loader: ELF segments at their physical addresses, modules above the
 * kernel, start_info beside them. Called by boot_image.c.
 * Invariant: nothing overlaps a segment of the kernel.
 */
#include "boot/boot_pvh.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "boot/boot_bytes.h"
#include "boot/boot_info.h"
#include "boot/boot_memory.h"

#define START_MAGIC    0x336ec578u
#define START_INFO_LEN 56
#define MODULE_LEN     32
#define MEMMAP_LEN     24

/* One module at the highest free place; Linux wants its initrd below 2 GiB, and *limit moves down
 * under it. */
static int module_place(const struct boot_machine *machine, const struct boot_elf *elf,
			const struct boot_module *module, uint64_t *limit, uint8_t *record,
			struct boot_info *info)
{
	gpa_t place = boot_memory_place_high(machine, module->file.len ? module->file.len : 1,
					     PAGE_SIZE, elf->high, *limit);

	if (!place)
		return -ENOSPC;
	*limit = place;
	store64(record, place);
	store64(record + 8, module->file.len);
	if (module->args) {
		uint32_t args = boot_info_string(info, module->args);

		if (!args)
			return -E2BIG;
		store64(record + 16, args);
	}
	return ram_write(machine->ram, place, module->file.bytes, module->file.len);
}

static int info_fill(struct boot_info *info, const struct boot_machine *machine,
		     const struct boot_elf *elf, const struct boot_module *modules,
		     size_t module_count, const char *cmdline, uint32_t *start_gpa)
{
	uint64_t limit = RAM_LOW_LIMIT;
	uint32_t records_gpa = 0, map_gpa = 0;
	uint8_t *start = boot_info_alloc(info, START_INFO_LEN, start_gpa);
	uint8_t *records = boot_info_alloc(info, (uint32_t)module_count * MODULE_LEN, &records_gpa);
	uint8_t *map = boot_info_alloc(info, machine->range_count * MEMMAP_LEN, &map_gpa);
	uint32_t cmdline_gpa = boot_info_string(info, cmdline);

	if (!start || !records || !map || !cmdline_gpa)
		return -E2BIG;
	/* The block may have had to go above the kernel: modules then go below it. */
	if (info->base >= elf->high)
		limit = info->base;
	store32(start, START_MAGIC);
	store32(start + 4, 1);
	store32(start + 12, (uint32_t)module_count);
	store64(start + 16, module_count ? records_gpa : 0);
	store64(start + 24, cmdline_gpa);
	store64(start + 32, machine->rsdp);
	store64(start + 40, map_gpa);
	store32(start + 48, machine->range_count);
	for (unsigned i = 0; i < machine->range_count; i++) {
		store64(map + i * MEMMAP_LEN, machine->range[i].base);
		store64(map + i * MEMMAP_LEN + 8, machine->range[i].len);
		store32(map + i * MEMMAP_LEN + 16, machine->range[i].type);
	}
	for (size_t i = 0; i < module_count; i++) {
		int err = module_place(machine, elf, &modules[i], &limit, records + i * MODULE_LEN,
				       info);

		if (err)
			return err;
	}
	return ram_write(machine->ram, info->base, info->bytes, info->used);
}

int boot_pvh_load(const struct boot_machine *machine, const struct boot_file *image,
		  const struct boot_elf *elf, const struct boot_module *modules,
		  size_t module_count, const char *cmdline, struct boot_entry *entry, char *why)
{
	uint32_t start_gpa = 0;
	int err = boot_elf_load(machine, image->bytes, elf);

	if (err) {
		snprintf(why, BOOT_WHY_MAX,
			 "memory too small: its segments reach from %#llx to %#llx, the guest has "
			 "%lu MiB",
			 (unsigned long long)elf->low, (unsigned long long)elf->high,
			 boot_memory_mib(machine));
		return err;
	}
	struct boot_info *info = malloc(sizeof(*info));

	if (!info) {
		snprintf(why, BOOT_WHY_MAX, "out of host memory");
		return -ENOMEM;
	}
	err = boot_info_init(info, machine, elf, elf->high);
	if (!err)
		err = info_fill(info, machine, elf, modules, module_count, cmdline, &start_gpa);
	if (err == -E2BIG)
		snprintf(why, BOOT_WHY_MAX,
			 "command lines of %zu bytes and more do not fit the boot information",
			 strlen(cmdline));
	else if (err)
		snprintf(why, BOOT_WHY_MAX,
			 "the initrd does not fit beside the kernel into %lu MiB of memory",
			 boot_memory_mib(machine));
	if (!err) {
		boot_info_entry(info, entry);
		entry->protocol = "PVH";
		entry->rip = elf->pvh_entry;
		entry->rbx = start_gpa;
	}
	free(info);
	return err;
}
