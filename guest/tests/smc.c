/*
 * Self-modifying code in every form a guest may use without a jump between the
 * store and the code: SDM 3A 11.6 promises that a processor of the P6 family
 * and later sees its own stores in time.
 */
#include "lib.h"

#define ALIAS 0x40000000

static uint8_t arena[4 * 4096] __attribute__((aligned(4096)));
static uint32_t directory[1024] __attribute__((aligned(4096)));
static uint32_t low_tables[16][1024] __attribute__((aligned(4096)));
static uint32_t alias_table[1024] __attribute__((aligned(4096)));

typedef uint32_t function(void);
#define CALL(p) (((function *)(word)(p))())

/* mov $imm, %eax; ret */
static void emit(uint8_t *p, uint32_t value)
{
	*(volatile uint8_t *)p = 0xb8;
	*(volatile uint32_t *)(p + 1) = value;
	*(volatile uint8_t *)(p + 5) = 0xc3;
}

static void rewriting(void)
{
	unsigned n, good = 0;

	for (n = 0; n < 1000; n++) {
		emit(arena, n * 3);
		good += CALL(arena) == n * 3;
	}
	check_eq("function rewritten and called, 1000 times", good, 1000);
	for (n = good = 0; n < 1000; n++) {
		((volatile uint8_t *)arena)[1] = (uint8_t)n;
		good += (CALL(arena) & 0xff) == (n & 0xff);
	}
	check_eq("one byte of it rewritten", good, 1000);
	for (n = good = 0; n < 1000; n++) {
		emit(arena + 64 * (n & 31), n);
		good += CALL(arena + 64 * (n & 31)) == n;
	}
	check_eq("32 functions in one page", good, 1000);
	for (n = good = 0; n < 256; n++) {
		emit(arena + 4096 - 3, n | 0x12345600); /* straddles two pages */
		good += CALL(arena + 4096 - 3) == (n | 0x12345600);
		((volatile uint8_t *)arena)[4096 + 1] = (uint8_t)(n ^ 0x55); /* only on the second page: imm byte 3 */
		good += CALL(arena + 4096 - 3) == (((n ^ 0x55) << 24) | 0x345600u | n);
	}
	check_eq("instruction over a page end, either half rewritten", good, 512);
}

static void in_block(void)
{
	uint32_t x, n, good = 0, before = 0;

	asm volatile("fninit");
	for (n = 0; n < 300; n++) {
		asm volatile("movb %b1, 1f + 1\n"
			     "1: mov $0xff, %%al\n movzbl %%al, %0"
			     : "=a"(x)
			     : "q"(n)
			     : "memory");
		good += x == (n & 0xff);
	}
	check_eq("the very next instruction's immediate", good, 300);
	for (n = good = 0; n < 300; n++) {
		asm volatile("movb %b1, 1f + 1\n nop\n nop\n nop\n"
			     "1: mov $0xff, %%al\n movzbl %%al, %0"
			     : "=a"(x)
			     : "q"(n)
			     : "memory");
		good += x == (n & 0xff);
	}
	check_eq("a few instructions ahead", good, 300);
	for (n = good = 0; n < 300; n++) {
		/* inc (0x40) or dec (0x48) of eax by what was stored just before. */
		asm volatile("movb %b2, 1f\n"
			     "1: .byte 0x40"
			     : "=a"(x)
			     : "0"(1000), "q"(n & 1 ? 0x48 : 0x40)
			     : "memory", "cc");
		good += x == (n & 1 ? 999 : 1001);
	}
	check_eq("the next opcode", good, 300);
	x = 0;
	asm volatile("mov $200, %%ecx\n"
		     "1: incl 2f + 1\n"
		     "2: mov $0, %%eax\n"
		     "	add %%eax, %0\n"
		     "	dec %%ecx\n"
		     "	jnz 1b\n movl $0, 2b + 1"
		     : "+b"(x)::"eax", "ecx", "memory", "cc");
	check_eq("a loop that counts in its own immediate", x, 200 * 201 / 2);
	/* Behind the store lies an instruction that was already passed: only the next round sees it. */
	x = 0;
	asm volatile("mov $50, %%ecx\n"
		     "1: add $1, %0\n"
		     "	movb %%cl, 1b + 2\n"
		     "	dec %%ecx\n"
		     "	jnz 1b\n movb $1, 1b + 2"
		     : "+b"(x)::"ecx", "memory", "cc");
	check_eq("an instruction behind the store", x, 1 + 50 * 51 / 2 - 1);
	for (n = good = 0; n < 100; n++) {
		uint64_t pattern = 0x90909090909000b8ull | (uint64_t)n << 8; /* mov $n, %eax with two stores */

		asm volatile("fildll %1\n fistpll 1f\n"
			     "1: .fill 8, 1, 0x90\n"
			     : "=a"(x)
			     : "m"(pattern), "0"(0)
			     : "memory");
		good += (x & 0xff) == n;
	}
	check_eq("x87 store of eight bytes", good, 100);
	write_cr4(read_cr4() | 0x600);
	for (n = good = 0; n < 100; n++) {
		uint8_t bytes[16] __attribute__((aligned(16)));

		fill(bytes, 0x90, 16);
		bytes[3] = 0xb8;
		*(uint32_t *)(bytes + 4) = n;
		asm volatile("movups %1, %%xmm0\n movups %%xmm0, 1f\n"
			     "1: .fill 16, 1, 0x90\n"
			     : "=a"(x)
			     : "m"(*(uint8_t(*)[16])bytes), "0"(0)
			     : "memory");
		good += x == n;
	}
	check_eq("SSE store of sixteen bytes", good, 100);
	for (n = good = 0; n < 100; n++) {
		asm volatile("lock addb $1, 1f + 1\n"
			     "1: mov $0, %%al\n movzbl %%al, %0"
			     : "=a"(x)::"memory", "cc");
		good += n == 0 || x == ((before + 1) & 0xff);
		before = x;
	}
	check_eq("locked read-modify-write", good, 100);
	for (n = good = 0; n < 100; n++) {
		x = n;
		asm volatile("xchg %%eax, 1f + 1\n"
			     "1: mov $0, %%eax\n"
			     : "+a"(x)::"memory");
		good += x == n;
	}
	check_eq("XCHG", good, 100);
}

