/* Control registers, EFER, XCR0, debug registers and MSRs: what is refused, and what a write
 * entails. */
#include "cpu_fixture.h"

static int setup(void **state)
{
	static struct fixture f;

	fixture_init(&f, "x86-64-v3", 2);
	*state = &f;
	return 0;
}

static int teardown(void **state)
{
	fixture_fini(*state);
	return 0;
}

static void cr0_combinations(void **state)
{
	struct fixture *f = *state;
	struct vcpu *v = f->v;

	assert_int_equal(v->arch.cr0, 0x60000010);
	assert_fault(f, cr0_write(v, CR0_PG), VEC_GP); /* PG without PE */
	assert_fault(f, cr0_write(v, CR0_NW), VEC_GP); /* NW without CD */
	assert_fault(f, cr0_write(v, 1ull << 32 | CR0_PE), VEC_GP);
	assert_int_equal(v->arch.cr0, 0x60000010);
	assert_int_equal(cr0_write(v, 0x1ff0ffc0u), 0); /* reserved bits read as zero, ET as one */
	assert_int_equal(v->arch.cr0, CR0_ET);
}

static void long_mode_activation(void **state)
{
	struct fixture *f = *state;
	struct vcpu *v = f->v;

	assert_int_equal(cr0_write(v, CR0_PE), 0);
	assert_int_equal(efer_write(v, EFER_LME), 0);
	assert_fault(f, cr0_write(v, CR0_PE | CR0_PG), VEC_GP); /* PAE clear */
	assert_int_equal(cr4_write(v, CR4_PAE), 0);
	v->arch.seg[SEG_CS].attr |= SEG_L;
	assert_fault(f, cr0_write(v, CR0_PE | CR0_PG), VEC_GP); /* CS.L set */
	v->arch.seg[SEG_CS].attr &= (uint16_t)~SEG_L;
	assert_int_equal(v->arch.efer, EFER_LME);
	assert_int_equal(cr0_write(v, CR0_PE | CR0_PG), 0);
	assert_int_equal(v->arch.efer, EFER_LME | EFER_LMA);
	assert_fault(f, efer_write(v, 0), VEC_GP);    /* LME with PG */
	assert_fault(f, cr4_write(v, 0), VEC_GP);     /* PAE in long mode */
	assert_int_equal(efer_write(v, EFER_LME), 0); /* LMA is not software's */
	assert_int_equal(v->arch.efer, EFER_LME | EFER_LMA);
	assert_int_equal(cr0_write(v, CR0_PE), 0); /* from compatibility mode: off */
	assert_int_equal(v->arch.efer, EFER_LME);
}

static void leaving_long_mode_from_64_bit_code(void **state)
{
	struct fixture *f = *state;
	struct vcpu *v = f->v;

	fixture_long_mode(f);
	assert_fault(f, cr0_write(v, CR0_PE | CR0_ET), VEC_GP);
	assert_true(vcpu_long_mode(v));
}

static void pcid_conditions(void **state)
{
	struct fixture *f = *state;
	struct vcpu *v = f->v;

	assert_fault(f, cr4_write(v, CR4_PCIDE), VEC_GP); /* not in long mode */
	fixture_long_mode(f);
	assert_int_equal(cr3_write(v, 0x1018), 0);
	assert_fault(f, cr4_write(v, CR4_PAE | CR4_PCIDE), VEC_GP); /* CR3[11:0] not zero */
	assert_fault(f, cr3_write(v, 1ull << 63 | 0x1000), VEC_GP); /* bit 63 without PCIDE */
	assert_int_equal(cr3_write(v, 0x1000), 0);
	assert_int_equal(cr4_write(v, CR4_PAE | CR4_PCIDE), 0);
	assert_int_equal(cr3_write(v, 1ull << 63 | 0x1005), 0);
	assert_int_equal(v->arch.cr3, 0x1005);
	assert_int_equal(cr4_write(v, CR4_PAE), 0);
}

