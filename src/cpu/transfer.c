/*
 * Far JMP, CALL and RET in every mode (SDM 2A and 3A, 5.8): direct, through
 * call gates with stack switch and parameter copy, and to tasks. Called by the
 * instructions. All checks precede the first change; the stack frame is the
 * last thing that can fault.
 */
#include "cpu/transfer.h"
#include "cpu/excp.h"

void data_segments_drop(struct vcpu *v)
{
	static const uint8_t segs[] = { SEG_ES, SEG_DS, SEG_FS, SEG_GS };
	unsigned n;

	for (n = 0; n < 4; n++) {
		struct segment *s = &v->arch.seg[segs[n]];

		if ((s->attr & SEG_P) && !attr_is_conforming(s->attr) &&
		    SEG_DPL(s->attr) < v->arch.cpl)
			*s = (struct segment){ 0 };
		else if (!(s->selector & ~3u)) /* null: FS and GS keep their bases */
			s->selector = 0;
	}
}

/* Real and virtual-8086 mode. */
static int jump_real(struct vcpu *v, uint16_t selector, uint64_t offset)
{
	if (offset > v->arch.seg[SEG_CS].limit)
		return excp_gp(v, 0);
	segment_load_real(v, SEG_CS, selector);
	v->arch.rip = offset;
	vcpu_mode_changed(v);
	return 0;
}

/* A code segment named by JMP or CALL directly: no change of privilege. */
static int direct_code_check(struct vcpu *v, uint16_t selector, uint64_t *raw, uint64_t *offset)
{
	uint16_t attr = descriptor_attr(*raw);
	unsigned cpl = v->arch.cpl;

	if (vcpu_long_mode(v) && (attr & (SEG_L | SEG_DB)) == (SEG_L | SEG_DB))
		return excp_gp(v, selector_error(selector));
	if (attr_is_conforming(attr) ? SEG_DPL(attr) > cpl
				     : (selector & 3u) > cpl || SEG_DPL(attr) != cpl)
		return excp_gp(v, selector_error(selector));
	if (!(attr & SEG_P))
		return excp_np(v, selector_error(selector));
	return code_offset_check(v, attr, descriptor_limit(*raw), offset);
}

struct call_gate {
	uint16_t selector; /* of the code segment */
	uint64_t offset;
	unsigned opsize;
	unsigned params;
	uint64_t raw; /* descriptor of the code segment */
};

/* Reads the gate that `selector` names and the code segment behind it; what is the same for JMP and
 * CALL. */
static int gate_read(struct vcpu *v, uint16_t selector, struct call_gate *gate)
{
	uint64_t raw[2];
	uint16_t attr;

	if (descriptor_read_system(v, selector, raw, VEC_GP))
		return -1;
	attr = descriptor_attr(raw[0]);
	if (vcpu_long_mode(v) && (raw[1] >> 40 & 0x1f))
		return excp_gp(v, selector_error(selector));
	if (SEG_DPL(attr) < v->arch.cpl || SEG_DPL(attr) < (selector & 3u))
		return excp_gp(v, selector_error(selector));
	if (!(attr & SEG_P))
		return excp_np(v, selector_error(selector));

	gate->selector = (uint16_t)(raw[0] >> 16);
	gate->offset = raw[0] & 0xffff;
	gate->params = 0;
	gate->opsize = 2;
	if (attr_type(attr) == SYS_CALL32) {
		gate->offset |= (raw[0] >> 32) & 0xffff0000;
		gate->opsize = 4;
	}
	if (vcpu_long_mode(v)) {
		gate->offset |= raw[1] << 32;
		gate->opsize = 8;
	} else {
		gate->params = raw[0] >> 32 & 0x1f;
	}

	if (selector_is_null(gate->selector))
		return excp_gp(v, 0);
	if (descriptor_read(v, gate->selector, &gate->raw, VEC_GP))
		return -1;
	attr = descriptor_attr(gate->raw);
	if (!attr_is_code(attr) || SEG_DPL(attr) > v->arch.cpl)
		return excp_gp(v, selector_error(gate->selector));
	if (vcpu_long_mode(v) && (attr & (SEG_L | SEG_DB)) != SEG_L)
		return excp_gp(v, selector_error(gate->selector));
	return 0;
}

