/*
 * Segment registers: descriptor tables, loads, and the check that every
 * 16/32-bit access passes. Called by the instructions that load segments, by
 * far transfers, and by engines for address computation. A load that faults
 * changes nothing.
 */
#include "cpu/segment.h"
#include "cpu/descriptor.h"

/* Where a selector's descriptor lies, if all `len` bytes are in the table. */
static bool table_address(const struct vcpu *v, uint16_t selector, unsigned len, uint64_t *la)
{
	const struct segment *ldt = &v->arch.seg[SEG_LDTR];
	unsigned offset = selector & 0xfff8;

	if (selector & 4) {
		if (!(ldt->attr & SEG_P) || offset + len - 1 > ldt->limit)
			return false;
		*la = ldt->base + offset;
	} else {
		if (offset + len - 1 > v->arch.gdtr.limit)
			return false;
		*la = v->arch.gdtr.base + offset;
	}
	return true;
}

int descriptor_read(struct vcpu *v, uint16_t selector, uint64_t *raw, uint8_t vector)
{
	uint64_t la;

	if (unlikely(!table_address(v, selector, 8, &la)))
		return excp_raise_error(v, vector, selector_error(selector));
	return mmu_read_system64(v, la, raw);
}

int descriptor_read_system(struct vcpu *v, uint16_t selector, uint64_t raw[2], uint8_t vector)
{
	unsigned len = vcpu_long_mode(v) ? 16 : 8;
	uint64_t la;

	raw[1] = 0;
	if (!table_address(v, selector, len, &la))
		return excp_raise_error(v, vector, selector_error(selector));
	return mmu_read(v, la, raw, len, MMU_SYSTEM);
}

int descriptor_mark(struct vcpu *v, uint16_t selector, uint8_t set, uint8_t clear)
{
	uint64_t la;
	uint8_t type;

	if (!table_address(v, selector, 8, &la))
		return excp_gp(v, selector_error(selector));
	la += 5;
	if (v->arch.cpl != 3) {
		_Atomic uint8_t *host = mmu_write_span(v, la, 1);

		if (likely(host != NULL)) {
			if (set)
				atomic_fetch_or_explicit(host, set, memory_order_seq_cst);
			if (clear)
				atomic_fetch_and_explicit(host, (uint8_t)~clear,
							  memory_order_seq_cst);
			return 0;
		}
	}
	/* A table the present view cannot write directly: user mode, code page, watchpoint. */
	if (mmu_read(v, la, &type, 1, MMU_SYSTEM))
		return -1;
	type = (uint8_t)((type | set) & ~clear);
	return mmu_write(v, la, &type, 1, MMU_SYSTEM);
}

void segment_load_real(struct vcpu *v, unsigned seg, uint16_t selector)
{
	v->arch.seg[seg].selector = selector;
	v->arch.seg[seg].base = (uint64_t)selector << 4;
}

static int load_ss(struct vcpu *v, uint16_t selector)
{
	unsigned cpl = v->arch.cpl;
	uint16_t attr;
	uint64_t raw;

	if (selector_is_null(selector)) {
		if (!vcpu_code64(v) || cpl == 3 || (selector & 3u) != cpl)
			return excp_gp(v, 0);
		v->arch.seg[SEG_SS] = (struct segment){ .selector = selector,
							.attr = (uint16_t)(cpl << SEG_DPL_SHIFT) };
		return 0;
	}
	if (descriptor_read(v, selector, &raw, VEC_GP))
		return -1;
	attr = descriptor_attr(raw);
	if ((selector & 3u) != cpl || SEG_DPL(attr) != cpl || !attr_is_writable_data(attr))
		return excp_gp(v, selector_error(selector));
	if (!(attr & SEG_P))
		return excp_ss(v, selector_error(selector));
	if (descriptor_access(v, selector, &raw))
		return -1;
	v->arch.seg[SEG_SS] = descriptor_segment(selector, raw);
	return 0;
}

