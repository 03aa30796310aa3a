/* BT BTS BTR BTC, BSF BSR, CMPXCHG, XADD, and the flag instructions CLC STC CMC CLD STD. */
#include "engine/interpret/access.h"
#include "engine/interpret/condition.h"
#include "engine/interpret/ops.h"

/*
 * A register bit offset reaches beyond the operand in memory: the operand
 * moves by whole operands first (SDM 2A, BT), `delta` bytes from where it is
 * encoded.
 */
static int bit_linear(struct vcpu *v, const struct insn *i, int64_t delta, unsigned size,
		      bool write)
{
	struct insn moved;

	moved.base = i->base;
	moved.index = i->index;
	moved.shift = i->shift;
	moved.seg = i->seg;
	moved.width = i->width;
	moved.disp = i->disp;
	/* Addresses of 32 and 16 bits wrap, so the low half of the sum is all that counts. */
	if (i->width != 8 ||
	    (delta == (int32_t)delta && (int64_t)i->disp + delta == (int32_t)(i->disp + delta))) {
		moved.disp = (int32_t)(i->disp + delta);
		return insn_linear(v, &moved, size, write);
	}
	/* A displacement beyond 32 bits exists only in 64-bit mode, where linear addresses just
	 * add. */
	if (insn_linear(v, &moved, size, write))
		return -1;
	v->soft.la += (uint64_t)delta;
	return 0;
}

#define BIT_COMPUTE(op, s, d, b, fl)                         \
	__asm__(FLAGS_IN op s " %[bit], %[dst]" CAPTURE      \
		: [dst] "+r"(d), "=&a"(fl)                   \
		: "1"((uint32_t)v->soft.flags), [bit] "r"(b) \
		: "cc")

#define BIT_LOCKED(op, s, T, p, b, fl)                                                         \
	do {                                                                                   \
		T old_ = *(volatile T *)(p), new_;                                             \
		do {                                                                           \
			new_ = old_;                                                           \
			BIT_COMPUTE(op, s, new_, b, fl);                                       \
		} while (!__atomic_compare_exchange_n(p, &old_, new_, false, __ATOMIC_SEQ_CST, \
						      __ATOMIC_SEQ_CST));                      \
	} while (0)

#define BIT(name, op, s, S, T, ST, LOG, writes)                                               \
	static const void *name##_rr_##S(struct vcpu *v, const struct insn *i)                \
	{                                                                                     \
		T d = REG(v, i->dst, T), b = REG(v, i->src, T);                               \
		uint32_t fl;                                                                  \
		BIT_COMPUTE(op, s, d, b, fl);                                                 \
		FLAGS(fl);                                                                    \
		if (writes)                                                                   \
			SET(T, i->dst, d);                                                    \
		NEXT(v, i);                                                                   \
	}                                                                                     \
	static const void *name##_ri_##S(struct vcpu *v, const struct insn *i)                \
	{                                                                                     \
		T d = REG(v, i->dst, T), b = (T)(i->imm & (sizeof(T) * 8 - 1));               \
		uint32_t fl;                                                                  \
		BIT_COMPUTE(op, s, d, b, fl);                                                 \
		FLAGS(fl);                                                                    \
		if (writes)                                                                   \
			SET(T, i->dst, d);                                                    \
		NEXT(v, i);                                                                   \
	}                                                                                     \
	BIT_MEMORY(name, op, s, S, T, writes, gr,                                             \
		   int64_t delta = (int64_t)(REG(v, i->src, ST) >> LOG) * (int64_t)sizeof(T); \
		   T b = REG(v, i->src, T) & (sizeof(T) * 8 - 1),                             \
		   bit_linear(v, i, delta, sizeof(T), writes))                                \
	BIT_MEMORY(name, op, s, S, T, writes, gi, T b = (T)(i->imm & (sizeof(T) * 8 - 1)),    \
		   insn_linear(v, i, sizeof(T), writes))
