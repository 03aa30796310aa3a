/* What a kernel does for one process: system calls, faults, mappings, files, signals. */
#include "workload.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PAGE  4096
#define PAGES 128

static uint64_t getpid_run(uint64_t ops)
{
	long self = syscall(SYS_getpid);

	for (uint64_t i = 0; i < ops; i++) {
		if (syscall(SYS_getpid) != self)
			return 0;
	}
	return ops;
}

/* Through the vDSO where the kernel trusts its clock source, else a system call. */
static uint64_t clock_run(uint64_t ops)
{
	struct timespec last = { 0 }, t;

	for (uint64_t i = 0; i < ops; i++) {
		if (clock_gettime(CLOCK_MONOTONIC, &t))
			return 0;
		if (t.tv_sec < last.tv_sec || (t.tv_sec == last.tv_sec && t.tv_nsec < last.tv_nsec))
			return 0;
		last = t;
	}
	return ops;
}

/* --- memory --- */

static uint8_t *pages;

static bool pages_setup(void)
{
	pages = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		     0);
	if (pages == MAP_FAILED)
		return false;
	madvise(pages, PAGES * PAGE, MADV_NOHUGEPAGE);
	return true;
}

/* An operation is one first touch. The pages go back after each round. */
static uint64_t page_fault_run(uint64_t ops)
{
	for (uint64_t i = 0; i < ops; i++) {
		uint64_t page = i % PAGES;

		if (!page && madvise(pages, PAGES * PAGE, MADV_DONTNEED))
			return 0;
		if (pages[page * PAGE])
			return 0;
		pages[page * PAGE] = 1;
	}
	return madvise(pages, PAGES * PAGE, MADV_DONTNEED) ? 0 : ops;
}

/* A page is made read-only, read, made writable, written. */
static uint64_t mprotect_run(uint64_t ops)
{
	for (uint64_t i = 0; i < ops; i++) {
		volatile uint8_t *byte = pages;

		if (mprotect(pages, PAGE, PROT_READ))
			return 0;
		uint8_t value = *byte;

		if (mprotect(pages, PAGE, PROT_READ | PROT_WRITE))
			return 0;
		*byte = (uint8_t)(value + 1);
	}
	return ops;
}

/* --- files --- */

static uint64_t tmpfs_run(uint64_t ops)
{
	static char data[PAGE], back[PAGE];

	bench_text(data, PAGE);
	for (uint64_t i = 0; i < ops; i++) {
		int fd = open("/dev/shm/insula-bench", O_RDWR | O_CREAT | O_EXCL, 0600);
		bool right;

		if (fd < 0)
			return 0;
		right = write(fd, data, PAGE) == PAGE && pread(fd, back, PAGE, 0) == PAGE;
		close(fd);
		if (unlink("/dev/shm/insula-bench") || !right)
			return 0;
	}
	bench_check = bench_digest(back, PAGE);
	return ops;
}

static bool tmpfs_setup(void)
{
	if (access("/dev/shm", W_OK)) {
		bench_reason = "no tmpfs in /dev/shm";
		return false;
	}
	unlink("/dev/shm/insula-bench"); /* of a run that was cut off */
	return true;
}

/* --- signals --- */

static volatile sig_atomic_t signals;

static void signal_count(int number)
{
	signals = signals + 1;
}

static bool signal_setup(void)
{
	struct sigaction action = { .sa_handler = signal_count };

	return !sigaction(SIGUSR1, &action, NULL);
}

static uint64_t signal_run(uint64_t ops)
{
	pid_t self = getpid();

	signals = 0;
	for (uint64_t i = 0; i < ops; i++)
		kill(self, SIGUSR1);
	return (uint64_t)signals == (ops & 0x7fffffff) ? ops : 0;
}

/* A write to a read-only page, whose handler makes it writable: the write barrier of a garbage
 * collector. */
static void barrier(int number, siginfo_t *info, void *context)
{
	void *page = (void *)((uintptr_t)info->si_addr & ~(uintptr_t)(PAGE - 1));

	if (page != pages || mprotect(page, PAGE, PROT_READ | PROT_WRITE))
		_exit(1);
}

static bool segv_setup(void)
{
	struct sigaction action = { .sa_sigaction = barrier, .sa_flags = SA_SIGINFO };

	return pages_setup() && !sigaction(SIGSEGV, &action, NULL);
}

static uint64_t segv_run(uint64_t ops)
{
	volatile uint8_t *byte = pages;

	for (uint64_t i = 0; i < ops; i++) {
		if (mprotect(pages, PAGE, PROT_READ))
			return 0;
		*byte = (uint8_t)i;
		if (*byte != (uint8_t)i)
			return 0;
	}
	return ops;
}

const struct workload kernel_workloads[] = {
	{ "getpid", "kernel", NULL, getpid_run, 0 },
	{ "clock_gettime", "kernel", NULL, clock_run, 0 },
	{ "page_fault", "kernel", pages_setup, page_fault_run, 0 },
	{ "mprotect", "kernel", pages_setup, mprotect_run, 0 },
	{ "tmpfs_file", "kernel", tmpfs_setup, tmpfs_run, 0 },
	{ "signal", "kernel", signal_setup, signal_run, 0 },
	{ "segv", "kernel", segv_setup, segv_run, 0 },
	{ 0 },
};
