/*
 * ADD OR ADC SBB AND SUB XOR CMP TEST, INC DEC NEG NOT. The host's own
 * instruction computes result and flags; LAHF and SETO keep the flags.
 */
#include "engine/interpret/access.h"
#include "engine/interpret/ops.h"

#define PLAIN(op, s)      op s " %[src], %[dst]" CAPTURE
#define WITH_CARRY(op, s) CARRY_IN op s " %[src], %[dst]" CAPTURE

/* Computes: d is the old destination and becomes the result, fl the flags. */
#define COMPUTE(text, T, d, s, fl) \
	__asm__(text : [dst] "+q"(d), "=&a"(fl) : [src] "q"(s), [flags] "m"(v->soft.flags) : "cc")

#define LOCKED(text, T, s, fl)                                      \
	__asm__ volatile("" text                                    \
			 : [dst] "+m"(*rmw_), "=&a"(fl)             \
			 : [src] "q"(s), [flags] "m"(v->soft.flags) \
			 : "cc", "memory")

/* A locked operation is the host's locked instruction, on the guest's bytes or where mmu_lock()
 * says. */
#define ALU_WRITING(name, text, lockedtext, S, T)                              \
	static const void *name##_rr_##S(struct vcpu *v, const struct insn *i) \
	{                                                                      \
		T d = REG(v, i->dst, T), s = REG(v, i->src, T);                \
		uint32_t fl;                                                   \
		COMPUTE(text, T, d, s, fl);                                    \
		FLAGS(fl);                                                     \
		SET(T, i->dst, d);                                             \
		NEXT(v, i);                                                    \
	}                                                                      \
	static const void *name##_ri_##S(struct vcpu *v, const struct insn *i) \
	{                                                                      \
		T d = REG(v, i->dst, T), s = (T)i->imm;                        \
		uint32_t fl;                                                   \
		COMPUTE(text, T, d, s, fl);                                    \
		FLAGS(fl);                                                     \
		SET(T, i->dst, d);                                             \
		NEXT(v, i);                                                    \
	}                                                                      \
	ALU_RM(name, text, S, T, SET(T, i->dst, d))                            \
	ALU_M(name, text, S, T, gr, ar, xr, REG(v, i->src, T))                 \
	ALU_M(name, text, S, T, gi, ai, xi, (T)i->imm)                         \
	ALU_L(name, text, lockedtext, S, T, lr, REG(v, i->src, T))             \
	ALU_L(name, text, lockedtext, S, T, li, (T)i->imm)

#define ALU_RM(name, text, S, T, finish)                                       \
	static const void *name##_rg_##S(struct vcpu *v, const struct insn *i) \
	{                                                                      \
		T d = REG(v, i->dst, T), s;                                    \
		uint32_t fl;                                                   \
		ADDRESS_G(T, false);                                           \
		LOAD(T, s);                                                    \
		COMPUTE(text, T, d, s, fl);                                    \
		FLAGS(fl);                                                     \
		finish;                                                        \
		NEXT(v, i);                                                    \
	}                                                                      \
	ALU_RM_FAST(name, text, S, T, EA_A, ra, finish)                        \
	ALU_RM_FAST(name, text, S, T, EA_X, rx, finish)
