/*
 * One vcpu alone: all others of the VM held between two instructions while it
 * carries out what no host instruction can do atomically for it, a locked
 * access that splits a cache line or a page. Processors lock the whole bus for
 * those, so nobody expects them to be fast; that they are right is what counts.
 */
#ifndef INSULA_CPU_EXCLUSIVE_H
#define INSULA_CPU_EXCLUSIVE_H

#include "cpu/vcpu.h"

/* What vcpu->presence says. Written by the owner, read by all. */
enum vcpu_presence {
	PRESENCE_OUT,  /* runs no guest code, and looks at req before it does */
	PRESENCE_HELD, /* between two instructions, waiting for another's exclusive access */
	PRESENCE_IN,   /* may touch guest memory at any moment */
};

struct exclusive;

/* vcpus: the VM's, whose v->exclusive this sets; the array is the caller's and outlives it. */
struct exclusive *exclusive_new(struct vcpu **vcpus, unsigned count);
void exclusive_free(struct exclusive *exclusive);

/* Owner thread, around the engine's run(). */
void exclusive_enter(struct vcpu *v);
void exclusive_leave(struct vcpu *v);
/* Engines, between two instructions, when REQ_EXCLUSIVE is set. */
void exclusive_attend(struct vcpu *v);

/*
 * Owner thread, within an instruction that has touched nothing yet. When begin
 * returns no other vcpu executes guest code until end. Does nothing for a vcpu
 * that is alone (v->exclusive is NULL). Not nested.
 */
void exclusive_begin(struct vcpu *v);
void exclusive_end(struct vcpu *v);

#endif
