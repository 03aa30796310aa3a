/*
 * Delivery of exceptions and interrupts (SDM 3A, chapter 6; 3B, chapter 20 for
 * virtual-8086 mode). Engines call excp_deliver() with what an instruction
 * left in v->fault; cpu/events.c calls it for interrupts.
 *
 * Invariant: until the handler's frame is written nothing changes but CR2,
 * DR6, DR7.GD and the NMI mask, so a delivery cut short by a second exception
 * can be told again. Task gates are the manual's own exception.
 */
#include "cpu/excp.h"
#include "cpu/segment.h"
#include "cpu/transfer.h"

#define ERROR_EXT        1u
#define ERROR_IDT        2u
#define DR6_BD           (1u << 13)
#define DR6_TRAP_BITS    0xfu
#define DR7_GD           (1u << 13)
#define DEBUGCTL_LBR_BTF 3u

/* Deliveries chained by benign exceptions in one call before the vcpu is given back to its engine.
 */
#define CHAIN_LIMIT 8

enum excp_class { CLASS_BENIGN, CLASS_CONTRIBUTORY, CLASS_PAGE_FAULT, CLASS_DOUBLE_FAULT };

/* Table 6-4. Only exceptions count: an interrupt with vector 13 or 14 is benign. */
static enum excp_class excp_class(const struct excp *e)
{
	if (e->type != EXCP_FAULT && e->type != EXCP_TRAP)
		return CLASS_BENIGN;
	switch (e->vector) {
	case VEC_DE:
	case VEC_TS:
	case VEC_NP:
	case VEC_SS:
	case VEC_GP:
		return CLASS_CONTRIBUTORY;
	case VEC_PF:
		return CLASS_PAGE_FAULT;
	case VEC_DF:
		return CLASS_DOUBLE_FAULT;
	default:
		return CLASS_BENIGN;
	}
}

/* INT n, INT3, INTO: DPL is checked, EXT stays clear, RIP moves over the instruction. */
static bool is_software(const struct excp *e)
{
	return e->type == EXCP_SOFT_INT || e->type == EXCP_INT3 || e->type == EXCP_INTO;
}

static uint64_t return_rip(const struct vcpu *v, const struct excp *e)
{
	uint64_t rip = v->arch.rip + e->insn_len;

	if (likely(vcpu_code64(v)))
		return rip;
	return v->arch.seg[SEG_CS].attr & SEG_DB ? (uint32_t)rip : (uint16_t)rip;
}

/* RF in the pushed image is set by faults, other than the one an instruction breakpoint makes (SDM
 * 3B, 17.3.1.1). */
static uint64_t pushed_flags(const struct vcpu *v, const struct excp *e)
{
	if (e->type == EXCP_FAULT && e->vector != VEC_DF &&
	    (e->vector != VEC_DB || (e->dr6 & DR6_BD)))
		return v->arch.rflags | FLAG_RF;
	return v->arch.rflags;
}

static uint32_t idt_error(const struct excp *e)
{
	return e->vector * 8u | ERROR_IDT;
}

/* The handler's code segment, of whichever gate. Leaves its level in *cpl. */
static int handler_code(struct vcpu *v, uint16_t selector, uint64_t *raw, unsigned *cpl)
{
	uint16_t attr;

	if (unlikely(selector_is_null(selector)))
		return excp_gp(v, 0);
	if (descriptor_read(v, selector, raw, VEC_GP))
		return -1;
	attr = descriptor_attr(*raw);
	if (unlikely(!attr_is_code(attr) || SEG_DPL(attr) > v->arch.cpl))
		return excp_gp(v, selector_error(selector));
	if (unlikely(vcpu_long_mode(v) && (attr & (SEG_L | SEG_DB)) != SEG_L))
		return excp_gp(v, selector_error(selector));
	if (unlikely(!(attr & SEG_P)))
		return excp_np(v, selector_error(selector));
	*cpl = attr_is_conforming(attr) ? v->arch.cpl : SEG_DPL(attr);
	if (unlikely((v->arch.rflags & FLAG_VM) && *cpl != 0))
		return excp_gp(v, selector_error(selector));
	return 0;
}

/* IF falls through an interrupt gate, not through a trap gate (odd types). */
static void handler_flags(struct vcpu *v, unsigned gate_type)
{
	v->arch.rflags &=
		~(uint64_t)(FLAG_TF | FLAG_NT | FLAG_RF | FLAG_VM | (gate_type & 1 ? 0 : FLAG_IF));
}

