/*
 * The device's side of a split virtqueue (virtio 1.2, 2.7): descriptor table,
 * available ring and used ring in guest memory, indirect tables, event index.
 *
 *	 driver writes			 device reads
 *	+------------+  head index	+------------+  next	+------------+
 *	| avail ring |--------------->	| descriptor |------>	| descriptor |--> buffers
 *	+------------+			+------------+		+------------+
 *	+------------+  head, length
 *	| used ring  |<---------------- virtq_push
 *	+------------+
 *
 * Everything the guest wrote is copied once and checked before it is used; the
 * geometry is copied when the queue starts and what the guest does to its
 * registers afterwards changes nothing. The caller's device lock guards a
 * queue. A queue that meets nonsense answers -EPROTO; the owner then fails the
 * device, which takes no more from any queue until it is reset.
 */
#ifndef INSULA_DEV_VIRTIO_VIRTQ_H
#define INSULA_DEV_VIRTIO_VIRTQ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "mem/ram.h"

#define VIRTQ_SIZE_MAX  1024
#define VIRTQ_CHAIN_MAX 514 /* descriptors in one chain, indirect or not */
#define VIRTQ_NO_VECTOR 0xffff

/* What the guest sets and where both sides stand; saved. */
struct virtq_state {
	uint64_t desc, avail, used; /* guest-physical */
	uint16_t size;
	uint16_t vector;     /* MSI-X */
	uint16_t avail_next; /* next entry of the available ring to take */
	uint16_t used_next;  /* next entry of the used ring to fill */
	uint16_t signalled;  /* used_next when the driver was last told */
	uint8_t enabled;
	uint8_t running; /* started: the fields above but vector are latched in `ring` */
};

struct virtq {
	struct ram *ram; /* borrowed */
	uint16_t size_max;
	struct virtq_state state;
	/* Latched by virtq_start. */
	struct {
		uint64_t desc, avail, used;
		uint16_t size;
		bool event_idx, indirect;
	} ring;
};

struct virtq_seg {
	gpa_t gpa;
	uint32_t len;
};

/* A chain of buffers, copied out of the rings. Readable segments come first. */
struct virtq_chain {
	uint16_t head;
	uint16_t out_count; /* segments the device reads: seg[0..out_count) */
	uint16_t in_count;  /* segments it writes: the rest */
	uint64_t out_bytes, in_bytes;
	struct virtq_seg seg[VIRTQ_CHAIN_MAX];
};

void virtq_init(struct virtq *vq, struct ram *ram, uint16_t size_max);
/* Power-on values; not running. */
void virtq_reset(struct virtq *vq);
/* Latches the geometry and starts from index `state.avail_next`. -EPROTO if it is not in RAM or
 * misaligned. */
int virtq_start(struct virtq *vq, bool event_idx, bool indirect)
	__attribute__((warn_unused_result));

/* Latches what was loaded into `state`, if it is running. 0, or -EPROTO: it cannot have been saved
 * so. */
int virtq_adopt(struct virtq *vq, bool event_idx, bool indirect)
	__attribute__((warn_unused_result));

/* 1 and a chain, 0 if there is none, -EPROTO. */
int virtq_pop(struct virtq *vq, struct virtq_chain *chain) __attribute__((warn_unused_result));
/* Puts the last popped chain back, as if it had not been taken. Only while nothing later was
 * popped. */
void virtq_unpop(struct virtq *vq);
/* True if a chain waits. False also for a broken queue. */
bool virtq_waiting(struct virtq *vq);
/* Gives a chain back with the number of bytes written to it. -EPROTO if the ring cannot be written.
 */
int virtq_push(struct virtq *vq, uint16_t head, uint32_t written)
	__attribute__((warn_unused_result));

/* Asks the driver not to kick, or to kick again. After a resume look once more: virtq_waiting(). */
void virtq_kicks_suspend(struct virtq *vq);
void virtq_kicks_resume(struct virtq *vq);
/* After pushes: whether the driver wants an interrupt for them. Counts as telling it. */
bool virtq_should_signal(struct virtq *vq);

/* Bounded copies between a chain's readable or writable part and a buffer. Bytes copied, or
 * -EFAULT. */
ssize_t virtq_chain_read(struct ram *ram, const struct virtq_chain *chain, uint64_t offset,
			 void *bytes, size_t len) __attribute__((warn_unused_result));
ssize_t virtq_chain_write(struct ram *ram, const struct virtq_chain *chain, uint64_t offset,
			  const void *bytes, size_t len) __attribute__((warn_unused_result));

#endif
