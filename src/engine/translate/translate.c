/*
 * The translator's bookkeeping: regions, their links and their death. Called
 * by the dispatcher (engine/interpret/interpret.c), parked.
 */
#include "engine/translate/translate.h"
#include "cpu/mode.h"
#include "engine/interpret/native_code.h"
#include "engine/translate/check.h"
#include "engine/translate/listing.h"
#include "engine/translate/region.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/mman.h>

#define CODE_BYTES       (64u << 20)
#define HEAT             200
#define DEAD_KEPT        16
#define HWCAP2_FSGSBASE_ 2u /* x86: user code may execute WRGSBASE */

/* All of the process, for the signal handler. Nodes are never freed, only reused. */
struct place {
	_Atomic(struct translator *) translator;
	struct place *next;
};
static _Atomic(struct place *) places;

static int place_add(struct translator *t)
{
	struct place *p;

	for (p = atomic_load(&places); p; p = p->next) {
		struct translator *none = NULL;

		if (atomic_compare_exchange_strong(&p->translator, &none, t))
			return 0;
	}
	p = calloc(1, sizeof(*p));
	if (!p)
		return -ENOMEM;
	atomic_init(&p->translator, t);
	p->next = atomic_load(&places);
	while (!atomic_compare_exchange_weak(&places, &p->next, p))
		;
	return 0;
}

static void place_remove(struct translator *t)
{
	for (struct place *p = atomic_load(&places); p; p = p->next)
		if (atomic_load(&p->translator) == t)
			atomic_store(&p->translator, NULL);
}

static bool executed(void *ctx, gpa_t gpa, uint32_t mode)
{
	return trace_find(ctx, gpa, mode) != NULL;
}

