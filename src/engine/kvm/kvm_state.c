/*
 * The canonical state into the kernel and back. Called by the engine's enter
 * and leave, and around INIT and SIPI, which are ours.
 *
 * Invariant: what the machine owns (local APIC, time, memory types, machine
 * checks) never leaves arch; everything else is the kernel's between
 * kvm_state_in() and kvm_state_out(), and arch's copy is old.
 */
#include <errno.h>
#include <string.h>

#include "bus/vclock.h"
#include "cpu/control.h"
#include "cpu/excp.h"
#include "cpu/lapic.h"
#include "cpu/xsave.h"
#include "engine/kvm/kvm_priv.h"

#define MSR_TSC          0x10u
#define MXCSR_RESERVED   0xffff0000u
#define DR6_RESERVED_SET 0xffff0ff0ull

#define WORD(index, member)                                   \
	{                                                     \
		index, offsetof(struct vcpu_arch, msr.member) \
	}
static const struct {
	uint32_t index;
	size_t offset;
} msrs[] = {
	WORD(0xc0000081, star),
	WORD(0xc0000082, lstar),
	WORD(0xc0000083, cstar),
	WORD(0xc0000084, fmask),
	WORD(0xc0000102, kernel_gs_base),
	WORD(0x174, sysenter_cs),
	WORD(0x175, sysenter_esp),
	WORD(0x176, sysenter_eip),
	WORD(0x277, pat),
	/* From here on, those that a host may lack. */
	WORD(0xc0000103, tsc_aux),
	WORD(0x48, spec_ctrl),
	/* The last: hosts that lack it log each write, so zero is written only over something. */
	WORD(0x1d9, debugctl),
};
#define MSRS (sizeof(msrs) / sizeof(msrs[0]))

struct msr_block {
	uint32_t count, padding;
	struct kvm_msr_entry entry[MSRS];
};
_Static_assert(offsetof(struct msr_block, entry) == sizeof(struct kvm_msrs), "kernel ABI");

bool kvm_state_holds_msr(uint32_t index)
{
	/* EFER, and the bases of FS and GS, travel with other registers. */
	if (index == 0xc0000080 || index == 0xc0000100 || index == 0xc0000101)
		return true;
	for (size_t n = 0; n < MSRS; n++)
		if (msrs[n].index == index)
			return true;
	return false;
}

static uint64_t *msr_word(struct vcpu *v, size_t n)
{
	return (uint64_t *)((uint8_t *)&v->arch + msrs[n].offset);
}

/*
 * The kernel takes entries one after the other until it does not know one; that
 * one is left out, since no guest here can have used it.
 */
static int move_msrs(struct vcpu *v, unsigned long request)
{
	struct kvm_vcpu *k = v->engine_priv;
	size_t from = 0, end = MSRS;

	if (request == KVM_SET_MSRS && !v->arch.msr.debugctl && !k->debugctl)
		end--;
	while (from < end) {
		struct msr_block block = { .count = (uint32_t)(end - from) };
		int done;

		for (size_t n = from; n < end; n++)
			block.entry[n - from] = (struct kvm_msr_entry){ .index = msrs[n].index,
									.data = *msr_word(v, n) };
		done = kvm_call(k, request, &block);
		if (done < 0)
			return kvm_vcpu_fail(v, "move MSRs", errno);
		for (int n = 0; n < done && request == KVM_GET_MSRS; n++)
			*msr_word(v, from + (size_t)n) = block.entry[n].data;
		from += (size_t)done + 1;
	}
	k->debugctl = v->arch.msr.debugctl;
	return 0;
}

static struct kvm_segment segment_in(const struct segment *s)
{
	return (struct kvm_segment){
		.base = s->base,
		.limit = s->limit,
		.selector = s->selector,
		.type = s->attr & SEG_TYPE,
		.s = s->attr & SEG_S ? 1 : 0,
		.dpl = SEG_DPL(s->attr),
		.present = s->attr & SEG_P ? 1 : 0,
		.avl = s->attr & SEG_AVL ? 1 : 0,
		.l = s->attr & SEG_L ? 1 : 0,
		.db = s->attr & SEG_DB ? 1 : 0,
		.g = s->attr & SEG_G ? 1 : 0,
		.unusable = s->attr & SEG_P ? 0 : 1,
	};
}

