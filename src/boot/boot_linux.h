/*
 * Linux bzImage by the 64-bit boot protocol (Documentation/arch/x86/boot.rst):
 * the compressed kernel goes to 1 MiB, its entry is 0x200 behind, in long mode
 * on identity page tables, with the zero page in RSI.
 */
#ifndef INSULA_BOOT_BOOT_LINUX_H
#define INSULA_BOOT_BOOT_LINUX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "boot/boot_file.h"
#include "boot/boot_image.h"

/* What the setup header says, checked. */
struct boot_linux {
	uint16_t version;     /* protocol, 0x020f = 2.15 */
	uint32_t header_len;  /* bytes of the setup header, from 0x1f1 */
	uint64_t body_offset; /* protected-mode part in the file */
	uint64_t body_len;
	uint64_t load_address; /* where the body goes */
	uint64_t
		run_address; /* where the kernel will run; init_size bytes from there must be RAM */
	uint64_t init_size;
	uint64_t initrd_max;  /* last byte an initrd may occupy */
	uint32_t cmdline_max; /* bytes without the NUL */
};

/* True if the file has a setup header at all, of whatever age. */
bool boot_linux_is(const uint8_t *image, size_t len);

/* Pure. 0, or -EINVAL and *why, a static sentence part. */
int boot_linux_parse(const uint8_t *image, size_t len, struct boot_linux *linux_image,
		     const char **why) __attribute__((warn_unused_result));

struct boot_unpacked;

/*
 * Loads everything. unpacked: the kernel taken out of the image, which is then
 * entered directly (as its own unpacker would, at the address it is linked for:
 * no KASLR); NULL: the image unpacks itself in the guest. -errno with a sentence part in why
 * (BOOT_WHY_MAX). initrd->len 0: none. */
int boot_linux_load(const struct boot_machine *machine, const struct boot_file *image,
		    const struct boot_linux *linux_image, const struct boot_unpacked *unpacked,
		    const struct boot_file *initrd, const char *cmdline, struct boot_entry *entry,
		    char *why) __attribute__((warn_unused_result));

#endif
