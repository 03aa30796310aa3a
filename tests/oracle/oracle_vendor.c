/*
 * What AMD's processors do otherwise than Intel's where programs do not depend
 * on it. The engine does as Intel's; on a host of AMD's such encodings are not
 * tried, or part of their result is not compared. Called by the generator and
 * by the comparison.
 */
#include "oracle.h"
#include "oracle_template.h"
#include <string.h>

bool vendor_is_amd(void)
{
	return __builtin_cpu_is("amd");
}

static bool is_loop(const ZydisDecodedInstruction *insn)
{
	return insn->mnemonic == ZYDIS_MNEMONIC_LOOPE || insn->mnemonic == ZYDIS_MNEMONIC_LOOPNE;
}

static bool has_prefix(const ZydisDecodedInstruction *insn, uint8_t prefix)
{
	for (unsigned i = 0; i < insn->raw.prefix_count; i++)
		if (insn->raw.prefixes[i].value == prefix)
			return true;
	return false;
}

static bool is_repeated(const ZydisDecodedInstruction *insn)
{
	return insn->attributes &
	       (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE);
}

bool vendor_excluded(const ZydisDecodedInstruction *insn)
{
	bool repeat = has_prefix(insn, 0xf2) || has_prefix(insn, 0xf3);

	if (!vendor_is_amd())
		return false;
	/* With a 16-bit operand size a near branch of 64-bit code loads IP (APM 3, 1.2.1). */
	if (insn->meta.branch_type != ZYDIS_BRANCH_TYPE_NONE && has_prefix(insn, 0x66))
		return true;
	/* The repeat prefixes choose the condition. */
	if (is_loop(insn) && repeat)
		return true;
	/* XCHG with R8, whatever prefix. */
	if (insn->mnemonic == ZYDIS_MNEMONIC_PAUSE && insn->raw.rex.B)
		return true;
	/* PREFETCH of a register is #UD. */
	if (insn->opcode_map == ZYDIS_OPCODE_MAP_0F && insn->opcode == 0x0d &&
	    insn->raw.modrm.mod == 3)
		return true;
	/* Reads all four bytes for two. */
	if (insn->mnemonic == ZYDIS_MNEMONIC_MOVSXD && has_prefix(insn, 0x66))
		return true;
	/* 32-bit code has no 64-bit operands: W is then reserved. */
	if ((insn->mnemonic == ZYDIS_MNEMONIC_VPINSRD ||
	     insn->mnemonic == ZYDIS_MNEMONIC_VPEXTRD) &&
	    insn->raw.vex.W)
		return true;
	/* The upper halves of registers are cleared only when an iteration is complete. */
	return is_repeated(insn) && has_prefix(insn, 0x67);
}

static bool is_gather(const ZydisDecodedInstruction *insn)
{
	return insn->meta.category == ZYDIS_CATEGORY_AVX2GATHER;
}

static bool is_whole_state(const ZydisDecodedInstruction *insn)
{
	return insn->meta.category == ZYDIS_CATEGORY_XSAVE ||
	       insn->meta.isa_set == ZYDIS_ISA_SET_FXSAVE ||
	       insn->meta.isa_set == ZYDIS_ISA_SET_FXSAVE64;
}

static bool is_x87_store(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *ops)
{
	return insn->meta.category == ZYDIS_CATEGORY_X87_ALU && insn->operand_count &&
	       ops[0].type == ZYDIS_OPERAND_TYPE_MEMORY &&
	       (ops[0].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE);
}

static bool is_vector(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *ops)
{
	for (unsigned i = 0; i < insn->operand_count; i++) {
		ZydisRegisterClass class = ZydisRegisterGetClass(ops[i].reg.value);

		if (ops[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    (class == ZYDIS_REGCLASS_XMM || class == ZYDIS_REGCLASS_YMM))
			return true;
	}
	return false;
}

uint32_t vendor_skips(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *ops)
{
	uint32_t skip = 0;

	if (!vendor_is_amd())
		return 0;
	if (is_repeated(insn))
		skip |= SKIP_FAULT_FLAGS;
	/* The return address is stored only for a target that is canonical. */
	if (insn->meta.category == ZYDIS_CATEGORY_CALL)
		skip |= SKIP_FAULT_MEMORY;
	if (is_gather(insn))
		skip |= SKIP_FAULT_VECTORS;
	/* A fault of the store comes before the exception that would prevent it. */
	if (is_x87_store(insn, ops) || insn->mnemonic == ZYDIS_MNEMONIC_VCVTPS2PH)
		skip |= SKIP_FAULT;
	if (insn->meta.isa_set == ZYDIS_ISA_SET_SHA)
		skip |= SKIP_ALIGNMENT;
	if (is_vector(insn, ops))
		skip |= SKIP_ALIGNMENT_CHECK;
	/* Alignment, canonical address and each page are checked in another order. */
	if (is_whole_state(insn))
		skip |= SKIP_FAULT;
	return skip;
}

/* An operand of 32-bit code that goes on from offset 4 GiB - 1 to 0: a limit violation here. */
static bool wraps_around(const struct oracle_result *n, const struct oracle_result *e)
{
	return (n->vector == 12 || n->vector == 13) && !n->error && e->vector == 14 &&
	       e->cr2 >> 12 == 0xfffff;
}

/* Misaligned SSE mode, MXCSR.MM, which the engine's processors do not have. */
static bool has_misaligned_mode(const struct oracle_result *n)
{
	uint32_t mxcsr;

	memcpy(&mxcsr, n->state.fx + 24, 4);
	return mxcsr & 1u << 17;
}

bool vendor_incomparable(const struct oracle_result *n, const struct oracle_result *e)
{
	return vendor_is_amd() && (wraps_around(n, e) || has_misaligned_mode(n));
}
