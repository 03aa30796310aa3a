/*
 * Decoded instructions and the handlers that execute them.
 *
 * A trace is a run of records and a little native code that calls their
 * handlers one after another. Direct calls, unlike a handler's jump to the
 * next, are predicted however much code the guest runs: an indirect jump at
 * the end of each handler was mispredicted for most instructions of a kernel
 * path (10 ns an instruction over 30,000 of them, against 1 ns in a loop).
 *
 * There is no program counter per instruction: while a trace runs,
 * arch.rip holds the linear instruction pointer of the trace's FIRST byte, and
 * `offset` of a record tells the rest. A handler that faults returns
 * insn_fault(v, i), with v->fault set and no architectural change made.
 *
 * Register operands are byte offsets from the vcpu pointer (gpr[] is first, so
 * AH is RAX's offset + 1; arch.rip serves as the base of RIP-relative operands
 * and arch.zero as an absent register).
 */
#ifndef INSULA_ENGINE_INTERPRET_INSN_H
#define INSULA_ENGINE_INTERPRET_INSN_H

#include "base/assert.h"
#include "cpu/excp.h"
#include "cpu/mmu.h"
#include "cpu/vcpu.h"
#include <stddef.h>

struct insn;
/*
 * Executes one record. NULL: go on with the next record. Else the code to
 * continue at: another trace's, or insn_exit to return to the dispatcher.
 */
typedef const void *insn_handler(struct vcpu *v, const struct insn *i);

struct insn {
	insn_handler *handler;
	union {
		uint64_t imm;
		const void *link; /* direct branch: code of the target trace, or NULL */
		const void *code; /* native code that executes the operation (vector.c) */
		const struct sysop *sysop;
	};
	int32_t disp;     /* of the memory operand; RIP-relative: from the trace's first byte */
	uint8_t dst, src; /* register operands, byte offsets */
	uint8_t base, index;
	uint8_t shift;   /* of the index: 0..3 */
	uint8_t seg;     /* SEG_* of the memory operand */
	uint8_t len;     /* bytes of guest code, fused ones together */
	uint8_t width;   /* address size in bytes: 2, 4, 8 */
	uint16_t offset; /* from the trace's first byte */
	uint16_t aux;    /* handler's own */
};
_Static_assert(sizeof(struct insn) == 32, "two records a cache line");

/* How a trace returned to the dispatcher (v->soft.exit). arch.rip is then exact again. */
enum trace_exit {
	TRACE_NEXT,     /* look up arch.rip and go on */
	TRACE_FAULT,    /* v->fault is to be delivered */
	TRACE_STALE,    /* as NEXT, but what the jump cache says of rip is out of date */
	TRACE_LINK,     /* as NEXT, and soft.link_from may point its link there */
	TRACE_EVENTS,   /* mode or interrupt state may have changed: look at everything */
	TRACE_SLOW,     /* translated code: the instruction at rip is for the interpreter */
	TRACE_HOT,      /* soft.hot is to be translated */
	TRACE_OUTDATED, /* as STALE: a checked trace's bytes have changed */
	TRACE_EXITS,
};

/* Code that returns from insn_run. */
extern const char insn_exit[];
/* Runs a trace's code until something answers insn_exit. */
void trace_run(struct vcpu *v, const void *code);
/* Behind a trace's count-down: leaves with TRACE_HOT. first: its first record. */
const void *insn_hot(struct vcpu *v, const struct insn *first);
/* Behind a checked trace's comparison: leaves with TRACE_OUTDATED. */
const void *insn_changed(struct vcpu *v);
/* What every record of a killed trace does instead: leave with the exact rip. */
const void *insn_stale(struct vcpu *v, const struct insn *i);

/*
 * Cache of linear code addresses. An entry is valid while the generation it was
 * filled under, soft.code_gen or global_gen, is in force: its key is the address
 * XORed with that. Generations are numbers the guest cannot know, so that no
 * address it jumps to, canonical or not, meets another generation's entry.
 */
#define JUMP_BITS 14
#define JUMP_FOLD 10 /* functions start at multiples of 16: higher bits must tell them apart */
#define JUMP_SIZE (1u << JUMP_BITS)
struct jump_entry {
	uint64_t key;
	const void *target; /* a trace's code */
	const void *fast;   /* the same for translated code */
	uint64_t rip;       /* what arch.rip has to be for `fast` */
};
_Static_assert(sizeof(struct jump_entry) == 32, "translated code shifts by five");
static inline struct jump_entry *jump_slot(struct vcpu *v, uint64_t rip)
{
	return &v->soft.jumps[(rip ^ rip >> JUMP_FOLD) & (JUMP_SIZE - 1)];
}
static inline bool jump_valid(const struct vcpu *v, const struct jump_entry *e, uint64_t rip)
{
	return e->key == (rip ^ v->soft.code_gen) || e->key == (rip ^ v->soft.global_gen);
}

#define NEXT(v, i)    return NULL
#define JUMP(v, code) return (code)
#define STOP(v)       return insn_exit

/* Ends the trace at instruction i with the fault in v->fault. */
#define FAULT(v, i)                           \
	do {                                  \
		(v)->arch.rip += (i)->offset; \
		(v)->soft.exit = TRACE_FAULT; \
		STOP(v);                      \
	} while (0)

