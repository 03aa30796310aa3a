/*
 * PVH direct boot (Xen's docs/misc/pvh.pandoc and hvm/start_info.h): an ELF
 * kernel with a XEN_ELFNOTE_PHYS32_ENTRY note is entered in 32-bit protected
 * mode without paging, with hvm_start_info in EBX. Linux's vmlinux is one.
 */
#ifndef INSULA_BOOT_BOOT_PVH_H
#define INSULA_BOOT_BOOT_PVH_H

#include "boot/boot_elf.h"
#include "boot/boot_file.h"
#include "boot/boot_image.h"

struct boot_module {
	struct boot_file file;
	const char *args; /* NULL: none */
};

/* elf->has_pvh. -errno with a sentence part in why (BOOT_WHY_MAX). */
int boot_pvh_load(const struct boot_machine *machine, const struct boot_file *image,
		  const struct boot_elf *elf, const struct boot_module *modules,
		  size_t module_count, const char *cmdline, struct boot_entry *entry, char *why)
	__attribute__((warn_unused_result));

#endif
