/*
 * Traces: runs of decoded instructions, found by guest-physical address and
 * mode. One cache per vcpu, touched by its thread alone; code that changes
 * under it by another's hand is announced through a small queue.
 *
 * Memory comes from one pool that is only ever emptied as a whole, and only by
 * the dispatcher, so that a handler may go on reading its record even if the
 * instruction it executes kills the trace it stands in.
 */
#ifndef INSULA_ENGINE_INTERPRET_TRACE_H
#define INSULA_ENGINE_INTERPRET_TRACE_H

#include "base/spin.h"
#include "engine/interpret/insn.h"
#include "mem/page.h"

#define TRACE_MAX_INSNS 32
#define TRACE_MAX_BYTES (TRACE_MAX_INSNS * 15)

struct trace {
	gpa_t gpa;       /* of the first byte */
	gpa_t gpa2;      /* page of the last byte if the only instruction crosses a page, else ~0 */
	uint32_t mode;
	uint16_t count, bytes;
	bool dead;
	struct trace *hash_next;
	struct trace *page_next[2]; /* in the lists of the (one or two) pages it lies on */
	struct insn insns[]; /* count records and the one that ends the trace */
};

struct code_page {
	gfn_t gfn;
	struct code_page *hash_next;
	struct trace *traces;
};

#define TRACE_HASH_BITS 15
#define PAGE_HASH_BITS 11
#define NEWS_MAX 64

struct news { /* code changed or a grant withdrawn by another thread */
	gfn_t gfn;
	uint16_t offset, len; /* len 0: withdraw the write grant */
};

struct trace_cache {
	struct page_listener listener; /* first */
	struct vcpu *v;
	uint8_t *pool, *bottom, *top; /* traces grow up from bottom, sysops down from top */
	size_t pool_bytes;
	struct trace **hash;
	struct code_page **pages;
	struct jump_entry *jumps;
	struct spin lock; /* guards news */
	unsigned news_count;
	bool news_overflow;
	struct news news[NEWS_MAX];
	uint64_t flushes, decoded, killed;
};

int trace_cache_open(struct trace_cache *cache, struct vcpu *v, size_t pool_bytes);
void trace_cache_close(struct trace_cache *cache);
/* Forget everything. Dispatcher only. */
void trace_cache_flush(struct trace_cache *cache);
/* Act on what other threads announced. */
void trace_cache_hear(struct trace_cache *cache);

struct trace *trace_find(struct trace_cache *cache, gpa_t gpa, uint32_t mode);
/* Room for a trace of TRACE_MAX_INSNS at the bottom, not yet claimed; NULL when the pool must be flushed. */
struct trace *trace_begin(struct trace_cache *cache);
/* From the top, lives until the flush; NULL when full. */
void *trace_pool_take(struct trace_cache *cache, size_t bytes);
/*
 * Claims the begun trace and makes it findable, and its bytes watched. False
 * if the guest's bytes are no longer those that were decoded.
 */
bool trace_commit(struct trace_cache *cache, struct trace *trace, const uint8_t *decoded, const uint8_t *host);

#endif
