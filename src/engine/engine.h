/*
 * What every engine offers. A vcpu's thread calls all but kick.
 *
 *   enter   take over the canonical state
 *   run     execute guest code until something needs the vm loop
 *   leave   make the canonical state complete again; nothing stays behind
 *   kick    any thread: make run() look at vcpu->req soon
 *
 * Port and MMIO accesses, interrupts and exceptions are handled inside run.
 */
#ifndef INSULA_ENGINE_ENGINE_H
#define INSULA_ENGINE_ENGINE_H

#include "cpu/vcpu.h"

enum vcpu_exit {
	EXIT_HALT,     /* activity is HALT or WAIT_SIPI and nothing is pending */
	EXIT_REQUEST,  /* REQ_PAUSE */
	EXIT_SHUTDOWN, /* triple fault */
	EXIT_BUDGET,   /* max_insns executed */
	EXIT_ERROR,    /* the host failed us; a stop was requested */
};

#define RUN_UNLIMITED UINT64_MAX /* kvm knows no other budget */

#define ENGINE_ERROR_MAX 192

/* What a vcpu did since it was opened. Counts; bytes where the name says so. */
struct engine_stats {
	uint64_t decoded; /* instructions, by the interpreter */
	uint64_t killed;  /* traces and regions whose code changed */
	uint64_t flushes; /* of all of them */
	uint64_t killed_regions;
	/* Traces that were found hot and stay with the interpreter, and that wait for another
	 * vcpu's store; slow instructions that faulted. */
	uint64_t refused, postponed, slow_faults;
	/* Returns to the dispatcher, by cause. */
	uint64_t exits_next, exits_fault, exits_stale, exits_events, exits_slow, exits_hot;
	/* Entries of the soft TLB that were filled; page walks for that, the second level not
	 * knowing; page walks for fetches; flushes of a context; single pages invalidated. */
	uint64_t tlb_fills, tlb_walks, fetch_walks, tlb_flushes, tlb_invalidations;
	/* The vcpu thread's: halts that ended before it slept, sleeps. */
	uint64_t halts_polled, halts_slept;
	/* The translator's. */
	uint64_t regions, translated, links, hot_bytes, cold_bytes;
	/* Of a check of it: executions (turns of ping-pong), instructions by the interpreter. */
	uint64_t check_runs, check_steps, check_skipped, check_repeated, check_differ;
};

struct engine {
	const char *name;
	/* Guest code stores to RAM without the page authority's knowledge (mem/page.h): what it
	 * stores to cannot be logged. */
	bool unheard;
	/* engine_check(); NULL: on every host. */
	int (*check)(char *why);
	/*
	 * The CPU model of a machine about to be made: takes away what this engine
	 * cannot do on this host. NULL: it can do every model. 0 or -errno with
	 * one sentence in error (ENGINE_ERROR_MAX bytes).
	 */
	int (*model_limit)(struct cpu_model *model, char *error);
	/*
	 * What the vcpus have in common: made before the first of them is opened, given back after
	 * the last was closed, to be in each v->engine_vm meanwhile. Any thread; the VM may run
	 * under another engine. NULL: nothing. Errors as above.
	 */
	int (*vm_open)(struct vcpu **vcpus, unsigned count, void **engine_vm, char *error);
	void (*vm_close)(void *engine_vm);
	/* 0 or -errno; *error gets one sentence. Allocates v->engine_priv. Changes nothing else but
	 * v->soft, which comes zeroed. */
	int (*vcpu_open)(struct vcpu *v, const char **error);
	/* Any thread, the engine left. v may be a copy with the ram, soft, engine_vm and
	 * engine_priv that open made, while the vcpu itself runs under another engine. */
	void (*vcpu_close)(struct vcpu *v);
	void (*enter)(struct vcpu *v);
	enum vcpu_exit (*run)(struct vcpu *v, uint64_t max_insns);
	void (*leave)(struct vcpu *v);
	void (*kick)(struct vcpu *v);
	/* The vcpu's thread, or any once it has ended. NULL: nothing is counted. */
	void (*stats)(struct vcpu *v, struct engine_stats *stats);
};

extern const struct engine engine_interpret;
extern const struct engine engine_translate;
extern const struct engine engine_kvm;

/* name: "kvm", "translate" or "interpret"; NULL if unknown. */
const struct engine *engine_find(const char *name);

/*
 * Can the engine run stock kernels on this host? 0, or -errno with a clause in
 * why (ENGINE_ERROR_MAX bytes). May take some ten milliseconds, for a probe in a
 * child.
 */
int engine_check(const struct engine *engine, char *why);
/* The best that can. why: a clause that says why it is no better one, or empty. */
const struct engine *engine_best(char *why);

#endif
