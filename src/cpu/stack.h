/*
 * Pushing and popping by system code: frames of several items written or read
 * as one access where the stack does not wrap. Nothing is committed until
 * stack_commit(), so that a fault on the way leaves the stack pointer alone.
 */
#ifndef INSULA_CPU_STACK_H
#define INSULA_CPU_STACK_H

#include "cpu/mmu.h"
#include "cpu/segment.h"
#include "cpu/vcpu.h"

struct stack {
	struct segment ss;
	uint64_t sp;
	uint64_t mask;  /* of the stack pointer: 16, 32 or 64 bits */
	uint32_t error; /* of #SS if the stack is too small */
	enum mmu_how how;
};

#define STACK_ITEMS 36 /* a call gate's 31 parameters and its frame */

/* The stack in use, at the current privilege. */
struct stack stack_current(const struct vcpu *v);
/* Items lie in memory order, lowest address first; sp moves. size: 2, 4 or 8 bytes each. */
int stack_write(struct vcpu *v, struct stack *st, const uint64_t *items, unsigned count,
		unsigned size);
int stack_read(struct vcpu *v, struct stack *st, uint64_t *items, unsigned count, unsigned size);
/* SP, ESP or RSP from st->sp; the bits above a 16-bit stack pointer stay. */
void stack_commit(struct vcpu *v, const struct stack *st);

/* One item through the current stack, committed. */
int stack_push(struct vcpu *v, uint64_t value, unsigned size);
int stack_pop(struct vcpu *v, uint64_t *value, unsigned size);

/*
 * The stack of inner level dpl from a 16- or 32-bit TSS, with the checks of a
 * stack switch (#TS, #SS). The accessed bit of its descriptor is set.
 */
int stack_from_tss(struct vcpu *v, unsigned dpl, struct stack *st);
/* Long mode: RSP from the 64-bit TSS, which: 0-2 for RSPn, 3 + n for ISTn. */
int stack_from_tss64(struct vcpu *v, unsigned which, uint64_t *rsp);
/* The null SS that a stack switch in long mode loads. */
struct segment stack_null_segment(unsigned cpl);

#endif
