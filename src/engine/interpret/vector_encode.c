/*
 * Writes thunks: the guest instruction's own operation with its general
 * registers renamed to R8 (ModRM.reg), R9 (ModRM.rm) and R10 (VEX.vvvv) and
 * its memory operand to [RDX], or [R11] where RDX is an operand itself.
 * Called by vector.c, parked.
 *
 * On entry RDI is the vcpu and RSI the record; both, and the stack, are
 * untouched up to the jump to the next record, which is what lets a SIGFPE end
 * the trace from anywhere inside (native_code.c).
 */
#include "engine/interpret/vector_priv.h"
#include "base/bytes.h"

enum { HOST_REG = R8, HOST_RM = R9, HOST_VVVV = R10 };

struct emit {
	uint8_t *p;
};

static void emit(struct emit *e, const uint8_t *bytes, unsigned len)
{
	for (unsigned i = 0; i < len; i++)
		*e->p++ = bytes[i];
}
#define EMIT(e, ...) \
	emit((e), (const uint8_t[]){ __VA_ARGS__ }, sizeof((const uint8_t[]){ __VA_ARGS__ }))

static void emit32(struct emit *e, uint32_t value)
{
	bytes_store32(e->p, value);
	e->p += 4;
}

#define V_OFF(field) ((uint32_t)offsetof(struct vcpu, field))

static bool is_gpr(const ZydisDecodedOperand *op)
{
	if (op->type != ZYDIS_OPERAND_TYPE_REGISTER)
		return false;
	switch (ZydisRegisterGetClass(op->reg.value)) {
	case ZYDIS_REGCLASS_GPR8:
	case ZYDIS_REGCLASS_GPR16:
	case ZYDIS_REGCLASS_GPR32:
	case ZYDIS_REGCLASS_GPR64:
		return true;
	default:
		return false;
	}
}

static unsigned register_id(const ZydisDecodedOperand *op)
{
	return (unsigned)ZydisRegisterGetId(op->reg.value);
}

/* Byte offset of a guest general register's slot; AH..BH are byte 1 of theirs. */
static uint8_t slot(const ZydisDecodedOperand *op)
{
	ZydisRegister r = op->reg.value;

	if (r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH)
		return (uint8_t)((r - ZYDIS_REGISTER_AH) * 8 + 1);
	if (r >= ZYDIS_REGISTER_SPL && r <= ZYDIS_REGISTER_R15B)
		return (uint8_t)((r - ZYDIS_REGISTER_SPL + 4) * 8);
	if (ZydisRegisterGetClass(r) == ZYDIS_REGCLASS_GPR8)
		return (uint8_t)((r - ZYDIS_REGISTER_AL) * 8);
	return (uint8_t)(register_id(op) * 8);
}

static const ZydisDecodedOperand *operand_with(const struct vector_form *form,
					       ZydisOperandEncoding encoding)
{
	for (unsigned i = 0; i < form->insn->operand_count; i++) {
		const ZydisDecodedOperand *op = &form->operands[i];

		if (op->encoding == encoding && op->type == ZYDIS_OPERAND_TYPE_REGISTER)
			return op;
	}
	return NULL;
}

static bool reads(const ZydisDecodedOperand *op)
{
	/* A conditional write may leave the register alone, so the old value must be there. */
	return op->actions & (ZYDIS_OPERAND_ACTION_MASK_READ | ZYDIS_OPERAND_ACTION_CONDWRITE);
}

static bool writes(const ZydisDecodedOperand *op)
{
	return op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
}

/* mov host, [rdi + slot] */
static void load_gpr(struct emit *e, unsigned host, const ZydisDecodedOperand *op)
{
	uint8_t off = slot(op);
	uint8_t rex = (uint8_t)(0x48 | (host & 8) >> 1);
	uint8_t modrm = (uint8_t)(0x40 | (host & 7) << 3 | RDI);

	if (op->size == 8)
		EMIT(e, rex, 0x0f, 0xb6, modrm, off);
	else
		EMIT(e, rex, 0x8b, modrm, off);
}

