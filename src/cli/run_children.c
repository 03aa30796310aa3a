/*
 * See the header. Invariant: this process has one thread, and each child gets of
 * it what the child needs: the snapshot's state, RAM as a private mapping, a
 * name, and a pipe that says when it runs or, by closing, that it does not.
 *
 * As many children are on their way at a time as the host has processors: fewer
 * would leave some idle, more would only make each take longer. Their guests
 * begin to run when all are there.
 */
#include "cli/run_children.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "api/runtime_dir.h"
#include "cli/run.h"
#include "cli/verb.h"
#include "vm/fork.h"
#include "vm/snapshot.h"

#define AT_A_TIME_MAX 64
#define NUMBER_MAX    99999u
#define NUMBER_DIGITS 5u

struct child {
	pid_t pid;
	int ready_fd; /* -1: none on its way here */
	uint64_t began_ns;
	char name[RUNTIME_NAME_MAX + 1];
};

struct children {
	struct run *run;
	const struct children_options *options;
	struct runtime_dir dir;
	unsigned number; /* last tried */
	unsigned at_a_time, under_way, failed;
	int gate[2]; /* children wait at the one end until the other is closed */
	struct child child[AT_A_TIME_MAX];
};

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* ---- names ---- */

static void name_of(const char *pattern, unsigned number, char *name)
{
	const char *mark = strstr(pattern, "%d");
	int head = mark ? (int)(mark - pattern) : (int)strlen(pattern);

	snprintf(name, RUNTIME_NAME_MAX + 1, "%.*s%s%u%s", head, pattern, mark ? "" : "-", number,
		 mark ? mark + 2 : "");
}

bool children_pattern_valid(const char *pattern)
{
	char name[RUNTIME_NAME_MAX + 1];

	if (strlen(pattern) + NUMBER_DIGITS + 1 > RUNTIME_NAME_MAX)
		return false;
	name_of(pattern, NUMBER_MAX, name);
	return runtime_name_valid(name);
}

/* The child's name and its socket, or -1, and said why. */
static int claim(struct children *c, char *name)
{
	const struct children_options *o = c->options;
	bool exact = o->exact && o->count == 1 && !strstr(o->pattern, "%d");
	char error[RUNTIME_ERROR_MAX] = "";
	int fd = -EADDRINUSE;

	if (exact) {
		snprintf(name, RUNTIME_NAME_MAX + 1, "%s", o->pattern);
		fd = runtime_claim(&c->dir, name, false, error);
	}
	while (!exact && fd == -EADDRINUSE && c->number < NUMBER_MAX) {
		name_of(o->pattern, ++c->number, name);
		fd = runtime_claim(&c->dir, name, false, error);
	}
	if (fd < 0)
		fprintf(stderr, "insula: %s\n", error);
	return fd;
}

/* ---- one child ---- */

/* Everything of ours that is not the child's is closed. */
static void become_child(struct children *c, const struct child *self, int listener, int ready_fd)
{
	struct run *run = c->run;
	int status;

	for (unsigned i = 0; i < c->at_a_time; i++)
		if (c->child[i].ready_fd >= 0)
			close(c->child[i].ready_fd);
	close(c->gate[1]);
	setsid();
	run->gate_fd = c->gate[0];
	run->dir = c->dir;
	run->listener = listener;
	run->ready_fd = ready_fd;
	run->options.detach = true;
	memcpy(run->name, self->name, sizeof(run->name));
	status = run_as_child(run);
	run_fini(run);
	exit(status);
}

static bool start(struct children *c, struct child *child)
{
	int fds[2], listener;

	child->began_ns = now_ns();
	listener = claim(c, child->name);
	if (listener < 0)
		return false;
	if (pipe2(fds, O_CLOEXEC) < 0) {
		fprintf(stderr, "insula: cannot make a pipe: %s\n", strerror(errno));
		goto fail;
	}
	child->pid = fork();
	if (child->pid == 0) {
		close(fds[0]);
		become_child(c, child, listener, fds[1]);
	}
	close(fds[1]);
	if (child->pid < 0) {
		fprintf(stderr, "insula: cannot start a process: %s\n", strerror(errno));
		close(fds[0]);
		goto fail;
	}
	close(listener);
	child->ready_fd = fds[0];
	c->under_way++;
	return true;
fail:
	runtime_unclaim(&c->dir, child->name);
	close(listener);
	return false;
}

/* It runs, or it has ended and said why. */
static void arrived(struct children *c, struct child *child)
{
	char name[RUNTIME_NAME_MAX + 1];
	ssize_t got;

	do {
		got = read(child->ready_fd, name, sizeof(name));
	} while (got < 0 && errno == EINTR);
	close(child->ready_fd);
	child->ready_fd = -1;
	c->under_way--;
	if (got <= 0)
		c->failed++;
	else if (c->options->json)
		printf("{\"name\":\"%s\",\"pid\":%d,\"ns\":%llu}\n", child->name, (int)child->pid,
		       (unsigned long long)(now_ns() - child->began_ns));
	else
		printf("%s\n", child->name);
	/* What is in a buffer would be written by every later child too. */
	fflush(stdout);
}

static void wait_one(struct children *c)
{
	struct pollfd fds[AT_A_TIME_MAX];

	for (unsigned i = 0; i < c->at_a_time; i++)
		fds[i] = (struct pollfd){ .fd = c->child[i].ready_fd, .events = POLLIN };
	while (poll(fds, c->at_a_time, -1) < 0 && errno == EINTR)
		;
	for (unsigned i = 0; i < c->at_a_time; i++)
		if (fds[i].fd >= 0 && fds[i].revents)
			arrived(c, &c->child[i]);
	while (waitpid(-1, NULL, WNOHANG) > 0)
		;
}

static struct child *free_place(struct children *c)
{
	struct child *child = c->child;

	while (c->under_way == c->at_a_time)
		wait_one(c);
	while (child->ready_fd >= 0)
		child++;
	return child;
}

int run_children(struct run *run, const struct children_options *options)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	struct snapshot_wishes wishes = { .trust_disks = run->options.trust_disks,
					  .eager = run->options.verify };
	struct children c = { .run = run, .options = options };
	char error[SNAPSHOT_ERROR_MAX];
	unsigned started = 0;
	int status = run_prepare_children(run);

	if (status >= 0)
		return status;
	c.at_a_time = cpus < 1 ? 1 : cpus < AT_A_TIME_MAX ? (unsigned)cpus : AT_A_TIME_MAX;
	for (unsigned i = 0; i < c.at_a_time; i++)
		c.child[i].ready_fd = -1;
	if (pipe2(c.gate, O_CLOEXEC) < 0) {
		fprintf(stderr, "insula: cannot make a pipe: %s\n", strerror(errno));
		return STATUS_HOST_ERROR;
	}
	if (runtime_dir_open(&c.dir, true, error) < 0 ||
	    vm_snapshot_share(run->snapshot, &wishes, error) < 0) {
		fprintf(stderr, "insula: %s\n", error);
		return STATUS_HOST_ERROR;
	}
	fflush(NULL);
	while (started < options->count && start(&c, free_place(&c)))
		started++;
	while (c.under_way)
		wait_one(&c);
	close(c.gate[1]);
	close(c.gate[0]);
	runtime_dir_close(&c.dir);
	return started == options->count && !c.failed ? STATUS_OK : STATUS_HOST_ERROR;
}
