/* The real-time clock: time, its three interrupts, and calendar arithmetic. */
#include "pc_machine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <time.h>
#include <cmocka.h>

#include "dev/pc/rtc.h"
#include "dev/pc/rtc_date.h"

struct fixture {
	struct pc_machine m;
	struct rtc *rtc;
};

static uint8_t get(struct fixture *f, uint8_t index)
{
	pc_out(&f->m, 0x70, index);
	return pc_in(&f->m, 0x71);
}

static void put(struct fixture *f, uint8_t index, uint8_t value)
{
	pc_out(&f->m, 0x70, index);
	pc_out(&f->m, 0x71, value);
}

static void start(struct fixture *f)
{
	const struct rtc_memory memory = { .low_bytes = 512 << 20, .cpus = 4 };

	pc_machine_init(&f->m);
	f->rtc = rtc_new(f->m.clock, pc_machine_line(&f->m, 8), &memory);
	assert_int_equal(rtc_attach(f->rtc, f->m.pio), 0);
}

static void end(struct fixture *f)
{
	rtc_free(f->rtc);
	pc_machine_fini(&f->m);
}

/* 2023-12-31 23:59:58, in BCD and 24 hours. */
static void set_time(struct fixture *f)
{
	static const uint8_t values[][2] = { { 0, 0x58 }, { 2, 0x59 }, { 4, 0x23 },   { 7, 0x31 },
					     { 8, 0x12 }, { 9, 0x23 }, { 0x32, 0x20 } };

	put(f, 0x0b, 0x82);
	for (unsigned i = 0; i < sizeof(values) / 2; i++)
		put(f, values[i][0], values[i][1]);
	put(f, 0x0b, 0x02);
}

static void shows_wall_time(void **state)
{
	struct fixture f;
	time_t now = time(NULL);
	struct tm tm;
	int minutes;

	(void)state;
	start(&f);
	gmtime_r(&now, &tm);
	put(&f, 0x0b, 0x06); /* binary */
	minutes = get(&f, 4) * 60 + get(&f, 2);
	assert_in_range(minutes - (tm.tm_hour * 60 + tm.tm_min) + 1, 0, 2);
	assert_int_equal(get(&f, 9), tm.tm_year % 100);
	assert_int_equal(get(&f, 0x0d), 0x80);
	/* Memory above 1 MB in KB is capped, above 16 MB in 64 KB units; cpus less one. */
	assert_int_equal(get(&f, 0x30) | get(&f, 0x31) << 8, 0xffff);
	assert_int_equal(get(&f, 0x34) | get(&f, 0x35) << 8, (512 - 16) * 16);
	assert_int_equal(get(&f, 0x5f), 3);
	/* The second bank is another 128 bytes. */
	pc_out(&f.m, 0x72, 0x8b);
	pc_out(&f.m, 0x73, 0x77);
	pc_out(&f.m, 0x76, 0x0b);
	assert_int_equal(pc_in(&f.m, 0x77), 0x77);
	assert_int_equal(get(&f, 0x0b), 0x06);
	end(&f);
}

static void carries(void **state)
{
	struct fixture f;

	(void)state;
	start(&f);
	set_time(&f);
	assert_int_equal(get(&f, 0), 0x58);
	vclock_advance(f.m.clock, 2000000000);
	assert_int_equal(get(&f, 0), 0);
	assert_int_equal(get(&f, 2), 0);
	assert_int_equal(get(&f, 4), 0);
	assert_int_equal(get(&f, 6), 2); /* a Monday */
	assert_int_equal(get(&f, 7), 1);
	assert_int_equal(get(&f, 8), 1);
	assert_int_equal(get(&f, 9), 0x24);
	assert_int_equal(get(&f, 0x32), 0x20);
	/* 12 hours: midnight is 12 AM, afternoon has bit 7. */
	put(&f, 0x0b, 0x00);
	assert_int_equal(get(&f, 4), 0x12);
	vclock_advance(f.m.clock, 13ull * 3600 * 1000000000);
	assert_int_equal(get(&f, 4), 0x81);
	end(&f);
}

