/*
 * Rare instructions that transfer far or load segments: operands fetched here,
 * the work done by src/cpu. Called by the interpreter through struct sysop.
 * Invariant of every function: -1 means nothing architectural changed.
 */
#include "engine/interpret/sysop.h"
#include "base/assert.h"
#include "cpu/excp.h"
#include "cpu/model.h"
#include "cpu/mmu.h"
#include "cpu/segment.h"
#include "cpu/stack.h"

static uint64_t next_rip(const struct vcpu *v, const struct sysop *op)
{
	uint64_t rip = v->arch.rip + op->len;

	if (likely(vcpu_code64(v)))
		return rip;
	return v->arch.seg[SEG_CS].attr & SEG_DB ? (uint32_t)rip : (uint16_t)rip;
}

/* m16:16, m16:32, m16:64: the offset first, the selector behind it. */
static int far_pointer(struct vcpu *v, const struct sysop *op, uint64_t *offset, uint16_t *selector)
{
	uint64_t value;

	if (!op->is_mem) {
		*offset = op->imm;
		*selector = (uint16_t)op->imm2;
		return 0;
	}
	if (sysop_load(v, op, 0, op->opsize, offset) || sysop_load(v, op, op->opsize, 2, &value))
		return -1;
	*selector = (uint16_t)value;
	return 0;
}

static int op_jmp_far(struct vcpu *v, const struct sysop *op)
{
	uint64_t offset;
	uint16_t selector;

	if (far_pointer(v, op, &offset, &selector) ||
	    far_jump(v, selector, offset, op->opsize, next_rip(v, op)))
		return -1;
	return SYSOP_JUMPED;
}

static int op_call_far(struct vcpu *v, const struct sysop *op)
{
	uint64_t offset;
	uint16_t selector;

	if (far_pointer(v, op, &offset, &selector) ||
	    far_call(v, selector, offset, op->opsize, next_rip(v, op)))
		return -1;
	return SYSOP_JUMPED;
}

static int op_ret_far(struct vcpu *v, const struct sysop *op)
{
	if (far_return(v, op->opsize, op->opcode == 0xca ? (uint16_t)op->imm : 0))
		return -1;
	return SYSOP_JUMPED;
}

static int op_iret(struct vcpu *v, const struct sysop *op)
{
	unsigned opsize = op->mnemonic == ZYDIS_MNEMONIC_IRETQ   ? 8
			  : op->mnemonic == ZYDIS_MNEMONIC_IRETD ? 4
								 : 2;

	return interrupt_return(v, opsize, next_rip(v, op)) ? -1 : SYSOP_JUMPED;
}

/* Software interrupts are "faults" that the engine delivers like any other; only their type
 * differs. */
static int software_interrupt(struct vcpu *v, const struct sysop *op, uint8_t vector,
			      enum excp_type type)
{
	v->fault = (struct excp){ .vector = vector, .type = (uint8_t)type, .insn_len = op->len };
	return -1;
}

static int op_int(struct vcpu *v, const struct sysop *op)
{
	return software_interrupt(v, op, (uint8_t)op->imm, EXCP_SOFT_INT);
}

static int op_int3(struct vcpu *v, const struct sysop *op)
{
	return software_interrupt(v, op, VEC_BP, EXCP_INT3);
}

static int op_int1(struct vcpu *v, const struct sysop *op)
{
	return software_interrupt(v, op, VEC_DB, EXCP_ICEBP);
}

static int op_into(struct vcpu *v, const struct sysop *op)
{
	if (!(v->arch.rflags & FLAG_OF))
		return SYSOP_DONE;
	return software_interrupt(v, op, VEC_OF, EXCP_INTO);
}

static int op_ud(struct vcpu *v, const struct sysop *op)
{
	return excp_ud(v);
}

/* MOV SS and POP SS hold off interrupts and debug traps for one instruction. */
static void shadow_after_ss(struct vcpu *v)
{
	v->arch.shadow = SHADOW_MOV_SS;
	atomic_fetch_or_explicit(&v->req, REQ_SHADOW, memory_order_relaxed);
}

static int op_mov_from_sreg(struct vcpu *v, const struct sysop *op)
{
	uint16_t selector;

	if (op->reg > SEG_GS)
		return excp_ud(v);
	selector = v->arch.seg[op->reg].selector;
	if (op->is_mem)
		return sysop_store(v, op, 0, 2, selector) ? -1 : SYSOP_DONE;
	sysop_reg_write(v, op, op->rm, op->opsize, selector);
	return SYSOP_DONE;
}

static int op_mov_to_sreg(struct vcpu *v, const struct sysop *op)
{
	uint64_t selector;

	if (op->reg > SEG_GS || op->reg == SEG_CS)
		return excp_ud(v);
	if (sysop_rm_read(v, op, 2, &selector) || segment_load(v, op->reg, (uint16_t)selector))
		return -1;
	if (op->reg == SEG_SS)
		shadow_after_ss(v);
	return SYSOP_DONE;
}

