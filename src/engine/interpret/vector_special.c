/*
 * Vector instructions that touch memory element by element, or whose operand
 * could fault on the host: masked moves, gathers, LDMXCSR, FNINIT, MOVDIR64B.
 *
 * Invariant: an element that its mask switches off is neither read nor written
 * and raises no fault; a store that faults has written nothing.
 */
#include "base/bytes.h"
#include "cpu/fpstate.h"
#include "cpu/mode.h"
#include "engine/interpret/vector_priv.h"

#define SLOT_ZERO      ((uint8_t)offsetof(struct vcpu, arch.zero))
#define MXCSR_RESERVED 0xffff0000u

/* The data in front of a masked move's thunk. */
struct mask_head {
	struct native_code *code;
	uint8_t mask, data; /* register numbers */
	uint8_t element;
	uint8_t pad[5];
};

static uint64_t truncate(uint64_t ea, unsigned width)
{
	return width == 8 ? ea : width == 4 ? (uint32_t)ea : (uint16_t)ea;
}

int vector_linear(struct vcpu *v, unsigned seg, uint64_t ea, unsigned size, bool write)
{
	if (v->soft.mode & MODE_CODE64) {
		uint64_t la = ea + (seg >= SEG_FS ? v->arch.seg[seg].base : 0);

		if (!address_canonical(la) || !address_canonical(la + size - 1))
			return seg == SEG_SS ? excp_ss(v, 0) : excp_gp(v, 0);
		v->soft.la = la;
		return 0;
	}
	struct insn piece = { .base = SLOT_ZERO,
			      .index = SLOT_ZERO,
			      .disp = (int32_t)ea,
			      .seg = (uint8_t)seg,
			      .width = 4 };

	return insn_linear(v, &piece, size, write);
}

static int element_linear(struct vcpu *v, const struct insn *i, uint64_t ea, unsigned size,
			  bool write)
{
	return vector_linear(v, i->seg, ea, size, write);
}

static int operand_load(struct vcpu *v, const struct insn *i, uint64_t ea, void *to, unsigned size)
{
	const void *p;

	if (element_linear(v, i, ea, size, false) < 0)
		return -1;
	p = tlb_read_ptr(v, v->soft.la, size);
	if (likely(p != NULL)) {
		bytes_copy(to, p, size);
		return 0;
	}
	if (mem_load_slow(v, v->soft.la, size) < 0)
		return -1;
	bytes_copy(to, &v->soft.value, size);
	return 0;
}

/* Elements are exempt from alignment checks, which single bytes cannot fail. */
static int element_load(struct vcpu *v, const struct insn *i, uint64_t ea, void *to, unsigned size)
{
	uint64_t la, value = 0;

	if (likely(!alignment_checked(v)))
		return operand_load(v, i, ea, to, size);
	if (element_linear(v, i, ea, size, false) < 0)
		return -1;
	la = v->soft.la;
	for (unsigned n = 0; n < size; n++) {
		if (mem_load_slow(v, la + n, 1) < 0)
			return -1;
		value |= (v->soft.value & 0xff) << (8 * n);
	}
	bytes_copy(to, &value, size);
	return 0;
}

static int element_probe(struct vcpu *v, uint64_t la, unsigned size)
{
	unsigned step = alignment_checked(v) ? 1 : size;

	for (unsigned n = 0; n < size; n += step)
		if (mmu_probe_write(v, la + n, step, MMU_CPL) < 0)
			return -1;
	return 0;
}

static int element_store(struct vcpu *v, uint64_t la, const uint8_t *from, unsigned size)
{
	unsigned step = alignment_checked(v) ? 1 : size;

	for (unsigned n = 0; n < size; n += step) {
		v->soft.value = 0;
		bytes_copy(&v->soft.value, from + n, step);
		if (mem_store_slow(v, la + n, step) < 0)
			return -1;
	}
	return 0;
}

/* The elements that `mask` selects (top bit of each) go to memory at ea, or none and a fault. */
static int elements_store(struct vcpu *v, const struct insn *i, uint64_t ea, const uint8_t *data,
			  const uint8_t *mask, unsigned element, unsigned total)
{
	for (unsigned at = 0; at < total; at += element) {
		if (!(mask[at + element - 1] & 0x80))
			continue;
		if (element_linear(v, i, truncate(ea + at, i->width), element, true) < 0 ||
		    element_probe(v, v->soft.la, element) < 0)
			return -1;
	}
	for (unsigned at = 0; at < total; at += element) {
		if (!(mask[at + element - 1] & 0x80))
			continue;
		if (element_linear(v, i, truncate(ea + at, i->width), element, true) < 0 ||
		    element_store(v, v->soft.la, data + at, element) < 0)
			return -1;
	}
	return 0;
}

