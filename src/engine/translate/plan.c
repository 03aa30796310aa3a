/*
 * The planner. Called parked, by the dispatcher, for code found hot.
 *
 * Invariant: an instruction that this file does not know to be harmless when
 * run as itself is left to the interpreter's handler.
 */
#include "engine/translate/plan.h"
#include "cpu/mode.h"
#include "cpu/model.h"
#include "engine/interpret/ops.h"
#include "engine/interpret/sysop.h"
#include "engine/interpret/vector.h"

#define BIT(r) (1u << (r))

static bool is_gpr(const ZydisDecodedOperand *op)
{
	ZydisRegisterClass class;

	if (op->type != ZYDIS_OPERAND_TYPE_REGISTER)
		return false;
	class = ZydisRegisterGetClass(op->reg.value);
	return class == ZYDIS_REGCLASS_GPR8 || class == ZYDIS_REGCLASS_GPR16 ||
	       class == ZYDIS_REGCLASS_GPR32 || class == ZYDIS_REGCLASS_GPR64;
}

static bool is_high_byte(ZydisRegister r)
{
	return r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH;
}

static unsigned gpr_number(ZydisRegister r)
{
	if (is_high_byte(r))
		return (unsigned)(r - ZYDIS_REGISTER_AH);
	if (r >= ZYDIS_REGISTER_SPL && r <= ZYDIS_REGISTER_R15B)
		return (unsigned)(r - ZYDIS_REGISTER_SPL) + 4;
	if (ZydisRegisterGetClass(r) == ZYDIS_REGCLASS_GPR8)
		return (unsigned)(r - ZYDIS_REGISTER_AL);
	return (unsigned)ZydisRegisterGetId(r);
}

/* The memory operand. False: an address form that is left to the interpreter. */
static bool take_memory(struct guest_insn *g, const ZydisDecodedInstruction *zi,
			const ZydisDecodedOperand *op)
{
	int64_t disp = op->mem.disp.value;

	if (zi->address_width != 64 || op->mem.type == ZYDIS_MEMOP_TYPE_VSIB)
		return false;
	g->base = g->index = NONE;
	if (op->mem.base == ZYDIS_REGISTER_RIP) {
		g->rip = true;
		disp += g->offset + g->len;
	} else if (op->mem.base != ZYDIS_REGISTER_NONE) {
		g->base = (int8_t)gpr_number(op->mem.base);
		g->reads |= (uint16_t)BIT(g->base);
	}
	if (op->mem.index != ZYDIS_REGISTER_NONE) {
		g->index = (int8_t)gpr_number(op->mem.index);
		g->reads |= (uint16_t)BIT(g->index);
		g->shift = (uint8_t)__builtin_ctz(op->mem.scale ? op->mem.scale : 1u);
	}
	if (disp != (int32_t)disp)
		return false;
	g->disp = (int32_t)disp;
	g->seg = op->mem.segment == ZYDIS_REGISTER_FS   ? SEG_FS
		 : op->mem.segment == ZYDIS_REGISTER_GS ? SEG_GS
							: SEG_DS;
	g->size = (uint8_t)(op->size / 8);
	g->memory = true;
	g->store = op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
	return op->mem.type == ZYDIS_MEMOP_TYPE_AGEN || (op->size >= 8 && op->size <= 256);
}

