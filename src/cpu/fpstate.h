/*
 * Where the guest's vector and x87 state is: in arch.xsave, or live in the
 * host's registers while a software engine runs guest code.
 */
#ifndef INSULA_CPU_FPSTATE_H
#define INSULA_CPU_FPSTATE_H

#include "cpu/vcpu.h"

/* Called once per process. The XSAVE components the host can hold for a guest (x87, SSE, AVX). */
uint64_t fpstate_host_mask(void);

void vcpu_fp_park_slow(struct vcpu *v);
void vcpu_fp_load_slow(struct vcpu *v);

/* Guest state to arch.xsave, host defaults into the registers. Cheap when already parked. After it any C may run. */
static inline void vcpu_fp_park(struct vcpu *v)
{
	if (v->fp_live)
		vcpu_fp_park_slow(v);
}

/* Guest state into the host's registers. */
static inline void vcpu_fp_load(struct vcpu *v)
{
	if (!v->fp_live)
		vcpu_fp_load_slow(v);
}

#endif
