/*
 * Call gates in 32-bit protected mode: same level, inner level with parameter
 * copy, 16-bit gates, conforming code, every check on the way; far returns to
 * outer levels with and without parameter release; segments dropped on return.
 */
#include "lib.h"

#define GATE FREE_SELECTOR
#define CODE_C (FREE_SELECTOR + 8)  /* conforming, DPL 0 */
#define TARGET (FREE_SELECTOR + 16) /* varied */
#define CODE1 (FREE_SELECTOR + 24)
#define DATA1 (FREE_SELECTOR + 32)
#define ENTRY(s) gdt[(s) / 8]

static uint64_t call_gate(uint16_t selector, word offset, unsigned params, unsigned access)
{
	return (offset & 0xffff) | (uint64_t)selector << 16 | (uint64_t)params << 32 | (uint64_t)access << 40 |
	       (uint64_t)(offset >> 16) << 48;
}

/* What the callee saw. */
struct {
	uint32_t esp, ss, cs, stack[12];
} seen;
extern uint8_t callee[], callee16[], callee_same[], callee_params[];
asm("callee:\n"
    "	push %ds\n"
    "	push $0x10\n"
    "	pop %ds\n"
    "	mov %esp, seen\n"
    "	mov %ss, seen + 4\n"
    "	mov %cs, seen + 8\n"
    "	push %eax\n"
    "	push %ecx\n"
    "	xor %ecx, %ecx\n"
    "1:	mov 12(%esp, %ecx, 4), %eax\n"
    "	mov %eax, seen + 12(, %ecx, 4)\n"
    "	inc %ecx\n"
    "	cmp $8, %ecx\n"
    "	jb 1b\n"
    "	pop %ecx\n"
    "	pop %eax\n"
    "	pop %ds\n"
    "	lret\n"
    "callee_params:\n"
    "	push %ds\n"
    "	push $0x10\n"
    "	pop %ds\n"
    "	mov %esp, seen\n"
    "	mov %ss, seen + 4\n"
    "	mov %cs, seen + 8\n"
    "	push %eax\n"
    "	push %ecx\n"
    "	xor %ecx, %ecx\n"
    "1:	mov 12(%esp, %ecx, 4), %eax\n"
    "	mov %eax, seen + 12(, %ecx, 4)\n"
    "	inc %ecx\n"
    "	cmp $8, %ecx\n"
    "	jb 1b\n"
    "	pop %ecx\n"
    "	pop %eax\n"
    "	pop %ds\n"
    "	lret $12\n");

/* User code: EAX = far pointer's address unused; the gate's selector is fixed. */
extern uint8_t user_call[], user_call_params[], user_jmp[], user_call_keep[];
asm("user_call:\n"
    "	lcall $0x43, $0x12345678\n" /* GATE | 3; the offset is ignored */
    "	int $0x80\n"
    "user_call_params:\n"
    "	push $0x111\n"
    "	push $0x222\n"
    "	push $0x333\n"
    "	lcall $0x43, $0\n"
    "	int $0x80\n"
    "user_jmp:\n"
    "	ljmp $0x43, $0\n");

static void kernel_call(void *p)
{
	asm volatile("lcall $0x40, $0" ::: "memory");
}
static void kernel_call_target(void *p)
{
	asm volatile("lcall $0x50, $callee" ::: "memory");
}

static void expect(const char *what, void (*fn)(void *), uint32_t vector, uint32_t error)
{
	struct trap t = catch(fn, NULL);

	check_trap(what, &t, vector, error);
}

static void expect_user(const char *what, uint8_t *code, uint32_t vector, uint32_t error)
{
	struct trap t = catch_user((word)code, 0);

	check_trap(what, &t, vector, error);
}

