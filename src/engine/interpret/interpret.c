/*
 * The interpreting engine: the dispatcher around traces. It finds or decodes
 * the trace at rip, runs it, and between traces handles what a trace left
 * behind: faults, interrupts, single steps, links.
 *
 * Invariant: whenever control is in this file, arch.rip is exact; inside a
 * trace it is the address of the trace's first byte.
 */
#include "base/bytes.h"
#include "bus/bus.h"
#include "cpu/excp.h"
#include "cpu/control.h"
#include "cpu/exclusive.h"
#include "cpu/fpstate.h"
#include "cpu/mode.h"
#include "engine/engine.h"
#include "engine/interpret/decode.h"
#include "engine/interpret/ops.h"
#include "engine/interpret/sysop.h"
#include "engine/interpret/tier.h"
#include "engine/interpret/vector.h"
#include <errno.h>
#include <stdlib.h>

#define POOL_BYTES      (9u << 19)
#define POOL_TIER_BYTES (14u << 20) /* regions, and traces waiting to be hot */

struct interpret {
	struct trace_cache cache;
	struct decoder decoder;
	struct native_code *native;
	const struct tier_ops *ops; /* of the tier above, or NULL */
	struct tier *tier;
	uint64_t exits[TRACE_EXITS], slow_faults, refused, postponed;
	struct trace *step; /* scratch for code that cannot be cached */
	bool fresh;         /* the last trace_at() decoded */
	bool window; /* an interrupt waits for IF: look at events after every instruction that may
			raise it */
};

/* Handlers that belong to no operation. */

/*
 * A trace's count-down has ended: it is to be translated, or has been, and its
 * links and jump entries have not heard of it.
 */
const void *insn_hot(struct vcpu *v, const struct insn *first)
{
	struct trace *t = (struct trace *)((uintptr_t)first - offsetof(struct trace, insns));

	if (t->region) {
		const struct interpret *in = v->engine_priv;
		struct jump_entry *e = jump_slot(v, v->arch.rip);

		t->heat = 0;
		/* Regions that are run under control are found by the dispatcher alone. */
		if (in->ops->run) {
			v->soft.exit = TRACE_STALE;
			STOP(v);
		}
		if (e->target == trace_code(&in->cache, t)) {
			e->target = in->ops->enter(t->region);
			e->fast = in->ops->entry(t->region);
			e->rip = v->arch.rip & PAGE_MASK;
		}
		return in->ops->enter(t->region);
	}
	v->soft.hot = t;
	v->soft.exit = TRACE_HOT;
	STOP(v);
}

const void *insn_fault_imm(struct vcpu *v, const struct insn *i)
{
	v->fault = (struct excp){ .vector = (uint8_t)i->imm,
				  .error = (uint32_t)(i->imm >> 8 & 0xffff),
				  .has_error = i->imm >> 40 & 1 };
	FAULT(v, i);
}

static void wrap_rip(struct vcpu *v)
{
	if (!(v->soft.mode & MODE_CODE64))
		v->arch.rip &= v->soft.mode & MODE_CODE32 ? 0xffffffffu : 0xffffu;
}

const void *insn_stop(struct vcpu *v, const struct insn *i)
{
	v->arch.rip += i->offset;
	wrap_rip(v);
	v->soft.exit = TRACE_EVENTS;
	STOP(v);
}

/* What cannot be done twice with the same result waits until the check is over. */
static bool waits_for_check(struct vcpu *v, const struct insn *i, bool light)
{
	if (likely(!v->soft.in_check) || (light && sysop_repeatable(i->sysop)))
		return false;
	v->arch.rip += i->offset;
	v->soft.exit = TRACE_SLOW;
	return true;
}

