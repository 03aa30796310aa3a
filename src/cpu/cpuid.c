/*
 * What CPUID answers: composed from the model, whose values never change, and
 * the few bits that depend on the vcpu's state. Called by the CPUID instruction
 * and by whoever hands the same facts to a hardware engine. Invariant: the
 * answer is a function of model, leaf, subleaf, APIC id, CR4.OSXSAVE, XCR0 and
 * the APIC's enable bit only.
 */
#include "cpu/cpuid_bits.h"
#include "base/bytes.h"
#include "cpu/lapic.h"
#include "cpu/xsave.h"

#define BASIC_MAX          0x16u
#define KVM_BASE           0x40000000u
#define KVM_FEATURES       0x40000001u
#define KVM_TIMING         0x40000010u
#define EXTENDED_BASE      0x80000000u
#define EXTENDED_MAX_INTEL 0x80000008u
#define EXTENDED_MAX_AMD   0x80000021u

/* Bits that every model has and no engine asks for. */
#define ALWAYS_1_EDX      (1u << 7 | 1u << 14 | 1u << 17) /* MCE, MCA, PSE36 */
#define ALWAYS_1_ECX      (1u << 31)                      /* a hypervisor is present */
#define ALWAYS_7_EBX      (1u << 1 | 1u << 13)  /* TSC_ADJUST; x87 CS and DS are saved as 0 */
#define ALWAYS_7_EDX      (1u << 26 | 1u << 29) /* SPEC_CTRL and PRED_CMD; ARCH_CAPABILITIES */
#define BIT_1_ECX_OSXSAVE (1u << 27)
#define BIT_1_EDX_APIC    (1u << 9)
#define BIT_1_EDX_HTT     (1u << 28)
#define AMD_SHARED_EDX    0x0183f3ffu /* bits of 1.EDX that AMD repeats in 80000001.EDX */

/*
 * AMD's way to say what ARCH_CAPABILITIES (msr.c) says: FXSAVE error pointers
 * always kept; IBPB, IBRS, always on and preferred; SSB_NO, BTC_NO, and IBPB
 * clears return predictions. LFENCE serialises, a null selector clears the
 * base, SRSO_NO; TSA_SQ_NO and TSA_L1_NO.
 */
#define AMD_80000008_EBX \
	(1u << 2 | 1u << 12 | 1u << 14 | 1u << 16 | 1u << 18 | 1u << 26 | 1u << 29 | 1u << 30)
#define AMD_80000021_EAX (1u << 2 | 1u << 6 | 1u << 29)
#define AMD_80000021_ECX (1u << 1 | 1u << 2)

#define KVM_FEATURE_CLOCKSOURCE        (1u << 0)
#define KVM_FEATURE_NOP_IO_DELAY       (1u << 1)
#define KVM_FEATURE_CLOCKSOURCE2       (1u << 3)
#define KVM_FEATURE_PV_UNHALT          (1u << 7)
#define KVM_FEATURE_CLOCKSOURCE_STABLE (1u << 24)

