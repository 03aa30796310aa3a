/*
 * Model-specific registers: which exist, what they hold, which bits a write
 * may set (SDM 4; APM 2, appendix A). Called by RDMSR and WRMSR. Invariant: an index or bit that is
 * not here is #GP(0), whatever the guest tries, and nothing has changed.
 */
#include "cpu/control.h"
#include "cpu/excp.h"
#include "cpu/fpstate.h"
#include "cpu/kvmclock.h"
#include "cpu/lapic.h"
#include "cpu/mmu.h"
#include "cpu/model.h"
#include "bus/vclock.h"

enum {
	MSR_TSC = 0x10,
	MSR_PLATFORM_ID = 0x17,
	MSR_APIC_BASE = 0x1b,
	MSR_EBL_CR_POWERON = 0x2a,
	MSR_SMI_COUNT = 0x34,
	MSR_FEATURE_CONTROL = 0x3a,
	MSR_TSC_ADJUST = 0x3b,
	MSR_SPEC_CTRL = 0x48,
	MSR_PRED_CMD = 0x49,
	MSR_BIOS_UPDT_TRIG = 0x79,
	MSR_BIOS_SIGN_ID = 0x8b,
	MSR_PMC0 = 0xc1,
	MSR_PLATFORM_INFO = 0xce,
	MSR_MTRRCAP = 0xfe,
	MSR_ARCH_CAPABILITIES = 0x10a,
	MSR_SYSENTER_CS = 0x174,
	MSR_SYSENTER_ESP = 0x175,
	MSR_SYSENTER_EIP = 0x176,
	MSR_MCG_CAP = 0x179,
	MSR_MCG_STATUS = 0x17a,
	MSR_MCG_CTL = 0x17b,
	MSR_PERFEVTSEL0 = 0x186,
	MSR_PERF_STATUS = 0x198,
	MSR_PERF_CTL = 0x199,
	MSR_MISC_ENABLE = 0x1a0,
	MSR_DEBUGCTL = 0x1d9,
	MSR_LASTBRANCH_FROM = 0x1db,
	MSR_LASTINT_TO = 0x1de,
	MSR_MTRR_PHYSBASE0 = 0x200,
	MSR_MTRR_FIX64K = 0x250,
	MSR_MTRR_FIX16K = 0x258,
	MSR_MTRR_FIX4K = 0x268,
	MSR_PAT = 0x277,
	MSR_MTRR_DEF_TYPE = 0x2ff,
	MSR_FIXED_CTR0 = 0x309,
	MSR_FIXED_CTR_CTRL = 0x38d,
	MSR_PERF_GLOBAL_STATUS = 0x38e,
	MSR_PERF_GLOBAL_CTRL = 0x38f,
	MSR_PERF_GLOBAL_OVF_CTRL = 0x390,
	MSR_MC0_CTL = 0x400,
	MSR_TSC_DEADLINE = 0x6e0,
	MSR_X2APIC_FIRST = 0x800,
	MSR_X2APIC_LAST = 0x8ff,
	MSR_XSS = 0xda0,
};

#define MSR_EFER           0xc0000080u
#define MSR_STAR           0xc0000081u
#define MSR_LSTAR          0xc0000082u
#define MSR_CSTAR          0xc0000083u
#define MSR_FMASK          0xc0000084u
#define MSR_FS_BASE        0xc0000100u
#define MSR_GS_BASE        0xc0000101u
#define MSR_KERNEL_GS_BASE 0xc0000102u
#define MSR_TSC_AUX        0xc0000103u

/* AMD only. */
#define MSR_K7_EVNTSEL0    0xc0010000u
#define MSR_K7_PERFCTR3    0xc0010007u
#define MSR_SYSCFG         0xc0010010u
#define MSR_HWCR           0xc0010015u
#define MSR_PATCH_LOADER   0xc0010020u
#define MSR_NB_CFG         0xc001001fu
#define MSR_INT_PENDING    0xc0010055u
#define MSR_MMIO_CONF_BASE 0xc0010058u
#define MSR_LS_CFG         0xc0011020u
#define MSR_DC_CFG         0xc0011022u
#define MSR_DE_CFG         0xc0011029u
#define MSR_BU_CFG2        0xc001102au

#define HWCR_TSC_FREQ_SEL       (1ull << 24)
#define DE_CFG_LFENCE_SERIALIZE 2u

