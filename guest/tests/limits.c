/*
 * Segmentation in 32-bit protected mode: limits, expand-down, rights, null and
 * absent segments, the accessed bit, SS and CS, LAR LSL VERR VERW ARPL.
 */
#include "lib.h"

#define S0 (FREE_SELECTOR)
#define S1 (FREE_SELECTOR + 8)
#define S2 (FREE_SELECTOR + 16)
#define ENTRY(s) gdt[(s) / 8]

static uint8_t area[0x3000] __attribute__((aligned(4096)));

struct access {
	uint32_t selector, offset;
};

static void load8(void *p)
{
	struct access *a = p;
	asm volatile("mov %0, %%fs; movb %%fs:(%1), %%al" ::"r"(a->selector), "r"(a->offset) : "eax");
}
static void load32(void *p)
{
	struct access *a = p;
	asm volatile("mov %0, %%fs; movl %%fs:(%1), %%eax" ::"r"(a->selector), "r"(a->offset) : "eax");
}
static void store8(void *p)
{
	struct access *a = p;
	asm volatile("mov %0, %%fs; movb $1, %%fs:(%1)" ::"r"(a->selector), "r"(a->offset) : "memory");
}
static void rmw32(void *p)
{
	struct access *a = p;
	asm volatile("mov %0, %%fs; addl $1, %%fs:(%1)" ::"r"(a->selector), "r"(a->offset) : "memory");
}
static void load_fs(void *p)
{
	asm volatile("mov %0, %%fs" ::"r"((word)p));
}
static void load_ss(void *p)
{
	asm volatile("mov %0, %%ss; nop" ::"r"((word)p));
}
static void load_cs_by_mov(void *p)
{
	asm volatile("mov %0, %%eax; .byte 0x8e, 0xc8" ::"r"((word)p) : "eax");
}

static void try(const char *what, void (*fn)(void *), uint16_t selector, uint32_t offset, uint32_t vector,
		uint32_t error)
{
	struct access a = { selector, offset };
	struct trap t = catch(fn, &a);

	check_trap(what, &t, vector, error);
}

static void try_load(const char *what, void (*fn)(void *), uint16_t selector, uint32_t vector, uint32_t error)
{
	struct trap t = catch(fn, (void *)(word)selector);

	check_trap(what, &t, vector, error);
}

static void expand_up(void)
{
	ENTRY(S0) = descriptor((word)area, 0xfff, ACCESS_DATA, 4);
	try("last byte inside", load8, S0, 0xfff, NO_TRAP, 0);
	try("first byte outside", load8, S0, 0x1000, 13, 0);
	try("dword straddles the limit", load32, S0, 0xffd, 13, 0);
	try("dword ends at the limit", load32, S0, 0xffc, NO_TRAP, 0);
	try("store outside", store8, S0, 0x1000, 13, 0);
	try("offset wraps around 4 GiB", load32, S0, 0xfffffffe, 13, 0);
	ENTRY(S0) = descriptor((word)area, 1, ACCESS_DATA, FLAT32);
	try("page granular limit, last byte", load8, S0, 0x1fff, NO_TRAP, 0);
	try("page granular limit, beyond", load8, S0, 0x2000, 13, 0);
	ENTRY(S0) = descriptor((word)area, 0, ACCESS_DATA, 4);
	try("one-byte segment, byte 0", load8, S0, 0, NO_TRAP, 0);
	try("one-byte segment, byte 1", load8, S0, 1, 13, 0);
}

