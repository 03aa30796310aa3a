/*
 * The guest agent, both ends: the monitor's against the guest's own session
 * code in a child process, and against a guest that breaks the protocol.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../guest/init/init.h"
#include "base/loop.h"
#include "chardev/chardev.h"
#include "vm/agent.h"
#include "vm/agent_wire.h"

char *init_environment[] = { "PATH=/usr/bin:/bin", "HOME=/", "KEPT=1", "TERM=linux", NULL };

void init_quiesce(void)
{
}

/* What the guest was told, seen from its parent too. */
static struct seen {
	bool held;
	unsigned entered, renewed;
	uint32_t len;
	uint8_t payload[256];
} *seen;

void user_enter(void)
{
	seen->entered++;
}

void user_hold(bool hold)
{
	seen->held = hold;
}

void renew(const uint8_t *payload, uint32_t len)
{
	seen->renewed++;
	seen->len = len;
	memcpy(seen->payload, payload, len < sizeof(seen->payload) ? len : sizeof(seen->payload));
	user_hold(false);
}

struct fixture {
	struct loop *loop;
	struct agent *agent;
	struct loop_fd *watch, *wake;
	struct loop_task stop, steps;
	int lie, step;
	int fd; /* the port, as the board would have it */
	int wake_fd;
	pid_t guest;

	struct agent_command command;
	const uint8_t *input; /* for stdin */
	size_t input_len, input_done;
	bool hold_output; /* output is counted, not consumed */
	bool hold;        /* the guest is held, then renewed, before it gets its input */

	bool ready, exited, failed;
	int status;
	char sentence[128];
	size_t out_len[3];
	uint32_t out_sum[3];
	char out[3][4096];
};

static void stdin_push(struct fixture *f)
{
	if (f->input_done < f->input_len)
		f->input_done += agent_stdin(f->agent, f->input + f->input_done,
					     f->input_len - f->input_done);
	if (f->input_done == f->input_len)
		agent_stdin_eof(f->agent);
}

static void on_ready(void *ctx)
{
	struct fixture *f = ctx;

	f->ready = true;
	if (!f->command.argv)
		return;
	assert_int_equal(agent_run(f->agent, &f->command), 0);
	assert_int_equal(agent_run(f->agent, &f->command), -EINVAL);
	if (f->hold)
		assert_true(agent_hold(f->agent));
	else
		stdin_push(f);
}

static void on_held(void *ctx)
{
	struct fixture *f = ctx;

	assert_true(f->hold && seen->held && !seen->renewed);
	agent_renew(f->agent, "twin");
	stdin_push(f);
}

static void on_output(void *ctx, enum agent_stream stream, const uint8_t *bytes, size_t count)
{
	struct fixture *f = ctx;

	for (size_t i = 0; i < count; i++) {
		if (f->out_len[stream] + i < sizeof(f->out[0]) - 1)
			f->out[stream][f->out_len[stream] + i] = (char)bytes[i];
		f->out_sum[stream] = f->out_sum[stream] * 31 + bytes[i];
	}
	f->out_len[stream] += count;
	if (!f->hold_output)
		agent_consumed(f->agent, stream, count);
}

/* The reader wakes up: by now the window is full, and stayed so. */
static void on_wake(void *ctx, uint32_t what)
{
	struct fixture *f = ctx;

	loop_remove_fd(f->wake);
	close(f->wake_fd);
	assert_int_equal(f->out_len[1], AGENT_WINDOW);
	f->hold_output = false;
	agent_signal(f->agent, SIGKILL);
	agent_consumed(f->agent, AGENT_STDOUT, AGENT_WINDOW);
}

static void on_stdin_room(void *ctx)
{
	stdin_push(ctx);
}

static void on_exited(void *ctx, int status)
{
	struct fixture *f = ctx;

	assert_false(f->exited || f->failed);
	f->exited = true;
	f->status = status;
	loop_post(f->loop, &f->stop);
}

static void on_failed(void *ctx, const char *sentence)
{
	struct fixture *f = ctx;

	assert_false(f->exited || f->failed);
	f->failed = true;
	snprintf(f->sentence, sizeof(f->sentence), "%s", sentence);
	loop_post(f->loop, &f->stop);
}

static const struct agent_events events = { on_ready, on_output, on_stdin_room, on_exited,
					    on_failed, on_held };

/* The device in between: a socket to the guest's session. */
static size_t device_room(void *ctx)
{
	struct fixture *f = ctx;
	struct pollfd pollfd = { .fd = f->fd, .events = POLLOUT };

	return poll(&pollfd, 1, 0) == 1 && pollfd.revents & POLLOUT ? 512 : 0;
}

