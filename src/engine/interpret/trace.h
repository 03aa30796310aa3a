/*
 * Traces: runs of decoded instructions, found by guest-physical address and
 * mode. One cache per vcpu, touched by its thread alone; code that changes
 * under it by another's hand is announced through a small queue.
 *
 * On a restless page (unrest.h) stores are plain and nothing is announced.
 * Its traces are checked ones: each compares its bytes with the guest's before
 * it runs, and ends behind an instruction that stores. One that has changed is
 * decoded anew, in its own place if it fits there.
 *
 * Memory comes from two pools, the smaller one for checked traces. A pool is
 * only ever emptied as a whole, and only by the dispatcher, so that a handler
 * may go on reading its record even if the instruction it executes kills the
 * trace it stands in.
 */
#ifndef INSULA_ENGINE_INTERPRET_TRACE_H
#define INSULA_ENGINE_INTERPRET_TRACE_H

#include "base/spin.h"
#include "engine/interpret/code_memory.h"
#include "engine/interpret/insn.h"
#include "engine/interpret/unrest.h"
#include "mem/page.h"

#define TRACE_MAX_INSNS 32
#define TRACE_MAX_BYTES (TRACE_MAX_INSNS * 15)

struct trace {
	gpa_t gpa;  /* of the first byte */
	gpa_t gpa2; /* page of the last byte if the only instruction crosses a page, else ~0 */
	uint32_t mode;
	uint16_t count, bytes;
	bool dead;
	bool checked;
	int32_t heat;          /* executions left until it is found hot */
	struct region *region; /* no trace of ours but a translation, which dies with it: */
	uint16_t region_first, region_last; /* its bytes in the page */
	uint32_t code;                      /* offset in the cache's code memory */
	uint16_t code_bytes;
	uint16_t fresh;     /* of a checked one: from `code`, the way in past the checks */
	uint16_t code_room; /* what its code may take in its place */
	uint16_t insn_room; /* of a checked one: records, likewise */
	struct trace *hash_next;
	struct trace *page_next[2]; /* in the lists of the (one or two) pages it lies on; a
				       checked one: [0], of all such */
	struct insn insns[]; /* count records and the one that ends the trace; trace_returns */
};
#define TRACE_BYTES(count) \
	(sizeof(struct trace) + ((count) + 1) * (sizeof(struct insn) + sizeof(uint16_t)))
#define TRACE_MOST TRACE_BYTES(TRACE_MAX_INSNS)

/* Behind the records: where the call of record n returns to, from `code`; 0: nowhere to be
 * patched. */
static inline uint16_t *trace_returns(const struct trace *t)
{
	return (uint16_t *)(uintptr_t)&t->insns[t->count + 1];
}

/* What the decoder tells about a record for the writing of its code. */
enum trace_hint_kind {
	HINT_CALL,   /* nothing: its handler is called */
	HINT_NATIVE, /* the thunk's bytes */
	HINT_MOV,    /* these have templates */
	HINT_MOVX,
	HINT_ZERO,
	HINT_LEA,
	HINT_ALU,
	HINT_ALU1,
	HINT_SHIFT,
	HINT_IMUL,
	HINT_PUSH,
	HINT_POP,
	HINT_LEAVE,
	HINT_CONVERT,
	HINT_SETCC,
	HINT_CMOV,
	HINT_JCC,
	HINT_FUSED,
	HINT_JUMP,
	HINT_CALL_NEAR,
};
#define HINT_NATIVE_MOST 48
struct trace_hint {
	uint8_t kind;
	uint8_t form;     /* enum form */
	uint8_t op;       /* enum alu_op, alu1_op, shift_op; opcode of a HINT_CONVERT */
	uint8_t size_log; /* of the operands, 0..3 */
	uint8_t from_log; /* of a HINT_MOVX' source */
	uint8_t cc;
	bool sign : 1;   /* of a HINT_MOVX */
	bool by_cl : 1;  /* of a HINT_SHIFT */
	bool near : 1;   /* of a branch: has a link */
	bool dead : 1;   /* flags are not wanted */
	bool tested : 1; /* a call may answer something else than NULL */
	bool ends : 1;   /* and always does */
	uint8_t native_bytes;
};

struct code_page {
	gfn_t gfn;
	struct code_page *hash_next;
	struct trace *traces;
	uint64_t granules; /* at least those of the traces */
	struct unrest unrest;
};

#define TRACE_HASH_BITS 15
#define PAGE_HASH_BITS  11
#define NEWS_MAX        256

struct news { /* code changed or a grant withdrawn by another thread */
	gfn_t gfn;
	uint16_t offset, len; /* len 0: withdraw the write grant */
};

/* Where traces and what belongs to them are put. */
struct trace_arena {
	uint8_t *start, *end, *bottom, *top; /* traces grow up from bottom, sysops down from top */
	uint32_t code, code_end, code_used;  /* part of the code memory */
	struct trace *checked;               /* the list of those in it */
};

