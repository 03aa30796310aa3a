/* What a kernel does between tasks: switches through a pipe and a futex, new processes and
 * programs. */
#include "workload.h"

#include <errno.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* A child that goes when its parent goes. */
static pid_t partner(void)
{
	pid_t parent = getpid(), pid = fork();

	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(0);
	}
	return pid;
}

/* --- pipe: one byte there and back --- */

static int there[2], back[2];

static bool pipe_setup(void)
{
	char byte;

	if (pipe(there) || pipe(back))
		return false;
	switch (partner()) {
	case -1:
		return false;
	case 0:
		close(there[1]);
		while (read(there[0], &byte, 1) == 1 && write(back[1], &byte, 1) == 1)
			;
		_exit(0);
	}
	return true;
}

static uint64_t pipe_run(uint64_t ops)
{
	for (uint64_t i = 0; i < ops; i++) {
		char byte = (char)i, got;

		if (write(there[1], &byte, 1) != 1 || read(back[0], &got, 1) != 1 || got != byte)
			return 0;
	}
	return ops;
}

/* --- futex: a word that goes 0, 1, 0 --- */

static _Atomic uint32_t *word;

static void turn_wait(uint32_t mine)
{
	while (atomic_load(word) != mine)
		syscall(SYS_futex, word, FUTEX_WAIT, 1 - mine, NULL, NULL, 0);
}

static void turn_pass(uint32_t other)
{
	atomic_store(word, other);
	syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static bool futex_setup(void)
{
	word = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (word == MAP_FAILED)
		return false;
	switch (partner()) {
	case -1:
		return false;
	case 0:
		for (;;) {
			turn_wait(1);
			turn_pass(0);
		}
	}
	return true;
}

static uint64_t futex_run(uint64_t ops)
{
	for (uint64_t i = 0; i < ops; i++) {
		turn_pass(1);
		turn_wait(0);
	}
	return ops;
}

/* --- fork --- */

static bool reap(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, 0) < 0) {
		if (errno != EINTR)
			return false;
	}
	return status == 0;
}

static uint64_t fork_exit_run(uint64_t ops)
{
	for (uint64_t i = 0; i < ops; i++) {
		pid_t pid = fork();

		if (!pid)
			_exit(0);
		if (pid < 0 || !reap(pid))
			return 0;
	}
	return ops;
}

static uint64_t fork_exec_run(uint64_t ops)
{
	char *const argv[] = { "insula-bench", "--exit", NULL }, *const envp[] = { NULL };

	for (uint64_t i = 0; i < ops; i++) {
		pid_t pid = fork();

		if (!pid) {
			execve("/proc/self/exe", argv, envp);
			_exit(127);
		}
		if (pid < 0 || !reap(pid))
			return 0;
	}
	return ops;
}

const struct workload task_workloads[] = {
	{ "pipe", "kernel", pipe_setup, pipe_run, WORKLOAD_ONE_CPU },
	{ "futex", "kernel", futex_setup, futex_run, WORKLOAD_ONE_CPU },
	{ "fork_exit", "kernel", NULL, fork_exit_run, WORKLOAD_ONE_CPU },
	{ "fork_exec", "kernel", NULL, fork_exec_run, WORKLOAD_ONE_CPU },
	{ 0 },
};
