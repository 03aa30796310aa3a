/*
 * Lockstep and ping-pong. Called by the dispatcher in place of a region, with
 * nothing else of the guest's executed meanwhile. Invariant: when check_run
 * returns, the machine is where the translated code left it.
 */
#include "engine/translate/check.h"
#include "bus/vclock.h"
#include "cpu/control.h"
#include "cpu/fpstate.h"
#include "cpu/xsave.h"
#include "engine/translate/listing.h"
#include "mem/dma.h"
#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#define PAGES_MOST 1024 /* that one execution may store to */
#define PAGES_SLACK                                                                   \
	16 /* the last of them for an instruction that the other side did not execute \
	    */
#define FRESH_MOST   1024
#define STEPS_MOST   40000000u
#define STEPS_QUICK  2000u /* after which the guest's clock stands still */
#define REPORTS_MOST 10

/* Which flags are wanted before each instruction of a region. */
struct note {
	unsigned count;
	struct {
		uint16_t offset, live;
	} insns[];
};

struct check {
	struct vcpu *v;
	struct translator *t;
	const struct translate_options *options;
	/* Ping-pong. */
	bool translated;
	uint64_t left, random;
	/* Lockstep. */
	struct note **notes; /* by r->enter / 16 */
	size_t notes_bytes;
	struct tlb_entry *fresh[FRESH_MOST]; /* write entries of the TLB filled since the last
						execution began */
	unsigned fresh_count;
	uint8_t *pages[PAGES_MOST]; /* stored to */
	uint8_t (*before)[PAGE_SIZE],
		(*after)[PAGE_SIZE]; /* their content: at the start, by translated code */
	unsigned page_count;
	bool held, spoilt, replaying, overflow;
	struct vcpu_arch start, end, near;
	unsigned near_count; /* registers of `near` that are as in `end` */
	uint64_t steps;
	uint64_t undefined; /* flags that no manual defines, where the interpreter stands */
	bool flags_only;    /* nothing but arithmetic flags differed */
	struct {
		uint64_t runs, skipped, steps, repeated, differ;
	} count;
};

static bool lockstep(void)
{
	return translate_options.check == CHECK_LOCKSTEP;
}

static uint64_t next_turn(struct check *c)
{
	if (c->options->check_turn)
		return c->options->check_turn;
	c->random ^= c->random << 13;
	c->random ^= c->random >> 7;
	c->random ^= c->random << 17;
	/* Of every length: as often 1 to 4 as 256 to 1024. */
	return 1 + (c->random >> 8 & ((1ull << (c->random % 11)) - 1));
}

/* ---- ping-pong ---- */

/* Whatever an engine may keep for itself between two pieces of code. */
static void spoil(struct vcpu *v)
{
	const uint64_t junk = 0x5bad5bad5bad5badull;
	struct soft *s = &v->soft;

	s->flags = (uint16_t)~s->flags;
	s->value = s->la = s->resume = s->target = s->callout = junk;
	for (unsigned n = 0; n < 9; n++)
		s->kept[n] = junk;
	for (unsigned n = 0; n < 4; n++)
		s->group[n] = junk;
	s->exit_offset = (int32_t)junk;
	s->access = (uint32_t)junk;
	memset(s->bounce, 0x5b, sizeof(s->bounce));
}

static void hand_over(struct check *c)
{
	struct vcpu *v = c->v;
	uint64_t turn = c->left = next_turn(c);

	c->count.runs++;
	c->translated = !c->translated;
	/* Leaving and entering empties the TLB, which is too slow for each of very short turns. */
	if (turn >= 64 || c->count.runs % (64 / turn + 1) == 0) {
		interpret_leave(v);
		spoil(v);
		interpret_enter(v);
		return;
	}
	flags_to_arch(v);
	vcpu_fp_park(v);
	spoil(v);
	flags_from_arch(v);
}

