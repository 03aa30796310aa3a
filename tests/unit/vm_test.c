/*
 * The VM's life with a real board and the interpreter: start, pause, reset,
 * end, two at once. The kernels are a few bytes of 32-bit code.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/loop.h"
#include "bus/vclock.h"
#include "cpu/vcpu.h"
#include "engine/engine.h"
#include "mem/ram.h"
#include "state/stream.h"
#include "vm/snapshot.h"
#include "vm/vm.h"

#define LOAD    0x100000u
#define COUNTER 0x200000u

/* 1: inc dword [COUNTER]; jmp 1b */
static const uint8_t count_for_ever[] = { 0xff, 0x05, 0x00, 0x00, 0x20, 0x00, 0xeb, 0xf8 };
/* cli; 1: hlt; jmp 1b */
static const uint8_t halt_for_ever[] = { 0xfa, 0xf4, 0xeb, 0xfd };
/* inc dword [COUNTER]; cmp dword [COUNTER], 5; je 1f; mov dx, 0xcf9; mov al, 6; out dx, al; hlt
 * 1: mov dx, 0x604; mov ax, 0x3400; out dx, ax; hlt */
static const uint8_t reset_four_times[] = {
	0xff, 0x05, 0x00, 0x00, 0x20, 0x00, 0x83, 0x3d, 0x00, 0x00, 0x20, 0x00,
	0x05, 0x74, 0x08, 0x66, 0xba, 0xf9, 0x0c, 0xb0, 0x06, 0xee, 0xf4, 0x66,
	0xba, 0x04, 0x06, 0x66, 0xb8, 0x00, 0x34, 0x66, 0xef, 0xf4,
};

struct machine {
	char path[64];
	struct loop *loop;
	struct vm *vm;
};

static void build(struct machine *m, const uint8_t *code, size_t len, unsigned cpus, bool no_reboot)
{
	const uint32_t magic = 0x1badb002, flags = 0x10000;
	const uint32_t header[8] = { magic, flags, -(magic + flags), LOAD, LOAD, 0, 0, LOAD + 32 };
	struct vm_options options = {
		.board = { .mem_bytes = 16 << 20, .cpus = cpus },
		.engine = engine_find("interpret"),
		.cpu_model = "host",
		.no_reboot = no_reboot,
	};
	char error[VM_ERROR_MAX] = "";
	int fd;

	snprintf(m->path, sizeof(m->path), "/tmp/insula-vm-test-XXXXXX");
	fd = mkstemp(m->path);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, header, sizeof(header)), sizeof(header));
	assert_int_equal(write(fd, code, len), len);
	close(fd);
	m->loop = loop_new();
	assert_non_null(m->loop);
	assert_int_equal(loop_start(m->loop), 0);
	options.board.loop = m->loop;
	options.boot.kernel = m->path;
	m->vm = vm_new(&options, error);
	if (!m->vm)
		fail_msg("%s", error);
}

static void start(struct machine *m)
{
	char error[VM_ERROR_MAX];

	assert_int_equal(vm_start(m->vm, error), 0);
}

static void take_down(struct machine *m)
{
	vm_free(m->vm);
	loop_free(m->loop);
	unlink(m->path);
}

static void sleep_ms(long ms)
{
	const struct timespec time = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 };

	nanosleep(&time, NULL);
}

static uint32_t counter(struct machine *m)
{
	uint32_t value;

	assert_int_equal(ram_read(vm_board(m->vm)->ram, COUNTER, &value, sizeof(value)), 0);
	return value;
}

static void wait_for_progress(struct machine *m)
{
	uint32_t before = counter(m);

	for (unsigned i = 0; i < 10000 && counter(m) == before; i++)
		sleep_ms(1);
	assert_int_not_equal(counter(m), before);
}

