/*
 * Address-size corners: string instructions, LOOP and JCXZ with 16-bit
 * addresses in 32-bit code, index wrap at 64K, and what stays in upper halves.
 */
#include "lib.h"

#define S64K FREE_SELECTOR
#define BASE ((word)space)

static uint8_t space[0x10010] __attribute__((aligned(4096)));

struct regs {
	uint32_t si, di, cx, ax;
};
#define OP(name, text)                                                         \
	static void name(void *p)                                              \
	{                                                                      \
		struct regs *r = p;                                            \
		asm volatile("push %%ds; push %%es; mov %4, %%ds; mov %4, %%es\n" text "\n pop %%es; pop %%ds; cld" \
			     : "+S"(r->si), "+D"(r->di), "+c"(r->cx), "+a"(r->ax) \
			     : "d"(S64K)                                       \
			     : "memory", "cc");                                \
	}
OP(movsb, "addr16 rep movsb")
OP(movsw, "addr16 rep movsw")
OP(movsw_one, "addr16 movsw")
OP(movsb_down, "std; addr16 rep movsb")
OP(stosd, "addr16 rep stosl")
OP(lodsw, "addr16 lodsw")
OP(scasb, "addr16 repne scasb")
OP(cmpsb, "addr16 repe cmpsb")

static volatile uint8_t *const seg = space;

static void limit(uint32_t bytes)
{
	gdt[S64K / 8] = descriptor(BASE, bytes - 1, ACCESS_DATA, 4);
}

static void wraps(void)
{
	struct regs r;
	struct trap t;
	unsigned n;

	limit(0x10000);
	for (n = 0; n < 0x10000; n++)
		seg[n] = (uint8_t)(n * 7 + (n >> 8));
	r = (struct regs){ 0x1234fffe, 0x56780100, 0xabcd0004 };
	t = catch(movsb, &r);
	check_trap("MOVSB wraps at 64K", &t, NO_TRAP, 0);
	check_eq("  SI wrapped, upper half stays", r.si, 0x12340002);
	check_eq("  DI", r.di, 0x56780104);
	check_eq("  CX 0, upper half stays", r.cx, 0xabcd0000);
	check(seg[0x100] == seg[0xfffe] && seg[0x102] == seg[0] && seg[0x103] == seg[1], "  bytes");
	r = (struct regs){ 0x1, 0x100, 0xffff0000 };
	seg[0x100] = 0xee;
	t = catch(movsb, &r);
	check(seg[0x100] == 0xee && r.cx == 0xffff0000, "CX 0 with ECX nonzero: nothing");
	r = (struct regs){ 0x20001, 0x30001, 4 };
	t = catch(movsb_down, &r);
	check_trap("MOVSB downwards wraps below 0", &t, NO_TRAP, 0);
	check_eq("  SI", r.si, 0x2fffd);
	check_eq("  DI", r.di, 0x3fffd);
	r = (struct regs){ 0xffff, 0x100, 1 };
	t = catch(movsw_one, &r);
	check_trap("word at ffff with a 64K limit", &t, 13, 0);
	r = (struct regs){ 0x8001, 0xfffd, 2 };
	t = catch(movsw, &r);
	check_trap("REP MOVSW runs into ffff", &t, 13, 0);
	check_eq("  one element done: CX", t.frame.cx, 1);
	check_eq("  DI", t.frame.di, 0xffff);
	limit(0x10004);
	seg[0x10000] = 0x77;
	r = (struct regs){ 0xffff, 0, 0, 0x12345678 };
	t = catch(lodsw, &r);
	check_trap("word at ffff with a larger limit", &t, NO_TRAP, 0);
	check_eq("  reads on linearly", r.ax, 0x12340000 | 0x77 << 8 | seg[0xffff]);
	check_eq("  SI wraps", r.si, 1);
	r = (struct regs){ 0, 0xfffa, 3, 0x44332211 };
	t = catch(stosd, &r);
	check_trap("STOSD across the wrap", &t, NO_TRAP, 0);
	check(seg[0xfffe] == 0x11 && seg[0x10001] == 0x44 && seg[2] == 0x11, "  bytes");
	check_eq("  DI", r.di, 6);
	limit(0x10000);
	for (n = 0; n < 0x10000; n++)
		seg[n] = 1;
	seg[5] = 9;
	r = (struct regs){ 0, 0xfff0, 0x100, 9 };
	t = catch(scasb, &r);
	check_eq("SCASB finds it behind the wrap", r.di, 6);
	check_eq("  CX", r.cx, 0x100 - 0x16);
	r = (struct regs){ 0x2000, 0xfff0, 0x100 };
	t = catch(cmpsb, &r);
	check_eq("CMPSB stops behind the wrap", r.di, 6);
	check_eq("  SI", r.si, 0x2016);
}

