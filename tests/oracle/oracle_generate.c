/*
 * One case from one seed: one instruction or a short block, its initial state,
 * and registers chosen so that memory operands fall on interesting addresses.
 */
#include "oracle.h"
#include "oracle_template.h"
#include <stddef.h>
#include <string.h>

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI };
#define ARITH           0x8d5u
#define LE32(x)         (x) & 0xff, (x) >> 8 & 0xff, (x) >> 16 & 0xff, (x) >> 24 & 0xff
#define LE64(x)         LE32(x), (x) >> 32 & 0xff, (x) >> 40 & 0xff, (x) >> 48 & 0xff, (x) >> 56
#define IMAGE_STANDARD  0x2400u /* offsets in the data of valid XSAVE images */
#define IMAGE_COMPACTED 0x2800u

static uint8_t data[DATA_PAGES * PAGE];

static uint64_t interesting64(struct rng *r)
{
	static const uint64_t list[] = { 0,
					 1,
					 0x7f,
					 0x80,
					 0xff,
					 0x7fff,
					 0x8000,
					 0xffff,
					 0x7fffffff,
					 0x80000000,
					 0xffffffff,
					 0x100000000,
					 0x7fffffffffffffff,
					 0x8000000000000000,
					 ~0ull,
					 0xaaaaaaaaaaaaaaaa };

	switch (rng_below(r, 6)) {
	case 0:
		return list[rng_below(r, sizeof(list) / sizeof(list[0]))];
	case 1:
		return rng_below(r, 256);
	case 2:
		return -(uint64_t)rng_below(r, 256);
	case 3:
		return 1ull << rng_below(r, 64);
	default:
		return rng_next(r);
	}
}

static uint32_t float32(struct rng *r)
{
	static const uint32_t list[] = { 0,          0x80000000, 0x3f800000, 0xbf800000, 0x7f800000,
					 0xff800000, 0x7fc00000, 0x7f800001, 0xffc12345, 1,
					 0x807fffff, 0x00800000, 0x7f7fffff, 0x4f000000, 0x5f000000,
					 0x4effffff, 0x3effffff, 0x3f000000 };

	if (rng_chance(r, 35))
		return list[rng_below(r, sizeof(list) / sizeof(list[0]))];
	if (rng_chance(r, 60)) /* exponents near one another: sums and products stay in range */
		return (uint32_t)(rng_next(r) & 0x807fffff) | (0x70u + rng_below(r, 0x20)) << 23;
	return (uint32_t)rng_next(r);
}

static uint64_t float64(struct rng *r)
{
	static const uint64_t list[] = { 0,
					 0x8000000000000000,
					 0x3ff0000000000000,
					 0xbff0000000000000,
					 0x7ff0000000000000,
					 0xfff0000000000000,
					 0x7ff8000000000000,
					 0x7ff0000000000001,
					 1,
					 0x800fffffffffffff,
					 0x0010000000000000,
					 0x7fefffffffffffff,
					 0x41dfffffffc00000,
					 0x43e0000000000000,
					 0x3fe0000000000000,
					 0x36a0000000000000 };

	if (rng_chance(r, 35))
		return list[rng_below(r, sizeof(list) / sizeof(list[0]))];
	if (rng_chance(r, 60))
		return (rng_next(r) & 0x800fffffffffffff) | (uint64_t)(0x3e0 + rng_below(r, 0x60))
								    << 52;
	return rng_next(r);
}

static void vector16(struct rng *r, uint8_t *out)
{
	uint64_t q[2];
	uint32_t d[4];

	switch (rng_below(r, 4)) {
	case 0:
		for (unsigned i = 0; i < 4; i++)
			d[i] = float32(r);
		memcpy(out, d, 16);
		return;
	case 1:
		for (unsigned i = 0; i < 2; i++)
			q[i] = float64(r);
		break;
	case 2:
		for (unsigned i = 0; i < 2; i++)
			q[i] = interesting64(r);
		break;
	default:
		q[0] = rng_next(r);
		q[1] = rng_next(r);
	}
	memcpy(out, q, 16);
}

