/*
 * Builds one VM, gives it the terminal or a command, and turns its end into an
 * exit status. Called by the verbs run and restore. Invariant: whatever happens,
 * the terminal is given back before a word is written after the guest's.
 */
#include "cli/run.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "api/control.h"
#include "base/loop.h"
#include "chardev/chardev_fd.h"
#include "cli/chardev_escape.h"
#include "cli/chardev_hub.h"
#include "cli/chardev_tail.h"
#include "cli/run_progress.h"
#include "cli/run_session.h"
#include "cli/run_signals.h"
#include "cli/terminal.h"
#include "cli/verb.h"
#include "engine/engine.h"
#include "mem/ram.h"
#include "state/stream.h"
#include "vm/snapshot.h"
#include "engine/translate/translate.h"
#include "vm/vm.h"

#define STATUS_SIGNAL 128
/* The size of a terminal that nobody looks at yet. */
#define DETACHED_ROWS 24
#define DETACHED_COLS 80

/* ---- events, on the loop's thread ---- */

static void quit_keys(void *ctx)
{
	struct run *run = ctx;

	vm_request_stop(run->vm, STOP_USER, STATUS_OK, NULL);
}

static void session_ready(void *ctx)
{
	struct run *run = ctx;

	run->ready = true;
	run_progress_done(run->progress);
}

static void session_ended(void *ctx, int status, const char *failure)
{
	struct run *run = ctx;

	run->session_over = true;
	run->session_status = status;
	if (failure)
		snprintf(run->session_failure, sizeof(run->session_failure), "%s", failure);
	vm_request_stop(run->vm, STOP_USER, STATUS_OK, NULL);
}

void run_ask_to_end(struct run *run, int number)
{
	bool asked = run->asked_to_end++ == 0;

	if (asked && run->session)
		asked = session_power_off(run->session);
	if (asked)
		board_power_button(vm_board(run->vm));
	else
		vm_request_stop(run->vm, STOP_USER, STATUS_SIGNAL + (uint32_t)number, NULL);
}

static void signal_received(void *ctx, int number)
{
	struct run *run = ctx;
	uint16_t rows, cols;

	switch (number) {
	case SIGWINCH:
		if (run->session && terminal_size(STDIN_FILENO, &rows, &cols))
			session_window_size(run->session, rows, cols);
		return;
	case SIGCONT:
		/* Whoever stopped us, a shell has had the terminal since. */
		if (run->raw)
			terminal_raw(STDIN_FILENO);
		return;
	case SIGINT:
		/* As if the command ran here; one that will not hear can still be got rid of. */
		if (run->options.command && run->asked_to_end < 2 &&
		    session_signal(run->session, SIGINT)) {
			run->asked_to_end++;
			return;
		}
		break;
	default:
		break;
	}
	run_ask_to_end(run, number);
}

/* ---- setting up ---- */

static int host_error(const char *what)
{
	fprintf(stderr, "insula: %s: %s\n", what, strerror(errno));
	return STATUS_HOST_ERROR;
}

/* A closed descriptor 0, 1 or 2 would be given to the next file we open. */
static int hold_standard_streams(void)
{
	int fd;

	do {
		fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	} while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd < 0)
		return -1;
	close(fd);
	return 0;
}

static int open_streams(struct run *run)
{
	const struct run_options *o = &run->options;

	run->loop = loop_new();
	if (!run->loop)
		return host_error("cannot make an event loop");
	if (!o->detach) {
		run->in_out = chardev_fd_new(run->loop, STDIN_FILENO, STDOUT_FILENO);
		run->err = chardev_fd_new(run->loop, -1, STDERR_FILENO);
		if (!run->in_out || !run->err)
			return host_error("cannot use the standard streams");
	}
	if (o->guest) {
		run->console = chardev_tail_new();
		if (!run->console)
			return host_error("cannot keep the console");
	}
	return -1;
}

/* Who the guest's terminal is connected to. Only the keyboard has keys to leave by; the terminal
 * itself turns raw when the VM starts. */
static int open_hub(struct run *run)
{
	struct chardev *own = run->in_out;

	run->raw = own && isatty(STDIN_FILENO) && !run->options.command;
	if (run->raw) {
		run->keys = chardev_escape_new(run->loop, own, quit_keys, run);
		if (!run->keys)
			return host_error("cannot read the keyboard");
		own = run->keys;
	}
	run->hub = chardev_hub_new(run->loop, own);
	return run->hub ? -1 : host_error("cannot make the guest's terminal");
}

