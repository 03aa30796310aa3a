/*
 * Stopping the other vcpus for one instruction. Begun by mmu_lock(); engines
 * attend to the request at their next poll.
 *
 * As in Dekker's algorithm: who wants to be alone takes `held` and then looks
 * at each presence; who comes in writes its presence and then looks at `held`.
 * Whoever waits for another is not PRESENCE_IN itself, so two that want to be
 * alone at once cannot wait for each other. Waiters spin and yield: what they
 * wait for is one instruction.
 */
#include "cpu/exclusive.h"

#include <stdlib.h>

#include "base/spin.h"

struct exclusive {
	_Atomic uint32_t held;
	unsigned count;
	struct vcpu **vcpus;
};

struct exclusive *exclusive_new(struct vcpu **vcpus, unsigned count)
{
	struct exclusive *x = calloc(1, sizeof(*x));

	if (!x)
		return NULL;
	x->vcpus = vcpus;
	x->count = count;
	for (unsigned n = 0; n < count; n++)
		vcpus[n]->exclusive = x;
	return x;
}

void exclusive_free(struct exclusive *x)
{
	if (!x)
		return;
	for (unsigned n = 0; n < x->count; n++)
		if (x->vcpus[n])
			x->vcpus[n]->exclusive = NULL;
	free(x);
}

/* Not PRESENCE_IN. */
static void wait_free(struct exclusive *x)
{
	unsigned turn = 0;

	while (atomic_load_explicit(&x->held, memory_order_acquire))
		spin_relax(turn++);
}

void exclusive_enter(struct vcpu *v)
{
	struct exclusive *x = v->exclusive;

	for (;;) {
		atomic_store(&v->presence, PRESENCE_IN);
		if (!x || !atomic_load(&x->held))
			return;
		atomic_store(&v->presence, PRESENCE_OUT);
		wait_free(x);
	}
}

void exclusive_leave(struct vcpu *v)
{
	atomic_store_explicit(&v->presence, PRESENCE_OUT, memory_order_release);
}

/* As long as somebody else is alone: stand aside. */
static void stand_aside(struct vcpu *v, struct exclusive *x)
{
	while (atomic_load(&x->held)) {
		atomic_store(&v->presence, PRESENCE_HELD);
		wait_free(x);
		atomic_store(&v->presence, PRESENCE_IN);
	}
}

void exclusive_attend(struct vcpu *v)
{
	atomic_fetch_and(&v->req, ~(uint32_t)REQ_EXCLUSIVE);
	if (v->exclusive)
		stand_aside(v, v->exclusive);
}

void exclusive_begin(struct vcpu *v)
{
	struct exclusive *x = v->exclusive;

	if (!x)
		return;
	while (atomic_exchange(&x->held, 1))
		stand_aside(v, x);
	for (unsigned n = 0; n < x->count; n++) {
		struct vcpu *other = x->vcpus[n];
		unsigned turn = 0;

		if (other == v || atomic_load(&other->presence) != PRESENCE_IN)
			continue;
		/* Nobody who sleeps need wake up for this. */
		atomic_fetch_or(&other->req, REQ_EXCLUSIVE);
		while (atomic_load(&other->presence) == PRESENCE_IN)
			spin_relax(turn++);
	}
}

void exclusive_end(struct vcpu *v)
{
	if (v->exclusive)
		atomic_store_explicit(&v->exclusive->held, 0, memory_order_release);
}
