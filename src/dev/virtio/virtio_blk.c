/*
 * Block device: from chains to block requests and back. Taking happens on the
 * loop's thread, answering wherever the back end calls done(); both under the
 * device lock. Payload is never copied: guest memory is mapped for the host's
 * kernel to fill. Invariant: every slot is either free or owned by exactly one
 * chain that was popped and not yet pushed.
 */
#include "dev/virtio/virtio_blk.h"

#include <endian.h>
#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "block/block.h"
#include "dev/virtio/virtio_blk_req.h"
#include "dev/virtio/virtio_device.h"
#include "dev/virtio/virtio_pci.h"
#include "mem/dma.h"

#define QUEUE_SIZE          512
#define SEG_MAX             (QUEUE_SIZE - 2)
#define SEG_MAX_LEGACY      254 /* the legacy interface has queues of 256 */
#define SEG_BYTES_MAX       (16u << 20)
#define RANGE_SECTORS_MAX   (1u << 21) /* 1 GiB a discard */
#define SLOTS               64
#define CLASS_STORAGE_OTHER 0x018000
#define CONFIG_LEN          (offsetof(struct virtio_blk_config, write_zeroes_may_unmap) + 4)

struct slot {
	struct block_request io; /* first: done() gets this address */
	struct virtio_blk *blk;
	struct slot *next_free;
	struct virtio_blk_req req;
	bool flushing; /* a write that is made durable before it is answered */
	unsigned mapped;
	struct virtq_chain chain;
	struct dma_mapping mapping[VIRTQ_CHAIN_MAX];
	struct iovec iov[VIRTQ_CHAIN_MAX];
};

struct virtio_blk {
	struct virtio_device vdev;
	struct virtio_pci pci;
	struct block *block; /* borrowed */
	struct virtio_blk_limits limits;
	char serial[VIRTIO_BLK_ID_BYTES];
	struct slot *slots, *free_slots;
	bool starved; /* the queue was left because no slot was free */
};

static struct slot *take_slot(struct virtio_blk *blk)
{
	struct slot *slot = blk->free_slots;

	if (slot)
		blk->free_slots = slot->next_free;
	return slot;
}

static void put_slot(struct slot *slot)
{
	slot->next_free = slot->blk->free_slots;
	slot->blk->free_slots = slot;
}

static void unmap(struct slot *slot, size_t written)
{
	while (slot->mapped)
		dma_unmap(slot->blk->vdev.ram, &slot->mapping[--slot->mapped], written);
}

/* Writes the status and gives the chain back. */
static void answer(struct slot *slot, uint8_t status, uint64_t data_written)
{
	struct virtio_device *vdev = &slot->blk->vdev;
	uint64_t written = data_written + 1;

	if (virtio_device_answers(vdev)) {
		if (virtq_chain_write(vdev->ram, &slot->chain, slot->req.data_in_bytes, &status,
				      1) != 1)
			virtio_device_fail(vdev, "a status byte outside memory");
		else
			virtio_device_push(vdev, 0, slot->chain.head,
					   written > UINT32_MAX ? UINT32_MAX : (uint32_t)written);
	}
	put_slot(slot);
}

static uint8_t status_of(int result)
{
	if (result == 0)
		return VIRTIO_BLK_S_OK;
	return result == -EOPNOTSUPP ? VIRTIO_BLK_S_UNSUPP : VIRTIO_BLK_S_IOERR;
}

static void submit(struct slot *slot, enum block_op op)
{
	slot->io.op = op;
	block_submit(slot->blk->block, &slot->io);
}

/* From the back end, any thread, no lock held. */
static void done(struct block_request *io, int result)
{
	struct slot *slot = (struct slot *)io;
	struct virtio_blk *blk = slot->blk;
	struct virtio_device *vdev = &blk->vdev;
	bool read = slot->req.op == BLOCK_READ;

	pthread_mutex_lock(&vdev->lock);
	if (slot->req.op == BLOCK_WRITE && !result && !slot->flushing &&
	    !virtio_device_has(vdev, VIRTIO_BLK_F_FLUSH) && virtio_device_answers(vdev)) {
		/* 5.2.6.2: a driver that knows no flush was promised that writes are durable. */
		slot->flushing = true;
		slot->io.iov_count = 0;
		slot->io.len = 0;
		submit(slot, BLOCK_FLUSH);
		pthread_mutex_unlock(&vdev->lock);
		block_commit(blk->block);
		return;
	}
	/* A failed read may have written some of it. */
	unmap(slot, read ? (size_t)slot->req.len : 0);
	answer(slot, status_of(result), read && !result ? slot->req.len : 0);
	pthread_mutex_unlock(&vdev->lock);
}

