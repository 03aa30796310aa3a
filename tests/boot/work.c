/*
 * Work of every sort that an interruption could spoil: run in a guest, statically
 * linked, by switch.py and snapshot_work.py while it is snapshotted, restored or
 * moved between engines, and on the host, which says what is right. One line a
 * sort; nothing in them depends on time. The argument scales how long each lasts.
 */
#define _GNU_SOURCE
#include <immintrin.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static unsigned scale = 1;

static uint64_t mix(uint64_t hash, const void *bytes, size_t len)
{
	const uint8_t *at = bytes;

	while (len--)
		hash = (hash ^ *at++) * 0x100000001b3u;
	return hash;
}

static void say(const char *what, uint64_t result)
{
	printf("%s %016llx\n", what, (unsigned long long)result);
	fflush(stdout);
}

/* The stack of the x87 stays full across a loop; its last instruction's address is looked at too. */
static void x87(void)
{
	uint64_t hash = 0;

	for (unsigned round = 0; round < 20 * scale; round++) {
		long double out[3];
		unsigned turns = 20000;

		asm volatile("fninit\n\tfld1\n\tfldpi\n\tfldl2e\n\tfldlg2\n"
			     "1:\tfld %%st(3)\n\tfmul %%st(1),%%st\n\tfadd %%st(2),%%st\n\tfsqrt\n\t"
			     "fxch %%st(4)\n\tfstp %%st(0)\n\tfld %%st(2)\n\tfsin\n\tfaddp %%st,%%st(3)\n\t"
			     "sub $1,%0\n\tjnz 1b\n\t"
			     "fstpt %1\n\tfstp %%st(0)\n\tfstpt %2\n\tfstpt %3\n\t"
			     : "+r"(turns), "=m"(out[0]), "=m"(out[1]), "=m"(out[2])
			     :
			     : "memory");
		for (unsigned n = 0; n < 3; n++)
			hash = mix(hash + round, &out[n], 10);
	}
	say("x87", hash);
}

/* All of the upper halves are in use. */
__attribute__((target("avx"))) static void avx(void)
{
	__m256d x[12], r = _mm256_set_pd(3.91, 3.95, 3.97, 3.99), one = _mm256_set1_pd(1.0);

	for (unsigned n = 0; n < 12; n++)
		x[n] = _mm256_set_pd(0.1 + n * 0.01, 0.2 + n * 0.01, 0.3 + n * 0.01, 0.4 + n * 0.01);
	for (unsigned turn = 0; turn < 100000 * scale; turn++) {
		for (unsigned n = 0; n < 12; n++)
			x[n] = _mm256_mul_pd(_mm256_mul_pd(r, x[n]), _mm256_sub_pd(one, x[n]));
		asm volatile("" ::: "memory");
	}
	say("avx", mix(0, x, sizeof(x)));
}

#define BUFFER (1u << 20)

static void rep(void)
{
	uint8_t *a = malloc(BUFFER + 64), *b = malloc(BUFFER + 64);
	uint64_t hash = 0;

	for (unsigned n = 0; n < BUFFER + 64; n++)
		a[n] = (uint8_t)(n * 7 + (n >> 8));
	for (unsigned round = 0; round < 60 * scale; round++) {
		void *to = b + round % 13, *from = a + round % 7;
		size_t count = BUFFER - 32;

		asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count)::"memory");
		to = a + round % 5 * 8;
		count = BUFFER / 64;
		asm volatile("rep stosq" : "+D"(to), "+c"(count) : "a"(round * 0x9e3779b97f4a7c15u) : "memory");
		to = a + BUFFER / 2;
		from = b + BUFFER / 2 - 3;
		count = BUFFER / 32;
		asm volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(count)::"memory");
		if (round % 8 == 0)
			hash = mix(hash, a, BUFFER / 8) ^ mix(hash, b + BUFFER / 2, BUFFER / 8);
	}
	say("rep", hash ^ mix(0, b, BUFFER));
	free(a);
	free(b);
}

static _Atomic unsigned ticks;

static void tick(int number)
{
	atomic_fetch_add(&ticks, 1);
}

