/*
 * A workload: work that can be counted, done by the same bytes on the bare host
 * and in a guest. main.c times it; each work_*.c offers a table of them.
 *
 * An operation takes about a millisecond at most on the host, so that a guest
 * a hundred times slower still does several in its time. It starts from the
 * same state each time, so that its result can be compared between machines.
 */
#ifndef BENCH_WORKLOAD_H
#define BENCH_WORKLOAD_H

#include <stddef.h>
#include <stdint.h>

enum {
	WORKLOAD_ONE_CPU = 1, /* two tasks that alternate: keep them on one cpu, as in the guest */
	WORKLOAD_NO_WARM_UP = 2, /* what has been done once is not the same again */
	WORKLOAD_AVX2 = 4,
	WORKLOAD_TWO_CPUS = 8,
};

struct workload {
	const char *name, *group;
	/* False: the workload cannot run here; bench_reason says why. NULL: nothing to set up. */
	_Bool (*setup)(void);
	/* Does at most that many operations and returns how many. 0: a result was wrong, or
	 * nothing is left to do. */
	uint64_t (*run)(uint64_t ops);
	unsigned flags;
};

/* Ends with a name of NULL. */
extern const struct workload integer_workloads[], lua_workloads[], compress_workloads[],
	sqlite_workloads[], float_workloads[], avx2_workloads[], memory_workloads[],
	code_workloads[], kernel_workloads[], task_workloads[], smp_workloads[], disk_workloads[];

extern const char *bench_reason; /* why setup or run failed */
extern const char *bench_disk;   /* file or device that disk workloads read */

/* A digest of the last operation's result, the same on every machine. 0: it has none. */
extern uint64_t bench_check;

/* Text with the statistics of prose: it compresses to about a third. */
void bench_text(char *text, size_t len);

/* FNV-1a */
uint64_t bench_digest(const void *bytes, size_t len);

/* One step of a 64-bit xorshift generator. */
static inline uint64_t bench_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* Serves requests on the console as the guest's init; does not return. */
void guest_init(void) __attribute__((noreturn));

#endif
