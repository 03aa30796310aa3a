/*
 * Shifts and rotates. A count of zero changes no flag and a rotate changes
 * only CF and OF, so the old flags go into the host's before the instruction.
 */
#include "engine/interpret/access.h"
#include "engine/interpret/ops.h"

#define TEXT(op, s) FLAGS_IN op s " %%cl, %[dst]" CAPTURE
#define SHIFT(text, d, count, fl)                                     \
	__asm__(text                                                  \
		: [dst] "+q"(d), "=&a"(fl)                            \
		: "1"((uint32_t)v->soft.flags), "c"((uint8_t)(count)) \
		: "cc")

#define SHIFTER(name, op, s, S, T)                        \
	SHIFTER_BY(name, op, s, S, T, i, (uint8_t)i->imm) \
	SHIFTER_BY(name, op, s, S, T, cl, REG(v, RCX * 8, uint8_t))
#define SHIFTER_BY(name, op, s, S, T, by, count)                                     \
	static const void *name##_r_##by##_##S(struct vcpu *v, const struct insn *i) \
	{                                                                            \
		T d = REG(v, i->dst, T);                                             \
		uint32_t fl;                                                         \
		SHIFT(TEXT(op, s), d, count, fl);                                    \
		FLAGS(fl);                                                           \
		SET(T, i->dst, d);                                                   \
		NEXT(v, i);                                                          \
	}                                                                            \
	static const void *name##_g_##by##_##S(struct vcpu *v, const struct insn *i) \
	{                                                                            \
		T d;                                                                 \
		uint32_t fl;                                                         \
		ADDRESS_G(T, true);                                                  \
		LOAD_RMW(T, d);                                                      \
		SHIFT(TEXT(op, s), d, count, fl);                                    \
		STORE_RMW(T, d);                                                     \
		FLAGS(fl);                                                           \
		NEXT(v, i);                                                          \
	}
#define SHIFTER4(name, op)                  \
	SHIFTER(name, op, "b", 0, uint8_t)  \
	SHIFTER(name, op, "w", 1, uint16_t) \
	SHIFTER(name, op, "l", 2, uint32_t) \
	SHIFTER(name, op, "q", 3, uint64_t)
SHIFTER4(rol, "rol")
SHIFTER4(ror, "ror")
SHIFTER4(rcl, "rcl")
SHIFTER4(rcr, "rcr")
SHIFTER4(shl, "shl")
SHIFTER4(shr, "shr")
SHIFTER4(sar, "sar")

/* Immediate counts other than zero on 32- and 64-bit registers: SHL, SHR and SAR then write every
 * flag. */
#define SHIFT_IMM(name, op, s, S, T, expr)                                           \
	static const void *name##_imm_##S(struct vcpu *v, const struct insn *i)      \
	{                                                                            \
		T d = REG(v, i->dst, T);                                             \
		uint32_t fl;                                                         \
		__asm__(op s " %%cl, %[dst]" CAPTURE                                 \
			: [dst] "+q"(d), "=&a"(fl)                                   \
			: "c"((uint8_t)i->imm)                                       \
			: "cc");                                                     \
		FLAGS(fl);                                                           \
		SET(T, i->dst, d);                                                   \
		NEXT(v, i);                                                          \
	}                                                                            \
	static const void *name##_imm_dead_##S(struct vcpu *v, const struct insn *i) \
	{                                                                            \
		T d = REG(v, i->dst, T);                                             \
		SET(T, i->dst, expr);                                                \
		NEXT(v, i);                                                          \
	}                                                                            \
	static const void *name##_cl_dead_##S(struct vcpu *v, const struct insn *i)  \
	{                                                                            \
		T d = REG(v, i->dst, T);                                             \
		__asm__(op s " %%cl, %[dst]"                                         \
			: [dst] "+q"(d)                                              \
			: "c"(REG(v, RCX * 8, uint8_t))                              \
			: "cc");                                                     \
		SET(T, i->dst, d);                                                   \
		NEXT(v, i);                                                          \
	}
SHIFT_IMM(shl, "shl", "l", 2, uint32_t, d << (i->imm & 31))
SHIFT_IMM(shl, "shl", "q", 3, uint64_t, d << (i->imm & 63))
SHIFT_IMM(shr, "shr", "l", 2, uint32_t, d >> (i->imm & 31))
SHIFT_IMM(shr, "shr", "q", 3, uint64_t, d >> (i->imm & 63))
SHIFT_IMM(sar, "sar", "l", 2, uint32_t, (int32_t)d >> (i->imm & 31))
SHIFT_IMM(sar, "sar", "q", 3, uint64_t, (int64_t)d >> (i->imm & 63))

