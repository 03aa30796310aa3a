/*
 * Requests through a pool of threads: the twin of block_uring.c for hosts that
 * refuse io_uring, and for tests. Each thread takes the oldest request, makes
 * one plain system call and reports. All state is guarded by the block's lock.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/assert.h"
#include "block/block_io.h"

#define THREADS 4

struct pool {
	struct block *block;
	pthread_t threads[THREADS];
	unsigned started;
	pthread_cond_t work, some_done;
	bool stopping;
	struct block_request *waiting, **waiting_end;
	struct block_request *done; /* newest first */
	bool signalled;             /* the eventfd is up */
};

static int perform(const struct block_request *request)
{
	ssize_t result = 0;

	switch (request->op) {
	case BLOCK_READ:
		result = preadv(request->fd, request->iov, (int)request->iov_count,
				(off_t)(request->offset + request->completed));
		break;
	case BLOCK_WRITE:
		result = pwritev(request->fd, request->iov, (int)request->iov_count,
				 (off_t)(request->offset + request->completed));
		break;
	case BLOCK_FLUSH:
		result = fdatasync(request->fd);
		break;
	case BLOCK_DISCARD:
	case BLOCK_WRITE_ZEROES:
	case BLOCK_UNMAP_ZEROES:
		result = fallocate(request->fd, request->mode, (off_t)request->offset,
				   (off_t)request->len);
		break;
	}
	return result < 0 ? -errno : (int)result;
}

static void raise_ready(struct pool *pool)
{
	uint64_t one = 1;

	if (pool->signalled)
		return;
	pool->signalled = true;
	/* The counter is far from full, so this neither blocks nor fails. */
	while (write(pool->block->ready_fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

static void *worker(void *arg)
{
	struct pool *pool = arg;
	struct block *block = pool->block;

	pthread_setname_np(pthread_self(), "block-io");
	pthread_mutex_lock(&block->lock);
	while (!pool->stopping) {
		struct block_request *request = pool->waiting;

		if (!request) {
			pthread_cond_wait(&pool->work, &block->lock);
			continue;
		}
		pool->waiting = request->next;
		if (!pool->waiting)
			pool->waiting_end = &pool->waiting;
		pthread_mutex_unlock(&block->lock);
		request->result = perform(request);
		pthread_mutex_lock(&block->lock);
		request->next = pool->done;
		pool->done = request;
		raise_ready(pool);
		pthread_cond_broadcast(&pool->some_done);
	}
	pthread_mutex_unlock(&block->lock);
	return NULL;
}

static void stop_workers(struct pool *pool)
{
	pthread_mutex_lock(&pool->block->lock);
	pool->stopping = true;
	pthread_cond_broadcast(&pool->work);
	pthread_mutex_unlock(&pool->block->lock);
	while (pool->started)
		pthread_join(pool->threads[--pool->started], NULL);
}

static void threads_close(struct block *block)
{
	struct pool *pool = block->io_priv;

	stop_workers(pool);
	close(block->ready_fd);
	pthread_cond_destroy(&pool->work);
	pthread_cond_destroy(&pool->some_done);
	free(pool);
}

static int threads_open(struct block *block, unsigned depth)
{
	struct pool *pool = calloc(1, sizeof(*pool));
	sigset_t all, before;
	int err = 0;

	if (!pool)
		return -ENOMEM;
	pool->block = block;
	pool->waiting_end = &pool->waiting;
	pthread_cond_init(&pool->work, NULL);
	pthread_cond_init(&pool->some_done, NULL);
	block->io_priv = pool;
	block->ready_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (block->ready_fd < 0)
		err = -errno;
	/* Signals are for the threads that expect them. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	for (unsigned i = 0; i < THREADS && i < depth && !err; i++) {
		err = -pthread_create(&pool->threads[i], NULL, worker, pool);
		if (!err)
			pool->started++;
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (err && pool->started)
		err = 0; /* fewer will do */
	if (err)
		threads_close(block);
	return err;
}

static void threads_submit(struct block *block, struct block_request *request)
{
	struct pool *pool = block->io_priv;

	request->next = NULL;
	*pool->waiting_end = request;
	pool->waiting_end = &request->next;
}

static void threads_commit(struct block *block)
{
	struct pool *pool = block->io_priv;

	if (!pool->waiting)
		return;
	if (pool->waiting->next)
		pthread_cond_broadcast(&pool->work);
	else
		pthread_cond_signal(&pool->work);
}

static void threads_reap(struct block *block)
{
	struct pool *pool = block->io_priv;
	struct block_request *oldest = NULL, *next;
	uint64_t count;

	if (pool->signalled) {
		pool->signalled = false;
		while (read(block->ready_fd, &count, sizeof(count)) < 0 && errno == EINTR)
			;
	}
	for (struct block_request *request = pool->done; request; request = next) {
		next = request->next;
		request->next = oldest;
		oldest = request;
	}
	pool->done = NULL;
	for (; oldest; oldest = next) {
		next = oldest->next;
		block_io_finish(block, oldest, oldest->result);
	}
}

static void threads_wait(struct block *block)
{
	struct pool *pool = block->io_priv;

	if (!pool->done)
		pthread_cond_wait(&pool->some_done, &block->lock);
}

const struct block_io_ops block_threads_ops = {
	.name = "threads",
	.open = threads_open,
	.close = threads_close,
	.submit = threads_submit,
	.commit = threads_commit,
	.reap = threads_reap,
	.wait = threads_wait,
};
