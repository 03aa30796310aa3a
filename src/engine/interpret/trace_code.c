/*
 * The code of a trace: for each record the two argument moves, a direct call
 * of its handler and, where the handler may not simply go on, a test of what
 * it answered. RBX holds the vcpu, R12 the middle of the records' reach.
 *
 *     mov r12, records + bias
 *     mov rdi, rbx ; lea rsi, [r12 + n] ; call handler ; test rax, rax ; jnz out
 *     ...
 *     mov rdi, rbx ; lea rsi, [r12 + n] ; call last handler ; jmp rax
 *     tails
 * out: jmp rax
 *
 * Most records are written out instead of called: the templates of
 * trace_template.c, and vector instructions that touch no memory. Where a
 * template's access misses the soft TLB, its tail calls the handler by way of
 * trace_miss and comes back; the tails of branches lead to other traces.
 *
 * Killing a trace writes a jump to trace_stale at its entry and behind each
 * call that may kill it: whoever is inside leaves behind the current record,
 * with exact rip. Templates need none, for what kills a trace is a call.
 */
#include "base/bytes.h"
#include "engine/interpret/ops.h"
#include "engine/interpret/trace_writer.h"

#define BIAS       128 /* records 0..7 get the short form of the displacement */
/* For one record: the longest template and its tails, or a native instruction. */
#define HEAT_BYTES 15
#define MOST_BYTES 224

/* The checks of a trace: two addresses, two short last steps and the way in behind them, and each
 * whole step. */
#define CHECKS_BYTES     (2 * 10 + 2 * 3 * 23 + 15)
#define CHECK_STEP_BYTES 23

/* Room that a kill needs at the entry and behind a call. */
#define KILL_ENTRY_BYTES  12
#define KILL_RETURN_BYTES 10

void insn_run(struct vcpu *v, const void *code, const struct tlb_entry *read,
	      const struct tlb_entry *write, unsigned mask);
extern const char trace_stale[], trace_hot[], trace_miss[], trace_changed[];

__asm__(".text\n"
	".globl insn_run\n"
	".hidden insn_run\n"
	".type insn_run, @function\n"
	"insn_run:\n"
	"	push %rbx\n"
	"	push %rbp\n"
	"	push %r12\n"
	"	push %r13\n"
	"	push %r14\n"
	"	push %r15\n"
	"	mov %rdi, %rbx\n"
	"	mov %rdx, %r14\n"
	"	mov %rcx, %r15\n"
	"	mov $-4096, %r13\n"
	"	mov %r8d, %ebp\n"
	"	call *%rsi\n"
	"	pop %r15\n"
	"	pop %r14\n"
	"	pop %r13\n"
	"	pop %r12\n"
	"	pop %rbp\n"
	"	pop %rbx\n"
	".globl insn_exit\n"
	".hidden insn_exit\n"
	"insn_exit:\n"
	"	ret\n"
	".globl trace_stale\n"
	".hidden trace_stale\n"
	"trace_stale:\n" /* RSI: number of the next record; RAX: what the last one answered */
	"	test %rax, %rax\n"
	"	jnz 1f\n"
	"	shl $5, %rsi\n"
	"	lea -128(%r12,%rsi), %rsi\n"
	"	mov %rbx, %rdi\n"
	"	call insn_stale\n"
	"1:	jmp *%rax\n"
	".globl trace_hot\n"
	".hidden trace_hot\n"
	"trace_hot:\n"
	"	mov %rbx, %rdi\n"
	"	lea -128(%r12), %rsi\n"
	"	call insn_hot\n"
	"	jmp *%rax\n"
	".globl trace_changed\n"
	".hidden trace_changed\n"
	"trace_changed:\n"
	"	mov %rbx, %rdi\n"
	"	call insn_changed\n"
	"	jmp *%rax\n"
	".globl trace_miss\n"
	".hidden trace_miss\n"
	"trace_miss:\n" /* RSI: the record, whose handler is to do all of it */
	"	mov %rbx, %rdi\n"
	"	sub $8, %rsp\n"
	"	call *(%rsi)\n"
	"	add $8, %rsp\n"
	"	test %rax, %rax\n"
	"	jnz 1f\n"
	"	ret\n"
	"1:	add $8, %rsp\n"
	"	jmp *%rax\n"
	".globl trace_link\n"
	".hidden trace_link\n"
	"trace_link:\n"
	"	mov %rbx, %rdi\n"
	"	call insn_link\n"
	"	jmp *%rax\n"
	".globl trace_link_fused\n"
	".hidden trace_link_fused\n"
	"trace_link_fused:\n"
	"	mov %rbx, %rdi\n"
	"	call insn_link_fused\n"
	"	jmp *%rax\n"
	".size insn_run, . - insn_run\n");

