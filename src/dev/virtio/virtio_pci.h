/*
 * virtio over PCI (virtio 1.2, 4.1): common configuration, notifications, ISR,
 * device configuration and the PCI configuration access capability in BAR 4,
 * MSI-X in BAR 1, and for transitional devices the legacy interface in BAR 0.
 *
 * A device embeds this beside its struct virtio_device and attaches the two.
 */
#ifndef INSULA_DEV_VIRTIO_VIRTIO_PCI_H
#define INSULA_DEV_VIRTIO_VIRTIO_PCI_H

#include "dev/pci/pci_function.h"
#include "dev/virtio/virtio_device.h"

#define VIRTIO_PCI_LEGACY_BAR 0
#define VIRTIO_PCI_MSIX_BAR   1
#define VIRTIO_PCI_MODERN_BAR 4

/* Regions of the modern BAR. */
#define VIRTIO_PCI_COMMON_AT         0x0000
#define VIRTIO_PCI_ISR_AT            0x1000
#define VIRTIO_PCI_CONFIG_AT         0x2000
#define VIRTIO_PCI_NOTIFY_AT         0x3000
#define VIRTIO_PCI_REGION_BYTES      0x1000
#define VIRTIO_PCI_MODERN_BYTES      0x4000
#define VIRTIO_PCI_LEGACY_BYTES      128
#define VIRTIO_PCI_NOTIFY_MULTIPLIER 4

struct virtio_pci_state {
	uint32_t device_feature_select, driver_feature_select;
	uint16_t queue_select;
	uint16_t config_vector;
	uint8_t isr; /* isr_lock */
};

struct virtio_pci {
	struct virtio_device *vdev;
	struct pci_function function;
	struct virtio_pci_state state; /* device lock, but for isr */
	unsigned config_cap;           /* offset of the PCI configuration access capability */
	pthread_mutex_t isr_lock;
};

struct virtio_pci_class {
	uint32_t class_code;
	bool transitional;
};

/* Adds the device to the host at the slot. 0, or -errno of pci_function_add. */
int virtio_pci_attach(struct virtio_pci *pci, struct virtio_device *vdev, struct pci_host *host,
		      unsigned slot, const struct virtio_pci_class *class)
	__attribute__((warn_unused_result));
void virtio_pci_detach(struct virtio_pci *pci);

#endif
