/* The VM's clock: scales, pause, timers on its thread and by hand. */
#include "bus/tsc.h"
#include "bus/vclock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define MS 1000000ull

struct alarm {
	struct vclock *clock;
	struct vclock_timer timer;
	_Atomic int fired;
	_Atomic uint64_t at_ns;
	uint64_t period_ns;
	int *order, place;
};

static void expired(void *ctx)
{
	struct alarm *a = ctx;

	a->at_ns = vclock_now_ns(a->clock);
	a->fired++;
	if (a->order)
		a->order[(*a->order)++] = a->place;
	if (a->period_ns)
		vclock_timer_arm(&a->timer, a->at_ns + a->period_ns);
}

static void alarm_init(struct alarm *a, struct vclock *clock)
{
	a->clock = clock;
	vclock_timer_init(&a->timer, clock, expired, a);
}

static void wait_fired(struct alarm *a, int at_least)
{
	for (int i = 0; i < 5000 && a->fired < at_least; i++)
		usleep(1000);
	assert_true(a->fired >= at_least);
}

static uint64_t host_ns(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void scales_agree_and_saturate(void **state)
{
	static const uint64_t khz[] = { 1, 1000, 999999, 1000000, 1000001, 2299998, 5000000 };

	for (size_t i = 0; i < sizeof(khz) / sizeof(khz[0]); i++) {
		struct vclock *clock = vclock_new_manual(khz[i]);
		uint64_t tsc = 0x123456789abcdull;

		assert_int_equal(vclock_tsc_khz(clock), khz[i]);
		assert_int_equal(vclock_ns_to_tsc(clock, 1000000000), khz[i] * 1000);
		for (int k = 0; k < 10; k++, tsc = tsc * 3 + 7) {
			unsigned __int128 exact = (unsigned __int128)tsc * 1000000 / khz[i];
			uint64_t ns = vclock_tsc_to_ns(clock, tsc);

			if (exact > UINT64_MAX)
				assert_int_equal(ns, UINT64_MAX);
			else
				assert_in_range(ns, (uint64_t)exact, (uint64_t)exact + 1);
		}
		/* Whatever a guest writes to a deadline register. */
		(void)vclock_tsc_to_ns(clock, UINT64_MAX);
		(void)vclock_ns_to_tsc(clock, UINT64_MAX);
		assert_int_equal(vclock_tsc_to_ns(clock, 0), 0);
		vclock_free(clock);
	}
}

static void time_by_hand(void **state)
{
	struct vclock *clock = vclock_new_manual(2000000);
	struct alarm a = { 0 }, b = { 0 }, c = { .period_ns = 10 };
	int order[8] = { 1 };
	uint64_t offset;

	alarm_init(&a, clock);
	alarm_init(&b, clock);
	alarm_init(&c, clock);
	a.order = b.order = order;
	a.place = 'a';
	b.place = 'b';
	assert_int_equal(vclock_now_ns(clock), 0);
	assert_false(vclock_tsc_offset(clock, &offset));
	vclock_timer_arm(&a.timer, 200);
	vclock_timer_arm(&b.timer, 100);
	vclock_advance(clock, 99);
	assert_int_equal(b.fired, 0);
	vclock_advance(clock, 1000);
	assert_int_equal(order[1], 'b');
	assert_int_equal(order[2], 'a');
	assert_int_equal(a.at_ns, 200);
	assert_int_equal(b.at_ns, 100);
	assert_int_equal(vclock_now_ns(clock), 1099);
	assert_int_equal(vclock_tsc(clock), 2198);
	/* In the past. */
	vclock_timer_arm(&a.timer, 5);
	vclock_advance(clock, 0);
	assert_int_equal(a.fired, 2);
	/* Periodic, from its own callback. */
	vclock_timer_arm(&c.timer, 1100);
	vclock_advance(clock, 1);
	vclock_advance(clock, 100);
	assert_int_equal(c.fired, 11);
	vclock_timer_disarm(&c.timer);
	vclock_advance(clock, 100);
	assert_int_equal(c.fired, 11);
	/* Moved later, moved earlier, never. */
	vclock_timer_arm(&a.timer, 2000);
	vclock_timer_arm(&a.timer, 3000);
	vclock_advance(clock, 1000);
	assert_int_equal(a.fired, 2);
	vclock_timer_arm(&a.timer, UINT64_MAX);
	vclock_advance(clock, 10000);
	assert_int_equal(a.fired, 2);
	/* Paused: time and timers stand. */
	vclock_pause(clock);
	vclock_timer_arm(&a.timer, vclock_now_ns(clock) + 1);
	vclock_advance(clock, 500);
	assert_int_equal(a.fired, 2);
	assert_int_equal(vclock_now_ns(clock), 12300);
	vclock_set_ns(clock, 20000);
	vclock_resume(clock);
	assert_int_equal(vclock_now_ns(clock), 20000);
	vclock_advance(clock, 0);
	assert_int_equal(a.fired, 3);
	vclock_free(clock);
}

static void real_time_runs(void **state)
{
	struct vclock *clock = vclock_new(0);
	uint64_t host = host_ns(CLOCK_MONOTONIC), ns = vclock_now_ns(clock), last = 0, offset;
	uint64_t wall, drift;

	assert_non_null(clock);
	assert_true(ns < 1000 * MS);
	usleep(50000);
	ns = vclock_now_ns(clock) - ns;
	host = host_ns(CLOCK_MONOTONIC) - host;
	drift = ns > host ? ns - host : host - ns;
	assert_true(drift < 2 * MS);
	for (int i = 0; i < 100000; i++) {
		ns = vclock_now_ns(clock);
		assert_true(ns >= last);
		last = ns;
	}
	if (vclock_tsc_offset(clock, &offset)) {
		uint64_t before = vclock_tsc(clock), mine = tsc_read() + offset;

		assert_true(mine >= before && mine <= vclock_tsc(clock));
	}
	wall = vclock_wall_ns(clock, vclock_now_ns(clock));
	drift = host_ns(CLOCK_REALTIME) - wall;
	assert_true(drift < 100 * MS);
	vclock_free(clock);
}

static void a_guest_tsc_of_its_own(void **state)
{
	struct vclock *clock = vclock_new(1000000);
	uint64_t offset, ns, tsc;

	usleep(10000);
	ns = vclock_now_ns(clock);
	tsc = vclock_tsc(clock);
	assert_true(tsc >= ns && tsc - ns < 100 * MS);
	if (tsc_host_khz() != 1000000)
		assert_false(vclock_tsc_offset(clock, &offset));
	vclock_free(clock);
}

static void timers_fire_in_time(void **state)
{
	struct vclock *clock = vclock_new(0);
	struct alarm late = { 0 }, soon = { 0 }, past = { 0 };
	uint64_t now;

	alarm_init(&late, clock);
	alarm_init(&soon, clock);
	alarm_init(&past, clock);
	usleep(2000); /* the thread sleeps by now */
	now = vclock_now_ns(clock);
	vclock_timer_arm(&late.timer, now + 30 * MS);
	vclock_timer_arm(&soon.timer, now + 5 * MS);
	vclock_timer_arm(&past.timer, 0);
	wait_fired(&past, 1);
	wait_fired(&soon, 1);
	wait_fired(&late, 1);
	assert_true(soon.at_ns >= now + 5 * MS);
	assert_true(late.at_ns >= now + 30 * MS);
	assert_true(soon.at_ns <= late.at_ns);
	vclock_free(clock);
}

static void pause_stops_time_and_timers(void **state)
{
	struct vclock *clock = vclock_new(0);
	struct alarm a = { 0 };
	uint64_t ns, tsc;

	alarm_init(&a, clock);
	vclock_timer_arm(&a.timer, vclock_now_ns(clock) + 10 * MS);
	vclock_pause(clock);
	vclock_pause(clock);
	ns = vclock_now_ns(clock);
	tsc = vclock_tsc(clock);
	usleep(30000);
	assert_int_equal(vclock_now_ns(clock), ns);
	assert_int_equal(vclock_tsc(clock), tsc);
	assert_int_equal(a.fired, 0);
	assert_int_equal(vclock_host_deadline_ns(clock, 0), UINT64_MAX);
	vclock_resume(clock);
	assert_true(vclock_now_ns(clock) - ns < 1000 * MS);
	wait_fired(&a, 1);
	assert_true(a.at_ns >= ns);
	assert_int_equal(vclock_host_deadline_ns(clock, UINT64_MAX), UINT64_MAX);
	assert_true(vclock_host_deadline_ns(clock, 0) <= host_ns(CLOCK_MONOTONIC));
	vclock_free(clock);
}

/* The timer may be freed right after disarm, however busy it is. */
static void disarm_is_final(void **state)
{
	struct vclock *clock = vclock_new(0);

	for (int i = 0; i < 500; i++) {
		struct alarm *a = calloc(1, sizeof(*a));

		alarm_init(a, clock);
		a->period_ns = 1;
		vclock_timer_arm(&a->timer, 0);
		if (i % 2)
			wait_fired(a, 1);
		vclock_timer_disarm(&a->timer);
		free(a);
	}
	vclock_free(clock);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(scales_agree_and_saturate),
		cmocka_unit_test(time_by_hand),
		cmocka_unit_test(real_time_runs),
		cmocka_unit_test(a_guest_tsc_of_its_own),
		cmocka_unit_test(timers_fire_in_time),
		cmocka_unit_test(pause_stops_time_and_timers),
		cmocka_unit_test(disarm_is_final),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
