/*
 * Lowering of everything that is not hot: a C function on canonical state
 * (sysop.h), native vector code (vector.h), or #UD.
 */
#include "engine/interpret/decode_priv.h"
#include "cpu/fpstate.h"
#include "base/bytes.h"
#include "engine/interpret/vector.h"

void lower_fault(struct lowering *l, uint8_t vector, bool has_error)
{
	l->out->handler = insn_fault_imm;
	l->out->imm = vector | (has_error ? 1ull << 40 : 0);
	l->note->ends = true;
	l->note->exits = true;
}

static void describe_sysop(struct lowering *l, struct sysop *s)
{
	const ZydisDecodedInstruction *zi = l->zi;
	const ZydisDecodedOperand *m = memory_operand(l);
	unsigned n;

	bytes_zero(s, sizeof(*s));
	s->mnemonic = (uint16_t)zi->mnemonic;
	s->opcode = zi->opcode;
	s->opcode_map = (uint8_t)zi->opcode_map;
	s->opsize = (uint8_t)(zi->operand_width / 8);
	s->addrsize = (uint8_t)(zi->address_width / 8);
	s->len = zi->length;
	s->reg = (uint8_t)(zi->raw.modrm.reg | zi->raw.rex.R << 3);
	/* There are no segment registers beyond GS, so MOV Sreg has no use for REX.R. */
	if (zi->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT &&
	    (zi->opcode == 0x8c || zi->opcode == 0x8e))
		s->reg = zi->raw.modrm.reg;
	s->rm = (uint8_t)(zi->raw.modrm.rm | zi->raw.rex.B << 3);
	if (!(zi->attributes & ZYDIS_ATTRIB_HAS_MODRM))
		s->rm = (uint8_t)((zi->opcode & 7) | zi->raw.rex.B << 3);
	s->lock = locked(l);
	s->rep = zi->attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE);
	s->repne = zi->attributes & ZYDIS_ATTRIB_HAS_REPNE;
	s->rex = zi->attributes & ZYDIS_ATTRIB_HAS_REX;
	s->is_mem = (zi->attributes & ZYDIS_ATTRIB_HAS_MODRM) && zi->raw.modrm.mod != 3;
	s->base = s->index = NO_REG;
	s->seg = SEG_DS;
	if (m) {
		s->seg = seg_number(m->mem.segment);
		s->rip_relative =
			m->mem.base == ZYDIS_REGISTER_RIP || m->mem.base == ZYDIS_REGISTER_EIP;
		s->base = (uint8_t)reg_number(m->mem.base);
		s->index = (uint8_t)reg_number(m->mem.index);
		s->shift = m->mem.scale == 8   ? 3
			   : m->mem.scale == 4 ? 2
			   : m->mem.scale == 2 ? 1
					       : 0;
		s->disp = m->mem.disp.has_displacement ? m->mem.disp.value : 0;
		if (base_is_absent(zi)) {
			s->base = NO_REG;
			s->disp = zi->raw.disp.value;
		}
	}
	/* String I/O names its source through an override only. */
	if (zi->attributes & ZYDIS_ATTRIB_HAS_SEGMENT_FS)
		s->seg = SEG_FS;
	else if (zi->attributes & ZYDIS_ATTRIB_HAS_SEGMENT_GS)
		s->seg = SEG_GS;
	for (n = 0; n < zi->operand_count_visible; n++) {
		if (is_imm(&l->op[n])) {
			if (n && is_imm(&l->op[n - 1]))
				s->imm2 = immediate(&l->op[n]);
			else
				s->imm = immediate(&l->op[n]);
		} else if (l->op[n].type == ZYDIS_OPERAND_TYPE_POINTER) {
			s->imm = l->op[n].ptr.offset;
			s->imm2 = l->op[n].ptr.segment;
		}
	}
}

/* Everything that is not hot: a C function on canonical state, or native vector code, or #UD. */
void lower_rare(struct lowering *l)
{
	struct sysop_entry entry = sysop_find(l->zi);
	const ZydisDecodedOperand *m = memory_operand(l);
	bool space = true;

	l->note->exits = true;
	l->note->reads = true;
	if (entry.execute) {
		struct sysop *s = trace_pool_take(l->d->cache, sizeof(*s));

		if (!s) {
			l->full = true;
			return;
		}
		describe_sysop(l, s);
		s->execute = entry.execute;
		l->out->sysop = s;
		l->out->handler = entry.flags & SYSOP_LIGHT ? insn_sysop_light : insn_sysop;
		l->note->ends = !(entry.flags & SYSOP_LIGHT);
		return;
	}
	if (m)
		set_address(l, m);
	vcpu_fp_park(l->v); /* it makes code */
	if (vector_decode(l->v, l->d->native, l->zi, l->op, l->bytes, l->fast, l->out, &space)) {
		l->full = !space;
		if (l->out->handler == (insn_handler *)(uintptr_t)l->out->code &&
		    l->out->disp > 0 && l->out->disp <= HINT_NATIVE_MOST) {
			l->note->hint.kind = HINT_NATIVE;
			l->note->hint.native_bytes = (uint8_t)l->out->disp;
		}
		return;
	}
	lower_fault(l, VEC_UD, false);
}