/* Maps the payload for the host. False if any of it is outside memory. */
static bool map_payload(struct slot *slot)
{
	struct virtio_device *vdev = &slot->blk->vdev;
	const struct virtq_chain *chain = &slot->chain;
	bool read = slot->req.op == BLOCK_READ;
	const struct virtq_seg *seg = read ? chain->seg + chain->out_count : chain->seg;
	uint64_t skip = read ? 0 : VIRTIO_BLK_HEADER_BYTES, left = slot->req.len;

	slot->mapped = 0;
	for (; left; seg++) {
		uint64_t len = seg->len;

		if (skip >= len) {
			skip -= len;
			continue;
		}
		len = len - skip < left ? len - skip : left;
		if (dma_map(vdev->ram, seg->gpa + skip, (size_t)len,
			    read ? DMA_TO_GUEST : DMA_FROM_GUEST, &slot->mapping[slot->mapped])) {
			unmap(slot, 0);
			return false;
		}
		slot->iov[slot->mapped] = slot->mapping[slot->mapped].iov;
		slot->mapped++;
		left -= len;
		skip = 0;
	}
	return true;
}

static void identify(struct slot *slot)
{
	struct virtio_blk *blk = slot->blk;
	size_t len = slot->req.data_in_bytes < sizeof(blk->serial) ? (size_t)slot->req.data_in_bytes
								   : sizeof(blk->serial);

	if (virtq_chain_write(blk->vdev.ram, &slot->chain, 0, blk->serial, len) < 0) {
		virtio_device_fail(&blk->vdev, "a buffer outside memory");
		put_slot(slot);
	} else {
		answer(slot, VIRTIO_BLK_S_OK, len);
	}
}

/* Device lock held. Does, or starts to do, what the popped chain asks. */
static void start_request(struct slot *slot)
{
	struct virtio_blk *blk = slot->blk;
	struct virtio_device *vdev = &blk->vdev;
	uint8_t prefix[VIRTIO_BLK_PREFIX_BYTES];
	ssize_t got = virtq_chain_read(vdev->ram, &slot->chain, 0, prefix, sizeof(prefix));

	if (got < 0 ||
	    virtio_blk_req_parse(&slot->chain, prefix, (unsigned)got, &blk->limits, &slot->req)) {
		virtio_device_fail(vdev, "a request without header or status");
		put_slot(slot);
		return;
	}
	slot->flushing = false;
	slot->io.offset = slot->req.offset;
	slot->io.len = slot->req.len;
	slot->io.iov = slot->iov;
	slot->io.iov_count = 0;
	switch (slot->req.kind) {
	case VIRTIO_BLK_ANSWER:
		answer(slot, slot->req.status, 0);
		break;
	case VIRTIO_BLK_IDENTIFY:
		identify(slot);
		break;
	case VIRTIO_BLK_TRANSFER:
		if (!map_payload(slot)) {
			virtio_device_fail(vdev, "a buffer outside memory");
			put_slot(slot);
			break;
		}
		slot->io.iov_count = slot->mapped;
		submit(slot, slot->req.op);
		break;
	case VIRTIO_BLK_CONTROL:
		submit(slot, slot->req.op);
		break;
	}
}

/* Device lock held: takes requests while there are any, and slots for them. */
static void take_requests(struct virtio_blk *blk)
{
	struct virtio_device *vdev = &blk->vdev;
	struct virtq *vq = &vdev->queues[0];

	virtq_kicks_suspend(vq);
	for (unsigned taken = 0; virtio_device_live(vdev); taken++) {
		struct slot *slot;

		if (taken == VIRTIO_WORK_BUDGET) {
			virtio_device_kick(vdev, 0);
			break;
		}
		slot = take_slot(blk);
		if (!slot) {
			/* Whichever request finishes next looks at the queue again. */
			blk->starved = true;
			break;
		}
		if (virtio_device_pop(vdev, 0, &slot->chain)) {
			start_request(slot);
			continue;
		}
		put_slot(slot);
		/* A kick may arrive while we decide to sleep: ask for kicks, then look once more.
		 */
		virtq_kicks_resume(vq);
		if (!virtio_device_live(vdev) || !virtq_waiting(vq))
			break;
	}
	block_commit(blk->block);
	if (virtio_device_answers(vdev))
		virtio_device_signal(vdev, 0);
}

static void work(struct virtio_device *vdev, unsigned queue)
{
	take_requests((struct virtio_blk *)vdev);
}

/* From the back end, any thread, no lock held: some requests were answered. */
static void batch_end(void *ctx)
{
	struct virtio_blk *blk = ctx;
	struct virtio_device *vdev = &blk->vdev;

	pthread_mutex_lock(&vdev->lock);
	if (blk->starved && virtio_device_live(vdev)) {
		blk->starved = false;
		take_requests(blk);
	} else if (virtio_device_answers(vdev)) {
		virtio_device_signal(vdev, 0);
	}
	pthread_mutex_unlock(&vdev->lock);
}

