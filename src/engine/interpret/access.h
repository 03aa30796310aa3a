/*
 * Load and store idioms of the handlers. Each macro leaves the handler by
 * MEMORY_FAULT when the access faults; nothing is stored in that case. `la` is
 * a local the macro sets. Fast forms (A, X) have no slow path and so no stack
 * frame: on a TLB miss they hand over to the G form, which serves every mode.
 */
#ifndef INSULA_ENGINE_INTERPRET_ACCESS_H
#define INSULA_ENGINE_INTERPRET_ACCESS_H

#include "engine/interpret/insn.h"

/* Fast forms: A base + disp, X base + index << shift + disp, both 64-bit without segment base. */
#define EA_A() (REG(v, i->base, const uint64_t) + (uint64_t)(int64_t)i->disp)
#define EA_X() insn_ea64(v, i)

/* Declares la and p; a TLB miss hands the whole instruction to `slow`, its G form. */
#define FAST_READ(T, EA, slow)                                                              \
	uint64_t la = EA();                                                                 \
	const struct tlb_entry *e = &v->soft.tlb_read[(la >> PAGE_SHIFT) & (TLB_SIZE - 1)]; \
	if (unlikely(e->tag != ((la + sizeof(T) - 1) & PAGE_MASK)))                         \
		return slow(v, i);                                                          \
	volatile T *p = (volatile T *)(la + e->addend)
#define FAST_WRITE(T, EA, slow)                                                              \
	uint64_t la = EA();                                                                  \
	const struct tlb_entry *e = &v->soft.tlb_write[(la >> PAGE_SHIFT) & (TLB_SIZE - 1)]; \
	if (unlikely(e->tag != ((la + sizeof(T) - 1) & PAGE_MASK)))                          \
		return slow(v, i);                                                           \
	volatile T *p = (volatile T *)(la + e->addend)

#define ADDRESS_G(T, write)                                \
	uint64_t la;                                       \
	if (unlikely(insn_linear(v, i, sizeof(T), write))) \
		FAULT(v, i);                               \
	la = v->soft.la

#define LOAD(T, val)                                                   \
	do {                                                           \
		const volatile T *p_ = tlb_read_ptr(v, la, sizeof(T)); \
		if (likely(p_)) {                                      \
			(val) = *p_;                                   \
		} else {                                               \
			if (mem_load_slow(v, la, sizeof(T)))           \
				MEMORY_FAULT(v, i);                    \
			(val) = (T)v->soft.value;                      \
		}                                                      \
	} while (0)

#define STORE(T, val)                                             \
	do {                                                      \
		volatile T *p_ = tlb_write_ptr(v, la, sizeof(T)); \
		if (likely(p_)) {                                 \
			*p_ = (T)(val);                           \
		} else {                                          \
			v->soft.value = (T)(val);                 \
			if (mem_store_slow(v, la, sizeof(T)))     \
				MEMORY_FAULT(v, i);               \
		}                                                 \
	} while (0)

/* Reads the old value with the right to write it back. */
#define LOAD_RMW(T, val)                                    \
	volatile T *rmw_ = tlb_write_ptr(v, la, sizeof(T)); \
	if (likely(rmw_)) {                                 \
		(val) = *rmw_;                              \
	} else {                                            \
		if (mem_rmw_slow(v, la, sizeof(T)))         \
			MEMORY_FAULT(v, i);                 \
		(val) = (T)v->soft.value;                   \
	}
#define STORE_RMW(T, val)                                     \
	do {                                                  \
		if (likely(rmw_)) {                           \
			*rmw_ = (T)(val);                     \
		} else {                                      \
			v->soft.value = (T)(val);             \
			if (mem_store_slow(v, la, sizeof(T))) \
				MEMORY_FAULT(v, i);           \
		}                                             \
	} while (0)

/* Register writes: a 32-bit result clears the upper half. */
#define SET_uint8_t(off, val)  (REG(v, off, uint8_t) = (uint8_t)(val))
#define SET_uint16_t(off, val) (REG(v, off, uint16_t) = (uint16_t)(val))
#define SET_uint32_t(off, val) (REG(v, off, uint64_t) = (uint32_t)(val))
#define SET_uint64_t(off, val) (REG(v, off, uint64_t) = (uint64_t)(val))
#define SET(T, off, val)       SET_##T(off, val)

/* The host's flags after an operation, as soft.flags keeps them. */
#define CAPTURE   "\n\tlahf\n\tseto %%al"
/* CF from soft.flags into the host's. */
#define CARRY_IN  "btw $8, %[flags]\n\t"
/* All arithmetic flags from %eax (AH, AL) into the host's. */
#define FLAGS_IN  "addb $0x7f, %%al\n\tsahf\n\t"
#define FLAGS(fl) (v->soft.flags = (uint16_t)(fl))

#endif
