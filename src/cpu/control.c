/*
 * Writes to control, debug and extended control registers with every check and
 * consequence the manuals name. Called by the instructions of the same names,
 * by WRMSR (EFER) and by task switches (CR3). Invariant: on -1 a fault is in
 * v->fault and nothing has changed; on 0 the TLB and the mode word agree with
 * the new value.
 */
#include "cpu/control.h"
#include "base/bytes.h"
#include "cpu/excp.h"
#include "cpu/fpstate.h"
#include "cpu/mmu.h"
#include "cpu/model.h"
#include "cpu/xsave.h"

#define CR0_DEFINED                                                                                \
	(CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | \
	 CR0_PG)
#define CR3_KEEP (1ull << 63)
#define CR3_PCID 0xfffull

#define DR6_FIXED     0xffff0ff0ull
#define DR6_WRITABLE  0xe00full /* B0-B3, BD, BS, BT */
#define DR6_BD        0x2000ull
#define DR7_FIXED     0x400ull
#define DR7_WRITABLE  0xffff23ffull /* no RTM debugging */
#define DR7_GD        0x2000ull
#define MXCSR_INITIAL 0x1f80u

static uint64_t address_reserved(const struct vcpu *v)
{
	return ~0ull << v->model->phys_bits;
}

static bool pae_paging(uint64_t cr0, uint64_t cr4, uint64_t efer)
{
	return (cr0 & CR0_PG) && (cr4 & CR4_PAE) && !(efer & EFER_LMA);
}

static unsigned current_pcid(const struct vcpu *v)
{
	return (v->arch.cr4 & CR4_PCIDE) ? (unsigned)(v->arch.cr3 & CR3_PCID) : 0;
}

int pdptes_load(struct vcpu *v, uint64_t cr3)
{
	/* SDM 3A, 4.4.1: in a present entry bits 2:1, 8:5 and those beyond MAXPHYADDR are reserved.
	 */
	uint64_t reserved = address_reserved(v) | 0x1e6, pdpte[4];
	unsigned n;

	/* Beyond RAM a PC reads all ones, and those have reserved bits set. */
	if (mmu_phys_read(v, cr3 & 0xffffffe0u, pdpte, sizeof(pdpte)) < 0)
		return excp_gp(v, 0);
	for (n = 0; n < 4; n++)
		if ((pdpte[n] & 1) && (pdpte[n] & reserved))
			return excp_gp(v, 0);
	bytes_copy(v->arch.pdpte, pdpte, sizeof(pdpte));
	return 0;
}

int cr0_write(struct vcpu *v, uint64_t value)
{
	uint64_t old = v->arch.cr0, efer = v->arch.efer, changed;

	if (value >> 32)
		return excp_gp(v, 0);
	value = (value & CR0_DEFINED) | CR0_ET;
	changed = value ^ old;
	if ((value & CR0_PG) && !(value & CR0_PE))
		return excp_gp(v, 0);
	if ((value & CR0_NW) && !(value & CR0_CD))
		return excp_gp(v, 0);
	if (changed & value & CR0_PG) {
		if (efer & EFER_LME) {
			if (!(v->arch.cr4 & CR4_PAE) || (v->arch.seg[SEG_CS].attr & SEG_L))
				return excp_gp(v, 0);
			efer |= EFER_LMA;
		}
	} else if (changed & CR0_PG) {
		/* Paging may be switched off from compatibility mode only. */
		if (vcpu_code64(v) || (v->arch.cr4 & CR4_PCIDE))
			return excp_gp(v, 0);
		efer &= ~(uint64_t)EFER_LMA;
	}
	if ((changed & (CR0_PG | CR0_CD | CR0_NW)) && pae_paging(value, v->arch.cr4, efer) &&
	    pdptes_load(v, v->arch.cr3) < 0)
		return -1;

	v->arch.cr0 = value;
	v->arch.efer = efer;
	if (changed & (CR0_PG | CR0_WP)) {
		mmu_flush_all(v);
		mmu_switch(v, current_pcid(v), false);
	}
	vcpu_mode_changed(v);
	return 0;
}

int cr3_write(struct vcpu *v, uint64_t value)
{
	bool pcide = v->arch.cr4 & CR4_PCIDE, keep = pcide && (value & CR3_KEEP);

	if (pcide)
		value &= ~CR3_KEEP;
	if (value & address_reserved(v))
		return excp_gp(v, 0);
	if (pae_paging(v->arch.cr0, v->arch.cr4, v->arch.efer) && pdptes_load(v, value) < 0)
		return -1;
	v->arch.cr3 = value;
	mmu_switch(v, current_pcid(v), keep);
	return 0;
}

