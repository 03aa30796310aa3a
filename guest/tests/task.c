/*
 * Hardware task switches: JMP, CALL and IRET, task gates from instructions,
 * INT n and exceptions, what is saved and loaded, busy and NT bits, CR0.TS,
 * DR7, the debug trap bit, faults before and after the commit point.
 */
#include "lib.h"

#define TSS2 FREE_SELECTOR
#define GATE (FREE_SELECTOR + 8)
#define TSS16_ (FREE_SELECTOR + 16)
#define LDT (FREE_SELECTOR + 24)
#define SPARE (FREE_SELECTOR + 32)
#define TSS3 (FREE_SELECTOR + 40)
#define ENTRY(s) gdt[(s) / 8]

struct tss32 {
	uint32_t link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags, eax, ecx, edx, ebx, esp, ebp, esi, edi, es, cs,
		ss, ds, fs, gs, ldt;
	uint16_t trap, iomap;
};
#define MAIN ((volatile struct tss32 *)tss)

static volatile struct tss32 other __attribute__((aligned(128)));
static volatile uint16_t other16[22] __attribute__((aligned(64)));
static uint8_t other_stack[4096] __attribute__((aligned(16)));
static uint64_t ldt[4];

static void other_reset(word eip)
{
	fill((void *)&other, 0, sizeof(other));
	other.eip = eip;
	other.eflags = 2;
	other.esp = (word)other_stack + sizeof(other_stack);
	other.es = other.ss = other.ds = other.fs = other.gs = DATA;
	other.cs = CODE;
	other.iomap = sizeof(other);
	ENTRY(TSS2) = descriptor((word)&other, 0x67, 0x89, 0);
	ENTRY(TSS / 8 * 8) |= 2ull << 40;
	MAIN->cr3 = 0;
	asm volatile("clts");
	write_flags(2);
}

/* What the second task saw. */
static volatile struct {
	uint32_t eflags, cr0, dr7, tr, regs[8], error, count;
} seen;

extern uint8_t task_iret[], task_jmp[];
asm("task_record:\n"
    "	mov %eax, seen + 16\n"
    "	mov %ecx, seen + 20\n"
    "	mov %edx, seen + 24\n"
    "	mov %ebx, seen + 28\n"
    "	mov %esp, seen + 32\n"
    "	mov %ebp, seen + 36\n"
    "	mov %esi, seen + 40\n"
    "	mov %edi, seen + 44\n"
    "	pushf\n"
    "	pop seen\n"
    "	mov %cr0, %eax\n"
    "	mov %eax, seen + 4\n"
    "	mov %dr7, %eax\n"
    "	mov %eax, seen + 8\n"
    "	xor %eax, %eax\n"
    "	str %ax\n"
    "	mov %eax, seen + 12\n"
    "	incl seen + 52\n"
    "	ret\n"
    "task_iret:\n"
    "	call task_record\n"
    "	mov $0x5555, %ebx\n"
    "	iret\n"
    "	incl seen + 52\n" /* the next activation resumes here */
    "	jmp task_iret\n"
    "task_jmp:\n"
    "	call task_record\n"
    "	ljmp $0x28, $0\n"
    "	jmp task_jmp\n");

static void call_tss(void *p)
{
	asm volatile("pusha; lcall $0x40, $0; popa" ::: "memory");
}
static void jmp_tss(void *p)
{
	asm volatile("pusha; ljmp $0x40, $0; popa" ::: "memory");
}
static void call_gate(void *p)
{
	asm volatile("pusha; lcall $0x48, $0; popa" ::: "memory");
}
static void call_tss16(void *p)
{
	asm volatile("pusha; lcall $0x50, $0; popa" ::: "memory");
}
static void int_99(void *p)
{
	asm volatile("pusha; int $99; popa" ::: "memory");
}

static unsigned busy(uint16_t s)
{
	return ENTRY(s) >> 40 & 2;
}
static uint16_t tr(void)
{
	uint16_t x;
	asm volatile("str %0" : "=r"(x));
	return x;
}