static struct segment segment_out(const struct kvm_segment *s)
{
	unsigned attr = (s->type & SEG_TYPE) | (s->s ? SEG_S : 0) | (s->dpl & 3u) << SEG_DPL_SHIFT |
			(s->avl ? SEG_AVL : 0) | (s->l ? SEG_L : 0) | (s->db ? SEG_DB : 0) |
			(s->g ? SEG_G : 0);

	if (s->present && !s->unusable)
		attr |= SEG_P;
	return (struct segment){
		.base = s->base, .limit = s->limit, .selector = s->selector, .attr = (uint16_t)attr
	};
}

/* The layouts of both forms of segment registers begin alike; only the ends differ. */
#define FILL_SREGS(to, a)                                                                  \
	do {                                                                               \
		(to)->es = segment_in(&(a)->seg[SEG_ES]);                                  \
		(to)->cs = segment_in(&(a)->seg[SEG_CS]);                                  \
		(to)->ss = segment_in(&(a)->seg[SEG_SS]);                                  \
		(to)->ds = segment_in(&(a)->seg[SEG_DS]);                                  \
		(to)->fs = segment_in(&(a)->seg[SEG_FS]);                                  \
		(to)->gs = segment_in(&(a)->seg[SEG_GS]);                                  \
		(to)->ldt = segment_in(&(a)->seg[SEG_LDTR]);                               \
		(to)->tr = segment_in(&(a)->seg[SEG_TR]);                                  \
		(to)->gdt = (struct kvm_dtable){ (a)->gdtr.base, (a)->gdtr.limit, { 0 } }; \
		(to)->idt = (struct kvm_dtable){ (a)->idtr.base, (a)->idtr.limit, { 0 } }; \
		(to)->cr0 = (a)->cr0;                                                      \
		(to)->cr2 = (a)->cr2;                                                      \
		(to)->cr3 = (a)->cr3;                                                      \
		(to)->cr4 = (a)->cr4;                                                      \
		(to)->cr8 = (a)->lapic.tpr >> 4 & 0xf;                                     \
		(to)->efer = (a)->efer;                                                    \
		(to)->apic_base = (a)->lapic.base_msr;                                     \
	} while (0)

#define TAKE_SREGS(a, from)                                                         \
	do {                                                                        \
		(a)->seg[SEG_ES] = segment_out(&(from)->es);                        \
		(a)->seg[SEG_CS] = segment_out(&(from)->cs);                        \
		(a)->seg[SEG_SS] = segment_out(&(from)->ss);                        \
		(a)->seg[SEG_DS] = segment_out(&(from)->ds);                        \
		(a)->seg[SEG_FS] = segment_out(&(from)->fs);                        \
		(a)->seg[SEG_GS] = segment_out(&(from)->gs);                        \
		(a)->seg[SEG_LDTR] = segment_out(&(from)->ldt);                     \
		(a)->seg[SEG_TR] = segment_out(&(from)->tr);                        \
		(a)->gdtr = (struct dtable){ (from)->gdt.base, (from)->gdt.limit }; \
		(a)->idtr = (struct dtable){ (from)->idt.base, (from)->idt.limit }; \
		(a)->cr0 = (from)->cr0;                                             \
		(a)->cr2 = (from)->cr2;                                             \
		(a)->cr3 = (from)->cr3;                                             \
		(a)->cr4 = (from)->cr4;                                             \
		(a)->efer = (from)->efer;                                           \
	} while (0)

static bool pae_paging(const struct vcpu_arch *a)
{
	return (a->cr0 & CR0_PG) && (a->cr4 & CR4_PAE) && !(a->efer & EFER_LMA);
}

