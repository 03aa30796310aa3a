/* The 8254 and port 0x61 against a clock that the test moves. */
#include "pc_machine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "dev/pc/pit.h"

struct fixture {
	struct pc_machine m;
	struct pit *pit;
};

static void start(struct fixture *f)
{
	pc_machine_init(&f->m);
	f->pit = pit_new(f->m.clock, pc_machine_line(&f->m, 0));
	assert_int_equal(pit_attach(f->pit, f->m.pio), 0);
}

static void end(struct fixture *f)
{
	pit_free(f->pit);
	pc_machine_fini(&f->m);
}

/* Advances to the first nanosecond of that clock of the PIT. */
static void at_clock(struct fixture *f, uint64_t clock)
{
	uint64_t ns = (clock * 1000000000u + PIT_HZ - 1) / PIT_HZ;

	vclock_advance(f->m.clock, ns - vclock_now_ns(f->m.clock));
}

static void program(struct fixture *f, unsigned channel, unsigned mode, uint16_t count)
{
	pc_out(&f->m, 0x43, (uint8_t)(channel << 6 | 0x30 | mode << 1));
	pc_out(&f->m, (uint16_t)(0x40 + channel), (uint8_t)count);
	pc_out(&f->m, (uint16_t)(0x40 + channel), (uint8_t)(count >> 8));
}

static uint16_t latched(struct fixture *f, unsigned channel)
{
	uint16_t low;

	pc_out(&f->m, 0x43, (uint8_t)(channel << 6));
	low = pc_in(&f->m, (uint16_t)(0x40 + channel));
	return (uint16_t)(low | pc_in(&f->m, (uint16_t)(0x40 + channel)) << 8);
}

static void periodic(void **state)
{
	struct fixture f;

	(void)state;
	start(&f);
	program(&f, 0, 2, 11932); /* 100 Hz */
	f.m.wire[0].rises = 0;
	vclock_advance(f.m.clock, 1000000000);
	assert_in_range(f.m.wire[0].rises, 99, 100);
	/* A new count follows the period that runs. */
	f.m.wire[0].rises = 0;
	pc_out(&f.m, 0x40, 0xa9);
	pc_out(&f.m, 0x40, 0x04); /* 1193: 1000 Hz */
	vclock_advance(f.m.clock, 1000000000);
	assert_in_range(f.m.wire[0].rises, 990, 1001);
	/* Mode 0 by two bytes: the first stops it; it fires once. */
	program(&f, 0, 0, 1000);
	assert_int_equal(f.m.wire[0].level, 0);
	f.m.wire[0].rises = 0;
	vclock_advance(f.m.clock, 1000000000);
	assert_int_equal(f.m.wire[0].rises, 1);
	assert_int_equal(f.m.wire[0].level, 1);
	end(&f);
}

static void counts(void **state)
{
	struct fixture f;
	uint64_t now = 1000;

	(void)state;
	start(&f);
	at_clock(&f, now);
	program(&f, 0, 2, 1000);
	at_clock(&f, now + 1);
	assert_int_equal(latched(&f, 0), 1000);
	at_clock(&f, now + 1 + 999);
	assert_int_equal(latched(&f, 0), 1);
	at_clock(&f, now + 1 + 1000);
	assert_int_equal(latched(&f, 0), 1000);
	/* A latch keeps its value until read. */
	pc_out(&f.m, 0x43, 0x00);
	at_clock(&f, now + 1 + 1500);
	assert_int_equal(pc_in(&f.m, 0x40), 1000 & 0xff);
	assert_int_equal(pc_in(&f.m, 0x40), 1000 >> 8);
	assert_int_equal(latched(&f, 0), 500);
	/* Mode 3 counts by two. */
	now = 10000;
	at_clock(&f, now);
	program(&f, 0, 3, 1000);
	at_clock(&f, now + 1 + 100);
	assert_int_equal(latched(&f, 0), 800);
	at_clock(&f, now + 1 + 600);
	assert_int_equal(latched(&f, 0), 800);
	/* BCD: 0 is 10000. */
	now = 20000;
	at_clock(&f, now);
	pc_out(&f.m, 0x43, 0x35);
	pc_out(&f.m, 0x40, 0);
	pc_out(&f.m, 0x40, 0);
	at_clock(&f, now + 1 + 1);
	assert_int_equal(latched(&f, 0), 0x9999);
	end(&f);
}

static void read_back(void **state)
{
	struct fixture f;
	uint8_t low;

	(void)state;
	start(&f);
	program(&f, 0, 2, 1000);
	at_clock(&f, 101);
	pc_out(&f.m, 0x43, 0xc2); /* status, then count of counter 0 */
	at_clock(&f, 300);
	assert_int_equal(pc_in(&f.m, 0x40), 0xb4);
	low = pc_in(&f.m, 0x40);
	assert_int_equal(low | pc_in(&f.m, 0x40) << 8, 900);
	/* No count yet: null count. */
	pc_out(&f.m, 0x43, 0x34);
	pc_out(&f.m, 0x43, 0xe2);
	assert_int_equal(pc_in(&f.m, 0x40), 0xf4);
	end(&f);
}

/* Port 0x61 as a guest sees it that polls all the time: not the first look after a gap. */
static uint8_t out2(struct fixture *f)
{
	pc_in(&f->m, 0x61);
	return pc_in(&f->m, 0x61);
}