static uint64_t cr4_allowed(const struct vcpu *v)
{
	static const struct {
		uint32_t bits;
		enum cpu_feature feature;
	} table[] = {
		{ CR4_VME | CR4_PVI, FEAT_VME },
		{ CR4_TSD, FEAT_TSC },
		{ CR4_DE, FEAT_DE },
		{ CR4_PSE, FEAT_PSE },
		{ CR4_PAE, FEAT_PAE },
		{ CR4_PGE, FEAT_PGE },
		{ CR4_OSFXSR, FEAT_FXSR },
		{ CR4_OSXMMEXCPT, FEAT_SSE },
		{ CR4_UMIP, FEAT_UMIP },
		{ CR4_FSGSBASE, FEAT_FSGSBASE },
		{ CR4_PCIDE, FEAT_PCID },
		{ CR4_OSXSAVE, FEAT_XSAVE },
		{ CR4_SMEP, FEAT_SMEP },
		{ CR4_SMAP, FEAT_SMAP },
	};
	uint64_t allowed = CR4_MCE | CR4_PCE;
	unsigned n;

	for (n = 0; n < sizeof(table) / sizeof(table[0]); n++)
		if (cpu_has(v->model, table[n].feature))
			allowed |= table[n].bits;
	return allowed;
}

int cr4_write(struct vcpu *v, uint64_t value)
{
	uint64_t old = v->arch.cr4, changed = value ^ old;

	if (value & ~cr4_allowed(v))
		return excp_gp(v, 0);
	if (vcpu_long_mode(v) && !(value & CR4_PAE))
		return excp_gp(v, 0);
	if ((value & changed & CR4_PCIDE) && (!vcpu_long_mode(v) || (v->arch.cr3 & CR3_PCID)))
		return excp_gp(v, 0);
	if ((changed & (CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP)) &&
	    pae_paging(v->arch.cr0, value, v->arch.efer) && pdptes_load(v, v->arch.cr3) < 0)
		return -1;

	v->arch.cr4 = value;
	if ((changed & (CR4_PGE | CR4_PAE | CR4_PSE | CR4_SMEP | CR4_SMAP)) ||
	    (changed & old & CR4_PCIDE)) {
		mmu_flush_all(v);
		mmu_switch(v, current_pcid(v), false);
	}
	vcpu_mode_changed(v);
	return 0;
}

int efer_write(struct vcpu *v, uint64_t value)
{
	uint64_t old = v->arch.efer, allowed = EFER_LMA, changed;

	if (cpu_has(v->model, FEAT_SYSCALL))
		allowed |= EFER_SCE;
	if (cpu_has(v->model, FEAT_LM))
		allowed |= EFER_LME;
	if (cpu_has(v->model, FEAT_NX))
		allowed |= EFER_NXE;
	if (value & ~allowed)
		return excp_gp(v, 0);
	/* LMA is the processor's own; what software writes there is ignored. */
	value = (value & ~(uint64_t)EFER_LMA) | (old & EFER_LMA);
	changed = value ^ old;
	if ((changed & EFER_LME) && (v->arch.cr0 & CR0_PG))
		return excp_gp(v, 0);
	v->arch.efer = value;
	if (changed & EFER_NXE)
		mmu_flush_all(v);
	vcpu_mode_changed(v);
	return 0;
}

int xcr_write(struct vcpu *v, uint32_t index, uint64_t value)
{
	if (index != 0 || (value & ~v->model->xcr0_mask) || !(value & XFEATURE_X87))
		return excp_gp(v, 0);
	if ((value & XFEATURE_AVX) && !(value & XFEATURE_SSE))
		return excp_gp(v, 0);
	v->arch.xcr0 = value;
	vcpu_mode_changed(v);
	return 0;
}

int xcr_read(struct vcpu *v, uint32_t index, uint64_t *value)
{
	const struct xsave_image *image = (const struct xsave_image *)v->arch.xsave;
	unsigned component;

	if (index == 0) {
		*value = v->arch.xcr0;
		return 0;
	}
	if (index != 1 || !cpu_has(v->model, FEAT_XGETBV1))
		return excp_gp(v, 0);
	/* XCR0 & XINUSE; SSE is in use too when MXCSR is not initial (SDM 1, 13.6). */
	vcpu_fp_park(v);
	*value = 0;
	for (component = 0; component < 3; component++)
		if (!xsave_component_initial(image, component))
			*value |= 1u << component;
	if (image->mxcsr != MXCSR_INITIAL)
		*value |= XFEATURE_SSE;
	*value &= v->arch.xcr0;
	return 0;
}

/* DR4 and DR5 are names of DR6 and DR7 unless CR4.DE is set. -1: #UD, or #DB for DR7.GD. */
static int dr_index(struct vcpu *v, unsigned *index)
{
	if (*index > 7)
		return excp_ud(v);
	if (*index == 4 || *index == 5) {
		if (v->arch.cr4 & CR4_DE)
			return excp_ud(v);
		*index += 2;
	}
	if (v->arch.dr[7] & DR7_GD) {
		v->fault = (struct excp){ .vector = VEC_DB, .type = EXCP_FAULT, .dr6 = DR6_BD };
		return -1;
	}
	return 0;
}

int dr_read(struct vcpu *v, unsigned index, uint64_t *value)
{
	if (dr_index(v, &index) < 0)
		return -1;
	*value = v->arch.dr[index];
	return 0;
}

int dr_write(struct vcpu *v, unsigned index, uint64_t value)
{
	if (dr_index(v, &index) < 0)
		return -1;
	if (index >= 6 && value >> 32)
		return excp_gp(v, 0);
	if (index == 6)
		value = (value & DR6_WRITABLE) | DR6_FIXED;
	if (index == 7)
		value = (value & DR7_WRITABLE) | DR7_FIXED;
	v->arch.dr[index] = value;
	vcpu_mode_changed(v);
	return 0;
}
