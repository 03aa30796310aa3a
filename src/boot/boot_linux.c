/*
 * Linux boot protocol, 64-bit entry. Called by boot_image.c.
 *
 * Low memory holds what the entry needs; all of it is inside the first 640 KiB,
 * which the kernel leaves alone until it has read its parameters:
 *
 *   0x06000 GDT        0x07000 zero page    0x09000 page tables (6 pages)
 *   0x10000 setup_data 0x20000 command line
 *
 * Invariant: the header fields used are those boot_linux_parse() has checked.
 */
#include "boot/boot_linux.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "boot/boot_bytes.h"
#include "boot/boot_memory.h"
#include "boot/boot_payload.h"

#define GDT_ADDRESS         0x6000u
#define ZERO_PAGE_ADDRESS   0x7000u
#define STACK_TOP           0x9000u
#define PAGE_TABLES_ADDRESS 0x9000u
#define SETUP_DATA_ADDRESS  0x10000u
#define CMDLINE_ADDRESS     0x20000u
#define LOW_END             0x30000u

/* Setup header, offsets in the file and in the zero page alike. */
#define HDR_SETUP_SECTS     0x1f1
#define HDR_BOOT_FLAG       0x1fe
#define HDR_JUMP_LEN        0x201
#define HDR_MAGIC           0x202
#define HDR_VERSION         0x206
#define HDR_TYPE_OF_LOADER  0x210
#define HDR_LOADFLAGS       0x211
#define HDR_CODE32_START    0x214
#define HDR_RAMDISK_IMAGE   0x218
#define HDR_RAMDISK_SIZE    0x21c
#define HDR_CMD_LINE_PTR    0x228
#define HDR_INITRD_ADDR_MAX 0x22c
#define HDR_RELOCATABLE     0x234
#define HDR_XLOADFLAGS      0x236
#define HDR_CMDLINE_SIZE    0x238
#define HDR_SETUP_DATA      0x250
#define HDR_PREF_ADDRESS    0x258
#define HDR_INIT_SIZE       0x260
#define HDR_2_12_END        0x268
#define LOADED_HIGH         0x01
#define XLF_KERNEL_64       0x01

/* Zero page. */
#define ZP_ACPI_RSDP        0x070
#define ZP_E820_ENTRIES     0x1e8
#define ZP_E820_TABLE       0x2d0
#define E820_ENTRY_LEN      20
#define LOADER_UNREGISTERED 0xff

#define SETUP_RNG_SEED 9
#define RNG_SEED_LEN   32

bool boot_linux_is(const uint8_t *image, size_t len)
{
	return len >= HDR_VERSION + 2 && load16(image + HDR_BOOT_FLAG) == 0xaa55 &&
	       !memcmp(image + HDR_MAGIC, "HdrS", 4);
}

int boot_linux_parse(const uint8_t *image, size_t len, struct boot_linux *out, const char **why)
{
	*out = (struct boot_linux){ 0 };
	*why = "truncated: the Linux setup header is cut off";
	if (!boot_linux_is(image, len) || len < HDR_2_12_END)
		return -EINVAL;
	out->version = load16(image + HDR_VERSION);
	if (out->version < 0x020c || !(load16(image + HDR_XLOADFLAGS) & XLF_KERNEL_64)) {
		*why = "a Linux kernel without a 64-bit entry (boot protocol 2.12 with "
		       "XLF_KERNEL_64 is needed)";
		return -EINVAL;
	}
	if (!(image[HDR_LOADFLAGS] & LOADED_HIGH)) {
		*why = "a zImage, which loads low; only bzImages boot here";
		return -EINVAL;
	}
	unsigned header_end = HDR_MAGIC + image[HDR_JUMP_LEN];
	unsigned sects = image[HDR_SETUP_SECTS] ? image[HDR_SETUP_SECTS] : 4;

	if (header_end < HDR_2_12_END) {
		*why = "a damaged Linux setup header";
		return -EINVAL;
	}
	out->header_len = header_end - HDR_SETUP_SECTS;
	out->body_offset = (uint64_t)(sects + 1) * 512;
	if (len < header_end || len <= out->body_offset + 0x200) {
		*why = "truncated: the file ends before the kernel proper";
		return -EINVAL;
	}
	out->body_len = len - out->body_offset;
	/*
	 * The syssize field is not compared with the length: images whose tail was signed or padded
	 * disagree with it either way. A file cut short is told by the payload field below, where
	 * there is one.
	 */
	uint64_t payload_end = (uint64_t)load32(image + 0x248) + load32(image + 0x24c);

	if (payload_end > out->body_len) {
		*why = "truncated: its compressed payload goes on beyond the end of the file";
		return -EINVAL;
	}
	out->load_address = load32(image + HDR_CODE32_START);
	out->run_address = load64(image + HDR_PREF_ADDRESS);
	out->init_size = load32(image + HDR_INIT_SIZE);
	if (out->run_address < out->load_address)
		out->run_address = out->load_address;
	if (out->init_size < out->body_len)
		out->init_size = out->body_len;
	out->initrd_max = load32(image + HDR_INITRD_ADDR_MAX);
	out->cmdline_max = load32(image + HDR_CMDLINE_SIZE);
	if (out->cmdline_max > LOW_END - CMDLINE_ADDRESS - 1)
		out->cmdline_max = LOW_END - CMDLINE_ADDRESS - 1;
	if (out->load_address < 0x100000 || out->run_address > RAM_LOW_LIMIT) {
		*why = "a damaged Linux setup header: its load address makes no sense";
		return -EINVAL;
	}
	return 0;
}

