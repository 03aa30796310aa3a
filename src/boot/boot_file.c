/*
 * Reads files for boot_load(). The bytes are copied rather than mapped: a file
 * that someone truncates meanwhile would take the monitor down with SIGBUS.
 */
#include "boot/boot_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define FIRST_GUESS (1u << 20)
#define HUGE_BYTES  (2u << 20)

static int read_all(struct boot_file *file, int fd, size_t capacity, size_t max_len)
{
	file->len = 0;
	/* A kernel has more than ten thousand small pages, each a fault of its own. */
	if (capacity > 2 * HUGE_BYTES) {
		capacity = (capacity + HUGE_BYTES - 1) & ~(size_t)(HUGE_BYTES - 1);
		file->bytes = aligned_alloc(HUGE_BYTES, capacity);
		if (file->bytes)
			(void)madvise(file->bytes, capacity, MADV_HUGEPAGE);
	} else {
		file->bytes = malloc(capacity);
	}
	if (!file->bytes)
		return -ENOMEM;
	for (;;) {
		if (file->len > max_len)
			return -EFBIG;
		if (file->len == capacity) {
			if (capacity > max_len)
				return -EFBIG;
			capacity = capacity > max_len / 2 ? max_len + 1 : capacity * 2;
			uint8_t *bytes = realloc(file->bytes, capacity);

			if (!bytes)
				return -ENOMEM;
			file->bytes = bytes;
		}
		ssize_t got = read(fd, file->bytes + file->len, capacity - file->len);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (got == 0)
			return file->len > max_len ? -EFBIG : 0;
		file->len += (size_t)got;
	}
}

int boot_file_read(struct boot_file *file, const char *path, size_t max_len, const char **why)
{
	int err;
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);

	*file = (struct boot_file){ 0 };
	if (fd < 0 || fstat(fd, &st)) {
		err = -errno;
	} else if (S_ISREG(st.st_mode) && (uint64_t)st.st_size > max_len) {
		err = -EFBIG;
	} else {
		/* One byte more than the file has, so that the read that finds its end needs no
		 * second allocation. */
		err = read_all(file, fd, S_ISREG(st.st_mode) ? (size_t)st.st_size + 1 : FIRST_GUESS,
			       max_len);
	}
	if (fd >= 0)
		close(fd);
	if (err) {
		boot_file_fini(file);
		*why = err == -ENOENT  ? "no such file"
		       : err == -EFBIG ? "too large"
				       : strerrordesc_np(-err);
	}
	return err;
}

void boot_file_fini(struct boot_file *file)
{
	free(file->bytes);
	*file = (struct boot_file){ 0 };
}
