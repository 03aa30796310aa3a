/*
 * The soft MMU: TLBs of a software engine and every guest memory access that
 * is not an inline TLB hit.
 *
 * A context is one address space (a PCID); it has one pair of flat tables per
 * view, a view being a privilege: user, kernel, kernel with SMAP enforced. A
 * CR3 load or a change of privilege only moves two pointers. Invariant: an
 * entry is present only if a plain host access through it is all that the
 * architecture asks of that access: rights checked, A and D set, no MMIO, no
 * watchpoint on the page, and for writes a grant from the page authority.
 */
#include "cpu/mmu.h"
#include "base/assert.h"
#include "base/bytes.h"
#include "bus/bus.h"
#include "cpu/excp.h"
#include "cpu/exclusive.h"
#include "cpu/fpstate.h"
#include "cpu/lapic.h"
#include "cpu/mode.h"
#include "cpu/paging.h"
#include "cpu/walk_cache.h"
#include "mem/page.h"
#include <stdlib.h>

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
	uint64_t generation;            /* the last one given out */
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
	uint64_t fills, flushes;
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

void mmu_counts(const struct vcpu *v, uint64_t *fills, uint64_t *flushes)
{
	*fills = v->soft.mmu->fills;
	*flushes = v->soft.mmu->flushes;
}

struct page_listener *mmu_listener(struct vcpu *v)
{
	return v->soft.mmu ? v->soft.mmu->listener : NULL;
}

static void entries_invalidate(struct tlb_entry *entries, unsigned count)
{
	unsigned n;

	for (n = 0; n < count; n++)
		entries[n].tag = tlb_invalid(n);
}

struct soft_mmu *mmu_new(struct page_listener *listener)
{
	struct soft_mmu *mmu = calloc(1, sizeof(*mmu));
	unsigned n;

	if (!mmu)
		return NULL;
	mmu->listener = listener;
	mmu->empty = aligned_alloc(64, 2 * TLB_SIZE * sizeof(struct tlb_entry));
	if (!mmu->empty)
		goto fail;
	entries_invalidate(mmu->empty, TLB_SIZE);
	entries_invalidate(mmu->empty + TLB_SIZE, TLB_SIZE);
	for (n = 0; n < CONTEXTS; n++) {
		struct context *c = &mmu->contexts[n];
		unsigned view;

		c->views = aligned_alloc(64, VIEWS * sizeof(struct tables));
		if (!c->views)
			goto fail;
		for (view = 0; view < VIEWS; view++)
			c->filled[view] = true; /* so that the first flush writes the tags */
	}
	mmu->current = &mmu->contexts[0];
	return mmu;
fail:
	mmu_free(mmu);
	return NULL;
}

void mmu_free(struct soft_mmu *mmu)
{
	unsigned n;

	if (!mmu)
		return;
	for (n = 0; n < CONTEXTS; n++)
		free(mmu->contexts[n].views);
	free(mmu->empty);
	free(mmu);
}

static void entries_drop_nonglobal(struct tlb_entry *entries, const uint64_t *global)
{
	unsigned n;

	for (n = 0; n < TLB_SIZE; n++)
		if (!(global[n / 64] >> (n % 64) & 1))
			entries[n].tag = tlb_invalid(n);
}

static void generations_forget(struct generations *g)
{
	unsigned n;

	for (n = 0; n < GENERATIONS; n++)
		g->slot[n].gen = 0;
}

/* Empties a context, but for global entries if those are to stay. */
static void context_flush(struct soft_mmu *mmu, struct context *c, bool keep_global)
{
	unsigned view, n;

	c->epoch = ++mmu->epochs;
	for (view = 0; view < VIEWS; view++) {
		struct tables *t = &c->views[view];

		if (!c->filled[view])
			continue;
		if (keep_global) {
			entries_drop_nonglobal(t->read, t->read_global);
			entries_drop_nonglobal(t->write, t->write_global);
		} else {
			entries_invalidate(t->read, TLB_SIZE);
			entries_invalidate(t->write, TLB_SIZE);
			bytes_zero(t->read_global, sizeof(t->read_global));
			bytes_zero(t->write_global, sizeof(t->write_global));
			c->filled[view] = false;
		}
	}
	for (n = 0; n < FETCH_SIZE; n++)
		if (!keep_global || !c->fetch[n].global)
			c->fetch[n].tag = TLB_INVALID;
	bytes_zero(&c->code_pages, sizeof(c->code_pages));
	generations_forget(&c->generations);
	if (keep_global)
		return;
	c->global_user = false;
	c->large_first = ~0ull;
	c->large_last = 0;
}