static void expand_down(void)
{
	/* Valid: 0x1000..0xffff (B clear) or ..0xffffffff (B set). */
	ENTRY(S0) = descriptor((word)area, 0xfff, 0x97, 0);
	try("expand-down 16: below", load8, S0, 0xfff, 13, 0);
	try("expand-down 16: first", load8, S0, 0x1000, NO_TRAP, 0);
	try("expand-down 16: last dword", load32, S0, 0xfffc, NO_TRAP, 0);
	try("expand-down 16: across 64K", load32, S0, 0xfffd, 13, 0);
	try("expand-down 16: above 64K", load8, S0, 0x10000, 13, 0);
	ENTRY(S0) = descriptor((word)area - 0x10000, 0xfff, 0x97, 4);
	try("expand-down 32: below", load8, S0, 0xfff, 13, 0);
	try("expand-down 32: above 64K", load8, S0, 0x10000, NO_TRAP, 0);
	ENTRY(S0) = descriptor(0, 0xff, 0x97, FLAT32);
	try("expand-down 32, pages: at limit", load8, S0, 0xfffff, 13, 0);
	try("expand-down 32, pages: above", load8, S0, 0x100000, NO_TRAP, 0);
	ENTRY(S0) = descriptor((word)area, 0xffff, 0x97, 0);
	try("expand-down 16: empty segment", load8, S0, 0x8000, 13, 0);
}

static void rights(void)
{
	ENTRY(S0) = descriptor(0, 0xfffff, 0x91, FLAT32);
	try("read-only data: load", load8, S0, (word)area, NO_TRAP, 0);
	try("read-only data: store", store8, S0, (word)area, 13, 0);
	try("read-only data: read-modify-write", rmw32, S0, (word)area, 13, 0);
	ENTRY(S0) = descriptor(0, 0xfffff, 0x9b, FLAT32);
	try("readable code: load", load8, S0, (word)area, NO_TRAP, 0);
	try("readable code: store", store8, S0, (word)area, 13, 0);
	ENTRY(S0) = descriptor(0, 0xfffff, 0x99, FLAT32);
	try_load("execute-only code into FS", load_fs, S0, 13, S0);
	try_load("null into FS", load_fs, 0, NO_TRAP, 0);
	try_load("null with RPL 3 into FS", load_fs, 3, NO_TRAP, 0);
	try("access through null", load8, 0, (word)area, 13, 0);
	try_load("null into SS", load_ss, 0, 13, 0);
	ENTRY(S0) = descriptor(0, 0xfffff, 0x13, FLAT32);
	try_load("absent data", load_fs, S0, 11, S0);
	try_load("absent stack", load_ss, S0, 12, S0);
	ENTRY(S0) = descriptor(0, 0xfffff, 0x91, FLAT32);
	try_load("read-only data into SS", load_ss, S0, 13, S0);
	ENTRY(S0) = descriptor(0, 0xfffff, 0xf3, FLAT32);
	try_load("DPL 3 data into SS at CPL 0", load_ss, S0, 13, S0);
	ENTRY(S0) = descriptor(0, 0xfffff, 0x93, FLAT32);
	try_load("RPL 3 into SS at CPL 0", load_ss, S0 | 3, 13, S0);
	try_load("RPL 3 on DPL 0 data", load_fs, S0 | 3, 13, S0);
	ENTRY(S0) = descriptor(0, 0xfffff, 0x9f, FLAT32);
	try_load("RPL 3 on conforming code", load_fs, S0 | 3, NO_TRAP, 0);
	try_load("beyond the GDT", load_fs, GDT_ENTRIES * 8, 13, GDT_ENTRIES * 8);
	try_load("LDT without an LDT", load_fs, 4, 13, 4);
	try_load("TSS into FS", load_fs, TSS, 13, TSS);
	try_load("MOV to CS", load_cs_by_mov, CODE, 6, 0);
}

static void accessed(void)
{
	ENTRY(S0) = descriptor(0, 0xfffff, 0x92, FLAT32);
	try_load("load sets accessed", load_fs, S0, NO_TRAP, 0);
	check_eq("accessed bit in the table", ENTRY(S0) >> 40 & 0xff, 0x93);
	ENTRY(S0) = descriptor(0, 0xfffff, 0x12, FLAT32);
	try_load("absent again", load_fs, S0, 11, S0);
	check_eq("a failed load leaves it clear", ENTRY(S0) >> 40 & 0xff, 0x12);
}

