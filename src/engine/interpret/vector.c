/*
 * Decoding of vector, x87 and native scalar instructions into records. Called
 * by the trace builder, parked.
 *
 * Invariant: what this file accepts either runs as its own bytes on the
 * guest's state, or raises the exception the manual names.
 */
#include "engine/interpret/vector.h"
#include "cpu/mode.h"
#include "cpu/model.h"
#include "engine/interpret/vector_priv.h"

static const void *raise_ud(struct vcpu *v, const struct insn *i)
{
	excp_ud(v);
	FAULT(v, i);
}

static const void *raise_nm(struct vcpu *v, const struct insn *i)
{
	excp_nm(v);
	FAULT(v, i);
}

/* The signal handler's way out of a thunk: #MF or #XM of the guest. */
const void *native_fault_tail(struct vcpu *v, const struct insn *i, unsigned trapno)
{
	if (trapno == VEC_MF)
		excp_raise(v, VEC_MF);
	else if (v->arch.cr4 & CR4_OSXMMEXCPT)
		excp_raise(v, VEC_XM);
	else
		excp_ud(v);
	FAULT(v, i);
}

/* Is the instruction of this class at all? Those of other classes in the same ISA sets are named
 * one by one. */
static bool in_class(const ZydisDecodedInstruction *insn)
{
	switch (insn->mnemonic) {
	case ZYDIS_MNEMONIC_LFENCE:
	case ZYDIS_MNEMONIC_MFENCE:
	case ZYDIS_MNEMONIC_SFENCE:
	case ZYDIS_MNEMONIC_FXSAVE:
	case ZYDIS_MNEMONIC_FXSAVE64:
	case ZYDIS_MNEMONIC_FXRSTOR:
	case ZYDIS_MNEMONIC_FXRSTOR64:
	case ZYDIS_MNEMONIC_FNSAVE:
	case ZYDIS_MNEMONIC_FRSTOR:
	case ZYDIS_MNEMONIC_FNSTENV:
	case ZYDIS_MNEMONIC_FLDENV:
		return false;
	default:
		break;
	}
	if (insn->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY)
		return true;
	switch (insn->meta.isa_ext) {
	case ZYDIS_ISA_EXT_X87:
	case ZYDIS_ISA_EXT_MMX:
	case ZYDIS_ISA_EXT_SSE:
	case ZYDIS_ISA_EXT_SSE2:
	case ZYDIS_ISA_EXT_SSE3:
	case ZYDIS_ISA_EXT_SSSE3:
	case ZYDIS_ISA_EXT_SSE4:
	case ZYDIS_ISA_EXT_SSE4A:
	case ZYDIS_ISA_EXT_AES:
	case ZYDIS_ISA_EXT_PCLMULQDQ:
	case ZYDIS_ISA_EXT_SHA:
	case ZYDIS_ISA_EXT_GFNI:
	case ZYDIS_ISA_EXT_BMI1:
	case ZYDIS_ISA_EXT_BMI2:
	case ZYDIS_ISA_EXT_LZCNT:
	case ZYDIS_ISA_EXT_ADOX_ADCX:
	case ZYDIS_ISA_EXT_MOVBE:
	case ZYDIS_ISA_EXT_MOVDIR:
	case ZYDIS_ISA_EXT_AMD3DNOW:
		return insn->meta.isa_set != ZYDIS_ISA_SET_SSE_PREFETCH;
	default:
		return false;
	}
}

bool x87_control(ZydisMnemonic mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_FNINIT:
	case ZYDIS_MNEMONIC_FNCLEX:
	case ZYDIS_MNEMONIC_FLDCW:
	case ZYDIS_MNEMONIC_FNSTCW:
	case ZYDIS_MNEMONIC_FNSTSW:
	case ZYDIS_MNEMONIC_FWAIT:
	case ZYDIS_MNEMONIC_FENI8087_NOP:
	case ZYDIS_MNEMONIC_FDISI8087_NOP:
	case ZYDIS_MNEMONIC_FSETPM287_NOP:
		return true;
	default:
		return false;
	}
}

static bool x87_result_store(ZydisMnemonic mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_FST:
	case ZYDIS_MNEMONIC_FSTP:
	case ZYDIS_MNEMONIC_FIST:
	case ZYDIS_MNEMONIC_FISTP:
	case ZYDIS_MNEMONIC_FISTTP:
	case ZYDIS_MNEMONIC_FBSTP:
		return true;
	default:
		return false;
	}
}

