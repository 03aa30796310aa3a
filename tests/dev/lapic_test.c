/* Local APICs and their bus: registers, delivery, destinations, timer, modes. The test is every
 * CPU. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "bus/vclock.h"
#include "cpu/excp.h"
#include "cpu/lapic.h"

#define CPUS 20

enum {
	ID = 0x20,
	TPR = 0x80,
	PPR = 0xa0,
	EOI = 0xb0,
	LDR = 0xd0,
	DFR = 0xe0,
	SVR = 0xf0,
	ISR = 0x100,
	TMR = 0x180,
	IRR = 0x200,
	ESR = 0x280,
	ICR = 0x300,
	ICR_HIGH = 0x310,
	LVT_T = 0x320,
	LVT_0 = 0x350,
	LVT_1 = 0x360,
	LVT_E = 0x370,
	INITIAL = 0x380,
	CURRENT = 0x390,
	DIVIDE = 0x3e0,
};

struct fixture {
	struct vclock *clock;
	struct apic_bus *bus;
	struct vcpu *v[CPUS];
	int eoi; /* last vector broadcast, -1: none */
};

static uint32_t get(struct vcpu *v, unsigned offset)
{
	return lapic_mmio_read(v, offset, 4);
}

static void put(struct vcpu *v, unsigned offset, uint32_t value)
{
	lapic_mmio_write(v, offset, 4, value);
}

static void on_eoi(void *ctx, uint8_t vector)
{
	struct fixture *f = ctx;

	f->eoi = vector;
}

static void start_on(struct fixture *f, struct vclock *clock)
{
	f->clock = clock;
	f->bus = apic_bus_new();
	f->eoi = -1;
	apic_bus_on_eoi(f->bus, on_eoi, f);
	for (unsigned i = 0; i < CPUS; i++) {
		struct vcpu *v = aligned_alloc(64, (sizeof(*v) + 63) & ~63ul);

		memset(v, 0, sizeof(*v));
		v->index = i;
		v->clock = f->clock;
		f->v[i] = v;
		assert_int_equal(apic_bus_attach(f->bus, v), 0);
		lapic_reset(v, false);
		put(v, SVR, 0x1ff);
		v->req = 0;
	}
}

static void start(struct fixture *f)
{
	start_on(f, vclock_new_manual(2000000));
}

static void end(struct fixture *f)
{
	apic_bus_free(f->bus);
	for (unsigned i = 0; i < CPUS; i++)
		free(f->v[i]);
	vclock_free(f->clock);
}

/* The next interrupt as an engine takes it, or -1. */
static int take(struct vcpu *v)
{
	uint32_t req = atomic_exchange(&v->req, 0);
	int vector;

	if (req & REQ_TIMER)
		lapic_timer_check(v);
	lapic_take_posted(v);
	vector = lapic_pending(v);
	if (vector >= 0)
		lapic_ack(v, (uint8_t)vector);
	return vector;
}

/* The set of CPUs that got the vector, which is ended. */
static uint32_t receivers(struct fixture *f, int vector)
{
	uint32_t set = 0;

	for (unsigned i = 0; i < CPUS; i++) {
		if (take(f->v[i]) != vector)
			continue;
		set |= 1u << i;
		put(f->v[i], EOI, 0);
	}
	return set;
}

static void ipi(struct vcpu *v, uint32_t dest, uint32_t low)
{
	put(v, ICR_HIGH, dest << 24);
	put(v, ICR, low);
}

static int to_x2apic(struct vcpu *v)
{
	return lapic_base_write(v, v->arch.lapic.base_msr | APIC_BASE_X2APIC | APIC_BASE_ENABLE);
}

