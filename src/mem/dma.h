/*
 * A device's only door to guest memory. Bounded copies for small structures,
 * scatter mappings for payload. Any thread. No guest value can make these
 * crash: ranges outside RAM, wrapping or huge give -EFAULT and touch nothing.
 */
#ifndef INSULA_MEM_DMA_H
#define INSULA_MEM_DMA_H

#include "mem/ram.h"
#include <sys/uio.h>

enum dma_dir {
	DMA_FROM_GUEST, /* the device reads guest memory */
	DMA_TO_GUEST,   /* the device writes guest memory */
};

int dma_read(struct ram *ram, gpa_t gpa, void *bytes, size_t len) __attribute__((warn_unused_result));
int dma_write(struct ram *ram, gpa_t gpa, const void *bytes, size_t len) __attribute__((warn_unused_result));

/*
 * One contiguous guest range as host memory, for zero-copy I/O. At most two
 * pieces (low and high RAM are not adjacent, so a range lies in one slot: one
 * piece). TO_GUEST announces the pages as written before it returns and again
 * at unmap, when `written` bytes were stored; code decoded in between is
 * dropped too. Every map needs its unmap before the VM may pause or snapshot.
 */
struct dma_mapping {
	struct iovec iov;
	gpa_t gpa;
	enum dma_dir dir;
};
int dma_map(struct ram *ram, gpa_t gpa, size_t len, enum dma_dir dir, struct dma_mapping *mapping)
	__attribute__((warn_unused_result));
void dma_unmap(struct ram *ram, struct dma_mapping *mapping, size_t written);
/* Mappings alive now; 0 is a condition of the pause barrier. */
unsigned dma_in_flight(const struct ram *ram);

/* Little-endian virtqueue accesses with the ordering virtio needs: acquire loads, release stores. */
int dma_load16(struct ram *ram, gpa_t gpa, uint16_t *value) __attribute__((warn_unused_result));
int dma_store16(struct ram *ram, gpa_t gpa, uint16_t value) __attribute__((warn_unused_result));

#endif
