/*
 * May this instruction execute: the CPU model's features, CR0, CR4 and XCR0
 * from the mode word. Called by vector.c at decode time; the mode word is part
 * of a trace's key, so the answer holds as long as the trace is found.
 */
#include "cpu/mode.h"
#include "cpu/model.h"
#include "engine/interpret/vector_priv.h"

/* What the instruction needs beyond its CPUID bits. */
enum needs {
	NEEDS_NOTHING, /* general registers only */
	NEEDS_X87,
	NEEDS_WAIT,
	NEEDS_MMX,
	NEEDS_SSE,
	NEEDS_AVX,
	NEEDS_VEX,   /* a VEX prefix, but general registers only */
	NEEDS_NEVER, /* no model has it */
};

struct requirement {
	int feature, feature2; /* -1: none */
	enum needs needs;
};

#define R(f1, f2, n)         \
	(struct requirement) \
	{                    \
		f1, f2, n    \
	}
#define NEVER R(-1, -1, NEEDS_NEVER)

/* Has any operand in an XMM register (an MMX form of an SSE extension has not, and ignores
 * CR4.OSFXSR)? */
static bool mmx_only(const ZydisDecodedInstruction *insn)
{
	switch (insn->meta.isa_set) {
	case ZYDIS_ISA_SET_PENTIUMMMX:
	case ZYDIS_ISA_SET_SSE2MMX:
	case ZYDIS_ISA_SET_SSSE3MMX:
		return true;
	case ZYDIS_ISA_SET_SSE:
		return insn->meta.category == ZYDIS_CATEGORY_MMX;
	default:
		return false;
	}
}

static struct requirement requirement_of(const ZydisDecodedInstruction *insn)
{
	bool vex = insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
	bool wide = insn->avx.vector_length == 256;

	if (insn->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY && !vex)
		return NEVER;
	switch (insn->mnemonic) {
	case ZYDIS_MNEMONIC_CRC32:
		return R(FEAT_SSE42, -1, NEEDS_NOTHING);
	case ZYDIS_MNEMONIC_MOVNTI:
		return R(FEAT_SSE2, -1, NEEDS_NOTHING);
	case ZYDIS_MNEMONIC_VPCLMULQDQ:
		return wide ? R(FEAT_VPCLMUL, FEAT_AVX, NEEDS_AVX)
			    : R(FEAT_PCLMUL, FEAT_AVX, NEEDS_AVX);
	case ZYDIS_MNEMONIC_FWAIT:
		return R(FEAT_FPU, -1, NEEDS_WAIT);
	case ZYDIS_MNEMONIC_FISTTP:
		return R(FEAT_SSE3, FEAT_FPU, NEEDS_X87);
	case ZYDIS_MNEMONIC_FCOMI:
	case ZYDIS_MNEMONIC_FCOMIP:
	case ZYDIS_MNEMONIC_FUCOMI:
	case ZYDIS_MNEMONIC_FUCOMIP:
		return R(FEAT_CMOV, FEAT_FPU, NEEDS_X87);
	default:
		break;
	}
	switch (insn->meta.isa_set) {
	case ZYDIS_ISA_SET_X87:
		return R(FEAT_FPU, -1, NEEDS_X87);
	case ZYDIS_ISA_SET_FCMOV:
		return R(FEAT_FPU, FEAT_CMOV, NEEDS_X87);
	case ZYDIS_ISA_SET_PENTIUMMMX:
		return R(FEAT_MMX, -1, NEEDS_MMX);
	case ZYDIS_ISA_SET_SSE:
	case ZYDIS_ISA_SET_SSEMXCSR:
		return R(FEAT_SSE, -1, mmx_only(insn) ? NEEDS_MMX : NEEDS_SSE);
	case ZYDIS_ISA_SET_SSE2:
		return R(FEAT_SSE2, -1, NEEDS_SSE);
	case ZYDIS_ISA_SET_SSE2MMX:
		return R(FEAT_SSE2, -1, NEEDS_MMX);
	case ZYDIS_ISA_SET_SSE3:
		return R(FEAT_SSE3, -1, NEEDS_SSE);
	case ZYDIS_ISA_SET_SSSE3:
		return R(FEAT_SSSE3, -1, NEEDS_SSE);
	case ZYDIS_ISA_SET_SSSE3MMX:
		return R(FEAT_SSSE3, -1, NEEDS_MMX);
	case ZYDIS_ISA_SET_SSE4:
		return R(FEAT_SSE41, -1, NEEDS_SSE);
	case ZYDIS_ISA_SET_SSE42:
		return R(FEAT_SSE42, -1, NEEDS_SSE);
	case ZYDIS_ISA_SET_AES:
		return R(FEAT_AES, -1, NEEDS_SSE);
	case ZYDIS_ISA_SET_PCLMULQDQ:
		return R(FEAT_PCLMUL, -1, NEEDS_SSE);
	case ZYDIS_ISA_SET_SHA:
		return R(FEAT_SHA, -1, NEEDS_SSE);
	case ZYDIS_ISA_SET_GFNI:
		return R(FEAT_GFNI, -1, NEEDS_SSE);
	case ZYDIS_ISA_SET_AVX:
		return R(FEAT_AVX, -1, NEEDS_AVX);
	case ZYDIS_ISA_SET_AVX2:
	case ZYDIS_ISA_SET_AVX2GATHER:
		return R(FEAT_AVX2, FEAT_AVX, NEEDS_AVX);
	case ZYDIS_ISA_SET_AVXAES:
		return R(FEAT_AES, FEAT_AVX, NEEDS_AVX);
	case ZYDIS_ISA_SET_VAES:
		return R(FEAT_VAES, FEAT_AVX, NEEDS_AVX);
	case ZYDIS_ISA_SET_VPCLMULQDQ:
		return R(FEAT_VPCLMUL, FEAT_AVX, NEEDS_AVX);
	case ZYDIS_ISA_SET_AVX_GFNI:
		return R(FEAT_GFNI, FEAT_AVX, NEEDS_AVX);
	case ZYDIS_ISA_SET_AVX_VNNI:
		return R(FEAT_AVX_VNNI, FEAT_AVX, NEEDS_AVX);
	case ZYDIS_ISA_SET_F16C:
		return R(FEAT_F16C, FEAT_AVX, NEEDS_AVX);
	case ZYDIS_ISA_SET_FMA:
		return R(FEAT_FMA, FEAT_AVX, NEEDS_AVX);
	case ZYDIS_ISA_SET_BMI1:
		return R(FEAT_BMI1, -1, vex ? NEEDS_VEX : NEEDS_NOTHING);
	case ZYDIS_ISA_SET_BMI2:
		return R(FEAT_BMI2, -1, NEEDS_VEX);
	case ZYDIS_ISA_SET_LZCNT:
		return R(FEAT_LZCNT, -1, NEEDS_NOTHING);
	case ZYDIS_ISA_SET_POPCNT:
		return R(FEAT_POPCNT, -1, NEEDS_NOTHING);
	case ZYDIS_ISA_SET_ADOX_ADCX:
		return R(FEAT_ADX, -1, NEEDS_NOTHING);
	case ZYDIS_ISA_SET_MOVBE:
		return R(FEAT_MOVBE, -1, NEEDS_NOTHING);
	case ZYDIS_ISA_SET_MOVDIR:
		return R(insn->mnemonic == ZYDIS_MNEMONIC_MOVDIRI ? FEAT_MOVDIRI : FEAT_MOVDIR64B,
			 -1, NEEDS_NOTHING);
	default:
		/* FISTTP and SSE3X87 are above; AVX-512, AMX, XOP, FMA4, SSE4A, 3DNow! have no
		 * model. */
		return NEVER;
	}
}