static void pingpong_run(struct check *c, const void *code)
{
	struct vcpu *v = c->v;
	uint32_t mode = v->soft.mode;

	if (c->translated) {
		vcpu_fp_load(v);
		trace_run(v, code);
		if (!--c->left)
			hand_over(c);
		return;
	}
	atomic_fetch_or(&v->req, REQ_SHADOW);
	do {
		interpret_one(v);
		c->count.steps++;
	} while (--c->left && v->soft.exit != TRACE_FAULT && v->soft.exit != TRACE_STALE &&
		 v->arch.activity == ACTIVITY_RUN && !v->arch.shadow && v->soft.mode == mode &&
		 atomic_load_explicit(&v->req, memory_order_relaxed) == REQ_SHADOW);
	atomic_fetch_and(&v->req, ~(uint32_t)REQ_SHADOW);
	if (!c->left && v->soft.exit != TRACE_FAULT)
		hand_over(c);
	else if (!c->left)
		c->left = 1; /* the fault is delivered first */
}

/* ---- what is stored ---- */

__attribute__((target("general-regs-only"))) static void copy_page(void *to, const void *from)
{
	size_t count = PAGE_SIZE / 8;

	__asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
}

/*
 * soft.check_store: a store to `page` is about to be made, and more may follow through
 * `entry`; or, page being NULL, a device is about to be spoken to. The
 * guest's vector registers are live.
 */
__attribute__((target("general-regs-only"))) static void store_begins(struct vcpu *v, uint8_t *page,
								      struct tlb_entry *entry)
{
	struct check *c = v->soft.check;
	unsigned n;

	if (!page) {
		/* The device may store to memory, on this very thread. */
		c->spoilt = true;
		if (c->held)
			dma_release(v->ram);
		c->held = false;
		return;
	}
	if (c->fresh_count < FRESH_MOST)
		c->fresh[c->fresh_count] = entry;
	c->fresh_count++;
	if (!v->soft.in_check)
		return;
	for (n = c->page_count; n-- > 0;)
		if (c->pages[n] == page)
			return;
	n = c->page_count;
	if (n == (c->replaying ? PAGES_MOST : PAGES_MOST - PAGES_SLACK)) {
		c->overflow = true;
		return;
	}
	c->pages[n] = page;
	copy_page(c->before[n], page);
	if (c->replaying)
		copy_page(c->after[n], page);
	c->page_count = n + 1;
}

/* So that the first store to each page is told again. */
static void fresh_drop(struct check *c)
{
	if (c->fresh_count > FRESH_MOST) {
		mmu_flush_all(c->v);
		c->fresh_count = 0;
	}
	while (c->fresh_count) {
		struct tlb_entry *e = c->fresh[--c->fresh_count];

		/* A valid tag's low bits are the slot's number. */
		if (!(e->tag & ~PAGE_MASK))
			e->tag = tlb_invalid((unsigned)(e->tag >> PAGE_SHIFT) & (TLB_SIZE - 1));
	}
}

/* The guest's memory as it was when the execution began. */
static void undo_stores(struct check *c)
{
	for (unsigned n = 0; n < c->page_count; n++)
		copy_page(c->pages[n], c->before[n]);
}

static void keep_stores(struct check *c)
{
	for (unsigned n = 0; n < c->page_count; n++)
		copy_page(c->after[n], c->pages[n]);
}

static void redo_stores(struct check *c)
{
	for (unsigned n = 0; n < c->page_count; n++)
		copy_page(c->pages[n], c->after[n]);
}

/* ---- the registers ---- */

static void copy_arch(struct vcpu_arch *to, const struct vcpu_arch *from)
{
	memcpy(to, from, offsetof(struct vcpu_arch, xsave) + sizeof(struct xsave_image));
}

static void take_arch(struct vcpu *v, struct vcpu_arch *to)
{
	vcpu_fp_park(v);
	flags_to_arch(v);
	copy_arch(to, &v->arch);
}

static void put_arch(struct vcpu *v, const struct vcpu_arch *from)
{
	vcpu_fp_park(v);
	copy_arch(&v->arch, from);
	flags_from_arch(v);
	vcpu_mode_changed(v);
}