const void *insn_sysop(struct vcpu *v, const struct insn *i)
{
	const struct sysop *op = i->sysop;
	int status;

	if (waits_for_check(v, i, false))
		STOP(v);
	v->arch.rip += i->offset;
	flags_to_arch(v);
	do
		status = op->execute(v, op);
	while (status == SYSOP_AGAIN && !atomic_load_explicit(&v->req, memory_order_relaxed));
	flags_from_arch(v);
	if (status == SYSOP_DONE) {
		v->arch.rip += op->len;
		wrap_rip(v);
	} else if (status == SYSOP_AGAIN) {
		v->arch.rflags |= FLAG_RF; /* events between the pieces of a REP push it set */
	}
	v->soft.exit = status < 0 ? TRACE_FAULT : TRACE_EVENTS;
	STOP(v);
}

const void *insn_sysop_light(struct vcpu *v, const struct insn *i)
{
	const struct sysop *op = i->sysop;
	uint64_t base = v->arch.rip;
	int status;

	if (waits_for_check(v, i, true))
		STOP(v);
	v->arch.rip = base + i->offset;
	flags_to_arch(v);
	do
		status = op->execute(v, op);
	while (status == SYSOP_AGAIN && !atomic_load_explicit(&v->req, memory_order_relaxed));
	flags_from_arch(v);
	if (unlikely(status != SYSOP_DONE)) {
		v->soft.exit = status < 0 ? TRACE_FAULT : TRACE_EVENTS;
		STOP(v);
	}
	v->arch.rip = base;
	vcpu_fp_load(v); /* the operation may have called out */
	NEXT(v, i);
}

/* Instruction bytes from MMIO space, one at a time as a bus would deliver them. */
static void fetch_from_bus(struct vcpu *v, gpa_t gpa, uint8_t *bytes, unsigned len)
{
	unsigned n;

	vcpu_fp_park(v);
	for (n = 0; n < len; n++)
		bytes[n] = (uint8_t)bus_read(v->mmio, gpa + n, 1);
}

static void flush(struct vcpu *v, struct interpret *in)
{
	vcpu_fp_park(v);
	trace_cache_flush(&in->cache);
	native_code_reset(in->native);
	if (in->tier)
		in->ops->flush(in->tier);
}

static uint64_t linear_rip(const struct vcpu *v)
{
	if (v->soft.mode & MODE_CODE64)
		return v->arch.rip;
	return (uint32_t)(v->arch.seg[SEG_CS].base + v->arch.rip);
}

/* How what is decoded is kept. */
enum keep {
	KEEP_WATCHED,
	KEEP_CHECKED, /* stores to it are, or may be, unheard */
	KEEP_NOT,     /* code in MMIO space: one instruction, as it is now */
};

/*
 * Decodes at rip and keeps the result if possible. old: the checked trace there
 * that is out of date. NULL: the fetch faulted, v->fault says how.
 */