static void power_on(void **state)
{
	struct fixture f;
	struct vcpu *v;

	(void)state;
	start(&f);
	v = f.v[0];
	lapic_reset(v, false);
	assert_int_equal(v->arch.lapic.base_msr, 0xfee00900);
	assert_int_equal(get(v, SVR), 0xff);
	assert_int_equal(get(v, DFR), 0xffffffff);
	assert_int_equal(get(v, LVT_T), 0x10000);
	assert_true(lapic_accepts_extint(v)); /* virtual wire */
	assert_int_equal(get(v, 0x30), 0x50014);
	assert_int_equal(f.v[3]->arch.lapic.base_msr, 0xfee00800);
	assert_int_equal(get(f.v[3], ID), 3u << 24);
	assert_false(lapic_accepts_extint(f.v[3]));
	/* INIT keeps the base. */
	lapic_base_write(v, 0xfee00900 + 0x1000);
	lapic_reset(v, true);
	assert_int_equal(v->arch.lapic.base_msr, 0xfee01900);
	assert_false(lapic_accepts_extint(v));
	end(&f);
}

static void priorities(void **state)
{
	struct fixture f;
	struct vcpu *v;

	(void)state;
	start(&f);
	v = f.v[0];
	apic_bus_msi(f.bus, 0xfee00000, 0x41);
	apic_bus_msi(f.bus, 0xfee00000, 0x52);
	assert_int_equal(v->req & REQ_IRQ, REQ_IRQ);
	assert_int_equal(take(v), 0x52);
	assert_int_equal(get(v, PPR), 0x50);
	assert_int_equal(get(v, IRR + 0x20), 2);
	assert_int_equal(take(v), -1);
	apic_bus_msi(f.bus, 0xfee00000, 0x5f); /* same class: waits */
	assert_int_equal(take(v), -1);
	apic_bus_msi(f.bus, 0xfee00000, 0x61);
	assert_int_equal(take(v), 0x61);
	put(v, EOI, 0);
	assert_int_equal(take(v), -1);
	v->req = 0;
	put(v, EOI, 0);
	assert_int_equal(v->req & REQ_IRQ, REQ_IRQ); /* 0x5f may come now */
	assert_int_equal(take(v), 0x5f);
	put(v, EOI, 0);
	/* TPR holds the rest back; CR8 is its upper half. */
	put(v, TPR, 0x4f);
	assert_int_equal(lapic_cr8_read(v), 4);
	assert_int_equal(get(v, PPR), 0x4f);
	assert_int_equal(take(v), -1);
	lapic_cr8_write(v, 3);
	assert_int_equal(v->req & REQ_IRQ, REQ_IRQ);
	assert_int_equal(take(v), 0x41);
	assert_int_equal(f.eoi, -1);
	end(&f);
}

static void level_eoi(void **state)
{
	struct fixture f;
	struct vcpu *v;

	(void)state;
	start(&f);
	v = f.v[0];
	apic_bus_msi(f.bus, 0xfee00000, 0xc061);
	assert_int_equal(take(v), 0x61);
	assert_int_equal(get(v, TMR + 0x30), 2);
	put(v, EOI, 0);
	assert_int_equal(f.eoi, 0x61);
	f.eoi = -1;
	apic_bus_msi(f.bus, 0xfee00000, 0x61);
	take(v);
	put(v, EOI, 0);
	assert_int_equal(f.eoi, -1);
	apic_bus_msi(f.bus, 0xfee00000, 0x8061); /* de-assertion */
	assert_int_equal(take(v), -1);
	end(&f);
}