static void float80(struct rng *r, uint8_t *out)
{
	static const uint16_t exponents[] = { 0,      1,      0x3fff, 0x7ffe, 0x7fff,
					      0x403e, 0x3fbe, 0x8000, 0xbfff, 0xffff };
	static const uint64_t fractions[] = { 0, 0x8000000000000000, 0xc000000000000000, ~0ull,
					      1, 0x8000000000000001 };
	uint64_t fraction =
		rng_chance(r, 40) ? fractions[rng_below(r, 6)] : rng_next(r) | 1ull << 63;
	uint16_t exponent =
		rng_chance(r, 40)
			? exponents[rng_below(r, 10)]
			: (uint16_t)(0x3fe0 + rng_below(r, 0x60) + (rng_below(r, 2) << 15));

	memset(out, 0, 16);
	memcpy(out, &fraction, 8);
	memcpy(out + 8, &exponent, 2);
}

/* Layout of the area: SDM 1, 13.4. */
static void fx_image(struct rng *r, uint8_t *fx)
{
	uint16_t fcw = 0x37f, fsw = (uint16_t)(rng_below(r, 8) << 11 | (rng_below(r, 16) & 7) << 8);
	uint32_t mxcsr = 0x1f80, mask = 0xffff;
	uint64_t xstate_bv = 7;

	memset(fx, 0, FX_SIZE);
	if (rng_chance(r, 30))
		fcw = (uint16_t)(0x40 | (rng_next(r) & 0xf00) |
				 (rng_chance(r, 50) ? 0x3f : rng_next(r) & 0x3f));
	if (rng_chance(r, 30))
		fsw |= (uint16_t)(rng_next(r) & 0x407f);
	if (fsw & ~fcw & 0x3f)
		fsw |= 0x8080;
	if (rng_chance(r, 40))
		mxcsr = (uint32_t)((rng_next(r) & 0xe07f) |
				   (rng_chance(r, 70) ? 0x1f80 : rng_next(r) & 0x1f80));
	memcpy(fx, &fcw, 2);
	memcpy(fx + 2, &fsw, 2);
	fx[4] = (uint8_t)(rng_chance(r, 50) ? rng_next(r) : rng_chance(r, 70) ? 0xff : 0);
	if (rng_chance(r, 50) && native_keeps_fip()) {
		uint32_t pointers[4] = { rng_below(r, 1u << 31), 0, rng_below(r, 1u << 31), 0 };

		memcpy(fx + 8, pointers, 16);
	}
	memcpy(fx + 24, &mxcsr, 4);
	memcpy(fx + 28, &mask, 4);
	for (unsigned i = 0; i < 8; i++)
		float80(r, fx + 32 + 16 * i);
	for (unsigned i = 0; i < 16; i++) {
		vector16(r, fx + 160 + 16 * i);
		vector16(r, fx + 576 + 16 * i);
	}
	if (rng_chance(r, 10))
		xstate_bv = rng_next(r) & 7;
	memcpy(fx + 512, &xstate_bv, 8);
}

void generate_data(uint8_t *pages, uint64_t seed)
{
	struct rng r;
	uint64_t compacted = 1ull << 63 | 7;

	rng_seed(&r, seed);
	for (unsigned i = 0; i < sizeof(data); i += 16)
		if (rng_chance(&r, 15))
			float80(&r, data + i);
		else
			vector16(&r, data + i);
	fx_image(&r, data + IMAGE_STANDARD);
	fx_image(&r, data + IMAGE_COMPACTED);
	memcpy(data + IMAGE_COMPACTED + 520, &compacted, 8);
	memcpy(pages, data, sizeof(data));
}

/* An address for an operand of `size` bytes. */
static uint64_t pick_target(struct rng *r, unsigned size, bool aligned)
{
	unsigned page = 1 + rng_below(r, 2);
	uint64_t at;

	if (!size)
		size = 1;
	if (rng_chance(r, 30)) {
		/* Near the start of some page, on either side of it, whatever the pages are. */
		at = (uint64_t)(1 + rng_below(r, 7)) * PAGE + rng_below(r, 2 * size + 8) - size - 4;
	} else {
		if (rng_chance(r, 15))
			page = 1 + rng_below(r, 6);
		at = (uint64_t)page * PAGE + 256 + rng_below(r, PAGE - 512);
	}
	if (aligned || rng_chance(r, 50)) {
		unsigned align = 1;

		while (align < size && align < 64)
			align <<= 1;
		at &= ~(uint64_t)(align - 1);
	}
	return DATA_BASE + at;
}