#define BIT_MEMORY(name, op, s, S, T, writes, suffix, declare, address)                \
	static const void *name##_##suffix##_##S(struct vcpu *v, const struct insn *i) \
	{                                                                              \
		declare;                                                               \
		T d;                                                                   \
		uint64_t la;                                                           \
		uint32_t fl;                                                           \
		if (unlikely(address))                                                 \
			FAULT(v, i);                                                   \
		la = v->soft.la;                                                       \
		if ((writes) && i->aux) {                                              \
			T *p = tlb_lock_ptr(v, la, sizeof(T));                         \
			if (likely(p)) {                                               \
				BIT_LOCKED(op, s, T, p, b, fl);                        \
				FLAGS(fl);                                             \
				NEXT(v, i);                                            \
			}                                                              \
			p = mmu_lock(v, la, sizeof(T));                                \
			if (!p)                                                        \
				MEMORY_FAULT(v, i);                                    \
			BIT_LOCKED(op, s, T, p, b, fl);                                \
			FLAGS(fl);                                                     \
			mmu_unlock(v);                                                 \
			NEXT(v, i);                                                    \
		}                                                                      \
		if (writes) {                                                          \
			volatile T *p = tlb_write_ptr(v, la, sizeof(T));               \
			if (likely(p)) {                                               \
				d = *p;                                                \
				BIT_COMPUTE(op, s, d, b, fl);                          \
				*p = d;                                                \
				FLAGS(fl);                                             \
				NEXT(v, i);                                            \
			}                                                              \
			if (mem_rmw_slow(v, la, sizeof(T)))                            \
				MEMORY_FAULT(v, i);                                    \
			d = (T)v->soft.value;                                          \
			BIT_COMPUTE(op, s, d, b, fl);                                  \
			v->soft.value = d;                                             \
			if (mem_store_slow(v, la, sizeof(T)))                          \
				MEMORY_FAULT(v, i);                                    \
		} else {                                                               \
			LOAD(T, d);                                                    \
			BIT_COMPUTE(op, s, d, b, fl);                                  \
		}                                                                      \
		FLAGS(fl);                                                             \
		NEXT(v, i);                                                            \
	}
#define BIT3(name, op, writes)                              \
	BIT(name, op, "w", 1, uint16_t, int16_t, 4, writes) \
	BIT(name, op, "l", 2, uint32_t, int32_t, 5, writes) \
	BIT(name, op, "q", 3, uint64_t, int64_t, 6, writes)
BIT3(bt, "bt", false)
BIT3(bts, "bts", true)
BIT3(btr, "btr", true)
BIT3(btc, "btc", true)

insn_handler *bit_handler(enum bit_op op, enum form form, unsigned size_log)
{
#define ROW(n, S)                                              \
	{                                                      \
		n##_rr_##S, n##_ri_##S, n##_gr_##S, n##_gi_##S \
	}
#define ROWS(n)                                 \
	{                                       \
		ROW(n, 1), ROW(n, 2), ROW(n, 3) \
	}
	static insn_handler *const table[BIT_OPS][3][4] = {
		[BIT_TEST] = ROWS(bt),
		[BIT_SET] = ROWS(bts),
		[BIT_RESET] = ROWS(btr),
		[BIT_COMPLEMENT] = ROWS(btc),
	};
	unsigned column = form == FORM_RR                      ? 0
			  : form == FORM_RI                    ? 1
			  : form == FORM_GR || form == FORM_LR ? 2
							       : 3;

	return table[op][size_log - 1][column];
}

/* A zero source leaves the destination as it was: the host's own behaviour, and what kernels rely
 * on. */
