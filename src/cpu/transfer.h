/*
 * What far transfers, interrupt delivery and their returns share: loading CS,
 * and dropping segments that a less privileged level may not keep.
 */
#ifndef INSULA_CPU_TRANSFER_H
#define INSULA_CPU_TRANSFER_H

#include "cpu/descriptor.h"
#include "cpu/model.h"
#include "cpu/segment.h"
#include "cpu/stack.h"

/* CS from a descriptor that passed its checks; CPL follows. No fault. */
static inline void code_load(struct vcpu *v, uint16_t selector, uint64_t raw, unsigned cpl)
{
	v->arch.seg[SEG_CS] = descriptor_segment((uint16_t)((selector & 0xfffc) | cpl), raw);
	v->arch.cpl = (uint8_t)cpl;
}

/* 64-bit code has D clear; both set is reserved. */
static inline bool code_is_64(const struct vcpu *v, uint16_t attr)
{
	return (attr & SEG_L) && vcpu_long_mode(v);
}

static inline bool vendor_is_amd(const struct vcpu *v)
{
	return v->model->vendor[0] == 'A';
}

/* ES, DS, FS, GS that the new CPL may not use become null. */
void data_segments_drop(struct vcpu *v);

/* The checks on CS and SS that IRET and RETF to an outer level, or to the same, make (SDM 2A, IRET
 * and RET). */
int return_code_check(struct vcpu *v, uint16_t selector, uint64_t *raw);
/* `absent`: the vector for a stack segment that is not present. */
int return_stack_check(struct vcpu *v, uint16_t selector, unsigned rpl, bool to_code64,
		       uint8_t absent, struct segment *ss);

/* As task_switch(), with the flags image that the old task's TSS gets. */
int task_switch_saving(struct vcpu *v, uint16_t selector, enum task_switch_kind kind,
		       uint64_t return_rip, uint32_t saved_flags, bool has_error, uint32_t error);

#endif