const struct cpuid_bit cpuid_bits[FEAT_COUNT] = {
	{ FEAT_SSE3, WORD_1_ECX, 0 },
	{ FEAT_PCLMUL, WORD_1_ECX, 1 },
	{ FEAT_SSSE3, WORD_1_ECX, 9 },
	{ FEAT_FMA, WORD_1_ECX, 12 },
	{ FEAT_CX16, WORD_1_ECX, 13 },
	{ FEAT_PCID, WORD_1_ECX, 17 },
	{ FEAT_SSE41, WORD_1_ECX, 19 },
	{ FEAT_SSE42, WORD_1_ECX, 20 },
	{ FEAT_X2APIC, WORD_1_ECX, 21 },
	{ FEAT_MOVBE, WORD_1_ECX, 22 },
	{ FEAT_POPCNT, WORD_1_ECX, 23 },
	{ FEAT_TSC_DEADLINE, WORD_1_ECX, 24 },
	{ FEAT_AES, WORD_1_ECX, 25 },
	{ FEAT_XSAVE, WORD_1_ECX, 26 },
	{ FEAT_AVX, WORD_1_ECX, 28 },
	{ FEAT_F16C, WORD_1_ECX, 29 },
	{ FEAT_RDRAND, WORD_1_ECX, 30 },
	{ FEAT_FPU, WORD_1_EDX, 0 },
	{ FEAT_VME, WORD_1_EDX, 1 },
	{ FEAT_DE, WORD_1_EDX, 2 },
	{ FEAT_PSE, WORD_1_EDX, 3 },
	{ FEAT_TSC, WORD_1_EDX, 4 },
	{ FEAT_MSR, WORD_1_EDX, 5 },
	{ FEAT_PAE, WORD_1_EDX, 6 },
	{ FEAT_CX8, WORD_1_EDX, 8 },
	{ FEAT_SEP, WORD_1_EDX, 11 },
	{ FEAT_MTRR, WORD_1_EDX, 12 },
	{ FEAT_PGE, WORD_1_EDX, 13 },
	{ FEAT_CMOV, WORD_1_EDX, 15 },
	{ FEAT_PAT, WORD_1_EDX, 16 },
	{ FEAT_CLFLUSH, WORD_1_EDX, 19 },
	{ FEAT_MMX, WORD_1_EDX, 23 },
	{ FEAT_FXSR, WORD_1_EDX, 24 },
	{ FEAT_SSE, WORD_1_EDX, 25 },
	{ FEAT_SSE2, WORD_1_EDX, 26 },
	{ FEAT_FSGSBASE, WORD_7_EBX, 0 },
	{ FEAT_BMI1, WORD_7_EBX, 3 },
	{ FEAT_AVX2, WORD_7_EBX, 5 },
	{ FEAT_SMEP, WORD_7_EBX, 7 },
	{ FEAT_BMI2, WORD_7_EBX, 8 },
	{ FEAT_ERMS, WORD_7_EBX, 9 },
	{ FEAT_INVPCID, WORD_7_EBX, 10 },
	{ FEAT_RDSEED, WORD_7_EBX, 18 },
	{ FEAT_ADX, WORD_7_EBX, 19 },
	{ FEAT_SMAP, WORD_7_EBX, 20 },
	{ FEAT_CLFLUSHOPT, WORD_7_EBX, 23 },
	{ FEAT_CLWB, WORD_7_EBX, 24 },
	{ FEAT_SHA, WORD_7_EBX, 29 },
	{ FEAT_UMIP, WORD_7_ECX, 2 },
	{ FEAT_GFNI, WORD_7_ECX, 8 },
	{ FEAT_VAES, WORD_7_ECX, 9 },
	{ FEAT_VPCLMUL, WORD_7_ECX, 10 },
	{ FEAT_RDPID, WORD_7_ECX, 22 },
	{ FEAT_MOVDIRI, WORD_7_ECX, 27 },
	{ FEAT_MOVDIR64B, WORD_7_ECX, 28 },
	{ FEAT_FSRM, WORD_7_EDX, 4 },
	{ FEAT_SERIALIZE, WORD_7_EDX, 14 },
	{ FEAT_AVX_VNNI, WORD_7_1_EAX, 4 },
	{ FEAT_XSAVEOPT, WORD_D_1_EAX, 0 },
	{ FEAT_XSAVEC, WORD_D_1_EAX, 1 },
	{ FEAT_XGETBV1, WORD_D_1_EAX, 2 },
	{ FEAT_XSAVES, WORD_D_1_EAX, 3 },
	{ FEAT_ARAT, WORD_6_EAX, 2 },
	{ FEAT_LAHF, WORD_80000001_ECX, 0 },
	{ FEAT_LZCNT, WORD_80000001_ECX, 5 },
	{ FEAT_PREFETCHW, WORD_80000001_ECX, 8 },
	{ FEAT_SYSCALL, WORD_80000001_EDX, 11 },
	{ FEAT_NX, WORD_80000001_EDX, 20 },
	{ FEAT_GBPAGES, WORD_80000001_EDX, 26 },
	{ FEAT_RDTSCP, WORD_80000001_EDX, 27 },
	{ FEAT_LM, WORD_80000001_EDX, 29 },
};

