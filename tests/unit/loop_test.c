/* The event loop: tasks, descriptors, and taking them away in every order. */
#include "base/loop.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

struct bell {
	_Atomic int rung;
	struct loop *loop;
	struct loop_task task;
	struct loop_fd *watch, *other;
	int fd;
};

static void ring(void *ctx)
{
	struct bell *bell = ctx;
	atomic_fetch_add(&bell->rung, 1);
}

static void wait_for(_Atomic int *value, int at_least)
{
	for (int i = 0; i < 5000 && atomic_load(value) < at_least; i++)
		usleep(1000);
	assert_true(atomic_load(value) >= at_least);
}

static void task_runs_once_per_queueing(void **state)
{
	struct loop *loop = loop_new();
	struct bell bell = { .loop = loop };

	loop_task_init(&bell.task, ring, &bell);
	loop_post(loop, &bell.task);
	loop_post(loop, &bell.task);
	assert_int_equal(loop_start(loop), 0);
	wait_for(&bell.rung, 1);
	loop_post(loop, &bell.task);
	wait_for(&bell.rung, 2);
	loop_stop(loop);
	assert_int_equal(bell.rung, 2);
	loop_free(loop);
}

static void ring_and_repost(void *ctx)
{
	struct bell *bell = ctx;
	atomic_fetch_add(&bell->rung, 1);
	loop_post(bell->loop, &bell->task);
}

static void drain(void *ctx, uint32_t events)
{
	struct bell *bell = ctx;
	char byte;
	if (read(bell->fd, &byte, 1) == 1)
		atomic_fetch_add(&bell->rung, 1);
}

static void reposting_task_starves_nobody_and_can_be_cancelled(void **state)
{
	struct loop *loop = loop_new();
	struct bell busy = { .loop = loop }, in = { .loop = loop };
	int after, pipes[2];

	assert_int_equal(pipe(pipes), 0);
	in.fd = pipes[0];
	in.watch = loop_add_fd(loop, pipes[0], EPOLLIN, drain, &in);
	assert_non_null(in.watch);
	loop_task_init(&busy.task, ring_and_repost, &busy);
	loop_post(loop, &busy.task);
	assert_int_equal(loop_start(loop), 0);
	assert_int_equal(write(pipes[1], "ab", 2), 2);
	wait_for(&in.rung, 2);
	wait_for(&busy.rung, 10);
	loop_cancel(loop, &busy.task);
	after = busy.rung;
	usleep(5000);
	assert_int_equal(busy.rung, after);
	loop_remove_fd(in.watch);
	loop_free(loop);
	close(pipes[0]);
	close(pipes[1]);
}

/* Both pipes are ready in one batch; whoever comes first removes both. */
static void remove_both(void *ctx, uint32_t events)
{
	struct bell *bell = ctx;
	atomic_fetch_add(&bell->rung, 1);
	loop_remove_fd(bell->watch);
	loop_remove_fd(bell->other);
}

static void removal_inside_a_callback(void **state)
{
	struct loop *loop = loop_new();
	struct bell a = { .loop = loop };
	int one[2], two[2];

	assert_int_equal(pipe(one), 0);
	assert_int_equal(pipe(two), 0);
	a.watch = loop_add_fd(loop, one[0], EPOLLIN, remove_both, &a);
	a.other = loop_add_fd(loop, two[0], EPOLLIN, remove_both, &a);
	assert_int_equal(write(one[1], "x", 1), 1);
	assert_int_equal(write(two[1], "x", 1), 1);
	assert_int_equal(loop_start(loop), 0);
	wait_for(&a.rung, 1);
	usleep(10000);
	assert_int_equal(a.rung, 1);
	loop_free(loop);
	for (int i = 0; i < 2; i++) {
		close(one[i]);
		close(two[i]);
	}
}

static void always_ready(void *ctx, uint32_t events)
{
	struct bell *bell = ctx;
	atomic_fetch_add(&bell->rung, 1);
}

static void removal_from_another_thread_is_final(void **state)
{
	struct loop *loop = loop_new();
	int pipes[2];

	assert_int_equal(pipe(pipes), 0);
	assert_int_equal(write(pipes[1], "x", 1), 1);
	assert_int_equal(loop_start(loop), 0);
	for (int i = 0; i < 2000; i++) {
		struct bell *bell = calloc(1, sizeof(*bell));
		struct loop_fd *watch = loop_add_fd(loop, pipes[0], EPOLLIN, always_ready, bell);
		assert_non_null(watch);
		if (i % 3 == 0)
			wait_for(&bell->rung, 1);
		loop_remove_fd(watch);
		free(bell);
	}
	loop_free(loop);
	close(pipes[0]);
	close(pipes[1]);
}

static void regular_files_are_refused(void **state)
{
	struct loop *loop = loop_new();
	char name[] = "/tmp/insula-loop-XXXXXX";
	int fd = mkstemp(name);

	unlink(name);
	assert_null(loop_add_fd(loop, fd, EPOLLIN, always_ready, NULL));
	close(fd);
	loop_remove_fd(NULL);
	loop_free(loop);
}

static void stop_here(void *ctx)
{
	loop_stop(ctx);
}

static void run_returns_after_stop_from_a_task(void **state)
{
	struct loop *loop = loop_new();
	struct loop_task task;

	loop_task_init(&task, stop_here, loop);
	loop_post(loop, &task);
	loop_run(loop);
	assert_false(loop_is_current(loop));
	loop_free(loop);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(task_runs_once_per_queueing),
		cmocka_unit_test(reposting_task_starves_nobody_and_can_be_cancelled),
		cmocka_unit_test(removal_inside_a_callback),
		cmocka_unit_test(removal_from_another_thread_is_final),
		cmocka_unit_test(regular_files_are_refused),
		cmocka_unit_test(run_returns_after_stop_from_a_task),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
