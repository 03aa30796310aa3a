/*
 * The clock of a VM. Read by vcpus and devices on any thread; its own thread
 * sleeps until the next timer. Invariant: guest time is (counter - origin)
 * scaled by constants while running, a constant while paused, and it never
 * runs backwards; TSC and nanoseconds are two scales of the same count.
 *
 * The counter is the host's TSC where that is invariant, so that software
 * engines may read the guest's TSC with one instruction and one addition and
 * still agree with every timer; else CLOCK_MONOTONIC; in tests a number.
 */
#include "bus/vclock.h"

#include "base/assert.h"
#include "base/futex.h"
#include "base/spin.h"
#include "bus/tsc.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>

#define NS_PER_SECOND 1000000000ull

/*
 * A constant factor, 64.64 fixed point, rounded up: a product that should be a
 * whole number is one, others may be one too high. Products saturate.
 */
struct ratio {
	uint64_t whole, fraction;
};

enum counter { COUNTER_TSC, COUNTER_MONOTONIC, COUNTER_MANUAL };

struct vclock {
	enum counter counter;
	bool unscaled; /* a guest TSC tick is a counter tick */
	uint64_t tsc_khz;
	struct ratio counter_to_ns, ns_to_counter, tsc_to_ns, ns_to_tsc;
	_Atomic uint64_t manual_ns;

	/* Under `sequence` for readers, under `lock` for writers. */
	_Atomic uint32_t sequence;
	_Atomic bool paused;
	_Atomic uint64_t origin; /* running: counter value of guest time 0 */
	_Atomic uint64_t frozen; /* paused: counter ticks that had passed */

	pthread_mutex_t lock;
	struct vclock_timer *first;   /* armed timers in deadline order */
	struct vclock_timer *running; /* its callback is under way */
	pthread_t runner;             /* the thread that runs it */
	pthread_cond_t idle;          /* running became NULL */
	uint64_t sleeps_until_ns;     /* 0: the thread is awake and will look again */
	bool stop;
	_Atomic uint32_t wake_word;
	pthread_t thread;
};

static struct ratio ratio_new(uint64_t numerator, uint64_t denominator)
{
	struct ratio ratio = { numerator / denominator, 0 };
	unsigned __int128 rest = (unsigned __int128)(numerator % denominator) << 64;

	ratio.fraction = (uint64_t)((rest + denominator - 1) / denominator);
	return ratio;
}

static uint64_t ratio_scale(struct ratio ratio, uint64_t count)
{
	unsigned __int128 product = (unsigned __int128)count * ratio.whole +
				    (uint64_t)(((unsigned __int128)count * ratio.fraction) >> 64);

	return product > UINT64_MAX ? UINT64_MAX : (uint64_t)product;
}

static uint64_t host_ns(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_SECOND + (uint64_t)ts.tv_nsec;
}

static uint64_t counter_read(const struct vclock *clock)
{
	switch (clock->counter) {
	case COUNTER_TSC:
		return tsc_read();
	case COUNTER_MONOTONIC:
		return host_ns(CLOCK_MONOTONIC);
	default:
		return atomic_load(&clock->manual_ns);
	}
}

/* Counter ticks of guest time that have passed. */
static uint64_t elapsed(struct vclock *clock)
{
	unsigned turn = 0;

	for (;;) {
		uint32_t sequence = atomic_load_explicit(&clock->sequence, memory_order_acquire);
		uint64_t ticks, origin = atomic_load_explicit(&clock->origin, memory_order_relaxed);

		if (atomic_load_explicit(&clock->paused, memory_order_relaxed)) {
			ticks = atomic_load_explicit(&clock->frozen, memory_order_relaxed);
		} else {
			ticks = counter_read(clock) - origin;
			/* Another CPU's counter may lag by a hair right after the start. */
			if ((int64_t)ticks < 0)
				ticks = 0;
		}
		atomic_thread_fence(memory_order_acquire);
		if (!(sequence & 1) &&
		    atomic_load_explicit(&clock->sequence, memory_order_relaxed) == sequence)
			return ticks;
		spin_relax(turn++);
	}
}

