/*
 * Construction, lifecycle and end of a VM. Called by the command line. The
 * lifecycle thread alone carries out resets and the end, so these never race
 * with each other. Invariant: vcpu threads exist from vm_start() until the
 * lifecycle thread has set `ended`.
 */
#include "vm/vm.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/loop.h"
#include "bus/vclock.h"
#include "cpu/kvmclock.h"
#include "cpu/exclusive.h"
#include "cpu/halt.h"
#include "cpu/model.h"
#include "cpu/vcpu.h"
#include "engine/engine.h"
#include "vm/snapshot_priv.h"
#include "vm/vm_priv.h"

static void stop_from_device(void *ctx, enum stop_reason reason, uint32_t code, const char *detail)
{
	vm_request_stop(ctx, reason, code, detail);
}

void vm_request_stop(struct vm *vm, enum stop_reason reason, uint32_t code, const char *detail)
{
	pthread_mutex_lock(&vm->stop_lock);
	/* A person's wish to end it outlives a reset that is under way. */
	if (vm->stop_requested.reason == STOP_NONE ||
	    (reason == STOP_USER && vm->stop_requested.reason == STOP_RESET)) {
		vm->stop_requested.reason = reason;
		vm->stop_requested.code = code;
		snprintf(vm->stop_requested.detail, sizeof(vm->stop_requested.detail), "%s",
			 detail ? detail : "");
		pthread_cond_signal(&vm->stop_changed);
	}
	pthread_mutex_unlock(&vm->stop_lock);
}

/* ---- construction ---- */

int vm_limit_model(const struct engine *engine, struct cpu_model *model, bool fixed, char *error)
{
	struct cpu_model limited = *model;
	char why[ENGINE_ERROR_MAX];
	int rc;

	if (!engine->model_limit)
		return 0;
	rc = engine->model_limit(&limited, why);
	if (rc < 0) {
		snprintf(error, VM_ERROR_MAX, "engine %s: %s", engine->name, why);
		return rc;
	}
	if (fixed && memcmp(&limited, model, sizeof(limited)) != 0) {
		snprintf(error, VM_ERROR_MAX,
			 "engine %s: the guest uses features of its CPU that this host's KVM "
			 "lacks; another engine can go on with it",
			 engine->name);
		return -ENOTSUP;
	}
	*model = limited;
	return 0;
}

static int vcpus_new(struct vm *vm)
{
	vm->vcpus = calloc(vm->vcpu_count, sizeof(*vm->vcpus));
	vm->threads = calloc(vm->vcpu_count, sizeof(*vm->threads));
	if (!vm->vcpus || !vm->threads)
		return -ENOMEM;
	for (unsigned i = 0; i < vm->vcpu_count; i++) {
		size_t size = (sizeof(struct vcpu) + 4095) & ~(size_t)4095;
		struct vcpu *v = aligned_alloc(4096, size);

		if (!v)
			return -ENOMEM;
		memset(v, 0, size);
		vm->vcpus[i] = v;
		v->index = i;
		v->model = vm->model;
		v->engine = vm->options.engine;
		int err = board_attach_vcpu(vm->board, v);

		if (err)
			return err;
		vcpu_reset(v, i != 0);
		vm->threads[i] = (struct vcpu_thread){ .vm = vm, .vcpu = v };
	}
	if (vm->vcpu_count > 1) {
		vm->exclusive = exclusive_new(vm->vcpus, vm->vcpu_count);
		if (!vm->exclusive)
			return -ENOMEM;
	}
	vm->halt_room = halt_room_new(vm->vcpus, vm->vcpu_count, vm->options.halt_poll_us);
	return vm->halt_room ? 0 : -ENOMEM;
}

/* Loads the kernel and points the boot cpu at it. Vcpus are freshly reset. */
static int load(struct vm *vm, char *error)
{
	struct boot_machine machine;
	int rc;

	board_boot_machine(vm->board, &machine);
	rc = boot_load(&machine, &vm->options.boot, &vm->entry, error);
	if (rc == 0)
		boot_apply(vm->vcpus[0], &vm->entry);
	return rc;
}

static void ram_damaged(void *ctx, uint32_t events)
{
	struct vm *vm = ctx;
	char detail[VM_DETAIL_MAX];
	uint64_t count;

	if (read(vm->damage_fd, &count, sizeof(count)) < 0)
		return;
	snprintf(detail, sizeof(detail),
		 "the snapshot is damaged: the checksum of RAM at address %#llx differs",
		 (unsigned long long)ram_damage(vm->board->ram));
	vm_request_stop(vm, STOP_HOST_ERROR, 0, detail);
}