/* Type, DPL and presence of a gate; 16-byte gates and 8-byte ones share the layout. */
static int gate_check(struct vcpu *v, const struct excp *e, uint64_t gate, unsigned valid_types)
{
	uint16_t attr = descriptor_attr(gate);

	if (unlikely((attr & SEG_S) || !(valid_types >> (attr & SEG_TYPE) & 1)))
		return excp_gp(v, idt_error(e));
	if (unlikely(is_software(e) && SEG_DPL(attr) < v->arch.cpl))
		return excp_gp(v, idt_error(e));
	if (unlikely(!(attr & SEG_P)))
		return excp_np(v, idt_error(e));
	return 0;
}

static int gate_read64(struct vcpu *v, uint64_t la, uint64_t gate[2])
{
	const volatile uint64_t *host = mmu_hit(v->soft.system_read, la, 16);

	if (unlikely(!host))
		return mmu_read(v, la, gate, 16, MMU_SYSTEM);
	gate[0] = host[0];
	gate[1] = host[1];
	return 0;
}

static int frame_write64(struct vcpu *v, uint64_t la, const uint64_t *frame, unsigned len,
			 bool inner)
{
	volatile uint64_t *host =
		mmu_hit(inner ? v->soft.system_write : v->soft.tlb_write, la, len);
	unsigned n;

	if (unlikely(!host))
		return mmu_write(v, la, frame, len, inner ? MMU_SYSTEM : MMU_CPL);
	for (n = 0; n < len / 8; n++)
		host[n] = frame[n];
	return 0;
}

static int deliver_long(struct vcpu *v, const struct excp *e)
{
	struct vcpu_arch *a = &v->arch;
	uint64_t gate[2], raw, rip, rsp, frame[6], *f = frame + 1;
	unsigned cpl, ist, len = 40;
	uint16_t selector;

	if (unlikely(e->vector * 16u + 15 > a->idtr.limit))
		return excp_gp(v, idt_error(e));
	if (gate_read64(v, a->idtr.base + e->vector * 16u, gate))
		return -1;
	if (gate_check(v, e, gate[0], 1u << SYS_INT32 | 1u << SYS_TRAP32))
		return -1;
	selector = (uint16_t)(gate[0] >> 16);
	if (handler_code(v, selector, &raw, &cpl))
		return -1;
	rip = (gate[0] & 0xffff) | ((gate[0] >> 32) & 0xffff0000) | gate[1] << 32;

	ist = gate[0] >> 32 & 7;
	if (ist) {
		if (stack_from_tss64(v, 3 + ist, &rsp))
			return -1;
	} else if (cpl != a->cpl) {
		if (stack_from_tss64(v, cpl, &rsp))
			return -1;
	} else {
		rsp = a->gpr[RSP];
	}
	rsp &= ~15ull;

	f[0] = return_rip(v, e);
	f[1] = a->seg[SEG_CS].selector;
	f[2] = pushed_flags(v, e);
	f[3] = a->gpr[RSP];
	f[4] = a->seg[SEG_SS].selector;
	if (e->has_error) {
		*--f = e->error;
		len = 48;
	}
	rsp -= len;
	if (unlikely(!address_canonical(rsp) || !address_canonical(rsp + len - 1)))
		return excp_ss(v, 0);
	if (unlikely(!address_canonical(rip)))
		return excp_gp(v, 0);
	if (descriptor_access(v, selector, &raw) || frame_write64(v, rsp, f, len, cpl != a->cpl))
		return -1;

	a->gpr[RSP] = rsp;
	if (cpl != a->cpl)
		a->seg[SEG_SS] = stack_null_segment(cpl);
	code_load(v, selector, raw, cpl);
	a->rip = rip;
	handler_flags(v, (gate[0] >> 40) & SEG_TYPE);
	return 0;
}

/* The frame that virtual-8086 mode adds above SS, and the segments it leaves behind. */
static unsigned frame_vm86(const struct vcpu *v, uint64_t *frame, unsigned count)
{
	frame[count++] = v->arch.seg[SEG_ES].selector;
	frame[count++] = v->arch.seg[SEG_DS].selector;
	frame[count++] = v->arch.seg[SEG_FS].selector;
	frame[count++] = v->arch.seg[SEG_GS].selector;
	return count;
}

