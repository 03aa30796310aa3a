/*
 * Executable memory for thunks: W^X by mapping one memfd twice. Thunks are
 * position-independent; two that are equal byte for byte are stored once.
 * One per vcpu engine, used by the vcpu's thread while parked.
 */
#ifndef INSULA_ENGINE_INTERPRET_NATIVE_CODE_H
#define INSULA_ENGINE_INTERPRET_NATIVE_CODE_H

#include "engine/interpret/vector.h"

struct insn;

/*
 * Executable copy of the bytes; `entry` is where execution begins, so that a
 * thunk may carry data in front. NULL when the memory is full.
 */
const void *native_code_place(struct native_code *code, const uint8_t *bytes, unsigned len,
			      unsigned entry);

/*
 * Small functions that move vector register n (0..15) between the host
 * register, where the guest's value lives, and 32 bytes of memory (16 where
 * the host has no AVX; loading clears the upper half then too). For C code
 * that works on single elements; they touch nothing else.
 */
typedef void native_move(void *bytes);
native_move *native_vector_get(const struct native_code *code, unsigned n);
native_move *native_vector_put(const struct native_code *code, unsigned n);
native_move *native_mmx_get(const struct native_code *code, unsigned n);

/*
 * For SIGFPE elsewhere: `trap` answers where to go on, or NULL if the pc is
 * none of its own. gregs: the ucontext's registers, RDX.. as <ucontext.h> names
 * them. For the process.
 */
typedef const void *native_trap(uintptr_t pc, long long *gregs);
void native_code_on_trap(native_trap *trap);

/*
 * SIGFPE inside any thunk of this process continues at tail(v, i, trapno) with
 * the stack as the thunk had it; anywhere else it takes its old course.
 * Installed once per process, with the first native_code_new.
 */
const void *native_fault_tail(struct vcpu *v, const struct insn *i, unsigned trapno);

#endif
