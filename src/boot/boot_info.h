/*
 * The block of boot information that PVH and multiboot kernels are handed: a
 * small arena with a guest address, filled front to back, then written at once.
 */
#ifndef INSULA_BOOT_BOOT_INFO_H
#define INSULA_BOOT_BOOT_INFO_H

#include "boot/boot_elf.h"
#include "boot/boot_image.h"

#define BOOT_INFO_MAX 0x10000u

struct boot_info {
	gpa_t base;
	uint32_t used;
	uint8_t bytes[BOOT_INFO_MAX];
};

/*
 * Chooses the block's address: low memory when the kernel leaves it free, else
 * above `floor`. -ENOSPC if there is no room below 4 GiB. Puts the GDT first.
 */
int boot_info_init(struct boot_info *info, const struct boot_machine *machine,
		   const struct boot_elf *elf, uint64_t floor) __attribute__((warn_unused_result));

/* 8-aligned space of len bytes, zeroed; NULL if the block is full. *gpa: where the guest finds it.
 */
uint8_t *boot_info_alloc(struct boot_info *info, uint32_t len, uint32_t *gpa);

/* Copies a string; 0 if the block is full. */
uint32_t boot_info_string(struct boot_info *info, const char *string);

/* Entry state for a flat 32-bit start with the block's GDT. */
void boot_info_entry(const struct boot_info *info, struct boot_entry *entry);

#endif
