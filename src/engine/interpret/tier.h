/*
 * The place of an upper tier above the interpreter's traces: it is asked to
 * translate what was executed often, and its regions are found, entered and
 * killed like traces. All calls on the vcpu's thread, parked, but for trap.
 */
#ifndef INSULA_ENGINE_INTERPRET_TIER_H
#define INSULA_ENGINE_INTERPRET_TIER_H

#include "engine/engine.h"
#include "engine/interpret/decode.h"

enum tier_answer {
	TIER_DONE,  /* trace_find now finds the region */
	TIER_NEVER, /* this code stays with the interpreter */
	TIER_LATER, /* another thread is in the way: ask again */
	TIER_FULL,  /* everything must be flushed */
};

struct tier;
struct region; /* the tier's own; struct trace points at it */

struct tier_ops {
	/* The tier of one vcpu, or NULL with a sentence in *error. */
	struct tier *(*open)(struct vcpu *v, struct decoder *decoder, const char **error);
	void (*close)(struct tier *tier);
	/* Forget every region: the trace cache is being emptied. */
	void (*flush)(struct tier *tier);
	/* The region entered at gpa, which is at `host` and at linear address rip, in v->soft.mode.
	 */
	enum tier_answer (*translate)(struct tier *tier, gpa_t gpa, uint64_t rip,
				      const uint8_t *host);
	/* Where interpreted code, and where translated code goes on in it. */
	const void *(*enter)(const struct region *region);
	const void *(*entry)(const struct region *region);
	/* Where translated code goes on for a trace: jump_entry.fast. */
	const void *(*leave)(const struct tier *tier);
	/* Exit number `exit` (soft.link_exit) leads to the region from now on. */
	void (*link)(struct tier *tier, uint32_t exit, const struct region *region);
	/*
	 * NULL, or executes a region from `code`, where interpreted code enters it, as
	 * trace_run would. Then no other code goes on to regions: for checks.
	 */
	void (*run)(struct tier *tier, const void *code);
	void (*stats)(const struct tier *tier, struct engine_stats *stats);
};

/*
 * The interpreter's engine calls, with the tier `ops` on top. vcpu_open of an
 * engine calls interpret_open; the others serve as they are. NULL: no tier.
 */
int interpret_open(struct vcpu *v, const struct tier_ops *ops, const char **error);
void interpret_close(struct vcpu *v);
void interpret_enter(struct vcpu *v);
enum vcpu_exit interpret_run(struct vcpu *v, uint64_t max_insns);
void interpret_leave(struct vcpu *v);
void interpret_kick(struct vcpu *v);
void interpret_stats(struct vcpu *v, struct engine_stats *stats);
/*
 * The instruction at arch.rip, or one piece of it if a request is set, without a look at
 * requests and events; soft.exit and v->fault tell how it ended.
 */
void interpret_one(struct vcpu *v);

#endif
