/*
 * The code of a trace: for each record the two argument moves, a direct call
 * of its handler and, where the handler may not simply go on, a test of what
 * it answered. RBX holds the vcpu, R12 the middle of the records' reach.
 *
 *     mov r12, records + bias
 *     mov rdi, rbx ; lea rsi, [r12 + n] ; call handler ; test rax, rax ; jnz out
 *     ...
 *     mov rdi, rbx ; lea rsi, [r12 + n] ; call last handler
 * out: jmp rax
 *
 * Some records are written out instead of called: templates of the commonest
 * register operations, and vector instructions that touch no memory.
 *
 * Killing a trace writes a jump to trace_stale at its entry and behind each
 * call: whoever is inside leaves behind the current record, with exact rip.
 */
#include "base/bytes.h"
#include "engine/interpret/ops.h"
#include "engine/interpret/trace.h"

#define BIAS        128 /* records 0..7 get the short form of the displacement */
#define ENTRY_BYTES 10
#define HEAT_BYTES  15
#define MOST_BYTES  (16 + HINT_NATIVE_MOST) /* for one record */

extern const char trace_stale[], trace_hot[];

__asm__(".text\n"
	".globl insn_run\n"
	".hidden insn_run\n"
	".type insn_run, @function\n"
	"insn_run:\n"
	"	push %rbx\n"
	"	push %r12\n"
	"	mov %rdi, %rbx\n"
	"	call *%rsi\n"
	"	pop %r12\n"
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
	".size insn_run, . - insn_run\n");

static void put_rel32(struct trace_cache *c, uint32_t at, const void *target)
{
	bytes_store32(c->code.rw + at,
		      (uint32_t)((uintptr_t)target - (uintptr_t)(c->code.rx + at + 4)));
}

struct writer {
	uint8_t *p;
};

static void put(struct writer *w, uint64_t bytes, unsigned count)
{
	while (count--) {
		*w->p++ = (uint8_t)bytes;
		bytes >>= 8;
	}
}

/* [rbx + off], with `reg` in ModRM: after the opcode. */
static void put_slot(struct writer *w, unsigned reg, unsigned off)
{
	if (off <= 127) {
		put(w, 0x43 | reg << 3, 1);
		put(w, off, 1);
	} else {
		put(w, 0x83 | reg << 3, 1);
		put(w, off, 4);
	}
}

/* mov eax or rax, [slot] */
static void put_load(struct writer *w, unsigned reg, unsigned off, bool wide)
{
	put(w, wide ? 0x8b48 : 0x8b, wide ? 2 : 1);
	put_slot(w, reg, off);
}

/* mov [slot], rax: a 32-bit result has its upper half clear already. */
static void put_result(struct writer *w, unsigned off)
{
	put(w, 0x8948, 2);
	put_slot(w, 0, off);
}

/* lahf; seto al; mov [soft.flags], ax */
static void put_flags(struct writer *w)
{
	put(w, 0xc0900f9f, 4);
	put(w, 0x8966, 2);
	put_slot(w, 0, offsetof(struct vcpu, soft.flags));
}

/* ADD OR ADC SBB AND SUB XOR CMP: the number in the opcode is the place in the group. */
static const uint8_t alu_group[ALU_OPS] = { 0, 1, 2, 3, 4, 5, 6, 7, 0 };

/*
 * The register forms of the commonest operations need no call: their template
 * is shorter than one. Nothing here can fault. False: not one of them.
 */
static bool put_inline(struct writer *w, const struct insn *i, const struct trace_hint *hint)
{
	bool wide = hint->size_log == 3;
	int64_t imm = (int64_t)i->imm;

	switch (hint->kind) {
	case HINT_MOV_RR:
		put_load(w, 0, i->src, wide);
		put_result(w, i->dst);
		return true;
	case HINT_MOV_RI:
		if (!wide) {
			put(w, 0xb8, 1); /* mov eax, imm32 */
			put(w, (uint64_t)imm, 4);
		} else if (imm == (int32_t)imm) {
			put(w, 0xc0c748, 3); /* mov rax, simm32 */
			put(w, (uint64_t)imm, 4);
		} else {
			put(w, 0xb848, 2); /* mov rax, imm64 */
			put(w, (uint64_t)imm, 8);
		}
		put_result(w, i->dst);
		return true;
	case HINT_ZERO:
		put(w, 0xc031, 2); /* xor eax, eax */
		put_result(w, i->dst);
		if (!hint->dead) {
			put(w, 0xc766, 2); /* mov word [soft.flags], ZF and PF */
			put_slot(w, 0, offsetof(struct vcpu, soft.flags));
			put(w, 0x4600, 2);
		}
		return true;
	case HINT_LEA:
		put_load(w, 0, i->base, true);
		if (i->index == offsetof(struct vcpu_arch, zero)) {
			put(w, wide ? 0x808d48 : 0x808d, wide ? 3 : 2); /* lea rax, [rax + disp] */
		} else {
			put_load(w, 1, i->index, true);
			put(w, wide ? 0x848d48 : 0x848d,
			    wide ? 3 : 2); /* lea rax, [rax + rcx << shift + disp] */
			put(w, (uint64_t)i->shift << 6 | 1 << 3, 1);
		}
		put(w, (uint32_t)i->disp, 4);
		put_result(w, i->dst);
		return true;
	case HINT_ALU_RR:
		put_load(w, 0, i->dst, wide);
		if (wide)
			put(w, 0x48, 1);
		put(w, hint->op == ALU_TEST ? 0x85 : alu_group[hint->op] << 3 | 3, 1);
		put_slot(w, 0, i->src);
		break;
	case HINT_ALU_RI:
		if (wide && imm != (int32_t)imm)
			return false;
		put_load(w, 0, i->dst, wide);
		if (wide)
			put(w, 0x48, 1);
		put(w, hint->op == ALU_TEST ? 0xf7 : 0x81, 1);
		put(w, 0xc0 | alu_group[hint->op] << 3, 1);
		put(w, (uint64_t)imm, 4);
		break;
	default:
		return false;
	}
	if (hint->op != ALU_CMP && hint->op != ALU_TEST)
		put_result(w, i->dst);
	if (!hint->dead)
		put_flags(w);
	return true;
}