static void same_level(void)
{
	word before;

	ENTRY(GATE) = call_gate(CODE, (word)callee, 0, 0x8c);
	asm volatile("mov %%esp, %0" : "=r"(before));
	expect("call gate at the same level", kernel_call, NO_TRAP, 0);
	check(seen.cs == CODE && seen.ss == DATA, "same CS level and SS");
	check_eq("return CS on the stack", seen.stack[1] & 0xffff, CODE);
	ENTRY(GATE) = call_gate(CODE, (word)callee, 5, 0x8c);
	expect("parameters are not copied at the same level", kernel_call, NO_TRAP, 0);
	check_eq("CS right above EIP", seen.stack[1] & 0xffff, CODE);
}

static void inner_level(void)
{
	struct trap t;

	ENTRY(GATE) = call_gate(CODE, (word)callee, 0, 0xec);
	t = catch_user((word)user_call, 0);
	check_trap("call gate from CPL 3", &t, USER_END, 0);
	check(seen.cs == CODE && seen.ss == DATA, "ran at CPL 0 on SS0");
	check_eq("ESP0 less the frame", seen.esp, *(uint32_t *)(tss + 4) - 20);
	check_eq("old CS", seen.stack[1] & 0xffff, USER_CODE);
	check_eq("old ESP", seen.stack[2], (word)user_stack + 4096);
	check_eq("old SS", seen.stack[3] & 0xffff, USER_DATA);
	check_eq("back on the user stack", t.sp, (word)user_stack + 4096);

	ENTRY(GATE) = call_gate(CODE, (word)callee_params, 3, 0xec);
	t = catch_user((word)user_call_params, 0);
	check_trap("three parameters", &t, USER_END, 0);
	check(seen.stack[2] == 0x333 && seen.stack[3] == 0x222 && seen.stack[4] == 0x111, "copied in order");
	check_eq("ESP above them", seen.stack[5], (word)user_stack + 4096 - 12);
	check_eq("RETF 12 releases both stacks", t.sp, (word)user_stack + 4096);
}

static void checks_on_the_way(void)
{
	ENTRY(GATE) = call_gate(CODE, (word)callee, 0, 0x8c);
	expect_user("gate DPL below CPL", user_call, 13, GATE);
	ENTRY(GATE) = call_gate(CODE, (word)callee, 0, 0x6c);
	expect_user("gate absent", user_call, 11, GATE);
	ENTRY(GATE) = call_gate(0, (word)callee, 0, 0xec);
	expect_user("gate to null", user_call, 13, 0);
	ENTRY(GATE) = call_gate(0x800, (word)callee, 0, 0xec);
	expect_user("gate beyond the GDT", user_call, 13, 0x800);
	ENTRY(GATE) = call_gate(DATA, (word)callee, 0, 0xec);
	expect_user("gate to data", user_call, 13, DATA);
	ENTRY(TARGET) = descriptor(0, 0xfffff, 0x1b, FLAT32);
	ENTRY(GATE) = call_gate(TARGET, (word)callee, 0, 0xec);
	expect_user("gate to absent code", user_call, 11, TARGET);
	ENTRY(TARGET) = descriptor(0, 0xfff, 0x9b, 4);
	expect_user("offset beyond the target's limit", user_call, 13, 0);
	ENTRY(TARGET) = descriptor(0, 0xfffff, 0xfb, FLAT32);
	ENTRY(GATE) = call_gate(TARGET, (word)callee, 0, 0x8c);
	expect("gate to an outer level", kernel_call, 13, TARGET);
	ENTRY(GATE) = call_gate(CODE, (word)callee, 0, 0xec);
	expect_user("JMP through a gate to an inner level", user_jmp, 13, CODE);
	ENTRY(GATE) = call_gate(CODE, (word)callee, 0, 0xe0);
	expect_user("reserved type", user_call, 13, GATE);

	/* A broken SS0 would also break delivery of #TS: break the level 1 stack, which only this gate uses. */
	ENTRY(CODE1) = descriptor(0, 0xfffff, 0xbb, FLAT32);
	ENTRY(DATA1) = descriptor(0, 0xfffff, 0xb3, FLAT32);
	ENTRY(GATE) = call_gate(CODE1, (word)callee, 0, 0xec);
	*(uint32_t *)(tss + 12) = (word)user_stack + 2048;
	*(uint16_t *)(tss + 16) = 0;
	expect_user("SS1 null", user_call, 10, 0);
	*(uint16_t *)(tss + 16) = DATA1;
	expect_user("SS1 with RPL 0", user_call, 10, DATA1);
	*(uint16_t *)(tss + 16) = DATA | 1;
	expect_user("SS1 with DPL 0", user_call, 10, DATA);
	*(uint16_t *)(tss + 16) = CODE1 | 1;
	expect_user("SS1 is code", user_call, 10, CODE1);
	*(uint16_t *)(tss + 16) = 0x801;
	expect_user("SS1 beyond the GDT", user_call, 10, 0x800);
	*(uint16_t *)(tss + 16) = DATA1 | 1;
	ENTRY(DATA1) = descriptor(0, 0xfffff, 0x33, FLAT32);
	expect_user("SS1 absent", user_call, 12, DATA1);
	ENTRY(DATA1) = descriptor(0, 0xff, 0xb3, 4);
	expect_user("no room on SS1", user_call, 12, DATA1);
}