static uint32_t features(const struct cpu_model *model, enum cpuid_word word)
{
	uint32_t bits = 0;
	unsigned n;

	for (n = 0; n < FEAT_COUNT; n++)
		if (cpuid_bits[n].word == word && cpu_has(model, cpuid_bits[n].feature))
			bits |= 1u << cpuid_bits[n].bit;
	return bits;
}

static uint32_t apic_id(const struct vcpu *v)
{
	return v->index;
}

/* Bits of an APIC id that number the cores of the package. */
static unsigned core_bits(const struct cpu_model *model)
{
	unsigned bits = 0;

	while (1u << bits < model->cpus)
		bits++;
	return bits;
}

static void features_leaf(const struct vcpu *v, struct cpuid_regs *out)
{
	const struct cpu_model *model = v->model;

	out->eax = model->family_model_stepping;
	/* CLFLUSH line in units of 8 bytes; ids reserved for the package's logical processors. */
	out->ebx = apic_id(v) << 24 | 8u << 8;
	if (model->cpus > 1)
		out->ebx |= (core_bits(model) < 8 ? 1u << core_bits(model) : 255) << 16;
	out->ecx = features(model, WORD_1_ECX) | ALWAYS_1_ECX;
	if (v->arch.cr4 & CR4_OSXSAVE)
		out->ecx |= BIT_1_ECX_OSXSAVE;
	out->edx = features(model, WORD_1_EDX) | ALWAYS_1_EDX;
	if (v->arch.lapic.base_msr & APIC_BASE_ENABLE)
		out->edx |= BIT_1_EDX_APIC;
	if (model->cpus > 1)
		out->edx |= BIT_1_EDX_HTT;
}

/* Deterministic cache parameters: fixed figures, so that a model means the same on every host. */
static void cache_leaf(const struct cpu_model *model, uint32_t subleaf, struct cpuid_regs *out)
{
	static const struct {
		uint8_t type, level, ways;
		uint32_t sets;
		bool shared;
	} caches[] = {
		{ 1, 1, 8, 64, false },    /* L1 data, 32 KiB */
		{ 2, 1, 8, 64, false },    /* L1 code, 32 KiB */
		{ 3, 2, 16, 1024, false }, /* 1 MiB */
		{ 3, 3, 16, 16384, true }, /* 16 MiB */
	};
	uint32_t package = (1u << core_bits(model)) - 1;

	if (subleaf >= sizeof(caches) / sizeof(caches[0]))
		return;
	/* Self-initialising; cores in the package beyond 64 do not fit the field. */
	out->eax = caches[subleaf].type | (uint32_t)caches[subleaf].level << 5 | 1u << 8 |
		   (package > 63 ? 63 : package) << 26;
	if (caches[subleaf].shared)
		out->eax |= package << 14;
	out->ebx = (uint32_t)(caches[subleaf].ways - 1) << 22 | 63;
	out->ecx = caches[subleaf].sets - 1;
}

static void topology_leaf(const struct vcpu *v, uint32_t subleaf, struct cpuid_regs *out)
{
	out->ecx = subleaf & 0xff;
	out->edx = apic_id(v);
	if (subleaf == 0) { /* threads of a core: one */
		out->ebx = 1;
		out->ecx |= 1u << 8;
	} else if (subleaf == 1) { /* cores of the package */
		out->eax = core_bits(v->model);
		out->ebx = v->model->cpus;
		out->ecx |= 2u << 8;
	}
}

static uint32_t xsave_size(uint64_t components)
{
	return components & XFEATURE_AVX ? XSAVE_AVX_OFFSET + XSAVE_AVX_SIZE
					 : XSAVE_LEGACY_SIZE + XSAVE_HEADER_SIZE;
}

