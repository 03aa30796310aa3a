/*
 * Storms for a guest with several cpus: run in it, statically linked, by
 * smp.py; also right on any Linux host. One line a storm, "ok" or "FAIL" first.
 * The argument scales how long each lasts.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define MOST 16

static unsigned threads, scale = 1;
static bool failed;

static void verdict(bool ok, const char *what, unsigned long detail)
{
	printf("%s %s (%lu)\n", ok ? "ok" : "FAIL", what, detail);
	fflush(stdout);
	failed |= !ok;
}

struct crew {
	pthread_t thread[MOST];
	pthread_barrier_t start;
	void (*work)(unsigned me);
};
static struct crew crew;

static void *crew_main(void *arg)
{
	unsigned me = (unsigned)(uintptr_t)arg;
	cpu_set_t set;

	/* One each: this is about cpus, not about the scheduler. */
	CPU_ZERO(&set);
	CPU_SET(me % (unsigned)sysconf(_SC_NPROCESSORS_ONLN), &set);
	sched_setaffinity(0, sizeof(set), &set);
	pthread_barrier_wait(&crew.start);
	crew.work(me);
	return NULL;
}

static void together(void (*work)(unsigned))
{
	crew.work = work;
	pthread_barrier_init(&crew.start, NULL, threads);
	for (uintptr_t n = 0; n < threads; n++)
		if (pthread_create(&crew.thread[n], NULL, crew_main, (void *)n))
			abort();
	for (unsigned n = 0; n < threads; n++)
		pthread_join(crew.thread[n], NULL);
	pthread_barrier_destroy(&crew.start);
}

/* ---- locked counters, in one page and across two ---- */

static uint8_t *place;
static unsigned rounds;

static void count(unsigned me)
{
	for (unsigned n = 0; n < rounds; n++) {
		uint32_t one = 1, old = 0;
		bool done;

		__asm__ volatile("lock addl $1, (%0)" ::"r"(place) : "memory", "cc");
		__asm__ volatile("lock xaddl %0, (%1)" : "+r"(one) : "r"(place) : "memory", "cc");
		do
			__asm__ volatile("lock cmpxchgl %3, (%2)"
					 : "=@ccz"(done), "+a"(old)
					 : "r"(place), "r"(old + 1)
					 : "memory");
		while (!done);
	}
}

static void counters(void)
{
	uint8_t *pages =
		mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	static const struct {
		const char *name;
		unsigned offset, rounds;
	} at[] = { { "locked counter", 64, 20000 },
		   { "locked counter, unaligned", 101, 20000 },
		   { "locked counter across cache lines", 126, 500 },
		   { "locked counter across pages", PAGE - 1, 500 } };

	for (unsigned n = 0; n < sizeof(at) / sizeof(*at); n++) {
		uint32_t sum;

		place = pages + at[n].offset;
		memset(place, 0, 4);
		rounds = at[n].rounds * scale;
		together(count);
		memcpy(&sum, place, 4);
		verdict(sum == 3 * threads * rounds, at[n].name, sum);
	}
	munmap(pages, 2 * PAGE);
}

/* ---- mutexes and conditions ---- */

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t moved = PTHREAD_COND_INITIALIZER;
static unsigned long turn;

static void take_turns(unsigned me)
{
	pthread_mutex_lock(&mutex);
	while (turn < 400ul * scale * threads) {
		if (turn % threads == me) {
			turn++;
			pthread_cond_broadcast(&moved);
		} else {
			pthread_cond_wait(&moved, &mutex);
		}
	}
	pthread_mutex_unlock(&mutex);
}

/* ---- protections that other cpus must come to know ---- */

static uint8_t *shared, *spare;
static _Atomic bool stop;
static _Atomic unsigned long faults;
static __thread sigjmp_buf back;

static void on_fault(int signo)
{
	atomic_fetch_add(&faults, 1);
	siglongjmp(back, 1);
}

static _Atomic unsigned long leaked;

static void protect(unsigned me)
{
	volatile uint32_t *mine = (volatile uint32_t *)(shared + 256 * me);

	if (me) {
		uint32_t value = 0;

		sigsetjmp(back, 1);
		while (!atomic_load(&stop)) {
			*mine = ++value;
			if (value % 64 == 0)
				sched_yield();
		}
		return;
	}
	for (unsigned n = 0; n < 150 * scale; n++) {
		uint32_t seen[MOST];

		mprotect(shared, PAGE, PROT_READ);
		for (unsigned t = 1; t < threads; t++)
			seen[t] = *(volatile uint32_t *)(shared + 256 * t);
		for (unsigned spin = 0; spin < 2000; spin++)
			__builtin_ia32_pause();
		for (unsigned t = 1; t < threads; t++)
			if (*(volatile uint32_t *)(shared + 256 * t) != seen[t])
				atomic_fetch_add(&leaked, 1);
		mprotect(shared, PAGE, PROT_READ | PROT_WRITE);
		for (unsigned spin = 0; spin < 500; spin++)
			__builtin_ia32_pause();
	}
	atomic_store(&stop, true);
}

