/*
 * Which pages of code are restless: written so often that watching them costs
 * more than looking at their code before each execution of it. Time is the
 * host's TSC. A page becomes restless by noise and calm by executions of one
 * trace without a change; each time that this was said too early, it takes twice
 * as many. Owner: the vcpu's thread.
 */
#ifndef INSULA_ENGINE_INTERPRET_UNREST_H
#define INSULA_ENGINE_INTERPRET_UNREST_H

#include <stdbool.h>
#include <stdint.h>

struct unrest {
	uint32_t noise;   /* halves with each tick */
	uint32_t stamp;   /* tick of the last noise */
	uint32_t settled; /* tick at which it was last found calm */
	uint8_t doubt;    /* how often it was restless again soon after that */
	bool restless;
	bool changed; /* something on it was new since it was last asked */
};

/* What makes noise, about as what it costs compares. */
#define UNREST_BESIDE 1 /* a store beside code, which nobody need hear of */
#define UNREST_KILL   4 /* a store to code */
#define UNREST_REGION 32

/* True: the page has just become restless. */
bool unrest_noise(struct unrest *u, unsigned noise, uint64_t tsc);
/* Executions after which a trace on a restless page asks. */
int32_t unrest_patience(const struct unrest *u);
/* A trace was executed that often. True: the page is calm again. */
bool unrest_ask(struct unrest *u, uint64_t tsc);

static inline uint64_t unrest_now(void)
{
	return __builtin_ia32_rdtsc();
}

#endif
