/*
 * A block back end in memory for device tests. Requests finish when the loop
 * is pumped, newest first if so wished, or not before they are released.
 */
#ifndef INSULA_TESTS_DEV_FAKE_BLOCK_H
#define INSULA_TESTS_DEV_FAKE_BLOCK_H

#include "block/block.h"
#include "block/block_io.h"

struct fake_disk {
	struct block *block;
	uint8_t *bytes;
	uint64_t size;
	bool hold;     /* nothing finishes, but for a drain */
	bool reverse;  /* newest first */
	int fail_with; /* -errno for every request, 0 for none */
	unsigned submitted, commits, flushes, in_kernel_max;
	struct block_request *pending; /* newest first */
};

void fake_disk_init(struct fake_disk *disk, struct loop *loop, uint64_t size, bool read_only);
void fake_disk_fini(struct fake_disk *disk);

#endif
