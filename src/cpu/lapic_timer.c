/*
 * The local APIC's timer (SDM 3A, 11.5.4): one-shot, periodic, TSC-deadline.
 * Runs on the vcpu's own thread; the clock's thread only requests a look.
 *
 * Invariant: whether the timer is due is decided here alone, from the
 * registers and port->deadline_ns, which an expiry moves. So a request that
 * comes twice, or together with the waking of a halted vcpu, fires once; and
 * none is lost, since every look that finds nothing due arms the clock again.
 */
#include "cpu/lapic.h"

#include "cpu/fpstate.h"
#include "cpu/lapic_priv.h"

#define STOPPED UINT64_MAX /* timer_start_ns of a count that is not running */

/*
 * A periodic timer that the host kept from firing makes up for at most this
 * many ticks, at twice its rate, and never fires faster than the second figure,
 * so that no guest can occupy the clock's thread.
 */
#define CATCH_UP_TICKS 8
#define PERIOD_MIN_NS  20000

static uint64_t now_ns(struct vcpu *v)
{
	vcpu_fp_park(v);
	return vclock_now_ns(v->clock);
}

/* Nanoseconds in one count; the timer's clock is 1 GHz. */
static unsigned divisor(const struct lapic_state *apic)
{
	unsigned code = (apic->timer_divide & 3) | (apic->timer_divide >> 1 & 4);

	return code == 7 ? 1 : 2u << code;
}

static uint64_t period_ns(const struct lapic_state *apic)
{
	return (uint64_t)apic->timer_initial * divisor(apic);
}

static uint32_t mode(const struct lapic_state *apic)
{
	return apic->lvt[LVT_TIMER] & LVT_TIMER_MODE;
}

/* VM time at which the guest's TSC reaches the deadline; `now` if it has. */
static uint64_t tsc_deadline_ns(struct vcpu *v, uint64_t now)
{
	uint64_t tsc, left, ns;

	vcpu_fp_park(v);
	tsc = vclock_tsc(v->clock);
	left = v->arch.lapic.tsc_deadline - (tsc + v->arch.msr.tsc_offset);
	/* Compared as the hardware does: a deadline below the guest's TSC is past. */
	if (v->arch.lapic.tsc_deadline <= tsc + v->arch.msr.tsc_offset)
		return now;
	if (left > UINT64_MAX - tsc)
		return UINT64_MAX;
	ns = vclock_tsc_to_ns(v->clock, tsc + left);
	return ns == UINT64_MAX ? ns : ns + 1;
}

/* When the count as the registers say it runs out; UINT64_MAX if never. */
static uint64_t due_ns(struct vcpu *v, uint64_t now)
{
	const struct lapic_state *apic = &v->arch.lapic;
	uint64_t due;

	if (mode(apic) == LVT_TIMER_DEADLINE)
		return apic->tsc_deadline ? tsc_deadline_ns(v, now) : UINT64_MAX;
	if (!apic->timer_initial || apic->timer_start_ns == STOPPED)
		return UINT64_MAX;
	/* A start before guest time 0 (a wrapped figure, from a change of divisor) still gives a
	 * due time. */
	due = apic->timer_start_ns + period_ns(apic);
	if (apic->timer_start_ns > now && due >= apic->timer_start_ns)
		return now;
	return due;
}

static void arm(struct vcpu *v, uint64_t due, uint64_t now)
{
	struct lapic_port *port = v->lapic_port;

	port->deadline_ns = due;
	vcpu_fp_park(v);
	if (due <= now) {
		/* No need to go through the clock's thread. */
		vclock_timer_arm(&port->timer, UINT64_MAX);
		atomic_fetch_or_explicit(&v->req, REQ_TIMER, memory_order_relaxed);
		return;
	}
	vclock_timer_arm(&port->timer, due);
}

static void plan(struct vcpu *v, uint64_t now, uint64_t earliest)
{
	const struct lapic_state *apic = &v->arch.lapic;
	uint64_t due = UINT64_MAX;

	/* A masked timer counts, but nobody need wake up for it. */
	if ((apic->base_msr & APIC_BASE_ENABLE) && !(apic->lvt[LVT_TIMER] & LVT_MASKED))
		due = due_ns(v, now);
	if (due < earliest)
		due = earliest;
	arm(v, due, now);
}

void lapic_timer_plan(struct vcpu *v)
{
	if (v->lapic_port)
		plan(v, now_ns(v), 0);
}

/* The count ran out: state as after it, interrupt if unmasked. Nothing is owed of a masked timer.
 */