#define SCAN(name, op, s, S, T)                                                \
	static const void *name##_rr_##S(struct vcpu *v, const struct insn *i) \
	{                                                                      \
		T d = REG(v, i->dst, T), src = REG(v, i->src, T);              \
		uint32_t fl;                                                   \
		__asm__(FLAGS_IN op s " %[src], %[dst]" CAPTURE                \
			: [dst] "+r"(d), "=&a"(fl)                             \
			: "1"((uint32_t)v->soft.flags), [src] "r"(src)         \
			: "cc");                                               \
		FLAGS(fl);                                                     \
		if (src)                                                       \
			SET(T, i->dst, d);                                     \
		NEXT(v, i);                                                    \
	}                                                                      \
	static const void *name##_rg_##S(struct vcpu *v, const struct insn *i) \
	{                                                                      \
		T d = REG(v, i->dst, T), src;                                  \
		uint32_t fl;                                                   \
		ADDRESS_G(T, false);                                           \
		LOAD(T, src);                                                  \
		__asm__(FLAGS_IN op s " %[src], %[dst]" CAPTURE                \
			: [dst] "+r"(d), "=&a"(fl)                             \
			: "1"((uint32_t)v->soft.flags), [src] "r"(src)         \
			: "cc");                                               \
		FLAGS(fl);                                                     \
		if (src)                                                       \
			SET(T, i->dst, d);                                     \
		NEXT(v, i);                                                    \
	}
SCAN(bsf, "bsf", "w", 1, uint16_t)
SCAN(bsf, "bsf", "l", 2, uint32_t)
SCAN(bsf, "bsf", "q", 3, uint64_t)
SCAN(bsr, "bsr", "w", 1, uint16_t)
SCAN(bsr, "bsr", "l", 2, uint32_t)
SCAN(bsr, "bsr", "q", 3, uint64_t)

insn_handler *bitscan_handler(bool reverse, enum form form, unsigned size_log)
{
	static insn_handler *const table[2][2][3] = {
		{ { bsf_rr_1, bsf_rr_2, bsf_rr_3 }, { bsf_rg_1, bsf_rg_2, bsf_rg_3 } },
		{ { bsr_rr_1, bsr_rr_2, bsr_rr_3 }, { bsr_rg_1, bsr_rg_2, bsr_rg_3 } },
	};

	return table[reverse][form != FORM_RR][size_log - 1];
}

