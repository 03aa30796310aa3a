/*
 * Segment descriptors as they lie in the GDT, LDT and IDT (SDM 3A, 3.4.5 and
 * 5.8): field extraction, table reads with their limit checks, and the
 * accessed and busy bits. For the files of src/cpu that load segments.
 */
#ifndef INSULA_CPU_DESCRIPTOR_H
#define INSULA_CPU_DESCRIPTOR_H

#include "base/assert.h"
#include "cpu/excp.h"
#include "cpu/mmu.h"
#include "cpu/vcpu.h"

/* System descriptor types (S clear). */
enum {
	SYS_TSS16 = 1,
	SYS_LDT = 2,
	SYS_TSS16_BUSY = 3,
	SYS_CALL16 = 4,
	SYS_TASK_GATE = 5,
	SYS_INT16 = 6,
	SYS_TRAP16 = 7,
	SYS_TSS32 = 9,
	SYS_TSS32_BUSY = 11,
	SYS_CALL32 = 12,
	SYS_INT32 = 14,
	SYS_TRAP32 = 15,
};

/* Bits of the type field of code and data descriptors. */
#define TYPE_ACCESSED 1u
#define TYPE_WRITABLE 2u /* data; for code: readable */
#define TYPE_DOWN     4u /* data: expand-down; for code: conforming */
#define TYPE_CODE     8u

#define ATTR_VM86 0xf3u /* present, DPL 3, writable data, accessed */

static inline uint32_t descriptor_base(uint64_t raw)
{
	return (uint32_t)((raw >> 16) & 0xffffff) | (uint32_t)(raw >> 56) << 24;
}

static inline uint16_t descriptor_attr(uint64_t raw)
{
	return (raw >> 40) & 0xf0ff;
}

static inline uint32_t descriptor_limit(uint64_t raw)
{
	uint32_t limit = (uint32_t)(raw & 0xffff) | (uint32_t)((raw >> 32) & 0xf0000);

	return raw & 1ull << 55 ? limit << 12 | 0xfff : limit;
}

/* Type and S bit: below 16 a system descriptor, else code or data. */
static inline unsigned attr_type(uint16_t attr)
{
	return attr & (SEG_S | SEG_TYPE);
}
static inline bool attr_is_code(uint16_t attr)
{
	return (attr & (SEG_S | TYPE_CODE)) == (SEG_S | TYPE_CODE);
}
static inline bool attr_is_conforming(uint16_t attr)
{
	return (attr & (SEG_S | TYPE_CODE | TYPE_DOWN)) == (SEG_S | TYPE_CODE | TYPE_DOWN);
}
static inline bool attr_is_writable_data(uint16_t attr)
{
	return (attr & (SEG_S | TYPE_CODE | TYPE_WRITABLE)) == (SEG_S | TYPE_WRITABLE);
}
static inline bool attr_is_readable(uint16_t attr)
{
	return (attr & SEG_S) && (attr & (TYPE_CODE | TYPE_WRITABLE)) != TYPE_CODE;
}

static inline bool selector_is_null(uint16_t selector)
{
	return !(selector & 0xfffc);
}
/* The selector as an error code shows it: EXT and IDT bits clear, TI and index. */
static inline uint32_t selector_error(uint16_t selector)
{
	return selector & 0xfffc;
}

static inline struct segment descriptor_segment(uint16_t selector, uint64_t raw)
{
	return (struct segment){ .base = descriptor_base(raw),
				 .limit = descriptor_limit(raw),
				 .selector = selector,
				 .attr = descriptor_attr(raw) };
}

/* The eight bytes a selector names; beyond its table: exception `vector` with the selector. */
int descriptor_read(struct vcpu *v, uint16_t selector, uint64_t *raw, uint8_t vector);
/* A TSS, LDT or call gate descriptor: 16 bytes in long mode, raw[1] = 0 else. */
int descriptor_read_system(struct vcpu *v, uint16_t selector, uint64_t raw[2], uint8_t vector);

/* Locked read-modify-write of the type byte in the table: accessed or busy bit. */
int descriptor_mark(struct vcpu *v, uint16_t selector, uint8_t set, uint8_t clear);

static inline int descriptor_access(struct vcpu *v, uint16_t selector, uint64_t *raw)
{
	if (likely(*raw & 1ull << 40))
		return 0;
	*raw |= 1ull << 40;
	return descriptor_mark(v, selector, TYPE_ACCESSED, 0);
}

/* Base of a 16-byte system descriptor. */
static inline uint64_t descriptor_base64(const uint64_t raw[2])
{
	return descriptor_base(raw[0]) | raw[1] << 32;
}

/* offset+len within the limit, expand-down segments upside down. A 4 GiB segment lets accesses
 * wrap. */
static inline bool segment_covers(const struct segment *s, uint64_t offset, unsigned len)
{
	uint64_t last = offset + len - 1;

	if ((s->attr & (SEG_S | TYPE_CODE | TYPE_DOWN)) == (SEG_S | TYPE_DOWN))
		return offset > s->limit && last <= (s->attr & SEG_DB ? 0xffffffffu : 0xffffu);
	return last <= s->limit || s->limit == 0xffffffffu;
}

/*
 * Instruction pointer within a code segment about to be loaded: #GP(0) else.
 * Outside 64-bit code the upper half of a 64-bit pointer is ignored, as
 * hardware does when IRETQ or RETFQ go to compatibility mode.
 */
static inline int code_offset_check(struct vcpu *v, uint16_t attr, uint32_t limit, uint64_t *offset)
{
	if ((attr & SEG_L) && vcpu_long_mode(v))
		return likely(address_canonical(*offset)) ? 0 : excp_gp(v, 0);
	*offset = (uint32_t)*offset;
	return *offset <= limit ? 0 : excp_gp(v, 0);
}

static inline uint64_t rip_truncate(uint64_t rip, unsigned opsize)
{
	return opsize == 8 ? rip : opsize == 4 ? (uint32_t)rip : (uint16_t)rip;
}

/* Own vcpu: interrupts were just allowed; if one waits for that, have events looked at. */
static inline void vcpu_window_open(struct vcpu *v)
{
	if (unlikely(atomic_load_explicit(&v->req, memory_order_relaxed) & REQ_WINDOW) &&
	    (v->arch.rflags & FLAG_IF))
		atomic_fetch_or_explicit(&v->req, REQ_IRQ, memory_order_relaxed);
}

#endif
