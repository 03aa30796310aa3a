/*
 * Saving and loading a virtio PCI device: transport, device, queues, and what
 * the device itself keeps. Quiesced, so no request is between the rings.
 * Invariant: after a load the queues obey the same bounds as when a guest
 * starts them.
 */
#include <errno.h>
#include <linux/virtio_ring.h>
#include <stdio.h>

#include "dev/virtio/virtio_pci_priv.h"
#include "state/stream.h"

static const struct state_field transport_fields[] = {
	STATE_FIELD(struct virtio_pci_state, device_feature_select),
	STATE_FIELD(struct virtio_pci_state, driver_feature_select),
	STATE_FIELD(struct virtio_pci_state, queue_select),
	STATE_FIELD(struct virtio_pci_state, config_vector),
	STATE_FIELD(struct virtio_pci_state, isr),
	STATE_END
};

static const struct state_table transport_table = {
	.name = "virtio-pci",
	.version = 1,
	.size = sizeof(struct virtio_pci_state),
	.fields = transport_fields,
};

static const struct state_field device_fields[] = {
	STATE_FIELD(struct virtio_device_state, features),
	STATE_FIELD(struct virtio_device_state, status),
	STATE_FIELD(struct virtio_device_state, config_generation),
	STATE_FIELD(struct virtio_device_state, legacy), STATE_END
};

static const struct state_table device_table = {
	.name = "virtio-device",
	.version = 1,
	.size = sizeof(struct virtio_device_state),
	.fields = device_fields,
};

static const struct state_field queue_fields[] = { STATE_FIELD(struct virtq_state, desc),
						   STATE_FIELD(struct virtq_state, avail),
						   STATE_FIELD(struct virtq_state, used),
						   STATE_FIELD(struct virtq_state, size),
						   STATE_FIELD(struct virtq_state, vector),
						   STATE_FIELD(struct virtq_state, avail_next),
						   STATE_FIELD(struct virtq_state, used_next),
						   STATE_FIELD(struct virtq_state, signalled),
						   STATE_FIELD(struct virtq_state, enabled),
						   STATE_FIELD(struct virtq_state, running),
						   STATE_END };

static const struct state_table queue_table = {
	.name = "virtq",
	.version = 1,
	.size = sizeof(struct virtq_state),
	.fields = queue_fields,
};

struct section {
	char name[STATE_NAME_MAX + 1];
};

static const char *part(struct section *section, const char *name, const char *what)
{
	snprintf(section->name, sizeof(section->name), "%s.%s", name, what);
	return section->name;
}

static const char *queue_part(struct section *section, const char *name, unsigned queue)
{
	snprintf(section->name, sizeof(section->name), "%s.queue.%u", name, queue);
	return section->name;
}

void virtio_pci_save(void *dev, const char *name, struct state_writer *writer)
{
	struct virtio_pci *pci = dev;
	struct virtio_device *vdev = pci->vdev;
	struct virtio_pci_state transport;
	struct section section;

	pthread_mutex_lock(&vdev->lock);
	pthread_mutex_lock(&pci->isr_lock);
	transport = pci->state;
	pthread_mutex_unlock(&pci->isr_lock);
	state_save_named(&transport_table, part(&section, name, "transport"), &transport, writer);
	state_save_named(&device_table, part(&section, name, "device"), &vdev->state, writer);
	for (unsigned i = 0; i < vdev->queue_count; i++)
		state_save_named(&queue_table, queue_part(&section, name, i),
				 &vdev->queues[i].state, writer);
	if (vdev->ops->save)
		vdev->ops->save(vdev, name, writer);
	pthread_mutex_unlock(&vdev->lock);
}

/* Device lock held. */
static int load_queues(struct virtio_pci *pci, const char *name, struct state_reader *reader)
{
	struct virtio_device *vdev = pci->vdev;
	bool event_idx = virtio_device_has(vdev, VIRTIO_RING_F_EVENT_IDX);
	bool indirect = virtio_device_has(vdev, VIRTIO_RING_F_INDIRECT_DESC);
	struct section section;

	for (unsigned i = 0; i < vdev->queue_count; i++) {
		struct virtq *vq = &vdev->queues[i];
		int err = state_load_named(&queue_table, queue_part(&section, name, i), &vq->state,
					   reader);

		if (err)
			return err;
		vq->state.vector = virtio_pci_check_vector(pci, vq->state.vector);
		if (virtq_adopt(vq, event_idx, indirect)) {
			virtq_reset(vq);
			snprintf(reader->error, sizeof(reader->error),
				 "%s: queue %u lies outside memory", name, i);
			return -EINVAL;
		}
	}
	return 0;
}

int virtio_pci_load(void *dev, const char *name, struct state_reader *reader)
{
	struct virtio_pci *pci = dev;
	struct virtio_device *vdev = pci->vdev;
	struct virtio_pci_state transport = { 0 };
	struct section section;
	int err;

	pthread_mutex_lock(&vdev->lock);
	err = state_load_named(&transport_table, part(&section, name, "transport"), &transport,
			       reader);
	if (!err) {
		transport.config_vector = virtio_pci_check_vector(pci, transport.config_vector);
		pthread_mutex_lock(&pci->isr_lock);
		pci->state = transport;
		pthread_mutex_unlock(&pci->isr_lock);
		err = state_load_named(&device_table, part(&section, name, "device"), &vdev->state,
				       reader);
	}
	if (!err && (vdev->state.features & ~vdev->offered)) {
		snprintf(reader->error, sizeof(reader->error),
			 "%s: the guest uses features that this %s does not have", name,
			 vdev->name);
		vdev->state.features = 0;
		err = -EINVAL;
	}
	if (!err)
		err = load_queues(pci, name, reader);
	if (!err && vdev->ops->load)
		err = vdev->ops->load(vdev, name, reader);
	pthread_mutex_unlock(&vdev->lock);
	return err;
}