static void expire(struct vcpu *v, uint64_t now)
{
	struct lapic_state *apic = &v->arch.lapic;
	uint64_t period = period_ns(apic), gone, keep;

	if (mode(apic) == LVT_TIMER_DEADLINE) {
		apic->tsc_deadline = 0;
	} else if (mode(apic) == LVT_TIMER_PERIODIC && period) {
		gone = (now - apic->timer_start_ns) / period;
		keep = apic->lvt[LVT_TIMER] & LVT_MASKED ? 0 : CATCH_UP_TICKS;
		apic->timer_start_ns += (gone > keep + 1 ? gone - keep : 1) * period;
	} else {
		apic->timer_start_ns = STOPPED;
	}
	lapic_local_interrupt(v, LVT_TIMER);
}

void lapic_timer_check(struct vcpu *v)
{
	const struct lapic_state *apic = &v->arch.lapic;
	struct lapic_port *port = v->lapic_port;
	uint64_t now, pace;

	if (!port)
		return;
	now = now_ns(v);
	/* The guest's TSC may have been set, which moves a deadline in its ticks. */
	if (mode(apic) == LVT_TIMER_DEADLINE && port->deadline_ns != UINT64_MAX)
		port->deadline_ns = due_ns(v, now);
	if (port->deadline_ns > now) {
		arm(v, port->deadline_ns, now);
		return;
	}
	expire(v, now);
	pace = period_ns(apic) / 2;
	if (pace < PERIOD_MIN_NS)
		pace = PERIOD_MIN_NS;
	plan(v, now, mode(apic) == LVT_TIMER_PERIODIC ? now + pace : 0);
}

uint64_t lapic_timer_deadline(const struct vcpu *v)
{
	return v->lapic_port ? v->lapic_port->deadline_ns : UINT64_MAX;
}

void lapic_timer_stop(struct vcpu *v)
{
	v->arch.lapic.timer_start_ns = STOPPED;
	v->arch.lapic.timer_initial = 0;
	v->arch.lapic.tsc_deadline = 0;
	lapic_timer_plan(v);
}

void lapic_timer_lvt_write(struct vcpu *v, uint32_t value)
{
	struct lapic_state *apic = &v->arch.lapic;
	uint32_t before = apic->lvt[LVT_TIMER];
	uint64_t now;

	/* What ran out while masked must not fire at unmasking. */
	if (v->lapic_port && (before & LVT_MASKED)) {
		now = now_ns(v);
		if (due_ns(v, now) <= now)
			expire(v, now);
	}
	apic->lvt[LVT_TIMER] = value;
	/* 11.5.4.1: a change between TSC-deadline and the other modes disarms. */
	if ((before ^ value) & LVT_TIMER_DEADLINE)
		lapic_timer_stop(v);
	else
		lapic_timer_plan(v);
}

void lapic_timer_initial_write(struct vcpu *v, uint32_t value)
{
	struct lapic_state *apic = &v->arch.lapic;

	if (mode(apic) == LVT_TIMER_DEADLINE || !v->lapic_port)
		return;
	apic->timer_initial = value;
	apic->timer_start_ns = value ? now_ns(v) : STOPPED;
	lapic_timer_plan(v);
}

/* Counts gone since the start, at most the initial count; periodic: since the last tick. */
static uint32_t counted(const struct lapic_state *apic, uint64_t now)
{
	uint64_t counts;

	if (!apic->timer_initial || apic->timer_start_ns == STOPPED)
		return apic->timer_initial;
	counts = (now - apic->timer_start_ns) / divisor(apic);
	if (mode(apic) == LVT_TIMER_PERIODIC)
		return (uint32_t)(counts % apic->timer_initial);
	return counts > apic->timer_initial ? apic->timer_initial : (uint32_t)counts;
}

uint32_t lapic_timer_current(struct vcpu *v)
{
	const struct lapic_state *apic = &v->arch.lapic;

	if (mode(apic) == LVT_TIMER_DEADLINE || !v->lapic_port)
		return 0;
	return apic->timer_initial - counted(apic, now_ns(v));
}

void lapic_timer_divide_write(struct vcpu *v, uint32_t value)
{
	struct lapic_state *apic = &v->arch.lapic;
	uint64_t now, gone;

	if (v->lapic_port && mode(apic) != LVT_TIMER_DEADLINE && apic->timer_start_ns != STOPPED) {
		/* The count stays where it is and goes on at the new speed. */
		now = now_ns(v);
		gone = counted(apic, now);
		apic->timer_divide = value & 0xb;
		apic->timer_start_ns = now - gone * divisor(apic);
	}
	apic->timer_divide = value & 0xb;
	lapic_timer_plan(v);
}

uint64_t lapic_tsc_deadline_read(struct vcpu *v)
{
	return mode(&v->arch.lapic) == LVT_TIMER_DEADLINE ? v->arch.lapic.tsc_deadline : 0;
}

int lapic_tsc_deadline_write(struct vcpu *v, uint64_t value)
{
	/* In the other modes the write has no effect (11.5.4.1). */
	if (mode(&v->arch.lapic) == LVT_TIMER_DEADLINE) {
		v->arch.lapic.tsc_deadline = value;
		lapic_timer_plan(v);
	}
	return 0;
}