static void initial_state(struct rng *r, struct oracle_state *s)
{
	for (unsigned i = 0; i < 16; i++)
		s->gpr[i] = rng_chance(r, 25) ? pick_target(r, 8, false) : interesting64(r);
	s->gpr[RSP] = DATA_BASE + 0x1000 + 8 * rng_below(r, 2 * PAGE / 8);
	s->rflags = (rng_next(r) & ARITH) | 0x202 | (rng_chance(r, 10) ? 0x400 : 0) |
		    (rng_chance(r, 3) ? 0x40000 : 0);
	fx_image(r, s->fx);
}

struct piece {
	uint8_t bytes[16];
	ZydisDecodedInstruction insn;
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
};

/* Fills in what a template leaves open. False if the result is not acceptable. */
static bool build(struct rng *r, const struct template *t, struct piece *p, bool compat)
{
	uint8_t bytes[40];
	unsigned n = 0, body;

	for (unsigned i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)rng_next(r);
	if (rng_chance(r, 4))
		bytes[n++] = 0x65;
	if (rng_chance(r, 4))
		bytes[n++] = 0x67;
	if (!t->vex && t->prefix != 0x66 && rng_chance(r, 15))
		bytes[n++] = 0x66;
	body = n;
	n += template_bytes(t, bytes + n, !compat && rng_chance(r, 60) ? rng_below(r, 8) : 0,
			    t->vvvv ? rng_below(r, compat ? 8 : 16) : 0);
	if (t->modrm) {
		if (t->mod3) {
			bytes[n] = (uint8_t)(0xc0 | t->reg << 3 | t->rm);
		} else {
			unsigned rm = t->sib ? 4 : rng_below(r, 8);

			bytes[n] = (uint8_t)(rng_below(r, 3) << 6 | t->reg << 3 | rm);
		}
		n++;
	}
	if (ZYAN_FAILED(ZydisDecoderDecodeFull(&template_decoder, bytes, 15, &p->insn, p->ops)))
		return false;
	if ((p->insn.attributes & ZYDIS_ATTRIB_ACCEPTS_LOCK) && rng_chance(r, 20)) {
		memmove(bytes + body + 1, bytes + body, sizeof(bytes) - body - 1);
		bytes[body] = 0xf0;
		if (ZYAN_FAILED(
			    ZydisDecoderDecodeFull(&template_decoder, bytes, 15, &p->insn, p->ops)))
			return false;
	}
	memcpy(p->bytes, bytes, p->insn.length);
	return template_acceptable(&p->insn) && !vendor_excluded(&p->insn);
}

static bool is_gpr(ZydisRegister reg)
{
	ZydisRegisterClass k = ZydisRegisterGetClass(reg);

	return k == ZYDIS_REGCLASS_GPR64 || k == ZYDIS_REGCLASS_GPR32 ||
	       k == ZYDIS_REGCLASS_GPR16 || k == ZYDIS_REGCLASS_GPR8;
}

static unsigned gpr_number(ZydisRegister reg)
{
	return (unsigned)ZydisRegisterGetId(
		ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg));
}

static void patch_disp(struct piece *p, uint64_t value)
{
	memcpy(p->bytes + p->insn.raw.disp.offset, &value, p->insn.raw.disp.size / 8);
}

static void steer_vsib(struct rng *r, struct oracle_case *c, const struct piece *p,
		       const ZydisDecodedOperand *op)
{
	unsigned reg = (unsigned)ZydisRegisterGetId(op->mem.index) & 15;
	bool wide = false;

	switch (p->insn.mnemonic) {
	case ZYDIS_MNEMONIC_VGATHERQPD:
	case ZYDIS_MNEMONIC_VGATHERQPS:
	case ZYDIS_MNEMONIC_VPGATHERQD:
	case ZYDIS_MNEMONIC_VPGATHERQQ:
		wide = true;
		break;
	default:
		break;
	}
	for (unsigned i = 0; i < (wide ? 4u : 8u); i++) {
		unsigned size = wide ? 8 : 4, at = i * size;
		int64_t value = (int64_t)rng_below(r, 4096) - 2048;

		value /= op->mem.scale ? op->mem.scale : 1;
		if (rng_chance(r, 4))
			value = (int64_t)interesting64(r);
		memcpy(c->initial.fx + (at < 16 ? 160 + 16 * reg + at : 576 + 16 * reg + at - 16),
		       &value, size);
	}
}

