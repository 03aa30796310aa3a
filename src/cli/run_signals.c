/* See the header. Invariant: from run_signals_block() to run_signals_free() no signal of the set
 * acts by itself. */
#include "cli/run_signals.h"

#include <stdlib.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/loop.h"

struct run_signals {
	int fd;
	struct loop_fd *watch;
	void (*received)(void *ctx, int number);
	void *ctx;
};

static void read_set(sigset_t *set)
{
	static const int numbers[] = { SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGWINCH, SIGCONT };

	sigemptyset(set);
	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		sigaddset(set, numbers[i]);
}

static void blocked_set(sigset_t *set)
{
	read_set(set);
	sigaddset(set, SIGPIPE); /* a reader that has gone is an errno, not a death */
}

void run_signals_block(void)
{
	sigset_t set;

	blocked_set(&set);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
}

static void ready(void *ctx, uint32_t events)
{
	struct run_signals *signals = ctx;
	struct signalfd_siginfo info;

	while (read(signals->fd, &info, sizeof(info)) == sizeof(info))
		signals->received(signals->ctx, (int)info.ssi_signo);
}

struct run_signals *run_signals_new(struct loop *loop, void (*received)(void *ctx, int number),
				    void *ctx)
{
	struct run_signals *signals = calloc(1, sizeof(*signals));
	sigset_t set;

	if (!signals)
		return NULL;
	signals->received = received;
	signals->ctx = ctx;
	read_set(&set);
	signals->fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	if (signals->fd < 0)
		goto fail;
	signals->watch = loop_add_fd(loop, signals->fd, EPOLLIN, ready, signals);
	if (!signals->watch)
		goto fail;
	return signals;
fail:
	if (signals->fd >= 0)
		close(signals->fd);
	free(signals);
	return NULL;
}

void run_signals_free(struct run_signals *signals)
{
	sigset_t set;

	if (!signals)
		return;
	loop_remove_fd(signals->watch);
	close(signals->fd);
	free(signals);
	blocked_set(&set);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}
