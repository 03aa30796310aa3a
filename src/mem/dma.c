/*
 * Device access to guest memory. Called by device models on any thread, with
 * addresses and lengths a guest chose. Invariant: a byte of RAM is stored only
 * after the whole range was checked, and every store is announced to the page
 * authority after it was made.
 */
#include "mem/dma.h"

#include "base/bytes.h"
#include "mem/ram_priv.h"

#include <errno.h>
#include <sched.h>

void dma_may_be_held(struct ram *ram)
{
	ram->dma_may_be_held = true;
}

bool dma_hold(struct ram *ram)
{
	int none = 0;

	return atomic_compare_exchange_strong(&ram->dma_stores, &none, -1);
}

void dma_release(struct ram *ram)
{
	atomic_store(&ram->dma_stores, 0);
}

static void store_begin(struct ram *ram)
{
	int n;

	if (__builtin_expect(!ram->dma_may_be_held, 1))
		return;
	for (;;) {
		n = atomic_load(&ram->dma_stores);
		if (n >= 0 && atomic_compare_exchange_strong(&ram->dma_stores, &n, n + 1))
			return;
		sched_yield();
	}
}

static void store_end(struct ram *ram)
{
	if (__builtin_expect(ram->dma_may_be_held, 0))
		atomic_fetch_sub(&ram->dma_stores, 1);
}

int dma_read(struct ram *ram, gpa_t gpa, void *bytes, size_t len)
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

int dma_write(struct ram *ram, gpa_t gpa, const void *bytes, size_t len)
{
	uint64_t offset = ram_offset(ram, gpa, len, false);

	if (!len)
		return 0;
	if (offset == RAM_NOWHERE)
		return -EFAULT;
	ram_fetch(ram, offset, len);
	store_begin(ram);
	bytes_copy(ram->host + offset, bytes, len);
	page_write_end(ram, NULL, gpa, len);
	store_end(ram);
	return 0;
}

int dma_map(struct ram *ram, gpa_t gpa, size_t len, enum dma_dir dir, struct dma_mapping *mapping)
{
	uint64_t offset = ram_offset(ram, gpa, len, dir == DMA_FROM_GUEST);

	if (!len || offset == RAM_NOWHERE)
		return -EFAULT;
	ram_fetch(ram, offset, len);
	mapping->iov.iov_base = ram->host + offset;
	mapping->iov.iov_len = len;
	mapping->gpa = gpa;
	mapping->dir = dir;
	if (dir == DMA_TO_GUEST)
		store_begin(ram);
	atomic_fetch_add(&ram->dma_in_flight, 1);
	return 0;
}

void dma_unmap(struct ram *ram, struct dma_mapping *mapping, size_t written)
{
	if (mapping->dir == DMA_TO_GUEST && written)
		page_write_end(ram, NULL, mapping->gpa, mapping->iov.iov_len);
	if (mapping->dir == DMA_TO_GUEST)
		store_end(ram);
	mapping->iov.iov_base = NULL;
	mapping->iov.iov_len = 0;
	atomic_fetch_sub(&ram->dma_in_flight, 1);
}

unsigned dma_in_flight(const struct ram *ram)
{
	return atomic_load(&ram->dma_in_flight);
}

int dma_load16(struct ram *ram, gpa_t gpa, uint16_t *value)
{
	uint64_t offset = ram_offset(ram, gpa, sizeof(*value), true);

	if (offset == RAM_NOWHERE)
		return -EFAULT;
	ram_fetch(ram, offset, sizeof(*value));
	*value = bytes_load16(ram->host + offset);
	/* A load is an acquire on x86; the compiler must not move later loads before it. */
	atomic_signal_fence(memory_order_acquire);
	return 0;
}

int dma_store16(struct ram *ram, gpa_t gpa, uint16_t value)
{
	uint64_t offset = ram_offset(ram, gpa, sizeof(value), false);

	if (offset == RAM_NOWHERE)
		return -EFAULT;
	ram_fetch(ram, offset, sizeof(value));
	atomic_signal_fence(memory_order_release);
	store_begin(ram);
	bytes_store16(ram->host + offset, value);
	page_write_end(ram, NULL, gpa, sizeof(value));
	store_end(ram);
	return 0;
}
