/*
 * MOVS STOS LODS CMPS SCAS. A REP form runs in chunks that stay inside one
 * page on each side: the host's own string instruction on host pointers, which
 * alias exactly as the guest's physical memory does. After each chunk RSI, RDI
 * and RCX are architectural, so a fault or an interrupt restarts in the middle.
 *
 * Record layout: imm = 0 none, 1 REP or REPE, 2 REPNE; seg = source segment;
 * width = address size.
 */
#include "cpu/mode.h"
#include "cpu/segment.h"
#include "engine/interpret/access.h"
#include "engine/interpret/ops.h"

enum { REP_NONE, REP_E, REP_NE };

struct ends {
	uint64_t mask; /* of RSI, RDI, RCX by address size */
	bool backward;
	bool plain; /* offsets are linear addresses up to a base: chunks need no segment checks */
	uint64_t base; /* of the source segment when plain */
};

static inline uint64_t reg_masked(const struct vcpu *v, unsigned reg, uint64_t mask)
{
	return v->arch.gpr[reg] & mask;
}

/* Writes back a counter or index: 16-bit keeps the upper part, 32-bit clears it. */
static inline void reg_update(struct vcpu *v, unsigned reg, uint64_t value, uint64_t mask)
{
	if (mask == 0xffffu)
		REG(v, reg * 8, uint16_t) = (uint16_t)value;
	else
		v->arch.gpr[reg] = value & mask;
}

static inline struct ends ends_of(const struct vcpu *v, const struct insn *i)
{
	struct ends e;

	e.mask = i->width == 8 ? ~0ull : i->width == 4 ? 0xffffffffu : 0xffffu;
	e.backward = v->arch.rflags & FLAG_DF;
	if (v->soft.mode & MODE_CODE64) {
		e.plain = true;
		e.base = i->seg == SEG_FS || i->seg == SEG_GS ? v->arch.seg[i->seg].base : 0;
	} else {
		e.plain = (v->soft.flat >> i->seg & 1) && (v->soft.flat >> SEG_ES & 1);
		e.base = 0;
	}
	/* Single-stepped and watched code stops after every element. */
	if (unlikely(v->soft.mode & (MODE_TF | MODE_BREAK)))
		e.plain = false;
	return e;
}

/*
 * How many elements from linear address la stay in its page, going the given
 * way; 0 if the first one crosses. `offset` limits by the wrap of the index.
 */
static inline uint64_t run_length(uint64_t la, uint64_t offset, const struct ends *e, unsigned size)
{
	uint64_t in_page = la & ~PAGE_MASK, n, wrap;

	if (e->backward) {
		if (in_page + size > PAGE_SIZE)
			return 0;
		n = in_page / size + 1;
		wrap = offset / size + 1;
	} else {
		n = (PAGE_SIZE - in_page) / size;
		wrap = (e->mask - offset) / size + 1;
		if (e->mask - offset < size - 1)
			wrap = 0;
	}
	return n < wrap ? n : wrap;
}

static inline void advance(struct vcpu *v, unsigned reg, uint64_t elements, const struct ends *e,
			   unsigned size)
{
	uint64_t delta = elements * size;

	reg_update(v, reg, v->arch.gpr[reg] + (e->backward ? 0 - delta : delta), e->mask);
}

/* One element's address with all checks: linear in v->soft.la. */
static inline int element_linear(struct vcpu *v, unsigned seg, uint64_t offset, unsigned size,
				 bool write)
{
	if (v->soft.mode & MODE_CODE64) {
		v->soft.la = offset + (seg == SEG_FS || seg == SEG_GS ? v->arch.seg[seg].base : 0);
		return 0;
	}
	return segment_linear(v, seg, offset, size, write);
}

static inline void narrow_registers(struct vcpu *v, bool si, bool di)
{
	v->arch.gpr[RCX] = (uint32_t)v->arch.gpr[RCX];
	if (si)
		v->arch.gpr[RSI] = (uint32_t)v->arch.gpr[RSI];
	if (di)
		v->arch.gpr[RDI] = (uint32_t)v->arch.gpr[RDI];
}

/*
 * A fault in a repeated comparison leaves the flags of before the instruction,
 * not of the element before (SDM 2, REP).
 */