static void counters(void)
{
	uint32_t c, hits = 0;

	c = 0x10003;
	asm volatile("1: inc %1; addr16 loop 1b" : "+c"(c), "+r"(hits)::"cc");
	check_eq("LOOP by CX", hits, 3);
	check_eq("  ECX's upper half", c, 0x10000);
	hits = 0;
	c = 0x10000;
	asm volatile("jcxz 1f; jmp 2f; 1: inc %1; 2:" : "+c"(c), "+r"(hits)::"cc");
	check_eq("JCXZ looks at CX", hits, 1);
	hits = 0;
	asm volatile("jecxz 1f; jmp 2f; 1: inc %1; 2:" : "+c"(c), "+r"(hits)::"cc");
	check_eq("JECXZ looks at ECX", hits, 0);
	c = 0;
	hits = 0;
	asm volatile("1: inc %1; cmp $5, %1; je 2f; addr16 loop 1b; 2:" : "+c"(c), "+r"(hits)::"cc");
	check_eq("LOOP from CX 0 goes on", hits, 5);
	check_eq("  CX wraps, upper half stays", c, 0xfffc);
}

static void addressing(void)
{
	uint32_t x, b = 0x12345678, s = 0xffff0002;

	/* 16-bit effective addresses wrap and ignore upper halves. */
	asm volatile(".byte 0x67, 0x8d, 0x00" : "=a"(x) : "b"(b), "S"(s)); /* lea (%bx,%si), %eax */
	check_eq("BX+SI wraps and zero-extends", x, 0x567a);
	asm volatile(".byte 0x67, 0x8d, 0x80, 0xff, 0xff" : "=a"(x) : "b"(b), "S"(s)); /* lea -1(%bx,%si), %eax */
	check_eq("with a displacement", x, 0x5679);
	asm volatile(".byte 0x66, 0x67, 0x8d, 0x00" : "=a"(x) : "b"(b), "S"(s), "0"(0xaaaaaaaa));
	check_eq("16-bit LEA keeps the upper half", x, 0xaaaa567a);
}

extern uint8_t enter16[];
static void stack16(void)
{
	uint32_t sp_after, value, old;

	/* A 16-bit stack segment under 32-bit code: PUSH, POP, CALL, RET, ENTER, LEAVE use SP alone. */
	gdt[(FREE_SELECTOR + 8) / 8] = descriptor(BASE, 0xffff, ACCESS_DATA, 0);
	asm volatile("mov %%esp, %2\n"
		     "mov %3, %%eax\n mov %%eax, %%ss\n mov $0x77770004, %%esp\n"
		     "push $0x11223344\n push $0x55667788\n" /* SP 4 -> 0 -> fffc */
		     "mov %%esp, %0\n"
		     "pop %1\n"
		     "mov %4, %%eax\n mov %%eax, %%ss\n mov %2, %%esp"
		     : "=&b"(sp_after), "=&c"(value), "=&d"(old)
		     : "i"(FREE_SELECTOR + 8), "i"(DATA)
		     : "eax", "memory");
	check_eq("PUSH wraps SP", sp_after, 0x7777fffc);
	check_eq("POP across the wrap", value, 0x55667788);
	check_eq("  it was at the top", *(volatile uint32_t *)(BASE + 0xfffc), 0x55667788);
	asm volatile("mov %%esp, %2\n push %%ebp\n"
		     "mov %%esp, %%edx\n"
		     "mov %3, %%eax\n mov %%eax, %%ss\n mov $0x77778000, %%esp\n mov $0x99990123, %%ebp\n"
		     "enter $16, $0\n"
		     "mov %%ebp, %1\n mov %%esp, %0\n"
		     "leave\n"
		     "mov %4, %%eax\n mov %%eax, %%ss\n xchg %%edx, %%esp\n pop %%ebp"
		     : "=&b"(sp_after), "=&c"(value), "=&D"(old)
		     : "i"(FREE_SELECTOR + 8), "i"(DATA)
		     : "eax", "edx", "memory");
	check_eq("ENTER: frame pointer", value & 0xffff, 0x7ffc);
	check_eq("ENTER: SP", sp_after, 0x77777fec);
}

void test_main(void)
{
	wraps();
	counters();
	addressing();
	stack16();
}