static void destinations(void **state)
{
	struct fixture f;
	struct vcpu *sender;
	uint32_t all = (1u << CPUS) - 1, got;

	(void)state;
	start(&f);
	sender = f.v[1];
	ipi(sender, 3, 0x40);
	assert_int_equal(receivers(&f, 0x40), 1u << 3);
	ipi(sender, 0xff, 0x40);
	assert_int_equal(receivers(&f, 0x40), all);
	ipi(sender, 0, 0x40 | 1 << 18);
	assert_int_equal(receivers(&f, 0x40), 1u << 1);
	ipi(sender, 0, 0x40 | 2 << 18);
	assert_int_equal(receivers(&f, 0x40), all);
	ipi(sender, 0, 0x40 | 3 << 18);
	assert_int_equal(receivers(&f, 0x40), all & ~2u);
	ipi(sender, 200, 0x40);
	assert_int_equal(receivers(&f, 0x40), 0);
	/* Flat logical. */
	for (unsigned i = 0; i < 8; i++)
		put(f.v[i], LDR, 1u << (24 + i));
	ipi(sender, 0x85, 0x40 | 1 << 11);
	assert_int_equal(receivers(&f, 0x40), 0x85);
	apic_bus_msi(f.bus, 0xfee00000 | 0x0c << 12 | 4, 0x40);
	assert_int_equal(receivers(&f, 0x40), 0x0c);
	/* Lowest priority: one of them, and not always the same. */
	got = 0;
	for (int i = 0; i < 16; i++) {
		uint32_t one;

		ipi(sender, 0x0c, 0x140 | 1 << 11);
		one = receivers(&f, 0x40);
		assert_int_equal(__builtin_popcount(one), 1);
		got |= one;
	}
	assert_int_equal(got, 0x0c);
	/* Cluster: upper half of the logical id names it. */
	for (unsigned i = 0; i < 8; i++) {
		put(f.v[i], DFR, 0x0fffffff);
		put(f.v[i], LDR, (i / 4) << 28 | 1u << (24 + i % 4));
	}
	ipi(sender, 0x15, 0x40 | 1 << 11);
	assert_int_equal(receivers(&f, 0x40), 0x50);
	/* x2APIC: physical ids beyond 8 bits' reach, logical clusters of 16. */
	for (unsigned i = 0; i < CPUS; i++)
		assert_int_equal(to_x2apic(f.v[i]), 0);
	assert_int_equal(lapic_msr_write(sender, 0x830, 19ull << 32 | 0x40), 0);
	assert_int_equal(receivers(&f, 0x40), 1u << 19);
	assert_int_equal(lapic_msr_write(sender, 0x830, 0x1000aull << 32 | 0x840), 0);
	assert_int_equal(receivers(&f, 0x40), 0xau << 16);
	assert_int_equal(lapic_msr_write(sender, 0x830, 0xffffffffull << 32 | 0x40), 0);
	assert_int_equal(receivers(&f, 0x40), all);
	assert_int_equal(lapic_msr_write(sender, 0x83f, 0x40), 0);
	assert_int_equal(receivers(&f, 0x40), 2);
	apic_bus_msi(f.bus, 0xfee00000 | 0x0c << 12 | 4, 0x40);
	assert_int_equal(receivers(&f, 0x40), 0x0c);
	end(&f);
}

static void not_fixed(void **state)
{
	struct fixture f;

	(void)state;
	start(&f);
	ipi(f.v[0], 2, 0x400);
	assert_int_equal(f.v[2]->req, REQ_NMI);
	ipi(f.v[0], 3, 0x4500);
	assert_int_equal(f.v[3]->req, REQ_INIT);
	ipi(f.v[0], 4, 0x8500); /* level de-assert */
	assert_int_equal(f.v[4]->req, 0);
	ipi(f.v[0], 5, 0x69a);
	assert_int_equal(f.v[5]->req, REQ_SIPI);
	assert_int_equal(f.v[5]->sipi_vector, 0x9a);
	/* Software-disabled: NMI and INIT come through, fixed interrupts do not. */
	put(f.v[6], SVR, 0xff);
	assert_int_equal(get(f.v[6], LVT_T), 0x10000);
	put(f.v[6], LVT_T, 0x40);
	assert_int_equal(get(f.v[6], LVT_T), 0x10040);
	ipi(f.v[0], 6, 0x40);
	assert_int_equal(f.v[6]->req & REQ_IRQ, 0);
	ipi(f.v[0], 6, 0x400);
	assert_int_equal(f.v[6]->req & REQ_NMI, REQ_NMI);
	/* The wires. */
	assert_true(f.v[0]->arch.lapic.lvt[LVT_LINT0] == 0x700);
	apic_bus_extint(f.bus, 0, 1);
	assert_int_equal(f.v[0]->extint, 1);
	assert_int_equal(f.v[0]->req & REQ_EXTINT, REQ_EXTINT);
	put(f.v[0], LVT_0, 0x10700);
	assert_false(lapic_accepts_extint(f.v[0]));
	apic_bus_extint(f.bus, 0, 0);
	put(f.v[0], LVT_0, 0x33); /* as an ordinary interrupt */
	apic_bus_extint(f.bus, 0, 1);
	assert_int_equal(take(f.v[0]), 0x33);
	put(f.v[0], LVT_1, 0x400);
	apic_bus_nmi(f.bus);
	lapic_take_posted(f.v[0]);
	assert_int_equal(f.v[0]->req & REQ_NMI, REQ_NMI);
	end(&f);
}