/* mov rdi, rbx; lea rsi, [r12 + place of record n] */
static void put_arguments(struct writer *w, unsigned n)
{
	int disp = (int)(n * sizeof(struct insn)) - BIAS;

	put(w, 0xdf8948, 3);
	if (disp <= 127) {
		put(w, 0x24748d49, 4);
		put(w, (uint8_t)disp, 1);
	} else {
		put(w, 0x24b48d49, 4);
		put(w, (uint32_t)disp, 4);
	}
}

bool trace_emit(struct trace_cache *c, struct trace *t, const struct trace_hint *hints)
{
	uint32_t jumps[TRACE_MAX_INSNS + 1];
	struct writer w = { c->code.rw + c->code_used };
	unsigned n, count = 0;

	if (c->code_used + ENTRY_BYTES + HEAT_BYTES + (t->count + 1u) * MOST_BYTES > c->code.bytes)
		return false;
	t->code = c->code_used;
	put(&w, 0xbc49, 2); /* mov r12, imm64 */
	put(&w, (uintptr_t)t->insns + BIAS, 8);
	if (c->heat) {
		/* sub dword [r12 + heat - records - bias], 1; js trace_hot */
		put(&w, 0x24ac8341, 4);
		put(&w, (uint32_t)((int)offsetof(struct trace, heat) -
				   (int)offsetof(struct trace, insns) - BIAS), 4);
		put(&w, 1, 1);
		put(&w, 0x880f, 2);
		put_rel32(c, (uint32_t)(w.p - c->code.rw), trace_hot);
		w.p += 4;
	}
	for (n = 0; n <= t->count; n++) {
		const struct insn *i = &t->insns[n];

		t->returns[n] = 0;
		if (n < t->count && put_inline(&w, i, &hints[n]))
			continue;
		put_arguments(&w, n);
		if (n < t->count && hints[n].kind == HINT_NATIVE) {
			/* The thunk's own bytes, up to its XOR and RET. */
			bytes_copy(w.p, i->code, hints[n].native_bytes);
			w.p += hints[n].native_bytes;
			continue;
		}
		put(&w, 0xe8, 1); /* call */
		put_rel32(c, (uint32_t)(w.p - c->code.rw), (const void *)(uintptr_t)i->handler);
		w.p += 4;
		if (n == t->count || !hints[n].tested)
			continue;
		t->returns[n] = (uint16_t)(w.p - c->code.rw - t->code);
		put(&w, 0x850fc08548, 5); /* test rax, rax; jnz out */
		jumps[count++] = (uint32_t)(w.p - c->code.rw);
		w.p += 4;
	}
	while (count--)
		bytes_store32(c->code.rw + jumps[count],
			      (uint32_t)(w.p - c->code.rw) - (jumps[count] + 4));
	put(&w, 0xe0ff, 2); /* out: jmp rax */
	t->code_bytes = (uint16_t)(w.p - c->code.rw - t->code);
	return true;
}

/* mov esi, n; jmp trace_stale */
static void put_stale(struct trace_cache *c, uint32_t at, unsigned n)
{
	struct writer w = { c->code.rw + at };

	put(&w, 0xbe, 1);
	put(&w, n, 4);
	put(&w, 0xe9, 1);
	put_rel32(c, at + 6, trace_stale);
}

void trace_code_kill(struct trace_cache *c, const struct trace *t)
{
	unsigned n;

	/*
	 * No thread but ours runs this code, and it is not in it now but at most in
	 * a call made from it. 12 bytes at the entry and 10 behind a call, which
	 * are less than what lies between two places that can be returned to.
	 */
	c->code.rw[t->code + ENTRY_BYTES] = 0x31; /* xor eax, eax */
	c->code.rw[t->code + ENTRY_BYTES + 1] = 0xc0;
	put_stale(c, t->code + ENTRY_BYTES + 2, 0);
	for (n = 0; n < t->count; n++)
		if (t->returns[n])
			put_stale(c, t->code + t->returns[n], n + 1);
}

void trace_code_redirect(struct trace_cache *c, const struct trace *t, const void *target)
{
	c->code.rw[t->code] = 0xe9; /* jmp */
	put_rel32(c, t->code + 1, target);
}
