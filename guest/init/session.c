/*
 * One command for the monitor, over docs/formats/agent.md. A single poll loop
 * moves bytes between the port and the command's pipes or pseudo-terminal.
 *
 * Invariant: output is read from the command only when there is credit for it
 * and room in the frame buffer, so nothing here grows and nothing is lost.
 */
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "vm/agent_wire.h"

#define OUT_SIZE       (64u << 10)
#define EXIT_LINGER_MS 2000

struct session {
	int port, signals;
	bool greeted;  /* the monitor has answered HELLO */
	bool finished; /* EXIT is queued */
	bool over;     /* leave the loop */

	pid_t shell; /* a shell on the console beside us, or 0 */
	pid_t child;
	bool child_gone;
	int status;
	bool tty;
	int in, out[3]; /* our ends; -1 closed; out[1], out[2] */

	uint32_t credit[3]; /* of streams 1 and 2 */

	uint8_t stdin_ring[WIRE_WINDOW];
	uint32_t stdin_head, stdin_len;
	bool stdin_ended;
	uint32_t stdin_consumed; /* to be returned as credit */

	uint8_t frames[OUT_SIZE]; /* to the monitor */
	uint32_t frames_head, frames_len;

	uint8_t reader_bytes[WIRE_HEADER_LEN + WIRE_PAYLOAD_MAX];
	struct wire_reader reader;
};

static uint32_t frames_room(const struct session *s)
{
	return OUT_SIZE - s->frames_len;
}

/* The caller has looked at frames_room(). */
static void frame_put(struct session *s, enum wire_type type, uint8_t stream, const void *payload,
		      uint32_t len)
{
	if (frames_room(s) < WIRE_HEADER_LEN + len)
		return;
	if (s->frames_head) {
		memmove(s->frames, s->frames + s->frames_head, s->frames_len);
		s->frames_head = 0;
	}
	wire_header(s->frames + s->frames_len, len, type, stream);
	if (len)
		memcpy(s->frames + s->frames_len + WIRE_HEADER_LEN, payload, len);
	s->frames_len += WIRE_HEADER_LEN + len;
}

