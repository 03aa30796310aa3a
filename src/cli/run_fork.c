/*
 * insula fork, in the VM's process: stops the machine for a moment, and starts
 * the process that starts its children. That one is executed anew, so that
 * children begin small, with nothing of ours but the two files they are made of.
 * Called by the control's thread.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "api/control.h"
#include "base/loop.h"
#include "cli/run.h"
#include "cli/run_children.h"
#include "cli/run_session.h"
#include "cli/verb.h"
#include "engine/engine.h"
#include "vm/fork.h"
#include "vm/snapshot.h"
#include "vm/vm.h"

#define STATE_FD 3
#define RAM_FD   4
#define DISK_FD  5

static int refuse(struct control_call *call, int err, const char *sentence)
{
	snprintf(call->error, sizeof(call->error), "%s", sentence);
	return err;
}

/* ---- the process that starts the children ---- */

static int children_verb_run(const struct verb *verb, int argc, char **argv)
{
	struct run *run = calloc(1, sizeof(*run));
	struct children_options children = { 0 };
	char error[SNAPSHOT_ERROR_MAX];
	int status = STATUS_HOST_ERROR;

	if (!run || argc != 6)
		return usage_error(NULL, "%s is for insula fork only", verb->name);
	run_init(run);
	run->options.engine_name = argv[1];
	run->options.engine = engine_find(argv[1]);
	run->options.cpu_model = "saved";
	children.count = (unsigned)strtoul(argv[2], NULL, 10);
	children.pattern = argv[3];
	children.exact = strcmp(argv[4], "exact") == 0;
	children.json = strcmp(argv[5], "json") == 0;
	run->snapshot = vm_snapshot_open_fork(STATE_FD, RAM_FD, DISK_FD, error);
	if (!run->snapshot)
		fprintf(stderr, "insula: %s\n", error);
	else if (!run_undescribe(&run->options, vm_snapshot_run(run->snapshot)))
		fprintf(stderr, "insula: the VM's description makes no sense\n");
	else
		status = run_children(run, &children);
	run_fini(run);
	free(run);
	return status;
}

const struct verb verb_children = { .name = "fork-children", .run = children_verb_run };

/* ---- in the VM's process ---- */

/* Names and sentences of the other process, as far as there is room. */
struct output {
	int fd;
	char *text;
	size_t len, room;
};

/* True: there may be more. */
static bool output_read(struct output *o)
{
	ssize_t got;

	if (o->len + 4096 > o->room) {
		char *more = realloc(o->text, o->room + 65536);

		if (!more)
			return false;
		o->text = more;
		o->room += 65536;
	}
	got = read(o->fd, o->text + o->len, o->room - o->len - 1);
	if (got < 0 && errno == EINTR)
		return true;
	if (got <= 0)
		return false;
	o->len += (size_t)got;
	o->text[o->len] = '\0';
	return true;
}

/* Until every process that could write has gone or let go of it. */
static void read_all(struct output *out, struct output *err)
{
	struct pollfd fds[2] = { { .fd = out->fd, .events = POLLIN },
				 { .fd = err->fd, .events = POLLIN } };

	while (fds[0].fd >= 0 || fds[1].fd >= 0) {
		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			break;
		if (fds[0].fd >= 0 && fds[0].revents && !output_read(out))
			fds[0].fd = -1;
		if (fds[1].fd >= 0 && fds[1].revents && !output_read(err))
			fds[1].fd = -1;
	}
}

static int spawn(const struct run *run, const struct children_options *o,
		 const struct vm_fork_point *point, int out_fd, int err_fd, pid_t *pid)
{
	const char *engine = run->options.engine->name;
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attributes;
	char count[16];
	char *argv[] = { (char *)"insula",
			 (char *)verb_children.name,
			 (char *)engine,
			 count,
			 (char *)o->pattern,
			 (char *)(o->exact ? "exact" : "any"),
			 (char *)(o->json ? "json" : "names"),
			 NULL };
	int from[4 + BOARD_DISKS_MAX] = { out_fd, err_fd, point->state_fd, point->ram_fd };
	int to[] = { STDOUT_FILENO, STDERR_FILENO, STATE_FD, RAM_FD }, err;
	unsigned files_count = 4 + point->disk_count;
	sigset_t none;

	snprintf(count, sizeof(count), "%u", o->count);
	sigemptyset(&none);
	posix_spawn_file_actions_init(&files);
	posix_spawnattr_init(&attributes);
	posix_spawnattr_setsigmask(&attributes, &none);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
	posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDWR, 0);
	/* Out of the way of the places where they go. */
	for (unsigned i = 0; i < files_count; i++) {
		int fd = i < 4 ? from[i] : point->disk_fd[i - 4];

		from[i] = fcntl(fd, F_DUPFD_CLOEXEC, DISK_FD + BOARD_DISKS_MAX);
		posix_spawn_file_actions_adddup2(&files, from[i],
						 i < 4 ? to[i] : DISK_FD + (int)i - 4);
	}
	err = -posix_spawn(pid, "/proc/self/exe", &files, &attributes, argv, environ);
	posix_spawn_file_actions_destroy(&files);
	posix_spawnattr_destroy(&attributes);
	for (unsigned i = 0; i < files_count; i++)
		if (from[i] >= 0)
			close(from[i]);
	return err;
}

