/*
 * A runtime for guests that test the CPU: serial output, checks, catching of
 * faults, descriptor tables. 32-bit images start in flat protected mode
 * without paging; 64-bit ones in long mode with 4 GiB mapped one to one and
 * once more, for user mode, at USER_ALIAS. One image tests one subject, prints
 * a line per check and ends through port 0xf4 with 0 if all held, 1 if not.
 */
#ifndef GUEST_TESTS_LIB_H
#define GUEST_TESTS_LIB_H

#define NO_TRAP 0xffffffff
#define USER_END 0x80 /* INT 0x80 ends code run by catch_user() */

#define CODE 0x08
#define DATA 0x10
#ifdef __x86_64__
#define USER_CODE32 0x1b
#define USER_DATA 0x23
#define USER_CODE 0x2b
#define TSS 0x30
#define CODE32 0x40
#define DATA32 0x48
#define FREE_SELECTOR 0x50
#define USER_ALIAS 0x8000000000
#else
#define USER_CODE 0x1b
#define USER_DATA 0x23
#define TSS 0x28
#define CODE16 0x30
#define DATA16 0x38
#define FREE_SELECTOR 0x40
#endif

#ifndef __ASSEMBLER__
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uintptr_t word;

struct frame {
#ifdef __x86_64__
	uint64_t r15, r14, r13, r12, r11, r10, r9, r8, di, si, bp, bx, dx, cx, ax;
#else
	uint32_t es, ds, di, si, bp, unused_sp, bx, dx, cx, ax;
#endif
	word vector, error, ip, cs, flags;
	word sp, ss; /* 32-bit: only if the level changed; VM86: ES DS FS GS follow */
	word vm_es, vm_ds, vm_fs, vm_gs;
};

struct trap {
	uint32_t vector; /* NO_TRAP: none happened */
	uint32_t error;
	word ip, cs, flags, sp, ss, cr2;
	struct frame frame;
};

/* Output and verdict. */
void print(const char *format, ...); /* %x %d %s %c */
void check(bool ok, const char *what);
void check_eq(const char *what, uint64_t got, uint64_t want);
void check_trap(const char *what, const struct trap *t, uint32_t vector, uint32_t error);
void skip(const char *what);
void finish(void) __attribute__((noreturn));
void test_main(void);

/* Run fn at CPL 0; a trap ends it. */
struct trap catch(void (*fn)(void *), void *arg);
/* Run code at CPL 3 (address as user mode sees it) until it traps; INT 0x80 is its ordinary end. */
struct trap catch_user(word code, word arg);
/* Handlers that return to where the trap came from. NULL: back to catching. */
typedef void trap_handler(struct frame *f);
extern trap_handler *handlers[256];

/* Descriptor tables. */
#define GDT_ENTRIES 128
extern uint64_t gdt[GDT_ENTRIES];
extern uint8_t tss[256 + 8192]; /* the TSS in TR, its I/O map behind it */
extern uint64_t idt[512];
#define ACCESS_CODE 0x9b
#define ACCESS_DATA 0x93
#define FLAT32 0xc /* G, D */
uint64_t descriptor(uint32_t base, uint32_t limit, unsigned access, unsigned flags);
void gate(unsigned vector, unsigned type, unsigned dpl, uint16_t selector, word offset, unsigned ist);
void gate_default(unsigned vector); /* back to the library's stub */

extern uint8_t user_stack[4096];

static inline void outb(uint16_t port, uint8_t x)
{
	asm volatile("outb %0, %1" ::"a"(x), "d"(port));
}
static inline uint8_t inb(uint16_t port)
{
	uint8_t x;
	asm volatile("inb %1, %0" : "=a"(x) : "d"(port));
	return x;
}
static inline void outl(uint16_t port, uint32_t x)
{
	asm volatile("outl %0, %1" ::"a"(x), "d"(port));
}
static inline void cpuid(uint32_t leaf, uint32_t sub, uint32_t r[4])
{
	asm volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "0"(leaf), "2"(sub));
}
static inline uint64_t rdmsr(uint32_t index)
{
	uint32_t lo, hi;
	asm volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(index));
	return (uint64_t)hi << 32 | lo;
}
static inline void wrmsr(uint32_t index, uint64_t x)
{
	asm volatile("wrmsr" ::"c"(index), "a"((uint32_t)x), "d"((uint32_t)(x >> 32)) : "memory");
}
#define READ_REG(name)                                                         \
	static inline word read_##name(void)                                   \
	{                                                                      \
		word x;                                                        \
		asm volatile("mov %%" #name ", %0" : "=r"(x)::"memory");       \
		return x;                                                      \
	}                                                                      \
	static inline void write_##name(word x)                                \
	{                                                                      \
		asm volatile("mov %0, %%" #name ::"r"(x) : "memory");          \
	}
READ_REG(cr0)
READ_REG(cr2)
READ_REG(cr3)
READ_REG(cr4)
READ_REG(dr0)
READ_REG(dr1)
READ_REG(dr2)
READ_REG(dr3)
READ_REG(dr6)
READ_REG(dr7)
static inline word read_flags(void)
{
	word x;
	asm volatile("pushf; pop %0" : "=r"(x)::"memory");
	return x;
}
static inline void write_flags(word x)
{
	asm volatile("push %0; popf" ::"r"(x) : "memory", "cc");
}
static inline void invlpg(const volatile void *p)
{
	asm volatile("invlpg (%0)" ::"r"(p) : "memory");
}
void copy(void *to, const void *from, size_t n);
void fill(void *to, uint8_t byte, size_t n);

/* Local APIC in xAPIC mode at its usual place; interrupt to self through the ICR. */
void lapic_enable(void);
void lapic_self(uint8_t vector);
void lapic_self_nmi(void);
void lapic_eoi(void);

#endif
#endif
