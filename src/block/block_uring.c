/*
 * Requests through io_uring. The ring's own descriptor is what the loop
 * watches, so a completion costs one wake-up and no extra system call. All
 * entry points run with the block's lock held; the ring needs no other.
 */
#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdlib.h>

#include "base/assert.h"
#include "block/block_io.h"

#define WAIT_MS 2

struct uring {
	struct io_uring ring;
	/* Submitted while the submission queue was full, oldest first. */
	struct block_request *backlog, **backlog_end;
	unsigned unsubmitted; /* in the submission queue and not yet shown to the kernel */
};

static int uring_open(struct block *block, unsigned depth)
{
	struct uring *u = calloc(1, sizeof(*u));
	int err;

	if (!u)
		return -ENOMEM;
	err = io_uring_queue_init(depth, &u->ring, 0);
	if (err) {
		free(u);
		return err;
	}
	u->backlog_end = &u->backlog;
	io_uring_ring_dontfork(&u->ring);
	block->io_priv = u;
	block->ready_fd = u->ring.ring_fd;
	return 0;
}

static void uring_close(struct block *block)
{
	struct uring *u = block->io_priv;

	ASSERT(!u->backlog);
	io_uring_queue_exit(&u->ring);
	free(u);
}

/* Puts one request on the submission queue; false if it is full. */
static bool prepare(struct uring *u, struct block_request *request)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);

	if (!sqe)
		return false;
	switch (request->op) {
	case BLOCK_READ:
		io_uring_prep_readv(sqe, request->fd, request->iov, request->iov_count,
				    request->offset + request->completed);
		break;
	case BLOCK_WRITE:
		io_uring_prep_writev(sqe, request->fd, request->iov, request->iov_count,
				     request->offset + request->completed);
		break;
	case BLOCK_FLUSH:
		io_uring_prep_fsync(sqe, request->fd, IORING_FSYNC_DATASYNC);
		break;
	case BLOCK_DISCARD:
	case BLOCK_WRITE_ZEROES:
	case BLOCK_UNMAP_ZEROES:
		io_uring_prep_fallocate(sqe, request->fd, request->mode, (off_t)request->offset,
					(off_t)request->len);
		break;
	}
	io_uring_sqe_set_data(sqe, request);
	u->unsubmitted++;
	return true;
}

static void show_kernel(struct uring *u)
{
	int count;

	if (!u->unsubmitted)
		return;
	count = io_uring_submit(&u->ring);
	/* EAGAIN, EBUSY: the kernel is short of something; the next reap or commit tries again. */
	if (count > 0)
		u->unsubmitted -=
			(unsigned)count < u->unsubmitted ? (unsigned)count : u->unsubmitted;
}

static void uring_commit(struct block *block)
{
	struct uring *u = block->io_priv;

	show_kernel(u);
	while (u->backlog && prepare(u, u->backlog)) {
		u->backlog = u->backlog->next;
		if (!u->backlog)
			u->backlog_end = &u->backlog;
	}
	show_kernel(u);
}

static void uring_submit(struct block *block, struct block_request *request)
{
	struct uring *u = block->io_priv;

	if (!u->backlog && prepare(u, request))
		return;
	request->next = NULL;
	*u->backlog_end = request;
	u->backlog_end = &request->next;
}

static void uring_reap(struct block *block)
{
	struct uring *u = block->io_priv;
	struct io_uring_cqe *cqe;

	while (io_uring_peek_cqe(&u->ring, &cqe) == 0) {
		struct block_request *request = io_uring_cqe_get_data(cqe);
		int result = cqe->res;

		io_uring_cqe_seen(&u->ring, cqe);
		block_io_finish(block, request, result);
	}
	if (u->unsubmitted || u->backlog)
		uring_commit(block);
}

static void uring_wait(struct block *block)
{
	struct uring *u = block->io_priv;
	struct pollfd poll_fd = { .fd = u->ring.ring_fd, .events = POLLIN };

	/*
	 * Without the lock, so that the loop's thread is not stopped too; if it
	 * reaps first, or the kernel would not take what we have, there is nothing
	 * to poll for. So never for long.
	 */
	pthread_mutex_unlock(&block->lock);
	poll(&poll_fd, 1, WAIT_MS);
	pthread_mutex_lock(&block->lock);
}

const struct block_io_ops block_uring_ops = {
	.name = "io_uring",
	.open = uring_open,
	.close = uring_close,
	.submit = uring_submit,
	.commit = uring_commit,
	.reap = uring_reap,
	.wait = uring_wait,
};
