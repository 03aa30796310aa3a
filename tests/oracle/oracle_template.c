/*
 * All encodings of 64-bit user mode that the CPU model exposes and that give
 * the same answer wherever they run: found by asking the decoder about every
 * prefix, map, opcode and ModRM form once, sorted by mnemonic so that rare
 * instructions come up as often as common ones.
 */
#include "cpu/mode.h"
#include "cpu/model.h"
#include "engine/interpret/vector.h"
#include "oracle.h"
#include "oracle_template.h"
#include <stdlib.h>
#include <string.h>

#define PER_MNEMONIC 192

struct bucket {
	unsigned count, seen;
	struct template *templates;
};
static struct bucket buckets[ZYDIS_MNEMONIC_MAX_VALUE + 1];
static uint16_t mnemonics[ZYDIS_MNEMONIC_MAX_VALUE + 1];
static unsigned mnemonic_count;
static struct vcpu probe;
static struct rng sampler;
ZydisDecoder template_decoder;

/* Depends on the machine, the clock, the kernel or the descriptor tables; or leaves the case's
 * world. */
static bool excluded(const ZydisDecodedInstruction *insn)
{
	switch (insn->mnemonic) {
	case ZYDIS_MNEMONIC_SYSCALL:
	case ZYDIS_MNEMONIC_SYSENTER:
	case ZYDIS_MNEMONIC_SYSEXIT:
	case ZYDIS_MNEMONIC_SYSRET:
	case ZYDIS_MNEMONIC_INT:
	case ZYDIS_MNEMONIC_IRET:
	case ZYDIS_MNEMONIC_IRETD:
	case ZYDIS_MNEMONIC_IRETQ:
	case ZYDIS_MNEMONIC_CPUID:
	case ZYDIS_MNEMONIC_RDTSC:
	case ZYDIS_MNEMONIC_RDTSCP:
	case ZYDIS_MNEMONIC_RDPMC:
	case ZYDIS_MNEMONIC_RDPID:
	case ZYDIS_MNEMONIC_RDRAND:
	case ZYDIS_MNEMONIC_RDSEED:
	case ZYDIS_MNEMONIC_RDFSBASE:
	case ZYDIS_MNEMONIC_RDGSBASE:
	case ZYDIS_MNEMONIC_WRFSBASE:
	case ZYDIS_MNEMONIC_WRGSBASE:
	case ZYDIS_MNEMONIC_XGETBV:
	case ZYDIS_MNEMONIC_SGDT:
	case ZYDIS_MNEMONIC_SIDT:
	case ZYDIS_MNEMONIC_SLDT:
	case ZYDIS_MNEMONIC_STR:
	case ZYDIS_MNEMONIC_SMSW:
	case ZYDIS_MNEMONIC_LAR:
	case ZYDIS_MNEMONIC_LSL:
	case ZYDIS_MNEMONIC_VERR:
	case ZYDIS_MNEMONIC_VERW:
	case ZYDIS_MNEMONIC_LFS:
	case ZYDIS_MNEMONIC_LGS:
	case ZYDIS_MNEMONIC_LSS:
	case ZYDIS_MNEMONIC_LDS:
	case ZYDIS_MNEMONIC_LES:
	case ZYDIS_MNEMONIC_UD0:
	case ZYDIS_MNEMONIC_UD1:
	case ZYDIS_MNEMONIC_VMCALL:
	case ZYDIS_MNEMONIC_VMMCALL:
	case ZYDIS_MNEMONIC_VMFUNC:
	case ZYDIS_MNEMONIC_INT1:
	/* Their modified optimisation depends on what ran before. */
	case ZYDIS_MNEMONIC_XSAVEOPT:
	case ZYDIS_MNEMONIC_XSAVEOPT64:
		return true;
	default:
		break;
	}
	/* PUSH of a segment register: some CPUs write two bytes of the slot only. */
	if (insn->meta.category == ZYDIS_CATEGORY_PUSH &&
	    insn->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && (insn->opcode & 0xe7) == 0x06)
		return true;
	if (insn->opcode_map == ZYDIS_OPCODE_MAP_0F &&
	    (insn->opcode == 0xa0 || insn->opcode == 0xa8) &&
	    insn->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY)
		return true;
	/* Far transfers and segment loads depend on the descriptor tables: MOV to and POP of a
	 * segment register, ... */
	if (insn->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && insn->opcode == 0x8e)
		return true;
	if (insn->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT &&
	    insn->meta.category == ZYDIS_CATEGORY_POP &&
	    (insn->opcode == 0x07 || insn->opcode == 0x17 || insn->opcode == 0x1f))
		return true;
	if (insn->opcode_map == ZYDIS_OPCODE_MAP_0F &&
	    (insn->opcode == 0xa1 || insn->opcode == 0xa9) &&
	    insn->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY)
		return true;
	if (insn->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
		return true;
	return insn->meta.category == ZYDIS_CATEGORY_SEGOP;
}

static bool exposed(const ZydisDecodedInstruction *insn)
{
	const struct cpu_model *m = probe.model;
	uint8_t vector;

	switch (insn->meta.isa_set) {
	case ZYDIS_ISA_SET_I86:
	case ZYDIS_ISA_SET_I186:
	case ZYDIS_ISA_SET_I286REAL:
	case ZYDIS_ISA_SET_I286PROTECTED:
	case ZYDIS_ISA_SET_I386:
	case ZYDIS_ISA_SET_I486:
	case ZYDIS_ISA_SET_I486REAL:
	case ZYDIS_ISA_SET_PENTIUMREAL:
	case ZYDIS_ISA_SET_LONGMODE:
	case ZYDIS_ISA_SET_CMOV:
	case ZYDIS_ISA_SET_LAHF:
	case ZYDIS_ISA_SET_FAT_NOP:
	case ZYDIS_ISA_SET_PREFETCH_NOP:
	case ZYDIS_ISA_SET_SSE_PREFETCH:
	case ZYDIS_ISA_SET_CLFSH:
	case ZYDIS_ISA_SET_PAUSE:
	case ZYDIS_ISA_SET_FXSAVE:
	case ZYDIS_ISA_SET_FXSAVE64:
		return true;
	case ZYDIS_ISA_SET_PPRO:
		return true;
	case ZYDIS_ISA_SET_CMPXCHG16B:
		return cpu_has(m, FEAT_CX16);
	case ZYDIS_ISA_SET_CLFLUSHOPT:
		return cpu_has(m, FEAT_CLFLUSHOPT);
	case ZYDIS_ISA_SET_CLWB:
		return cpu_has(m, FEAT_CLWB);
	case ZYDIS_ISA_SET_SERIALIZE:
		return cpu_has(m, FEAT_SERIALIZE);
	case ZYDIS_ISA_SET_XSAVE:
		return cpu_has(m, FEAT_XSAVE);
	case ZYDIS_ISA_SET_XSAVEC:
		return cpu_has(m, FEAT_XSAVEC);
	default:
		break;
	}
	switch (insn->mnemonic) {
	case ZYDIS_MNEMONIC_LFENCE:
	case ZYDIS_MNEMONIC_MFENCE:
	case ZYDIS_MNEMONIC_SFENCE:
		return true;
	case ZYDIS_MNEMONIC_TZCNT: /* without it BSF, and this host has it */
		return insn->meta.isa_set == ZYDIS_ISA_SET_BMI1 && cpu_has(m, FEAT_BMI1);
	case ZYDIS_MNEMONIC_LZCNT:
		return insn->meta.isa_set == ZYDIS_ISA_SET_LZCNT && cpu_has(m, FEAT_LZCNT);
	default:
		return vector_allowed(&probe, insn, &vector);
	}
}

bool template_acceptable(const ZydisDecodedInstruction *insn)
{
	if (insn->mnemonic == ZYDIS_MNEMONIC_INVALID || excluded(insn))
		return false;
	return exposed(insn);
}

static void consider(const struct template *t, const ZydisDecodedInstruction *insn)
{
	struct bucket *b = &buckets[insn->mnemonic];
	unsigned at;

	if (!template_acceptable(insn))
		return;
	if (!b->templates) {
		b->templates = malloc(PER_MNEMONIC * sizeof(*b->templates));
		if (!b->templates)
			abort();
		mnemonics[mnemonic_count++] = (uint16_t)insn->mnemonic;
	}
	/* A fair sample where there are more forms than places. */
	at = b->seen++;
	if (at >= PER_MNEMONIC) {
		at = rng_below(&sampler, b->seen);
		if (at >= PER_MNEMONIC)
			return;
	} else {
		b->count++;
	}
	b->templates[at] = *t;
	b->templates[at].mnemonic = (uint16_t)insn->mnemonic;
}

/* The template's bytes up to ModRM; registers and displacement 0. Returns the length before ModRM.
 */
unsigned template_bytes(const struct template *t, uint8_t *out, unsigned rex_or_rxb, unsigned vvvv)
{
	unsigned n = 0;

	if (t->vex) {
		out[n++] = 0xc4;
		out[n++] = (uint8_t)((~rex_or_rxb & 7) << 5 | t->map);
		out[n++] = (uint8_t)(t->w << 7 | (~vvvv & 15) << 3 | t->l << 2 | t->prefix);
	} else {
		static const uint8_t prefixes[4] = { 0, 0x66, 0xf3, 0xf2 };

		if (t->prefix)
			out[n++] = prefixes[t->prefix];
		if (t->w || rex_or_rxb)
			out[n++] = (uint8_t)(0x40 | t->w << 3 | rex_or_rxb);
		if (t->map)
			out[n++] = 0x0f;
		if (t->map == 2)
			out[n++] = 0x38;
		if (t->map == 3)
			out[n++] = 0x3a;
	}
	out[n++] = t->opcode;
	return n;
}

static bool try_decode(const struct template *t, ZydisDecodedInstruction *insn, unsigned vvvv)
{
	uint8_t bytes[24] = { 0 };
	unsigned n = template_bytes(t, bytes, 0, vvvv);

	/* rm 0 is [rax]; rm 4 with SIB 0x00 is [rax + rax], or [rax + xmm0] */
	bytes[n] = (uint8_t)((t->mod3 ? 0xc0 : 0) | t->reg << 3 |
			     (t->mod3  ? t->rm
			      : t->sib ? 4
				       : 0));
	if (t->sib)
		bytes[n + 1] = 0x08;
	return ZYAN_SUCCESS(
		ZydisDecoderDecodeInstruction(&template_decoder, NULL, bytes, 15, insn));
}

/* What would be read as a prefix, or as the first byte of VEX or EVEX. */
static bool is_prefix(unsigned opcode, bool compat)
{
	return (!compat && (opcode & 0xf0) == 0x40) || (opcode & 0xe7) == 0x26 ||
	       (opcode >= 0x64 && opcode <= 0x67) || opcode == 0xf0 || opcode == 0xf2 ||
	       opcode == 0xf3 || opcode == 0xc4 || opcode == 0xc5 || opcode == 0x62 ||
	       opcode == 0x0f;
}

static void enumerate_forms(struct template t)
{
	ZydisDecodedInstruction insn;

	for (unsigned mod3 = 0; mod3 < 2; mod3++)
		for (unsigned reg = 0; reg < 8; reg++)
			for (unsigned rm = 0; rm < (mod3 ? 8u : 1u); rm++) {
				t.mod3 = (uint8_t)mod3;
				t.reg = (uint8_t)reg;
				t.rm = (uint8_t)rm;
				t.sib = 0;
				t.vvvv = 0;
				if (t.vex && try_decode(&t, &insn, 3)) {
					t.vvvv = 1;
				} else if (!try_decode(&t, &insn, 0)) {
					/* VSIB, and gathers want three different registers */
					t.sib = 1;
					t.vvvv = 1;
					if (mod3 || !t.vex || !try_decode(&t, &insn, 5))
						continue;
				}
				t.modrm = insn.attributes & ZYDIS_ATTRIB_HAS_MODRM ? 1 : 0;
				consider(&t, &insn);
				if (!t.modrm)
					return;
			}
}

int template_init(const struct cpu_model *model, bool compat)
{
	struct template t;

	rng_seed(&sampler, 1);
	probe.model = model;
	probe.soft.mode = (compat ? MODE_CODE32 | MODE_STACK32 : MODE_CODE64) | MODE_PROTECTED |
			  MODE_CPL3 | MODE_LONG | MODE_SSE | MODE_XSAVE | MODE_FLAT |
			  (cpu_has(model, FEAT_AVX) ? MODE_AVX : 0);
	if (ZYAN_FAILED(ZydisDecoderInit(&template_decoder,
					 compat ? ZYDIS_MACHINE_MODE_LONG_COMPAT_32
						: ZYDIS_MACHINE_MODE_LONG_64,
					 compat ? ZYDIS_STACK_WIDTH_32 : ZYDIS_STACK_WIDTH_64)))
		return -1;
	for (unsigned map = 0; map < 4; map++)
		for (unsigned prefix = 0; prefix < 4; prefix++)
			for (unsigned w = 0; w < 2; w++)
				for (unsigned opcode = 0; opcode < 256; opcode++) {
					t = (struct template){ .map = (uint8_t)map,
							       .prefix = (uint8_t)prefix,
							       .w = (uint8_t)w,
							       .opcode = (uint8_t)opcode };
					if (map == 0 && is_prefix(opcode, compat))
						continue;
					if (!w || !compat) /* REX.W */
						enumerate_forms(t);
					if (!map)
						continue;
					t.vex = 1;
					for (unsigned l = 0; l < 2; l++) {
						t.l = (uint8_t)l;
						enumerate_forms(t);
					}
				}
	return mnemonic_count ? 0 : -1;
}

unsigned template_mnemonics(void)
{
	return mnemonic_count;
}

/* The mnemonics that `only` selects, found once. */
static unsigned choices(const char *only, const uint16_t **list)
{
	static uint16_t chosen[ZYDIS_MNEMONIC_MAX_VALUE + 1];
	static unsigned count;

	*list = mnemonics;
	if (!only)
		return mnemonic_count;
	*list = chosen;
	if (count)
		return count;
	for (unsigned i = 0; i < mnemonic_count; i++)
		if (strstr(ZydisMnemonicGetString((ZydisMnemonic)mnemonics[i]), only))
			chosen[count++] = mnemonics[i];
	return count;
}

unsigned template_matches(const char *only)
{
	const uint16_t *list;

	return choices(only, &list);
}

const struct template *template_pick(struct rng *r, const char *only)
{
	const uint16_t *list;
	unsigned count = choices(only, &list);
	const struct bucket *b = &buckets[list[rng_below(r, count)]];

	return &b->templates[rng_below(r, b->count)];
}
