/*
 * The decoder: one pass lowers instructions to records, one pass backwards
 * finds dead flags. Called by the dispatcher on a trace-cache miss, parked.
 * Invariant: what it emits depends only on the bytes, the mode word and the
 * CPU model, never on register contents.
 */
#include "engine/interpret/decode.h"
#include "base/bytes.h"
#include "cpu/mode.h"
#include "cpu/model.h"
#include "engine/interpret/ops.h"
#include "engine/interpret/sysop.h"
#include "engine/interpret/vector.h"

enum { DECODER_LONG, DECODER_COMPAT_32, DECODER_COMPAT_16, DECODER_LEGACY_32, DECODER_LEGACY_16 };

void decoder_init(struct decoder *d, struct vcpu *v, struct trace_cache *cache,
		  struct native_code *native)
{
	d->v = v;
	d->cache = cache;
	d->native = native;
	ZydisDecoderInit(&d->zydis[DECODER_LONG], ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	ZydisDecoderInit(&d->zydis[DECODER_COMPAT_32], ZYDIS_MACHINE_MODE_LONG_COMPAT_32,
			 ZYDIS_STACK_WIDTH_32);
	ZydisDecoderInit(&d->zydis[DECODER_COMPAT_16], ZYDIS_MACHINE_MODE_LONG_COMPAT_16,
			 ZYDIS_STACK_WIDTH_16);
	ZydisDecoderInit(&d->zydis[DECODER_LEGACY_32], ZYDIS_MACHINE_MODE_LEGACY_32,
			 ZYDIS_STACK_WIDTH_32);
	ZydisDecoderInit(&d->zydis[DECODER_LEGACY_16], ZYDIS_MACHINE_MODE_LEGACY_16,
			 ZYDIS_STACK_WIDTH_16);
}

static ZydisDecoder *decoder_for(struct decoder *d, uint32_t mode)
{
	if (mode & MODE_CODE64)
		return &d->zydis[DECODER_LONG];
	if (mode & MODE_LONG)
		return &d->zydis[mode & MODE_CODE32 ? DECODER_COMPAT_32 : DECODER_COMPAT_16];
	return &d->zydis[mode & MODE_CODE32 ? DECODER_LEGACY_32 : DECODER_LEGACY_16];
}

/* What the lowering of one instruction says about it. */
struct note {
	insn_handler *dead; /* variant without flags, or NULL */
	bool ends;          /* control does not simply run on */
	bool reads;         /* arithmetic flags are read */
	bool kills;         /* all six are written whatever happens */
	bool exits;         /* may fault or branch: flags must be true here */
	bool fusible;       /* CMP or TEST that may take in a Jcc */
	bool test;
	enum form form;
	uint8_t size_log;
	struct trace_hint hint;
};

struct lowering {
	struct decoder *d;
	struct vcpu *v;
	uint32_t mode;
	bool code64;
	uint64_t rip; /* of the trace's first byte */
	uint64_t linear_page;
	const ZydisDecodedInstruction *zi;
	const ZydisDecodedOperand *op;
	const uint8_t *bytes;
	struct insn *out;
	struct note *note;
	bool fast; /* the memory operand can use insn_ea64 */
	bool full; /* pool exhausted */
};

#define OFF_RIP  offsetof(struct vcpu_arch, rip)
#define OFF_ZERO offsetof(struct vcpu_arch, zero)
_Static_assert(offsetof(struct vcpu, arch) == 0 && OFF_ZERO < 256, "register offsets fit a byte");

static unsigned reg_number(ZydisRegister r)
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

static uint8_t reg_offset(ZydisRegister r)
{
	unsigned high = r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH;

	return (uint8_t)(reg_number(r) * 8 + high);
}

static uint8_t seg_number(ZydisRegister r)
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

static unsigned log2_bytes(unsigned bits)
{
	return bits == 64 ? 3 : bits == 32 ? 2 : bits == 16 ? 1 : 0;
}

/* The record may be written out in the trace's code instead of called. */
static struct trace_hint *set_hint(struct lowering *l, enum trace_hint_kind kind, unsigned op,
				   enum form form, unsigned size_log)
{
	l->note->hint = (struct trace_hint){ .kind = (uint8_t)kind,
					     .op = (uint8_t)op,
					     .form = (uint8_t)form,
					     .size_log = (uint8_t)size_log };
	return &l->note->hint;
}

static bool is_reg(const ZydisDecodedOperand *o)
{
	return o->type == ZYDIS_OPERAND_TYPE_REGISTER;
}
static bool is_mem(const ZydisDecodedOperand *o)
{
	return o->type == ZYDIS_OPERAND_TYPE_MEMORY;
}
static bool is_imm(const ZydisDecodedOperand *o)
{
	return o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
}

/*
 * A base of 5 without displacement bits in ModRM means no base and a 32-bit
 * displacement, whatever REX.B says. Zydis 4.0 calls it R13D when the address
 * size is 32 in 64-bit code.
 */
static bool base_is_absent(const ZydisDecodedInstruction *zi)
{
	return zi->raw.modrm.mod == 0 && zi->raw.modrm.rm == 4 && zi->raw.sib.base == 5 &&
	       zi->address_width == 32 && (zi->attributes & ZYDIS_ATTRIB_HAS_SIB);
}

/* Address fields from the (only) memory operand. False if the displacement needs 64 bits. */
static bool set_address(struct lowering *l, const ZydisDecodedOperand *m)
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

static const ZydisDecodedOperand *memory_operand(const struct lowering *l)
{
	unsigned n;

	for (n = 0; n < l->zi->operand_count; n++)
		if (is_mem(&l->op[n]))
			return &l->op[n];
	return NULL;
}

static bool locked(const struct lowering *l)
{
	return l->zi->attributes & ZYDIS_ATTRIB_HAS_LOCK;
}

static uint64_t immediate(const ZydisDecodedOperand *o)
{
	return o->imm.is_signed ? (uint64_t)o->imm.value.s : o->imm.value.u;
}

/* Two operands in the usual combinations: sets dst, src, imm, address; the form, or FORMS if none
 * fits. */
static enum form two_operands(struct lowering *l, const ZydisDecodedOperand *a,
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

static enum form1 one_operand(struct lowering *l, const ZydisDecodedOperand *a)
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
static enum form plain_form(enum form f)
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

static bool same_page(const struct lowering *l, uint64_t target)
{
	return l->code64 && (target & PAGE_MASK) == (l->rip & PAGE_MASK);
}

static void lower_fault(struct lowering *l, uint8_t vector, bool has_error)
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
static void lower_rare(struct lowering *l)
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
static bool lower_branch(struct lowering *l)
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

static bool lower_string(struct lowering *l)
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

static bool lower_stack(struct lowering *l)
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

static bool lower_muldiv(struct lowering *l)
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

static bool lower_bits(struct lowering *l)
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

static bool lower_move(struct lowering *l)
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

static bool lower_arithmetic(struct lowering *l)
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

static void lower(struct lowering *l)
{
	/* VEX and EVEX never mean an instruction of the hot integer set. */
	if (l->zi->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
	    (lower_arithmetic(l) || lower_move(l) || lower_branch(l) || lower_stack(l) ||
	     lower_string(l) || lower_muldiv(l) || lower_bits(l)))
		return;
	*l->note = (struct note){ 0 };
	lower_rare(l);
}

/* CMP/TEST at a, Jcc at b: one record at a, if the layout has room. */
static bool fuse(struct lowering *l, struct insn *a, struct note *na, const struct insn *b)
{
	unsigned cc = l->zi->opcode & 15;
	enum form form = na->form;
	insn_handler *handler;

	if (!na->fusible || !l->code64 || b->handler != jcc_handler(cc, true, true) ||
	    b->disp != (int16_t)b->disp)
		return false;
	if (form == FORM_RX)
		form = FORM_RA;
	if (form == FORM_XR)
		form = FORM_AR;
	if (form == FORM_XI)
		form = FORM_AI;
	if (form == FORM_RI && (int64_t)a->imm != (int32_t)a->imm)
		return false;
	if (form == FORM_AI && (int64_t)a->imm != (int8_t)a->imm)
		return false;
	handler = fused_handler(na->test, form, na->size_log, cc);
	if (!handler)
		return false;
	if (form == FORM_RI)
		a->disp = (int32_t)a->imm;
	if (form == FORM_AI)
		a->src = (uint8_t)a->imm;
	a->link = NULL;
	a->aux = (uint16_t)b->disp;
	a->len = (uint8_t)(a->len + b->len);
	na->hint.kind = HINT_FUSED;
	na->hint.form = (uint8_t)form;
	na->hint.cc = (uint8_t)cc;
	a->handler = handler;
	return true;
}

/* Backwards: where nobody reads the flags before all are written again, do not compute them. */
static void drop_dead_flags(struct insn *insns, struct note *notes, unsigned count)
{
	bool live = true;

	while (count--) {
		struct note *n = &notes[count];

		if (!live && n->dead)
			insns[count].handler = n->dead;
		n->hint.dead = !live;
		if (n->exits || n->reads)
			live = true;
		else if (n->kills)
			live = false;
	}
}

enum decode_status decode_trace(struct decoder *d, struct trace *t, uint64_t rip,
				const uint8_t *bytes, unsigned avail, unsigned most)
{
	struct vcpu *v = d->v;
	uint32_t mode = v->soft.mode;
	struct note notes[TRACE_MAX_INSNS];
	ZydisDecodedInstruction zi;
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
	struct lowering l = { .d = d,
			      .v = v,
			      .mode = mode,
			      .code64 = mode & MODE_CODE64,
			      .rip = rip,
			      .zi = &zi,
			      .op = ops };
	ZydisDecoder *zydis = decoder_for(d, mode);
	uint64_t limit = l.code64 ? ~0ull : v->arch.seg[SEG_CS].limit;
	unsigned done = 0, count = 0;
	bool ends = false;
	struct insn *end;

	while (count < most && !ends) {
		unsigned room = avail - done < 15 ? avail - done : 15;
		struct insn *out = &t->insns[count];
		ZyanStatus status;

		if (!room)
			break;
		status = ZydisDecoderDecodeFull(zydis, bytes + done, room, &zi, ops);
		if (status == ZYDIS_STATUS_NO_MORE_DATA && room < 15) {
			if (!count)
				return DECODE_CROSSES;
			break;
		}
		notes[count] = (struct note){ 0 };
		*out = (struct insn){
			.offset = (uint16_t)done, .base = OFF_ZERO, .index = OFF_ZERO, .seg = SEG_DS
		};
		l.out = out;
		l.note = &notes[count];
		l.bytes = bytes + done;
		l.fast = false;
		if (!ZYAN_SUCCESS(status)) {
			bool too_long = status == ZYDIS_STATUS_INSTRUCTION_TOO_LONG ||
					status == ZYDIS_STATUS_NO_MORE_DATA;

			out->len = 1;
			lower_fault(&l, too_long ? VEC_GP : VEC_UD, too_long);
			zi.length = 1;
		} else if (!l.code64 && ((rip + done) & 0xffffffffu) + zi.length - 1 > limit) {
			out->len = zi.length;
			lower_fault(&l, VEC_GP, true);
		} else {
			out->len = zi.length;
			lower(&l);
			if (l.full)
				return DECODE_FULL;
			if (out->handler == insn_nop && most > 1 && count) {
				/*
				 * No record: what follows has its own offset. Not so the first one:
				 * a killed trace must leave at its first byte.
				 */
				done += zi.length;
				continue;
			}
			if (count && most > 1 &&
			    fuse(&l, &t->insns[count - 1], &notes[count - 1], out)) {
				notes[count - 1].exits = true;
				notes[count - 1].fusible = false;
				notes[count - 1].dead = NULL;
				done += zi.length;
				continue;
			}
		}
		done += zi.length;
		count++;
		ends = l.note->ends;
	}
	drop_dead_flags(t->insns, notes, count);
	t->count = (uint16_t)count;
	for (unsigned n = 0; n < count; n++) {
		d->hints[n] = notes[n].hint;
		d->hints[n].tested = notes[n].exits;
		d->hints[n].ends = notes[n].ends;
	}
	t->bytes = (uint16_t)done;
	end = &t->insns[count];
	*end = (struct insn){ .link = NULL, .offset = (uint16_t)done, .disp = (int32_t)done };
	end->width = (uint8_t)(l.code64 ? 8 : (mode & MODE_CODE32) ? 4 : 2);
	d->hints[count] = (struct trace_hint){ .ends = true };
	if (most == 1) {
		end->handler = insn_stop;
	} else {
		/* Behind a page's last whole instruction comes one that crosses: its trace is never
		 * linked. */
		bool near = same_page(&l, rip + done) && count == most;

		end->handler = end_handler(near, l.code64);
		if (near)
			d->hints[count].kind = HINT_JUMP;
	}
	return DECODE_OK;
}
