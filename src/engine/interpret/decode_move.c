/* Lowering of moves, of the stack and of what does nothing. */
#include "engine/interpret/decode_priv.h"
#include "cpu/model.h"

/* MOV in its forms, segment, control and debug registers apart. */
static bool lower_mov(struct lowering *l)
{
	unsigned size_log = log2_bytes(l->op[0].size);
	enum form form;

	if (l->zi->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT || l->zi->opcode == 0x8c ||
	    l->zi->opcode == 0x8e)
		return false;
	form = two_operands(l, &l->op[0], &l->op[1]);
	if (form == FORMS) { /* a 64-bit absolute address */
		const ZydisDecodedOperand *m = memory_operand(l);

		l->out->base = OFF_ZERO;
		l->out->index = OFF_ZERO;
		l->out->imm = (uint64_t)m->mem.disp.value;
		l->out->handler = mov_absolute_handler(is_mem(&l->op[0]), size_log);
		return true;
	}
	set_hint(l, HINT_MOV, 0, form, size_log);
	l->out->handler = mov_handler(form, size_log);
	return true;
}

bool lower_move(struct lowering *l)
{
	const ZydisDecodedInstruction *zi = l->zi;
	unsigned size_log = log2_bytes(l->op[0].size), from_log;
	enum form form;

	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_MOV:
		return lower_mov(l);
	case ZYDIS_MNEMONIC_MOVZX:
	case ZYDIS_MNEMONIC_MOVSX:
	case ZYDIS_MNEMONIC_MOVSXD:
		from_log = log2_bytes(l->op[1].size);
		form = two_operands(l, &l->op[0], &l->op[1]);
		if (size_log >= 2 && from_log < size_log) {
			set_hint(l, HINT_MOVX, 0, form, size_log)->sign =
				zi->mnemonic != ZYDIS_MNEMONIC_MOVZX;
			l->note->hint.from_log = (uint8_t)from_log;
		}
		l->out->handler = movx_handler(zi->mnemonic != ZYDIS_MNEMONIC_MOVZX, form, from_log,
					       size_log);
		return form != FORMS && l->out->handler;
	case ZYDIS_MNEMONIC_LEA:
		if (!set_address(l, &l->op[1]))
			return false;
		l->note->exits = false;
		l->out->dst = reg_offset(l->op[0].reg.value);
		if (l->out->width == 8 && size_log >= 2)
			set_hint(l, HINT_LEA, 0, FORM_RA, size_log);
		l->out->handler = lea_handler(size_log, l->out->width == 8);
		return true;
	case ZYDIS_MNEMONIC_XCHG:
		form = plain_form(two_operands(l, &l->op[0], &l->op[1]));
		if (form == FORM_RG) { /* register named first: the same exchange */
			l->out->src = l->out->dst;
			form = FORM_LR;
		}
		l->out->handler = xchg_handler(form == FORM_RR ? FORM_RR : FORM_LR, size_log);
		return form != FORMS;
	case ZYDIS_MNEMONIC_BSWAP:
		l->out->dst = reg_offset(l->op[0].reg.value);
		l->out->handler = bswap_handler(size_log);
		return true;
	case ZYDIS_MNEMONIC_CBW:
	case ZYDIS_MNEMONIC_CWDE:
	case ZYDIS_MNEMONIC_CDQE:
	case ZYDIS_MNEMONIC_CWD:
	case ZYDIS_MNEMONIC_CDQ:
	case ZYDIS_MNEMONIC_CQO:
		if (zi->operand_width >= 32)
			set_hint(l, HINT_CONVERT, zi->opcode, FORM_RR,
				 log2_bytes(zi->operand_width));
		l->out->handler = convert_handler(zi->opcode, log2_bytes(zi->operand_width));
		return true;
	case ZYDIS_MNEMONIC_PAUSE:
		/* Alone there is nobody to wait for but devices. */
		l->out->handler = l->v->model->cpus > 1 ? insn_pause : insn_nop;
		return true;
	case ZYDIS_MNEMONIC_NOP:
	case ZYDIS_MNEMONIC_ENDBR32:
	case ZYDIS_MNEMONIC_ENDBR64:
	case ZYDIS_MNEMONIC_PREFETCHNTA:
	case ZYDIS_MNEMONIC_PREFETCHT0:
	case ZYDIS_MNEMONIC_PREFETCHT1:
	case ZYDIS_MNEMONIC_PREFETCHT2:
	case ZYDIS_MNEMONIC_PREFETCHW:
		l->out->handler = insn_nop;
		return true;
	case ZYDIS_MNEMONIC_LFENCE:
		l->out->handler = insn_lfence;
		return true;
	case ZYDIS_MNEMONIC_MFENCE:
	case ZYDIS_MNEMONIC_SFENCE:
		l->out->handler = insn_fence;
		return true;
	case ZYDIS_MNEMONIC_CLC:
	case ZYDIS_MNEMONIC_STC:
	case ZYDIS_MNEMONIC_CMC:
		l->note->reads = true;
		l->out->handler = flag_handler(zi->opcode);
		return true;
	case ZYDIS_MNEMONIC_CLD:
	case ZYDIS_MNEMONIC_STD:
		l->out->handler = flag_handler(zi->opcode);
		return true;
	default:
		break;
	}
	if (zi->opcode_map != ZYDIS_OPCODE_MAP_0F ||
	    zi->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY)
		return false;
	if ((zi->opcode & 0xf0) == 0x40) {
		form = plain_form(two_operands(l, &l->op[0], &l->op[1]));
		if (form == FORM_RR && size_log >= 2)
			set_hint(l, HINT_CMOV, 0, form, size_log)->cc = zi->opcode & 15;
		l->out->handler = cmov_handler(zi->opcode & 15, form, size_log);
		l->note->reads = true;
		return form != FORMS;
	}
	if ((zi->opcode & 0xf0) == 0x90) {
		enum form1 form1 = one_operand(l, &l->op[0]);

		if (form1 == FORM_R)
			set_hint(l, HINT_SETCC, 0, FORM_RR, 0)->cc = zi->opcode & 15;
		l->out->handler = setcc_handler(zi->opcode & 15, form1);
		l->note->reads = true;
		return form1 != FORMS1;
	}
	return false;
}