static void expect(const char *what, void (*fn)(void *), uint32_t vector, uint32_t error)
{
	struct trap t = catch(fn, NULL);

	check_trap(what, &t, vector, error);
}

static void call_and_return(void)
{
	struct trap t;

	other_reset((word)task_iret);
	other.eax = 0x11111111;
	other.ecx = 0x22222222;
	other.edx = 0x33333333;
	other.ebx = 0x44444444;
	other.ebp = 0x55555555;
	other.esi = 0x66666666;
	other.edi = 0x77777777;
	other.eflags = 0x202 & ~0x200;
	write_dr7(0x755);
	t = catch(call_tss, NULL);
	check_trap("CALL to a TSS and IRET", &t, NO_TRAP, 0);
	check(seen.regs[0] == 0x11111111 && seen.regs[1] == 0x22222222 && seen.regs[2] == 0x33333333 &&
		      seen.regs[3] == 0x44444444 && seen.regs[5] == 0x55555555 && seen.regs[6] == 0x66666666 &&
		      seen.regs[7] == 0x77777777, "registers loaded");
	check_eq("NT set in the new task", seen.eflags, 0x4002);
	check_eq("TR", seen.tr, TSS2);
	check(seen.cr0 & 8, "CR0.TS set");
	check_eq("DR7 local enables cleared", seen.dr7 & 0x355, 0x200 & 0x355);
	check_eq("link to the caller", other.link, TSS);
	check(busy(TSS) && !busy(TSS2), "busy: caller again, callee not");
	check_eq("NT cleared in the callee's saved flags", other.eflags & 0x4000, 0);
	check_eq("callee's EBX saved", other.ebx, 0x5555);
	check(read_cr0() & 8, "CR0.TS set on return too");
	check_eq("TR back", tr(), TSS);
	seen.count = 0;
	t = catch(call_tss, NULL);
	check_trap("second CALL resumes after IRET", &t, NO_TRAP, 0);
	check_eq("it went on", seen.count, 2);
	write_dr7(0x400);
}

static void jump(void)
{
	struct trap t;

	other_reset((word)task_jmp);
	t = catch(jmp_tss, NULL);
	check_trap("JMP to a TSS and back", &t, NO_TRAP, 0);
	check_eq("NT clear after JMP", seen.eflags, 2);
	check(busy(TSS) && !busy(TSS2), "busy bit follows the task");
	check_eq("no link written", other.link, 0);
	check_eq("own EIP was saved and restored", MAIN->cs & 0xffff, CODE);
}

static void gates(void)
{
	struct trap t;

	other_reset((word)task_iret);
	ENTRY(GATE) = (uint64_t)TSS2 << 16 | 0x85ull << 40;
	t = catch(call_gate, NULL);
	check_trap("CALL through a task gate", &t, NO_TRAP, 0);
	check_eq("TR in the task", seen.tr, TSS2);
	other_reset((word)task_iret);
	gate(99, 5, 0, TSS2, 0, 0);
	t = catch(int_99, NULL);
	check_trap("INT n through a task gate", &t, NO_TRAP, 0);
	check_eq("link of INT n", other.link, TSS);
	check_eq("NT in the task", seen.eflags & 0x4000, 0x4000);
	gate_default(99);
	ENTRY(GATE) = (uint64_t)TSS2 << 16 | 0x05ull << 40;
	expect("absent task gate", call_gate, 11, GATE);
}

static void make_gp(void *p)
{
	/* #GP with a selector; the handling task skips it by editing our TSS. */
	asm volatile("mov %0, %%fs" ::"r"(0x1238));
}

extern uint8_t task_skip[];
asm("task_skip:\n" /* for #GP: an error code is on the stack; skip the 2-byte instruction of the task we interrupted */
    "	pop seen + 48\n"
    "	call task_record\n"
    "	addl $2, tss + 32\n"
    "	iret\n"
    "	jmp task_skip\n");

