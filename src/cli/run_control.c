/*
 * What a running VM can be asked over its control socket: the table of
 * operations. Those that wait run on the control's thread, the others on the
 * loop's. Invariant: an operation leaves the machine running or held, as it
 * found it, unless that is its purpose.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "api/control.h"
#include "base/loop.h"
#include "bus/vclock.h"
#include "cli/chardev_hub.h"
#include "cli/chardev_tail.h"
#include "cli/run.h"
#include "cli/run_session.h"
#include "cli/verb.h"
#include "cpu/vcpu.h"
#include "engine/engine.h"
#include "mem/ram.h"
#include "state/stream.h"
#include "vm/snapshot.h"
#include "vm/vm.h"

#define STATUS_KILLED (128 + SIGKILL)

static int refuse(struct control_call *call, int err, const char *sentence)
{
	snprintf(call->error, sizeof(call->error), "%s", sentence);
	return err;
}

static int refuse_ended(struct control_call *call)
{
	return refuse(call, -ECANCELED, "the VM has ended");
}

static json_t *json_u64(uint64_t value)
{
	return json_integer((json_int_t)value);
}

/* ---- looking ---- */

static const char *state_of(const struct run *run)
{
	if (vm_is_held(run->vm))
		return "paused";
	return run->session && !run->ready ? "booting" : "running";
}

static int info(void *ctx, struct control_call *call)
{
	struct run *run = ctx;
	const struct run_options *o = &run->options;
	json_t *disks = json_array();

	for (size_t i = 0; i < o->disk_count; i++)
		json_array_append_new(disks, json_string(o->disks[i].path));
	call->result = json_pack("{s:s, s:i, s:s, s:s, s:s, s:I, s:I, s:I, s:s*, s:s*, s:o}",
				 "name", run->name, "pid", (int)getpid(), "state", state_of(run),
				 "engine", vm_engine(run->vm)->name, "cpu", o->cpu_model, "cpus",
				 (json_int_t)vm_vcpu_count(run->vm), "mem_bytes",
				 (json_int_t)ram_size(vm_board(run->vm)->ram), "uptime_ns",
				 (json_int_t)vclock_now_ns(vm_board(run->vm)->clock), "guest",
				 o->guest, "kernel", o->guest ? NULL : o->kernel, "disks", disks);
	return call->result ? 0 : refuse(call, -ENOMEM, "out of memory");
}

/* Host CPU time of each of our threads, by name: nanoseconds. */
static json_t *threads_json(void)
{
	json_t *threads = json_object();
	DIR *list = opendir("/proc/self/task");
	struct dirent *entry;

	while (list && (entry = readdir(list))) {
		char path[300], name[32] = "", times[64];
		FILE *file;

		if (entry->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "/proc/self/task/%s/comm", entry->d_name);
		file = fopen(path, "re");
		if (file && fgets(name, sizeof(name), file))
			name[strcspn(name, "\n")] = '\0';
		if (file)
			fclose(file);
		snprintf(path, sizeof(path), "/proc/self/task/%s/schedstat", entry->d_name);
		file = fopen(path, "re");
		if (file && fgets(times, sizeof(times), file)) {
			uint64_t before =
				(uint64_t)json_integer_value(json_object_get(threads, name));

			json_object_set_new(threads, name,
					    json_u64(before + strtoull(times, NULL, 10)));
		}
		if (file)
			fclose(file);
	}
	if (list)
		closedir(list);
	return threads;
}

