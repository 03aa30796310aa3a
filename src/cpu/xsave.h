/*
 * The layout of the XSAVE area (SDM 1, chapter 13) and what the guest's
 * instructions of that family do with it. arch.xsave is in the standard format;
 * a guest may ask for the compacted one.
 */
#ifndef INSULA_CPU_XSAVE_H
#define INSULA_CPU_XSAVE_H

#include "cpu/vcpu.h"

#define XFEATURE_X87    0x1u
#define XFEATURE_SSE    0x2u
#define XFEATURE_AVX    0x4u
#define XCOMP_COMPACTED (1ull << 63)

#define XSAVE_LEGACY_SIZE 512u
#define XSAVE_HEADER_SIZE 64u
#define XSAVE_AVX_OFFSET  576u
#define XSAVE_AVX_SIZE    256u

struct xsave_image {
	uint16_t fcw, fsw;
	uint8_t ftw, reserved1; /* ftw: one bit per physical register, 1 = not empty */
	uint16_t fop;
	uint64_t fip, fdp; /* as the 64-bit forms lay them out */
	uint32_t mxcsr, mxcsr_mask;
	uint8_t st[8][16];
	uint8_t xmm[16][16];
	uint8_t reserved2[96];
	struct {
		uint64_t xstate_bv, xcomp_bv, reserved[6];
	} header;
	uint8_t ymm_high[16][16];
};
_Static_assert(sizeof(struct xsave_image) == XSAVE_AVX_OFFSET + XSAVE_AVX_SIZE, "standard format");

/* Writes the initial configuration of every component of `mask` that xstate_bv says is in it, and
 * sets its bit. */
void xsave_materialise(struct xsave_image *image, uint64_t mask);

/* True if the component holds its initial configuration (MXCSR does not count). */
bool xsave_component_initial(const struct xsave_image *image, unsigned component);

/* Bytes of a compacted image with these components. */
unsigned xsave_compacted_size(uint64_t components);

#endif