static int gate_target_check(struct vcpu *v, struct call_gate *gate)
{
	uint16_t attr = descriptor_attr(gate->raw);

	if (!(attr & SEG_P))
		return excp_np(v, selector_error(gate->selector));
	return code_offset_check(v, attr, descriptor_limit(gate->raw), &gate->offset);
}

static int jump_gate(struct vcpu *v, uint16_t selector)
{
	struct call_gate gate;
	uint16_t attr;

	if (gate_read(v, selector, &gate))
		return -1;
	attr = descriptor_attr(gate.raw);
	if (!attr_is_conforming(attr) && SEG_DPL(attr) != v->arch.cpl)
		return excp_gp(v, selector_error(gate.selector));
	if (gate_target_check(v, &gate) || descriptor_access(v, gate.selector, &gate.raw))
		return -1;
	code_load(v, gate.selector, gate.raw, v->arch.cpl);
	v->arch.rip = gate.offset;
	vcpu_mode_changed(v);
	return 0;
}

/* Call gate to the same level: the return address in the gate's size. */
static int call_gate_same(struct vcpu *v, struct call_gate *gate, uint64_t next_rip)
{
	struct stack st = stack_current(v);
	uint64_t frame[2] = { next_rip, v->arch.seg[SEG_CS].selector };

	if (vcpu_long_mode(v))
		st.mask = ~0ull; /* the callee is 64-bit code */
	if (gate_target_check(v, gate) || descriptor_access(v, gate->selector, &gate->raw) ||
	    stack_write(v, &st, frame, 2, gate->opsize))
		return -1;
	stack_commit(v, &st);
	code_load(v, gate->selector, gate->raw, v->arch.cpl);
	v->arch.rip = gate->offset;
	vcpu_mode_changed(v);
	return 0;
}

/* Call gate to an inner level: a new stack from the TSS, old SS:SP, parameters, return address. */
static int call_gate_inner(struct vcpu *v, struct call_gate *gate, uint64_t next_rip)
{
	unsigned dpl = SEG_DPL(descriptor_attr(gate->raw)), count = 0;
	uint64_t frame[STACK_ITEMS];
	struct stack old = stack_current(v), st;

	if (!(descriptor_attr(gate->raw) & SEG_P))
		return excp_np(v, selector_error(gate->selector));
	if (vcpu_long_mode(v)) {
		st = (struct stack){ .ss = stack_null_segment(dpl),
				     .mask = ~0ull,
				     .how = MMU_SYSTEM };
		if (stack_from_tss64(v, dpl, &st.sp))
			return -1;
	} else if (stack_from_tss(v, dpl, &st)) {
		return -1;
	}
	if (code_offset_check(v, descriptor_attr(gate->raw), descriptor_limit(gate->raw),
			      &gate->offset))
		return -1;
	frame[count++] = next_rip;
	frame[count++] = v->arch.seg[SEG_CS].selector;
	if (gate->params && stack_read(v, &old, &frame[count], gate->params, gate->opsize))
		return -1;
	count += gate->params;
	frame[count++] = v->arch.gpr[RSP];
	frame[count++] = v->arch.seg[SEG_SS].selector;
	if (descriptor_access(v, gate->selector, &gate->raw) ||
	    stack_write(v, &st, frame, count, gate->opsize))
		return -1;
	v->arch.seg[SEG_SS] = st.ss;
	stack_commit(v, &st);
	code_load(v, gate->selector, gate->raw, dpl);
	v->arch.rip = gate->offset;
	vcpu_mode_changed(v);
	return 0;
}