#define COMPARE_FAULT(seg_)                                        \
	do {                                                       \
		v->soft.flags = flags_before;                      \
		if (v->fault.vector == VEC_GP && (seg_) == SEG_SS) \
			v->fault.vector = VEC_SS;                  \
		FAULT(v, i);                                       \
	} while (0)
#define COMPARE_LOAD(T, val, seg_, reg_)                                                      \
	do {                                                                                  \
		uint64_t la;                                                                  \
		const volatile T *p_;                                                         \
		if (element_linear(v, seg_, reg_masked(v, reg_, e.mask), sizeof(T), false)) { \
			v->soft.flags = flags_before;                                         \
			FAULT(v, i);                                                          \
		}                                                                             \
		la = v->soft.la;                                                              \
		p_ = tlb_read_ptr(v, la, sizeof(T));                                          \
		if (likely(p_)) {                                                             \
			(val) = *p_;                                                          \
		} else {                                                                      \
			if (mem_load_slow(v, la, sizeof(T)))                                  \
				COMPARE_FAULT(seg_);                                          \
			(val) = (T)v->soft.value;                                             \
		}                                                                             \
	} while (0)

#define SUFFIX(S) SUFFIX_##S
#define SUFFIX_0  "b"
#define SUFFIX_1  "w"
#define SUFFIX_2  "l"
#define SUFFIX_3  "q"

/* The host's instruction, backwards or forwards. */
#define HOST(text, outputs, inputs, backward)                                   \
	do {                                                                    \
		if (unlikely(backward))                                         \
			__asm__ volatile("std\n\t" text "\n\tcld"               \
					 : outputs:inputs                       \
					 : "memory", "cc");                     \
		else                                                            \
			__asm__ volatile(text:outputs:inputs : "memory", "cc"); \
	} while (0)
#define LIST(...) __VA_ARGS__

/*
 * The frame shared by all five: REP count handling around ONE (an element with
 * all checks, may FAULT) and MANY (a chunk of `n` elements by host pointers;
 * yields how many were done and whether the instruction ends here).
 */
#define STRING(name, S, T, USES_SI, USES_DI, DI_WRITE, ONE, MANY)                               \
	static const void *name##_##S(struct vcpu *v, const struct insn *i)                     \
	{                                                                                       \
		const struct ends e = ends_of(v, i);                                            \
		const uint16_t flags_before = v->soft.flags;                                    \
		uint64_t count;                                                                 \
		bool ended = false;                                                             \
		(void)flags_before;                                                             \
		if (i->imm == REP_NONE) {                                                       \
			ONE(T, S);                                                              \
			NEXT(v, i);                                                             \
		}                                                                               \
		/* REP writes the counter, and with it the upper half, even if it does nothing; \
		 * MOVS and STOS their indexes. */                                              \
		if (unlikely(e.mask == 0xffffffffu))                                            \
			narrow_registers(v, USES_SI &&DI_WRITE, DI_WRITE);                      \
		while ((count = reg_masked(v, RCX, e.mask)) != 0) {                             \
			uint64_t n = 0, si, di;                                                 \
			const void *from = NULL;                                                \
			void *to = NULL;                                                        \
			if (e.plain) {                                                          \
				n = count;                                                      \
				if (USES_SI) {                                                  \
					uint64_t la, run;                                       \
					si = reg_masked(v, RSI, e.mask);                        \
					la = si + e.base;                                       \
					run = run_length(la, si, &e, sizeof(T));                \
					from = run ? tlb_read_ptr(v, la, sizeof(T)) : NULL;     \
					n = !from ? 0 : n < run ? n : run;                      \
				}                                                               \
				if (USES_DI) {                                                  \
					uint64_t run;                                           \
					di = reg_masked(v, RDI, e.mask);                        \
					run = run_length(di, di, &e, sizeof(T));                \
					to = !run       ? NULL                                  \
					     : DI_WRITE ? tlb_write_ptr(v, di, sizeof(T))       \
							: tlb_read_ptr(v, di, sizeof(T));       \
					n = !to ? 0 : n < run ? n : run;                        \
				}                                                               \
			}                                                                       \
			if (n) {                                                                \
				MANY(T, S);                                                     \
			} else {                                                                \
				ONE(T, S);                                                      \
				n = 1;                                                          \
			}                                                                       \
			reg_update(v, RCX, count - n, e.mask);                                  \
			if (ended)                                                              \
				break;                                                          \
			if (unlikely(atomic_load_explicit(&v->req, memory_order_relaxed)) &&    \
			    count != n) {                                                       \
				v->arch.rflags |=                                               \
					FLAG_RF; /* events between iterations push it set */    \
				LEAVE(v, v->arch.rip + i->offset, TRACE_EVENTS);                \
			}                                                                       \
		}                                                                               \
		NEXT(v, i);                                                                     \
	}

