/* Lowering of integer arithmetic: which handler, which flags. */
#include "engine/interpret/decode_priv.h"

/* Arithmetic by its place in the one-byte and group opcodes. */
static void lower_alu(struct lowering *l, enum alu_op op)
{
	unsigned size_log = log2_bytes(l->op[0].size);
	enum form form = two_operands(l, &l->op[0], &l->op[1]);

	if (form == FORMS) {
		lower_rare(l);
		return;
	}
	/* TEST and CMP read only: a lock prefix there is #UD and never comes here. */
	l->note->kills = op != ALU_ADC && op != ALU_SBB;
	l->note->reads = !l->note->kills;
	if ((op == ALU_XOR || op == ALU_SUB) && form == FORM_RR && l->out->dst == l->out->src &&
	    size_log >= 2) {
		set_hint(l, HINT_ZERO, op, form, size_log);
		l->out->handler = zero_handler(false);
		l->note->dead = zero_handler(true);
		return;
	}
	set_hint(l, HINT_ALU, op, form, size_log);
	l->out->handler = alu_handler(op, form, size_log, false);
	l->note->dead = alu_handler(op, form, size_log, true);
	if (l->note->dead == l->out->handler)
		l->note->dead = NULL;
	l->note->fusible = op == ALU_CMP || op == ALU_TEST;
	l->note->test = op == ALU_TEST;
	l->note->form = form;
	l->note->size_log = (uint8_t)size_log;
}

static void lower_shift(struct lowering *l, enum shift_op op)
{
	unsigned size_log = log2_bytes(l->op[0].size);
	bool by_cl = is_reg(&l->op[1]);
	unsigned count = by_cl ? 0 : (unsigned)immediate(&l->op[1]) & (size_log == 3 ? 63 : 31);
	enum form1 form = one_operand(l, &l->op[0]);

	if (form == FORMS1) {
		lower_rare(l);
		return;
	}
	l->note->kills = !by_cl && count && op >= SHIFT_SHL && size_log >= 2;
	l->note->reads = !l->note->kills;
	if (!by_cl) {
		l->out->imm = count;
		/* A zero count keeps the flags, which the quick immediate forms do not. */
		if (!count && form == FORM_R && size_log >= 2 && op >= SHIFT_SHL) {
			l->out->handler = shift_handler(op, form, size_log, false, true);
			return;
		}
		/* Byte and word rotates through carry count modulo 9 and 17; keep what was encoded.
		 */
		if (size_log < 2)
			l->out->imm = immediate(&l->op[1]) & 31;
	}
	if (form == FORM_R && size_log >= 2 && (by_cl || count) && op != SHIFT_RCL &&
	    op != SHIFT_RCR)
		set_hint(l, HINT_SHIFT, op, FORM_RI, size_log)->by_cl = by_cl;
	l->out->handler = shift_handler(op, form, size_log, by_cl, false);
	if (form == FORM_R && op >= SHIFT_SHL && size_log >= 2)
		l->note->dead = shift_handler(op, form, size_log, by_cl, true);
}

bool lower_muldiv(struct lowering *l)
{
	const ZydisDecodedInstruction *zi = l->zi;
	unsigned size_log = log2_bytes(l->op[0].size);
	enum form form;
	enum form1 form1;

	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_MUL:
	case ZYDIS_MNEMONIC_DIV:
	case ZYDIS_MNEMONIC_IDIV:
		break;
	case ZYDIS_MNEMONIC_IMUL:
		if (zi->operand_count_visible == 2) {
			form = plain_form(two_operands(l, &l->op[0], &l->op[1]));
			if (form == FORM_RR && size_log >= 2)
				set_hint(l, HINT_IMUL, 0, form, size_log);
			l->out->handler = imul_handler(form, size_log);
			l->note->kills = form == FORM_RR;
			return form != FORMS;
		}
		if (zi->operand_count_visible == 3) {
			form = plain_form(two_operands(l, &l->op[0], &l->op[1]));
			l->out->imm = immediate(&l->op[2]);
			if (form == FORM_RR && size_log >= 2)
				set_hint(l, HINT_IMUL, 0, FORM_RI, size_log);
			l->out->handler = imul3_handler(form, size_log);
			l->note->kills = form == FORM_RR;
			return form != FORMS;
		}
		break;
	default:
		return false;
	}
	form1 = one_operand(l, &l->op[0]);
	if (form1 == FORM_A)
		form1 = FORM_G;
	if (zi->mnemonic == ZYDIS_MNEMONIC_MUL || zi->mnemonic == ZYDIS_MNEMONIC_IMUL) {
		l->out->handler = mul_handler(zi->mnemonic == ZYDIS_MNEMONIC_IMUL, form1, size_log);
	} else {
		l->out->handler = div_handler(zi->mnemonic == ZYDIS_MNEMONIC_IDIV, form1, size_log);
		l->note->exits = true;
		l->note->reads = true;
	}
	return form1 != FORMS1;
}

