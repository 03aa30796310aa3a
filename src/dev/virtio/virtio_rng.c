/*
 * Entropy device: one queue of buffers to fill. Bytes come from getrandom()
 * and never block. A buffer is filled up to a page; the driver asks again if
 * it wants more.
 */
#include "dev/virtio/virtio_rng.h"

#include <errno.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "dev/virtio/virtio_device.h"
#include "dev/virtio/virtio_pci.h"

#define QUEUE_SIZE  64
#define FILL_BYTES  4096
#define CLASS_OTHER 0x00ff00

struct virtio_rng {
	struct virtio_device vdev;
	struct virtio_pci pci;
	struct virtq_chain chain;
};

/* 0, or -EFAULT for a buffer outside memory. */
static int fill(struct virtio_rng *rng, uint32_t *written)
{
	uint8_t bytes[FILL_BYTES];
	size_t want =
		rng->chain.in_bytes < sizeof(bytes) ? (size_t)rng->chain.in_bytes : sizeof(bytes);
	ssize_t got = getrandom(bytes, want, 0), put;

	/* Up to 256 bytes always come at once; a signal may cut longer ones short. */
	if (got < 0)
		got = 0;
	put = virtq_chain_write(rng->vdev.ram, &rng->chain, 0, bytes, (size_t)got);
	explicit_bzero(bytes, sizeof(bytes));
	if (put < 0)
		return -EFAULT;
	*written = (uint32_t)put;
	return 0;
}

static void work(struct virtio_device *vdev, unsigned queue)
{
	struct virtio_rng *rng = (struct virtio_rng *)vdev;
	struct virtq *vq = &vdev->queues[queue];
	uint32_t written;

	virtq_kicks_suspend(vq);
	for (unsigned taken = 0;; taken++) {
		if (taken == VIRTIO_WORK_BUDGET) {
			virtio_device_kick(vdev, queue);
			break;
		}
		if (!virtio_device_pop(vdev, queue, &rng->chain)) {
			virtq_kicks_resume(vq);
			if (virtio_device_live(vdev) && virtq_waiting(vq))
				continue;
			break;
		}
		if (fill(rng, &written)) {
			virtio_device_fail(vdev, "an entropy buffer outside memory");
			break;
		}
		virtio_device_push(vdev, queue, rng->chain.head, written);
	}
	virtio_device_signal(vdev, queue);
}

static const struct virtio_device_ops device_ops = { .work = work };

struct virtio_rng *virtio_rng_new(struct pci_host *host, unsigned slot, struct ram *ram,
				  struct loop *loop)
{
	static const struct virtio_pci_class class = { .class_code = CLASS_OTHER };
	struct virtio_rng *rng = calloc(1, sizeof(*rng));
	int err;

	if (!rng)
		return NULL;
	virtio_device_init(&rng->vdev, "virtio-rng", VIRTIO_ID_RNG, &device_ops, ram, loop, 1,
			   QUEUE_SIZE);
	err = virtio_pci_attach(&rng->pci, &rng->vdev, host, slot, &class);
	if (err) {
		virtio_device_fini(&rng->vdev);
		free(rng);
		errno = -err;
		return NULL;
	}
	return rng;
}

void virtio_rng_free(struct virtio_rng *rng)
{
	if (!rng)
		return;
	virtio_pci_detach(&rng->pci);
	virtio_device_fini(&rng->vdev);
	free(rng);
}
