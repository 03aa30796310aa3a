/* Halt polling: what a vcpu learns from its halts, when it does not poll at all, and that news which
 * come in a poll are not lost. */
#include "cpu_fixture.h"
#include "cpu/halt.h"
#include "cpu/post.h"
#include <pthread.h>
#include <sched.h>
#include <time.h>

#define ROUNDS  300
#define VECTOR  0x55
#define MOST_US 2000

static uint64_t host_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static unsigned host_cpus(void)
{
	cpu_set_t may;

	assert_int_equal(sched_getaffinity(0, sizeof(may), &may), 0);
	return (unsigned)CPU_COUNT(&may);
}

/* Halted, in a room of `count` vcpus of which only this one exists. */
static struct halt_room *halted(struct fixture *f, struct vcpu **vcpus, unsigned count,
				unsigned most_us)
{
	struct halt_room *room;

	fixture_init(f, "x86-64-v2", 1);
	f->v->arch.activity = ACTIVITY_HALT;
	f->v->arch.rflags |= FLAG_IF;
	lapic_mmio_write(f->v, 0xf0, 4, 0x1ff); /* software enable */
	atomic_store(&f->v->req, 0);
	for (unsigned n = 0; n < count; n++)
		vcpus[n] = f->v;
	room = halt_room_new(vcpus, count, most_us);
	assert_non_null(room);
	assert_ptr_equal(f->v->halt.room, room);
	return room;
}

/* A halt that sleeps until the deadline. */
static void halt_until(struct vcpu *v, uint64_t deadline_ns)
{
	assert_false(halt_poll(v));
	halt_sleep(v, deadline_ns);
}

static void short_halts_teach_to_poll(void **state)
{
	struct vcpu *vcpus[1];
	struct fixture f;
	struct halt_room *room = halted(&f, vcpus, 1, 100000000);
	uint64_t before = 0;

	assert_int_equal(f.v->halt.window, 0);
	for (unsigned n = 0; n < 30; n++) {
		/* Without polls, whose length would be this test's. */
		f.v->halt.since = __builtin_ia32_rdtsc();
		halt_sleep(f.v, 0);
		assert_true(f.v->halt.window >= before);
		if (n == 0)
			assert_true(f.v->halt.window > 0);
		before = f.v->halt.window;
	}
	assert_int_equal(f.v->halt.slept, 30);
	/* At most what was said: 100 s, at no more than 10 GHz. */
	assert_true(before < 1000000000000u);
	halt_room_free(room);
	assert_null(f.v->halt.room);
	fixture_fini(&f);
}

static void a_long_halt_ends_it(void **state)
{
	struct vcpu *vcpus[1];
	struct fixture f;
	struct halt_room *room = halted(&f, vcpus, 1, MOST_US);

	f.v->halt.window = 1000;
	halt_until(f.v, host_ns() + 2 * MOST_US * 1000);
	assert_int_equal(f.v->halt.window, 0);
	halt_room_free(room);
	fixture_fini(&f);
}

static void zero_never_polls(void **state)
{
	struct vcpu *vcpus[1];
	struct fixture f;
	struct halt_room *room = halted(&f, vcpus, 1, 0);

	for (unsigned n = 0; n < 10; n++)
		halt_until(f.v, 0);
	assert_int_equal(f.v->halt.window, 0);
	assert_int_equal(f.v->halt.polled, 0);
	halt_room_free(room);
	/* Nor does one without a room. */
	f.v->halt.window = 1u << 30;
	halt_until(f.v, 0);
	fixture_fini(&f);
}

static void more_vcpus_than_cpus_never_poll(void **state)
{
	unsigned count = host_cpus() + 1;
	struct vcpu **vcpus = calloc(count, sizeof(struct vcpu *));
	struct fixture f;
	struct halt_room *room;

	assert_non_null(vcpus);
	room = halted(&f, vcpus, count, MOST_US);
	/* Were it to poll, it would find this. */
	f.v->halt.window = 1u << 30;
	vcpu_post_irq(f.v, VECTOR, false);
	assert_false(halt_poll(f.v));
	assert_int_equal(f.v->halt.polled, 0);
	assert_true(vcpu_has_work(f.v));
	halt_room_free(room);
	free(vcpus);
	fixture_fini(&f);
}

static void news_and_pauses_end_a_poll(void **state)
{
	struct vcpu *vcpus[1];
	struct fixture f;
	struct halt_room *room = halted(&f, vcpus, 1, 100000);

	if (host_cpus() < 2) {
		halt_room_free(room);
		fixture_fini(&f);
		skip();
	}
	f.v->halt.window = UINT64_MAX;
	atomic_fetch_or(&f.v->req, REQ_PAUSE);
	assert_true(halt_poll(f.v));
	atomic_store(&f.v->req, 0);
	vcpu_post_irq(f.v, VECTOR, false);
	assert_true(halt_poll(f.v));
	assert_int_equal(lapic_pending(f.v), VECTOR);
	lapic_ack(f.v, VECTOR);
	lapic_mmio_write(f.v, 0xb0, 4, 0);
	assert_int_equal(f.v->halt.polled, 2);
	/* Bits that mean nothing to a halted vcpu do not. */
	f.v->halt.window = 1000;
	atomic_store(&f.v->req, REQ_EXTINT | REQ_CODE | REQ_FLUSH | REQ_WINDOW);
	assert_false(halt_poll(f.v));
	assert_int_equal(f.v->halt.polled, 2);
	halt_room_free(room);
	fixture_fini(&f);
}

static _Atomic unsigned taken;

static void *poster(void *arg)
{
	struct vcpu *v = arg;

	for (unsigned n = 0; n < ROUNDS; n++) {
		vcpu_post_irq(v, VECTOR, false);
		while (atomic_load(&taken) == n)
			sched_yield();
		/* Now and then late enough that the receiver sleeps. */
		if (n % 32 == 0)
			nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	}
	return NULL;
}

/* Some arrive in a poll, some in a sleep, some between the two. */
static void no_news_are_lost(void **state)
{
	struct vcpu *vcpus[1];
	struct fixture f;
	struct halt_room *room = halted(&f, vcpus, 1, 100);
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, poster, f.v), 0);
	for (unsigned n = 0; n < ROUNDS; n++) {
		if (!halt_poll(f.v)) {
			while (!vcpu_has_work(f.v))
				halt_sleep(f.v, UINT64_MAX);
		}
		assert_int_equal(lapic_pending(f.v), VECTOR);
		lapic_ack(f.v, VECTOR);
		lapic_mmio_write(f.v, 0xb0, 4, 0); /* EOI */
		atomic_fetch_add(&taken, 1);
	}
	pthread_join(thread, NULL);
	halt_room_free(room);
	fixture_fini(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(short_halts_teach_to_poll),
		cmocka_unit_test(a_long_halt_ends_it),
		cmocka_unit_test(zero_never_polls),
		cmocka_unit_test(more_vcpus_than_cpus_never_poll),
		cmocka_unit_test(news_and_pauses_end_a_poll),
		cmocka_unit_test(no_news_are_lost),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