extern uint8_t callee1[];
asm("callee1:\n" /* at CPL 1: no privileged work; CS and SS to where the kernel looks later */
    "	mov %cs, %eax\n"
    "	mov %ss, %ecx\n"
    "	lret\n");

static void level_one(void)
{
	struct trap t;

	ENTRY(CODE1) = descriptor(0, 0xfffff, 0xbb, FLAT32);
	ENTRY(DATA1) = descriptor(0, 0xfffff, 0xb3, FLAT32);
	ENTRY(GATE) = call_gate(CODE1, (word)callee1, 0, 0xec);
	*(uint32_t *)(tss + 12) = (word)user_stack + 2048;
	*(uint16_t *)(tss + 16) = DATA1 | 1;
	t = catch_user((word)user_call, 0);
	check_trap("call to level 1 and back", &t, USER_END, 0);
	check_eq("CS with RPL 1", t.frame.ax & 0xffff, CODE1 | 1);
	check_eq("SS with RPL 1", t.frame.cx & 0xffff, DATA1 | 1);
}

extern uint8_t user_call_conforming[];
asm("user_call_conforming:\n"
    "	lcall $0x4b, $1f\n" /* CODE_C | 3 */
    "	int $0x80\n"
    "1:	mov %cs, %eax\n"
    "	lret\n");

static void conforming(void)
{
	struct trap t;

	ENTRY(CODE_C) = descriptor(0, 0xfffff, 0x9f, FLAT32);
	t = catch_user((word)user_call_conforming, 0);
	check_trap("direct call to conforming code", &t, USER_END, 0);
	check_eq("CPL stays in its RPL", t.frame.ax & 0xffff, CODE_C | 3);
	ENTRY(CODE_C) = descriptor(0, 0xfffff, 0xff, FLAT32);
	ENTRY(GATE) = call_gate(CODE_C, (word)callee, 0, 0x8c);
	expect("conforming with DPL above CPL", kernel_call, 13, CODE_C);
	ENTRY(TARGET) = descriptor(0, 0xfffff, 0xfb, FLAT32);
	expect("direct call to an outer level", kernel_call_target, 13, TARGET);
}

/* A 16-bit gate: 16-bit frame, callee returns with a 16-bit RETF. The offset is 16 bits, so a segment based near. */
extern uint8_t callee_16[];
asm("callee_16:\n"
    "	mov %esp, %eax\n"
    "	mov (%esp), %ecx\n"
    "	lretw\n");

static void gate16(void)
{
	word base = (word)callee_16 & ~0xfffu;
	struct trap t;

	ENTRY(TARGET) = descriptor(base, 0xffff, 0x9b, 4);
	ENTRY(GATE) = call_gate(TARGET, (word)callee_16 - base, 0, 0xe4);
	/* The user's EIP must fit 16 bits: a copy of its code at 0x7000. */
	copy((void *)0x7000, user_call, 16);
	t = catch_user(0x7000, 0);
	check_trap("16-bit gate from 32-bit code", &t, USER_END, 0);
	check_eq("8-byte frame", t.frame.ax, *(uint32_t *)(tss + 4) - 8);
	check_eq("IP and CS in 16 bits", t.frame.cx, USER_CODE << 16 | 0x7007);
}

