/*
 * IRET in every mode (SDM 2A, IRET): the 64-bit frame first, since it is the
 * way home of every interrupt and page fault; then real, virtual-8086 and
 * 16/32-bit protected mode with their outer levels, VM86 and nested tasks.
 * Invariant: nothing but the NMI mask changes before the last check.
 */
#include "cpu/transfer.h"
#include "cpu/excp.h"

/* Flags that every IRET restores: CF PF AF ZF SF TF DF OF NT. */
#define IRET_FLAGS      (FLAGS_ARITH | FLAG_TF | FLAG_DF | FLAG_NT)
#define IRET_FLAGS_WIDE (FLAG_RF | FLAG_AC | FLAG_ID)

static void flags_restore(struct vcpu *v, uint64_t popped, uint64_t mask)
{
	v->arch.rflags = (v->arch.rflags & ~mask) | (popped & mask) | FLAG_FIXED;
}

/* Which flags protected-mode IRET may change, by the privilege it leaves. */
static uint64_t protected_flags_mask(const struct vcpu *v, unsigned opsize)
{
	uint64_t mask = IRET_FLAGS | (opsize > 2 ? IRET_FLAGS_WIDE : 0);

	if (v->arch.cpl <= vcpu_iopl(v))
		mask |= FLAG_IF;
	if (v->arch.cpl == 0)
		mask |= FLAG_IOPL | (opsize > 2 ? FLAG_VIF | FLAG_VIP : 0);
	return mask;
}

static int iret_real(struct vcpu *v, unsigned opsize)
{
	struct stack st = stack_current(v);
	uint64_t frame[3];

	if (stack_read(v, &st, frame, 3, opsize))
		return -1;
	if (frame[0] > v->arch.seg[SEG_CS].limit)
		return excp_gp(v, 0);
	stack_commit(v, &st);
	segment_load_real(v, SEG_CS, (uint16_t)frame[1]);
	v->arch.rip = frame[0];
	flags_restore(v, frame[2],
		      IRET_FLAGS | FLAG_IF | FLAG_IOPL | (opsize > 2 ? IRET_FLAGS_WIDE : 0));
	return 0;
}

/* Inside virtual-8086 mode: allowed with IOPL 3; with less, VME lends the virtual interrupt flag.
 */
static int iret_vm86(struct vcpu *v, unsigned opsize)
{
	struct stack st = stack_current(v);
	uint64_t frame[3];
	bool virtual_if = vcpu_iopl(v) < 3;

	if (virtual_if && (!(v->arch.cr4 & CR4_VME) || opsize != 2))
		return excp_gp(v, 0);
	if (stack_read(v, &st, frame, 3, opsize))
		return -1;
	if (frame[0] > v->arch.seg[SEG_CS].limit)
		return excp_gp(v, 0);
	if (virtual_if &&
	    ((frame[2] & FLAG_TF) || ((frame[2] & FLAG_IF) && (v->arch.rflags & FLAG_VIP))))
		return excp_gp(v, 0);
	stack_commit(v, &st);
	segment_load_real(v, SEG_CS, (uint16_t)frame[1]);
	v->arch.rip = frame[0];
	if (virtual_if) {
		flags_restore(v, frame[2], IRET_FLAGS);
		flags_restore(v, frame[2] & FLAG_IF ? FLAG_VIF : 0, FLAG_VIF);
	} else {
		flags_restore(v, frame[2],
			      IRET_FLAGS | FLAG_IF | (opsize > 2 ? IRET_FLAGS_WIDE : 0));
	}
	return 0;
}

