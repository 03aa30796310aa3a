/* cpio writer for guest_build.c. Invariant: every header begins at a multiple of four, as the
 * kernel's unpacker wants it. */
#include "cli/guest_cpio.h"

#include <string.h>
#include <sys/stat.h>

void guest_cpio_begin(struct guest_cpio *cpio, FILE *file)
{
	*cpio = (struct guest_cpio){ .file = file };
}

static void put(struct guest_cpio *cpio, const void *bytes, size_t len)
{
	cpio->written += fwrite(bytes, 1, len, cpio->file);
}

static void pad(struct guest_cpio *cpio)
{
	put(cpio, "\0\0\0", (4 - cpio->written % 4) % 4);
}

static void entry(struct guest_cpio *cpio, const char *path, unsigned mode, const void *bytes,
		  size_t len, unsigned major, unsigned minor)
{
	size_t name_len = strlen(path) + 1;
	char header[6 + 13 * 8 + 1];

	snprintf(header, sizeof(header),
		 "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", ++cpio->inode, mode,
		 0u, 0u, S_ISDIR(mode) ? 2u : 1u, 0u, (unsigned)len, 0u, 0u, major, minor,
		 (unsigned)name_len, 0u);
	put(cpio, header, sizeof(header) - 1);
	put(cpio, path, name_len);
	pad(cpio);
	if (len)
		put(cpio, bytes, len);
	pad(cpio);
}

void guest_cpio_directory(struct guest_cpio *cpio, const char *path, unsigned mode)
{
	entry(cpio, path, S_IFDIR | mode, NULL, 0, 0, 0);
}

void guest_cpio_file(struct guest_cpio *cpio, const char *path, unsigned mode, const void *bytes,
		     size_t len)
{
	entry(cpio, path, S_IFREG | mode, bytes, len, 0, 0);
}

void guest_cpio_link(struct guest_cpio *cpio, const char *path, const char *target)
{
	entry(cpio, path, S_IFLNK | 0777, target, strlen(target), 0, 0);
}

void guest_cpio_device(struct guest_cpio *cpio, const char *path, unsigned mode, unsigned major,
		       unsigned minor)
{
	entry(cpio, path, S_IFCHR | mode, NULL, 0, major, minor);
}

bool guest_cpio_end(struct guest_cpio *cpio)
{
	entry(cpio, "TRAILER!!!", 0, NULL, 0, 0, 0);
	return fflush(cpio->file) == 0 && !ferror(cpio->file);
}