#define SPEC_CTRL_ALLOWED     3u /* IBRS, and STIBP, which is ignored but legal where IBRS exists */
#define PRED_CMD_IBPB         1u
#define MTRRCAP_VALUE         (MTRR_VARIABLE | 1u << 8 | 1u << 10) /* fixed ranges, write-combining */
#define MCG_CAP_VALUE         (MC_BANKS | 1u << 8)                 /* MCG_CTL exists */
#define DEBUGCTL_ALLOWED      3u                                   /* LBR, BTF */
#define FEATURE_CONTROL_LOCK  1u
#define MISC_ENABLE_READ_ONLY 0x1800u   /* BTS and PEBS unavailable */
#define MISC_ENABLE_WRITABLE  0x400089u /* fast strings, TCC, perfmon, limit CPUID */
#define MISC_ENABLE_KNOWN \
	(MISC_ENABLE_READ_ONLY | MISC_ENABLE_WRITABLE | 1u << 16 | 1u << 18 | 1u << 23)

/*
 * What the engines may promise. The attacks that guests know need a load that
 * the host's CPU starts although a page table or a stale buffer forbids it. A
 * software engine checks every guest access against the guest's page tables
 * before any host load is issued, maps no supervisor data where guest user code
 * runs, and has no SMT sibling inside the guest's view: so Meltdown, L1TF, MDS,
 * TAA, MMIO stale data, GDS and RFDS have nothing to read. Predictors are those
 * of the monitor's own code, which guest retpolines, IBRS or VERW cannot steer;
 * IBRS_ALL tells the guest that one write at boot is all it can usefully do.
 * What separates VMs is the host's process boundary and the host's mitigations.
 */
#define ARCH_CAP_RDCL_NO            (1ull << 0)
#define ARCH_CAP_IBRS_ALL           (1ull << 1)
#define ARCH_CAP_SKIP_L1DFL_VMENTRY (1ull << 3)
#define ARCH_CAP_SSB_NO             (1ull << 4)
#define ARCH_CAP_MDS_NO             (1ull << 5)
#define ARCH_CAP_IF_PSCHANGE_MC_NO  (1ull << 6)
#define ARCH_CAP_TAA_NO             (1ull << 8)
#define ARCH_CAP_SBDR_SSDP_NO       (1ull << 13)
#define ARCH_CAP_FBSDP_NO           (1ull << 14)
#define ARCH_CAP_PSDP_NO            (1ull << 15)
#define ARCH_CAP_BHI_NO             (1ull << 20)
#define ARCH_CAP_PBRSB_NO           (1ull << 24)
#define ARCH_CAP_GDS_NO             (1ull << 26)
#define ARCH_CAP_RFDS_NO            (1ull << 27)
#define ARCH_CAP_ITS_NO             (1ull << 62)
#define ARCH_CAP_VALUE                                                                            \
	(ARCH_CAP_RDCL_NO | ARCH_CAP_IBRS_ALL | ARCH_CAP_SKIP_L1DFL_VMENTRY | ARCH_CAP_SSB_NO |   \
	 ARCH_CAP_MDS_NO | ARCH_CAP_IF_PSCHANGE_MC_NO | ARCH_CAP_TAA_NO | ARCH_CAP_SBDR_SSDP_NO | \
	 ARCH_CAP_FBSDP_NO | ARCH_CAP_PSDP_NO | ARCH_CAP_BHI_NO | ARCH_CAP_PBRSB_NO |             \
	 ARCH_CAP_GDS_NO | ARCH_CAP_RFDS_NO | ARCH_CAP_ITS_NO)

void vcpu_tsc_sync(struct vcpu *v)
{
	vcpu_fp_park(v);
	v->tsc_direct = vclock_tsc_offset(v->clock, &v->tsc_host_offset);
}

uint64_t vcpu_tsc(struct vcpu *v)
{
	uint32_t low, high;

	if (v->tsc_direct) {
		__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
		return ((uint64_t)high << 32 | low) + v->tsc_host_offset + v->arch.msr.tsc_offset;
	}
	vcpu_fp_park(v);
	return vclock_tsc(v->clock) + v->arch.msr.tsc_offset;
}

/* The TSC moves by delta: what was derived from it is derived again. */
static void tsc_move(struct vcpu *v, uint64_t delta)
{
	v->arch.msr.tsc_offset += delta;
	v->arch.msr.tsc_adjust += delta;
	kvmclock_publish(v);
	lapic_timer_check(v);
}

