/*
 * Instructions about flags as a whole: PUSHF, POPF, CLI, STI, CLAC, STAC and
 * the single-bit ones. Invariant: a flag that the current privilege, IOPL, VME
 * or PVI protects keeps its value.
 */
#include "base/assert.h"
#include "cpu/excp.h"
#include "cpu/mmu.h"
#include "cpu/model.h"
#include "cpu/stack.h"
#include "engine/interpret/sysop.h"

#define FLAGS_LOW (FLAGS_ARITH | FLAG_TF | FLAG_DF | FLAG_NT)

static void flags_assign(struct vcpu *v, uint64_t mask, uint64_t value)
{
	v->arch.rflags = (v->arch.rflags & ~mask) | (value & mask) | FLAG_FIXED;
}

/* Operand size by name: the decoder chose PUSHFQ, not the size of anything else. */
static unsigned flags_size(const struct sysop *op)
{
	switch (op->mnemonic) {
	case ZYDIS_MNEMONIC_PUSHF:
	case ZYDIS_MNEMONIC_POPF:
		return 2;
	case ZYDIS_MNEMONIC_PUSHFD:
	case ZYDIS_MNEMONIC_POPFD:
		return 4;
	default:
		return 8;
	}
}

static int op_pushf(struct vcpu *v, const struct sysop *op)
{
	unsigned size = flags_size(op);
	uint64_t image = v->arch.rflags & ~(uint64_t)(FLAG_VM | FLAG_RF);

	if (vcpu_vm86(v) && vcpu_iopl(v) < 3) {
		if (size != 2 || !(v->arch.cr4 & CR4_VME))
			return excp_gp(v, 0);
		/* The program sees its virtual IF, and IOPL 3. */
		image &= ~(uint64_t)FLAG_IF;
		image |= FLAG_IOPL | ((image & FLAG_VIF) ? FLAG_IF : 0);
	}
	return stack_push(v, image, size) < 0 ? -1 : SYSOP_DONE;
}

/* VM86 at IOPL < 3 with VME: IF of the image goes to VIF. -1: #GP. */
static int popf_virtual(struct vcpu *v, uint64_t image)
{
	if ((image & FLAG_TF) || ((image & FLAG_IF) && (v->arch.rflags & FLAG_VIP)))
		return excp_gp(v, 0);
	flags_assign(v, FLAGS_LOW, image);
	flags_assign(v, FLAG_VIF, (image & FLAG_IF) ? FLAG_VIF : 0);
	return 0;
}

static int op_popf(struct vcpu *v, const struct sysop *op)
{
	struct stack st = stack_current(v);
	unsigned size = flags_size(op);
	bool virtual = vcpu_vm86(v) && vcpu_iopl(v) < 3;
	uint64_t image, mask = FLAGS_LOW;

	if (virtual && (size != 2 || !(v->arch.cr4 & CR4_VME)))
		return excp_gp(v, 0);
	if (stack_read(v, &st, &image, 1, size) < 0)
		return -1;
	if (virtual) {
		if (popf_virtual(v, image) < 0)
			return -1;
	} else {
		if (v->arch.cpl <= vcpu_iopl(v))
			mask |= FLAG_IF;
		if (v->arch.cpl == 0)
			mask |= FLAG_IOPL;
		if (size > 2)
			mask |= FLAG_AC | FLAG_ID;
		flags_assign(v, mask, image);
		/* VM, VIF and VIP keep their values; a 32- or 64-bit POPF clears RF. */
		if (size > 2)
			v->arch.rflags &= ~(uint64_t)FLAG_RF;
	}
	stack_commit(v, &st);
	vcpu_mode_changed(v);
	return SYSOP_DONE;
}

/* Which flag CLI and STI change here: IF, VIF, or none (0: #GP). */
static uint64_t interrupt_flag(const struct vcpu *v)
{
	if (v->arch.cpl <= vcpu_iopl(v))
		return FLAG_IF;
	if (vcpu_vm86(v))
		return (v->arch.cr4 & CR4_VME) ? FLAG_VIF : 0;
	return v->arch.cpl == 3 && (v->arch.cr4 & CR4_PVI) ? FLAG_VIF : 0;
}

static int op_cli(struct vcpu *v, const struct sysop *op)
{
	uint64_t flag = interrupt_flag(v);

	if (!flag)
		return excp_gp(v, 0);
	v->arch.rflags &= ~flag;
	return SYSOP_DONE;
}

