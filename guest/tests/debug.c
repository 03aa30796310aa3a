/*
 * Debug exceptions: single step, instruction and data breakpoints, DR6 and
 * DR7, RF, general detect, INT1, and what MOV SS holds back.
 */
#include "lib.h"

#define TF 0x100
#define RF 0x10000
#define MAX_HITS 64
#define BS 0x4000
#define BD 0x2000
#define DR7_BASE 0x400
#define DR7_L(n) (1u << (2 * (n)))
#define DR7_RW(n, rw, len) ((uint32_t)((rw) | (len) << 2) << (16 + 4 * (n)))

static struct {
	word ip, dr6, flags, cx;
} hits[MAX_HITS];
static unsigned hit_count;
static bool set_rf;
static word stop_at;

static void on_db(struct frame *f)
{
	if (hit_count < MAX_HITS) {
		hits[hit_count].ip = f->ip;
		hits[hit_count].dr6 = read_dr6() & 0xf00f;
		hits[hit_count].flags = f->flags;
		hits[hit_count].cx = f->cx;
	}
	hit_count++;
	write_dr6(0xffff0ff0);
	if (set_rf)
		f->flags |= RF;
	if (f->ip == stop_at || hit_count > MAX_HITS)
		f->flags &= ~(word)TF;
}

static void reset(void)
{
	hit_count = 0;
	stop_at = 0;
	set_rf = false;
	write_dr6(0xffff0ff0);
	write_dr7(DR7_BASE);
}

#define STEP_ON "pushf; orl $0x100, (%%esp); popf\n"
#define STEP_OFF "pushf; andl $~0x100, (%%esp); popf\n"
#define LABEL(name) ".globl " name "\n" name ":\n"
#define STR(l) #l
extern uint8_t s1[], s2[], s3[], s4[], s5[], s6[], s7[], s8[], s9[], s10[], s11[], s12[], s13[], s14[];
extern uint8_t b1[], b2[], b3[], b4[], b5[], b6[], b7[], b8[], b9[], b10[], b11[], b12[];

static uint32_t buffer[16] __attribute__((aligned(64)));

static void steps(void)
{
	reset();
	stop_at = (word)s4;
	asm volatile(STEP_ON LABEL("s1") "nop\n" LABEL("s2") "nop\n" LABEL("s3") STEP_OFF LABEL("s4") "nop\n" ::: "memory", "cc");
	check_eq("POPF that sets TF does not trap; each instruction after it does", hits[0].ip, (word)s2);
	check_eq("second step", hits[1].ip, (word)s3);
	check_eq("steps up to the POPF that clears TF, it included", hit_count, 5);
	check_eq("DR6.BS alone", hits[0].dr6, BS);
	check_eq("TF in the pushed flags", hits[0].flags & TF, TF);
	check_eq("RF clear in a trap's pushed flags", hits[0].flags & RF, 0);
	check_eq("TF clear in the pushed flags of the last", hits[4].flags & TF, 0);

	reset();
	asm volatile(STEP_ON LABEL("s5") "rep stosb\n" LABEL("s6") STEP_OFF ::"D"(buffer), "c"(3), "a"(0) : "memory", "cc");
	check(hits[0].ip == (word)s5 && hits[1].ip == (word)s5 && hits[2].ip == (word)s6, "REP traps after each iteration");
	check(hits[0].cx == 2 && hits[1].cx == 1 && hits[2].cx == 0, "ECX at each");
	check_eq("RF set between iterations", hits[0].flags & RF, RF);
	check_eq("RF clear after the last", hits[2].flags & RF, 0);

	reset();
	asm volatile("mov %%ss, %%eax\n" STEP_ON LABEL("s7") "mov %%eax, %%ss\n" LABEL("s8") "nop\n" LABEL("s9") STEP_OFF ::
			     : "eax", "memory", "cc");
	check_eq("MOV SS holds the step back by one instruction", hits[0].ip, (word)s9);

	reset();
	asm volatile(STEP_ON LABEL("s10") "int3\n" LABEL("s11") "nop\n" LABEL("s12") STEP_OFF ::: "memory", "cc");
	check_eq("INT3 under TF: no trap for it", hits[0].ip, (word)s12);

	reset();
	asm volatile(STEP_ON "jmp 1f\n nop\n 1:" LABEL("s13") "nop\n" LABEL("s14") STEP_OFF ::: "memory", "cc");
	check(hits[0].ip == (word)s13 && hits[1].ip == (word)s14, "steps over a jump");
}

static void skip_int3(struct frame *f)
{
}

