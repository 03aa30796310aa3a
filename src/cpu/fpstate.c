/*
 * Moving the guest's x87, SSE and AVX state between arch.xsave and the host's
 * registers. Called by the software engines around guest code, and by whoever
 * leaves the rooms that are compiled without vector registers.
 *
 * Invariant: while fp_live is false, arch.xsave is a complete standard-format
 * image for fpstate_host_mask(), and the x87 pointers in it are the guest's.
 */
#include "cpu/fpstate.h"
#include "cpu/xsave.h"
#include <cpuid.h>

#define MXCSR_DEFAULT  0x1f80u
#define MXCSR_RESERVED 0xffff0000u

static uint64_t probe_host_mask(void)
{
	unsigned a, b, c, d;
	uint32_t low, high;

	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
		return 0;
	asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	return low & (XFEATURE_X87 | XFEATURE_SSE | XFEATURE_AVX);
}

uint64_t fpstate_host_mask(void)
{
	/* Two threads that race here store the same value. */
	static uint64_t mask;
	static bool known;

	if (!__atomic_load_n(&known, __ATOMIC_ACQUIRE)) {
		mask = probe_host_mask();
		__atomic_store_n(&known, true, __ATOMIC_RELEASE);
	}
	return mask ? mask : XFEATURE_X87 | XFEATURE_SSE;
}

/* Hosts without XSAVE still have FXSAVE; their mask is the two components that it knows. */
static bool host_has_xsave(void)
{
	static int has = -1;

	if (has < 0)
		has = probe_host_mask() != 0;
	return has;
}

static void host_defaults(void)
{
	uint32_t mxcsr = MXCSR_DEFAULT;

	/* FNINIT, not FINIT: a pending guest exception must not surface here. */
	asm volatile("fninit\n\tldmxcsr %0" : : "m"(mxcsr));
	if (fpstate_host_mask() & XFEATURE_AVX)
		asm volatile("vzeroupper");
}

void vcpu_fp_park_slow(struct vcpu *v)
{
	struct xsave_image *image = (struct xsave_image *)v->arch.xsave;
	uint64_t mask = fpstate_host_mask();

	if (host_has_xsave()) {
		/* XSAVE leaves unknown header bits alone, and the image may have come from a file.
		 */
		image->header.xstate_bv = 0;
		asm volatile("xsave64 %0"
			     : "+m"(v->arch.xsave)
			     : "a"((uint32_t)mask), "d"((uint32_t)(mask >> 32)));
	} else {
		asm volatile("fxsave64 %0" : "+m"(v->arch.xsave));
		image->header.xstate_bv = mask;
	}
	/* The host recorded the address of a thunk; the guest has its own. */
	image->fop = v->arch.fpu_op;
	image->fip = v->arch.fpu_ip;
	image->fdp = v->arch.fpu_dp;
	if (v->arch.fpu_op | v->arch.fpu_ip | v->arch.fpu_dp)
		image->header.xstate_bv |= XFEATURE_X87;
	host_defaults();
	v->fp_live = false;
}

void vcpu_fp_load_slow(struct vcpu *v)
{
	struct xsave_image *image = (struct xsave_image *)v->arch.xsave;
	uint64_t mask = fpstate_host_mask();

	/* Whatever a saved state or a guest's XRSTOR put there, XRSTOR must not fault on the host.
	 */
	image->mxcsr &= ~MXCSR_RESERVED;
	image->header.xstate_bv &= mask;
	image->header.xcomp_bv = 0;
	for (unsigned i = 0; i < sizeof(image->header.reserved) / sizeof(image->header.reserved[0]);
	     i++)
		image->header.reserved[i] = 0;
	if (host_has_xsave()) {
		asm volatile("xrstor64 %0"
			     :
			     : "m"(v->arch.xsave), "a"((uint32_t)mask),
			       "d"((uint32_t)(mask >> 32)));
	} else {
		xsave_materialise(image, mask);
		asm volatile("fxrstor64 %0" : : "m"(v->arch.xsave));
	}
	v->fp_live = true;
}
