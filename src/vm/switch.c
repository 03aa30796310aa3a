/*
 * From one engine to another while the guest runs. Each vcpu's thread opens the
 * new engine beside the old one, so that nothing is lost where it cannot be
 * had; whoever asked for it closes one of the two.
 *
 * Invariant: outside of an errand each vcpu holds one side, the old or the new,
 * and the other is in `sides`.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "vm/vm_priv.h"

/* What an engine keeps in a vcpu beside the canonical state. */
struct side {
	struct soft soft;
	void *priv, *vm;
	const struct engine *engine;
};

struct switching {
	const struct engine *to;
	void *vm; /* what the vcpus have in common under the engine that is to be closed */
	struct side *sides; /* of each vcpu: the one it does not hold */
	int *errors;
	const char **why;
};

static void change_side(struct vcpu *v, struct side *side)
{
	struct side out = { v->soft, v->engine_priv, v->engine_vm, v->engine };

	v->soft = side->soft;
	v->engine_priv = side->priv;
	v->engine_vm = side->vm;
	v->engine = side->engine;
	*side = out;
}

/* An errand. */
static void open_new(struct vcpu_thread *t, void *ctx)
{
	struct switching *s = ctx;
	struct vcpu *v = t->vcpu;
	struct side *side = &s->sides[v->index];

	*side = (struct side){ .engine = s->to, .vm = s->vm };
	change_side(v, side);
	s->errors[v->index] = v->engine->vcpu_open(v, &s->why[v->index]);
	change_side(v, side);
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* A vcpu that shut down stays parked, so that not all need run. */
static bool all_run(const struct vm *vm)
{
	for (unsigned i = 0; i < vm->vcpu_count; i++)
		if (vm->threads[i].state == VCPU_THREAD_PARKED && !vm->threads[i].stopped)
			return false;
	return true;
}

/* Lock held, all parked. */
static int change(struct vm *vm, struct switching *s, char *error)
{
	void *old;

	barrier_errand(vm, open_new, s);
	for (unsigned i = 0; i < vm->vcpu_count; i++) {
		if (!s->errors[i])
			continue;
		snprintf(error, VM_ERROR_MAX, "engine %s: %s", s->to->name,
			 s->why[i] ? s->why[i] : "no memory for a vcpu");
		return s->errors[i];
	}
	for (unsigned i = 0; i < vm->vcpu_count; i++) {
		vcpu_thread_count(&vm->threads[i]);
		change_side(vm->vcpus[i], &s->sides[i]);
	}
	vm->options.engine = s->to;
	old = vm->engine_vm;
	vm->engine_vm = s->vm;
	s->vm = old;
	return 0;
}

/*
 * What the vcpus do not hold is given back when they run again: it may be many
 * megabytes of code, which take longer to free than all the rest.
 */
static void close_sides(struct vm *vm, struct switching *s, const struct engine *closing,
			struct vcpu *copy)
{
	for (unsigned i = 0; i < vm->vcpu_count; i++) {
		if (!s->sides[i].priv)
			continue;
		*copy = (struct vcpu){ .index = i, .ram = vm->vcpus[i]->ram };
		change_side(copy, &s->sides[i]);
		copy->engine->vcpu_close(copy);
	}
	if (s->vm)
		closing->vm_close(s->vm);
}

/* World lock held. */
static int switch_engine(struct vm *vm, struct switching *s, struct vm_switch_report *report,
			 char *error)
{
	char why[ENGINE_ERROR_MAX];
	uint64_t began;
	int err;

	report->from = vm->options.engine;
	if (s->to == vm->options.engine) {
		snprintf(error, VM_ERROR_MAX, "the VM runs under %s already", s->to->name);
		return -EALREADY;
	}
	err = vm_limit_model(s->to, (struct cpu_model *)vm->model, true, error);
	if (err < 0)
		return err;
	if (s->to->vm_open) {
		err = s->to->vm_open(vm->vcpus, vm->vcpu_count, &s->vm, why);
		if (err < 0) {
			snprintf(error, VM_ERROR_MAX, "engine %s: %s", s->to->name, why);
			return err;
		}
	}
	began = now_ns();
	/* Devices and clocks go on: to the guest it is as if the host were busy for a moment. */
	pthread_mutex_lock(&vm->lock);
	barrier_want(vm, VM_WANT_PAUSE);
	barrier_wait_state(vm, VCPU_THREAD_PARKED);
	err = change(vm, s, error);
	if (!vm->held) {
		vm->want = VM_WANT_RUN;
		pthread_cond_broadcast(&vm->changed);
		while (vm->want == VM_WANT_RUN && !all_run(vm))
			pthread_cond_wait(&vm->changed, &vm->lock);
		report->pause_ns = now_ns() - began;
	}
	pthread_mutex_unlock(&vm->lock);
	return err;
}

int vm_switch_engine(struct vm *vm, const struct engine *engine, struct vm_switch_report *report,
		     char *error)
{
	struct switching s = { .to = engine };
	struct vcpu *copy = aligned_alloc(_Alignof(struct vcpu), sizeof(*copy));
	int err = -ENOMEM;

	*report = (struct vm_switch_report){ 0 };
	s.sides = aligned_alloc(_Alignof(struct side), vm->vcpu_count * sizeof(*s.sides));
	if (s.sides)
		memset(s.sides, 0, vm->vcpu_count * sizeof(*s.sides));
	s.errors = calloc(vm->vcpu_count, sizeof(*s.errors));
	s.why = calloc(vm->vcpu_count, sizeof(*s.why));
	if (!copy || !s.sides || !s.errors || !s.why) {
		snprintf(error, VM_ERROR_MAX, "out of memory");
	} else {
		pthread_mutex_lock(&vm->world);
		if (vm->started && !vm->ended) {
			err = switch_engine(vm, &s, report, error);
			close_sides(vm, &s, err ? engine : report->from, copy);
		} else {
			snprintf(error, VM_ERROR_MAX, "the VM has ended");
			err = -ECANCELED;
		}
		pthread_mutex_unlock(&vm->world);
	}
	free(copy);
	free(s.sides);
	free(s.errors);
	free(s.why);
	return err;
}

const struct engine *vm_engine(struct vm *vm)
{
	const struct engine *engine;

	pthread_mutex_lock(&vm->lock);
	engine = vm->options.engine;
	pthread_mutex_unlock(&vm->lock);
	return engine;
}