static void update_in_progress(void **state)
{
	struct fixture f;
	unsigned in_progress = 0, seconds = 0;
	uint8_t last;

	(void)state;
	start(&f);
	last = get(&f, 0);
	for (int i = 0; i < 10000; i++) {
		bool uip = get(&f, 0x0a) & 0x80;
		uint8_t now = get(&f, 0);

		in_progress += uip;
		/* The second changes when UIP has fallen, not while it stands. */
		if (now != last) {
			assert_false(uip);
			seconds++;
		}
		last = now;
		vclock_advance(f.m.clock, 200000);
	}
	assert_int_equal(seconds, 2);
	assert_in_range(in_progress, 20, 24);
	end(&f);
}

static void interrupts(void **state)
{
	struct fixture f;

	(void)state;
	start(&f);
	set_time(&f);
	get(&f, 0x0c);
	/* Update-ended, once a second, each answered by reading C. */
	put(&f, 0x0b, 0x12);
	vclock_advance(f.m.clock, 1000000000);
	assert_int_equal(f.m.wire[8].level, 1);
	assert_int_equal(get(&f, 0x0c) & 0x90, 0x90);
	assert_int_equal(f.m.wire[8].level, 0);
	/* Alarm at every x:00:05. */
	put(&f, 1, 0x05);
	put(&f, 3, 0x00);
	put(&f, 5, 0xff);
	get(&f, 0x0c);
	put(&f, 0x0b, 0x22);
	vclock_advance(f.m.clock, 5000000000);
	assert_int_equal(f.m.wire[8].level, 0);
	vclock_advance(f.m.clock, 1000000000);
	assert_int_equal(f.m.wire[8].level, 1);
	assert_int_equal(get(&f, 0x0c) & 0xa0, 0xa0);
	/* Periodic, 1024 Hz. */
	put(&f, 0x0b, 0x42);
	f.m.wire[8].rises = 0;
	for (int i = 0; i < 10000; i++) {
		vclock_advance(f.m.clock, 100000);
		if (f.m.wire[8].level)
			assert_int_equal(get(&f, 0x0c) & 0xc0, 0xc0);
	}
	assert_in_range(f.m.wire[8].rises, 1022, 1026);
	/* Unread, nothing more comes. */
	vclock_advance(f.m.clock, 1000000000);
	f.m.wire[8].rises = 0;
	vclock_advance(f.m.clock, 1000000000);
	assert_int_equal(f.m.wire[8].rises, 0);
	end(&f);
}

/* Every day of 500 years there and back. */
static void calendar(void **state)
{
	int64_t first =
		rtc_date_to_seconds(&(struct rtc_date){ .year = 1700, .month = 1, .day = 1 });
	struct rtc_date before = rtc_date_from_seconds(first - 1);

	(void)state;
	assert_int_equal(before.year, 1699);
	for (int64_t s = first; s < first + 500ll * 366 * 86400; s += 86400) {
		struct rtc_date date = rtc_date_from_seconds(s);
		time_t t = s;
		struct tm tm;

		gmtime_r(&t, &tm);
		assert_int_equal(date.year, tm.tm_year + 1900);
		assert_int_equal(date.month, tm.tm_mon + 1);
		assert_int_equal(date.day, tm.tm_mday);
		assert_int_equal(date.weekday, tm.tm_wday + 1);
		assert_int_equal(rtc_date_to_seconds(&date), s);
	}
}

static const struct CMUnitTest tests[] = {
	cmocka_unit_test(shows_wall_time),    cmocka_unit_test(carries),
	cmocka_unit_test(update_in_progress), cmocka_unit_test(interrupts),
	cmocka_unit_test(calendar),
};

int main(void)
{
	return cmocka_run_group_tests(tests, NULL, NULL);
}