static void device_receive(void *ctx, const uint8_t *bytes, size_t count)
{
	struct fixture *f = ctx;

	while (count) {
		ssize_t put = send(f->fd, bytes, count, MSG_NOSIGNAL);

		if (put < 0) /* it has ended meanwhile */
			return;
		bytes += put;
		count -= (size_t)put;
	}
}

static void device_ready(void *ctx, uint32_t what)
{
	struct fixture *f = ctx;
	uint8_t bytes[1024];
	ssize_t got = recv(f->fd, bytes, sizeof(bytes), MSG_DONTWAIT);
	struct chardev *chr = agent_chardev(f->agent);

	if (got > 0)
		assert_int_equal(chardev_write(chr, bytes, (size_t)got), got);
	chardev_kick_input(chr);
}

static void stop_run(void *ctx)
{
	struct fixture *f = ctx;

	loop_stop(f->loop);
}

static void no_stop(void *ctx)
{
}

static void fixture_init(struct fixture *f)
{
	memset(f, 0, sizeof(*f));
	f->loop = loop_new();
	assert_non_null(f->loop);
	f->agent = agent_new(f->loop, &events, f);
	loop_task_init(&f->stop, stop_run, f);
}

static void fixture_fini(struct fixture *f)
{
	agent_free(f->agent);
	loop_free(f->loop);
}

