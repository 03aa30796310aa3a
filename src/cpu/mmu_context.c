/*
 * Contexts of the soft MMU: which tables stand for an address space and a
 * privilege, and how entries come to their end. Called by cpu/control.c, by the
 * instructions of the same names, and whenever the mode changes.
 */
#include "base/bytes.h"
#include "cpu/mmu_priv.h"
#include "cpu/mode.h"
#include "mem/page.h"
#include <stdlib.h>
#include <sys/random.h>

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
	if (getrandom(&mmu->secret, sizeof(mmu->secret), 0) != sizeof(mmu->secret))
		goto fail;
	mmu->secret |= 1;
	mmu->empty = aligned_alloc(64, 2 * TLB_SIZE * sizeof(struct tlb_entry));
	if (!mmu->empty)
		goto fail;
	entries_invalidate(mmu->empty, TLB_SIZE);
	entries_invalidate(mmu->empty + TLB_SIZE, TLB_SIZE);
	for (n = 0; n < CONTEXTS; n++) {
		struct context *c = &mmu->contexts[n];

		c->views = aligned_alloc(64, VIEWS * sizeof(struct tables));
		if (!c->views)
			goto fail;
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

/* Most contexts and views of a short life are never used: their tables cost nothing then. */
struct tables *mmu_tables_begin(struct context *c, enum view view)
{
	struct tables *t = &c->views[view];

	entries_invalidate(t->read, TLB_SIZE);
	entries_invalidate(t->write, TLB_SIZE);
	bytes_zero(t->read_global, sizeof(t->read_global));
	bytes_zero(t->write_global, sizeof(t->write_global));
	c->begun[view] = true;
	return t;
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
void mmu_context_flush(struct soft_mmu *mmu, struct context *c, bool keep_global)
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
		mmu_context_flush(mmu, &mmu->contexts[n], false);
		mmu->contexts[n].used = &mmu->contexts[n] == mmu->current;
	}
	generations_forget(&mmu->generations);
	bytes_zero(&mmu->code_pages, sizeof(mmu->code_pages));
	mmu->large_code_first = ~0ull;
	mmu->large_code_last = 0;
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
	*slot = (struct generation){ v->soft.mode, cs->limit, cs->base,
				     ++v->soft.mmu->generation * v->soft.mmu->secret };
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
	struct tables *t = mmu_tables(c, data_view(v));

	mmu->check_alignment =
		v->arch.cpl == 3 && (v->arch.cr0 & CR0_AM) && (v->arch.rflags & FLAG_AC);
	v->soft.tlb_read = mmu->check_alignment ? mmu->empty : t->read;
	v->soft.tlb_write = mmu->check_alignment ? mmu->empty + TLB_SIZE : t->write;
	if (v->soft.gs_tables)
		mmu_use_gs(v);
	t = mmu_tables(c, view_for(v, MMU_SYSTEM));
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
		mmu_watch_update(v);
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
	mmu_context_flush(v->soft.mmu, v->soft.mmu->current, true);
	v->soft.mmu->counts.flushes++;
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
	mmu_context_flush(v->soft.mmu, c, true);
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
		mmu_context_flush(mmu, c, true);
	c->last_use = ++mmu->uses;
	mmu->current = c;
	select_tables(v);
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
		mmu_context_flush(mmu, c, false);
		return;
	}
	for (view = 0; view < VIEWS; view++) {
		if (!c->begun[view])
			continue;
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
	mmu->counts.invalidations++;
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
	v->soft.mmu->counts.invalidations++;
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
