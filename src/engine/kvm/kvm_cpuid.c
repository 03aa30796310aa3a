/*
 * CPUID under KVM: the same model as under every engine, less what this host
 * cannot do. Called when a machine is made and when a vcpu is opened.
 *
 * Invariant: no bit is offered that the model does not have, so nothing that
 * the kernel adds of its own reaches the guest.
 */
#include <errno.h>
#include <string.h>

#include "cpu/cpuid_bits.h"
#include "cpu/lapic.h"
#include "cpu/xsave.h"
#include "engine/kvm/kvm_priv.h"

#define KVM_FEATURE_PV_UNHALT_BIT (1u << 7)

#define INDEXED KVM_CPUID_FLAG_SIGNIFCANT_INDEX

/* Whose result depends on the subleaf, and how many subleaves there are. */
static const struct {
	uint32_t leaf, count;
} indexed[] = { { 4, 5 }, { 7, 2 }, { 0xb, 3 }, { 0xd, 3 } };

/*
 * Words of feature bits, where a bit is offered only if the host's KVM has it
 * too; `own` are those that are our work, or the kernel's whatever it reports.
 */
enum reg { REG_EAX, REG_EBX, REG_ECX, REG_EDX };
static const struct {
	uint32_t leaf, subleaf;
	enum reg reg;
	uint32_t own;
} masked[] = {
	/* x2APIC, TSC deadline: our local APIC. OSXSAVE, hypervisor. */
	{ 1, 0, REG_ECX, 1u << 21 | 1u << 24 | 1u << 27 | 1u << 31 },
	/* MCE, APIC, MTRR, MCA: our MSRs. HTT. */
	{ 1, 0, REG_EDX, 1u << 7 | 1u << 9 | 1u << 12 | 1u << 14 | 1u << 28 },
	{ 6, 0, REG_EAX, 1u << 2 },            /* ARAT: our timer */
	{ 7, 0, REG_EBX, 1u << 1 | 1u << 13 }, /* TSC_ADJUST; a fact about x87 selectors */
	{ 7, 0, REG_ECX, 0 },
	{ 7, 0, REG_EDX, 0 },
	{ 7, 1, REG_EAX, 0 },
	{ 0xd, 0, REG_EAX, 0 },
	{ 0xd, 1, REG_EAX, 0 },
	{ 0x80000001, 0, REG_ECX, 1u << 1 }, /* cores, not threads */
	{ 0x80000001, 0, REG_EDX, 1u << 7 | 1u << 9 | 1u << 12 | 1u << 14 },
	{ 0x80000008, 0, REG_EBX, 0 },
	{ 0x80000021, 0, REG_EAX, 0 },
	{ 0x80000021, 0, REG_ECX, 0 },
};

static const struct {
	uint32_t leaf, subleaf;
	enum reg reg;
} words[WORD_COUNT] = {
	[WORD_1_ECX] = { 1, 0, REG_ECX },
	[WORD_1_EDX] = { 1, 0, REG_EDX },
	[WORD_7_EBX] = { 7, 0, REG_EBX },
	[WORD_7_ECX] = { 7, 0, REG_ECX },
	[WORD_7_EDX] = { 7, 0, REG_EDX },
	[WORD_7_1_EAX] = { 7, 1, REG_EAX },
	[WORD_D_1_EAX] = { 0xd, 1, REG_EAX },
	[WORD_6_EAX] = { 6, 0, REG_EAX },
	[WORD_80000001_ECX] = { 0x80000001, 0, REG_ECX },
	[WORD_80000001_EDX] = { 0x80000001, 0, REG_EDX },
};

static uint32_t *reg_of(struct kvm_cpuid_entry2 *e, enum reg reg)
{
	uint32_t *const regs[] = { &e->eax, &e->ebx, &e->ecx, &e->edx };

	return regs[reg];
}

static const struct kvm_cpuid_entry2 *find(const struct kvm_leaves *leaves, uint32_t leaf,
					   uint32_t subleaf)
{
	for (uint32_t n = 0; n < leaves->count; n++) {
		const struct kvm_cpuid_entry2 *e = &leaves->entry[n];

		if (e->function == leaf && (!(e->flags & INDEXED) || e->index == subleaf))
			return e;
	}
	return NULL;
}

static uint32_t supported_word(const struct kvm_leaves *supported, uint32_t leaf, uint32_t subleaf,
			       enum reg reg)
{
	const struct kvm_cpuid_entry2 *e = find(supported, leaf, subleaf);

	return e ? *reg_of((struct kvm_cpuid_entry2 *)e, reg) : 0;
}