/* From CPL 0 to virtual-8086 mode: six more doublewords on the stack. */
static int iret_to_vm86(struct vcpu *v, struct stack *st, const uint64_t frame[3])
{
	static const uint8_t segs[] = { SEG_ES, SEG_DS, SEG_FS, SEG_GS };
	uint64_t outer[6];
	unsigned n;

	if (stack_read(v, st, outer, 6, 4))
		return -1;
	v->arch.rflags = (frame[2] & (IRET_FLAGS | IRET_FLAGS_WIDE | FLAG_IF | FLAG_IOPL |
				      FLAG_VIF | FLAG_VIP | FLAG_VM)) |
			 FLAG_FIXED;
	v->arch.cpl = 3;
	v->arch.rip = frame[0]; /* beyond the limit, the first fetch faults */
	v->arch.gpr[RSP] = outer[0];
	v->arch.seg[SEG_CS].selector = (uint16_t)frame[1];
	v->arch.seg[SEG_SS].selector = (uint16_t)outer[1];
	for (n = 0; n < 4; n++)
		v->arch.seg[segs[n]].selector = (uint16_t)outer[2 + n];
	for (n = SEG_ES; n <= SEG_GS; n++) {
		struct segment *s = &v->arch.seg[n];

		*s = (struct segment){ (uint64_t)s->selector << 4, 0xffff, s->selector, ATTR_VM86 };
	}
	return 0;
}

static int iret_nested_task(struct vcpu *v, uint64_t next_rip)
{
	const struct segment *tr = &v->arch.seg[SEG_TR];
	uint16_t link;

	if (mmu_read16(v, tr->base, &link, MMU_SYSTEM))
		return -1;
	return task_switch(v, link, TASK_IRET, next_rip, false, 0);
}

/* Protected mode, 64-bit and compatibility mode included. */
static int iret_protected(struct vcpu *v, unsigned opsize, uint64_t next_rip)
{
	struct stack st = stack_current(v);
	bool code64 = vcpu_code64(v), outer;
	uint64_t frame[5], raw, mask;
	struct segment ss;
	uint16_t selector, attr;
	unsigned rpl;

	if (unlikely(v->arch.rflags & FLAG_NT)) {
		if (vcpu_long_mode(v))
			return excp_gp(v, 0);
		return iret_nested_task(v, next_rip);
	}
	/* 64-bit code always pops SS:RSP, even on a return to the same level. */
	if (stack_read(v, &st, frame, code64 ? 5 : 3, opsize))
		return -1;
	if (unlikely((frame[2] & FLAG_VM) && v->arch.cpl == 0 && opsize == 4 && !vcpu_long_mode(v)))
		return iret_to_vm86(v, &st, frame);
	selector = (uint16_t)frame[1];
	if (return_code_check(v, selector, &raw))
		return -1;
	attr = descriptor_attr(raw);
	rpl = selector & 3;
	outer = code64 || rpl != v->arch.cpl;
	if (!code64 && outer && stack_read(v, &st, &frame[3], 2, opsize))
		return -1;
	/* An absent stack segment is #NP in SDM 2A, unlike RET's #SS; AMD's parts raise #SS for both. */
	if (outer && return_stack_check(v, (uint16_t)frame[4], rpl, code_is_64(v, attr),
					vendor_is_amd(v) ? VEC_SS : VEC_NP, &ss))
		return -1;
	if (code_offset_check(v, attr, descriptor_limit(raw), &frame[0]) ||
	    descriptor_access(v, selector, &raw))
		return -1;

	mask = protected_flags_mask(v, opsize);
	outer = rpl != v->arch.cpl;
	if (outer || code64) {
		v->arch.seg[SEG_SS] = ss;
		code_load(v, selector, raw, rpl);
		st = stack_current(v);
		st.sp = frame[3];
	} else {
		code_load(v, selector, raw, rpl);
	}
	stack_commit(v, &st);
	v->arch.rip = frame[0];
	flags_restore(v, frame[2], mask);
	if (outer)
		data_segments_drop(v);
	return 0;
}

int interrupt_return(struct vcpu *v, unsigned opsize, uint64_t next_rip)
{
	int rc;

	v->arch.nmi_masked = 0; /* even if what follows faults (SDM 3A, 6.7.1) */
	if (likely(vcpu_protected(v)))
		rc = iret_protected(v, opsize, next_rip);
	else if (vcpu_vm86(v))
		rc = iret_vm86(v, opsize);
	else
		rc = iret_real(v, opsize);
	if (rc)
		return -1;
	vcpu_mode_changed(v);
	vcpu_window_open(v);
	return 0;
}