static int sregs_in(struct vcpu *v)
{
	const struct vcpu_arch *a = &v->arch;
	struct kvm_vcpu *k = v->engine_priv;
	struct kvm_sregs2 two = { 0 };
	struct kvm_sregs one = { 0 };

	if (!k->vm->sregs2) {
		FILL_SREGS(&one, a);
		return kvm_call(k, KVM_SET_SREGS, &one);
	}
	FILL_SREGS(&two, a);
	if (pae_paging(a)) {
		two.flags = KVM_SREGS2_FLAGS_PDPTRS_VALID;
		memcpy(two.pdptrs, a->pdpte, sizeof(two.pdptrs));
	}
	return kvm_call(k, KVM_SET_SREGS2, &two);
}

static int sregs_out(struct vcpu *v)
{
	struct vcpu_arch *a = &v->arch;
	struct kvm_vcpu *k = v->engine_priv;
	struct kvm_sregs2 two = { 0 };
	struct kvm_sregs one = { 0 };

	if (k->vm->sregs2) {
		if (kvm_call(k, KVM_GET_SREGS2, &two) < 0)
			return -1;
		TAKE_SREGS(a, &two);
		if (two.flags & KVM_SREGS2_FLAGS_PDPTRS_VALID) {
			memcpy(a->pdpte, two.pdptrs, sizeof(a->pdpte));
			return 0;
		}
	} else {
		if (kvm_call(k, KVM_GET_SREGS, &one) < 0)
			return -1;
		TAKE_SREGS(a, &one);
	}
	/* With nested paging hardware fetches them from memory when it wants them. */
	if (pae_paging(a))
		(void)pdptes_load(v, a->cr3);
	return 0;
}

static int regs_in(struct vcpu *v)
{
	const uint64_t *g = v->arch.gpr;
	const struct kvm_regs regs = {
		.rax = g[RAX],
		.rbx = g[RBX],
		.rcx = g[RCX],
		.rdx = g[RDX],
		.rsi = g[RSI],
		.rdi = g[RDI],
		.rsp = g[RSP],
		.rbp = g[RBP],
		.r8 = g[R8],
		.r9 = g[R9],
		.r10 = g[R10],
		.r11 = g[R11],
		.r12 = g[R12],
		.r13 = g[R13],
		.r14 = g[R14],
		.r15 = g[R15],
		.rip = v->arch.rip,
		.rflags = v->arch.rflags | FLAG_FIXED,
	};

	return kvm_call(v->engine_priv, KVM_SET_REGS, &regs);
}

static int regs_out(struct vcpu *v)
{
	uint64_t *g = v->arch.gpr;
	struct kvm_regs r;

	if (kvm_call(v->engine_priv, KVM_GET_REGS, &r) < 0)
		return -1;
	g[RAX] = r.rax, g[RBX] = r.rbx, g[RCX] = r.rcx, g[RDX] = r.rdx;
	g[RSI] = r.rsi, g[RDI] = r.rdi, g[RSP] = r.rsp, g[RBP] = r.rbp;
	g[R8] = r.r8, g[R9] = r.r9, g[R10] = r.r10, g[R11] = r.r11;
	g[R12] = r.r12, g[R13] = r.r13, g[R14] = r.r14, g[R15] = r.r15;
	v->arch.rip = r.rip;
	v->arch.rflags = r.rflags | FLAG_FIXED;
	return 0;
}

static int xsave_in(struct vcpu *v)
{
	struct kvm_xsave area;
	struct xsave_image *image = (struct xsave_image *)&area;

	_Static_assert(sizeof(area.region) == XSAVE_AREA_SIZE, "one layout");
	memcpy(&area, v->arch.xsave, XSAVE_AREA_SIZE);
	/* Whatever a saved state put there, the kernel must not choke on it. */
	image->mxcsr &= ~MXCSR_RESERVED;
	image->header.xstate_bv &= v->model->xcr0_mask | XFEATURE_X87 | XFEATURE_SSE;
	image->header.xcomp_bv = 0;
	memset(image->header.reserved, 0, sizeof(image->header.reserved));
	return kvm_call(v->engine_priv, KVM_SET_XSAVE, &area);
}

static int xsave_out(struct vcpu *v)
{
	const struct xsave_image *image = (const struct xsave_image *)v->arch.xsave;

	if (kvm_call(v->engine_priv, KVM_GET_XSAVE, v->arch.xsave) < 0)
		return -1;
	v->arch.fpu_op = image->fop;
	v->arch.fpu_ip = image->fip;
	v->arch.fpu_dp = image->fdp;
	return 0;
}

