/* MUL IMUL DIV IDIV by the host's own. A quotient that would not fit is #DE before the host could
 * trap. */
#include "engine/interpret/access.h"
#include "engine/interpret/ops.h"

#define DIVIDE_ERROR(v, i)             \
	do {                           \
		excp_raise(v, VEC_DE); \
		FAULT(v, i);           \
	} while (0)

/* Widening products. AL and AX hold the 8-bit ones, rDX:rAX the others. */
#define WIDE(name, op, s, S, T)                                                                    \
	static inline void name##_##S(struct vcpu *v, T s_)                                        \
	{                                                                                          \
		T lo = REG(v, RAX * 8, T), hi;                                                     \
		uint32_t fl;                                                                       \
		__asm__(op s " %[src]\n\tmov %%" A_##S ", %[lo]\n\tmov %%" D_##S ", %[hi]" CAPTURE \
			: [lo] "=&r"(lo), [hi] "=&r"(hi), "=&a"(fl)                                \
			: "2"((uint64_t)lo), [src] "r"(s_)                                         \
			: "rdx", "cc");                                                            \
		FLAGS(fl);                                                                         \
		SET(T, RAX * 8, lo);                                                               \
		SET(T, RDX * 8, hi);                                                               \
	}                                                                                          \
	FORMS2(name, S, T)
#define A_1 "ax"
#define A_2 "eax"
#define A_3 "rax"
#define D_1 "dx"
#define D_2 "edx"
#define D_3 "rdx"
#define FORMS2(name, S, T)                                                    \
	static const void *name##_r_##S(struct vcpu *v, const struct insn *i) \
	{                                                                     \
		name##_##S(v, REG(v, i->src, T));                             \
		NEXT(v, i);                                                   \
	}                                                                     \
	static const void *name##_g_##S(struct vcpu *v, const struct insn *i) \
	{                                                                     \
		T s;                                                          \
		ADDRESS_G(T, false);                                          \
		LOAD(T, s);                                                   \
		name##_##S(v, s);                                             \
		NEXT(v, i);                                                   \
	}
#define BYTE(name, op)                                                \
	static inline void name##_0(struct vcpu *v, uint8_t s)        \
	{                                                             \
		uint64_t a = REG(v, RAX * 8, uint8_t);                \
		uint16_t product;                                     \
		__asm__(op "b %[src]\n\tmov %%ax, %[product]" CAPTURE \
			: [product] "=&r"(product), "+&a"(a)          \
			: [src] "r"(s)                                \
			: "cc");                                      \
		FLAGS(a);                                             \
		REG(v, RAX * 8, uint16_t) = product;                  \
	}                                                             \
	FORMS2(name, 0, uint8_t)
BYTE(mul, "mul")
BYTE(imul, "imul")
WIDE(mul, "mul", "w", 1, uint16_t)
WIDE(mul, "mul", "l", 2, uint32_t)
WIDE(mul, "mul", "q", 3, uint64_t)
WIDE(imul, "imul", "w", 1, uint16_t)
WIDE(imul, "imul", "l", 2, uint32_t)
WIDE(imul, "imul", "q", 3, uint64_t)

insn_handler *mul_handler(bool sign, enum form1 form, unsigned size_log)
{
	static insn_handler *const table[2][2][4] = {
		{ { mul_r_0, mul_r_1, mul_r_2, mul_r_3 }, { mul_g_0, mul_g_1, mul_g_2, mul_g_3 } },
		{ { imul_r_0, imul_r_1, imul_r_2, imul_r_3 },
		  { imul_g_0, imul_g_1, imul_g_2, imul_g_3 } },
	};

	return table[sign][form != FORM_R][size_log];
}