static void cr3_reserved_bits(void **state)
{
	struct fixture *f = *state;
	struct vcpu *v = f->v;

	fixture_long_mode(f);
	assert_fault(f, cr3_write(v, 1ull << v->model->phys_bits), VEC_GP);
	assert_fault(f, cr3_write(v, 1ull << 62), VEC_GP);
	assert_int_equal(v->arch.cr3, 0x1000);
}

static void cr4_follows_the_model(void **state)
{
	struct fixture *f = *state;
	struct vcpu *v = f->v;
	struct fixture v2;

	assert_int_equal(cr4_write(v, CR4_SMEP | CR4_SMAP | CR4_UMIP | CR4_FSGSBASE | CR4_OSXSAVE),
			 0);
	assert_fault(f, cr4_write(v, 1u << 12), VEC_GP); /* LA57 */
	assert_fault(f, cr4_write(v, 1u << 13), VEC_GP); /* VMXE */
	assert_fault(f, cr4_write(v, 1u << 22), VEC_GP); /* PKE */
	assert_fault(f, cr4_write(v, 1u << 23), VEC_GP); /* CET */
	assert_fault(f, cr4_write(v, 1ull << 40), VEC_GP);
	fixture_init(&v2, "x86-64-v2", 1);
	assert_fault(&v2, cr4_write(v2.v, CR4_OSXSAVE), VEC_GP);
	fixture_fini(&v2);
}

static void pae_pointers(void **state)
{
	static const uint64_t good[4] = { 0x5001, 0, 0x7001,
					  0x1e6 /* not present: anything goes */ };
	uint64_t bad;
	struct fixture *f = *state;
	struct vcpu *v = f->v;

	assert_int_equal(ram_write(v->ram, 0x4020, good, sizeof(good)), 0);
	assert_int_equal(cr4_write(v, CR4_PAE), 0);
	assert_int_equal(cr3_write(v, 0x4020), 0);
	assert_int_equal(cr0_write(v, CR0_PE | CR0_PG), 0);
	assert_memory_equal(v->arch.pdpte, good, sizeof(good));
	bad = 0x5003;
	assert_int_equal(ram_write(v->ram, 0x4020, &bad, 8), 0);
	assert_fault(f, cr3_write(v, 0x4020), VEC_GP);
	assert_memory_equal(v->arch.pdpte, good, sizeof(good));
	assert_fault(f, cr3_write(v, 0xf0000000), VEC_GP); /* beyond RAM */
	assert_int_equal(v->arch.cr3, 0x4020);
}

static void efer_reserved_bits(void **state)
{
	struct fixture *f = *state;

	for (unsigned bit = 0; bit < 64; bit++) {
		bool legal = 1ull << bit & (EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE);

		if (legal)
			assert_int_equal(efer_write(f->v, 1ull << bit), 0);
		else
			assert_fault(f, efer_write(f->v, 1ull << bit), VEC_GP);
	}
}

static void xcr0_values(void **state)
{
	struct fixture *f = *state;
	uint64_t value;

	for (value = 0; value < 16; value++) {
		bool legal = value == 1 || value == 3 || value == 7;

		if (legal)
			assert_int_equal(xcr_write(f->v, 0, value), 0);
		else
			assert_fault(f, xcr_write(f->v, 0, value), VEC_GP);
	}
	assert_fault(f, xcr_write(f->v, 1, 1), VEC_GP);
	assert_fault(f, xcr_read(f->v, 2, &value), VEC_GP);
	assert_int_equal(xcr_read(f->v, 0, &value), 0);
	assert_int_equal(value, 7);
	assert_int_equal(xcr_read(f->v, 1, &value), 0);
	assert_int_equal(value & ~7ull, 0);
}

