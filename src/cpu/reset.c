/*
 * Reset and INIT: the states of SDM 3A, table 9-1. vcpu_reset() is called by
 * the vm before a vcpu runs and after a reset of the machine, vcpu_init_signal()
 * by the vcpu's own thread when it takes an INIT.
 */
#include "base/bytes.h"
#include "cpu/fpstate.h"
#include "cpu/lapic.h"
#include "cpu/mmu.h"
#include "cpu/model.h"
#include "cpu/vcpu.h"
#include "cpu/xsave.h"

#define ATTR_CODE 0x9b /* present, accessed, readable code */
#define ATTR_DATA 0x93 /* present, accessed, writable data */
#define ATTR_LDT  0x82
#define ATTR_TSS  0x8b /* busy 32-bit TSS */

#define MISC_ENABLE_FAST_STRING 0x1u
#define MISC_ENABLE_NO_BTS      0x800u
#define MISC_ENABLE_NO_PEBS     0x1000u
#define FEATURE_CONTROL_LOCKED  1u

#define MTRR_ENABLE       0x800u
#define MTRR_FIXED_ENABLE 0x400u
#define MTRR_VALID        0x800u
#define MTRR_WB           6u

/* What RESET and INIT have in common. */
static void registers_init(struct vcpu *v)
{
	struct vcpu_arch *a = &v->arch;
	unsigned n;

	bytes_zero(a->gpr, sizeof(a->gpr));
	a->zero = 0;
	a->gpr[RDX] = v->model->family_model_stepping;
	a->rip = 0xfff0;
	a->rflags = FLAG_FIXED;
	for (n = 0; n < 6; n++)
		a->seg[n] = (struct segment){ .limit = 0xffff, .attr = ATTR_DATA };
	a->seg[SEG_CS] = (struct segment){
		.base = 0xffff0000u, .limit = 0xffff, .selector = 0xf000, .attr = ATTR_CODE
	};
	a->seg[SEG_LDTR] = (struct segment){ .limit = 0xffff, .attr = ATTR_LDT };
	a->seg[SEG_TR] = (struct segment){ .limit = 0xffff, .attr = ATTR_TSS };
	a->gdtr = a->idtr = (struct dtable){ .limit = 0xffff };
	a->cr2 = a->cr3 = a->cr4 = a->efer = 0;
	bytes_zero(a->pdpte, sizeof(a->pdpte));
	bytes_zero(a->dr, sizeof(a->dr));
	a->dr[6] = 0xffff0ff0;
	a->dr[7] = 0x400;
	a->cpl = 0;
	a->shadow = SHADOW_NONE;
	a->nmi_masked = 0;
	a->kicked = 0;
	a->event = (struct vcpu_event){ 0 };
}

/*
 * The MTRRs as firmware leaves them, for machines that start without any:
 * everything write-back but the VGA and ROM area and the PCI hole. A kernel
 * that found them disabled would give up PAT too.
 */
static void mtrrs_init(struct vcpu *v)
{
	uint64_t wb = 0x0606060606060606ull;
	unsigned n;

	v->arch.msr.mtrr_def_type = MTRR_ENABLE | MTRR_FIXED_ENABLE | MTRR_WB;
	/* 64K_00000 and 16K_80000 are RAM, the others the holes from 0xa0000 to 1 MiB. */
	for (n = 0; n < 2; n++)
		v->arch.msr.mtrr_fixed[n] = wb;
	v->arch.msr.mtrr_var[0] = RAM_LOW_LIMIT; /* type 0: uncacheable */
	v->arch.msr.mtrr_var[1] =
		(((1ull << v->model->phys_bits) - 1) & ~(RAM_HIGH_BASE - RAM_LOW_LIMIT - 1)) |
		MTRR_VALID;
}

static void xsave_init(struct vcpu *v)
{
	struct xsave_image *image = (struct xsave_image *)v->arch.xsave;

	bytes_zero(v->arch.xsave, sizeof(v->arch.xsave));
	image->fcw = 0x40;
	image->ftw = 0xff; /* tag word 5555H: zero, but not empty */
	image->mxcsr = 0x1f80;
	image->header.xstate_bv = XFEATURE_X87 | XFEATURE_SSE;
	v->arch.fpu_ip = v->arch.fpu_dp = 0;
	v->arch.fpu_op = 0;
}

static void translation_init(struct vcpu *v)
{
	mmu_flush_all(v);
	mmu_switch(v, 0, false);
	vcpu_mode_changed(v);
}

void vcpu_reset(struct vcpu *v, bool ap)
{
	vcpu_fp_park(v);
	bytes_zero(&v->arch.msr, sizeof(v->arch.msr));
	v->arch.cr0 = CR0_CD | CR0_NW | CR0_ET;
	v->arch.xcr0 = XFEATURE_X87;
	registers_init(v);
	xsave_init(v);
	v->arch.a20_masked = 0;
	v->arch.msr.pat = 0x0007040600070406ull;
	v->arch.msr.misc_enable =
		MISC_ENABLE_FAST_STRING | MISC_ENABLE_NO_BTS | MISC_ENABLE_NO_PEBS;
	v->arch.msr.feature_control = FEATURE_CONTROL_LOCKED;
	mtrrs_init(v);
	bytes_zero(&v->arch.lapic, sizeof(v->arch.lapic));
	lapic_reset(v, false);
	v->arch.activity = ap ? ACTIVITY_WAIT_SIPI : ACTIVITY_RUN;
	translation_init(v);
}

void vcpu_init_signal(struct vcpu *v)
{
	v->arch.cr0 = (v->arch.cr0 & (CR0_CD | CR0_NW)) | CR0_ET;
	registers_init(v);
	lapic_reset(v, true);
	v->arch.activity =
		(v->arch.lapic.base_msr & APIC_BASE_BSP) ? ACTIVITY_RUN : ACTIVITY_WAIT_SIPI;
	translation_init(v);
}
