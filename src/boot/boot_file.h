/* A whole file in memory, for loaders. */
#ifndef INSULA_BOOT_BOOT_FILE_H
#define INSULA_BOOT_BOOT_FILE_H

#include <stddef.h>
#include <stdint.h>

struct boot_file {
	uint8_t *bytes; /* owned; boot_file_fini frees */
	size_t len;
};

/*
 * Reads path to its end; a pipe will do as well as a file. More than max_len
 * bytes: -EFBIG. On failure -errno and a sentence part such as "no such file"
 * in *why (static).
 */
int boot_file_read(struct boot_file *file, const char *path, size_t max_len, const char **why)
	__attribute__((warn_unused_result));
void boot_file_fini(struct boot_file *file);

#endif
