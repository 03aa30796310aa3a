/*
 * What happens between two instructions: INIT, SIPI, NMI, interrupts, in the
 * order of SDM 3A table 6-2. Engines call vcpu_events() whenever vcpu->req is
 * not empty or IF, the shadow or the TPR may have let something through.
 *
 * Invariant: a request bit is cleared only by looking at what it announces,
 * so whoever posts state first and the bit second is never missed.
 */
#include "cpu/excp.h"
#include "cpu/fpstate.h"
#include "cpu/lapic.h"
#include "cpu/mmu.h"
#include "base/assert.h"

#define REQ_EVENTS \
	(REQ_IRQ | REQ_EXTINT | REQ_NMI | REQ_INIT | REQ_SIPI | REQ_TIMER | REQ_WINDOW | REQ_KICK)

static void request_again(struct vcpu *v, uint32_t bits)
{
	atomic_fetch_or_explicit(&v->req, bits, memory_order_relaxed);
}

/* SDM 3A, 8.4.2: the startup vector is a page number in the first megabyte. */
static void start_up(struct vcpu *v)
{
	uint32_t vector = atomic_load_explicit(&v->sipi_vector, memory_order_acquire) & 0xff;

	v->arch.seg[SEG_CS].selector = (uint16_t)(vector << 8);
	v->arch.seg[SEG_CS].base = (uint64_t)vector << 12;
	v->arch.rip = 0;
	v->arch.activity = ACTIVITY_RUN;
	vcpu_mode_changed(v);
}

static bool extint_pending(struct vcpu *v)
{
	return unlikely(atomic_load_explicit(&v->extint, memory_order_acquire)) && v->pic_ack &&
	       lapic_accepts_extint(v);
}

static void deliver_interrupt(struct vcpu *v, uint8_t vector)
{
	excp_deliver(v, (struct excp){ .vector = vector, .type = EXCP_INTERRUPT });
}

/* A delivery that an engine or a saved state left half done goes before anything new. */
static bool deliver_cut_short(struct vcpu *v)
{
	struct vcpu_event event = v->arch.event;

	if (likely(!event.pending))
		return false;
	v->arch.event.pending = 0;
	excp_deliver(v, (struct excp){ .vector = event.vector,
				       .type = event.type,
				       .has_error = event.has_error,
				       .error = event.error,
				       .cr2 = event.cr2 });
	return true;
}

/* More waits behind what was just delivered: come back at once, or when IF rises. */
static void rearm(struct vcpu *v)
{
	if (lapic_pending(v) < 0 && !extint_pending(v))
		return;
	request_again(v, v->arch.rflags & FLAG_IF ? REQ_IRQ : REQ_WINDOW);
}

/* A maskable interrupt, the 8259's before the local APIC's. */
static bool deliver_maskable(struct vcpu *v)
{
	bool extint = extint_pending(v);
	int vector = extint ? -1 : lapic_pending(v);

	if (!extint && vector < 0)
		return false;
	if (!(v->arch.rflags & FLAG_IF)) {
		/* A halted vcpu must not spin on a bit that nothing but its own code can answer. */
		if (v->arch.activity == ACTIVITY_RUN)
			request_again(v, REQ_WINDOW);
		return false;
	}
	if (v->arch.shadow != SHADOW_NONE) {
		request_again(v, REQ_IRQ);
		return false;
	}
	if (extint) {
		bool live = v->fp_live;

		vcpu_fp_park(v);
		vector = v->pic_ack(v->pic_ctx);
		if (live)
			vcpu_fp_load(v);
		if (vector < 0)
			return false;
	} else {
		lapic_ack(v, (uint8_t)vector);
	}
	deliver_interrupt(v, (uint8_t)vector);
	rearm(v);
	return true;
}

bool vcpu_events(struct vcpu *v)
{
	uint32_t req =
		atomic_fetch_and_explicit(&v->req, ~(uint32_t)REQ_EVENTS, memory_order_acquire) &
		REQ_EVENTS;
	bool changed = false;

	if (req & REQ_TIMER)
		lapic_timer_check(v);
	if (req & REQ_IRQ)
		lapic_take_posted(v);
	if (unlikely(req & REQ_INIT)) {
		vcpu_init_signal(v);
		vcpu_mode_changed(v);
		changed = true;
	}
	if (unlikely(v->arch.activity == ACTIVITY_WAIT_SIPI)) {
		if (!(req & REQ_SIPI))
			return changed;
		start_up(v);
		return true;
	}
	if (unlikely(changed || v->arch.activity == ACTIVITY_SHUTDOWN))
		return changed;
	if (unlikely(req & REQ_KICK)) {
		v->arch.kicked = v->arch.activity != ACTIVITY_HALT;
		v->arch.activity = ACTIVITY_RUN;
	}
	if (deliver_cut_short(v)) {
		request_again(v, (req & REQ_NMI) | REQ_IRQ);
		return true;
	}
	if (unlikely(req & REQ_NMI)) {
		if (!v->arch.nmi_masked && v->arch.shadow != SHADOW_MOV_SS) {
			excp_deliver(v, (struct excp){ .vector = VEC_NMI, .type = EXCP_NMI });
			rearm(v);
			return true;
		}
		request_again(v, REQ_NMI);
	}
	return deliver_maskable(v);
}

bool vcpu_has_work(struct vcpu *v)
{
	uint32_t req = atomic_load_explicit(&v->req, memory_order_acquire);

	if (v->arch.activity == ACTIVITY_WAIT_SIPI)
		return req & (REQ_INIT | REQ_SIPI);
	if (req & (REQ_INIT | REQ_TIMER | REQ_KICK))
		return true;
	if (v->arch.activity == ACTIVITY_SHUTDOWN)
		return false;
	if (v->arch.event.pending || ((req & REQ_NMI) && !v->arch.nmi_masked))
		return true;
	if (req & REQ_IRQ) {
		atomic_fetch_and_explicit(&v->req, ~(uint32_t)REQ_IRQ, memory_order_acquire);
		lapic_take_posted(v);
	}
	return (v->arch.rflags & FLAG_IF) && (lapic_pending(v) >= 0 || extint_pending(v));
}