/* MASKMOVQ, [V]MASKMOVDQU: dst = data register, src = mask register. */
static __attribute__((noinline)) int mask_bytes(struct vcpu *v, const struct insn *i)
{
	const struct native_code *code = i->code;
	uint8_t data[32], mask[32];

	if (i->aux == 8) {
		if (x87_exception_pending())
			return excp_raise(v, VEC_MF);
		native_mmx_get(code, i->dst)(data);
		native_mmx_get(code, i->src)(mask);
	} else {
		native_vector_get(code, i->dst)(data);
		native_vector_get(code, i->src)(mask);
	}
	int r = elements_store(v, i, truncate(insn_ea64(v, i), i->width), data, mask, 1, i->aux);
	vcpu_fp_load(v);
	return r;
}

static const void *do_mask_bytes(struct vcpu *v, const struct insn *i)
{
	if (mask_bytes(v, i) < 0)
		FAULT(v, i);
	NEXT(v, i);
}

/* VMASKMOVPx, VPMASKMOVx off the fast path. */
static __attribute__((noinline)) int mask_load(struct vcpu *v, const struct insn *i)
{
	const struct mask_head *head = (const struct mask_head *)i->code - 1;
	unsigned size = i->aux & VECTOR_SIZE;
	uint64_t ea = insn_ea64(v, i);
	uint8_t mask[32], data[32];

	native_vector_get(head->code, head->mask)(mask);
	bytes_zero(data, sizeof(data));
	for (unsigned at = 0; at < size; at += head->element)
		if ((mask[at + head->element - 1] & 0x80) &&
		    element_load(v, i, truncate(ea + at, i->width), data + at, head->element) < 0)
			return -1;
	bytes_copy(v->soft.bounce, data, sizeof(data));
	vcpu_fp_load(v);
	return 0;
}

static __attribute__((noinline)) int mask_store(struct vcpu *v, const struct insn *i)
{
	const struct mask_head *head = (const struct mask_head *)i->code - 1;
	uint8_t mask[32], data[32];

	native_vector_get(head->code, head->mask)(mask);
	native_vector_get(head->code, head->data)(data);
	int r = elements_store(v, i, insn_ea64(v, i), data, mask, head->element,
			       i->aux & VECTOR_SIZE);
	vcpu_fp_load(v);
	return r;
}

static const void *do_mask_load(struct vcpu *v, const struct insn *i)
{
	if (mask_load(v, i) < 0)
		FAULT(v, i);
	return ((native_thunk *)(uintptr_t)i->code)(v, i, v->soft.bounce);
}

static const void *do_mask_store(struct vcpu *v, const struct insn *i)
{
	if (mask_store(v, i) < 0)
		FAULT(v, i);
	NEXT(v, i);
}

/* Where the whole operand is mapped the instruction itself obeys its mask. */
static const void *do_mask_load_fast(struct vcpu *v, const struct insn *i)
{
	void *p = tlb_read_ptr(v, insn_ea64(v, i), i->aux & VECTOR_SIZE);

	if (unlikely(!p)) {
		return do_mask_load(v, i);
	}
	return ((native_thunk *)(uintptr_t)i->code)(v, i, p);
}

static const void *do_mask_store_fast(struct vcpu *v, const struct insn *i)
{
	void *p = tlb_write_ptr(v, insn_ea64(v, i), i->aux & VECTOR_SIZE);

	if (unlikely(!p)) {
		return do_mask_store(v, i);
	}
	return ((native_thunk *)(uintptr_t)i->code)(v, i, p);
}

/* VGATHER*: dst, src (mask) are registers; aux: index register, element and index sizes, count. */
#define GATHER_AUX(index, element8, index8, count) \
	((uint16_t)((index) | (unsigned)(element8) << 4 | (unsigned)(index8) << 5 | (count) << 8))

static __attribute__((noinline)) int gather(struct vcpu *v, const struct insn *i)
{
	const struct native_code *code = i->code;
	unsigned element = i->aux & 0x10 ? 8 : 4, count = i->aux >> 8;
	uint64_t base = REG(v, i->base, const uint64_t) + (uint64_t)(int64_t)i->disp;
	unsigned mask_len = count * (i->aux & 0x30 ? 8 : 4); /* the vector length */
	uint8_t dst[32], mask[32], index[32];
	int r = 0;

	native_vector_get(code, i->dst)(dst);
	native_vector_get(code, i->src)(mask);
	native_vector_get(code, i->aux & 15)(index);
	/* The mask is normalised before the first access, as a fault shows. */
	for (unsigned k = 0; k < mask_len; k += element)
		bytes_fill(mask + k, mask[k + element - 1] & 0x80 ? 0xff : 0, element);
	bytes_zero(mask + mask_len, sizeof(mask) - mask_len);
	for (unsigned k = 0; k < count; k++) {
		uint8_t *m = mask + k * element;

		if (m[element - 1] & 0x80) {
			uint64_t x =
				i->aux & 0x20
					? bytes_load64(index + 8 * k)
					: (uint64_t)(int64_t)(int32_t)bytes_load32(index + 4 * k);

			r = element_load(v, i, truncate(base + (x << i->shift), i->width),
					 dst + k * element, element);
			if (r < 0)
				break;
			bytes_zero(dst + mask_len, sizeof(dst) - mask_len);
		}
		/* Done elements stay done: a fault at a later one restarts behind them. */
		bytes_zero(m, element);
	}
	if (r == 0) {
		bytes_zero(dst + count * element, sizeof(dst) - count * element);
		bytes_zero(mask, sizeof(mask));
	}
	vcpu_fp_load(v);
	native_vector_put(code, i->dst)(dst);
	native_vector_put(code, i->src)(mask);
	return r;
}

