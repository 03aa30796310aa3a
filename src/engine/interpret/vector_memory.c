/*
 * Memory operands of vector instructions: find the host address, then run the
 * thunk on it. The thunk goes on with the next record itself.
 *
 * Invariant: no frame of ours is on the stack while a thunk runs (all calls of
 * thunks are tail calls), so a SIGFPE in it can end the trace.
 */
#include "cpu/fpstate.h"
#include "cpu/mode.h"
#include "engine/interpret/vector_priv.h"

#define THUNK(v, i, p)                                                        \
	do {                                                                  \
		return ((native_thunk *)(uintptr_t)(i)->code)((v), (i), (p)); \
	} while (0)

/* The second body of a storing thunk; see vector_encode. */
#define THUNK_BOUNCE(v, i)                                                                    \
	do {                                                                                  \
		const char *entry_ = (i)->code;                                               \
		return ((native_thunk *)(uintptr_t)(entry_ + ((const int32_t *)entry_)[-1]))( \
			(v), (i), (v)->soft.bounce);                                          \
	} while (0)

/* What FDP holds is the offset in the segment; 64-bit code has a base in FS and GS only. */
static inline void note_x87_address(struct vcpu *v, const struct insn *i)
{
	if (!(v->soft.mode & MODE_CODE64) || i->seg >= SEG_FS)
		v->soft.la -= v->arch.seg[i->seg].base;
	if (!(v->soft.mode & MODE_CODE64))
		v->soft.la = (uint32_t)v->soft.la;
}

static int checked_address(struct vcpu *v, const struct insn *i, bool write)
{
	unsigned size = i->aux & VECTOR_SIZE;

	if (insn_linear(v, i, size, write) < 0)
		return -1;
	if ((i->aux & VECTOR_ALIGNED) && (v->soft.la & (size - 1)))
		return excp_gp(v, 0);
	/* Not checked on the way in 64-bit code: the memory system says #GP where a stack reference
	 * is #SS. */
	if (unlikely(!address_canonical(v->soft.la) || !address_canonical(v->soft.la + size - 1)))
		return i->seg == SEG_SS ? excp_ss(v, 0) : excp_gp(v, 0);
	return 0;
}

static const void *operand_fault(struct vcpu *v, const struct insn *i)
{
	vcpu_fp_load(v);
	if ((i->aux & VECTOR_WAITS) && x87_exception_pending())
		excp_raise(v, VEC_MF);
	FAULT(v, i);
}

#define OPERAND_FAULT(v, i) return operand_fault((v), (i))

/* F16C operands are exempt from alignment checks (SDM 2, exception type 11): single bytes cannot
 * fail them. */
static int load_bounce(struct vcpu *v, const struct insn *i, uint64_t la, unsigned size)
{
	if (likely(!(i->aux & VECTOR_UNALIGNED) || !alignment_checked(v)))
		return mem_load_bounce(v, la, size);
	for (unsigned n = 0; n < size; n++)
		if (mmu_read(v, la + n, v->soft.bounce + n, 1, MMU_CPL) < 0)
			return -1;
	return 0;
}

static const void *load_any(struct vcpu *v, const struct insn *i)
{
	unsigned size = i->aux & VECTOR_SIZE;
	void *p;

	if (checked_address(v, i, false) < 0)
		OPERAND_FAULT(v, i);
	p = tlb_read_ptr(v, v->soft.la, size);
	if (unlikely(!p)) {
		uint64_t la = v->soft.la;

		if (load_bounce(v, i, la, size) < 0)
			OPERAND_FAULT(v, i);
		v->soft.la = la;
		p = v->soft.bounce;
		vcpu_fp_load(
			v); /* a device may have been asked, with the guest's registers put away */
	}
	if (i->aux & VECTOR_X87)
		note_x87_address(v, i);
	THUNK(v, i, p);
}

/*
 * An x87 store looks at its unmasked exceptions before it touches memory, and
 * pops only when the store succeeded. Where memory cannot be written in place
 * the old state is kept, in the image that is stale while the state is live.
 */
struct x87_undo {
	uint8_t image[112];
	uint64_t ip, dp;
	uint16_t op;
};

static struct x87_undo *x87_undo(struct vcpu *v)
{
	return (struct x87_undo *)(v->arch.xsave + XSAVE_AREA_SIZE - sizeof(struct x87_undo));
}

static void x87_keep(struct vcpu *v)
{
	struct x87_undo *undo = x87_undo(v);

	asm volatile("fnsave %0\n\tfrstor %0" : "+m"(undo->image));
	undo->ip = v->arch.fpu_ip;
	undo->dp = v->arch.fpu_dp;
	undo->op = v->arch.fpu_op;
}

static void x87_put_back(struct vcpu *v)
{
	struct x87_undo *undo = x87_undo(v);

	asm volatile("fninit\n\tfrstor %0" : : "m"(undo->image));
	v->arch.fpu_ip = undo->ip;
	v->arch.fpu_dp = undo->dp;
	v->arch.fpu_op = undo->op;
}

/* FST and its kin store nothing when an unmasked invalid, overflow or underflow exception is now
 * pending. */
static __attribute__((noinline)) bool x87_store_withheld(void)
{
	uint16_t status, control;

	asm volatile("fnstsw %0" : "=a"(status));
	asm volatile("fnstcw %0" : "=m"(control));
	return status & ~control & 0x1f;
}

