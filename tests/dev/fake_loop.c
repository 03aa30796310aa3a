/* See fake_loop.h. Single-threaded: no locks. */
#include "fake_loop.h"

#include <stdlib.h>

#include "base/assert.h"

#define FDS_MAX 16

struct loop_fd {
	struct loop *loop;
	void (*ready)(void *ctx, uint32_t events);
	void *ctx;
};

struct loop {
	struct loop_task *first, **last;
	struct loop_fd fds[FDS_MAX];
};

struct loop *loop_new(void)
{
	struct loop *loop = calloc(1, sizeof(*loop));

	if (loop)
		loop->last = &loop->first;
	return loop;
}

void loop_free(struct loop *loop)
{
	free(loop);
}

int loop_start(struct loop *loop)
{
	return 0;
}

void loop_stop(struct loop *loop)
{
}

void loop_run(struct loop *loop)
{
	fake_loop_pump(loop, 1000000);
}

bool loop_is_current(struct loop *loop)
{
	return true;
}

void loop_call(struct loop *loop, void (*run)(void *ctx), void *ctx)
{
	run(ctx);
}

struct loop_fd *loop_add_fd(struct loop *loop, int fd, uint32_t events,
			    void (*ready)(void *ctx, uint32_t events), void *ctx)
{
	for (unsigned i = 0; i < FDS_MAX; i++) {
		if (loop->fds[i].ready)
			continue;
		loop->fds[i] = (struct loop_fd){ loop, ready, ctx };
		return &loop->fds[i];
	}
	return NULL;
}

void loop_mod_fd(struct loop_fd *watch, uint32_t events)
{
}

void loop_remove_fd(struct loop_fd *watch)
{
	if (watch)
		watch->ready = NULL;
}

void loop_post(struct loop *loop, struct loop_task *task)
{
	if (task->queued)
		return;
	task->queued = true;
	task->next = NULL;
	*loop->last = task;
	loop->last = &task->next;
}

static struct loop_task *take_first(struct loop *loop)
{
	struct loop_task *task = loop->first;

	loop->first = task->next;
	if (!loop->first)
		loop->last = &loop->first;
	task->queued = false;
	return task;
}

void loop_cancel(struct loop *loop, struct loop_task *task)
{
	struct loop_task **link = &loop->first;

	while (*link && *link != task)
		link = &(*link)->next;
	if (!*link)
		return;
	*link = task->next;
	if (!*link)
		loop->last = link;
	task->queued = false;
}

bool fake_loop_pump(struct loop *loop, unsigned turns)
{
	/* Some rounds more than it takes to run out of tasks: an answer may start another request.
	 */
	for (unsigned quiet = 0; quiet < 3; quiet++) {
		while (loop->first && turns) {
			struct loop_task *task = take_first(loop);

			turns--;
			quiet = 0;
			task->run(task->ctx);
		}
		for (unsigned i = 0; i < FDS_MAX; i++)
			if (loop->fds[i].ready)
				loop->fds[i].ready(loop->fds[i].ctx, EPOLLIN);
	}
	return !loop->first;
}