#define IMUL2(S, s, T)                                                        \
	static const void *imul2_rr_##S(struct vcpu *v, const struct insn *i) \
	{                                                                     \
		T d = REG(v, i->dst, T);                                      \
		uint32_t fl;                                                  \
		__asm__("imul" s " %[src], %[dst]" CAPTURE                    \
			: [dst] "+r"(d), "=&a"(fl)                            \
			: [src] "r"(REG(v, i->src, T))                        \
			: "cc");                                              \
		FLAGS(fl);                                                    \
		SET(T, i->dst, d);                                            \
		NEXT(v, i);                                                   \
	}                                                                     \
	static const void *imul2_rg_##S(struct vcpu *v, const struct insn *i) \
	{                                                                     \
		T d = REG(v, i->dst, T), m;                                   \
		uint32_t fl;                                                  \
		ADDRESS_G(T, false);                                          \
		LOAD(T, m);                                                   \
		__asm__("imul" s " %[src], %[dst]" CAPTURE                    \
			: [dst] "+r"(d), "=&a"(fl)                            \
			: [src] "r"(m)                                        \
			: "cc");                                              \
		FLAGS(fl);                                                    \
		SET(T, i->dst, d);                                            \
		NEXT(v, i);                                                   \
	}                                                                     \
	static const void *imul3_rr_##S(struct vcpu *v, const struct insn *i) \
	{                                                                     \
		T d = (T)i->imm;                                              \
		uint32_t fl;                                                  \
		__asm__("imul" s " %[src], %[dst]" CAPTURE                    \
			: [dst] "+r"(d), "=&a"(fl)                            \
			: [src] "r"(REG(v, i->src, T))                        \
			: "cc");                                              \
		FLAGS(fl);                                                    \
		SET(T, i->dst, d);                                            \
		NEXT(v, i);                                                   \
	}                                                                     \
	static const void *imul3_rg_##S(struct vcpu *v, const struct insn *i) \
	{                                                                     \
		T d = (T)i->imm, m;                                           \
		uint32_t fl;                                                  \
		ADDRESS_G(T, false);                                          \
		LOAD(T, m);                                                   \
		__asm__("imul" s " %[src], %[dst]" CAPTURE                    \
			: [dst] "+r"(d), "=&a"(fl)                            \
			: [src] "r"(m)                                        \
			: "cc");                                              \
		FLAGS(fl);                                                    \
		SET(T, i->dst, d);                                            \
		NEXT(v, i);                                                   \
	}
IMUL2(1, "w", uint16_t)
IMUL2(2, "l", uint32_t)
IMUL2(3, "q", uint64_t)

insn_handler *imul_handler(enum form form, unsigned size_log)
{
	static insn_handler *const table[2][3] = {
		{ imul2_rr_1, imul2_rr_2, imul2_rr_3 },
		{ imul2_rg_1, imul2_rg_2, imul2_rg_3 },
	};

	return table[form != FORM_RR][size_log - 1];
}

insn_handler *imul3_handler(enum form form, unsigned size_log)
{
	static insn_handler *const table[2][3] = {
		{ imul3_rr_1, imul3_rr_2, imul3_rr_3 },
		{ imul3_rg_1, imul3_rg_2, imul3_rg_3 },
	};

	return table[form != FORM_RR][size_log - 1];
}

/*
 * Division returns false for #DE. The flags are undefined by the manual; they
 * are taken from the host's division, which is what the silicon gives.
 */
static inline bool div_0(struct vcpu *v, uint8_t s)
{
	uint64_t a = REG(v, RAX * 8, uint16_t);
	uint16_t result;

	if (s == 0 || (a >> 8) >= s)
		return false;
	__asm__(FLAGS_IN "mov %[dividend], %%eax\n\tdivb %[src]\n\tmov %%ax, %[result]" CAPTURE
		: [result] "=&r"(result), "=&a"(a)
		: "1"((uint64_t)v->soft.flags), [dividend] "r"((uint32_t)a), [src] "r"(s)
		: "cc");
	FLAGS(a);
	REG(v, RAX * 8, uint16_t) = result;
	return true;
}
static inline bool idiv_0(struct vcpu *v, uint8_t s)
{
	int32_t dividend = REG(v, RAX * 8, int16_t), divisor = (int8_t)s, quotient;
	uint64_t a;
	uint16_t result;

	if (divisor == 0)
		return false;
	quotient = dividend / divisor;
	if (quotient != (int8_t)quotient)
		return false;
	__asm__(FLAGS_IN "mov %[dividend], %%eax\n\tidivb %[src]\n\tmov %%ax, %[result]" CAPTURE
		: [result] "=&r"(result), "=&a"(a)
		: "1"((uint64_t)v->soft.flags), [dividend] "r"(dividend), [src] "r"(s)
		: "cc");
	FLAGS(a);
	REG(v, RAX * 8, uint16_t) = result;
	return true;
}
#define DIVISION(name, op, s, S, T, fits)                                              \
	static inline bool name##_##S(struct vcpu *v, T divisor)                       \
	{                                                                              \
		T lo = REG(v, RAX * 8, T), hi = REG(v, RDX * 8, T), q, r;              \
		uint64_t fl;                                                           \
		if (divisor == 0 || !(fits))                                           \
			return false;                                                  \
		__asm__(FLAGS_IN "mov %[lo], %%" A_##S "\n\tmov %[hi], %%" D_##S       \
			"\n\t" op s " %[src]\n\tmov %%" A_##S ", %[q]\n\tmov %%" D_##S \
			", %[r]" CAPTURE                                               \
			: [q] "=&r"(q), [r] "=&r"(r), "=&a"(fl)                        \
			: "2"((uint64_t)v->soft.flags), [lo] "r"(lo), [hi] "r"(hi),    \
			  [src] "r"(divisor)                                           \
			: "rdx", "cc");                                                \
		FLAGS(fl);                                                             \
		SET(T, RAX * 8, q);                                                    \
		SET(T, RDX * 8, r);                                                    \
		return true;                                                           \
	}