/* The page is taken away and given to another use: no store may follow it there. */
static void unmap(unsigned me)
{
	volatile uint32_t *mine = (volatile uint32_t *)(shared + 256 * me);

	if (me) {
		sigsetjmp(back, 1);
		while (!atomic_load(&stop)) {
			*mine = 0xdead;
			sched_yield();
		}
		return;
	}
	for (unsigned n = 0; n < 100 * scale; n++) {
		uint32_t *other;

		munmap(shared, PAGE);
		/* Likely the frame that was just freed; at an address of its own. */
		other = mmap(spare, PAGE, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE | MAP_FIXED, -1, 0);
		for (unsigned spin = 0; spin < 1000; spin++)
			__builtin_ia32_pause();
		for (unsigned i = 0; i < PAGE / 4; i++)
			if (other[i])
				atomic_fetch_add(&leaked, 1);
		if (mmap(shared, PAGE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != shared)
			abort();
		mmap(spare, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		for (unsigned spin = 0; spin < 500; spin++)
			__builtin_ia32_pause();
	}
	atomic_store(&stop, true);
}

/* ---- code made by one thread and executed by others ---- */

static uint8_t *code;
static _Atomic uint32_t version, reached[MOST];

static void generate(unsigned me)
{
	unsigned a, b, c, d;

	for (uint32_t n = 1; n <= 200 * scale; n++) {
		uint8_t *p = code + n % 16 * 64;

		if (!me) {
			/* mov eax, n; ret */
			*(volatile uint64_t *)p = 0xb8 | (uint64_t)n << 8 | 0xc3ull << 40;
			((volatile uint32_t *)code)[512 + n % 512] = n;
			atomic_store(&version, n);
			for (unsigned t = 1; t < threads; t++)
				while (atomic_load(&reached[t]) != n)
					sched_yield();
			continue;
		}
		while (atomic_load(&version) < n)
			sched_yield();
		__cpuid(0, a, b, c, d);
		if (((uint32_t(*)(void))(uintptr_t)p)() != n)
			atomic_fetch_add(&leaked, 1);
		atomic_store(&reached[me], n);
	}
}

/* ---- time ---- */

static uint64_t last_ns;

static void look_at_clock(unsigned me)
{
	for (unsigned n = 0; n < 5000 * scale; n++) {
		struct timespec ts;
		uint64_t now;

		pthread_mutex_lock(&mutex);
		clock_gettime(CLOCK_MONOTONIC, &ts);
		now = (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
		if (now < last_ns)
			atomic_fetch_add(&leaked, 1);
		last_ns = now;
		pthread_mutex_unlock(&mutex);
	}
}

/* ---- processes ---- */

static void fork_storm(unsigned me)
{
	for (unsigned n = 0; n < 25 * scale; n++) {
		int fds[2], status;
		char byte = 0;
		pid_t pid;

		if (pipe(fds))
			abort();
		pid = fork();
		if (pid == 0) {
			/* Copy-on-write under the others' feet. */
			uint8_t *own = malloc(16 * PAGE);

			memset(own, (int)n, 16 * PAGE);
			byte = (char)(own[PAGE * 7] + 1);
			_exit(write(fds[1], &byte, 1) == 1 ? 0 : 1);
		}
		close(fds[1]);
		if (pid < 0 || read(fds[0], &byte, 1) != 1 || byte != (char)(n + 1) ||
		    waitpid(pid, &status, 0) != pid || status)
			atomic_fetch_add(&leaked, 1);
		close(fds[0]);
	}
}

static void storm(const char *name, void (*work)(unsigned))
{
	atomic_store(&stop, false);
	atomic_store(&leaked, 0);
	together(work);
	verdict(atomic_load(&leaked) == 0, name, atomic_load(&leaked));
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = on_fault, .sa_flags = SA_NODEFER };

	threads = (unsigned)sysconf(_SC_NPROCESSORS_ONLN);
	if (threads < 2)
		threads = 2;
	if (threads > MOST)
		threads = MOST;
	if (argc > 1)
		scale = (unsigned)atoi(argv[1]);
	sigaction(SIGSEGV, &action, NULL);
	counters();
	together(take_turns);
	verdict(turn >= 400ul * scale * threads, "turns by mutex and condition", turn);
	shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	spare = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	storm("mprotect: no store after it", protect);
	verdict(atomic_load(&faults) > 0, "  and stores do fault", atomic_load(&faults));
	storm("munmap: no store to the freed page", unmap);
	code = mmap(NULL, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		    0);
	storm("code made by another thread", generate);
	storm("the clock never goes back", look_at_clock);
	storm("forks, pipes, copies on write", fork_storm);
	printf(failed ? "FAILED\n" : "all well on %u cpus\n", threads);
	return failed;
}