static int gdt_write(struct ram *ram)
{
	/* null, null, __BOOT_CS 0x10: 64-bit code, __BOOT_DS 0x18: data, 0x20: TSS (two slots) */
	static const uint64_t gdt[6] = {
		0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00008b0000000067, 0
	};

	return ram_write(ram, GDT_ADDRESS, gdt, sizeof(gdt));
}

/* Maps the first 4 GiB one to one in 2 MiB pages: PML4, PDPT, four page directories. */
static int page_tables_write(struct ram *ram)
{
	uint64_t table[512] = { PAGE_TABLES_ADDRESS + 0x1000 + 3 };
	int err = ram_write(ram, PAGE_TABLES_ADDRESS, table, sizeof(table));

	for (unsigned i = 0; i < 512; i++)
		table[i] = i < 4 ? PAGE_TABLES_ADDRESS + 0x2000 + i * 0x1000 + 3 : 0;
	if (!err)
		err = ram_write(ram, PAGE_TABLES_ADDRESS + 0x1000, table, sizeof(table));
	for (unsigned dir = 0; dir < 4 && !err; dir++) {
		for (unsigned i = 0; i < 512; i++)
			table[i] = ((uint64_t)dir << 30) + ((uint64_t)i << 21) + 0x83;
		err = ram_write(ram, PAGE_TABLES_ADDRESS + 0x2000 + dir * 0x1000, table,
				sizeof(table));
	}
	return err;
}

/* One setup_data node: a seed for the guest's random generator, of which it can have no other so
 * early. */
static int setup_data_write(struct ram *ram)
{
	uint8_t node[16 + RNG_SEED_LEN] = { 0 };

	store32(node + 8, SETUP_RNG_SEED);
	store32(node + 12, RNG_SEED_LEN);
	if (getrandom(node + 16, RNG_SEED_LEN, 0) != RNG_SEED_LEN)
		return -EIO;
	int err = ram_write(ram, SETUP_DATA_ADDRESS, node, sizeof(node));

	explicit_bzero(node, sizeof(node));
	return err;
}

static void e820_fill(uint8_t *zero_page, const struct boot_machine *machine)
{
	zero_page[ZP_E820_ENTRIES] = (uint8_t)machine->range_count;
	for (unsigned i = 0; i < machine->range_count; i++) {
		uint8_t *entry = zero_page + ZP_E820_TABLE + i * E820_ENTRY_LEN;

		store64(entry, machine->range[i].base);
		store64(entry + 8, machine->range[i].len);
		store32(entry + 16, machine->range[i].type);
	}
}

