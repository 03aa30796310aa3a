/*
 * Guest RAM as one shared mapping of a memfd. Made by the board, asked for
 * pages by engines, written through mem/dma.c by devices. Invariant: the
 * mapping and the slots do not change once the machine runs, so look-ups need
 * no lock.
 */
#include "mem/ram_priv.h"

#include "mem/dirty.h"

#include "base/bytes.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define HUGE_BYTES     0x200000ull
#define RAM_SIZE_LIMIT (1ull << 44)
#define POPULATE_BYTES (64u << 10)
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

/* What engines hold of pages is theirs alone: a copy of the process begins with nothing. */
static void *reserve(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		return NULL;
	(void)madvise(p, bytes, MADV_WIPEONFORK);
	return p;
}

static int open_memfd(uint64_t bytes)
{
	int fd = memfd_create("insula-ram", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	int error;

	if (fd < 0)
		return -1;
	/* A sealed size: no one who is handed the fd can make our mapping fault by shrinking it. */
	if (ftruncate(fd, (off_t)bytes) == 0 &&
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0)
		return fd;
	error = errno;
	close(fd);
	errno = error;
	return -1;
}

/* Mapped at a 2 MiB boundary, so that huge pages fit; what surrounds it stays without access. */
static uint8_t *map_aligned(int fd, uint64_t bytes, int share)
{
	uint64_t span = bytes + 2 * HUGE_BYTES;
	uint8_t *area =
		mmap(NULL, span, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint8_t *start, *end;

	if (area == MAP_FAILED)
		return NULL;
	start = (uint8_t *)(((uintptr_t)area + HUGE_BYTES) & ~(HUGE_BYTES - 1));
	if (mmap(start, bytes, PROT_READ | PROT_WRITE, share | MAP_FIXED | MAP_NORESERVE, fd, 0) ==
	    MAP_FAILED) {
		int error = errno;
		munmap(area, span);
		errno = error;
		return NULL;
	}
	/* Keep one guard page on either side. */
	end = start + bytes;
	if (start - area > (ptrdiff_t)PAGE_SIZE)
		munmap(area, (size_t)(start - area) - PAGE_SIZE);
	if (area + span > end + PAGE_SIZE)
		munmap(end + PAGE_SIZE, (size_t)(area + span - end) - PAGE_SIZE);
	/* Refused where the host has no huge pages for shared memory; small ones do. */
	if (share == MAP_SHARED)
		(void)madvise(start, bytes, MADV_HUGEPAGE);
	return start;
}

static struct ram *make(uint64_t size_bytes, int base_fd)
{
	bool private = base_fd >= 0;
	struct ram *ram;
	size_t pages;
	int error;

	if (!size_bytes || size_bytes % PAGE_SIZE || size_bytes > RAM_SIZE_LIMIT) {
		errno = EINVAL;
		return NULL;
	}
	ram = aligned_alloc(64, sizeof(*ram));
	if (!ram)
		return NULL;
	bytes_zero(ram, sizeof(*ram));
	ram->low_bytes = size_bytes < RAM_LOW_LIMIT ? size_bytes : RAM_LOW_LIMIT;
	ram->high_bytes = size_bytes - ram->low_bytes;
	ram->file_bytes = size_bytes + RAM_ROM_BYTES;
	pages = ram->file_bytes >> PAGE_SHIFT;
	ram->source_fd = -1;
	atomic_store(&ram->damaged, RAM_NOWHERE);

	ram->private = private;
	ram->fd = private ? fcntl(base_fd, F_DUPFD_CLOEXEC, 0) : open_memfd(ram->file_bytes);
	if (ram->fd < 0)
		goto fail;
	ram->host = map_aligned(ram->fd, ram->file_bytes, private ? MAP_PRIVATE : MAP_SHARED);
	if (!ram->host)
		goto fail;
	ram->reasons = reserve(pages);
	ram->granules = reserve(pages * sizeof(*ram->granules));
	ram->holders = reserve(pages * sizeof(*ram->holders));
	ram->granted = reserve(pages * sizeof(*ram->granted));
	if (!ram->reasons || !ram->granules || !ram->holders || !ram->granted)
		goto fail;
	return ram;
fail:
	error = errno;
	ram_free(ram);
	errno = error;
	return NULL;
}

struct ram *ram_new(uint64_t size_bytes)
{
	return make(size_bytes, -1);
}

struct ram *ram_new_on(uint64_t size_bytes, int fd)
{
	return make(size_bytes, fd);
}

void ram_free(struct ram *ram)
{
	size_t pages;

	if (!ram)
		return;
	pages = ram->file_bytes >> PAGE_SHIFT;
	if (ram->dirty)
		munmap(ram->dirty, dirty_log_words(ram) * sizeof(*ram->dirty));
	if (ram->granted)
		munmap(ram->granted, pages * sizeof(*ram->granted));
	if (ram->present)
		munmap(ram->present, (pages + 63) / 64 * sizeof(*ram->present));
	if (ram->source_map)
		munmap(ram->source_map, ram->source_map_bytes);
	if (ram->source_fd >= 0)
		close(ram->source_fd);
	if (ram->holders)
		munmap(ram->holders, pages * sizeof(*ram->holders));
	if (ram->granules)
		munmap(ram->granules, pages * sizeof(*ram->granules));
	if (ram->reasons)
		munmap(ram->reasons, pages);
	if (ram->host)
		munmap(ram->host - PAGE_SIZE, ram->file_bytes + 2 * PAGE_SIZE);
	if (ram->fd >= 0)
		close(ram->fd);
	free(ram);
}

static bool overlaps(gpa_t a, uint64_t a_len, gpa_t b, uint64_t b_len)
{
	return a < b + b_len && b < a + a_len;
}

int ram_add_rom(struct ram *ram, gpa_t gpa, const void *bytes, size_t len)
{
	uint64_t padded = (len + PAGE_SIZE - 1) & PAGE_MASK;
	uint64_t offset = ram->low_bytes + ram->high_bytes + ram->rom_bytes;

	if (gpa % PAGE_SIZE || !len)
		return -EINVAL;
	if (len > RAM_ROM_BYTES || padded > RAM_ROM_BYTES - ram->rom_bytes ||
	    ram->rom_count == RAM_ROM_SLOTS)
		return -ENOSPC;
	if (gpa + padded < gpa)
		return -EINVAL;
	if (overlaps(gpa, padded, 0, ram->low_bytes) ||
	    overlaps(gpa, padded, RAM_HIGH_BASE, ram->high_bytes))
		return -EEXIST;
	for (unsigned i = 0; i < ram->rom_count; i++)
		if (overlaps(gpa, padded, ram->rom[i].gpa, ram->rom[i].len))
			return -EEXIST;

	bytes_copy(ram->host + offset, bytes, len);
	bytes_fill(ram->host + offset + len, 0xff, padded - len);
	for (uint64_t i = 0; i < padded >> PAGE_SHIFT; i++)
		ram->reasons[(offset >> PAGE_SHIFT) + i] = PAGE_ROM;
	ram->rom[ram->rom_count++] = (struct rom_slot){ gpa, padded, offset };
	ram->rom_bytes += padded;
	return 0;
}

uint64_t ram_size(const struct ram *ram)
{
	return ram->low_bytes + ram->high_bytes;
}

uint64_t ram_low_size(const struct ram *ram)
{
	return ram->low_bytes;
}

uint64_t ram_high_size(const struct ram *ram)
{
	return ram->high_bytes;
}

int ram_fd(const struct ram *ram)
{
	return ram->fd;
}

void *ram_page(struct ram *ram, gpa_t gpa)
{
	uint64_t offset = ram_offset(ram, gpa & PAGE_MASK, PAGE_SIZE, true);

	if (offset == RAM_NOWHERE)
		return NULL;
	ram_fetch(ram, offset, PAGE_SIZE);
	return ram->host + offset;
}

bool ram_slot(struct ram *ram, unsigned n, struct ram_slot *slot)
{
	unsigned rom = ram->high_bytes ? n - 2 : n - 1;
	uint64_t offset;

	if (n == 0) {
		*slot = (struct ram_slot){ .gpa = 0, .len = ram->low_bytes };
		offset = 0;
	} else if (n == 1 && ram->high_bytes) {
		*slot = (struct ram_slot){ .gpa = RAM_HIGH_BASE, .len = ram->high_bytes };
		offset = ram->low_bytes;
	} else if (rom < ram->rom_count) {
		*slot = (struct ram_slot){ .gpa = ram->rom[rom].gpa,
					   .len = ram->rom[rom].len,
					   .rom = true };
		offset = ram->rom[rom].offset;
	} else {
		return false;
	}
	slot->host = ram->host + offset;
	ram_fetch(ram, offset, slot->len);
	return true;
}

bool ram_contains(const struct ram *ram, gpa_t gpa, uint64_t len)
{
	return ram_offset(ram, gpa, len, false) != RAM_NOWHERE;
}

static gpa_t gpa_of_offset(const struct ram *ram, uint64_t offset)
{
	if (offset < ram->low_bytes)
		return offset;
	if (offset < ram->low_bytes + ram->high_bytes)
		return RAM_HIGH_BASE + (offset - ram->low_bytes);
	for (unsigned i = 0; i < ram->rom_count; i++)
		if (offset - ram->rom[i].offset < ram->rom[i].len)
			return ram->rom[i].gpa + (offset - ram->rom[i].offset);
	return UINT64_MAX;
}

gpa_t ram_gpa_of(const struct ram *ram, const void *host)
{
	return gpa_of_offset(ram, (uint64_t)((const uint8_t *)host - ram->host));
}

gpa_t ram_damage(const struct ram *ram)
{
	uint64_t offset = atomic_load(&ram->damaged);

	return offset == RAM_NOWHERE ? UINT64_MAX : gpa_of_offset(ram, offset);
}

/* Takes the faults of a long write at once. Only for speed: kernels before 5.14 refuse. */
static void populate(const struct ram *ram, uint64_t offset, size_t len)
{
	uint64_t first = offset & PAGE_MASK;

	if (len >= POPULATE_BYTES)
		(void)madvise(ram->host + first, offset + len - first, MADV_POPULATE_WRITE);
}

int ram_write(struct ram *ram, gpa_t gpa, const void *bytes, size_t len)
{
	uint64_t offset = ram_offset(ram, gpa, len, false);

	if (!len)
		return 0;
	if (offset == RAM_NOWHERE)
		return -EFAULT;
	ram_fetch(ram, offset, len);
	populate(ram, offset, len);
	bytes_copy(ram->host + offset, bytes, len);
	page_write_end(ram, NULL, gpa, len);
	return 0;
}

int ram_zero(struct ram *ram, gpa_t gpa, size_t len)
{
	uint64_t offset = ram_offset(ram, gpa, len, false);
	uint64_t first, last;

	if (!len)
		return 0;
	if (offset == RAM_NOWHERE)
		return -EFAULT;
	ram_fetch(ram, offset, len);
	first = (offset + PAGE_SIZE - 1) & PAGE_MASK;
	last = (offset + len) & PAGE_MASK;
	/* A hole costs nothing until it is touched. Refused where the mapping is a private one. */
	if (first < last && !madvise(ram->host + first, last - first, MADV_REMOVE)) {
		bytes_zero(ram->host + offset, first - offset);
		bytes_zero(ram->host + last, offset + len - last);
	} else {
		bytes_zero(ram->host + offset, len);
	}
	page_write_end(ram, NULL, gpa, len);
	return 0;
}

int ram_read(struct ram *ram, gpa_t gpa, void *bytes, size_t len)
{
	uint64_t offset = ram_offset(ram, gpa, len, true);

	if (!len)
		return 0;
	if (offset == RAM_NOWHERE)
		return -EFAULT;
	ram_fetch(ram, offset, len);
	bytes_copy(bytes, ram->host + offset, len);
	return 0;
}