static void exceptions(void)
{
	struct trap t;

	other_reset((word)task_skip);
	seen.error = 0;
	gate(13, 5, 0, TSS2, 0, 0);
	t = catch(make_gp, NULL);
	gate_default(13);
	check_trap("#GP through a task gate", &t, NO_TRAP, 0);
	check_eq("error code on the new stack", seen.error, 0x1238);
	check_eq("RF in the saved flags", MAIN->eflags & 0x10000, 0x10000);
}

static void ltr_faults(void)
{
	other_reset((word)task_iret);
	ENTRY(TSS2) |= 2ull << 40;
	expect("CALL to a busy TSS", call_tss, 13, TSS2);
	other_reset((word)task_iret);
	ENTRY(TSS2) = descriptor((word)&other, 0x66, 0x89, 0);
	expect("TSS limit too small", call_tss, 10, TSS2);
	ENTRY(TSS2) = descriptor((word)&other, 0x67, 0x09, 0);
	expect("absent TSS", call_tss, 11, TSS2);
	check(tr() == TSS && busy(TSS), "still the old task");
	ENTRY(GATE) = (uint64_t)(TSS2 | 4) << 16 | 0x85ull << 40;
	expect("gate to a TSS in the LDT", call_gate, 13, TSS2 | 4);
	ENTRY(GATE) = (uint64_t)DATA << 16 | 0x85ull << 40;
	expect("gate to data", call_gate, 13, DATA);
}

/* After the commit point: the fault belongs to the new task. TR tells. */
static uint16_t fault_tr, fault_cs;
static uint32_t fault_error;
static void in_new_task(struct frame *f)
{
	fault_tr = tr();
	fault_cs = (uint16_t)f->cs;
	fault_error = f->error;
	handlers[f->vector] = NULL;
	/* Back to the main task by JMP; the other one becomes available again. */
	asm volatile("mov %0, %%ds; mov %0, %%es; ljmp $0x28, $0" ::"r"(DATA) : "memory");
}

/* A fault before SS is loaded leaves no stack to push on: a task of its own takes it. */
static volatile struct tss32 rescue __attribute__((aligned(128)));
static uint8_t rescue_stack[1024];
static void rescue_main(void)
{
	fault_tr = (uint16_t)rescue.link;
	/* The error code was pushed below the initial stack top. */
	fault_error = *(volatile uint32_t *)(rescue_stack + sizeof(rescue_stack) - 4);
	asm volatile("ljmp $0x28, $0" ::: "memory");
	__builtin_unreachable();
}

static void try_rescued(const char *what, unsigned vector, uint32_t error)
{
	struct trap t;

	fill((void *)&rescue, 0, sizeof(rescue));
	rescue.eip = (word)rescue_main;
	rescue.eflags = 2;
	rescue.esp = (word)rescue_stack + sizeof(rescue_stack);
	rescue.es = rescue.ss = rescue.ds = rescue.fs = rescue.gs = DATA;
	rescue.cs = CODE;
	ENTRY(TSS3) = descriptor((word)&rescue, 0x67, 0x89, 0);
	fault_tr = 0;
	gate(vector, 5, 0, TSS3, 0, 0);
	t = catch(jmp_tss, NULL);
	gate_default(vector);
	check_trap(what, &t, NO_TRAP, 0);
	check(fault_tr == TSS2, "  in the new task");
	check_eq("  error code", fault_error, error);
}

static void try_after(const char *what, unsigned vector, uint32_t error)
{
	struct trap t;

	fault_tr = 0;
	handlers[vector] = in_new_task;
	t = catch(jmp_tss, NULL);
	handlers[vector] = NULL;
	check_trap(what, &t, NO_TRAP, 0);
	check(fault_tr == TSS2, "  in the new task");
	check_eq("  error code", fault_error, error);
}