/* Everything is built and nothing has run: the state of a machine that did, which is held. */
static int restore(struct vm *vm, char *error)
{
	vm->damage_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (vm->damage_fd >= 0)
		vm->damage_watch = loop_add_fd(vm->options.board.loop, vm->damage_fd, EPOLLIN,
					       ram_damaged, vm);
	if (!vm->damage_watch) {
		snprintf(error, VM_ERROR_MAX, "cannot make an eventfd: %s", strerror(errno));
		return -errno;
	}
	vclock_pause(vm->board->clock);
	board_quiesce(vm->board);
	vm->held = true;
	vm->entry.protocol = "snapshot";
	return snapshot_load(vm->options.restore, vm, error);
}

_Static_assert(VM_ERROR_MAX >= BOARD_ERROR_MAX && VM_ERROR_MAX >= BOOT_ERROR_MAX,
	       "sentences of lower floors fit");

struct vm *vm_new(const struct vm_options *options, char *error)
{
	struct vm *vm = calloc(1, sizeof(*vm));
	const char *why = NULL;
	int rc;

	if (!vm) {
		snprintf(error, VM_ERROR_MAX, "out of memory");
		errno = ENOMEM;
		return NULL;
	}
	vm->options = *options;
	vm->damage_fd = -1;
	vm->vcpu_count = options->board.cpus;
	vm->want = VM_WANT_PAUSE;
	pthread_mutex_init(&vm->world, NULL);
	pthread_mutex_init(&vm->lock, NULL);
	pthread_cond_init(&vm->changed, NULL);
	pthread_mutex_init(&vm->stop_lock, NULL);
	pthread_cond_init(&vm->stop_changed, NULL);
	vm->stop = (struct stop_sink){ .request = stop_from_device, .ctx = vm };
	vm->options.board.stop = vm->stop;
	vm->ended_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (vm->ended_fd < 0) {
		rc = -errno;
		snprintf(error, VM_ERROR_MAX, "cannot make an eventfd: %s", strerror(errno));
		goto fail;
	}
	vm->board = board_new(&vm->options.board, error);
	if (!vm->board) {
		rc = errno ? -errno : -EINVAL;
		goto fail;
	}
	if (options->restore) {
		snapshot_ram_taken(options->restore);
		vm->model = snapshot_model(options->restore, error);
	} else {
		vm->model = cpu_model_new(options->cpu_model, vm->vcpu_count,
					  vclock_tsc_khz(vm->board->clock), &why);
		if (!vm->model)
			snprintf(error, VM_ERROR_MAX, "CPU model %s: %s", options->cpu_model,
				 why ? why : "out of memory");
	}
	if (!vm->model) {
		rc = -EINVAL;
		goto fail;
	}
	rc = vm_limit_model(options->engine, (struct cpu_model *)vm->model, options->restore,
			    error);
	if (rc == -ENOTSUP && options->restore && options->fallback) {
		vm->options.engine = options->fallback;
		rc = 0;
	}
	if (rc < 0)
		goto fail;
	rc = vcpus_new(vm);
	if (rc < 0) {
		snprintf(error, VM_ERROR_MAX, "out of memory for %u vcpus", vm->vcpu_count);
		goto fail;
	}
	rc = options->restore ? restore(vm, error) : load(vm, error);
	if (rc < 0)
		goto fail;
	return vm;
fail:
	vm_free(vm);
	errno = -rc;
	return NULL;
}

void vm_free(struct vm *vm)
{
	if (!vm)
		return;
	if (vm->started) {
		pthread_mutex_lock(&vm->stop_lock);
		vm->shutting_down = true;
		pthread_cond_signal(&vm->stop_changed);
		pthread_mutex_unlock(&vm->stop_lock);
		pthread_join(vm->lifecycle, NULL);
	}
	for (unsigned i = 0; vm->threads && i < vm->vcpu_count; i++)
		ASSERT(!vm->threads[i].created);
	loop_remove_fd(vm->damage_watch);
	board_free(vm->board);
	exclusive_free(vm->exclusive);
	halt_room_free(vm->halt_room);
	if (vm->damage_fd >= 0)
		close(vm->damage_fd);
	for (unsigned i = 0; vm->vcpus && i < vm->vcpu_count; i++)
		free(vm->vcpus[i]);
	free(vm->vcpus);
	free(vm->threads);
	cpu_model_free(vm->model);
	if (vm->ended_fd >= 0)
		close(vm->ended_fd);
	pthread_cond_destroy(&vm->stop_changed);
	pthread_mutex_destroy(&vm->stop_lock);
	pthread_cond_destroy(&vm->changed);
	pthread_mutex_destroy(&vm->lock);
	pthread_mutex_destroy(&vm->world);
	free(vm);
}

/* ---- the lifecycle thread ---- */

static void threads_end(struct vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	barrier_want(vm, VM_WANT_EXIT);
	pthread_mutex_unlock(&vm->lock);
	for (unsigned i = 0; i < vm->vcpu_count; i++)
		vcpu_thread_join(&vm->threads[i]);
	if (vm->engine_vm)
		vm->options.engine->vm_close(vm->engine_vm);
	vm->engine_vm = NULL;
}

