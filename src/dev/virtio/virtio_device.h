/*
 * What every virtio device has, whatever carries it: status, features, queues,
 * configuration bytes, and the rule of who runs when.
 *
 * The guest's notifications only set a bit and wake the event loop; the loop's
 * thread takes the device lock and lets the device work through its queues, a
 * bounded number of requests at a time. The transport (virtio_pci.c) calls in
 * from vcpu threads, the device's back ends from theirs; all meet under `lock`.
 *
 * Reset: while `resetting` is set nothing is taken from or given to a queue,
 * requests in flight come home, and only then the state is cleared and the
 * guest reads status 0. So no request ever writes to memory that the guest
 * has taken back.
 *
 * Lock order: device lock, isr_lock, then the PCI room's interrupt locks.
 */
#ifndef INSULA_DEV_VIRTIO_VIRTIO_DEVICE_H
#define INSULA_DEV_VIRTIO_VIRTIO_DEVICE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/loop.h"
#include "dev/virtio/virtq.h"

#define VIRTIO_QUEUES_MAX   40
#define VIRTIO_CONFIG_BYTES 96
#define VIRTIO_WORK_BUDGET  256 /* chains one queue may take before the loop turns to others */

struct state_reader;
struct state_writer;
struct virtio_device;

/* All but settle run with the device lock held. */
struct virtio_device_ops {
	/*
	 * The loop's thread: take what waits in the queue, up to VIRTIO_WORK_BUDGET
	 * chains; then kick again. May drop the lock and retake it, and then finds
	 * the device live or not.
	 */
	void (*work)(struct virtio_device *vdev, unsigned queue);
	/* Back to the power-on state; nothing is in flight. May be NULL. */
	void (*reset)(struct virtio_device *vdev);
	/* No lock held: returns when no request is in flight. May be NULL. */
	void (*settle)(struct virtio_device *vdev);
	/* The VM goes on after a pause: what back ends may have had to say meanwhile. May be NULL.
	 */
	void (*resume)(struct virtio_device *vdev);
	/* The device's own state, in sections whose names begin with `name`. May be NULL. */
	void (*save)(struct virtio_device *vdev, const char *name, struct state_writer *writer);
	int (*load)(struct virtio_device *vdev, const char *name, struct state_reader *reader);
};

/* How the device reaches the driver; filled by the transport. */
struct virtio_transport {
	/* Device lock held. */
	void (*signal_queue)(void *ctx, unsigned queue);
	void (*signal_config)(void *ctx);
	void (*reset)(void *ctx);
	void *ctx;
};

struct virtio_device_state {
	uint64_t features; /* accepted by the driver */
	uint8_t status;
	uint8_t config_generation;
	uint8_t legacy; /* the driver spoke through the legacy interface */
};

struct virtio_device {
	const char *name;
	const struct virtio_device_ops *ops;
	struct virtio_transport transport;
	struct ram *ram;   /* borrowed */
	struct loop *loop; /* borrowed */
	uint16_t id;       /* virtio 1.2, 5 */
	uint64_t offered;  /* feature bits */
	unsigned queue_count;

	pthread_mutex_t lock; /* guards all below but the kicks */
	struct virtio_device_state state;
	struct virtq queues[VIRTIO_QUEUES_MAX];
	uint8_t config[VIRTIO_CONFIG_BYTES];        /* what the driver reads */
	uint8_t config_legacy[VIRTIO_CONFIG_BYTES]; /* the same for the legacy interface */
	unsigned config_len;
	bool resetting, paused;

	_Atomic uint64_t
		kicked; /* bit n: queue n has news; a set bit means that `task` is posted */
	struct loop_task task;
};

/* `queue_sizes` has queue_count entries, powers of two up to VIRTQ_SIZE_MAX. */
void virtio_device_init(struct virtio_device *vdev, const char *name, uint16_t id,
			const struct virtio_device_ops *ops, struct ram *ram, struct loop *loop,
			unsigned queue_count, uint16_t queue_size);
/* Nothing is in flight and no vcpu runs. */
void virtio_device_fini(struct virtio_device *vdev);

/* Any thread, no lock needed. Wild queue numbers are ignored. */
void virtio_device_kick(struct virtio_device *vdev, unsigned queue);

/* For the transport, device lock held. */
void virtio_device_accept_features(struct virtio_device *vdev, unsigned word, uint32_t bits);
/* Any status but 0; starts the queues at DRIVER_OK. */
void virtio_device_set_status(struct virtio_device *vdev, uint8_t status);
/* Starts one queue from its registers, as latched now. */
void virtio_device_start_queue(struct virtio_device *vdev, unsigned queue);

/* For the transport, no lock held. Returns when the device is as at power-on. */
void virtio_device_reset(struct virtio_device *vdev);
void virtio_device_quiesce(struct virtio_device *vdev);
void virtio_device_resume(struct virtio_device *vdev);

/* For devices, lock held. */
static inline bool virtio_device_has(const struct virtio_device *vdev, unsigned feature)
{
	return (vdev->state.features >> feature) & 1;
}
/* Whether requests may be taken from a queue: not while resetting, paused, or after a failure. */
bool virtio_device_live(const struct virtio_device *vdev);
/* Whether requests taken before may be given back: a pause waits for just that. */
bool virtio_device_answers(const struct virtio_device *vdev);
/* The guest broke the protocol: DEVICE_NEEDS_RESET, and silence until it does. */
void virtio_device_fail(struct virtio_device *vdev, const char *why);
/* virtq_pop and virtq_push with the failure handled; pop: true and a chain, or false. */
bool virtio_device_pop(struct virtio_device *vdev, unsigned queue, struct virtq_chain *chain);
void virtio_device_push(struct virtio_device *vdev, unsigned queue, uint16_t head,
			uint32_t written);
/* Interrupts for what was pushed, if the driver wants to know. */
void virtio_device_signal(struct virtio_device *vdev, unsigned queue);
/* After changing `config`. */
void virtio_device_config_changed(struct virtio_device *vdev);

#endif
