/*
 * CMP or TEST with the Jcc behind it, as one record: one dispatch fewer, and
 * the branch decides on the host's own flags. 64-bit code, target in the page.
 *
 * Record layout: aux = target relative to the trace's first byte (signed 16
 * bits); link = the target; disp = the immediate of the register forms; src =
 * the 8-bit immediate of the memory form, whose disp is the address's.
 */
#include "engine/interpret/access.h"
#include "engine/interpret/condition.h"
#include "engine/interpret/ops.h"

#define BRANCH                                          \
	do {                                            \
		if (taken)                              \
			GO_LINK(v, i, (int16_t)i->aux); \
		NEXT(v, i);                             \
	} while (0)

const void *insn_link_fused(struct vcpu *v, const struct insn *i)
{
	GO_LINK(v, i, (int16_t)i->aux);
}

#define COMPARE(op, s, cc, d, src)             \
	bool taken;                            \
	uint32_t fl;                           \
	__asm__(op s " %[b], %[a]" CAPTURE     \
		: "=@cc" #cc(taken), "=&a"(fl) \
		: [a] "q"(d), [b] "q"(src));   \
	FLAGS(fl)

/* The memory forms give up the fusion on a TLB miss: their slow path is here, once. */
#define FUSED_SIZE(name, op, s, S, T, cc)                                                    \
	static const void *name##_rr_##S##_##cc(struct vcpu *v, const struct insn *i)        \
	{                                                                                    \
		COMPARE(op, s, cc, REG(v, i->dst, T), REG(v, i->src, T));                    \
		BRANCH;                                                                      \
	}                                                                                    \
	static const void *name##_ri_##S##_##cc(struct vcpu *v, const struct insn *i)        \
	{                                                                                    \
		COMPARE(op, s, cc, REG(v, i->dst, T), (T)i->disp);                           \
		BRANCH;                                                                      \
	}                                                                                    \
	FUSED_MEMORY(name, op, s, S, T, cc, ra, REG(v, i->dst, T), *p, REG(v, i->dst, T), m) \
	FUSED_MEMORY(name, op, s, S, T, cc, ar, *p, REG(v, i->src, T), m, REG(v, i->src, T)) \
	FUSED_MEMORY(name, op, s, S, T, cc, ai, *p, (T)(int8_t)i->src, m, (T)(int8_t)i->src)
#define FUSED_MEMORY(name, op, s, S, T, cc, suffix, a, b, slow_a, slow_b)                     \
	static const void *name##_##suffix##_##S##_##cc##_slow(struct vcpu *v,                \
							       const struct insn *i)          \
	{                                                                                     \
		T m;                                                                          \
		uint64_t la = insn_ea64(v, i);                                                \
		LOAD(T, m);                                                                   \
		COMPARE(op, s, cc, slow_a, slow_b);                                           \
		BRANCH;                                                                       \
	}                                                                                     \
	static const void *name##_##suffix##_##S##_##cc(struct vcpu *v, const struct insn *i) \
	{                                                                                     \
		FAST_READ(T, EA_X, name##_##suffix##_##S##_##cc##_slow);                      \
		COMPARE(op, s, cc, a, b);                                                     \
		BRANCH;                                                                       \
	}
#define CMP_ALL(cc)                                  \
	FUSED_SIZE(cmp, "cmp", "b", 0, uint8_t, cc)  \
	FUSED_SIZE(cmp, "cmp", "w", 1, uint16_t, cc) \
	FUSED_SIZE(cmp, "cmp", "l", 2, uint32_t, cc) \
	FUSED_SIZE(cmp, "cmp", "q", 3, uint64_t, cc)
#define TEST_ALL(cc)                                   \
	FUSED_SIZE(test, "test", "b", 0, uint8_t, cc)  \
	FUSED_SIZE(test, "test", "w", 1, uint16_t, cc) \
	FUSED_SIZE(test, "test", "l", 2, uint32_t, cc) \
	FUSED_SIZE(test, "test", "q", 3, uint64_t, cc)
CONDITIONS(CMP_ALL)
CONDITIONS(TEST_ALL)

insn_handler *fused_handler(bool test, enum form form, unsigned size_log, unsigned cc)
{
#define ROW(n, S, cc)                                                                       \
	{                                                                                   \
		n##_rr_##S##_##cc, n##_ri_##S##_##cc, n##_ra_##S##_##cc, n##_ar_##S##_##cc, \
			n##_ai_##S##_##cc                                                   \
	}
#define CMP_ROWS(cc)  { ROW(cmp, 0, cc), ROW(cmp, 1, cc), ROW(cmp, 2, cc), ROW(cmp, 3, cc) },
#define TEST_ROWS(cc) { ROW(test, 0, cc), ROW(test, 1, cc), ROW(test, 2, cc), ROW(test, 3, cc) },
	static insn_handler *const cmps[16][4][5] = { CONDITIONS(CMP_ROWS) };
	static insn_handler *const tests[16][4][5] = { CONDITIONS(TEST_ROWS) };
	unsigned column;

	switch (form) {
	case FORM_RR:
		column = 0;
		break;
	case FORM_RI:
		column = 1;
		break;
	case FORM_RA:
		column = 2;
		break;
	case FORM_AR:
		column = 3;
		break;
	case FORM_AI:
		column = 4;
		break;
	default:
		return NULL;
	}
	return test ? tests[cc][size_log][column] : cmps[cc][size_log][column];
}
