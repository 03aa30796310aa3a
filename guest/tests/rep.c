/*
 * Page faults inside REP string instructions: which registers have moved, what
 * was written, and that the instruction ends rightly once the page is there.
 * Paging is 32-bit; one window of pages is mapped and unmapped at will.
 */
#include "lib.h"

#define WINDOW 0x40000000
#define PAGES 8

static uint32_t directory[1024] __attribute__((aligned(4096)));
static uint32_t low_tables[16][1024] __attribute__((aligned(4096))); /* 64 MiB one to one */
static uint32_t window[1024] __attribute__((aligned(4096)));
static uint8_t pages[PAGES][4096] __attribute__((aligned(4096)));
static uint8_t *const win = (uint8_t *)WINDOW;

static void map(unsigned n, bool present)
{
	window[n] = (word)pages[n] | (present ? 7 : 6);
	invlpg(win + n * 4096);
}

static void paging_on(void)
{
	unsigned n, i;

	for (n = 0; n < 16; n++) {
		for (i = 0; i < 1024; i++)
			low_tables[n][i] = (n * 1024 + i) * 4096 | 7;
		directory[n] = (word)low_tables[n] | 7;
	}
	directory[0xfee00000u >> 22] = 0xfec00000u | 0x87; /* local APIC, a large page */
	directory[WINDOW >> 22] = (word)window | 7;
	write_cr4(read_cr4() | 0x10);
	write_cr3((word)directory);
	write_cr0(read_cr0() | 0x80010000);
}

/* A string instruction's registers, before and after. */
struct regs {
	uint32_t si, di, cx, ax, flags;
};

#define STRING_OP(name, text)                                                  \
	static void name(void *p)                                              \
	{                                                                      \
		struct regs *r = p;                                            \
		asm volatile(text "\n pushf; pop %%edx; cld; mov %%edx, %4"    \
			     : "+S"(r->si), "+D"(r->di), "+c"(r->cx), "+a"(r->ax), "=m"(r->flags) \
			     :                                                 \
			     : "edx", "memory", "cc");                         \
	}
STRING_OP(movsb, "rep movsb")
STRING_OP(movsd, "rep movsl")
STRING_OP(movsd_down, "std; rep movsl")
STRING_OP(stosb, "rep stosb")
STRING_OP(stosd, "rep stosl")
STRING_OP(lodsb, "rep lodsb")
STRING_OP(cmpsb, "repe cmpsb")
STRING_OP(scasb, "repne scasb")

static void begin(void)
{
	unsigned n, i;

	for (n = 0; n < PAGES; n++) {
		for (i = 0; i < 4096; i++)
			pages[n][i] = (uint8_t)(n * 37 + i);
		map(n, true);
	}
}

static void expect(const char *what, void (*fn)(void *), struct regs *r, uint32_t error, uint32_t cr2, uint32_t cx,
		   uint32_t si, uint32_t di)
{
	struct trap t = catch(fn, r);

	check_trap(what, &t, 14, error);
	check_eq("  CR2", t.cr2, cr2);
	check_eq("  ECX", t.frame.cx, cx);
	check_eq("  ESI", t.frame.si, si);
	check_eq("  EDI", t.frame.di, di);
}

static bool filled(const uint8_t *p, size_t n, uint8_t byte)
{
	while (n--)
		if (*p++ != byte)
			return false;
	return true;
}

static void faults(void)
{
	begin();
	map(1, false);
	expect("MOVSB into a missing page", movsb, &(struct regs){ WINDOW + 0x4000, WINDOW + 0xf00, 0x300 }, 2, WINDOW + 0x1000,
	       0x200, WINDOW + 0x4100, WINDOW + 0x1000);
	check(pages[0][0xfff] == pages[4][0xff], "  written up to the page end");
	begin();
	map(5, false);
	expect("MOVSD from a missing page", movsd, &(struct regs){ WINDOW + 0x4ff0, WINDOW, 8 }, 0, WINDOW + 0x5000, 4,
	       WINDOW + 0x5000, WINDOW + 0x10);
	begin();
	map(5, false);
	expect("MOVSD, an element straddles", movsd, &(struct regs){ WINDOW + 0x4ffa, WINDOW, 8 }, 0, WINDOW + 0x5000, 7,
	       WINDOW + 0x4ffe, WINDOW + 4);
	begin();
	map(1, false);
	pages[0][0xffe] = pages[0][0xfff] = 0x99;
	expect("STOSD, an element straddles", stosd, &(struct regs){ 0, WINDOW + 0xffa, 8, 0x11111111 }, 2, WINDOW + 0x1000, 7, 0,
	       WINDOW + 0xffe);
	check(pages[0][0xffe] == 0x99 && pages[0][0xfff] == 0x99, "  its first half is not written");
	begin();
	map(3, false);
	expect("MOVSD downwards", movsd_down, &(struct regs){ WINDOW + 0x4008, WINDOW + 0x1008, 8 }, 0, WINDOW + 0x3ffc, 5,
	       WINDOW + 0x3ffc, WINDOW + 0xffc);
	begin();
	map(0, false);
	expect("STOSB, first page missing", stosb, &(struct regs){ 0, WINDOW + 0x10, 8, 0 }, 2, WINDOW + 0x10, 8, 0,
	       WINDOW + 0x10);
	begin();
	map(6, false);
	expect("LODSB", lodsb, &(struct regs){ WINDOW + 0x5ffe, 0, 8, 0 }, 0, WINDOW + 0x6000, 6, WINDOW + 0x6000, 0);
	begin();
	copy(pages[2], pages[4], 4096);
	map(3, false);
	expect("REPE CMPSB, second operand", cmpsb, &(struct regs){ WINDOW + 0x4ffc, WINDOW + 0x2ffc, 8 }, 0, WINDOW + 0x3000, 4,
	       WINDOW + 0x5000, WINDOW + 0x3000);
	begin();
	fill(pages[2], 1, 4096);
	map(3, false);
	expect("REPNE SCASB", scasb, &(struct regs){ 0, WINDOW + 0x2ff0, 0x40, 2 }, 0, WINDOW + 0x3000, 0x30, 0, WINDOW + 0x3000);
	begin();
	window[1] = (word)pages[1] | 5;
	invlpg(win + 4096);
	expect("STOSB into a read-only page", stosb, &(struct regs){ 0, WINDOW + 0xffe, 8, 0 }, 3, WINDOW + 0x1000, 6, 0,
	       WINDOW + 0x1000);
}

