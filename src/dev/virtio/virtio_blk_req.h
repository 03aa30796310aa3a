/*
 * What a guest's block request means (virtio 1.2, 5.2.6): a pure function from
 * copied descriptors and the copied header to what is to be done. It reads no
 * guest memory and changes nothing; a fuzz target feeds it anything.
 */
#ifndef INSULA_DEV_VIRTIO_VIRTIO_BLK_REQ_H
#define INSULA_DEV_VIRTIO_VIRTIO_BLK_REQ_H

#include <stdbool.h>
#include <stdint.h>

#include "block/block.h"
#include "dev/virtio/virtq.h"

#define VIRTIO_BLK_HEADER_BYTES 16
#define VIRTIO_BLK_RANGE_BYTES  16
#define VIRTIO_BLK_PREFIX_BYTES (VIRTIO_BLK_HEADER_BYTES + VIRTIO_BLK_RANGE_BYTES)

struct virtio_blk_limits {
	uint64_t capacity_bytes;
	uint64_t range_bytes_max; /* one discard or write-zeroes */
	bool read_only, can_discard, can_write_zeroes;
};

enum virtio_blk_kind {
	VIRTIO_BLK_ANSWER,   /* nothing to do but to answer `status` */
	VIRTIO_BLK_IDENTIFY, /* copy the serial to data_in_bytes bytes */
	VIRTIO_BLK_TRANSFER, /* op, offset, len; READ or WRITE */
	VIRTIO_BLK_CONTROL,  /* op, offset, len; no data */
};

struct virtio_blk_req {
	enum virtio_blk_kind kind;
	uint8_t status; /* VIRTIO_BLK_S_*, for ANSWER */
	enum block_op op;
	uint64_t offset, len;   /* bytes on the disk */
	uint64_t data_in_bytes; /* writable bytes before the status byte */
};

/*
 * `prefix` holds the first prefix_len readable bytes of the chain, up to
 * VIRTIO_BLK_PREFIX_BYTES. 0, or -EPROTO if the chain has no room for a header
 * or a status byte: then nothing can be answered.
 */
int virtio_blk_req_parse(const struct virtq_chain *chain, const uint8_t *prefix,
			 unsigned prefix_len, const struct virtio_blk_limits *limits,
			 struct virtio_blk_req *req) __attribute__((warn_unused_result));

#endif