static int xcr0_in(struct vcpu *v)
{
	const struct kvm_xcrs xcrs = { .nr_xcrs = 1, .xcrs = { { .value = v->arch.xcr0 } } };

	/* Without XSAVE there is none. */
	if (!cpu_has(v->model, FEAT_XSAVE))
		return 0;
	return kvm_call(v->engine_priv, KVM_SET_XCRS, &xcrs);
}

static int xcr0_out(struct vcpu *v)
{
	struct kvm_xcrs xcrs;

	if (!cpu_has(v->model, FEAT_XSAVE))
		return 0;
	if (kvm_call(v->engine_priv, KVM_GET_XCRS, &xcrs) < 0)
		return -1;
	for (uint32_t n = 0; n < xcrs.nr_xcrs && n < KVM_MAX_XCRS; n++)
		if (xcrs.xcrs[n].xcr == 0)
			v->arch.xcr0 = xcrs.xcrs[n].value;
	return 0;
}

static int debug_in(struct vcpu *v)
{
	const uint64_t *dr = v->arch.dr;
	const struct kvm_debugregs regs = { .db = { dr[0], dr[1], dr[2], dr[3] },
					    .dr6 = (uint32_t)dr[6] | DR6_RESERVED_SET,
					    .dr7 = (uint32_t)dr[7] };

	return kvm_call(v->engine_priv, KVM_SET_DEBUGREGS, &regs);
}

static int debug_out(struct vcpu *v)
{
	struct kvm_debugregs regs;

	if (kvm_call(v->engine_priv, KVM_GET_DEBUGREGS, &regs) < 0)
		return -1;
	memcpy(v->arch.dr, regs.db, sizeof(regs.db));
	v->arch.dr[6] = regs.dr6;
	v->arch.dr[7] = regs.dr7;
	return 0;
}

static int events_in(struct vcpu *v)
{
	struct vcpu_event *e = &v->arch.event;
	struct kvm_vcpu_events events = {
		.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW,
		.nmi.masked = v->arch.nmi_masked,
		.interrupt.shadow = v->arch.shadow == SHADOW_STI      ? KVM_X86_SHADOW_INT_STI
				    : v->arch.shadow == SHADOW_MOV_SS ? KVM_X86_SHADOW_INT_MOV_SS
								      : 0,
	};

	if (e->pending && e->type == EXCP_INTERRUPT) {
		events.interrupt.injected = 1;
		events.interrupt.nr = e->vector;
	} else if (e->pending && e->type == EXCP_NMI) {
		events.nmi.injected = 1;
	} else if (e->pending && e->vector < 32) {
		events.exception.injected = 1;
		events.exception.nr = e->vector;
		events.exception.has_error_code = e->has_error;
		events.exception.error_code = e->error;
	}
	return kvm_call(v->engine_priv, KVM_SET_VCPU_EVENTS, &events);
}

static bool has_error_code(uint8_t vector)
{
	return vector == VEC_DF || (vector >= VEC_TS && vector <= VEC_PF) || vector == VEC_AC;
}

static int events_out(struct vcpu *v)
{
	struct vcpu_event *e = &v->arch.event;
	struct kvm_vcpu_events events;

	if (kvm_call(v->engine_priv, KVM_GET_VCPU_EVENTS, &events) < 0)
		return -1;
	*e = (struct vcpu_event){ 0 };
	v->arch.nmi_masked = events.nmi.masked != 0;
	v->arch.shadow = events.interrupt.shadow & KVM_X86_SHADOW_INT_MOV_SS ? SHADOW_MOV_SS
			 : events.interrupt.shadow & KVM_X86_SHADOW_INT_STI  ? SHADOW_STI
									     : SHADOW_NONE;
	if (events.nmi.pending)
		atomic_fetch_or(&v->req, REQ_NMI);
	if (events.exception.injected) {
		*e = (struct vcpu_event){
			.pending = 1,
			.vector = events.exception.nr,
			.type = events.exception.nr == VEC_DB ? EXCP_TRAP : EXCP_FAULT,
			.has_error = events.exception.has_error_code &&
				     has_error_code(events.exception.nr),
			.error = events.exception.error_code,
			.cr2 = events.exception.nr == VEC_PF ? v->arch.cr2 : 0,
		};
	} else if (events.nmi.injected) {
		*e = (struct vcpu_event){ .pending = 1, .vector = VEC_NMI, .type = EXCP_NMI };
	} else if (events.interrupt.injected) {
		*e = (struct vcpu_event){ .pending = 1,
					  .vector = events.interrupt.nr,
					  .type = EXCP_INTERRUPT };
	}
	return 0;
}