void check_note(struct vcpu *v, const void *code, const struct plan *p)
{
	struct check *c = v->soft.check;
	struct note **slot, *note;

	if (!c || !c->notes)
		return;
	note = malloc(sizeof(*note) + p->insn_count * sizeof(note->insns[0]));
	slot = &c->notes[((const uint8_t *)code - c->t->code.rx) / 16];
	free(*slot);
	*slot = note;
	if (!note)
		return;
	note->count = p->insn_count;
	for (unsigned n = 0; n < p->insn_count; n++) {
		note->insns[n].offset = p->insns[n].offset;
		note->insns[n].live = p->insns[n].live;
	}
}

/* Arithmetic flags that somebody may still read at c->end, which the region at `code` led to. */
static uint64_t live_flags(const struct check *c, const void *code)
{
	const struct note *note = c->notes[((const uint8_t *)code - c->t->code.rx) / 16];
	uint64_t live = 0;
	bool known = false;

	if (!note || ((c->start.rip ^ c->end.rip) & PAGE_MASK))
		return FLAGS_ARITH;
	for (unsigned n = 0; n < note->count; n++)
		if (note->insns[n].offset == (c->end.rip & ~PAGE_MASK)) {
			live |= note->insns[n].live;
			known = true;
		}
	return known ? live : FLAGS_ARITH;
}

static bool fp_equal(const struct vcpu_arch *a, const struct vcpu_arch *b)
{
	static _Thread_local struct xsave_image x __attribute__((aligned(64))),
		y __attribute__((aligned(64)));
	uint64_t mask = fpstate_host_mask();

	if (!memcmp(a->xsave, b->xsave, sizeof(x)))
		return true;
	memcpy(&x, a->xsave, sizeof(x));
	memcpy(&y, b->xsave, sizeof(y));
	xsave_materialise(&x, mask);
	xsave_materialise(&y, mask);
	return x.fcw == y.fcw && x.fsw == y.fsw && x.ftw == y.ftw && x.fop == y.fop &&
	       x.fip == y.fip && x.fdp == y.fdp && x.mxcsr == y.mxcsr &&
	       !memcmp(x.st, y.st, sizeof(x.st)) && !memcmp(x.xmm, y.xmm, sizeof(x.xmm)) &&
	       !memcmp(x.ymm_high, y.ymm_high, sizeof(x.ymm_high));
}

static bool system_equal(const struct vcpu_arch *a, const struct vcpu_arch *b)
{
	const size_t from = offsetof(struct vcpu_arch, seg),
		     to = offsetof(struct vcpu_arch, fpu_ip);

	return !memcmp((const uint8_t *)a + from, (const uint8_t *)b + from, to - from) &&
	       a->fpu_ip == b->fpu_ip && a->fpu_dp == b->fpu_dp && a->fpu_op == b->fpu_op;
}

/*
 * The first byte of page n that differs; PAGE_SIZE: none. Bits that a page walk sets in an
 * entry (accessed, dirty) do not count: the second walk may have been spared.
 */
static unsigned page_differs(const struct check *c, unsigned n)
{
	const uint64_t *now = (const uint64_t *)c->pages[n], *want = (const uint64_t *)c->after[n];

	if (!memcmp(now, want, PAGE_SIZE))
		return PAGE_SIZE;
	for (unsigned k = 0; k < PAGE_SIZE / 8; k++)
		if ((now[k] ^ want[k]) & ~(now[k] & want[k] & 1 ? 0x60ull : 0))
			return k * 8 + (unsigned)__builtin_ctzll(now[k] ^ want[k]) / 8;
	return PAGE_SIZE;
}

/* ---- lockstep ---- */

