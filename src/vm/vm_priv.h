/* What vm.c, vcpu_thread.c and barrier.c share. Stays in this folder. */
#ifndef INSULA_VM_VM_PRIV_H
#define INSULA_VM_VM_PRIV_H

#include <pthread.h>
#include <stdatomic.h>

#include "cpu/vcpu.h"
#include "engine/engine.h"
#include "vm/vm.h"

/* What the barrier wants of every vcpu thread. */
enum vm_want { VM_WANT_RUN, VM_WANT_PAUSE, VM_WANT_EXIT };

enum vcpu_thread_state {
	VCPU_THREAD_STARTING, /* opening its engine */
	VCPU_THREAD_FAILED,   /* could not; error is set */
	VCPU_THREAD_RUNNING,  /* the engine may hold state */
	VCPU_THREAD_PARKED,   /* canonical state complete, waits at the barrier */
	VCPU_THREAD_GONE,
};

struct vcpu_thread {
	struct vm *vm;
	struct vcpu *vcpu;
	pthread_t thread;
	bool created;
	bool stopped; /* owner only: after a shutdown or error, until reset: park, do not run */
	enum vcpu_thread_state state; /* guarded by vm->lock */
	const char *error;            /* static text; written before state becomes FAILED */
	int error_number;
	struct engine_stats stats; /* of engines it has closed; written by the thread */
	unsigned errands;          /* how many it has run; guarded by vm->lock */
};

struct vm {
	struct vm_options options;
	struct board *board;
	const struct cpu_model *model;
	struct boot_entry entry;
	unsigned vcpu_count;
	struct vcpu **vcpus;
	void *engine_vm; /* the engine's; NULL if it has none or is not open */
	struct exclusive *exclusive; /* NULL with one vcpu */
	struct halt_room *halt_room;
	struct vcpu_thread *threads;

	pthread_mutex_t
		world;     /* held by whoever has stopped the machine, or ends it; before lock */
	_Atomic bool held; /* by vm_hold(); written under world */
	uint64_t held_base_ns; /* wall time of guest time 0 when it was held */
	pthread_mutex_t lock;  /* guards all below, and each thread's state */
	pthread_cond_t changed;
	enum vm_want want;
	/* What parked vcpus are to do, each on its own thread, and how often one was asked for. */
	void (*errand)(struct vcpu_thread *t, void *ctx);
	void *errand_ctx;
	unsigned errands;
	bool started;
	bool ended; /* vcpus have left for good; the end is final */
	_Atomic unsigned resets;

	/* The stop request, written by any thread. */
	struct stop_sink stop;
	pthread_mutex_t stop_lock; /* leaf: held for copies only */
	pthread_cond_t stop_changed;
	struct vm_end stop_requested; /* reason STOP_NONE: none */
	bool shutting_down;

	pthread_t lifecycle;
	int ended_fd;

	/* A page of RAM from a snapshot was found damaged. -1, NULL: not restored. */
	int damage_fd;
	struct loop_fd *damage_watch;
};

/*
 * vm.c. What the engine cannot do on this host leaves the model; a fixed one,
 * which a guest has seen, stays as it is or is refused. 0, or -errno with a
 * sentence in error (VM_ERROR_MAX bytes).
 */
int vm_limit_model(const struct engine *engine, struct cpu_model *model, bool fixed, char *error);

/* vcpu_thread.c */
int vcpu_thread_start(struct vcpu_thread *t) __attribute__((warn_unused_result));
void vcpu_thread_join(struct vcpu_thread *t);
/* Adds what the engine counted to the thread's sums: before it is closed. */
void vcpu_thread_count(struct vcpu_thread *t);

/* barrier.c. The vm's lock is held on entry and exit of the first two. */
void barrier_want(struct vm *vm, enum vm_want want);
void barrier_wait_state(struct vm *vm, enum vcpu_thread_state state);
/* Lock held. All vcpus are parked: each runs the errand on its thread, lock not held. Returns when
 * all have. */
void barrier_errand(struct vm *vm, void (*errand)(struct vcpu_thread *t, void *ctx), void *ctx);
/* A vcpu's thread with its engine left. True: run; false: leave for good. */
bool barrier_park(struct vcpu_thread *t);
/* All vcpus parked; devices and clocks go on. World lock held. */
void barrier_stop_vcpus(struct vm *vm);
void barrier_resume_vcpus(struct vm *vm);
/* All vcpus parked, transfers finished, clock paused; the clock is only paused when it was running.
 */
void barrier_stop_world(struct vm *vm);
void barrier_resume_world(struct vm *vm);

#endif