insn_handler *shift_handler(enum shift_op op, enum form1 form, unsigned size_log, bool by_cl,
			    bool dead)
{
#define ROW(n, S)                                  \
	{                                          \
		{ n##_r_i_##S, n##_g_i_##S },      \
		{                                  \
			n##_r_cl_##S, n##_g_cl_##S \
		}                                  \
	}
#define ROWS(n)                                            \
	{                                                  \
		ROW(n, 0), ROW(n, 1), ROW(n, 2), ROW(n, 3) \
	}
	static insn_handler *const table[SHIFT_OPS][4][2][2] = {
		[SHIFT_ROL] = ROWS(rol), [SHIFT_ROR] = ROWS(ror), [SHIFT_RCL] = ROWS(rcl),
		[SHIFT_RCR] = ROWS(rcr), [SHIFT_SHL] = ROWS(shl), [SHIFT_SHR] = ROWS(shr),
		[SHIFT_SAR] = ROWS(sar),
	};
#define IMMEDIATE(n)                                                          \
	{                                                                     \
		{ n##_imm_2, n##_imm_3 }, { n##_imm_dead_2, n##_imm_dead_3 }, \
		{                                                             \
			n##_cl_dead_2, n##_cl_dead_3                          \
		}                                                             \
	}
	static insn_handler *const quick[3][3][2] = { IMMEDIATE(shl), IMMEDIATE(shr),
						      IMMEDIATE(sar) };

	/* The decoder asks for `dead` only when the count cannot be zero or the flags are dead
	 * either way. */
	if (op >= SHIFT_SHL && form == FORM_R && size_log >= 2) {
		if (!by_cl)
			return quick[op - SHIFT_SHL][dead][size_log - 2];
		if (dead)
			return quick[op - SHIFT_SHL][2][size_log - 2];
	}
	return table[op][size_log][by_cl][form != FORM_R];
}

/* SHLD, SHRD: count in aux, 0xffff for CL. */
#define DOUBLE_SHIFT(name, op, s, S, T)                                                        \
	static const void *name##_r_##S(struct vcpu *v, const struct insn *i)                  \
	{                                                                                      \
		T d = REG(v, i->dst, T), r = REG(v, i->src, T);                                \
		uint8_t count = i->aux == 0xffff ? REG(v, RCX * 8, uint8_t) : (uint8_t)i->aux; \
		uint32_t fl;                                                                   \
		__asm__(FLAGS_IN op s " %%cl, %[src], %[dst]" CAPTURE                          \
			: [dst] "+r"(d), "=&a"(fl)                                             \
			: "1"((uint32_t)v->soft.flags), "c"(count), [src] "r"(r)               \
			: "cc");                                                               \
		FLAGS(fl);                                                                     \
		SET(T, i->dst, d);                                                             \
		NEXT(v, i);                                                                    \
	}                                                                                      \
	static const void *name##_g_##S(struct vcpu *v, const struct insn *i)                  \
	{                                                                                      \
		T d, r = REG(v, i->src, T);                                                    \
		uint8_t count = i->aux == 0xffff ? REG(v, RCX * 8, uint8_t) : (uint8_t)i->aux; \
		uint32_t fl;                                                                   \
		ADDRESS_G(T, true);                                                            \
		LOAD_RMW(T, d);                                                                \
		__asm__(FLAGS_IN op s " %%cl, %[src], %[dst]" CAPTURE                          \
			: [dst] "+r"(d), "=&a"(fl)                                             \
			: "1"((uint32_t)v->soft.flags), "c"(count), [src] "r"(r)               \
			: "cc");                                                               \
		STORE_RMW(T, d);                                                               \
		FLAGS(fl);                                                                     \
		NEXT(v, i);                                                                    \
	}
DOUBLE_SHIFT(shld, "shld", "w", 1, uint16_t)
DOUBLE_SHIFT(shld, "shld", "l", 2, uint32_t)
DOUBLE_SHIFT(shld, "shld", "q", 3, uint64_t)
DOUBLE_SHIFT(shrd, "shrd", "w", 1, uint16_t)
DOUBLE_SHIFT(shrd, "shrd", "l", 2, uint32_t)
DOUBLE_SHIFT(shrd, "shrd", "q", 3, uint64_t)

insn_handler *shift_double_handler(bool right, enum form1 form, unsigned size_log)
{
	static insn_handler *const table[2][2][4] = {
		{ { NULL, shld_r_1, shld_r_2, shld_r_3 }, { NULL, shld_g_1, shld_g_2, shld_g_3 } },
		{ { NULL, shrd_r_1, shrd_r_2, shrd_r_3 }, { NULL, shrd_g_1, shrd_g_2, shrd_g_3 } },
	};

	return table[right][form != FORM_R][size_log];
}