/* Through a small SS at CPL 0 the delivery of #SS would fail too; a CPL 3 program's faults get the kernel's stack. */
asm(".globl user_small_stack, user_small_stack_ebp, user_push_wrap\n"
    "user_small_stack:\n"
    "	mov %eax, %ss\n"
    "	mov $0x1004, %esp\n"
    "	push %eax\n" /* 0x1000: beyond limit 0xfff */
    "	int $0x80\n"
    "user_small_stack_ebp:\n"
    "	mov %eax, %ss\n"
    "	mov $0x2000, %ebp\n"
    "	movl (%ebp), %ecx\n"
    "	int $0x80\n"
    "user_push_wrap:\n"
    "	mov %eax, %ss\n"
    "	mov $0x12340002, %esp\n"
    "	pushw %ax\n"
    "	pushw %ax\n" /* SP 0 -> 0xfffe; ESP's upper half stays */
    "	int $0x80\n");
extern uint8_t user_small_stack[], user_small_stack_ebp[], user_push_wrap[];

static void stacks(void)
{
	struct trap t;

	ENTRY(S0) = descriptor((word)area, 0xfff, 0xf3, 4);
	t = catch_user((word)user_small_stack, S0 | 3);
	check_trap("push beyond SS limit", &t, 12, 0);
	check_eq("ESP unchanged by the failed push", t.sp, 0x1004);
	t = catch_user((word)user_small_stack_ebp, S0 | 3);
	check_trap("EBP beyond SS limit", &t, 12, 0);
	ENTRY(S0) = descriptor(0x90000, 0xffff, 0xf3, 0);
	t = catch_user((word)user_push_wrap, S0 | 3);
	check_trap("16-bit stack wraps", &t, USER_END, 0);
	check_eq("only SP moves", t.sp, 0x1234fffe);
	check_eq("pushed at the top", *(volatile uint16_t *)0x9fffe, S0 | 3);
}

static bool do_lar(uint16_t s, uint32_t *x)
{
	uint8_t zf;
	uint32_t r = 0xdeadbeef;
	asm volatile("lar %2, %0; setz %1" : "+r"(r), "=qm"(zf) : "r"((uint32_t)s) : "cc");
	*x = r;
	return zf;
}
static bool do_lsl(uint16_t s, uint32_t *x)
{
	uint8_t zf;
	uint32_t r = 0xdeadbeef;
	asm volatile("lsl %2, %0; setz %1" : "+r"(r), "=qm"(zf) : "r"((uint32_t)s) : "cc");
	*x = r;
	return zf;
}
static bool do_verr(uint16_t s)
{
	uint8_t zf;
	asm volatile("verr %1; setz %0" : "=qm"(zf) : "r"(s) : "cc");
	return zf;
}
static bool do_verw(uint16_t s)
{
	uint8_t zf;
	asm volatile("verw %1; setz %0" : "=qm"(zf) : "r"(s) : "cc");
	return zf;
}