/* Does hi:lo / divisor fit in int64? Judged on magnitudes, without a division that could trap. */
static inline bool idiv_fits_64(uint64_t hi, uint64_t lo, int64_t divisor)
{
	unsigned __int128 n = (unsigned __int128)hi << 64 | lo;
	bool negative = (int64_t)hi < 0, opposite = negative != (divisor < 0);
	uint64_t d = divisor < 0 ? 0 - (uint64_t)divisor : (uint64_t)divisor;
	uint64_t limit =
		opposite ? 1ull << 63 : (1ull << 63) - 1; /* largest magnitude of the quotient */

	if (negative)
		n = 0 - n;
	/* quotient <= limit  <=>  n < (limit + 1) * d */
	return n < ((unsigned __int128)limit + 1) * d;
}
static inline bool idiv_fits_small(int64_t dividend, int64_t divisor, unsigned bits)
{
	int64_t q, edge = 1ll << (bits - 1);

	if (divisor == -1) /* INT64_MIN / -1 would trap */
		return dividend > -edge && dividend <= edge;
	q = dividend / divisor;
	return q >= -edge && q < edge;
}
DIVISION(div, "div", "w", 1, uint16_t, hi < divisor)
DIVISION(div, "div", "l", 2, uint32_t, hi < divisor)
DIVISION(div, "div", "q", 3, uint64_t, hi < divisor)
DIVISION(idiv, "idiv", "w", 1, uint16_t,
	 idiv_fits_small((int32_t)((uint32_t)hi << 16 | lo), (int16_t)divisor, 16))
DIVISION(idiv, "idiv", "l", 2, uint32_t,
	 idiv_fits_small((int64_t)((uint64_t)hi << 32 | lo), (int32_t)divisor, 32))
DIVISION(idiv, "idiv", "q", 3, uint64_t, idiv_fits_64(hi, lo, (int64_t)divisor))

#define DIV_FORMS(name, S, T)                                                 \
	static const void *name##_r_##S(struct vcpu *v, const struct insn *i) \
	{                                                                     \
		if (unlikely(!name##_##S(v, REG(v, i->src, T))))              \
			DIVIDE_ERROR(v, i);                                   \
		NEXT(v, i);                                                   \
	}                                                                     \
	static const void *name##_g_##S(struct vcpu *v, const struct insn *i) \
	{                                                                     \
		T s;                                                          \
		ADDRESS_G(T, false);                                          \
		LOAD(T, s);                                                   \
		if (unlikely(!name##_##S(v, s)))                              \
			DIVIDE_ERROR(v, i);                                   \
		NEXT(v, i);                                                   \
	}
DIV_FORMS(div, 0, uint8_t)
DIV_FORMS(div, 1, uint16_t)
DIV_FORMS(div, 2, uint32_t)
DIV_FORMS(div, 3, uint64_t)
DIV_FORMS(idiv, 0, uint8_t)
DIV_FORMS(idiv, 1, uint16_t)
DIV_FORMS(idiv, 2, uint32_t)
DIV_FORMS(idiv, 3, uint64_t)

insn_handler *div_handler(bool sign, enum form1 form, unsigned size_log)
{
	static insn_handler *const table[2][2][4] = {
		{ { div_r_0, div_r_1, div_r_2, div_r_3 }, { div_g_0, div_g_1, div_g_2, div_g_3 } },
		{ { idiv_r_0, idiv_r_1, idiv_r_2, idiv_r_3 },
		  { idiv_g_0, idiv_g_1, idiv_g_2, idiv_g_3 } },
	};

	return table[sign][form != FORM_R][size_log];
}