/* The ratio of the TSC to the 100 MHz bus clock, as PLATFORM_INFO and PERF_STATUS hold it. */
static uint64_t bus_ratio(const struct vcpu *v)
{
	uint64_t ratio = (v->model->tsc_khz + 50000) / 100000;

	return (ratio > 255 ? 255 : ratio) << 8;
}

/* Index into mtrr_fixed, or -1. */
static int mtrr_fixed_index(uint32_t index)
{
	if (index == MSR_MTRR_FIX64K)
		return 0;
	if (index == MSR_MTRR_FIX16K || index == MSR_MTRR_FIX16K + 1)
		return (int)(1 + index - MSR_MTRR_FIX16K);
	if (index >= MSR_MTRR_FIX4K && index < MSR_MTRR_FIX4K + 8)
		return (int)(3 + index - MSR_MTRR_FIX4K);
	return -1;
}

/* A register that is one word of arch and takes any value that `check` lets through, or NULL. */
static uint64_t *msr_word(struct vcpu *v, uint32_t index)
{
	struct vcpu_arch *a = &v->arch;
	int fixed = mtrr_fixed_index(index);

	if (fixed >= 0)
		return &a->msr.mtrr_fixed[fixed];
	if (index >= MSR_MTRR_PHYSBASE0 && index < MSR_MTRR_PHYSBASE0 + 2 * MTRR_VARIABLE)
		return &a->msr.mtrr_var[index - MSR_MTRR_PHYSBASE0];
	if (index >= MSR_MC0_CTL && index < MSR_MC0_CTL + 4 * MC_BANKS)
		return &a->msr.mc_bank[index - MSR_MC0_CTL];
	switch (index) {
	case MSR_SPEC_CTRL:
		return &a->msr.spec_ctrl;
	case MSR_SYSENTER_CS:
		return &a->msr.sysenter_cs;
	case MSR_SYSENTER_ESP:
		return &a->msr.sysenter_esp;
	case MSR_SYSENTER_EIP:
		return &a->msr.sysenter_eip;
	case MSR_MCG_STATUS:
		return &a->msr.mcg_status;
	case MSR_MCG_CTL:
		return &a->msr.mcg_ctl;
	case MSR_MISC_ENABLE:
		return &a->msr.misc_enable;
	case MSR_DEBUGCTL:
		return &a->msr.debugctl;
	case MSR_PAT:
		return &a->msr.pat;
	case MSR_MTRR_DEF_TYPE:
		return &a->msr.mtrr_def_type;
	case MSR_STAR:
		return &a->msr.star;
	case MSR_LSTAR:
		return &a->msr.lstar;
	case MSR_CSTAR:
		return &a->msr.cstar;
	case MSR_FMASK:
		return &a->msr.fmask;
	case MSR_FS_BASE:
		return &a->seg[SEG_FS].base;
	case MSR_GS_BASE:
		return &a->seg[SEG_GS].base;
	case MSR_KERNEL_GS_BASE:
		return &a->msr.kernel_gs_base;
	case MSR_FEATURE_CONTROL:
		return &a->msr.feature_control;
	case MSR_TSC_AUX:
		return cpu_has(v->model, FEAT_RDTSCP) || cpu_has(v->model, FEAT_RDPID)
			       ? &a->msr.tsc_aux
			       : NULL;
	case MSR_XSS:
		return cpu_has(v->model, FEAT_XSAVES) ? &a->msr.xss : NULL;
	}
	return NULL;
}

/* Exists, reads as zero and ignores writes: performance monitoring that CPUID says is not there,
 * and the like. */
static bool msr_inert(const struct vcpu *v, uint32_t index)
{
	if ((index >= MSR_PMC0 && index < MSR_PMC0 + 4) ||
	    (index >= MSR_PERFEVTSEL0 && index < MSR_PERFEVTSEL0 + 4) ||
	    (index >= MSR_FIXED_CTR0 && index < MSR_FIXED_CTR0 + 3) ||
	    (index >= MSR_LASTBRANCH_FROM && index <= MSR_LASTINT_TO))
		return true;
	switch (index) {
	case MSR_PLATFORM_ID:
	case MSR_EBL_CR_POWERON:
	case MSR_SMI_COUNT:
	case MSR_BIOS_UPDT_TRIG:
	case MSR_PERF_CTL:
	case MSR_FIXED_CTR_CTRL:
	case MSR_PERF_GLOBAL_STATUS:
	case MSR_PERF_GLOBAL_CTRL:
	case MSR_PERF_GLOBAL_OVF_CTRL:
		return true;
	}
	if (!cpu_model_is_amd(v->model))
		return false;
	if (index >= MSR_K7_EVNTSEL0 && index <= MSR_K7_PERFCTR3)
		return true;
	switch (index) {
	case MSR_SYSCFG:
	case MSR_PATCH_LOADER:
	case MSR_NB_CFG:
	case MSR_INT_PENDING:
	case MSR_MMIO_CONF_BASE:
	case MSR_LS_CFG:
	case MSR_DC_CFG:
	case MSR_BU_CFG2:
		return true;
	}
	return false;
}

