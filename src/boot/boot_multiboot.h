/*
 * Multiboot 1 (the specification, version 0.6.96): a header in the first 8 KiB,
 * ELF segments or addresses in the header, 32-bit entry with EBX at the boot
 * information. Modules lie page-aligned above the kernel, in their order.
 */
#ifndef INSULA_BOOT_BOOT_MULTIBOOT_H
#define INSULA_BOOT_BOOT_MULTIBOOT_H

#include "boot/boot_elf.h"
#include "boot/boot_file.h"
#include "boot/boot_image.h"
#include "boot/boot_pvh.h"

struct boot_multiboot {
	uint32_t flags;
	uint32_t entry;      /* physical */
	struct boot_elf elf; /* what to load; made from the header's addresses if it has them */
};

/* True if there is a valid multiboot header. */
bool boot_multiboot_is(const uint8_t *image, size_t len);

/* Pure. 0, or -EINVAL and *why, a static sentence part. */
int boot_multiboot_parse(const uint8_t *image, size_t len, struct boot_multiboot *mb,
			 const char **why) __attribute__((warn_unused_result));

/* cmdline: as the kernel will see it, its own name first. -errno with a sentence part in why
 * (BOOT_WHY_MAX). */
int boot_multiboot_load(const struct boot_machine *machine, const struct boot_file *image,
			const struct boot_multiboot *mb, const struct boot_module *modules,
			size_t module_count, const char *cmdline, struct boot_entry *entry,
			char *why) __attribute__((warn_unused_result));

#endif