/* Every context, globals too. */
static void flush_everything(struct soft_mmu *mmu)
{
	unsigned n;

	for (n = 0; n < CONTEXTS; n++) {
		context_flush(mmu, &mmu->contexts[n], false);
		mmu->contexts[n].used = &mmu->contexts[n] == mmu->current;
	}
	generations_forget(&mmu->generations);
	bytes_zero(&mmu->code_pages, sizeof(mmu->code_pages));
	mmu->large_code_first = ~0ull;
	mmu->large_code_last = 0;
}

static enum view data_view(const struct vcpu *v)
{
	if (v->arch.cpl == 3)
		return VIEW_USER;
	return (v->arch.cr4 & CR4_SMAP) && !(v->arch.rflags & FLAG_AC) ? VIEW_KERNEL_SMAP
								       : VIEW_KERNEL;
}

static enum view view_for(const struct vcpu *v, enum mmu_how how)
{
	if (how == MMU_SYSTEM)
		return (v->arch.cr4 & CR4_SMAP) ? VIEW_KERNEL_SMAP : VIEW_KERNEL;
	return how == MMU_USER ? VIEW_USER : data_view(v);
}

static unsigned view_access(enum view view)
{
	return view == VIEW_USER ? PAGING_USER : view == VIEW_KERNEL_SMAP ? PAGING_SMAP : 0;
}

/* The number under which code addresses of the present mode are known in `g`. */
static uint64_t generation_for(struct vcpu *v, struct generations *g)
{
	const struct segment *cs = &v->arch.seg[SEG_CS];
	struct generation *slot;
	unsigned n;

	for (n = 0; n < GENERATIONS; n++) {
		slot = &g->slot[n];
		if (slot->gen && slot->mode == v->soft.mode && slot->cs_base == cs->base &&
		    slot->cs_limit == cs->limit)
			return slot->gen;
	}
	slot = &g->slot[g->next++ % GENERATIONS];
	*slot = (struct generation){ v->soft.mode, cs->limit, cs->base, ++v->soft.mmu->generation };
	return slot->gen;
}

void mmu_use_gs(struct vcpu *v)
{
	__asm__ volatile(".byte 0xf3, 0x48, 0x0f, 0xae, 0xd8" /* wrgsbase rax */
			 :
			 : "a"(v->soft.tlb_read)
			 : "memory");
}

/* Points soft at the tables and the code generations for the present mode. */
static void select_tables(struct vcpu *v)
{
	struct soft_mmu *mmu = v->soft.mmu;
	struct context *c = mmu->current;
	struct tables *t = &c->views[data_view(v)];

	mmu->check_alignment =
		v->arch.cpl == 3 && (v->arch.cr0 & CR0_AM) && (v->arch.rflags & FLAG_AC);
	v->soft.tlb_read = mmu->check_alignment ? mmu->empty : t->read;
	v->soft.tlb_write = mmu->check_alignment ? mmu->empty + TLB_SIZE : t->write;
	if (v->soft.gs_tables)
		mmu_use_gs(v);
	t = &c->views[view_for(v, MMU_SYSTEM)];
	v->soft.system_read = t->read;
	v->soft.system_write = t->write;
	v->soft.code_gen = generation_for(v, &c->generations);
	v->soft.global_gen = generation_for(v, &mmu->generations);
}

