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

#define RUN_UNLIMITED UINT64_MAX

struct engine {
	const char *name;
	/* 0 or -errno; *error gets one sentence. Allocates v->engine_priv. */
	int (*vcpu_open)(struct vcpu *v, const char **error);
	void (*vcpu_close)(struct vcpu *v);
	void (*enter)(struct vcpu *v);
	enum vcpu_exit (*run)(struct vcpu *v, uint64_t max_insns);
	void (*leave)(struct vcpu *v);
	void (*kick)(struct vcpu *v);
};

extern const struct engine engine_interpret;
extern const struct engine engine_translate;

/* name: "interpret", "translate" or "auto"; NULL if unknown. */
const struct engine *engine_find(const char *name);

#endif