/* While paused nothing moves: not the guest, not its clock; and the state is complete. */
static void pause_stands_still(void **state)
{
	struct machine m;

	build(&m, count_for_ever, sizeof(count_for_ever), 1, false);
	start(&m);
	for (unsigned round = 0; round < 20; round++) {
		uint32_t count;
		uint64_t now, rip;

		wait_for_progress(&m);
		assert_int_equal(vm_pause(m.vm), 0);
		count = counter(&m);
		now = vclock_now_ns(vm_board(m.vm)->clock);
		rip = vm_vcpu(m.vm, 0)->arch.rip;
		assert_true(rip == LOAD + 32 || rip == LOAD + 38);
		sleep_ms(5);
		assert_int_equal(counter(&m), count);
		assert_int_equal(vclock_now_ns(vm_board(m.vm)->clock), now);
		vm_resume(m.vm);
	}
	wait_for_progress(&m);
	take_down(&m);
}

/* Held for long: it can be looked at, reset and ended meanwhile, and its clock catches up. */
static void hold_and_release(void **state)
{
	struct machine m;
	struct vm_end end;
	uint64_t before, after;
	uint32_t count;

	build(&m, count_for_ever, sizeof(count_for_ever), 2, false);
	start(&m);
	for (unsigned round = 0; round < 5; round++) {
		wait_for_progress(&m);
		assert_int_equal(vm_release(m.vm), -EALREADY);
		assert_int_equal(vm_hold(m.vm), 0);
		assert_true(vm_is_held(m.vm));
		assert_int_equal(vm_hold(m.vm), -EALREADY);
		count = counter(&m);
		before = vclock_now_ns(vm_board(m.vm)->clock);
		assert_int_equal(vm_pause(m.vm), 0);
		vm_resume(m.vm);
		sleep_ms(50);
		assert_int_equal(counter(&m), count);
		assert_int_equal(vclock_now_ns(vm_board(m.vm)->clock), before);
		assert_int_equal(vm_release(m.vm), 0);
		after = vclock_now_ns(vm_board(m.vm)->clock);
		assert_true(after >= before + 50000000 && after < before + 20000000000);
	}
	wait_for_progress(&m);
	assert_int_equal(vm_hold(m.vm), 0);
	/* A reset leaves it held, with the counter's memory as it was. */
	vm_request_stop(m.vm, STOP_RESET, 0, NULL);
	for (unsigned i = 0; i < 10000 && !vm_reset_count(m.vm); i++)
		sleep_ms(1);
	count = counter(&m);
	sleep_ms(20);
	assert_int_equal(counter(&m), count);
	assert_int_equal(vm_release(m.vm), 0);
	wait_for_progress(&m);
	assert_int_equal(vm_hold(m.vm), 0);
	vm_request_stop(m.vm, STOP_USER, 7, NULL);
	vm_wait(m.vm, &end);
	assert_int_equal(end.reason, STOP_USER);
	assert_int_equal(vm_release(m.vm), -ECANCELED);
	take_down(&m);
}

static const struct engine *other_engine(struct machine *m)
{
	return engine_find(vm_engine(m->vm) == engine_find("interpret") ? "translate"
									: "interpret");
}

/* Under a machine that counts, one that is held, and with vcpus that wait for their start. */
static void switches_engines(void **state)
{
	char error[VM_ERROR_MAX];
	struct vm_switch_report report;

	for (unsigned cpus = 1; cpus <= 4; cpus *= 2) {
		struct engine_stats stats;
		struct vm_end end;
		struct machine m;

		build(&m, count_for_ever, sizeof(count_for_ever), cpus, false);
		start(&m);
		for (unsigned round = 0; round < 20; round++) {
			const struct engine *to = other_engine(&m), *from = vm_engine(m.vm);
			bool hold = round % 4 == 3;

			if (hold)
				assert_int_equal(vm_hold(m.vm), 0);
			assert_int_equal(vm_switch_engine(m.vm, to, &report, error), 0);
			assert_ptr_equal(vm_engine(m.vm), to);
			assert_ptr_equal(report.from, from);
			assert_int_equal(!report.pause_ns, hold);
			assert_int_equal(vm_switch_engine(m.vm, to, &report, error), -EALREADY);
			if (hold)
				assert_int_equal(vm_release(m.vm), 0);
			wait_for_progress(&m);
		}
		vm_request_stop(m.vm, STOP_RESET, 0, NULL);
		assert_int_equal(vm_switch_engine(m.vm, other_engine(&m), &report, error), 0);
		wait_for_progress(&m);
		vm_request_stop(m.vm, STOP_USER, 0, NULL);
		vm_wait(m.vm, &end);
		assert_int_equal(vm_switch_engine(m.vm, other_engine(&m), &report, error),
				 -ECANCELED);
		/* Of all the engines that it had. */
		vm_engine_stats(m.vm, &stats);
		assert_true(stats.decoded >= 20);
		take_down(&m);
	}
}

