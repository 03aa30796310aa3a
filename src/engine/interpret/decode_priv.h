/*
 * Between the files that lower instructions: what is known of the one at hand
 * (struct lowering), what is said about it (struct note), and the subjects.
 * Each lower_* of a subject answers false if the instruction is none of its
 * forms; what it has written by then is overwritten by whoever is asked next.
 */
#ifndef INSULA_ENGINE_INTERPRET_DECODE_PRIV_H
#define INSULA_ENGINE_INTERPRET_DECODE_PRIV_H

#include "cpu/mode.h"
#include "engine/interpret/decode.h"
#include "engine/interpret/ops.h"
#include "engine/interpret/sysop.h"

/* What the lowering of one instruction says about it. */
struct note {
	insn_handler *dead; /* variant without flags, or NULL */
	bool ends;          /* control does not simply run on */
	bool reads;         /* arithmetic flags are read */
	bool kills;         /* all six are written whatever happens */
	bool exits;         /* may fault or branch: flags must be true here */
	bool fusible;       /* CMP or TEST that may take in a Jcc */
	bool test;
	enum form form;
	uint8_t size_log;
	struct trace_hint hint;
};

struct lowering {
	struct decoder *d;
	struct vcpu *v;
	uint32_t mode;
	bool code64;
	uint64_t rip; /* of the trace's first byte */
	uint64_t linear_page;
	const ZydisDecodedInstruction *zi;
	const ZydisDecodedOperand *op;
	const uint8_t *bytes;
	struct insn *out;
	struct note *note;
	bool fast; /* the memory operand can use insn_ea64 */
	bool full; /* pool exhausted */
};

#define OFF_RIP  offsetof(struct vcpu_arch, rip)
#define OFF_ZERO offsetof(struct vcpu_arch, zero)
_Static_assert(offsetof(struct vcpu, arch) == 0 && OFF_ZERO < 256, "register offsets fit a byte");

static inline unsigned log2_bytes(unsigned bits)
{
	return bits == 64 ? 3 : bits == 32 ? 2 : bits == 16 ? 1 : 0;
}

static inline bool is_reg(const ZydisDecodedOperand *o)
{
	return o->type == ZYDIS_OPERAND_TYPE_REGISTER;
}
static inline bool is_mem(const ZydisDecodedOperand *o)
{
	return o->type == ZYDIS_OPERAND_TYPE_MEMORY;
}
static inline bool is_imm(const ZydisDecodedOperand *o)
{
	return o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
}

static inline bool locked(const struct lowering *l)
{
	return l->zi->attributes & ZYDIS_ATTRIB_HAS_LOCK;
}

static inline uint64_t immediate(const ZydisDecodedOperand *o)
{
	return o->imm.is_signed ? (uint64_t)o->imm.value.s : o->imm.value.u;
}

static inline bool same_page(const struct lowering *l, uint64_t target)
{
	return l->code64 && (target & PAGE_MASK) == (l->rip & PAGE_MASK);
}

/* decode_operand.c */
unsigned reg_number(ZydisRegister r); /* or NO_REG */
uint8_t reg_offset(ZydisRegister r);
uint8_t seg_number(ZydisRegister r);
bool base_is_absent(const ZydisDecodedInstruction *zi);
const ZydisDecodedOperand *memory_operand(const struct lowering *l);
/* Address fields from the (only) memory operand. False if the displacement needs 64 bits. */
bool set_address(struct lowering *l, const ZydisDecodedOperand *m);
/* Two operands in the usual combinations: sets dst, src, imm, address; the form, or FORMS if none
 * fits. */
enum form two_operands(struct lowering *l, const ZydisDecodedOperand *a,
		       const ZydisDecodedOperand *b);
enum form1 one_operand(struct lowering *l, const ZydisDecodedOperand *a);
enum form plain_form(enum form f);
/* The record may be written out in the trace's code instead of called. */
struct trace_hint *set_hint(struct lowering *l, enum trace_hint_kind kind, unsigned op,
			    enum form form, unsigned size_log);

/* decode_integer.c: arithmetic, shifts, multiplication, bits */
bool lower_arithmetic(struct lowering *l);
bool lower_muldiv(struct lowering *l);
bool lower_bits(struct lowering *l);

/* decode_move.c: moves, conversions, conditional ones, and what does nothing; the stack */
bool lower_move(struct lowering *l);
bool lower_stack(struct lowering *l);

/* decode_branch.c: near branches and string instructions */
bool lower_branch(struct lowering *l);
bool lower_string(struct lowering *l);

/* decode_rare.c: everything that is not hot */
void lower_fault(struct lowering *l, uint8_t vector, bool has_error);
void lower_rare(struct lowering *l);

#endif