struct trace_cache {
	struct page_listener listener; /* first */
	struct vcpu *v;
	uint8_t *pool;
	size_t pool_bytes;
	uint64_t flushed_tsc; /* the host's, when everything was forgotten last */
	bool released;
	struct code_memory code;
	struct trace_arena plain, checks;
	struct trace_arena *arena; /* the one that is being decoded into */
	struct trace **hash;
	struct code_page **pages;
	struct jump_entry *jumps;
	struct spin lock; /* guards news */
	unsigned news_count;
	bool news_overflow;
	struct news news[NEWS_MAX];
	uint64_t flushes, decoded, killed, killed_regions, changed;
	uint64_t epoch; /* counts whenever records may have gone or become others */
	/* The translator above, if any. */
	int32_t heat; /* what a new trace starts with; 0: nobody wants to know */
	void (*region_kill)(struct region *region);
};

/* What insn_run and a link take: the trace's code. */
static inline const void *trace_code(const struct trace_cache *cache, const struct trace *trace)
{
	return cache->code.rx + trace->code;
}

/* The trace was translated, and the region is findable: who still comes to the trace goes there. */
void trace_retire(struct trace_cache *cache, struct trace *trace);

/* What a checked trace compares before it runs: bytes decoded and where the guest's are now. */
struct trace_check {
	const uint8_t *decoded, *host;
	unsigned len; /* 0: no such */
};
/*
 * Writes the code of a trace whose records and count are filled, to the arena's
 * free code memory. checks: two of them; NULL: it is watched. A
 * checked trace that has a code_room already gets its code there if it fits.
 * False: code memory is full.
 */
bool trace_emit(struct trace_cache *cache, struct trace *trace, const struct trace_hint *hints,
		const struct trace_check *checks);
/* Whoever comes to the code at one offset goes on at the other. */
void trace_code_forward(struct trace_cache *cache, uint32_t from, uint32_t to);
/* From now on every record of the trace leaves through insn_stale. */
void trace_code_kill(struct trace_cache *cache, const struct trace *trace);

int trace_cache_open(struct trace_cache *cache, struct vcpu *v, size_t pool_bytes,
		     const char **error);
void trace_cache_close(struct trace_cache *cache);
/*
 * Forget everything, and with a tier above give the memory back (`released`)
 * unless it was full a moment ago. Dispatcher only.
 */
void trace_cache_flush(struct trace_cache *cache);
/* Forget the checked traces. Dispatcher only. */
void trace_cache_flush_checked(struct trace_cache *cache);
/* Act on what other threads announced. False: too much for the queue, everything must be flushed.
 */
bool trace_cache_hear(struct trace_cache *cache);

/* What became of code that was to be kept. */
enum trace_commit {
	TRACE_KEPT,
	TRACE_CHANGED,   /* the guest's bytes are no longer those that were decoded: decode again */
	TRACE_UNSETTLED, /* another vcpu may store there unheard: see page_add_code() */
};

/*
 * Makes a region findable and its granules watched, provided that they still
 * hold what was translated: `translated` and `page` are the whole page, then
 * and now. head->region_first and _last: its first and last byte in the page.
 */
enum trace_commit trace_add_region(struct trace_cache *cache, struct trace *head, uint64_t granules,
				   const uint8_t *translated, const uint8_t *page);

struct trace *trace_find(struct trace_cache *cache, gpa_t gpa, uint32_t mode);
/* Room for a trace of TRACE_MAX_INSNS at the bottom, not yet claimed; NULL when the pool must be
 * flushed. */
struct trace *trace_begin(struct trace_cache *cache);
/* From the top, lives until the flush; NULL when full. */
void *trace_pool_take(struct trace_cache *cache, size_t bytes);
/*
 * Claims the begun and emitted trace and makes it findable, and its bytes
 * watched. host, host2: the guest's bytes, in the trace's one or two pages.
 */
enum trace_commit trace_commit(struct trace_cache *cache, struct trace *trace,
			       const uint8_t *decoded, const uint8_t *host, const uint8_t *host2);

/* Is stored to so often that what is decoded there is to be a checked trace. */
bool trace_restless(struct trace_cache *cache, gpa_t gpa);
/*
 * Emits the begun trace as a checked one and makes it findable. old: NULL, or
 * the checked trace that is found there now, which it replaces. Returns the
 * trace, which may be the old one with new contents; NULL: code memory is full.
 */
struct trace *trace_commit_checked(struct trace_cache *cache, struct trace *trace,
				   struct trace *old, const struct trace_hint *hints,
				   const struct trace_check *checks);
/* May this record's branch be linked to that trace? Links into the smaller pool come from within
 * it, so that it can be emptied alone. */
static inline bool trace_links(const struct trace_cache *cache, const struct insn *from,
			       const struct trace *to)
{
	const uint8_t *p = (const uint8_t *)from;

	return !to->checked || (p >= cache->checks.start && p < cache->checks.end);
}
/* A checked trace was executed as often as its page's patience lasts: it goes if the page is calm.
 */
void trace_ask(struct trace_cache *cache, struct trace *trace);

#endif
