/*
 * Faults while an event is delivered: error codes with IDT and EXT bits,
 * benign, contributory and double faults (a task gate takes #DF), inner
 * stacks that fail.
 */
#include "lib.h"

#define DF_TSS FREE_SELECTOR
#define CODE1 (FREE_SELECTOR + 8)
#define DATA1 (FREE_SELECTOR + 16)
#define TARGET (FREE_SELECTOR + 24)
#define ENTRY(s) gdt[(s) / 8]
#define IDT_ERROR(v) ((v) * 8 + 2)

struct tss32 {
	uint32_t link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags, eax, ecx, edx, ebx, esp, ebp, esi, edi, es, cs,
		ss, ds, fs, gs, ldt;
	uint16_t trap, iomap;
};
static volatile struct tss32 df __attribute__((aligned(128)));
static uint8_t df_stack[4096] __attribute__((aligned(16)));
static volatile uint32_t df_count, df_error, df_link;
extern uint8_t trap_stubs[];

static void resume(void *p);

static void df_main(void)
{
	df_count++;
	df_error = *(volatile uint32_t *)(df_stack + sizeof(df_stack) - 4);
	df_link = df.link;
	/* Back into the main task, at a place that returns to the catcher: an INT whose gate is sound. */
	((volatile struct tss32 *)tss)->eip = (word)resume;
	((volatile struct tss32 *)tss)->cs = CODE;
	((volatile struct tss32 *)tss)->ss = DATA;
	((volatile struct tss32 *)tss)->ds = DATA;
	((volatile struct tss32 *)tss)->es = DATA;
	((volatile struct tss32 *)tss)->eflags = 2;
	asm volatile("iret" ::: "memory"); /* NT is set: to the interrupted task, still busy */
	__builtin_unreachable();
}

static void df_arm(void)
{
	fill((void *)&df, 0, sizeof(df));
	df.eip = (word)df_main;
	df.eflags = 2;
	df.esp = (word)df_stack + sizeof(df_stack);
	df.es = df.ss = df.ds = df.fs = df.gs = DATA;
	df.cs = CODE;
	df.iomap = sizeof(df);
	ENTRY(DF_TSS) = descriptor((word)&df, 0x67, 0x89, 0);
	gate(8, 5, 0, DF_TSS, 0, 0);
	df_count = 0;
	df_error = 0xffff;
}

/* Where the double fault task puts the main task: trap 0x81 goes back to the catcher. The stack may be anything. */
static void resume(void *p)
{
	asm volatile("mov catch_sp, %%esp; sub $64, %%esp; int $0x81" ::: "memory");
}

static void absent(unsigned vector)
{
	gate(vector, 14, 3, CODE, 0, 0);
	idt[vector] &= ~(0x80ull << 40);
}

static void int50(void *p)
{
	asm volatile("int $0x50");
}
static void int3(void *p)
{
	asm volatile("int3");
}
static void ud(void *p)
{
	asm volatile("ud2");
}
static void icebp(void *p)
{
	asm volatile(".byte 0xf1");
}
static void gp(void *p)
{
	asm volatile("mov %0, %%fs" ::"r"(0x1238));
}
static void np(void *p)
{
	asm volatile("mov %0, %%fs" ::"r"(TARGET));
}
static void de(void *p)
{
	asm volatile("xor %%edx, %%edx; xor %%ecx, %%ecx; div %%ecx" ::: "eax", "ecx", "edx", "cc");
}
static void self_interrupt(void *p)
{
	lapic_self(0x55);
	asm volatile("sti; nop; nop; nop; cli");
}

static void expect(const char *what, void (*fn)(void *), uint32_t vector, uint32_t error)
{
	struct trap t = catch(fn, NULL);

	check_trap(what, &t, vector, error);
}

static void expect_df(const char *what, void (*fn)(void *))
{
	struct trap t;

	df_arm();
	t = catch(fn, NULL);
	asm volatile("clts");
	check(t.vector == 0x81 && df_count == 1, what);
	check_eq("  error code 0", df_error, 0);
	check_eq("  out of the main task", df_link, TSS);
	gate_default(8);
}

static void short_idt(void *p)
{
	struct {
		uint16_t limit;
		uint32_t base;
	} __attribute__((packed)) r = { 0x40 * 8 + 6, (uint32_t)idt };

	asm volatile("lidt %0; int $0x40" ::"m"(r));
}

extern uint8_t user_int50[], user_int3[], user_div[];
asm("user_int50: int $0x50; int $0x80\n"
    "user_int3: int3; int $0x80\n"
    "user_div: xor %edx, %edx; xor %ecx, %ecx; div %ecx; int $0x80\n");

static void expect_user(const char *what, uint8_t *code, uint32_t vector, uint32_t error)
{
	struct trap t = catch_user((word)code, 0);

	check_trap(what, &t, vector, error);
}