/* What kernels calibrate the TSC with: counter 2, mode 0, gated and read through port 0x61. */
static void gate_of_channel_2(void **state)
{
	struct fixture f;

	(void)state;
	start(&f);
	pc_out(&f.m, 0x61, 0x01);
	at_clock(&f, 100);
	program(&f, 2, 0, 5000);
	at_clock(&f, 101 + 4999);
	assert_int_equal(out2(&f) & 0x23, 0x01);
	at_clock(&f, 101 + 5000);
	assert_int_equal(out2(&f) & 0x23, 0x21);
	/* A low gate stops the count, a high one lets it go on. */
	at_clock(&f, 10000);
	program(&f, 2, 0, 5000);
	at_clock(&f, 10001 + 1000);
	pc_out(&f.m, 0x61, 0x00);
	at_clock(&f, 30000);
	assert_int_equal(latched(&f, 2), 4000);
	assert_int_equal(out2(&f) & 0x20, 0);
	pc_out(&f.m, 0x61, 0x01);
	at_clock(&f, 30000 + 3999);
	assert_int_equal(out2(&f) & 0x20, 0);
	at_clock(&f, 30000 + 4000);
	assert_int_equal(out2(&f) & 0x20, 0x20);
	/* Mode 1 waits for the gate to rise. */
	pc_out(&f.m, 0x61, 0x00);
	program(&f, 2, 1, 100);
	assert_int_equal(out2(&f) & 0x20, 0x20);
	at_clock(&f, 50000);
	pc_out(&f.m, 0x61, 0x01);
	assert_int_equal(out2(&f) & 0x20, 0);
	at_clock(&f, 50200);
	assert_int_equal(out2(&f) & 0x20, 0x20);
	end(&f);
}

/* The host takes the CPU while the guest polls: the first poll after it does not show the end yet.
 */
static void end_not_before_a_look(void **state)
{
	struct fixture f;

	(void)state;
	start(&f);
	pc_out(&f.m, 0x61, 0x01);
	program(&f, 2, 0, 11932);
	for (uint64_t clock = 1; clock < 5000; clock += 10) {
		at_clock(&f, clock);
		assert_int_equal(pc_in(&f.m, 0x61) & 0x20, 0);
	}
	at_clock(&f, 20000);
	assert_int_equal(pc_in(&f.m, 0x61) & 0x20, 0);
	assert_int_equal(pc_in(&f.m, 0x61) & 0x20, 0x20);
	/* Without a gap it shows at once. */
	program(&f, 2, 0, 1000);
	for (uint64_t clock = 20001; clock < 20001 + 1000; clock += 10) {
		at_clock(&f, clock);
		assert_int_equal(pc_in(&f.m, 0x61) & 0x20, 0);
	}
	at_clock(&f, 20001 + 1000);
	assert_int_equal(pc_in(&f.m, 0x61) & 0x20, 0x20);
	end(&f);
}

static void refresh_toggles(void **state)
{
	struct fixture f;
	unsigned changes = 0;
	uint8_t before;

	(void)state;
	start(&f);
	before = pc_in(&f.m, 0x61);
	for (int us = 0; us < 1000; us++) {
		uint8_t now;

		vclock_advance(f.m.clock, 1000);
		now = pc_in(&f.m, 0x61);
		changes += (now ^ before) >> 4 & 1;
		before = now;
	}
	assert_in_range(changes, 65, 67);
	end(&f);
}

/* Nobody ran for a while: a few ticks are made up for, one by one, and then the rate is as it was.
 */
static void catches_up(void **state)
{
	struct fixture f;
	uint64_t target;

	(void)state;
	start(&f);
	program(&f, 0, 2, 11932);
	vclock_pause(f.m.clock);
	vclock_set_ns(f.m.clock, 10000000000ull);
	vclock_resume(f.m.clock);
	f.m.wire[0].rises = 0;
	vclock_advance(f.m.clock, 0);
	assert_int_equal(f.m.wire[0].rises, 1);
	target = 100000000;
	vclock_advance(f.m.clock, target);
	assert_in_range(f.m.wire[0].rises, 17, 20);
	f.m.wire[0].rises = 0;
	vclock_advance(f.m.clock, 1000000000);
	assert_in_range(f.m.wire[0].rises, 99, 101);
	end(&f);
}

/* The shortest period there is must not occupy the clock. */
static void rate_is_bounded(void **state)
{
	struct fixture f;

	(void)state;
	start(&f);
	program(&f, 0, 2, 1);
	f.m.wire[0].rises = 0;
	vclock_advance(f.m.clock, 10000000);
	assert_in_range(f.m.wire[0].rises, 1, 501);
	end(&f);
}

static const struct CMUnitTest tests[] = {
	cmocka_unit_test(periodic),
	cmocka_unit_test(counts),
	cmocka_unit_test(read_back),
	cmocka_unit_test(gate_of_channel_2),
	cmocka_unit_test(end_not_before_a_look),
	cmocka_unit_test(refresh_toggles),
	cmocka_unit_test(catches_up),
	cmocka_unit_test(rate_is_bounded),
};

int main(void)
{
	return cmocka_run_group_tests(tests, NULL, NULL);
}
