/* Between the two interfaces of one virtio PCI device: modern and legacy. */
#ifndef INSULA_DEV_VIRTIO_VIRTIO_PCI_PRIV_H
#define INSULA_DEV_VIRTIO_VIRTIO_PCI_PRIV_H

#include "dev/virtio/virtio_pci.h"

extern const struct bus_ops virtio_pci_legacy_ops;

/* virtio_pci_state.c: pci_function_ops. */
void virtio_pci_save(void *dev, const char *name, struct state_writer *writer);
int virtio_pci_load(void *dev, const char *name, struct state_reader *reader);

/* Reads the interrupt status and, as reading does, clears it. */
uint8_t virtio_pci_take_isr(struct virtio_pci *pci);
/* The vector if the device has it, VIRTQ_NO_VECTOR if not. */
uint16_t virtio_pci_check_vector(const struct virtio_pci *pci, uint64_t vector);
/* The queue that queue_select names, NULL if there is none. Device lock held. */
struct virtq *virtio_pci_selected(struct virtio_pci *pci);
/* Little-endian value of `size` bytes at an offset of a block; bytes beyond its end read as 0. */
uint64_t virtio_pci_get_bytes(const void *block, unsigned block_len, uint64_t offset,
			      unsigned size);

#endif