bool lower_bits(struct lowering *l)
{
	const ZydisDecodedInstruction *zi = l->zi;
	unsigned size_log = log2_bytes(l->op[0].size);
	enum bit_op op = BIT_TEST;
	enum form form;

	l->note->reads = true; /* a zero source, a bit test: some flags survive */
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_BT:
		op = BIT_TEST;
		break;
	case ZYDIS_MNEMONIC_BTS:
		op = BIT_SET;
		break;
	case ZYDIS_MNEMONIC_BTR:
		op = BIT_RESET;
		break;
	case ZYDIS_MNEMONIC_BTC:
		op = BIT_COMPLEMENT;
		break;
	case ZYDIS_MNEMONIC_BSF:
	case ZYDIS_MNEMONIC_BSR:
		form = plain_form(two_operands(l, &l->op[0], &l->op[1]));
		l->out->handler =
			bitscan_handler(zi->mnemonic == ZYDIS_MNEMONIC_BSR, form, size_log);
		return form != FORMS;
	case ZYDIS_MNEMONIC_CMPXCHG:
		form = plain_form(two_operands(l, &l->op[0], &l->op[1]));
		l->out->handler = cmpxchg_handler(form == FORM_GR ? FORM_LR : form, size_log);
		return form != FORMS;
	case ZYDIS_MNEMONIC_XADD:
		form = plain_form(two_operands(l, &l->op[0], &l->op[1]));
		l->out->handler = xadd_handler(form == FORM_GR ? FORM_LR : form, size_log);
		return form != FORMS;
	default:
		l->note->reads = false;
		return false;
	}
	form = plain_form(two_operands(l, &l->op[0], &l->op[1]));
	l->out->aux = form == FORM_LR || form == FORM_LI;
	l->out->handler = bit_handler(op, form, size_log);
	return form != FORMS;
}

bool lower_arithmetic(struct lowering *l)
{
	unsigned size_log = log2_bytes(l->op[0].size);
	enum form1 form;
	enum alu1_op op1;

	switch (l->zi->mnemonic) {
	case ZYDIS_MNEMONIC_ADD:
		lower_alu(l, ALU_ADD);
		return true;
	case ZYDIS_MNEMONIC_OR:
		lower_alu(l, ALU_OR);
		return true;
	case ZYDIS_MNEMONIC_ADC:
		lower_alu(l, ALU_ADC);
		return true;
	case ZYDIS_MNEMONIC_SBB:
		lower_alu(l, ALU_SBB);
		return true;
	case ZYDIS_MNEMONIC_AND:
		lower_alu(l, ALU_AND);
		return true;
	case ZYDIS_MNEMONIC_SUB:
		lower_alu(l, ALU_SUB);
		return true;
	case ZYDIS_MNEMONIC_XOR:
		lower_alu(l, ALU_XOR);
		return true;
	case ZYDIS_MNEMONIC_CMP:
		lower_alu(l, ALU_CMP);
		return true;
	case ZYDIS_MNEMONIC_TEST:
		lower_alu(l, ALU_TEST);
		return true;
	case ZYDIS_MNEMONIC_ROL:
		lower_shift(l, SHIFT_ROL);
		return true;
	case ZYDIS_MNEMONIC_ROR:
		lower_shift(l, SHIFT_ROR);
		return true;
	case ZYDIS_MNEMONIC_RCL:
		lower_shift(l, SHIFT_RCL);
		return true;
	case ZYDIS_MNEMONIC_RCR:
		lower_shift(l, SHIFT_RCR);
		return true;
	case ZYDIS_MNEMONIC_SHL:
		lower_shift(l, SHIFT_SHL);
		return true;
	case ZYDIS_MNEMONIC_SHR:
		lower_shift(l, SHIFT_SHR);
		return true;
	case ZYDIS_MNEMONIC_SAR:
		lower_shift(l, SHIFT_SAR);
		return true;
	case ZYDIS_MNEMONIC_SHLD:
	case ZYDIS_MNEMONIC_SHRD:
		l->out->src = reg_offset(l->op[1].reg.value);
		l->out->aux = is_imm(&l->op[2]) ? (uint16_t)(immediate(&l->op[2]) & 0xff) : 0xffff;
		l->note->reads = true;
		if (is_reg(&l->op[0])) {
			l->out->dst = reg_offset(l->op[0].reg.value);
			form = FORM_R;
		} else {
			if (!set_address(l, &l->op[0]))
				return false;
			form = FORM_G;
		}
		l->out->handler = shift_double_handler(l->zi->mnemonic == ZYDIS_MNEMONIC_SHRD, form,
						       size_log);
		return true;
	case ZYDIS_MNEMONIC_INC:
		op1 = ALU1_INC;
		break;
	case ZYDIS_MNEMONIC_DEC:
		op1 = ALU1_DEC;
		break;
	case ZYDIS_MNEMONIC_NEG:
		op1 = ALU1_NEG;
		break;
	case ZYDIS_MNEMONIC_NOT:
		op1 = ALU1_NOT;
		break;
	default:
		return false;
	}
	form = one_operand(l, &l->op[0]);
	if (form == FORMS1)
		return false;
	if (form == FORM_R && size_log >= 2)
		set_hint(l, HINT_ALU1, op1, FORM_RR, size_log);
	l->out->handler = alu1_handler(op1, form, size_log, false);
	l->note->kills = op1 == ALU1_NEG;
	l->note->reads = op1 <= ALU1_DEC; /* CF is kept */
	if (op1 <= ALU1_DEC && form == FORM_R && size_log >= 2)
		l->note->dead = alu1_handler(op1, form, size_log, true);
	return true;
}