static void debug_registers(void **state)
{
	struct fixture *f = *state;
	struct vcpu *v = f->v;
	uint64_t value;

	assert_int_equal(dr_write(v, 6, 0xffffffff), 0);
	assert_int_equal(v->arch.dr[6], 0xffffefff);
	assert_int_equal(dr_write(v, 6, 0), 0);
	assert_int_equal(v->arch.dr[6], 0xffff0ff0);
	assert_fault(f, dr_write(v, 6, 1ull << 32), VEC_GP);
	assert_fault(f, dr_write(v, 7, 1ull << 32), VEC_GP);
	assert_int_equal(dr_write(v, 5, 0xffffdfff), 0); /* an alias of DR7 */
	assert_int_equal(v->arch.dr[7], 0xffff07ff);
	assert_int_equal(dr_read(v, 4, &value), 0);
	assert_int_equal(value, 0xffff0ff0);
	assert_int_equal(cr4_write(v, CR4_DE), 0);
	assert_fault(f, dr_read(v, 4, &value), VEC_UD);
	assert_int_equal(dr_write(v, 7, 0x2000), 0); /* GD */
	assert_fault(f, dr_write(v, 0, 5), VEC_DB);
	assert_int_equal(v->fault.dr6, 0x2000);
}

/* Every index below is read and, where it is not read-only, its own value is accepted back. */
static void msr_list(void **state)
{
	static const uint32_t rw[] = {
		0x10,       0x1b,       0x3b,       0x48,       0x8b,       0x174,      0x175,
		0x176,      0x17a,      0x17b,      0x1a0,      0x1d9,      0x200,      0x20f,
		0x250,      0x258,      0x259,      0x268,      0x26f,      0x277,      0x2ff,
		0x400,      0x401,      0x40f,      0x6e0,      0xc1,       0xc4,       0x186,
		0x189,      0x309,      0x38d,      0x38f,      0xc0000080, 0xc0000081, 0xc0000082,
		0xc0000083, 0xc0000084, 0xc0000100, 0xc0000101, 0xc0000102, 0xc0000103, 0x4b564d00,
		0x4b564d01,
	};
	static const uint32_t read_only[] = { 0x17, 0x3a, 0xce, 0xfe, 0x10a, 0x179, 0x198 };
	static const uint32_t amd[] = { 0xc0010000, 0xc0010010, 0xc0010015, 0xc001001f,
					0xc0011029 };
	static const uint32_t unknown[] = { 0,          1,          0x49,       0x140,
					    0x1b0,      0x210,      0x280,      0x480,
					    0x410,      0x570,      0xda0,      0x900,
					    0xc0000104, 0x40000000, 0x4b564d02, 0x4b564d03,
					    0xffffffff };
	struct fixture *f = *state;
	uint64_t value;

	for (unsigned n = 0; n < sizeof(rw) / sizeof(rw[0]); n++) {
		if (msr_read(f->v, rw[n], &value) < 0)
			fail_msg("MSR %x cannot be read", rw[n]);
		if (msr_write(f->v, rw[n], value) < 0)
			fail_msg("MSR %x does not take its own value %llx", rw[n],
				 (unsigned long long)value);
	}
	for (unsigned n = 0; n < sizeof(read_only) / sizeof(read_only[0]); n++)
		assert_int_equal(msr_read(f->v, read_only[n], &value), 0);
	for (unsigned n = 0; n < sizeof(unknown) / sizeof(unknown[0]); n++) {
		if (msr_read(f->v, unknown[n], &value) == 0)
			fail_msg("MSR %x exists", unknown[n]);
		assert_int_equal(f->v->fault.vector, VEC_GP);
		if (unknown[n] != 0x49)
			assert_fault(f, msr_write(f->v, unknown[n], 0), VEC_GP);
	}
	for (unsigned n = 0; n < sizeof(amd) / sizeof(amd[0]); n++)
		assert_int_equal(msr_read(f->v, amd[n], &value),
				 cpu_model_is_amd(f->v->model) ? 0 : -1);
	assert_fault(f, msr_write(f->v, 0xfe, 0), VEC_GP);
	assert_fault(f, msr_write(f->v, 0x10a, 0), VEC_GP);
	assert_fault(f, msr_write(f->v, 0x3a, 5), VEC_GP); /* locked */
}