/* Memory that costs nothing until it is used. */
static void *reserve(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

__attribute__((target("general-regs-only"))) static void region_kill(struct region *r);
static const void *translator_trap(uintptr_t pc, long long *gregs);

struct translate_options translate_options;

static void forget(struct translator *t)
{
	t->region_count = t->exit_count = 0;
	t->trap_count[0] = t->trap_count[1] = 0;
	t->used = t->stubs_end;
	t->far_used = t->far;
	memset(t->cells, 0, t->cell_count * sizeof(*t->cells));
	t->cell_count = 0;
	memset(t->dead, 0, sizeof(t->dead));
}

static void translator_close(struct tier *tier);

static struct tier *translator_open(struct vcpu *v, struct decoder *decoder, const char **error)
{
	const struct translate_options *options = &translate_options;
	struct translator *t = calloc(1, sizeof(*t));

	*error = "out of memory for the translator";
	if (!t)
		return NULL;
	t->perf_map = -1;
	t->v = v;
	t->decoder = decoder;
	t->heat = options->heat ? options->heat : HEAT;
	t->exact = options->exact;
	t->gs = getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE_;
	v->soft.gs_tables = t->gs;
	t->bmi2 = __builtin_cpu_supports("bmi2");
	if (code_memory_open(&t->code, options->code_bytes ? options->code_bytes : CODE_BYTES,
			     error))
		goto fail;
	*error = "out of memory for the translator";
	t->plan = reserve(sizeof(*t->plan));
	t->regions = reserve(REGIONS_MOST * sizeof(*t->regions));
	t->traps[0] = reserve(TRAPS_MOST * sizeof(**t->traps));
	t->traps[1] = reserve(TRAPS_MOST * sizeof(**t->traps));
	t->exits = reserve(EXITS_MOST * sizeof(*t->exits));
	t->cells = code_memory_data(CELLS_MOST * sizeof(*t->cells));
	if (!t->cells || !t->plan || !t->regions || !t->traps[0] || !t->traps[1] || !t->exits ||
	    place_add(t))
		goto fail;
	t->plan->v = v;
	t->plan->decoder = decoder;
	t->plan->exact = t->exact;
	t->plan->insn_most = options->insn_most ? options->insn_most : PLAN_INSNS;
	t->plan->executed = executed;
	t->plan->ctx = decoder->cache;
	t->plan->scratch = malloc(sizeof(struct trace) + 2 * sizeof(struct insn));
	if (!t->plan->scratch)
		goto fail;
	runtime_open(t);
	t->far = (uint32_t)(t->stubs_end + (t->code.bytes - t->stubs_end) / 8 * 3);
	forget(t);
	if (listing_open(t, error))
		goto fail;
	native_code_on_trap(translator_trap);
	decoder->cache->heat = (int32_t)t->heat;
	decoder->cache->region_kill = region_kill;
	if (options->check && check_open(v, &t->tier))
		goto fail;
	return &t->tier;
fail:
	translator_close(&t->tier);
	return NULL;
}

static void translator_close(struct tier *tier)
{
	struct translator *t = (struct translator *)tier;

	place_remove(t);
	free(t->gen);
	check_close(t->v);
	listing_close(t);
	if (t->plan) {
		free(t->plan->scratch);
		munmap(t->plan, sizeof(*t->plan));
	}
	if (t->regions)
		munmap(t->regions, REGIONS_MOST * sizeof(*t->regions));
	for (unsigned n = 0; n < 2; n++)
		if (t->traps[n])
			munmap(t->traps[n], TRAPS_MOST * sizeof(**t->traps));
	if (t->cells)
		munmap(t->cells, CELLS_MOST * sizeof(*t->cells));
	if (t->exits)
		munmap(t->exits, EXITS_MOST * sizeof(*t->exits));
	code_memory_close(&t->code);
	free(t);
}

static void translator_flush(struct tier *tier)
{
	struct translator *t = (struct translator *)tier;

	runtime_reset(t);
	forget(t);
	listing_forget(t);
	if (t->decoder->cache->released)
		code_memory_release(&t->code, t->stubs_end);
	t->v->soft.killed = true;
	t->v->soft.link_exit = 0;
}

/* Of tests that want the cache emptied in odd places. */
static bool evicts(struct translator *t)
{
	if (likely(!translate_options.evict))
		return false;
	t->evict_random = t->evict_random * 0x5851f42d4c957f2dull + 0x14057b7ef767814full;
	return (t->evict_random >> 33) % translate_options.evict == 0;
}

__attribute__((target("general-regs-only"))) static uint32_t *dead_list(struct translator *t,
									gpa_t gpa)
{
	return &t->dead[(gpa ^ gpa >> PAGE_SHIFT) % DEAD_HASH];
}

__attribute__((target("general-regs-only"))) static void
put_entry_jump(struct translator *t, const struct region *r, uint32_t to)
{
	uint8_t *entry = t->code.rw + r->entry;
	uint32_t distance = to - (r->entry + 5);

	entry[0] = 0xe9;
	for (unsigned n = 0; n < 4; n++)
		entry[1 + n] = (uint8_t)(distance >> (8 * n));
}

/*
 * Links, cells and retired traces that lead to a dead region are not searched
 * for: it leads on to the one that was made in its place. Only the latest
 * dead ones of an address; older ones lead to one of these.
 */
static void succeed(struct translator *t, const struct region *r)
{
	uint32_t *where = dead_list(t, r->head->gpa);
	unsigned found = 0;

	while (*where) {
		struct region *d = &t->regions[*where - 1];

		if (d->head->gpa != r->head->gpa || d->head->mode != r->head->mode) {
			where = &d->next_dead;
		} else if (found++ < DEAD_KEPT) {
			put_entry_jump(t, d, r->entry);
			where = &d->next_dead;
		} else {
			*where = d->next_dead;
		}
	}
}

static enum tier_answer translator_translate(struct tier *tier, gpa_t gpa, uint64_t rip,
					     const uint8_t *host)
{
	struct translator *t = (struct translator *)tier;
	struct trace_cache *cache = t->decoder->cache;
	unsigned offset = (unsigned)(gpa & ~PAGE_MASK);
	const uint8_t *page = host - offset;
	struct plan *p = t->plan;
	struct region *r;
	struct trace *head;
	uint32_t used = t->used, far;

	if (!(t->v->soft.mode & MODE_CODE64))
		return TIER_NEVER;
	if (t->region_count == REGIONS_MOST || evicts(t))
		return TIER_FULL;
	head = trace_pool_take(cache, sizeof(*head));
	if (!head)
		return TIER_FULL;
	memcpy(p->bytes, page, PAGE_SIZE);
	p->page = gpa & PAGE_MASK;
	p->rip = rip & PAGE_MASK;
	switch (plan_region(p, offset)) {
	case PLAN_OK:
		break;
	case PLAN_NO:
		return TIER_NEVER;
	case PLAN_FULL:
		return TIER_FULL;
	}
	t->global = t->v->soft.fetch_global;
	r = &t->regions[t->region_count];
	*r = (struct region){ .translator = t, .head = head };
	far = t->far_used;
	switch (region_write(t, r)) {
	case REGION_WRITTEN:
		break;
	case REGION_NO:
		return TIER_NEVER;
	case REGION_FULL:
		return TIER_FULL;
	}
	code_memory_settle(&t->code, used, t->used);
	code_memory_settle(&t->code, far, t->far_used);
	*head = (struct trace){ .gpa = gpa, .mode = t->v->soft.mode, .region = r };
	head->region_first = p->first_byte;
	head->region_last = p->last_byte;
	t->region_count++;
	switch (trace_add_region(cache, head, p->granules, p->bytes, page)) {
	case TRACE_KEPT:
		break;
	case TRACE_CHANGED:
	case TRACE_UNSETTLED:
		return TIER_LATER;
	}
	listing_region(t, r, rip, far);
	check_note(t->v, t->code.rx + r->enter, p);
	succeed(t, r);
	t->stats.regions++;
	t->stats.insns += p->insn_count;
	t->stats.hot_bytes += r->end - r->enter;
	return TIER_DONE;
}

/* Called in the middle of guest code too: the vector registers are the guest's. */
__attribute__((target("general-regs-only"))) static void region_kill(struct region *r)
{
	struct translator *t = r->translator;
	uint32_t *list = dead_list(t, r->head->gpa);

	/* No thread but ours runs this code, and it is at most in a call made from it: a jump. */
	put_entry_jump(t, r, r->stale);
	r->next_dead = *list;
	*list = (uint32_t)(r - t->regions) + 1;
	t->v->soft.killed = true;
}

static const void *region_enter(const struct region *r)
{
	return r->translator->code.rx + r->enter;
}

static const void *region_entry(const struct region *r)
{
	return r->translator->code.rx + r->entry;
}

static const void *translator_leave(const struct tier *tier)
{
	return ((const struct translator *)tier)->leave_known;
}

static void translator_link(struct tier *tier, uint32_t exit, const struct region *target)
{
	struct translator *t = (struct translator *)tier;
	struct code c = { .p = t->exits[exit - 1].at,
			  .end = t->exits[exit - 1].at + 4,
			  .to_rx = t->code.rx - t->code.rw };

	put_rel32(&c, region_entry(target));
	t->stats.links++;
}

static void translator_stats(const struct tier *tier, struct engine_stats *stats)
{
	const struct translator *t = (const struct translator *)tier;

	stats->regions = t->stats.regions;
	stats->translated = t->stats.insns;
	stats->links = t->stats.links;
	stats->hot_bytes = t->stats.hot_bytes;
	stats->cold_bytes = t->stats.cold_bytes;
	check_stats(t->v, stats);
}

static const struct trap *trap_find(const struct translator *t, uint32_t position)
{
	unsigned far = position >= t->far;
	const struct trap *traps = t->traps[far];
	uint32_t low = 0, high = t->trap_count[far];

	/* Of the traps at or before it, the last one: positions grow. */
	while (low < high) {
		uint32_t mid = low + (high - low) / 2;

		if (traps[mid].position <= position)
			low = mid + 1;
		else
			high = mid;
	}
	return low && traps[low - 1].position == position ? &traps[low - 1] : NULL;
}

static const void *translator_trap(uintptr_t pc, long long *gregs)
{
	const struct trap *trap;
	struct translator *t = NULL;
	struct vcpu *v;

	for (struct place *p = atomic_load(&places); p; p = p->next) {
		t = atomic_load(&p->translator);
		if (t && pc - (uintptr_t)t->code.rx < t->code.bytes)
			break;
		t = NULL;
	}
	trap = t ? trap_find(t, (uint32_t)(pc - (uintptr_t)t->code.rx)) : NULL;
	if (!trap)
		return NULL;
	v = t->v;
	if (trap->host_flags) {
		uint64_t f = (uint64_t)gregs[17];

		v->soft.flags = (uint16_t)((f & (FLAGS_ARITH & 0xff)) << 8 | 0x200 | (f >> 11 & 1));
	}
	v->soft.exit_offset = trap->offset;
	/* Written with the region, so that nothing is written here. */
	return runtime_leave(t, trap->resident, LEAVE_SLOW);
}

#define OPS                                                                              \
	.open = translator_open, .close = translator_close, .flush = translator_flush,   \
	.translate = translator_translate, .enter = region_enter, .entry = region_entry, \
	.leave = translator_leave, .link = translator_link, .stats = translator_stats

static int translate_open(struct vcpu *v, const char **error)
{
	static const struct tier_ops ops = { OPS };
	static const struct tier_ops checked = { OPS, .run = check_run };

	return interpret_open(v, translate_options.check ? &checked : &ops, error);
}

const struct engine engine_translate = {
	.name = "translate",
	.vcpu_open = translate_open,
	.vcpu_close = interpret_close,
	.enter = interpret_enter,
	.run = interpret_run,
	.leave = interpret_leave,
	.kick = interpret_kick,
	.stats = interpret_stats,
};