static unsigned fixed;
static void fix(struct frame *f)
{
	map((read_cr2() - WINDOW) / 4096, true);
	fixed++;
}

static void restarts(void)
{
	struct regs r;
	struct trap t;
	unsigned n;

	begin();
	handlers[14] = fix;
	for (n = 0; n < 4; n++) {
		fill(pages[n], 0, 4096);
		map(n, false);
	}
	map(5, false);
	fixed = 0;
	r = (struct regs){ WINDOW + 0x4123, WINDOW + 0x456, 0x2500 };
	t = catch(movsb, &r);
	check_trap("MOVSB over five missing pages", &t, NO_TRAP, 0);
	check_eq("  faults", fixed, 4);
	check_eq("  ECX", r.cx, 0);
	check_eq("  ESI", r.si, WINDOW + 0x6623);
	for (n = 0; n < 0x2500 && win[0x456 + n] == win[0x4123 + n]; n++)
		;
	check_eq("  bytes equal", n, 0x2500);
	begin();
	map(1, false);
	map(2, false);
	r = (struct regs){ 0, WINDOW + 0xffd, 0x500, 0xabcdef12 };
	t = catch(stosd, &r);
	check_trap("STOSD unaligned over missing pages", &t, NO_TRAP, 0);
	for (n = 0; n < 0x500 && *(uint32_t *)(win + 0xffd + 4 * n) == 0xabcdef12; n++)
		;
	check_eq("  dwords", n, 0x500);
	begin();
	copy(pages[2], pages[4], 4096);
	copy(pages[3], pages[5], 4096);
	pages[3][0x20] ^= 1;
	map(3, false);
	map(5, false);
	r = (struct regs){ WINDOW + 0x4f00, WINDOW + 0x2f00, 0x1000 };
	t = catch(cmpsb, &r);
	check_eq("CMPSB stops at the difference", r.si, WINDOW + 0x5021);
	check_eq("  ECX", r.cx, 0x1000 - 0x121);
	check_eq("  ZF clear", r.flags & 0x40, 0);
	begin();
	fill(pages[2], 1, 4096);
	fill(pages[3], 1, 4096);
	pages[3][0x80] = 2;
	map(3, false);
	r = (struct regs){ 0, WINDOW + 0x2800, 0x2000, 2 };
	t = catch(scasb, &r);
	check_eq("SCASB finds it behind the fault", r.di, WINDOW + 0x3081);
	check_eq("  ZF set", r.flags & 0x40, 0x40);
	handlers[14] = NULL;
}

static uint8_t model[0x1500];

static void semantics(void)
{
	struct regs r;
	struct trap t;
	unsigned n;

	begin();
	map(1, false);
	r = (struct regs){ WINDOW + 0x1000, WINDOW + 0x1000, 0 };
	t = catch(movsb, &r);
	check_trap("ECX 0 touches nothing", &t, NO_TRAP, 0);
	begin();
	win[0] = 0x5a;
	r = (struct regs){ WINDOW, WINDOW + 1, 0x17ff };
	t = catch(movsb, &r);
	check(filled(win, 0x1800, 0x5a), "MOVSB with overlap by one spreads the byte");
	begin();
	copy(model, win, 0x1500);
	for (n = 0; n < 0x500; n++) {
		uint32_t x;

		copy(&x, model + 4 * n, 4);
		copy(model + 3 + 4 * n, &x, 4);
	}
	r = (struct regs){ WINDOW, WINDOW + 3, 0x500 };
	t = catch(movsd, &r);
	for (n = 0; n < 0x1500 && win[n] == model[n]; n++)
		;
	check_eq("MOVSD with overlap by three, element by element", n, 0x1500);
	begin();
	r = (struct regs){ WINDOW + 0x2000, WINDOW + 0x2000, 0x10000 };
	map(6, false);
	t = catch(movsb, &r);
	check_trap("MOVSB onto itself runs to the first missing page", &t, 14, 0);
	(void)t;
}

void test_main(void)
{
	paging_on();
	faults();
	restarts();
	semantics();
}
