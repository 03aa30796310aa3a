/*
 * The part of a virtio device that is neither transport nor function: the
 * status machine of virtio 1.2, 3.1, and the way from a notification to the
 * device's work on the loop's thread. Called by virtio_pci.c and the devices.
 * Invariant: a queue is touched only with the device lock held and while
 * virtio_device_live().
 */
#include "dev/virtio/virtio_device.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <string.h>

#include "base/assert.h"
#include "base/log.h"

static void work(void *ctx)
{
	struct virtio_device *vdev = ctx;
	/* Take the bits first: a kick that lands while we work posts the task again. */
	uint64_t kicked = atomic_exchange(&vdev->kicked, 0);

	pthread_mutex_lock(&vdev->lock);
	while (kicked && virtio_device_live(vdev)) {
		unsigned queue = (unsigned)__builtin_ctzll(kicked);

		kicked &= kicked - 1;
		if (vdev->queues[queue].state.running)
			vdev->ops->work(vdev, queue);
	}
	pthread_mutex_unlock(&vdev->lock);
}

void virtio_device_init(struct virtio_device *vdev, const char *name, uint16_t id,
			const struct virtio_device_ops *ops, struct ram *ram, struct loop *loop,
			unsigned queue_count, uint16_t queue_size)
{
	ASSERT(queue_count <= VIRTIO_QUEUES_MAX && queue_size <= VIRTQ_SIZE_MAX);
	memset(vdev, 0, sizeof(*vdev));
	vdev->name = name;
	vdev->id = id;
	vdev->ops = ops;
	vdev->ram = ram;
	vdev->loop = loop;
	vdev->queue_count = queue_count;
	vdev->offered = 1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_RING_F_EVENT_IDX |
			1ull << VIRTIO_RING_F_INDIRECT_DESC;
	pthread_mutex_init(&vdev->lock, NULL);
	for (unsigned i = 0; i < queue_count; i++)
		virtq_init(&vdev->queues[i], ram, queue_size);
	loop_task_init(&vdev->task, work, vdev);
}

void virtio_device_fini(struct virtio_device *vdev)
{
	loop_cancel(vdev->loop, &vdev->task);
	pthread_mutex_destroy(&vdev->lock);
}

void virtio_device_kick(struct virtio_device *vdev, unsigned queue)
{
	if (queue >= vdev->queue_count)
		return;
	if (!atomic_fetch_or(&vdev->kicked, 1ull << queue))
		loop_post(vdev->loop, &vdev->task);
}

bool virtio_device_answers(const struct virtio_device *vdev)
{
	return !vdev->resetting && !(vdev->state.status & VIRTIO_CONFIG_S_NEEDS_RESET);
}

bool virtio_device_live(const struct virtio_device *vdev)
{
	return virtio_device_answers(vdev) && !vdev->paused;
}

void virtio_device_fail(struct virtio_device *vdev, const char *why)
{
	if (vdev->state.status & VIRTIO_CONFIG_S_NEEDS_RESET)
		return;
	log_debug("%s: the guest's driver broke the protocol: %s", vdev->name, why);
	vdev->state.status |= VIRTIO_CONFIG_S_NEEDS_RESET;
	if (vdev->state.status & VIRTIO_CONFIG_S_DRIVER_OK)
		vdev->transport.signal_config(vdev->transport.ctx);
}

void virtio_device_accept_features(struct virtio_device *vdev, unsigned word, uint32_t bits)
{
	unsigned shift = 32 * word;

	if (word > 1 || (vdev->state.status & VIRTIO_CONFIG_S_FEATURES_OK))
		return;
	vdev->state.features &= ~(0xffffffffull << shift);
	vdev->state.features |= (uint64_t)bits << shift;
}

