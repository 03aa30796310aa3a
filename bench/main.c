/*
 * insula-bench NAME...: runs workloads for a bounded time and prints for each
 *
 *   NAME OPERATIONS SECONDS DIGEST
 *
 * or "NAME skip REASON". Run by bench/run on the host, and by itself as the
 * init of a guest. Invariant: each workload runs in a process of its own, so
 * none sees the heap, the mappings or the end of another.
 */
#include "workload.h"

#include <errno.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

const char *bench_reason = "setup failed", *bench_disk;
uint64_t bench_check;

static const struct workload *const tables[] = {
	integer_workloads, lua_workloads,  compress_workloads, sqlite_workloads,
	float_workloads,   avx2_workloads, memory_workloads,   code_workloads,
	kernel_workloads,  task_workloads, smp_workloads,      disk_workloads,
};

void bench_text(char *text, size_t len)
{
	static const char *const syllables[] = { "in", "su", "la",  "mo", "ra",  "ter", "no", "ve",
						 "ti", "ca", "den", "o",  "per", "ri",  "s",  "a" };
	uint64_t random = 0x9e3779b97f4a7c15;
	size_t at = 0;

	while (at < len) {
		/* The product of two draws makes some words frequent. */
		uint64_t draw = bench_random(&random), word = (draw & 63) * (draw >> 8 & 63) / 8;

		for (unsigned i = 0; i < 2 + word % 3; i++) {
			const char *syllable = syllables[(word * 7 + i * (word >> 3)) & 15];

			while (*syllable && at < len)
				text[at++] = *syllable++;
		}
		if (at < len)
			text[at++] = draw >> 20 & 7 ? ' ' : '\n';
	}
}

uint64_t bench_digest(const void *bytes, size_t len)
{
	uint64_t digest = 0xcbf29ce484222325;

	for (size_t i = 0; i < len; i++)
		digest = (digest ^ ((const unsigned char *)bytes)[i]) * 0x100000001b3;
	return digest;
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void one_cpu(void)
{
	cpu_set_t set;
	int cpu = sched_getcpu();

	CPU_ZERO(&set);
	CPU_SET(cpu < 0 ? 0 : cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

/* Reading the clock may cost a guest much more than the work, so it is read once for a batch of
 * operations: the first quarter of the time finds how large a batch may be, and warms up. */
static int measure(const struct workload *w, double seconds)
{
	uint64_t batch = 1, ops = 0, done;
	double start = now(), at = start, end = start + seconds / 4;

	if (w->flags & WORKLOAD_NO_WARM_UP)
		end = start;
	while (at < end) {
		double before = at;

		if (!w->run(batch))
			goto failed;
		at = now();
		if (at - before < seconds / 64)
			batch *= 2;
	}
	start = at = now();
	do {
		done = w->run(batch);
		ops += done;
		at = now();
	} while (done == batch && at - start < seconds);
	if (!ops || (done != batch && !(w->flags & WORKLOAD_NO_WARM_UP)))
		goto failed;
	printf("%s %llu %.9f %016llx\n", w->name, (unsigned long long)ops, at - start,
	       (unsigned long long)bench_check);
	fflush(stdout);
	return 0;
failed:
	fprintf(stderr, "insula-bench: %s: wrong result\n", w->name);
	return 1;
}

/* False: this machine lacks something; bench_reason says what. */
static bool can_run(const struct workload *w)
{
	cpu_set_t may;

	__builtin_cpu_init();
	if ((w->flags & WORKLOAD_AVX2) && !__builtin_cpu_supports("avx2")) {
		bench_reason = "this CPU has no AVX2";
		return false;
	}
	if ((w->flags & WORKLOAD_TWO_CPUS) &&
	    (sched_getaffinity(0, sizeof(may), &may) || CPU_COUNT(&may) < 2)) {
		bench_reason = "one cpu is not enough";
		return false;
	}
	return true;
}

static int run_child(const struct workload *w, double seconds)
{
	int err;

	if (w->flags & WORKLOAD_ONE_CPU)
		one_cpu();
	if (!can_run(w) || (w->setup && !w->setup())) {
		printf("%s skip %s\n", w->name, bench_reason);
		err = 0;
	} else {
		err = measure(w, seconds);
	}
	fflush(stdout);
	return err;
}

static int run(const struct workload *w, double seconds)
{
	int status = 0;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid < 0) {
		perror("insula-bench: fork");
		return 1;
	}
	if (!pid)
		_exit(run_child(w, seconds));
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFSIGNALED(status))
		fprintf(stderr, "insula-bench: %s: %s\n", w->name, strsignal(WTERMSIG(status)));
	return status ? 1 : 0;
}

static void list(void)
{
	for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++) {
		for (const struct workload *w = tables[i]; w->name; w++)
			printf("%s %s\n", w->name, w->group);
	}
}

/* Runs what has this name, or is in the group of this name. */
static int run_named(const char *name, double seconds)
{
	bool found = false;
	int err = 0;

	for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++) {
		for (const struct workload *w = tables[i]; w->name; w++) {
			if (strcmp(name, w->name) && strcmp(name, w->group) && strcmp(name, "all"))
				continue;
			found = true;
			err |= run(w, seconds);
		}
	}
	if (!found)
		fprintf(stderr, "insula-bench: no workload %s; --list names them\n", name);
	return found ? err : 2;
}

static void usage(FILE *to)
{
	fputs("usage: insula-bench NAME... [--seconds S] [--disk FILE]\n"
	      "       insula-bench --list\n"
	      "NAME is a workload, a group of them or all. Each runs for S seconds (default 1).\n",
	      to);
}

int main(int argc, char **argv)
{
	double seconds = 1;
	int err = 0, names = 0;

	if (getpid() == 1)
		guest_init();
	/* The program that fork_exec starts, and all that it does. */
	if (argc == 2 && !strcmp(argv[1], "--exit"))
		_exit(0);
	for (int i = 1; i < argc; i++) {
		char *end;

		if (!strcmp(argv[i], "--list")) {
			list();
			return 0;
		} else if (!strcmp(argv[i], "--help")) {
			usage(stdout);
			return 0;
		} else if (!strcmp(argv[i], "--seconds") && i + 1 < argc) {
			seconds = strtod(argv[++i], &end);
			if (*end || !(seconds > 0) || seconds > 3600) {
				usage(stderr);
				return 2;
			}
		} else if (!strcmp(argv[i], "--disk") && i + 1 < argc) {
			bench_disk = argv[++i];
		} else if (argv[i][0] == '-') {
			usage(stderr);
			return 2;
		} else {
			argv[names++] = argv[i];
		}
	}
	if (!names) {
		usage(stderr);
		return 2;
	}
	for (int i = 0; i < names; i++) {
		int status = run_named(argv[i], seconds);

		err = err > status ? err : status;
	}
	return err;
}