static struct trace *decode_at(struct vcpu *v, struct interpret *in, uint64_t la, gpa_t gpa,
			       const uint8_t *host, unsigned most, struct trace *old)
{
	uint8_t bytes[TRACE_MAX_BYTES + 32];
	struct trace_cache *cache = &in->cache;
	const uint8_t *host2 = NULL;
	unsigned avail = (unsigned)(PAGE_SIZE - (la & ~PAGE_MASK));
	enum keep keep = !host                               ? KEEP_NOT
			 : old || trace_restless(cache, gpa) ? KEEP_CHECKED
							     : KEEP_WATCHED;
	enum decode_status status;
	uint64_t epoch = 0;
	struct trace *t;

	in->fresh = true;
	if (avail > TRACE_MAX_BYTES)
		avail = TRACE_MAX_BYTES;
	for (;;) {
		gpa_t gpa2 = ~0ull;
		unsigned count = keep == KEEP_NOT ? 1 : most;

		cache->arena = keep == KEEP_CHECKED ? &cache->checks : &cache->plain;
		in->decoder.checked = keep == KEEP_CHECKED;
		t = keep == KEEP_NOT ? in->step : trace_begin(cache);
		status = DECODE_FULL;
		if (t) {
			if (host)
				bytes_copy(bytes, host, avail);
			else
				fetch_from_bus(v, gpa, bytes, avail < 15 ? avail : 15);
			status = decode_trace(&in->decoder, t, v->arch.rip, bytes,
					      host || avail < 15 ? avail : 15, count);
		}
		if (status == DECODE_CROSSES) {
			/* The rest of the instruction is on the next page, which may not be there.
			 */
			uint64_t next = (la & PAGE_MASK) + PAGE_SIZE;

			if (!(v->soft.mode & MODE_CODE64))
				next &= 0xffffffffu;
			if (mmu_fetch(v, next, &gpa2, &host2))
				return NULL;
			if (host2)
				bytes_copy(bytes + avail, host2, 16);
			else
				fetch_from_bus(v, gpa2, bytes + avail, 15);
			if (!host2 && keep != KEEP_NOT) {
				t = in->step;
				keep = KEEP_NOT;
				cache->arena = &cache->plain;
			} else if (keep == KEEP_WATCHED && trace_restless(cache, gpa2)) {
				keep = KEEP_CHECKED;
				continue;
			}
			status = decode_trace(&in->decoder, t, v->arch.rip, bytes, avail + 15, 1);
			if (status == DECODE_CROSSES)
				status = DECODE_OK; /* cannot be: more than 15 bytes were offered */
			if (most != 1)              /* goes on by the jump cache */
				t->insns[t->count].handler =
					end_handler(false, v->soft.mode & MODE_CODE64);
		}
		if (status == DECODE_OK) {
			unsigned here = t->bytes < avail ? t->bytes : avail;
			struct trace_check checks[2] = { { bytes, host, here },
							 { bytes + here, host2, t->bytes - here } };

			t->gpa = gpa;
			t->gpa2 = gpa2 == ~0ull ? gpa2 : gpa2 & PAGE_MASK;
			t->mode = v->soft.mode | (most == 1 ? MODE_STEP : 0);
			if (keep == KEEP_CHECKED) {
				t = trace_commit_checked(cache, t, old, in->decoder.hints, checks);
				if (t)
					return t;
				status = DECODE_FULL;
			} else if (!trace_emit(cache, t, in->decoder.hints, NULL)) {
				status = DECODE_FULL;
			}
		}
		if (status == DECODE_FULL) {
			old = NULL;
			/* The smaller pool first, if that was not in vain a moment ago. */
			if (keep == KEEP_CHECKED && epoch != cache->epoch)
				trace_cache_flush_checked(cache);
			else
				flush(v, in);
			epoch = cache->epoch;
			continue;
		}
		t->heat = most == 1 || keep == KEEP_NOT || !(t->mode & MODE_CODE64)
				  ? INT32_MAX
				  : cache->heat - 1;
		if (keep == KEEP_NOT) {
			t->dead = true; /* never found again */
			return t;
		}
		switch (trace_commit(cache, t, bytes, host, host2)) {
		case TRACE_KEPT:
			return t;
		case TRACE_UNSETTLED:
			keep = KEEP_CHECKED;
			break;
		case TRACE_CHANGED:
			break;
		}
	}
}

/* The trace at arch.rip, or NULL with a fault. */
static struct trace *trace_at(struct vcpu *v, struct interpret *in, unsigned most)
{
	uint64_t la = linear_rip(v);
	const uint8_t *host, *host2;
	struct trace *t, *old = NULL;
	gpa_t gpa, gpa2;

	in->fresh = false;
	if (unlikely(!(v->soft.mode & MODE_CODE64) && v->arch.rip > v->arch.seg[SEG_CS].limit)) {
		excp_gp(v, 0);
		return NULL;
	}
	if (mmu_fetch(v, la, &gpa, &host))
		return NULL;
	t = trace_find(&in->cache, gpa, v->soft.mode | (most == 1 ? MODE_STEP : 0));
	if (t) {
		bool usable = true;

		if (unlikely(t->gpa2 != ~0ull)) {
			/* A crossing instruction is what it was only if its second page is the same
			 * one. */
			if (mmu_fetch(v, (la & PAGE_MASK) + PAGE_SIZE, &gpa2, &host2))
				return NULL;
			usable = (gpa2 & PAGE_MASK) == t->gpa2;
		}
		if (!(v->soft.mode & MODE_CODE64) &&
		    v->arch.rip + t->bytes - 1 > v->arch.seg[SEG_CS].limit)
			usable = false;
		if (t->checked && (!usable || v->soft.exit == TRACE_OUTDATED)) {
			usable = false;
			old = t;
		}
		if (likely(usable))
			return t;
	}
	t = decode_at(v, in, la, gpa, host, most, old);
	/* Others decode too. */
	in->cache.arena = &in->cache.plain;
	in->decoder.checked = false;
	return t;
}

