/*
 * The life of a request between front end and host: submit, finish, continue
 * what came back short, answer. Called by devices and by the loop. Invariant:
 * a request is in exactly one place: the front end's, the io's, or `finished`.
 */
#include "block/block.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/log.h"
#include "base/loop.h"
#include "block/block_io.h"
#include "block/block_overlay.h"

#define DEPTH_DEFAULT 64
#define DIRECT_MIN    (256u << 10) /* above what a guest's kernel reads ahead by itself */
#define PAGE_BYTES    4096

const struct block_info *block_info(const struct block *block)
{
	return &block->info;
}

void block_connect(struct block *block, void (*batch_end)(void *ctx), void *ctx)
{
	block->batch_end = batch_end;
	block->batch_ctx = ctx;
}

static bool is_transfer(const struct block_request *request)
{
	return request->op == BLOCK_READ || request->op == BLOCK_WRITE;
}

/* Direct I/O wants memory and file offsets aligned. What is not goes through the page cache, which
 * the host keeps coherent with direct I/O. */
static bool is_aligned(const struct block *block, const struct block_request *request)
{
	uint64_t align = block->info.iov_align - 1, sectors = block->direct_align - 1;
	uint64_t bad = (request->offset | request->len) & sectors;

	for (unsigned i = 0; i < request->iov_count && !bad; i++)
		bad = ((uintptr_t)request->iov[i].iov_base & align) |
		      (request->iov[i].iov_len & sectors);
	return !bad;
}

/* cachestat(2), Linux 6.5, which libc does not know yet. */
struct cache_range {
	uint64_t offset, len;
};

struct cache_stat {
	uint64_t cached, dirty, writeback, evicted, recently_evicted; /* pages */
};

#define SYS_CACHESTAT 451

/* Whether the page cache is the better place to read this from: it has all of it, or newer bytes
 * than the disk. Where the host will not tell, it is not. */
static bool in_page_cache(const struct block *block, const struct block_request *request)
{
	struct cache_range range = { request->offset, request->len };
	struct cache_stat stat = { 0 };

	if (syscall(SYS_CACHESTAT, block->fd, &range, &stat, 0) < 0)
		return false;
	return stat.dirty || stat.writeback || stat.cached * PAGE_BYTES >= request->len;
}

/*
 * Small reads gain from the host's page cache and its reading ahead, and writes
 * from not waiting for the disk. A large read gains nothing: filling the cache
 * costs more than the copy, and the guest has a cache of its own.
 */
static int choose_fd(const struct block *block, const struct block_request *request)
{
	bool direct = block->direct_always;

	if (block->direct_fd < 0 || !is_transfer(request) || !is_aligned(block, request))
		return block->fd;
	if (!direct && request->op == BLOCK_READ && request->len >= DIRECT_MIN)
		direct = !in_page_cache(block, request);
	return direct ? block->direct_fd : block->fd;
}

static int fallocate_mode(enum block_op op)
{
	switch (op) {
	case BLOCK_DISCARD:
	case BLOCK_UNMAP_ZEROES:
		return FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
	case BLOCK_WRITE_ZEROES:
		return FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;
	default:
		return 0;
	}
}

void block_submit(struct block *block, struct block_request *request)
{
	bool finished;

	ASSERT(request->iov_count <= BLOCK_IOV_MAX);
	request->next = NULL;
	request->completed = 0;
	request->mode = fallocate_mode(request->op);
	if (!block->overlay)
		request->fd = choose_fd(block, request);
	pthread_mutex_lock(&block->lock);
	if (block->overlay)
		request->fd = overlay_route(block, request);
	block->in_flight++;
	if (!ahead_take(block, request)) {
		block->in_kernel++;
		block->io->submit(block, request);
	}
	ahead_fetch(block, request);
	finished = block->finished;
	pthread_mutex_unlock(&block->lock);
	/* No descriptor becomes ready for what was fetched before. */
	if (finished)
		loop_post(block->loop, &block->answer_task);
}

void block_commit(struct block *block)
{
	pthread_mutex_lock(&block->lock);
	block->io->commit(block);
	pthread_mutex_unlock(&block->lock);
}

void block_io_finish(struct block *block, struct block_request *request, int result)
{
	ASSERT(block->in_kernel);
	block->in_kernel--;
	request->result = result;
	request->next = NULL;
	*block->finished_end = request;
	block->finished_end = &request->next;
}

/* Drops the bytes that were transferred from the front of the vector. */
static void consume_iov(struct block_request *request, uint64_t bytes)
{
	while (bytes && bytes >= request->iov->iov_len) {
		bytes -= request->iov->iov_len;
		request->iov++;
		request->iov_count--;
	}
	if (bytes) {
		request->iov->iov_base = (uint8_t *)request->iov->iov_base + bytes;
		request->iov->iov_len -= bytes;
	}
}