static void errors(void **state)
{
	struct fixture f;
	struct vcpu *v;

	(void)state;
	start(&f);
	v = f.v[0];
	put(v, LVT_E, 0x77);
	ipi(v, 1, 0x0f); /* illegal vector: not sent */
	assert_int_equal(take(f.v[1]), -1);
	assert_int_equal(get(v, ESR), 0); /* latched by a write */
	put(v, ESR, 0);
	assert_int_equal(get(v, ESR), 0x20);
	assert_int_equal(take(v), 0x77);
	put(v, EOI, 0);
	get(v, 0x40); /* no such register */
	apic_bus_msi(f.bus, 0xfee00000, 0x05);
	assert_int_equal(take(v), 0x77);
	put(v, ESR, 0);
	assert_int_equal(get(v, ESR), 0xc0);
	put(v, ESR, 0);
	assert_int_equal(get(v, ESR), 0);
	/* A bad vector in the error entry itself only leaves its bit. */
	put(v, LVT_E, 0x02);
	get(v, 0x40);
	put(v, EOI, 0);
	assert_int_equal(take(v), -1);
	end(&f);
}

/* Which transitions of IA32_APIC_BASE are legal: SDM 3A, figure 11-9. */
static void modes(void **state)
{
	const uint64_t off = 0xfee00100, xapic = off | 0x800, x2apic = off | 0xc00,
		       bad = off | 0x400;
	struct fixture f;
	struct vcpu *v;
	uint64_t value;

	(void)state;
	start(&f);
	v = f.v[0];
	assert_int_equal(lapic_base_write(v, bad), -1);
	assert_int_equal(v->fault.vector, VEC_GP);
	assert_int_equal(lapic_base_write(v, xapic | 1), -1);
	assert_int_equal(lapic_msr_read(v, 0x802, &value), -1); /* not in x2APIC mode */
	put(v, TPR, 0x20);
	assert_int_equal(lapic_base_write(v, x2apic), 0);
	assert_int_equal(lapic_msr_read(v, 0x808, &value), 0);
	assert_int_equal(value, 0x20); /* registers stay */
	assert_int_equal(lapic_base_write(v, xapic), -1);
	assert_int_equal(v->arch.lapic.base_msr, x2apic);
	assert_int_equal(lapic_base_write(v, bad), -1);
	assert_int_equal(lapic_base_write(v, off), 0);
	assert_int_equal(lapic_base_write(v, x2apic), -1); /* not from disabled */
	assert_true(lapic_accepts_extint(v));
	assert_int_equal(lapic_base_write(v, xapic), 0);
	assert_int_equal(get(v, TPR), 0); /* reset on the way */
	assert_int_equal(get(v, SVR), 0xff);
	end(&f);
}