#define TEST_END(S) \
	(ended = i->imm != REP_NONE && ((v->soft.flags & 0x4000u) != 0) != (i->imm == REP_E))

/* MOVS */
#define MOVS_ONE(T, S)                                                                       \
	{                                                                                    \
		T x;                                                                         \
		uint64_t la;                                                                 \
		if (element_linear(v, i->seg, reg_masked(v, RSI, e.mask), sizeof(T), false)) \
			FAULT(v, i);                                                         \
		la = v->soft.la;                                                             \
		LOAD(T, x);                                                                  \
		if (element_linear(v, SEG_ES, reg_masked(v, RDI, e.mask), sizeof(T), true))  \
			FAULT(v, i);                                                         \
		la = v->soft.la;                                                             \
		STORE(T, x);                                                                 \
		advance(v, RSI, 1, &e, sizeof(T));                                           \
		advance(v, RDI, 1, &e, sizeof(T));                                           \
	}
#define MOVS_MANY(T, S)                                                                           \
	{                                                                                         \
		uint64_t left = n;                                                                \
		HOST("rep movs" SUFFIX(S), LIST("+S"(from), "+D"(to), "+c"(left)), , e.backward); \
		advance(v, RSI, n, &e, sizeof(T));                                                \
		advance(v, RDI, n, &e, sizeof(T));                                                \
	}
/* STOS */
#define STOS_ONE(T, S)                                                                      \
	{                                                                                   \
		uint64_t la;                                                                \
		if (element_linear(v, SEG_ES, reg_masked(v, RDI, e.mask), sizeof(T), true)) \
			FAULT(v, i);                                                        \
		la = v->soft.la;                                                            \
		STORE(T, REG(v, RAX * 8, T));                                               \
		advance(v, RDI, 1, &e, sizeof(T));                                          \
	}
#define STOS_MANY(T, S)                                                                       \
	{                                                                                     \
		uint64_t left = n;                                                            \
		HOST("rep stos" SUFFIX(S), LIST("+D"(to), "+c"(left)), "a"(v->arch.gpr[RAX]), \
		     e.backward);                                                             \
		advance(v, RDI, n, &e, sizeof(T));                                            \
	}
/* LODS: only the last element of a chunk survives. */
#define LODS_ONE(T, S)                                                                       \
	{                                                                                    \
		T x;                                                                         \
		uint64_t la;                                                                 \
		if (element_linear(v, i->seg, reg_masked(v, RSI, e.mask), sizeof(T), false)) \
			FAULT(v, i);                                                         \
		la = v->soft.la;                                                             \
		LOAD(T, x);                                                                  \
		SET(T, RAX * 8, x);                                                          \
		advance(v, RSI, 1, &e, sizeof(T));                                           \
	}
#define LODS_MANY(T, S)                                              \
	{                                                            \
		const volatile T *last = (const volatile T *)from;   \
		last = e.backward ? last - (n - 1) : last + (n - 1); \
		SET(T, RAX * 8, *last);                              \
		advance(v, RSI, n, &e, sizeof(T));                   \
	}