/* Lock held. */
static void set_base(struct vclock *clock, bool paused, uint64_t ticks)
{
	uint32_t sequence = atomic_load_explicit(&clock->sequence, memory_order_relaxed);

	atomic_store_explicit(&clock->sequence, sequence + 1, memory_order_relaxed);
	atomic_thread_fence(memory_order_release);
	atomic_store_explicit(&clock->paused, paused, memory_order_relaxed);
	atomic_store_explicit(&clock->frozen, ticks, memory_order_relaxed);
	atomic_store_explicit(&clock->origin, counter_read(clock) - ticks, memory_order_relaxed);
	atomic_store_explicit(&clock->sequence, sequence + 2, memory_order_release);
}

uint64_t vclock_now_ns(struct vclock *clock)
{
	return ratio_scale(clock->counter_to_ns, elapsed(clock));
}

uint64_t vclock_tsc(struct vclock *clock)
{
	uint64_t ticks = elapsed(clock);

	if (clock->unscaled)
		return ticks;
	return ratio_scale(clock->ns_to_tsc, ratio_scale(clock->counter_to_ns, ticks));
}

uint64_t vclock_tsc_khz(struct vclock *clock)
{
	return clock->tsc_khz;
}

uint64_t vclock_tsc_to_ns(struct vclock *clock, uint64_t tsc)
{
	return ratio_scale(clock->tsc_to_ns, tsc);
}

uint64_t vclock_ns_to_tsc(struct vclock *clock, uint64_t ns)
{
	return ratio_scale(clock->ns_to_tsc, ns);
}

uint64_t vclock_wall_ns(struct vclock *clock, uint64_t ns)
{
	return host_ns(CLOCK_REALTIME) - vclock_now_ns(clock) + ns;
}

uint64_t vclock_host_deadline_ns(struct vclock *clock, uint64_t ns)
{
	uint64_t now, host;

	if (ns == UINT64_MAX || clock->counter == COUNTER_MANUAL ||
	    atomic_load_explicit(&clock->paused, memory_order_relaxed))
		return UINT64_MAX;
	now = vclock_now_ns(clock);
	host = host_ns(CLOCK_MONOTONIC);
	if (ns <= now)
		return host;
	return ns - now > UINT64_MAX - host ? UINT64_MAX : host + (ns - now);
}

bool vclock_tsc_offset(struct vclock *clock, uint64_t *offset)
{
	if (!clock->unscaled)
		return false;
	*offset = 0 - atomic_load_explicit(&clock->origin, memory_order_relaxed);
	return true;
}

/* Lock held. */
static void unlink_timer(struct vclock *clock, struct vclock_timer *timer)
{
	if (timer->deadline_ns == UINT64_MAX)
		return;
	if (timer->prev)
		timer->prev->next = timer->next;
	else
		clock->first = timer->next;
	if (timer->next)
		timer->next->prev = timer->prev;
	timer->prev = timer->next = NULL;
	timer->deadline_ns = UINT64_MAX;
}

/* Lock held. A machine arms about ten timers and the soonest most often: a walk is short. */
static void link_timer(struct vclock *clock, struct vclock_timer *timer, uint64_t deadline_ns)
{
	struct vclock_timer *prev = NULL, *next = clock->first;

	while (next && next->deadline_ns <= deadline_ns) {
		prev = next;
		next = next->next;
	}
	timer->deadline_ns = deadline_ns;
	timer->prev = prev;
	timer->next = next;
	if (prev)
		prev->next = timer;
	else
		clock->first = timer;
	if (next)
		next->prev = timer;
}

/* Lock held; released while the callback runs. */
static void fire_first(struct vclock *clock)
{
	struct vclock_timer *timer = clock->first;

	unlink_timer(clock, timer);
	clock->running = timer;
	clock->runner = pthread_self();
	pthread_mutex_unlock(&clock->lock);
	timer->expired(timer->ctx);
	/* The callback may have freed the timer: only its address is used from here. */
	pthread_mutex_lock(&clock->lock);
	clock->running = NULL;
	pthread_cond_broadcast(&clock->idle);
}

