/* Writes an initramfs: cpio in the "newc" format (the kernel's
 * Documentation/driver-api/early-userspace/buffer-format.rst). */
#ifndef INSULA_CLI_GUEST_CPIO_H
#define INSULA_CLI_GUEST_CPIO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/*
 * Entries come after those of their directories. All belong to root and have
 * no times, so that the same inputs give the same bytes. A failed write shows
 * in the result of guest_cpio_end().
 */
struct guest_cpio {
	FILE *file; /* borrowed */
	uint32_t inode;
	size_t written;
};

void guest_cpio_begin(struct guest_cpio *cpio, FILE *file);
void guest_cpio_directory(struct guest_cpio *cpio, const char *path, unsigned mode);
void guest_cpio_file(struct guest_cpio *cpio, const char *path, unsigned mode, const void *bytes,
		     size_t len);
void guest_cpio_link(struct guest_cpio *cpio, const char *path, const char *target);
void guest_cpio_device(struct guest_cpio *cpio, const char *path, unsigned mode, unsigned major,
		       unsigned minor);
/* The trailer. False if anything could not be written. */
bool guest_cpio_end(struct guest_cpio *cpio) __attribute__((warn_unused_result));

#endif
