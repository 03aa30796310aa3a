/* Lowering of near branches and of string instructions. */
#include "engine/interpret/decode_priv.h"

static void lower_branch_fields(struct lowering *l, uint64_t target, bool *near)
{
	*near = same_page(l, target);
	l->out->link = NULL;
	l->out->disp = (int32_t)(target - l->rip);
	l->out->width = (uint8_t)(l->code64 ? 8 : l->zi->operand_width / 8);
	l->note->exits = true;
}

static uint64_t branch_target(const struct lowering *l)
{
	return l->rip + l->out->offset + l->zi->length + immediate(&l->op[0]);
}

/* A 66h prefix on a near branch in 64-bit mode is ignored, as Intel processors do. */
bool lower_branch(struct lowering *l)
{
	const ZydisDecodedInstruction *zi = l->zi;
	unsigned opcode = zi->opcode;
	enum form1 form;
	bool near;

	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_JMP:
		if (zi->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
			return false;
		l->note->ends = true;
		if (is_imm(&l->op[0])) {
			lower_branch_fields(l, branch_target(l), &near);
			if (near)
				set_hint(l, HINT_JUMP, 0, FORM_RI, 3);
			l->out->handler = jump_handler(near, l->code64);
			return true;
		}
		form = one_operand(l, &l->op[0]);
		if (!l->code64) {
			l->out->aux = zi->operand_width / 8;
			if (form == FORM_R)
				l->out->width = (uint8_t)(zi->operand_width / 8);
		}
		l->out->handler = jump_indirect_handler(form, l->code64);
		return true;
	case ZYDIS_MNEMONIC_CALL:
		if (zi->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
			return false;
		l->note->ends = true;
		if (is_imm(&l->op[0])) {
			lower_branch_fields(l, branch_target(l), &near);
			if (l->code64)
				set_hint(l, HINT_CALL_NEAR, 0, FORM_RI, 3)->near = near;
			l->out->handler = call_handler(near, l->code64);
			return true;
		}
		form = one_operand(l, &l->op[0]);
		if (!l->code64) {
			l->out->aux = zi->operand_width / 8;
			if (form == FORM_R)
				l->out->width = (uint8_t)(zi->operand_width / 8);
		}
		l->out->handler = call_indirect_handler(form, l->code64);
		return true;
	case ZYDIS_MNEMONIC_RET:
		if (opcode == 0xca || opcode == 0xcb)
			return false;
		l->note->ends = true;
		l->out->imm = zi->operand_count_visible && is_imm(&l->op[0])
				      ? immediate(&l->op[0]) & 0xffff
				      : 0;
		l->out->width = (uint8_t)(zi->operand_width / 8);
		l->out->handler = ret_handler(l->code64);
		return true;
	case ZYDIS_MNEMONIC_LOOP:
	case ZYDIS_MNEMONIC_LOOPE:
	case ZYDIS_MNEMONIC_LOOPNE:
	case ZYDIS_MNEMONIC_JCXZ:
	case ZYDIS_MNEMONIC_JECXZ:
	case ZYDIS_MNEMONIC_JRCXZ:
		lower_branch_fields(l, branch_target(l), &near);
		l->out->aux = zi->address_width / 8;
		l->out->handler = loop_handler(opcode, l->code64);
		l->note->reads = true;
		return true;
	default:
		break;
	}
	if ((zi->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && (opcode & 0xf0) == 0x70) ||
	    (zi->opcode_map == ZYDIS_OPCODE_MAP_0F && (opcode & 0xf0) == 0x80)) {
		lower_branch_fields(l, branch_target(l), &near);
		set_hint(l, HINT_JCC, 0, FORM_RI, 3)->near = near;
		l->note->hint.cc = opcode & 15;
		l->out->handler = jcc_handler(opcode & 15, near, l->code64);
		l->note->reads = true;
		return true;
	}
	return false;
}

bool lower_string(struct lowering *l)
{
	const ZydisDecodedInstruction *zi = l->zi;
	const ZydisDecodedOperand *m;
	unsigned n;

	if (zi->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT || zi->opcode < 0xa4 || zi->opcode > 0xaf ||
	    (zi->opcode & ~1u) == 0xa8)
		return false;
	l->out->imm = zi->attributes & ZYDIS_ATTRIB_HAS_REPNE                           ? 2
		      : zi->attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE) ? 1
											: 0;
	l->out->width = (uint8_t)(zi->address_width / 8);
	l->out->seg = SEG_DS;
	for (n = 0; n < zi->operand_count; n++) {
		m = &l->op[n];
		if (is_mem(m) &&
		    (m->mem.base == ZYDIS_REGISTER_RSI || m->mem.base == ZYDIS_REGISTER_ESI ||
		     m->mem.base == ZYDIS_REGISTER_SI))
			l->out->seg = seg_number(m->mem.segment);
	}
	l->out->handler =
		string_handler(zi->opcode, log2_bytes(zi->opcode & 1 ? zi->operand_width : 8));
	l->note->exits = true;
	l->note->reads = true;
	return true;
}
