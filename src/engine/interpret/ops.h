/*
 * The handler tables: which function executes an operation in a given form.
 * The decoder asks, the ops_*.c files answer. A NULL answer means the form has
 * no fast handler.
 */
#ifndef INSULA_ENGINE_INTERPRET_OPS_H
#define INSULA_ENGINE_INTERPRET_OPS_H

#include "engine/interpret/insn.h"

/*
 * Operand forms, destination first: R register, I immediate, and memory: A
 * base + disp and X base + index * scale + disp without segment base in 64-bit
 * mode, G any addressing in any mode, L locked (any addressing).
 */
enum form {
	FORM_RR,
	FORM_RI,
	FORM_RA,
	FORM_RX,
	FORM_RG,
	FORM_AR,
	FORM_XR,
	FORM_GR,
	FORM_AI,
	FORM_XI,
	FORM_GI,
	FORM_LR,
	FORM_LI,
	FORMS,
};
/* One-operand forms. */
enum form1 { FORM_R, FORM_A, FORM_G, FORM_L, FORMS1 };

enum alu_op {
	ALU_ADD,
	ALU_OR,
	ALU_ADC,
	ALU_SBB,
	ALU_AND,
	ALU_SUB,
	ALU_XOR,
	ALU_CMP,
	ALU_TEST,
	ALU_OPS
};
enum alu1_op { ALU1_INC, ALU1_DEC, ALU1_NEG, ALU1_NOT, ALU1_OPS };
enum shift_op {
	SHIFT_ROL,
	SHIFT_ROR,
	SHIFT_RCL,
	SHIFT_RCR,
	SHIFT_SHL,
	SHIFT_SHR,
	SHIFT_SAR,
	SHIFT_OPS
};

/* size_log: 0..3 for 1, 2, 4, 8 bytes. dead: the flags it writes are never read. */
insn_handler *alu_handler(enum alu_op op, enum form form, unsigned size_log, bool dead);
insn_handler *alu1_handler(enum alu1_op op, enum form1 form, unsigned size_log, bool dead);
insn_handler *zero_handler(bool dead); /* xor r,r */
/* Count from imm, or from CL when by_cl. */
insn_handler *shift_handler(enum shift_op op, enum form1 form, unsigned size_log, bool by_cl,
			    bool dead);
/* dst: r/m, src: register; count in aux, or CL when aux is 0xffff. */
insn_handler *shift_double_handler(bool right, enum form1 form, unsigned size_log);

insn_handler *mov_handler(enum form form, unsigned size_log);
/* The A0-A3 opcodes with a 64-bit address, which is in imm. */
insn_handler *mov_absolute_handler(bool store, unsigned size_log);
/* Widening moves: from from_log to to_log. form RR, RA, RG. */
insn_handler *movx_handler(bool sign, enum form form, unsigned from_log, unsigned to_log);
insn_handler *lea_handler(unsigned size_log, bool full);       /* full: 64-bit address arithmetic */
insn_handler *xchg_handler(enum form form, unsigned size_log); /* RR, LR */
insn_handler *bswap_handler(unsigned size_log);
insn_handler *cmov_handler(unsigned cc, enum form form, unsigned size_log); /* RR, RA, RG */
insn_handler *setcc_handler(unsigned cc, enum form1 form);
insn_handler *convert_handler(unsigned opcode,
			      unsigned size_log); /* 0x98 CBW family, 0x99 CWD family */

insn_handler *mul_handler(bool sign, enum form1 form, unsigned size_log); /* rAX * r/m */
insn_handler *imul_handler(enum form form, unsigned size_log);  /* RR, RA, RG: dst *= src */
insn_handler *imul3_handler(enum form form, unsigned size_log); /* dst = r/m * imm */
insn_handler *div_handler(bool sign, enum form1 form, unsigned size_log);

enum bit_op { BIT_TEST, BIT_SET, BIT_RESET, BIT_COMPLEMENT, BIT_OPS };
insn_handler *bit_handler(enum bit_op op, enum form form,
			  unsigned size_log); /* RR RI, GR GI, LR LI */
insn_handler *bitscan_handler(bool reverse, enum form form, unsigned size_log);
insn_handler *cmpxchg_handler(enum form form, unsigned size_log); /* RR, GR, LR */
insn_handler *xadd_handler(enum form form, unsigned size_log);
insn_handler *flag_handler(unsigned opcode); /* CLC STC CMC CLD STD by opcode */

/* Stack. */
insn_handler *push_handler(enum form form, unsigned size_log,
			   bool code64); /* FORM_RR register, FORM_RI, FORM_RG memory */
insn_handler *pop_handler(enum form1 form, unsigned size_log, bool code64);
insn_handler *leave_handler(unsigned size_log, bool code64);

/* Branches. near: the target lies in the same page and is linked; else through the jump cache. */
insn_handler *jump_handler(bool near, bool code64);
insn_handler *jcc_handler(unsigned cc, bool near, bool code64);
insn_handler *call_handler(bool near, bool code64);
insn_handler *jump_indirect_handler(enum form1 form, bool code64);
insn_handler *call_indirect_handler(enum form1 form, bool code64);
insn_handler *ret_handler(bool code64);
insn_handler *loop_handler(unsigned opcode, bool code64); /* 0xe0..0xe3 */
insn_handler *end_handler(bool near, bool code64);        /* falls into the next trace */
/* CMP or TEST fused with Jcc, near, 64-bit code. form RR RI RA AI AR. NULL if not offered. */
insn_handler *fused_handler(bool test, enum form form, unsigned size_log, unsigned cc);

/* MOVS STOS LODS CMPS SCAS by opcode (even: byte). aux bit 0: REP/REPE, bit 1: REPNE. */
insn_handler *string_handler(unsigned opcode, unsigned size_log);

const void *insn_nop(struct vcpu *v, const struct insn *i);
const void *insn_pause(struct vcpu *v, const struct insn *i);
const void *insn_fence(struct vcpu *v, const struct insn *i);
const void *insn_lfence(struct vcpu *v, const struct insn *i);
const void *
insn_fault_imm(struct vcpu *v,
	       const struct insn *i); /* imm: vector | error code << 8 | has error << 40 */
const void *insn_sysop(struct vcpu *v, const struct insn *i);
const void *insn_sysop_light(struct vcpu *v, const struct insn *i);
/* What follows a branch that is taken, by its record's link: near ones, and fused ones. */
const void *insn_link(struct vcpu *v, const struct insn *i);
const void *insn_link_fused(struct vcpu *v, const struct insn *i);
const void *insn_stop(struct vcpu *v, const struct insn *i); /* end of a one-instruction trace */

#endif