/* 06 0E 16 1E and 0F A0 A8, and their POPs one above: ES CS SS DS FS GS. */
static unsigned implied_sreg(const struct sysop *op)
{
	return (op->opcode >> 3) & 7;
}

static int op_push_sreg(struct vcpu *v, const struct sysop *op)
{
	return stack_push(v, v->arch.seg[implied_sreg(op)].selector, op->opsize) ? -1 : SYSOP_DONE;
}

static int op_pop_sreg(struct vcpu *v, const struct sysop *op)
{
	struct stack st = stack_current(v);
	unsigned seg = implied_sreg(op);
	uint64_t selector;

	if (stack_read(v, &st, &selector, 1, op->opsize) ||
	    segment_load(v, seg, (uint16_t)selector))
		return -1;
	stack_commit(v, &st);
	if (seg == SEG_SS)
		shadow_after_ss(v);
	return SYSOP_DONE;
}

static int op_load_far_pointer(struct vcpu *v, const struct sysop *op)
{
	uint64_t offset;
	uint16_t selector;
	unsigned seg;

	switch (op->mnemonic) {
	case ZYDIS_MNEMONIC_LES:
		seg = SEG_ES;
		break;
	case ZYDIS_MNEMONIC_LDS:
		seg = SEG_DS;
		break;
	case ZYDIS_MNEMONIC_LSS:
		seg = SEG_SS;
		break;
	case ZYDIS_MNEMONIC_LFS:
		seg = SEG_FS;
		break;
	default:
		seg = SEG_GS;
	}
	if (!op->is_mem)
		return excp_ud(v);
	if (far_pointer(v, op, &offset, &selector) || segment_load(v, seg, selector))
		return -1;
	sysop_reg_write(v, op, op->reg, op->opsize, offset);
	return SYSOP_DONE;
}

static int op_lldt(struct vcpu *v, const struct sysop *op)
{
	uint64_t selector;

	if (!vcpu_protected(v))
		return excp_ud(v);
	if (v->arch.cpl)
		return excp_gp(v, 0);
	if (sysop_rm_read(v, op, 2, &selector) || segment_load_ldtr(v, (uint16_t)selector))
		return -1;
	return SYSOP_DONE;
}

static int op_ltr(struct vcpu *v, const struct sysop *op)
{
	uint64_t selector;

	if (!vcpu_protected(v))
		return excp_ud(v);
	if (v->arch.cpl)
		return excp_gp(v, 0);
	if (sysop_rm_read(v, op, 2, &selector) || segment_load_tr(v, (uint16_t)selector))
		return -1;
	return SYSOP_DONE;
}

static void set_zf(struct vcpu *v, bool zf)
{
	v->arch.rflags = (v->arch.rflags & ~(uint64_t)FLAG_ZF) | (zf ? FLAG_ZF : 0);
}

static int op_lar_lsl(struct vcpu *v, const struct sysop *op)
{
	uint64_t selector;
	uint32_t value;
	bool ok;

	if (!vcpu_protected(v))
		return excp_ud(v);
	if (sysop_rm_read(v, op, 2, &selector))
		return -1;
	if (op->mnemonic == ZYDIS_MNEMONIC_LAR ? segment_lar(v, (uint16_t)selector, &value, &ok)
					       : segment_lsl(v, (uint16_t)selector, &value, &ok))
		return -1;
	if (ok)
		sysop_reg_write(v, op, op->reg, op->opsize, value);
	set_zf(v, ok);
	return SYSOP_DONE;
}

static int op_verify(struct vcpu *v, const struct sysop *op)
{
	uint64_t selector;
	bool ok;

	if (!vcpu_protected(v))
		return excp_ud(v);
	if (sysop_rm_read(v, op, 2, &selector) ||
	    segment_verify(v, (uint16_t)selector, op->mnemonic == ZYDIS_MNEMONIC_VERW, &ok))
		return -1;
	set_zf(v, ok);
	return SYSOP_DONE;
}

static int op_arpl(struct vcpu *v, const struct sysop *op)
{
	uint64_t dst, src;

	if (!vcpu_protected(v))
		return excp_ud(v);
	src = sysop_reg_read(v, op, op->reg, 2);
	if (sysop_rm_read(v, op, 2, &dst))
		return -1;
	if ((dst & 3) < (src & 3)) {
		if (sysop_rm_write(v, op, 2, (dst & ~3ull) | (src & 3)))
			return -1;
		set_zf(v, true);
	} else {
		set_zf(v, false);
	}
	return SYSOP_DONE;
}

static int op_syscall(struct vcpu *v, const struct sysop *op)
{
	if (!cpu_has(v->model, FEAT_SYSCALL))
		return excp_ud(v);
	return insn_syscall(v, next_rip(v, op)) ? -1 : SYSOP_JUMPED;
}