static const void *do_gather(struct vcpu *v, const struct insn *i)
{
	if (gather(v, i) < 0)
		FAULT(v, i);
	NEXT(v, i);
}

static __attribute__((noinline)) int ldmxcsr(struct vcpu *v, const struct insn *i)
{
	uint32_t value;

	if (operand_load(v, i, truncate(insn_ea64(v, i), i->width), &value, 4) < 0)
		return -1;
	if (value & MXCSR_RESERVED)
		return excp_gp(v, 0);
	vcpu_fp_load(v);
	asm volatile("ldmxcsr %0" : : "m"(value));
	return 0;
}

static const void *do_ldmxcsr(struct vcpu *v, const struct insn *i)
{
	if (ldmxcsr(v, i) < 0)
		FAULT(v, i);
	NEXT(v, i);
}

/* VZEROALL and VZEROUPPER outside 64-bit code leave registers 8 to 15 alone. aux: bytes of each
 * register that stay. */
static __attribute__((noinline)) void zero_low_registers(const struct native_code *code,
							 unsigned keep)
{
	uint8_t bytes[32];

	for (unsigned n = 0; n < 8; n++) {
		native_vector_get(code, n)(bytes);
		bytes_zero(bytes + keep, sizeof(bytes) - keep);
		native_vector_put(code, n)(bytes);
	}
}

static const void *do_vzero_narrow(struct vcpu *v, const struct insn *i)
{
	zero_low_registers(i->code, i->aux);
	NEXT(v, i);
}

static const void *do_fninit(struct vcpu *v, const struct insn *i)
{
	asm volatile("fninit");
	v->arch.fpu_ip = 0;
	v->arch.fpu_dp = 0;
	v->arch.fpu_op = 0;
	NEXT(v, i);
}

/* dst: byte offset of the register that holds the destination's offset in ES. */
static __attribute__((noinline)) int movdir64b(struct vcpu *v, const struct insn *i)
{
	struct insn to = *i;
	const void *p;

	to.seg = SEG_ES;
	if (insn_linear(v, i, 64, false) < 0)
		return -1;
	p = tlb_read_ptr(v, v->soft.la, 64);
	if (p)
		bytes_copy(v->soft.bounce, p, 64);
	else if (mem_load_bounce(v, v->soft.la, 64) < 0)
		return -1;
	if (element_linear(v, &to, truncate(REG(v, i->dst, uint64_t), i->width), 64, true) < 0)
		return -1;
	if (v->soft.la & 63)
		return excp_gp(v, 0);
	if (mem_store_bounce(v, v->soft.la, 64) < 0)
		return -1;
	vcpu_fp_load(v);
	return 0;
}

static const void *do_movdir64b(struct vcpu *v, const struct insn *i)
{
	if (movdir64b(v, i) < 0)
		FAULT(v, i);
	NEXT(v, i);
}

static unsigned register_id(const ZydisDecodedOperand *op)
{
	return (unsigned)ZydisRegisterGetId(op->reg.value);
}

static insn_handler *decode_gather(struct native_code *code, const struct vector_form *form,
				   unsigned element, unsigned index, struct insn *i)
{
	const ZydisDecodedOperand *dst = &form->operands[0], *mem = &form->operands[1],
				  *mask = &form->operands[2];
	unsigned index_reg = (unsigned)ZydisRegisterGetId(mem->mem.index);
	unsigned bytes = form->insn->raw.vex.L ? 32 : 16;
	unsigned wide = element > index ? element : index;

	i->dst = (uint8_t)register_id(dst);
	i->src = (uint8_t)register_id(mask);
	i->index = SLOT_ZERO;
	i->shift = (uint8_t)__builtin_ctz(mem->mem.scale);
	i->aux = GATHER_AUX(index_reg, element == 8, index == 8, bytes / wide);
	i->code = code;
	return do_gather;
}

