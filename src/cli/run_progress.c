/* See the header. Invariant: nothing is written once run_progress_done() was called. */
#include "cli/run_progress.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/loop.h"

#define FIRST_AFTER_S 2

struct run_progress {
	const char *what;
	int fd;
	struct loop_fd *watch;
	unsigned seconds; /* loop's thread */
	bool done;
};

static void tick(void *ctx, uint32_t events)
{
	struct run_progress *p = ctx;
	uint64_t count;

	if (read(p->fd, &count, sizeof(count)) != sizeof(count) || p->done)
		return;
	p->seconds = p->seconds ? p->seconds + (unsigned)count : FIRST_AFTER_S;
	fprintf(stderr, "\r\033[Kinsula: booting %s, %u s", p->what, p->seconds);
	fflush(stderr);
}

struct run_progress *run_progress_new(struct loop *loop, const char *what)
{
	const struct itimerspec times = { .it_value.tv_sec = FIRST_AFTER_S,
					  .it_interval.tv_sec = 1 };
	struct run_progress *p;

	if (!isatty(STDERR_FILENO))
		return NULL;
	p = calloc(1, sizeof(*p));
	if (!p)
		return NULL;
	p->what = what;
	p->fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	if (p->fd >= 0)
		p->watch = loop_add_fd(loop, p->fd, EPOLLIN, tick, p);
	if (!p->watch || timerfd_settime(p->fd, 0, &times, NULL) < 0) {
		run_progress_free(p);
		return NULL;
	}
	return p;
}

void run_progress_done(struct run_progress *p)
{
	if (!p || p->done)
		return;
	p->done = true;
	if (p->seconds)
		fputs("\r\033[K", stderr);
	fflush(stderr);
}

void run_progress_free(struct run_progress *p)
{
	if (!p)
		return;
	loop_remove_fd(p->watch);
	if (p->fd >= 0)
		close(p->fd);
	free(p);
}
