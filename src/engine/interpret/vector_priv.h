/*
 * Between the files of the vector instructions: who may execute (allow), how
 * a thunk is written (encode), how its memory operand is reached (memory), and
 * what needs C (special).
 */
#ifndef INSULA_ENGINE_INTERPRET_VECTOR_PRIV_H
#define INSULA_ENGINE_INTERPRET_VECTOR_PRIV_H

#include "engine/interpret/native_code.h"
#include "engine/interpret/vector.h"

/* A thunk of a record with a memory operand: p is its host address, or soft.bounce. */
typedef const void *native_thunk(struct vcpu *v, const struct insn *i, void *p);

struct vector_form {
	const ZydisDecodedInstruction *insn;
	const ZydisDecodedOperand *operands;
	const uint8_t *bytes;
	const ZydisDecodedOperand *mem; /* NULL if none */
	bool code64;
	bool drop_f3;  /* LZCNT and TZCNT on a model without them are BSR and BSF */
	bool x87_data; /* a non-control x87 instruction: leaves its address behind */
};

#define VECTOR_THUNK_MAX 256
struct vector_thunk {
	uint8_t bytes[VECTOR_THUNK_MAX];
	unsigned len, entry;
};

/* Writes the thunk of the form; false if some operand has no place in one (it needs C). */
bool vector_encode(const struct vector_form *form, struct vector_thunk *thunk);

/* Where a thunk that stored into soft.bounce goes on. */
insn_handler vector_store_finish;

/* Instructions that C executes. NULL if this is none. Fills i's operand fields; `code` serves
 * element moves. */
insn_handler *vector_special(struct vcpu *v, struct native_code *code,
			     const struct vector_form *form, bool fast64, struct insn *i,
			     bool *space);

/*
 * Linear address, into soft.la, of `size` bytes at offset ea of a segment, with
 * the checks of the mode: for operands that one struct insn does not describe.
 */
int vector_linear(struct vcpu *v, unsigned seg, uint64_t ea, unsigned size, bool write);

static inline bool alignment_checked(const struct vcpu *v)
{
	return v->arch.cpl == 3 && (v->arch.cr0 & CR0_AM) && (v->arch.rflags & FLAG_AC);
}

/* A pending unmasked x87 exception: C that replaces a waiting instruction asks first. */
static inline bool x87_exception_pending(void)
{
	uint16_t status;

	asm volatile("fnstsw %0" : "=a"(status));
	return status & 0x80;
}

#endif
