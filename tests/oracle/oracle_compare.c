/*
 * Compares two results in everything the manuals define. Called for each
 * case, and with `report` to say what differs.
 */
#include "oracle.h"
#include "oracle_template.h"
#include <stdio.h>
#include <string.h>

static const char *const names[16] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
				       "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15" };

#define RFLAGS_COMPARED                                                                       \
	0x250fd5u /* arithmetic, TF, DF, IF off, NT off, AC, ID; RF in a fault's image is the \
		     delivery's */
#define ARITH     0x8d5u
#define VECTOR_GP 13
#define VECTOR_PF 14
#define VECTOR_AC 17

static bool differ(bool report, const char *what, uint64_t native, uint64_t engine)
{
	if (report)
		printf("  %-10s native %016lx  engine %016lx\n", what, native, engine);
	return false;
}

static uint32_t undefined_flags(const struct oracle_case *c)
{
	uint32_t all = 0;
	uint64_t at = c->native.state.rip - CODE_BASE - c->offset;

	for (unsigned i = 0; i <= c->insns; i++)
		all |= c->undefined[i];
	if (c->branches)
		return all;
	if (c->native.vector == NO_VECTOR)
		return c->undefined[c->insns];
	/* Faulted before instruction n, or trapped behind n - 1. */
	for (unsigned i = 0; i <= c->insns; i++)
		if (c->insn_at[i] == at)
			return c->undefined[i];
	return all;
}

/* The configuration that a clear bit of XSTATE_BV stands for. */
static void materialise(uint8_t *fx, const uint8_t *from)
{
	static const uint16_t fcw = 0x37f;
	uint64_t bv;

	memcpy(fx, from, FX_SIZE);
	memcpy(&bv, from + 512, 8);
	if (!(bv & 1)) {
		memset(fx, 0, 24);
		memset(fx + 32, 0, 128);
		memcpy(fx, &fcw, 2);
	}
	if (!(bv & 2))
		memset(fx + 160, 0, 256);
	if (!(bv & 4))
		memset(fx + 576, 0, 256);
}

static bool compare_bytes(const uint8_t *n, const uint8_t *e, unsigned at, unsigned len,
			  const char *name, unsigned index, bool report)
{
	uint64_t a[2] = { 0 }, b[2] = { 0 };

	if (!memcmp(n + at, e + at, len))
		return true;
	memcpy(a, n + at, len);
	memcpy(b, e + at, len);
	if (report)
		printf("  %s%-6u native %016lx_%016lx  engine %016lx_%016lx\n", name, index, a[1],
		       a[0], b[1], b[0]);
	return false;
}

static bool compare_fx(const struct oracle_case *c, bool report)
{
	uint8_t n[FX_SIZE], e[FX_SIZE];
	bool same = true;

	materialise(n, c->native.state.fx);
	materialise(e, c->engine.state.fx);
	same &= compare_bytes(n, e, 24, 4, "mxcsr", 0, report);
	if (!(c->skip & SKIP_FAULT_X87) || c->native.vector == NO_VECTOR) {
		same &= compare_bytes(n, e, 0, 2, "fcw", 0, report);
		same &= compare_bytes(n, e, 2, 2, "fsw", 0, report);
		same &= compare_bytes(n, e, 4, 1, "ftw", 0, report);
		/* Six bytes: some CPUs make it canonical. ES is bit 7 of FSW. */
		if (native_keeps_fip() || (n[2] & 0x80))
			same &= compare_bytes(n, e, 8, 6, "fip", 0, report);
		for (unsigned i = 0; i < 8; i++)
			same &= compare_bytes(n, e, 32 + 16 * i, 10, "st", i, report);
	}
	if ((c->skip & SKIP_FAULT_VECTORS) && c->native.vector != NO_VECTOR)
		return same;
	for (unsigned i = 0; i < 16; i++) {
		same &= compare_bytes(n, e, 160 + 16 * i, 16, "xmm", i, report);
		same &= compare_bytes(n, e, 576 + 16 * i, 16, "ymmh", i, report);
	}
	return same;
}

static bool compare_fault(const struct oracle_case *c, bool report)
{
	const struct oracle_result *n = &c->native, *e = &c->engine;
	uint32_t error = n->error;
	bool same = true;

	if (n->vector != e->vector)
		return differ(report, "vector", n->vector, e->vector);
	if (n->vector == NO_VECTOR)
		return true;
	/* Linux hides from user code what is mapped in its own half, and the page below it. */
	if (n->vector == VECTOR_PF && n->cr2 >= 0x7ffffffff000ull)
		error = (error & ~1u) | (e->error & 1);
	if (error != e->error)
		same = differ(report, "error", error, e->error);
	if (n->vector == VECTOR_PF &&
	    (c->skip & SKIP_FAULT_OFFSET ? (n->cr2 ^ e->cr2) / PAGE : n->cr2 ^ e->cr2))
		same = differ(report, "cr2", n->cr2, e->cr2);
	return same;
}