static int open_session(struct run *run)
{
	static const struct session_events events = { .ready = session_ready,
						      .ended = session_ended };
	struct session_options session = {
		.loop = run->loop,
		.in_out = run->hub,
		.err = chardev_hub_err(run->hub, run->err),
		.command = run->options.command,
		.tty = !run->options.command &&
		       (run->options.detach || (isatty(STDIN_FILENO) && isatty(STDOUT_FILENO))),
		.rows = DETACHED_ROWS,
		.cols = DETACHED_COLS,
	};

	if (!run->options.detach)
		terminal_size(STDIN_FILENO, &session.rows, &session.cols);
	run->session = session_new(&session, &events, run);
	return run->session ? -1 : host_error("cannot make a session");
}

/* The machine of the snapshot instead of that of the options. */
static int apply_snapshot(struct run *run, struct vm_options *vm)
{
	const struct run_options *o = &run->options;
	struct snapshot_wishes wishes = { .trust_disks = o->trust_disks, .eager = o->verify };
	char error[SNAPSHOT_ERROR_MAX];

	if (vm_snapshot_apply(run->snapshot, vm, &wishes, error) == 0)
		return -1;
	fprintf(stderr, "insula: %s\n", error);
	return STATUS_HOST_ERROR;
}

static int load_session(struct run *run)
{
	char error[SNAPSHOT_ERROR_MAX];
	const uint8_t *bytes;
	size_t len;

	if (run->session) {
		struct state_reader *state = vm_snapshot_state(run->snapshot);

		bytes = vm_snapshot_session(run->snapshot, &len);
		if (!bytes || session_load(run->session, state, bytes, len) < 0) {
			fprintf(stderr, "insula: the snapshot is refused: %s\n",
				bytes ? state->error : "It has no part session.");
			return STATUS_HOST_ERROR;
		}
		run->ready = session_is_running(run->session);
	}
	if (vm_snapshot_check_all(run->snapshot, error) == 0)
		return -1;
	fprintf(stderr, "insula: %s\n", error);
	return STATUS_HOST_ERROR;
}

static int build(struct run *run)
{
	const struct run_options *o = &run->options;
	struct vm_options vm = {
		.board = {
			.mem_bytes = o->mem_bytes,
			.cpus = o->cpus,
			.loop = run->loop,
			.disks = o->disks,
			.disk_count = o->disk_count,
			.debug_exit = o->debug_exit,
		},
		.boot = {
			.kernel = o->kernel,
			.modules = o->modules,
			.module_count = o->module_count,
			.cmdline = o->append,
		},
		.engine = o->engine,
		.fallback = strcmp(o->engine_name, "auto") == 0 ? engine_find("translate") : NULL,
		.cpu_model = o->cpu_model,
		.halt_poll_us = o->halt_poll_us,
		/* A session does not outlive the system it runs in. */
		.no_reboot = o->no_reboot || o->guest,
	};
	const char *initrd = run->guest.initrd;
	char error[VM_ERROR_MAX];
	int status;

	if (o->guest) {
		status = open_session(run);
		if (status >= 0)
			return status;
		vm.board.serial = run->console;
		vm.board.agent = session_chardev(run->session);
		vm.boot.kernel = run->guest.kernel;
		vm.boot.modules = &initrd;
		vm.boot.module_count = 1;
		vm.boot.cmdline = run->guest.cmdline;
	} else {
		vm.board.serial = run->hub;
	}
	if (run->snapshot) {
		status = apply_snapshot(run, &vm);
		if (status >= 0)
			return status;
	}
	translate_options.code_bytes = o->code_cache;
	translate_options.heat = o->hot;
	translate_options.exact = o->check_exact;
	translate_options.perf_map = o->perf_map;
	translate_options.log = o->log_translate;
	translate_options.check = o->check;
	translate_options.check_turn = o->check_turn;
	run->vm = vm_new(&vm, error);
	if (!run->vm) {
		fprintf(stderr, "insula: %s\n", error);
		return STATUS_HOST_ERROR;
	}
	return run->snapshot ? load_session(run) : -1;
}

