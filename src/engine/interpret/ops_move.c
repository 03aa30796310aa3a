/* MOV and its kin: MOVZX MOVSX LEA XCHG BSWAP CMOVcc SETcc and the CBW and CWD families. No flags
 * are written. */
#include "base/spin.h"
#include "engine/interpret/access.h"
#include "engine/interpret/condition.h"
#include "engine/interpret/ops.h"

#define MOV(S, T)                                                           \
	static const void *mov_rr_##S(struct vcpu *v, const struct insn *i) \
	{                                                                   \
		SET(T, i->dst, REG(v, i->src, T));                          \
		NEXT(v, i);                                                 \
	}                                                                   \
	static const void *mov_ri_##S(struct vcpu *v, const struct insn *i) \
	{                                                                   \
		SET(T, i->dst, i->imm);                                     \
		NEXT(v, i);                                                 \
	}                                                                   \
	static const void *mov_rg_##S(struct vcpu *v, const struct insn *i) \
	{                                                                   \
		T d;                                                        \
		ADDRESS_G(T, false);                                        \
		LOAD(T, d);                                                 \
		SET(T, i->dst, d);                                          \
		NEXT(v, i);                                                 \
	}                                                                   \
	MOV_LOAD(S, T, ra, EA_A)                                            \
	MOV_LOAD(S, T, rx, EA_X)                                            \
	MOV_STORE(S, T, gr, ar, xr, REG(v, i->src, T))                      \
	MOV_STORE(S, T, gi, ai, xi, (T)i->imm)
