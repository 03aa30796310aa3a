/* CPUID: each model says the same thing always, agrees with itself, and promises nothing we or the
 * host lack. */
#include "cpu_fixture.h"
#include <cpuid.h>

static struct cpuid_regs ask(struct fixture *f, uint32_t leaf, uint32_t subleaf)
{
	struct cpuid_regs regs;

	vcpu_cpuid(f->v, leaf, subleaf, &regs);
	return regs;
}

static const char *const models[] = { "x86-64-v2", "x86-64-v3", "host" };

static void models_are_deterministic(void **state)
{
	static const uint32_t ranges[][2] = { { 0, 0x20 },
					      { 0x40000000, 0x40000012 },
					      { 0x80000000, 0x80000024 } };
	struct fixture a, b;

	for (unsigned m = 0; m < 3; m++) {
		fixture_init(&a, models[m], 4);
		fixture_init(&b, models[m], 4);
		for (unsigned r = 0; r < 3; r++)
			for (uint32_t leaf = ranges[r][0]; leaf <= ranges[r][1]; leaf++)
				for (uint32_t sub = 0; sub < 5; sub++) {
					struct cpuid_regs x = ask(&a, leaf, sub),
							  y = ask(&b, leaf, sub);

					assert_memory_equal(&x, &y, sizeof(x));
				}
		fixture_fini(&a);
		fixture_fini(&b);
	}
}

/* Not offered whatever the host has: what no engine implements. */
static void nothing_unsupported_is_offered(void **state)
{
	struct fixture f;

	for (unsigned m = 0; m < 3; m++) {
		fixture_init(&f, models[m], 1);
		/* MONITOR, VMX, SMX, EIST; DS, ACPI, TM; PDCM; debug store. */
		assert_int_equal(ask(&f, 1, 0).ecx & (1u << 2 | 1u << 3 | 1u << 5 | 1u << 6 |
						      1u << 7 | 1u << 15),
				 0);
		assert_int_equal(ask(&f, 1, 0).edx & (1u << 21 | 1u << 22 | 1u << 29), 0);
		/* HLE, RTM, MPX, AVX-512, PT. */
		assert_int_equal(ask(&f, 7, 0).ebx & (1u << 4 | 1u << 11 | 1u << 14 | 0xdc230000u),
				 0);
		/* PKU, OSPKE, WAITPKG, CET_SS, AVX-512, LA57. */
		assert_int_equal(ask(&f, 7, 0).ecx &
					 (0x3u << 3 | 1u << 5 | 1u << 7 | 1u << 1 | 1u << 6 |
					  1u << 11 | 1u << 12 | 1u << 14 | 1u << 16),
				 0);
		/* CET_IBT, AMX, AVX-512. */
		assert_int_equal(ask(&f, 7, 0).edx & (1u << 20 | 1u << 22 | 1u << 24 | 1u << 25 |
						      1u << 2 | 1u << 3 | 1u << 8 | 1u << 23),
				 0);
		assert_int_equal(ask(&f, 0xd, 0).eax & ~7u, 0);
		assert_int_equal(ask(&f, 0xa, 0).eax, 0);
		assert_int_equal(ask(&f, 5, 0).eax, 0);
		/* A hypervisor, and a kernel that knows it. */
		assert_true(ask(&f, 1, 0).ecx >> 31);
		fixture_fini(&f);
	}
}

static void host_model_is_a_subset_of_the_host(void **state)
{
	/* Vector and bit instructions execute natively: the host must have each. */
	static const uint32_t native_1_ecx = 1u << 0 | 1u << 1 | 1u << 9 | 1u << 12 | 1u << 19 |
					     1u << 20 | 1u << 23 | 1u << 25 | 1u << 28 | 1u << 29;
	static const uint32_t native_7_ebx = 1u << 3 | 1u << 5 | 1u << 8 | 1u << 19 | 1u << 29;
	static const uint32_t native_7_ecx = 1u << 8 | 1u << 9 | 1u << 10;
	unsigned a, b, c, d;
	struct fixture f;

	fixture_init(&f, "host", 1);
	__cpuid(1, a, b, c, d);
	assert_int_equal(ask(&f, 1, 0).eax, a);
	assert_int_equal(ask(&f, 1, 0).ecx & native_1_ecx & ~c, 0);
	__cpuid_count(7, 0, a, b, c, d);
	assert_int_equal(ask(&f, 7, 0).ebx & native_7_ebx & ~b, 0);
	assert_int_equal(ask(&f, 7, 0).ecx & native_7_ecx & ~c, 0);
	fixture_fini(&f);
}

static void feature_levels(void **state)
{
	struct fixture f;

	fixture_init(&f, "x86-64-v2", 1);
	/* SSE3 SSSE3 CX16 SSE4.1 SSE4.2 POPCNT; LAHF; SYSCALL NX LM. No AVX, no XSAVE. */
	assert_int_equal(ask(&f, 1, 0).ecx & 0x00982201, 0x00982201);
	assert_int_equal(ask(&f, 1, 0).ecx & (1u << 26 | 1u << 28), 0);
	assert_int_equal(ask(&f, 0x80000001, 0).ecx & 1, 1);
	assert_int_equal(ask(&f, 0x80000001, 0).edx & 0x20100800, 0x20100800);
	assert_int_equal(ask(&f, 0xd, 0).eax, 0);
	fixture_fini(&f);
	fixture_init(&f, "x86-64-v3", 1);
	/* FMA MOVBE XSAVE AVX F16C; BMI1 AVX2 BMI2; LZCNT. */
	assert_int_equal(ask(&f, 1, 0).ecx & 0x34401000, 0x34401000);
	assert_int_equal(ask(&f, 7, 0).ebx & 0x128, 0x128);
	assert_int_equal(ask(&f, 0x80000001, 0).ecx & 0x20, 0x20);
	fixture_fini(&f);
}

