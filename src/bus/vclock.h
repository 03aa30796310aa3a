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
/* Host CLOCK_MONOTONIC nanoseconds at which guest time reaches `ns`, for a thread that sleeps by itself. */
uint64_t vclock_host_deadline_ns(struct vclock *clock, uint64_t ns);

/*
 * When guest TSC = host TSC + offset with no scaling, *offset is set and the
 * result is true: software engines then read the TSC without a call.
 */
bool vclock_tsc_offset(struct vclock *clock, uint64_t *offset);

void vclock_pause(struct vclock *clock);
void vclock_resume(struct vclock *clock);

struct vclock_timer {
	struct vclock *clock;
	void (*expired)(void *ctx);
	void *ctx;
	uint64_t deadline_ns; /* UINT64_MAX when not armed; guarded by the clock's lock */
	unsigned heap_index;
};

void vclock_timer_init(struct vclock_timer *timer, struct vclock *clock, void (*expired)(void *ctx), void *ctx);
/* Arms or re-arms. A deadline in the past fires at once. Any thread. */
void vclock_timer_arm(struct vclock_timer *timer, uint64_t deadline_ns);
/* After it returns the callback is neither running nor will run, unless called from the callback itself. */
void vclock_timer_disarm(struct vclock_timer *timer);

#endif
