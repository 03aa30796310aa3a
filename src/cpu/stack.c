/*
 * The stack as system code sees it: far calls, interrupts and their returns,
 * segment pushes. Called by the files of src/cpu and by rare instructions.
 * Invariant: stack_write() changes memory only if every item can be written.
 */
#include "cpu/stack.h"
#include "base/assert.h"
#include "cpu/descriptor.h"

unsigned stack_width(const struct vcpu *v)
{
	if (vcpu_code64(v))
		return 8;
	return v->arch.seg[SEG_SS].attr & SEG_DB ? 4 : 2;
}

static uint64_t width_mask(unsigned width)
{
	return width == 8 ? ~0ull : width == 4 ? 0xffffffffull : 0xffffull;
}

struct stack stack_current(const struct vcpu *v)
{
	uint64_t mask = width_mask(stack_width(v));

	return (struct stack){ .ss = v->arch.seg[SEG_SS],
			       .sp = v->arch.gpr[RSP] & mask,
			       .mask = mask,
			       .how = MMU_CPL };
}

void stack_commit(struct vcpu *v, const struct stack *st)
{
	if (st->mask == 0xffff)
		v->arch.gpr[RSP] = (v->arch.gpr[RSP] & ~0xffffull) | (st->sp & 0xffff);
	else
		v->arch.gpr[RSP] = st->sp & st->mask;
}

/* Limit or canonical form of one contiguous piece; its linear address. */
static int piece_linear(struct vcpu *v, const struct stack *st, uint64_t sp, unsigned len,
			uint64_t *la)
{
	if (st->mask == ~0ull) {
		if (unlikely(!address_canonical(sp) || !address_canonical(sp + len - 1)))
			return excp_ss(v, st->error);
		*la = sp;
		return 0;
	}
	if (unlikely(!segment_covers(&st->ss, sp, len)))
		return excp_ss(v, st->error);
	if (unlikely(!(st->ss.attr & SEG_P) && !vcpu_real_mode(v)))
		return excp_ss(v, st->error);
	*la = (uint32_t)(st->ss.base + sp);
	return 0;
}

/* A frame whose items wrap around the end of the stack: item by item, all judged first. */
static int write_wrapping(struct vcpu *v, const struct stack *st, uint64_t sp,
			  const uint64_t *items, unsigned count, unsigned size)
{
	uint64_t la;
	unsigned n;

	for (n = 0; n < count; n++)
		if (piece_linear(v, st, (sp + n * size) & st->mask, size, &la) ||
		    mmu_probe_write(v, la, size, st->how))
			return -1;
	for (n = 0; n < count; n++)
		if (piece_linear(v, st, (sp + n * size) & st->mask, size, &la) ||
		    mmu_write(v, la, &items[n], size, st->how))
			return -1;
	return 0;
}

int stack_write(struct vcpu *v, struct stack *st, const uint64_t *items, unsigned count,
		unsigned size)
{
	uint64_t packed[STACK_ITEMS];
	const void *bytes = items;
	uint64_t sp = (st->sp - (uint64_t)count * size) & st->mask, la;
	unsigned n;

	ASSERT(count <= STACK_ITEMS);
	if (unlikely(sp + count * size - 1 > st->mask && st->mask != ~0ull)) {
		if (write_wrapping(v, st, sp, items, count, size))
			return -1;
		st->sp = sp;
		return 0;
	}
	if (size == 4)
		for (n = 0, bytes = packed; n < count; n++)
			((uint32_t *)packed)[n] = (uint32_t)items[n];
	else if (size == 2)
		for (n = 0, bytes = packed; n < count; n++)
			((uint16_t *)packed)[n] = (uint16_t)items[n];
	if (piece_linear(v, st, sp, count * size, &la) ||
	    mmu_write(v, la, bytes, count * size, st->how))
		return -1;
	st->sp = sp;
	return 0;
}