static void delivery(void)
{
	absent(0x50);
	expect("INT n, gate absent: no EXT", int50, 11, IDT_ERROR(0x50));
	absent(3);
	expect("INT3, gate absent: no EXT", int3, 11, IDT_ERROR(3));
	gate_default(3);
	absent(6);
	expect("#UD, gate absent: EXT", ud, 11, IDT_ERROR(6) | 1);
	gate_default(6);
	absent(1);
	expect("INT1, gate absent: EXT", icebp, 11, IDT_ERROR(1) | 1);
	gate_default(1);
	absent(0x55);
	expect("interrupt, gate absent: EXT", self_interrupt, 11, IDT_ERROR(0x55) | 1);
	lapic_eoi();
	gate_default(0x55);
	gate(0x50, 12, 3, CODE, 0, 0);
	expect("gate is a call gate", int50, 13, IDT_ERROR(0x50));
	gate(0x50, 14, 3, 0, 0, 0);
	expect("gate to null", int50, 13, 0);
	gate(6, 14, 3, 0, 0, 0);
	expect("#UD, gate to null: EXT", ud, 13, 1);
	gate_default(6);
	gate(0x50, 14, 3, DATA, 0, 0);
	expect("gate to data", int50, 13, DATA);
	gate(0x50, 14, 3, 0x1000, 0, 0);
	expect("gate beyond the GDT", int50, 13, 0x1000);
	gate(0x50, 14, 3, USER_CODE & ~3, 0, 0);
	expect("gate to an outer level", int50, 13, USER_CODE & ~3);
	ENTRY(TARGET) = descriptor(0, 0xfffff, 0x1b, FLAT32);
	gate(0x50, 14, 3, TARGET, 0, 0);
	expect("gate to absent code", int50, 11, TARGET);
	gate(6, 14, 3, TARGET, 0, 0);
	expect("#UD to absent code: EXT", ud, 11, TARGET | 1);
	gate_default(6);
	ENTRY(TARGET) = descriptor(0, 0xfff, 0x9b, 4);
	gate(0x50, 14, 3, TARGET, 0x2000, 0);
	expect("offset beyond the handler's limit", int50, 13, 0);
	expect("IDT limit", short_idt, 13, IDT_ERROR(0x40));
	asm volatile("lidt idt_pointer");

	gate(0x50, 14, 0, CODE, (word)trap_stubs + 16 * 0x50, 0);
	expect_user("INT n at CPL 3, gate DPL 0", user_int50, 13, IDT_ERROR(0x50));
	gate(3, 14, 0, CODE, (word)trap_stubs + 16 * 3, 0);
	expect_user("INT3 at CPL 3, gate DPL 0", user_int3, 13, IDT_ERROR(3));
	gate_default(3);
	gate(0x50, 14, 0, CODE, (word)trap_stubs + 16 * 0x50, 0);
	expect("INT n at CPL 0, gate DPL 0", int50, 0x50, 0);
}

static void inner_stack(void)
{
	ENTRY(CODE1) = descriptor(0, 0xfffff, 0xbb, FLAT32);
	ENTRY(DATA1) = descriptor(0, 0xfffff, 0xb3, FLAT32);
	*(uint32_t *)(tss + 12) = (word)user_stack + 2048;
	gate(0x50, 14, 3, CODE1, (word)trap_stubs, 0);
	*(uint16_t *)(tss + 16) = 0;
	expect_user("INT n: SS1 null", user_int50, 10, 0);
	*(uint16_t *)(tss + 16) = DATA1;
	expect_user("INT n: SS1 RPL", user_int50, 10, DATA1);
	*(uint16_t *)(tss + 16) = DATA1 | 1;
	ENTRY(DATA1) = descriptor(0, 0xfffff, 0x33, FLAT32);
	expect_user("INT n: SS1 absent", user_int50, 12, DATA1);
	ENTRY(DATA1) = descriptor(0, 0xff, 0xb3, 4);
	expect_user("INT n: no room on SS1", user_int50, 12, DATA1);
	gate(3, 14, 3, CODE1, (word)trap_stubs, 0);
	expect_user("INT3: no EXT either", user_int3, 12, DATA1);
	gate_default(3);
	gate_default(0x50);
}

static void double_faults(void)
{
	absent(13);
	expect_df("#GP whose gate is absent", gp);
	gate_default(13);
	absent(0);
	expect_df("#DE whose gate is absent", de);
	gate_default(0);
	ENTRY(TARGET) = descriptor(0, 0xfffff, 0x13, FLAT32);
	gate(11, 14, 0, 0, 0, 0);
	expect_df("#NP whose gate leads to null", np);
	gate_default(11);
	absent(6);
	absent(11);
	expect_df("#UD, #NP, then #NP again", ud);
	gate_default(11);
	gate_default(6);
	absent(0x50);
	absent(11);
	expect_df("INT n, #NP, then #NP again", int50);
	gate_default(0x50);
	gate_default(11);
}

void test_main(void)
{
	lapic_enable();
	delivery();
	inner_stack();
	double_faults();
}
