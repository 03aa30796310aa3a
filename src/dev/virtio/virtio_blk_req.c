/* Parsing of block requests; see the header. Called by virtio_blk.c and the fuzz target. */
#include "dev/virtio/virtio_blk_req.h"

#include <endian.h>
#include <errno.h>
#include <linux/virtio_blk.h>
#include <string.h>

_Static_assert(sizeof(struct virtio_blk_outhdr) == VIRTIO_BLK_HEADER_BYTES, "header");
_Static_assert(sizeof(struct virtio_blk_discard_write_zeroes) == VIRTIO_BLK_RANGE_BYTES, "range");

/* Whether [sector, sector + len) lies on the disk; sets the offset. */
static bool on_disk(const struct virtio_blk_limits *limits, uint64_t sector, uint64_t len,
		    uint64_t *offset)
{
	if (sector > limits->capacity_bytes / BLOCK_SECTOR)
		return false;
	*offset = sector * BLOCK_SECTOR;
	return len <= limits->capacity_bytes - *offset;
}

static uint8_t parse_transfer(const struct virtq_chain *chain, uint64_t sector,
			      const struct virtio_blk_limits *limits, struct virtio_blk_req *req)
{
	bool write = req->op == BLOCK_WRITE;

	req->len = write ? chain->out_bytes - VIRTIO_BLK_HEADER_BYTES : chain->in_bytes - 1;
	if (write && limits->read_only)
		return VIRTIO_BLK_S_IOERR;
	if (req->len % BLOCK_SECTOR || !on_disk(limits, sector, req->len, &req->offset))
		return VIRTIO_BLK_S_IOERR;
	if (req->len)
		req->kind = VIRTIO_BLK_TRANSFER;
	return VIRTIO_BLK_S_OK;
}

static uint8_t parse_range(const struct virtq_chain *chain, const uint8_t *prefix, bool discard,
			   const struct virtio_blk_limits *limits, struct virtio_blk_req *req)
{
	struct virtio_blk_discard_write_zeroes range;
	uint32_t flags;

	if (!(discard ? limits->can_discard : limits->can_write_zeroes))
		return VIRTIO_BLK_S_UNSUPP;
	if (limits->read_only || chain->out_bytes != VIRTIO_BLK_PREFIX_BYTES)
		return VIRTIO_BLK_S_IOERR; /* we offer one range a request */
	memcpy(&range, prefix + VIRTIO_BLK_HEADER_BYTES, sizeof(range));
	flags = le32toh(range.flags);
	req->len = (uint64_t)le32toh(range.num_sectors) * BLOCK_SECTOR;
	if (flags & ~(discard ? 0u : VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP))
		return VIRTIO_BLK_S_UNSUPP;
	if (req->len > limits->range_bytes_max ||
	    !on_disk(limits, le64toh(range.sector), req->len, &req->offset))
		return VIRTIO_BLK_S_IOERR;
	if (discard)
		req->op = BLOCK_DISCARD;
	else
		req->op = flags ? BLOCK_UNMAP_ZEROES : BLOCK_WRITE_ZEROES;
	if (req->len)
		req->kind = VIRTIO_BLK_CONTROL;
	return VIRTIO_BLK_S_OK;
}

int virtio_blk_req_parse(const struct virtq_chain *chain, const uint8_t *prefix,
			 unsigned prefix_len, const struct virtio_blk_limits *limits,
			 struct virtio_blk_req *req)
{
	struct virtio_blk_outhdr header;
	uint64_t sector;

	memset(req, 0, sizeof(*req));
	if (prefix_len < VIRTIO_BLK_HEADER_BYTES || !chain->in_bytes)
		return -EPROTO;
	memcpy(&header, prefix, sizeof(header));
	sector = le64toh(header.sector);
	req->data_in_bytes = chain->in_bytes - 1;

	switch (le32toh(header.type)) {
	case VIRTIO_BLK_T_IN:
		req->op = BLOCK_READ;
		req->status = parse_transfer(chain, sector, limits, req);
		break;
	case VIRTIO_BLK_T_OUT:
		req->op = BLOCK_WRITE;
		req->status = parse_transfer(chain, sector, limits, req);
		break;
	case VIRTIO_BLK_T_FLUSH:
		req->op = BLOCK_FLUSH;
		req->kind = VIRTIO_BLK_CONTROL;
		break;
	case VIRTIO_BLK_T_GET_ID:
		req->kind = VIRTIO_BLK_IDENTIFY;
		break;
	case VIRTIO_BLK_T_DISCARD:
	case VIRTIO_BLK_T_WRITE_ZEROES:
		if (prefix_len < VIRTIO_BLK_PREFIX_BYTES)
			req->status = VIRTIO_BLK_S_IOERR;
		else
			req->status = parse_range(chain, prefix,
						  le32toh(header.type) == VIRTIO_BLK_T_DISCARD,
						  limits, req);
		break;
	default:
		req->status = VIRTIO_BLK_S_UNSUPP;
	}
	return 0;
}
