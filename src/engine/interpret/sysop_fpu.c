/*
 * Instructions that move the whole vector or x87 state to and from memory:
 * FXSAVE, FXRSTOR, the XSAVE family, FNSTENV, FLDENV, FNSAVE, FRSTOR. Reached
 * through sysop_find().
 *
 * Invariant: a pointer that the host recorded never reaches guest memory; the
 * guest's own are in arch.fpu_ip, fpu_dp and fpu_op.
 */
#include "base/bytes.h"
#include "cpu/excp.h"
#include "cpu/fpstate.h"
#include "cpu/mmu.h"
#include "cpu/model.h"
#include "cpu/xsave.h"
#include "engine/interpret/sysop.h"
#include "engine/interpret/vector_priv.h"

#define MXCSR_DEFAULT       0x1f80u
#define MXCSR_RESERVED      0xffff0000u
#define FXSAVE_OFFSET_MXCSR 24u
#define FXSAVE_OFFSET_ST    32u
#define FXSAVE_OFFSET_XMM   160u
#define XSAVE_OFFSET_HEADER 512u

static unsigned vector_registers(const struct vcpu *v)
{
	return vcpu_code64(v) ? 16 : 8;
}

/* Pieces of an area at `ea`: memory is reached page by page, faults name the first byte that
 * failed. */
static int area_access(struct vcpu *v, const struct sysop *op, uint64_t ea, void *bytes,
		       unsigned len, bool write, bool probe)
{
	while (len) {
		unsigned part;
		int r;

		if (vector_linear(v, op->seg, ea, len, write) < 0)
			return -1;
		part = (unsigned)(PAGE_SIZE - (v->soft.la & ~PAGE_MASK));
		if (part > len)
			part = len;
		if (probe)
			r = mmu_probe_write(v, v->soft.la, part, MMU_CPL);
		else if (write)
			r = mmu_write(v, v->soft.la, bytes, part, MMU_CPL);
		else
			r = mmu_read(v, v->soft.la, bytes, part, MMU_CPL);
		if (r < 0)
			return -1;
		bytes = (uint8_t *)bytes + part;
		ea += part;
		len -= part;
	}
	return 0;
}

static int area_probe(struct vcpu *v, const struct sysop *op, unsigned len)
{
	return area_access(v, op, sysop_ea(v, op), NULL, len, true, true);
}

/* Hardware looks at the far end of an area first, then at it all. */
static int area_check(struct vcpu *v, const struct sysop *op, unsigned len, bool write)
{
	if (vector_linear(v, op->seg, sysop_ea(v, op) + len - 1, 1, write) < 0)
		return -1;
	if ((write ? mmu_probe_write(v, v->soft.la, 1, MMU_CPL)
		   : mmu_probe_read(v, v->soft.la, 1, MMU_CPL)) < 0)
		return -1;
	return write ? area_probe(v, op, len) : 0;
}

static bool env16(const struct sysop *op)
{
	return op->opsize == 2;
}

/* The x87's own areas: the first byte, the last, all. */
static int env_check(struct vcpu *v, const struct sysop *op, unsigned len, bool write)
{
	if (vector_linear(v, op->seg, sysop_ea(v, op), 1, write) < 0)
		return -1;
	if (alignment_checked(v) && (v->soft.la & (env16(op) ? 1 : 3)))
		return excp_raise_error(v, VEC_AC, 0);
	if ((write ? mmu_probe_write(v, v->soft.la, 1, MMU_CPL)
		   : mmu_probe_read(v, v->soft.la, 1, MMU_CPL)) < 0)
		return -1;
	return area_check(v, op, len, write);
}

static int area_read(struct vcpu *v, const struct sysop *op, unsigned offset, void *bytes,
		     unsigned len)
{
	return area_access(v, op, sysop_ea(v, op) + offset, bytes, len, false, false);
}

static int area_write(struct vcpu *v, const struct sysop *op, unsigned offset, void *bytes,
		      unsigned len)
{
	return area_access(v, op, sysop_ea(v, op) + offset, bytes, len, true, false);
}