static int load_data(struct vcpu *v, unsigned seg, uint16_t selector)
{
	unsigned rpl = selector & 3;
	uint16_t attr;
	uint64_t raw;

	if (selector_is_null(selector)) {
		v->arch.seg[seg] = (struct segment){ .selector = selector };
		return 0;
	}
	if (descriptor_read(v, selector, &raw, VEC_GP))
		return -1;
	attr = descriptor_attr(raw);
	if (!attr_is_readable(attr))
		return excp_gp(v, selector_error(selector));
	if (!attr_is_conforming(attr) && (rpl > SEG_DPL(attr) || v->arch.cpl > SEG_DPL(attr)))
		return excp_gp(v, selector_error(selector));
	if (!(attr & SEG_P))
		return excp_np(v, selector_error(selector));
	if (descriptor_access(v, selector, &raw))
		return -1;
	v->arch.seg[seg] = descriptor_segment(selector, raw);
	return 0;
}

int segment_load(struct vcpu *v, unsigned seg, uint16_t selector)
{
	if (!vcpu_protected(v))
		segment_load_real(v, seg, selector);
	else if (seg == SEG_SS ? load_ss(v, selector) : load_data(v, seg, selector))
		return -1;
	vcpu_mode_changed(v);
	return 0;
}

/* Checks shared by LLDT and LTR beyond the type: 16-byte form, presence. */
static int system_segment(struct vcpu *v, uint16_t selector, const uint64_t raw[2],
			  struct segment *s)
{
	if (vcpu_long_mode(v) &&
	    ((raw[1] >> 40 & 0x1f) || !address_canonical(descriptor_base64(raw))))
		return excp_gp(v, selector_error(selector));
	if (!(descriptor_attr(raw[0]) & SEG_P))
		return excp_np(v, selector_error(selector));
	*s = descriptor_segment(selector, raw[0]);
	s->base = descriptor_base64(raw);
	return 0;
}

int segment_load_ldtr(struct vcpu *v, uint16_t selector)
{
	uint64_t raw[2];

	if (selector_is_null(selector)) {
		v->arch.seg[SEG_LDTR] = (struct segment){ .selector = selector };
		return 0;
	}
	if (selector & 4)
		return excp_gp(v, selector_error(selector));
	if (descriptor_read_system(v, selector, raw, VEC_GP))
		return -1;
	if (attr_type(descriptor_attr(raw[0])) != SYS_LDT)
		return excp_gp(v, selector_error(selector));
	return system_segment(v, selector, raw, &v->arch.seg[SEG_LDTR]);
}

int segment_load_tr(struct vcpu *v, uint16_t selector)
{
	struct segment tr;
	uint64_t raw[2];
	unsigned type;

	if (selector_is_null(selector))
		return excp_gp(v, 0);
	if (selector & 4)
		return excp_gp(v, selector_error(selector));
	if (descriptor_read_system(v, selector, raw, VEC_GP))
		return -1;
	type = attr_type(descriptor_attr(raw[0]));
	if (type != SYS_TSS32 && (type != SYS_TSS16 || vcpu_long_mode(v)))
		return excp_gp(v, selector_error(selector));
	if (system_segment(v, selector, raw, &tr) || descriptor_mark(v, selector, 2, 0))
		return -1;
	tr.attr |= 2; /* busy */
	v->arch.seg[SEG_TR] = tr;
	return 0;
}

static int linear64(struct vcpu *v, unsigned seg, uint64_t offset, unsigned size)
{
	uint64_t la = offset;

	if (seg == SEG_FS || seg == SEG_GS)
		la += v->arch.seg[seg].base;
	v->soft.la = la;
	if (likely(address_canonical(la) && address_canonical(la + size - 1)))
		return 0;
	return seg == SEG_SS ? excp_ss(v, 0) : excp_gp(v, 0);
}

int segment_linear_checked(struct vcpu *v, unsigned seg, uint64_t offset, unsigned size, bool write)
{
	const struct segment *s = &v->arch.seg[seg];

	if (vcpu_code64(v))
		return linear64(v, seg, offset, size);
	v->soft.la = (uint32_t)(s->base + offset);
	/* Real mode looks at limits only: rights left over from protected mode do not count. */
	if (!vcpu_real_mode(v)) {
		if (unlikely(!(s->attr & SEG_P)))
			goto fail;
		if (unlikely(write ? !attr_is_writable_data(s->attr) : !attr_is_readable(s->attr)))
			goto fail;
	}
	if (likely(segment_covers(s, (uint32_t)offset, size)))
		return 0;
fail:
	return seg == SEG_SS ? excp_ss(v, 0) : excp_gp(v, 0);
}

