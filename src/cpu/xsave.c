/*
 * XSAVE areas as data: initial configurations and sizes. Called by
 * cpu/fpstate.c and by the instructions of the XSAVE and FXSAVE families.
 * Invariant: only components 0 to 2 exist for a guest.
 */
#include "cpu/xsave.h"
#include "base/bytes.h"

static bool is_zero(const void *bytes, size_t len)
{
	const uint64_t *word = bytes;
	uint64_t any = 0;

	for (size_t i = 0; i < len / 8; i++)
		any |= word[i];
	return !any;
}

void xsave_materialise(struct xsave_image *image, uint64_t mask)
{
	uint64_t initial = mask & ~image->header.xstate_bv;

	if (initial & XFEATURE_X87) {
		image->fcw = 0x37f;
		image->fsw = 0;
		image->ftw = 0;
		image->fop = 0;
		image->fip = 0;
		image->fdp = 0;
		bytes_zero(image->st, sizeof(image->st));
	}
	if (initial & XFEATURE_SSE)
		bytes_zero(image->xmm, sizeof(image->xmm));
	if (initial & XFEATURE_AVX)
		bytes_zero(image->ymm_high, sizeof(image->ymm_high));
	image->header.xstate_bv |= mask;
}

bool xsave_component_initial(const struct xsave_image *image, unsigned component)
{
	if (!(image->header.xstate_bv >> component & 1))
		return true;
	switch (component) {
	case 0:
		return image->fcw == 0x37f && !image->fsw && !image->ftw && !image->fop &&
		       !image->fip && !image->fdp && is_zero(image->st, sizeof(image->st));
	case 1:
		return is_zero(image->xmm, sizeof(image->xmm));
	case 2:
		return is_zero(image->ymm_high, sizeof(image->ymm_high));
	default:
		return true;
	}
}

unsigned xsave_compacted_size(uint64_t components)
{
	return XSAVE_LEGACY_SIZE + XSAVE_HEADER_SIZE +
	       (components & XFEATURE_AVX ? XSAVE_AVX_SIZE : 0);
}