static void frame_put32(struct session *s, enum wire_type type, uint8_t stream, uint32_t value)
{
	uint8_t bytes[4];

	wire_store32(bytes, value);
	frame_put(s, type, stream, bytes, 4);
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* --- the command --- */

struct command {
	bool tty;
	uint16_t rows, columns;
	const char *cwd;
	char **argv, **env;
};

static const char *next_string(const uint8_t **at, const uint8_t *end)
{
	const char *string = (const char *)*at;
	const uint8_t *nul = memchr(*at, 0, (size_t)(end - *at));

	if (!nul)
		return NULL;
	*at = nul + 1;
	return string;
}

/* Our settings, the monitor's over them. */
static char **environment_merge(char **given, uint32_t count)
{
	size_t base = 0;
	char **env;

	while (init_environment[base])
		base++;
	env = calloc(base + count + 1, sizeof(*env));
	if (!env)
		return NULL;
	size_t used = 0;

	for (size_t i = 0; i < base + count; i++) {
		char *setting = i < base ? init_environment[i] : given[i - base];
		size_t name_len = strcspn(setting, "="), j = 0;

		while (j < used && (strncmp(env[j], setting, name_len) || env[j][name_len] != '='))
			j++;
		env[j] = setting;
		if (j == used)
			used++;
	}
	return env;
}

static bool command_parse(const struct wire_frame *frame, struct command *command)
{
	const uint8_t *at = frame->payload + WIRE_RUN_HEAD, *end = frame->payload + frame->len;

	if (frame->len < WIRE_RUN_HEAD)
		return false;
	uint32_t argc = wire_load32(frame->payload + 8), envc = wire_load32(frame->payload + 12);

	if (argc < 1 || argc > frame->len || envc > frame->len)
		return false;
	command->tty = wire_load32(frame->payload) & WIRE_RUN_TTY;
	command->rows = wire_load16(frame->payload + 4);
	command->columns = wire_load16(frame->payload + 6);
	command->cwd = next_string(&at, end);
	command->argv = calloc(argc + 1, sizeof(char *));
	char **env = calloc(envc + 1, sizeof(char *));

	if (!command->cwd || !command->argv || !env)
		return false;
	for (uint32_t i = 0; i < argc; i++) {
		if (!(command->argv[i] = (char *)next_string(&at, end)))
			return false;
	}
	for (uint32_t i = 0; i < envc; i++) {
		if (!(env[i] = (char *)next_string(&at, end)))
			return false;
	}
	command->env = environment_merge(env, envc);
	return command->env;
}

static void child_fail(const char *what)
{
	int err = errno;

	dprintf(2, "insula: %s: %s\n", what, strerror(err));
	_exit(err == ENOENT || err == ENOTDIR ? 127 : 126);
}

/* In the child, with its streams in place. */
static void child_exec(const struct command *command)
{
	const char *cwd = command->cwd[0] ? command->cwd : "/root";
	sigset_t none;

	user_enter();
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	if (chdir(cwd))
		child_fail(cwd);
	environ = command->env;
	execvp(command->argv[0], command->argv);
	child_fail(command->argv[0]);
}

static bool command_start_tty(struct session *s, const struct command *command)
{
	struct winsize size = { .ws_row = command->rows, .ws_col = command->columns };
	int master;

	s->child = forkpty(&master, NULL, NULL, &size);
	if (s->child == 0)
		child_exec(command);
	if (s->child < 0)
		return false;
	fcntl(master, F_SETFD, FD_CLOEXEC);
	s->in = master;
	s->out[1] = dup(master);
	return s->out[1] >= 0;
}

static bool command_start_pipes(struct session *s, const struct command *command)
{
	int pipes[3][2];

	for (int i = 0; i < 3; i++) {
		if (pipe2(pipes[i], O_CLOEXEC))
			return false;
	}
	s->child = fork();
	if (s->child == 0) {
		setsid();
		dup2(pipes[0][0], 0);
		dup2(pipes[1][1], 1);
		dup2(pipes[2][1], 2);
		child_exec(command);
	}
	close(pipes[0][0]);
	close(pipes[1][1]);
	close(pipes[2][1]);
	s->in = pipes[0][1];
	s->out[1] = pipes[1][0];
	s->out[2] = pipes[2][0];
	return s->child > 0;
}

static void command_start(struct session *s, const struct wire_frame *frame)
{
	struct command command = { 0 };

	if (s->child || s->finished)
		return;
	if (!command_parse(frame, &command)) {
		s->over = true;
		return;
	}
	s->tty = command.tty;
	if (!(s->tty ? command_start_tty(s, &command) : command_start_pipes(s, &command))) {
		s->child = -1;
		s->child_gone = true;
		s->status = 126;
		return;
	}
	for (int stream = 1; stream <= 2; stream++) {
		if (s->out[stream] >= 0)
			fcntl(s->out[stream], F_SETFL, O_NONBLOCK);
	}
	fcntl(s->in, F_SETFL, O_NONBLOCK);
}

static void children_reap(struct session *s)
{
	struct signalfd_siginfo info;
	int status;
	pid_t pid;

	while (read(s->signals, &info, sizeof(info)) > 0)
		;
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		if (pid == s->shell)
			s->over = true;
		if (pid != s->child)
			continue;
		s->child_gone = true;
		s->status = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
	}
}

/* --- moving bytes --- */

/* Output of one stream into a frame. True if the stream has nothing more for now. */
static bool output_move(struct session *s, int stream)
{
	static uint8_t bytes[WIRE_DATA_MAX];
	uint32_t most = frames_room(s) > WIRE_HEADER_LEN ? frames_room(s) - WIRE_HEADER_LEN : 0;

	if (most > sizeof(bytes))
		most = sizeof(bytes);
	if (most > s->credit[stream])
		most = s->credit[stream];
	if (s->out[stream] < 0)
		return true;
	if (!most)
		return false;
	ssize_t got = read(s->out[stream], bytes, most);

	if (got > 0) {
		s->credit[stream] -= (uint32_t)got;
		frame_put(s, WIRE_DATA, (uint8_t)stream, bytes, (uint32_t)got);
		return false;
	}
	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return true;
	/* End of file; EIO is how a pseudo-terminal says that its last user has gone. */
	close_fd(&s->out[stream]);
	return true;
}