/* True if the request must go to the host once more; the result is final otherwise. */
static bool must_continue(struct block *block, struct block_request *request)
{
	int result = request->result;

	if (result == -EINTR || result == -EAGAIN)
		return true;
	if (request->op == BLOCK_WRITE_ZEROES && result == -EOPNOTSUPP &&
	    request->mode != fallocate_mode(BLOCK_UNMAP_ZEROES)) {
		/* The file system cannot zero in place; a hole reads as zeroes too. */
		request->mode = fallocate_mode(BLOCK_UNMAP_ZEROES);
		return true;
	}
	if (result == -EINVAL && request->fd >= 0 && request->fd == block->direct_fd) {
		/* Alignment that the file did not tell us of. */
		request->fd = block->fd;
		return true;
	}
	if (result < 0 || !is_transfer(request)) {
		request->result = result < 0 ? result : 0;
		return false;
	}
	request->completed += (unsigned)result;
	if (request->completed >= request->len) {
		request->result = 0;
		return false;
	}
	if (!result) {
		request->result = -EIO; /* the file is shorter than when it was opened */
		return false;
	}
	consume_iov(request, (unsigned)result);
	if (request->fd == block->direct_fd)
		request->fd = block->fd;
	return true;
}

/* Lock held, dropped around callbacks. Answers all that has finished. */
static void answer(struct block *block)
{
	unsigned answered = 0;
	bool resubmitted = false;

	block->io->reap(block);
	while (block->finished) {
		struct block_request *request = block->finished;

		block->finished = request->next;
		if (!block->finished)
			block->finished_end = &block->finished;
		if (must_continue(block, request)) {
			block->in_kernel++;
			block->io->submit(block, request);
			resubmitted = true;
			continue;
		}
		if (ahead_owns(block, request)) {
			resubmitted |= ahead_ended(block, request);
			block->in_flight--;
			continue;
		}
		pthread_mutex_unlock(&block->lock);
		request->done(request, request->result);
		pthread_mutex_lock(&block->lock);
		answered++;
	}
	if (resubmitted)
		block->io->commit(block);
	if (!answered)
		return;
	pthread_mutex_unlock(&block->lock);
	if (block->batch_end)
		block->batch_end(block->batch_ctx);
	pthread_mutex_lock(&block->lock);
	/* Only now: whoever drains must not see the end while a callback still runs. */
	block->in_flight -= answered;
	pthread_cond_broadcast(&block->finished_some);
}

static void answer_now(void *ctx)
{
	struct block *block = ctx;

	pthread_mutex_lock(&block->lock);
	answer(block);
	pthread_mutex_unlock(&block->lock);
}

static void ready(void *ctx, uint32_t events)
{
	answer_now(ctx);
}

void block_drain(struct block *block)
{
	pthread_mutex_lock(&block->lock);
	block->io->commit(block);
	for (;;) {
		answer(block);
		if (!block->in_flight)
			break;
		if (block->finished)
			continue;
		/* The kernel has the rest, or the loop's thread is inside a callback. */
		if (block->in_kernel)
			block->io->wait(block);
		else
			pthread_cond_wait(&block->finished_some, &block->lock);
	}
	/* Whoever wanted quiet may change the disk by other ways. */
	ahead_drop(block);
	pthread_mutex_unlock(&block->lock);
}

int block_copy(struct block *block)
{
	int fd = block_temporary(block->info.size_bytes), err;

	if (fd < 0)
		return fd;
	pthread_mutex_lock(&block->lock);
	err = overlay_copy(block, fd);
	pthread_mutex_unlock(&block->lock);
	if (!err)
		return fd;
	close(fd);
	return err;
}

static enum block_io choose_io(enum block_io wish)
{
	const char *name = getenv("INSULA_IO");

	if (wish != BLOCK_IO_AUTO || !name)
		return wish;
	if (!strcmp(name, "threads"))
		return BLOCK_IO_THREADS;
	if (!strcmp(name, "uring"))
		return BLOCK_IO_URING;
	return BLOCK_IO_AUTO;
}

void block_init(struct block *block, struct loop *loop)
{
	block->loop = loop;
	block->fd = block->direct_fd = block->ready_fd = -1;
	block->finished_end = &block->finished;
	ahead_init(block);
	loop_task_init(&block->answer_task, answer_now, block);
	pthread_mutex_init(&block->lock, NULL);
	pthread_cond_init(&block->finished_some, NULL);
}

int block_bind(struct block *block, const struct block_io_ops *io, unsigned depth)
{
	int err = io->open(block, depth);

	if (err)
		return err;
	block->io = io;
	block->watch = loop_add_fd(block->loop, block->ready_fd, EPOLLIN, ready, block);
	if (!block->watch) {
		err = -errno;
		io->close(block);
		block->io = NULL;
		return err;
	}
	block->info.io_name = io->name;
	return 0;
}

int block_start(struct block *block, enum block_io io, unsigned depth)
{
	int err = -ENOSYS;

	if (!depth)
		depth = DEPTH_DEFAULT;
	io = choose_io(io);
	if (io != BLOCK_IO_THREADS) {
		err = block_bind(block, &block_uring_ops, depth);
		if (err && io == BLOCK_IO_AUTO)
			log_debug("io_uring is refused here (%s); using threads", strerror(-err));
	}
	if (err && io != BLOCK_IO_URING)
		err = block_bind(block, &block_threads_ops, depth);
	return err;
}

void block_close(struct block *block)
{
	if (!block)
		return;
	if (block->io) {
		block_drain(block);
		loop_remove_fd(block->watch);
		loop_cancel(block->loop, &block->answer_task);
		block->io->close(block);
	}
	if (block->direct_fd >= 0)
		close(block->direct_fd);
	if (block->fd >= 0)
		close(block->fd);
	overlay_close(block->overlay);
	ahead_fini(block);
	pthread_cond_destroy(&block->finished_some);
	pthread_mutex_destroy(&block->lock);
	free(block);
}
