/*
 * The translator's bookkeeping: regions, their links and their death. Called
 * by the dispatcher (engine/interpret/interpret.c), parked.
 */
#include "engine/translate/translate.h"
#include "cpu/mode.h"
#include "engine/translate/region.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#define CODE_BYTES (64u << 20)
#define HEAT       40

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

int translator_open(struct translator **out, struct vcpu *v, struct decoder *decoder,
		    const struct translate_options *options, const char **error)
{
	struct translator *t = calloc(1, sizeof(*t));
	int status = -ENOMEM;

	*error = "out of memory for the translator";
	if (!t)
		return -ENOMEM;
	t->v = v;
	t->decoder = decoder;
	t->heat = options->heat ? options->heat : HEAT;
	t->exact = options->exact;
	t->bmi2 = __builtin_cpu_supports("bmi2");
	status = code_memory_open(&t->code, options->code_bytes ? options->code_bytes : CODE_BYTES,
				  error);
	if (status)
		goto fail;
	status = -ENOMEM;
	t->plan = reserve(sizeof(*t->plan));
	t->regions = reserve(REGIONS_MOST * sizeof(*t->regions));
	t->traps = reserve(TRAPS_MOST * sizeof(*t->traps));
	t->exits = reserve(EXITS_MOST * sizeof(*t->exits));
	if (!t->plan || !t->regions || !t->traps || !t->exits || place_add(t))
		goto fail;
	t->plan->v = v;
	t->plan->decoder = decoder;
	t->plan->exact = t->exact;
	t->plan->executed = executed;
	t->plan->ctx = decoder->cache;
	t->plan->scratch = malloc(sizeof(struct trace) + 2 * sizeof(struct insn));
	if (!t->plan->scratch)
		goto fail;
	runtime_open(t);
	t->used = t->stubs_end;
	decoder->cache->heat = (int32_t)t->heat;
	decoder->cache->region_kill = region_kill;
	*out = t;
	return 0;
fail:
	translator_close(t);
	return status;
}

void translator_close(struct translator *t)
{
	if (!t)
		return;
	place_remove(t);
	if (t->plan) {
		free(t->plan->scratch);
		munmap(t->plan, sizeof(*t->plan));
	}
	if (t->regions)
		munmap(t->regions, REGIONS_MOST * sizeof(*t->regions));
	if (t->traps)
		munmap(t->traps, TRAPS_MOST * sizeof(*t->traps));
	if (t->exits)
		munmap(t->exits, EXITS_MOST * sizeof(*t->exits));
	code_memory_close(&t->code);
	free(t);
}

void translator_flush(struct translator *t)
{
	t->region_count = t->trap_count = t->exit_count = 0;
	runtime_reset(t);
	t->used = t->stubs_end;
	t->v->soft.killed = true;
	t->v->soft.link_exit = 0;
	t->stats.flushes++;
}

enum translate_status translator_translate(struct translator *t, gpa_t gpa, uint64_t rip,
					   const uint8_t *host)
{
	struct trace_cache *cache = t->decoder->cache;
	unsigned offset = (unsigned)(gpa & ~PAGE_MASK);
	const uint8_t *page = host - offset;
	struct plan *p = t->plan;
	struct region *r;
	struct trace *head;

	if (!(t->v->soft.mode & MODE_CODE64))
		return TRANSLATE_NEVER;
	if (t->region_count == REGIONS_MOST)
		return TRANSLATE_FULL;
	head = trace_pool_take(cache, sizeof(*head));
	if (!head)
		return TRANSLATE_FULL;
	memcpy(p->bytes, page, PAGE_SIZE);
	p->page = gpa & PAGE_MASK;
	p->rip = rip & PAGE_MASK;
	switch (plan_region(p, offset)) {
	case PLAN_OK:
		break;
	case PLAN_NO:
		return TRANSLATE_NEVER;
	case PLAN_FULL:
		return TRANSLATE_FULL;
	}
	r = &t->regions[t->region_count];
	*r = (struct region){ .translator = t, .head = head };
	switch (region_write(t, r)) {
	case REGION_WRITTEN:
		break;
	case REGION_NO:
		return TRANSLATE_NEVER;
	case REGION_FULL:
		return TRANSLATE_FULL;
	}
	*head = (struct trace){ .gpa = gpa, .mode = t->v->soft.mode, .region = r };
	head->region_first = p->first_byte;
	head->region_last = p->last_byte;
	if (!trace_add_region(cache, head, p->granules))
		return TRANSLATE_FULL;
	t->region_count++;
	/* Watched only from here on: what was translated must still be there. */
	for (unsigned n = 0; n < 64; n++)
		if (p->granules >> n & 1 && memcmp(p->bytes + 64 * n, page + 64 * n, 64) != 0)
			return TRANSLATE_FULL;
	t->stats.regions++;
	t->stats.insns += p->insn_count;
	t->stats.host_bytes += r->end - r->enter;
	return TRANSLATE_DONE;
}

void region_kill(struct region *r)
{
	struct translator *t = r->translator;
	struct code c = { .p = t->code.rw + r->entry,
			  .end = t->code.rw + r->entry + 5,
			  .to_rx = t->code.rx - t->code.rw };

	/* No thread but ours runs this code, and it is at most in a call made from it. */
	put_jmp(&c, t->code.rx + r->stale);
	t->v->soft.killed = true;
	t->stats.killed++;
}

const void *region_enter(const struct region *r)
{
	return r->translator->code.rx + r->enter;
}

const void *region_entry(const struct region *r)
{
	return r->translator->code.rx + r->entry;
}

const void *translator_leave(const struct translator *t)
{
	return t->leave_known;
}

void translator_link(struct translator *t, uint32_t exit, const struct region *target)
{
	struct code c = { .p = t->exits[exit - 1].at,
			  .end = t->exits[exit - 1].at + 4,
			  .to_rx = t->code.rx - t->code.rw };

	put_rel32(&c, region_entry(target));
	t->stats.links++;
}

const struct translate_stats *translator_stats(const struct translator *t)
{
	return &t->stats;
}

static const struct trap *trap_find(const struct translator *t, uint32_t position)
{
	uint32_t low = 0, high = t->trap_count;

	/* Of the traps at or before it, the last one: positions grow. */
	while (low < high) {
		uint32_t mid = low + (high - low) / 2;

		if (t->traps[mid].position <= position)
			low = mid + 1;
		else
			high = mid;
	}
	return low && t->traps[low - 1].position == position ? &t->traps[low - 1] : NULL;
}

const void *translator_trap(uintptr_t pc, long long *gregs)
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