/* Where the trace that trace_at() gave is entered: one just decoded past its checks, since what
 * was fetched is to be executed, even if others store there all the time. */
static const void *way_in(const struct interpret *in, const struct trace *t)
{
	const uint8_t *code = trace_code(&in->cache, t);

	return t->checked && in->fresh ? code + t->fresh : code;
}

static void deliver_fault(struct vcpu *v)
{
	flags_to_arch(v);
	excp_deliver(v, v->fault);
	flags_from_arch(v);
}

/* #DB for an instruction breakpoint at rip, if one is set: a fault, before the instruction. */
static bool code_breakpoint(struct vcpu *v)
{
	uint64_t la = linear_rip(v), hits = 0;
	unsigned n;

	if (v->arch.rflags & FLAG_RF)
		return false;
	for (n = 0; n < 4; n++) {
		if ((v->arch.dr[7] >> (2 * n) & 3) && !(v->arch.dr[7] >> (16 + 4 * n) & 3) &&
		    v->arch.dr[n] == la)
			hits |= 1ull << n;
	}
	if (!hits)
		return false;
	v->fault = (struct excp){ .vector = VEC_DB, .dr6 = hits };
	return true;
}

/* Does delivery of this instruction's event swallow the single-step trap? */
static bool swallows_step(const struct trace *t)
{
	const struct insn *i = &t->insns[0];

	if (i->handler != insn_sysop)
		return false;
	switch (i->sysop->mnemonic) {
	case ZYDIS_MNEMONIC_INT:
	case ZYDIS_MNEMONIC_INT1:
	case ZYDIS_MNEMONIC_INT3:
	case ZYDIS_MNEMONIC_INTO:
	case ZYDIS_MNEMONIC_SYSCALL:
		return true;
	default:
		return false;
	}
}

/*
 * Exactly one instruction (one iteration of a REP form may be one): used under
 * TF, breakpoints, interrupt shadows and instruction budgets.
 */
static void step(struct vcpu *v, struct interpret *in)
{
	bool tf = v->arch.rflags & FLAG_TF, swallow;
	uint8_t shadow = v->arch.shadow;
	uint64_t hits = 0;
	struct trace *t;

	if ((v->soft.mode & MODE_BREAK) && shadow != SHADOW_MOV_SS && code_breakpoint(v)) {
		deliver_fault(v);
		return;
	}
again:
	t = trace_at(v, in, 1);
	if (!t) {
		deliver_fault(v);
		return;
	}
	swallow = tf && swallows_step(t);
	/* RF lasts one instruction; IRET and an unfinished REP may set it anew. */
	v->arch.rflags &= ~(uint64_t)FLAG_RF;
	v->arch.shadow = SHADOW_NONE;
	vcpu_fp_load(v);
	atomic_fetch_or_explicit(&v->req, REQ_SHADOW, memory_order_relaxed);
	trace_run(v, way_in(in, t));
	atomic_fetch_and_explicit(&v->req, ~(uint32_t)REQ_SHADOW, memory_order_relaxed);
	if (v->soft.exit == TRACE_OUTDATED)
		goto again; /* nothing was executed; the next time it is fresh */
	if (v->soft.exit == TRACE_FAULT) {
		if (v->soft.mode & MODE_BREAK)
			mmu_take_watch_hits(v);
		deliver_fault(v);
		return;
	}
	if (v->soft.mode & MODE_BREAK)
		hits = mmu_take_watch_hits(v);
	if (v->arch.shadow == SHADOW_MOV_SS)
		return; /* traps wait until the next instruction is done too */
	if ((tf && !(swallow && !(v->arch.rflags & FLAG_TF))) || hits) {
		v->fault = (struct excp){ .vector = VEC_DB,
					  .type = EXCP_TRAP,
					  .dr6 = hits | (tf ? 1ull << 14 : 0) };
		deliver_fault(v);
	}
}

