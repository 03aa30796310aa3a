/*
 * The trace cache: look-up, registration on code pages, and death. A trace
 * dies by having every call of its code turned to insn_stale: whoever
 * runs it, links to it or finds it in the jump cache leaves at once with an
 * exact rip, and nobody has to be searched for.
 */
#include "engine/interpret/trace.h"
#include "base/bytes.h"
#include "bus/tsc.h"
#include "cpu/exclusive.h"
#include "cpu/fpstate.h"
#include "cpu/mode.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#define CHECKS_PART  8   /* of the memory is for checked traces */
#define RELEASE_TSC  (1ull << 30) /* of the host's TSC: some 0.4 s */
#define SETTLE_TURNS 200 /* some ten microseconds */

const void *insn_stale(struct vcpu *v, const struct insn *i)
{
	v->arch.rip += i->offset;
	if (!(v->arch.seg[SEG_CS].attr & SEG_L) || !vcpu_long_mode(v))
		v->arch.rip &= 0xffffffffu;
	v->soft.exit = TRACE_STALE;
	STOP(v);
}

const void *insn_changed(struct vcpu *v)
{
	v->soft.exit = TRACE_OUTDATED;
	STOP(v);
}

static unsigned trace_slot(gpa_t gpa, uint32_t mode)
{
	uint64_t x = gpa ^ (uint64_t)mode << 7 ^ gpa >> TRACE_HASH_BITS;

	return (unsigned)(x & ((1u << TRACE_HASH_BITS) - 1));
}

static struct code_page **page_slot(struct trace_cache *c, gfn_t gfn)
{
	return &c->pages[(gfn ^ gfn >> PAGE_HASH_BITS) & ((1u << PAGE_HASH_BITS) - 1)];
}

static struct code_page *page_find(struct trace_cache *c, gfn_t gfn)
{
	struct code_page *p = *page_slot(c, gfn);

	while (p && p->gfn != gfn)
		p = p->hash_next;
	return p;
}

struct trace *trace_find(struct trace_cache *c, gpa_t gpa, uint32_t mode)
{
	struct trace *t = c->hash[trace_slot(gpa, mode)];

	while (t && (t->gpa != gpa || t->mode != mode))
		t = t->hash_next;
	return t;
}

static void hash_remove(struct trace_cache *c, struct trace *t)
{
	struct trace **where = &c->hash[trace_slot(t->gpa, t->mode)];

	while (*where && *where != t)
		where = &(*where)->hash_next;
	if (*where)
		*where = t->hash_next;
}

static void trace_kill(struct trace_cache *c, struct trace *t)
{
	if (t->dead)
		return;
	t->dead = true;
	if (t->region)
		c->region_kill(t->region);
	else
		trace_code_kill(c, t);
	hash_remove(c, t);
	c->killed++;
	c->killed_regions += t->region != NULL;
}

void trace_retire(struct trace_cache *c, struct trace *t)
{
	const struct trace *head;

	hash_remove(c, t);
	head = trace_find(c, t->gpa, t->mode);
	t->dead = true;
	/* From now on it only leads to the region, even when that is dead: insn_hot. */
	t->region = head->region;
	t->heat = 0;
}

/* Which of a trace's two lists belongs to page gfn. */
static unsigned list_of(const struct trace *t, gfn_t gfn)
{
	return t->gpa >> PAGE_SHIFT == gfn ? 0 : 1;
}

/* The first and the last byte that the trace uses of this page. */
static void span(const struct trace *t, gfn_t gfn, unsigned *first, unsigned *last)
{
	if (t->region) {
		*first = t->region_first;
		*last = t->region_last;
	} else if (list_of(t, gfn) == 0) {
		*first = (unsigned)(t->gpa & ~PAGE_MASK);
		*last = *first + t->bytes - 1;
		if (*last >= PAGE_SIZE)
			*last = (unsigned)PAGE_SIZE - 1;
	} else {
		*first = 0;
		*last = (unsigned)((t->gpa + t->bytes - 1) & ~PAGE_MASK);
	}
}

static uint64_t granules(unsigned first, unsigned last)
{
	unsigned a = first / 64, b = last / 64;

	return (~0ull >> (63 - (b - a))) << a;
}

