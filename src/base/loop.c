/*
 * The event loop over epoll. Owned by the VM, used by every back end.
 * Invariant: a watch is freed only by the loop's thread between batches of
 * events (or when the loop goes), so an event already fetched from the kernel
 * never meets freed memory.
 */
#include "base/loop.h"

#include "base/assert.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define BATCH 32

struct loop_fd {
	struct loop *loop;
	int fd;
	bool removed; /* guarded by the loop's lock */
	void (*ready)(void *ctx, uint32_t events);
	void *ctx;
	struct loop_fd *prev, *next; /* in watches or removed; guarded by the loop's lock */
};

struct loop {
	int epoll_fd;
	int wake_fd;
	_Atomic bool stopping;

	pthread_mutex_t lock;
	pthread_cond_t idle; /* what `running` was has returned */
	const void *running; /* the watch or task whose callback is under way */
	bool live;           /* some thread is in loop_run or about to enter it */
	bool started;        /* by loop_start, and not joined yet */
	bool awake;          /* will look at the tasks before it sleeps */
	pthread_t thread;    /* valid while live or started */
	struct loop_task *first_task, **last_task;
	struct loop_fd *watches;
	struct loop_fd *removed; /* to be freed between two batches */
};

static void wake(struct loop *loop)
{
	uint64_t one = 1;

	/* EAGAIN: the counter is full, so the loop is being woken anyway. */
	while (write(loop->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

struct loop *loop_new(void)
{
	struct loop *loop = calloc(1, sizeof(*loop));
	struct epoll_event event = { .events = EPOLLIN, .data.ptr = NULL };
	int error;

	if (!loop)
		return NULL;
	pthread_mutex_init(&loop->lock, NULL);
	pthread_cond_init(&loop->idle, NULL);
	loop->last_task = &loop->first_task;
	loop->wake_fd = -1;
	loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (loop->epoll_fd >= 0)
		loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (loop->wake_fd >= 0 &&
	    epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, loop->wake_fd, &event) == 0)
		return loop;
	error = errno;
	loop_free(loop);
	errno = error;
	return NULL;
}

static void free_list(struct loop_fd *watch)
{
	while (watch) {
		struct loop_fd *next = watch->next;
		free(watch);
		watch = next;
	}
}

void loop_free(struct loop *loop)
{
	if (!loop)
		return;
	loop_stop(loop);
	free_list(loop->watches);
	free_list(loop->removed);
	if (loop->wake_fd >= 0)
		close(loop->wake_fd);
	if (loop->epoll_fd >= 0)
		close(loop->epoll_fd);
	pthread_cond_destroy(&loop->idle);
	pthread_mutex_destroy(&loop->lock);
	free(loop);
}

static bool on_loop_thread(const struct loop *loop)
{
	return loop->live && pthread_equal(loop->thread, pthread_self());
}

bool loop_is_current(struct loop *loop)
{
	bool current;

	pthread_mutex_lock(&loop->lock);
	current = on_loop_thread(loop);
	pthread_mutex_unlock(&loop->lock);
	return current;
}

/* Lock held, released while waiting. */
static void wait_idle(struct loop *loop, const void *what)
{
	if (on_loop_thread(loop))
		return;
	while (loop->running == what)
		pthread_cond_wait(&loop->idle, &loop->lock);
}

/* Lock held, released around the callback. */
static void begin_call(struct loop *loop, const void *what)
{
	loop->running = what;
	pthread_mutex_unlock(&loop->lock);
}

static void end_call(struct loop *loop)
{
	pthread_mutex_lock(&loop->lock);
	loop->running = NULL;
	pthread_cond_broadcast(&loop->idle);
}

struct loop_fd *loop_add_fd(struct loop *loop, int fd, uint32_t events,
			    void (*ready)(void *ctx, uint32_t events), void *ctx)
{
	struct loop_fd *watch = calloc(1, sizeof(*watch));
	struct epoll_event event = { .events = events, .data.ptr = watch };
	int error = 0;

	if (!watch)
		return NULL;
	watch->loop = loop;
	watch->fd = fd;
	watch->ready = ready;
	watch->ctx = ctx;
	pthread_mutex_lock(&loop->lock);
	if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0) {
		error = errno;
	} else {
		watch->next = loop->watches;
		if (watch->next)
			watch->next->prev = watch;
		loop->watches = watch;
	}
	pthread_mutex_unlock(&loop->lock);
	if (!error)
		return watch;
	free(watch);
	errno = error;
	return NULL;
}

void loop_mod_fd(struct loop_fd *watch, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.ptr = watch };

	pthread_mutex_lock(&watch->loop->lock);
	if (!watch->removed)
		epoll_ctl(watch->loop->epoll_fd, EPOLL_CTL_MOD, watch->fd, &event);
	pthread_mutex_unlock(&watch->loop->lock);
}

void loop_remove_fd(struct loop_fd *watch)
{
	struct loop *loop;

	if (!watch)
		return;
	loop = watch->loop;
	pthread_mutex_lock(&loop->lock);
	ASSERT(!watch->removed);
	watch->removed = true;
	epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, watch->fd, NULL);
	if (watch->prev)
		watch->prev->next = watch->next;
	else
		loop->watches = watch->next;
	if (watch->next)
		watch->next->prev = watch->prev;
	/*
	 * On the removed list only once nobody looks at it: the loop may free
	 * what is there as soon as we let go of the lock.
	 */
	wait_idle(loop, watch);
	watch->prev = NULL;
	watch->next = loop->removed;
	loop->removed = watch;
	pthread_mutex_unlock(&loop->lock);
}