/* Registers and flags the instruction uses, and its memory operand. */
static bool take_operands(struct guest_insn *g, const ZydisDecodedInstruction *zi,
			  const ZydisDecodedOperand *ops)
{
	unsigned n, memories = 0;

	for (n = 0; n < zi->operand_count; n++) {
		const ZydisDecodedOperand *op = &ops[n];
		unsigned r;

		if (op->type == ZYDIS_OPERAND_TYPE_MEMORY) {
			if (memories++ || !take_memory(g, zi, op))
				return false;
			continue;
		}
		if (!is_gpr(op)) {
			if (op->type == ZYDIS_OPERAND_TYPE_REGISTER &&
			    ZydisRegisterGetClass(op->reg.value) == ZYDIS_REGCLASS_SEGMENT)
				return false;
			continue;
		}
		r = gpr_number(op->reg.value);
		if (op->size == 8) {
			if (is_high_byte(op->reg.value))
				g->op.high_byte = true;
			else
				g->op.byte_regs = true;
		}
		if (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) {
			g->writes |= (uint16_t)BIT(r);
			if (op->size < 32 || (op->actions & ZYDIS_OPERAND_ACTION_CONDWRITE))
				g->reads |= (uint16_t)BIT(r);
		}
		if (op->actions & ZYDIS_OPERAND_ACTION_MASK_READ)
			g->reads |= (uint16_t)BIT(r);
		if (op->size == 8 && is_high_byte(op->reg.value)) {
			/* Its number in the encoding stays; the others' homes are below R8 too. */
			if (op->encoding == ZYDIS_OPERAND_ENCODING_OPCODE)
				return false;
			continue;
		}
		switch (op->encoding) {
		case ZYDIS_OPERAND_ENCODING_MODRM_REG:
			g->reg_gpr = true;
			g->reg = (uint8_t)r;
			break;
		case ZYDIS_OPERAND_ENCODING_MODRM_RM:
			g->rm_gpr = true;
			g->rm = (uint8_t)r;
			break;
		case ZYDIS_OPERAND_ENCODING_NDSNDD:
			g->vvvv_gpr = true;
			g->op.vvvv = (uint8_t)r;
			break;
		case ZYDIS_OPERAND_ENCODING_OPCODE:
			g->in_opcode = true;
			g->rm = (uint8_t)r;
			break;
		case ZYDIS_OPERAND_ENCODING_NONE: /* implied: its home is where it must be */
			if (r == RSP || r == R11)
				return false;
			break;
		default:
			return false;
		}
	}
	return !(g->op.high_byte && (g->memory || (g->reads | g->writes) & BIT(RSP)));
}

static void take_flags(struct guest_insn *g, const ZydisDecodedInstruction *zi,
		       const ZydisDecodedOperand *ops)
{
	const ZydisAccessedFlags *f = zi->cpu_flags;
	bool conditional = false, keeps_undefined = false;

	if (!f)
		return;
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_ROL:
	case ZYDIS_MNEMONIC_ROR:
	case ZYDIS_MNEMONIC_RCL:
	case ZYDIS_MNEMONIC_RCR:
		keeps_undefined = true;
		__attribute__((fallthrough));
	case ZYDIS_MNEMONIC_SHL:
	case ZYDIS_MNEMONIC_SHR:
	case ZYDIS_MNEMONIC_SAR: {
		const ZydisDecodedOperand *count = &ops[1];
		unsigned mask = zi->operand_width == 64 ? 63 : 31;

		conditional = count->type != ZYDIS_OPERAND_TYPE_IMMEDIATE
				      ? count->encoding != ZYDIS_OPERAND_ENCODING_NONE ||
						count->type == ZYDIS_OPERAND_TYPE_REGISTER
				      : !(count->imm.value.u & mask);
		break;
	}
	case ZYDIS_MNEMONIC_SHLD:
	case ZYDIS_MNEMONIC_SHRD:
		conditional = true;
		break;
	case ZYDIS_MNEMONIC_MUL:
	case ZYDIS_MNEMONIC_IMUL:
	case ZYDIS_MNEMONIC_DIV:
	case ZYDIS_MNEMONIC_IDIV:
	case ZYDIS_MNEMONIC_BSF:
	case ZYDIS_MNEMONIC_BSR:
	case ZYDIS_MNEMONIC_BT:
	case ZYDIS_MNEMONIC_BTS:
	case ZYDIS_MNEMONIC_BTR:
	case ZYDIS_MNEMONIC_BTC:
		keeps_undefined = true;
		break;
	default:
		break;
	}
	g->flags_read = (uint16_t)(f->tested & FLAGS_ARITH);
	g->flags_touched =
		(uint16_t)((f->modified | f->set_0 | f->set_1 | f->undefined) & FLAGS_ARITH);
	/* What it may leave alone is not written: it lives if it is read later. */
	if (!conditional)
		g->flags_written = g->flags_touched &
				   (uint16_t)~(keeps_undefined ? f->undefined : 0);
}