/* Code that Linux provides, or emulates, at a fixed address. */
static bool in_vsyscall(uint64_t rip)
{
	return rip >> 12 == 0xffffffffff600;
}

bool compare_case(const struct oracle_case *c, bool report)
{
	const struct oracle_result *n = &c->native, *e = &c->engine;
	uint64_t flags;
	bool same;

	if (!n->done || !e->done)
		return differ(report, "finished", n->done, e->done);
	if ((c->skip & SKIP_FAULT) && n->vector != NO_VECTOR)
		return true;
	if ((c->skip & SKIP_ALIGNMENT) && e->vector == VECTOR_GP)
		return true;
	if ((c->skip & SKIP_ALIGNMENT_CHECK) && (n->vector == VECTOR_AC || e->vector == VECTOR_AC))
		return true;
	if (vendor_incomparable(n, e))
		return true;
	if (in_vsyscall(n->state.rip) || in_vsyscall(e->state.rip))
		return true;
	same = compare_fault(c, report);
	if (n->state.rip != e->state.rip)
		same = differ(report, "rip", n->state.rip, e->state.rip);
	for (unsigned i = 0; i < 16; i++)
		if (n->state.gpr[i] != e->state.gpr[i] &&
		    !((c->skip & SKIP_FAULT_REGISTERS) && n->vector != NO_VECTOR))
			same = differ(report, names[i], n->state.gpr[i], e->state.gpr[i]);
	flags = (n->state.rflags ^ e->state.rflags) & RFLAGS_COMPARED &
		~(uint64_t)undefined_flags(c);
	if ((c->skip & SKIP_FAULT_FLAGS) && n->vector != NO_VECTOR)
		flags &= ~(uint64_t)ARITH;
	if (flags)
		same = differ(report, "rflags", n->state.rflags, e->state.rflags);
	same &= compare_fx(c, report);
	if (n->vector != NO_VECTOR && (c->skip & SKIP_FAULT_MEMORY))
		return same;
	if ((n->digest != e->digest || n->dirty_lines != e->dirty_lines)) {
		same = differ(report, "memory", n->digest, e->digest);
		if (report) {
			printf("  lines %u at %x, lines %u at %x\n  native", n->dirty_lines,
			       n->line, e->dirty_lines, e->line);
			for (unsigned i = 0; i < 64; i++)
				printf(" %02x", n->line_bytes[i]);
			printf("\n  engine");
			for (unsigned i = 0; i < 64; i++)
				printf(" %02x", e->line_bytes[i]);
			printf("\n");
		}
	}
	return same;
}

void print_case(const struct oracle_case *c)
{
	ZydisFormatter formatter;
	ZydisDecodedInstruction insn;
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
	uint32_t mxcsr;
	uint16_t fcw, fsw;

	ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
	printf("case --one 0x%lx\n", c->seed);
	for (unsigned i = 0; i < c->insns; i++) {
		const uint8_t *bytes = c->code + c->insn_at[i];
		unsigned len = c->insn_at[i + 1] - c->insn_at[i];
		char text[128] = "?";

		if (ZYAN_SUCCESS(ZydisDecoderDecodeFull(&template_decoder, bytes, len, &insn, ops)))
			ZydisFormatterFormatInstruction(
				&formatter, &insn, ops, insn.operand_count_visible, text,
				sizeof(text), c->initial.rip + c->insn_at[i], NULL);
		printf("  %08lx ", c->initial.rip + c->insn_at[i]);
		for (unsigned k = 0; k < len; k++)
			printf("%02x", bytes[k]);
		printf("  %s\n", text);
	}
	for (unsigned i = 0; i < 16; i++)
		printf("  %3s=%016lx%s", names[i], c->initial.gpr[i], i % 4 == 3 ? "\n" : "");
	memcpy(&fcw, c->initial.fx, 2);
	memcpy(&fsw, c->initial.fx + 2, 2);
	memcpy(&mxcsr, c->initial.fx + 24, 4);
	printf("  rflags=%lx fcw=%x fsw=%x ftw=%x mxcsr=%x\n", c->initial.rflags, fcw, fsw,
	       c->initial.fx[4], mxcsr);
	printf("  native: vector %d error %x rip %lx rflags %lx cr2 %lx\n",
	       c->native.vector == NO_VECTOR ? -1 : c->native.vector, c->native.error,
	       c->native.state.rip, c->native.state.rflags, c->native.cr2);
	if (c->engine.done)
		printf("  engine: vector %d error %x rip %lx rflags %lx cr2 %lx\n",
		       c->engine.vector == NO_VECTOR ? -1 : c->engine.vector, c->engine.error,
		       c->engine.state.rip, c->engine.state.rflags, c->engine.cr2);
}