static void say_what_runs(const struct run *run)
{
	const struct run_options *o = &run->options;
	unsigned cpus = vm_vcpu_count(run->vm);
	const char *leave =
		run->raw ? "Ctrl-] then q quits" : "Ctrl-C asks it to power off, twice quits";

	if (o->detach)
		return;
	/* A command's stderr is its own when anybody but a person reads it. */
	if (o->command && !isatty(STDERR_FILENO))
		return;
	if (o->command)
		leave = "Ctrl-C interrupts the command";
	fprintf(stderr, "insula: engine %s (%s%s%s), %llu MiB, %u cpu%s; %s%s",
		vm_engine(run->vm)->name,
		strcmp(o->engine_name, "auto") == 0 ? "the best that works here" : "as asked",
		*run->no_kvm ? ": " : "", run->no_kvm,
		(unsigned long long)(ram_size(vm_board(run->vm)->ram) >> 20), cpus,
		cpus == 1 ? "" : "s", leave, run->raw ? "\r\n" : "\n");
}

/* ---- the end ---- */

static int status_of_end(const struct run *run, const struct vm_end *end)
{
	const char *detail = *end->detail ? end->detail : NULL;

	switch (end->reason) {
	case STOP_POWER_OFF:
		return STATUS_OK;
	case STOP_RESET:
		if (!run->options.guest || run->options.no_reboot)
			return STATUS_OK;
		fprintf(stderr, "insula: the guest reset itself, which ended the session\n");
		return STATUS_HOST_ERROR;
	case STOP_TRIPLE_FAULT:
		fprintf(stderr, "insula: the guest stopped with a triple fault%s%s\n",
			detail ? ": " : "", detail ? detail : "");
		return STATUS_TRIPLE_FAULT;
	case STOP_DEBUG_EXIT:
		return (int)(end->code << 1 | 1) & 0xff;
	case STOP_USER:
		return (int)end->code;
	case STOP_GUEST_ERROR:
		fprintf(stderr, "insula: the guest cannot go on: %s\n",
			detail ? detail : "reason unknown");
		return STATUS_HOST_ERROR;
	default:
		fprintf(stderr, "insula: %s\n", detail ? detail : "the host failed");
		return STATUS_HOST_ERROR;
	}
}

static int status_of_run(const struct run *run, const struct vm_end *end)
{
	if (run->session_over && !*run->session_failure)
		return run->session_status;
	if (run->session_over) {
		fprintf(stderr, "insula: guest %s: %s\n", run->options.guest, run->session_failure);
		return STATUS_HOST_ERROR;
	}
	if (run->session && run->asked_to_end && end->reason == STOP_POWER_OFF &&
	    run->options.command)
		return STATUS_SIGNAL + SIGTERM;
	return status_of_end(run, end);
}

/* The guest went by itself and not in order: its console says why. */
static bool console_matters(const struct run *run, const struct vm_end *end)
{
	bool in_order = end->reason == STOP_USER || (end->reason == STOP_POWER_OFF && run->ready) ||
			(end->reason == STOP_RESET && run->options.no_reboot);

	return run->console && !in_order && (!run->session_over || *run->session_failure);
}

/* ---- a name, and a life of its own ---- */

/*
 * Claims a name. Who did not ask for one runs without, if it must be: a full
 * /tmp is no reason not to boot.
 */
static int claim(struct run *run)
{
	const struct run_options *o = &run->options;
	bool must = o->name || o->detach;
	char error[RUNTIME_ERROR_MAX];

	snprintf(run->name, sizeof(run->name), "%s",
		 o->name    ? o->name
		 : o->guest ? o->guest
			    : "vm");
	if (runtime_dir_open(&run->dir, true, error) == 0)
		run->listener = runtime_claim(&run->dir, run->name, !o->name, error);
	if (run->listener >= 0)
		return -1;
	run->name[0] = '\0';
	if (!must)
		return -1;
	fprintf(stderr, "insula: %s\n", error);
	return STATUS_HOST_ERROR;
}

/*
 * The child goes on, -1; the caller waits until the VM runs and says its name,
 * or until the child has said on our stderr why it does not.
 */
static int detach(struct run *run)
{
	char name[RUNTIME_NAME_MAX + 1];
	int pipe_fds[2], status = 0;
	ssize_t got;
	pid_t child;

	if (pipe2(pipe_fds, O_CLOEXEC) < 0)
		return host_error("cannot make a pipe");
	child = fork();
	if (child < 0)
		return host_error("cannot start a process");
	if (child == 0) {
		close(pipe_fds[0]);
		run->ready_fd = pipe_fds[1];
		setsid();
		return -1;
	}
	close(pipe_fds[1]);
	do {
		got = read(pipe_fds[0], name, sizeof(name) - 1);
	} while (got < 0 && errno == EINTR);
	close(pipe_fds[0]);
	if (got > 0) {
		printf("%.*s\n", (int)got, name);
		return STATUS_OK;
	}
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	return WIFEXITED(status) && WEXITSTATUS(status) ? WEXITSTATUS(status) : STATUS_HOST_ERROR;
}