void trace_run(struct vcpu *v, const void *code)
{
	/* What the code finds in registers; trace_writer.h. */
	insn_run(v, code, v->soft.tlb_read, v->soft.tlb_write,
		 (TLB_SIZE - 1) * sizeof(struct tlb_entry));
}

static void put_rel32(struct trace_cache *c, uint32_t at, const void *target)
{
	bytes_store32(c->code.rw + at,
		      (uint32_t)((uintptr_t)target - (uintptr_t)(c->code.rx + at + 4)));
}

void put_outside(struct writer *w, const void *target)
{
	if (w->outsides < OUTSIDE_MAX)
		w->outside[w->outsides] = (uint16_t)(w->p - w->start);
	w->outsides++;
	put_rel32(w->cache, (uint32_t)(w->p - w->cache->code.rw), target);
	w->p += 4;
}

void put_record(struct writer *w, unsigned n)
{
	int disp = (int)(n * sizeof(struct insn)) - BIAS;

	if (disp <= 127) {
		put(w, 0x24748d49, 4);
		put(w, (uint8_t)disp, 1);
	} else {
		put(w, 0x24b48d49, 4);
		put(w, (uint32_t)disp, 4);
	}
}

static void put_call_handler(struct writer *w, unsigned n, const struct insn *i)
{
	put(w, 0xdf8948, 3); /* mov rdi, rbx */
	put_record(w, n);
	put(w, 0xe8, 1);
	put_outside(w, (const void *)(uintptr_t)i->handler);
	w->value = NO_SLOT;
	w->stack = false;
}

static uint16_t place(const struct writer *w)
{
	return (uint16_t)(w->p - w->start);
}

/* The displacement at `site` leads to here. */
static void land(struct writer *w, uint16_t site)
{
	bytes_store32(w->start + site, (uint32_t)(place(w) - (site + 4)));
}

static void put_tail(struct writer *w, struct trace *t, const struct tail *tail)
{
	const struct insn *i = &t->insns[tail->n];

	w->n = tail->n;
	land(w, tail->site);
	switch (tail->kind) {
	case TAIL_LINK:
		put_link(w, i->disp, trace_link);
		break;
	case TAIL_LINK_FUSED:
		if (tail->flags)
			put_flags(w);
		put_link(w, (int16_t)i->aux, trace_link_fused);
		break;
	case TAIL_JUMP:
		put(w, 0xdf8948, 3); /* mov rdi, rbx */
		put_record(w, tail->n);
		put(w, 0xe8, 1);
		put_outside(w, (const void *)(uintptr_t)jump_handler(false, i->width == 8));
		put(w, 0xe0ff, 2); /* jmp rax */
		break;
	default:
		put_record(w, tail->n);
		put(w, 0xe8, 1);
		put_outside(w, trace_miss);
		if (tail->stays)
			break;
		trace_returns(t)[tail->n] = place(w);
		put_mirrors(w, tail);
		put(w, 0xe9, 1);
		put(w, (uint32_t)(tail->back - (place(w) + 4)), 4);
		break;
	}
}

