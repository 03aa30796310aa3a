/*
 * Posting to a vcpu from any thread: atomic OR into its bitmap, then a request
 * bit, then a wake only if it sleeps. Lock-free; see the rule in ARCHITECTURE.
 */
#ifndef INSULA_CPU_POST_H
#define INSULA_CPU_POST_H

#include "cpu/vcpu.h"

/* What interrupts the system call in which hardware runs guest code. Its handler is the engine's.
 */
#define VCPU_KICK_SIGNAL 35

/*
 * Sets the bits and wakes the vcpu if it waits. A running software engine sees
 * req at its next poll; a vcpu with a kick_tid gets a signal.
 */
void vcpu_request(struct vcpu *v, uint32_t bits);
/* A fixed or lowest-priority interrupt; level: the vector's TMR bit is to be set. */
void vcpu_post_irq(struct vcpu *v, uint8_t vector, bool level);

/*
 * Owner thread, halted: sleep until a request is made, vcpu_has_work() is true,
 * REQ_PAUSE is set, or host time (CLOCK_MONOTONIC ns) reaches the deadline
 * (UINT64_MAX: none). May return early for any reason; callers look and loop.
 */
void vcpu_wait(struct vcpu *v, uint64_t host_deadline_ns);

#endif