static int zero_page_write(const struct boot_machine *machine, const struct boot_file *image,
			   const struct boot_linux *parsed, gpa_t initrd, uint64_t initrd_len)
{
	uint8_t zero_page[4096] = { 0 };

	memcpy(zero_page + HDR_SETUP_SECTS, image->bytes + HDR_SETUP_SECTS, parsed->header_len);
	zero_page[HDR_TYPE_OF_LOADER] = LOADER_UNREGISTERED;
	store32(zero_page + HDR_CMD_LINE_PTR, CMDLINE_ADDRESS);
	store32(zero_page + HDR_RAMDISK_IMAGE, (uint32_t)initrd);
	store32(zero_page + HDR_RAMDISK_SIZE, (uint32_t)initrd_len);
	store64(zero_page + HDR_SETUP_DATA, SETUP_DATA_ADDRESS);
	store64(zero_page + ZP_ACPI_RSDP, machine->rsdp);
	e820_fill(zero_page, machine);
	return ram_write(machine->ram, ZERO_PAGE_ADDRESS, zero_page, sizeof(zero_page));
}

int boot_linux_load(const struct boot_machine *machine, const struct boot_file *image,
		    const struct boot_linux *parsed, const struct boot_unpacked *unpacked,
		    const struct boot_file *initrd, const char *cmdline, struct boot_entry *entry,
		    char *why)
{
	size_t cmdline_len = strlen(cmdline);
	uint64_t kernel_end = parsed->run_address + parsed->init_size;
	gpa_t initrd_at = 0;

	if (cmdline_len > parsed->cmdline_max) {
		snprintf(why, BOOT_WHY_MAX, "the command line has %zu bytes, this kernel takes %u",
			 cmdline_len, parsed->cmdline_max);
		return -E2BIG;
	}
	if (!boot_memory_is_ram(machine, parsed->run_address, parsed->init_size) ||
	    !boot_memory_is_ram(machine, parsed->load_address, parsed->body_len) ||
	    !boot_memory_is_ram(machine, 0x1000, LOW_END - 0x1000)) {
		snprintf(why, BOOT_WHY_MAX,
			 "memory too small: this kernel needs at least %lu MiB, the guest has %lu",
			 (unsigned long)((kernel_end + (1u << 20) - 1) >> 20),
			 boot_memory_mib(machine));
		return -ENOSPC;
	}
	if (initrd->len) {
		uint64_t limit =
			parsed->initrd_max < RAM_LOW_LIMIT ? parsed->initrd_max + 1 : RAM_LOW_LIMIT;

		initrd_at =
			boot_memory_place_high(machine, initrd->len, PAGE_SIZE, kernel_end, limit);
		if (!initrd_at) {
			snprintf(why, BOOT_WHY_MAX,
				 "the initrd (%zu KiB) does not fit beside the kernel into %lu MiB "
				 "of memory",
				 initrd->len >> 10, boot_memory_mib(machine));
			return -ENOSPC;
		}
	}

	/* The memory that was found to be there is what the header speaks of; a kernel that lies
	 * elsewhere unpacks itself. */
	if (unpacked &&
	    (unpacked->elf.low < parsed->run_address || unpacked->elf.high > kernel_end))
		unpacked = NULL;
	int err = unpacked ? boot_elf_load(machine, unpacked->bytes, &unpacked->elf)
			   : ram_write(machine->ram, parsed->load_address,
				       image->bytes + parsed->body_offset, parsed->body_len);

	if (!err && initrd->len)
		err = ram_write(machine->ram, initrd_at, initrd->bytes, initrd->len);
	if (!err)
		err = ram_write(machine->ram, CMDLINE_ADDRESS, cmdline, cmdline_len + 1);
	if (!err)
		err = setup_data_write(machine->ram);
	if (!err)
		err = gdt_write(machine->ram);
	if (!err)
		err = page_tables_write(machine->ram);
	if (!err)
		err = zero_page_write(machine, image, parsed, initrd_at, initrd->len);
	if (err) {
		snprintf(why, BOOT_WHY_MAX, "cannot be written into guest memory: %s",
			 strerrordesc_np(-err));
		return err;
	}
	*entry = (struct boot_entry){
		.mode = BOOT_MODE_LONG64,
		.protocol = unpacked ? "Linux 64-bit, unpacked" : "Linux 64-bit",
		.rip = unpacked ? unpacked->elf.entry : parsed->load_address + 0x200,
		.rsp = STACK_TOP,
		.rsi = ZERO_PAGE_ADDRESS,
		.cr3 = PAGE_TABLES_ADDRESS,
		.gdt_base = GDT_ADDRESS,
		.gdt_limit = 6 * 8 - 1,
		.cs = 0x10,
		.ds = 0x18,
		.tr = 0x20,
	};
	return 0;
}