static int op_sti(struct vcpu *v, const struct sysop *op)
{
	uint64_t flag = interrupt_flag(v);

	if (!flag || (flag == FLAG_VIF && (v->arch.rflags & FLAG_VIP)))
		return excp_gp(v, 0);
	/* Interrupts wait for one more instruction, but only when STI enables them (SDM 2B, STI).
	 */
	if (flag == FLAG_IF && !(v->arch.rflags & FLAG_IF))
		v->arch.shadow = SHADOW_STI;
	v->arch.rflags |= flag;
	return SYSOP_DONE;
}

static int op_ac(struct vcpu *v, const struct sysop *op)
{
	if (!cpu_has(v->model, FEAT_SMAP) || v->arch.cpl != 0)
		return excp_ud(v);
	flags_assign(v, FLAG_AC, op->mnemonic == ZYDIS_MNEMONIC_STAC ? FLAG_AC : 0);
	vcpu_mode_changed(v);
	return SYSOP_DONE;
}

static int op_single(struct vcpu *v, const struct sysop *op)
{
	switch (op->mnemonic) {
	case ZYDIS_MNEMONIC_CLC:
		v->arch.rflags &= ~(uint64_t)FLAG_CF;
		break;
	case ZYDIS_MNEMONIC_STC:
		v->arch.rflags |= FLAG_CF;
		break;
	case ZYDIS_MNEMONIC_CMC:
		v->arch.rflags ^= FLAG_CF;
		break;
	case ZYDIS_MNEMONIC_CLD:
		v->arch.rflags &= ~(uint64_t)FLAG_DF;
		break;
	default:
		v->arch.rflags |= FLAG_DF;
		break;
	}
	return SYSOP_DONE;
}

#define FLAGS_AH (FLAG_SF | FLAG_ZF | FLAG_AF | FLAG_PF | FLAG_CF)

static int op_lahf(struct vcpu *v, const struct sysop *op)
{
	if (vcpu_code64(v) && !cpu_has(v->model, FEAT_LAHF))
		return excp_ud(v);
	v->arch.gpr[RAX] =
		(v->arch.gpr[RAX] & ~0xff00ull) | ((v->arch.rflags & FLAGS_AH) | FLAG_FIXED) << 8;
	return SYSOP_DONE;
}

static int op_sahf(struct vcpu *v, const struct sysop *op)
{
	if (vcpu_code64(v) && !cpu_has(v->model, FEAT_LAHF))
		return excp_ud(v);
	flags_assign(v, FLAGS_AH, v->arch.gpr[RAX] >> 8);
	return SYSOP_DONE;
}

/* Undocumented: AL becomes all copies of CF. */
static int op_salc(struct vcpu *v, const struct sysop *op)
{
	sysop_reg_write(v, op, RAX, 1, (v->arch.rflags & FLAG_CF) ? 0xff : 0);
	return SYSOP_DONE;
}

struct sysop_entry sysop_find_flags(const ZydisDecodedInstruction *insn)
{
	switch (insn->mnemonic) {
	case ZYDIS_MNEMONIC_PUSHF:
	case ZYDIS_MNEMONIC_PUSHFD:
	case ZYDIS_MNEMONIC_PUSHFQ:
		return (struct sysop_entry){ op_pushf, SYSOP_LIGHT };
	case ZYDIS_MNEMONIC_POPF:
	case ZYDIS_MNEMONIC_POPFD:
	case ZYDIS_MNEMONIC_POPFQ:
		return (struct sysop_entry){ op_popf, 0 };
	case ZYDIS_MNEMONIC_CLI:
		return (struct sysop_entry){ op_cli, SYSOP_LIGHT };
	case ZYDIS_MNEMONIC_STI:
		return (struct sysop_entry){ op_sti, 0 };
	case ZYDIS_MNEMONIC_CLAC:
	case ZYDIS_MNEMONIC_STAC:
		return (struct sysop_entry){ op_ac, SYSOP_LIGHT };
	case ZYDIS_MNEMONIC_CLC:
	case ZYDIS_MNEMONIC_STC:
	case ZYDIS_MNEMONIC_CMC:
	case ZYDIS_MNEMONIC_CLD:
	case ZYDIS_MNEMONIC_STD:
		return (struct sysop_entry){ op_single, SYSOP_LIGHT };
	case ZYDIS_MNEMONIC_LAHF:
		return (struct sysop_entry){ op_lahf, SYSOP_LIGHT };
	case ZYDIS_MNEMONIC_SAHF:
		return (struct sysop_entry){ op_sahf, SYSOP_LIGHT };
	case ZYDIS_MNEMONIC_SALC:
		return (struct sysop_entry){ op_salc, SYSOP_LIGHT };
	default:
		return (struct sysop_entry){ NULL, 0 };
	}
}