bool vector_allowed(const struct vcpu *v, const ZydisDecodedInstruction *insn,
		    uint8_t *vector_if_not)
{
	struct requirement r = requirement_of(insn);
	uint32_t mode = v->soft.mode;

	*vector_if_not = VEC_UD;
	/* LZCNT and TZCNT exist everywhere: as BSR and BSF where the model lacks them. */
	if (insn->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
	    (insn->mnemonic == ZYDIS_MNEMONIC_TZCNT || insn->mnemonic == ZYDIS_MNEMONIC_LZCNT))
		return true;
	if (r.needs == NEEDS_NEVER || !cpu_has(v->model, (enum cpu_feature)r.feature))
		return false;
	if (r.feature2 >= 0 && !cpu_has(v->model, (enum cpu_feature)r.feature2))
		return false;
	switch (r.needs) {
	case NEEDS_NOTHING:
		return true;
	case NEEDS_X87:
		*vector_if_not = VEC_NM;
		return !(mode & MODE_FPU_NM);
	case NEEDS_WAIT:
		*vector_if_not = VEC_NM;
		return !(mode & MODE_MP);
	case NEEDS_SSE:
		if (!(mode & MODE_SSE))
			return false;
		/* fall through */
	case NEEDS_MMX:
		if (mode & MODE_EM)
			return false;
		*vector_if_not = VEC_NM;
		return !(mode & MODE_TS);
	case NEEDS_VEX:
		return (mode & MODE_PROTECTED) && !(mode & MODE_VM86);
	case NEEDS_AVX:
		if (!(mode & MODE_PROTECTED) || (mode & MODE_VM86) || !(mode & MODE_AVX))
			return false;
		*vector_if_not = VEC_NM;
		return !(mode & MODE_TS);
	default:
		return false;
	}
}
