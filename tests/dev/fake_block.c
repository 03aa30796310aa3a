/* See fake_block.h. */
#include "fake_block.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"

static int no_open(struct block *block, unsigned depth)
{
	return 0;
}

static void no_close(struct block *block)
{
}

static void fake_submit(struct block *block, struct block_request *request)
{
	struct fake_disk *disk = block->io_priv;

	disk->submitted++;
	if (block->in_kernel > disk->in_kernel_max)
		disk->in_kernel_max = block->in_kernel;
	request->next = disk->pending;
	disk->pending = request;
}

static void fake_commit(struct block *block)
{
	((struct fake_disk *)block->io_priv)->commits++;
}

static int perform(struct fake_disk *disk, struct block_request *request)
{
	uint64_t at = request->offset, sum = 0;

	if (disk->fail_with)
		return disk->fail_with;
	ASSERT(request->op == BLOCK_FLUSH || (at <= disk->size && request->len <= disk->size - at));
	switch (request->op) {
	case BLOCK_READ:
	case BLOCK_WRITE:
		for (unsigned i = 0; i < request->iov_count; i++) {
			struct iovec *iov = &request->iov[i];

			if (request->op == BLOCK_READ)
				memcpy(iov->iov_base, disk->bytes + at, iov->iov_len);
			else
				memcpy(disk->bytes + at, iov->iov_base, iov->iov_len);
			at += iov->iov_len;
			sum += iov->iov_len;
		}
		ASSERT(sum == request->len);
		return (int)sum;
	case BLOCK_FLUSH:
		disk->flushes++;
		return 0;
	case BLOCK_DISCARD:
	case BLOCK_WRITE_ZEROES:
	case BLOCK_UNMAP_ZEROES:
		memset(disk->bytes + at, 0, request->len);
		return 0;
	}
	return -EINVAL;
}

static void finish_all(struct block *block)
{
	struct fake_disk *disk = block->io_priv;
	struct block_request *list = disk->pending, *next, *reversed = NULL;

	disk->pending = NULL;
	if (!disk->reverse) {
		for (; list; list = next) {
			next = list->next;
			list->next = reversed;
			reversed = list;
		}
		list = reversed;
	}
	for (; list; list = next) {
		next = list->next;
		block_io_finish(block, list, perform(disk, list));
	}
}

static void fake_reap(struct block *block)
{
	if (!((struct fake_disk *)block->io_priv)->hold)
		finish_all(block);
}

static void fake_wait(struct block *block)
{
	finish_all(block);
}

static const struct block_io_ops fake_ops = {
	.name = "fake",
	.open = no_open,
	.close = no_close,
	.submit = fake_submit,
	.commit = fake_commit,
	.reap = fake_reap,
	.wait = fake_wait,
};

void fake_disk_init(struct fake_disk *disk, struct loop *loop, uint64_t size, bool read_only)
{
	struct block *block = calloc(1, sizeof(*block));
	int err;

	memset(disk, 0, sizeof(*disk));
	disk->bytes = calloc(1, size);
	ASSERT(block && disk->bytes);
	disk->size = size;
	disk->block = block;
	block->info = (struct block_info){
		.size_bytes = size,
		.logical_block = 512,
		.physical_block = 4096,
		.iov_align = 1,
		.read_only = read_only,
		.can_discard = !read_only,
		.can_write_zeroes = !read_only,
	};
	block_init(block, loop);
	block->io_priv = disk;
	err = block_bind(block, &fake_ops, 64);
	ASSERT(!err);
}

void fake_disk_fini(struct fake_disk *disk)
{
	block_close(disk->block);
	free(disk->bytes);
}