static void take_encoding(struct guest_insn *g, const ZydisDecodedInstruction *zi,
			  const uint8_t *bytes)
{
	static const uint8_t maps[] = { [ZYDIS_OPCODE_MAP_DEFAULT] = MAP_ONE,
					[ZYDIS_OPCODE_MAP_0F] = MAP_0F,
					[ZYDIS_OPCODE_MAP_0F38] = MAP_0F38,
					[ZYDIS_OPCODE_MAP_0F3A] = MAP_0F3A };
	unsigned n, tail;

	g->op.map = zi->opcode_map < sizeof(maps) ? maps[zi->opcode_map] : MAP_ONE;
	g->op.byte = zi->opcode;
	g->has_modrm = zi->attributes & ZYDIS_ATTRIB_HAS_MODRM;
	if (zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) {
		static const uint8_t prefixes[] = { 0, 0x66, 0xf3, 0xf2 };

		g->op.vex = true;
		g->op.wide = zi->raw.vex.W;
		g->op.vex_long = zi->raw.vex.L;
		g->op.prefix = prefixes[zi->raw.vex.pp & 3];
		if (!g->vvvv_gpr)
			g->op.vvvv = (uint8_t)(~zi->raw.vex.vvvv & 15);
	} else {
		g->op.wide = zi->raw.rex.W;
		for (n = 0; n < zi->raw.prefix_count; n++) {
			uint8_t p = zi->raw.prefixes[n].value;

			if (p == 0xf2 || p == 0xf3)
				g->op.prefix = p;
			else if (p == 0x66)
				g->op.narrow = true;
			else if (p == 0xf0)
				g->op.lock = true;
		}
		/* Both matter in POPCNT, CRC32 and the hints of locked instructions. */
		if (g->op.narrow && (!g->op.prefix || !g->has_modrm)) {
			g->op.prefix = 0x66;
			g->op.narrow = false;
		}
	}
	if (g->has_modrm) {
		if (!g->reg_gpr)
			g->reg = (uint8_t)(zi->raw.modrm.reg |
					   (g->op.vex ? zi->raw.vex.R ^ 1 : zi->raw.rex.R) << 3);
		if (!g->rm_gpr && zi->raw.modrm.mod == 3)
			g->rm = (uint8_t)(zi->raw.modrm.rm |
					  (g->op.vex ? zi->raw.vex.B ^ 1 : zi->raw.rex.B) << 3);
	} else if (g->in_opcode) {
		g->op.byte &= 0xf8;
	}
	tail = zi->length;
	for (n = 0; n < 2; n++)
		if (zi->raw.imm[n].size && zi->raw.imm[n].offset < tail)
			tail = zi->raw.imm[n].offset;
	g->imm = bytes + tail;
	g->imm_len = (uint8_t)(zi->length - tail);
}

/* Integer instructions that run as themselves in any mode of privilege and on any model. */
static bool plain_integer(const struct plan *p, const ZydisDecodedInstruction *zi,
			  const ZydisDecodedOperand *ops)
{
	if (zi->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY)
		return false;
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_ADD:
	case ZYDIS_MNEMONIC_OR:
	case ZYDIS_MNEMONIC_ADC:
	case ZYDIS_MNEMONIC_SBB:
	case ZYDIS_MNEMONIC_AND:
	case ZYDIS_MNEMONIC_SUB:
	case ZYDIS_MNEMONIC_XOR:
	case ZYDIS_MNEMONIC_CMP:
	case ZYDIS_MNEMONIC_TEST:
	case ZYDIS_MNEMONIC_ROL:
	case ZYDIS_MNEMONIC_ROR:
	case ZYDIS_MNEMONIC_RCL:
	case ZYDIS_MNEMONIC_RCR:
	case ZYDIS_MNEMONIC_SHL:
	case ZYDIS_MNEMONIC_SHR:
	case ZYDIS_MNEMONIC_SAR:
	case ZYDIS_MNEMONIC_SHLD:
	case ZYDIS_MNEMONIC_SHRD:
	case ZYDIS_MNEMONIC_INC:
	case ZYDIS_MNEMONIC_DEC:
	case ZYDIS_MNEMONIC_NEG:
	case ZYDIS_MNEMONIC_NOT:
	case ZYDIS_MNEMONIC_MOVZX:
	case ZYDIS_MNEMONIC_MOVSX:
	case ZYDIS_MNEMONIC_MOVSXD:
	case ZYDIS_MNEMONIC_XCHG:
	case ZYDIS_MNEMONIC_BSWAP:
	case ZYDIS_MNEMONIC_CBW:
	case ZYDIS_MNEMONIC_CWDE:
	case ZYDIS_MNEMONIC_CDQE:
	case ZYDIS_MNEMONIC_CWD:
	case ZYDIS_MNEMONIC_CDQ:
	case ZYDIS_MNEMONIC_CQO:
	case ZYDIS_MNEMONIC_MUL:
	case ZYDIS_MNEMONIC_IMUL:
	case ZYDIS_MNEMONIC_DIV:
	case ZYDIS_MNEMONIC_IDIV:
	case ZYDIS_MNEMONIC_BSF:
	case ZYDIS_MNEMONIC_BSR:
	case ZYDIS_MNEMONIC_CMPXCHG:
	case ZYDIS_MNEMONIC_XADD:
	case ZYDIS_MNEMONIC_CLC:
	case ZYDIS_MNEMONIC_STC:
	case ZYDIS_MNEMONIC_CMC:
	case ZYDIS_MNEMONIC_LFENCE:
	case ZYDIS_MNEMONIC_MFENCE:
	case ZYDIS_MNEMONIC_SFENCE:
		return true;
	case ZYDIS_MNEMONIC_MOV: /* not the absolute address forms */
		return zi->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT &&
		       !(zi->opcode >= 0xa0 && zi->opcode <= 0xa3) && zi->opcode != 0x8c &&
		       zi->opcode != 0x8e;
	case ZYDIS_MNEMONIC_BT: /* a register counts bits beyond the operand */
	case ZYDIS_MNEMONIC_BTS:
	case ZYDIS_MNEMONIC_BTR:
	case ZYDIS_MNEMONIC_BTC:
		return ops[0].type == ZYDIS_OPERAND_TYPE_REGISTER ||
		       ops[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
	case ZYDIS_MNEMONIC_POPCNT:
		return cpu_has(p->v->model, FEAT_POPCNT);
	default:
		return zi->opcode_map == ZYDIS_OPCODE_MAP_0F &&
		       ((zi->opcode & 0xf0) == 0x40 || (zi->opcode & 0xf0) == 0x90);
	}
}