/* Runs a command through a guest session in a child of ours. */
static void run_command(struct fixture *f)
{
	int sockets[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
	f->guest = fork();
	if (f->guest == 0) {
		close(sockets[0]);
		fcntl(sockets[1], F_SETFL, O_NONBLOCK);
		session_serve(sockets[1], 0);
		_exit(0);
	}
	close(sockets[1]);
	f->fd = sockets[0];
	chardev_connect(agent_chardev(f->agent),
			&(struct chardev_frontend){ device_room, device_receive, NULL, NULL, f });
	f->watch = loop_add_fd(f->loop, f->fd, EPOLLIN, device_ready, f);
	alarm(60);
	loop_run(f->loop);
	loop_remove_fd(f->watch);
	close(f->fd);
	waitpid(f->guest, NULL, 0);
	alarm(0);
}

static void test_streams(void **state)
{
	struct fixture f;
	const char *argv[] = { "sh", "-c",
			       "cat; echo to-err >&2; echo $KEPT $TERM $NEW; pwd; exit 42", NULL };
	const char *env[] = { "TERM=vt100", "NEW=x y", NULL };

	fixture_init(&f);
	f.command = (struct agent_command){ .argv = argv, .env = env, .cwd = "/tmp" };
	f.input = (const uint8_t *)"in\0put\n";
	f.input_len = 7;
	run_command(&f);
	assert_true(f.exited);
	assert_int_equal(f.status, 42);
	assert_int_equal(f.out_len[1], 7 + 12 + 5);
	assert_memory_equal(f.out[1], "in\0put\n1 vt100 x y\n/tmp\n", f.out_len[1]);
	assert_string_equal(f.out[2], "to-err\n");
	fixture_fini(&f);
}

/* Held, and then another machine: random bytes, a machine-id, a name. */
static void test_hold_and_renew(void **state)
{
	const char *argv[] = { "cat", NULL };
	uint8_t seeds[2][WIRE_SEED_LEN + WIRE_MACHINE_ID_LEN];

	for (unsigned i = 0; i < 2; i++) {
		struct fixture f;

		memset(seen, 0, sizeof(*seen));
		fixture_init(&f);
		assert_false(agent_hold(f.agent)); /* there is nobody yet */
		f.command.argv = argv;
		f.input = (const uint8_t *)"after\n";
		f.input_len = 6;
		f.hold = true;
		run_command(&f);
		assert_true(f.exited);
		assert_string_equal(f.out[1], "after\n");
		assert_int_equal(seen->renewed, 1);
		assert_false(seen->held);
		assert_int_equal(seen->len, 4 + sizeof(seeds[0]) + 4);
		assert_int_equal(wire_load32(seen->payload), WIRE_RENEW_IDENTITY);
		assert_memory_equal(seen->payload + 4 + sizeof(seeds[0]), "twin", 4);
		memcpy(seeds[i], seen->payload + 4, sizeof(seeds[i]));
		fixture_fini(&f);
	}
	assert_memory_not_equal(seeds[0], seeds[1], WIRE_SEED_LEN);
	assert_memory_not_equal(seeds[0] + WIRE_SEED_LEN, seeds[1] + WIRE_SEED_LEN,
				WIRE_MACHINE_ID_LEN);
}

/* More than the windows, both ways at once. */
static void test_bulk(void **state)
{
	struct fixture f;
	const char *argv[] = { "sh", "-c", "tee /dev/stderr", NULL };
	size_t len = 3u << 20;
	uint8_t *bytes = malloc(len);
	uint32_t sum = 0;

	for (size_t i = 0; i < len; i++) {
		bytes[i] = (uint8_t)(i * 7 + (i >> 9));
		sum = sum * 31 + bytes[i];
	}
	fixture_init(&f);
	f.command.argv = argv;
	f.input = bytes;
	f.input_len = len;
	run_command(&f);
	assert_true(f.exited);
	assert_int_equal(f.status, 0);
	assert_int_equal(f.out_len[1], len);
	assert_int_equal(f.out_len[2], len);
	assert_int_equal(f.out_sum[1], sum);
	assert_int_equal(f.out_sum[2], sum);
	fixture_fini(&f);
	free(bytes);
}

static void test_status(void **state)
{
	static const struct {
		const char *script;
		int status;
	} cases[] = {
		{ "exit 0", 0 },     { "kill -9 $$", 137 },        { "kill -TERM $$", 143 },
		{ "exit 255", 255 }, { "sleep 1000 & exit 7", 7 }, { "exec >&- 2>&-; exit 3", 3 }
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct fixture f;
		const char *argv[] = { "sh", "-c", cases[i].script, NULL };

		fixture_init(&f);
		f.command.argv = argv;
		run_command(&f);
		assert_true(f.exited);
		assert_int_equal(f.status, cases[i].status);
		fixture_fini(&f);
	}
}

static void test_not_found(void **state)
{
	struct fixture f;
	const char *missing[] = { "no-such-command", NULL };
	const char *denied[] = { "/etc/passwd", NULL };

	fixture_init(&f);
	f.command.argv = missing;
	run_command(&f);
	assert_int_equal(f.status, 127);
	assert_non_null(strstr(f.out[2], "no-such-command: No such file"));
	fixture_fini(&f);
	fixture_init(&f);
	f.command.argv = denied;
	run_command(&f);
	assert_int_equal(f.status, 126);
	fixture_fini(&f);
}

/* Nobody consumes: the command stalls at exactly one window. Later it can be killed. */
static void test_stalled_output(void **state)
{
	struct fixture f;
	const char *argv[] = { "sh", "-c", "exec cat /dev/zero", NULL };

	fixture_init(&f);
	f.command.argv = argv;
	f.hold_output = true;
	f.wake_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
	timerfd_settime(f.wake_fd, 0, &(struct itimerspec){ .it_value.tv_nsec = 500000000 }, NULL);
	f.wake = loop_add_fd(f.loop, f.wake_fd, EPOLLIN, on_wake, &f);
	run_command(&f);
	assert_int_equal(f.status, 128 + SIGKILL);
	fixture_fini(&f);
}

static void test_terminal(void **state)
{
	struct fixture f;
	const char *argv[] = { "sh", "-c",
			       "stty size; test -t 0 && test -t 2 && echo tty; echo err >&2",
			       NULL };

	fixture_init(&f);
	f.command = (struct agent_command){
		.argv = argv, .cwd = "/", .tty = true, .rows = 33, .cols = 99
	};
	run_command(&f);
	assert_true(f.exited);
	assert_string_equal(f.out[1], "33 99\r\ntty\r\nerr\r\n");
	assert_int_equal(f.out_len[2], 0);
	fixture_fini(&f);
}

/* --- a guest that lies --- */

static void guest_says(struct fixture *f, enum wire_type type, uint8_t stream, const void *payload,
		       uint32_t len)
{
	uint8_t bytes[WIRE_HEADER_LEN + WIRE_DATA_MAX] = { 0 };

	wire_header(bytes, len, type, stream);
	if (len <= WIRE_DATA_MAX)
		memcpy(bytes + WIRE_HEADER_LEN, payload, len);
	else
		len = 0;
	chardev_write(agent_chardev(f->agent), bytes, WIRE_HEADER_LEN + len);
}

static void guest_greets(struct fixture *f)
{
	uint8_t hello[WIRE_MAGIC_LEN + 4];

	memcpy(hello, WIRE_MAGIC, WIRE_MAGIC_LEN);
	wire_store32(hello + WIRE_MAGIC_LEN, WIRE_VERSION);
	guest_says(f, WIRE_HELLO, 0, hello, sizeof(hello));
}

#define LIES      12
#define LIE_STEPS 60

/* Each step is followed by a turn of the agent. */
static void lie_step(void *ctx)
{
	static const uint8_t bytes[WIRE_DATA_MAX] = { [0 ... WIRE_DATA_MAX - 1] = 0xff };
	struct fixture *f = ctx;

	if (f->step++ == 0) {
		if (f->lie >= 3)
			guest_greets(f);
	} else if (f->step > 20) { /* whatever comes after is swallowed, without another event */
		guest_says(f, WIRE_DATA, 1, bytes, WIRE_DATA_MAX);
	} else if (f->lie == 0) { /* another protocol */
		guest_says(f, WIRE_HELLO, 0, bytes, WIRE_MAGIC_LEN + 4);
	} else if (f->lie == 1) { /* data before anything */
		guest_says(f, WIRE_DATA, 1, bytes, 5);
	} else if (f->lie == 2) { /* no frame at all */
		guest_says(f, (enum wire_type)0xff, 0xff, bytes, 0xffffffff);
	} else if (f->lie == 3) { /* the same greeting twice */
		guest_greets(f);
	} else if (f->lie == 4) { /* a stream there is not */
		guest_says(f, WIRE_DATA, 3, bytes, 5);
	} else if (f->lie == 5) { /* stdin is ours */
		guest_says(f, WIRE_DATA, 0, bytes, 5);
	} else if (f->lie == 6) { /* in the end more output than it has credit for */
		guest_says(f, WIRE_DATA, 1, bytes, WIRE_DATA_MAX);
	} else if (f->lie == 7) { /* credit out of nowhere */
		guest_says(f, WIRE_CREDIT, 0, bytes, 4);
	} else if (f->lie == 8) { /* a status that is none */
		guest_says(f, WIRE_EXIT, 0, bytes, 4);
	} else if (f->lie == 9) { /* no status at all */
		guest_says(f, WIRE_EXIT, 0, bytes, 3);
	} else if (f->lie == 10) { /* a frame beyond the longest */
		guest_says(f, WIRE_DATA, 1, bytes, WIRE_DATA_MAX + 1);
	} else if (f->lie == 11) { /* ours to say */
		guest_says(f, WIRE_RUN, 0, bytes, 20);
	}
	if (f->step == LIE_STEPS)
		loop_stop(f->loop);
	else
		loop_post(f->loop, &f->steps);
}

static void test_liars(void **state)
{
	static const char *argv[] = { "true", NULL };

	for (int lie = 0; lie < LIES; lie++) {
		struct fixture f;

		fixture_init(&f);
		loop_task_init(&f.stop, no_stop, &f);
		loop_task_init(&f.steps, lie_step, &f);
		f.command.argv = argv;
		f.hold_output = true;
		f.lie = lie;
		loop_post(f.loop, &f.steps);
		loop_run(f.loop);
		if (!f.failed)
			fail_msg("lie %d was believed", lie);
		fixture_fini(&f);
	}
}

static void greet_step(void *ctx)
{
	struct fixture *f = ctx;

	guest_greets(f);
	loop_post(f->loop, &f->stop);
}

static void test_too_long(void **state)
{
	struct fixture f;
	char *word = malloc(AGENT_COMMAND_MAX);
	const char *argv[] = { word, NULL };

	memset(word, 'x', AGENT_COMMAND_MAX - 1);
	word[AGENT_COMMAND_MAX - 1] = 0;
	fixture_init(&f);
	loop_task_init(&f.steps, greet_step, &f);
	loop_post(f.loop, &f.steps);
	loop_run(f.loop);
	assert_true(f.ready);
	assert_int_equal(agent_run(f.agent, &(struct agent_command){ .argv = argv }), -E2BIG);
	fixture_fini(&f);
	free(word);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_streams),        cmocka_unit_test(test_bulk),
		cmocka_unit_test(test_status),         cmocka_unit_test(test_not_found),
		cmocka_unit_test(test_stalled_output), cmocka_unit_test(test_terminal),
		cmocka_unit_test(test_liars),          cmocka_unit_test(test_too_long),
		cmocka_unit_test(test_hold_and_renew),
	};

	seen = mmap(NULL, sizeof(*seen), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (seen == MAP_FAILED)
		return 1;

	return cmocka_run_group_tests(tests, NULL, NULL);
}
