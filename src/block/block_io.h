/*
 * How requests reach the host's kernel: one small vtable with two twins,
 * io_uring and a pool of threads. Used by block.c alone. Both finish a request
 * by putting it on the block's list of finished ones; block.c does the rest.
 */
#ifndef INSULA_BLOCK_BLOCK_IO_H
#define INSULA_BLOCK_BLOCK_IO_H

#include <pthread.h>

#include "base/loop.h"
#include "block/block.h"
#include "block/block_ahead.h"

struct block_io_ops {
	const char *name;
	/* 0 or -errno; ready_fd is what the loop should watch for EPOLLIN. */
	int (*open)(struct block *block, unsigned depth);
	void (*close)(struct block *block);
	/* The block's lock is held in all below. */
	void (*submit)(struct block *block, struct block_request *request);
	void (*commit)(struct block *block);
	/* Appends what has finished, with its raw result, to the block's finished list. */
	void (*reap)(struct block *block);
	/* Returns when something may have finished; may drop the lock and retake it. */
	void (*wait)(struct block *block);
};

extern const struct block_io_ops block_uring_ops, block_threads_ops;

struct block {
	struct block_info info;
	const struct block_io_ops *io;
	void *io_priv;
	struct loop *loop; /* borrowed */
	struct loop_fd *watch;
	int ready_fd;
	int fd;                  /* through the page cache */
	int direct_fd;           /* past it; -1 if there is none */
	bool direct_always;      /* not only for what is better read past it */
	struct overlay *overlay; /* NULL: fd is the image */
	uint32_t direct_align;   /* of offsets and lengths on direct_fd */
	void (*batch_end)(void *ctx);
	void *batch_ctx;

	pthread_mutex_t lock; /* guards all below and the io's state */
	pthread_cond_t finished_some;
	unsigned in_flight; /* submitted and done() not yet returned */
	unsigned in_kernel; /* submitted and not yet finished */
	struct block_request *finished, **finished_end;
	struct ahead ahead;
	struct loop_task answer_task; /* for what finished without the io */
};

/* Lock held. The result of the host: bytes for READ and WRITE, 0 for others, or -errno. */
void block_io_finish(struct block *block, struct block_request *request, int result);

/* block_overlay.c: an empty file without a name. A descriptor or -errno. */
int block_temporary(uint64_t bytes);

/* block.c */
void block_init(struct block *block, struct loop *loop);
/* Binds the files, opened by now, to an io and to the loop. 0 or -errno. */
int block_start(struct block *block, enum block_io io, unsigned depth);
/* The same with a given io. Nothing is open or registered after a failure. */
int block_bind(struct block *block, const struct block_io_ops *io, unsigned depth);

#endif