static int check_alignment(struct vcpu *v, const struct sysop *op, unsigned align)
{
	if (vector_linear(v, op->seg, sysop_ea(v, op), 1, false) < 0)
		return -1;
	if (!(v->soft.la & (align - 1)))
		return 0;
	/* With alignment checks on, what they can see is theirs (SDM 2, FXSAVE). */
	return alignment_checked(v) && (v->soft.la & 3) ? excp_raise_error(v, VEC_AC, 0)
							: excp_gp(v, 0);
}

static struct xsave_image *image_of(struct vcpu *v)
{
	return (struct xsave_image *)v->arch.xsave;
}

/* The state as a complete image in arch.xsave, and the registers the host's. Says whether it was
 * live. */
static bool image_open(struct vcpu *v)
{
	bool live = v->fp_live;

	/* Through the registers even if it was not live: the host fills in components that a file
	 * left initial. */
	vcpu_fp_load(v);
	vcpu_fp_park(v);
	return live;
}

static void image_close(struct vcpu *v, bool live)
{
	if (live)
		vcpu_fp_load(v);
}

/* FIP and FDP as 64-bit offsets, or as 32-bit ones with selectors, which CPUID.7:EBX[13] lets be
 * zero. */
static void pointers_write(const struct vcpu *v, const struct sysop *op, uint8_t *legacy)
{
	if (op->opsize == 8) {
		bytes_store64(legacy + 8, v->arch.fpu_ip);
		bytes_store64(legacy + 16, v->arch.fpu_dp);
	} else {
		bytes_store64(legacy + 8, (uint32_t)v->arch.fpu_ip);
		bytes_store64(legacy + 16, (uint32_t)v->arch.fpu_dp);
	}
}

static void pointers_read(struct vcpu *v, const struct sysop *op, const uint8_t *legacy)
{
	v->arch.fpu_op = bytes_load16(legacy + 6) & 0x7ff;
	v->arch.fpu_ip = op->opsize == 8 ? bytes_load64(legacy + 8) : bytes_load32(legacy + 8);
	v->arch.fpu_dp = op->opsize == 8 ? bytes_load64(legacy + 16) : bytes_load32(legacy + 16);
}

static int fxsave(struct vcpu *v, const struct sysop *op)
{
	unsigned len = FXSAVE_OFFSET_XMM + 16 * vector_registers(v);
	uint8_t legacy[XSAVE_LEGACY_SIZE];
	bool live;
	int r;

	if (v->arch.cr0 & (CR0_EM | CR0_TS))
		return excp_nm(v);
	if (check_alignment(v, op, 16) < 0)
		return -1;
	live = image_open(v);
	bytes_copy(legacy, v->arch.xsave, len);
	pointers_write(v, op, legacy);
	r = area_check(v, op, XSAVE_LEGACY_SIZE, true);
	if (r == 0)
		r = area_write(v, op, 0, legacy, len);
	image_close(v, live);
	return r;
}

static int fxrstor(struct vcpu *v, const struct sysop *op)
{
	unsigned xmm_bytes = 16 * vector_registers(v);
	struct xsave_image *image = image_of(v);
	uint8_t legacy[XSAVE_LEGACY_SIZE];
	bool live;

	if (v->arch.cr0 & (CR0_EM | CR0_TS))
		return excp_nm(v);
	if (check_alignment(v, op, 16) < 0 || area_check(v, op, sizeof(legacy), false) < 0 ||
	    area_read(v, op, 0, legacy, sizeof(legacy)) < 0)
		return -1;
	if (bytes_load32(legacy + FXSAVE_OFFSET_MXCSR) & MXCSR_RESERVED)
		return excp_gp(v, 0);
	live = image_open(v);
	bytes_copy(image, legacy, FXSAVE_OFFSET_MXCSR + 4);
	bytes_copy(image->st, legacy + FXSAVE_OFFSET_ST, sizeof(image->st));
	bytes_copy(image->xmm, legacy + FXSAVE_OFFSET_XMM, xmm_bytes);
	pointers_read(v, op, legacy);
	image->header.xstate_bv |= XFEATURE_X87 | XFEATURE_SSE;
	image_close(v, live);
	return 0;
}

