/*
 * Between the files of the translator: the code memory and its stubs
 * (runtime.c), the writing of a region (lower.c), and their bookkeeping
 * (translate.c).
 */
#ifndef INSULA_ENGINE_TRANSLATE_REGION_H
#define INSULA_ENGINE_TRANSLATE_REGION_H

#include "engine/interpret/code_memory.h"
#include "engine/translate/plan.h"
#include "engine/translate/translate.h"

/* Guest registers that are in host registers at a region's borders; the others are in arch.gpr. */
#define CANONICAL 0xf1ffu

/* Home of a guest register: its own number, but for RSP, which is the vcpu's. R11 has none. */
static inline int home_of(unsigned guest)
{
	return guest == RSP ? R11 : guest == R11 ? NONE : (int)guest;
}

enum leave_why { LEAVE_SLOW, LEAVE_EVENTS, LEAVE_NEXT, LEAVE_STALE, LEAVES };
#define STUB_CALLOUT LEAVES

struct trap {              /* an instruction that may raise SIGFPE */
	uint32_t position; /* in the code memory */
	uint16_t offset, resident;
	bool host_flags;
};

struct exit_link {
	uint8_t *at; /* displacement of its jump, writable mapping */
};

/*
 * Of a direct branch to another page: where it leads while the branch stands on
 * the page at p under the code generation g, key being p XORed with g.
 */
struct cell {
	uint64_t key;
	const void *target;
	uint64_t page; /* that the target is on */
};
#define CELLS_MOST 65536u

struct region {
	struct translator *translator;
	struct trace *head; /* in the trace cache: how it is found and how it dies */
	uint32_t enter, entry, stale, end;
	uint32_t next_dead; /* in the list of dead ones, 1 + number; 0: the last */
};

#define STUBS 1024 /* places; no more than three quarters are used */
struct stub {
	uint32_t key; /* resident | what << 16 | 1 << 31 */
	const void *code;
};

struct tier {
	char nothing; /* every tier is a translator */
};

#define DEAD_HASH 1024u
struct translator {
	struct tier tier; /* first */
	struct vcpu *v;
	struct decoder *decoder;
	struct code_memory code;
	uint32_t used, stubs_used, stubs_end;
	uint32_t far, far_used; /* from `far` on: code that runs seldom */
	unsigned heat;
	bool exact, bmi2, gs;
	struct plan *plan;
	void *gen; /* lower.c's own, from the first region on */
	struct region *regions;
	uint32_t region_count;
	struct trap *traps[2]; /* in front of far, and behind; by position */
	uint32_t trap_count[2];
	struct exit_link *exits;
	uint32_t exit_count;
	struct cell *cells; /* within reach of the code */
	uint32_t cell_count;
	bool global; /* the region being written lies on a global page */
	uint32_t dead[DEAD_HASH]; /* dead regions by address, 1 + number; 0: none */
	struct stub stubs[STUBS];
	unsigned stub_count;
	uint64_t evict_random;
	int perf_map; /* file descriptor, or -1: listing.c */
	const void *enter_common, *leave_known, *fill, *leave_miss;
	struct {
		uint64_t regions, insns, links, hot_bytes, cold_bytes;
	} stats;
	struct translator *next; /* of all in the process, for the signal handler */
};

#define REGIONS_MOST 32768u
#define TRAPS_MOST   131072u
#define EXITS_MOST   131072u

/* runtime.c: pieces of code shared by regions; written on demand. NULL: no room, flush. */
void runtime_open(struct translator *t);
void runtime_reset(struct translator *t);
/* Puts the resident registers away and leaves at page + soft.exit_offset. */
const void *runtime_leave(struct translator *t, unsigned resident, enum leave_why why);
/* Called: executes record soft.callout at soft.exit_offset and comes back with the same residents.
 */
const void *runtime_callout(struct translator *t, unsigned resident);

/* lower.c: writes the planned region at t->used. */
enum region_status {
	REGION_WRITTEN,
	REGION_NO /* not by us */,
	REGION_FULL /* flush, try again */
};
enum region_status region_write(struct translator *t, struct region *r);

#endif
