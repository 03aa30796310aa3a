/*
 * x87, MMX, SSE, AVX, AES, SHA, BMI and other instructions that execute as
 * themselves: the instruction's own bytes, its memory operand and general
 * registers renamed, run natively on guest state that lives in the host's
 * vector registers (cpu/fpstate.h).
 */
#ifndef INSULA_ENGINE_INTERPRET_VECTOR_H
#define INSULA_ENGINE_INTERPRET_VECTOR_H

#include "engine/interpret/insn.h"
#include <Zydis/Zydis.h>

struct native_code; /* executable memory for thunks, W^X by dual mapping; one per vcpu engine */

struct native_code *native_code_new(const char **error);
void native_code_free(struct native_code *code);
/* Thunks are also copied into [start, start + bytes): a SIGFPE there counts too. 0, or -1: out of
 * memory. Once. */
int native_code_cover(struct native_code *code, const void *start, size_t bytes);
/* Forget all thunks: called when the trace cache is emptied. */
void native_code_reset(struct native_code *code);
/* Host pc is inside thunks: a SIGFPE there is the guest's #MF or #XM. */
bool native_code_contains(const struct native_code *code, const void *pc);

/*
 * Fills handler, code, dst, src and aux of *out for one instruction of this
 * class; the address fields (base, index, shift, disp, seg, width, offset, len)
 * are already set by the decoder. `fast64`: the memory operand may use
 * insn_ea64 (64-bit mode, no segment base). Called parked (vcpu_fp_park), so
 * Zydis and libc may be used. Returns false if the instruction is not of this
 * class; an instruction the mode or CPU model forbids gets a handler that
 * raises #UD or #NM. If the handler is the thunk itself (code == handler), disp
 * is how many of its bytes come before the XOR EAX, EAX and RET at its end.
 * *space is false when thunk memory is full: the caller
 * empties the caches and decodes again.
 */
bool vector_decode(struct vcpu *v, struct native_code *code, const ZydisDecodedInstruction *insn,
		   const ZydisDecodedOperand *operands, const uint8_t *bytes, bool fast64,
		   struct insn *out, bool *space);

/* insn.aux of a record with a memory operand. */
#define VECTOR_SIZE       0x7fu   /* bytes of the operand */
#define VECTOR_ALIGNED    0x80u   /* misaligned: #GP(0) */
#define VECTOR_X87        0x100u  /* sets the x87 data pointer */
#define VECTOR_X87_STORE  0x200u  /* an unmasked exception may have withheld the store */
#define VECTOR_STORE      0x400u  /* else a load */
#define VECTOR_LATE_STORE 0x800u  /* a faulting store leaves MXCSR's flags set */
#define VECTOR_UNALIGNED  0x2000u /* no alignment check even with AC set */
#define VECTOR_WAITS      0x1000u /* a pending x87 exception comes before the operand's faults */

/* The handler that finds the memory operand of aux and runs the thunk in i->code. */
insn_handler *vector_memory_handler(unsigned aux, bool fast64);

/* Control instructions leave the x87's instruction and data pointers alone. */
bool x87_control(ZydisMnemonic mnemonic);

/* True if the model and CR0/CR4/XCR0 in the mode word allow this instruction (ISA extension by
 * extension). */
bool vector_allowed(const struct vcpu *v, const ZydisDecodedInstruction *insn,
		    uint8_t *vector_if_not);

#endif