static int xsave_check(struct vcpu *v, const struct sysop *op, enum cpu_feature feature)
{
	if (!cpu_has(v->model, feature) || !(v->arch.cr4 & CR4_OSXSAVE))
		return excp_ud(v);
	if (v->arch.cr0 & CR0_TS)
		return excp_nm(v);
	return check_alignment(v, op, 64);
}

static uint64_t requested_features(const struct vcpu *v)
{
	return v->arch.xcr0 & ((v->arch.gpr[RDX] << 32) | (uint32_t)v->arch.gpr[RAX]);
}

struct piece {
	unsigned offset, len;
	const void *from;
};

static int pieces_write(struct vcpu *v, const struct sysop *op, uint64_t rfbm,
			const struct piece *pieces, unsigned count)
{
	if (area_check(v, op, xsave_compacted_size(rfbm), true) < 0)
		return -1;
	for (unsigned i = 0; i < count; i++)
		if (area_write(v, op, pieces[i].offset, (void *)(uintptr_t)pieces[i].from,
			       pieces[i].len) < 0)
			return -1;
	return 0;
}

/* The pieces of the components in `save`; MXCSR apart, because it goes with more than one. */
static unsigned pieces_of(struct vcpu *v, const uint8_t *legacy, uint64_t save, bool mxcsr,
			  struct piece *pieces)
{
	unsigned registers = vector_registers(v), n = 0;

	if (save & XFEATURE_X87) {
		pieces[n++] = (struct piece){ 0, 24, legacy };
		pieces[n++] = (struct piece){ FXSAVE_OFFSET_ST, 128, legacy + FXSAVE_OFFSET_ST };
	}
	if (mxcsr)
		pieces[n++] =
			(struct piece){ FXSAVE_OFFSET_MXCSR, 8, legacy + FXSAVE_OFFSET_MXCSR };
	if (save & XFEATURE_SSE)
		pieces[n++] = (struct piece){ FXSAVE_OFFSET_XMM, 16 * registers,
					      legacy + FXSAVE_OFFSET_XMM };
	if (save & XFEATURE_AVX)
		pieces[n++] =
			(struct piece){ XSAVE_AVX_OFFSET, 16 * registers, image_of(v)->ymm_high };
	return n;
}

/* XSAVE and XSAVEOPT: the standard format. XSAVEOPT leaves components out that are in their initial
 * configuration. */
static int save_standard(struct vcpu *v, const struct sysop *op, bool optimise)
{
	uint64_t rfbm = requested_features(v), in_use, xstate_bv;
	uint8_t legacy[XSAVE_LEGACY_SIZE];
	struct piece pieces[8];
	unsigned n;
	bool live;
	int r;

	if (area_check(v, op, xsave_compacted_size(rfbm), true) < 0 ||
	    area_read(v, op, XSAVE_OFFSET_HEADER, &xstate_bv, 8) < 0)
		return -1;
	live = image_open(v);
	in_use = image_of(v)->header.xstate_bv;
	bytes_copy(legacy, v->arch.xsave, sizeof(legacy));
	pointers_write(v, op, legacy);
	xstate_bv = (xstate_bv & ~rfbm) | (in_use & rfbm);
	n = pieces_of(v, legacy, optimise ? rfbm & in_use : rfbm,
		      rfbm & (XFEATURE_SSE | XFEATURE_AVX), pieces);
	pieces[n++] = (struct piece){ XSAVE_OFFSET_HEADER, 8, &xstate_bv };
	r = pieces_write(v, op, rfbm, pieces, n);
	image_close(v, live);
	return r;
}