static void x2apic_faults(void **state)
{
	static const struct {
		uint32_t msr;
		uint64_t value;
	} refused[] = {
		{ 0x802, 0 },       { 0x803, 0 },          { 0x808, 0x100 }, { 0x80a, 0 },
		{ 0x80b, 1 },       { 0x80d, 0 },          { 0x80e, 0 },     { 0x80f, 0x400 },
		{ 0x810, 0 },       { 0x828, 1 },          { 0x831, 0 },     { 0x832, 1 << 19 },
		{ 0x830, 1 << 20 }, { 0x838, 1ull << 32 }, { 0x839, 0 },     { 0x83e, 4 },
		{ 0x83f, 0x100 },   { 0x800, 0 },          { 0x8ff, 0 },     { 0x840, 0 },
		{ 0x82f, 0 },
	};
	static const uint32_t unreadable[] = { 0x800, 0x809, 0x80b, 0x80c, 0x80e,
					       0x831, 0x83f, 0x8ff, 0x82f };
	struct fixture f;
	struct vcpu *v;
	uint64_t value;

	(void)state;
	start(&f);
	v = f.v[17];
	assert_int_equal(to_x2apic(v), 0);
	for (unsigned i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
		v->fault.vector = 0;
		assert_int_equal(lapic_msr_write(v, refused[i].msr, refused[i].value), -1);
		assert_int_equal(v->fault.vector, VEC_GP);
	}
	for (unsigned i = 0; i < sizeof(unreadable) / sizeof(unreadable[0]); i++)
		assert_int_equal(lapic_msr_read(v, unreadable[i], &value), -1);
	assert_int_equal(lapic_msr_read(v, 0x802, &value), 0);
	assert_int_equal(value, 17);
	assert_int_equal(lapic_msr_read(v, 0x80d, &value), 0);
	assert_int_equal(value, 0x10002);
	end(&f);
}

static void one_shot(void **state)
{
	struct fixture f;
	struct vcpu *v;

	(void)state;
	start(&f);
	v = f.v[0];
	put(v, DIVIDE, 3); /* by 16: 16 ns */
	put(v, LVT_T, 0x31);
	put(v, INITIAL, 1000);
	assert_int_equal(lapic_timer_deadline(v), 16000);
	vclock_advance(f.clock, 8000);
	assert_int_equal(get(v, CURRENT), 500);
	put(v, DIVIDE, 0); /* by 2: the count goes on from where it is */
	assert_int_equal(get(v, CURRENT), 500);
	vclock_advance(f.clock, 999);
	assert_int_equal(take(v), -1);
	vclock_advance(f.clock, 1);
	assert_int_equal(v->req & REQ_TIMER, REQ_TIMER);
	assert_int_equal(take(v), 0x31);
	assert_int_equal(get(v, CURRENT), 0);
	put(v, EOI, 0);
	vclock_advance(f.clock, 1000000);
	assert_int_equal(take(v), -1);
	/* What ran out while masked is gone. */
	put(v, LVT_T, 0x10031);
	put(v, INITIAL, 1000);
	vclock_advance(f.clock, 1000000);
	put(v, LVT_T, 0x31);
	assert_int_equal(take(v), -1);
	/* Stopped in time. */
	put(v, INITIAL, 1000);
	put(v, INITIAL, 0);
	vclock_advance(f.clock, 1000000);
	assert_int_equal(take(v), -1);
	end(&f);
}

static void periodic(void **state)
{
	struct fixture f;
	struct vcpu *v;
	unsigned ticks = 0;

	(void)state;
	start(&f);
	v = f.v[0];
	put(v, DIVIDE, 0xb);
	put(v, LVT_T, 0x20031);
	put(v, INITIAL, 1000000);
	for (int i = 0; i < 1000; i++) {
		vclock_advance(f.clock, 100000);
		if (take(v) == 0x31) {
			ticks++;
			put(v, EOI, 0);
		}
	}
	assert_int_equal(ticks, 100);
	/* The vcpu did not run for a while: a few ticks are made up for. */
	vclock_advance(f.clock, 1000000000);
	ticks = 0;
	for (int i = 0; i < 1000; i++) {
		vclock_advance(f.clock, 100000);
		if (take(v) == 0x31) {
			ticks++;
			put(v, EOI, 0);
		}
	}
	assert_in_range(ticks, 105, 112);
	/* The shortest period does not occupy anybody. */
	put(v, INITIAL, 1);
	ticks = 0;
	for (int i = 0; i < 10000; i++) {
		vclock_advance(f.clock, 1000);
		if (take(v) == 0x31) {
			ticks++;
			put(v, EOI, 0);
		}
	}
	assert_in_range(ticks, 100, 501);
	end(&f);
}

