/*
 * PUSH, POP and LEAVE. The 64-bit forms go straight to the TLB; those of the
 * other modes respect SS and its width. Operand sizes are 2, 4 and 8 bytes.
 */
#include "cpu/mode.h"
#include "cpu/segment.h"
#include "engine/interpret/access.h"
#include "engine/interpret/ops.h"
#include "engine/interpret/near_stack.h"

#define RSP64 REG(v, RSP * 8, uint64_t)

/* A push of `size` bytes in any mode. */
int near_push(struct vcpu *v, uint64_t value, unsigned size)
{
	uint64_t mask = (v->soft.mode & MODE_CODE64)    ? ~0ull
			: (v->soft.mode & MODE_STACK32) ? 0xffffffffu
							: 0xffffu;
	uint64_t sp = (v->arch.gpr[RSP] - size) & mask, la = sp;

	if (!(v->soft.mode & MODE_CODE64)) {
		if (segment_linear(v, SEG_SS, sp, size, true))
			return -1;
		la = v->soft.la;
	}
	v->soft.value = value;
	if (mem_store_slow(v, la, size)) {
		if (v->fault.vector == VEC_GP)
			v->fault.vector = VEC_SS;
		return -1;
	}
	v->arch.gpr[RSP] = (v->arch.gpr[RSP] & ~mask) | sp;
	return 0;
}

int near_peek(struct vcpu *v, unsigned size)
{
	uint64_t mask = (v->soft.mode & MODE_CODE64)    ? ~0ull
			: (v->soft.mode & MODE_STACK32) ? 0xffffffffu
							: 0xffffu;
	uint64_t la = v->arch.gpr[RSP] & mask;

	if (!(v->soft.mode & MODE_CODE64)) {
		if (segment_linear(v, SEG_SS, la, size, false))
			return -1;
		la = v->soft.la;
	}
	if (mem_load_slow(v, la, size)) {
		if (v->fault.vector == VEC_GP)
			v->fault.vector = VEC_SS;
		return -1;
	}
	return 0;
}

void near_release(struct vcpu *v, unsigned size)
{
	uint64_t mask = (v->soft.mode & MODE_CODE64)    ? ~0ull
			: (v->soft.mode & MODE_STACK32) ? 0xffffffffu
							: 0xffffu;

	v->arch.gpr[RSP] = (v->arch.gpr[RSP] & ~mask) | ((v->arch.gpr[RSP] + size) & mask);
}

/* Any mode and size: size_log in aux. */
static const void *push_reg_any(struct vcpu *v, const struct insn *i)
{
	if (near_push(v, REG(v, i->src, uint64_t), 1u << i->aux))
		FAULT(v, i);
	NEXT(v, i);
}
static const void *push_imm_any(struct vcpu *v, const struct insn *i)
{
	if (near_push(v, i->imm, 1u << i->aux))
		FAULT(v, i);
	NEXT(v, i);
}
static const void *push_mem_any(struct vcpu *v, const struct insn *i)
{
	unsigned size = 1u << i->aux;

	if (insn_linear(v, i, size, false))
		FAULT(v, i);
	if (mem_load_slow(v, v->soft.la, size))
		MEMORY_FAULT(v, i);
	if (near_push(v, v->soft.value, size))
		FAULT(v, i);
	NEXT(v, i);
}
static const void *pop_reg_any(struct vcpu *v, const struct insn *i)
{
	unsigned size = 1u << i->aux;

	if (near_peek(v, size))
		FAULT(v, i);
	near_release(v, size);
	if (size == 2)
		REG(v, i->dst, uint16_t) = (uint16_t)v->soft.value;
	else
		REG(v, i->dst, uint64_t) = v->soft.value;
	NEXT(v, i);
}
/* POP to memory computes its address with the stack pointer already moved (SDM 2B, POP). */
static const void *pop_mem_any(struct vcpu *v, const struct insn *i)
{
	unsigned size = 1u << i->aux;
	uint64_t old = v->arch.gpr[RSP], value;

	if (near_peek(v, size))
		FAULT(v, i);
	value = v->soft.value;
	near_release(v, size);
	if (insn_linear(v, i, size, true)) {
		v->arch.gpr[RSP] = old;
		FAULT(v, i);
	}
	v->soft.value = value;
	if (mem_store_slow(v, v->soft.la, size)) {
		v->arch.gpr[RSP] = old;
		MEMORY_FAULT(v, i);
	}
	NEXT(v, i);
}

