/*
 * A vcpu with RAM, buses, a clock that only tests advance, and a soft MMU, but
 * no engine: for tests of src/cpu and of single rare instructions. It starts in
 * the reset state; fixture_long_mode() puts it into flat 64-bit code at CPL 0.
 */
#ifndef INSULA_TESTS_ENGINE_CPU_FIXTURE_H
#define INSULA_TESTS_ENGINE_CPU_FIXTURE_H

#include "bus/bus.h"
#include "bus/vclock.h"
#include "cpu/control.h"
#include "cpu/excp.h"
#include "cpu/lapic.h"
#include "cpu/mmu.h"
#include "cpu/model.h"
#include "mem/page.h"
#include "mem/ram.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define FIXTURE_TSC_KHZ 2300000u
#define FIXTURE_RAM     (16u << 20)

struct fixture {
	struct vcpu *v;
	struct page_listener listener;
};

static void fixture_ignore(struct page_listener *l, struct page_listener *self, gfn_t gfn,
			   unsigned offset, unsigned len)
{
}

static void fixture_revoke(struct page_listener *l, struct page_listener *self, gfn_t gfn)
{
}

static inline void fixture_init(struct fixture *f, const char *model, unsigned cpus)
{
	const char *error = NULL;
	struct vcpu *v = aligned_alloc(64, (sizeof(*v) + 63) & ~63ul);

	assert_non_null(v);
	memset(v, 0, sizeof(*v));
	f->v = v;
	f->listener = (struct page_listener){ .code_changed = fixture_ignore,
					      .revoke_write = fixture_revoke };
	v->model = cpu_model_new(model, cpus, FIXTURE_TSC_KHZ, &error);
	if (!v->model)
		print_error("%s\n", error);
	assert_non_null(v->model);
	v->ram = ram_new(FIXTURE_RAM);
	v->pio = bus_new(0x10000);
	v->mmio = bus_new(1ull << 52);
	v->clock = vclock_new_manual(FIXTURE_TSC_KHZ);
	page_listener_add(v->ram, &f->listener);
	assert_int_equal(apic_bus_attach(apic_bus_new(), v), 0);
	v->soft.mmu = mmu_new(&f->listener);
	assert_non_null(v->soft.mmu);
	vcpu_reset(v, false);
}

static inline void fixture_fini(struct fixture *f)
{
	struct vcpu *v = f->v;

	mmu_free(v->soft.mmu);
	apic_bus_free(v->apics);
	page_listener_remove(v->ram, &f->listener);
	vclock_free(v->clock);
	bus_free(v->pio);
	bus_free(v->mmio);
	ram_free(v->ram);
	cpu_model_free(v->model);
	free(v);
}

/* Page tables at 0x1000: the first 1 GiB, identity, in pages of 2 MiB. Returns nothing; asserts on
 * failure. */
static inline void fixture_long_mode(struct fixture *f)
{
	static const struct segment flat = { .limit = 0xffffffff, .attr = 0xc093, .selector = 16 };
	struct vcpu *v = f->v;
	uint64_t entry;
	unsigned n;

	entry = 0x2007;
	assert_int_equal(ram_write(v->ram, 0x1000, &entry, 8), 0);
	entry = 0x3007;
	assert_int_equal(ram_write(v->ram, 0x2000, &entry, 8), 0);
	for (n = 0; n < 512; n++) {
		entry = (uint64_t)n << 21 | 0x87;
		assert_int_equal(ram_write(v->ram, 0x3000 + 8 * n, &entry, 8), 0);
	}
	for (n = 0; n < 6; n++)
		v->arch.seg[n] = flat;
	v->arch.seg[SEG_CS] =
		(struct segment){ .limit = 0xffffffff, .attr = 0xc09b, .selector = 8 };
	assert_int_equal(cr0_write(v, v->arch.cr0 | CR0_PE), 0);
	assert_int_equal(cr4_write(v, CR4_PAE), 0);
	assert_int_equal(cr3_write(v, 0x1000), 0);
	assert_int_equal(efer_write(v, EFER_LME), 0);
	assert_int_equal(cr0_write(v, CR0_PE | CR0_PG | CR0_NE), 0);
	assert_true(vcpu_long_mode(v));
	v->arch.seg[SEG_CS].attr = 0xa09b;
	vcpu_mode_changed(v);
}

/* The call faulted with this vector (and error code 0 where there is one). */
#define assert_fault(f, call, expected)                              \
	do {                                                         \
		memset(&(f)->v->fault, 0xee, sizeof((f)->v->fault)); \
		assert_int_equal(call, -1);                          \
		assert_int_equal((f)->v->fault.vector, expected);    \
	} while (0)

#endif
