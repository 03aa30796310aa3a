/*
 * CPU models: what CPUID says and which instructions exist. Fixed when the
 * machine is created; the same object decides CPUID, MSRs, control register
 * bits, XCR0 and what the decoder refuses with #UD.
 */
#ifndef INSULA_CPU_MODEL_H
#define INSULA_CPU_MODEL_H

#include "cpu/vcpu.h"

/* Features as the decoder and control registers ask for them. Their numbers are in snapshots: add at the end. */
enum cpu_feature {
	FEAT_SSE3, FEAT_SSSE3, FEAT_SSE41, FEAT_SSE42, FEAT_POPCNT, FEAT_CX16, FEAT_LAHF, FEAT_AES, FEAT_PCLMUL,
	FEAT_XSAVE, FEAT_XSAVEOPT, FEAT_XSAVEC, FEAT_XGETBV1, FEAT_XSAVES, FEAT_AVX, FEAT_AVX2, FEAT_FMA, FEAT_F16C,
	FEAT_BMI1, FEAT_BMI2, FEAT_LZCNT, FEAT_MOVBE, FEAT_RDRAND, FEAT_RDSEED, FEAT_ADX, FEAT_SHA, FEAT_CLFLUSHOPT,
	FEAT_CLWB, FEAT_FSGSBASE, FEAT_SMEP, FEAT_SMAP, FEAT_UMIP, FEAT_PCID, FEAT_INVPCID, FEAT_RDTSCP, FEAT_RDPID,
	FEAT_ERMS, FEAT_FSRM, FEAT_GBPAGES, FEAT_NX, FEAT_SYSCALL, FEAT_LM, FEAT_X2APIC, FEAT_TSC_DEADLINE,
	FEAT_PREFETCHW, FEAT_VAES, FEAT_VPCLMUL, FEAT_GFNI, FEAT_AVX_VNNI, FEAT_MOVDIRI, FEAT_MOVDIR64B, FEAT_SERIALIZE,
	FEAT_SSE, FEAT_SSE2, FEAT_MMX, FEAT_FXSR, FEAT_CMOV, FEAT_CX8, FEAT_SEP, FEAT_TSC, FEAT_MSR, FEAT_PGE, FEAT_PSE,
	FEAT_PAE, FEAT_PAT, FEAT_MTRR, FEAT_VME, FEAT_DE, FEAT_CLFLUSH, FEAT_FPU, FEAT_ARAT,
	FEAT_COUNT,
};

struct cpu_model {
	const char *name;
	uint64_t features[(FEAT_COUNT + 63) / 64];
	uint64_t xcr0_mask;    /* bits a guest may set in XCR0 */
	unsigned phys_bits, linear_bits;
	uint32_t family_model_stepping; /* CPUID.1:EAX */
	char vendor[13];
	char brand[49];
	unsigned cpus;
	uint64_t tsc_khz;
	bool kvm_clock;
};

/* name: "x86-64-v2", "x86-64-v3", "host". NULL and *error (static text naming what is missing) if unknown or the host lacks it. */
const struct cpu_model *cpu_model_new(const char *name, unsigned cpus, uint64_t tsc_khz, const char **error);
void cpu_model_free(const struct cpu_model *model);

/* Guests choose some MSRs and CPUID leaves by vendor. */
static inline bool cpu_model_is_amd(const struct cpu_model *model)
{
	return model->vendor[0] == 'A' || model->vendor[0] == 'H';
}

static inline bool cpu_has(const struct cpu_model *model, enum cpu_feature f)
{
	return model->features[f / 64] >> (f % 64) & 1;
}

struct cpuid_regs { uint32_t eax, ebx, ecx, edx; };
/* Includes what depends on state: OSXSAVE, APIC id, APIC enable, XSAVE sizes for XCR0. */
void vcpu_cpuid(struct vcpu *v, uint32_t leaf, uint32_t subleaf, struct cpuid_regs *out);

#endif