/* cmp byte, word, dword [rax + disp], imm or by way of RCX a qword; jne trace_changed */
static void put_compare(struct writer *w, const uint8_t *decoded, unsigned disp, unsigned size)
{
	uint64_t value = 0;

	bytes_copy(&value, decoded, size);
	if (size == 8) {
		put(w, 0xb948, 2); /* mov rcx, imm64 */
		put(w, value, 8);
		put(w, 0x883b48, 3); /* cmp rcx, [rax + disp32] */
		put(w, disp, 4);
	} else {
		if (size == 2)
			put(w, 0x66, 1);
		put(w, size == 1 ? 0xb880 : 0xb881, 2);
		put(w, disp, 4);
		put(w, value, size);
	}
	put(w, 0x850f, 2);
	put_outside(w, trace_changed);
}

/* Are the bytes those that were decoded? RAX and RCX are free. The last step may overlap. */
static void put_check_bytes(struct writer *w, const struct trace_check *check)
{
	unsigned size = 8, at = 0;

	put(w, 0xb848, 2); /* mov rax, host */
	put(w, (uintptr_t)check->host, 8);
	while (size > check->len)
		size /= 2;
	while (at < check->len) {
		if (at + size > check->len)
			at = check->len - size;
		put_compare(w, check->decoded + at, at, size);
		at += size;
	}
}

/* The code just written, to where the trace had its code before. */
static void move_code(struct trace_cache *c, struct trace *t, const struct writer *w, uint32_t to)
{
	uint32_t from = t->code, n;

	bytes_copy(c->code.rw + to, c->code.rw + from, t->code_bytes);
	for (n = 0; n < w->outsides; n++) {
		uint8_t *p = c->code.rw + to + w->outside[n];

		bytes_store32(p, bytes_load32(p) + (from - to));
	}
	t->code = to;
}

/* Places in the code of a checked trace: behind its checks, and its way in there. */
static void put_fresh(struct writer *w, struct trace *t, uint16_t body)
{
	t->fresh = place(w);
	put(w, 0xbc49, 2); /* mov r12, imm64 */
	put(w, (uintptr_t)t->insns + BIAS, 8);
	put(w, 0xe9, 1);
	put(w, (uint32_t)(body - (place(w) + 4)), 4);
}

