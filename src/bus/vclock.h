/*
 * The one clock of a VM. Guest time is nanoseconds since the machine was
 * created, less the time it was paused; the TSC is that time scaled by a
 * constant frequency. TSC, LAPIC timer, PIT, HPET, RTC, PM timer and the
 * paravirtual clock all derive from it, so they cannot disagree.
 *
 * Timers are absolute deadlines in guest nanoseconds. Callbacks run on the
 * clock's own thread with no lock held; a callback may re-arm its timer.
 */
#ifndef INSULA_BUS_VCLOCK_H
#define INSULA_BUS_VCLOCK_H

#include <stdbool.h>
#include <stdint.h>

struct vclock;

/*
 * For tests of devices: time stands still until vclock_advance(), which runs
 * every callback that falls due on the calling thread, in order, each at its
 * deadline. Deadlines in the past fire at the next advance, also by 0.
 */
struct vclock *vclock_new_manual(uint64_t tsc_khz);
void vclock_advance(struct vclock *clock, uint64_t ns);

/* tsc_khz 0: the host's TSC frequency. NULL with errno on failure. Starts running. */
struct vclock *vclock_new(uint64_t tsc_khz);
void vclock_free(struct vclock *clock);

uint64_t vclock_now_ns(struct vclock *clock);
uint64_t vclock_tsc(struct vclock *clock);
uint64_t vclock_tsc_khz(struct vclock *clock);
uint64_t vclock_tsc_to_ns(struct vclock *clock, uint64_t tsc);
uint64_t vclock_ns_to_tsc(struct vclock *clock, uint64_t ns);
/* Wall time: nanoseconds since the Unix epoch that correspond to guest time `ns`. */
uint64_t vclock_wall_ns(struct vclock *clock, uint64_t ns);
/* Host CLOCK_MONOTONIC nanoseconds at which guest time reaches `ns`, for a thread that sleeps by
 * itself. */
uint64_t vclock_host_deadline_ns(struct vclock *clock, uint64_t ns);

/*
 * When guest TSC = host TSC + offset with no scaling, *offset is set and the
 * result is true: software engines then read the TSC without a call. Valid
 * until the next pause, so ask again on every enter.
 */
bool vclock_tsc_offset(struct vclock *clock, uint64_t *offset);

/* Guest time stands still between the two. When pause returns no callback runs, unless called from
 * one. Idempotent. */
void vclock_pause(struct vclock *clock);
void vclock_resume(struct vclock *clock);
/* While paused only: guest time becomes `ns`, not a tick less. Armed timers keep their deadlines.
 */
void vclock_set_ns(struct vclock *clock, uint64_t ns);
/* The same as a restored state says: where the host's counter serves as TSC, to the tick. */
void vclock_set_tsc(struct vclock *clock, uint64_t tsc, uint64_t ns);

struct vclock_timer {
	struct vclock *clock;
	void (*expired)(void *ctx);
	void *ctx;
	uint64_t deadline_ns; /* UINT64_MAX when not armed; guarded by the clock's lock */
	struct vclock_timer *prev, *next; /* in deadline order; guarded by the clock's lock */
	unsigned disarming; /* threads that wait in disarm: arming does nothing; guarded by the
			       clock's lock */
};

void vclock_timer_init(struct vclock_timer *timer, struct vclock *clock, void (*expired)(void *ctx),
		       void *ctx);
/*
 * Arms or re-arms; UINT64_MAX disarms without waiting. A deadline in the past
 * fires at once. Any thread; cheap: the clock's thread is woken only for a
 * deadline earlier than the one it sleeps for.
 */
void vclock_timer_arm(struct vclock_timer *timer, uint64_t deadline_ns);
/*
 * After it returns the callback is neither running nor will run, unless called
 * from the callback itself. A callback under way that re-arms is overruled.
 * The caller must hold no lock that the callback takes; to disarm under such a
 * lock arm with UINT64_MAX, and let the callback find nothing to do.
 */
void vclock_timer_disarm(struct vclock_timer *timer);

#endif