/* Kills what touches the range, says how much noise that makes, and notes what is left. */
static unsigned page_kill(struct trace_cache *c, struct code_page *p, unsigned offset, unsigned len)
{
	struct trace **where = &p->traces;
	unsigned noise = 0, first, last;
	uint64_t left = 0;

	while (*where) {
		struct trace *t = *where;
		struct trace **next = &t->page_next[list_of(t, p->gfn)];

		span(t, p->gfn, &first, &last);
		if (t->dead || (first < offset + len && offset <= last)) {
			if (!t->dead)
				noise += t->region ? UNREST_REGION : UNREST_KILL;
			trace_kill(c, t);
			*where = *next;
		} else {
			left |= granules(first, last);
			where = next;
		}
	}
	p->granules = left;
	if (left)
		page_trim_code(c->v->ram, &c->listener, p->gfn, left);
	else
		page_drop_code(c->v->ram, &c->listener, p->gfn);
	return noise;
}

/* From here on stores to the page are plain, if nobody else has code there. */
static void page_noise(struct trace_cache *c, struct code_page *p, unsigned noise)
{
	if (unrest_noise(&p->unrest, noise, unrest_now()))
		page_kill(c, p, 0, (unsigned)PAGE_SIZE);
}

static void code_changed_here(struct trace_cache *c, gfn_t gfn, unsigned offset, unsigned len)
{
	struct code_page *p = page_find(c, gfn);
	unsigned noise = 0;

	if (!p)
		return;
	if (p->granules & granules(offset, offset + len - 1))
		noise = page_kill(c, p, offset, len);
	page_noise(c, p, noise ? noise : UNREST_BESIDE);
}

static void on_code_beside(struct page_listener *listener, gfn_t gfn)
{
	struct trace_cache *c = (struct trace_cache *)listener;
	struct code_page *p = page_find(c, gfn);

	if (p)
		page_noise(c, p, UNREST_BESIDE);
}

/* The same page once more: the news that waits grows to cover both. */
static bool news_merge(struct trace_cache *c, gfn_t gfn, unsigned offset, unsigned len)
{
	unsigned n, first, last;

	for (n = 0; n < c->news_count; n++) {
		struct news *old = &c->news[n];

		if (old->gfn != gfn || !old->len != !len)
			continue;
		if (len) {
			first = old->offset < offset ? old->offset : offset;
			last = old->offset + old->len > offset + len ? old->offset + old->len
								     : offset + len;
			old->offset = (uint16_t)first;
			old->len = (uint16_t)(last - first);
		}
		return true;
	}
	return false;
}

/*
 * Another thread's news: queue and make the owner look, before it executes
 * anything further. A halted one need not wake up for it.
 */
static void announce(struct trace_cache *c, gfn_t gfn, unsigned offset, unsigned len)
{
	spin_lock(&c->lock);
	if (!news_merge(c, gfn, offset, len)) {
		if (c->news_count < NEWS_MAX)
			c->news[c->news_count++] =
				(struct news){ gfn, (uint16_t)offset, (uint16_t)len };
		else
			c->news_overflow = true;
	}
	spin_unlock(&c->lock);
	atomic_fetch_or(&c->v->req, REQ_CODE);
}

static void on_code_changed(struct page_listener *listener, struct page_listener *self, gfn_t gfn,
			    unsigned offset, unsigned len)
{
	struct trace_cache *c = (struct trace_cache *)listener;

	if (listener == self)
		code_changed_here(c, gfn, offset, len);
	else
		announce(c, gfn, offset, len);
}

static void drop_write(struct trace_cache *c, gfn_t gfn)
{
	mmu_revoke_write(c->v, gfn);
	page_write_dropped(c->v->ram, &c->listener, gfn);
}

static void on_revoke_write(struct page_listener *listener, struct page_listener *self, gfn_t gfn)
{
	struct trace_cache *c = (struct trace_cache *)listener;

	if (listener == self)
		drop_write(c, gfn);
	else
		announce(c, gfn, 0, 0);
}

/* The dispatcher looks at req before anything else of the guest's. */
static bool is_quiet(struct page_listener *listener)
{
	return atomic_load(&((struct trace_cache *)listener)->v->presence) == PRESENCE_OUT;
}

