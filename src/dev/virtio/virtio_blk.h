/*
 * virtio block device (virtio 1.2, 5.2) on PCI, transitional: also offers the
 * legacy I/O interface.
 *
 * The board constructs it; requests run on the event loop's thread and in the
 * back end. Every request slot is allocated at construction: nothing a guest
 * does allocates.
 */
#ifndef INSULA_DEV_VIRTIO_VIRTIO_BLK_H
#define INSULA_DEV_VIRTIO_VIRTIO_BLK_H

struct block;
struct loop;
struct pci_host;
struct ram;
struct virtio_blk;

#define VIRTIO_BLK_ID_BYTES 20

/*
 * All borrowed. `serial` is what GET_ID answers, cut at 20 bytes. The device
 * is read-only if the back end is. NULL with errno on failure.
 */
struct virtio_blk *virtio_blk_new(struct pci_host *host, unsigned slot, struct ram *ram,
				  struct loop *loop, struct block *block, const char *serial);
/* Vcpus are stopped; the loop may run. Waits for requests in flight. The
 * back end stays open. */
void virtio_blk_free(struct virtio_blk *blk);

#endif