/* The sections of the vcpus; the rest holds clocks, which run. */
static void vcpu_state_bytes(struct machine *m, uint8_t **bytes, size_t *len)
{
	struct state_writer w;
	struct state_reader r;

	state_writer_init(&w);
	assert_int_equal(vm_state(m->vm, &w), 0);
	assert_int_equal(state_reader_init(&r, w.bytes, w.len), 0);
	*bytes = malloc(w.len);
	*len = 0;
	for (unsigned i = 0; i < r.count; i++) {
		if (strncmp(r.sections[i].name, "vcpu.", 5) != 0)
			continue;
		memcpy(*bytes + *len, r.sections[i].bytes, r.sections[i].len);
		*len += r.sections[i].len;
	}
	assert_true(*len > 1000);
	state_reader_fini(&r);
	state_writer_fini(&w);
}

/* To enter and to leave an engine changes nothing in a vcpu that executes nothing. */
static void switch_keeps_the_state(void **state)
{
	struct vm_switch_report report;
	char error[VM_ERROR_MAX];
	uint8_t *before, *after;
	size_t before_len, len;
	struct machine m;

	build(&m, halt_for_ever, sizeof(halt_for_ever), 2, false);
	start(&m);
	do {
		sleep_ms(1);
		assert_int_equal(vm_pause(m.vm), 0);
		vm_resume(m.vm);
	} while (vm_vcpu(m.vm, 0)->arch.activity != ACTIVITY_HALT);
	vcpu_state_bytes(&m, &before, &before_len);
	for (unsigned round = 0; round < 10; round++) {
		assert_int_equal(vm_switch_engine(m.vm, other_engine(&m), &report, error), 0);
		sleep_ms(2);
		vcpu_state_bytes(&m, &after, &len);
		assert_int_equal(len, before_len);
		assert_memory_equal(after, before, len);
		free(after);
	}
	free(before);
	take_down(&m);
}

static int open_not_the_second(struct vcpu *v, const char **error)
{
	if (v->index == 1) {
		*error = "it has no room for two";
		return -ENOMEM;
	}
	return engine_find("translate")->vcpu_open(v, error);
}

/* An engine that cannot be had: the machine goes on under the old one. */
static void switch_refused(void **state)
{
	struct engine narrow = *engine_find("translate");
	struct vm_switch_report report;
	char error[VM_ERROR_MAX];
	struct machine m;

	narrow.name = "narrow";
	narrow.vcpu_open = open_not_the_second;
	build(&m, count_for_ever, sizeof(count_for_ever), 3, false);
	assert_int_equal(vm_switch_engine(m.vm, &narrow, &report, error), -ECANCELED);
	start(&m);
	for (unsigned round = 0; round < 5; round++) {
		wait_for_progress(&m);
		assert_int_equal(vm_switch_engine(m.vm, &narrow, &report, error), -ENOMEM);
		assert_string_equal(error, "engine narrow: it has no room for two");
		assert_string_equal(vm_engine(m.vm)->name, "interpret");
	}
	wait_for_progress(&m);
	take_down(&m);
}

static void pause_wakes_a_halted_vcpu(void **state)
{
	struct machine m;

	build(&m, halt_for_ever, sizeof(halt_for_ever), 4, false);
	start(&m);
	for (unsigned round = 0; round < 50; round++) {
		assert_int_equal(vm_pause(m.vm), 0);
		if (round > 10)
			assert_int_equal(vm_vcpu(m.vm, 0)->arch.activity, ACTIVITY_HALT);
		assert_int_equal(vm_vcpu(m.vm, 3)->arch.activity, ACTIVITY_WAIT_SIPI);
		vm_resume(m.vm);
		sleep_ms(1);
	}
	take_down(&m);
}