static void *clock_thread(void *arg)
{
	struct vclock *clock = arg;

	/* The default slack of 50 us would be added to every tick of the guest. */
	prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
	pthread_mutex_lock(&clock->lock);
	while (!clock->stop) {
		uint64_t deadline = clock->first ? clock->first->deadline_ns : UINT64_MAX;
		uint64_t host_deadline;
		uint32_t word;

		if (atomic_load(&clock->paused))
			deadline = UINT64_MAX;
		if (deadline != UINT64_MAX && deadline <= vclock_now_ns(clock)) {
			fire_first(clock);
			continue;
		}
		clock->sleeps_until_ns = deadline;
		host_deadline = vclock_host_deadline_ns(clock, deadline);
		word = atomic_load(&clock->wake_word);
		pthread_mutex_unlock(&clock->lock);
		futex_wait(&clock->wake_word, word, host_deadline);
		pthread_mutex_lock(&clock->lock);
		clock->sleeps_until_ns = 0;
	}
	pthread_mutex_unlock(&clock->lock);
	return NULL;
}

/* Makes the thread look again, wherever it is. */
static void wake_thread(struct vclock *clock)
{
	atomic_fetch_add(&clock->wake_word, 1);
	futex_wake(&clock->wake_word, 1);
}

static struct vclock *clock_alloc(enum counter counter, uint64_t counter_khz, uint64_t tsc_khz)
{
	struct vclock *clock = calloc(1, sizeof(*clock));

	if (!clock)
		return NULL;
	clock->counter = counter;
	clock->tsc_khz = tsc_khz;
	clock->unscaled = counter == COUNTER_TSC && counter_khz == tsc_khz;
	clock->counter_to_ns = ratio_new(1000000, counter_khz);
	clock->ns_to_counter = ratio_new(counter_khz, 1000000);
	clock->tsc_to_ns = ratio_new(1000000, tsc_khz);
	clock->ns_to_tsc = ratio_new(tsc_khz, 1000000);
	pthread_mutex_init(&clock->lock, NULL);
	pthread_cond_init(&clock->idle, NULL);
	atomic_store(&clock->origin, counter_read(clock));
	return clock;
}

struct vclock *vclock_new_manual(uint64_t tsc_khz)
{
	return clock_alloc(COUNTER_MANUAL, 1000000, tsc_khz ? tsc_khz : 1000000);
}

struct vclock *vclock_new(uint64_t tsc_khz)
{
	bool use_tsc = tsc_invariant();
	uint64_t host_khz = tsc_host_khz();
	sigset_t all, before;
	struct vclock *clock;
	int error;