static void xsave_sizes_match_the_host(void **state)
{
	unsigned a, b, c, d;
	struct fixture f;

	fixture_init(&f, "x86-64-v3", 1);
	assert_int_equal(ask(&f, 0xd, 0).ebx, 576); /* reset: x87 only */
	assert_int_equal(xcr_write(f.v, 0, 7), 0);
	__cpuid_count(0xd, 2, a, b, c, d);
	assert_int_equal(ask(&f, 0xd, 2).eax, a);
	assert_int_equal(ask(&f, 0xd, 2).ebx, b);
	assert_int_equal(ask(&f, 0xd, 0).ebx, a + b);
	assert_int_equal(ask(&f, 0xd, 0).ecx, a + b);
	assert_int_equal(ask(&f, 0xd, 1).ebx, a + b);
	assert_int_equal(xcr_write(f.v, 0, 3), 0);
	assert_int_equal(ask(&f, 0xd, 0).ebx, 576);
	assert_int_equal(ask(&f, 0xd, 1).ebx, 576);
	fixture_fini(&f);
}

static void state_dependent_bits(void **state)
{
	struct fixture f;

	fixture_init(&f, "x86-64-v3", 1);
	assert_false(ask(&f, 1, 0).ecx & 1u << 27);
	assert_int_equal(cr4_write(f.v, CR4_OSXSAVE), 0);
	assert_true(ask(&f, 1, 0).ecx & 1u << 27);
	assert_true(ask(&f, 1, 0).edx & 1u << 9);
	assert_int_equal(msr_write(f.v, 0x1b, LAPIC_DEFAULT_BASE | APIC_BASE_BSP), 0);
	assert_false(ask(&f, 1, 0).edx & 1u << 9);
	fixture_fini(&f);
}

static void topology(void **state)
{
	static const struct {
		unsigned cpus, bits;
	} cases[] = { { 1, 0 }, { 2, 1 }, { 3, 2 }, { 8, 3 }, { 255, 8 } };
	struct fixture f;

	for (unsigned n = 0; n < 5; n++) {
		fixture_init(&f, "x86-64-v2", cases[n].cpus);
		f.v->index = cases[n].cpus - 1;
		assert_int_equal(ask(&f, 0xb, 0).ebx, 1);
		assert_int_equal(ask(&f, 0xb, 0).ecx, 0x100);
		assert_int_equal(ask(&f, 0xb, 1).eax, cases[n].bits);
		assert_int_equal(ask(&f, 0xb, 1).ebx, cases[n].cpus);
		assert_int_equal(ask(&f, 0xb, 1).ecx, 0x201);
		assert_int_equal(ask(&f, 0xb, 1).edx, cases[n].cpus - 1);
		assert_int_equal(ask(&f, 0xb, 2).ebx, 0);
		assert_int_equal(ask(&f, 1, 0).ebx >> 24, cases[n].cpus - 1);
		assert_int_equal(!!(ask(&f, 1, 0).edx & 1u << 28), cases[n].cpus > 1);
		fixture_fini(&f);
	}
}

static void paravirtual_and_frequencies(void **state)
{
	struct cpuid_regs r;
	struct fixture f;

	fixture_init(&f, "x86-64-v2", 1);
	r = ask(&f, 0x40000000, 0);
	assert_memory_equal(&r.ebx, "KVMKVMKVM\0\0\0", 12);
	assert_int_equal(r.eax, 0x40000010);
	assert_int_equal(ask(&f, 0x40000001, 0).eax, 0x0100000b);
	assert_int_equal(ask(&f, 0x40000010, 0).eax, FIXTURE_TSC_KHZ);
	r = ask(&f, 0x15, 0);
	assert_true((uint64_t)r.ecx * r.ebx / r.eax == (uint64_t)FIXTURE_TSC_KHZ * 1000);
	/* Beyond the last leaf AMD gives zeros, Intel repeats the last basic one. */
	r = ask(&f, 0x12345678, 0);
	assert_int_equal(r.eax | r.ebx | r.ecx | r.edx, 0);
	fixture_fini(&f);
	/* With others to wait for, the kick hypercall too. */
	fixture_init(&f, "x86-64-v2", 2);
	assert_int_equal(ask(&f, 0x40000001, 0).eax, 0x0100008b);
	fixture_fini(&f);
	fixture_init(&f, "host", 1);
	r = ask(&f, 0x12345678, 0);
	assert_int_equal(r.ecx, cpu_model_is_amd(f.v->model) ? 0 : 100);
	fixture_fini(&f);
}

static void unknown_model_is_refused(void **state)
{
	const char *error = NULL;

	assert_null(cpu_model_new("pentium", 1, 1000000, &error));
	assert_non_null(error);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(models_are_deterministic),
		cmocka_unit_test(nothing_unsupported_is_offered),
		cmocka_unit_test(host_model_is_a_subset_of_the_host),
		cmocka_unit_test(feature_levels),
		cmocka_unit_test(xsave_sizes_match_the_host),
		cmocka_unit_test(state_dependent_bits),
		cmocka_unit_test(topology),
		cmocka_unit_test(paravirtual_and_frequencies),
		cmocka_unit_test(unknown_model_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