/* x87 and vector instructions that the interpreter runs as themselves too. */
static bool plain_vector(struct plan *p, struct guest_insn *g, const ZydisDecodedInstruction *zi,
			 const ZydisDecodedOperand *ops, const uint8_t *bytes, bool *full)
{
	struct insn record = { .seg = SEG_DS, .width = 8, .len = zi->length };
	bool space;

	if (!vector_decode(p->v, p->decoder->native, zi, ops, bytes, false, &record, &space))
		return false;
	if (!space) {
		*full = true;
		return false;
	}
	if (!record.code)
		return false;
	if ((const void *)(uintptr_t)record.handler == record.code) {
		g->x87 = zi->meta.isa_ext == ZYDIS_ISA_EXT_X87 && !x87_control(zi->mnemonic);
	} else if (record.handler == vector_memory_handler(record.aux, false)) {
		if (record.aux & (VECTOR_LATE_STORE | VECTOR_UNALIGNED))
			return false;
		g->aligned = record.aux & VECTOR_ALIGNED;
		g->x87 = record.aux & VECTOR_X87;
	} else {
		return false;
	}
	if (g->x87)
		g->fop = (uint16_t)((zi->opcode & 7) << 8 | bytes[zi->raw.modrm.offset]);
	g->traps = true;
	return true;
}

/* The interpreter's record of one instruction. */
static bool take_record(struct plan *p, struct guest_insn *g, bool *full)
{
	struct trace *t = p->scratch;
	struct insn *copy;

	if (decode_trace(p->decoder, t, p->rip + g->offset, p->bytes + g->offset,
			 (unsigned)PAGE_SIZE - g->offset, 1) != DECODE_OK) {
		*full = true;
		return false;
	}
	copy = trace_pool_take(p->decoder->cache, sizeof(*copy));
	if (!copy) {
		*full = true;
		return false;
	}
	*copy = t->insns[0];
	g->record = copy;
	/* Handlers that never say "go on". */
	g->kind =
		copy->handler == insn_sysop || copy->handler == insn_fault_imm ? G_LAST : G_CALLOUT;
	return true;
}