static bool arrived(struct check *c, const void *code)
{
	struct vcpu *v = c->v;
	unsigned equal = 0;
	uint64_t flags;

	if (v->arch.rip != c->end.rip)
		return false;
	for (unsigned n = 0; n < 16; n++)
		equal += v->arch.gpr[n] == c->end.gpr[n];
	if (equal < 16 && equal <= c->near_count)
		return false;
	take_arch(v, &c->near);
	c->near_count = equal;
	if (equal < 16)
		return false;
	flags = (c->near.rflags ^ c->end.rflags) & ~(FLAGS_ARITH & ~live_flags(c, code));
	if (flags & ~(uint64_t)FLAGS_ARITH)
		return false;
	if (!system_equal(&c->near, &c->end) || !fp_equal(&c->near, &c->end))
		return false;
	for (unsigned n = 0; n < c->page_count; n++)
		if (page_differs(c, n) < PAGE_SIZE)
			return false;
	c->flags_only = flags & ~c->undefined;
	return !c->flags_only;
}

/* The instruction that the interpreter executes next: which flags it defines, which not. */
static void note_undefined(struct check *c)
{
	const ZydisAccessedFlags *f;
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction zi;
	const uint8_t *host;
	unsigned room;
	gpa_t gpa;

	vcpu_fp_park(c->v);
	if (mmu_fetch(c->v, c->v->arch.rip, &gpa, &host) || !host)
		return;
	room = (unsigned)(PAGE_SIZE - (gpa & ~PAGE_MASK));
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&c->t->decoder->zydis[0], host,
						 room < 15 ? room : 15, &zi, ops)) ||
	    !zi.cpu_flags)
		return;
	f = zi.cpu_flags;
	switch (zi.mnemonic) { /* by zero they leave flags as they were */
	case ZYDIS_MNEMONIC_SHL:
	case ZYDIS_MNEMONIC_SHR:
	case ZYDIS_MNEMONIC_SAR:
	case ZYDIS_MNEMONIC_ROL:
	case ZYDIS_MNEMONIC_ROR:
	case ZYDIS_MNEMONIC_RCL:
	case ZYDIS_MNEMONIC_RCR:
	case ZYDIS_MNEMONIC_SHLD:
	case ZYDIS_MNEMONIC_SHRD:
		break;
	default:
		c->undefined &= ~(uint64_t)(f->modified | f->set_0 | f->set_1);
		break;
	}
	c->undefined |= f->undefined & FLAGS_ARITH;
}

/*
 * From the start again by the interpreter. True: it came by where translated code left.
 * flags: note those that are undefined, which takes time.
 */
static bool replay(struct check *c, const void *code, bool flags)
{
	struct vcpu *v = c->v;
	bool same, stood = false;
	uint64_t steps = 0;

	c->near_count = 0;
	c->undefined = 0;
	c->flags_only = false;
	c->near = c->start;
	put_arch(v, &c->start);
	c->replaying = true;
	v->soft.in_check = true;
	atomic_fetch_or(&v->req, REQ_SHADOW); /* one piece of a REP at a time, and no way on */
	while (!(same = arrived(c, code))) {
		if ((c->flags_only && !flags) || steps++ == STEPS_MOST)
			break;
		if (steps == STEPS_QUICK) {
			vclock_pause(v->clock);
			stood = true;
		}
		if (flags)
			note_undefined(c);
		interpret_one(v);
		if (v->soft.exit == TRACE_FAULT || v->soft.exit == TRACE_SLOW || c->spoilt ||
		    c->overflow)
			break;
	}
	atomic_fetch_and(&v->req, ~(uint32_t)REQ_SHADOW);
	v->soft.in_check = false;
	c->replaying = false;
	if (stood) {
		vcpu_fp_park(v);
		vclock_resume(v->clock);
		vcpu_tsc_sync(v);
	}
	c->steps = steps;
	c->count.steps += steps;
	return same;
}

static void print_fp(const struct vcpu_arch *a, const struct vcpu_arch *b)
{
	const uint8_t *x = a->xsave, *y = b->xsave;

	for (unsigned n = 0; n < sizeof(struct xsave_image); n += 8)
		if (memcmp(x + n, y + n, 8))
			fprintf(stderr,
				"  xsave+%-4u    %016" PRIx64 " interpreted %016" PRIx64 "\n", n,
				*(const uint64_t *)(x + n), *(const uint64_t *)(y + n));
}