bool trace_emit(struct trace_cache *c, struct trace *t, const struct trace_hint *hints,
		const struct trace_check *checks)
{
	struct trace_arena *a = c->arena;
	uint32_t old_code = t->code, old_room = checks ? t->code_room : 0;
	uint16_t body;
	struct writer w;
	uint16_t outs[TRACE_MAX_INSNS + 1], *returns = trace_returns(t);
	unsigned n, k, count = 0, most = 0;
	bool ended = false;

	if (a->code_used + TRACE_ENTRY_BYTES + HEAT_BYTES + (t->count + 1u) * MOST_BYTES +
		    (checks ? CHECKS_BYTES + t->bytes / 8u * CHECK_STEP_BYTES : 0) >
	    a->code_end)
		return false;
	w.p = w.start = c->code.rw + a->code_used;
	w.cache = c;
	w.value = NO_SLOT;
	w.stack = false;
	w.flags_at = NULL;
	w.tails = w.outsides = 0;
	t->checked = checks;
	t->code = a->code_used;
	put(&w, 0xbc49, 2); /* mov r12, imm64 */
	put(&w, (uintptr_t)t->insns + BIAS, 8);
	if (c->heat || checks) {
		/* sub dword [r12 + heat - records - bias], 1; js trace_hot */
		put(&w, 0x24ac8341, 4);
		put(&w,
		    (uint32_t)((int)offsetof(struct trace, heat) -
			       (int)offsetof(struct trace, insns) - BIAS),
		    4);
		put(&w, 1, 1);
		put(&w, 0x880f, 2);
		put_outside(&w, trace_hot);
	}
	for (n = 0; checks && n < 2 && checks[n].len; n++)
		put_check_bytes(&w, &checks[n]);
	body = place(&w);
	for (n = 0; n <= t->count && !ended; n++) {
		const struct insn *i = &t->insns[n];
		const struct trace_hint *hint = &hints[n];

		w.n = (uint8_t)n;
		returns[n] = 0;
		if (hint->kind == HINT_NATIVE) {
			put(&w, 0xdf8948, 3); /* mov rdi, rbx */
			put_record(&w, n);
			/* The thunk's own bytes, up to its XOR and RET. */
			bytes_copy(w.p, i->code, hint->native_bytes);
			w.p += hint->native_bytes;
			w.value = NO_SLOT;
			w.stack = false;
			continue;
		}
		ended = hint->ends;
		if (put_template(&w, i, hint))
			continue;
		put_call_handler(&w, n, i);
		if (ended) {
			put(&w, 0xe0ff, 2); /* jmp rax */
			break;
		}
		if (hint->tested) {
			returns[n] = place(&w);
			put(&w, 0x850fc08548, 5); /* test rax, rax; jnz out */
			outs[count++] = place(&w);
			w.p += 4;
		}
		if (i->handler == insn_sysop_light) { /* STAC and CLAC choose other tables */
			put(&w, 0xb38b4c, 3);
			put(&w, offsetof(struct vcpu, soft.tlb_read), 4);
			put(&w, 0xbb8b4c, 3);
			put(&w, offsetof(struct vcpu, soft.tlb_write), 4);
		}
	}
	for (; n <= t->count; n++)
		returns[n] = 0;
	/* The ways on first: they are the ones often taken. */
	for (k = 0; k < w.tails; k++)
		if (w.tail[k].kind != TAIL_MISS)
			put_tail(&w, t, &w.tail[k]);
	for (k = 0; k < w.tails; k++)
		if (w.tail[k].kind == TAIL_MISS)
			put_tail(&w, t, &w.tail[k]);
	for (k = 0; k < count; k++)
		land(&w, outs[k]);
	put(&w, 0xe0ff, 2); /* out: jmp rax */
	if (checks)
		put_fresh(&w, t, body);
	for (n = 0; n <= t->count; n++)
		if (returns[n] > most)
			most = returns[n];
	t->code_bytes = place(&w);
	if (most && t->code_bytes < most + KILL_RETURN_BYTES)
		t->code_bytes = (uint16_t)(most + KILL_RETURN_BYTES);
	if (t->code_bytes < TRACE_ENTRY_BYTES + KILL_ENTRY_BYTES)
		t->code_bytes = TRACE_ENTRY_BYTES + KILL_ENTRY_BYTES;
	t->code_room = (uint16_t)((t->code_bytes + 15) & ~15);
	if (t->code_room <= old_room && w.outsides <= OUTSIDE_MAX) {
		t->code_room = (uint16_t)old_room;
		move_code(c, t, &w, old_code);
	}
	return true;
}

void trace_code_forward(struct trace_cache *c, uint32_t from, uint32_t to)
{
	/* At its entry, for who comes from elsewhere, and behind that, for its own loop. */
	c->code.rw[from] = 0xe9;
	put_rel32(c, from + 1, c->code.rx + to);
	c->code.rw[from + TRACE_ENTRY_BYTES] = 0xe9;
	put_rel32(c, from + TRACE_ENTRY_BYTES + 1, c->code.rx + to);
}

/* mov esi, n; jmp trace_stale */
static void put_stale(struct trace_cache *c, uint32_t at, unsigned n)
{
	uint8_t *p = c->code.rw + at;

	p[0] = 0xbe;
	bytes_store32(p + 1, n);
	p[5] = 0xe9;
	put_rel32(c, at + 6, trace_stale);
}

void trace_code_kill(struct trace_cache *c, const struct trace *t)
{
	const uint16_t *returns = trace_returns(t);
	unsigned n;

	/*
	 * No thread but ours runs this code, and it is not in it now but at most in
	 * a call made from it. 12 bytes at the entry and 10 behind a call, which
	 * are less than what lies between two places that can be returned to.
	 */
	c->code.rw[t->code + TRACE_ENTRY_BYTES] = 0x31; /* xor eax, eax */
	c->code.rw[t->code + TRACE_ENTRY_BYTES + 1] = 0xc0;
	put_stale(c, t->code + TRACE_ENTRY_BYTES + 2, 0);
	for (n = 0; n < t->count; n++)
		if (returns[n])
			put_stale(c, t->code + returns[n], n + 1);
}