#define ALU_RM_FAST(name, text, S, T, EA, suffix, finish)                              \
	static const void *name##_##suffix##_##S(struct vcpu *v, const struct insn *i) \
	{                                                                              \
		FAST_READ(T, EA, name##_rg_##S);                                       \
		T d = REG(v, i->dst, T), s = *p;                                       \
		uint32_t fl;                                                           \
		COMPUTE(text, T, d, s, fl);                                            \
		FLAGS(fl);                                                             \
		finish;                                                                \
		NEXT(v, i);                                                            \
	}

#define ALU_M(name, text, S, T, g, a, x, source)                                  \
	static const void *name##_##g##_##S(struct vcpu *v, const struct insn *i) \
	{                                                                         \
		T d, s = source;                                                  \
		uint32_t fl;                                                      \
		ADDRESS_G(T, true);                                               \
		LOAD_RMW(T, d);                                                   \
		COMPUTE(text, T, d, s, fl);                                       \
		STORE_RMW(T, d);                                                  \
		FLAGS(fl);                                                        \
		NEXT(v, i);                                                       \
	}                                                                         \
	ALU_M_FAST(name, text, S, T, g, EA_A, a, source)                          \
	ALU_M_FAST(name, text, S, T, g, EA_X, x, source)
#define ALU_M_FAST(name, text, S, T, g, EA, suffix, source)                            \
	static const void *name##_##suffix##_##S(struct vcpu *v, const struct insn *i) \
	{                                                                              \
		FAST_WRITE(T, EA, name##_##g##_##S);                                   \
		T d = *p, s = source;                                                  \
		uint32_t fl;                                                           \
		COMPUTE(text, T, d, s, fl);                                            \
		*p = d;                                                                \
		FLAGS(fl);                                                             \
		NEXT(v, i);                                                            \
	}

#define ALU_L(name, text, lockedtext, S, T, suffix, source)                            \
	static const void *name##_##suffix##_##S(struct vcpu *v, const struct insn *i) \
	{                                                                              \
		T s = source;                                                          \
		uint32_t fl;                                                           \
		ADDRESS_G(T, true);                                                    \
		T *rmw_ = tlb_lock_ptr(v, la, sizeof(T));                              \
		if (likely(rmw_)) {                                                    \
			LOCKED(lockedtext, T, s, fl);                                  \
			FLAGS(fl);                                                     \
			NEXT(v, i);                                                    \
		}                                                                      \
		rmw_ = mmu_lock(v, la, sizeof(T));                                     \
		if (!rmw_)                                                             \
			MEMORY_FAULT(v, i);                                            \
		LOCKED(lockedtext, T, s, fl);                                          \
		FLAGS(fl);                                                             \
		mmu_unlock(v);                                                         \
		NEXT(v, i);                                                            \
	}

/* CMP and TEST read both operands and keep only flags. */
#define ALU_READING(name, text, S, T)                                          \
	static const void *name##_rr_##S(struct vcpu *v, const struct insn *i) \
	{                                                                      \
		T d = REG(v, i->dst, T), s = REG(v, i->src, T);                \
		uint32_t fl;                                                   \
		COMPUTE(text, T, d, s, fl);                                    \
		FLAGS(fl);                                                     \
		NEXT(v, i);                                                    \
	}                                                                      \
	static const void *name##_ri_##S(struct vcpu *v, const struct insn *i) \
	{                                                                      \
		T d = REG(v, i->dst, T), s = (T)i->imm;                        \
		uint32_t fl;                                                   \
		COMPUTE(text, T, d, s, fl);                                    \
		FLAGS(fl);                                                     \
		NEXT(v, i);                                                    \
	}                                                                      \
	ALU_RM(name, text, S, T, (void)0)                                      \
	ALU_TM(name, text, S, T, gr, ar, xr, REG(v, i->src, T))                \
	ALU_TM(name, text, S, T, gi, ai, xi, (T)i->imm)

#define ALU_TM(name, text, S, T, g, a, x, source)                                 \
	static const void *name##_##g##_##S(struct vcpu *v, const struct insn *i) \
	{                                                                         \
		T d, s = source;                                                  \
		uint32_t fl;                                                      \
		ADDRESS_G(T, false);                                              \
		LOAD(T, d);                                                       \
		COMPUTE(text, T, d, s, fl);                                       \
		FLAGS(fl);                                                        \
		NEXT(v, i);                                                       \
	}                                                                         \
	ALU_TM_FAST(name, text, S, T, g, EA_A, a, source)                         \
	ALU_TM_FAST(name, text, S, T, g, EA_X, x, source)
#define ALU_TM_FAST(name, text, S, T, g, EA, suffix, source)                           \
	static const void *name##_##suffix##_##S(struct vcpu *v, const struct insn *i) \
	{                                                                              \
		FAST_READ(T, EA, name##_##g##_##S);                                    \
		T d = *p, s = source;                                                  \
		uint32_t fl;                                                           \
		COMPUTE(text, T, d, s, fl);                                            \
		FLAGS(fl);                                                             \
		NEXT(v, i);                                                            \
	}

/* Without flags: plain C, for results whose flags nobody reads. */
#define ALU_DEAD(name, expr, S, T)                                                  \
	static const void *name##_rr_dead_##S(struct vcpu *v, const struct insn *i) \
	{                                                                           \
		T d = REG(v, i->dst, T), s = REG(v, i->src, T);                     \
		SET(T, i->dst, expr);                                               \
		NEXT(v, i);                                                         \
	}                                                                           \
	static const void *name##_ri_dead_##S(struct vcpu *v, const struct insn *i) \
	{                                                                           \
		T d = REG(v, i->dst, T), s = (T)i->imm;                             \
		SET(T, i->dst, expr);                                               \
		NEXT(v, i);                                                         \
	}                                                                           \
	static const void *name##_ra_dead_##S(struct vcpu *v, const struct insn *i) \
	{                                                                           \
		FAST_READ(T, EA_A, name##_rg_##S);                                  \
		T d = REG(v, i->dst, T), s = *p;                                    \
		SET(T, i->dst, expr);                                               \
		NEXT(v, i);                                                         \
	}

#define FOUR(M, name, op, K)                                 \
	M(name, K(op, "b"), "lock " K(op, "b"), 0, uint8_t)  \
	M(name, K(op, "w"), "lock " K(op, "w"), 1, uint16_t) \
	M(name, K(op, "l"), "lock " K(op, "l"), 2, uint32_t) \
	M(name, K(op, "q"), "lock " K(op, "q"), 3, uint64_t)
#define WRITING_CARRY(name, op)                                                              \
	ALU_WRITING(name, WITH_CARRY(op, "b"), CARRY_IN "lock " PLAIN(op, "b"), 0, uint8_t)  \
	ALU_WRITING(name, WITH_CARRY(op, "w"), CARRY_IN "lock " PLAIN(op, "w"), 1, uint16_t) \
	ALU_WRITING(name, WITH_CARRY(op, "l"), CARRY_IN "lock " PLAIN(op, "l"), 2, uint32_t) \
	ALU_WRITING(name, WITH_CARRY(op, "q"), CARRY_IN "lock " PLAIN(op, "q"), 3, uint64_t)
#define READING(name, text, lockedtext, S, T) ALU_READING(name, text, S, T)

FOUR(ALU_WRITING, add, "add", PLAIN)
FOUR(ALU_WRITING, or, "or", PLAIN)
FOUR(ALU_WRITING, and, "and", PLAIN)
FOUR(ALU_WRITING, sub, "sub", PLAIN)
FOUR(ALU_WRITING, xor, "xor", PLAIN)
WRITING_CARRY(adc, "adc")
WRITING_CARRY(sbb, "sbb")
FOUR(READING, cmp, "cmp", PLAIN)
FOUR(READING, test, "test", PLAIN)

#define DEAD4(name, expr)                 \
	ALU_DEAD(name, expr, 2, uint32_t) \
	ALU_DEAD(name, expr, 3, uint64_t)
DEAD4(add, d + s)
DEAD4(or, d | s)
DEAD4(and, d &s)
DEAD4(sub, d - s)
DEAD4(xor, d ^ s)

#define ROW_W(n, S)                                                                             \
	{                                                                                       \
		n##_rr_##S, n##_ri_##S, n##_ra_##S, n##_rx_##S, n##_rg_##S, n##_ar_##S,         \
			n##_xr_##S, n##_gr_##S, n##_ai_##S, n##_xi_##S, n##_gi_##S, n##_lr_##S, \
			n##_li_##S                                                              \
	}
#define ROW_R(n, S)                                                                            \
	{                                                                                      \
		n##_rr_##S, n##_ri_##S, n##_ra_##S, n##_rx_##S, n##_rg_##S, n##_ar_##S,        \
			n##_xr_##S, n##_gr_##S, n##_ai_##S, n##_xi_##S, n##_gi_##S, NULL, NULL \
	}
#define ROWS(R, n)                                 \
	{                                          \
		R(n, 0), R(n, 1), R(n, 2), R(n, 3) \
	}

insn_handler *alu_handler(enum alu_op op, enum form form, unsigned size_log, bool dead)
{
	static insn_handler *const table[ALU_OPS][4][FORMS] = {
		[ALU_ADD] = ROWS(ROW_W, add),   [ALU_OR] = ROWS(ROW_W, or),
		[ALU_ADC] = ROWS(ROW_W, adc),   [ALU_SBB] = ROWS(ROW_W, sbb),
		[ALU_AND] = ROWS(ROW_W, and),   [ALU_SUB] = ROWS(ROW_W, sub),
		[ALU_XOR] = ROWS(ROW_W, xor),   [ALU_CMP] = ROWS(ROW_R, cmp),
		[ALU_TEST] = ROWS(ROW_R, test),
	};
#define DEAD_ROWS(n)                                                \
	{                                                           \
		{ n##_rr_dead_2, n##_ri_dead_2, n##_ra_dead_2 },    \
		{                                                   \
			n##_rr_dead_3, n##_ri_dead_3, n##_ra_dead_3 \
		}                                                   \
	}
	static insn_handler *const without_flags[ALU_OPS][2][3] = {
		[ALU_ADD] = DEAD_ROWS(add), [ALU_OR] = DEAD_ROWS(or),   [ALU_AND] = DEAD_ROWS(and),
		[ALU_SUB] = DEAD_ROWS(sub), [ALU_XOR] = DEAD_ROWS(xor),
	};

	if (dead && form <= FORM_RA && size_log >= 2 && without_flags[op][size_log - 2][form])
		return without_flags[op][size_log - 2][form];
	return table[op][size_log][form];
}

static const void *zero(struct vcpu *v, const struct insn *i)
{
	REG(v, i->dst, uint64_t) = 0;
	FLAGS(0x4600); /* ZF, PF */
	NEXT(v, i);
}

static const void *zero_dead(struct vcpu *v, const struct insn *i)
{
	REG(v, i->dst, uint64_t) = 0;
	NEXT(v, i);
}

insn_handler *zero_handler(bool dead)
{
	return dead ? zero_dead : zero;
}

/* One operand. INC and DEC keep CF: it is put into the host's flags first. */
#define ONE(op, s) CARRY_IN op s " %[dst]" CAPTURE
#define COMPUTE1(text, d, fl) \
	__asm__(text : [dst] "+q"(d), "=&a"(fl) : [flags] "m"(v->soft.flags) : "cc")
#define LOCKED1(op, s, fl)                                       \
	__asm__ volatile(CARRY_IN "lock " op s " %[dst]" CAPTURE \
			 : [dst] "+m"(*rmw_), "=&a"(fl)          \
			 : [flags] "m"(v->soft.flags)            \
			 : "cc", "memory")
#define ALU1(name, op, s, S, T)                                               \
	static const void *name##_r_##S(struct vcpu *v, const struct insn *i) \
	{                                                                     \
		T d = REG(v, i->dst, T);                                      \
		uint32_t fl;                                                  \
		COMPUTE1(ONE(op, s), d, fl);                                  \
		FLAGS(fl);                                                    \
		SET(T, i->dst, d);                                            \
		NEXT(v, i);                                                   \
	}                                                                     \
	static const void *name##_g_##S(struct vcpu *v, const struct insn *i) \
	{                                                                     \
		T d;                                                          \
		uint32_t fl;                                                  \
		ADDRESS_G(T, true);                                           \
		LOAD_RMW(T, d);                                               \
		COMPUTE1(ONE(op, s), d, fl);                                  \
		STORE_RMW(T, d);                                              \
		FLAGS(fl);                                                    \
		NEXT(v, i);                                                   \
	}                                                                     \
	static const void *name##_a_##S(struct vcpu *v, const struct insn *i) \
	{                                                                     \
		FAST_WRITE(T, EA_X, name##_g_##S);                            \
		T d = *p;                                                     \
		uint32_t fl;                                                  \
		COMPUTE1(ONE(op, s), d, fl);                                  \
		*p = d;                                                       \
		FLAGS(fl);                                                    \
		NEXT(v, i);                                                   \
	}                                                                     \
	static const void *name##_l_##S(struct vcpu *v, const struct insn *i) \
	{                                                                     \
		uint32_t fl;                                                  \
		ADDRESS_G(T, true);                                           \
		T *rmw_ = tlb_lock_ptr(v, la, sizeof(T));                     \
		if (likely(rmw_)) {                                           \
			LOCKED1(op, s, fl);                                   \
			FLAGS(fl);                                            \
			NEXT(v, i);                                           \
		}                                                             \
		rmw_ = mmu_lock(v, la, sizeof(T));                            \
		if (!rmw_)                                                    \
			MEMORY_FAULT(v, i);                                   \
		LOCKED1(op, s, fl);                                           \
		FLAGS(fl);                                                    \
		mmu_unlock(v);                                                \
		NEXT(v, i);                                                   \
	}
#define ALU1_4(name, op)                 \
	ALU1(name, op, "b", 0, uint8_t)  \
	ALU1(name, op, "w", 1, uint16_t) \
	ALU1(name, op, "l", 2, uint32_t) \
	ALU1(name, op, "q", 3, uint64_t)
ALU1_4(inc, "inc")
ALU1_4(dec, "dec")
ALU1_4(neg, "neg")

/* NOT leaves the flags alone. */
#define NOT(T, S)                                                           \
	static const void *not_r_##S(struct vcpu *v, const struct insn *i)  \
	{                                                                   \
		SET(T, i->dst, ~REG(v, i->dst, T));                         \
		NEXT(v, i);                                                 \
	}                                                                   \
	static const void *not_g_##S(struct vcpu *v, const struct insn *i)  \
	{                                                                   \
		T d;                                                        \
		ADDRESS_G(T, true);                                         \
		LOAD_RMW(T, d);                                             \
		STORE_RMW(T, ~d);                                           \
		NEXT(v, i);                                                 \
	}                                                                   \
	static const void *not_l_##S(struct vcpu *v, const struct insn *i)  \
	{                                                                   \
		ADDRESS_G(T, true);                                         \
		T *p = tlb_lock_ptr(v, la, sizeof(T));                      \
		if (likely(p)) {                                            \
			__atomic_xor_fetch(p, (T) ~(T)0, __ATOMIC_SEQ_CST); \
			NEXT(v, i);                                         \
		}                                                           \
		p = mmu_lock(v, la, sizeof(T));                             \
		if (!p)                                                     \
			MEMORY_FAULT(v, i);                                 \
		__atomic_xor_fetch(p, (T) ~(T)0, __ATOMIC_SEQ_CST);         \
		mmu_unlock(v);                                              \
		NEXT(v, i);                                                 \
	}
NOT(uint8_t, 0)
NOT(uint16_t, 1)
NOT(uint32_t, 2)
NOT(uint64_t, 3)

#define DEAD1(name, expr)                                                        \
	static const void *name##_r_dead_2(struct vcpu *v, const struct insn *i) \
	{                                                                        \
		uint32_t d = REG(v, i->dst, uint32_t);                           \
		REG(v, i->dst, uint64_t) = (uint32_t)(expr);                     \
		NEXT(v, i);                                                      \
	}                                                                        \
	static const void *name##_r_dead_3(struct vcpu *v, const struct insn *i) \
	{                                                                        \
		uint64_t d = REG(v, i->dst, uint64_t);                           \
		REG(v, i->dst, uint64_t) = expr;                                 \
		NEXT(v, i);                                                      \
	}
DEAD1(inc, d + 1)
DEAD1(dec, d - 1)

insn_handler *alu1_handler(enum alu1_op op, enum form1 form, unsigned size_log, bool dead)
{
#define ROW1(n, S)                                         \
	{                                                  \
		n##_r_##S, n##_a_##S, n##_g_##S, n##_l_##S \
	}
#define not_a_0 not_g_0
#define not_a_1 not_g_1
#define not_a_2 not_g_2
#define not_a_3 not_g_3
	static insn_handler *const table[ALU1_OPS][4][FORMS1] = {
		[ALU1_INC] = ROWS(ROW1, inc),
		[ALU1_DEC] = ROWS(ROW1, dec),
		[ALU1_NEG] = ROWS(ROW1, neg),
		[ALU1_NOT] = ROWS(ROW1, not ),
	};

	if (dead && form == FORM_R && size_log >= 2 && op <= ALU1_DEC) {
		if (op == ALU1_INC)
			return size_log == 3 ? inc_r_dead_3 : inc_r_dead_2;
		return size_log == 3 ? dec_r_dead_3 : dec_r_dead_2;
	}
	return table[op][size_log][form];
}