static int op_sysret(struct vcpu *v, const struct sysop *op)
{
	if (!cpu_has(v->model, FEAT_SYSCALL))
		return excp_ud(v);
	return insn_sysret(v, op->opsize) ? -1 : SYSOP_JUMPED;
}

static int op_sysenter(struct vcpu *v, const struct sysop *op)
{
	if (!cpu_has(v->model, FEAT_SEP))
		return excp_ud(v);
	return insn_sysenter(v) ? -1 : SYSOP_JUMPED;
}

static int op_sysexit(struct vcpu *v, const struct sysop *op)
{
	if (!cpu_has(v->model, FEAT_SEP))
		return excp_ud(v);
	return insn_sysexit(v, op->opsize) ? -1 : SYSOP_JUMPED;
}

static bool is_far(const ZydisDecodedInstruction *insn)
{
	return insn->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR;
}

static bool is_sreg_stack_opcode(const ZydisDecodedInstruction *insn)
{
	if (insn->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT)
		return (insn->opcode & 0xe6) == 0x06;
	return insn->opcode_map == ZYDIS_OPCODE_MAP_0F && (insn->opcode & 0xf6) == 0xa0;
}

struct sysop_entry sysop_find_transfer(const ZydisDecodedInstruction *insn)
{
	switch (insn->mnemonic) {
	case ZYDIS_MNEMONIC_JMP:
		return (struct sysop_entry){ is_far(insn) ? op_jmp_far : NULL, 0 };
	case ZYDIS_MNEMONIC_CALL:
		return (struct sysop_entry){ is_far(insn) ? op_call_far : NULL, 0 };
	case ZYDIS_MNEMONIC_RET:
		return (struct sysop_entry){ is_far(insn) ? op_ret_far : NULL, 0 };
	case ZYDIS_MNEMONIC_IRET:
	case ZYDIS_MNEMONIC_IRETD:
	case ZYDIS_MNEMONIC_IRETQ:
		return (struct sysop_entry){ op_iret, 0 };
	case ZYDIS_MNEMONIC_INT:
		return (struct sysop_entry){ op_int, 0 };
	case ZYDIS_MNEMONIC_INT3:
		return (struct sysop_entry){ op_int3, 0 };
	case ZYDIS_MNEMONIC_INT1:
		return (struct sysop_entry){ op_int1, 0 };
	case ZYDIS_MNEMONIC_INTO:
		return (struct sysop_entry){ op_into, 0 };
	case ZYDIS_MNEMONIC_UD0:
	case ZYDIS_MNEMONIC_UD1:
	case ZYDIS_MNEMONIC_UD2:
		return (struct sysop_entry){ op_ud, 0 };
	case ZYDIS_MNEMONIC_MOV:
		if (insn->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT)
			break;
		if (insn->opcode == 0x8c)
			return (struct sysop_entry){ op_mov_from_sreg, SYSOP_LIGHT };
		if (insn->opcode == 0x8e)
			return (struct sysop_entry){ op_mov_to_sreg, 0 };
		break;
	case ZYDIS_MNEMONIC_PUSH:
		if (is_sreg_stack_opcode(insn))
			return (struct sysop_entry){ op_push_sreg, SYSOP_LIGHT };
		break;
	case ZYDIS_MNEMONIC_POP:
		if (is_sreg_stack_opcode(insn))
			return (struct sysop_entry){ op_pop_sreg, 0 };
		break;
	case ZYDIS_MNEMONIC_LDS:
	case ZYDIS_MNEMONIC_LES:
	case ZYDIS_MNEMONIC_LSS:
	case ZYDIS_MNEMONIC_LFS:
	case ZYDIS_MNEMONIC_LGS:
		return (struct sysop_entry){ op_load_far_pointer, 0 };
	case ZYDIS_MNEMONIC_LLDT:
		return (struct sysop_entry){ op_lldt, 0 };
	case ZYDIS_MNEMONIC_LTR:
		return (struct sysop_entry){ op_ltr, 0 };
	case ZYDIS_MNEMONIC_LAR:
	case ZYDIS_MNEMONIC_LSL:
		return (struct sysop_entry){ op_lar_lsl, SYSOP_LIGHT };
	case ZYDIS_MNEMONIC_VERR:
	case ZYDIS_MNEMONIC_VERW:
		return (struct sysop_entry){ op_verify, SYSOP_LIGHT };
	case ZYDIS_MNEMONIC_ARPL:
		return (struct sysop_entry){ op_arpl, SYSOP_LIGHT };
	case ZYDIS_MNEMONIC_SYSCALL:
		return (struct sysop_entry){ op_syscall, 0 };
	case ZYDIS_MNEMONIC_SYSRET:
		return (struct sysop_entry){ op_sysret, 0 };
	case ZYDIS_MNEMONIC_SYSENTER:
		return (struct sysop_entry){ op_sysenter, 0 };
	case ZYDIS_MNEMONIC_SYSEXIT:
		return (struct sysop_entry){ op_sysexit, 0 };
	default:
		break;
	}
	return (struct sysop_entry){ NULL, 0 };
}