static void print_system(const struct vcpu_arch *a, const struct vcpu_arch *b)
{
	const uint8_t *x = (const uint8_t *)a, *y = (const uint8_t *)b;

	for (size_t n = offsetof(struct vcpu_arch, seg); n < offsetof(struct vcpu_arch, xsave); n++)
		if (x[n] != y[n]) {
			fprintf(stderr, "  vcpu_arch byte %zu and maybe more differ\n", n);
			return;
		}
}

/* The region's guest code, in the order in which it was planned. */
static void print_region(const struct check *c, const void *code, const uint8_t *page)
{
	const struct note *note = c->notes[((const uint8_t *)code - c->t->code.rx) / 16];
	char text[128];

	for (unsigned n = 0; note && n < note->count; n++) {
		unsigned offset = note->insns[n].offset, len;
		uint64_t at = (c->start.rip & PAGE_MASK) + offset;

		len = listing_insn(c->t, page + offset, (unsigned)PAGE_SIZE - offset, at, text,
				   sizeof(text));
		if (!len)
			continue;
		fprintf(stderr, "  %#" PRIx64 ":", at);
		for (unsigned k = 0; k < 10; k++)
			fprintf(stderr, k < len ? " %02x" : "   ", page[offset + k]);
		fprintf(stderr, "  wanted %03x  %s\n", note->insns[n].live, text);
	}
}

static void report(struct check *c, uint8_t exit, const void *code)
{
	static const char names[16][4] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
					   "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15" };
	const struct vcpu_arch *want = &c->near, *got = &c->end;
	struct vcpu *v = c->v;
	const uint8_t *host;
	gpa_t gpa;

	fprintf(stderr,
		"insula: lockstep: the engines differ: from %#" PRIx64 " (cpl %u) to %#" PRIx64
		", exit %u, after %" PRIu64 " executions; the interpreter took %" PRIu64
		" steps and stands at %#" PRIx64 ", exit %u%s\n",
		c->start.rip, c->start.cpl, got->rip, exit, c->count.runs, c->steps, v->arch.rip,
		v->soft.exit, c->near_count ? "" : "; it never came there");
	for (unsigned n = 0; n < 16; n++)
		fprintf(stderr,
			"  %-3s was %016" PRIx64 " %s %016" PRIx64 " interpreted %016" PRIx64 "\n",
			names[n], c->start.gpr[n], want->gpr[n] == got->gpr[n] ? "  " : "!!",
			got->gpr[n], want->gpr[n]);
	fprintf(stderr,
		"  flags was %06" PRIx64 "  %06" PRIx64 " interpreted %06" PRIx64
		" wanted %03" PRIx64 "\n",
		c->start.rflags, got->rflags, want->rflags, live_flags(c, code));
	if (c->near_count) {
		print_system(got, want);
		if (!fp_equal(got, want))
			print_fp(got, want);
	}
	for (unsigned n = 0; n < c->page_count; n++) {
		unsigned at = page_differs(c, n);

		if (at < PAGE_SIZE)
			fprintf(stderr,
				"  memory, as the interpreter goes on, at %#" PRIx64 ": %016" PRIx64
				" interpreted %016" PRIx64 "\n",
				ram_gpa_of(v->ram, c->pages[n]) + (at & ~7u),
				*(const uint64_t *)(c->after[n] + (at & ~7u)),
				*(const uint64_t *)(c->pages[n] + (at & ~7u)));
	}
	undo_stores(c);
	put_arch(v, &c->start);
	if (mmu_fetch(v, c->start.rip, &gpa, &host) || !host)
		return;
	print_region(c, code, host - (gpa & ~PAGE_MASK));
}

/*
 * The comparison. True: equal, or it could not be made. The second try is slow: it knows which
 * flags are undefined, and finds nothing in the TLB, since what is found there decides where a
 * REP may pause: found nowhere, it may at all of these places.
 */
static bool agree(struct check *c, const void *code)
{
	if (replay(c, code, false))
		return true;
	undo_stores(c);
	mmu_flush_all(c->v);
	return replay(c, code, true) || c->spoilt || c->overflow;
}