static void settle(struct virtio_device *vdev)
{
	block_drain(((struct virtio_blk *)vdev)->block);
}

static void reset(struct virtio_device *vdev)
{
	((struct virtio_blk *)vdev)->starved = false;
}

static const struct virtio_device_ops device_ops = {
	.work = work,
	.settle = settle,
	.reset = reset,
};

static void write_config(struct virtio_blk *blk, const struct block_info *info)
{
	struct virtio_blk_config config = {
		.capacity = htole64(info->size_bytes / BLOCK_SECTOR),
		.size_max = htole32(SEG_BYTES_MAX),
		.seg_max = htole32(SEG_MAX),
		.blk_size = htole32(info->logical_block),
		.min_io_size = htole16(1),
		.num_queues = htole16(1),
		.max_discard_sectors = htole32(RANGE_SECTORS_MAX),
		.max_discard_seg = htole32(1),
		.discard_sector_alignment = htole32(info->physical_block / BLOCK_SECTOR),
		.max_write_zeroes_sectors = htole32(RANGE_SECTORS_MAX),
		.max_write_zeroes_seg = htole32(1),
		.write_zeroes_may_unmap = 1,
	};

	if (info->physical_block > info->logical_block)
		config.physical_block_exp =
			(uint8_t)__builtin_ctz(info->physical_block / info->logical_block);
	_Static_assert(CONFIG_LEN <= VIRTIO_CONFIG_BYTES, "the configuration fits");
	blk->vdev.config_len = CONFIG_LEN;
	memcpy(blk->vdev.config, &config, CONFIG_LEN);
	config.seg_max = htole32(SEG_MAX_LEGACY);
	memcpy(blk->vdev.config_legacy, &config, CONFIG_LEN);
}

static void describe(struct virtio_blk *blk, const struct block_info *info, const char *serial)
{
	blk->limits = (struct virtio_blk_limits){
		.capacity_bytes = info->size_bytes,
		.range_bytes_max = (uint64_t)RANGE_SECTORS_MAX * BLOCK_SECTOR,
		.read_only = info->read_only,
		.can_discard = info->can_discard && !info->read_only,
		.can_write_zeroes = info->can_write_zeroes && !info->read_only,
	};
	blk->vdev.offered |= 1ull << VIRTIO_BLK_F_SIZE_MAX | 1ull << VIRTIO_BLK_F_SEG_MAX |
			     1ull << VIRTIO_BLK_F_BLK_SIZE | 1ull << VIRTIO_BLK_F_FLUSH |
			     1ull << VIRTIO_BLK_F_TOPOLOGY;
	if (blk->limits.read_only)
		blk->vdev.offered |= 1ull << VIRTIO_BLK_F_RO;
	if (blk->limits.can_discard)
		blk->vdev.offered |= 1ull << VIRTIO_BLK_F_DISCARD;
	if (blk->limits.can_write_zeroes)
		blk->vdev.offered |= 1ull << VIRTIO_BLK_F_WRITE_ZEROES;
	write_config(blk, info);
	if (serial)
		memcpy(blk->serial, serial, strnlen(serial, sizeof(blk->serial)));
}

struct virtio_blk *virtio_blk_new(struct pci_host *host, unsigned slot_number, struct ram *ram,
				  struct loop *loop, struct block *block, const char *serial)
{
	static const struct virtio_pci_class class = {
		.class_code = CLASS_STORAGE_OTHER,
		.transitional = true,
	};
	struct virtio_blk *blk = calloc(1, sizeof(*blk));
	int err;

	if (!blk)
		return NULL;
	blk->slots = calloc(SLOTS, sizeof(*blk->slots));
	if (!blk->slots) {
		free(blk);
		errno = ENOMEM;
		return NULL;
	}
	for (unsigned i = 0; i < SLOTS; i++) {
		blk->slots[i].blk = blk;
		blk->slots[i].io.done = done;
		put_slot(&blk->slots[i]);
	}
	blk->block = block;
	virtio_device_init(&blk->vdev, "virtio-blk", VIRTIO_ID_BLOCK, &device_ops, ram, loop, 1,
			   QUEUE_SIZE);
	describe(blk, block_info(block), serial);
	block_connect(block, batch_end, blk);
	err = virtio_pci_attach(&blk->pci, &blk->vdev, host, slot_number, &class);
	if (err) {
		virtio_device_fini(&blk->vdev);
		free(blk->slots);
		free(blk);
		errno = -err;
		return NULL;
	}
	return blk;
}

void virtio_blk_free(struct virtio_blk *blk)
{
	if (!blk)
		return;
	virtio_device_quiesce(&blk->vdev);
	block_connect(blk->block, NULL, NULL);
	virtio_pci_detach(&blk->pci);
	virtio_device_fini(&blk->vdev);
	free(blk->slots);
	free(blk);
}