static uint32_t mode_word(const struct vcpu *v)
{
	const struct vcpu_arch *a = &v->arch;
	uint32_t mode = 0;

	if (a->efer & EFER_LMA) {
		mode |= MODE_LONG;
		if (a->seg[SEG_CS].attr & SEG_L)
			mode |= MODE_CODE64;
	}
	if (!(mode & MODE_CODE64)) {
		if (a->seg[SEG_CS].attr & SEG_DB)
			mode |= MODE_CODE32;
		if (a->seg[SEG_SS].attr & SEG_DB)
			mode |= MODE_STACK32;
		if ((v->soft.flat & (1 << SEG_DS | 1 << SEG_ES | 1 << SEG_SS)) ==
		    (1 << SEG_DS | 1 << SEG_ES | 1 << SEG_SS))
			mode |= MODE_FLAT;
	}
	if (a->cr0 & CR0_PE)
		mode |= MODE_PROTECTED | ((a->rflags & FLAG_VM) ? MODE_VM86 : 0);
	if (a->cpl)
		mode |= a->cpl == 3 ? MODE_CPL3 : MODE_CPL12;
	if (a->rflags & FLAG_TF)
		mode |= MODE_TF;
	if (unlikely(a->dr[7] & 0xff)) {
		unsigned n;

		for (n = 0; n < 4; n++)
			if (a->dr[7] >> (2 * n) & 3)
				mode |= MODE_BREAK;
	}
	if (a->cr0 & (CR0_EM | CR0_TS)) {
		mode |= MODE_FPU_NM;
		mode |= (a->cr0 & CR0_EM) ? MODE_EM : 0;
		mode |= (a->cr0 & CR0_TS) ? MODE_TS : 0;
		mode |= (a->cr0 & CR0_TS) && (a->cr0 & CR0_MP) ? MODE_MP : 0;
	}
	if (a->cr4 & CR4_OSFXSR)
		mode |= MODE_SSE;
	if (a->cr4 & CR4_OSXSAVE)
		mode |= MODE_XSAVE | ((a->xcr0 & 6) == 6 ? MODE_AVX : 0);
	if (a->cr4 & CR4_FSGSBASE)
		mode |= MODE_FSGSBASE;
	return mode;
}

/* A data segment through which every 32-bit offset is reachable for reading and writing. */
static bool segment_is_flat(const struct segment *s)
{
	return s->base == 0 && s->limit == 0xffffffffu &&
	       (s->attr & (SEG_P | SEG_S | 0xe)) == (SEG_P | SEG_S | 0x2);
}

/* The widest span a data breakpoint covers, by DR7.LEN. */
static void watch_update(struct vcpu *v)
{
	static const uint8_t lengths[4] = { 1, 2, 8, 4 };
	struct soft_mmu *mmu = v->soft.mmu;
	uint64_t now[5] = { v->arch.dr[0], v->arch.dr[1], v->arch.dr[2], v->arch.dr[3],
			    v->arch.dr[7] };
	bool watching = false;
	unsigned n;

	for (n = 0; n < 4; n++) {
		unsigned kind = now[4] >> (16 + 4 * n) & 3,
			 len = lengths[now[4] >> (18 + 4 * n) & 3];

		mmu->watch[n] = (struct watch){ 1, 0, false };
		if (!(now[4] >> (2 * n) & 3) || (kind != 1 && kind != 3))
			continue;
		mmu->watch[n].first = now[n] & ~(uint64_t)(len - 1);
		mmu->watch[n].last = mmu->watch[n].first + len - 1;
		mmu->watch[n].on_read = kind == 3;
		watching = true;
	}
	bytes_copy(mmu->watched_dr, now, sizeof(now));
	if (watching || mmu->watching)
		for (n = 0; n < CONTEXTS; n++)
			context_flush(mmu, &mmu->contexts[n], false);
	mmu->watching = watching;
}

void vcpu_mode_changed(struct vcpu *v)
{
	struct vcpu_arch *a = &v->arch;
	struct soft_mmu *mmu = v->soft.mmu;

	if (!mmu)
		return; /* the hardware engine looks at the canonical state itself */
	if (unlikely(a->dr[7] != mmu->watched_dr[4] ||
		     (mmu->watching &&
		      (a->dr[0] != mmu->watched_dr[0] || a->dr[1] != mmu->watched_dr[1] ||
		       a->dr[2] != mmu->watched_dr[2] || a->dr[3] != mmu->watched_dr[3]))))
		watch_update(v);
	if (!(a->efer & EFER_LMA) || !(a->seg[SEG_CS].attr & SEG_L)) {
		unsigned n;

		v->soft.flat = 0;
		for (n = 0; n < 6; n++)
			if (segment_is_flat(&a->seg[n]))
				v->soft.flat |= 1u << n;
	}
	v->soft.mode = mode_word(v);
	select_tables(v);
}

void mmu_flush_all(struct vcpu *v)
{
	if (!v->soft.mmu)
		return;
	flush_everything(v->soft.mmu);
	select_tables(v);
}

void mmu_flush_nonglobal(struct vcpu *v)
{
	if (!v->soft.mmu)
		return;
	context_flush(v->soft.mmu, v->soft.mmu->current, true);
	v->soft.mmu->flushes++;
	select_tables(v);
}