static void by_string(void)
{
	uint8_t a[16], b[16];
	uint32_t x, n, good = 0;

	emit(a, 111);
	emit(b, 222);
	for (n = 0; n < 200; n++) {
		asm volatile("rep movsb" ::"S"(n & 1 ? a : b), "D"(arena), "c"(6) : "memory");
		asm volatile("" ::: "memory");
		good += CALL(arena) == (n & 1 ? 111 : 222);
		asm volatile("" : : : "memory");
	}
	(void)x;
	check_eq("REP MOVSB over a function", good, 200);
	/* REP STOSB over what follows it: nops become inc eax. */
	for (n = good = 0; n < 50; n++) {
		asm volatile("mov $1f, %%edi\n mov %2, %%ecx\n mov $0x40, %%al\n rep stosb\n mov $0x90, %%al\n mov $20, %%ecx\n"
			     "movzbl %%al, %%eax\n"
			     "1: .fill 20, 1, 0x90\n"
			     "mov %%eax, %0\n mov $1b, %%edi\n mov $0x90, %%al\n rep stosb"
			     : "=&d"(x)
			     : "0"(0), "r"(n % 20)
			     : "eax", "ecx", "edi", "memory", "cc");
		good += x == 0x90 + n % 20;
	}
	check_eq("REP STOSB over its successors", good, 50);
}

static void by_stack(void)
{
	uint32_t n, x, good = 0;

	/* The stack inside the code page: pushes next to and over code. */
	emit(arena + 0x800, 5);
	for (n = 0; n < 200; n++) {
		asm volatile("mov %%esp, %%edx\n lea 0x800 + 1 + 4(%1), %%esp\n push %2\n mov %%edx, %%esp\n call *%3"
			     : "=a"(x)
			     : "S"(arena), "r"(n * 5), "D"(arena + 0x800)
			     : "edx", "ecx", "memory", "cc");
		good += x == n * 5;
	}
	check_eq("PUSH over an immediate", good, 200);
	good = 0;
	for (n = 0; n < 200; n++) {
		/* A stack right above the function: CALL's own push is 16 bytes from the code it enters. */
		asm volatile("mov %%esp, %%ebp\n lea 0x820(%1), %%esp\n call *%2\n mov %%ebp, %%esp"
			     : "=a"(x)
			     : "S"(arena), "D"(arena + 0x800)
			     : "ebp", "edx", "ecx", "memory", "cc");
		good += x == 199 * 5;
	}
	check_eq("stack beside the code", good, 200);
}