static void reset_and_power_off(void **state)
{
	struct vm_end end;
	struct machine m;

	build(&m, reset_four_times, sizeof(reset_four_times), 2, false);
	start(&m);
	vm_wait(m.vm, &end);
	assert_int_equal(end.reason, STOP_POWER_OFF);
	assert_int_equal(vm_reset_count(m.vm), 4);
	assert_int_equal(counter(&m), 5);
	assert_int_equal(vm_pause(m.vm), -ECANCELED);
	take_down(&m);
}

static void reset_may_end_it(void **state)
{
	struct vm_end end;
	struct machine m;

	build(&m, reset_four_times, sizeof(reset_four_times), 1, true);
	start(&m);
	vm_wait(m.vm, &end);
	assert_int_equal(end.reason, STOP_RESET);
	assert_int_equal(counter(&m), 1);
	take_down(&m);
}

static void first_request_wins(void **state)
{
	struct vm_end end;
	struct machine m;

	build(&m, count_for_ever, sizeof(count_for_ever), 1, false);
	start(&m);
	wait_for_progress(&m);
	vm_request_stop(m.vm, STOP_USER, 42, "a person asked");
	vm_request_stop(m.vm, STOP_HOST_ERROR, 1, "too late");
	vm_wait(m.vm, &end);
	assert_int_equal(end.reason, STOP_USER);
	assert_int_equal(end.code, 42);
	assert_string_equal(end.detail, "a person asked");
	take_down(&m);
}

static void *pauser(void *arg)
{
	struct machine *m = arg;

	while (vm_pause(m->vm) == 0)
		vm_resume(m->vm);
	return NULL;
}

/* Pauses, resets and the end from three threads at once. */
static void storm(void **state)
{
	struct vm_end end;
	struct machine m;
	pthread_t threads[2];

	build(&m, count_for_ever, sizeof(count_for_ever), 2, false);
	start(&m);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, pauser, &m), 0);
	for (unsigned i = 0; i < 20; i++) {
		vm_request_stop(m.vm, STOP_RESET, 0, NULL);
		sleep_ms(5);
	}
	vm_request_stop(m.vm, STOP_USER, 0, NULL);
	vm_wait(m.vm, &end);
	assert_int_equal(end.reason, STOP_USER);
	assert_true(vm_reset_count(m.vm) > 0);
	for (unsigned i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	take_down(&m);
}

static void two_in_one_process(void **state)
{
	struct machine a, b;
	struct vm_end end;

	build(&a, count_for_ever, sizeof(count_for_ever), 1, false);
	build(&b, count_for_ever, sizeof(count_for_ever), 1, false);
	start(&a);
	start(&b);
	wait_for_progress(&a);
	wait_for_progress(&b);
	vm_request_stop(a.vm, STOP_USER, 0, NULL);
	vm_wait(a.vm, &end);
	take_down(&a);
	wait_for_progress(&b);
	take_down(&b);
}

static void never_started(void **state)
{
	struct machine m;

	build(&m, halt_for_ever, sizeof(halt_for_ever), 3, false);
	take_down(&m);
}

static void kernel_missing(void **state)
{
	struct loop *loop = loop_new();
	struct vm_options options = {
		.board = { .mem_bytes = 16 << 20, .cpus = 1, .loop = loop },
		.boot = { .kernel = "/nonexistent/kernel" },
		.engine = engine_find("translate"),
		.cpu_model = "host",
	};
	char error[VM_ERROR_MAX];

	assert_null(vm_new(&options, error));
	assert_int_equal(errno, ENOENT);
	assert_non_null(strstr(error, "/nonexistent/kernel"));
	options.cpu_model = "z80";
	assert_null(vm_new(&options, error));
	assert_non_null(strstr(error, "z80"));
	loop_free(loop);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pause_stands_still),  cmocka_unit_test(pause_wakes_a_halted_vcpu),
		cmocka_unit_test(reset_and_power_off), cmocka_unit_test(reset_may_end_it),
		cmocka_unit_test(first_request_wins),  cmocka_unit_test(storm),
		cmocka_unit_test(two_in_one_process),  cmocka_unit_test(never_started),
		cmocka_unit_test(kernel_missing),      cmocka_unit_test(hold_and_release),
		cmocka_unit_test(switches_engines),    cmocka_unit_test(switch_keeps_the_state),
		cmocka_unit_test(switch_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
