/*
 * The second level of the soft TLB: what page walks found, for those pages
 * that the first level has no room for. It holds translations only, never
 * write grants, so nothing has to be searched when one of those is withdrawn.
 *
 * An entry is valid while its epoch is its context's, which changes with every
 * flush of the context.
 */
#ifndef INSULA_CPU_WALK_CACHE_H
#define INSULA_CPU_WALK_CACHE_H

#include "cpu/paging.h"
#include "mem/ram.h"

#define WALK_CACHE_SIZE 4096u

struct walk_entry {
	uint64_t key; /* linear page | access as paging_walk takes it */
	uint64_t epoch;
	gpa_t page;
	uint64_t span; /* bit 0: global */
};

struct walk_cache {
	struct walk_entry entries[WALK_CACHE_SIZE];
};

static inline struct walk_entry *walk_slot(struct walk_cache *cache, uint64_t la)
{
	return &cache->entries[(la >> PAGE_SHIFT ^ la >> 24) & (WALK_CACHE_SIZE - 1)];
}

/* As paging_walk, whose `access` bits must be below the page size. */
static inline int walk_cached(struct walk_cache *cache, uint64_t *walks, uint64_t epoch,
			      struct vcpu *v, uint64_t la, unsigned access, struct paging_result *r)
{
	struct walk_entry *e = walk_slot(cache, la);
	uint64_t key = (la & PAGE_MASK) | access;

	if (e->key == key && e->epoch == epoch) {
		r->gpa = e->page | (la & ~PAGE_MASK);
		r->span = e->span & ~1ull;
		r->global = e->span & 1;
		return 0;
	}
	++*walks;
	if (paging_walk(v, la, access, r))
		return -1;
	*e = (struct walk_entry){ key, epoch, r->gpa & PAGE_MASK, r->span | r->global };
	return 0;
}

/* INVLPG, whatever the context. */
static inline void walk_drop(struct walk_cache *cache, uint64_t la)
{
	walk_slot(cache, la)->epoch = 0;
}

#endif