static void inspection(void)
{
	static const char lar_types[16] = { 0, 1, 1, 1, 1, 1, 0, 0, 0, 1, 0, 1, 1, 0, 0, 0 };
	static const char lsl_types[16] = { 0, 1, 1, 1, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0 };
	bool lar_ok = true, lsl_ok = true;
	uint32_t x;
	unsigned n;

	for (n = 0; n < 16; n++) {
		ENTRY(S0) = descriptor(0x1234, 0x567, 0x80 | n, 0);
		lar_ok &= do_lar(S0, &x) == lar_types[n] && (lar_types[n] ? x >> 8 == (0x80 | n) : x == 0xdeadbeef);
		lsl_ok &= do_lsl(S0, &x) == lsl_types[n] && (lsl_types[n] ? x == 0x567 : x == 0xdeadbeef);
	}
	check(lar_ok, "LAR by system type");
	check(lsl_ok, "LSL by system type");
	ENTRY(S0) = descriptor(0, 0x12345, 0x93, FLAT32);
	check(do_lsl(S0, &x) && x == 0x12345fff, "LSL scales the limit");
	check(do_lar(S0, &x) && (x & 0xf0ffff) == 0xc09300, "LAR of data");
	ENTRY(S0) = descriptor(0, 0x12345, 0x13, FLAT32);
	check(do_lar(S0, &x) && (x & 0xf0ffff) == 0xc01300, "LAR of an absent segment");
	check(!do_lar(0, &x) && !do_lsl(0, &x) && !do_verr(0) && !do_verw(0), "null selector");
	check(!do_lar(0x1000, &x) && !do_verr(0x1000), "beyond the GDT");
	ENTRY(S0) = descriptor(0, 0xfffff, 0x93, FLAT32);
	check(do_verr(S0) && do_verw(S0), "VERR VERW of writable data");
	check(!do_verr(S0 | 3) && !do_verw(S0 | 3) && !do_lar(S0 | 3, &x), "RPL above DPL");
	ENTRY(S0) = descriptor(0, 0xfffff, 0x91, FLAT32);
	check(do_verr(S0) && !do_verw(S0), "VERW of read-only data");
	ENTRY(S0) = descriptor(0, 0xfffff, 0x99, FLAT32);
	check(!do_verr(S0) && !do_verw(S0), "VERR of execute-only code");
	ENTRY(S0) = descriptor(0, 0xfffff, 0x9f, FLAT32);
	check(do_verr(S0 | 3) && !do_verw(S0), "VERR of conforming code ignores RPL");
}

static void arpl(void)
{
	uint16_t x = 0x40;
	uint8_t zf;

	asm volatile("arpl %2, %0; setz %1" : "+r"(x), "=qm"(zf) : "r"((uint16_t)3) : "cc");
	check(zf && x == 0x43, "ARPL raises RPL");
	x = 0x43;
	asm volatile("arpl %2, %0; setz %1" : "+r"(x), "=qm"(zf) : "r"((uint16_t)1) : "cc");
	check(!zf && x == 0x43, "ARPL leaves a higher RPL");
}

static void jump_beyond(void *p)
{
	/* A far jump into a code segment whose limit is below the target. */
	struct {
		uint32_t offset;
		uint16_t selector;
	} __attribute__((packed)) far = { 0x2000, S0 };

	asm volatile("ljmp *%0" ::"m"(far));
}

/* Runs off the end of a one-page code segment: nops up to its limit. */
static void fall_off(void *p)
{
	struct {
		uint32_t offset;
		uint16_t selector;
	} __attribute__((packed)) far = { 0xff0, S0 };

	asm volatile("ljmp *%0" ::"m"(far));
}

static void code_limit(void)
{
	struct trap t;

	ENTRY(S0) = descriptor((word)area, 0xfff, 0x9b, 4);
	t = catch(jump_beyond, NULL);
	check_trap("far jump beyond CS limit", &t, 13, 0);
	check(t.cs == CODE, "it faults in the old segment");
	fill(area, 0x90, sizeof(area));
	t = catch(fall_off, NULL);
	check_trap("running off CS limit", &t, 13, 0);
	check_eq("IP is the first byte outside", t.ip, 0x1000);
	area[0xffd] = 0xb8; /* mov $imm32, %eax: the last two bytes lie outside */
	t = catch(fall_off, NULL);
	check_trap("instruction straddles CS limit", &t, 13, 0);
	check_eq("IP is its first byte", t.ip, 0xffd);
}

static void far_pointer_limit(void *p)
{
	/* The m16:32 operand itself straddles the limit. */
	asm volatile("mov %0, %%fs; lgs %%fs:0xffb, %%eax" ::"r"(S0) : "eax");
}

void test_main(void)
{
	struct trap t;

	asm volatile("lldt %0" ::"r"((uint16_t)0)); /* reset leaves a usable one */
	expand_up();
	expand_down();
	rights();
	accessed();
	stacks();
	inspection();
	arpl();
	code_limit();
	ENTRY(S0) = descriptor((word)area, 0xfff, ACCESS_DATA, 4);
	t = catch(far_pointer_limit, NULL);
	check_trap("LGS operand straddles the limit", &t, 13, 0);
}