static bool take_branch(struct guest_insn *g, const ZydisDecodedInstruction *zi,
			const ZydisDecodedOperand *ops)
{
	bool near = zi->meta.branch_type == ZYDIS_BRANCH_TYPE_NEAR ||
		    zi->meta.branch_type == ZYDIS_BRANCH_TYPE_SHORT;
	bool relative = zi->raw.imm[0].is_relative;

	if (zi->attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE)
		return false;
	if (relative) {
		int64_t target = g->offset + g->len + zi->raw.imm[0].value.s;

		if (target != (int32_t)target)
			return false;
		g->target = (int32_t)target;
	}
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_JMP:
	case ZYDIS_MNEMONIC_CALL: {
		bool call = zi->mnemonic == ZYDIS_MNEMONIC_CALL;

		if (!near)
			return false;
		if (relative) {
			g->kind = call ? G_CALL : G_JMP;
		} else {
			g->kind = call ? G_CALL_IND : G_JMP_IND;
			if (ops[0].type == ZYDIS_OPERAND_TYPE_MEMORY) {
				if (!take_memory(g, zi, &ops[0]) || g->size != 8)
					return false;
			} else {
				g->rm_gpr = true;
				g->rm = (uint8_t)gpr_number(ops[0].reg.value);
				g->reads |= (uint16_t)BIT(g->rm);
			}
		}
		if (call) {
			g->reads |= BIT(RSP);
			g->writes |= BIT(RSP);
		}
		return true;
	}
	case ZYDIS_MNEMONIC_RET:
		if (!near || (zi->opcode != 0xc3 && zi->opcode != 0xc2))
			return false;
		g->kind = G_RET;
		g->reads |= BIT(RSP);
		g->writes |= BIT(RSP);
		g->ret_bytes = zi->opcode == 0xc2 ? (uint16_t)zi->raw.imm[0].value.u : 0;
		return true;
	default:
		break;
	}
	if (relative &&
	    ((zi->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && (zi->opcode & 0xf0) == 0x70) ||
	     (zi->opcode_map == ZYDIS_OPCODE_MAP_0F && (zi->opcode & 0xf0) == 0x80))) {
		g->kind = G_JCC;
		g->cc = zi->opcode & 15;
		take_flags(g, zi, ops);
		return true;
	}
	return false;
}

static bool take_stack(struct guest_insn *g, const ZydisDecodedInstruction *zi,
		       const ZydisDecodedOperand *ops)
{
	if (zi->operand_width != 64)
		return false;
	g->reads |= BIT(RSP);
	g->writes |= BIT(RSP);
	if (zi->mnemonic == ZYDIS_MNEMONIC_LEAVE) {
		g->kind = G_LEAVE;
		g->reads |= BIT(RBP);
		g->writes |= BIT(RBP);
		return true;
	}
	switch (ops[0].type) {
	case ZYDIS_OPERAND_TYPE_REGISTER:
		if (!is_gpr(&ops[0]))
			return false;
		g->rm = (uint8_t)gpr_number(ops[0].reg.value);
		if (zi->mnemonic == ZYDIS_MNEMONIC_PUSH) {
			g->kind = G_PUSH;
			g->reads |= (uint16_t)BIT(g->rm);
		} else {
			g->kind = G_POP;
			g->writes |= (uint16_t)BIT(g->rm);
		}
		return true;
	case ZYDIS_OPERAND_TYPE_IMMEDIATE:
		g->kind = G_PUSH_IMM;
		g->target = (int32_t)ops[0].imm.value.s;
		return zi->mnemonic == ZYDIS_MNEMONIC_PUSH;
	case ZYDIS_OPERAND_TYPE_MEMORY:
		g->kind = G_PUSH_MEM;
		return zi->mnemonic == ZYDIS_MNEMONIC_PUSH && take_memory(g, zi, &ops[0]) &&
		       g->size == 8;
	default:
		return false;
	}
}