	clock = clock_alloc(use_tsc ? COUNTER_TSC : COUNTER_MONOTONIC, use_tsc ? host_khz : 1000000,
			    tsc_khz ? tsc_khz : host_khz);
	if (!clock)
		return NULL;
	/* Signals are for the threads that expect them. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = pthread_create(&clock->thread, NULL, clock_thread, clock);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (error) {
		free(clock);
		errno = error;
		return NULL;
	}
	pthread_setname_np(clock->thread, "clock");
	return clock;
}

void vclock_free(struct vclock *clock)
{
	if (!clock)
		return;
	if (clock->counter != COUNTER_MANUAL) {
		pthread_mutex_lock(&clock->lock);
		clock->stop = true;
		pthread_mutex_unlock(&clock->lock);
		wake_thread(clock);
		pthread_join(clock->thread, NULL);
	}
	pthread_cond_destroy(&clock->idle);
	pthread_mutex_destroy(&clock->lock);
	free(clock);
}

/*
 * Lock held. Until the callback of `timer`, or any if NULL, has returned; not for
 * the callback itself.
 */
static void wait_idle(struct vclock *clock, const struct vclock_timer *timer)
{
	while (clock->running && (!timer || clock->running == timer) &&
	       !pthread_equal(clock->runner, pthread_self()))
		pthread_cond_wait(&clock->idle, &clock->lock);
}

void vclock_pause(struct vclock *clock)
{
	pthread_mutex_lock(&clock->lock);
	if (!atomic_load(&clock->paused))
		set_base(clock, true, elapsed(clock));
	wait_idle(clock, NULL);
	pthread_mutex_unlock(&clock->lock);
}

void vclock_resume(struct vclock *clock)
{
	pthread_mutex_lock(&clock->lock);
	if (atomic_load(&clock->paused))
		set_base(clock, false, atomic_load(&clock->frozen));
	pthread_mutex_unlock(&clock->lock);
	wake_thread(clock);
}

void vclock_set_ns(struct vclock *clock, uint64_t ns)
{
	uint64_t ticks = ratio_scale(clock->ns_to_counter, ns);

	/* Rounded down it would be a moment that has passed. */
	while (ratio_scale(clock->counter_to_ns, ticks) < ns)
		ticks++;
	pthread_mutex_lock(&clock->lock);
	ASSERT(atomic_load(&clock->paused));
	set_base(clock, true, ticks);
	pthread_mutex_unlock(&clock->lock);
}

void vclock_set_tsc(struct vclock *clock, uint64_t tsc, uint64_t ns)
{
	if (!clock->unscaled) {
		vclock_set_ns(clock, ns);
		return;
	}
	pthread_mutex_lock(&clock->lock);
	ASSERT(atomic_load(&clock->paused));
	set_base(clock, true, tsc);
	pthread_mutex_unlock(&clock->lock);
}

void vclock_advance(struct vclock *clock, uint64_t ns)
{
	uint64_t target;

	ASSERT(clock->counter == COUNTER_MANUAL);
	pthread_mutex_lock(&clock->lock);
	target = atomic_load(&clock->manual_ns) + ns;
	while (!atomic_load(&clock->paused) && clock->first) {
		uint64_t origin = atomic_load(&clock->origin);
		uint64_t due = clock->first->deadline_ns;

		if (due > target - origin)
			break;
		if (due > atomic_load(&clock->manual_ns) - origin)
			atomic_store(&clock->manual_ns, due + origin);
		fire_first(clock);
	}
	atomic_store(&clock->manual_ns, target);
	pthread_mutex_unlock(&clock->lock);
}

void vclock_timer_init(struct vclock_timer *timer, struct vclock *clock, void (*expired)(void *ctx),
		       void *ctx)
{
	*timer = (struct vclock_timer){
		.clock = clock,
		.expired = expired,
		.ctx = ctx,
		.deadline_ns = UINT64_MAX,
	};
}

void vclock_timer_arm(struct vclock_timer *timer, uint64_t deadline_ns)
{
	struct vclock *clock = timer->clock;
	bool wake = false;

	pthread_mutex_lock(&clock->lock);
	unlink_timer(clock, timer);
	if (deadline_ns != UINT64_MAX && !timer->disarming)
		link_timer(clock, timer, deadline_ns);
	if (clock->first == timer && deadline_ns < clock->sleeps_until_ns &&
	    !atomic_load_explicit(&clock->paused, memory_order_relaxed)) {
		clock->sleeps_until_ns = deadline_ns;
		atomic_fetch_add(&clock->wake_word, 1);
		wake = true;
	}
	pthread_mutex_unlock(&clock->lock);
	if (wake)
		futex_wake(&clock->wake_word, 1);
}

void vclock_timer_disarm(struct vclock_timer *timer)
{
	struct vclock *clock = timer->clock;

	pthread_mutex_lock(&clock->lock);
	unlink_timer(clock, timer);
	/* Without the mark a callback that always re-arms could run again before we get the lock.
	 */
	timer->disarming++;
	wait_idle(clock, timer);
	timer->disarming--;
	pthread_mutex_unlock(&clock->lock);
}
