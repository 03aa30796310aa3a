/*
 * Operands as the records hold them: registers by their place in the vcpu,
 * addresses, forms. Used by the other decode_*.c.
 */
#include "engine/interpret/decode_priv.h"

unsigned reg_number(ZydisRegister r)
{
	if (r >= ZYDIS_REGISTER_AL && r <= ZYDIS_REGISTER_BL)
		return (unsigned)(r - ZYDIS_REGISTER_AL);
	if (r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH)
		return (unsigned)(r - ZYDIS_REGISTER_AH);
	if (r >= ZYDIS_REGISTER_SPL && r <= ZYDIS_REGISTER_R15B)
		return (unsigned)(r - ZYDIS_REGISTER_SPL) + 4;
	if (r >= ZYDIS_REGISTER_AX && r <= ZYDIS_REGISTER_R15W)
		return (unsigned)(r - ZYDIS_REGISTER_AX);
	if (r >= ZYDIS_REGISTER_EAX && r <= ZYDIS_REGISTER_R15D)
		return (unsigned)(r - ZYDIS_REGISTER_EAX);
	if (r >= ZYDIS_REGISTER_RAX && r <= ZYDIS_REGISTER_R15)
		return (unsigned)(r - ZYDIS_REGISTER_RAX);
	return NO_REG;
}

uint8_t reg_offset(ZydisRegister r)
{
	unsigned high = r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH;

	return (uint8_t)(reg_number(r) * 8 + high);
}

uint8_t seg_number(ZydisRegister r)
{
	switch (r) {
	case ZYDIS_REGISTER_ES:
		return SEG_ES;
	case ZYDIS_REGISTER_CS:
		return SEG_CS;
	case ZYDIS_REGISTER_SS:
		return SEG_SS;
	case ZYDIS_REGISTER_FS:
		return SEG_FS;
	case ZYDIS_REGISTER_GS:
		return SEG_GS;
	default:
		return SEG_DS;
	}
}

struct trace_hint *set_hint(struct lowering *l, enum trace_hint_kind kind, unsigned op,
			    enum form form, unsigned size_log)
{
	l->note->hint = (struct trace_hint){ .kind = (uint8_t)kind,
					     .op = (uint8_t)op,
					     .form = (uint8_t)form,
					     .size_log = (uint8_t)size_log };
	return &l->note->hint;
}

/*
 * A base of 5 without displacement bits in ModRM means no base and a 32-bit
 * displacement, whatever REX.B says. Zydis 4.0 calls it R13D when the address
 * size is 32 in 64-bit code.
 */
bool base_is_absent(const ZydisDecodedInstruction *zi)
{
	return zi->raw.modrm.mod == 0 && zi->raw.modrm.rm == 4 && zi->raw.sib.base == 5 &&
	       zi->address_width == 32 && (zi->attributes & ZYDIS_ATTRIB_HAS_SIB);
}

bool set_address(struct lowering *l, const ZydisDecodedOperand *m)
{
	struct insn *out = l->out;
	int64_t disp = m->mem.disp.has_displacement ? m->mem.disp.value : 0;

	out->seg = seg_number(m->mem.segment);
	out->width = (uint8_t)(l->zi->address_width / 8);
	out->base = OFF_ZERO;
	out->index = OFF_ZERO;
	out->shift = 0;
	if (m->mem.base == ZYDIS_REGISTER_RIP || m->mem.base == ZYDIS_REGISTER_EIP) {
		out->base = OFF_RIP;
		disp += out->offset + l->zi->length;
	} else if (base_is_absent(l->zi)) {
		disp = l->zi->raw.disp.value;
	} else if (m->mem.base != ZYDIS_REGISTER_NONE) {
		out->base = reg_offset(m->mem.base);
	}
	if (m->mem.index != ZYDIS_REGISTER_NONE && reg_number(m->mem.index) != NO_REG) {
		out->index = reg_offset(m->mem.index);
		out->shift = m->mem.scale == 8   ? 3
			     : m->mem.scale == 4 ? 2
			     : m->mem.scale == 2 ? 1
						 : 0;
	}
	if (out->width != 8)
		disp = (int32_t)disp;
	out->disp = (int32_t)disp;
	l->fast = l->code64 && out->width == 8 && out->seg != SEG_FS && out->seg != SEG_GS;
	l->note->exits = true;
	return disp == (int32_t)disp;
}

const ZydisDecodedOperand *memory_operand(const struct lowering *l)
{
	unsigned n;

	for (n = 0; n < l->zi->operand_count; n++)
		if (is_mem(&l->op[n]))
			return &l->op[n];
	return NULL;
}

enum form two_operands(struct lowering *l, const ZydisDecodedOperand *a,
		       const ZydisDecodedOperand *b)
{
	struct insn *out = l->out;

	if (is_reg(a))
		out->dst = reg_offset(a->reg.value);
	if (is_reg(b))
		out->src = reg_offset(b->reg.value);
	if (is_imm(b))
		out->imm = immediate(b);
	if (is_reg(a))
		return is_reg(b)                          ? FORM_RR
		       : is_imm(b)                        ? FORM_RI
		       : !is_mem(b) || !set_address(l, b) ? FORMS
		       : !l->fast                         ? FORM_RG
		       : out->index == OFF_ZERO           ? FORM_RA
							  : FORM_RX;
	if (!is_mem(a) || !set_address(l, a))
		return FORMS;
	if (locked(l))
		return is_imm(b) ? FORM_LI : FORM_LR;
	if (is_imm(b))
		return !l->fast ? FORM_GI : out->index == OFF_ZERO ? FORM_AI : FORM_XI;
	return !l->fast ? FORM_GR : out->index == OFF_ZERO ? FORM_AR : FORM_XR;
}

enum form1 one_operand(struct lowering *l, const ZydisDecodedOperand *a)
{
	if (is_reg(a)) {
		l->out->dst = l->out->src = reg_offset(a->reg.value);
		return FORM_R;
	}
	if (!set_address(l, a))
		return FORMS1;
	return locked(l) ? FORM_L : l->fast ? FORM_A : FORM_G;
}

/* For handlers that know registers and any memory only. */
enum form plain_form(enum form f)
{
	switch (f) {
	case FORM_RA:
	case FORM_RX:
		return FORM_RG;
	case FORM_AR:
	case FORM_XR:
		return FORM_GR;
	case FORM_AI:
	case FORM_XI:
		return FORM_GI;
	default:
		return f;
	}
}