/* It runs: the streams of whoever started us are theirs again. */
static void let_go(struct run *run)
{
	int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	for (int i = STDIN_FILENO; fd >= 0 && i <= STDERR_FILENO; i++)
		dup2(fd, i);
	if (fd >= 0)
		close(fd);
	/* Nobody there any more: then nobody need know. */
	if (write(run->ready_fd, run->name, strlen(run->name)) < 0)
		errno = 0;
	close(run->ready_fd);
	run->ready_fd = -1;
}

/* The machine is held: its siblings are made first, or the guests would take the time from them. */
static void wait_gate(struct run *run)
{
	char byte;

	while (run->gate_fd >= 0 && read(run->gate_fd, &byte, 1) < 0 && errno == EINTR)
		;
	if (run->gate_fd >= 0)
		close(run->gate_fd);
	run->gate_fd = -1;
}

static void session_begins_again(void *ctx)
{
	struct run *run = ctx;
	uint16_t rows, cols;

	session_go_on(run->session);
	session_renew(run->session, run->is_child ? run->name : NULL);
	if (run->in_out && terminal_size(STDIN_FILENO, &rows, &cols))
		session_window_size(run->session, rows, cols);
}

/* The restored machine, from where it was. */
static void go_on(struct run *run)
{
	board_renew(vm_board(run->vm));
	if (run->session)
		loop_call(run->loop, session_begins_again, run);
	/* It may have been told to end already. */
	if (!run->options.paused && vm_release(run->vm) < 0)
		return;
}

static void print_stats(const struct vm *vm)
{
	struct engine_stats s;

	vm_engine_stats(vm, &s);
	fprintf(stderr,
		"insula: interpreted: %" PRIu64 " instructions decoded, %" PRIu64
		" traces killed by a change of their code\n"
		"insula: translated:  %" PRIu64 " regions, %" PRIu64 " instructions, %" PRIu64
		" links, %" PRIu64 " KiB hot and %" PRIu64 " KiB cold code\n"
		"insula: tiers: %" PRIu64 " traces found hot, %" PRIu64
		" of them refused and %" PRIu64 " postponed; %" PRIu64
		" regions killed by a change; everything forgotten %" PRIu64 " times\n",
		s.decoded, s.killed - s.killed_regions, s.regions, s.translated, s.links,
		s.hot_bytes >> 10, s.cold_bytes >> 10, s.exits_hot, s.refused, s.postponed,
		s.killed_regions, s.flushes);
	fprintf(stderr,
		"insula: returns to the dispatcher: %" PRIu64 " look-ups, %" PRIu64
		" events, %" PRIu64 " slow instructions (%" PRIu64 " faulted), %" PRIu64
		" faults, %" PRIu64 " stale\n"
		"insula: TLB: %" PRIu64 " fills, %" PRIu64 " page walks, %" PRIu64
		" for fetches; %" PRIu64 " flushes, %" PRIu64 " pages invalidated\n"
		"insula: halts: %" PRIu64 " ended in a poll, %" PRIu64 " sleeps\n",
		s.exits_next, s.exits_events, s.exits_slow, s.slow_faults, s.exits_fault,
		s.exits_stale, s.tlb_fills, s.tlb_walks, s.fetch_walks, s.tlb_flushes,
		s.tlb_invalidations, s.halts_polled, s.halts_slept);
}

/* What the check found; false: a difference. */
static bool print_check(const struct run *run)
{
	struct engine_stats s;

	vm_engine_stats(run->vm, &s);
	if (run->options.check == CHECK_PINGPONG)
		fprintf(stderr,
			"insula: ping-pong: %" PRIu64 " turns, %" PRIu64
			" instructions interpreted\n",
			s.check_runs, s.check_steps);
	else
		fprintf(stderr,
			"insula: lockstep: %" PRIu64 " executions, %" PRIu64
			" instructions, %" PRIu64 " differ; %" PRIu64
			" agreed when repeated, %" PRIu64 " could not be repeated\n",
			s.check_runs, s.check_steps, s.check_differ, s.check_repeated,
			s.check_skipped);
	return !s.check_differ;
}