/* XSAVEC and XSAVES: the compacted format, initial components left out, MXCSR part of SSE. */
static int save_compacted(struct vcpu *v, const struct sysop *op)
{
	uint64_t rfbm = requested_features(v), save;
	uint8_t legacy[XSAVE_LEGACY_SIZE];
	struct piece pieces[8];
	uint64_t header[2];
	unsigned n;
	bool live;
	int r;

	live = image_open(v);
	save = rfbm & image_of(v)->header.xstate_bv;
	if ((rfbm & XFEATURE_SSE) && image_of(v)->mxcsr != MXCSR_DEFAULT)
		save |= XFEATURE_SSE;
	bytes_copy(legacy, v->arch.xsave, sizeof(legacy));
	pointers_write(v, op, legacy);
	header[0] = save;
	header[1] = rfbm | XCOMP_COMPACTED;
	n = pieces_of(v, legacy, save, save & XFEATURE_SSE, pieces);
	pieces[n++] = (struct piece){ XSAVE_OFFSET_HEADER, 16, header };
	r = pieces_write(v, op, rfbm, pieces, n);
	image_close(v, live);
	return r;
}

static int xsave(struct vcpu *v, const struct sysop *op)
{
	return xsave_check(v, op, FEAT_XSAVE) < 0 ? -1 : save_standard(v, op, false);
}

static int xsaveopt(struct vcpu *v, const struct sysop *op)
{
	return xsave_check(v, op, FEAT_XSAVEOPT) < 0 ? -1 : save_standard(v, op, true);
}

static int xsavec(struct vcpu *v, const struct sysop *op)
{
	return xsave_check(v, op, FEAT_XSAVEC) < 0 ? -1 : save_compacted(v, op);
}

static int xsaves(struct vcpu *v, const struct sysop *op)
{
	if (!cpu_has(v->model, FEAT_XSAVES) || !(v->arch.cr4 & CR4_OSXSAVE))
		return excp_ud(v);
	if (v->arch.cpl)
		return excp_gp(v, 0);
	/* IA32_XSS has no bits: no supervisor component exists for a guest. */
	return xsave_check(v, op, FEAT_XSAVES) < 0 ? -1 : save_compacted(v, op);
}

struct xrstor_header {
	uint64_t xstate_bv, xcomp_bv, reserved[6];
};

static bool header_valid(const struct vcpu *v, const struct xrstor_header *h, bool supervisor)
{
	uint64_t components = h->xcomp_bv & ~XCOMP_COMPACTED, any = 0;

	if (!(h->xcomp_bv & XCOMP_COMPACTED)) /* SDM 1, 13.8.1 */
		return !supervisor && !h->xcomp_bv && !h->reserved[0] &&
		       !(h->xstate_bv & ~v->arch.xcr0);
	if (!cpu_has(v->model, FEAT_XSAVEC))
		return false;
	for (unsigned i = 0; i < 6; i++)
		any |= h->reserved[i];
	return !any && !(components & ~v->arch.xcr0) && !(h->xstate_bv & ~components); /* 13.8.2 */
}

