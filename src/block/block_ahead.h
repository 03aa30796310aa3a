/*
 * Reading ahead past the host's page cache. A guest that reads a disk from
 * end to end, a large piece at a time and each only when the last has come,
 * leaves the disk idle while it computes; what it will want next is fetched
 * meanwhile. Used by block.c alone; the block's lock is held in all calls.
 *
 * What was fetched is no cache: it serves one request and is gone. It is
 * dropped when the guest changes the disk, nothing is fetched while such a
 * change is under way, and it is not used once it is AHEAD_LIFE_NS old.
 */
#ifndef INSULA_BLOCK_BLOCK_AHEAD_H
#define INSULA_BLOCK_BLOCK_AHEAD_H

#include <stdint.h>
#include <time.h>

#include "block/block.h"

#define AHEAD_PIECES  2
#define AHEAD_MIN     (256u << 10) /* smaller ones are the page cache's to read ahead of */
#define AHEAD_MAX     (1u << 20)
#define AHEAD_LIFE_NS 250000000

struct ahead_piece {
	struct block_request io; /* while it is fetched */
	struct iovec iov;
	enum { AHEAD_EMPTY, AHEAD_FETCHING, AHEAD_READY } state;
	bool stale; /* FETCHING: what comes is not to be used */
	uint64_t offset, len;
	struct timespec began;
	uint8_t *bytes;
	struct block_request *waiter; /* wants just this */
};

struct ahead {
	struct ahead_piece piece[AHEAD_PIECES];
	uint8_t *bytes;    /* of all pieces, from the first stream on */
	uint64_t expected; /* where a stream would go on */
	uint64_t next;     /* where the next fetch begins */
	unsigned run;      /* large reads in a row, each beginning where the last ended */
	unsigned fetching;
	int64_t life_ns; /* AHEAD_LIFE_NS, or what a test wants */
	uint64_t served; /* requests, for tests */
};

void ahead_init(struct block *block);
/*
 * A request is being submitted. True: it was or will be answered from what was
 * fetched, and is not for the io; otherwise it is. Either way ahead_fetch() follows.
 */
bool ahead_take(struct block *block, struct block_request *request);
/* Starts to fetch what comes after `request`, just submitted, if that is part of a stream. */
void ahead_fetch(struct block *block, const struct block_request *request);
/* Whether a finished request is one of ours, and what is to be done with it then. True from
 * `ended`: a request was given to the io, which wants a commit. */
bool ahead_owns(const struct block *block, const struct block_request *request);
bool ahead_ended(struct block *block, struct block_request *request);
/* Forgets all that was fetched. */
void ahead_drop(struct block *block);
/* Nothing is in flight. */
void ahead_fini(struct block *block);

#endif