/* One instruction. False: nothing more here (the page's end, or a decoder that is full). */
static bool take_insn(struct plan *p, unsigned offset, struct guest_insn *g, bool *full)
{
	const uint8_t *bytes = p->bytes + offset;
	unsigned room = (unsigned)PAGE_SIZE - offset;
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction zi;
	ZyanStatus status;

	*g = (struct guest_insn){ .offset = (uint16_t)offset, .base = NONE, .index = NONE };
	status = ZydisDecoderDecodeFull(&p->decoder->zydis[0], bytes, room < 15 ? room : 15, &zi,
					ops);
	if (status == ZYDIS_STATUS_NO_MORE_DATA)
		return false;
	if (!ZYAN_SUCCESS(status)) {
		g->len = 1;
		return take_record(p, g, full);
	}
	g->len = zi.length;
	switch (zi.mnemonic) {
	case ZYDIS_MNEMONIC_NOP:
	case ZYDIS_MNEMONIC_ENDBR32:
	case ZYDIS_MNEMONIC_ENDBR64:
	case ZYDIS_MNEMONIC_PREFETCHNTA:
	case ZYDIS_MNEMONIC_PREFETCHT0:
	case ZYDIS_MNEMONIC_PREFETCHT1:
	case ZYDIS_MNEMONIC_PREFETCHT2:
	case ZYDIS_MNEMONIC_PREFETCHW:
		g->kind = G_NOTHING;
		return true;
	case ZYDIS_MNEMONIC_PUSH:
	case ZYDIS_MNEMONIC_POP:
	case ZYDIS_MNEMONIC_LEAVE:
		if (take_stack(g, &zi, ops))
			return true;
		break;
	case ZYDIS_MNEMONIC_LEA:
		if (zi.operand_width >= 32 && take_operands(g, &zi, ops)) {
			g->kind = G_LEA;
			g->memory = false;
			take_encoding(g, &zi, bytes);
			return true;
		}
		break;
	default:
		if (zi.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE ||
		    zi.mnemonic == ZYDIS_MNEMONIC_RET) {
			if (take_branch(g, &zi, ops))
				return true;
			break;
		}
		if ((plain_integer(p, &zi, ops) || plain_vector(p, g, &zi, ops, bytes, full)) &&
		    take_operands(g, &zi, ops)) {
			g->kind = G_PLAIN;
			take_flags(g, &zi, ops);
			take_encoding(g, &zi, bytes);
			/* Of zero they leave the destination as it was. */
			if (zi.mnemonic == ZYDIS_MNEMONIC_BSF || zi.mnemonic == ZYDIS_MNEMONIC_BSR)
				g->reads |= g->writes;
			/* A locked access across cache lines would hold up the whole host, if it is
			 * allowed. */
			if (g->memory && g->size > 1 &&
			    (g->op.lock || zi.mnemonic == ZYDIS_MNEMONIC_XCHG))
				g->aligned = true;
			if (zi.mnemonic == ZYDIS_MNEMONIC_DIV || zi.mnemonic == ZYDIS_MNEMONIC_IDIV)
				g->traps = true;
			return true;
		}
		if (*full)
			return false;
		break;
	}
	*g = (struct guest_insn){
		.offset = (uint16_t)offset, .len = zi.length, .base = NONE, .index = NONE
	};
	if (!take_record(p, g, full))
		return false;
	if (zi.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE)
		g->kind = G_LAST;
	g->flags_read = FLAGS_ARITH;
	return true;
}

static int block_new(struct plan *p, unsigned offset)
{
	if (p->block_count == PLAN_BLOCKS)
		return -1;
	p->blocks[p->block_count] =
		(struct guest_block){ .offset = (uint16_t)offset, .next = -1, .taken = -1 };
	p->block_at[offset] = (int16_t)p->block_count;
	return (int)p->block_count++;
}

static void note_bytes(struct plan *p, unsigned offset, unsigned len)
{
	unsigned last = offset + len - 1;

	if (offset < p->first_byte)
		p->first_byte = (uint16_t)offset;
	if (last > p->last_byte)
		p->last_byte = (uint16_t)last;
	for (unsigned n = offset / 64; n <= last / 64; n++)
		p->granules |= 1ull << n;
}

/* Decodes the block's instructions. Its branch target, if it is to be followed, into *target. */
static bool block_fill(struct plan *p, struct guest_block *b, int *target, bool *full)
{
	unsigned offset = b->offset;

	*target = -1;
	b->first = (uint16_t)p->insn_count;
	while (p->insn_count < p->insn_most && offset < PAGE_SIZE) {
		struct guest_insn *g = &p->insns[p->insn_count];

		if (b->count && p->block_at[offset] >= 0) {
			b->next = p->block_at[offset];
			break;
		}
		if (!take_insn(p, offset, g, full))
			break;
		note_bytes(p, offset, g->len);
		p->insn_count++;
		b->count++;
		offset += g->len;
		if (g->kind >= G_JMP) {
			if ((g->kind == G_JMP || g->kind == G_JCC) && g->target >= 0 &&
			    g->target < (int)PAGE_SIZE)
				*target = g->target;
			break;
		}
	}
	b->next_offset = (int32_t)offset;
	return b->count;
}