static void neighbours(void)
{
	uint32_t n, good = 0;
	volatile uint32_t *data = (uint32_t *)(arena + 0x140);

	/* Data 64 bytes and less from running code. */
	emit(arena + 0x100, 77);
	*data = 0;
	*(volatile uint32_t *)(arena + 0x108) = 0;
	for (n = 0; n < 2000; n++) {
		(*data)++;
		(*(volatile uint32_t *)(arena + 0x108))++;
		good += CALL(arena + 0x100) == 77;
	}
	check(good == 2000 && *data == 2000 && *(volatile uint32_t *)(arena + 0x108) == 2000, "data beside code");
}

static void paging_on(void)
{
	unsigned n, i;

	for (n = 0; n < 16; n++) {
		for (i = 0; i < 1024; i++)
			low_tables[n][i] = (n * 1024 + i) * 4096 | 7;
		directory[n] = (word)low_tables[n] | 7;
	}
	for (n = 0; n < 4; n++)
		alias_table[n] = ((word)arena + n * 4096) | 7;
	directory[ALIAS >> 22] = (word)alias_table | 7;
	write_cr3((word)directory);
	write_cr0(read_cr0() | 0x80010000);
}

static void aliases(void)
{
	uint8_t *alias = (uint8_t *)ALIAS;
	uint32_t n, x, good = 0;

	for (n = 0; n < 500; n++) {
		emit(alias + 0x200, n);
		good += CALL(arena + 0x200) == n;
		emit(arena + 0x200, n + 7);
		good += CALL(alias + 0x200) == n + 7;
	}
	check_eq("written by one mapping, run by the other", good, 1000);
	/* The next instruction changed through another mapping of its page: no jump between. */
	{
		word page = (word)&&here & ~0xfffu;

		alias_table[8] = page | 7;
		alias_table[9] = (page + 4096) | 7;
		invlpg(alias + 8 * 4096);
		invlpg(alias + 9 * 4096);
	}
here:
	for (n = good = 0; n < 200; n++) {
		volatile uint8_t *store;

		asm volatile("mov $1f + 1, %0" : "=r"(store));
		store = alias + 8 * 4096 + ((word)store - ((word)&&here & ~0xfffu));
		asm volatile("movb %b2, (%1)\n"
			     "1: mov $0xff, %%al\n movzbl %%al, %0"
			     : "=&a"(x)
			     : "r"(store), "q"(n)
			     : "memory");
		good += x == (n & 0xff);
	}
	check_eq("the next instruction through an alias", good, 200);
	/* The same address, another page behind it. */
	emit(arena, 1);
	emit(arena + 4096, 2);
	for (n = good = 0; n < 200; n++) {
		alias_table[0] = ((word)arena + (n & 1) * 4096) | 7;
		invlpg(alias);
		good += CALL(alias) == (n & 1) + 1;
	}
	check_eq("page remapped under the code", good, 200);
	/* The page table entry changed by CR3 load instead. */
	for (n = good = 0; n < 100; n++) {
		alias_table[0] = ((word)arena + (n & 1) * 4096) | 7;
		write_cr3((word)directory);
		good += CALL(alias) == (n & 1) + 1;
	}
	check_eq("and by CR3", good, 100);
	/* An instruction over a page end whose second page is remapped. */
	alias_table[1] = ((word)arena + 1 * 4096) | 7;
	alias_table[0] = ((word)arena) | 7;
	write_cr3((word)directory);
	emit(alias + 4096 - 3, 0x11223344);
	copy(arena + 2 * 4096, arena + 4096, 64);
	arena[2 * 4096] = 0x66; /* bytes 2, 3 of the immediate lie on the second page */
	for (n = good = 0; n < 100; n++) {
		alias_table[1] = ((word)arena + (1 + (n & 1)) * 4096) | 7;
		invlpg(alias + 4096);
		x = CALL(alias + 4096 - 3);
		good += x == (n & 1 ? 0x11663344 : 0x11223344);
	}
	check_eq("second page of an instruction remapped", good, 100);
}

void test_main(void)
{
	rewriting();
	in_block();
	by_string();
	by_stack();
	neighbours();
	paging_on();
	rewriting();
	in_block();
	by_stack();
	neighbours();
	aliases();
}