static insn_handler *decode_masked(struct native_code *code, const struct vector_form *form,
				   unsigned element, bool fast64, struct insn *i, bool *space)
{
	bool store = form->operands[0].type == ZYDIS_OPERAND_TYPE_MEMORY;
	struct vector_form plain = *form;
	struct mask_head head = { .code = code, .element = (uint8_t)element };
	struct vector_thunk thunk;
	uint8_t bytes[sizeof(head) + VECTOR_THUNK_MAX];

	head.mask = (uint8_t)register_id(&form->operands[1]);
	head.data = (uint8_t)register_id(&form->operands[store ? 2 : 0]);
	/* The memory operand reads as a conditional one; to the thunk it is a plain pointer, used
	 * in place. */
	if (!vector_encode(&plain, &thunk))
		return NULL;
	bytes_copy(bytes, &head, sizeof(head));
	bytes_copy(bytes + sizeof(head), thunk.bytes + thunk.entry, thunk.len - thunk.entry);
	i->code = native_code_place(code, bytes, (unsigned)sizeof(head) + thunk.len - thunk.entry,
				    sizeof(head));
	if (!i->code)
		*space = false;
	i->aux = form->mem->size / 8;
	if (store)
		return fast64 ? do_mask_store_fast : do_mask_store;
	return fast64 ? do_mask_load_fast : do_mask_load;
}

static insn_handler *decode_mask_bytes(struct native_code *code, const struct vector_form *form,
				       struct insn *i)
{
	static const uint8_t segs[] = { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS };
	unsigned found = 0, seg = SEG_DS;

	for (unsigned n = 0; n < form->insn->operand_count; n++) {
		const ZydisDecodedOperand *op = &form->operands[n];

		if (op->type == ZYDIS_OPERAND_TYPE_MEMORY && op->mem.segment != ZYDIS_REGISTER_NONE)
			seg = segs[ZydisRegisterGetId(op->mem.segment)];
		if (op->type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    op->visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT)
			*(found++ ? &i->src : &i->dst) = (uint8_t)register_id(op);
	}
	i->base = RDI * 8;
	i->index = SLOT_ZERO;
	i->shift = 0;
	i->disp = 0;
	i->seg = (uint8_t)seg;
	i->width = form->insn->address_width / 8;
	i->aux = form->insn->mnemonic == ZYDIS_MNEMONIC_MASKMOVQ ? 8 : 16;
	i->code = code;
	return do_mask_bytes;
}

insn_handler *vector_special(struct vcpu *v, struct native_code *code,
			     const struct vector_form *form, bool fast64, struct insn *i,
			     bool *space)
{
	switch (form->insn->mnemonic) {
	case ZYDIS_MNEMONIC_MASKMOVQ:
	case ZYDIS_MNEMONIC_MASKMOVDQU:
	case ZYDIS_MNEMONIC_VMASKMOVDQU:
		return decode_mask_bytes(code, form, i);
	case ZYDIS_MNEMONIC_VMASKMOVPS:
	case ZYDIS_MNEMONIC_VPMASKMOVD:
		return decode_masked(code, form, 4, fast64, i, space);
	case ZYDIS_MNEMONIC_VMASKMOVPD:
	case ZYDIS_MNEMONIC_VPMASKMOVQ:
		return decode_masked(code, form, 8, fast64, i, space);
	case ZYDIS_MNEMONIC_VGATHERDPS:
	case ZYDIS_MNEMONIC_VPGATHERDD:
		return decode_gather(code, form, 4, 4, i);
	case ZYDIS_MNEMONIC_VGATHERDPD:
	case ZYDIS_MNEMONIC_VPGATHERDQ:
		return decode_gather(code, form, 8, 4, i);
	case ZYDIS_MNEMONIC_VGATHERQPS:
	case ZYDIS_MNEMONIC_VPGATHERQD:
		return decode_gather(code, form, 4, 8, i);
	case ZYDIS_MNEMONIC_VGATHERQPD:
	case ZYDIS_MNEMONIC_VPGATHERQQ:
		return decode_gather(code, form, 8, 8, i);
	case ZYDIS_MNEMONIC_LDMXCSR:
	case ZYDIS_MNEMONIC_VLDMXCSR:
		return do_ldmxcsr;
	case ZYDIS_MNEMONIC_VZEROALL:
	case ZYDIS_MNEMONIC_VZEROUPPER:
		if (form->code64)
			return NULL;
		i->code = code;
		i->aux = form->insn->mnemonic == ZYDIS_MNEMONIC_VZEROALL ? 0 : 16;
		return do_vzero_narrow;
	case ZYDIS_MNEMONIC_FNINIT:
		return do_fninit;
	case ZYDIS_MNEMONIC_MOVDIR64B:
		i->dst = (uint8_t)((form->insn->raw.modrm.reg |
				    (form->code64 && form->insn->raw.rex.R) << 3) *
				   8);
		return do_movdir64b;
	default:
		return NULL;
	}
}
