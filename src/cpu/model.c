/*
 * CPU models: which features each has, and whether this host can carry them.
 * Called when a machine is made; afterwards a model is only read.
 *
 * Three kinds of feature. What the engines implement themselves (paging bits,
 * MSRs, RDTSCP, ...) exists on every host. Vector and bit-manipulation
 * instructions are executed by the host's own and need it. A few need the host
 * only so that a guest's code finds what it was compiled for.
 */
#include "cpu/model.h"
#include "cpu/cpuid_bits.h"
#include "cpu/fpstate.h"
#include "cpu/xsave.h"
#include <cpuid.h>
#include <stdlib.h>
#include <string.h>

#define LINEAR_BITS   48
#define PHYS_BITS     46
#define PHYS_BITS_MAX 52

/* The engines' own work: on every host, in every model. */
static const uint8_t of_engine[] = {
	FEAT_FPU,     FEAT_VME,     FEAT_DE,     FEAT_PSE,    FEAT_TSC,        FEAT_MSR,
	FEAT_PAE,     FEAT_CX8,     FEAT_SEP,    FEAT_MTRR,   FEAT_PGE,        FEAT_CMOV,
	FEAT_PAT,     FEAT_CLFLUSH, FEAT_FXSR,   FEAT_NX,     FEAT_SYSCALL,    FEAT_LM,
	FEAT_GBPAGES, FEAT_RDTSCP,  FEAT_LAHF,   FEAT_CX16,   FEAT_PREFETCHW,  FEAT_PCID,
	FEAT_INVPCID, FEAT_SMEP,    FEAT_SMAP,   FEAT_UMIP,   FEAT_FSGSBASE,   FEAT_ERMS,
	FEAT_FSRM,    FEAT_X2APIC,  FEAT_RDRAND, FEAT_RDSEED, FEAT_CLFLUSHOPT, FEAT_TSC_DEADLINE,
	FEAT_ARAT,
};

/* Native execution: in a model only if the host has it. */
static const uint8_t v2_native[] = {
	FEAT_MMX, FEAT_SSE, FEAT_SSE2, FEAT_SSE3, FEAT_SSSE3, FEAT_SSE41, FEAT_SSE42, FEAT_POPCNT,
};
static const uint8_t v3_native[] = {
	FEAT_AVX, FEAT_AVX2, FEAT_FMA, FEAT_F16C, FEAT_BMI1, FEAT_BMI2, FEAT_LZCNT,
};
static const uint8_t v3_engine[] = {
	FEAT_MOVBE, FEAT_XSAVE, FEAT_XSAVEOPT, FEAT_XSAVEC, FEAT_XGETBV1,
};
/* What `host` adds where the host has it. */
static const uint8_t host_native[] = {
	FEAT_AES,     FEAT_PCLMUL, FEAT_ADX,       FEAT_SHA,     FEAT_VAES,
	FEAT_VPCLMUL, FEAT_GFNI,   FEAT_AVX_VNNI,  FEAT_MOVDIRI, FEAT_MOVDIR64B,
	FEAT_CLWB,    FEAT_RDPID,  FEAT_SERIALIZE,
};
/* Useless without the guest's XCR0.AVX. */
static const uint8_t needs_avx[] = {
	FEAT_AVX, FEAT_AVX2, FEAT_FMA, FEAT_F16C, FEAT_VAES, FEAT_VPCLMUL, FEAT_AVX_VNNI,
};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

struct feature_set {
	uint64_t bits[(FEAT_COUNT + 63) / 64];
};

static void set_add(struct feature_set *set, const uint8_t *list, size_t count)
{
	for (size_t n = 0; n < count; n++)
		set->bits[list[n] / 64] |= 1ull << (list[n] % 64);
}

static void set_remove(struct feature_set *set, const uint8_t *list, size_t count)
{
	for (size_t n = 0; n < count; n++)
		set->bits[list[n] / 64] &= ~(1ull << (list[n] % 64));
}

static bool set_has(const struct feature_set *set, unsigned feature)
{
	return set->bits[feature / 64] >> (feature % 64) & 1;
}

static bool set_has_all(const struct feature_set *set, const uint8_t *list, size_t count)
{
	for (size_t n = 0; n < count; n++)
		if (!set_has(set, list[n]))
			return false;
	return true;
}

static void host_features(struct feature_set *set)
{
	uint32_t words[WORD_COUNT] = { 0 };
	unsigned a, b, c, d;

	memset(set, 0, sizeof(*set));
	__cpuid(1, a, b, c, d);
	words[WORD_1_ECX] = c;
	words[WORD_1_EDX] = d;
	if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
		words[WORD_7_EBX] = b;
		words[WORD_7_ECX] = c;
		words[WORD_7_EDX] = d;
		if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d))
			words[WORD_7_1_EAX] = a;
	}
	if (__get_cpuid_count(0xd, 1, &a, &b, &c, &d))
		words[WORD_D_1_EAX] = a;
	if (__get_cpuid(0x80000001, &a, &b, &c, &d)) {
		words[WORD_80000001_ECX] = c;
		words[WORD_80000001_EDX] = d;
	}
	for (unsigned n = 0; n < FEAT_COUNT; n++) {
		uint8_t feature = cpuid_bits[n].feature;

		if (words[cpuid_bits[n].word] >> cpuid_bits[n].bit & 1)
			set_add(set, &feature, 1);
	}
	/* Present is not enough: the host's kernel must have switched the registers on. */
	if (!(fpstate_host_mask() & XFEATURE_AVX))
		set_remove(set, needs_avx, COUNT(needs_avx));
}