static bool locked(const struct piece *p)
{
	return (p->insn.attributes & ZYDIS_ATTRIB_HAS_LOCK) ||
	       p->insn.mnemonic == ZYDIS_MNEMONIC_XCHG;
}

/* Values that make comparisons succeed now and then. */
static void steer_compare(struct rng *r, struct oracle_case *c, const struct piece *p,
			  uint64_t target, unsigned written)
{
	uint64_t at = target - DATA_BASE;

	if (at > sizeof(data) - 16 || rng_chance(r, 50) || (written & (1 << RAX | 1 << RDX)))
		return;
	if (p->insn.mnemonic == ZYDIS_MNEMONIC_CMPXCHG) {
		memcpy(&c->initial.gpr[RAX], data + at, 8);
	} else if (p->insn.mnemonic == ZYDIS_MNEMONIC_CMPXCHG8B) {
		memcpy(&c->initial.gpr[RAX], data + at, 4);
		memcpy(&c->initial.gpr[RDX], data + at + 4, 4);
	} else if (p->insn.mnemonic == ZYDIS_MNEMONIC_CMPXCHG16B) {
		memcpy(&c->initial.gpr[RAX], data + at, 8);
		memcpy(&c->initial.gpr[RDX], data + at + 8, 8);
	}
}

static bool whole_state(const ZydisDecodedInstruction *insn)
{
	return insn->meta.category == ZYDIS_CATEGORY_XSAVE ||
	       insn->meta.isa_set == ZYDIS_ISA_SET_FXSAVE ||
	       insn->meta.isa_set == ZYDIS_ISA_SET_FXSAVE64;
}

static uint64_t target_for(struct rng *r, const struct piece *p, const ZydisDecodedOperand *op)
{
	if (whole_state(&p->insn)) {
		if (rng_chance(r, 60))
			return DATA_BASE + (rng_chance(r, 50) ? IMAGE_STANDARD : IMAGE_COMPACTED);
		return pick_target(r, FX_SIZE, true) & (rng_chance(r, 90) ? ~63ull : ~15ull);
	}
	return pick_target(r, op->size / 8, locked(p));
}

static bool feature_register(ZydisRegister reg)
{
	return is_gpr(reg) && (gpr_number(reg) == RAX || gpr_number(reg) == RDX);
}

/*
 * The host has components that no guest has: the request in EDX:EAX must stay
 * what it is, and a header may not name them.
 */
static bool plain_xsave(const ZydisDecodedOperand *op, uint64_t target)
{
	uint64_t header[2] = { 0 }, at = target - DATA_BASE + 512;

	if (feature_register(op->mem.base) || feature_register(op->mem.index))
		return false;
	if (at <= sizeof(data) - sizeof(header))
		memcpy(header, data + at, sizeof(header));
	return !(header[0] & ~7ull) && !(header[1] & ~(1ull << 63 | 7));
}

/* Makes the memory operands of instruction p fall on data. False: it must not run with a wild
 * address. */