static struct context *context_find(struct soft_mmu *mmu, unsigned pcid)
{
	unsigned n;

	for (n = 0; n < CONTEXTS; n++)
		if (mmu->contexts[n].used && mmu->contexts[n].pcid == pcid)
			return &mmu->contexts[n];
	return NULL;
}

void mmu_flush_pcid(struct vcpu *v, unsigned pcid)
{
	struct context *c = v->soft.mmu ? context_find(v->soft.mmu, pcid) : NULL;

	if (!c)
		return;
	context_flush(v->soft.mmu, c, true);
	if (c == v->soft.mmu->current)
		select_tables(v);
}

void mmu_switch(struct vcpu *v, unsigned pcid, bool keep)
{
	struct soft_mmu *mmu = v->soft.mmu;
	struct context *c;
	unsigned n;

	if (!mmu)
		return;
	c = context_find(mmu, pcid);
	if (!c) {
		c = &mmu->contexts[0];
		for (n = 0; n < CONTEXTS; n++) {
			struct context *candidate = &mmu->contexts[n];

			if (!candidate->used) {
				c = candidate;
				break;
			}
			if (candidate->last_use < c->last_use)
				c = candidate;
		}
		c->used = true;
		c->pcid = pcid;
		keep = false;
	}
	if (!keep)
		context_flush(mmu, c, true);
	c->last_use = ++mmu->uses;
	mmu->current = c;
	select_tables(v);
}

static unsigned bloom_bit(uint64_t la)
{
	uint64_t page = la >> PAGE_SHIFT;

	return (unsigned)((page ^ page >> 13 ^ page >> 26) & (BLOOM_BITS - 1));
}

static void bloom_add(struct bloom *b, uint64_t la)
{
	unsigned bit = bloom_bit(la);

	b->bits[bit / 64] |= 1ull << (bit % 64);
}

static bool bloom_has(const struct bloom *b, uint64_t la)
{
	unsigned bit = bloom_bit(la);

	return b->bits[bit / 64] >> (bit % 64) & 1;
}

static void entry_drop(struct tlb_entry *entries, uint64_t page)
{
	struct tlb_entry *e = &entries[(page >> PAGE_SHIFT) & (TLB_SIZE - 1)];

	if (e->tag == page)
		e->tag = tlb_invalid((unsigned)(e - entries));
}

static void context_invlpg(struct soft_mmu *mmu, struct context *c, uint64_t la)
{
	uint64_t page = la & PAGE_MASK;
	unsigned view, n;

	walk_drop(&mmu->walks, la);
	if (la >= c->large_first && la <= c->large_last) {
		context_flush(mmu, c, false);
		return;
	}
	for (view = 0; view < VIEWS; view++) {
		entry_drop(c->views[view].read, page);
		entry_drop(c->views[view].write, page);
	}
	for (n = 0; n < 2; n++) {
		struct fetch_entry *f =
			&c->fetch[((la >> PAGE_SHIFT) ^ n * 128) & (FETCH_SIZE - 1)];

		if ((f->tag & PAGE_MASK) == page)
			f->tag = TLB_INVALID;
	}
	if (bloom_has(&c->code_pages, la))
		generations_forget(&c->generations);
}

void mmu_invlpg(struct vcpu *v, uint64_t la)
{
	struct soft_mmu *mmu = v->soft.mmu;
	unsigned n;

	if (!mmu)
		return;
	if (!vcpu_long_mode(v))
		la &= 0xffffffffu;
	for (n = 0; n < CONTEXTS; n++) {
		struct context *c = &mmu->contexts[n];

		/* A page of the upper half may be global and then stands in every context. */
		if (c == mmu->current || (c->used && ((int64_t)la < 0 || c->global_user)))
			context_invlpg(mmu, c, la);
	}
	/* Within a large page any 4 KiB part may have been fetched from. */
	if (bloom_has(&mmu->code_pages, la) ||
	    (la >= mmu->large_code_first && la <= mmu->large_code_last))
		generations_forget(&mmu->generations);
	select_tables(v);
}

void mmu_invpcid_address(struct vcpu *v, unsigned pcid, uint64_t la)
{
	struct context *c = v->soft.mmu ? context_find(v->soft.mmu, pcid) : NULL;

	if (!c)
		return;
	context_invlpg(v->soft.mmu, c, la);
	if (c == v->soft.mmu->current)
		select_tables(v);
}

