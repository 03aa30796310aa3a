/*
 * Self-modifying code in long mode, where it may have been translated: hot
 * loops that are rewritten while they run, pages that are written so often
 * that code on them is no longer watched but compared, and that calm down
 * again, the same bytes under two addresses. smc.c has the forms of stores.
 */
#include "lib.h"

static uint8_t arena[8 * 4096] __attribute__((aligned(4096)));

typedef uint32_t function(uint32_t);
#define CALL(p, x) (((function *)(word)(p))(x))
#define ALIAS(p)   ((uint8_t *)((word)(p) + USER_ALIAS))

/* lea value(%rdi), %eax; ret */
static void emit(uint8_t *p, uint32_t value)
{
	*(volatile uint16_t *)p = 0x878d;
	*(volatile uint32_t *)(p + 2) = value;
	*(volatile uint8_t *)(p + 6) = 0xc3;
}

/* A loop that adds `step` (an immediate of 32 bits, at p + 6) edi times; returns its end. */
static uint8_t *emit_loop(uint8_t *p, uint32_t step)
{
	static const uint8_t code[] = { 0x31, 0xc0,                     /* xor eax, eax */
					0x0f, 0x1f, 0x00,               /* nop */
					0x05, 0,    0,    0,    0,      /* add eax, step */
					0xff, 0xcf, 0x75, 0xf7, 0xc3 }; /* dec edi; jnz; ret */
	unsigned n;

	for (n = 0; n < sizeof(code); n++)
		((volatile uint8_t *)p)[n] = code[n];
	*(volatile uint32_t *)(p + 6) = step;
	return p + sizeof(code);
}

static void hot_loops(uint8_t *p)
{
	uint32_t n, good = 0;

	emit_loop(p, 1);
	for (n = 0; n < 100; n++) {
		*(volatile uint32_t *)(p + 6) = n;
		good += CALL(p, 1000) == n * 1000;
	}
	check_eq("a hot loop's immediate, between its runs", good, 100);
	for (n = good = 0; n < 1000; n++) {
		emit(p + 0x100, n * 7);
		good += CALL(p + 0x100, n) == n * 8;
	}
	check_eq("a function before each call of it", good, 1000);
	for (n = good = 0; n < 2000; n++) {
		uint8_t *q = p + 0x200 + n % 100 * 16;

		emit(q, n);
		good += CALL(q, 1) == n + 1 && CALL(q, 2) == n + 2 && CALL(q, 3) == n + 3;
	}
	check_eq("many functions, each called thrice", good, 2000);
}

/* Code that changes itself as it runs: what is stored is what is executed next. */
static void within(void)
{
	uint32_t n, good = 0, x;
	uint64_t a, b;

	for (n = 0; n < 2000; n++) {
		asm volatile("movl %1, 1f + 1(%%rip)\n"
			     "1: mov $0, %%eax\n"
			     : "=&a"(x)
			     : "r"(n)
			     : "memory");
		good += x == n;
	}
	check_eq("the very next instruction", good, 2000);
	for (n = good = 0; n < 2000; n++) {
		asm volatile("movl %2, 1f + 1(%%rip)\n add $1, %%ebx\n lea 3(%%rbx), %%rbx\n"
			     "1: mov $0, %%eax\n add %%ebx, %%eax\n"
			     : "=&a"(x), "=&b"(a)
			     : "r"(n), "1"(0ull)
			     : "memory", "cc");
		good += x == n + 4;
	}
	check_eq("a few instructions ahead", good, 2000);
	a = 0;
	asm volatile("mov $3000, %%ecx\n"
		     "1: incl 2f + 1(%%rip)\n"
		     "2: mov $0, %%eax\n"
		     "	add %%rax, %0\n"
		     "	dec %%ecx\n"
		     "	jnz 1b\n movl $0, 2b + 1(%%rip)"
		     : "+b"(a)::"rax", "rcx", "memory", "cc");
	check_eq("a loop that counts in its own immediate", a, 3000ull * 3001 / 2);
	/* What was passed already counts from the next round on. */
	a = 0;
	asm volatile("mov $100, %%ecx\n"
		     "1: add $1, %0\n"
		     "	movb %%cl, 1b + 3(%%rip)\n"
		     "	dec %%ecx\n"
		     "	jnz 1b\n movb $1, 1b + 3(%%rip)"
		     : "+b"(a)::"rcx", "memory", "cc");
	check_eq("an instruction behind the store", a, 1 + 100 * 101 / 2 - 1);
	/* A push and a call are stores too: the stack lies over the code. */
	emit(arena + 0x810, 5);
	for (n = good = 0; n < 1000; n++) {
		asm volatile("mov %%rsp, %%rbx\n lea 0x810 + 2 + 8(%2), %%rsp\n push %3\n mov "
			     "%%rbx, %%rsp\n"
			     "movb $0xc3, 6(%4)\n call *%4"
			     : "=&a"(x), "=&b"(b)
			     : "S"(arena), "r"(0xc300000000ull | n), "d"(arena + 0x810), "D"(1ull)
			     : "rcx", "memory", "cc");
		good += x == n + 1;
	}
	check_eq("PUSH over an immediate", good, 1000);
}

