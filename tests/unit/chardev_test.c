/* Back ends: what is refused, what waits, what is told, and that nothing is lost. */
#include "chardev/chardev_fd.h"
#include "chardev/chardev_memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <fcntl.h>
#include <pty.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct front {
	_Atomic int room, got, writable, closed;
	uint8_t bytes[65536];
};

static size_t front_room(void *ctx)
{
	return (size_t)((struct front *)ctx)->room;
}

static void front_receive(void *ctx, const uint8_t *bytes, size_t count)
{
	struct front *f = ctx;

	assert_true(count <= (size_t)f->room);
	memcpy(f->bytes + f->got, bytes, count);
	f->room -= (int)count;
	f->got += (int)count;
}

static void front_writable(void *ctx)
{
	((struct front *)ctx)->writable++;
}

static void front_closed(void *ctx)
{
	((struct front *)ctx)->closed++;
}

static void connect_front(struct chardev *chr, struct front *f)
{
	const struct chardev_frontend frontend = { front_room, front_receive, front_writable,
						   front_closed, f };

	assert_non_null(chr);
	chardev_connect(chr, &frontend);
}

static void wait_for(_Atomic int *value, int at_least)
{
	for (int i = 0; i < 5000 && atomic_load(value) < at_least; i++)
		usleep(1000);
	assert_true(atomic_load(value) >= at_least);
}

static struct loop *started_loop(void)
{
	struct loop *loop = loop_new();

	assert_non_null(loop);
	assert_int_equal(loop_start(loop), 0);
	return loop;
}

static void input_waits_for_room_and_ends(void **state)
{
	struct loop *loop = started_loop();
	struct front f = { .room = 3 };
	struct chardev *chr;
	int in[2];

	assert_int_equal(pipe(in), 0);
	assert_int_equal(write(in[1], "hello", 5), 5);
	chr = chardev_fd_new(loop, in[0], -1);
	connect_front(chr, &f);
	wait_for(&f.got, 3);
	close(in[1]);
	usleep(20000);
	assert_int_equal(f.got, 3);
	assert_int_equal(f.closed, 0);
	f.room = 100;
	chardev_kick_input(chr);
	wait_for(&f.closed, 1);
	assert_int_equal(f.got, 5);
	assert_memory_equal(f.bytes, "hello", 5);
	chardev_free(chr);
	loop_free(loop);
	close(in[0]);
}

static void regular_files_and_null_work_as_input(void **state)
{
	struct loop *loop = started_loop();
	char name[] = "/tmp/insula-chardev-XXXXXX", text[9000];
	struct front f = { .room = 5000 }, g = { .room = 10 };
	int fd = mkstemp(name), null_fd = open("/dev/null", O_RDWR);
	struct chardev *chr, *null_chr;

	unlink(name);
	memset(text, 'x', sizeof(text));
	assert_int_equal(write(fd, text, sizeof(text)), sizeof(text));
	lseek(fd, 0, SEEK_SET);
	chr = chardev_fd_new(loop, fd, -1);
	connect_front(chr, &f);
	wait_for(&f.got, 5000);
	f.room = 10000;
	chardev_kick_input(chr);
	wait_for(&f.closed, 1);
	assert_int_equal(f.got, 9000);
	null_chr = chardev_fd_new(loop, null_fd, null_fd);
	connect_front(null_chr, &g);
	wait_for(&g.closed, 1);
	assert_int_equal(chardev_write(null_chr, (const uint8_t *)"abc", 3), 3);
	assert_true(chardev_fd_drain(null_chr, 1000));
	chardev_free(null_chr);
	chardev_free(chr);
	loop_free(loop);
	close(fd);
	close(null_fd);
}

/* Nobody reads: a bound, no block; then somebody does: told, and every byte arrives in order. */
static void output_is_bounded_and_lossless(void **state)
{
	struct loop *loop = started_loop();
	struct front f = { 0 };
	uint8_t chunk[777], got[4096];
	size_t sent = 0, received = 0, accepted;
	struct chardev *chr;
	ssize_t count;
	int told, out[2];

	assert_int_equal(pipe(out), 0);
	chr = chardev_fd_new(loop, -1, out[1]);
	connect_front(chr, &f);
	for (int refusals = 0; refusals < 20;) {
		for (size_t i = 0; i < sizeof(chunk); i++)
			chunk[i] = (uint8_t)((sent + i) * 31);
		accepted = chardev_write(chr, chunk, sizeof(chunk));
		sent += accepted;
		if (accepted < sizeof(chunk)) {
			refusals++;
			usleep(1000);
		}
	}
	/* The pipe itself holds some. */
	assert_true(sent >= CHARDEV_FD_BUFFER && sent <= CHARDEV_FD_BUFFER + (1 << 20));
	told = f.writable;
	assert_false(chardev_fd_drain(chr, 10));
	close(out[1]);
	while (received < sent) {
		count = read(out[0], got, sizeof(got));
		assert_true(count > 0);
		for (ssize_t i = 0; i < count; i++)
			assert_int_equal(got[i], (uint8_t)((received + (size_t)i) * 31));
		received += (size_t)count;
	}
	wait_for(&f.writable, told + 1);
	assert_true(chardev_fd_drain(chr, 0));
	chardev_free(chr);
	assert_int_equal(read(out[0], got, 1), 0);
	close(out[0]);
	loop_free(loop);
}

