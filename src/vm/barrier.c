/*
 * The pause barrier: brings all vcpu threads to a place where their canonical
 * state is complete, waits for device transfers to finish and stops the clock.
 * Called by vm_pause() and by the lifecycle thread for a reset. Invariant: a
 * vcpu in VCPU_THREAD_PARKED is touched by nobody but the barrier's owner.
 */
#include "vm/vm_priv.h"

#include <errno.h>
#include <time.h>

#include "bus/vclock.h"
#include "cpu/post.h"
#include "engine/engine.h"
#include "mem/dma.h"

void barrier_want(struct vm *vm, enum vm_want want)
{
	vm->want = want;
	for (unsigned i = 0; i < vm->vcpu_count; i++)
		vcpu_request(vm->vcpus[i], REQ_PAUSE);
	for (unsigned i = 0; i < vm->vcpu_count; i++) {
		const struct engine *engine = vm->options.engine;

		if (vm->threads[i].state == VCPU_THREAD_RUNNING && engine->kick)
			engine->kick(vm->vcpus[i]);
	}
	pthread_cond_broadcast(&vm->changed);
}

static bool all_in(const struct vm *vm, enum vcpu_thread_state state)
{
	for (unsigned i = 0; i < vm->vcpu_count; i++) {
		enum vcpu_thread_state now = vm->threads[i].state;

		if (now != state && now != VCPU_THREAD_GONE)
			return false;
	}
	return true;
}

void barrier_wait_state(struct vm *vm, enum vcpu_thread_state state)
{
	while (!all_in(vm, state))
		pthread_cond_wait(&vm->changed, &vm->lock);
}

static bool errands_done(const struct vm *vm)
{
	for (unsigned i = 0; i < vm->vcpu_count; i++) {
		const struct vcpu_thread *t = &vm->threads[i];

		if (t->state == VCPU_THREAD_PARKED && t->errands != vm->errands)
			return false;
	}
	return true;
}

void barrier_errand(struct vm *vm, void (*errand)(struct vcpu_thread *t, void *ctx), void *ctx)
{
	vm->errand = errand;
	vm->errand_ctx = ctx;
	vm->errands++;
	pthread_cond_broadcast(&vm->changed);
	while (!errands_done(vm))
		pthread_cond_wait(&vm->changed, &vm->lock);
}

static void run_errand(struct vm *vm, struct vcpu_thread *t)
{
	pthread_mutex_unlock(&vm->lock);
	vm->errand(t, vm->errand_ctx);
	pthread_mutex_lock(&vm->lock);
	t->errands = vm->errands;
	pthread_cond_broadcast(&vm->changed);
}

bool barrier_park(struct vcpu_thread *t)
{
	struct vm *vm = t->vm;
	bool run;

	pthread_mutex_lock(&vm->lock);
	t->state = VCPU_THREAD_PARKED;
	pthread_cond_broadcast(&vm->changed);
	/* A vcpu that shut down stays here until a reset has given it a new state. */
	while (vm->want == VM_WANT_PAUSE || (vm->want == VM_WANT_RUN && t->stopped)) {
		if (t->errands != vm->errands)
			run_errand(vm, t);
		else
			pthread_cond_wait(&vm->changed, &vm->lock);
	}
	run = vm->want == VM_WANT_RUN;
	t->state = run ? VCPU_THREAD_RUNNING : VCPU_THREAD_GONE;
	/*
	 * Cleared under the lock: a later barrier_want() sets it again, an earlier
	 * one is what we have just obeyed.
	 */
	atomic_fetch_and(&t->vcpu->req, ~(uint32_t)REQ_PAUSE);
	pthread_cond_broadcast(&vm->changed);
	pthread_mutex_unlock(&vm->lock);
	return run;
}

void barrier_stop_vcpus(struct vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	barrier_want(vm, VM_WANT_PAUSE);
	barrier_wait_state(vm, VCPU_THREAD_PARKED);
	pthread_mutex_unlock(&vm->lock);
}

void barrier_resume_vcpus(struct vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	vm->want = VM_WANT_RUN;
	pthread_cond_broadcast(&vm->changed);
	pthread_mutex_unlock(&vm->lock);
}

void barrier_stop_world(struct vm *vm)
{
	const struct timespec pause = { .tv_nsec = 200000 };

	barrier_stop_vcpus(vm);
	/*
	 * Transfers end on the event loop's thread and need nothing of a vcpu. They
	 * are few and short; a condition variable in the DMA path would cost every
	 * request for the sake of this rare wait.
	 */
	while (dma_in_flight(vm->board->ram))
		nanosleep(&pause, NULL);
	vclock_pause(vm->board->clock);
}

void barrier_resume_world(struct vm *vm)
{
	vclock_resume(vm->board->clock);
	barrier_resume_vcpus(vm);
}
