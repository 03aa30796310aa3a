/*
 * The VM's event loop: one thread that waits for file descriptors and runs
 * tasks that other threads post. Back ends (disks, consoles, sockets) live on
 * it; vcpu threads only post.
 *
 * All callbacks run on the loop's thread with no lock of the loop held.
 */
#ifndef INSULA_BASE_LOOP_H
#define INSULA_BASE_LOOP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>

struct loop;
struct loop_fd;

/* NULL with errno on failure. */
struct loop *loop_new(void);
/* Stops the thread if it runs. Descriptors still registered are forgotten, not closed. */
void loop_free(struct loop *loop);

/* A thread of its own. 0 or -errno. */
int loop_start(struct loop *loop) __attribute__((warn_unused_result));
/* Any thread. Joins the thread of loop_start, unless called on it; makes loop_run return. */
void loop_stop(struct loop *loop);
/* Instead of loop_start: the caller's thread is the loop's thread until loop_stop. */
void loop_run(struct loop *loop);
/* True on the thread that runs the loop's callbacks. */
bool loop_is_current(struct loop *loop);

/*
 * Watches fd, which stays the caller's, for EPOLLIN, EPOLLOUT and so on;
 * level-triggered unless events has EPOLLONESHOT or EPOLLET. NULL with errno;
 * EPERM: the file is of a kind that is always ready (regular files,
 * /dev/null).
 */
struct loop_fd *loop_add_fd(struct loop *loop, int fd, uint32_t events,
			    void (*ready)(void *ctx, uint32_t events), void *ctx);
/* Also re-arms EPOLLONESHOT. Any thread. */
void loop_mod_fd(struct loop_fd *watch, uint32_t events);
/*
 * Any thread, also inside its own or another's callback. When it returns the
 * callback neither runs nor will, except the one it was called from, and fd
 * may be closed. The caller must hold no lock that the callback takes. NULL is
 * fine.
 */
void loop_remove_fd(struct loop_fd *watch);

/*
 * A task: embedded in whatever it works for, so that posting allocates
 * nothing. Posting a task that is already queued does nothing: a task means
 * "there is something to do", not how often.
 */
struct loop_task {
	void (*run)(void *ctx);
	void *ctx;
	struct loop_task *next; /* guarded by the loop's lock */
	bool queued;            /* guarded by the loop's lock */
	unsigned cancelling; /* threads that wait in cancel: posting does nothing; the same lock */
};

static inline void loop_task_init(struct loop_task *task, void (*run)(void *ctx), void *ctx)
{
	*task = (struct loop_task){ .run = run, .ctx = ctx };
}

/*
 * Any thread; a short lock and, if the loop may be asleep, one write. Tasks run in
 * the order posted.
 */
void loop_post(struct loop *loop, struct loop_task *task);
/*
 * Runs `run` on the loop's thread and returns when it has; on the caller's if
 * that is the loop's or the loop has none now. The caller must hold no lock
 * that a callback takes.
 */
void loop_call(struct loop *loop, void (*run)(void *ctx), void *ctx);
/* When it returns the task neither runs nor is queued, except if called from the task itself. */
void loop_cancel(struct loop *loop, struct loop_task *task);

#endif