static int restore(struct vcpu *v, const struct sysop *op, bool supervisor)
{
	uint64_t rfbm = requested_features(v), take;
	unsigned vector_bytes = 16 * vector_registers(v);
	struct xsave_image *image = image_of(v);
	uint8_t legacy[XSAVE_LEGACY_SIZE], ymm_high[XSAVE_AVX_SIZE];
	struct xrstor_header header;
	bool live, mxcsr, compacted;

	if (area_read(v, op, XSAVE_OFFSET_HEADER, &header, sizeof(header)) < 0)
		return -1;
	if (!header_valid(v, &header, supervisor))
		return excp_gp(v, 0);
	compacted = header.xcomp_bv & XCOMP_COMPACTED;
	take = rfbm & header.xstate_bv;
	mxcsr = compacted ? take & XFEATURE_SSE : rfbm & (XFEATURE_SSE | XFEATURE_AVX);
	if (area_read(v, op, 0, legacy, sizeof(legacy)) < 0)
		return -1;
	if ((take & XFEATURE_AVX) && area_read(v, op, XSAVE_AVX_OFFSET, ymm_high, vector_bytes) < 0)
		return -1;
	if (mxcsr && (bytes_load32(legacy + FXSAVE_OFFSET_MXCSR) & MXCSR_RESERVED))
		return excp_gp(v, 0);

	live = image_open(v);
	if (take & XFEATURE_X87) {
		bytes_copy(image, legacy, FXSAVE_OFFSET_MXCSR);
		bytes_copy(image->st, legacy + FXSAVE_OFFSET_ST, sizeof(image->st));
		pointers_read(v, op, legacy);
	} else if (rfbm & XFEATURE_X87) {
		v->arch.fpu_ip = v->arch.fpu_dp = v->arch.fpu_op = 0;
	}
	if (mxcsr)
		image->mxcsr = bytes_load32(legacy + FXSAVE_OFFSET_MXCSR);
	else if (compacted && (rfbm & XFEATURE_SSE))
		image->mxcsr = MXCSR_DEFAULT;
	if (take & XFEATURE_SSE)
		bytes_copy(image->xmm, legacy + FXSAVE_OFFSET_XMM, vector_bytes);
	else if (rfbm & XFEATURE_SSE)
		bytes_zero(image->xmm, vector_bytes);
	if (take & XFEATURE_AVX)
		bytes_copy(image->ymm_high, ymm_high, vector_bytes);
	else if (rfbm & XFEATURE_AVX)
		bytes_zero(image->ymm_high, vector_bytes);
	/* Outside 64-bit code registers 8 to 15 keep their values, so only x87 can become initial
	 * as a whole. */
	image->header.xstate_bv |= rfbm & (XFEATURE_SSE | XFEATURE_AVX);
	if (vector_registers(v) == 16)
		image->header.xstate_bv &= ~(rfbm & ~take);
	if (rfbm & XFEATURE_X87)
		image->header.xstate_bv =
			(image->header.xstate_bv & ~(uint64_t)XFEATURE_X87) | (take & XFEATURE_X87);
	image_close(v, live);
	return 0;
}

static int xrstor(struct vcpu *v, const struct sysop *op)
{
	return xsave_check(v, op, FEAT_XSAVE) < 0 ? -1 : restore(v, op, false);
}

static int xrstors(struct vcpu *v, const struct sysop *op)
{
	if (!cpu_has(v->model, FEAT_XSAVES) || !(v->arch.cr4 & CR4_OSXSAVE))
		return excp_ud(v);
	if (v->arch.cpl)
		return excp_gp(v, 0);
	return xsave_check(v, op, FEAT_XSAVES) < 0 ? -1 : restore(v, op, true);
}

/*
 * The x87 environment. The host's own FNSTENV and FNSAVE give control, status
 * and tag words and do the side effects; the pointers are replaced.
 */
struct x87_env32 {
	uint32_t fcw, fsw, ftw, fip, fcs_fop, fdp, fds;
};
struct x87_image {
	struct x87_env32 env;
	uint8_t st[80];
};
_Static_assert(sizeof(struct x87_image) == 108, "FNSAVE, 32-bit protected mode format");

static unsigned env_size(const struct sysop *op)
{
	return env16(op) ? 14 : 28;
}