/* 64-bit mode, 8 bytes. */
static const void *push_slow(struct vcpu *v, const struct insn *i);
#define PUSH(name, source)                                                       \
	static const void *name(struct vcpu *v, const struct insn *i)            \
	{                                                                        \
		uint64_t la = RSP64 - 8;                                         \
		const struct tlb_entry *e =                                      \
			&v->soft.tlb_write[(la >> PAGE_SHIFT) & (TLB_SIZE - 1)]; \
		if (unlikely(e->tag != ((la + 7) & PAGE_MASK)))                  \
			return name##_slow(v, i);                                \
		*(volatile uint64_t *)(la + e->addend) = source;                 \
		RSP64 = la;                                                      \
		NEXT(v, i);                                                      \
	}
static const void *push_slow(struct vcpu *v, const struct insn *i)
{
	if (near_push(v, REG(v, i->src, uint64_t), 8))
		FAULT(v, i);
	NEXT(v, i);
}
static const void *push_imm_slow(struct vcpu *v, const struct insn *i)
{
	if (near_push(v, i->imm, 8))
		FAULT(v, i);
	NEXT(v, i);
}
PUSH(push, REG(v, i->src, uint64_t))
PUSH(push_imm, i->imm)

static const void *pop_slow(struct vcpu *v, const struct insn *i)
{
	if (near_peek(v, 8))
		FAULT(v, i);
	RSP64 += 8;
	REG(v, i->dst, uint64_t) = v->soft.value;
	NEXT(v, i);
}
static const void *pop(struct vcpu *v, const struct insn *i)
{
	uint64_t la = RSP64;
	const struct tlb_entry *e = &v->soft.tlb_read[(la >> PAGE_SHIFT) & (TLB_SIZE - 1)];

	if (unlikely(e->tag != ((la + 7) & PAGE_MASK)))
		return pop_slow(v, i);
	RSP64 = la + 8;
	REG(v, i->dst, uint64_t) = *(volatile uint64_t *)(la + e->addend);
	NEXT(v, i);
}

static const void *leave_64(struct vcpu *v, const struct insn *i)
{
	uint64_t la = REG(v, RBP * 8, uint64_t);
	const volatile uint64_t *p = tlb_read_ptr(v, la, 8);

	if (likely(p)) {
		REG(v, RBP * 8, uint64_t) = *p;
	} else {
		if (mem_load_slow(v, la, 8)) {
			if (v->fault.vector == VEC_GP)
				v->fault.vector = VEC_SS;
			FAULT(v, i);
		}
		REG(v, RBP * 8, uint64_t) = v->soft.value;
	}
	RSP64 = la + 8;
	NEXT(v, i);
}
static const void *leave_any(struct vcpu *v, const struct insn *i)
{
	unsigned size = 1u << i->aux;
	uint64_t old = v->arch.gpr[RSP];

	if (v->soft.mode & MODE_CODE64)
		v->arch.gpr[RSP] = v->arch.gpr[RBP];
	else if (v->soft.mode & MODE_STACK32)
		v->arch.gpr[RSP] = (uint32_t)v->arch.gpr[RBP];
	else
		REG(v, RSP * 8, uint16_t) = REG(v, RBP * 8, uint16_t);
	if (near_peek(v, size)) {
		v->arch.gpr[RSP] = old;
		FAULT(v, i);
	}
	near_release(v, size);
	if (size == 2)
		REG(v, RBP * 8, uint16_t) = (uint16_t)v->soft.value;
	else
		REG(v, RBP * 8, uint64_t) = v->soft.value;
	NEXT(v, i);
}

insn_handler *push_handler(enum form form, unsigned size_log, bool code64)
{
	bool quick = code64 && size_log == 3;

	switch (form) {
	case FORM_RR:
		return quick ? push : push_reg_any;
	case FORM_RI:
		return quick ? push_imm : push_imm_any;
	default:
		return push_mem_any;
	}
}

insn_handler *pop_handler(enum form1 form, unsigned size_log, bool code64)
{
	if (form != FORM_R)
		return pop_mem_any;
	return code64 && size_log == 3 ? pop : pop_reg_any;
}

insn_handler *leave_handler(unsigned size_log, bool code64)
{
	return code64 && size_log == 3 ? leave_64 : leave_any;
}