/*
 * LAR, LSL, VERR, VERW look at a descriptor without loading it: *raw if it is
 * inside its table, *found false otherwise. System descriptors of long mode
 * must have all their 16 bytes inside.
 */
static int inspect(struct vcpu *v, uint16_t selector, uint64_t *raw, bool *found)
{
	uint64_t la;

	*found = false;
	if (selector_is_null(selector) || !table_address(v, selector, 8, &la))
		return 0;
	if (mmu_read64(v, la, raw, MMU_SYSTEM))
		return -1;
	if (vcpu_long_mode(v) && !(descriptor_attr(*raw) & SEG_S) &&
	    !table_address(v, selector, 16, &la))
		return 0;
	*found = true;
	return 0;
}

static bool visible(const struct vcpu *v, uint16_t selector, uint16_t attr)
{
	return attr_is_conforming(attr) ||
	       (v->arch.cpl <= SEG_DPL(attr) && (selector & 3u) <= SEG_DPL(attr));
}

/* Bit n: descriptor type n. Tables "Segment and Gate Types" of LAR and LSL in SDM 2A. */
#define LAR_TYPES_LEGACY 0x1a3eu
#define LAR_TYPES_LONG   0x1a04u
#define LSL_TYPES_LEGACY 0x0a0eu
#define LSL_TYPES_LONG   0x0a04u

static bool system_type_in(const struct vcpu *v, uint16_t attr, unsigned legacy, unsigned in_long)
{
	if (attr & SEG_S)
		return true;
	return (vcpu_long_mode(v) ? in_long : legacy) >> (attr & SEG_TYPE) & 1;
}

int segment_lar(struct vcpu *v, uint16_t selector, uint32_t *value, bool *ok)
{
	uint64_t raw;

	if (inspect(v, selector, &raw, ok))
		return -1;
	if (!*ok)
		return 0;
	*ok = system_type_in(v, descriptor_attr(raw), LAR_TYPES_LEGACY, LAR_TYPES_LONG) &&
	      visible(v, selector, descriptor_attr(raw));
	*value = (uint32_t)(raw >> 32) & 0x00ffff00;
	return 0;
}

int segment_lsl(struct vcpu *v, uint16_t selector, uint32_t *value, bool *ok)
{
	uint64_t raw;

	if (inspect(v, selector, &raw, ok))
		return -1;
	if (!*ok)
		return 0;
	*ok = system_type_in(v, descriptor_attr(raw), LSL_TYPES_LEGACY, LSL_TYPES_LONG) &&
	      visible(v, selector, descriptor_attr(raw));
	*value = descriptor_limit(raw);
	return 0;
}

int segment_verify(struct vcpu *v, uint16_t selector, bool write, bool *ok)
{
	uint16_t attr;
	uint64_t raw;

	if (inspect(v, selector, &raw, ok))
		return -1;
	if (!*ok)
		return 0;
	attr = descriptor_attr(raw);
	*ok = (write ? attr_is_writable_data(attr) : attr_is_readable(attr)) &&
	      visible(v, selector, attr);
	return 0;
}

int io_permitted(struct vcpu *v, uint16_t port, unsigned size)
{
	const struct segment *tr = &v->arch.seg[SEG_TR];
	uint16_t map, bits;

	if (vcpu_real_mode(v) || (!vcpu_vm86(v) && v->arch.cpl <= vcpu_iopl(v)))
		return 0;
	if (!(tr->attr & SEG_P) || (tr->attr & SEG_TYPE) < SYS_TSS32 || tr->limit < 103)
		return excp_gp(v, 0);
	if (mmu_read16(v, tr->base + 102, &map, MMU_SYSTEM))
		return -1;
	/* Always two bytes: a port may straddle, and the byte behind the map must exist (SDM
	 * 1, 19.5.2). */
	if ((uint32_t)map + port / 8 + 1 > tr->limit)
		return excp_gp(v, 0);
	if (mmu_read16(v, tr->base + map + port / 8, &bits, MMU_SYSTEM))
		return -1;
	return (bits >> (port & 7)) & ((1u << size) - 1) ? excp_gp(v, 0) : 0;
}