void mmu_revoke_write(struct vcpu *v, gfn_t gfn)
{
	struct soft_mmu *mmu = v->soft.mmu;
	uint64_t host;
	unsigned n, view, i;

	if (!mmu)
		return;
	host = (uint64_t)(uintptr_t)ram_page(v->ram, gfn << PAGE_SHIFT);
	for (n = 0; n < CONTEXTS; n++) {
		struct context *c = &mmu->contexts[n];

		for (view = 0; view < VIEWS; view++) {
			struct tlb_entry *w = c->views[view].write;

			if (!c->filled[view])
				continue;
			for (i = 0; i < TLB_SIZE; i++)
				if (w[i].tag + w[i].addend == host)
					w[i].tag = tlb_invalid(i);
		}
	}
}

static bool page_watched(const struct soft_mmu *mmu, uint64_t la)
{
	uint64_t page = la & PAGE_MASK;
	unsigned n;

	for (n = 0; n < 4; n++)
		if (mmu->watch[n].first <= (page | 0xfff) && mmu->watch[n].last >= page)
			return true;
	return false;
}

static void watch_check(struct soft_mmu *mmu, uint64_t la, unsigned len, bool write)
{
	unsigned n;

	for (n = 0; n < 4; n++) {
		const struct watch *w = &mmu->watch[n];

		if (w->first <= la + len - 1 && w->last >= la && (write || w->on_read))
			mmu->watch_hits |= 1ull << n;
	}
}

void mmu_watch_port(struct vcpu *v, uint16_t port, unsigned size)
{
	static const uint8_t lengths[4] = { 1, 2, 8, 4 };
	uint64_t dr7 = v->arch.dr[7];
	unsigned n;

	if (likely(!(dr7 & 0xff)) || !(v->arch.cr4 & CR4_DE))
		return;
	for (n = 0; n < 4; n++) {
		unsigned len = lengths[dr7 >> (18 + 4 * n) & 3];
		uint64_t first = v->arch.dr[n] & ~(uint64_t)(len - 1);

		if ((dr7 >> (2 * n) & 3) && (dr7 >> (16 + 4 * n) & 3) == 2 && first < port + size &&
		    port < first + len)
			v->soft.mmu->watch_hits |= 1ull << n;
	}
}

uint64_t mmu_take_watch_hits(struct vcpu *v)
{
	struct soft_mmu *mmu = v->soft.mmu;
	uint64_t hits = mmu->watch_hits;

	mmu->watch_hits = 0;
	return hits;
}

static int canonical_fault(struct vcpu *v)
{
	return excp_gp(v, 0);
}

/* One page's part of an access: translate, and fill the TLB if a plain access will do next time. */
static int piece_resolve(struct vcpu *v, enum view view, uint64_t la, unsigned len, bool write,
			 struct piece *p)
{
	struct soft_mmu *mmu = v->soft.mmu;
	struct context *c = mmu->current;
	struct tables *t = &c->views[view];
	unsigned slot = (la >> PAGE_SHIFT) & (TLB_SIZE - 1);
	struct tlb_entry *e = write ? &t->write[slot] : &t->read[slot];
	uint64_t *global = write ? t->write_global : t->read_global;
	uint64_t page = la & PAGE_MASK;
	struct paging_result r;
	uint8_t *host;

	p->la = la;
	p->len = len;
	p->guarded = false;
	if (e->tag == page) {
		p->host = (uint8_t *)(la + e->addend);
		p->gpa = 0;
		return 0;
	}
	if (vcpu_long_mode(v) && !address_canonical(la))
		return canonical_fault(v);
	if (walk_cached(&mmu->walks, c->epoch, v, la,
			view_access(view) | (write ? PAGING_WRITE : 0), &r))
		return -1;
	p->gpa = r.gpa;
	host = ram_page(v->ram, r.gpa);
	if (!host) {
		p->host = NULL;
		return 0;
	}
	p->host = host + (la & ~PAGE_MASK);
	if (r.span > PAGE_SIZE) {
		uint64_t first = la & ~(r.span - 1);

		if (first < c->large_first)
			c->large_first = first;
		if (first + r.span - 1 > c->large_last)
			c->large_last = first + r.span - 1;
	}
	if (r.global && (int64_t)la >= 0)
		c->global_user = true;
	if (mmu->watching && page_watched(mmu, la)) {
		p->guarded = write;
		return 0;
	}
	if (!write || page_grant_write(v->ram, mmu->listener, r.gpa >> PAGE_SHIFT)) {
		c->filled[view] = true;
		mmu->fills++;
		e->tag = page;
		e->addend = (uint64_t)(uintptr_t)host - page;
		if (r.global)
			global[slot / 64] |= 1ull << (slot % 64);
		else
			global[slot / 64] &= ~(1ull << (slot % 64));
	} else {
		p->guarded = true;
	}
	return 0;
}