/* An emulator without INT1 shall fail its checks, not the rest of the test. */
static void skip_int1(struct frame *f)
{
	f->ip++;
}

static void icebp(void)
{
	reset();
	handlers[6] = skip_int1;
	asm volatile(".byte 0xf1\n" LABEL("b1") ::: "memory");
	check(hit_count == 1 && hits[0].ip == (word)b1, "INT1 traps behind itself");
	handlers[6] = NULL;
	check_eq("INT1 leaves DR6", hits[0].dr6, 0);
	check_eq("RF clear", hits[0].flags & RF, 0);
}

static void code_breakpoints(void)
{
	unsigned n;

	reset();
	set_rf = true;
	write_dr0((word)b2);
	write_dr7(DR7_BASE | DR7_L(0));
	asm volatile("nop\n" LABEL("b2") "nop\n nop\n" ::: "memory");
	check(hit_count == 1 && hits[0].ip == (word)b2, "instruction breakpoint faults before it");
	check_eq("DR6.B0", hits[0].dr6, 1);
	check_eq("RF clear in its pushed flags", hits[0].flags & RF, 0);

	reset();
	set_rf = true;
	write_dr3((word)b3);
	write_dr7(DR7_BASE | DR7_L(3));
	n = 3;
	asm volatile(LABEL("b3") "dec %0\n jnz b3\n" : "+r"(n)::"cc");
	check_eq("RF lasts one instruction", hit_count, 3);
	check_eq("DR6.B3", hits[0].dr6, 8);

	reset();
	write_dr1((word)b4);
	write_dr7(DR7_BASE | DR7_L(1));
	asm volatile("pushf; orl $0x10000, (%%esp); push %%cs; push $b4; iret\n" LABEL("b4") "nop\n" ::: "memory", "cc");
	check_eq("IRET with RF skips the breakpoint", hit_count, 0);
	write_dr7(DR7_BASE);
	reset();
	write_dr1((word)b5 + 1);
	write_dr7(DR7_BASE | DR7_L(1));
	asm volatile(LABEL("b5") ".byte 0x66, 0x90\n" ::: "memory");
	check_eq("the breakpoint is the first byte only", hit_count, 0);
	reset();
	write_dr1((word)b5);
	write_dr7(DR7_BASE);
	asm volatile("call 1f; jmp 2f; 1: ret; 2:" ::: "memory");
	check_eq("disabled breakpoint", hit_count, 0);
}

static void data_breakpoints(void)
{
	uint32_t x;

	reset();
	write_dr0((word)&buffer[1]);
	write_dr7(DR7_BASE | DR7_L(0) | DR7_RW(0, 1, 3));
	asm volatile("movl $1, %0\n" LABEL("b6") "nop\n" : "=m"(buffer[1]));
	check(hit_count == 1 && hits[0].ip == (word)b6, "write breakpoint traps after the store");
	check_eq("DR6.B0", hits[0].dr6, 1);
	hit_count = 0;
	x = *(volatile uint32_t *)&buffer[1];
	check_eq("write breakpoint ignores loads", hit_count, 0);
	*(volatile uint8_t *)((word)&buffer[1] + 3) = 1;
	check_eq("byte inside its dword", hit_count, 1);
	*(volatile uint32_t *)((word)&buffer[0] + 2) = 1;
	check_eq("overlapping store", hit_count, 2);
	*(volatile uint32_t *)&buffer[0] = 1;
	*(volatile uint32_t *)&buffer[2] = 1;
	check_eq("neighbours", hit_count, 2);

	reset();
	write_dr2((word)&buffer[4] + 1); /* low bits are ignored for LEN 2 and more */
	write_dr7(DR7_BASE | DR7_L(2) | DR7_RW(2, 3, 1));
	x = *(volatile uint8_t *)&buffer[4];
	check_eq("read/write breakpoint on a load, word aligned down", hit_count, 1);
	x = ((volatile uint8_t *)&buffer[4])[2];
	check_eq("behind the word", hit_count, 1);
	asm volatile("addl $1, %0" : "+m"(buffer[4])::"cc");
	check_eq("read-modify-write traps once", hit_count, 2);
	(void)x;

	reset();
	write_dr0((word)&buffer[8] + 2);
	write_dr7(DR7_BASE | DR7_L(0) | DR7_RW(0, 1, 0));
	asm volatile(LABEL("b7") "rep stosb\n" LABEL("b8") ::"D"(&buffer[8]), "c"(6), "a"(0) : "memory");
	check_eq("REP STOSB: one trap", hit_count, 1);
	check(hits[0].ip == (word)b7 && hits[0].cx == 3, "  right after the iteration that hit");

	reset();
	write_dr0((word)&buffer[12]);
	write_dr1((word)&buffer[12]);
	write_dr7(DR7_BASE | DR7_L(0) | DR7_L(1) | DR7_RW(0, 1, 3) | DR7_RW(1, 3, 3));
	*(volatile uint32_t *)&buffer[12] = 5;
	check_eq("two breakpoints at once", hits[0].dr6, 3);

	reset();
	write_dr0((word)&buffer[12]);
	write_dr7(DR7_BASE | DR7_L(0) | DR7_RW(0, 1, 3));
	asm volatile(STEP_ON "movl $1, %0\n" LABEL("b9") STEP_OFF : "=m"(buffer[12])::"cc");
	check(hits[0].ip == (word)b9 && hits[0].dr6 == (BS | 1), "data breakpoint and step in one #DB");
	write_dr7(DR7_BASE);
}