static bool steer(struct rng *r, struct oracle_case *c, struct piece *p, uint64_t next_rip,
		  unsigned written, bool first)
{
	uint64_t *gpr = c->initial.gpr;

	if ((p->insn.attributes &
	     (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE)) &&
	    rng_chance(r, 80))
		gpr[RCX] = rng_below(r, rng_chance(r, 50) ? 8 : 200);
	switch (p->insn.mnemonic) {
	case ZYDIS_MNEMONIC_DIV:
	case ZYDIS_MNEMONIC_IDIV:
		if (rng_chance(r, 60))
			gpr[RDX] = rng_chance(r, 50) ? 0 : rng_below(r, 16);
		break;
	case ZYDIS_MNEMONIC_PCMPESTRI:
	case ZYDIS_MNEMONIC_PCMPESTRM:
	case ZYDIS_MNEMONIC_VPCMPESTRI:
	case ZYDIS_MNEMONIC_VPCMPESTRM:
		if (rng_chance(r, 70)) {
			gpr[RAX] = rng_below(r, 20);
			gpr[RDX] = rng_below(r, 20);
		}
		break;
	case ZYDIS_MNEMONIC_BT:
	case ZYDIS_MNEMONIC_BTS:
	case ZYDIS_MNEMONIC_BTR:
	case ZYDIS_MNEMONIC_BTC:
		if (p->ops[1].type == ZYDIS_OPERAND_TYPE_REGISTER && rng_chance(r, 80))
			gpr[gpr_number(p->ops[1].reg.value)] =
				(uint64_t)(int64_t)((int)rng_below(r, 2048) - 1024);
		break;
	default:
		break;
	}
	if (p->insn.meta.category ==
	    ZYDIS_CATEGORY_XSAVE) { /* the host has components that no guest has */
		gpr[RAX] = rng_chance(r, 70) ? 7 : rng_below(r, 8);
		gpr[RDX] = 0;
	}
	for (unsigned i = 0; i < p->insn.operand_count; i++) {
		const ZydisDecodedOperand *op = &p->ops[i];
		unsigned base, index;
		uint64_t target, disp;

		if (op->type != ZYDIS_OPERAND_TYPE_MEMORY || op->mem.type == ZYDIS_MEMOP_TYPE_AGEN)
			continue;
		target = target_for(r, p, op);
		steer_compare(r, c, p, target, written);
		disp = (uint64_t)op->mem.disp.value;
		if (p->insn.meta.category == ZYDIS_CATEGORY_XSAVE && !plain_xsave(op, target))
			return false;
		if (op->mem.segment == ZYDIS_REGISTER_GS)
			target -= GS_BASE;
		if (op->mem.base == ZYDIS_REGISTER_RIP || op->mem.base == ZYDIS_REGISTER_EIP) {
			patch_disp(p, target - next_rip);
			continue;
		}
		if (op->mem.index != ZYDIS_REGISTER_NONE && !is_gpr(op->mem.index)) {
			if (!first)
				return false;
			steer_vsib(r, c, p, op);
		}
		if (op->mem.base == ZYDIS_REGISTER_NONE &&
		    (op->mem.index == ZYDIS_REGISTER_NONE || !is_gpr(op->mem.index))) {
			patch_disp(p, target);
			continue;
		}
		index = is_gpr(op->mem.index) ? gpr_number(op->mem.index) : 16;
		if (op->mem.base == ZYDIS_REGISTER_NONE) {
			if ((written >> index & 1) || index == RSP) {
				if (locked(p))
					return false;
				continue;
			}
			/* The remainder goes to the displacement, which a form without base has. */
			gpr[index] = target / op->mem.scale;
			patch_disp(p, target % op->mem.scale);
			continue;
		}
		base = gpr_number(op->mem.base);
		if (base == index || (written >> base & 1) ||
				    (index < 16 && (written >> index & 1)) ||
				    op->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN
			    ? base == RSP
			    : 0) {
			if (locked(p))
				return false;
			if (base == RSP && !(written >> RSP & 1) && rng_chance(r, 40))
				gpr[RSP] = target;
			continue;
		}
		if (index < 16)
			disp += gpr[index] * op->mem.scale;
		gpr[base] = target - disp;
		/* A 32-bit address truncates the sum; the upper half of the register may hold
		 * anything. */
	}
	return true;
}

static bool reads_all_flags(ZydisMnemonic m)
{
	return m == ZYDIS_MNEMONIC_PUSHF || m == ZYDIS_MNEMONIC_PUSHFD ||
	       m == ZYDIS_MNEMONIC_PUSHFQ || m == ZYDIS_MNEMONIC_LAHF;
}

