/*
 * Split virtqueue, device side. Called by virtio_device.c and the devices with
 * the device lock held. Invariant: no value read from the guest is used before
 * it is bounded, and none is read twice.
 */
#include "dev/virtio/virtq.h"

#include <errno.h>
#include <linux/virtio_ring.h>
#include <stdatomic.h>
#include <string.h>

#include "mem/dma.h"

#define AVAIL_FLAGS 0
#define AVAIL_IDX   2
#define AVAIL_RING  4
#define USED_FLAGS  0
#define USED_IDX    2
#define USED_RING   4
#define DESC_BYTES  16
#define USED_BYTES  8

struct descriptor {
	uint64_t addr;
	uint32_t len;
	uint16_t flags;
	uint16_t next;
};

_Static_assert(sizeof(struct descriptor) == DESC_BYTES, "a descriptor is 16 bytes");

void virtq_init(struct virtq *vq, struct ram *ram, uint16_t size_max)
{
	memset(vq, 0, sizeof(*vq));
	vq->ram = ram;
	vq->size_max = size_max;
	virtq_reset(vq);
}

void virtq_reset(struct virtq *vq)
{
	memset(&vq->state, 0, sizeof(vq->state));
	memset(&vq->ring, 0, sizeof(vq->ring));
	vq->state.size = vq->size_max;
	vq->state.vector = VIRTQ_NO_VECTOR;
}

int virtq_start(struct virtq *vq, bool event_idx, bool indirect)
{
	const struct virtq_state *s = &vq->state;
	unsigned event = event_idx ? 2 : 0;

	vq->state.running = false;
	if (!s->size || s->size > vq->size_max || (s->size & (s->size - 1)))
		return -EPROTO;
	if (s->desc % 16 || s->avail % 2 || s->used % 4)
		return -EPROTO;
	if (!ram_contains(vq->ram, s->desc, (uint64_t)s->size * DESC_BYTES) ||
	    !ram_contains(vq->ram, s->avail, AVAIL_RING + 2u * s->size + event) ||
	    !ram_contains(vq->ram, s->used, USED_RING + (uint64_t)s->size * USED_BYTES + event))
		return -EPROTO;
	vq->ring.desc = s->desc;
	vq->ring.avail = s->avail;
	vq->ring.used = s->used;
	vq->ring.size = s->size;
	vq->ring.event_idx = event_idx;
	vq->ring.indirect = indirect;
	vq->state.running = true;
	return 0;
}

int virtq_adopt(struct virtq *vq, bool event_idx, bool indirect)
{
	const struct virtq_state *s = &vq->state;

	if (!s->size || s->size > vq->size_max || (s->size & (s->size - 1)))
		return -EPROTO;
	return s->running ? virtq_start(vq, event_idx, indirect) : 0;
}

static int avail_index(struct virtq *vq, uint16_t *index)
{
	return dma_load16(vq->ram, vq->ring.avail + AVAIL_IDX, index);
}

/* Adds one buffer, joining it to the one before where they adjoin. */
static int chain_add(struct virtq_chain *chain, const struct descriptor *desc)
{
	bool in = desc->flags & VRING_DESC_F_WRITE;
	unsigned count = chain->out_count + chain->in_count;
	struct virtq_seg *last = count ? &chain->seg[count - 1] : NULL;

	if (!in && chain->in_count)
		return -EPROTO; /* 2.7.4.2: readable ones first */
	if (desc->addr + desc->len < desc->addr)
		return -EPROTO;
	if (in)
		chain->in_bytes += desc->len;
	else
		chain->out_bytes += desc->len;
	if (!desc->len)
		return 0;
	if ((in ? chain->in_count : chain->out_count) && last->gpa + last->len == desc->addr &&
	    last->len <= UINT32_MAX - desc->len) {
		last->len += desc->len;
		return 0;
	}
	chain->seg[count].gpa = desc->addr;
	chain->seg[count].len = desc->len;
	if (in)
		chain->in_count++;
	else
		chain->out_count++;
	return 0;
}

int virtq_pop(struct virtq *vq, struct virtq_chain *chain)
{
	uint64_t table = vq->ring.desc;
	uint32_t table_len = vq->ring.size, next;
	uint16_t index, head;
	bool indirect = false;

	if (!vq->state.running)
		return 0;
	if (avail_index(vq, &index))
		return -EPROTO;
	if (index == vq->state.avail_next)
		return 0;
	if ((uint16_t)(index - vq->state.avail_next) > vq->ring.size)
		return -EPROTO;
	if (dma_load16(vq->ram,
		       vq->ring.avail + AVAIL_RING +
			       2ull * (vq->state.avail_next & (vq->ring.size - 1)),
		       &head))
		return -EPROTO;

	chain->head = head;
	chain->out_count = chain->in_count = 0;
	chain->out_bytes = chain->in_bytes = 0;
	next = head;
	/* Each turn reads one descriptor; the bound ends loops, whatever table they are in. */
	for (unsigned turn = 0;; turn++) {
		struct descriptor desc;

		if (turn > VIRTQ_CHAIN_MAX || next >= table_len)
			return -EPROTO;
		if (dma_read(vq->ram, table + (uint64_t)next * DESC_BYTES, &desc, DESC_BYTES))
			return -EPROTO;
		if (desc.flags & VRING_DESC_F_INDIRECT) {
			/* 2.7.5.3.1: no table within a table, none that continues, whole entries */
			if (!vq->ring.indirect || indirect || (desc.flags & VRING_DESC_F_NEXT) ||
			    !desc.len || desc.len % DESC_BYTES || desc.addr > UINT64_MAX - desc.len)
				return -EPROTO;
			indirect = true;
			table = desc.addr;
			table_len = desc.len / DESC_BYTES;
			next = 0;
			continue;
		}
		if (chain->out_count + chain->in_count == VIRTQ_CHAIN_MAX ||
		    chain_add(chain, &desc))
			return -EPROTO;
		if (!(desc.flags & VRING_DESC_F_NEXT))
			break;
		next = desc.next;
	}
	vq->state.avail_next++;
	return 1;
}

