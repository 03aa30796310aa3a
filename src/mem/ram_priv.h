/*
 * The inside of guest RAM, shared by the files of this room only.
 *
 * The file behind RAM has one byte per byte of RAM and ROM: low RAM, high RAM,
 * ROM slots. An offset into the file, shifted by PAGE_SHIFT, is the index of a
 * page in the authority's arrays.
 */
#ifndef INSULA_MEM_RAM_PRIV_H
#define INSULA_MEM_RAM_PRIV_H

#include "base/spin.h"
#include "mem/page.h"
#include "mem/ram.h"

#define RAM_NOWHERE UINT64_MAX
#define PAGE_LOCKS  64

struct rom_slot {
	gpa_t gpa;
	uint64_t len;
	uint64_t offset;
};

struct page_lock {
	struct spin spin;
} __attribute__((aligned(64)));

struct ram {
	uint8_t *host; /* the whole file, mapped shared, or private */
	uint64_t low_bytes, high_bytes;
	uint64_t file_bytes;
	int fd;
	bool private; /* the file is a base that others have too; what is stored stays ours */

	struct rom_slot rom[RAM_ROM_SLOTS];
	unsigned rom_count;
	uint64_t rom_bytes;

	/* The page authority, one element per page of the file; untouched parts cost nothing. */
	_Atomic uint8_t *reasons;
	_Atomic uint64_t *granules; /* valid while CODE stands */
	_Atomic uint64_t *holders;  /* bits of the listeners with code on the page */
	_Atomic uint64_t *granted;  /* bits of the listeners that may store without a word */
	struct page_lock locks[PAGE_LOCKS];

	/* Listeners: read-held over every callback, write-held to add and remove. */
	_Atomic uint32_t listeners_lock;
	struct page_listener *listeners;
	uint64_t holders_taken;

	/* The dirty log (dirty.c): a bit for each page of RAM; NULL: never started. */
	_Atomic uint64_t *dirty;
	_Atomic bool dirty_runs;

	_Atomic unsigned dma_in_flight;
	bool dma_may_be_held;   /* fixed before the machine runs */
	_Atomic int dma_stores; /* devices storing now; -1: dma_hold() */

	/* RAM from a file; present is NULL without. */
	_Atomic uint64_t *present;  /* a bit for each page that was found sound */
	const uint8_t *source_sums; /* mapped: four bytes for each page */
	void *source_map;           /* what munmap gets */
	uint64_t source_map_bytes;
	uint64_t source_offset;
	int source_fd, damage_fd;
	_Atomic uint64_t damaged; /* offset of the first, RAM_NOWHERE: none */
};

void ram_fetch_slow(struct ram *ram, uint64_t page);
/* Of a private mapping: the next range from *offset to limit of pages that are no longer the
 * file's. False: none. */
bool ram_next_own(struct ram *ram, uint64_t limit, uint64_t *offset, uint64_t *len);

/* Before the bytes at an offset are used: they are there, and sound. */
static inline void ram_fetch(struct ram *ram, uint64_t offset, uint64_t len)
{
	if (__builtin_expect(!ram->present, 1) || !len)
		return;
	for (uint64_t page = offset >> PAGE_SHIFT; page <= (offset + len - 1) >> PAGE_SHIFT; page++)
		if (!(atomic_load_explicit(&ram->present[page / 64], memory_order_acquire) >>
			      (page % 64) &
		      1))
			ram_fetch_slow(ram, page);
}

/* A page with the reason DIRTY_LOG was stored to, or is about to be through a grant. */
static inline void dirty_mark(struct ram *ram, uint64_t page)
{
	/* In this order: see the head of dirty.c. */
	atomic_fetch_and(&ram->reasons[page], (uint8_t)~PAGE_DIRTY_LOG);
	atomic_fetch_or(&ram->dirty[page / 64], 1ull << (page % 64));
}

/* Offset in the file of [gpa, gpa+len) if it is RAM, or also ROM, in one slot; else RAM_NOWHERE. */
static inline uint64_t ram_offset(const struct ram *ram, gpa_t gpa, uint64_t len, bool rom)
{
	if (gpa < ram->low_bytes && len <= ram->low_bytes - gpa)
		return gpa;
	if (gpa >= RAM_HIGH_BASE && gpa - RAM_HIGH_BASE < ram->high_bytes &&
	    len <= ram->high_bytes - (gpa - RAM_HIGH_BASE))
		return ram->low_bytes + (gpa - RAM_HIGH_BASE);
	for (unsigned i = 0; rom && i < ram->rom_count; i++) {
		const struct rom_slot *slot = &ram->rom[i];
		if (gpa >= slot->gpa && gpa - slot->gpa < slot->len &&
		    len <= slot->len - (gpa - slot->gpa))
			return slot->offset + (gpa - slot->gpa);
	}
	return RAM_NOWHERE;
}

#endif