static int deliver_gate(struct vcpu *v, const struct excp *e, uint64_t gate)
{
	static const uint8_t data[] = { SEG_ES, SEG_DS, SEG_FS, SEG_GS };
	struct vcpu_arch *a = &v->arch;
	unsigned type = (gate >> 40) & SEG_TYPE, size = type & 8 ? 4 : 2, cpl, count = 0, n;
	uint16_t selector = (uint16_t)(gate >> 16);
	bool vm86 = a->rflags & FLAG_VM, inner;
	uint64_t raw, frame[10], rip = gate & 0xffff;
	struct stack st;

	if (size == 4)
		rip |= (gate >> 32) & 0xffff0000;
	if (handler_code(v, selector, &raw, &cpl))
		return -1;
	inner = cpl != a->cpl;
	if (inner) {
		if (stack_from_tss(v, cpl, &st))
			return -1;
	} else {
		st = stack_current(v);
	}

	if (e->has_error)
		frame[count++] = e->error;
	frame[count++] = return_rip(v, e);
	frame[count++] = a->seg[SEG_CS].selector;
	frame[count++] = pushed_flags(v, e);
	if (inner) {
		frame[count++] = a->gpr[RSP];
		frame[count++] = a->seg[SEG_SS].selector;
		if (vm86)
			count = frame_vm86(v, frame, count);
	}
	if (rip > descriptor_limit(raw))
		return excp_gp(v, 0);
	if (descriptor_access(v, selector, &raw) || stack_write(v, &st, frame, count, size))
		return -1;

	if (inner)
		a->seg[SEG_SS] = st.ss;
	stack_commit(v, &st);
	if (vm86)
		for (n = 0; n < 4; n++)
			a->seg[data[n]] = (struct segment){ 0 };
	code_load(v, selector, raw, cpl);
	a->rip = rip;
	handler_flags(v, type);
	return 0;
}

static int deliver_protected(struct vcpu *v, const struct excp *e)
{
	uint64_t gate;

	if (e->vector * 8u + 7 > v->arch.idtr.limit)
		return excp_gp(v, idt_error(e));
	if (mmu_read64(v, v->arch.idtr.base + e->vector * 8u, &gate, MMU_SYSTEM))
		return -1;
	if (gate_check(v, e, gate,
		       1u << SYS_TASK_GATE | 1u << SYS_INT16 | 1u << SYS_TRAP16 | 1u << SYS_INT32 |
			       1u << SYS_TRAP32))
		return -1;
	if ((descriptor_attr(gate) & SEG_TYPE) == SYS_TASK_GATE)
		return task_switch_saving(v, (uint16_t)(gate >> 16), TASK_GATE, return_rip(v, e),
					  (uint32_t)pushed_flags(v, e), e->has_error, e->error);
	return deliver_gate(v, e, gate);
}

/*
 * Through a real-mode vector at `table`: real mode itself, and INT n that
 * virtual-8086 mode redirects (3B, 20.3.3). With VME and IOPL below 3 the
 * handler sees IOPL 3 and the virtual interrupt flag in place of IF.
 */
static int deliver_vector(struct vcpu *v, const struct excp *e, uint64_t table, bool virtual_if)
{
	struct vcpu_arch *a = &v->arch;
	struct stack st = stack_current(v);
	uint64_t frame[3], flags = a->rflags;
	uint32_t vector;

	if (mmu_read32(v, table + e->vector * 4u, &vector, MMU_SYSTEM))
		return -1;
	if (virtual_if)
		flags = (flags & ~(uint64_t)FLAG_IF) | FLAG_IOPL | (flags & FLAG_VIF ? FLAG_IF : 0);
	frame[0] = return_rip(v, e);
	frame[1] = a->seg[SEG_CS].selector;
	frame[2] = flags;
	if ((vector & 0xffff) > a->seg[SEG_CS].limit)
		return excp_gp(v, 0);
	if (stack_write(v, &st, frame, 3, 2))
		return -1;
	stack_commit(v, &st);
	segment_load_real(v, SEG_CS, (uint16_t)(vector >> 16));
	a->rip = vector & 0xffff;
	a->rflags &= ~(uint64_t)(FLAG_TF | FLAG_RF | FLAG_AC | (virtual_if ? FLAG_VIF : FLAG_IF));
	return 0;
}

static int deliver_real(struct vcpu *v, const struct excp *e)
{
	if (e->vector * 4u + 3 > v->arch.idtr.limit)
		return excp_gp(v, idt_error(e));
	return deliver_vector(v, e, v->arch.idtr.base, false);
}