static const void *store_any(struct vcpu *v, const struct insn *i)
{
	unsigned size = i->aux & VECTOR_SIZE;
	bool late = i->aux & (VECTOR_X87_STORE | VECTOR_LATE_STORE);
	bool address_faults = checked_address(v, i, true) < 0;
	uint64_t la = v->soft.la;
	void *p = NULL;

	if (address_faults && !late)
		OPERAND_FAULT(v, i);
	if (!address_faults)
		p = tlb_write_ptr(v, la, size);
	if (unlikely(!p)) {
		/* The instruction may change more than memory, so the store must be known to
		 * succeed first. */
		if (!address_faults && mmu_probe_write(v, la, size, MMU_CPL) < 0 && !late)
			OPERAND_FAULT(v, i);
		vcpu_fp_load(v);
		if (!address_faults)
			p = tlb_write_ptr(v, la, size);
		if (!p && (i->aux & VECTOR_X87_STORE) && !x87_exception_pending())
			x87_keep(v);
		v->soft.la = la;
	}
	if (i->aux & VECTOR_X87)
		note_x87_address(v, i);
	if (likely(p != NULL))
		THUNK(v, i, p);
	THUNK_BOUNCE(v, i);
}

static int store_unaligned(struct vcpu *v, uint64_t la, unsigned size)
{
	for (unsigned n = 0; n < size; n++)
		if (mmu_probe_write(v, la + n, 1, MMU_CPL) < 0)
			return -1;
	for (unsigned n = 0; n < size; n++)
		if (mmu_write(v, la + n, v->soft.bounce + n, 1, MMU_CPL) < 0)
			return -1;
	return 0;
}

static int store_bounce(struct vcpu *v, const struct insn *i, unsigned size)
{
	if (unlikely((i->aux & VECTOR_UNALIGNED) && alignment_checked(v)))
		return store_unaligned(v, v->soft.la, size);
	return mem_store_bounce(v, v->soft.la, size);
}

const void *vector_store_finish(struct vcpu *v, const struct insn *i)
{
	unsigned size = i->aux & VECTOR_SIZE;

	if ((i->aux & VECTOR_X87_STORE) && x87_store_withheld())
		NEXT(v, i);
	/* The operation changed no general register, so the address is what it was. */
	if (checked_address(v, i, true) < 0 || store_bounce(v, i, size) < 0) {
		if (i->aux & VECTOR_X87_STORE) {
			vcpu_fp_load(v);
			x87_put_back(v);
		}
		FAULT(v, i);
	}
	vcpu_fp_load(v);
	NEXT(v, i);
}

#define LOAD(name, size, align)                                       \
	static const void *name(struct vcpu *v, const struct insn *i) \
	{                                                             \
		uint64_t la = insn_ea64(v, i);                        \
		void *p = tlb_read_ptr(v, la, size);                  \
                                                                      \
		if (unlikely(!p || (la & ((align)-1)))) {             \
			return load_any(v, i);                        \
		}                                                     \
		THUNK(v, i, p);                                       \
	}
#define STORE(name, size, align)                                      \
	static const void *name(struct vcpu *v, const struct insn *i) \
	{                                                             \
		uint64_t la = insn_ea64(v, i);                        \
		void *p = tlb_write_ptr(v, la, size);                 \
                                                                      \
		if (unlikely(!p || (la & ((align)-1)))) {             \
			return store_any(v, i);                       \
		}                                                     \
		THUNK(v, i, p);                                       \
	}

LOAD(load_1, 1, 1)
LOAD(load_2, 2, 1)
LOAD(load_4, 4, 1)
LOAD(load_8, 8, 1)
LOAD(load_16, 16, 1)
LOAD(load_32, 32, 1)
LOAD(load_16_aligned, 16, 16)
LOAD(load_32_aligned, 32, 32)
STORE(store_1, 1, 1)
STORE(store_2, 2, 1)
STORE(store_4, 4, 1)
STORE(store_8, 8, 1)
STORE(store_16, 16, 1)
STORE(store_32, 32, 1)
STORE(store_16_aligned, 16, 16)
STORE(store_32_aligned, 32, 32)

/* x87: the thunk takes the operand's address from soft.la, for FDP. */
static const void *load_x87(struct vcpu *v, const struct insn *i)
{
	uint64_t la = insn_ea64(v, i);
	void *p = tlb_read_ptr(v, la, i->aux & VECTOR_SIZE);

	if (unlikely(!p)) {
		return load_any(v, i);
	}
	v->soft.la = la;
	THUNK(v, i, p);
}

static const void *store_x87(struct vcpu *v, const struct insn *i)
{
	uint64_t la = insn_ea64(v, i);
	void *p = tlb_write_ptr(v, la, i->aux & VECTOR_SIZE);

	if (unlikely(!p)) {
		return store_any(v, i);
	}
	v->soft.la = la;
	THUNK(v, i, p);
}

insn_handler *vector_memory_handler(unsigned aux, bool fast64)
{
	bool aligned = aux & VECTOR_ALIGNED;

	if (aux & VECTOR_STORE) {
		if (!fast64)
			return store_any;
		if (aux & VECTOR_X87)
			return store_x87;
		switch (aux & VECTOR_SIZE) {
		case 1:
			return store_1;
		case 2:
			return store_2;
		case 4:
			return store_4;
		case 8:
			return store_8;
		case 16:
			return aligned ? store_16_aligned : store_16;
		case 32:
			return aligned ? store_32_aligned : store_32;
		default:
			return store_any;
		}
	}
	if (!fast64)
		return load_any;
	if (aux & VECTOR_X87)
		return load_x87;
	switch (aux & VECTOR_SIZE) {
	case 1:
		return load_1;
	case 2:
		return load_2;
	case 4:
		return load_4;
	case 8:
		return load_8;
	case 16:
		return aligned ? load_16_aligned : load_16;
	case 32:
		return aligned ? load_32_aligned : load_32;
	default:
		return load_any;
	}
}