static uint64_t resident_bytes(void)
{
	unsigned long long total = 0, resident = 0;
	FILE *file = fopen("/proc/self/statm", "re");

	if (file && fscanf(file, "%llu %llu", &total, &resident) != 2)
		resident = 0;
	if (file)
		fclose(file);
	return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

static int stats(void *ctx, struct control_call *call)
{
	struct run *run = ctx;
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	call->result = json_pack(
		"{s:s, s:I, s:I, s:I, s:I, s:I, s:o}", "state", state_of(run), "uptime_ns",
		(json_int_t)vclock_now_ns(vm_board(run->vm)->clock), "resets",
		(json_int_t)vm_reset_count(run->vm), "resident_bytes", (json_int_t)resident_bytes(),
		"user_ns",
		(json_int_t)usage.ru_utime.tv_sec * 1000000000 + usage.ru_utime.tv_usec * 1000,
		"system_ns",
		(json_int_t)usage.ru_stime.tv_sec * 1000000000 + usage.ru_stime.tv_usec * 1000,
		"thread_ns", threads_json());
	return call->result ? 0 : refuse(call, -ENOMEM, "out of memory");
}

static int logs(void *ctx, struct control_call *call)
{
	struct run *run = ctx;
	bool serial = json_is_true(json_object_get(call->arguments, "serial"));

	call->bytes = serial && run->console ? chardev_tail_copy(run->console, &call->byte_count)
					     : chardev_hub_log(run->hub, &call->byte_count);
	return call->bytes ? 0 : refuse(call, -ENOMEM, "out of memory");
}

/* The whole state but RAM, by name. */
static int inspect(void *ctx, struct control_call *call)
{
	struct run *run = ctx;
	struct state_writer writer;
	struct state_reader reader;
	int err;

	state_writer_init(&writer);
	err = vm_state(run->vm, &writer);
	if (!err)
		err = state_reader_init(&reader, writer.bytes, writer.len);
	if (!err) {
		call->result = state_stream_to_json(&reader);
		state_reader_fini(&reader);
	}
	state_writer_fini(&writer);
	if (err == -ECANCELED)
		return refuse_ended(call);
	return call->result ? 0 : refuse(call, -ENOMEM, "out of memory");
}

/* ---- acting ---- */

static int pause_vm(void *ctx, struct control_call *call)
{
	struct run *run = ctx;
	int err = vm_hold(run->vm);

	if (err == -EALREADY)
		return refuse(call, err, "the VM is paused already");
	return err ? refuse_ended(call) : 0;
}

static int resume_vm(void *ctx, struct control_call *call)
{
	struct run *run = ctx;
	int err = vm_release(run->vm);

	if (err == -EALREADY)
		return refuse(call, err, "the VM is not paused");
	return err ? refuse_ended(call) : 0;
}

static void ask_to_end(void *ctx)
{
	run_ask_to_end(ctx, SIGTERM);
}

/* The guest powers itself off; one that is paused could not. */
static int stop_vm(void *ctx, struct control_call *call)
{
	struct run *run = ctx;

	if (vm_is_held(run->vm) && vm_release(run->vm) == -ECANCELED)
		return refuse_ended(call);
	loop_call(run->loop, ask_to_end, run);
	return 0;
}

static int kill_vm(void *ctx, struct control_call *call)
{
	struct run *run = ctx;

	vm_request_stop(run->vm, STOP_USER, STATUS_KILLED, NULL);
	return 0;
}

static int switch_vm(void *ctx, struct control_call *call)
{
	struct run *run = ctx;
	const char *name = json_string_value(json_object_get(call->arguments, "engine"));
	const struct engine *engine = name ? engine_find(name) : NULL;
	char why[ENGINE_ERROR_MAX];
	struct vm_switch_report report;
	char error[VM_ERROR_MAX];
	int err;

	if (name && strcmp(name, "auto") == 0)
		engine = engine_best(why);
	if (!engine)
		return refuse(call, -EINVAL, "engine: auto, kvm, translate or interpret");
	err = engine_check(engine, why);
	if (err < 0) {
		snprintf(error, sizeof(error), "engine %s: %s", engine->name, why);
		return refuse(call, err, error);
	}
	err = vm_switch_engine(run->vm, engine, &report, error);
	if (err)
		return refuse(call, err, error);
	call->result = json_pack("{s:s, s:s, s:I}", "from", report.from->name, "to", engine->name,
				 "pause_ns", (json_int_t)report.pause_ns);
	return call->result ? 0 : refuse(call, -ENOMEM, "out of memory");
}

/* ---- the console ---- */

static void console_adopt(void *ctx, int fd)
{
	struct run *run = ctx;

	/* Refused: it is closed, which is what the other end sees. */
	(void)chardev_hub_attach(run->hub, fd);
}

static int set_size(struct run *run, const json_t *arguments)
{
	json_int_t rows = json_integer_value(json_object_get(arguments, "rows"));
	json_int_t cols = json_integer_value(json_object_get(arguments, "cols"));

	if (rows < 1 || rows > UINT16_MAX || cols < 1 || cols > UINT16_MAX)
		return -EINVAL;
	if (run->session)
		session_window_size(run->session, (uint16_t)rows, (uint16_t)cols);
	return 0;
}

static int console(void *ctx, struct control_call *call)
{
	struct run *run = ctx;

	if (run->options.command && run->session)
		return refuse(call, -ENOTTY,
			      "a COMMAND has no console; insula logs shows its output");
	/* Who looks from a terminal says how large it is. */
	(void)set_size(run, call->arguments);
	call->adopt = console_adopt;
	return 0;
}

static int resize(void *ctx, struct control_call *call)
{
	if (set_size(ctx, call->arguments) < 0)
		return refuse(call, -EINVAL, "rows and cols are numbers from 1 to 65535");
	return 0;
}

static const struct control_operation operations[] = {
	{ "info", false, info },
	{ "stats", false, stats },
	{ "logs", false, logs },
	{ "pause", true, pause_vm },
	{ "resume", true, resume_vm },
	{ "stop", true, stop_vm },
	{ "snapshot", true, run_snapshot },
	{ "switch", true, switch_vm },
	{ "fork", true, run_fork },
	{ "inspect", true, inspect },
	{ "kill", false, kill_vm },
	{ "console", false, console },
	{ "resize", false, resize },
	{ 0 },
};

int run_control_start(struct run *run)
{
	int listener = run->listener;

	run->listener = -1;
	run->control = control_new(run->loop, listener, operations, run);
	return run->control ? 0 : -errno;
}
