/* virtio entropy device (virtio 1.2, 5.4): the host's getrandom() for the guest. */
#ifndef INSULA_DEV_VIRTIO_VIRTIO_RNG_H
#define INSULA_DEV_VIRTIO_VIRTIO_RNG_H

struct loop;
struct pci_host;
struct ram;
struct virtio_rng;

/* All borrowed. NULL with errno on failure. */
struct virtio_rng *virtio_rng_new(struct pci_host *host, unsigned slot, struct ram *ram,
				  struct loop *loop);
/* Vcpus are stopped; the loop may run. */
void virtio_rng_free(struct virtio_rng *rng);

#endif