static void after_commit(void)
{
	other_reset((word)task_iret);
	other.ldt = 0x1000;
	try_rescued("LDT beyond the GDT", 10, 0x1000);
	other_reset((word)task_iret);
	other.ldt = DATA;
	try_rescued("LDT is no LDT", 10, DATA);
	other_reset((word)task_iret);
	other.ds = 0x1000;
	try_after("DS beyond the GDT", 10, 0x1000);
	other_reset((word)task_iret);
	ENTRY(SPARE) = descriptor(0, 0xfffff, 0x13, FLAT32);
	other.gs = SPARE;
	try_after("GS absent", 11, SPARE);
	other_reset((word)task_iret);
	ENTRY(SPARE) = descriptor(0, 0xfffff, 0xb3, FLAT32);
	other.es = DATA | 3;
	try_after("ES RPL above DPL", 10, DATA);
	other_reset((word)task_iret);
	ENTRY(SPARE) = descriptor(0, 0xfff, 0x9b, 4);
	other.cs = SPARE;
	try_after("EIP beyond the new CS", 13, 0);
}

static void debug_trap(void)
{
	struct trap t;

	other_reset((word)task_iret);
	other.trap = 1;
	fault_tr = 0;
	write_dr6(0);
	handlers[1] = in_new_task;
	t = catch(jmp_tss, NULL);
	check_trap("T bit: #DB", &t, NO_TRAP, 0);
	check_eq("  in the new task", fault_tr, TSS2);
	check_eq("  DR6.BT", read_dr6() & 0xe00f, 0x8000);
}

static void tss16(void)
{
	struct trap t;

	other_reset((word)task_iret);
	/* Code of the 16-bit task must lie in the low 64K. */
	copy((void *)0x7000, (uint8_t[]){ 0x90, 0xcf, 0xeb, 0xfc }, 4); /* nop; iret; jmp back */
	fill((void *)other16, 0, sizeof(other16));
	other16[7] = 0x7000;
	other16[8] = 2;
	other16[9] = 0x1234; /* AX */
	other16[13] = 0x7ff0; /* SP */
	other16[17] = DATA;
	other16[18] = CODE;
	other16[19] = DATA;
	other16[20] = DATA;
	ENTRY(TSS16_) = descriptor((word)other16, 0x2b, 0x81, 0);
	t = catch(call_tss16, NULL);
	check_trap("CALL to a 16-bit TSS", &t, NO_TRAP, 0);
	check_eq("its IP was saved", other16[7], 0x7002);
	check_eq("its AX", other16[9], 0x1234);
	check_eq("link", other16[0], TSS);
	ENTRY(TSS16_) = descriptor((word)other16, 0x2a, 0x81, 0);
	expect("16-bit TSS limit too small", call_tss16, 10, TSS16_);
}

static void ldt_load(void)
{
	uint16_t x;
	struct trap t;

	other_reset((word)task_iret);
	ldt[1] = descriptor(0, 0xfffff, 0x93, FLAT32);
	ENTRY(LDT) = descriptor((word)ldt, sizeof(ldt) - 1, 0x82, 0);
	other.ldt = LDT;
	other.fs = 8 | 4;
	t = catch(call_tss, NULL);
	check_trap("LDT of the new task", &t, NO_TRAP, 0);
	asm volatile("sldt %0" : "=r"(x));
	check_eq("own LDT back", x, 0);
	check_eq("FS from the LDT was loaded", other.fs & 0xffff, 12);
}

static void nested_iret(void *p)
{
	write_flags(0x4002);
	asm volatile("iret");
}

static void iret_faults(void)
{
	struct trap t;

	other_reset((word)task_iret);
	MAIN->link = TSS2;
	t = catch(nested_iret, NULL);
	check_trap("IRET to a TSS that is not busy", &t, 10, TSS2);
	MAIN->link = DATA;
	t = catch(nested_iret, NULL);
	check_trap("IRET to no TSS", &t, 10, DATA);
	MAIN->link = TSS2 | 4;
	t = catch(nested_iret, NULL);
	check_trap("IRET to a TSS in the LDT", &t, 10, TSS2 | 4);
}

void test_main(void)
{
	asm volatile("lldt %0" ::"r"((uint16_t)0));
	call_and_return();
	jump();
	gates();
	exceptions();
	ltr_faults();
	after_commit();
	debug_trap();
	tss16();
	ldt_load();
	iret_faults();
}