static uint64_t now_ns(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* A timer that ticks while this thread sleeps and halts its processor; time never goes back. */
static void timer(void)
{
	struct sigaction action = { .sa_handler = tick };
	struct itimerspec each = { { 0, 3000000 }, { 0, 3000000 } };
	uint64_t last = now_ns(CLOCK_MONOTONIC), back = 0;
	timer_t id;

	sigaction(SIGRTMIN, &action, NULL);
	if (timer_create(CLOCK_MONOTONIC,
			 &(struct sigevent){ .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN }, &id) ||
	    timer_settime(id, 0, &each, NULL)) {
		say("timer", 1);
		return;
	}
	while (atomic_load(&ticks) < 60 * scale) {
		struct timespec wait = { 0, 50000000 };
		uint64_t now;

		nanosleep(&wait, NULL);
		now = now_ns(CLOCK_MONOTONIC);
		back += now < last;
		last = now;
	}
	timer_delete(id);
	say("timer", back);
}

static _Atomic uint32_t turn;
static int ring[2][2];
static _Atomic uint64_t passed;

static void *futex_player(void *arg)
{
	uint32_t me = (uint32_t)(uintptr_t)arg;

	for (unsigned n = 0; n < 1500 * scale; n++) {
		uint32_t now;

		while ((now = atomic_load(&turn)) % 4 != me)
			syscall(SYS_futex, &turn, FUTEX_WAIT_PRIVATE, now, NULL, NULL, 0);
		atomic_store(&passed, atomic_load(&passed) * 31 + now);
		atomic_store(&turn, now + 1);
		syscall(SYS_futex, &turn, FUTEX_WAKE_PRIVATE, 8, NULL, NULL, 0);
	}
	return NULL;
}

static void *pipe_player(void *arg)
{
	uint64_t value;

	while (read(ring[0][0], &value, 8) == 8 && value) {
		value = value * 6364136223846793005u + 1;
		if (write(ring[1][1], &value, 8) != 8)
			break;
	}
	return NULL;
}

static void storm(void)
{
	pthread_t players[4], piper;
	uint64_t value = 1, hash = 0;

	for (uintptr_t n = 0; n < 4; n++)
		pthread_create(&players[n], NULL, futex_player, (void *)n);
	if (pipe(ring[0]) || pipe(ring[1]))
		return;
	pthread_create(&piper, NULL, pipe_player, NULL);
	for (unsigned n = 0; n < 1500 * scale; n++) {
		if (write(ring[0][1], &value, 8) != 8 || read(ring[1][0], &value, 8) != 8)
			break;
		hash = mix(hash, &value, 8);
		value |= 1;
	}
	value = 0;
	if (write(ring[0][1], &value, 8) != 8)
		return;
	pthread_join(piper, NULL);
	for (unsigned n = 0; n < 4; n++)
		pthread_join(players[n], NULL);
	say("storm", hash ^ atomic_load(&passed));
}

/* As a compiler does: names into a tree, a walk over it, lists sorted, memory taken and given back. */
struct node {
	struct node *child[2];
	uint64_t key, count;
	char name[24];
};

static struct node *put(struct node *root, const char *name)
{
	uint64_t key = mix(0xcbf29ce484222325u, name, strlen(name));
	struct node **at = &root;

	while (*at && (*at)->key != key)
		at = &(*at)->child[key > (*at)->key];
	if (!*at) {
		*at = calloc(1, sizeof(**at));
		(*at)->key = key;
		strcpy((*at)->name, name);
	}
	(*at)->count++;
	return root;
}

static uint64_t walk(struct node *node, unsigned depth)
{
	uint64_t sum;

	if (!node)
		return depth;
	sum = walk(node->child[0], depth + 1) * 31 + mix(node->count, node->name, strlen(node->name));
	sum = sum * 31 + walk(node->child[1], depth + 1);
	free(node);
	return sum;
}

static int by_value(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

static void compile(void)
{
	uint64_t hash = 0;
	uint32_t seed = 1;

	for (unsigned round = 0; round < 3 * scale; round++) {
		struct node *root = NULL;
		uint32_t *list = malloc(20000 * sizeof(*list));

		for (unsigned n = 0; n < 20000; n++) {
			char name[24];

			seed = seed * 1664525 + 1013904223;
			list[n] = seed;
			snprintf(name, sizeof(name), "%s_%u", seed & 1 ? "static" : "extern", (seed >> 16) % 6000);
			root = put(root, name);
		}
		qsort(list, 20000, sizeof(*list), by_value);
		hash = mix(hash + walk(root, 0), list, 20000 * sizeof(*list));
		free(list);
	}
	say("compile", hash);
}

int main(int argc, char **argv)
{
	if (argc > 1)
		scale = (unsigned)atoi(argv[1]);
	puts("begun");
	fflush(stdout);
	x87();
	if (__builtin_cpu_supports("avx"))
		avx();
	rep();
	timer();
	storm();
	compile();
	return 0;
}
