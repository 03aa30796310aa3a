/*
 * See the header. Invariant: a cluster's bit is set once the file of our own
 * holds it, or a request that writes all of it is on its way there; from then
 * on nobody reads the base's.
 */
#include "block/block_overlay.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "block/block_io.h"

#define CLUSTER 4096u
#define PIECE   (1u << 20)

struct overlay {
	int base_fd;
	uint64_t *present; /* a bit for each cluster */
};

static bool has(const struct overlay *o, uint64_t cluster)
{
	return o->present[cluster / 64] >> (cluster % 64) & 1;
}

int block_temporary(uint64_t bytes)
{
	const char *folder = getenv("TMPDIR");
	int fd = open(folder && *folder == '/' ? folder : "/var/tmp",
		      O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	/* A file system without such files: memory has them. */
	if (fd < 0)
		fd = memfd_create("insula-disk", MFD_CLOEXEC);
	if (fd >= 0 && ftruncate(fd, (off_t)bytes) == 0)
		return fd;
	int err = -errno;

	if (fd >= 0)
		close(fd);
	return err;
}

int overlay_open(struct block *block)
{
	uint64_t clusters = (block->info.size_bytes + CLUSTER - 1) / CLUSTER;
	struct overlay *o = calloc(1, sizeof(*o));
	int fd;

	if (!o)
		return -ENOMEM;
	o->present = calloc((clusters + 63) / 64, sizeof(*o->present));
	fd = o->present ? block_temporary(block->info.size_bytes) : -ENOMEM;
	if (fd < 0) {
		free(o->present);
		free(o);
		return fd;
	}
	o->base_fd = block->fd;
	block->fd = fd;
	block->overlay = o;
	return 0;
}

void overlay_close(struct overlay *o)
{
	if (!o)
		return;
	close(o->base_fd);
	free(o->present);
	free(o);
}

static int copy_bytes(int from, int to, uint64_t offset, uint64_t len, uint8_t *buffer,
		      size_t size)
{
	while (len) {
		ssize_t got = pread(from, buffer, len < size ? len : size, (off_t)offset), put = 0;

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got < 0 ? -errno : -EIO;
		while (put < got) {
			ssize_t part = pwrite(to, buffer + put, (size_t)(got - put),
					      (off_t)offset + put);

			if (part < 0 && errno == EINTR)
				continue;
			if (part <= 0)
				return part < 0 ? -errno : -ENOSPC;
			put += part;
		}
		offset += (uint64_t)got;
		len -= (uint64_t)got;
	}
	return 0;
}

/* The cluster into our own file, unless it is there. */
static int copy_up(struct block *block, uint64_t cluster)
{
	struct overlay *o = block->overlay;
	uint64_t offset = cluster * CLUSTER, left = block->info.size_bytes - offset;
	uint8_t buffer[CLUSTER];
	int err;

	if (has(o, cluster))
		return 0;
	err = copy_bytes(o->base_fd, block->fd, offset, left < CLUSTER ? left : CLUSTER, buffer,
			 sizeof(buffer));
	if (!err)
		o->present[cluster / 64] |= 1ull << (cluster % 64);
	return err;
}

static int route_read(struct block *block, uint64_t first, uint64_t last)
{
	struct overlay *o = block->overlay;
	uint64_t count = 0;

	for (uint64_t i = first; i <= last; i++)
		count += has(o, i);
	if (!count)
		return o->base_fd;
	for (uint64_t i = first; count <= last - first && i <= last; i++)
		if (copy_up(block, i) < 0)
			return -1;
	return block->fd;
}

int overlay_route(struct block *block, const struct block_request *request)
{
	uint64_t end = request->offset + request->len, first, last;
	struct overlay *o = block->overlay;

	if (!request->len)
		return block->fd;
	first = request->offset / CLUSTER;
	last = (end - 1) / CLUSTER;
	if (request->op == BLOCK_READ)
		return route_read(block, first, last);
	if (request->offset % CLUSTER && copy_up(block, first) < 0)
		return -1;
	if (end % CLUSTER && end != block->info.size_bytes && copy_up(block, last) < 0)
		return -1;
	for (uint64_t i = first; i <= last; i++)
		o->present[i / 64] |= 1ull << (i % 64);
	return block->fd;
}

/* What is data of one file into another; a copy that shares blocks where the file system can. */
static int copy_file(int from, int to, uint64_t size)
{
	uint64_t at = 0;
	uint8_t *buffer;
	int err = 0;

	if (ioctl(to, FICLONE, from) == 0)
		return 0;
	buffer = malloc(PIECE);
	if (!buffer)
		return -ENOMEM;
	while (!err && at < size) {
		off_t start = lseek(from, (off_t)at, SEEK_DATA), end;

		if (start < 0 && errno == ENXIO)
			break;
		end = start < 0 ? -1 : lseek(from, start, SEEK_HOLE);
		if (end < 0) {
			start = (off_t)at;
			end = (off_t)size;
		}
		if ((uint64_t)end > size)
			end = (off_t)size;
		err = copy_bytes(from, to, (uint64_t)start, (uint64_t)(end - start), buffer, PIECE);
		at = (uint64_t)end;
	}
	free(buffer);
	return err;
}

int overlay_copy(struct block *block, int fd)
{
	const struct overlay *o = block->overlay;
	uint64_t size = block->info.size_bytes;
	uint8_t buffer[CLUSTER];
	int err = copy_file(o ? o->base_fd : block->fd, fd, size);

	for (uint64_t i = 0; o && !err && i * CLUSTER < size; i++) {
		uint64_t left = size - i * CLUSTER;

		if (has(o, i))
			err = copy_bytes(block->fd, fd, i * CLUSTER,
					 left < CLUSTER ? left : CLUSTER, buffer, sizeof(buffer));
	}
	return err;
}