void virtio_device_start_queue(struct virtio_device *vdev, unsigned queue)
{
	if (virtq_start(&vdev->queues[queue], virtio_device_has(vdev, VIRTIO_RING_F_EVENT_IDX),
			virtio_device_has(vdev, VIRTIO_RING_F_INDIRECT_DESC)))
		virtio_device_fail(vdev, "a queue lies outside memory");
	else
		virtio_device_kick(vdev, queue);
}

void virtio_device_set_status(struct virtio_device *vdev, uint8_t status)
{
	uint8_t old = vdev->state.status, fresh;

	if (vdev->resetting)
		return;
	/* Bits are only ever added, and NEEDS_RESET is ours. */
	status = (status & ~VIRTIO_CONFIG_S_NEEDS_RESET) | old;
	fresh = status & ~old;
	if (fresh & VIRTIO_CONFIG_S_FEATURES_OK) {
		uint64_t features = vdev->state.features;

		if ((features & ~vdev->offered) || !(features & (1ull << VIRTIO_F_VERSION_1)))
			status &= ~VIRTIO_CONFIG_S_FEATURES_OK;
	}
	vdev->state.status = status;
	if ((fresh & VIRTIO_CONFIG_S_DRIVER_OK) && !vdev->state.legacy)
		for (unsigned i = 0; i < vdev->queue_count; i++)
			if (vdev->queues[i].state.enabled)
				virtio_device_start_queue(vdev, i);
}

static void settle(struct virtio_device *vdev)
{
	if (vdev->ops->settle)
		vdev->ops->settle(vdev);
}

void virtio_device_reset(struct virtio_device *vdev)
{
	bool busy;

	pthread_mutex_lock(&vdev->lock);
	busy = vdev->resetting;
	vdev->resetting = true;
	pthread_mutex_unlock(&vdev->lock);
	if (busy)
		return; /* another vcpu is at it; the status says when it is done */

	settle(vdev);

	pthread_mutex_lock(&vdev->lock);
	memset(&vdev->state, 0, sizeof(vdev->state));
	for (unsigned i = 0; i < vdev->queue_count; i++)
		virtq_reset(&vdev->queues[i]);
	if (vdev->ops->reset)
		vdev->ops->reset(vdev);
	vdev->transport.reset(vdev->transport.ctx);
	vdev->resetting = false;
	pthread_mutex_unlock(&vdev->lock);
}

void virtio_device_quiesce(struct virtio_device *vdev)
{
	pthread_mutex_lock(&vdev->lock);
	vdev->paused = true;
	pthread_mutex_unlock(&vdev->lock);
	settle(vdev);
}

void virtio_device_resume(struct virtio_device *vdev)
{
	pthread_mutex_lock(&vdev->lock);
	vdev->paused = false;
	if (vdev->ops->resume)
		vdev->ops->resume(vdev);
	pthread_mutex_unlock(&vdev->lock);
	/* Kicks that came in the pause were swallowed; a kick for nothing does no harm. */
	for (unsigned i = 0; i < vdev->queue_count; i++)
		virtio_device_kick(vdev, i);
}

bool virtio_device_pop(struct virtio_device *vdev, unsigned queue, struct virtq_chain *chain)
{
	int got = virtq_pop(&vdev->queues[queue], chain);

	if (got < 0)
		virtio_device_fail(vdev, "a bad descriptor chain or index");
	return got > 0;
}

void virtio_device_push(struct virtio_device *vdev, unsigned queue, uint16_t head, uint32_t written)
{
	if (virtq_push(&vdev->queues[queue], head, written))
		virtio_device_fail(vdev, "a used ring that cannot be written");
}

void virtio_device_signal(struct virtio_device *vdev, unsigned queue)
{
	if (virtq_should_signal(&vdev->queues[queue]))
		vdev->transport.signal_queue(vdev->transport.ctx, queue);
}

void virtio_device_config_changed(struct virtio_device *vdev)
{
	vdev->state.config_generation++;
	if (vdev->state.status & VIRTIO_CONFIG_S_DRIVER_OK)
		vdev->transport.signal_config(vdev->transport.ctx);
}