static void host_identity(struct cpu_model *model)
{
	unsigned a, b, c, d;

	__cpuid(0, a, b, c, d);
	memcpy(model->vendor, &b, 4);
	memcpy(model->vendor + 4, &d, 4);
	memcpy(model->vendor + 8, &c, 4);
	__cpuid(1, a, b, c, d);
	model->family_model_stepping = a;
	if (__get_cpuid(0x80000004, &a, &b, &c, &d)) {
		for (unsigned n = 0; n < 3; n++) {
			uint32_t regs[4];

			__cpuid(0x80000002 + n, regs[0], regs[1], regs[2], regs[3]);
			memcpy(model->brand + n * 16, regs, 16);
		}
		model->brand[48] = 0;
	}
	if (__get_cpuid(0x80000008, &a, &b, &c, &d) && (a & 0xff) >= 36 &&
	    (a & 0xff) <= PHYS_BITS_MAX)
		model->phys_bits = a & 0xff;
}

/*
 * The fixed models call themselves AMD, because stock kernels believe AMD parts
 * that say they lack a flaw. Linux takes every Intel CPU under a hypervisor to
 * leak branch history, whatever it reports, and then runs a loop of a hundred
 * instructions at each system call, which here would protect nobody. Family 17H
 * model 31H has no erratum that a kernel works around inside a VM.
 */
#define SIGNATURE_FIXED 0x00830f10u

static void fixed_identity(struct cpu_model *model, const char *brand)
{
	memcpy(model->vendor, "AuthenticAMD", 12);
	model->family_model_stepping = SIGNATURE_FIXED;
	strncpy(model->brand, brand, sizeof(model->brand) - 1);
}

const struct cpu_model *cpu_model_new(const char *name, unsigned cpus, uint64_t tsc_khz,
				      const char **error)
{
	struct feature_set set = { 0 }, host;
	struct cpu_model *model;

	host_features(&host);
	model = calloc(1, sizeof(*model));
	if (!model) {
		*error = "out of memory";
		return NULL;
	}
	model->cpus = cpus;
	model->tsc_khz = tsc_khz;
	model->linear_bits = LINEAR_BITS;
	model->phys_bits = PHYS_BITS;
	model->kvm_clock = true;

	set_add(&set, of_engine, COUNT(of_engine));
	set_add(&set, v2_native, COUNT(v2_native));
	if (!set_has_all(&host, v2_native, COUNT(v2_native))) {
		*error = "every CPU model needs a host CPU of level x86-64-v2 (SSE4.2 and POPCNT)";
		goto fail;
	}
	if (!strcmp(name, "x86-64-v2")) {
		model->name = "x86-64-v2";
		fixed_identity(model, "Insula virtual CPU, x86-64-v2");
	} else if (!strcmp(name, "x86-64-v3")) {
		model->name = "x86-64-v3";
		fixed_identity(model, "Insula virtual CPU, x86-64-v3");
		if (!set_has_all(&host, v3_native, COUNT(v3_native))) {
			*error = "CPU model x86-64-v3 needs a host CPU with AVX2, BMI, FMA, F16C "
				 "and LZCNT; "
				 "x86-64-v2 works here";
			goto fail;
		}
		set_add(&set, v3_native, COUNT(v3_native));
		set_add(&set, v3_engine, COUNT(v3_engine));
	} else if (!strcmp(name, "host")) {
		model->name = "host";
		host_identity(model);
		set_add(&set, v3_engine, COUNT(v3_engine));
		for (size_t n = 0; n < COUNT(v3_native); n++)
			if (set_has(&host, v3_native[n]))
				set_add(&set, &v3_native[n], 1);
		for (size_t n = 0; n < COUNT(host_native); n++)
			if (set_has(&host, host_native[n]))
				set_add(&set, &host_native[n], 1);
	} else {
		*error = "unknown CPU model: it must be x86-64-v2, x86-64-v3 or host";
		goto fail;
	}
	memcpy(model->features, set.bits, sizeof(model->features));
	if (cpu_has(model, FEAT_XSAVE))
		model->xcr0_mask =
			XFEATURE_X87 | XFEATURE_SSE | (cpu_has(model, FEAT_AVX) ? XFEATURE_AVX : 0);
	return model;
fail:
	free(model);
	return NULL;
}

void cpu_model_free(const struct cpu_model *model)
{
	free((void *)model);
}