/* Requests and events between traces. True if run() must return *why. */
static bool attend(struct vcpu *v, struct interpret *in, enum vcpu_exit *why)
{
	uint32_t req = atomic_load_explicit(&v->req, memory_order_acquire);

	if (req & REQ_CODE) {
		atomic_fetch_and(&v->req, ~(uint32_t)REQ_CODE);
		if (!trace_cache_hear(&in->cache))
			flush(v, in);
	}
	if (req & REQ_FLUSH) {
		atomic_fetch_and(&v->req, ~(uint32_t)REQ_FLUSH);
		mmu_flush_all(v);
	}
	if (req & REQ_EXCLUSIVE)
		exclusive_attend(v);
	if (req & REQ_PAUSE) {
		*why = EXIT_REQUEST;
		return true;
	}
	if ((req & ~(uint32_t)(REQ_CODE | REQ_FLUSH | REQ_EXCLUSIVE)) || in->window ||
	    v->arch.activity != ACTIVITY_RUN || v->arch.event.pending) {
		flags_to_arch(v);
		vcpu_events(v);
		flags_from_arch(v);
		/* Polling req at every branch while IF is clear would be slow; we look whenever IF
		 * may rise instead. */
		in->window = atomic_load_explicit(&v->req, memory_order_relaxed) & REQ_WINDOW;
		if (in->window)
			atomic_fetch_and(&v->req, ~(uint32_t)REQ_WINDOW);
	}
	if (likely(v->arch.activity == ACTIVITY_RUN))
		return false;
	if (v->arch.activity == ACTIVITY_SHUTDOWN)
		*why = EXIT_SHUTDOWN;
	else
		*why = EXIT_HALT;
	return true;
}

/* Where to go on in a trace or region, by interpreted and by translated code. */
static const void *code_of(const struct interpret *in, const struct trace *t, const void **fast)
{
	if (t->region) {
		*fast = in->ops->entry(t->region);
		return in->ops->enter(t->region);
	}
	*fast = in->tier ? in->ops->leave(in->tier) : NULL;
	return trace_code(&in->cache, t);
}

/* The trace that was found hot becomes a region. */
static void promote(struct vcpu *v, struct interpret *in)
{
	struct trace *t = v->soft.hot;
	const uint8_t *host;
	gpa_t gpa;

	v->soft.hot = NULL;
	if (t->checked) {
		trace_ask(&in->cache, t);
		return;
	}
	t->heat = INT32_MAX;
	if (t->dead || t->gpa2 != ~0ull || mmu_fetch(v, v->arch.rip, &gpa, &host) || !host ||
	    gpa != t->gpa || t->mode != v->soft.mode)
		return;
	vcpu_fp_park(v);
	switch (in->ops->translate(in->tier, gpa, v->arch.rip, host)) {
	case TIER_DONE:
		trace_retire(&in->cache, t);
		*jump_slot(v, v->arch.rip) = (struct jump_entry){ 0 };
		break;
	case TIER_NEVER:
		in->refused++;
		break;
	case TIER_LATER:
		in->postponed++;
		t->heat = in->cache.heat;
		break;
	case TIER_FULL:
		flush(v, in);
		break;
	}
}

/* One instruction that translated code leaves to us. */
void interpret_one(struct vcpu *v)
{
	struct interpret *in = v->engine_priv;
	struct trace *t;

	do {
		t = trace_at(v, in, 1);
		if (!t) {
			v->soft.exit = TRACE_FAULT;
			return;
		}
		v->arch.rflags &= ~(uint64_t)FLAG_RF;
		vcpu_fp_load(v);
		trace_run(v, way_in(in, t));
	} while (v->soft.exit == TRACE_OUTDATED); /* once: then it is fresh */
}

