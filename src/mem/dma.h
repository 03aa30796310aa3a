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

/* Reads reach RAM and ROM, writes RAM only. A write is announced to the page authority. */
int dma_read(struct ram *ram, gpa_t gpa, void *bytes, size_t len) __attribute__((warn_unused_result));
int dma_write(struct ram *ram, gpa_t gpa, const void *bytes, size_t len) __attribute__((warn_unused_result));

/*
 * One contiguous guest range as host memory, for zero-copy I/O. A range lies
 * in one slot, so it is one piece. At unmap a TO_GUEST mapping is announced as
 * written: code decoded from it, before or meanwhile, is dropped. `written` is
 * for accounting; the whole range is announced whenever it is not 0, because a
 * request that failed half-way has stored an unknown part: pass 0 only if
 * surely nothing was stored. Every map needs its unmap before the VM may pause
 * or snapshot.
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

/*
 * For checks that execute guest code twice: between hold and release no device
 * stores to guest memory; whoever wants to waits. False: one is at it. Once
 * dma_may_be_held was called, before the machine runs, every store looks.
 */
void dma_may_be_held(struct ram *ram);
bool dma_hold(struct ram *ram) __attribute__((warn_unused_result));
void dma_release(struct ram *ram);

/* Little-endian virtqueue accesses with the ordering virtio needs: acquire loads, release stores. */
int dma_load16(struct ram *ram, gpa_t gpa, uint16_t *value) __attribute__((warn_unused_result));
int dma_store16(struct ram *ram, gpa_t gpa, uint16_t value) __attribute__((warn_unused_result));

#endif