/* As FAULT for a memory operand: a non-canonical stack reference is #SS, not #GP. */
#define MEMORY_FAULT(v, i)                                             \
	do {                                                           \
		if ((v)->fault.vector == VEC_GP && (i)->seg == SEG_SS) \
			(v)->fault.vector = VEC_SS;                    \
		FAULT(v, i);                                           \
	} while (0)

/* Leave the trace with arch.rip = target. */
#define LEAVE(v, where, why)             \
	do {                             \
		(v)->arch.rip = (where); \
		(v)->soft.exit = (why);  \
		STOP(v);                 \
	} while (0)

/* Go on at a linear code address, wherever it is: the jump cache, else the dispatcher. */
#define GO(v, where)                                                                 \
	do {                                                                         \
		uint64_t go_rip = (where);                                           \
		const struct jump_entry *go_e = jump_slot((v), go_rip);              \
		if (unlikely(atomic_load_explicit(&(v)->req, memory_order_relaxed))) \
			LEAVE(v, go_rip, TRACE_EVENTS);                              \
		if (unlikely(!jump_valid((v), go_e, go_rip)))                        \
			LEAVE(v, go_rip, TRACE_NEXT);                                \
		(v)->arch.rip = go_rip;                                              \
		JUMP(v, go_e->target);                                               \
	} while (0)

/* A branch within the page, delta bytes from the trace's first: by its link. */
#define GO_LINK(v, i, delta)                                                         \
	do {                                                                         \
		uint64_t go_rip = (v)->arch.rip + (uint64_t)(int64_t)(delta);        \
		const void *go_t = (i)->link;                                        \
		if (unlikely(atomic_load_explicit(&(v)->req, memory_order_relaxed))) \
			LEAVE(v, go_rip, TRACE_EVENTS);                              \
		if (unlikely(!go_t)) {                                               \
			(v)->soft.link_from = (i);                                   \
			LEAVE(v, go_rip, TRACE_LINK);                                \
		}                                                                    \
		(v)->arch.rip = go_rip;                                              \
		JUMP(v, go_t);                                                       \
	} while (0)

#define REG(v, off, type) (*(type *)((char *)(v) + (off)))

/* Effective address of a 64-bit operand without segment base: the hot form. */
static inline uint64_t insn_ea64(const struct vcpu *v, const struct insn *i)
{
	return REG(v, i->base, const uint64_t) + (REG(v, i->index, const uint64_t) << i->shift) +
	       (uint64_t)(int64_t)i->disp;
}

/* Any mode: linear address of the operand into v->soft.la, all checks made. -1: fault. */
int insn_linear(struct vcpu *v, const struct insn *i, unsigned size, bool write);

/* Host pointer if the whole access hits the soft TLB, else NULL. */
static inline void *tlb_read_ptr(struct vcpu *v, uint64_t la, unsigned size)
{
	const struct tlb_entry *e = &v->soft.tlb_read[(la >> PAGE_SHIFT) & (TLB_SIZE - 1)];
	return likely(e->tag == ((la + size - 1) & PAGE_MASK)) ? (void *)(la + e->addend) : NULL;
}
static inline void *tlb_write_ptr(struct vcpu *v, uint64_t la, unsigned size)
{
	const struct tlb_entry *e = &v->soft.tlb_write[(la >> PAGE_SHIFT) & (TLB_SIZE - 1)];
	return likely(e->tag == ((la + size - 1) & PAGE_MASK)) ? (void *)(la + e->addend) : NULL;
}
/* For a locked operation: aligned as well, so that it cannot split a cache line. Else mmu_lock().
 */
static inline void *tlb_lock_ptr(struct vcpu *v, uint64_t la, unsigned size)
{
	const struct tlb_entry *e = &v->soft.tlb_write[(la >> PAGE_SHIFT) & (TLB_SIZE - 1)];
	return likely(e->tag == (la & (PAGE_MASK | (size - 1)))) ? (void *)(la + e->addend) : NULL;
}

/*
 * Slow paths: walk, fill, cross pages, MMIO, code pages, watchpoints. Loads of
 * up to 8 bytes put the value in v->soft.value; longer ones (up to 64) go
 * through v->soft.bounce. -1: fault, nothing stored.
 */
int mem_load_slow(struct vcpu *v, uint64_t la, unsigned size);
int mem_store_slow(struct vcpu *v, uint64_t la, unsigned size); /* from soft.value */
int mem_load_bounce(struct vcpu *v, uint64_t la, unsigned size);
int mem_store_bounce(struct vcpu *v, uint64_t la, unsigned size);

/* Read-modify-write: fault as a write would, then the value into soft.value; mem_store_slow
 * follows. */
int mem_rmw_slow(struct vcpu *v, uint64_t la, unsigned size);

/* Arithmetic flags between soft.flags and arch.rflags. Shared code in src/cpu sees arch.rflags only
 * after flags_to_arch. */
static inline void flags_to_arch(struct vcpu *v)
{
	uint64_t f = v->soft.flags;

	v->arch.rflags = (v->arch.rflags & ~(uint64_t)FLAGS_ARITH) |
			 ((f >> 8) & (FLAGS_ARITH & 0xff)) | (f & 1) << 11 | FLAG_FIXED;
}
static inline void flags_from_arch(struct vcpu *v)
{
	uint64_t f = v->arch.rflags;

	v->soft.flags = (uint16_t)((f & (FLAGS_ARITH & 0xff)) << 8 | 0x200 | ((f >> 11) & 1));
}

#endif