/*
 * The guest's TSC is the VM's clock, which is the host's TSC and an offset
 * wherever the host's may be trusted and is as fast. Else the kernel is told the
 * value, which goes on at the guest's rate until the next pause; it sees to it
 * that vcpus which are told about the same, at about the same time, agree.
 */
int kvm_state_set_tsc(struct vcpu *v)
{
	struct kvm_vcpu *k = v->engine_priv;
	uint64_t offset = v->arch.msr.tsc_offset;
	struct kvm_device_attr attr = { .group = KVM_VCPU_TSC_CTRL,
					.attr = KVM_VCPU_TSC_OFFSET,
					.addr = (uintptr_t)&offset };
	struct kvm_one_msr one = { .count = 1, .entry = { .index = MSR_TSC } };

	vcpu_tsc_sync(v);
	k->tsc_offset = offset;
	one.entry.data = vclock_tsc(v->clock) + offset;
	offset += v->tsc_host_offset;
	if (v->tsc_direct && k->vm->tsc_offset && kvm_call(k, KVM_SET_DEVICE_ATTR, &attr) == 0)
		return 0;
	if (kvm_call(k, KVM_SET_MSRS, &one) != 1)
		return kvm_vcpu_fail(v, "set the TSC", errno);
	return 0;
}

int kvm_state_in(struct vcpu *v)
{
	/* Events last: setting registers forgets what was about to be delivered. */
	static const struct {
		int (*in)(struct vcpu *v);
		const char *what;
	} parts[] = {
		{ sregs_in, "set the segment and control registers" },
		{ regs_in, "set the registers" },
		{ xcr0_in, "set XCR0" },
		{ xsave_in, "set the vector registers" },
		{ debug_in, "set the debug registers" },
		{ events_in, "set the pending events" },
	};

	/* CR2 is written when a page fault is delivered, and the kernel does not write it. */
	if (v->arch.event.pending && v->arch.event.vector == VEC_PF)
		v->arch.cr2 = v->arch.event.cr2;
	if (move_msrs(v, KVM_SET_MSRS) < 0 || kvm_state_set_tsc(v) < 0)
		return -1;
	for (size_t n = 0; n < sizeof(parts) / sizeof(parts[0]); n++)
		if (parts[n].in(v) < 0)
			return kvm_vcpu_fail(v, parts[n].what, errno);
	v->arch.event.pending = 0;
	return 0;
}

static uint8_t privilege(const struct vcpu *v)
{
	if (vcpu_real_mode(v))
		return 0;
	return vcpu_vm86(v) ? 3 : SEG_DPL(v->arch.seg[SEG_SS].attr);
}

int kvm_state_out(struct vcpu *v)
{
	static const struct {
		int (*out)(struct vcpu *v);
		const char *what;
	} parts[] = {
		{ sregs_out, "tell the segment and control registers" },
		{ regs_out, "tell the registers" },
		{ xcr0_out, "tell XCR0" },
		{ xsave_out, "tell the vector registers" },
		{ debug_out, "tell the debug registers" },
		{ events_out, "tell the pending events" },
	};

	for (size_t n = 0; n < sizeof(parts) / sizeof(parts[0]); n++)
		if (parts[n].out(v) < 0)
			return kvm_vcpu_fail(v, parts[n].what, errno);
	v->arch.zero = 0;
	v->arch.cpl = privilege(v);
	return move_msrs(v, KVM_GET_MSRS);
}
