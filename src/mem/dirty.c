/*
 * The dirty log. Called by vm/snapshot_live.c; marked by the page authority.
 *
 * Invariant: a page of RAM whose DIRTY_LOG reason is down has its bit set, or
 * its marker is between the two, and the bit comes: whoever takes the bit early
 * finds it in the next take. The last one is taken when nobody stores any more.
 */
#include "mem/dirty.h"

#include "mem/ram_priv.h"

#include <errno.h>
#include <sys/mman.h>

#define ALL_LOGGED (0x0101010101010101ull * PAGE_DIRTY_LOG)

static uint64_t ram_pages(const struct ram *ram)
{
	return (ram->low_bytes + ram->high_bytes) >> PAGE_SHIFT;
}

size_t dirty_log_words(const struct ram *ram)
{
	return (ram_pages(ram) + 63) / 64;
}

bool dirty_log_runs(const struct ram *ram)
{
	return atomic_load(&ram->dirty_runs);
}

/* Clean: the next store is heard. No vcpu holds a grant that it could still use. */
static void clean(struct ram *ram, uint64_t page)
{
	atomic_store(&ram->granted[page], 0);
	atomic_fetch_or(&ram->reasons[page], PAGE_DIRTY_LOG);
}

int dirty_log_start(struct ram *ram)
{
	uint64_t pages = ram_pages(ram), page = 0;
	size_t words = dirty_log_words(ram);

	if (!ram->dirty) {
		void *bits = mmap(NULL, words * sizeof(*ram->dirty), PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

		if (bits == MAP_FAILED)
			return -ENOMEM;
		ram->dirty = bits;
	}
	for (size_t n = 0; n < words; n++)
		atomic_store(&ram->dirty[n], 0);
	/* Eight reasons at a time; grants are few. */
	for (; page + 8 <= pages; page += 8) {
		_Atomic uint64_t *eight = (_Atomic uint64_t *)&ram->reasons[page];

		for (unsigned n = 0; n < 8; n++)
			if (atomic_load_explicit(&ram->granted[page + n], memory_order_relaxed))
				atomic_store(&ram->granted[page + n], 0);
		atomic_fetch_or(eight, ALL_LOGGED);
	}
	for (; page < pages; page++)
		clean(ram, page);
	atomic_store(&ram->dirty_runs, true);
	return 0;
}

void dirty_log_stop(struct ram *ram)
{
	uint64_t pages = ram_pages(ram);

	atomic_store(&ram->dirty_runs, false);
	for (uint64_t page = 0; page < pages; page++)
		if (atomic_load_explicit(&ram->reasons[page], memory_order_relaxed) &
		    PAGE_DIRTY_LOG)
			atomic_fetch_and(&ram->reasons[page], (uint8_t)~PAGE_DIRTY_LOG);
}

uint64_t dirty_log_take(struct ram *ram, uint64_t *bits)
{
	size_t words = dirty_log_words(ram);
	uint64_t count = 0;

	for (size_t n = 0; n < words; n++) {
		uint64_t taken;

		if (!atomic_load_explicit(&ram->dirty[n], memory_order_relaxed))
			continue;
		taken = atomic_exchange(&ram->dirty[n], 0);
		bits[n] |= taken;
		count += (unsigned)__builtin_popcountll(taken);
		for (; taken; taken &= taken - 1)
			clean(ram, n * 64 + (unsigned)__builtin_ctzll(taken));
	}
	return count;
}
