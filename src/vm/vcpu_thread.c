/*
 * One host thread per vcpu: enter the engine, run, and obey what it exits for.
 * Started by vm.c. Invariant: the thread parks at the barrier only after the
 * engine has left, so whoever sees it parked sees complete canonical state.
 */
#include "vm/vm_priv.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/assert.h"
#include "bus/vclock.h"
#include "cpu/excp.h"
#include "cpu/exclusive.h"
#include "cpu/fpstate.h"
#include "cpu/halt.h"
#include "cpu/lapic.h"
#include "engine/engine.h"

#define ALTSTACK_SIZE (64u << 10)

/* Guest code may run with the guest's stack pointer, so host signals need a stack of their own. */
static void *altstack_install(void)
{
	stack_t stack = { .ss_size = ALTSTACK_SIZE };
	void *base = mmap(NULL, ALTSTACK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			  -1, 0);

	if (base == MAP_FAILED)
		return NULL;
	stack.ss_sp = base;
	if (sigaltstack(&stack, NULL) < 0) {
		munmap(base, ALTSTACK_SIZE);
		return NULL;
	}
	return base;
}

static void altstack_remove(void *base)
{
	const stack_t none = { .ss_flags = SS_DISABLE };

	if (!base)
		return;
	sigaltstack(&none, NULL);
	munmap(base, ALTSTACK_SIZE);
}

/* Waits while the vcpu is halted and nothing is due. */
static void halt(struct vcpu *v)
{
	if (v->arch.activity == ACTIVITY_HALT && halt_poll(v))
		return;
	/* The clock is ordinary C, and a guest's kernel may have left a program's registers. */
	vcpu_fp_park(v);
	while (v->arch.activity == ACTIVITY_HALT || v->arch.activity == ACTIVITY_WAIT_SIPI) {
		uint64_t deadline;

		if (atomic_load(&v->req) & REQ_PAUSE)
			return;
		if (vcpu_has_work(v))
			return;
		deadline = lapic_timer_deadline(v);
		if (deadline != UINT64_MAX)
			deadline = vclock_host_deadline_ns(v->clock, deadline);
		halt_sleep(v, deadline);
		lapic_timer_check(v);
	}
}

static enum vcpu_exit run(struct vcpu *v)
{
	enum vcpu_exit exit;

	exclusive_enter(v);
	exit = v->engine->run(v, RUN_UNLIMITED);
	exclusive_leave(v);
	return exit;
}

/* True: go on running. */
static bool obey(struct vcpu_thread *t, enum vcpu_exit exit)
{
	struct vcpu *v = t->vcpu;

	switch (exit) {
	case EXIT_HALT:
		halt(v);
		return true;
	case EXIT_BUDGET:
		return true;
	case EXIT_REQUEST:
		break;
	case EXIT_SHUTDOWN:
		t->stopped = true;
		vm_request_stop(t->vm, STOP_TRIPLE_FAULT, 0, NULL);
		break;
	case EXIT_ERROR:
		t->stopped = true;
		vm_request_stop(t->vm, STOP_HOST_ERROR, 0, "the engine could not go on");
		break;
	}
	v->engine->leave(v);
	if (!barrier_park(t))
		return false;
	v->engine->enter(v);
	return true;
}

void vcpu_thread_count(struct vcpu_thread *t)
{
	struct engine_stats last = { 0 };
	const uint64_t *from = (const uint64_t *)&last;
	uint64_t *to = (uint64_t *)&t->stats;

	if (!t->vcpu->engine->stats)
		return;
	t->vcpu->engine->stats(t->vcpu, &last);
	for (size_t n = 0; n < sizeof(last) / sizeof(*to); n++)
		to[n] += from[n];
	/* Of the thread, whatever the engine. */
	t->stats.halts_polled = t->vcpu->halt.polled;
	t->stats.halts_slept = t->vcpu->halt.slept;
}

static void *vcpu_thread_main(void *arg)
{
	struct vcpu_thread *t = arg;
	struct vcpu *v = t->vcpu;
	void *altstack = altstack_install();
	int rc;

	t->error = NULL;
	rc = altstack ? v->engine->vcpu_open(v, &t->error) : -ENOMEM;
	if (rc < 0) {
		pthread_mutex_lock(&t->vm->lock);
		t->error_number = -rc;
		if (!t->error)
			t->error = "no memory for a vcpu";
		t->state = VCPU_THREAD_FAILED;
		pthread_cond_broadcast(&t->vm->changed);
		pthread_mutex_unlock(&t->vm->lock);
		altstack_remove(altstack);
		return NULL;
	}
	if (barrier_park(t)) {
		v->engine->enter(v);
		while (obey(t, run(v)))
			continue;
	}
	vcpu_thread_count(t);
	v->engine->vcpu_close(v);
	altstack_remove(altstack);
	return NULL;
}

int vcpu_thread_start(struct vcpu_thread *t)
{
	pthread_attr_t attr;
	sigset_t all, old;
	char name[16];
	int rc;

	/* Only what the thread itself causes may interrupt it; all else is the event loop's. */
	sigfillset(&all);
	sigdelset(&all, SIGSEGV);
	sigdelset(&all, SIGBUS);
	sigdelset(&all, SIGFPE);
	sigdelset(&all, SIGILL);
	sigdelset(&all, SIGTRAP);
	sigdelset(&all, SIGABRT);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 512u << 10);
	rc = pthread_create(&t->thread, &attr, vcpu_thread_main, t);
	pthread_attr_destroy(&attr);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (rc)
		return -rc;
	t->created = true;
	snprintf(name, sizeof(name), "vcpu%u", t->vcpu->index);
	pthread_setname_np(t->thread, name);
	return 0;
}

void vcpu_thread_join(struct vcpu_thread *t)
{
	if (t->created)
		pthread_join(t->thread, NULL);
	t->created = false;
}