static void msr_reserved_bits(void **state)
{
	static const struct {
		uint32_t index;
		uint64_t bad, good;
	} cases[] = {
		{ 0x48, 4, 1 },
		{ 0x49, 2, 1 },
		{ 0x277, 0x0007040600070402, 0x0007040600070405 },
		{ 0x277, 0x0807040600070406, 0x0007010500070406 },
		{ 0x250, 0x0606060606060607, 0x0001040506060606 },
		{ 0x200, 0x80000007, 0x80000006 },
		{ 0x200, 0x80000106, 0x80000001 },
		{ 0x201, 1ull << 46 | 0x800, 0x3fff80000800 },
		{ 0x2ff, 0x100, 0xc06 },
		{ 0x2ff, 0xc02, 0x800 },
		{ 0x175, 1ull << 47, 0xffff800000000000 },
		{ 0xc0000082, 1ull << 63, 0xffffffff81000000 },
		{ 0xc0000100, 0x800000000000, 0x7fffffffffff },
		{ 0xc0000103, 1ull << 32, 7 },
		{ 0x401, 1, 0 },
		{ 0x400, 5, ~0ull },
		{ 0x1d9, 4, 2 },
	};
	struct fixture *f = *state;

	for (unsigned n = 0; n < sizeof(cases) / sizeof(cases[0]); n++) {
		uint64_t before = 0, after = 0;

		msr_read(f->v, cases[n].index, &before);
		assert_fault(f, msr_write(f->v, cases[n].index, cases[n].bad), VEC_GP);
		msr_read(f->v, cases[n].index, &after);
		assert_true(before == after);
		assert_int_equal(msr_write(f->v, cases[n].index, cases[n].good), 0);
		if (cases[n].index == 0x49)
			continue;
		msr_read(f->v, cases[n].index, &after);
		assert_true(after == cases[n].good);
	}
}

static void tsc_moves(void **state)
{
	struct fixture *f = *state;
	struct vcpu *v = f->v;
	uint64_t value, start;

	vclock_advance(v->clock, 1000000);
	assert_int_equal(msr_read(v, 0x10, &start), 0);
	assert_in_range(start, FIXTURE_TSC_KHZ - 1, FIXTURE_TSC_KHZ);
	assert_int_equal(msr_write(v, 0x10, 5000), 0);
	assert_int_equal(msr_read(v, 0x10, &value), 0);
	assert_int_equal(value, 5000);
	assert_int_equal(msr_read(v, 0x3b, &value), 0);
	assert_true(value == 5000 - start);
	assert_int_equal(msr_write(v, 0x3b, 0), 0);
	assert_int_equal(msr_read(v, 0x10, &value), 0);
	assert_int_equal(value, start);
}

struct time_page {
	uint32_t version, padding;
	uint64_t tsc, ns;
	uint32_t mul;
	int8_t shift;
	uint8_t flags, padding2[2];
};

/* As a guest computes it. */
static uint64_t kvmclock_read(struct vcpu *v, gpa_t gpa)
{
	struct time_page page;
	uint64_t delta;

	assert_int_equal(ram_read(v->ram, gpa, &page, sizeof(page)), 0);
	assert_int_equal(page.version & 1, 0);
	assert_int_not_equal(page.version, 0);
	delta = vcpu_tsc(v) - page.tsc;
	delta = page.shift < 0 ? delta >> -page.shift : delta << page.shift;
	return page.ns + (uint64_t)(((unsigned __int128)delta * page.mul) >> 32);
}

static void kvmclock_pages(void **state)
{
	struct fixture *f = *state;
	struct vcpu *v = f->v;
	struct time_page page;
	uint32_t wall[3];
	uint64_t day = 86400ull * 1000000000;

	assert_int_equal(msr_write(v, 0x4b564d01, 0x5000 | 1), 0);
	assert_int_equal(ram_read(v->ram, 0x5000, &page, sizeof(page)), 0);
	assert_int_equal(page.flags, 1);
	vclock_advance(v->clock, 1000000000);
	assert_in_range(kvmclock_read(v, 0x5000), 1000000000 - 5, 1000000000 + 5);
	/* A day later the 32-bit factor has cost less than 50 us. */
	vclock_advance(v->clock, day - 1000000000);
	assert_in_range(kvmclock_read(v, 0x5000), day - 50000, day + 50000);
	/* Moving the TSC does not move the clock, but the page is no longer everybody's. */
	assert_int_equal(msr_write(v, 0x10, 0), 0);
	assert_in_range(kvmclock_read(v, 0x5000), day - 50000, day + 50000);
	assert_int_equal(ram_read(v->ram, 0x5000, &page, sizeof(page)), 0);
	assert_int_equal(page.flags, 0);
	assert_int_equal(msr_write(v, 0x4b564d00, 0x6000), 0);
	assert_int_equal(ram_read(v->ram, 0x6000, wall, sizeof(wall)), 0);
	assert_int_equal(wall[0] & 1, 0);
	assert_true(wall[2] < 1000000000);
	/* An address that is not RAM is the guest's loss. */
	assert_int_equal(msr_write(v, 0x4b564d01, 0xfffffffffffff001), 0);
	assert_int_equal(msr_write(v, 0x4b564d00, 0xf0000000), 0);
}