/* Stores by width; 32-bit results arrive zero-extended in the host register. */
static void store_gpr(struct emit *e, unsigned host, const ZydisDecodedOperand *op)
{
	uint8_t off = slot(op);
	uint8_t rex = (uint8_t)(0x40 | (host & 8) >> 1);
	uint8_t modrm = (uint8_t)(0x40 | (host & 7) << 3 | RDI);

	if (op->size == 8)
		EMIT(e, rex, 0x88, modrm, off);
	else if (op->size == 16)
		EMIT(e, 0x66, rex, 0x89, modrm, off);
	else
		EMIT(e, (uint8_t)(rex | 8), 0x89, modrm, off);
}

/* movzx eax, word [rdi + flags]; add al, 0x7f (OF); sahf */
static void load_flags(struct emit *e)
{
	EMIT(e, 0x0f, 0xb7, 0x87);
	emit32(e, V_OFF(soft.flags));
	EMIT(e, 0x04, 0x7f, 0x9e);
}

/* lahf; seto al; mov [rdi + flags], ax */
static void store_flags(struct emit *e)
{
	EMIT(e, 0x9f, 0x0f, 0x90, 0xc0, 0x66, 0x89, 0x87);
	emit32(e, V_OFF(soft.flags));
}

/* fpu_ip = rip of the trace + offset of the record; fpu_dp = soft.la; fpu_op. */
static void store_x87_pointers(struct emit *e, const struct vector_form *form)
{
	uint16_t fop = (uint16_t)((form->insn->opcode & 7) << 8 |
				  form->bytes[form->insn->raw.modrm.offset]);

	EMIT(e, 0x0f, 0xb7, 0x4e,
	     offsetof(struct insn, offset)); /* movzx ecx, word [rsi + offset] */
	EMIT(e, 0x48, 0x03, 0x8f);           /* add rcx, [rdi + rip] */
	emit32(e, V_OFF(arch.rip));
	EMIT(e, 0x48, 0x89, 0x8f);
	emit32(e, V_OFF(arch.fpu_ip));
	EMIT(e, 0x66, 0xc7, 0x87);
	emit32(e, V_OFF(arch.fpu_op));
	EMIT(e, (uint8_t)fop, (uint8_t)(fop >> 8));
	if (form->mem) {
		EMIT(e, 0x48, 0x8b, 0x8f);
		emit32(e, V_OFF(soft.la));
		EMIT(e, 0x48, 0x89, 0x8f);
		emit32(e, V_OFF(arch.fpu_dp));
	}
}

/* Operand-size instructions: for these 66 is no part of the opcode, and the guest's code size
 * decides what it means. */
static bool opsize_form(const struct vector_form *form, bool *need_66)
{
	const ZydisDecodedInstruction *in = form->insn;

	switch (in->mnemonic) {
	case ZYDIS_MNEMONIC_POPCNT:
	case ZYDIS_MNEMONIC_LZCNT:
	case ZYDIS_MNEMONIC_TZCNT:
	case ZYDIS_MNEMONIC_MOVBE:
		*need_66 = in->operand_width == 16;
		return true;
	case ZYDIS_MNEMONIC_CRC32:
		*need_66 = form->operands[1].size == 16;
		return true;
	default:
		return false;
	}
}

static void emit_map(struct emit *e, ZydisOpcodeMap map)
{
	if (map != ZYDIS_OPCODE_MAP_DEFAULT)
		EMIT(e, 0x0f);
	if (map == ZYDIS_OPCODE_MAP_0F38)
		EMIT(e, 0x38);
	if (map == ZYDIS_OPCODE_MAP_0F3A)
		EMIT(e, 0x3a);
}

/* Without 64-bit code VEX.W does not exist where it only selects the width of a general register or
 * its memory twin. */
static bool vex_w(const struct vector_form *form, bool gpr)
{
	if (!form->code64) {
		switch (form->insn->mnemonic) {
		case ZYDIS_MNEMONIC_VMOVD:
		case ZYDIS_MNEMONIC_VPINSRD:
		case ZYDIS_MNEMONIC_VPEXTRD:
		case ZYDIS_MNEMONIC_VCVTSI2SS:
		case ZYDIS_MNEMONIC_VCVTSI2SD:
		case ZYDIS_MNEMONIC_VPCMPESTRI:
		case ZYDIS_MNEMONIC_VPCMPESTRM:
			return false;
		default:
			if (gpr)
				return false;
		}
	}
	return form->insn->raw.vex.W;
}