static void calm_again(void)
{
	uint8_t *p = arena + 4096;
	uint32_t n, round, good = 0;

	/* Restless, then hot and calm for long, then one store: it must not be missed. */
	for (round = 0; round < 20; round++) {
		for (n = 0; n < 100; n++) {
			emit(p, round * n);
			good += CALL(p, 1) == round * n + 1;
		}
		emit_loop(p + 0x80, round);
		for (n = 0; n < 60; n++)
			good += CALL(p + 0x80, 50) == 50 * round;
		for (n = 0; n < 2000; n++)
			good += CALL(p, n) == round * 99 + n;
		*(volatile uint32_t *)(p + 0x80 + 6) = round + 1;
		good += CALL(p + 0x80, 10) == 10 * (round + 1);
		((volatile uint8_t *)p)[2] ^= 0x55;
		good += CALL(p, 0) == (round * 99 ^ 0x55);
	}
	check_eq("restless and calm by turns", good, 20 * (100 + 60 + 2000 + 2));
	/* Data beside code that stays: loud enough that the page is restless. */
	emit(p + 0x200, 77);
	for (n = good = 0; n < 5000; n++) {
		(*(volatile uint32_t *)(p + 0x400))++;
		(*(volatile uint32_t *)(p + 0x208))++;
		good += CALL(p + 0x200, n) == 77 + n;
	}
	check_eq("data beside code", good, 5000);
	for (n = good = 0; n < 3000; n++) { /* as a trampoline on the stack */
		uint8_t local[64];

		emit(local, n);
		good += CALL(local, 1) == n + 1;
	}
	check_eq("code on the stack", good, 3000);
}

static void over_pages(void)
{
	uint8_t *p = arena + 3 * 4096 - 3;
	uint32_t n, good = 0;

	for (n = 0; n < 1000; n++) {
		emit(p, n);
		good += CALL(p, 1) == n + 1;
		((volatile uint8_t *)p)[5] = (uint8_t)n; /* the last byte, on the second page */
		good += CALL(p, 0) == ((n & 0xffffff) | (n & 0xff) << 24);
	}
	check_eq("an instruction over a page end, either half", good, 2000);
	/* The first page is restless, the second is not, and the other way round. */
	for (n = good = 0; n < 1000; n++) {
		emit(p - 0x100 + (n & 1) * 0x200, n);
		good += CALL(p - 0x100 + (n & 1) * 0x200, 0) == n &&
			(CALL(p, 0) & 0xff) == (999 & 0xff);
	}
	check_eq("its neighbours rewritten", good, 1000);
}

static void aliases(void)
{
	uint8_t *p = arena + 5 * 4096;
	uint32_t n, good = 0;

	for (n = 0; n < 1000; n++) {
		emit(ALIAS(p), n);
		good += CALL(p, 1) == n + 1;
		emit(p, n + 7);
		good += CALL(ALIAS(p), 1) == n + 8;
	}
	check_eq("written by one mapping, run by the other", good, 2000);
	emit_loop(p + 0x80, 3);
	for (n = good = 0; n < 300; n++)
		good += CALL(p + 0x80, 100) == 300 && CALL(ALIAS(p) + 0x80, 100) == 300;
	*(volatile uint32_t *)(ALIAS(p) + 0x86) = 4;
	check(good == 300 && CALL(p + 0x80, 100) == 400, "a hot loop through an alias");
}

void test_main(void)
{
	hot_loops(arena);
	within();
	calm_again();
	over_pages();
	aliases();
	hot_loops(arena + 6 * 4096);
	hot_loops(arena);
	within();
}
