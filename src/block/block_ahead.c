/*
 * The pieces of a stream that were fetched ahead: see the header. Called by
 * block.c with the block's lock held. Invariant: a piece that is READY holds
 * bytes that were read when no request that changes the disk was in flight, and
 * none was submitted since.
 */
#include "block/block_ahead.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/assert.h"
#include "block/block_io.h"

#define STREAM_RUN 2 /* reads in a row that make a stream */

static bool changes(const struct block_request *request)
{
	return request->op != BLOCK_READ && request->op != BLOCK_FLUSH;
}

static bool too_old(const struct ahead_piece *piece, int64_t life_ns)
{
	struct timespec now;

	/* Of the host, not of the guest: what else happens to the file does so in its time. */
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (now.tv_sec - piece->began.tv_sec) * 1000000000ll + now.tv_nsec -
		       piece->began.tv_nsec >
	       life_ns;
}

void ahead_drop(struct block *block)
{
	struct ahead *ahead = &block->ahead;

	for (unsigned i = 0; i < AHEAD_PIECES; i++) {
		struct ahead_piece *piece = &ahead->piece[i];

		if (piece->state == AHEAD_READY)
			piece->state = AHEAD_EMPTY;
		piece->stale = true;
	}
	ahead->next = 0;
}

void ahead_init(struct block *block)
{
	block->ahead.life_ns = AHEAD_LIFE_NS;
}

void ahead_fini(struct block *block)
{
	free(block->ahead.bytes);
	block->ahead.bytes = NULL;
}

/* Answers the request with a piece's bytes. */
static void serve(struct block *block, struct ahead_piece *piece, struct block_request *request)
{
	const uint8_t *bytes = piece->bytes;

	ASSERT(request->len == piece->len);
	for (unsigned i = 0; i < request->iov_count; i++) {
		memcpy(request->iov[i].iov_base, bytes, request->iov[i].iov_len);
		bytes += request->iov[i].iov_len;
	}
	piece->state = AHEAD_EMPTY;
	block->ahead.served++;
	block->in_kernel++;
	block_io_finish(block, request, (int)request->len);
}

static struct ahead_piece *find(struct ahead *ahead, const struct block_request *request)
{
	for (unsigned i = 0; i < AHEAD_PIECES; i++) {
		struct ahead_piece *piece = &ahead->piece[i];

		if (piece->state != AHEAD_EMPTY && !piece->stale && !piece->waiter &&
		    piece->offset == request->offset && piece->len == request->len &&
		    !too_old(piece, ahead->life_ns))
			return piece;
	}
	return NULL;
}

bool ahead_take(struct block *block, struct block_request *request)
{
	struct ahead *ahead = &block->ahead;
	struct ahead_piece *piece;
	bool follows;

	if (changes(request)) {
		ahead->run = 0;
		ahead_drop(block);
		return false;
	}
	if (request->op != BLOCK_READ || request->len < AHEAD_MIN)
		return false;
	follows = request->offset == ahead->expected && request->len <= AHEAD_MAX;
	ahead->expected = request->offset + request->len;
	ahead->run = follows ? ahead->run + 1 : 0;
	/* What the host's page cache holds may be newer than ours. */
	piece = request->fd == block->direct_fd ? find(ahead, request) : NULL;
	if (!piece) {
		ahead_drop(block);
		return false;
	}
	if (piece->state == AHEAD_READY)
		serve(block, piece, request);
	else
		piece->waiter = request;
	return true;
}

static bool make_room(struct ahead *ahead)
{
	const size_t len = AHEAD_PIECES * AHEAD_MAX;

	if (ahead->bytes)
		return true;
	/* One huge page where the host gives such, which is cheaper to hand to its disk. */
	ahead->bytes = aligned_alloc(len, len);
	if (!ahead->bytes)
		return false;
	madvise(ahead->bytes, len, MADV_HUGEPAGE);
	for (unsigned i = 0; i < AHEAD_PIECES; i++)
		ahead->piece[i].bytes = ahead->bytes + i * AHEAD_MAX;
	return true;
}

static void fetch(struct block *block, struct ahead_piece *piece, uint64_t len)
{
	struct ahead *ahead = &block->ahead;

	piece->state = AHEAD_FETCHING;
	piece->stale = false;
	piece->offset = ahead->next;
	piece->len = len;
	clock_gettime(CLOCK_MONOTONIC, &piece->began);
	piece->iov = (struct iovec){ .iov_base = piece->bytes, .iov_len = (size_t)len };
	piece->io = (struct block_request){
		.op = BLOCK_READ,
		.offset = piece->offset,
		.len = len,
		.iov = &piece->iov,
		.iov_count = 1,
		.fd = block->direct_fd,
	};
	ahead->next += len;
	ahead->fetching++;
	block->in_flight++;
	block->in_kernel++;
	block->io->submit(block, &piece->io);
}

void ahead_fetch(struct block *block, const struct block_request *request)
{
	struct ahead *ahead = &block->ahead;

	/* A guest that has more in flight keeps the disk busy by itself; and what is read while a
	 * change is in flight may be older than that. */
	if (request->op != BLOCK_READ || ahead->run < STREAM_RUN ||
	    request->offset + request->len != ahead->expected || block->direct_fd < 0 ||
	    request->fd != block->direct_fd || block->in_flight - ahead->fetching > 1)
		return;
	if (!make_room(ahead))
		return;
	if (ahead->next < ahead->expected)
		ahead->next = ahead->expected;
	for (unsigned i = 0; i < AHEAD_PIECES; i++) {
		if (ahead->piece[i].state == AHEAD_EMPTY && ahead->next <= block->info.size_bytes &&
		    request->len <= block->info.size_bytes - ahead->next)
			fetch(block, &ahead->piece[i], request->len);
	}
}

bool ahead_owns(const struct block *block, const struct block_request *request)
{
	for (unsigned i = 0; i < AHEAD_PIECES; i++) {
		if (request == &block->ahead.piece[i].io)
			return true;
	}
	return false;
}

bool ahead_ended(struct block *block, struct block_request *request)
{
	struct ahead_piece *piece = (struct ahead_piece *)request;
	struct block_request *waiter = piece->waiter;
	bool usable = !piece->stale && !request->result;

	piece->waiter = NULL;
	piece->state = usable ? AHEAD_READY : AHEAD_EMPTY;
	block->ahead.fetching--;
	if (!waiter)
		return false;
	if (usable) {
		serve(block, piece, waiter);
		return false;
	}
	block->in_kernel++;
	block->io->submit(block, waiter);
	return true;
}
