/*
 * RAM that comes out of a file as it is touched, and RAM on its way into one.
 * Everybody who reaches for a byte of RAM goes through ram_fetch() first.
 *
 * Invariant: a page is compared with its sum once, under its lock, before its
 * bit in `present` is set, and nobody writes it before. So no store of one vcpu
 * can make another find the page damaged.
 */
#include "mem/ram_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/crc32c.h"

static void damaged(struct ram *ram, uint64_t offset)
{
	const uint64_t one = 1;
	uint64_t none = RAM_NOWHERE;

	/* Better nothing than anything: the machine is stopped before long. */
	bytes_zero(ram->host + offset, PAGE_SIZE);
	if (!atomic_compare_exchange_strong(&ram->damaged, &none, offset))
		return;
	/* A full counter wakes the reader as well. */
	if (write(ram->damage_fd, &one, sizeof(one)) < 0)
		return;
}

void ram_fetch_slow(struct ram *ram, uint64_t page)
{
	struct spin *spin = &ram->locks[page % PAGE_LOCKS].spin;
	uint64_t bit = 1ull << (page % 64), offset = page << PAGE_SHIFT;

	/* ROM comes from elsewhere. */
	if (offset >= ram->low_bytes + ram->high_bytes)
		return;
	spin_lock(spin);
	if (!(atomic_load(&ram->present[page / 64]) & bit)) {
		if (crc32c_by_native(0, ram->host + offset, PAGE_SIZE) !=
		    bytes_load32(ram->source_sums + 4 * page))
			damaged(ram, offset);
		atomic_fetch_or(&ram->present[page / 64], bit);
	}
	spin_unlock(spin);
}

int ram_map_file(struct ram *ram, int fd, uint64_t offset, uint64_t sums, int damage_fd)
{
	uint64_t bytes = ram->low_bytes + ram->high_bytes, inner = sums % PAGE_SIZE;
	size_t pages = ram->file_bytes >> PAGE_SHIFT;
	void *present, *map;

	if (!crc32c_native())
		return -EOPNOTSUPP;
	ram->source_fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (ram->source_fd < 0)
		return -errno;
	ram->source_map_bytes = inner + 4 * (bytes >> PAGE_SHIFT);
	map = mmap(NULL, ram->source_map_bytes, PROT_READ, MAP_PRIVATE, fd, (off_t)(sums - inner));
	if (map == MAP_FAILED)
		return -errno;
	ram->source_map = map;
	ram->source_sums = (const uint8_t *)map + inner;
	present = mmap(NULL, (pages + 63) / 64 * sizeof(*ram->present), PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (present == MAP_FAILED)
		return -errno;
	if (mmap(ram->host, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE,
		 fd, (off_t)offset) == MAP_FAILED) {
		int err = -errno;

		munmap(present, (pages + 63) / 64 * sizeof(*ram->present));
		return err;
	}
	ram->source_offset = offset;
	ram->damage_fd = damage_fd;
	ram->present = present;
	return 0;
}

/* Of a file: the next range with data. Where the file system cannot tell, all of it is. */
static bool next_data(int fd, uint64_t base, uint64_t limit, uint64_t *offset, uint64_t *len)
{
	off_t start, end;

	if (*offset >= limit)
		return false;
	start = lseek(fd, (off_t)(base + *offset), SEEK_DATA);
	if (start < 0 && errno == ENXIO)
		return false;
	end = start < 0 ? -1 : lseek(fd, start, SEEK_HOLE);
	if (end < 0) {
		*len = limit - *offset;
		return true;
	}
	start = (off_t)(((uint64_t)start - base) & PAGE_MASK);
	end = (off_t)(((uint64_t)end - base + PAGE_SIZE - 1) & PAGE_MASK);
	if ((uint64_t)start < *offset)
		start = (off_t)*offset;
	if ((uint64_t)end > limit)
		end = (off_t)limit;
	if ((uint64_t)start >= limit)
		return false;
	*offset = (uint64_t)start;
	*len = (uint64_t)(end - start);
	return true;
}

static bool is_present(const struct ram *ram, uint64_t offset)
{
	uint64_t page = offset >> PAGE_SHIFT;

	return atomic_load_explicit(&ram->present[page / 64], memory_order_relaxed) >> (page % 64) &
	       1;
}

/* The first page at or after offset that somebody has touched; limit: none. */
static uint64_t next_present(const struct ram *ram, uint64_t offset, uint64_t limit)
{
	while (offset < limit) {
		uint64_t page = offset >> PAGE_SHIFT;

		if (is_present(ram, offset))
			return offset;
		/* Words without a bit are most. */
		offset = page % 64 == 0 && !atomic_load_explicit(&ram->present[page / 64],
								 memory_order_relaxed)
				 ? offset + 64 * PAGE_SIZE
				 : offset + PAGE_SIZE;
	}
	return limit;
}

/* Of RAM on a base: what the file holds, and what is ours alone. */
static bool next_of_both(struct ram *ram, uint64_t limit, uint64_t *offset, uint64_t *len)
{
	uint64_t base = *offset, base_len = 0, own = *offset, own_len;

	if (!next_data(ram->fd, 0, limit, &base, &base_len))
		base = limit;
	if (ram_next_own(ram, base, &own, &own_len)) {
		*offset = own;
		*len = own_len;
		return true;
	}
	*offset = base;
	*len = base_len;
	return base < limit;
}

bool ram_next_data(struct ram *ram, uint64_t *offset, uint64_t *len)
{
	uint64_t limit = ram->low_bytes + ram->high_bytes, touched, data = *offset, data_len;

	if (!ram->present && ram->private)
		return next_of_both(ram, limit, offset, len);
	if (!ram->present)
		return next_data(ram->fd, 0, limit, offset, len);
	/* What nobody touched is as in the file; what somebody did may be anything. */
	if (*offset >= limit)
		return false;
	touched = next_present(ram, *offset, limit);
	if (!next_data(ram->source_fd, ram->source_offset, limit, &data, &data_len))
		data = limit, data_len = 0;
	if (touched == limit && data == limit)
		return false;
	if (data <= touched) {
		*offset = data;
		*len = data_len;
		return true;
	}
	*offset = touched;
	*len = 0;
	while (touched < data && is_present(ram, touched)) {
		touched += PAGE_SIZE;
		*len += PAGE_SIZE;
	}
	return true;
}

const void *ram_view(struct ram *ram, uint64_t offset, uint64_t len)
{
	ram_fetch(ram, offset, len);
	return ram->host + offset;
}

void *ram_fill(struct ram *ram, uint64_t offset, uint64_t len)
{
	return ram->host + offset;
}