/* Guest layout (SDM 1, figures 8-9 to 8-12) from the host's; returns its length. */
static unsigned env_write(const struct vcpu *v, const struct sysop *op, const struct x87_env32 *env,
			  uint8_t *out)
{
	bool segmented = vcpu_protected(v);
	uint32_t fip = (uint32_t)v->arch.fpu_ip, fdp = (uint32_t)v->arch.fpu_dp,
		 fop = v->arch.fpu_op;

	if (env16(op)) {
		bytes_store16(out, (uint16_t)env->fcw);
		bytes_store16(out + 2, (uint16_t)env->fsw);
		bytes_store16(out + 4, (uint16_t)env->ftw);
		bytes_store16(out + 6, (uint16_t)fip);
		bytes_store16(out + 8, segmented ? 0 : (uint16_t)(fip >> 16 << 12 | fop));
		bytes_store16(out + 10, (uint16_t)fdp);
		bytes_store16(out + 12, segmented ? 0 : (uint16_t)(fdp >> 16 << 12));
		return 14;
	}
	bytes_store32(out, env->fcw | 0xffff0000u);
	bytes_store32(out + 4, env->fsw | 0xffff0000u);
	bytes_store32(out + 8, env->ftw | 0xffff0000u);
	if (segmented) {
		bytes_store32(out + 12, fip);
		bytes_store32(out + 16, fop << 16);
		bytes_store32(out + 20, fdp);
		bytes_store32(out + 24, 0xffff0000u);
	} else {
		bytes_store32(out + 12, 0xffff0000u | (uint16_t)fip);
		bytes_store32(out + 16, fip >> 16 << 12 | fop);
		bytes_store32(out + 20, 0xffff0000u | (uint16_t)fdp);
		bytes_store32(out + 24, fdp >> 16 << 12);
	}
	return 28;
}

/* The reverse, with pointers that mean nothing to the host; the guest's go to arch. */
static void env_read(struct vcpu *v, const struct sysop *op, const uint8_t *in,
		     struct x87_env32 *env)
{
	bool segmented = vcpu_protected(v);

	*env = (struct x87_env32){ 0 };
	if (env16(op)) {
		uint32_t high = bytes_load16(in + 8), data_high = bytes_load16(in + 12);

		env->fcw = bytes_load16(in);
		env->fsw = bytes_load16(in + 2);
		env->ftw = bytes_load16(in + 4);
		v->arch.fpu_ip = bytes_load16(in + 6) | (segmented ? 0 : (high & 0xf000) << 4);
		v->arch.fpu_dp =
			bytes_load16(in + 10) | (segmented ? 0 : (data_high & 0xf000) << 4);
		v->arch.fpu_op = segmented ? 0 : high & 0x7ff;
		return;
	}
	env->fcw = bytes_load16(in);
	env->fsw = bytes_load16(in + 4);
	env->ftw = bytes_load16(in + 8);
	if (segmented) {
		v->arch.fpu_ip = bytes_load32(in + 12);
		v->arch.fpu_op = (bytes_load32(in + 16) >> 16) & 0x7ff;
		v->arch.fpu_dp = bytes_load32(in + 20);
	} else {
		uint32_t high = bytes_load32(in + 16), data_high = bytes_load32(in + 24);

		v->arch.fpu_ip = bytes_load16(in + 12) | (high & 0x0ffff000) << 4;
		v->arch.fpu_op = high & 0x7ff;
		v->arch.fpu_dp = bytes_load16(in + 20) | (data_high & 0x0ffff000) << 4;
	}
}

static int fnstenv(struct vcpu *v, const struct sysop *op)
{
	struct x87_env32 env;
	uint8_t out[28];

	if (v->arch.cr0 & (CR0_EM | CR0_TS))
		return excp_nm(v);
	if (env_check(v, op, env_size(op), true) < 0)
		return -1;
	vcpu_fp_load(v);
	asm volatile("fnstenv %0" : "=m"(env));
	return area_write(v, op, 0, out, env_write(v, op, &env, out));
}

static int fnsave(struct vcpu *v, const struct sysop *op)
{
	struct x87_image image;
	uint8_t out[sizeof(image)];
	unsigned len;

	if (v->arch.cr0 & (CR0_EM | CR0_TS))
		return excp_nm(v);
	if (env_check(v, op, env_size(op) + sizeof(image.st), true) < 0)
		return -1;
	vcpu_fp_load(v);
	asm volatile("fnsave %0" : "=m"(image));
	len = env_write(v, op, &image.env, out);
	bytes_copy(out + len, image.st, sizeof(image.st));
	v->arch.fpu_ip = v->arch.fpu_dp = v->arch.fpu_op = 0;
	return area_write(v, op, 0, out, len + sizeof(image.st));
}