static void emit_operation(struct emit *e, const struct vector_form *form, unsigned mem_host,
			   bool gpr)
{
	const ZydisDecodedInstruction *in = form->insn;
	const ZydisDecodedOperand *op;
	bool has_modrm = in->attributes & ZYDIS_ATTRIB_HAS_MODRM;
	unsigned reg = in->raw.modrm.reg, rm = in->raw.modrm.rm, vvvv = 0, mod = 3;

	if (in->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT &&
	    in->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY) {
		/* x87 and FWAIT: no prefix matters. */
		EMIT(e, in->opcode);
		if (form->mem)
			EMIT(e, (uint8_t)(reg << 3 | mem_host));
		else if (has_modrm)
			EMIT(e, form->bytes[in->raw.modrm.offset]);
		return;
	}
	op = operand_with(form, ZYDIS_OPERAND_ENCODING_MODRM_REG);
	if (op)
		reg = is_gpr(op) ? HOST_REG : register_id(op);
	op = operand_with(form, ZYDIS_OPERAND_ENCODING_MODRM_RM);
	if (form->mem) {
		mod = 0;
		rm = mem_host;
	} else if (op) {
		rm = is_gpr(op) ? HOST_RM : register_id(op);
	}
	op = operand_with(form, ZYDIS_OPERAND_ENCODING_NDSNDD);
	if (op)
		vvvv = is_gpr(op) ? HOST_VVVV : register_id(op);

	if (in->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) {
		EMIT(e, 0xc4,
		     (uint8_t)((reg & 8 ? 0 : 0x80) | 0x40 | (rm & 8 ? 0 : 0x20) | in->opcode_map),
		     (uint8_t)(vex_w(form, gpr) << 7 | (~vvvv & 15) << 3 | in->raw.vex.L << 2 |
			       in->raw.vex.pp));
	} else {
		bool need_66 = false, opsize = opsize_form(form, &need_66);
		uint8_t rex = (uint8_t)((reg & 8) >> 1 | (rm & 8) >> 3);

		if (form->code64 && (in->attributes & ZYDIS_ATTRIB_HAS_REX) && in->raw.rex.W)
			rex |= 8;
		if (need_66)
			EMIT(e, 0x66);
		for (unsigned i = 0; i < in->raw.prefix_count; i++) {
			uint8_t prefix = in->raw.prefixes[i].value;

			if (in->raw.prefixes[i].type != ZYDIS_PREFIX_TYPE_MANDATORY ||
			    (prefix == 0x66 && opsize) || (prefix == 0xf3 && form->drop_f3))
				continue;
			EMIT(e, prefix);
		}
		if (rex)
			EMIT(e, (uint8_t)(0x40 | rex));
		emit_map(e, in->opcode_map);
	}
	EMIT(e, in->opcode);
	if (has_modrm)
		EMIT(e, (uint8_t)(mod << 6 | (reg & 7) << 3 | (rm & 7)));
	for (unsigned i = 0; i < 2; i++) {
		if (!in->raw.imm[i].size)
			continue;
		uint8_t imm = form->bytes[in->raw.imm[i].offset];
		/* Outside 64-bit code bit 7 of a register in the immediate does not count. */
		if (!form->code64 && operand_with(form, ZYDIS_OPERAND_ENCODING_IS4))
			imm &= 0x7f;
		EMIT(e, imm);
	}
}

struct gprs {
	const ZydisDecodedOperand *explicit_op[3];
	uint8_t explicit_host[3];
	const ZydisDecodedOperand *implicit_op[4];
	uint8_t implicit_host[4];
	unsigned explicits, implicits;
	bool uses_rdx;
};

