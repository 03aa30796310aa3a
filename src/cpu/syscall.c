/*
 * SYSCALL, SYSRET, SYSENTER, SYSEXIT: transfers with flat segments made from
 * MSRs, no table read and no stack access. Called by the instructions.
 * Intel's rules; those of AMD where the CPU model says AuthenticAMD, because
 * kernels choose their 32-bit entry by the vendor.
 */
#include "cpu/transfer.h"
#include "cpu/excp.h"

#define ATTR_CODE64 (SEG_G | SEG_L | SEG_P | SEG_S | 0xb)
#define ATTR_CODE32 (SEG_G | SEG_DB | SEG_P | SEG_S | 0xb)
#define ATTR_STACK  (SEG_G | SEG_DB | SEG_P | SEG_S | 0x3)
#define ATTR_DPL3   (3u << SEG_DPL_SHIFT)

#define SYSRET_FLAGS 0x3c7fd7u

static inline void flat(struct vcpu *v, unsigned seg, uint16_t selector, unsigned attr)
{
	v->arch.seg[seg] = (struct segment){ 0, 0xffffffffu, selector, (uint16_t)attr };
}

int insn_syscall(struct vcpu *v, uint64_t next_rip)
{
	struct vcpu_arch *a = &v->arch;
	uint16_t selector = (uint16_t)(a->msr.star >> 32) & 0xfffc;
	bool code64 = vcpu_code64(v);

	if (unlikely(!(a->efer & EFER_SCE) || !vcpu_protected(v)))
		return excp_ud(v);
	if (unlikely(!code64 && !vendor_is_amd(v)))
		return excp_ud(v);
	if (likely(vcpu_long_mode(v))) {
		a->gpr[RCX] = next_rip;
		a->gpr[R11] = a->rflags & ~(uint64_t)FLAG_RF;
		a->rip = code64 ? a->msr.lstar : a->msr.cstar;
		a->rflags = (a->rflags & ~(a->msr.fmask | FLAG_RF)) | FLAG_FIXED;
		flat(v, SEG_CS, selector, ATTR_CODE64);
	} else {
		a->gpr[RCX] = (uint32_t)next_rip;
		a->rip = (uint32_t)a->msr.star;
		a->rflags &= ~(uint64_t)(FLAG_IF | FLAG_RF | FLAG_VM);
		flat(v, SEG_CS, selector, ATTR_CODE32);
	}
	flat(v, SEG_SS, (uint16_t)(selector + 8), ATTR_STACK);
	a->cpl = 0;
	vcpu_mode_changed(v);
	return 0;
}

int insn_sysret(struct vcpu *v, unsigned opsize)
{
	struct vcpu_arch *a = &v->arch;
	uint16_t base = (uint16_t)(a->msr.star >> 48);
	bool amd = vendor_is_amd(v);

	if (unlikely(!(a->efer & EFER_SCE) || !vcpu_protected(v) || (!vcpu_code64(v) && !amd)))
		return excp_ud(v);
	if (unlikely(a->cpl != 0))
		return excp_gp(v, 0);
	if (likely(opsize == 8)) {
		/* Intel faults here, still at CPL 0; AMD lets the fetch fault in user mode. */
		if (unlikely(!amd && !address_canonical(a->gpr[RCX])))
			return excp_gp(v, 0);
		a->rip = a->gpr[RCX];
		flat(v, SEG_CS, (uint16_t)((base + 16) | 3), ATTR_CODE64 | ATTR_DPL3);
	} else {
		a->rip = (uint32_t)a->gpr[RCX];
		flat(v, SEG_CS, (uint16_t)(base | 3), ATTR_CODE32 | ATTR_DPL3);
	}
	if (likely(vcpu_long_mode(v)))
		a->rflags = (a->gpr[R11] & SYSRET_FLAGS) | FLAG_FIXED;
	else
		a->rflags |= FLAG_IF;
	flat(v, SEG_SS, (uint16_t)((base + 8) | 3), ATTR_STACK | ATTR_DPL3);
	a->cpl = 3;
	vcpu_mode_changed(v);
	vcpu_window_open(v);
	return 0;
}

int insn_sysenter(struct vcpu *v)
{
	struct vcpu_arch *a = &v->arch;
	uint16_t selector = (uint16_t)a->msr.sysenter_cs & 0xfffc;
	bool wide = vcpu_long_mode(v);

	if (wide && vendor_is_amd(v))
		return excp_ud(v);
	if (vcpu_real_mode(v) || !selector)
		return excp_gp(v, 0);
	a->rflags &= ~(uint64_t)(FLAG_VM | FLAG_IF | FLAG_RF);
	a->gpr[RSP] = wide ? a->msr.sysenter_esp : (uint32_t)a->msr.sysenter_esp;
	a->rip = wide ? a->msr.sysenter_eip : (uint32_t)a->msr.sysenter_eip;
	flat(v, SEG_CS, selector, wide ? ATTR_CODE64 : ATTR_CODE32);
	flat(v, SEG_SS, (uint16_t)(selector + 8), ATTR_STACK);
	a->cpl = 0;
	vcpu_mode_changed(v);
	return 0;
}

int insn_sysexit(struct vcpu *v, unsigned opsize)
{
	struct vcpu_arch *a = &v->arch;
	uint16_t selector = (uint16_t)a->msr.sysenter_cs & 0xfffc;

	if (vcpu_long_mode(v) && vendor_is_amd(v))
		return excp_ud(v);
	if (!selector || vcpu_real_mode(v) || a->cpl != 0)
		return excp_gp(v, 0);
	if (opsize == 8) {
		if (!address_canonical(a->gpr[RCX]) || !address_canonical(a->gpr[RDX]))
			return excp_gp(v, 0);
		a->gpr[RSP] = a->gpr[RCX];
		a->rip = a->gpr[RDX];
		flat(v, SEG_CS, (uint16_t)((selector + 32) | 3), ATTR_CODE64 | ATTR_DPL3);
		flat(v, SEG_SS, (uint16_t)((selector + 40) | 3), ATTR_STACK | ATTR_DPL3);
	} else {
		a->gpr[RSP] = (uint32_t)a->gpr[RCX];
		a->rip = (uint32_t)a->gpr[RDX];
		flat(v, SEG_CS, (uint16_t)((selector + 16) | 3), ATTR_CODE32 | ATTR_DPL3);
		flat(v, SEG_SS, (uint16_t)((selector + 24) | 3), ATTR_STACK | ATTR_DPL3);
	}
	a->cpl = 3;
	vcpu_mode_changed(v);
	return 0;
}