void loop_post(struct loop *loop, struct loop_task *task)
{
	bool asleep = false;

	pthread_mutex_lock(&loop->lock);
	if (!task->queued && !task->cancelling) {
		task->queued = true;
		task->next = NULL;
		*loop->last_task = task;
		loop->last_task = &task->next;
		asleep = !loop->awake;
		/* One wake is enough for all who post until it has happened. */
		loop->awake = true;
	}
	pthread_mutex_unlock(&loop->lock);
	if (asleep)
		wake(loop);
}

struct call {
	struct loop_task task;
	struct loop *loop;
	void (*run)(void *ctx);
	void *ctx;
	bool done; /* guarded by the loop's lock */
};

static void run_call(void *ctx)
{
	struct call *call = ctx;

	call->run(call->ctx);
	pthread_mutex_lock(&call->loop->lock);
	call->done = true;
	pthread_mutex_unlock(&call->loop->lock);
}

void loop_call(struct loop *loop, void (*run)(void *ctx), void *ctx)
{
	struct call call = { .loop = loop, .run = run, .ctx = ctx };
	bool here;

	pthread_mutex_lock(&loop->lock);
	here = !loop->live || on_loop_thread(loop);
	pthread_mutex_unlock(&loop->lock);
	if (here) {
		run(ctx);
		return;
	}
	loop_task_init(&call.task, run_call, &call);
	loop_post(loop, &call.task);
	pthread_mutex_lock(&loop->lock);
	/* `done` comes a moment before the loop lets go of the task: wait for both. */
	while (loop->live && (!call.done || loop->running == &call.task))
		pthread_cond_wait(&loop->idle, &loop->lock);
	here = !call.done;
	pthread_mutex_unlock(&loop->lock);
	if (!here)
		return;
	/* The loop stopped first. */
	loop_cancel(loop, &call.task);
	run(ctx);
}

void loop_cancel(struct loop *loop, struct loop_task *task)
{
	struct loop_task **link;

	pthread_mutex_lock(&loop->lock);
	for (link = &loop->first_task; *link && *link != task; link = &(*link)->next)
		;
	if (*link) {
		*link = task->next;
		if (!*link)
			loop->last_task = link;
		task->queued = false;
	}
	/* Without the mark a task that always posts itself could be running whenever we look. */
	task->cancelling++;
	wait_idle(loop, task);
	task->cancelling--;
	pthread_mutex_unlock(&loop->lock);
}

/*
 * Lock held. Only what was queued at the start, so that a task which posts itself
 * cannot starve the descriptors.
 */
static void run_tasks(struct loop *loop)
{
	unsigned count = 0;

	for (struct loop_task *task = loop->first_task; task; task = task->next)
		count++;
	while (count-- && loop->first_task) {
		struct loop_task *task = loop->first_task;
		void (*run)(void *ctx) = task->run;
		void *ctx = task->ctx;

		loop->first_task = task->next;
		if (!loop->first_task)
			loop->last_task = &loop->first_task;
		task->queued = false;
		begin_call(loop, task);
		run(ctx);
		end_call(loop);
	}
}

/* Lock held. */
static void run_ready(struct loop *loop, const struct epoll_event *event)
{
	struct loop_fd *watch = event->data.ptr;
	uint64_t count;

	if (!watch) {
		while (read(loop->wake_fd, &count, sizeof(count)) < 0 && errno == EINTR)
			;
		return;
	}
	if (watch->removed)
		return;
	begin_call(loop, watch);
	watch->ready(watch->ctx, event->events);
	end_call(loop);
}

void loop_run(struct loop *loop)
{
	pthread_mutex_lock(&loop->lock);
	loop->thread = pthread_self();
	loop->live = true;
	while (!atomic_load(&loop->stopping)) {
		struct epoll_event events[BATCH];
		bool busy = loop->first_task != NULL;
		int count;

		/* A task queued now does not let us sleep; one queued later writes to wake_fd. */
		loop->awake = busy;
		pthread_mutex_unlock(&loop->lock);
		count = epoll_wait(loop->epoll_fd, events, BATCH, busy ? 0 : -1);
		pthread_mutex_lock(&loop->lock);
		loop->awake = true;
		for (int i = 0; i < count; i++)
			run_ready(loop, &events[i]);
		run_tasks(loop);
		free_list(loop->removed);
		loop->removed = NULL;
	}
	loop->live = false;
	/* Whoever waits in loop_call must help himself now. */
	pthread_cond_broadcast(&loop->idle);
	pthread_mutex_unlock(&loop->lock);
}

static void *loop_thread(void *arg)
{
	pthread_setname_np(pthread_self(), "loop");
	loop_run(arg);
	return NULL;
}

int loop_start(struct loop *loop)
{
	sigset_t all, before;
	int error;

	atomic_store(&loop->stopping, false);
	/* Signals are for the threads that expect them; a SIGPIPE here becomes EPIPE. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	pthread_mutex_lock(&loop->lock);
	error = pthread_create(&loop->thread, NULL, loop_thread, loop);
	loop->started = loop->live = !error;
	pthread_mutex_unlock(&loop->lock);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return -error;
}

void loop_stop(struct loop *loop)
{
	bool join;

	atomic_store(&loop->stopping, true);
	if (loop->wake_fd >= 0)
		wake(loop);
	pthread_mutex_lock(&loop->lock);
	join = loop->started && !on_loop_thread(loop);
	if (join)
		loop->started = false;
	pthread_mutex_unlock(&loop->lock);
	if (join)
		pthread_join(loop->thread, NULL);
}
