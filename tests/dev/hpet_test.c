/* The HPET: counter, comparators, periodic mode, routes. */
#include "pc_machine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "dev/pc/hpet.h"

#define BASE 0xfed00000ull

enum { LEGACY0 = 0, LEGACY1 = 1, SWITCH = 2, PIN20 = 20 };

struct fixture {
	struct pc_machine m;
	struct hpet *hpet;
};

static void start(struct fixture *f)
{
	struct hpet_config config;

	pc_machine_init(&f->m);
	config = (struct hpet_config){
		.clock = f->m.clock,
		.legacy = { pc_machine_line(&f->m, LEGACY0), pc_machine_line(&f->m, LEGACY1) },
		.legacy_switch = pc_machine_line(&f->m, SWITCH),
		.ioapic[PIN20] = pc_machine_line(&f->m, PIN20),
		.msi = pc_machine_msi(&f->m),
	};
	f->hpet = hpet_new(&config);
	assert_int_equal(hpet_attach(f->hpet, f->m.mmio, BASE), 0);
}

static void end(struct fixture *f)
{
	hpet_free(f->hpet);
	pc_machine_fini(&f->m);
}

static uint32_t get(struct fixture *f, unsigned offset)
{
	return (uint32_t)bus_read(f->m.mmio, BASE + offset, 4);
}

static void put(struct fixture *f, unsigned offset, uint32_t value)
{
	bus_write(f->m.mmio, BASE + offset, 4, value);
}

static void counter(void **state)
{
	struct fixture f;

	(void)state;
	start(&f);
	assert_int_equal(get(&f, 0), 0x8086a201);
	assert_int_equal(get(&f, 4), 10000000);
	assert_int_equal(get(&f, 0x100), 0x8030);
	assert_int_equal(get(&f, 0x104), 1u << PIN20);
	vclock_advance(f.m.clock, 1000);
	assert_int_equal(get(&f, 0xf0), 0); /* halted */
	put(&f, 0xf4, 1);
	put(&f, 0x10, 1);
	vclock_advance(f.m.clock, 1000);
	assert_int_equal(bus_read(f.m.mmio, BASE + 0xf0, 8), 0x100000064ull);
	put(&f, 0x10, 0);
	vclock_advance(f.m.clock, 1000);
	assert_int_equal(get(&f, 0xf0), 100);
	end(&f);
}

static void one_shot(void **state)
{
	struct fixture f;

	(void)state;
	start(&f);
	put(&f, 0x10, 3);
	assert_int_equal(f.m.wire[SWITCH].level, 1);
	put(&f, 0x120, 0x04);
	bus_write(f.m.mmio, BASE + 0x128, 8, 1000);
	vclock_advance(f.m.clock, 9999);
	assert_int_equal(f.m.wire[LEGACY1].rises, 0);
	vclock_advance(f.m.clock, 1);
	assert_int_equal(f.m.wire[LEGACY1].rises, 1);
	vclock_advance(f.m.clock, 100000000000ull);
	assert_int_equal(f.m.wire[LEGACY1].rises, 1);
	/* 32 bits: the same value comes round. */
	put(&f, 0x120, 0x104);
	put(&f, 0x128, get(&f, 0xf0) + 100);
	vclock_advance(f.m.clock, 1000);
	assert_int_equal(f.m.wire[LEGACY1].rises, 2);
	vclock_advance(f.m.clock, 43000000000ull);
	assert_int_equal(f.m.wire[LEGACY1].rises, 3);
	end(&f);
}

static void periodic(void **state)
{
	struct fixture f;

	(void)state;
	start(&f);
	put(&f, 0x10, 3);
	vclock_advance(f.m.clock, 12345);
	/* As Linux sets it up: first tick, then the period. */
	put(&f, 0x100, 0x14c);
	put(&f, 0x108, get(&f, 0xf0) + 100000);
	put(&f, 0x108, 100000);
	vclock_advance(f.m.clock, 1000000000);
	assert_int_equal(f.m.wire[LEGACY0].rises, 1000);
	/* The host takes the CPU between the two writes: the timer goes on all the same. */
	put(&f, 0x100, 0x14c);
	put(&f, 0x108, get(&f, 0xf0) + 100000);
	vclock_advance(f.m.clock, 50000000);
	f.m.wire[LEGACY0].rises = 0;
	put(&f, 0x108, 100000);
	vclock_advance(f.m.clock, 1000000000);
	assert_in_range(f.m.wire[LEGACY0].rises, 999, 1000);
	/* A read in between delivers what has matched, once. */
	f.m.wire[LEGACY0].rises = 0;
	for (int i = 0; i < 100; i++) {
		vclock_advance(f.m.clock, 1000000);
		get(&f, 0xf0);
	}
	assert_in_range(f.m.wire[LEGACY0].rises, 100, 101);
	/* The shortest period must not occupy the clock. */
	put(&f, 0x100, 0x14c);
	put(&f, 0x108, get(&f, 0xf0) + 1);
	put(&f, 0x108, 1);
	f.m.wire[LEGACY0].rises = 0;
	vclock_advance(f.m.clock, 10000000);
	assert_in_range(f.m.wire[LEGACY0].rises, 1, 501);
	end(&f);
}

static void level_and_message(void **state)
{
	struct fixture f;

	(void)state;
	start(&f);
	put(&f, 0x10, 1);
	/* Timer 2, level, to input 20. */
	put(&f, 0x140, 0x06 | PIN20 << 9);
	bus_write(f.m.mmio, BASE + 0x148, 8, 100);
	vclock_advance(f.m.clock, 1000);
	assert_int_equal(f.m.wire[PIN20].level, 1);
	assert_int_equal(get(&f, 0x20), 4);
	put(&f, 0x20, 4);
	assert_int_equal(f.m.wire[PIN20].level, 0);
	/* A route that is not offered reads back changed. */
	put(&f, 0x140, 0x06 | 21 << 9);
	assert_int_equal(get(&f, 0x140) >> 9 & 31, 0);
	/* As a message. */
	put(&f, 0x140, 0x4004);
	put(&f, 0x150, 0x51);
	put(&f, 0x154, 0xfee01000);
	bus_write(f.m.mmio, BASE + 0x148, 8, get(&f, 0xf0) + 100);
	vclock_advance(f.m.clock, 1000);
	assert_int_equal(f.m.msi_count, 1);
	assert_int_equal(f.m.msi_address, 0xfee01000);
	assert_int_equal(f.m.msi_data, 0x51);
	end(&f);
}

static const struct CMUnitTest tests[] = {
	cmocka_unit_test(counter),
	cmocka_unit_test(one_shot),
	cmocka_unit_test(periodic),
	cmocka_unit_test(level_and_message),
};

int main(void)
{
	return cmocka_run_group_tests(tests, NULL, NULL);
}