bool trace_cache_hear(struct trace_cache *c)
{
	struct news news[NEWS_MAX];
	unsigned count, n;
	bool overflow;

	spin_lock(&c->lock);
	count = c->news_count;
	overflow = c->news_overflow;
	for (n = 0; n < count; n++)
		news[n] = c->news[n];
	c->news_count = 0;
	c->news_overflow = false;
	spin_unlock(&c->lock);
	if (overflow) {
		mmu_flush_all(c->v);
		page_write_dropped_all(c->v->ram, &c->listener);
		return false;
	}
	for (n = 0; n < count; n++) {
		if (news[n].len)
			code_changed_here(c, news[n].gfn, news[n].offset, news[n].len);
		else
			drop_write(c, news[n].gfn);
	}
	return true;
}

static void arena_reset(struct trace_arena *a)
{
	a->bottom = a->start;
	a->top = a->end;
	a->code_used = a->code;
	a->checked = NULL;
}

void trace_cache_flush_checked(struct trace_cache *c)
{
	const uint8_t *first = c->code.rx + c->checks.code, *end = c->code.rx + c->checks.code_end;

	for (struct trace *t = c->checks.checked; t; t = t->page_next[0])
		if (!t->dead)
			hash_remove(c, t);
	/* Nothing else leads there: see trace_links(). */
	for (unsigned n = 0; n < 1u << JUMP_BITS; n++) {
		const uint8_t *target = c->jumps[n].target;

		if (target >= first && target < end)
			c->jumps[n].key = 0;
	}
	arena_reset(&c->checks);
	c->v->soft.link_from = NULL;
	c->epoch++;
}

void trace_cache_flush(struct trace_cache *c)
{
	uint64_t now = tsc_read();
	unsigned n;

	for (n = 0; n < 1u << PAGE_HASH_BITS; n++) {
		struct code_page *p;

		for (p = c->pages[n]; p; p = p->hash_next)
			page_drop_code(c->v->ram, &c->listener, p->gfn);
		c->pages[n] = NULL;
	}
	for (n = 0; n < 1u << TRACE_HASH_BITS; n++)
		c->hash[n] = NULL;
	for (n = 0; n < 1u << JUMP_BITS; n++)
		c->jumps[n].key = 0;
	arena_reset(&c->plain);
	arena_reset(&c->checks);
	c->released = c->heat && now - c->flushed_tsc > RELEASE_TSC;
	c->flushed_tsc = now;
	if (c->released) {
		madvise(c->pool, c->pool_bytes, MADV_DONTNEED);
		code_memory_release(&c->code, 0);
	}
	c->v->soft.link_from = NULL;
	c->flushes++;
	c->epoch++;
}