/* CMPXCHG: the destination is written in either case; LOCK or not, it is the host's atomic form. */
#define CMPXCHG(s, S, T)                                                        \
	static inline uint32_t compare_##S(T a, T d)                            \
	{                                                                       \
		uint32_t fl;                                                    \
		__asm__("cmp" s " %[d], %[a]" CAPTURE                           \
			: "=&a"(fl)                                             \
			: [a] "q"(a), [d] "q"(d)                                \
			: "cc");                                                \
		return fl;                                                      \
	}                                                                       \
	static inline T exchange_##S(T *p, T a, T source)                       \
	{                                                                       \
		uint64_t out = a;                                               \
		__asm__ volatile("lock cmpxchg" s " %[source], %[m]"            \
				 : "+a"(out), [m] "+m"(*p)                      \
				 : [source] "q"(source)                         \
				 : "cc", "memory");                             \
		return (T)out;                                                  \
	}                                                                       \
	static const void *cmpxchg_rr_##S(struct vcpu *v, const struct insn *i) \
	{                                                                       \
		T a = REG(v, RAX * 8, T), d = REG(v, i->dst, T);                \
		FLAGS(compare_##S(a, d));                                       \
		if (a == d)                                                     \
			SET(T, i->dst, REG(v, i->src, T));                      \
		else                                                            \
			SET(T, RAX * 8, d);                                     \
		NEXT(v, i);                                                     \
	}                                                                       \
	static const void *cmpxchg_lr_##S(struct vcpu *v, const struct insn *i) \
	{                                                                       \
		T a = REG(v, RAX * 8, T), s_ = REG(v, i->src, T), d;            \
		ADDRESS_G(T, true);                                             \
		T *p = tlb_lock_ptr(v, la, sizeof(T));                          \
		if (likely(p)) {                                                \
			d = exchange_##S(p, a, s_);                             \
		} else {                                                        \
			p = mmu_lock(v, la, sizeof(T));                         \
			if (!p)                                                 \
				MEMORY_FAULT(v, i);                             \
			d = exchange_##S(p, a, s_);                             \
			mmu_unlock(v);                                          \
		}                                                               \
		FLAGS(compare_##S(a, d));                                       \
		if (a != d)                                                     \
			SET(T, RAX * 8, d);                                     \
		NEXT(v, i);                                                     \
	}
CMPXCHG("b", 0, uint8_t)
CMPXCHG("w", 1, uint16_t)
CMPXCHG("l", 2, uint32_t)
CMPXCHG("q", 3, uint64_t)

insn_handler *cmpxchg_handler(enum form form, unsigned size_log)
{
	static insn_handler *const table[2][4] = {
		{ cmpxchg_rr_0, cmpxchg_rr_1, cmpxchg_rr_2, cmpxchg_rr_3 },
		{ cmpxchg_lr_0, cmpxchg_lr_1, cmpxchg_lr_2, cmpxchg_lr_3 },
	};

	return table[form != FORM_RR][size_log];
}

#define XADD(s, S, T)                                                        \
	static inline T sum_##S(struct vcpu *v, T d, T s_)                   \
	{                                                                    \
		uint32_t fl;                                                 \
		__asm__("add" s " %[source], %[d]" CAPTURE                   \
			: [d] "+q"(d), "=&a"(fl)                             \
			: [source] "q"(s_)                                   \
			: "cc");                                             \
		FLAGS(fl);                                                   \
		return d;                                                    \
	}                                                                    \
	static const void *xadd_rr_##S(struct vcpu *v, const struct insn *i) \
	{                                                                    \
		T d = REG(v, i->dst, T), s_ = REG(v, i->src, T);             \
		T sum = sum_##S(v, d, s_);                                   \
		SET(T, i->src, d);                                           \
		SET(T, i->dst, sum);                                         \
		NEXT(v, i);                                                  \
	}                                                                    \
	static const void *xadd_lr_##S(struct vcpu *v, const struct insn *i) \
	{                                                                    \
		T s_ = REG(v, i->src, T), d;                                 \
		ADDRESS_G(T, true);                                          \
		T *p = tlb_lock_ptr(v, la, sizeof(T));                       \
		if (likely(p)) {                                             \
			d = __atomic_fetch_add(p, s_, __ATOMIC_SEQ_CST);     \
		} else {                                                     \
			p = mmu_lock(v, la, sizeof(T));                      \
			if (!p)                                              \
				MEMORY_FAULT(v, i);                          \
			d = __atomic_fetch_add(p, s_, __ATOMIC_SEQ_CST);     \
			mmu_unlock(v);                                       \
		}                                                            \
		sum_##S(v, d, s_);                                           \
		SET(T, i->src, d);                                           \
		NEXT(v, i);                                                  \
	}
XADD("b", 0, uint8_t)
XADD("w", 1, uint16_t)
XADD("l", 2, uint32_t)
XADD("q", 3, uint64_t)

insn_handler *xadd_handler(enum form form, unsigned size_log)
{
	static insn_handler *const table[2][4] = {
		{ xadd_rr_0, xadd_rr_1, xadd_rr_2, xadd_rr_3 },
		{ xadd_lr_0, xadd_lr_1, xadd_lr_2, xadd_lr_3 },
	};

	return table[form != FORM_RR][size_log];
}

static const void *clc(struct vcpu *v, const struct insn *i)
{
	v->soft.flags &= (uint16_t)~KEPT_C;
	NEXT(v, i);
}
static const void *stc(struct vcpu *v, const struct insn *i)
{
	v->soft.flags |= KEPT_C;
	NEXT(v, i);
}
static const void *cmc(struct vcpu *v, const struct insn *i)
{
	v->soft.flags ^= KEPT_C;
	NEXT(v, i);
}
static const void *cld(struct vcpu *v, const struct insn *i)
{
	v->arch.rflags &= ~(uint64_t)FLAG_DF;
	NEXT(v, i);
}
static const void *std(struct vcpu *v, const struct insn *i)
{
	v->arch.rflags |= FLAG_DF;
	NEXT(v, i);
}

insn_handler *flag_handler(unsigned opcode)
{
	switch (opcode) {
	case 0xf5:
		return cmc;
	case 0xf8:
		return clc;
	case 0xf9:
		return stc;
	case 0xfc:
		return cld;
	case 0xfd:
		return std;
	default:
		return NULL;
	}
}