bool lower_stack(struct lowering *l)
{
	const ZydisDecodedInstruction *zi = l->zi;
	unsigned size_log = log2_bytes(zi->operand_width);
	const ZydisDecodedOperand *o = &l->op[0];

	l->out->aux = (uint16_t)size_log;
	l->note->exits = true;
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_PUSH:
		if (is_reg(o)) {
			if (reg_number(o->reg.value) == NO_REG)
				return false; /* a segment register */
			l->out->src = reg_offset(o->reg.value);
			if (l->code64 && size_log == 3)
				set_hint(l, HINT_PUSH, 0, FORM_RR, size_log);
			l->out->handler = push_handler(FORM_RR, size_log, l->code64);
		} else if (is_imm(o)) {
			l->out->imm = immediate(o);
			if (l->code64 && size_log == 3)
				set_hint(l, HINT_PUSH, 0, FORM_RI, size_log);
			l->out->handler = push_handler(FORM_RI, size_log, l->code64);
		} else {
			if (!set_address(l, o))
				return false;
			l->out->handler = push_handler(FORM_RG, size_log, l->code64);
		}
		return true;
	case ZYDIS_MNEMONIC_POP:
		if (is_reg(o)) {
			if (reg_number(o->reg.value) == NO_REG)
				return false;
			l->out->dst = reg_offset(o->reg.value);
			if (l->code64 && size_log == 3)
				set_hint(l, HINT_POP, 0, FORM_RR, size_log);
			l->out->handler = pop_handler(FORM_R, size_log, l->code64);
		} else {
			if (!set_address(l, o))
				return false;
			l->out->handler = pop_handler(FORM_G, size_log, l->code64);
		}
		return true;
	case ZYDIS_MNEMONIC_LEAVE:
		if (l->code64 && size_log == 3)
			set_hint(l, HINT_LEAVE, 0, FORM_RR, size_log);
		l->out->handler = leave_handler(size_log, l->code64);
		return true;
	default:
		return false;
	}
}