int trace_cache_open(struct trace_cache *c, struct vcpu *v, size_t pool_bytes, const char **error)
{
	*error = "out of memory for the trace cache";
	if (code_memory_open(&c->code, pool_bytes - pool_bytes / 11, error))
		return -ENOMEM;
	c->listener.code_changed = on_code_changed;
	c->listener.code_beside = on_code_beside;
	c->listener.revoke_write = on_revoke_write;
	c->listener.quiet = is_quiet;
	c->v = v;
	c->pool_bytes = pool_bytes;
	c->pool = mmap(NULL, pool_bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	c->hash = calloc(1u << TRACE_HASH_BITS, sizeof(*c->hash));
	c->pages = calloc(1u << PAGE_HASH_BITS, sizeof(*c->pages));
	c->jumps = calloc(1u << JUMP_BITS, sizeof(*c->jumps));
	if (c->pool == MAP_FAILED || !c->hash || !c->pages || !c->jumps) {
		if (c->pool == MAP_FAILED)
			c->pool = NULL;
		trace_cache_close(c);
		return -ENOMEM;
	}
	c->plain.start = c->pool;
	c->plain.end = c->checks.start = c->pool + pool_bytes / CHECKS_PART * (CHECKS_PART - 1);
	c->checks.end = c->pool + pool_bytes;
	c->plain.code_end = c->checks.code =
		(uint32_t)(c->code.bytes / CHECKS_PART * (CHECKS_PART - 1)) & ~63u;
	c->checks.code_end = (uint32_t)c->code.bytes;
	arena_reset(&c->plain);
	arena_reset(&c->checks);
	c->arena = &c->plain;
	page_listener_add(v->ram, &c->listener);
	return 0;
}

void trace_cache_close(struct trace_cache *c)
{
	if (c->v && c->pool && c->jumps) {
		/* With it goes all that was watched; c->v may be another engine's by now. */
		page_listener_remove(c->v->ram, &c->listener);
	}
	if (c->pool)
		munmap(c->pool, c->pool_bytes);
	code_memory_close(&c->code);
	free(c->hash);
	free(c->pages);
	free(c->jumps);
	c->pool = NULL;
	c->hash = NULL;
	c->pages = NULL;
	c->jumps = NULL;
}

struct trace *trace_begin(struct trace_cache *c)
{
	const struct trace_arena *a = c->arena;

	return (size_t)(a->top - a->bottom) < TRACE_MOST + 4096 ? NULL : (struct trace *)a->bottom;
}

static void *arena_take(struct trace_arena *a, size_t bytes)
{
	bytes = (bytes + 15) & ~(size_t)15;
	if ((size_t)(a->top - a->bottom) < TRACE_MOST + bytes)
		return NULL;
	a->top -= bytes;
	return a->top;
}

void *trace_pool_take(struct trace_cache *c, size_t bytes)
{
	return arena_take(c->arena, bytes);
}

/* The begun trace's memory is spent. */
static void arena_claim(struct trace_arena *a, struct trace *t)
{
	a->code_used += t->code_room;
	a->bottom = (uint8_t *)t + TRACE_BYTES(t->count);
	a->bottom += -(uintptr_t)a->bottom & 63;
}

static void hash_insert(struct trace_cache *c, struct trace *t)
{
	struct trace **slot = &c->hash[trace_slot(t->gpa, t->mode)];

	t->hash_next = *slot;
	*slot = t;
}

/* Our entry for the page, made if need be; NULL: no room. */
static struct code_page *page_enter(struct trace_cache *c, gfn_t gfn)
{
	struct code_page *p = page_find(c, gfn);

	if (!p) {
		struct code_page **slot = page_slot(c, gfn);

		p = arena_take(&c->plain, sizeof(*p));
		if (!p)
			return NULL;
		*p = (struct code_page){ .gfn = gfn, .hash_next = *slot };
		*slot = p;
	}
	return p;
}

/* Has the granules watched. False: no room, or not every store to them would be heard yet. */
static bool page_register(struct trace_cache *c, struct trace *t, gfn_t gfn, uint64_t granules)
{
	struct code_page *p = page_enter(c, gfn);
	unsigned list = list_of(t, gfn);

	if (!p || !page_add_code(c->v->ram, &c->listener, gfn, granules))
		return false;
	t->page_next[list] = p->traces;
	p->traces = t;
	p->granules |= granules;
	return true;
}

/*
 * As page_add_code for the one or two pages of the trace. Vcpus that can still
 * store unheard mostly say within a microsecond that they no longer can; one
 * whose thread has lost its CPU may take a time slice, which we do not wait for.
 */
static bool pages_watch(struct trace_cache *c, const struct trace *t, uint64_t first,
			uint64_t second)
{
	struct ram *ram = c->v->ram;
	unsigned turn;

	for (turn = 0; turn < SETTLE_TURNS; turn++) {
		bool settled = page_add_code(ram, &c->listener, t->gpa >> PAGE_SHIFT, first);

		/* Both are watched, whatever the first says. */
		if (second && !page_add_code(ram, &c->listener, t->gpa2 >> PAGE_SHIFT, second))
			settled = false;
		if (likely(settled))
			return true;
		__builtin_ia32_pause();
	}
	return false;
}

enum trace_commit trace_commit(struct trace_cache *c, struct trace *t, const uint8_t *decoded,
			       const uint8_t *host, const uint8_t *host2)
{
	unsigned first = (unsigned)(t->gpa & ~PAGE_MASK), last = first + t->bytes - 1;
	bool crosses = last >= PAGE_SIZE;
	unsigned here = crosses ? (unsigned)PAGE_SIZE - first : t->bytes;
	uint64_t on_first = granules(first, first + here - 1);
	uint64_t on_second = crosses ? granules(0, last - PAGE_SIZE) : 0;

	t->dead = false;
	t->region = NULL;
	t->page_next[0] = t->page_next[1] = NULL;
	/* An entry each before the pages are watched, so that what is watched is dropped one day.
	 */
	if (!page_enter(c, t->gpa >> PAGE_SHIFT) ||
	    (crosses && !page_enter(c, t->gpa2 >> PAGE_SHIFT)))
		return TRACE_CHANGED;
	if (!pages_watch(c, t, on_first, on_second))
		return TRACE_UNSETTLED;
	/*
	 * The pages are watched only since now; a store by another thread may have
	 * slipped in after we copied the bytes. Looking again closes that.
	 */
	if (!bytes_equal(decoded, host, here) ||
	    (crosses && !bytes_equal(decoded + here, host2, t->bytes - here)))
		return TRACE_CHANGED;
	if (!page_register(c, t, t->gpa >> PAGE_SHIFT, on_first))
		return TRACE_CHANGED;
	/* From here on the trace is reachable by a kill, so its memory is spent even if we say no.
	 */
	arena_claim(c->arena, t);
	if (code_memory_settles(t->code, c->arena->code_used)) {
		vcpu_fp_park(c->v);
		code_memory_settle(&c->code, t->code, c->arena->code_used);
	}
	hash_insert(c, t);
	if (crosses && !page_register(c, t, t->gpa2 >> PAGE_SHIFT, on_second)) {
		trace_kill(c, t);
		return TRACE_CHANGED;
	}
	c->decoded += t->count;
	return TRACE_KEPT;
}

enum trace_commit trace_add_region(struct trace_cache *c, struct trace *t, uint64_t covered,
				   const uint8_t *translated, const uint8_t *page)
{
	unsigned n;

	t->dead = false;
	t->gpa2 = ~0ull;
	t->page_next[0] = t->page_next[1] = NULL;
	if (!page_enter(c, t->gpa >> PAGE_SHIFT))
		return TRACE_CHANGED;
	if (!pages_watch(c, t, covered, 0))
		return TRACE_UNSETTLED;
	for (n = 0; n < 64; n++)
		if ((covered >> n & 1) && !bytes_equal(translated + 64 * n, page + 64 * n, 64))
			return TRACE_CHANGED;
	if (!page_register(c, t, t->gpa >> PAGE_SHIFT, covered))
		return TRACE_CHANGED;
	hash_insert(c, t);
	return TRACE_KEPT;
}

bool trace_restless(struct trace_cache *c, gpa_t gpa)
{
	const struct code_page *p = page_find(c, gpa >> PAGE_SHIFT);

	return p && p->unrest.restless;
}

/* How long a trace just decoded on a page waits until it asks whether that is calm. */
static int32_t patience(struct trace_cache *c, const struct trace *t)
{
	struct code_page *p = page_find(c, t->gpa >> PAGE_SHIFT);

	if (!p || t->gpa2 != ~0ull || (t->mode & MODE_STEP))
		return INT32_MAX;
	p->unrest.changed = true;
	return unrest_patience(&p->unrest);
}

struct trace *trace_commit_checked(struct trace_cache *c, struct trace *t, struct trace *old,
				   const struct trace_hint *hints, const struct trace_check *checks)
{
	uint32_t code;

	if (old && t->count <= old->insn_room) {
		/* Its records become others: nobody may link to what they were. */
		c->epoch++;
		code = old->code;
		bytes_copy(old->insns, t->insns, (t->count + 1) * sizeof(struct insn));
		old->count = t->count;
		old->bytes = t->bytes;
		old->gpa2 = t->gpa2;
		if (!trace_emit(c, old, hints, checks))
			return NULL;
		if (old->code != code) {
			trace_code_forward(c, code, old->code);
			c->arena->code_used += old->code_room;
		}
		old->heat = patience(c, old);
		c->changed++;
		return old;
	}
	t->dead = false;
	t->region = NULL;
	t->code_room = 0;
	if (!trace_emit(c, t, hints, checks))
		return NULL;
	t->heat = patience(c, t);
	t->insn_room = t->count;
	arena_claim(c->arena, t);
	if (old) {
		old->dead = true;
		hash_remove(c, old);
		trace_code_forward(c, old->code, t->code);
		c->changed++;
	}
	t->page_next[0] = c->arena->checked;
	c->arena->checked = t;
	hash_insert(c, t);
	c->decoded += t->count;
	return t;
}

void trace_ask(struct trace_cache *c, struct trace *t)
{
	struct code_page *p = page_find(c, t->gpa >> PAGE_SHIFT);

	if (p && !unrest_ask(&p->unrest, unrest_now()))
		t->heat = unrest_patience(&p->unrest);
	else
		trace_kill(c, t);
}