static void xsave_leaf(const struct vcpu *v, uint32_t subleaf, struct cpuid_regs *out)
{
	const struct cpu_model *model = v->model;

	if (!cpu_has(model, FEAT_XSAVE))
		return;
	if (subleaf == 0) {
		out->eax = (uint32_t)model->xcr0_mask;
		out->ebx = xsave_size(v->arch.xcr0);
		out->ecx = xsave_size(model->xcr0_mask);
		out->edx = (uint32_t)(model->xcr0_mask >> 32);
	} else if (subleaf == 1) {
		out->eax = features(model, WORD_D_1_EAX);
		if (cpu_has(model, FEAT_XSAVEC) || cpu_has(model, FEAT_XSAVES))
			out->ebx = xsave_compacted_size(v->arch.xcr0 | v->arch.msr.xss);
	} else if (subleaf == 2 && (model->xcr0_mask & XFEATURE_AVX)) {
		out->eax = XSAVE_AVX_SIZE;
		out->ebx = XSAVE_AVX_OFFSET;
	}
}

/*
 * TSC : crystal as leaf 15H gives it, the nearest fraction that guests can use:
 * Linux multiplies the crystal's kHz by the numerator in 32 bits.
 */
static void tsc_ratio(uint64_t tsc_khz, struct cpuid_regs *out)
{
	const uint64_t crystal_khz = LAPIC_TIMER_HZ / 1000, limit = UINT32_MAX / crystal_khz;
	uint64_t best = UINT64_MAX, best_den = 1;

	for (uint64_t den = 1; den <= limit; den++) {
		uint64_t num = (tsc_khz * den + crystal_khz / 2) / crystal_khz;
		uint64_t near = num * crystal_khz, exact = tsc_khz * den;
		uint64_t error = near > exact ? near - exact : exact - near;

		if (num > limit || !num)
			continue;
		/* error / den against best / best_den */
		if (best == UINT64_MAX || error * best_den < best * den) {
			best = error;
			best_den = den;
			out->eax = (uint32_t)den;
			out->ebx = (uint32_t)num;
		}
	}
}

static void basic_leaf(struct vcpu *v, uint32_t leaf, uint32_t subleaf, struct cpuid_regs *out)
{
	const struct cpu_model *model = v->model;

	switch (leaf) {
	case 0:
		out->eax = BASIC_MAX;
		out->ebx = bytes_load32(model->vendor);
		out->edx = bytes_load32(model->vendor + 4);
		out->ecx = bytes_load32(model->vendor + 8);
		break;
	case 1:
		features_leaf(v, out);
		break;
	case 2: /* FFH: ask leaf 4 */
		if (!cpu_model_is_amd(model))
			out->eax = 0x00feff01;
		break;
	case 4:
		if (!cpu_model_is_amd(model))
			cache_leaf(model, subleaf, out);
		break;
	case 6:
		out->eax = features(model, WORD_6_EAX);
		break;
	case 7:
		if (subleaf == 0) {
			out->eax = 1; /* subleaves after this one */
			out->ebx = features(model, WORD_7_EBX) | ALWAYS_7_EBX;
			out->ecx = features(model, WORD_7_ECX);
			out->edx = features(model, WORD_7_EDX) | ALWAYS_7_EDX;
		} else if (subleaf == 1) {
			out->eax = features(model, WORD_7_1_EAX);
		}
		break;
	case 0xb:
		topology_leaf(v, subleaf, out);
		break;
	case 0xd:
		xsave_leaf(v, subleaf, out);
		break;
	case 0x15: /* TSC = crystal * ebx / eax; the crystal drives the APIC timer */
		tsc_ratio(model->tsc_khz, out);
		out->ecx = LAPIC_TIMER_HZ;
		break;
	case 0x16: /* MHz: base, maximum, bus */
		out->eax = out->ebx = (uint32_t)((model->tsc_khz + 500) / 1000) & 0xffff;
		out->ecx = 100;
		break;
		/* 5 MONITOR, 0AH performance monitoring, 14H processor trace and the rest: absent,
		 * zeros. */
	}
}