static void output_after_the_reader_left_is_forgotten(void **state)
{
	struct loop *loop = started_loop();
	struct front f = { 0 };
	uint8_t bytes[1000] = { 0 };
	struct chardev *chr;
	int out[2];

	assert_int_equal(pipe(out), 0);
	chr = chardev_fd_new(loop, -1, out[1]);
	connect_front(chr, &f);
	close(out[0]);
	for (int i = 0; i < 1000; i++) {
		if (chardev_write(chr, bytes, sizeof(bytes)) < sizeof(bytes))
			usleep(100);
	}
	loop_stop(loop);
	/* Also on this thread, where SIGPIPE is not blocked. */
	assert_true(chardev_fd_drain(chr, 1000));
	assert_int_equal(chardev_write(chr, bytes, sizeof(bytes)), sizeof(bytes));
	chardev_free(chr);
	loop_free(loop);
	close(out[1]);
}

static void one_socket_both_ways(void **state)
{
	struct loop *loop = started_loop();
	struct front f = { .room = 100 };
	struct chardev *chr;
	char got[5];
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	chr = chardev_fd_new(loop, pair[0], pair[0]);
	connect_front(chr, &f);
	assert_true(fcntl(pair[0], F_GETFL) & O_NONBLOCK);
	assert_int_equal(chardev_write(chr, (const uint8_t *)"hello", 5), 5);
	assert_int_equal(read(pair[1], got, 5), 5);
	assert_memory_equal(got, "hello", 5);
	assert_int_equal(write(pair[1], "ab", 2), 2);
	wait_for(&f.got, 2);
	chardev_free(chr);
	/* As it was. */
	assert_false(fcntl(pair[0], F_GETFL) & O_NONBLOCK);
	close(pair[0]);
	close(pair[1]);
	loop_free(loop);
}

static void a_terminal_keeps_its_flags(void **state)
{
	struct loop *loop = started_loop();
	struct front f = { .room = 100 };
	struct chardev *chr;
	char got[2];
	int master, slave;

	if (openpty(&master, &slave, NULL, NULL, NULL) < 0)
		skip();
	chr = chardev_fd_new(loop, slave, slave);
	connect_front(chr, &f);
	assert_false(fcntl(slave, F_GETFL) & O_NONBLOCK);
	assert_int_equal(chardev_write(chr, (const uint8_t *)"ok", 2), 2);
	assert_int_equal(read(master, got, 2), 2);
	assert_memory_equal(got, "ok", 2);
	assert_int_equal(write(master, "x\n", 2), 2);
	wait_for(&f.got, 2);
	chardev_free(chr);
	loop_free(loop);
	close(master);
	close(slave);
}

static void freeing_under_traffic(void **state)
{
	struct loop *loop = started_loop();
	uint8_t bytes[600] = { 0 }, sink[4096];

	for (int i = 0; i < 300; i++) {
		struct front f = { .room = 100 };
		struct chardev *chr;
		int in[2], out[2];

		assert_int_equal(pipe(in), 0);
		assert_int_equal(pipe(out), 0);
		chr = chardev_fd_new(loop, in[0], out[1]);
		connect_front(chr, &f);
		assert_int_equal(write(in[1], bytes, 50), 50);
		for (int k = 0; k < i % 10; k++)
			chardev_write(chr, bytes, sizeof(bytes));
		if (i % 2)
			close(in[1]);
		if (i % 3)
			assert_true(chardev_fd_drain(chr, 1000));
		chardev_free(chr);
		if (!(i % 2))
			close(in[1]);
		close(in[0]);
		close(out[1]);
		while (read(out[0], sink, sizeof(sink)) > 0)
			;
		close(out[0]);
	}
	loop_free(loop);
}

static void memory_back_end(void **state)
{
	struct chardev *chr = chardev_memory_new(8);
	struct front f = { .room = 2 };
	char got[8];

	connect_front(chr, &f);
	assert_int_equal(chardev_memory_inject(chr, "abcd", 4), 4);
	assert_int_equal(f.got, 2);
	assert_int_equal(chardev_memory_queued(chr), 2);
	f.room = 9;
	chardev_kick_input(chr);
	assert_memory_equal(f.bytes, "abcd", 4);
	assert_int_equal(chardev_write(chr, (const uint8_t *)"0123456789", 10), 8);
	assert_int_equal(chardev_memory_take(chr, got, 3), 3);
	assert_int_equal(f.writable, 1);
	assert_int_equal(chardev_memory_take(chr, got, 8), 5);
	assert_memory_equal(got, "34567", 5);
	chardev_memory_close(chr);
	assert_int_equal(f.closed, 1);
	chardev_free(chr);
	assert_int_equal(chardev_write(NULL, (const uint8_t *)"x", 1), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(input_waits_for_room_and_ends),
		cmocka_unit_test(regular_files_and_null_work_as_input),
		cmocka_unit_test(output_is_bounded_and_lossless),
		cmocka_unit_test(output_after_the_reader_left_is_forgotten),
		cmocka_unit_test(one_socket_both_ways),
		cmocka_unit_test(a_terminal_keeps_its_flags),
		cmocka_unit_test(freeing_under_traffic),
		cmocka_unit_test(memory_back_end),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