static int run_vm(struct run *run)
{
	char error[VM_ERROR_MAX];
	struct vm_end end;

	if (run->raw)
		run->raw = terminal_raw(STDIN_FILENO);
	say_what_runs(run);
	run->signals = run_signals_new(run->loop, signal_received, run);
	if (!run->signals)
		return host_error("cannot receive signals");
	if (run->options.guest && !run->options.detach && !run->ready)
		run->progress = run_progress_new(run->loop, run->options.guest);
	if (run->listener >= 0 && run_control_start(run) < 0)
		return host_error("cannot serve the control socket");
	if (loop_start(run->loop) < 0)
		return host_error("cannot start the event loop's thread");
	if (vm_start(run->vm, error) < 0) {
		terminal_restore();
		fprintf(stderr, "insula: %s\n", error);
		return STATUS_HOST_ERROR;
	}
	if (run->is_child) {
		let_go(run);
		wait_gate(run);
	}
	if (run->snapshot)
		go_on(run);
	chardev_kick_input(run->hub);
	if (run->options.detach && !run->is_child)
		let_go(run);
	vm_wait(run->vm, &end);
	loop_stop(run->loop);
	run_progress_done(run->progress);
	terminal_restore();
	/* From here on a signal may simply end us: a reader that never reads must not hold us. */
	run_signals_free(run->signals);
	run->signals = NULL;
	if (run->in_out) {
		chardev_fd_drain(run->in_out, -1);
		chardev_fd_drain(run->err, -1);
	}
	chardev_hub_drain(run->hub);
	if (run->options.stats)
		print_stats(run->vm);
	if (run->options.check && !print_check(run))
		return STATUS_HOST_ERROR;
	if (console_matters(run, &end))
		chardev_tail_print(run->console, stderr, "insula: console: ");
	return status_of_run(run, &end);
}

/* ---- interface ---- */

void run_init(struct run *run)
{
	*run = (struct run){ .dir.fd = -1, .listener = -1, .ready_fd = -1, .gate_fd = -1 };
}

static int choose_engine(struct run *run)
{
	struct run_options *o = &run->options;
	char error[ENGINE_ERROR_MAX];

	if (!o->engine) {
		o->engine = engine_best(run->no_kvm);
		return 0;
	}
	if (engine_check(o->engine, error) == 0)
		return 0;
	fprintf(stderr, "insula: engine %s: %s; --engine auto takes one that works here\n",
		o->engine->name, error);
	return -1;
}

static int open_and_run(struct run *run)
{
	int status = open_streams(run);

	if (status < 0)
		status = open_hub(run);
	if (status < 0)
		status = build(run);
	if (status < 0)
		status = run_vm(run);
	return status;
}

int run_prepare_children(struct run *run)
{
	if (hold_standard_streams() < 0)
		return host_error("/dev/null");
	if (choose_engine(run) < 0)
		return STATUS_HOST_ERROR;
	run_signals_block();
	return -1;
}

int run_as_child(struct run *run)
{
	run->is_child = true;
	return open_and_run(run);
}

int run_to_end(struct run *run)
{
	int status = -1;

	if (hold_standard_streams() < 0)
		return host_error("/dev/null");
	if (choose_engine(run) < 0)
		return STATUS_HOST_ERROR;
	if (run->options.guest && !run->snapshot)
		status = guest_open(&run->guest, run->options.guest, run->options.append);
	if (status < 0 && run->options.detach)
		status = detach(run);
	if (status < 0) {
		run_signals_block();
		status = claim(run);
	}
	return status < 0 ? open_and_run(run) : status;
}

void run_fini(struct run *run)
{
	if (run->loop)
		loop_stop(run->loop);
	/* The name goes first, the connections last: who waits for them to close can take it at
	 * once. */
	if (*run->name)
		runtime_unclaim(&run->dir, run->name);
	control_free(run->control);
	if (run->listener >= 0)
		close(run->listener);
	run_progress_free(run->progress);
	run_signals_free(run->signals);
	vm_free(run->vm);
	vm_snapshot_close(run->snapshot);
	session_free(run->session);
	chardev_free(run->hub);
	chardev_free(run->keys);
	chardev_free(run->console);
	chardev_free(run->err);
	chardev_free(run->in_out);
	if (run->loop)
		loop_free(run->loop);
	runtime_dir_close(&run->dir);
	guest_fini(&run->guest);
	run_options_fini(&run->options);
	terminal_restore();
	if (run->ready_fd >= 0)
		close(run->ready_fd);
}