static int fldenv(struct vcpu *v, const struct sysop *op)
{
	struct x87_env32 env;
	uint8_t in[28];

	if (v->arch.cr0 & (CR0_EM | CR0_TS))
		return excp_nm(v);
	vcpu_fp_load(v);
	if (x87_exception_pending())
		return excp_raise(v, VEC_MF);
	if (env_check(v, op, env_size(op), false) < 0 || area_read(v, op, 0, in, env_size(op)) < 0)
		return -1;
	vcpu_fp_load(v);
	env_read(v, op, in, &env);
	asm volatile("fldenv %0" : : "m"(env));
	return 0;
}

static int frstor(struct vcpu *v, const struct sysop *op)
{
	struct x87_image image;
	uint8_t in[sizeof(image)];
	unsigned len = env_size(op);

	if (v->arch.cr0 & (CR0_EM | CR0_TS))
		return excp_nm(v);
	vcpu_fp_load(v);
	if (x87_exception_pending())
		return excp_raise(v, VEC_MF);
	if (env_check(v, op, len + sizeof(image.st), false) < 0 ||
	    area_read(v, op, 0, in, len + sizeof(image.st)) < 0)
		return -1;
	vcpu_fp_load(v);
	env_read(v, op, in, &image.env);
	bytes_copy(image.st, in + len, sizeof(image.st));
	asm volatile("frstor %0" : : "m"(image));
	return 0;
}

struct sysop_entry sysop_find_fpu(const ZydisDecodedInstruction *insn)
{
	switch (insn->mnemonic) {
	case ZYDIS_MNEMONIC_FXSAVE:
	case ZYDIS_MNEMONIC_FXSAVE64:
		return (struct sysop_entry){ fxsave, SYSOP_LIGHT };
	case ZYDIS_MNEMONIC_FXRSTOR:
	case ZYDIS_MNEMONIC_FXRSTOR64:
		return (struct sysop_entry){ fxrstor, SYSOP_LIGHT };
	case ZYDIS_MNEMONIC_XSAVE:
	case ZYDIS_MNEMONIC_XSAVE64:
		return (struct sysop_entry){ xsave, SYSOP_LIGHT };
	case ZYDIS_MNEMONIC_XSAVEOPT:
	case ZYDIS_MNEMONIC_XSAVEOPT64:
		return (struct sysop_entry){ xsaveopt, SYSOP_LIGHT };
	case ZYDIS_MNEMONIC_XSAVEC:
	case ZYDIS_MNEMONIC_XSAVEC64:
		return (struct sysop_entry){ xsavec, SYSOP_LIGHT };
	case ZYDIS_MNEMONIC_XSAVES:
	case ZYDIS_MNEMONIC_XSAVES64:
		return (struct sysop_entry){ xsaves, SYSOP_LIGHT };
	case ZYDIS_MNEMONIC_XRSTOR:
	case ZYDIS_MNEMONIC_XRSTOR64:
		return (struct sysop_entry){ xrstor, SYSOP_LIGHT };
	case ZYDIS_MNEMONIC_XRSTORS:
	case ZYDIS_MNEMONIC_XRSTORS64:
		return (struct sysop_entry){ xrstors, SYSOP_LIGHT };
	case ZYDIS_MNEMONIC_FNSTENV:
		return (struct sysop_entry){ fnstenv, SYSOP_LIGHT };
	case ZYDIS_MNEMONIC_FNSAVE:
		return (struct sysop_entry){ fnsave, SYSOP_LIGHT };
	case ZYDIS_MNEMONIC_FLDENV:
		return (struct sysop_entry){ fldenv, SYSOP_LIGHT };
	case ZYDIS_MNEMONIC_FRSTOR:
		return (struct sysop_entry){ frstor, SYSOP_LIGHT };
	default:
		return (struct sysop_entry){ NULL, 0 };
	}
}
