/*
 * Near branches. A target in the same page is reached by the record's link,
 * any other through the jump cache; both look at vcpu->req on the way, which
 * bounds the time to an interrupt by one pass through straight code.
 *
 * Record layout: disp = target relative to the trace's first byte; offset +
 * len = the next instruction. 64-bit forms are apart from those in which the
 * instruction pointer wraps at 16 or 32 bits (width: 2 or 4) and the code
 * segment's limit is checked.
 */
#include "cpu/mode.h"
#include "engine/interpret/access.h"
#include "engine/interpret/condition.h"
#include "engine/interpret/ops.h"
#include "engine/interpret/near_stack.h"

static inline uint64_t next_rip(const struct vcpu *v, const struct insn *i)
{
	return v->arch.rip + i->offset + i->len;
}

/* 16- and 32-bit code: wrap, check the limit, go. */
#define GO_NARROW(v, i, target)                                                          \
	do {                                                                             \
		uint64_t narrow_ = (target) & ((i)->width == 2 ? 0xffffu : 0xffffffffu); \
		if (unlikely(narrow_ > (v)->arch.seg[SEG_CS].limit)) {                   \
			excp_gp(v, 0);                                                   \
			FAULT(v, i);                                                     \
		}                                                                        \
		GO(v, narrow_);                                                          \
	} while (0)

const void *insn_link(struct vcpu *v, const struct insn *i)
{
	GO_LINK(v, i, i->disp);
}
static const void *jump_far_page(struct vcpu *v, const struct insn *i)
{
	GO(v, v->arch.rip + (uint64_t)(int64_t)i->disp);
}
static const void *jump_narrow(struct vcpu *v, const struct insn *i)
{
	GO_NARROW(v, i, v->arch.rip + (uint64_t)(int64_t)i->disp);
}

insn_handler *jump_handler(bool near, bool code64)
{
	return !code64 ? jump_narrow : near ? insn_link : jump_far_page;
}

/* The end of a trace that simply runs on. */
static const void *end_narrow(struct vcpu *v, const struct insn *i)
{
	/* No limit check: running off the end faults at the instruction that is not there. */
	GO(v, (v->arch.rip + (uint64_t)(int64_t)i->disp) & (i->width == 2 ? 0xffffu : 0xffffffffu));
}

insn_handler *end_handler(bool near, bool code64)
{
	return !code64 ? end_narrow : near ? insn_link : jump_far_page;
}