bool mmu_fill(struct vcpu *v, uint64_t la, unsigned access)
{
	unsigned size = access & 0xffff;
	bool write = access & MMU_FILL_WRITE;
	const struct tlb_entry *table = write ? v->soft.tlb_write : v->soft.tlb_read;
	struct piece p;

	if (v->soft.mmu->check_alignment || (la & ~PAGE_MASK) + size > PAGE_SIZE)
		return false;
	if (piece_resolve(v, data_view(v), la, size, write, &p))
		return false;
	return table[(la >> PAGE_SHIFT) & (TLB_SIZE - 1)].tag == (la & PAGE_MASK);
}

static bool is_lapic(const struct vcpu *v, gpa_t gpa)
{
	return (v->arch.lapic.base_msr & (APIC_BASE_ENABLE | APIC_BASE_X2APIC)) ==
		       APIC_BASE_ENABLE &&
	       (gpa & PAGE_MASK) == (v->arch.lapic.base_msr & 0xffffff000ull);
}

/* Device memory. The guest's vector registers leave the host's while foreign code runs. */
static uint64_t mmio_read(struct vcpu *v, gpa_t gpa, unsigned size)
{
	bool live = v->fp_live;
	uint64_t value;

	if (is_lapic(v, gpa) && size <= 4)
		return lapic_mmio_read(v, gpa & 0xfff, size);
	vcpu_fp_park(v);
	value = bus_read(v->mmio, gpa, size);
	if (live)
		vcpu_fp_load(v);
	return value;
}

static void mmio_write(struct vcpu *v, gpa_t gpa, unsigned size, uint64_t value)
{
	bool live = v->fp_live;

	if (is_lapic(v, gpa) && size <= 4) {
		lapic_mmio_write(v, gpa & 0xfff, size, (uint32_t)value);
		return;
	}
	vcpu_fp_park(v);
	bus_write(v->mmio, gpa, size, value);
	if (live)
		vcpu_fp_load(v);
}

/* The largest naturally sized step a device access of `len` bytes at gpa may take. */
static unsigned mmio_step(gpa_t gpa, unsigned len)
{
	unsigned step = len >= 8 ? 8 : len >= 4 ? 4 : len >= 2 ? 2 : 1;

	while ((gpa & (step - 1)) && step > 4)
		step >>= 1;
	return step;
}

static void piece_load(struct vcpu *v, const struct piece *p, uint8_t *bytes)
{
	unsigned done = 0;

	if (v->soft.mmu->watching)
		watch_check(v->soft.mmu, p->la, p->len, false);
	if (p->host) {
		switch (p->len) {
		case 1:
			*bytes = *(const volatile uint8_t *)p->host;
			return;
		case 2:
			*(uint16_t *)bytes = *(const volatile uint16_t *)p->host;
			return;
		case 4:
			*(uint32_t *)bytes = *(const volatile uint32_t *)p->host;
			return;
		case 8:
			*(uint64_t *)bytes = *(const volatile uint64_t *)p->host;
			return;
		default:
			bytes_copy(bytes, p->host, p->len);
			return;
		}
	}
	while (done < p->len) {
		unsigned step = mmio_step(p->gpa + done, p->len - done);
		uint64_t value = mmio_read(v, p->gpa + done, step);

		bytes_copy(bytes + done, &value, step);
		done += step;
	}
}

static void piece_store(struct vcpu *v, const struct piece *p, const uint8_t *bytes)
{
	unsigned done = 0;

	if (v->soft.mmu->watching)
		watch_check(v->soft.mmu, p->la, p->len, true);
	if (p->host) {
		if (p->guarded && page_write_begin(v->ram, v->soft.mmu->listener, p->gpa, p->len))
			return;
		switch (p->len) {
		case 1:
			*(volatile uint8_t *)p->host = *bytes;
			break;
		case 2:
			*(volatile uint16_t *)p->host = *(const uint16_t *)bytes;
			break;
		case 4:
			*(volatile uint32_t *)p->host = *(const uint32_t *)bytes;
			break;
		case 8:
			*(volatile uint64_t *)p->host = *(const uint64_t *)bytes;
			break;
		default:
			bytes_copy(p->host, bytes, p->len);
		}
		if (p->guarded)
			page_write_end(v->ram, v->soft.mmu->listener, p->gpa, p->len);
		return;
	}
	while (done < p->len) {
		unsigned step = mmio_step(p->gpa + done, p->len - done);
		uint64_t value = 0;

		bytes_copy(&value, bytes + done, step);
		mmio_write(v, p->gpa + done, step, value);
		done += step;
	}
}