static void reset_and_init(void **state)
{
	struct fixture *f = *state;
	struct vcpu *v = f->v;

	fixture_long_mode(f);
	assert_int_equal(msr_write(v, 0xc0000082, 0x1234), 0);
	v->arch.gpr[RAX] = 5;
	v->arch.xcr0 = 7;
	vcpu_init_signal(v);
	assert_int_equal(v->arch.rip, 0xfff0);
	assert_int_equal(v->arch.seg[SEG_CS].base, 0xffff0000u);
	assert_int_equal(v->arch.cr0, CR0_ET);
	assert_int_equal(v->arch.efer | v->arch.cr4 | v->arch.cr3 | v->arch.gpr[RAX], 0);
	assert_int_equal(v->arch.gpr[RDX], v->model->family_model_stepping);
	assert_int_equal(v->arch.msr.lstar, 0x1234);
	assert_int_equal(v->arch.xcr0, 7);
	assert_int_equal(v->arch.activity, ACTIVITY_RUN);
	vcpu_reset(v, true);
	assert_int_equal(v->arch.cr0, 0x60000010);
	assert_int_equal(v->arch.msr.lstar, 0);
	assert_int_equal(v->arch.xcr0, 1);
	assert_int_equal(v->arch.activity, ACTIVITY_WAIT_SIPI);
	assert_true(v->arch.msr.pat == 0x0007040600070406);
}

/* A guest may try anything: faults and effects, but no assertion, no undefined behaviour. */
static void any_msr_and_any_register_value(void **state)
{
	static const uint32_t bases[] = { 0,          0x400,      0x800,      0xc00,
					  0xc0000080, 0xc0000100, 0xc0010000, 0xc0011000,
					  0x4b564d00, 0x40000000 };
	struct fixture *f = *state;
	struct vcpu *v = f->v;
	uint64_t x = 0x9e3779b97f4a7c15, value;

	for (unsigned n = 0; n < 100000; n++) {
		uint32_t index;
		struct cpuid_regs regs;

		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		index = bases[x % 10] + (uint32_t)(x >> 8 & 0x3ff);
		value = x >> 63 ? x >> (x >> 20 & 63) : 1ull << (x >> 20 & 63);
		switch (x >> 40 & 7) {
		case 0:
			cr0_write(v, value);
			break;
		case 1:
			cr4_write(v, value);
			break;
		case 2:
			cr3_write(v, value);
			break;
		case 3:
			dr_write(v, x >> 44 & 7, value);
			break;
		case 4:
			xcr_write(v, x >> 44 & 3, value);
			vcpu_cpuid(v, index, x >> 50 & 3, &regs);
			break;
		default:
			msr_write(v, index, value);
			msr_read(v, index, &value);
			break;
		}
	}
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(cr0_combinations),
		TEST(long_mode_activation),
		TEST(leaving_long_mode_from_64_bit_code),
		TEST(pcid_conditions),
		TEST(cr3_reserved_bits),
		TEST(cr4_follows_the_model),
		TEST(pae_pointers),
		TEST(efer_reserved_bits),
		TEST(xcr0_values),
		TEST(debug_registers),
		TEST(msr_list),
		TEST(msr_reserved_bits),
		TEST(tsc_moves),
		TEST(kvmclock_pages),
		TEST(reset_and_init),
		TEST(any_msr_and_any_register_value),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