static bool collect_gprs(const struct vector_form *form, struct gprs *g)
{
	for (unsigned i = 0; i < form->insn->operand_count; i++) {
		const ZydisDecodedOperand *op = &form->operands[i];

		if (op->type == ZYDIS_OPERAND_TYPE_MEMORY &&
		    op->visibility != ZYDIS_OPERAND_VISIBILITY_EXPLICIT)
			return false;
		if (!is_gpr(op))
			continue;
		if (op->visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT) {
			unsigned host;

			if (op->encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG)
				host = HOST_REG;
			else if (op->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM)
				host = HOST_RM;
			else if (op->encoding == ZYDIS_OPERAND_ENCODING_NDSNDD)
				host = HOST_VVVV;
			else
				goto implicit; /* FNSTSW AX names AX, but no bit of the encoding
						  does */
			if (g->explicits == 3)
				return false;
			g->explicit_op[g->explicits] = op;
			g->explicit_host[g->explicits++] = (uint8_t)host;
			continue;
		}
	implicit:
		if (register_id(op) > RDX || g->implicits == 4)
			return false;
		g->uses_rdx |= register_id(op) == RDX;
		g->implicit_op[g->implicits] = op;
		g->implicit_host[g->implicits++] = (uint8_t)register_id(op);
	}
	return true;
}

static void emit_next(struct emit *e)
{
	EMIT(e, 0x31, 0xc0, 0xc3); /* xor eax, eax; ret: NEXT */
}

static void emit_body(struct emit *e, const struct vector_form *form, const struct gprs *g)
{
	const ZydisAccessedFlags *flags = form->insn->cpu_flags;
	uint32_t written = 0, tested = 0;
	unsigned mem_host = RDX;

	if (flags) {
		written = (flags->modified | flags->set_0 | flags->set_1 | flags->undefined) &
			  FLAGS_ARITH;
		tested = flags->tested & FLAGS_ARITH;
	}
	if (form->mem && g->uses_rdx) {
		EMIT(e, 0x49, 0x89, 0xd3); /* mov r11, rdx */
		mem_host = R11;
	}
	/* Undefined flags count as unwritten here: hardware mostly keeps them. */
	if (tested || (written && (written & ~flags->undefined) != FLAGS_ARITH))
		load_flags(e);
	for (unsigned i = 0; i < g->implicits; i++)
		if (reads(g->implicit_op[i]))
			load_gpr(e, g->implicit_host[i], g->implicit_op[i]);
	for (unsigned i = 0; i < g->explicits; i++)
		if (reads(g->explicit_op[i]) || form->drop_f3)
			load_gpr(e, g->explicit_host[i], g->explicit_op[i]);

	emit_operation(e, form, mem_host, g->explicits != 0);

	for (unsigned i = 0; i < g->implicits; i++)
		if (writes(g->implicit_op[i]))
			store_gpr(e, g->implicit_host[i], g->implicit_op[i]);
	if (written)
		store_flags(e);
	/* Last to first: where MULX names one register twice, the first operand, the high half,
	 * stays. */
	for (unsigned i = g->explicits; i-- > 0;)
		if (writes(g->explicit_op[i]))
			store_gpr(e, g->explicit_host[i], g->explicit_op[i]);
	if (form->x87_data)
		store_x87_pointers(e, form);
}

/*
 * A thunk that stores has two bodies: the one entered goes on with the next
 * record; the other, whose distance is in the four bytes before the entry,
 * goes to vector_store_finish.
 */
bool vector_encode(const struct vector_form *form, struct vector_thunk *thunk)
{
	struct gprs g = { 0 };
	struct emit e = { thunk->bytes };
	bool store = form->mem && (form->mem->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE);
	uint8_t *distance = e.p, *entry;

	if (!collect_gprs(form, &g))
		return false;
	if (store) {
		if (form->mem->actions & ZYDIS_OPERAND_ACTION_MASK_READ)
			return false;
		emit32(&e, 0);
	}
	entry = e.p;
	emit_body(&e, form, &g);
	emit_next(&e);
	if (store) {
		uint64_t finish = (uintptr_t)vector_store_finish;

		bytes_store32(distance, (uint32_t)(e.p - entry));
		emit_body(&e, form, &g);
		EMIT(&e, 0x48, 0xb8); /* mov rax, imm64; jmp rax */
		bytes_store64(e.p, finish);
		e.p += 8;
		EMIT(&e, 0xff, 0xe0);
	}
	thunk->entry = (unsigned)(entry - thunk->bytes);
	thunk->len = (unsigned)(e.p - thunk->bytes);
	ASSERT(thunk->len <= VECTOR_THUNK_MAX);
	return true;
}
