/*
 * insula console: the terminal of a running VM, until Ctrl-] q. The monitor
 * hands its connection to the guest's terminal; we copy bytes both ways.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "api/control_client.h"
#include "cli/terminal.h"
#include "cli/verb.h"
#include "cli/verb_control.h"

#define CHUNK 4096

static json_t *with_size(const char *verb)
{
	json_t *request = json_pack("{s:s}", "verb", verb);
	uint16_t rows, cols;

	if (terminal_size(STDIN_FILENO, &rows, &cols) && rows && cols) {
		json_object_set_new(request, "rows", json_integer(rows));
		json_object_set_new(request, "cols", json_integer(cols));
	}
	return request;
}

static bool write_all(int fd, const void *bytes, size_t len)
{
	const char *at = bytes;

	while (len) {
		ssize_t put = write(fd, at, len);

		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0)
			return false;
		at += put;
		len -= (size_t)put;
	}
	return true;
}

/* The connection is the terminal now: its size is told by another. */
static void tell_size(const char *name)
{
	struct control_client *other = malloc(sizeof(*other));
	char error[CONTROL_CLIENT_ERROR_MAX];
	json_t *answer = NULL;

	if (other && control_client_open(other, name, error) == 0) {
		if (control_client_call(other, with_size("resize"), 1000, &answer, error) == 0)
			json_decref(answer);
		control_client_close(other);
	}
	free(other);
}

/* True: the keys to leave were pressed, or there is no more input. */
static bool copy_input(int to, struct escape *escape, bool raw)
{
	uint8_t in[CHUNK], out[2 * CHUNK];
	ssize_t got = read(STDIN_FILENO, in, sizeof(in));
	bool quit = false;
	size_t len;

	if (got < 0 && errno == EINTR)
		return false;
	if (got <= 0)
		return true;
	if (!raw)
		return !write_all(to, in, (size_t)got);
	len = escape_filter(escape, in, (size_t)got, out, &quit);
	return !write_all(to, out, len) || quit;
}

static int watch_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGWINCH);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static void copy(struct control_client *client, const char *name, bool raw)
{
	struct pollfd fds[3] = { { .fd = STDIN_FILENO, .events = POLLIN },
				 { .fd = client->fd, .events = POLLIN },
				 { .fd = watch_signals(), .events = POLLIN } };
	struct escape escape = { false };
	struct signalfd_siginfo info;
	uint8_t bytes[CHUNK];
	long got;

	signal(SIGPIPE, SIG_IGN);
	for (;;) {
		if (!client->len && poll(fds, 3, -1) < 0 && errno != EINTR)
			return;
		if (client->len || (fds[1].revents & (POLLIN | POLLHUP | POLLERR))) {
			got = control_client_read(client, bytes, sizeof(bytes));
			if (got <= 0 || !write_all(STDOUT_FILENO, bytes, (size_t)got))
				return;
		}
		if ((fds[0].revents & (POLLIN | POLLHUP | POLLERR)) &&
		    copy_input(client->fd, &escape, raw)) {
			if (raw)
				return;
			/* A file or pipe that was typed has ended: what the guest says is still
			 * shown. */
			fds[0].fd = -1;
		}
		while (fds[2].fd >= 0 && read(fds[2].fd, &info, sizeof(info)) == sizeof(info)) {
			if (info.ssi_signo != SIGWINCH)
				return;
			tell_size(name);
		}
	}
}

static int console_verb(const struct verb *verb, int argc, char **argv)
{
	struct control_client *client;
	json_t *answer;
	const char *name;
	bool raw;
	int status = control_words(verb, argc, argv, &name, NULL, NULL);

	if (status >= 0)
		return status;
	client = control_open(name);
	if (!client)
		return STATUS_HOST_ERROR;
	answer = control_ask(client, with_size("console"));
	if (!answer) {
		control_close(client);
		return STATUS_HOST_ERROR;
	}
	json_decref(answer);
	if (isatty(STDIN_FILENO))
		fprintf(stderr, "insula: the terminal of %s; Ctrl-] then q leaves it\n", name);
	raw = terminal_raw(STDIN_FILENO);
	copy(client, name, raw);
	terminal_restore();
	control_close(client);
	return STATUS_OK;
}

const struct verb verb_console = {
	.name = "console",
	.arguments = "VM",
	.summary = "the terminal of a running VM",
	.about = "Several may look at it at once. Ctrl-] then q leaves it, and the VM runs on.\n"
		 "Input that is no terminal is typed; what the guest says is shown until a signal\n"
		 "or the VM ends it.\n",
	.run = console_verb,
};