/* Power-on state for everything, then the kernel again. False: it could not be; the stop request
 * says why. */
static bool reset(struct vm *vm)
{
	char error[VM_ERROR_MAX];
	int rc;

	/* A vm_pause() in force comes first: its owner reads the state of before. */
	pthread_mutex_lock(&vm->world);
	barrier_stop_world(vm);

	rc = board_reset(vm->board, error);
	for (unsigned i = 0; i < vm->vcpu_count; i++) {
		struct vcpu *v = vm->vcpus[i];

		vcpu_reset(v, i != 0);
		for (unsigned w = 0; w < 8; w++)
			atomic_store(&v->posted[w], 0);
		/* What was announced to the engine waits in its queue and stays announced. */
		atomic_fetch_and(&v->req, REQ_CODE);
		atomic_fetch_or(&v->req, REQ_FLUSH);
		vm->threads[i].stopped = false;
	}
	if (rc == 0)
		rc = load(vm, error);

	pthread_mutex_lock(&vm->stop_lock);
	if (rc < 0) {
		vm->stop_requested = (struct vm_end){ .reason = STOP_HOST_ERROR };
		snprintf(vm->stop_requested.detail, sizeof(vm->stop_requested.detail), "%.*s",
			 VM_DETAIL_MAX - 1, error);
	} else if (vm->stop_requested.reason == STOP_RESET) {
		vm->stop_requested.reason = STOP_NONE;
	}
	pthread_mutex_unlock(&vm->stop_lock);

	atomic_fetch_add(&vm->resets, 1);
	if (!vm->held)
		barrier_resume_world(vm);
	pthread_mutex_unlock(&vm->world);
	return rc == 0;
}

static void *lifecycle_main(void *arg)
{
	struct vm *vm = arg;
	const uint64_t one = 1;

	for (;;) {
		enum stop_reason reason;
		bool quit;

		pthread_mutex_lock(&vm->stop_lock);
		while (vm->stop_requested.reason == STOP_NONE && !vm->shutting_down)
			pthread_cond_wait(&vm->stop_changed, &vm->stop_lock);
		reason = vm->stop_requested.reason;
		quit = vm->shutting_down;
		if (reason == STOP_NONE)
			vm->stop_requested.reason = STOP_USER;
		pthread_mutex_unlock(&vm->stop_lock);
		if (quit || reason != STOP_RESET || vm->options.no_reboot || !reset(vm))
			break;
	}
	pthread_mutex_lock(&vm->world);
	threads_end(vm);
	pthread_mutex_lock(&vm->lock);
	vm->ended = true;
	pthread_cond_broadcast(&vm->changed);
	pthread_mutex_unlock(&vm->lock);
	pthread_mutex_unlock(&vm->world);
	ASSERT(write(vm->ended_fd, &one, sizeof(one)) == sizeof(one));
	return NULL;
}

/* ---- start, pause, end ---- */

static bool any_starting(const struct vm *vm)
{
	for (unsigned i = 0; i < vm->vcpu_count; i++) {
		if (vm->threads[i].created && vm->threads[i].state == VCPU_THREAD_STARTING)
			return true;
	}
	return false;
}

static int threads_start(struct vm *vm, char *error)
{
	const struct engine *engine = vm->options.engine;
	char why[ENGINE_ERROR_MAX];
	int rc = 0;

	if (engine->vm_open) {
		rc = engine->vm_open(vm->vcpus, vm->vcpu_count, &vm->engine_vm, why);
		if (rc < 0)
			snprintf(error, VM_ERROR_MAX, "engine %s: %s", engine->name, why);
	}
	for (unsigned i = 0; i < vm->vcpu_count; i++)
		vm->vcpus[i]->engine_vm = vm->engine_vm;
	for (unsigned i = 0; i < vm->vcpu_count && rc == 0; i++) {
		rc = vcpu_thread_start(&vm->threads[i]);
		if (rc < 0)
			snprintf(error, VM_ERROR_MAX, "cannot start the thread of vcpu %u: %s", i,
				 strerror(-rc));
	}
	pthread_mutex_lock(&vm->lock);
	while (any_starting(vm))
		pthread_cond_wait(&vm->changed, &vm->lock);
	for (unsigned i = 0; i < vm->vcpu_count && rc == 0; i++) {
		const struct vcpu_thread *t = &vm->threads[i];

		if (t->state != VCPU_THREAD_FAILED)
			continue;
		rc = -t->error_number;
		snprintf(error, VM_ERROR_MAX, "engine %s: %s", vm->options.engine->name, t->error);
	}
	pthread_mutex_unlock(&vm->lock);
	return rc;
}