static void input_move(struct session *s)
{
	while (s->stdin_len && s->in >= 0) {
		uint32_t piece = WIRE_WINDOW - s->stdin_head;

		if (piece > s->stdin_len)
			piece = s->stdin_len;
		ssize_t put = write(s->in, s->stdin_ring + s->stdin_head, piece);

		if (put < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (put < 0) { /* nobody reads any more: what comes is swallowed */
			close_fd(&s->in);
			break;
		}
		s->stdin_head = (s->stdin_head + (uint32_t)put) % WIRE_WINDOW;
		s->stdin_len -= (uint32_t)put;
		s->stdin_consumed += (uint32_t)put;
	}
	if (s->in < 0) {
		s->stdin_consumed += s->stdin_len;
		s->stdin_len = 0;
	} else if (s->stdin_ended && !s->stdin_len) {
		if (s->tty)
			s->stdin_ended =
				write(s->in, "\4", 1) != 1; /* as a terminal's user says it */
		else
			close_fd(&s->in);
	}
}

static void input_take(struct session *s, const struct wire_frame *frame)
{
	if (frame->len >
	    WIRE_WINDOW - s->stdin_len) { /* beyond its credit: the monitor is broken */
		s->over = true;
		return;
	}
	for (uint32_t i = 0; i < frame->len; i++)
		s->stdin_ring[(s->stdin_head + s->stdin_len + i) % WIRE_WINDOW] = frame->payload[i];
	s->stdin_len += frame->len;
}

static void frame_act(struct session *s, const struct wire_frame *frame)
{
	switch (frame->type) {
	case WIRE_HELLO:
		s->greeted = true;
		break;
	case WIRE_RUN:
		command_start(s, frame);
		break;
	case WIRE_DATA:
		input_take(s, frame);
		break;
	case WIRE_EOF:
		s->stdin_ended = true;
		break;
	case WIRE_CREDIT:
		if (frame->len == 4 && (frame->stream == 1 || frame->stream == 2))
			s->credit[frame->stream] += wire_load32(frame->payload);
		break;
	case WIRE_WINSIZE:
		if (frame->len == 4 && s->tty && s->in >= 0) {
			struct winsize size = { .ws_row = wire_load16(frame->payload),
						.ws_col = wire_load16(frame->payload + 2) };
			ioctl(s->in, TIOCSWINSZ, &size);
		}
		break;
	case WIRE_SIGNAL:
		if (frame->len == 4 && s->child > 0 && !s->child_gone)
			kill(-s->child, (int)wire_load32(frame->payload));
		break;
	case WIRE_HOLD:
		user_hold(true);
		frame_put(s, WIRE_HELD, 0, NULL, 0);
		break;
	case WIRE_RENEW:
		renew(frame->payload, frame->len);
		break;
	case WIRE_POWER_OFF:
		s->over = true;
		break;
	}
}

static void port_read(struct session *s)
{
	static uint8_t bytes[32768];
	ssize_t got = read(s->port, bytes, sizeof(bytes));

	if (got == 0) {
		/* The monitor's end is closed. Before its first word it has not been opened yet. */
		if (s->greeted)
			s->over = true;
		else
			nanosleep(&(struct timespec){ 0, 2000000 }, NULL);
		return;
	}
	for (ssize_t at = 0; at < got && !s->over;) {
		struct wire_frame frame;

		at += (ssize_t)wire_feed(&s->reader, bytes + at, (size_t)(got - at));
		int ready = wire_next(&s->reader, &frame);

		if (ready < 0)
			s->over = true;
		if (ready > 0) {
			frame_act(s, &frame);
			wire_drop(&s->reader);
		}
	}
}

static void port_write(struct session *s)
{
	ssize_t put = s->frames_len ? write(s->port, s->frames + s->frames_head, s->frames_len) : 0;

	if (put <= 0)
		return;
	s->frames_head += (uint32_t)put;
	s->frames_len -= (uint32_t)put;
	if (!s->frames_len)
		s->frames_head = 0;
}

/* The command is gone and what it wrote is in frames: unmount, then say so. */
static void session_finish(struct session *s)
{
	if (frames_room(s) < WIRE_HEADER_LEN + 4)
		return;
	init_quiesce();
	frame_put32(s, WIRE_EXIT, 0, (uint32_t)s->status & 0xff);
	s->finished = true;
}

static void session_turn(struct session *s)
{
	bool idle[3] = { true, true, true };

	input_move(s);
	if (s->stdin_consumed >= WIRE_WINDOW / 4 || (s->stdin_consumed && !s->stdin_len)) {
		if (frames_room(s) >= WIRE_HEADER_LEN + 4) {
			frame_put32(s, WIRE_CREDIT, 0, s->stdin_consumed);
			s->stdin_consumed = 0;
		}
	}
	for (int stream = 1; stream <= 2 && s->child && !s->finished; stream++) {
		do {
			idle[stream] = output_move(s, stream);
		} while (!idle[stream] && s->credit[stream] && frames_room(s) > WIRE_DATA_MAX);
	}
	if (s->child_gone && !s->finished && idle[1] && idle[2])
		session_finish(s);
	port_write(s);
}

static void session_poll(struct session *s, int timeout_ms)
{
	bool frames_tight = frames_room(s) <= WIRE_HEADER_LEN;
	struct pollfd fds[5] = {
		{ .fd = s->port, .events = (short)(POLLIN | (s->frames_len ? POLLOUT : 0)) },
		{ .fd = s->signals, .events = POLLIN },
		{ .fd = s->stdin_len ? s->in : -1, .events = POLLOUT },
		{ .fd = s->credit[1] && !frames_tight && !s->finished ? s->out[1] : -1,
		  .events = POLLIN },
		{ .fd = s->credit[2] && !frames_tight && !s->finished ? s->out[2] : -1,
		  .events = POLLIN },
	};

	if (poll(fds, 5, timeout_ms) < 0 && errno != EINTR)
		s->over = true;
	if (fds[1].revents)
		children_reap(s);
	if (fds[0].revents & (POLLIN | POLLHUP | POLLERR))
		port_read(s);
}

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

void session_serve(int port, pid_t shell)
{
	static struct session s;
	uint8_t hello[WIRE_MAGIC_LEN + 4];
	sigset_t chld;
	int64_t deadline = 0;

	s = (struct session){ .port = port, .shell = shell, .in = -1, .out = { -1, -1, -1 } };
	s.reader = (struct wire_reader){ .buffer = s.reader_bytes,
					 .capacity = sizeof(s.reader_bytes) };
	s.credit[1] = s.credit[2] = WIRE_WINDOW;
	sigemptyset(&chld);
	sigaddset(&chld, SIGCHLD);
	sigprocmask(SIG_BLOCK, &chld, NULL);
	s.signals = signalfd(-1, &chld, SFD_CLOEXEC | SFD_NONBLOCK);
	children_reap(&s); /* one that ended before the signal was ours */

	memcpy(hello, WIRE_MAGIC, WIRE_MAGIC_LEN);
	wire_store32(hello + WIRE_MAGIC_LEN, WIRE_VERSION);
	frame_put(&s, WIRE_HELLO, 0, hello, sizeof(hello));
	while (!s.over) {
		session_turn(&s);
		if (s.finished && !deadline)
			deadline = now_ms() + EXIT_LINGER_MS;
		/* After EXIT the monitor stops the machine; should it not, we end by ourselves. */
		if (deadline && now_ms() >= deadline)
			break;
		session_poll(&s, deadline ? 50 : -1);
	}
	if (s.shell && s.finished)
		kill(s.shell, SIGHUP);
}
