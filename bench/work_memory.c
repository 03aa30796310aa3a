/* Moving and reading memory: libc's memcpy (vector loads and stores, or whatever it picks here),
 * rep movsq, plain loads over more memory than caches hold, and loads whose address the load before
 * gives: within the first cache, and over more pages than a TLB holds. */
#include "workload.h"

#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>

#define BLOCK (1 << 20)
#define RANGE (64 << 20)

static uint64_t *from, *to;
static size_t at;

static bool map(uint64_t **memory, size_t len)
{
	void *mapped = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (mapped == MAP_FAILED)
		return false;
	*memory = mapped;
	for (size_t i = 0; i < len / 8; i++)
		(*memory)[i] = i * 0x9e3779b97f4a7c15;
	return true;
}

static bool copy_setup(void)
{
	return map(&from, BLOCK) && map(&to, BLOCK);
}

static bool copied(void)
{
	bench_check = to[BLOCK / 8 - 1];
	return bench_check == from[BLOCK / 8 - 1] && to[12345] == from[12345];
}

static uint64_t memcpy_run(uint64_t ops)
{
	to[12345] = 0;
	for (uint64_t i = 0; i < ops; i++) {
		memcpy(to, from, BLOCK);
		__asm__ volatile("" : : "r"(to), "r"(from) : "memory");
	}
	return copied() ? ops : 0;
}

static uint64_t rep_movsq_run(uint64_t ops)
{
	to[12345] = 0;
	for (uint64_t i = 0; i < ops; i++) {
		uint64_t *d = to;
		const uint64_t *s = from;
		size_t n = BLOCK / 8;

		__asm__ volatile("rep movsq" : "+D"(d), "+S"(s), "+c"(n) : : "memory");
	}
	return copied() ? ops : 0;
}

static bool read_setup(void)
{
	return map(&from, RANGE);
}

/* An operation reads 256 KiB; the next goes on where it ended. */
static uint64_t read_run(uint64_t ops)
{
	const size_t words = (256 << 10) / 8;

	for (uint64_t i = 0; i < ops; i++) {
		const uint64_t *p = from + at;
		uint64_t sum0 = 0, sum1 = 0;

		for (size_t w = 0; w < words; w += 4) {
			sum0 += p[w] + p[w + 2];
			sum1 += p[w + 1] + p[w + 3];
		}
		/* Not in the digest: it tells where the last operation was. */
		__asm__ volatile("" : : "r"(sum0 + sum1) : "memory");
		at = (at + words) % (RANGE / 8);
	}
	return ops;
}

/* --- pointer chase: one cycle through all nodes, a node a cache line --- */

#define HOPS 1024

struct node {
	struct node *next;
	uint64_t rank; /* on the cycle */
	uint64_t pad[6];
};

_Static_assert(sizeof(struct node) == 64, "a node is a cache line");

static struct node *nodes, *here;
static uint64_t node_count;

static bool chase_setup(size_t len)
{
	uint64_t random = 0x9e3779b97f4a7c15, *memory, *order;

	node_count = len / sizeof(struct node);
	if (!map(&memory, len) || !map(&order, node_count * sizeof(*order)))
		return false;
	nodes = (struct node *)memory;
	for (uint64_t i = 0; i < node_count; i++)
		order[i] = i;
	for (uint64_t i = node_count - 1; i; i--) {
		uint64_t other = bench_random(&random) % (i + 1), moved = order[i];

		order[i] = order[other];
		order[other] = moved;
	}
	for (uint64_t i = 0; i < node_count; i++) {
		nodes[order[i]].next = &nodes[order[(i + 1) % node_count]];
		nodes[order[i]].rank = i;
	}
	munmap(order, node_count * sizeof(*order));
	here = nodes;
	return true;
}

static bool chase16k_setup(void)
{
	return chase_setup(16 << 10);
}

static bool chase16m_setup(void)
{
	return chase_setup(16 << 20);
}

/* An operation is HOPS loads; the next goes on where it ended. */
static uint64_t chase_run(uint64_t ops)
{
	uint64_t end = (here->rank + ops * HOPS) % node_count;
	struct node *node = here;

	for (uint64_t i = 0; i < ops; i++) {
		for (unsigned hop = 0; hop < HOPS; hop += 4)
			node = node->next->next->next->next;
	}
	here = node;
	return node->rank == end ? ops : 0;
}

const struct workload memory_workloads[] = {
	{ "memcpy", "memory", copy_setup, memcpy_run, 0 },
	{ "rep_movsq", "memory", copy_setup, rep_movsq_run, 0 },
	{ "read64m", "memory", read_setup, read_run, 0 },
	{ "chase16k", "memory", chase16k_setup, chase_run, 0 },
	{ "chase16m", "memory", chase16m_setup, chase_run, 0 },
	{ 0 },
};
