/*
 * Block back ends: what a disk device may ask of the host.
 *
 * A front end fills a block_request it owns, block_submit()s any number of
 * them and then block_commit()s the batch. Each is answered exactly once by
 * done(), on the event loop's thread or inside block_drain(); never from
 * inside submit or commit, and with no lock held. Requests may finish in any
 * order. After a batch of done() calls, batch_end() is called once. A flush
 * covers the writes that were done before it was submitted.
 *
 * Offsets and lengths are bytes, in whole sectors of BLOCK_SECTOR. A request
 * must lie inside the device: the front end, which knows what its guest asked,
 * has checked that.
 */
#ifndef INSULA_BLOCK_BLOCK_H
#define INSULA_BLOCK_BLOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct block;
struct loop;

#define BLOCK_SECTOR    512
#define BLOCK_IOV_MAX   1024 /* IOV_MAX of the host */
#define BLOCK_ERROR_MAX 384

enum block_op {
	BLOCK_READ,
	BLOCK_WRITE,
	BLOCK_FLUSH,
	BLOCK_DISCARD,      /* contents become undefined; may give space back */
	BLOCK_WRITE_ZEROES, /* allocation may stay */
	BLOCK_UNMAP_ZEROES, /* zeroes, and may give space back */
};

struct block_request {
	enum block_op op;
	uint64_t offset;
	uint64_t len;       /* bytes; the sum of iov for READ and WRITE, 0 for FLUSH */
	struct iovec *iov;  /* READ, WRITE; the back end's until done, which may consume it */
	unsigned iov_count; /* at most BLOCK_IOV_MAX */
	void (*done)(struct block_request *request, int result); /* 0 or -errno */

	/* The back end's, while the request is in flight. */
	struct block_request *next;
	uint64_t completed; /* bytes */
	int result;
	int fd;
	int mode; /* of fallocate */
};

struct block_info {
	uint64_t size_bytes;
	uint32_t logical_block;  /* smallest I/O the medium takes well, >= 512 */
	uint32_t physical_block; /* smallest write without read-modify-write */
	uint32_t iov_align;      /* memory alignment that avoids a bounce copy; 1 if none */
	bool read_only;
	bool can_discard;
	bool can_write_zeroes; /* BLOCK_WRITE_ZEROES and BLOCK_UNMAP_ZEROES */
	const char *io_name;   /* "io_uring" or "threads" */
};

enum block_io {
	BLOCK_IO_AUTO, /* io_uring where the host allows it; environment INSULA_IO=uring|threads
			  overrides */
	BLOCK_IO_URING,
	BLOCK_IO_THREADS,
};

struct block_options {
	const char *path;
	bool read_only;
	bool direct; /* bypass the host's page cache wherever alignment permits; else only for
			large reads of what it does not hold */
	/*
	 * What is written stays apart, and is gone when the disk is closed; the image is opened to
	 * read, and nobody may write it meanwhile. base_fd: that image, taken over, instead of
	 * path; 0: none. Not with read_only.
	 */
	bool overlay;
	int base_fd;
	enum block_io io;
	unsigned depth; /* requests in flight; 0: 64 */
};

/*
 * Opens a raw image (regular file or block device), locks it against other
 * writers and binds completions to the loop. NULL with errno and one human
 * sentence in error (BLOCK_ERROR_MAX bytes).
 */
struct block *block_raw_open(struct loop *loop, const struct block_options *options, char *error);
/* Drains first. The loop must not be dispatching this back end. */
void block_close(struct block *block);

/*
 * The disk as it is now, in a new file without a name; nothing in flight. A descriptor or -errno.
 * Shares the image's blocks where the file system can, else copies.
 */
int block_copy(struct block *block) __attribute__((warn_unused_result));

const struct block_info *block_info(const struct block *block);

/* Whom to call after a batch of done(): the place to tell a guest once of many. */
void block_connect(struct block *block, void (*batch_end)(void *ctx), void *ctx);

/* Never fails: errors arrive through done(). At most `depth` in flight. Any thread, also from
 * done(). */
void block_submit(struct block *block, struct block_request *request);
void block_commit(struct block *block);

/*
 * Returns when nothing is in flight; done() may run on the calling thread. Any
 * thread, but not from inside done() or batch_end(); nobody else submits meanwhile.
 */
void block_drain(struct block *block);

#endif