/* Depth first, what falls through first, so that blocks lie as they run. */
static enum plan_status find_blocks(struct plan *p, unsigned entry)
{
	struct {
		int16_t from;
		bool taken;
		int32_t offset;
	} work[2 * PLAN_BLOCKS + 2];
	unsigned count = 0;
	bool full = false;

	work[count++] = (typeof(work[0])){ -1, false, (int32_t)entry };
	while (count) {
		typeof(work[0]) w = work[--count];
		int index = p->block_at[w.offset], target;
		const struct guest_insn *last;
		struct guest_block *b;

		if (index < 0 && p->insn_count < p->insn_most) {
			index = block_new(p, (unsigned)w.offset);
			if (index < 0)
				continue;
			b = &p->blocks[index];
			if (!block_fill(p, b, &target, &full)) {
				p->block_at[w.offset] = -1;
				p->block_count--;
				if (full)
					return PLAN_FULL;
				continue;
			}
			last = &p->insns[b->first + b->count - 1];
			if (target >= 0 && p->block_at[target] < 0 && last->kind == G_JCC &&
			    !p->executed(p->ctx, p->page + (unsigned)target, p->v->soft.mode))
				target = -1;
			if (target >= 0)
				work[count++] = (typeof(work[0])){ (int16_t)index, true, target };
			if (last->kind == G_JCC && b->next_offset < (int)PAGE_SIZE)
				work[count++] =
					(typeof(work[0])){ (int16_t)index, false, b->next_offset };
		}
		if (w.from >= 0 && index >= 0) {
			if (w.taken)
				p->blocks[w.from].taken = (int16_t)index;
			else
				p->blocks[w.from].next = (int16_t)index;
		}
	}
	return p->block_count ? PLAN_OK : PLAN_NO;
}

static void find_loops(struct plan *p)
{
	unsigned n, m;

	for (n = 0; n < p->block_count; n++) {
		int to[2] = { p->blocks[n].next, p->blocks[n].taken };

		for (m = 0; m < 2; m++) {
			if (to[m] < 0)
				continue;
			p->blocks[to[m]].joined = true;
			if (to[m] > (int)n)
				continue;
			p->blocks[to[m]].head = true;
			p->loops = true;
			for (unsigned k = (unsigned)to[m]; k <= n; k++)
				if (p->blocks[k].depth < 4)
					p->blocks[k].depth++;
		}
	}
}

static uint16_t block_flags(struct plan *p, struct guest_block *b)
{
	const struct guest_insn *last = &p->insns[b->first + b->count - 1];
	uint16_t live = 0;

	/* Whoever is outside may read them. */
	if (b->next >= 0)
		live |= p->blocks[b->next].live_in;
	else if (last->kind < G_JMP || last->kind == G_JCC)
		live = FLAGS_ARITH;
	if (b->taken >= 0)
		live |= p->blocks[b->taken].live_in;
	else if (last->kind >= G_JMP)
		live = FLAGS_ARITH;
	b->live_out = live;
	for (unsigned n = b->count; n--;) {
		struct guest_insn *g = &p->insns[b->first + n];

		live = (uint16_t)(g->flags_read | (live & ~g->flags_written));
		if (g->kind >= G_CALLOUT && g->kind != G_JMP && g->kind != G_JCC)
			live = FLAGS_ARITH;
		if (p->exact &&
		    (g->memory || g->traps || (g->kind >= G_PUSH && g->kind <= G_LEAVE)))
			live = FLAGS_ARITH;
		g->live = live;
	}
	return live;
}

static void find_flags(struct plan *p)
{
	bool changed;

	do {
		changed = false;
		for (unsigned n = p->block_count; n--;) {
			struct guest_block *b = &p->blocks[n];
			uint16_t live = block_flags(p, b);

			if (p->exact && b->head)
				live = FLAGS_ARITH;
			changed |= live != b->live_in;
			b->live_in = live;
		}
	} while (changed);
}

enum plan_status plan_region(struct plan *p, unsigned offset)
{
	enum plan_status status;

	p->insn_count = p->block_count = 0;
	p->loops = false;
	p->granules = 0;
	p->first_byte = PAGE_SIZE - 1;
	p->last_byte = 0;
	memset(p->block_at, 0xff, sizeof(p->block_at));
	status = find_blocks(p, offset);
	if (status != PLAN_OK)
		return status;
	find_loops(p);
	find_flags(p);
	return PLAN_OK;
}