static void execute(struct check *c, const void *code)
{
	struct vcpu *v = c->v;

	c->page_count = 0;
	c->overflow = false;
	fresh_drop(c);
	v->soft.in_check = true;
	vcpu_fp_load(v);
	trace_run(v, code);
	v->soft.in_check = false;
	take_arch(v, &c->end);
}

static void lockstep_run(struct check *c, const void *code)
{
	struct vcpu *v = c->v;
	const struct trace_cache *cache = c->t->decoder->cache;
	uint64_t flushes = cache->flushes;
	struct excp fault;
	uint8_t exit;

	c->count.runs++;
	c->held = dma_hold(v->ram);
	c->spoilt = !c->held;
	take_arch(v, &c->start);
	execute(c, code);
	exit = v->soft.exit;
	fault = v->fault;
	if (c->spoilt || c->overflow) {
		c->count.skipped++;
		goto out;
	}
	keep_stores(c);
	undo_stores(c);
	if (!agree(c, code)) {
		bool differ = true;

		/* Once more from the start, if the code is still there. */
		if (cache->flushes == flushes && exit != TRACE_STALE) {
			undo_stores(c);
			put_arch(v, &c->start);
			execute(c, code);
			exit = v->soft.exit;
			fault = v->fault;
			keep_stores(c);
			undo_stores(c);
			differ = !c->spoilt && !c->overflow && !agree(c, code);
		}
		if (differ && c->count.differ++ < REPORTS_MOST)
			report(c, exit, code);
		c->count.repeated += !differ;
	}
	redo_stores(c);
	put_arch(v, &c->end);
	v->soft.exit = exit;
	v->fault = fault;
out:
	if (c->held)
		dma_release(v->ram);
	v->soft.link_from = NULL;
	v->soft.link_exit = 0;
}

void check_run(struct tier *tier, const void *code)
{
	struct check *c = ((struct translator *)tier)->v->soft.check;

	if (c->notes)
		lockstep_run(c, code);
	else
		pingpong_run(c, code);
}

/* ---- its life ---- */

static void *reserve(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

int check_open(struct vcpu *v, struct tier *tier)
{
	struct check *c = aligned_alloc(64, (sizeof(*c) + 63) & ~(size_t)63);

	if (!c)
		return -ENOMEM;
	memset(c, 0, sizeof(*c));
	c->v = v;
	c->t = (struct translator *)tier;
	c->options = &translate_options;
	c->random = 0x9e3779b97f4a7c15ull;
	c->left = 1;
	v->soft.check = c;
	if (!lockstep())
		return 0;
	c->notes_bytes = c->t->code.bytes / 16 * sizeof(*c->notes);
	c->notes = reserve(c->notes_bytes);
	c->before = reserve(PAGES_MOST * PAGE_SIZE);
	c->after = reserve(PAGES_MOST * PAGE_SIZE);
	if (!c->notes || !c->before || !c->after)
		return -ENOMEM;
	dma_may_be_held(v->ram);
	v->soft.check_store = store_begins;
	return 0;
}

void check_close(struct vcpu *v)
{
	struct check *c = v->soft.check;

	if (!c)
		return;
	for (size_t n = 0; c->notes && n < c->notes_bytes / sizeof(*c->notes); n++)
		free(c->notes[n]);
	if (c->notes)
		munmap(c->notes, c->notes_bytes);
	if (c->before)
		munmap(c->before, PAGES_MOST * PAGE_SIZE);
	if (c->after)
		munmap(c->after, PAGES_MOST * PAGE_SIZE);
	free(c);
	v->soft.check = NULL;
	v->soft.check_store = NULL;
}

void check_stats(const struct vcpu *v, struct engine_stats *stats)
{
	const struct check *c = v->soft.check;

	if (!c)
		return;
	stats->check_runs = c->count.runs;
	stats->check_steps = c->count.steps;
	stats->check_skipped = c->count.skipped;
	stats->check_repeated = c->count.repeated;
	stats->check_differ = c->count.differ;
}