static void io_breakpoints(void)
{
	reset();
	write_dr1(0x80);
	write_dr7(DR7_BASE | DR7_L(1) | DR7_RW(1, 2, 1));
	outb(0x80, 1);
	check_eq("I/O breakpoint without CR4.DE", hit_count, 0);
	write_cr4(read_cr4() | 8);
	asm volatile("outb %%al, $0x81\n" LABEL("b12") ::"a"(0));
	check(hit_count == 1 && hits[0].ip == (word)b12, "I/O breakpoint traps behind OUT");
	check_eq("DR6.B1", hits[0].dr6, 2);
	inb(0x80);
	check_eq("and behind IN", hit_count, 2);
	outb(0x82, 1);
	check_eq("not at the next port", hit_count, 2);
	write_dr7(DR7_BASE);
	write_cr4(read_cr4() & ~8ul);
}

static void read_dr(void *p)
{
	asm volatile(LABEL("b10") "mov %%dr3, %%eax" ::: "eax");
}
static void read_dr4(void *p)
{
	asm volatile("mov %%db4, %%eax" ::: "eax");
}

extern uint8_t user_dr[];
asm("user_dr: mov %dr0, %eax; int $0x80");

static void registers(void)
{
	struct trap t;

	reset();
	write_dr7(DR7_BASE | 0x2000);
	read_dr(NULL);
	check(hit_count == 1 && hits[0].ip == (word)b10, "general detect faults at MOV DR");
	check_eq("DR6.BD", hits[0].dr6, BD);
	check_eq("RF set in its pushed flags", hits[0].flags & RF, RF);
	check_eq("GD cleared for the handler", read_dr7() & 0x2000, 0);
	reset();
	check_eq("DR7 fixed bits", read_dr7(), 0x400);
	write_dr6(0);
	check_eq("DR6 fixed bits", read_dr6() & 0xfffe1ff0, 0xfffe0ff0);
	write_dr6(0xffff0ff0);
	t = catch(read_dr4, NULL);
	check_trap("DR4 is DR6 without CR4.DE", &t, NO_TRAP, 0);
	write_cr4(read_cr4() | 8);
	t = catch(read_dr4, NULL);
	check_trap("DR4 with CR4.DE", &t, 6, 0);
	write_cr4(read_cr4() & ~8ul);
	t = catch_user((word)user_dr, 0);
	check_trap("MOV DR at CPL 3", &t, 13, 0);
}

static void ud_under_tf(void *p)
{
	asm volatile(STEP_ON LABEL("b11") "ud2" ::: "memory", "cc");
}

static void misc(void)
{
	struct trap t;

	reset();
	t = catch(ud_under_tf, NULL);
	check_trap("fault under TF", &t, 6, 0);
	check_eq("  TF and RF in its flags", t.flags & (TF | RF), TF | RF);
	check_eq("  no #DB before it", hit_count, 0);

	/* B bits of an earlier exception do not stay. */
	reset();
	write_dr6(0xffff0ff0 | 0xf);
	write_dr0((word)&buffer[12]);
	write_dr7(DR7_BASE | DR7_L(0) | DR7_RW(0, 1, 3));
	*(volatile uint32_t *)&buffer[12] = 5;
	check_eq("B0-B3 tell this exception's breakpoints", hits[0].dr6, 1);
	write_dr7(DR7_BASE);
}

void test_main(void)
{
	handlers[1] = on_db;
	handlers[3] = skip_int3;
	steps();
	icebp();
	code_breakpoints();
	data_breakpoints();
	io_breakpoints();
	registers();
	misc();
}