int stack_read(struct vcpu *v, struct stack *st, uint64_t *items, unsigned count, unsigned size)
{
	uint64_t packed[STACK_ITEMS], la;
	const volatile uint64_t *host;
	unsigned n;

	ASSERT(count <= STACK_ITEMS);
	if (unlikely(st->sp + count * size - 1 > st->mask && st->mask != ~0ull)) {
		for (n = 0; n < count; n++) {
			items[n] = 0;
			if (piece_linear(v, st, (st->sp + n * size) & st->mask, size, &la) ||
			    mmu_read(v, la, &items[n], size, st->how))
				return -1;
		}
	} else {
		if (piece_linear(v, st, st->sp, count * size, &la))
			return -1;
		if (likely(size == 8 && st->how == MMU_CPL &&
			   (host = mmu_hit(v->soft.tlb_read, la, count * 8)) != NULL)) {
			for (n = 0; n < count; n++)
				items[n] = host[n];
		} else {
			if (mmu_read(v, la, size == 8 ? items : packed, count * size, st->how))
				return -1;
			for (n = 0; n < count && size != 8; n++)
				items[n] = size == 4 ? ((uint32_t *)packed)[n]
						     : ((uint16_t *)packed)[n];
		}
	}
	st->sp = (st->sp + count * size) & st->mask;
	return 0;
}

int stack_push(struct vcpu *v, uint64_t value, unsigned size)
{
	struct stack st = stack_current(v);

	if (stack_write(v, &st, &value, 1, size))
		return -1;
	stack_commit(v, &st);
	return 0;
}

int stack_pop(struct vcpu *v, uint64_t *value, unsigned size)
{
	struct stack st = stack_current(v);

	if (stack_read(v, &st, value, 1, size))
		return -1;
	stack_commit(v, &st);
	return 0;
}

int stack_from_tss(struct vcpu *v, unsigned dpl, struct stack *st)
{
	const struct segment *tr = &v->arch.seg[SEG_TR];
	bool wide = (tr->attr & SEG_TYPE) >= SYS_TSS32;
	unsigned offset = wide ? dpl * 8 + 4 : dpl * 4 + 2;
	uint32_t sp;
	uint16_t selector, attr;
	uint64_t raw;

	if (!(tr->attr & SEG_P) || offset + (wide ? 5 : 3) > tr->limit)
		return excp_raise_error(v, VEC_TS, selector_error(tr->selector));
	if (wide) {
		if (mmu_read32(v, tr->base + offset, &sp, MMU_SYSTEM) ||
		    mmu_read16(v, tr->base + offset + 4, &selector, MMU_SYSTEM))
			return -1;
	} else {
		uint32_t both;

		if (mmu_read32(v, tr->base + offset, &both, MMU_SYSTEM))
			return -1;
		sp = both & 0xffff;
		selector = (uint16_t)(both >> 16);
	}
	if (selector_is_null(selector))
		return excp_raise_error(v, VEC_TS, 0);
	if (descriptor_read(v, selector, &raw, VEC_TS))
		return -1;
	attr = descriptor_attr(raw);
	if ((selector & 3) != dpl || SEG_DPL(attr) != dpl || !attr_is_writable_data(attr))
		return excp_raise_error(v, VEC_TS, selector_error(selector));
	if (!(attr & SEG_P))
		return excp_ss(v, selector_error(selector));
	if (descriptor_access(v, selector, &raw))
		return -1;
	st->ss = descriptor_segment(selector, raw);
	st->mask = attr & SEG_DB ? 0xffffffffull : 0xffffull;
	st->sp = sp & st->mask;
	st->error = selector_error(selector);
	st->how = MMU_SYSTEM;
	return 0;
}

int stack_from_tss64(struct vcpu *v, unsigned which, uint64_t *rsp)
{
	const struct segment *tr = &v->arch.seg[SEG_TR];
	/* RSP0-2 lie at 4, 12, 20; a reserved quadword; IST1-7 from 36 on. */
	unsigned offset = which < 3 ? 4 + which * 8 : 28 + (which - 3) * 8;

	if (unlikely(!(tr->attr & SEG_P) || offset + 7 > tr->limit))
		return excp_raise_error(v, VEC_TS, selector_error(tr->selector));
	if (mmu_read_system64(v, tr->base + offset, rsp))
		return -1;
	return likely(address_canonical(*rsp)) ? 0 : excp_ss(v, 0);
}

struct segment stack_null_segment(unsigned cpl)
{
	/* Unusable, but its DPL tells the privilege as on hardware. */
	return (struct segment){ .selector = (uint16_t)cpl,
				 .attr = (uint16_t)(cpl << SEG_DPL_SHIFT) };
}
