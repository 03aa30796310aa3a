/*
 * RAM as the common first contents of many machines: the file behind it becomes
 * their base, which nobody writes again, and each maps it as a private copy.
 * Called by the vm when it forks and by whoever starts its children.
 *
 * Invariant: once a descriptor of the base was given away, no shared mapping of
 * it is left in the process that gave it.
 */
#include "mem/ram_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bytes.h"

/* An entry of /proc/self/pagemap (Documentation/admin-guide/mm/pagemap.rst). */
#define PAGEMAP_FILE    (1ull << 61)
#define PAGEMAP_SWAPPED (1ull << 62)
#define PAGEMAP_PRESENT (1ull << 63)
#define PAGEMAP_BATCH   512u

#define WRITE_MOST (1u << 20)

int ram_base(struct ram *ram, int *fd)
{
	if (ram->present || ram->private)
		return -EAGAIN;
	*fd = fcntl(ram->fd, F_DUPFD_CLOEXEC, 0);
	if (*fd < 0)
		return -errno;
	/* At the same addresses, so that whoever holds one goes on using it. */
	if (mmap(ram->host, ram->file_bytes, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, ram->fd, 0) == MAP_FAILED) {
		int err = -errno;

		close(*fd);
		return err;
	}
	ram->private = true;
	return 0;
}

static bool is_own(uint64_t entry)
{
	return (entry & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED)) && !(entry & PAGEMAP_FILE);
}

bool ram_next_own(struct ram *ram, uint64_t limit, uint64_t *offset, uint64_t *len)
{
	int fd = *offset < limit ? open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC) : -1;
	uint64_t entries[PAGEMAP_BATCH], at = *offset;
	bool found = false;

	while (at < limit) {
		uint64_t first = ((uintptr_t)ram->host + at) >> PAGE_SHIFT;
		uint64_t count = (limit - at) >> PAGE_SHIFT;

		if (count > PAGEMAP_BATCH)
			count = PAGEMAP_BATCH;
		/* Where the host does not tell, all of it may be. */
		if (fd < 0 ||
		    pread(fd, entries, count * 8, (off_t)(first * 8)) != (ssize_t)(count * 8)) {
			if (!found)
				*offset = at;
			found = true;
			at = limit;
			break;
		}
		for (uint64_t i = 0; i < count; i++, at += PAGE_SIZE) {
			if (is_own(entries[i]) == found)
				continue;
			if (found)
				goto end;
			*offset = at;
			found = true;
		}
	}
end:
	if (fd >= 0)
		close(fd);
	*len = found ? at - *offset : 0;
	return found;
}

static bool is_zero(const uint8_t *page)
{
	for (unsigned i = 0; i < PAGE_SIZE; i += 32)
		if (bytes_load64(page + i) | bytes_load64(page + i + 8) |
		    bytes_load64(page + i + 16) | bytes_load64(page + i + 24))
			return false;
	return true;
}

static int copy_range(struct ram *ram, int fd, uint64_t at, uint64_t end)
{
	while (at < end) {
		uint64_t len = 0;

		if (is_zero(ram->host + at)) {
			at += PAGE_SIZE;
			continue;
		}
		while (at + len < end && len < WRITE_MOST && !is_zero(ram->host + at + len))
			len += PAGE_SIZE;
		while (len) {
			ssize_t put = pwrite(fd, ram->host + at, len, (off_t)at);

			if (put < 0 && errno == EINTR)
				continue;
			if (put <= 0)
				return put < 0 ? -errno : -ENOSPC;
			at += (uint64_t)put;
			len -= (uint64_t)put;
		}
	}
	return 0;
}

int ram_copy(struct ram *ram, int fd)
{
	uint64_t at = 0, len;
	int err = ftruncate(fd, (off_t)ram->file_bytes) < 0 ? -errno : 0;

	for (; !err && ram_next_data(ram, &at, &len); at += len) {
		ram_fetch(ram, at, len);
		err = copy_range(ram, fd, at, at + len);
	}
	if (!err)
		err = copy_range(ram, fd, ram_size(ram), ram_size(ram) + ram->rom_bytes);
	if (!err && ram_damage(ram) != UINT64_MAX)
		err = -EIO;
	return err;
}

void ram_adopt(struct ram *ram, int damage_fd)
{
	size_t pages = ram->file_bytes >> PAGE_SHIFT;

	/* Wiped by the fork, but where the kernel is too old for that. */
	madvise((void *)ram->reasons, pages, MADV_DONTNEED);
	madvise((void *)ram->granules, pages * sizeof(*ram->granules), MADV_DONTNEED);
	madvise((void *)ram->holders, pages * sizeof(*ram->holders), MADV_DONTNEED);
	madvise((void *)ram->granted, pages * sizeof(*ram->granted), MADV_DONTNEED);
	for (uint64_t i = 0; i < ram->rom_bytes >> PAGE_SHIFT; i++)
		ram->reasons[(ram_size(ram) >> PAGE_SHIFT) + i] = PAGE_ROM;
	bytes_zero(ram->locks, sizeof(ram->locks));
	atomic_store(&ram->listeners_lock, 0);
	atomic_store(&ram->dma_in_flight, 0);
	ram->listeners = NULL;
	ram->holders_taken = 0;
	ram->damage_fd = damage_fd;
}