static void kvm_leaf(const struct cpu_model *model, uint32_t leaf, struct cpuid_regs *out)
{
	static const char signature[12] = "KVMKVMKVM";

	switch (leaf) {
	case KVM_BASE:
		out->eax = KVM_TIMING;
		out->ebx = bytes_load32(signature);
		out->ecx = bytes_load32(signature + 4);
		out->edx = bytes_load32(signature + 8);
		break;
	case KVM_FEATURES:
		out->eax = KVM_FEATURE_CLOCKSOURCE | KVM_FEATURE_NOP_IO_DELAY |
			   KVM_FEATURE_CLOCKSOURCE2 | KVM_FEATURE_CLOCKSOURCE_STABLE;
		/* Waiters for a lock halt until they are kicked, rather than spin for a whole time
		 * slice of a holder that has no host CPU. */
		out->eax |= model->cpus > 1 ? KVM_FEATURE_PV_UNHALT : 0;
		break;
	case KVM_TIMING: /* kHz of the TSC and of the local APIC timer */
		out->eax = (uint32_t)model->tsc_khz;
		out->ebx = LAPIC_TIMER_HZ / 1000;
		break;
	}
}

static void extended_leaf(const struct vcpu *v, uint32_t leaf, struct cpuid_regs *out)
{
	const struct cpu_model *model = v->model;
	bool amd = cpu_model_is_amd(model);
	const char *brand;

	switch (leaf) {
	case EXTENDED_BASE:
		out->eax = amd ? EXTENDED_MAX_AMD : EXTENDED_MAX_INTEL;
		if (amd) {
			out->ebx = bytes_load32(model->vendor);
			out->edx = bytes_load32(model->vendor + 4);
			out->ecx = bytes_load32(model->vendor + 8);
		}
		break;
	case 0x80000001:
		out->ecx = features(model, WORD_80000001_ECX);
		out->edx = features(model, WORD_80000001_EDX);
		if (amd) {
			struct cpuid_regs basic = { 0 };

			features_leaf(v, &basic);
			out->eax = basic.eax;
			out->ecx |= model->cpus > 1 ? 1u << 1 : 0; /* cores, not threads */
			out->edx |= basic.edx & AMD_SHARED_EDX;
		}
		break;
	case 0x80000002:
	case 0x80000003:
	case 0x80000004:
		brand = model->brand + (leaf - 0x80000002) * 16;
		out->eax = bytes_load32(brand);
		out->ebx = bytes_load32(brand + 4);
		out->ecx = bytes_load32(brand + 8);
		out->edx = bytes_load32(brand + 12);
		break;
	case 0x80000005: /* L1 in KiB, ways, lines per tag, line size; the TLB fields stay empty */
		if (amd)
			out->ecx = out->edx = 32u << 24 | 8u << 16 | 1u << 8 | 64;
		break;
	case 0x80000006: /* L2 in KiB, 16-way (8); L3 in units of 512 KiB */
		out->ecx = 1024u << 16 | 8u << 12 | 1u << 8 | 64;
		if (amd)
			out->edx = 32u << 18 | 8u << 12 | 1u << 8 | 64;
		break;
	case 0x80000007:
		out->edx = 1u << 8; /* invariant TSC */
		break;
	case 0x80000008:
		out->eax = model->phys_bits | model->linear_bits << 8;
		if (amd) {
			out->ebx = AMD_80000008_EBX;
			out->ecx = core_bits(model) << 12 | ((model->cpus - 1) & 0xff);
		}
		break;
	case 0x80000021:
		if (amd) {
			out->eax = AMD_80000021_EAX;
			out->ecx = AMD_80000021_ECX;
		}
		break;
	}
}

void vcpu_cpuid(struct vcpu *v, uint32_t leaf, uint32_t subleaf, struct cpuid_regs *out)
{
	const struct cpu_model *model = v->model;

	*out = (struct cpuid_regs){ 0 };
	if (leaf >= EXTENDED_BASE) {
		uint32_t max = cpu_model_is_amd(model) ? EXTENDED_MAX_AMD : EXTENDED_MAX_INTEL;

		if (leaf <= max) {
			extended_leaf(v, leaf, out);
			return;
		}
	} else if (leaf >= KVM_BASE) {
		if (model->kvm_clock && leaf <= KVM_TIMING) {
			kvm_leaf(model, leaf, out);
			return;
		}
	} else if (leaf <= BASIC_MAX) {
		basic_leaf(v, leaf, subleaf, out);
		return;
	}
	/* Beyond every range Intel repeats the highest basic leaf, AMD gives zeros (SDM 2A, CPUID).
	 */
	if (!cpu_model_is_amd(model))
		basic_leaf(v, BASIC_MAX, subleaf, out);
}
