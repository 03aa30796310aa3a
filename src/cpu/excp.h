/*
 * Exceptions and interrupts: raising them from C, and delivering them through
 * the IVT or IDT in every mode (SDM 3A, chapter 6; APM 2, chapter 8).
 */
#ifndef INSULA_CPU_EXCP_H
#define INSULA_CPU_EXCP_H

#include "cpu/vcpu.h"

enum {
	VEC_DE = 0, VEC_DB = 1, VEC_NMI = 2, VEC_BP = 3, VEC_OF = 4, VEC_BR = 5, VEC_UD = 6, VEC_NM = 7, VEC_DF = 8,
	VEC_TS = 10, VEC_NP = 11, VEC_SS = 12, VEC_GP = 13, VEC_PF = 14, VEC_MF = 16, VEC_AC = 17, VEC_MC = 18, VEC_XM = 19,
};

#define PF_P 1u
#define PF_W 2u
#define PF_U 4u
#define PF_RSVD 8u
#define PF_I 16u

/* Each records the fault in v->fault and returns -1, so that callers write `return excp_gp(v, 0);`. */
static inline int excp_raise(struct vcpu *v, uint8_t vector)
{
	v->fault = (struct excp){ .vector = vector };
	return -1;
}
static inline int excp_raise_error(struct vcpu *v, uint8_t vector, uint32_t error)
{
	v->fault = (struct excp){ .vector = vector, .has_error = 1, .error = error };
	return -1;
}
static inline int excp_ud(struct vcpu *v) { return excp_raise(v, VEC_UD); }
static inline int excp_nm(struct vcpu *v) { return excp_raise(v, VEC_NM); }
static inline int excp_gp(struct vcpu *v, uint32_t error) { return excp_raise_error(v, VEC_GP, error); }
static inline int excp_ss(struct vcpu *v, uint32_t error) { return excp_raise_error(v, VEC_SS, error); }
static inline int excp_np(struct vcpu *v, uint32_t error) { return excp_raise_error(v, VEC_NP, error); }
static inline int excp_ts(struct vcpu *v, uint32_t error) { return excp_raise_error(v, VEC_TS, error); }
static inline int excp_pf(struct vcpu *v, uint64_t la, uint32_t error)
{
	v->fault = (struct excp){ .vector = VEC_PF, .has_error = 1, .error = error, .cr2 = la };
	return -1;
}

/*
 * Deliver one exception or interrupt. On entry arch.rip is the faulting
 * instruction (faults) or the next one (traps, interrupts; software interrupts
 * give insn_len), and arch.rflags is materialised. Contributory faults on the
 * way become #DF, then shutdown (activity = ACTIVITY_SHUTDOWN). 0 if the vcpu
 * goes on, -1 if it is shut down. Calls vcpu_mode_changed().
 */
int excp_deliver(struct vcpu *v, struct excp e);

/*
 * Between instructions: take in posted vectors, INIT, SIPI, NMI, timer and
 * EXTINT requests, and deliver the one of highest priority that the state of
 * IF, the shadow and the TPR lets through. If one must wait for IF, REQ_WINDOW
 * is left set. True if something was delivered or the activity changed.
 */
bool vcpu_events(struct vcpu *v);

/* Anything that would end a HLT now? Side-effect free apart from taking posted vectors into the LAPIC. */
bool vcpu_has_work(struct vcpu *v);

#endif