/* Not in blocks: they would show what earlier instructions left undefined, or need to be alone. */
static bool single_only(const ZydisDecodedInstruction *insn)
{
	switch (insn->mnemonic) {
	case ZYDIS_MNEMONIC_FNSAVE:
	case ZYDIS_MNEMONIC_FNSTENV:
	case ZYDIS_MNEMONIC_POPF:
	case ZYDIS_MNEMONIC_POPFD:
	case ZYDIS_MNEMONIC_POPFQ:
	case ZYDIS_MNEMONIC_BSF:
	case ZYDIS_MNEMONIC_BSR:
	case ZYDIS_MNEMONIC_XCHG:
		return true;
	default:
		return whole_state(insn);
	}
}

/* With a count of 0, REP forms, shifts and rotations leave the flags that were there. */
static bool always_defines(const ZydisDecodedInstruction *insn)
{
	return !(insn->attributes & (ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE)) &&
	       insn->meta.category != ZYDIS_CATEGORY_SHIFT &&
	       insn->meta.category != ZYDIS_CATEGORY_ROTATE;
}

static unsigned written_gprs(const struct piece *p)
{
	unsigned mask = 0;

	for (unsigned i = 0; i < p->insn.operand_count; i++)
		if (p->ops[i].type == ZYDIS_OPERAND_TYPE_REGISTER && is_gpr(p->ops[i].reg.value) &&
		    (p->ops[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
			mask |= 1u << gpr_number(p->ops[i].reg.value);
	return mask;
}

/* Stores of MMX registers: some CPUs have switched to MMX state when the store faults. */
static bool mmx_store(const struct piece *p)
{
	bool mmx = false, store = false;

	for (unsigned i = 0; i < p->insn.operand_count; i++) {
		const ZydisDecodedOperand *op = &p->ops[i];

		mmx |= op->type == ZYDIS_OPERAND_TYPE_REGISTER &&
		       ZydisRegisterGetClass(op->reg.value) == ZYDIS_REGCLASS_MMX;
		store |= op->type == ZYDIS_OPERAND_TYPE_MEMORY &&
			 (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE);
	}
	return mmx && store;
}

static uint32_t skips(const struct piece *p)
{
	const ZydisDecodedInstruction *insn = &p->insn;

	if (insn->attributes & (ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE))
		return SKIP_FAULT_FLAGS;
	if (mmx_store(p) && insn->mnemonic != ZYDIS_MNEMONIC_MASKMOVQ)
		return SKIP_FAULT_X87;
	switch (insn->mnemonic) {
	case ZYDIS_MNEMONIC_MASKMOVQ:
	case ZYDIS_MNEMONIC_MASKMOVDQU:
	case ZYDIS_MNEMONIC_VMASKMOVDQU:
		return SKIP_FAULT;
	case ZYDIS_MNEMONIC_VMASKMOVPS:
	case ZYDIS_MNEMONIC_VMASKMOVPD:
	case ZYDIS_MNEMONIC_VPMASKMOVD:
	case ZYDIS_MNEMONIC_VPMASKMOVQ:
	case ZYDIS_MNEMONIC_FRSTOR:
	case ZYDIS_MNEMONIC_FLDENV:
		return SKIP_FAULT_OFFSET;
	case ZYDIS_MNEMONIC_POPA:
	case ZYDIS_MNEMONIC_POPAD:
		return SKIP_FAULT_REGISTERS | SKIP_FAULT_OFFSET;
	case ZYDIS_MNEMONIC_PUSHA:
	case ZYDIS_MNEMONIC_PUSHAD:
		return SKIP_FAULT_MEMORY;
	case ZYDIS_MNEMONIC_FBSTP:
	case ZYDIS_MNEMONIC_FSTP: /* ten bytes are two stores */
		return p->ops[0].size == 80 ? SKIP_FAULT_MEMORY : 0;
	case ZYDIS_MNEMONIC_FNSAVE:
	case ZYDIS_MNEMONIC_FNSTENV:
		return SKIP_FAULT_OFFSET | SKIP_FAULT_MEMORY;
	default:
		return whole_state(insn) ? SKIP_FAULT_OFFSET | SKIP_FAULT_MEMORY : 0;
	}
}

static bool relative_branch(const ZydisDecodedInstruction *insn)
{
	return insn->raw.imm[0].is_relative;
}

static void append(struct oracle_case *c, struct piece *p)
{
	c->insn_at[c->insns++] = c->code_len;
	memcpy(c->code + c->code_len, p->bytes, p->insn.length);
	c->code_len += p->insn.length;
	c->insn_at[c->insns] = c->code_len;
}

/* Relative branches go to a later instruction or to the end. */
static void patch_branch(struct rng *r, struct oracle_case *c, unsigned n,
			 const ZydisDecodedInstruction *insn)
{
	unsigned next = c->insn_at[n] + insn->length, to = n + 1 + rng_below(r, c->insns - n);
	int32_t rel = c->insn_at[to] - (int32_t)next;

	if (insn->raw.imm[0].size == 32 &&
	    rng_chance(r, 10)) /* far away, where nothing is mapped */
		rel = (int32_t)((rng_next(r) & 0x03ffffff) + 0x100000);
	memcpy(c->code + c->insn_at[n] + insn->raw.imm[0].offset, &rel, insn->raw.imm[0].size / 8);
}

void generate_case(struct oracle_case *c, uint64_t seed, const char *only, bool compat)
{
	/* jmp [rip + 0] with the address behind it; jmp USER_CS:LOW_STUB_BASE */
	static const uint8_t end64[EPILOGUE_SIZE] = { 0xff, 0x25, [6] = LE64(STUB_BASE) };
	static const uint8_t end32[EPILOGUE_SIZE] = {
		0xea, LE32(LOW_STUB_BASE), 0x33, 0, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc
	};
	ZydisDecodedInstruction branches[CASE_INSNS_MAX];
	unsigned count, written = 0, undefined = 0;
	uint64_t code_at;
	struct piece p;
	struct rng r;

	rng_seed(&r, seed);
	memset(c, 0, offsetof(struct oracle_case, native));
	c->seed = seed;
	initial_state(&r, &c->initial);
	c->offset = rng_below(&r, CODE_PAGES * PAGE - CASE_CODE_MAX);
	if (rng_chance(&r, 8))
		c->offset = PAGE - rng_below(&r, 32);
	count = rng_chance(&r, 70) ? 1 : 2 + rng_below(&r, CASE_INSNS_MAX - 1);
	if (rng_chance(&r, 2)) { /* the bytes run off the end of what is mapped */
		count = 1;
		c->offset = CODE_PAGES * PAGE - 1 - rng_below(&r, 6);
	}
	code_at = CODE_BASE + c->offset;
	for (unsigned tries = 0; c->insns < count && tries < 64; tries++) {
		const ZydisAccessedFlags *flags;
		uint32_t tested;

		if (!build(&r, template_pick(&r, only), &p, compat))
			continue;
		if (count > 1 && single_only(&p.insn))
			continue;
		flags = p.insn.cpu_flags;
		tested = flags ? flags->tested : 0;
		if (reads_all_flags(p.insn.mnemonic))
			tested = ARITH;
		if (tested & undefined)
			continue;
		if (!steer(&r, c, &p, code_at + c->code_len + p.insn.length, written,
			   c->insns == 0))
			continue;
		if (relative_branch(&p.insn))
			c->branches = true;
		c->skip |= skips(&p) | vendor_skips(&p.insn, p.ops);
		branches[c->insns] = p.insn;
		append(c, &p);
		written |= written_gprs(&p);
		if (flags) {
			if (always_defines(&p.insn))
				undefined &= ~(flags->modified | flags->set_0 | flags->set_1);
			undefined |= flags->undefined;
		}
		c->undefined[c->insns] = undefined & ARITH;
	}
	for (unsigned i = 0; i < c->insns; i++)
		if (relative_branch(&branches[i]))
			patch_branch(&r, c, i, &branches[i]);
	memcpy(c->code + c->code_len, compat ? end32 : end64, EPILOGUE_SIZE);
	for (unsigned i = 0; compat && i < 16; i++)
		c->initial.gpr[i] = (uint32_t)c->initial.gpr[i];
	c->code_len += EPILOGUE_SIZE;
	if (c->offset + c->code_len > CODE_PAGES * PAGE)
		c->code_len = (uint8_t)(CODE_PAGES * PAGE - c->offset);
	c->initial.rip = code_at;
}
