/* Two cpus at once: a lock that both want, and a word handed back and forth by sleeping and waking.
 * The two are pinned, so that on the host and in a guest the work crosses from one cpu to the
 * other every time. */
#include "workload.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Pins the caller to the first or second of the cpus it may use. */
static bool pin(unsigned which)
{
	cpu_set_t may, one;

	if (sched_getaffinity(0, sizeof(may), &may))
		return false;
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, &may) || which--)
			continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		return !sched_setaffinity(0, sizeof(one), &one);
	}
	return false;
}

/* --- lock: test and set. Not a queue of tickets: where a third task wants one of the cpus, that
 * measures how the host's kernel lets it in and nothing else. --- */

/* Steps of a generator between two acquisitions, so that the other gets its turn. */
#define APART 20

static struct {
	_Alignas(64) _Atomic uint32_t taken;
	_Alignas(64) uint64_t count, theirs; /* by both, by the other thread; under the lock */
	_Alignas(64) _Atomic int pinned;
} shared;

static void acquire(uint64_t *random)
{
	for (int i = 0; i < APART; i++)
		bench_random(random);
	/* The work is not to be dropped, nor moved into the lock. */
	__asm__ volatile("" : : "r"(*random) : "memory");
	while (atomic_exchange_explicit(&shared.taken, 1, memory_order_acquire)) {
		while (atomic_load_explicit(&shared.taken, memory_order_relaxed))
			__builtin_ia32_pause();
	}
}

static void release(void)
{
	atomic_store_explicit(&shared.taken, 0, memory_order_release);
}

/* Never stops, so that no batch of the other waits for it to be scheduled. */
static void *lock_other(void *unused)
{
	uint64_t random = 0x9e3779b97f4a7c15;

	atomic_store(&shared.pinned, pin(1) ? 1 : -1);
	for (;;) {
		acquire(&random);
		shared.count++;
		shared.theirs++;
		release();
	}
	return NULL;
}

static bool lock_setup(void)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, lock_other, NULL) || !pin(0))
		return false;
	while (!atomic_load(&shared.pinned))
		sched_yield();
	return atomic_load(&shared.pinned) == 1;
}

/* An operation is an acquisition by either. */
static uint64_t lock_run(uint64_t ops)
{
	static uint64_t random = 0x2545f4914f6cdd1d, mine;
	uint64_t all, theirs, end = 0;

	do {
		acquire(&random);
		all = ++shared.count;
		theirs = shared.theirs;
		release();
		if (!end)
			end = all + ops - 1;
		if (all != ++mine + theirs)
			return 0; /* a count was lost, so both were inside */
	} while (all < end);
	return ops;
}

/* --- futex: as in work_task.c, but across --- */

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
	pid_t parent = getpid(), pid;

	word = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (word == MAP_FAILED)
		return false;
	pid = fork();
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent || !pin(1))
			_exit(1);
		for (;;) {
			turn_wait(1);
			turn_pass(0);
		}
	}
	return pid > 0 && pin(0);
}

static uint64_t futex_run(uint64_t ops)
{
	for (uint64_t i = 0; i < ops; i++) {
		turn_pass(1);
		turn_wait(0);
	}
	return ops;
}

const struct workload smp_workloads[] = {
	{ "lock_2cpu", "smp", lock_setup, lock_run, WORKLOAD_TWO_CPUS },
	{ "futex_2cpu", "smp", futex_setup, futex_run, WORKLOAD_TWO_CPUS },
	{ 0 },
};
