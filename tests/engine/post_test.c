/* Posting and waiting: no wake-up is lost, and bits that mean nothing to a halted vcpu do not keep
 * it awake. */
#include "cpu_fixture.h"
#include "cpu/post.h"
#include <pthread.h>
#include <time.h>

#define ROUNDS 5000
#define VECTOR 0x55

static uint64_t host_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void halted(struct fixture *f)
{
	fixture_init(f, "x86-64-v2", 1);
	f->v->arch.activity = ACTIVITY_HALT;
	f->v->arch.rflags |= FLAG_IF;
	lapic_mmio_write(f->v, 0xf0, 4, 0x1ff); /* software enable */
	atomic_store(&f->v->req, 0);
}

static void stale_bits_do_not_spin(void **state)
{
	struct fixture f;
	uint64_t start = host_ns();

	halted(&f);
	atomic_store(&f.v->req, REQ_EXTINT | REQ_CODE | REQ_FLUSH | REQ_WINDOW);
	vcpu_wait(f.v, start + 20000000);
	assert_true(host_ns() - start >= 15000000);
	assert_int_equal(atomic_load(&f.v->sleeping), 0);
	/* A request to pause does end it. */
	atomic_fetch_or(&f.v->req, REQ_PAUSE);
	vcpu_wait(f.v, UINT64_MAX);
	fixture_fini(&f);
}

static void a_past_deadline_returns(void **state)
{
	struct fixture f;

	halted(&f);
	vcpu_wait(f.v, 0);
	vcpu_wait(f.v, host_ns() - 1);
	fixture_fini(&f);
}

static _Atomic unsigned taken;

static void *poster(void *arg)
{
	struct vcpu *v = arg;
	unsigned n;

	for (n = 0; n < ROUNDS; n++) {
		vcpu_post_irq(v, VECTOR, n & 1);
		while (atomic_load(&taken) == n)
			sched_yield();
	}
	return NULL;
}

static void no_wakeup_is_lost(void **state)
{
	struct fixture f;
	pthread_t thread;
	unsigned n;

	halted(&f);
	assert_int_equal(pthread_create(&thread, NULL, poster, f.v), 0);
	for (n = 0; n < ROUNDS; n++) {
		while (!vcpu_has_work(f.v))
			vcpu_wait(f.v, UINT64_MAX);
		assert_int_equal(lapic_pending(f.v), VECTOR);
		lapic_ack(f.v, VECTOR);
		assert_int_equal(f.v->arch.lapic.tmr[VECTOR / 32] >> (VECTOR % 32) & 1, n & 1);
		lapic_mmio_write(f.v, 0xb0, 4, 0); /* EOI */
		atomic_fetch_add(&taken, 1);
	}
	pthread_join(thread, NULL);
	fixture_fini(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(stale_bits_do_not_spin),
		cmocka_unit_test(a_past_deadline_returns),
		cmocka_unit_test(no_wakeup_is_lost),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