#define MOV_LOAD(S, T, suffix, EA)                                                  \
	static const void *mov_##suffix##_##S(struct vcpu *v, const struct insn *i) \
	{                                                                           \
		FAST_READ(T, EA, mov_rg_##S);                                       \
		SET(T, i->dst, *p);                                                 \
		NEXT(v, i);                                                         \
	}
#define MOV_STORE(S, T, g, a, x, source)                                       \
	static const void *mov_##g##_##S(struct vcpu *v, const struct insn *i) \
	{                                                                      \
		ADDRESS_G(T, true);                                            \
		STORE(T, source);                                              \
		NEXT(v, i);                                                    \
	}                                                                      \
	static const void *mov_##a##_##S(struct vcpu *v, const struct insn *i) \
	{                                                                      \
		FAST_WRITE(T, EA_A, mov_##g##_##S);                            \
		*p = source;                                                   \
		NEXT(v, i);                                                    \
	}                                                                      \
	static const void *mov_##x##_##S(struct vcpu *v, const struct insn *i) \
	{                                                                      \
		FAST_WRITE(T, EA_X, mov_##g##_##S);                            \
		*p = source;                                                   \
		NEXT(v, i);                                                    \
	}
MOV(0, uint8_t)
MOV(1, uint16_t)
MOV(2, uint32_t)
MOV(3, uint64_t)

insn_handler *mov_handler(enum form form, unsigned size_log)
{
#define ROW(S)                                                                                 \
	{                                                                                      \
		mov_rr_##S, mov_ri_##S, mov_ra_##S, mov_rx_##S, mov_rg_##S, mov_ar_##S,        \
			mov_xr_##S, mov_gr_##S, mov_ai_##S, mov_xi_##S, mov_gi_##S, NULL, NULL \
	}
	static insn_handler *const table[4][FORMS] = { ROW(0), ROW(1), ROW(2), ROW(3) };

	return table[size_log][form];
}

#define MOV_ABSOLUTE(S, T)                                                                \
	static const void *load_absolute_##S(struct vcpu *v, const struct insn *i)        \
	{                                                                                 \
		uint64_t la = i->imm + (i->seg >= SEG_FS ? v->arch.seg[i->seg].base : 0); \
		T d;                                                                      \
		LOAD(T, d);                                                               \
		SET(T, RAX * 8, d);                                                       \
		NEXT(v, i);                                                               \
	}                                                                                 \
	static const void *store_absolute_##S(struct vcpu *v, const struct insn *i)       \
	{                                                                                 \
		uint64_t la = i->imm + (i->seg >= SEG_FS ? v->arch.seg[i->seg].base : 0); \
		STORE(T, REG(v, RAX * 8, T));                                             \
		NEXT(v, i);                                                               \
	}
MOV_ABSOLUTE(0, uint8_t)
MOV_ABSOLUTE(1, uint16_t)
MOV_ABSOLUTE(2, uint32_t)
MOV_ABSOLUTE(3, uint64_t)

insn_handler *mov_absolute_handler(bool store, unsigned size_log)
{
	static insn_handler *const table[2][4] = {
		{ load_absolute_0, load_absolute_1, load_absolute_2, load_absolute_3 },
		{ store_absolute_0, store_absolute_1, store_absolute_2, store_absolute_3 },
	};

	return table[store][size_log];
}

/* Widening. The 32-bit destination of a zero extension also serves 64 bits. */
#define MOVX(name, from, to)                                               \
	static const void *name##_rr(struct vcpu *v, const struct insn *i) \
	{                                                                  \
		SET(to, i->dst, REG(v, i->src, from));                     \
		NEXT(v, i);                                                \
	}                                                                  \
	static const void *name##_rg(struct vcpu *v, const struct insn *i) \
	{                                                                  \
		from s;                                                    \
		ADDRESS_G(from, false);                                    \
		LOAD(from, s);                                             \
		SET(to, i->dst, s);                                        \
		NEXT(v, i);                                                \
	}                                                                  \
	static const void *name##_ra(struct vcpu *v, const struct insn *i) \
	{                                                                  \
		FAST_READ(from, EA_A, name##_rg);                          \
		SET(to, i->dst, *p);                                       \
		NEXT(v, i);                                                \
	}                                                                  \
	static const void *name##_rx(struct vcpu *v, const struct insn *i) \
	{                                                                  \
		FAST_READ(from, EA_X, name##_rg);                          \
		SET(to, i->dst, *p);                                       \
		NEXT(v, i);                                                \
	}
MOVX(movzx_0_1, uint8_t, uint16_t)
MOVX(movzx_0_2, uint8_t, uint32_t)
MOVX(movzx_1_2, uint16_t, uint32_t)
MOVX(movsx_0_1, int8_t, uint16_t)
MOVX(movsx_0_2, int8_t, uint32_t)
MOVX(movsx_0_3, int8_t, uint64_t)
MOVX(movsx_1_2, int16_t, uint32_t)
MOVX(movsx_1_3, int16_t, uint64_t)
MOVX(movsx_2_3, int32_t, uint64_t)

insn_handler *movx_handler(bool sign, enum form form, unsigned from_log, unsigned to_log)
{
#define X(n)                                         \
	{                                            \
		n##_rr, NULL, n##_ra, n##_rx, n##_rg \
	}
	static insn_handler *const zero[2][3][5] = {
		{ X(movzx_0_1), X(movzx_0_2), X(movzx_0_2) },
		{ { mov_rr_1, NULL, mov_ra_1, mov_rx_1, mov_rg_1 }, X(movzx_1_2), X(movzx_1_2) },
	};
	static insn_handler *const extend[3][3][5] = {
		{ X(movsx_0_1), X(movsx_0_2), X(movsx_0_3) },
		{ { mov_rr_1, NULL, mov_ra_1, mov_rx_1, mov_rg_1 }, X(movsx_1_2), X(movsx_1_3) },
		{ { mov_rr_1, NULL, mov_ra_1, mov_rx_1, mov_rg_1 },
		  { mov_rr_2, NULL, mov_ra_2, mov_rx_2, mov_rg_2 },
		  X(movsx_2_3) },
	};

	return sign ? extend[from_log][to_log - 1][form] : zero[from_log][to_log - 1][form];
}

/* LEA computes an offset; no segment, no check. */
static const void *lea_16(struct vcpu *v, const struct insn *i)
{
	uint64_t ea = insn_ea64(v, i);

	REG(v, i->dst, uint16_t) = (uint16_t)ea;
	NEXT(v, i);
}
static const void *lea_32(struct vcpu *v, const struct insn *i)
{
	REG(v, i->dst, uint64_t) = (uint32_t)insn_ea64(v, i);
	NEXT(v, i);
}
static const void *lea_32_narrow(struct vcpu *v, const struct insn *i)
{
	REG(v, i->dst, uint64_t) =
		(uint32_t)insn_ea64(v, i) & (i->width == 2 ? 0xffffu : 0xffffffffu);
	NEXT(v, i);
}
static const void *lea_64(struct vcpu *v, const struct insn *i)
{
	REG(v, i->dst, uint64_t) = insn_ea64(v, i);
	NEXT(v, i);
}

insn_handler *lea_handler(unsigned size_log, bool full)
{
	if (size_log == 1)
		return lea_16; /* the low 16 bits do not depend on the address size */
	if (!full)
		return lea_32_narrow; /* a 64-bit destination zero-extends a 32-bit offset: the same
				       */
	return size_log == 3 ? lea_64 : lea_32;
}

#define XCHG(S, T)                                                           \
	static const void *xchg_rr_##S(struct vcpu *v, const struct insn *i) \
	{                                                                    \
		T a = REG(v, i->dst, T), b = REG(v, i->src, T);              \
		SET(T, i->dst, b);                                           \
		SET(T, i->src, a);                                           \
		NEXT(v, i);                                                  \
	}                                                                    \
	static const void *xchg_lr_##S(struct vcpu *v, const struct insn *i) \
	{                                                                    \
		T s = REG(v, i->src, T), d;                                  \
		ADDRESS_G(T, true);                                          \
		T *p = tlb_lock_ptr(v, la, sizeof(T));                       \
		if (likely(p)) {                                             \
			d = __atomic_exchange_n(p, s, __ATOMIC_SEQ_CST);     \
		} else {                                                     \
			p = mmu_lock(v, la, sizeof(T));                      \
			if (!p)                                              \
				MEMORY_FAULT(v, i);                          \
			d = __atomic_exchange_n(p, s, __ATOMIC_SEQ_CST);     \
			mmu_unlock(v);                                       \
		}                                                            \
		SET(T, i->src, d);                                           \
		NEXT(v, i);                                                  \
	}
XCHG(0, uint8_t)
XCHG(1, uint16_t)
XCHG(2, uint32_t)
XCHG(3, uint64_t)

insn_handler *xchg_handler(enum form form, unsigned size_log)
{
	static insn_handler *const table[2][4] = {
		{ xchg_rr_0, xchg_rr_1, xchg_rr_2, xchg_rr_3 },
		{ xchg_lr_0, xchg_lr_1, xchg_lr_2, xchg_lr_3 },
	};

	return table[form != FORM_RR][size_log];
}

static const void *bswap_1(struct vcpu *v, const struct insn *i)
{
	REG(v, i->dst, uint16_t) = 0; /* undefined by the manual; this is what processors do */
	NEXT(v, i);
}
static const void *bswap_2(struct vcpu *v, const struct insn *i)
{
	REG(v, i->dst, uint64_t) = __builtin_bswap32(REG(v, i->dst, uint32_t));
	NEXT(v, i);
}
static const void *bswap_3(struct vcpu *v, const struct insn *i)
{
	REG(v, i->dst, uint64_t) = __builtin_bswap64(REG(v, i->dst, uint64_t));
	NEXT(v, i);
}

insn_handler *bswap_handler(unsigned size_log)
{
	return size_log == 3 ? bswap_3 : size_log == 2 ? bswap_2 : bswap_1;
}

/* CMOVcc always reads its memory operand, and a 32-bit one always clears the upper half. */
#define CMOV_SIZE(cc, S, T)                                                        \
	static const void *cmov##cc##_rr_##S(struct vcpu *v, const struct insn *i) \
	{                                                                          \
		T d = REG(v, i->dst, T), s = REG(v, i->src, T);                    \
		unsigned f = v->soft.flags;                                        \
		SET(T, i->dst, COND_##cc(f) ? s : d);                              \
		NEXT(v, i);                                                        \
	}                                                                          \
	static const void *cmov##cc##_rg_##S(struct vcpu *v, const struct insn *i) \
	{                                                                          \
		T d = REG(v, i->dst, T), s;                                        \
		unsigned f = v->soft.flags;                                        \
		ADDRESS_G(T, false);                                               \
		LOAD(T, s);                                                        \
		SET(T, i->dst, COND_##cc(f) ? s : d);                              \
		NEXT(v, i);                                                        \
	}
#define CMOV(cc)                   \
	CMOV_SIZE(cc, 1, uint16_t) \
	CMOV_SIZE(cc, 2, uint32_t) \
	CMOV_SIZE(cc, 3, uint64_t)
CONDITIONS(CMOV)

insn_handler *cmov_handler(unsigned cc, enum form form, unsigned size_log)
{
#define CMOV_ROW(cc)                                             \
	{ { cmov##cc##_rr_1, cmov##cc##_rr_2, cmov##cc##_rr_3 }, \
	  { cmov##cc##_rg_1, cmov##cc##_rg_2, cmov##cc##_rg_3 } },
	static insn_handler *const table[16][2][3] = { CONDITIONS(CMOV_ROW) };

	return table[cc][form != FORM_RR][size_log - 1];
}

#define SETCC(cc)                                                            \
	static const void *set##cc##_r(struct vcpu *v, const struct insn *i) \
	{                                                                    \
		unsigned f = v->soft.flags;                                  \
		REG(v, i->dst, uint8_t) = COND_##cc(f) != 0;                 \
		NEXT(v, i);                                                  \
	}                                                                    \
	static const void *set##cc##_g(struct vcpu *v, const struct insn *i) \
	{                                                                    \
		unsigned f = v->soft.flags;                                  \
		ADDRESS_G(uint8_t, true);                                    \
		STORE(uint8_t, COND_##cc(f) != 0);                           \
		NEXT(v, i);                                                  \
	}
CONDITIONS(SETCC)

insn_handler *setcc_handler(unsigned cc, enum form1 form)
{
#define SETCC_ROW(cc) { set##cc##_r, set##cc##_g },
	static insn_handler *const table[16][2] = { CONDITIONS(SETCC_ROW) };

	return table[cc][form != FORM_R];
}

#define A(T) REG(v, RAX * 8, T)
#define D(T) REG(v, RDX * 8, T)
static const void *cbw(struct vcpu *v, const struct insn *i)
{
	A(uint16_t) = (uint16_t)A(int8_t);
	NEXT(v, i);
}
static const void *cwde(struct vcpu *v, const struct insn *i)
{
	A(uint64_t) = (uint32_t)A(int16_t);
	NEXT(v, i);
}
static const void *cdqe(struct vcpu *v, const struct insn *i)
{
	A(uint64_t) = (uint64_t)(int64_t)A(int32_t);
	NEXT(v, i);
}
static const void *cwd(struct vcpu *v, const struct insn *i)
{
	D(uint16_t) = (uint16_t)(A(int16_t) >> 15);
	NEXT(v, i);
}
static const void *cdq(struct vcpu *v, const struct insn *i)
{
	D(uint64_t) = (uint32_t)(A(int32_t) >> 31);
	NEXT(v, i);
}
static const void *cqo(struct vcpu *v, const struct insn *i)
{
	D(uint64_t) = (uint64_t)(A(int64_t) >> 63);
	NEXT(v, i);
}

insn_handler *convert_handler(unsigned opcode, unsigned size_log)
{
	static insn_handler *const table[2][3] = { { cbw, cwde, cdqe }, { cwd, cdq, cqo } };

	return table[opcode & 1][size_log - 1];
}

/* Guest and host order memory alike; what reaches another vcpu needs the host's fence. */
const void *insn_fence(struct vcpu *v, const struct insn *i)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	NEXT(v, i);
}

/* What keeps a guest's RDTSC behind what it follows must keep the host's there. */
const void *insn_lfence(struct vcpu *v, const struct insn *i)
{
	__asm__ volatile("lfence" ::: "memory");
	NEXT(v, i);
}

const void *insn_nop(struct vcpu *v, const struct insn *i)
{
	NEXT(v, i);
}

/*
 * A vcpu that spins waits for another, which may have no host CPU while there
 * are more vcpus than CPUs: after a while ours is offered.
 */
const void *insn_pause(struct vcpu *v, const struct insn *i)
{
	spin_relax(v->soft.pauses++);
	NEXT(v, i);
}