#define JCC(cc)                                                                    \
	static const void *j##cc##_near(struct vcpu *v, const struct insn *i)      \
	{                                                                          \
		unsigned f = v->soft.flags;                                        \
		if (COND_##cc(f))                                                  \
			GO_LINK(v, i, i->disp);                                    \
		NEXT(v, i);                                                        \
	}                                                                          \
	static const void *j##cc##_far(struct vcpu *v, const struct insn *i)       \
	{                                                                          \
		unsigned f = v->soft.flags;                                        \
		if (COND_##cc(f))                                                  \
			GO(v, v->arch.rip + (uint64_t)(int64_t)i->disp);           \
		NEXT(v, i);                                                        \
	}                                                                          \
	static const void *j##cc##_narrow(struct vcpu *v, const struct insn *i)    \
	{                                                                          \
		unsigned f = v->soft.flags;                                        \
		if (COND_##cc(f))                                                  \
			GO_NARROW(v, i, v->arch.rip + (uint64_t)(int64_t)i->disp); \
		NEXT(v, i);                                                        \
	}
CONDITIONS(JCC)

insn_handler *jcc_handler(unsigned cc, bool near, bool code64)
{
#define JCC_ROW(cc) { j##cc##_near, j##cc##_far, j##cc##_narrow },
	static insn_handler *const table[16][3] = { CONDITIONS(JCC_ROW) };

	return table[cc][!code64 ? 2 : near ? 0 : 1];
}

/* Calls. */
#define PUSH_RETURN                                             \
	do {                                                    \
		uint64_t la = REG(v, RSP * 8, uint64_t) - 8;    \
		volatile uint64_t *p = tlb_write_ptr(v, la, 8); \
		if (likely(p)) {                                \
			*p = next_rip(v, i);                    \
			REG(v, RSP * 8, uint64_t) = la;         \
		} else if (near_push(v, next_rip(v, i), 8)) {   \
			FAULT(v, i);                            \
		}                                               \
	} while (0)

static const void *call_near(struct vcpu *v, const struct insn *i)
{
	PUSH_RETURN;
	GO_LINK(v, i, i->disp);
}
static const void *call_far_page(struct vcpu *v, const struct insn *i)
{
	PUSH_RETURN;
	GO(v, v->arch.rip + (uint64_t)(int64_t)i->disp);
}
static const void *call_narrow(struct vcpu *v, const struct insn *i)
{
	uint64_t mask = i->width == 2 ? 0xffffu : 0xffffffffu;

	if (((v->arch.rip + (uint64_t)(int64_t)i->disp) & mask) > v->arch.seg[SEG_CS].limit) {
		excp_gp(v, 0);
		FAULT(v, i);
	}
	if (near_push(v, next_rip(v, i) & mask, i->width))
		FAULT(v, i);
	GO_NARROW(v, i, v->arch.rip + (uint64_t)(int64_t)i->disp);
}

insn_handler *call_handler(bool near, bool code64)
{
	return !code64 ? call_narrow : near ? call_near : call_far_page;
}

/* Indirect targets. A non-canonical one faults here, before the branch. */
#define CHECK_CANONICAL(target)                             \
	do {                                                \
		if (unlikely(!address_canonical(target))) { \
			excp_gp(v, 0);                      \
			FAULT(v, i);                        \
		}                                           \
	} while (0)

static const void *jump_reg(struct vcpu *v, const struct insn *i)
{
	uint64_t target = REG(v, i->src, uint64_t);

	CHECK_CANONICAL(target);
	GO(v, target);
}
static const void *jump_mem(struct vcpu *v, const struct insn *i)
{
	uint64_t target;
	ADDRESS_G(uint64_t, false);

	LOAD(uint64_t, target);
	CHECK_CANONICAL(target);
	GO(v, target);
}
static const void *jump_mem_fast(struct vcpu *v, const struct insn *i)
{
	FAST_READ(uint64_t, EA_X, jump_mem);
	uint64_t target = *p;

	if (unlikely(!address_canonical(target)))
		return jump_mem(v, i);
	GO(v, target);
}
static const void *jump_reg_narrow(struct vcpu *v, const struct insn *i)
{
	GO_NARROW(v, i, REG(v, i->src, uint64_t));
}
/* aux holds the operand size in bytes where width is the address's. */
static const void *jump_mem_narrow(struct vcpu *v, const struct insn *i)
{
	uint64_t target;

	if (insn_linear(v, i, i->aux, false))
		FAULT(v, i);
	if (mem_load_slow(v, v->soft.la, i->aux))
		MEMORY_FAULT(v, i);
	target = v->soft.value;
	if (target > v->arch.seg[SEG_CS].limit) {
		excp_gp(v, 0);
		FAULT(v, i);
	}
	GO(v, target);
}

insn_handler *jump_indirect_handler(enum form1 form, bool code64)
{
	if (!code64)
		return form == FORM_R ? jump_reg_narrow : jump_mem_narrow;
	return form == FORM_R ? jump_reg : form == FORM_A ? jump_mem_fast : jump_mem;
}

/* The return address is written, and may fault, before the target is looked at. */
static const void *call_noncanonical(struct vcpu *v, const struct insn *i)
{
	uint64_t rsp = v->arch.gpr[RSP];

	if (!near_push(v, next_rip(v, i), 8)) {
		v->arch.gpr[RSP] = rsp;
		excp_gp(v, 0);
	}
	FAULT(v, i);
}

static const void *call_reg(struct vcpu *v, const struct insn *i)
{
	uint64_t target = REG(v, i->src, uint64_t);

	if (unlikely(!address_canonical(target)))
		return call_noncanonical(v, i);
	PUSH_RETURN;
	GO(v, target);
}
static const void *call_mem(struct vcpu *v, const struct insn *i)
{
	uint64_t target;
	{
		ADDRESS_G(uint64_t, false);
		LOAD(uint64_t, target);
	}
	if (unlikely(!address_canonical(target)))
		return call_noncanonical(v, i);
	PUSH_RETURN;
	GO(v, target);
}
static const void *call_any_narrow(struct vcpu *v, const struct insn *i, uint64_t target,
				   unsigned size)
{
	target &= size == 2 ? 0xffffu : 0xffffffffu;
	if (target > v->arch.seg[SEG_CS].limit) {
		excp_gp(v, 0);
		FAULT(v, i);
	}
	if (near_push(v, next_rip(v, i) & (size == 2 ? 0xffffu : 0xffffffffu), size))
		FAULT(v, i);
	GO(v, target);
}
static const void *call_reg_narrow(struct vcpu *v, const struct insn *i)
{
	return call_any_narrow(v, i, REG(v, i->src, uint64_t), i->width);
}
static const void *call_mem_narrow(struct vcpu *v, const struct insn *i)
{
	if (insn_linear(v, i, i->aux, false))
		FAULT(v, i);
	if (mem_load_slow(v, v->soft.la, i->aux))
		MEMORY_FAULT(v, i);
	return call_any_narrow(v, i, v->soft.value, i->aux);
}

insn_handler *call_indirect_handler(enum form1 form, bool code64)
{
	if (!code64)
		return form == FORM_R ? call_reg_narrow : call_mem_narrow;
	return form == FORM_R ? call_reg : call_mem;
}

/* RET: imm bytes more are released. */
static const void *ret_slow(struct vcpu *v, const struct insn *i)
{
	uint64_t target;

	if (near_peek(v, 8))
		FAULT(v, i);
	target = v->soft.value;
	CHECK_CANONICAL(target);
	REG(v, RSP * 8, uint64_t) += 8 + i->imm;
	GO(v, target);
}
static const void *ret(struct vcpu *v, const struct insn *i)
{
	uint64_t la = REG(v, RSP * 8, uint64_t), target;
	const struct tlb_entry *e = &v->soft.tlb_read[(la >> PAGE_SHIFT) & (TLB_SIZE - 1)];

	if (unlikely(e->tag != ((la + 7) & PAGE_MASK)))
		return ret_slow(v, i);
	target = *(volatile uint64_t *)(la + e->addend);
	if (unlikely(!address_canonical(target)))
		return ret_slow(v, i);
	REG(v, RSP * 8, uint64_t) = la + 8 + i->imm;
	GO(v, target);
}
static const void *ret_narrow(struct vcpu *v, const struct insn *i)
{
	uint64_t target;

	if (near_peek(v, i->width))
		FAULT(v, i);
	target = v->soft.value;
	if (target > v->arch.seg[SEG_CS].limit) {
		excp_gp(v, 0);
		FAULT(v, i);
	}
	near_release(v, i->width + (unsigned)i->imm);
	GO(v, target);
}

insn_handler *ret_handler(bool code64)
{
	return code64 ? ret : ret_narrow;
}

/* LOOPNE LOOPE LOOP JrCXZ; the count register's width is the address size, in aux. */
static uint64_t count_mask(const struct insn *i)
{
	return i->aux == 8 ? ~0ull : i->aux == 4 ? 0xffffffffu : 0xffffu;
}
static void count_down(struct vcpu *v, const struct insn *i)
{
	if (i->aux == 8)
		v->arch.gpr[RCX]--;
	else if (i->aux == 4)
		v->arch.gpr[RCX] = (uint32_t)(v->arch.gpr[RCX] - 1);
	else
		REG(v, RCX * 8, uint16_t)--;
}
#define TAKE                                                               \
	do {                                                               \
		if (v->soft.mode & MODE_CODE64)                            \
			GO(v, v->arch.rip + (uint64_t)(int64_t)i->disp);   \
		GO_NARROW(v, i, v->arch.rip + (uint64_t)(int64_t)i->disp); \
	} while (0)
#define LOOP(name, condition)                                          \
	static const void *name(struct vcpu *v, const struct insn *i)  \
	{                                                              \
		unsigned f = v->soft.flags;                            \
		(void)f;                                               \
		count_down(v, i);                                      \
		if ((v->arch.gpr[RCX] & count_mask(i)) && (condition)) \
			TAKE;                                          \
		NEXT(v, i);                                            \
	}
LOOP(loopne, COND_ne(f))
LOOP(loope, COND_e(f))
LOOP(loop, 1)
static const void *jrcxz(struct vcpu *v, const struct insn *i)
{
	if (!(v->arch.gpr[RCX] & count_mask(i)))
		TAKE;
	NEXT(v, i);
}

insn_handler *loop_handler(unsigned opcode, bool code64)
{
	static insn_handler *const table[4] = { loopne, loope, loop, jrcxz };

	(void)code64;
	return table[opcode & 3];
}