int msr_read(struct vcpu *v, uint32_t index, uint64_t *value)
{
	const uint64_t *word;

	if (index >= MSR_X2APIC_FIRST && index <= MSR_X2APIC_LAST)
		return lapic_msr_read(v, index, value);
	switch (index) {
	case MSR_TSC:
		*value = vcpu_tsc(v);
		return 0;
	case MSR_TSC_ADJUST:
		*value = v->arch.msr.tsc_adjust;
		return 0;
	case MSR_APIC_BASE:
		return lapic_msr_read(v, index, value);
	case MSR_TSC_DEADLINE:
		if (!cpu_has(v->model, FEAT_TSC_DEADLINE))
			return excp_gp(v, 0);
		*value = lapic_tsc_deadline_read(v);
		return 0;
	case MSR_EFER:
		*value = v->arch.efer;
		return 0;
	case MSR_BIOS_SIGN_ID:
		/* A microcode revision: Intel shows it in the upper half. */
		*value = cpu_model_is_amd(v->model) ? 1 : 1ull << 32;
		return 0;
	case MSR_PLATFORM_INFO:
		*value = bus_ratio(v) | bus_ratio(v) << 32;
		return 0;
	case MSR_PERF_STATUS:
		*value = bus_ratio(v);
		return 0;
	case MSR_MTRRCAP:
		*value = MTRRCAP_VALUE;
		return 0;
	case MSR_MCG_CAP:
		*value = MCG_CAP_VALUE;
		return 0;
	case MSR_ARCH_CAPABILITIES:
		*value = ARCH_CAP_VALUE;
		return 0;
	case MSR_KVM_WALL_CLOCK:
	case MSR_KVM_WALL_CLOCK_NEW:
		if (!v->model->kvm_clock)
			return excp_gp(v, 0);
		*value = v->arch.msr.kvm_wall_clock;
		return 0;
	case MSR_KVM_SYSTEM_TIME:
	case MSR_KVM_SYSTEM_TIME_NEW:
		if (!v->model->kvm_clock)
			return excp_gp(v, 0);
		*value = v->arch.msr.kvm_system_time;
		return 0;
	case MSR_HWCR:
		if (!cpu_model_is_amd(v->model))
			return excp_gp(v, 0);
		*value = HWCR_TSC_FREQ_SEL;
		return 0;
	case MSR_DE_CFG:
		if (!cpu_model_is_amd(v->model))
			return excp_gp(v, 0);
		*value = DE_CFG_LFENCE_SERIALIZE;
		return 0;
	}
	word = msr_word(v, index);
	if (word)
		*value = *word;
	else if (msr_inert(v, index))
		*value = 0;
	else
		return excp_gp(v, 0);
	return 0;
}

/* Memory types (SDM 3A, 11.3): UC 0, WC 1, WT 4, WP 5, WB 6; PAT knows UC- 7 too. */
static bool memory_types_valid(uint64_t value, unsigned allowed)
{
	unsigned n;

	for (n = 0; n < 8; n++, value >>= 8)
		if ((value & 0xff) > 7 || !(allowed >> (value & 7) & 1))
			return false;
	return true;
}
#define TYPES_MTRR 0x73u
#define TYPES_PAT  0xf3u