/* The interrupt redirection bitmap: 32 bytes just below the I/O permission bitmap. */
static int redirected(struct vcpu *v, uint8_t vector, bool *to_8086)
{
	const struct segment *tr = &v->arch.seg[SEG_TR];
	uint32_t offset;
	uint16_t map;
	uint8_t bits;

	if (!(tr->attr & SEG_P) || (tr->attr & SEG_TYPE) < SYS_TSS32 || tr->limit < 103)
		return excp_gp(v, 0);
	if (mmu_read16(v, tr->base + 102, &map, MMU_SYSTEM))
		return -1;
	offset = (uint32_t)map - 32 + vector / 8;
	if (map < 32 || offset > tr->limit)
		return excp_gp(v, 0);
	if (mmu_read(v, tr->base + offset, &bits, 1, MMU_SYSTEM))
		return -1;
	*to_8086 = !(bits >> (vector & 7) & 1);
	return 0;
}

/* INT n in virtual-8086 mode: table 20-2. INT3, INTO and INT1 always go through the IDT. */
static int deliver_vm86_int(struct vcpu *v, const struct excp *e)
{
	bool to_8086 = false, full_iopl = vcpu_iopl(v) == 3;

	if ((v->arch.cr4 & CR4_VME) && redirected(v, e->vector, &to_8086))
		return -1;
	if (to_8086)
		return deliver_vector(v, e, 0, !full_iopl);
	if (!full_iopl)
		return excp_gp(v, 0);
	return deliver_protected(v, e);
}

static int deliver(struct vcpu *v, const struct excp *e)
{
	if (likely(vcpu_long_mode(v)))
		return deliver_long(v, e);
	if (vcpu_real_mode(v))
		return deliver_real(v, e);
	if (vcpu_vm86(v) && e->type == EXCP_SOFT_INT)
		return deliver_vm86_int(v, e);
	return deliver_protected(v, e);
}

/* What hardware changes when delivery begins, whatever becomes of it. */
static void begin(struct vcpu *v, const struct excp *e)
{
	struct vcpu_arch *a = &v->arch;

	if (e->type == EXCP_NMI) {
		a->nmi_masked = 1;
	} else if (e->vector == VEC_PF && e->type == EXCP_FAULT) {
		a->cr2 = e->cr2;
	} else if (e->vector == VEC_DB && e->type != EXCP_SOFT_INT && e->type != EXCP_INTERRUPT) {
		if (e->type != EXCP_ICEBP)
			a->dr[6] = (a->dr[6] & ~(uint64_t)DR6_TRAP_BITS) | e->dr6;
		a->dr[7] &= ~(uint64_t)DR7_GD;
		a->msr.debugctl &= ~(uint64_t)DEBUGCTL_LBR_BTF;
	}
}

/* `second` came up while `first` was being delivered: tables 6-4 and 6-5. False: shutdown. */
static bool combine(const struct excp *first, struct excp *second)
{
	enum excp_class a = excp_class(first), b = excp_class(second);
	bool both = b == CLASS_CONTRIBUTORY || b == CLASS_PAGE_FAULT;

	if (a == CLASS_DOUBLE_FAULT && both)
		return false;
	if ((a == CLASS_CONTRIBUTORY && b == CLASS_CONTRIBUTORY) ||
	    (a == CLASS_PAGE_FAULT && both)) {
		*second = (struct excp){ .vector = VEC_DF, .has_error = 1 };
		return true;
	}
	if (b == CLASS_CONTRIBUTORY && second->has_error && !is_software(first))
		second->error |= ERROR_EXT;
	return true;
}

int excp_deliver(struct vcpu *v, struct excp e)
{
	unsigned chain;

	for (chain = 0; chain < CHAIN_LIMIT; chain++) {
		struct excp second;

		begin(v, &e);
		if (likely(!deliver(v, &e))) {
			v->arch.shadow = SHADOW_NONE;
			v->arch.activity = ACTIVITY_RUN;
			vcpu_mode_changed(v);
			return 0;
		}
		second = v->fault;
		if (second.vector == VEC_PF)
			v->arch.cr2 = second.cr2; /* even if it is about to become a double fault */
		if (!combine(&e, &second)) {
			v->arch.activity = ACTIVITY_SHUTDOWN;
			return -1;
		}
		e = second;
	}
	/*
	 * Benign exceptions whose handlers raise more of them, #AC at level 3 say,
	 * never end on hardware either. Ours stays interruptible: the rest is
	 * delivered when events are next looked at.
	 */
	v->arch.event = (struct vcpu_event){ .pending = 1,
					     .vector = e.vector,
					     .type = e.type,
					     .has_error = e.has_error,
					     .error = e.error,
					     .cr2 = e.cr2 };
	v->arch.activity = ACTIVITY_RUN;
	atomic_fetch_or_explicit(&v->req, REQ_IRQ, memory_order_relaxed);
	return 0;
}