void virtq_unpop(struct virtq *vq)
{
	vq->state.avail_next--;
}

bool virtq_waiting(struct virtq *vq)
{
	uint16_t index;

	return vq->state.running && !avail_index(vq, &index) && index != vq->state.avail_next;
}

int virtq_push(struct virtq *vq, uint16_t head, uint32_t written)
{
	uint32_t entry[2] = { head, written };
	uint16_t slot = vq->state.used_next & (vq->ring.size - 1);

	if (!vq->state.running ||
	    dma_write(vq->ram, vq->ring.used + USED_RING + (uint64_t)slot * USED_BYTES, entry,
		      USED_BYTES))
		return -EPROTO;
	vq->state.used_next++;
	/* Release: the driver that sees the index sees the entry and the data. */
	if (dma_store16(vq->ram, vq->ring.used + USED_IDX, vq->state.used_next))
		return -EPROTO;
	return 0;
}

/* A store to the used ring that the driver may miss; a failure shows at the next push. */
static void used_store16(struct virtq *vq, uint64_t offset, uint16_t value)
{
	if (vq->state.running && dma_store16(vq->ram, vq->ring.used + offset, value))
		vq->state.running = false;
}

void virtq_kicks_suspend(struct virtq *vq)
{
	/* With the event index a stale event says it already. */
	if (!vq->ring.event_idx)
		used_store16(vq, USED_FLAGS, VRING_USED_F_NO_NOTIFY);
}

void virtq_kicks_resume(struct virtq *vq)
{
	if (vq->ring.event_idx)
		used_store16(vq, USED_RING + (uint64_t)vq->ring.size * USED_BYTES,
			     vq->state.avail_next);
	else
		used_store16(vq, USED_FLAGS, 0);
	/* The wish must be visible before the caller looks again, or both sides would wait. */
	atomic_thread_fence(memory_order_seq_cst);
}

bool virtq_should_signal(struct virtq *vq)
{
	uint16_t old = vq->state.signalled, now = vq->state.used_next, wish;

	if (!vq->state.running || old == now)
		return false;
	vq->state.signalled = now;
	/* The used index must be visible before the driver's wish is read. */
	atomic_thread_fence(memory_order_seq_cst);
	if (!vq->ring.event_idx) {
		if (dma_load16(vq->ram, vq->ring.avail + AVAIL_FLAGS, &wish))
			return false;
		return !(wish & VRING_AVAIL_F_NO_INTERRUPT);
	}
	if (dma_load16(vq->ram, vq->ring.avail + AVAIL_RING + 2ull * vq->ring.size, &wish))
		return false;
	/* 2.7.10: tell the driver once the index passes the one it named. */
	return (uint16_t)(now - wish - 1) < (uint16_t)(now - old);
}

struct copy {
	struct ram *ram;
	uint8_t *bytes;
	size_t len;
	bool to_guest;
};

static ssize_t copy_segments(const struct copy *copy, const struct virtq_seg *seg, unsigned count,
			     uint64_t offset)
{
	size_t done = 0;

	for (unsigned i = 0; i < count && done < copy->len; i++) {
		uint64_t room = seg[i].len;
		size_t part;
		int err;

		if (offset >= room) {
			offset -= room;
			continue;
		}
		part = room - offset < copy->len - done ? (size_t)(room - offset)
							: copy->len - done;
		err = copy->to_guest
			      ? dma_write(copy->ram, seg[i].gpa + offset, copy->bytes + done, part)
			      : dma_read(copy->ram, seg[i].gpa + offset, copy->bytes + done, part);
		if (err)
			return -EFAULT;
		done += part;
		offset = 0;
	}
	return (ssize_t)done;
}

ssize_t virtq_chain_read(struct ram *ram, const struct virtq_chain *chain, uint64_t offset,
			 void *bytes, size_t len)
{
	struct copy copy = { .ram = ram, .bytes = bytes, .len = len };

	return copy_segments(&copy, chain->seg, chain->out_count, offset);
}

ssize_t virtq_chain_write(struct ram *ram, const struct virtq_chain *chain, uint64_t offset,
			  const void *bytes, size_t len)
{
	struct copy copy = {
		.ram = ram, .bytes = (uint8_t *)(uintptr_t)bytes, .len = len, .to_guest = true
	};

	return copy_segments(&copy, chain->seg + chain->out_count, chain->in_count, offset);
}