int kvm_supported_leaves(const struct kvm_calls *calls, int dev, struct kvm_leaves *leaves)
{
	memset(leaves, 0, sizeof(*leaves));
	leaves->count = KVM_LEAVES_MAX;
	if (calls->ioctl(dev, KVM_GET_SUPPORTED_CPUID, (uintptr_t)leaves) < 0)
		return -errno;
	if (leaves->count > KVM_LEAVES_MAX)
		leaves->count = KVM_LEAVES_MAX;
	return 0;
}

static void add(struct vcpu *v, struct kvm_leaves *out, uint32_t leaf, uint32_t subleaf,
		uint32_t flags)
{
	struct kvm_cpuid_entry2 *e;
	struct cpuid_regs r;

	if (out->count == KVM_LEAVES_MAX)
		return;
	vcpu_cpuid(v, leaf, subleaf, &r);
	e = &out->entry[out->count++];
	*e = (struct kvm_cpuid_entry2){ .function = leaf,
					.index = subleaf,
					.flags = flags,
					.eax = r.eax,
					.ebx = r.ebx,
					.ecx = r.ecx,
					.edx = r.edx };
}

static void add_range(struct vcpu *v, struct kvm_leaves *out, uint32_t base)
{
	struct cpuid_regs first;

	vcpu_cpuid(v, base, 0, &first);
	for (uint32_t leaf = base; leaf <= first.eax && leaf - base < KVM_LEAVES_MAX; leaf++) {
		uint32_t subleaves = 0;

		for (size_t n = 0; n < sizeof(indexed) / sizeof(indexed[0]); n++)
			if (indexed[n].leaf == leaf)
				subleaves = indexed[n].count;
		if (!subleaves)
			add(v, out, leaf, 0, 0);
		for (uint32_t n = 0; n < subleaves; n++)
			add(v, out, leaf, n, INDEXED);
	}
}

void kvm_cpuid_compose(struct vcpu *v, const struct kvm_leaves *supported, struct kvm_leaves *out)
{
	memset(out, 0, sizeof(*out));
	add_range(v, out, 0);
	if (v->model->kvm_clock) {
		add(v, out, 0x40000000, 0, 0);
		add(v, out, 0x40000001, 0, 0);
		add(v, out, 0x40000010, 0, 0);
	}
	add_range(v, out, 0x80000000);
	for (uint32_t i = 0; i < out->count; i++) {
		struct kvm_cpuid_entry2 *e = &out->entry[i];

		for (size_t n = 0; n < sizeof(masked) / sizeof(masked[0]); n++)
			if (e->function == masked[n].leaf && e->index == masked[n].subleaf)
				*reg_of(e, masked[n].reg) &=
					masked[n].own | supported_word(supported, e->function,
								       e->index, masked[n].reg);
		/* The kick is a hypercall, and the kernel answers it only for its own local APIC.
		 */
		if (e->function == 0x40000001)
			e->eax &= ~KVM_FEATURE_PV_UNHALT_BIT;
	}
}

static uint32_t own_bits(enum cpuid_word word)
{
	for (size_t n = 0; n < sizeof(masked) / sizeof(masked[0]); n++)
		if (masked[n].leaf == words[word].leaf &&
		    masked[n].subleaf == words[word].subleaf && masked[n].reg == words[word].reg)
			return masked[n].own;
	return 0;
}

void kvm_cpuid_limit(struct cpu_model *model, const struct kvm_leaves *supported)
{
	uint64_t xcr0 = supported_word(supported, 0xd, 0, REG_EAX) |
			(uint64_t)supported_word(supported, 0xd, 0, REG_EDX) << 32;
	uint32_t widths = supported_word(supported, 0x80000008, 0, REG_EAX);

	for (unsigned n = 0; n < FEAT_COUNT; n++) {
		enum cpuid_word word = cpuid_bits[n].word;
		unsigned f = cpuid_bits[n].feature;
		uint32_t have =
			own_bits(word) | supported_word(supported, words[word].leaf,
							words[word].subleaf, words[word].reg);

		if (!(have >> cpuid_bits[n].bit & 1))
			model->features[f / 64] &= ~(1ull << f % 64);
	}
	model->xcr0_mask &= xcr0;
	if (!(model->xcr0_mask & XFEATURE_AVX)) {
		static const uint8_t avx[] = { FEAT_AVX,  FEAT_AVX2,    FEAT_FMA,     FEAT_F16C,
					       FEAT_VAES, FEAT_VPCLMUL, FEAT_AVX_VNNI };

		for (size_t n = 0; n < sizeof(avx); n++)
			model->features[avx[n] / 64] &= ~(1ull << avx[n] % 64);
	}
	if ((widths & 0xff) >= 36 && (widths & 0xff) < model->phys_bits)
		model->phys_bits = widths & 0xff;
}
