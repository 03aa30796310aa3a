/*
 * The canonical state of a vcpu, and of a CPU model, as sections of a state
 * stream. The vcpu stands still and its engine has left.
 */
#ifndef INSULA_CPU_VCPU_STATE_H
#define INSULA_CPU_VCPU_STATE_H

#include "cpu/vcpu.h"

struct cpu_model;
struct state_reader;
struct state_writer;

/* Sections "vcpu.N" and "vcpu.N.*". What others have posted is taken in first. */
void vcpu_save(struct vcpu *v, struct state_writer *w);
/*
 * Into a vcpu that is as after vcpu_reset(), devices loaded and guest time set;
 * arms its timer. Values that no guest could have brought about are refused: 0,
 * or -errno with a sentence in the reader.
 */
int vcpu_load(struct vcpu *v, struct state_reader *r) __attribute__((warn_unused_result));

/* Section "cpu-model". */
void cpu_model_save(const struct cpu_model *model, struct state_writer *w);
/*
 * The saved model, if this host can carry it; owned by the caller. NULL with a
 * sentence in the reader: damaged, or a feature is missing here.
 */
const struct cpu_model *cpu_model_load(struct state_reader *r, unsigned cpus, uint64_t tsc_khz);

#endif