static int call_gate(struct vcpu *v, uint16_t selector, uint64_t next_rip)
{
	struct call_gate gate;
	uint16_t attr;

	if (gate_read(v, selector, &gate))
		return -1;
	attr = descriptor_attr(gate.raw);
	if (!attr_is_conforming(attr) && SEG_DPL(attr) < v->arch.cpl)
		return call_gate_inner(v, &gate, next_rip);
	return call_gate_same(v, &gate, next_rip);
}

/* JMP or CALL to a TSS or a task gate. */
static int transfer_task(struct vcpu *v, uint16_t selector, uint64_t raw,
			 enum task_switch_kind kind, uint64_t next_rip)
{
	uint16_t attr = descriptor_attr(raw);

	if (SEG_DPL(attr) < v->arch.cpl || SEG_DPL(attr) < (selector & 3u))
		return excp_gp(v, selector_error(selector));
	if (attr_type(attr) == SYS_TASK_GATE) {
		if (!(attr & SEG_P))
			return excp_np(v, selector_error(selector));
		selector = (uint16_t)(raw >> 16);
	}
	return task_switch(v, selector, kind, next_rip, false, 0);
}

/* System descriptors as targets: gates and tasks. */
static int transfer_system(struct vcpu *v, uint16_t selector, uint64_t raw, bool call,
			   uint64_t next_rip)
{
	unsigned type = attr_type(descriptor_attr(raw));

	if (type == SYS_CALL32 || (type == SYS_CALL16 && !vcpu_long_mode(v)))
		return call ? call_gate(v, selector, next_rip) : jump_gate(v, selector);
	if (!vcpu_long_mode(v) && (type == SYS_TASK_GATE || type == SYS_TSS16 || type == SYS_TSS32))
		return transfer_task(v, selector, raw, call ? TASK_CALL : TASK_JMP, next_rip);
	return excp_gp(v, selector_error(selector));
}

int far_jump(struct vcpu *v, uint16_t selector, uint64_t offset, unsigned opsize, uint64_t next_rip)
{
	uint64_t raw;

	offset = rip_truncate(offset, opsize);
	if (!vcpu_protected(v))
		return jump_real(v, selector, offset);
	if (selector_is_null(selector))
		return excp_gp(v, 0);
	if (descriptor_read(v, selector, &raw, VEC_GP))
		return -1;
	if (!attr_is_code(descriptor_attr(raw))) {
		if (descriptor_attr(raw) & SEG_S)
			return excp_gp(v, selector_error(selector));
		return transfer_system(v, selector, raw, false, next_rip);
	}
	if (direct_code_check(v, selector, &raw, &offset) || descriptor_access(v, selector, &raw))
		return -1;
	code_load(v, selector, raw, v->arch.cpl);
	v->arch.rip = offset;
	vcpu_mode_changed(v);
	return 0;
}

int far_call(struct vcpu *v, uint16_t selector, uint64_t offset, unsigned opsize, uint64_t next_rip)
{
	uint64_t frame[2] = { next_rip, v->arch.seg[SEG_CS].selector };
	struct stack st = stack_current(v);
	uint64_t raw;

	offset = rip_truncate(offset, opsize);
	if (!vcpu_protected(v)) {
		if (offset > v->arch.seg[SEG_CS].limit)
			return excp_gp(v, 0);
		if (stack_write(v, &st, frame, 2, opsize))
			return -1;
		stack_commit(v, &st);
		return jump_real(v, selector, offset);
	}
	if (selector_is_null(selector))
		return excp_gp(v, 0);
	if (descriptor_read(v, selector, &raw, VEC_GP))
		return -1;
	if (!attr_is_code(descriptor_attr(raw))) {
		if (descriptor_attr(raw) & SEG_S)
			return excp_gp(v, selector_error(selector));
		return transfer_system(v, selector, raw, true, next_rip);
	}
	if (direct_code_check(v, selector, &raw, &offset) || descriptor_access(v, selector, &raw) ||
	    stack_write(v, &st, frame, 2, opsize))
		return -1;
	stack_commit(v, &st);
	code_load(v, selector, raw, v->arch.cpl);
	v->arch.rip = offset;
	vcpu_mode_changed(v);
	return 0;
}

