/*
 * Raw mode and the ways back. Called by `insula run`. The only file-scope state
 * of the program besides logging: exit handlers and signal handlers take no
 * argument, and a process has one terminal.
 */
#include "cli/terminal.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

static struct termios saved;
static volatile sig_atomic_t raw_fd = -1;

/* Async-signal-safe. */
void terminal_restore(void)
{
	int fd = raw_fd;

	if (fd < 0)
		return;
	raw_fd = -1;
	tcsetattr(fd, TCSANOW, &saved);
}

static void crash(int number)
{
	terminal_restore();
	/* Die of the same signal, with a core. An engine's handler may have called us: the action
	 * is its own. */
	signal(number, SIG_DFL);
	raise(number);
}

static void install_ways_back(void)
{
	static const int fatal[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS, SIGTRAP };
	static bool installed;
	struct sigaction action = { .sa_handler = crash, .sa_flags = SA_ONSTACK };

	if (installed)
		return;
	installed = true;
	atexit(terminal_restore);
	for (size_t i = 0; i < sizeof(fatal) / sizeof(fatal[0]); i++) {
		struct sigaction old;

		/* An engine that handles its own faults keeps doing so. */
		if (sigaction(fatal[i], NULL, &old) == 0 && old.sa_handler == SIG_DFL)
			sigaction(fatal[i], &action, NULL);
	}
}

bool terminal_raw(int fd)
{
	struct termios raw;
	sigset_t set, old;
	bool ok;

	if (!isatty(fd) || tcgetattr(fd, &raw) < 0)
		return false;
	install_ways_back();
	if (raw_fd < 0)
		saved = raw;
	cfmakeraw(&raw);
	/* A background process that touches its terminal would be stopped: it had better not be. */
	sigemptyset(&set);
	sigaddset(&set, SIGTTOU);
	pthread_sigmask(SIG_BLOCK, &set, &old);
	raw_fd = fd;
	ok = tcsetattr(fd, TCSANOW, &raw) == 0;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (!ok)
		raw_fd = -1;
	return ok;
}

bool terminal_size(int fd, uint16_t *rows, uint16_t *cols)
{
	struct winsize size;

	if (ioctl(fd, TIOCGWINSZ, &size) < 0)
		return false;
	*rows = size.ws_row;
	*cols = size.ws_col;
	return true;
}