int vm_start(struct vm *vm, char *error)
{
	sigset_t all, old;
	int rc;

	ASSERT(!vm->started);
	rc = threads_start(vm, error);
	if (rc == 0) {
		sigfillset(&all);
		pthread_sigmask(SIG_SETMASK, &all, &old);
		rc = -pthread_create(&vm->lifecycle, NULL, lifecycle_main, vm);
		pthread_sigmask(SIG_SETMASK, &old, NULL);
		if (rc < 0)
			snprintf(error, VM_ERROR_MAX, "cannot start a thread: %s", strerror(-rc));
	}
	if (rc < 0) {
		threads_end(vm);
		return rc;
	}
	vm->started = true;
	pthread_setname_np(vm->lifecycle, "vm");
	pthread_mutex_lock(&vm->lock);
	if (!vm->held)
		vm->want = VM_WANT_RUN;
	pthread_cond_broadcast(&vm->changed);
	pthread_mutex_unlock(&vm->lock);
	return 0;
}

/* World lock held, as below. */
static void stop(struct vm *vm)
{
	barrier_stop_world(vm);
	board_quiesce(vm->board);
}

static void go_on(struct vm *vm)
{
	/* The clock first: the RTC catches up with it. A vcpu's kick in between waits in its ring.
	 */
	barrier_resume_world(vm);
	board_resume(vm->board);
}

/*
 * Guest time jumps to where the wall clock is, all clocks of the guest with it.
 * What came due meanwhile comes due at once, before the guest's next
 * instruction that interrupts may precede, and its watchdogs are told that it
 * was not the guest who slept.
 */
static void clock_catch_up(struct vm *vm)
{
	struct vclock *clock = vm->board->clock;
	uint64_t late_ns = vclock_wall_ns(clock, 0) - vm->held_base_ns;

	/* The host's wall clock may have been set back, or be another host's. */
	if ((int64_t)late_ns > 0)
		vclock_set_ns(clock, vclock_now_ns(clock) + late_ns);
	for (unsigned i = 0; i < vm->vcpu_count; i++)
		kvmclock_guest_stopped(vm->vcpus[i]);
}

int vm_pause(struct vm *vm)
{
	pthread_mutex_lock(&vm->world);
	if (!vm->started || vm->ended) {
		pthread_mutex_unlock(&vm->world);
		return -ECANCELED;
	}
	if (!vm->held)
		stop(vm);
	return 0;
}

void vm_resume(struct vm *vm)
{
	if (!vm->held)
		go_on(vm);
	pthread_mutex_unlock(&vm->world);
}

int vm_hold(struct vm *vm)
{
	int rc = vm_pause(vm);

	if (rc < 0)
		return rc;
	if (vm->held) {
		rc = -EALREADY;
	} else {
		vm->held = true;
		vm->held_base_ns = vclock_wall_ns(vm->board->clock, 0);
	}
	pthread_mutex_unlock(&vm->world);
	return rc;
}

int vm_release(struct vm *vm)
{
	int rc = vm_pause(vm);

	if (rc < 0)
		return rc;
	if (vm->held) {
		vm->held = false;
		clock_catch_up(vm);
	} else {
		rc = -EALREADY;
	}
	vm_resume(vm);
	return rc;
}

bool vm_is_held(const struct vm *vm)
{
	return vm->held;
}

int vm_ended_fd(const struct vm *vm)
{
	return vm->ended_fd;
}

void vm_wait(struct vm *vm, struct vm_end *end)
{
	pthread_mutex_lock(&vm->lock);
	while (!vm->ended)
		pthread_cond_wait(&vm->changed, &vm->lock);
	pthread_mutex_unlock(&vm->lock);
	pthread_mutex_lock(&vm->stop_lock);
	*end = vm->stop_requested;
	pthread_mutex_unlock(&vm->stop_lock);
}

unsigned vm_reset_count(const struct vm *vm)
{
	return atomic_load(&vm->resets);
}

struct board *vm_board(struct vm *vm)
{
	return vm->board;
}

struct vcpu *vm_vcpu(struct vm *vm, unsigned index)
{
	ASSERT(index < vm->vcpu_count);
	return vm->vcpus[index];
}

unsigned vm_vcpu_count(const struct vm *vm)
{
	return vm->vcpu_count;
}

const char *vm_boot_protocol(const struct vm *vm)
{
	return vm->entry.protocol;
}

void vm_engine_stats(const struct vm *vm, struct engine_stats *stats)
{
	*stats = (struct engine_stats){ 0 };
	for (unsigned i = 0; i < vm->vcpu_count; i++) {
		const uint64_t *from = (const uint64_t *)&vm->threads[i].stats;
		uint64_t *to = (uint64_t *)stats;

		for (size_t n = 0; n < sizeof(*stats) / sizeof(*to); n++)
			to[n] += from[n];
	}
}