static void drop(void *p)
{
	/* From CPL 0 to user code with DS, ES, FS, GS of varied kinds. */
	asm volatile("mov %0, %%ds; mov %1, %%es; mov %2, %%fs; mov %3, %%gs\n"
		     "push %1; push %4; push %5; push $1f; lret\n"
		     "1: mov %%ds, %%eax; mov %%es, %%ecx; mov %%fs, %%edx; mov %%gs, %%ebx; int $0x80" ::"r"(DATA),
		     "r"(USER_DATA), "r"(CODE_C), "r"(CODE), "r"((word)user_stack + 4096), "i"(USER_CODE)
		     : "memory");
}

static void return_drops(void)
{
	struct trap t;
	word esp0;

	ENTRY(CODE_C) = descriptor(0, 0xfffff, 0x9f, FLAT32);
	asm volatile("mov %%esp, %0" : "=r"(esp0));
	*(uint32_t *)(tss + 4) = esp0 - 4096;
	t = catch(drop, NULL);
	check_trap("RETF to level 3", &t, USER_END, 0);
	check_eq("DS of level 0 dropped", t.frame.ax & 0xffff, 0);
	check_eq("ES of level 3 kept", t.frame.cx & 0xffff, USER_DATA);
	check_eq("FS conforming kept", t.frame.dx & 0xffff, CODE_C);
	check_eq("GS code of level 0 dropped", t.frame.bx & 0xffff, 0);
}

static void retf(void *p)
{
	const uint32_t *f = p;

	asm volatile("push %3; push %2; push %1; push %0; lret" ::"r"(f[0]), "r"(f[1]), "r"(f[2]), "r"(f[3])
		     : "memory");
}
static void try_retf(const char *what, uint32_t ip, uint32_t cs, uint32_t sp, uint32_t ss, uint32_t vector,
		     uint32_t error)
{
	uint32_t f[4] = { ip, cs, sp, ss };
	struct trap t = catch(retf, f);

	check_trap(what, &t, vector, error);
}

static void return_checks(void)
{
	word ip = (word)user_call, sp = (word)user_stack + 4096;

	try_retf("RETF to null", ip, 0, sp, USER_DATA, 13, 0);
	try_retf("RETF to data", ip, DATA, sp, USER_DATA, 13, DATA);
	try_retf("RETF beyond the GDT", ip, 0x803, sp, USER_DATA, 13, 0x800);
	try_retf("RETF: DPL is not RPL", ip, CODE | 3, sp, USER_DATA, 13, CODE);
	ENTRY(TARGET) = descriptor(0, 0xfffff, 0x7b, FLAT32);
	try_retf("RETF to absent code", ip, TARGET | 3, sp, USER_DATA, 11, TARGET);
	try_retf("RETF: SS null", ip, USER_CODE, sp, 0, 13, 0);
	try_retf("RETF: SS RPL", ip, USER_CODE, sp, USER_DATA & ~3, 13, USER_DATA & ~3);
	try_retf("RETF: SS DPL", ip, USER_CODE, sp, DATA | 3, 13, DATA);
	ENTRY(TARGET) = descriptor(0, 0xfffff, 0x73, FLAT32);
	try_retf("RETF: SS absent", ip, USER_CODE, sp, TARGET | 3, 12, TARGET);
	ENTRY(TARGET) = descriptor(0, 0xff, 0xfb, 4);
	try_retf("RETF: EIP beyond the limit", ip, TARGET | 3, sp, USER_DATA, 13, 0);
}

void test_main(void)
{
	same_level();
	inner_level();
	checks_on_the_way();
	level_one();
	conforming();
	gate16();
	return_drops();
	return_checks();
}