int return_code_check(struct vcpu *v, uint16_t selector, uint64_t *raw)
{
	unsigned rpl = selector & 3;
	uint16_t attr;

	if (unlikely(selector_is_null(selector)))
		return excp_gp(v, 0);
	if (descriptor_read(v, selector, raw, VEC_GP))
		return -1;
	attr = descriptor_attr(*raw);
	if (unlikely(!attr_is_code(attr) || rpl < v->arch.cpl))
		return excp_gp(v, selector_error(selector));
	if (unlikely(vcpu_long_mode(v) && (attr & (SEG_L | SEG_DB)) == (SEG_L | SEG_DB)))
		return excp_gp(v, selector_error(selector));
	if (unlikely(attr_is_conforming(attr) ? SEG_DPL(attr) > rpl : SEG_DPL(attr) != rpl))
		return excp_gp(v, selector_error(selector));
	if (unlikely(!(attr & SEG_P)))
		return excp_np(v, selector_error(selector));
	return 0;
}

int return_stack_check(struct vcpu *v, uint16_t selector, unsigned rpl, bool to_code64,
		       uint8_t absent, struct segment *ss)
{
	uint16_t attr;
	uint64_t raw;

	if (selector_is_null(selector)) {
		if (!to_code64 || rpl == 3 || (selector & 3u) != rpl)
			return excp_gp(v, 0);
		*ss = stack_null_segment(rpl);
		return 0;
	}
	if (descriptor_read(v, selector, &raw, VEC_GP))
		return -1;
	attr = descriptor_attr(raw);
	if (unlikely((selector & 3u) != rpl || SEG_DPL(attr) != rpl ||
		     !attr_is_writable_data(attr)))
		return excp_gp(v, selector_error(selector));
	if (unlikely(!(attr & SEG_P)))
		return excp_raise_error(v, absent, selector_error(selector));
	if (descriptor_access(v, selector, &raw))
		return -1;
	*ss = descriptor_segment(selector, raw);
	return 0;
}

int far_return(struct vcpu *v, unsigned opsize, unsigned pop_bytes)
{
	struct stack st = stack_current(v);
	uint64_t frame[2], outer[2], raw;
	struct segment ss;
	uint16_t selector;
	unsigned rpl;

	if (stack_read(v, &st, frame, 2, opsize))
		return -1;
	selector = (uint16_t)frame[1];
	if (!vcpu_protected(v)) {
		if (frame[0] > v->arch.seg[SEG_CS].limit)
			return excp_gp(v, 0);
		st.sp += pop_bytes;
		stack_commit(v, &st);
		return jump_real(v, selector, frame[0]);
	}
	if (return_code_check(v, selector, &raw))
		return -1;
	rpl = selector & 3;
	st.sp = (st.sp + pop_bytes) & st.mask;
	if (rpl == v->arch.cpl) {
		if (code_offset_check(v, descriptor_attr(raw), descriptor_limit(raw), &frame[0]) ||
		    descriptor_access(v, selector, &raw))
			return -1;
		stack_commit(v, &st);
		code_load(v, selector, raw, rpl);
		v->arch.rip = frame[0];
		vcpu_mode_changed(v);
		return 0;
	}
	if (stack_read(v, &st, outer, 2, opsize) ||
	    return_stack_check(v, (uint16_t)outer[1], rpl, code_is_64(v, descriptor_attr(raw)),
			       VEC_SS, &ss) ||
	    code_offset_check(v, descriptor_attr(raw), descriptor_limit(raw), &frame[0]) ||
	    descriptor_access(v, selector, &raw))
		return -1;
	code_load(v, selector, raw, rpl);
	v->arch.seg[SEG_SS] = ss;
	st = stack_current(v);
	st.sp = outer[0] + pop_bytes;
	stack_commit(v, &st);
	v->arch.rip = frame[0];
	data_segments_drop(v);
	vcpu_mode_changed(v);
	return 0;
}