static void leave_to_interpreter(struct vcpu *v, struct interpret *in)
{
	interpret_one(v);
	in->slow_faults += v->soft.exit == TRACE_FAULT;
}

enum vcpu_exit interpret_run(struct vcpu *v, uint64_t max_insns)
{
	struct interpret *in = v->engine_priv;
	/* Nothing but this loop may lead to a region that is executed under a check. */
	bool checked = in->tier && in->ops->run, region = false;
	enum vcpu_exit why;
	bool look = true;

	if (v->soft.gs_tables)
		mmu_use_gs(v);
	for (;;) {
		const void *first, *code, *fast;
		const struct insn *from;
		uint32_t exit;
		struct jump_entry *e;
		struct trace *t;
		uint64_t epoch;

		from = v->soft.link_from;
		v->soft.link_from = NULL;
		exit = v->soft.link_exit;
		v->soft.link_exit = 0;
		v->soft.killed = false;
		if (look || atomic_load_explicit(&v->req, memory_order_relaxed)) {
			/* An event delivered here moves rip: it is no longer the target of that
			 * branch. */
			from = NULL;
			exit = 0;
			if (attend(v, in, &why))
				return why;
			look = false;
		}
		if (max_insns != RUN_UNLIMITED && !max_insns--)
			return EXIT_BUDGET;
		if (unlikely(max_insns != RUN_UNLIMITED || v->arch.shadow ||
			     (v->soft.mode & (MODE_TF | MODE_BREAK)))) {
			step(v, in);
			look = true;
			continue;
		}
		e = jump_slot(v, v->arch.rip);
		if (!from && !exit && jump_valid(v, e, v->arch.rip) &&
		    v->soft.exit != TRACE_STALE && v->soft.exit != TRACE_OUTDATED) {
			first = e->target;
			goto run;
		}
		epoch = in->cache.epoch;
		t = trace_at(v, in, TRACE_MAX_INSNS);
		if (unlikely(!t)) {
			deliver_fault(v);
			look = true;
			continue;
		}
		code = code_of(in, t, &fast);
		region = t->region;
		if (exit && region && epoch == in->cache.epoch && !checked)
			in->ops->link(in->tier, exit, t->region);
		if (!t->dead && !checked) {
			bool global = v->soft.fetch_global && t->gpa2 == ~0ull;

			*e = (struct jump_entry){
				v->arch.rip ^ (global ? v->soft.global_gen : v->soft.code_gen),
				code, fast, t->region ? v->arch.rip & PAGE_MASK : v->arch.rip
			};
			/* decode_at may have emptied the pool and with it the branch we came from.
			 */
			if (from && epoch == in->cache.epoch && t->gpa2 == ~0ull &&
			    trace_links(&in->cache, from, t))
				((struct insn *)(uintptr_t)from)->link = code;
		}
		first = in->fresh ? way_in(in, t) : code;
	run:
		v->arch.rflags &= ~(uint64_t)FLAG_RF;
		if (unlikely(checked && region)) {
			in->ops->run(in->tier, first);
		} else {
			vcpu_fp_load(v);
			trace_run(v, first);
		}
		in->exits[v->soft.exit]++;
		if (v->soft.exit == TRACE_SLOW)
			leave_to_interpreter(v, in);
		switch (v->soft.exit) {
		case TRACE_HOT:
			promote(v, in);
			break;
		case TRACE_FAULT:
			deliver_fault(v);
			look = true;
			break;
		case TRACE_EVENTS:
			look = true;
			break;
		default:
			break;
		}
	}
}

