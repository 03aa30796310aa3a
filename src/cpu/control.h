/*
 * Control, debug and extended control registers, and MSRs: writes with all
 * their checks and consequences. -1: fault in v->fault, nothing changed.
 */
#ifndef INSULA_CPU_CONTROL_H
#define INSULA_CPU_CONTROL_H

#include "cpu/vcpu.h"

int cr0_write(struct vcpu *v, uint64_t value);
int cr3_write(struct vcpu *v, uint64_t value);
int cr4_write(struct vcpu *v, uint64_t value);
int efer_write(struct vcpu *v, uint64_t value);
int xcr_write(struct vcpu *v, uint32_t index, uint64_t value);
int xcr_read(struct vcpu *v, uint32_t index, uint64_t *value);
int dr_read(struct vcpu *v, unsigned index, uint64_t *value); /* includes #UD for DR4/5 with CR4.DE, #DB for GD */
int dr_write(struct vcpu *v, unsigned index, uint64_t value);
/* Loads the four PDPTEs of PAE paging into arch-private storage; -1: #GP on reserved bits. */
int pdptes_load(struct vcpu *v, uint64_t cr3);

/* CPL checks are the instruction's; these are for any privilege. -1: #GP(0). */
int msr_read(struct vcpu *v, uint32_t index, uint64_t *value);
int msr_write(struct vcpu *v, uint32_t index, uint64_t value);

/* The guest's TSC as RDTSC returns it now. Cheap after vcpu_tsc_sync(), else it parks and asks the clock. */
uint64_t vcpu_tsc(struct vcpu *v);
/* A software engine's enter: learns whether the host's counter serves directly; holds until the next pause. */
void vcpu_tsc_sync(struct vcpu *v);

#endif
