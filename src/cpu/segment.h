/*
 * Segment registers, far transfers and task switches in every mode (SDM 3A,
 * chapters 5 to 7). On -1 a fault is in v->fault and the architectural state
 * is what the manual says it is at that fault (normally untouched).
 * On entry arch.rip is the current instruction; next_rip follows it.
 */
#ifndef INSULA_CPU_SEGMENT_H
#define INSULA_CPU_SEGMENT_H

#include "cpu/vcpu.h"

int segment_load(struct vcpu *v, unsigned seg, uint16_t selector); /* MOV/POP/LxS to ES SS DS FS GS */
int segment_load_ldtr(struct vcpu *v, uint16_t selector);
int segment_load_tr(struct vcpu *v, uint16_t selector);
/* Real-mode style: base = selector << 4, limits and rights kept (unreal mode lives on this). */
void segment_load_real(struct vcpu *v, unsigned seg, uint16_t selector);

/* Operand size in bytes: 2, 4, 8. They set rip, cs, cpl, stack; then vcpu_mode_changed(). */
int far_jump(struct vcpu *v, uint16_t selector, uint64_t offset, unsigned opsize, uint64_t next_rip);
int far_call(struct vcpu *v, uint16_t selector, uint64_t offset, unsigned opsize, uint64_t next_rip);
int far_return(struct vcpu *v, unsigned opsize, unsigned pop_bytes);
int interrupt_return(struct vcpu *v, unsigned opsize, uint64_t next_rip);

/* SYSCALL and friends. */
int insn_syscall(struct vcpu *v, uint64_t next_rip);
int insn_sysret(struct vcpu *v, unsigned opsize);
int insn_sysenter(struct vcpu *v);
int insn_sysexit(struct vcpu *v, unsigned opsize);

enum task_switch_kind { TASK_JMP, TASK_CALL, TASK_IRET, TASK_GATE };
/* error: pushed on the new stack for exceptions through a task gate. */
int task_switch(struct vcpu *v, uint16_t tss_selector, enum task_switch_kind kind, uint64_t return_rip, bool has_error,
		uint32_t error);

/*
 * Segmentation: offset -> linear address with the checks of the current mode
 * (limit, expand-down, rights, null segments, canonical form; #SS for SEG_SS,
 * else #GP). The result is in v->soft.la. write: a store or read-modify-write.
 */
int segment_linear_checked(struct vcpu *v, unsigned seg, uint64_t offset, unsigned size, bool write);

static inline int segment_linear(struct vcpu *v, unsigned seg, uint64_t offset, unsigned size, bool write)
{
	/* Flat 16/32-bit segments need no check, except a store through a code segment. */
	if ((v->soft.flat >> seg & 1) && !vcpu_code64(v) && !(write && seg == SEG_CS)) {
		v->soft.la = (uint32_t)offset;
		return 0;
	}
	return segment_linear_checked(v, seg, offset, size, write);
}

/* LAR, LSL, VERR, VERW: true if accessible; *value gets the access rights or limit. */
int segment_lar(struct vcpu *v, uint16_t selector, uint32_t *value, bool *ok);
int segment_lsl(struct vcpu *v, uint16_t selector, uint32_t *value, bool *ok);
int segment_verify(struct vcpu *v, uint16_t selector, bool write, bool *ok);

/* I/O permission: CPL <= IOPL or the TSS bitmap. 0 or -1 (#GP, or a fault reading the TSS). */
int io_permitted(struct vcpu *v, uint16_t port, unsigned size);

/* Stack width in bytes by SS.B / mode: 2, 4 or 8. Pushing and popping for system code: cpu/stack.h. */
unsigned stack_width(const struct vcpu *v);

#endif
