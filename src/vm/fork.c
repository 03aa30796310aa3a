/*
 * See the header. Called by the control socket for a VM that is to be forked,
 * and by the process that starts its children. Invariant: what a fork holds is
 * one moment; RAM's base does not change after it.
 */
#include "vm/fork.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "mem/ram.h"
#include "state/stream.h"
#include "vm/snapshot.h"
#include "vm/snapshot_priv.h"
#include "vm/vm_priv.h"

/* The state's file: three lengths, then run, state and session. */
#define HEAD_BYTES 24u
#define PART_MAX   (16u << 20)

static int fail(char *error, int err, const char *what)
{
	snprintf(error, SNAPSHOT_ERROR_MAX, "%s: %s", what, strerror(-err));
	return err;
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* ---- of a running VM ---- */

static int write_all(int fd, const void *bytes, size_t len)
{
	const uint8_t *at = bytes;

	while (len) {
		ssize_t put = write(fd, at, len);

		if (put < 0 && errno == EINTR)
			continue;
		if (put <= 0)
			return put < 0 ? -errno : -ENOSPC;
		at += put;
		len -= (size_t)put;
	}
	return 0;
}

static int write_state(int fd, const char *run, const struct state_writer *w,
		       const uint8_t *session, size_t session_len)
{
	uint8_t head[HEAD_BYTES];
	int err;

	bytes_store64(head, strlen(run));
	bytes_store64(head + 8, w->len);
	bytes_store64(head + 16, session_len);
	err = write_all(fd, head, sizeof(head));
	if (!err)
		err = write_all(fd, run, strlen(run));
	if (!err)
		err = write_all(fd, w->bytes, w->len);
	if (!err && session)
		err = write_all(fd, session, session_len);
	return err;
}

/*
 * The machine paused. RAM as a file: its own, if nobody shares that yet. Else a
 * process that is a copy of us, RAM included, writes it into a new one while the
 * machine runs; *copier is it. The copy has one thread and makes system calls only.
 */
static int freeze_ram(struct vm *vm, int *ram_fd, pid_t *copier)
{
	struct ram *ram = vm->board->ram;
	int err = ram_base(ram, ram_fd);

	*copier = 0;
	if (err != -EAGAIN)
		return err;
	*ram_fd = memfd_create("insula-ram", MFD_CLOEXEC);
	if (*ram_fd < 0)
		return -errno;
	*copier = fork();
	if (*copier < 0)
		return -errno;
	if (*copier == 0)
		_exit(-ram_copy(ram, *ram_fd));
	return 0;
}

static int wait_copier(pid_t copier)
{
	int status = 0;

	if (copier <= 0)
		return 0;
	while (waitpid(copier, &status, 0) < 0) {
		if (errno != EINTR)
			return -errno;
	}
	return WIFEXITED(status) ? -WEXITSTATUS(status) : -ECANCELED;
}

void vm_fork_point_close(struct vm_fork_point *point)
{
	while (point->disk_count)
		close(point->disk_fd[--point->disk_count]);
	if (point->state_fd >= 0)
		close(point->state_fd);
	if (point->ram_fd >= 0)
		close(point->ram_fd);
}

/* The machine paused, its transfers done. */
static int copy_disks(struct vm *vm, struct vm_fork_point *point, char *error)
{
	for (unsigned i = 0; i < vm->options.board.disk_count; i++) {
		int fd;

		if (vm->options.board.disks[i].read_only)
			continue;
		fd = board_disk_copy(vm->board, i);
		if (fd < 0)
			return fail(error, fd, "a disk cannot be copied");
		point->disk_fd[point->disk_count++] = fd;
	}
	return 0;
}

/* The machine stands still within. */
static int take(struct vm *vm, const struct snapshot_extra *extra, struct state_writer *w,
		uint8_t **session, size_t *session_len, struct vm_fork_point *point, pid_t *copier,
		char *error)
{
	uint64_t began = now_ns();
	int err = vm_pause(vm);

	if (err)
		return fail(error, err, "the VM has ended");
	err = snapshot_collect(vm, extra, w, session, session_len, error);
	if (!err)
		err = copy_disks(vm, point, error);
	if (!err) {
		err = freeze_ram(vm, &point->ram_fd, copier);
		if (err)
			fail(error, err, "RAM cannot be shared");
	}
	vm_resume(vm);
	point->pause_ns = now_ns() - began;
	return err;
}

int vm_fork_point(struct vm *vm, const struct snapshot_extra *extra, struct vm_fork_point *point,
		  char *error)
{
	struct state_writer w;
	char *run = json_dumps(extra->run, JSON_COMPACT);
	uint8_t *session = NULL;
	size_t session_len = 0;
	pid_t copier = 0;
	int err;

	*point = (struct vm_fork_point){ .state_fd = -1, .ram_fd = -1 };
	snprintf(error, SNAPSHOT_ERROR_MAX, "out of memory");
	state_writer_init(&w);
	point->state_fd = memfd_create("insula-fork", MFD_CLOEXEC);
	if (!run)
		err = -ENOMEM;
	else if (point->state_fd < 0)
		err = fail(error, -errno, "cannot make a file in memory");
	else
		err = take(vm, extra, &w, &session, &session_len, point, &copier, error);
	if (!err)
		err = state_writer_finish(&w);
	if (!err) {
		err = write_state(point->state_fd, run, &w, session, session_len);
		if (!err)
			err = wait_copier(copier);
		if (err)
			fail(error, err, "the VM cannot be copied");
		copier = 0;
	}
	if (err) {
		wait_copier(copier);
		vm_fork_point_close(point);
	}
	state_writer_fini(&w);
	free(session);
	free(run);
	return err;
}

/* ---- of a child ---- */

static int read_part(int fd, uint64_t *offset, uint64_t len, uint8_t **bytes)
{
	uint64_t done = 0;

	if (len > PART_MAX)
		return -EINVAL;
	*bytes = malloc(len + 1);
	if (!*bytes)
		return -ENOMEM;
	(*bytes)[len] = 0;
	while (done < len) {
		ssize_t got = pread(fd, *bytes + done, len - done, (off_t)(*offset + done));

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got < 0 ? -errno : -EINVAL;
		done += (uint64_t)got;
	}
	*offset += len;
	return 0;
}

static int read_state(struct vm_snapshot *s, int fd)
{
	uint64_t offset = 0, run_len = 0, state_len = 0;
	uint8_t *head = NULL, *run = NULL;
	int err = read_part(fd, &offset, HEAD_BYTES, &head);

	snprintf(s->file.error, sizeof(s->file.error), "cannot be read");
	if (!err) {
		run_len = bytes_load64(head);
		state_len = bytes_load64(head + 8);
		s->session_len = bytes_load64(head + 16);
		err = read_part(fd, &offset, run_len, &run);
	}
	if (!err)
		err = read_part(fd, &offset, state_len, &s->state_bytes);
	if (!err)
		err = read_part(fd, &offset, s->session_len, &s->session);
	if (!err)
		err = snapshot_parse_run(s, (const char *)run, run_len);
	if (!err)
		err = snapshot_parse_state(s, state_len);
	free(head);
	free(run);
	return err;
}

struct vm_snapshot *vm_snapshot_open_fork(int state_fd, int ram_fd, int disk_fd, char *error)
{
	struct vm_snapshot *s = calloc(1, sizeof(*s));
	int err = -ENOMEM;

	snprintf(error, SNAPSHOT_ERROR_MAX, "out of memory");
	if (s) {
		s->file.fd = -1;
		s->ram_fd = ram_fd;
		s->disk_fd = disk_fd;
		err = read_state(s, state_fd);
		if (err)
			snprintf(error, SNAPSHOT_ERROR_MAX, "the fork %.300s", s->file.error);
	}
	close(state_fd);
	if (!err)
		return s;
	if (!s)
		close(ram_fd);
	vm_snapshot_close(s);
	errno = -err;
	return NULL;
}

int vm_snapshot_share(struct vm_snapshot *s, const struct snapshot_wishes *wishes, char *error)
{
	uint64_t bytes = s->machine.mem_bytes;
	int err = 0, base = -1;

	s->wishes = *wishes;
	s->ram = s->ram_fd >= 0 ? ram_new_on(bytes, s->ram_fd) : ram_new(bytes);
	if (!s->ram)
		return fail(error, -errno, "there is no memory for RAM");
	if (s->ram_fd >= 0)
		return 0;
	err = snapshot_load_ram(s, s->ram, -1);
	if (err) {
		snprintf(error, SNAPSHOT_ERROR_MAX, "the snapshot %.300s", s->file.error);
		return err;
	}
	/* Private copies of the snapshot's file they are already, unless it was unpacked. */
	err = ram_base(s->ram, &base);
	if (!err)
		close(base);
	else if (err != -EAGAIN)
		return fail(error, err, "RAM cannot be shared");
	return 0;
}
