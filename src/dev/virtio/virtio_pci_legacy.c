/*
 * The legacy interface of transitional devices (virtio 1.2, 4.1.4.10 and the
 * "Legacy Interface" sections): one I/O BAR, queues named by a page number,
 * features of 32 bits. Older kernels and unikernels speak nothing else.
 *
 * Two things differ from the modern interface in ways that matter: a queue
 * works as soon as its page number is written, because drivers of that time
 * used it before DRIVER_OK; and a reset has happened when the write returns.
 */
#include <linux/virtio_pci.h>

#include "dev/virtio/virtio_pci_priv.h"

#define LEGACY_QUEUE_SIZE_MAX 256 /* what firmware of the time can hold */
#define QUEUE_SHIFT           VIRTIO_PCI_QUEUE_ADDR_SHIFT
#define QUEUE_ALIGN           ((uint64_t)VIRTIO_PCI_VRING_ALIGN)
#define DESC_BYTES            16

static uint16_t legacy_size(const struct virtq *vq)
{
	return vq->size_max < LEGACY_QUEUE_SIZE_MAX ? vq->size_max : LEGACY_QUEUE_SIZE_MAX;
}

/* Device lock held. The header's registers; 0 for what is none. */
static uint64_t header_read(struct virtio_pci *pci, uint64_t offset, unsigned size)
{
	struct virtio_device *vdev = pci->vdev;
	const struct virtq *vq = virtio_pci_selected(pci);
	uint8_t block[VIRTIO_PCI_CONFIG_OFF(1)] = { 0 };

	pci_config_set(block, VIRTIO_PCI_HOST_FEATURES, 4, (uint32_t)vdev->offered);
	pci_config_set(block, VIRTIO_PCI_GUEST_FEATURES, 4, (uint32_t)vdev->state.features);
	if (vq) {
		if (vq->state.running)
			pci_config_set(block, VIRTIO_PCI_QUEUE_PFN, 4,
				       (uint32_t)(vq->state.desc >> QUEUE_SHIFT));
		pci_config_set(block, VIRTIO_PCI_QUEUE_NUM, 2, legacy_size(vq));
		pci_config_set(block, VIRTIO_MSI_QUEUE_VECTOR, 2, vq->state.vector);
	}
	pci_config_set(block, VIRTIO_PCI_QUEUE_SEL, 2, pci->state.queue_select);
	block[VIRTIO_PCI_STATUS] = vdev->state.status;
	pci_config_set(block, VIRTIO_MSI_CONFIG_VECTOR, 2, pci->state.config_vector);
	return virtio_pci_get_bytes(block, sizeof(block), offset, size);
}

static uint64_t legacy_read(void *dev, uint64_t offset, unsigned size)
{
	struct virtio_pci *pci = dev;
	struct virtio_device *vdev = pci->vdev;
	unsigned config_at = VIRTIO_PCI_CONFIG_OFF(pci_msix_enabled(&pci->function));
	uint64_t value;

	if (offset == VIRTIO_PCI_ISR)
		return virtio_pci_take_isr(pci);
	pthread_mutex_lock(&vdev->lock);
	if (offset >= config_at)
		value = virtio_pci_get_bytes(vdev->config_legacy, vdev->config_len,
					     offset - config_at, size);
	else
		value = header_read(pci, offset, size);
	pthread_mutex_unlock(&vdev->lock);
	return value;
}

/* Device lock held. */
static void place_queue(struct virtio_pci *pci, uint32_t pfn)
{
	struct virtq *vq = virtio_pci_selected(pci);
	uint64_t avail_bytes;

	if (!vq)
		return;
	if (!pfn) {
		uint16_t vector = vq->state.vector;

		virtq_reset(vq);
		vq->state.vector = vector;
		return;
	}
	if (vq->state.running)
		return;
	vq->state.size = legacy_size(vq);
	avail_bytes = 4 + 2ull * vq->state.size + 2;
	vq->state.desc = (uint64_t)pfn << QUEUE_SHIFT;
	vq->state.avail = vq->state.desc + (uint64_t)vq->state.size * DESC_BYTES;
	vq->state.used = (vq->state.avail + avail_bytes + QUEUE_ALIGN - 1) & ~(QUEUE_ALIGN - 1);
	vq->state.enabled = true;
	pci->vdev->state.legacy = true;
	virtio_device_start_queue(pci->vdev, pci->state.queue_select);
}

/* Device lock held. */
static void header_write(struct virtio_pci *pci, uint64_t offset, unsigned size, uint32_t value)
{
	struct virtio_device *vdev = pci->vdev;
	struct virtq *vq = virtio_pci_selected(pci);

	if (vdev->resetting)
		return;
	switch (offset) {
	case VIRTIO_PCI_GUEST_FEATURES:
		if (size == 4)
			virtio_device_accept_features(vdev, 0, value & (uint32_t)vdev->offered);
		break;
	case VIRTIO_PCI_QUEUE_PFN:
		if (size == 4)
			place_queue(pci, value);
		break;
	case VIRTIO_PCI_QUEUE_SEL:
		if (size == 2)
			pci->state.queue_select = (uint16_t)value;
		break;
	case VIRTIO_PCI_STATUS:
		if (size == 1) {
			vdev->state.legacy = true;
			virtio_device_set_status(vdev, (uint8_t)value);
		}
		break;
	case VIRTIO_MSI_CONFIG_VECTOR:
		if (size == 2 && pci_msix_enabled(&pci->function))
			pci->state.config_vector = virtio_pci_check_vector(pci, value);
		break;
	case VIRTIO_MSI_QUEUE_VECTOR:
		if (size == 2 && vq && pci_msix_enabled(&pci->function))
			vq->state.vector = virtio_pci_check_vector(pci, value);
		break;
	}
}

static void legacy_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	struct virtio_pci *pci = dev;

	if (offset == VIRTIO_PCI_QUEUE_NOTIFY) {
		virtio_device_kick(pci->vdev, value & 0xffff);
		return;
	}
	if (offset == VIRTIO_PCI_STATUS && size == 1 && value == 0) {
		virtio_device_reset(pci->vdev);
		return;
	}
	pthread_mutex_lock(&pci->vdev->lock);
	header_write(pci, offset, size, (uint32_t)value);
	pthread_mutex_unlock(&pci->vdev->lock);
}

const struct bus_ops virtio_pci_legacy_ops = { .read = legacy_read, .write = legacy_write };
