/*
 * Checks of the translator against the interpreter on a machine that runs, for
 * `insula run --check`. Neither is for production: each makes the guest many
 * times slower.
 *
 * Lockstep: every region is executed twice from the same state, translated and
 * then instruction by instruction by the interpreter, and registers, flags,
 * vector state and all bytes of memory that either stored are compared. What
 * cannot be done twice (devices, RDTSC, random numbers) ends a region before
 * it and is executed once, outside. Wants one vcpu; DMA waits meanwhile.
 *
 * Ping-pong: so many executions of regions, then so many instructions by the
 * interpreter, and whatever is not architectural state is spoilt in between.
 *
 * One per vcpu, used by its thread alone, parked but where it says otherwise.
 */
#ifndef INSULA_ENGINE_TRANSLATE_CHECK_H
#define INSULA_ENGINE_TRANSLATE_CHECK_H

#include "engine/engine.h"

struct tier;
struct plan;

/* As translate_options asks. 0 or -ENOMEM. */
int check_open(struct vcpu *v, struct tier *tier);
void check_close(struct vcpu *v);

/* The region entered by the interpreter at `code` was written from this plan. */
void check_note(struct vcpu *v, const void *code, const struct plan *plan);
/* tier_ops.run */
void check_run(struct tier *tier, const void *code);
void check_stats(const struct vcpu *v, struct engine_stats *stats);

#endif
