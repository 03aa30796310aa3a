/*
 * Raw images: a regular file or a block device whose bytes are the disk's.
 * Set-up only; every way it can fail is one sentence for a person.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "block/block.h"
#include "block/block_io.h"
#include "block/block_overlay.h"

static int fail(char *error, int err, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

static int fail(char *error, int err, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(error, BLOCK_ERROR_MAX, format, args);
	va_end(args);
	return err;
}

/* What direct I/O on the file needs; false if the host cannot tell or cannot do it (Linux 6.1). */
static bool direct_alignment(int fd, uint32_t *memory, uint32_t *offset)
{
	struct statx stx;

	if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) < 0 ||
	    !(stx.stx_mask & STATX_DIOALIGN))
		return false;
	*memory = stx.stx_dio_mem_align;
	*offset = stx.stx_dio_offset_align;
	return *memory && *offset;
}

static bool power_of_two(uint32_t value)
{
	return value && !(value & (value - 1));
}

/*
 * An exclusive lock to write, a shared one to read, held by the open file: it
 * also keeps two disks of one VM from being the same file.
 */
static int lock_image(struct block *block, const char *path, char *error)
{
	struct flock lock = {
		.l_type = block->info.read_only ? F_RDLCK : F_WRLCK,
		.l_whence = SEEK_SET,
	};

	if (fcntl(block->fd, F_OFD_SETLK, &lock) == 0)
		return 0;
	if (errno == EAGAIN || errno == EACCES)
		return fail(error, -EBUSY,
			    "disk %s is in use: another Insula or program has locked it", path);
	log_warn("disk %s cannot be locked (%s); do not use it twice", path, strerror(errno));
	return 0;
}

static int measure(struct block *block, const char *path, char *error)
{
	struct block_info *info = &block->info;
	struct stat st;
	uint64_t size;

	if (fstat(block->fd, &st) < 0)
		return fail(error, -errno, "disk %s: %s", path, strerror(errno));
	info->logical_block = BLOCK_SECTOR;
	info->physical_block = 4096;
	size = (uint64_t)st.st_size;
	if (S_ISBLK(st.st_mode)) {
		int logical = BLOCK_SECTOR;
		unsigned physical = 0;

		if (ioctl(block->fd, BLKGETSIZE64, &size) < 0)
			return fail(error, -errno, "disk %s: cannot learn its size: %s", path,
				    strerror(errno));
		if (ioctl(block->fd, BLKSSZGET, &logical) == 0 && power_of_two((uint32_t)logical))
			info->logical_block = (uint32_t)logical;
		if (ioctl(block->fd, BLKPBSZGET, &physical) == 0 && power_of_two(physical))
			info->physical_block = physical;
	} else if (!S_ISREG(st.st_mode)) {
		return fail(error, -EINVAL, "disk %s is neither a file nor a block device", path);
	}
	if (!size)
		return fail(error, -EINVAL, "disk %s is empty", path);
	if (size % BLOCK_SECTOR)
		return fail(error, -EINVAL,
			    "disk %s has %llu bytes, which is not a multiple of 512; "
			    "\"truncate -s %%512 %s\" rounds it up",
			    path, (unsigned long long)size, path);
	info->size_bytes = size;
	return 0;
}

/* A second descriptor past the page cache, if the file has such a thing. */
static void open_direct(struct block *block, const char *path)
{
	struct block_info *info = &block->info;
	uint32_t memory = 4096, offset = 4096;
	char self[64];

	snprintf(self, sizeof(self), "/proc/self/fd/%d", block->fd);
	block->direct_fd = open(self, (info->read_only ? O_RDONLY : O_RDWR) | O_DIRECT | O_CLOEXEC);
	if (block->direct_fd < 0) {
		if (block->direct_always)
			log_info("disk %s: no direct I/O here (%s); using the page cache", path,
				 strerror(errno));
		return;
	}
	if (!direct_alignment(block->direct_fd, &memory, &offset) || !power_of_two(memory) ||
	    !power_of_two(offset)) {
		memory = 4096;
		offset = 4096;
	}
	info->iov_align = memory;
	block->direct_align = offset;
}

static int open_overlay(struct block *block, const struct block_options *options, char *error)
{
	const char *path = options->path;
	int err = 0;

	block->info.iov_align = 1;
	block->fd = options->base_fd ? options->base_fd : open(path, O_RDONLY | O_CLOEXEC);
	if (block->fd < 0)
		return fail(error, -errno, "disk %s: %s", path, strerror(errno));
	/* Of others to write it; those who read it are many. */
	block->info.read_only = true;
	if (!options->base_fd)
		err = lock_image(block, path, error);
	block->info.read_only = false;
	if (!err)
		err = measure(block, path, error);
	if (err)
		return err;
	err = overlay_open(block);
	if (err)
		return fail(error, err, "disk %s: what is written to it has no place: %s", path,
			    strerror(-err));
	if (fallocate(block->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		      (off_t)block->info.size_bytes, 4096) == 0)
		block->info.can_discard = block->info.can_write_zeroes = true;
	return 0;
}

static int open_file(struct block *block, const struct block_options *options, char *error)
{
	const char *path = options->path;
	struct stat st;
	int err;

	if (options->overlay)
		return open_overlay(block, options, error);
	/* Looked at before it is opened: opening a FIFO or a tape has consequences. */
	if (stat(path, &st) < 0)
		return fail(error, -errno, "disk %s: %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return fail(error, -EINVAL, "disk %s is neither a file nor a block device", path);
	block->info.read_only = options->read_only;
	block->info.iov_align = 1;
	block->fd = open(path, (options->read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC);
	if (block->fd < 0) {
		if (!options->read_only && (errno == EACCES || errno == EROFS))
			return fail(error, -errno,
				    "disk %s cannot be written (%s); add \",ro\" to use it "
				    "read-only",
				    path, strerror(errno));
		return fail(error, -errno, "disk %s: %s", path, strerror(errno));
	}
	err = lock_image(block, path, error);
	if (!err)
		err = measure(block, path, error);
	if (err)
		return err;
	/* A hole beyond the end changes nothing, and tells whether holes can be made. */
	if (!options->read_only && fallocate(block->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
					     (off_t)block->info.size_bytes, 4096) == 0)
		block->info.can_discard = block->info.can_write_zeroes = true;
	block->direct_always = options->direct;
	open_direct(block, path);
	return 0;
}

struct block *block_raw_open(struct loop *loop, const struct block_options *options, char *error)
{
	struct block *block = calloc(1, sizeof(*block));
	int err;

	if (!block) {
		fail(error, 0, "out of memory");
		errno = ENOMEM;
		return NULL;
	}
	block_init(block, loop);
	err = open_file(block, options, error);
	if (!err) {
		err = block_start(block, options->io, options->depth);
		if (err)
			fail(error, err, "disk %s: cannot set up I/O: %s", options->path,
			     strerror(-err));
	}
	if (err) {
		block_close(block);
		errno = -err;
		return NULL;
	}
	return block;
}
