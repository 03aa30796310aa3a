/*
 * Arena for boot information; see the header. Both protocols that use it leave
 * the GDT to the kernel, but many a small kernel reloads a segment register
 * before it has one of its own, so the block begins with a flat GDT.
 */
#include "boot/boot_info.h"

#include <errno.h>
#include <string.h>

#include "boot/boot_bytes.h"
#include "boot/boot_memory.h"

#define LOW_PLACE 0x10000u
#define GDT_LEN   32

int boot_info_init(struct boot_info *info, const struct boot_machine *machine,
		   const struct boot_elf *elf, uint64_t floor)
{
	info->used = GDT_LEN;
	memset(info->bytes, 0, sizeof(info->bytes));
	store64(info->bytes + 8, 0x00cf9b000000ffff);  /* 0x08: flat code */
	store64(info->bytes + 16, 0x00cf93000000ffff); /* 0x10: flat data */
	store64(info->bytes + 24, 0x00008b0000000067); /* 0x18: TSS at 0 */
	info->base = LOW_PLACE;
	if (boot_memory_is_ram(machine, info->base, BOOT_INFO_MAX) &&
	    !boot_elf_overlaps(elf, info->base, BOOT_INFO_MAX))
		return 0;
	info->base =
		boot_memory_place_high(machine, BOOT_INFO_MAX, PAGE_SIZE, floor, RAM_HIGH_BASE);
	return info->base ? 0 : -ENOSPC;
}

uint8_t *boot_info_alloc(struct boot_info *info, uint32_t len, uint32_t *gpa)
{
	uint32_t at = (info->used + 7) & ~7u;

	if (at > BOOT_INFO_MAX || len > BOOT_INFO_MAX - at)
		return NULL;
	info->used = at + len;
	*gpa = (uint32_t)info->base + at;
	return info->bytes + at;
}

uint32_t boot_info_string(struct boot_info *info, const char *string)
{
	size_t len = strlen(string) + 1;
	uint32_t gpa;
	uint8_t *place = len <= BOOT_INFO_MAX ? boot_info_alloc(info, (uint32_t)len, &gpa) : NULL;

	if (!place)
		return 0;
	memcpy(place, string, len);
	return gpa;
}

void boot_info_entry(const struct boot_info *info, struct boot_entry *entry)
{
	*entry = (struct boot_entry){
		.mode = BOOT_MODE_PROT32,
		.gdt_base = info->base,
		.gdt_limit = GDT_LEN - 1,
		.cs = 0x08,
		.ds = 0x10,
	};
}