/* Splits [la, la+len) at page ends; len is at most one page, so two pieces do. Judges all before
 * any is touched. */
static int resolve(struct vcpu *v, uint64_t la, unsigned len, bool write, enum mmu_how how,
		   struct piece p[2], unsigned *count)
{
	enum view view = view_for(v, how);
	unsigned room = (unsigned)(PAGE_SIZE - (la & ~PAGE_MASK));
	uint64_t second;

	if (!vcpu_code64(v) && !vcpu_long_mode(v))
		la &= 0xffffffffu;
	if (unlikely(
		    v->soft.mmu->check_alignment && how == MMU_CPL &&
		    (len == 10 ? la & 7 : (len & (len - 1)) == 0 && len <= 8 && (la & (len - 1))) &&
		    (!vcpu_long_mode(v) || address_canonical(la))))
		return excp_raise_error(v, VEC_AC, 0);
	*count = len > room ? 2 : 1;
	/* The canonical form of the whole operand is judged before its first page is. */
	if (unlikely(*count == 2 && vcpu_long_mode(v) && !address_canonical(la + len - 1)))
		return canonical_fault(v);
	if (piece_resolve(v, view, la, *count == 2 ? room : len, write, &p[0]))
		return -1;
	if (*count == 1)
		return 0;
	second = la + room;
	if (!vcpu_long_mode(v))
		second &= 0xffffffffu;
	return piece_resolve(v, view, second, len - room, write, &p[1]);
}

int mmu_read(struct vcpu *v, uint64_t la, void *bytes, unsigned len, enum mmu_how how)
{
	struct piece p[2];
	unsigned count, n;
	uint8_t *out = bytes;

	if (unlikely(resolve(v, la, len, false, how, p, &count)))
		return -1;
	for (n = 0; n < count; n++) {
		piece_load(v, &p[n], out);
		out += p[n].len;
	}
	return 0;
}

int mmu_write(struct vcpu *v, uint64_t la, const void *bytes, unsigned len, enum mmu_how how)
{
	struct piece p[2];
	unsigned count, n;
	const uint8_t *in = bytes;

	if (unlikely(resolve(v, la, len, true, how, p, &count)))
		return -1;
	for (n = 0; n < count; n++) {
		piece_store(v, &p[n], in);
		in += p[n].len;
	}
	return 0;
}

int mmu_probe_write(struct vcpu *v, uint64_t la, unsigned len, enum mmu_how how)
{
	struct piece p[2];
	unsigned count;

	return resolve(v, la, len, true, how, p, &count);
}

int mmu_probe_read(struct vcpu *v, uint64_t la, unsigned len, enum mmu_how how)
{
	struct piece p[2];
	unsigned count;

	return resolve(v, la, len, false, how, p, &count);
}

void *mmu_write_span(struct vcpu *v, uint64_t la, unsigned len)
{
	struct piece p[2];
	unsigned count;

	if (resolve(v, la, len, true, MMU_CPL, p, &count) || count != 1 || p[0].guarded ||
	    v->soft.mmu->watching)
		return NULL;
	return p[0].host;
}

void *mmu_lock(struct vcpu *v, uint64_t la, unsigned len)
{
	struct soft_mmu *mmu = v->soft.mmu;
	struct locked *l = &mmu->locked;
	unsigned n, done = 0;

	/* Before the look at the page tables: while we wait here others may change them. */
	l->exclusive = (la & 63) + len > 64;
	if (l->exclusive)
		exclusive_begin(v);
	if (resolve(v, la, len, true, MMU_CPL, l->piece, &l->count)) {
		if (l->exclusive)
			exclusive_end(v);
		return NULL;
	}
	l->guarded = l->piece[0].guarded;
	if (!l->exclusive && l->piece[0].host &&
	    (!l->guarded || !page_write_begin(v->ram, mmu->listener, l->piece[0].gpa, len))) {
		if (mmu->watching)
			watch_check(mmu, la, len, true);
		l->count = 0;
		return l->piece[0].host;
	}
	/* Devices, ROM, split operands: piece_store() deals with each. */
	for (n = 0; n < l->count; n++) {
		piece_load(v, &l->piece[n], l->copy + done);
		done += l->piece[n].len;
	}
	return l->copy;
}