/* x87 and MMX instructions with a memory operand that report a pending exception. */
static bool waits(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operands)
{
	if (insn->mnemonic == ZYDIS_MNEMONIC_FNSTCW || insn->mnemonic == ZYDIS_MNEMONIC_FNSTSW)
		return false;
	if (insn->meta.isa_ext == ZYDIS_ISA_EXT_X87 || insn->mnemonic == ZYDIS_MNEMONIC_FISTTP)
		return true;
	for (unsigned i = 0; i < insn->operand_count; i++)
		if (operands[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    ZydisRegisterGetClass(operands[i].reg.value) == ZYDIS_REGCLASS_MMX)
			return true;
	return false;
}

/* Must the memory operand be aligned? Legacy 16-byte operands, and the moves that say so by name.
 */
static bool aligned_form(const ZydisDecodedInstruction *insn, unsigned size)
{
	switch (insn->mnemonic) {
	case ZYDIS_MNEMONIC_VMOVAPS:
	case ZYDIS_MNEMONIC_VMOVAPD:
	case ZYDIS_MNEMONIC_VMOVDQA:
	case ZYDIS_MNEMONIC_VMOVNTPS:
	case ZYDIS_MNEMONIC_VMOVNTPD:
	case ZYDIS_MNEMONIC_VMOVNTDQ:
	case ZYDIS_MNEMONIC_VMOVNTDQA:
		return true;
	case ZYDIS_MNEMONIC_MOVUPS:
	case ZYDIS_MNEMONIC_MOVUPD:
	case ZYDIS_MNEMONIC_MOVDQU:
	case ZYDIS_MNEMONIC_LDDQU:
	case ZYDIS_MNEMONIC_PCMPESTRI:
	case ZYDIS_MNEMONIC_PCMPESTRM:
	case ZYDIS_MNEMONIC_PCMPISTRI:
	case ZYDIS_MNEMONIC_PCMPISTRM:
		return false;
	default:
		return insn->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY && size == 16;
	}
}

static const ZydisDecodedOperand *memory_operand(const ZydisDecodedInstruction *insn,
						 const ZydisDecodedOperand *operands)
{
	for (unsigned i = 0; i < insn->operand_count; i++)
		if (operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY)
			return &operands[i];
	return NULL;
}

bool vector_decode(struct vcpu *v, struct native_code *code, const ZydisDecodedInstruction *insn,
		   const ZydisDecodedOperand *operands, const uint8_t *bytes, bool fast64,
		   struct insn *out, bool *space)
{
	struct vector_form form = { .insn = insn, .operands = operands, .bytes = bytes };
	struct vector_thunk thunk;
	uint8_t vector;

	*space = true;
	if (!in_class(insn))
		return false;
	form.mem = memory_operand(insn, operands);
	form.code64 = v->soft.mode & MODE_CODE64;
	form.x87_data = insn->meta.isa_ext == ZYDIS_ISA_EXT_X87 && !x87_control(insn->mnemonic);
	form.x87_data |= insn->mnemonic == ZYDIS_MNEMONIC_FISTTP;
	form.drop_f3 = (insn->mnemonic == ZYDIS_MNEMONIC_TZCNT && !cpu_has(v->model, FEAT_BMI1)) ||
		       (insn->mnemonic == ZYDIS_MNEMONIC_LZCNT && !cpu_has(v->model, FEAT_LZCNT));

	if (!vector_allowed(v, insn, &vector)) {
		out->handler = vector == VEC_NM ? raise_nm : raise_ud;
		return true;
	}
	out->handler = vector_special(v, code, &form, fast64, out, space);
	if (out->handler)
		return true;
	if (!vector_encode(&form, &thunk)) {
		out->handler = raise_ud;
		return true;
	}
	out->code = native_code_place(code, thunk.bytes, thunk.len, thunk.entry);
	if (!out->code) {
		*space = false;
		return true;
	}
	if (!form.mem) {
		out->handler = (insn_handler *)(uintptr_t)out->code;
		out->disp = (int32_t)(thunk.len - thunk.entry) - 3;
		return true;
	}
	unsigned size = form.mem->size / 8;

	out->aux = (uint16_t)size;
	if (aligned_form(insn, size))
		out->aux |= VECTOR_ALIGNED;
	if (form.x87_data)
		out->aux |= VECTOR_X87;
	if (form.mem->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
		out->aux |= VECTOR_STORE;
	if (x87_result_store(insn->mnemonic))
		out->aux |= VECTOR_X87_STORE;
	if (waits(insn, operands))
		out->aux |= VECTOR_WAITS;
	if (insn->mnemonic == ZYDIS_MNEMONIC_VCVTPS2PH)
		out->aux |= VECTOR_LATE_STORE;
	if (insn->meta.isa_set == ZYDIS_ISA_SET_F16C)
		out->aux |= VECTOR_UNALIGNED;
	out->handler = vector_memory_handler(out->aux, fast64);
	return true;
}