static void tsc_deadline(void **state)
{
	struct fixture f;
	struct vcpu *v;

	(void)state;
	start(&f); /* 2 GHz */
	v = f.v[0];
	lapic_tsc_deadline_write(v, 1000); /* wrong mode: ignored */
	assert_int_equal(lapic_tsc_deadline_read(v), 0);
	put(v, LVT_T, 0x40031);
	put(v, INITIAL, 1000);
	assert_int_equal(get(v, INITIAL), 0);
	lapic_tsc_deadline_write(v, 20000);
	assert_int_equal(lapic_tsc_deadline_read(v), 20000);
	assert_in_range(lapic_timer_deadline(v), 10000, 10001);
	vclock_advance(f.clock, 9999);
	assert_int_equal(take(v), -1);
	vclock_advance(f.clock, 2);
	assert_int_equal(take(v), 0x31);
	put(v, EOI, 0);
	assert_int_equal(lapic_tsc_deadline_read(v), 0);
	/* In the past: at once, without the clock. */
	lapic_tsc_deadline_write(v, 1);
	assert_int_equal(take(v), 0x31);
	put(v, EOI, 0);
	/* The guest's TSC is its own. */
	v->arch.msr.tsc_offset = 1000000;
	lapic_tsc_deadline_write(v, vclock_tsc(f.clock) + 1000000 + 2000);
	vclock_advance(f.clock, 999);
	assert_int_equal(take(v), -1);
	vclock_advance(f.clock, 2);
	assert_int_equal(take(v), 0x31);
	put(v, EOI, 0);
	/* A change of mode disarms. */
	lapic_tsc_deadline_write(v, 1ull << 40);
	put(v, LVT_T, 0x31);
	assert_int_equal(lapic_timer_deadline(v), UINT64_MAX);
	end(&f);
}

/*
 * The clock's thread and the vcpu's own waking race for each tick. Whoever
 * comes first, each armed deadline gives one interrupt.
 */
static void neither_lost_nor_doubled(void **state)
{
	struct fixture f;
	struct vcpu *v;

	(void)state;
	start_on(&f, vclock_new(0));
	v = f.v[0];
	put(v, LVT_T, 0x40031);
	for (int i = 0; i < 2000; i++) {
		uint64_t deadline;
		unsigned got = 0, spins = 0;

		lapic_tsc_deadline_write(v, vclock_tsc(f.clock) + (unsigned)(i % 7) * 10000);
		deadline = lapic_timer_deadline(v);
		while (!got) {
			/* Odd rounds wake by their own watch and look without being asked. */
			if (i & 1 && vclock_now_ns(f.clock) >= deadline)
				lapic_timer_check(v);
			if (take(v) == 0x31) {
				got++;
				put(v, EOI, 0);
			}
			assert_true(++spins < 100000000);
		}
		if (i % 50 == 0)
			usleep(200);
		assert_int_equal(take(v), -1);
	}
	end(&f);
}

static const struct CMUnitTest tests[] = {
	cmocka_unit_test(power_on),     cmocka_unit_test(priorities),
	cmocka_unit_test(level_eoi),    cmocka_unit_test(destinations),
	cmocka_unit_test(not_fixed),    cmocka_unit_test(errors),
	cmocka_unit_test(modes),        cmocka_unit_test(x2apic_faults),
	cmocka_unit_test(one_shot),     cmocka_unit_test(periodic),
	cmocka_unit_test(tsc_deadline), cmocka_unit_test(neither_lost_nor_doubled),
};

int main(void)
{
	return cmocka_run_group_tests(tests, NULL, NULL);
}
