/*
 * RAM on its way into a snapshot while the machine runs: all of it once, then in
 * rounds what was stored to since, and the last few pages at a pause. Called by
 * vm/snapshot.c, on one thread that is no vcpu's and not the event loop's.
 */
#ifndef INSULA_VM_SNAPSHOT_LIVE_H
#define INSULA_VM_SNAPSHOT_LIVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct snapshot_writer;
struct vm;

struct live {
	struct vm *vm;
	struct snapshot_writer *w;
	uint64_t pages;    /* of RAM */
	uint64_t *todo;    /* a bit for each page: to be written in this round */
	uint64_t *written; /* in the file is something else than zeroes */
	uint32_t *sums;    /* of each page as it is in the file */
	uint8_t *bounce;   /* what is written does not change on the way */
	uint8_t *kept;     /* pages of the last round, copied at the pause */
	uint64_t *kept_at; /* their numbers */
	size_t kept_count;
	uint64_t written_bytes, pause_ns; /* the longest of the rounds' pauses */
	unsigned rounds;
};

/* All return 0 or -errno with a sentence in the writer. fini always. */
int live_init(struct live *l, struct vm *vm, struct snapshot_writer *w)
	__attribute__((warn_unused_result));
void live_fini(struct live *l);
/* The machine runs. */
int live_rounds(struct live *l) __attribute__((warn_unused_result));
/* The machine stands still, devices too. */
int live_last(struct live *l) __attribute__((warn_unused_result));
/* The machine runs again: the rest of RAM, and its parts in the file. */
int live_finish(struct live *l) __attribute__((warn_unused_result));

#endif
