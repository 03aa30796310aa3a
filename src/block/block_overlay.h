/*
 * A disk over another that nobody writes: what is written goes into a file of
 * our own that is gone when the disk is closed, by clusters; what is not comes
 * from the base. Used by block.c and block_raw.c only, under the block's lock.
 */
#ifndef INSULA_BLOCK_BLOCK_OVERLAY_H
#define INSULA_BLOCK_BLOCK_OVERLAY_H

#include "block/block.h"

struct overlay;

/* block->fd is the base, and becomes the overlay's own file. 0 or -errno. */
int overlay_open(struct block *block) __attribute__((warn_unused_result));
void overlay_close(struct overlay *overlay);

/*
 * Which file the whole request is to go to. Clusters of which it has only a part
 * are copied first, and so are some where it would have to read from both. -1: the host failed.
 */
int overlay_route(struct block *block, const struct block_request *request);

/* All that the base has of the disk, and then what is over it, into an empty file. 0 or -errno. */
int overlay_copy(struct block *block, int fd) __attribute__((warn_unused_result));

#endif