/* CMPS */
#define CMPS_ONE(T, S)                                        \
	{                                                     \
		T a, b;                                       \
		uint32_t fl;                                  \
		/* Hardware reads the destination first. */   \
		COMPARE_LOAD(T, b, SEG_ES, RDI);              \
		COMPARE_LOAD(T, a, i->seg, RSI);              \
		__asm__("cmp" SUFFIX(S) " %[b], %[a]" CAPTURE \
			: "=&a"(fl)                           \
			: [a] "q"(a), [b] "q"(b)              \
			: "cc");                              \
		FLAGS(fl);                                    \
		TEST_END(S);                                  \
		advance(v, RSI, 1, &e, sizeof(T));            \
		advance(v, RDI, 1, &e, sizeof(T));            \
	}
#define CMPS_MANY(T, S)                                                                       \
	{                                                                                     \
		uint64_t left = n;                                                            \
		uint32_t fl;                                                                  \
		if (i->imm == REP_E)                                                          \
			HOST("repe cmps" SUFFIX(S) CAPTURE,                                   \
			     LIST("+S"(from), "+D"(to), "+c"(left), "=a"(fl)), , e.backward); \
		else                                                                          \
			HOST("repne cmps" SUFFIX(S) CAPTURE,                                  \
			     LIST("+S"(from), "+D"(to), "+c"(left), "=a"(fl)), , e.backward); \
		FLAGS(fl);                                                                    \
		TEST_END(S);                                                                  \
		n -= left;                                                                    \
		advance(v, RSI, n, &e, sizeof(T));                                            \
		advance(v, RDI, n, &e, sizeof(T));                                            \
	}
/* SCAS */
#define SCAS_ONE(T, S)                                        \
	{                                                     \
		T a = REG(v, RAX * 8, T), b;                  \
		uint32_t fl;                                  \
		COMPARE_LOAD(T, b, SEG_ES, RDI);              \
		__asm__("cmp" SUFFIX(S) " %[b], %[a]" CAPTURE \
			: "=&a"(fl)                           \
			: [a] "q"(a), [b] "q"(b)              \
			: "cc");                              \
		FLAGS(fl);                                    \
		TEST_END(S);                                  \
		advance(v, RDI, 1, &e, sizeof(T));            \
	}
#define SCAS_MANY(T, S)                                                                            \
	{                                                                                          \
		uint64_t left = n, a = v->arch.gpr[RAX];                                           \
		if (i->imm == REP_E)                                                               \
			HOST("repe scas" SUFFIX(S) CAPTURE, LIST("+D"(to), "+c"(left), "+a"(a)), , \
			     e.backward);                                                          \
		else                                                                               \
			HOST("repne scas" SUFFIX(S) CAPTURE, LIST("+D"(to), "+c"(left), "+a"(a)),  \
			     , e.backward);                                                        \
		FLAGS(a);                                                                          \
		TEST_END(S);                                                                       \
		n -= left;                                                                         \
		advance(v, RDI, n, &e, sizeof(T));                                                 \
	}

#define FOUR(name, SI, DI, W, ONE, MANY)                \
	STRING(name, 0, uint8_t, SI, DI, W, ONE, MANY)  \
	STRING(name, 1, uint16_t, SI, DI, W, ONE, MANY) \
	STRING(name, 2, uint32_t, SI, DI, W, ONE, MANY) \
	STRING(name, 3, uint64_t, SI, DI, W, ONE, MANY)
FOUR(movs, 1, 1, 1, MOVS_ONE, MOVS_MANY)
FOUR(stos, 0, 1, 1, STOS_ONE, STOS_MANY)
FOUR(lods, 1, 0, 0, LODS_ONE, LODS_MANY)
FOUR(cmps, 1, 1, 0, CMPS_ONE, CMPS_MANY)
FOUR(scas, 0, 1, 0, SCAS_ONE, SCAS_MANY)

insn_handler *string_handler(unsigned opcode, unsigned size_log)
{
#define ROW(n)                             \
	{                                  \
		n##_0, n##_1, n##_2, n##_3 \
	}
	static insn_handler *const table[5][4] = { ROW(movs), ROW(cmps), ROW(stos), ROW(lods),
						   ROW(scas) };

	switch (opcode & ~1u) {
	case 0xa4:
		return table[0][size_log];
	case 0xa6:
		return table[1][size_log];
	case 0xaa:
		return table[2][size_log];
	case 0xac:
		return table[3][size_log];
	case 0xae:
		return table[4][size_log];
	default:
		return NULL;
	}
}
