/*
 * Between the files of the soft MMU: accesses (mmu.c), contexts and their
 * invalidation (mmu_context.c), data breakpoints (mmu_watch.c).
 *
 * A context is one address space (a PCID); it has one pair of flat tables per
 * view, a view being a privilege: user, kernel, kernel with SMAP enforced. A
 * CR3 load or a change of privilege only moves two pointers. Invariant: an
 * entry is present only if a plain host access through it is all that the
 * architecture asks of that access: rights checked, A and D set, no MMIO, no
 * watchpoint on the page, and for writes a grant from the page authority.
 */
#ifndef INSULA_CPU_MMU_PRIV_H
#define INSULA_CPU_MMU_PRIV_H

#include "cpu/mmu.h"
#include "cpu/paging.h"
#include "cpu/walk_cache.h"

enum view { VIEW_USER, VIEW_KERNEL, VIEW_KERNEL_SMAP, VIEWS };

#define CONTEXTS    8
#define FETCH_SIZE  256 /* entries of a context's fetch TLB */
#define GENERATIONS 4   /* (mode, code segment) pairs a context remembers */

/* Which entries translate global pages: those outlive a change of address space. */
struct tables {
	struct tlb_entry read[TLB_SIZE], write[TLB_SIZE];
	uint64_t read_global[TLB_SIZE / 64], write_global[TLB_SIZE / 64];
};

struct fetch_entry {
	uint64_t tag; /* linear page | view bit, or TLB_INVALID */
	gpa_t gpa;
	const uint8_t *host;
	bool global;
};

/* Bloom filter of linear pages that were fetched from: an INVLPG of any other page leaves code
 * addresses alone. */
#define BLOOM_BITS 8192
struct bloom {
	uint64_t bits[BLOOM_BITS / 64];
};

struct generation {
	uint32_t mode;
	uint32_t cs_limit;
	uint64_t cs_base;
	uint64_t gen; /* 0: unused */
};
struct generations {
	struct generation slot[GENERATIONS];
	unsigned next;
};

struct context {
	unsigned pcid;
	bool used;
	bool begun[VIEWS]; /* its tables hold entries, if only invalid ones */
	bool filled[VIEWS];
	bool global_user; /* a global page in the lower half was filled */
	uint64_t large_first,
		large_last; /* linear range covered by large pages; first > last: none */
	uint64_t last_use;
	uint64_t epoch;          /* of its entries in the walk cache; changes with every flush */
	struct bloom code_pages; /* non-global ones */
	struct generations generations;
	struct fetch_entry fetch[FETCH_SIZE];
	struct tables *views; /* VIEWS of them */
};

struct watch {
	uint64_t first, last;
	bool on_read;
};

/* What one page of an access turned out to be. */
struct piece {
	uint64_t la;
	uint8_t *host; /* NULL: MMIO at gpa */
	gpa_t gpa;
	unsigned len;
	bool guarded; /* a write that must tell the page authority */
};

struct soft_mmu {
	struct context contexts[CONTEXTS];
	struct context *current;
	struct page_listener *listener;
	uint64_t uses;
	uint64_t generation;            /* how many were given out */
	uint64_t secret;                /* odd: the generation's number is their product */
	struct generations generations; /* for code on global pages, valid in every context */
	struct bloom code_pages;        /* global ones */
	uint64_t large_code_first,
		large_code_last; /* linear range of global large pages fetched from */
	struct tlb_entry
		*empty; /* two tables, all invalid: every access takes the slow path (#AC checks) */
	bool check_alignment;
	bool watching;
	uint64_t watched_dr[5]; /* DR0-3 and DR7 that `watch` reflects */
	struct watch watch[4];
	uint64_t watch_hits;
	struct mmu_counts counts;
	uint64_t epochs; /* the last one given out */
	struct walk_cache walks;
	struct locked {
		struct piece piece[2];
		unsigned count; /* pieces to store at the end; 0: the guest's bytes themselves */
		bool guarded;   /* those of piece[0], which the page authority must hear of */
		bool exclusive;
		uint8_t copy[16] __attribute__((aligned(16)));
	} locked; /* between mmu_lock and mmu_unlock */
};

static inline enum view data_view(const struct vcpu *v)
{
	if (v->arch.cpl == 3)
		return VIEW_USER;
	return (v->arch.cr4 & CR4_SMAP) && !(v->arch.rflags & FLAG_AC) ? VIEW_KERNEL_SMAP
								       : VIEW_KERNEL;
}

static inline enum view view_for(const struct vcpu *v, enum mmu_how how)
{
	if (how == MMU_SYSTEM)
		return (v->arch.cr4 & CR4_SMAP) ? VIEW_KERNEL_SMAP : VIEW_KERNEL;
	return how == MMU_USER ? VIEW_USER : data_view(v);
}

struct tables *mmu_tables_begin(struct context *c, enum view view);

static inline struct tables *mmu_tables(struct context *c, enum view view)
{
	return c->begun[view] ? &c->views[view] : mmu_tables_begin(c, view);
}

static inline unsigned view_access(enum view view)
{
	return view == VIEW_USER ? PAGING_USER : view == VIEW_KERNEL_SMAP ? PAGING_SMAP : 0;
}

static inline unsigned bloom_bit(uint64_t la)
{
	uint64_t page = la >> PAGE_SHIFT;

	return (unsigned)((page ^ page >> 13 ^ page >> 26) & (BLOOM_BITS - 1));
}

static inline void bloom_add(struct bloom *b, uint64_t la)
{
	unsigned bit = bloom_bit(la);

	b->bits[bit / 64] |= 1ull << (bit % 64);
}

static inline bool bloom_has(const struct bloom *b, uint64_t la)
{
	unsigned bit = bloom_bit(la);

	return b->bits[bit / 64] >> (bit % 64) & 1;
}

static inline bool page_watched(const struct soft_mmu *mmu, uint64_t la)
{
	uint64_t page = la & PAGE_MASK;
	unsigned n;

	for (n = 0; n < 4; n++)
		if (mmu->watch[n].first <= (page | 0xfff) && mmu->watch[n].last >= page)
			return true;
	return false;
}

static inline void watch_check(struct soft_mmu *mmu, uint64_t la, unsigned len, bool write)
{
	unsigned n;

	for (n = 0; n < 4; n++) {
		const struct watch *w = &mmu->watch[n];

		if (w->first <= la + len - 1 && w->last >= la && (write || w->on_read))
			mmu->watch_hits |= 1ull << n;
	}
}

/* mmu_context.c: every entry of one context, globals if `keep_global` but those. */
void mmu_context_flush(struct soft_mmu *mmu, struct context *c, bool keep_global);
/* mmu_watch.c: DR0-3 or DR7 are not what `watch` reflects. */
void mmu_watch_update(struct vcpu *v);

#endif