void mmu_unlock(struct vcpu *v)
{
	struct locked *l = &v->soft.mmu->locked;
	unsigned n, done = 0;

	if (!l->count) {
		if (l->guarded)
			page_write_end(v->ram, v->soft.mmu->listener, l->piece[0].gpa,
				       l->piece[0].len);
		return;
	}
	for (n = 0; n < l->count; n++) {
		piece_store(v, &l->piece[n], l->copy + done);
		done += l->piece[n].len;
	}
	if (l->exclusive)
		exclusive_end(v);
}

int mmu_fetch(struct vcpu *v, uint64_t la, gpa_t *gpa, const uint8_t **host)
{
	struct soft_mmu *mmu = v->soft.mmu;
	struct context *c = mmu->current;
	bool user = v->arch.cpl == 3;
	struct fetch_entry *f =
		&c->fetch[((la >> PAGE_SHIFT) ^ (user ? 128 : 0)) & (FETCH_SIZE - 1)];
	uint64_t tag = (la & PAGE_MASK) | (user ? 2 : 0);
	struct paging_result r;

	if (!vcpu_code64(v))
		la &= 0xffffffffu, tag &= 0xffffffffu;
	if (likely(f->tag == tag)) {
		*gpa = f->gpa | (la & ~PAGE_MASK);
		*host = f->host ? f->host + (la & ~PAGE_MASK) : NULL;
		v->soft.fetch_global = f->global;
		return 0;
	}
	if (vcpu_code64(v) && !address_canonical(la))
		return excp_gp(v, 0);
	if (paging_walk(v, la, PAGING_EXEC | (user ? PAGING_USER : 0), &r))
		return -1;
	if (r.span > PAGE_SIZE) {
		uint64_t first = la & ~(r.span - 1);

		if (first < c->large_first)
			c->large_first = first;
		if (first + r.span - 1 > c->large_last)
			c->large_last = first + r.span - 1;
		if (r.global && first < mmu->large_code_first)
			mmu->large_code_first = first;
		if (r.global && first + r.span - 1 > mmu->large_code_last)
			mmu->large_code_last = first + r.span - 1;
	}
	if (r.global && (int64_t)la >= 0)
		c->global_user = true;
	bloom_add(r.global ? &mmu->code_pages : &c->code_pages, la);
	f->global = r.global;
	v->soft.fetch_global = r.global;
	f->tag = tag;
	f->gpa = r.gpa & PAGE_MASK;
	f->host = ram_page(v->ram, r.gpa);
	*gpa = r.gpa;
	*host = f->host ? f->host + (la & ~PAGE_MASK) : NULL;
	return 0;
}

int mmu_phys_read(struct vcpu *v, gpa_t gpa, void *bytes, unsigned len)
{
	uint8_t *out = bytes;

	if (!ram_contains(v->ram, gpa, len))
		return -1;
	while (len) {
		unsigned step = (unsigned)(PAGE_SIZE - (gpa & ~PAGE_MASK));

		if (step > len)
			step = len;
		bytes_copy(out, (uint8_t *)ram_page(v->ram, gpa) + (gpa & ~PAGE_MASK), step);
		gpa += step;
		out += step;
		len -= step;
	}
	return 0;
}

int mmu_phys_write(struct vcpu *v, gpa_t gpa, const void *bytes, unsigned len)
{
	const uint8_t *in = bytes;

	if (!ram_contains(v->ram, gpa, len))
		return -1;
	while (len) {
		unsigned step = (unsigned)(PAGE_SIZE - (gpa & ~PAGE_MASK));

		if (step > len)
			step = len;
		/* No grant stands behind this store: it is told, whatever the page was a moment
		 * ago. */
		if (!page_write_begin(v->ram, mmu_listener(v), gpa, step)) {
			bytes_copy((uint8_t *)ram_page(v->ram, gpa) + (gpa & ~PAGE_MASK), in, step);
			page_write_end(v->ram, mmu_listener(v), gpa, step);
		}
		gpa += step;
		in += step;
		len -= step;
	}
	return 0;
}