int interpret_open(struct vcpu *v, const struct tier_ops *ops, const char **error)
{
	struct interpret *in = calloc(1, sizeof(*in));

	*error = "out of memory for the interpreter";
	if (!in)
		return -ENOMEM;
	if (trace_cache_open(&in->cache, v, ops ? POOL_TIER_BYTES : POOL_BYTES, error))
		goto fail_free;
	in->native = native_code_new(error);
	if (!in->native)
		goto fail_cache;
	in->step = calloc(1, TRACE_MOST); /* no region */
	v->soft.mmu = mmu_new(&in->cache.listener);
	if (!in->step || !v->soft.mmu ||
	    native_code_cover(in->native, in->cache.code.rx, in->cache.code.bytes))
		goto fail_all;
	decoder_init(&in->decoder, v, &in->cache, in->native);
	in->ops = ops;
	if (ops && !(in->tier = ops->open(v, &in->decoder, error)))
		goto fail_tier;
	v->soft.jumps = in->cache.jumps;
	v->engine_priv = in;
	return 0;

fail_all:
	*error = "out of memory for the interpreter";
fail_tier:
	free(in->step);
	mmu_free(v->soft.mmu);
	v->soft.mmu = NULL;
	native_code_free(in->native);
fail_cache:
	trace_cache_close(&in->cache);
fail_free:
	free(in);
	return -ENOMEM;
}

void interpret_close(struct vcpu *v)
{
	struct interpret *in = v->engine_priv;

	if (!in)
		return;
	trace_cache_close(&in->cache);
	if (in->tier)
		in->ops->close(in->tier);
	native_code_free(in->native);
	mmu_free(v->soft.mmu);
	free(in->step);
	free(in);
	v->engine_priv = NULL;
	v->soft.mmu = NULL;
	v->soft.jumps = NULL;
}

void interpret_enter(struct vcpu *v)
{
	v->arch.zero = 0;
	vcpu_tsc_sync(v);
	flags_from_arch(v);
	mmu_flush_all(v);
	mmu_switch(v, v->arch.cr4 & CR4_PCIDE ? (unsigned)(v->arch.cr3 & 0xfff) : 0, false);
	vcpu_mode_changed(v);
}

void interpret_leave(struct vcpu *v)
{
	struct interpret *in = v->engine_priv;

	flags_to_arch(v);
	vcpu_fp_park(v);
	if (in->window) {
		in->window = false;
		atomic_fetch_or(&v->req, REQ_WINDOW);
	}
}

/* A running vcpu sees its request at the next branch; nothing more is needed. */
void interpret_kick(struct vcpu *v)
{
	(void)v;
}

void interpret_stats(struct vcpu *v, struct engine_stats *stats)
{
	const struct interpret *in = v->engine_priv;
	const struct mmu_counts mmu = mmu_counts(v);

	*stats = (struct engine_stats){ .decoded = in->cache.decoded,
					.killed = in->cache.killed,
					.killed_regions = in->cache.killed_regions,
					.flushes = in->cache.flushes,
					.refused = in->refused,
					.postponed = in->postponed,
					.slow_faults = in->slow_faults,
					.exits_next = in->exits[TRACE_NEXT] + in->exits[TRACE_LINK],
					.exits_fault = in->exits[TRACE_FAULT],
					.exits_stale = in->exits[TRACE_STALE],
					.exits_events = in->exits[TRACE_EVENTS],
					.exits_slow = in->exits[TRACE_SLOW],
					.exits_hot = in->exits[TRACE_HOT] };
	stats->tlb_fills = mmu.fills;
	stats->tlb_walks = mmu.walks;
	stats->fetch_walks = mmu.fetch_walks;
	stats->tlb_flushes = mmu.flushes;
	stats->tlb_invalidations = mmu.invalidations;
	if (in->tier)
		in->ops->stats(in->tier, stats);
}

static int open_alone(struct vcpu *v, const char **error)
{
	return interpret_open(v, NULL, error);
}

const struct engine engine_interpret = {
	.name = "interpret",
	.vcpu_open = open_alone,
	.vcpu_close = interpret_close,
	.enter = interpret_enter,
	.run = interpret_run,
	.leave = interpret_leave,
	.kick = interpret_kick,
	.stats = interpret_stats,
};