/* May this value be written to a register of msr_word()? */
static bool msr_word_accepts(const struct vcpu *v, uint32_t index, uint64_t value)
{
	uint64_t beyond = ~0ull << v->model->phys_bits;

	if (mtrr_fixed_index(index) >= 0)
		return memory_types_valid(value, TYPES_MTRR);
	if (index >= MSR_MTRR_PHYSBASE0 && index < MSR_MTRR_PHYSBASE0 + 2 * MTRR_VARIABLE) {
		if (index & 1)
			return !(value & (beyond | 0x7ff));
		return !(value & (beyond | 0xf00)) && memory_types_valid(value & 0xff, TYPES_MTRR);
	}
	if (index >= MSR_MC0_CTL && index < MSR_MC0_CTL + 4 * MC_BANKS) {
		/* CTL: all or none, but some kernels clear bit 10 on K8; the others may only be
		 * cleared. */
		if ((index - MSR_MC0_CTL) % 4 == 0)
			return value == 0 || (value | 1u << 10) == ~0ull;
		return value == 0;
	}
	switch (index) {
	case MSR_SPEC_CTRL:
		return !(value & ~(uint64_t)SPEC_CTRL_ALLOWED);
	case MSR_SYSENTER_ESP:
	case MSR_SYSENTER_EIP:
	case MSR_LSTAR:
	case MSR_CSTAR:
	case MSR_FS_BASE:
	case MSR_GS_BASE:
	case MSR_KERNEL_GS_BASE:
		return address_canonical(value);
	case MSR_MCG_CTL:
		return value == 0 || value == ~0ull;
	case MSR_MCG_STATUS:
		return value == 0;
	case MSR_MISC_ENABLE:
		return !(value & ~(uint64_t)MISC_ENABLE_KNOWN);
	case MSR_DEBUGCTL:
		return !(value & ~(uint64_t)DEBUGCTL_ALLOWED);
	case MSR_PAT:
		return memory_types_valid(value, TYPES_PAT);
	case MSR_MTRR_DEF_TYPE:
		return !(value & ~0xcffull) && memory_types_valid(value & 0xff, TYPES_MTRR);
	case MSR_FMASK:
	case MSR_TSC_AUX:
		return !(value >> 32);
	case MSR_FEATURE_CONTROL:
		return !(v->arch.msr.feature_control & FEATURE_CONTROL_LOCK) &&
		       !(value & ~(uint64_t)FEATURE_CONTROL_LOCK);
	case MSR_XSS:
		return value == 0;
	}
	return true;
}

int msr_write(struct vcpu *v, uint32_t index, uint64_t value)
{
	uint64_t *word;

	if (index >= MSR_X2APIC_FIRST && index <= MSR_X2APIC_LAST)
		return lapic_msr_write(v, index, value);
	switch (index) {
	case MSR_TSC:
		tsc_move(v, value - vcpu_tsc(v));
		return 0;
	case MSR_TSC_ADJUST:
		tsc_move(v, value - v->arch.msr.tsc_adjust);
		return 0;
	case MSR_APIC_BASE:
		return lapic_base_write(v, value);
	case MSR_TSC_DEADLINE:
		if (!cpu_has(v->model, FEAT_TSC_DEADLINE))
			return excp_gp(v, 0);
		return lapic_tsc_deadline_write(v, value);
	case MSR_EFER:
		return efer_write(v, value);
	case MSR_PRED_CMD:
		return value & ~(uint64_t)PRED_CMD_IBPB ? excp_gp(v, 0) : 0;
	case MSR_BIOS_SIGN_ID:
		/* Zero, so that CPUID may load the revision; it is always loaded. */
		return 0;
	case MSR_KVM_WALL_CLOCK:
	case MSR_KVM_WALL_CLOCK_NEW:
		if (!v->model->kvm_clock)
			return excp_gp(v, 0);
		kvmclock_wall_clock_write(v, value);
		return 0;
	case MSR_KVM_SYSTEM_TIME:
	case MSR_KVM_SYSTEM_TIME_NEW:
		if (!v->model->kvm_clock)
			return excp_gp(v, 0);
		kvmclock_system_time_write(v, value);
		return 0;
	case MSR_HWCR:
	case MSR_DE_CFG:
		return cpu_model_is_amd(v->model) ? 0 : excp_gp(v, 0);
	case MSR_MISC_ENABLE:
		if (!msr_word_accepts(v, index, value))
			return excp_gp(v, 0);
		v->arch.msr.misc_enable = (value & MISC_ENABLE_WRITABLE) | MISC_ENABLE_READ_ONLY;
		return 0;
	}
	word = msr_word(v, index);
	if (!word)
		return msr_inert(v, index) ? 0 : excp_gp(v, 0);
	if (!msr_word_accepts(v, index, value))
		return excp_gp(v, 0);
	*word = index == MSR_SYSENTER_CS ? (uint32_t)value : value;
	/* Outside 64-bit code a segment's base is part of what makes it flat. */
	if ((index == MSR_FS_BASE || index == MSR_GS_BASE) && !vcpu_code64(v))
		vcpu_mode_changed(v);
	return 0;
}