static json_t *result_of(const struct output *out, uint64_t pause_ns, size_t *count)
{
	json_t *names = json_array(), *line;
	char *rest = out->text, *word;

	*count = 0;
	while (rest && (word = strsep(&rest, "\n"))) {
		if (!*word)
			continue;
		line = *word == '{' ? json_loads(word, 0, NULL) : json_string(word);
		if (json_array_append_new(names, line) == 0)
			++*count;
	}
	return json_pack("{s:I, s:o}", "pause_ns", (json_int_t)pause_ns, "children", names);
}

/* The first sentence, without our own name before it. */
static void sentence_of(const struct output *err, char *sentence, size_t size)
{
	const char *text = err->len ? err->text : "insula: its children could not be started";

	if (strncmp(text, "insula: ", 8) == 0)
		text += 8;
	snprintf(sentence, size, "%.*s", (int)strcspn(text, "\n"), text);
}

static int start_children(struct run *run, const struct children_options *o,
			  const struct vm_fork_point *point, struct control_call *call)
{
	struct output out = { .fd = -1 }, err = { .fd = -1 };
	int out_pipe[2] = { -1, -1 }, err_pipe[2] = { -1, -1 }, rc = 0, status = -1;
	char sentence[300];
	size_t count = 0;
	pid_t pid = -1;

	if (pipe2(out_pipe, O_CLOEXEC) < 0 || pipe2(err_pipe, O_CLOEXEC) < 0)
		rc = -errno;
	if (!rc)
		rc = spawn(run, o, point, out_pipe[1], err_pipe[1], &pid);
	if (out_pipe[1] >= 0)
		close(out_pipe[1]);
	if (err_pipe[1] >= 0)
		close(err_pipe[1]);
	if (!rc) {
		out.fd = out_pipe[0];
		err.fd = err_pipe[0];
		read_all(&out, &err);
		while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
			;
	}
	if (out_pipe[0] >= 0)
		close(out_pipe[0]);
	if (err_pipe[0] >= 0)
		close(err_pipe[0]);
	if (rc) {
		snprintf(call->error, sizeof(call->error), "cannot start a process: %s",
			 strerror(-rc));
	} else {
		call->result = result_of(&out, point->pause_ns, &count);
		if (count != o->count || status) {
			sentence_of(&err, sentence, sizeof(sentence));
			snprintf(call->error, sizeof(call->error), "%zu of %u children run: %s",
				 count, o->count, sentence);
			rc = -ECHILD;
		}
	}
	free(out.text);
	free(err.text);
	return rc;
}

static int save(void *ctx, struct state_writer *w, uint8_t **bytes, size_t *len)
{
	struct run *run = ctx;

	return run->session ? session_save(run->session, w, bytes, len) : 0;
}

static void renew(void *ctx)
{
	struct run *run = ctx;

	session_renew(run->session, NULL);
}

bool run_hold(struct run *run)
{
	bool hold = run->session && !vm_is_held(run->vm);

	if (hold)
		session_hold(run->session);
	return hold;
}

void run_renew(struct run *run)
{
	loop_call(run->loop, renew, run);
}

static int fork_point(struct run *run, const struct snapshot_extra *extra,
		      struct vm_fork_point *point, char *error)
{
	bool hold = run_hold(run);
	int err = vm_fork_point(run->vm, extra, point, error);

	if (hold)
		run_renew(run);
	return err;
}

int run_fork(void *ctx, struct control_call *call)
{
	struct run *run = ctx;
	json_int_t count = json_integer_value(json_object_get(call->arguments, "count"));
	const char *pattern = json_string_value(json_object_get(call->arguments, "name"));
	struct children_options children = { .count = (unsigned)count,
					     .pattern = pattern ? pattern : run->name,
					     .exact = pattern,
					     .json = json_is_true(
						     json_object_get(call->arguments, "json")) };
	struct snapshot_extra extra = { .save = save, .ctx = run, .run = run_describe(run) };
	struct vm_fork_point point;
	int err;

	if (!extra.run)
		return refuse(call, -EILSEQ, "a file's name or the command is not UTF-8");
	if (count < 1 || count > CHILDREN_MAX)
		err = refuse(call, -EINVAL, "count is a number from 1 to 10000");
	else if (!children_pattern_valid(children.pattern))
		err = refuse(call, -EINVAL, "the children's names would be too long, or no names");
	else
		err = fork_point(run, &extra, &point, call->error);
	if (!err) {
		err = start_children(run, &children, &point, call);
		vm_fork_point_close(&point);
	}
	json_decref((json_t *)extra.run);
	return err;
}
