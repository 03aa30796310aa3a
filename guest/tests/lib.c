/*
 * The test runtime in C, for both widths. Traps go to a handler the test
 * installed, else to whoever catches, else end the test.
 */
#include "lib.h"
#include <stdarg.h>

uint64_t gdt[GDT_ENTRIES] __attribute__((aligned(8)));
uint64_t idt[512] __attribute__((aligned(16)));
uint8_t tss[256 + 8192] __attribute__((aligned(16)));
trap_handler *handlers[256];

extern word catch_sp;
extern uint8_t trap_stubs[];
int catch_enter(void (*fn)(void *), void *arg);
#ifdef __x86_64__
int catch_enter_user(word code, word arg, word cs, word sp);
#else
int catch_enter_user(word code, word arg);
#endif
int trap(struct frame *f);
void tables_init(void);

static struct trap last;
static unsigned checks, failures;

/* Serial first; polling the line status is right on hardware and harmless elsewhere. */
static void put(char c)
{
	unsigned n;

	for (n = 0; n < 100000 && !(inb(0x3fd) & 0x20); n++)
		;
	outb(0x3f8, (uint8_t)c);
}

static void put_number(uint64_t x, unsigned base)
{
	char digits[24];
	unsigned n = 0;
	uint32_t high = (uint32_t)(x >> 32), low = (uint32_t)x;

	if (base == 16) {
		int shift;

		for (shift = 60; shift > 0 && !(x >> shift & 15); shift -= 4)
			;
		for (; shift >= 0; shift -= 4)
			put("0123456789abcdef"[x >> shift & 15]);
		return;
	}
	(void)high;
	do {
		digits[n++] = (char)('0' + low % 10);
		low /= 10;
	} while (low);
	while (n)
		put(digits[--n]);
}

static void vprint(const char *p, va_list args)
{
	for (; *p; p++) {
		const char *s;

		if (*p != '%') {
			put(*p);
			continue;
		}
		switch (*++p) {
		case 'x':
			put_number(va_arg(args, word), 16);
			break;
		case 'd':
			put_number(va_arg(args, unsigned), 10);
			break;
		case 'c':
			put((char)va_arg(args, int));
			break;
		case 's':
			for (s = va_arg(args, const char *); *s; s++)
				put(*s);
			break;
		default:
			put('%');
		}
	}
}

void print(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vprint(format, args);
	va_end(args);
}

void check(bool ok, const char *what)
{
	checks++;
	failures += !ok;
	print("%s %s\n", ok ? "ok" : "FAIL", what);
}

static void put_hex64(uint64_t x)
{
	put('0');
	put('x');
	put_number(x, 16);
}

void check_eq(const char *what, uint64_t got, uint64_t want)
{
	checks++;
	if (got == want) {
		print("ok %s\n", what);
		return;
	}
	failures++;
	print("FAIL %s: got ", what);
	put_hex64(got);
	print(" want ");
	put_hex64(want);
	put('\n');
}

void check_trap(const char *what, const struct trap *t, uint32_t vector, uint32_t error)
{
	checks++;
	if (t->vector == vector && (vector == NO_TRAP || t->error == error)) {
		print("ok %s\n", what);
		return;
	}
	failures++;
	print("FAIL %s: got vector %x error %x ip %x, want vector %x error %x\n", what, (word)t->vector, (word)t->error,
	      t->ip, (word)vector, (word)error);
}

void skip(const char *what)
{
	print("skip %s\n", what);
}

void finish(void)
{
	print("verdict: %s, %d checks, %d failed\n", failures ? "fail" : "pass", checks, failures);
	for (;;) {
		const char *s;

		outl(0xf4, failures ? 1 : 0);
		for (s = "Shutdown"; *s; s++) /* Bochs ends by this word */
			outb(0x8900, (uint8_t)*s);
		asm volatile("cli; hlt");
	}
}

void copy(void *to, const void *from, size_t n)
{
	volatile uint8_t *t = to;
	const uint8_t *f = from;

	while (n--)
		*t++ = *f++;
}

void fill(void *to, uint8_t byte, size_t n)
{
	volatile uint8_t *t = to;

	while (n--)
		*t++ = byte;
}

/* From the stubs: nonzero to return to the interrupted code. */
int trap(struct frame *f)
{
	if (handlers[f->vector]) {
		handlers[f->vector](f);
		return 1;
	}
	last.vector = (uint32_t)f->vector;
	last.error = (uint32_t)f->error;
	last.ip = f->ip;
	last.cs = f->cs;
	last.flags = f->flags;
	last.sp = f->sp;
	last.ss = f->ss;
	last.cr2 = read_cr2();
	last.frame = *f;
	if (catch_sp)
		return 0;
	print("FAIL unexpected trap: vector %x error %x at %x:%x flags %x cr2 %x\n", f->vector, f->error, f->cs, f->ip,
	      f->flags, last.cr2);
	failures++;
	finish();
}

struct trap catch(void (*fn)(void *), void *arg)
{
	struct trap none = { .vector = NO_TRAP };

	return catch_enter(fn, arg) ? last : none;
}

struct trap catch_user(word code, word arg)
{
#ifdef __x86_64__
	catch_enter_user(code, arg, USER_CODE, (word)user_stack + 4096 + USER_ALIAS);
#else
	catch_enter_user(code, arg);
#endif
	return last;
}

uint64_t descriptor(uint32_t base, uint32_t limit, unsigned access, unsigned flags)
{
	return (uint64_t)(base >> 24) << 56 | (uint64_t)flags << 52 | (uint64_t)(limit >> 16 & 15) << 48 |
	       (uint64_t)access << 40 | (uint64_t)(base & 0xffffff) << 16 | (limit & 0xffff);
}

void gate(unsigned vector, unsigned type, unsigned dpl, uint16_t selector, word offset, unsigned ist)
{
	uint64_t low = (offset & 0xffff) | (uint64_t)selector << 16 | (uint64_t)ist << 32 |
		       (uint64_t)(0x80 | dpl << 5 | type) << 40 | (uint64_t)((uint32_t)offset >> 16) << 48;

#ifdef __x86_64__
	idt[2 * vector] = low;
	idt[2 * vector + 1] = offset >> 32;
#else
	idt[vector] = low;
#endif
}

void gate_default(unsigned vector)
{
	gate(vector, 14, vector == 3 || vector == 4 || vector == 0x80 ? 3 : 0, CODE, (word)trap_stubs + 16 * vector, 0);
}

void tables_init(void)
{
	unsigned n;
	word base = (word)tss;

	fill(tss, 0, sizeof(tss));
	for (n = 0; n < 256; n++)
		gate_default(n);
#ifdef __x86_64__
	gdt[CODE / 8] = descriptor(0, 0xfffff, ACCESS_CODE, 0xa);
	gdt[DATA / 8] = descriptor(0, 0xfffff, ACCESS_DATA, FLAT32);
	gdt[USER_CODE32 / 8] = descriptor(0, 0xfffff, ACCESS_CODE | 0x60, FLAT32);
	gdt[USER_DATA / 8] = descriptor(0, 0xfffff, ACCESS_DATA | 0x60, FLAT32);
	gdt[USER_CODE / 8] = descriptor(0, 0xfffff, ACCESS_CODE | 0x60, 0xa);
	gdt[TSS / 8] = descriptor((uint32_t)base, 104 + 8192, 0x89, 0);
	gdt[TSS / 8 + 1] = base >> 32;
	gdt[CODE32 / 8] = descriptor(0, 0xfffff, ACCESS_CODE, FLAT32);
	gdt[DATA32 / 8] = descriptor(0, 0xfffff, ACCESS_DATA, FLAT32);
#else
	gdt[CODE / 8] = descriptor(0, 0xfffff, ACCESS_CODE, FLAT32);
	gdt[DATA / 8] = descriptor(0, 0xfffff, ACCESS_DATA, FLAT32);
	gdt[USER_CODE / 8] = descriptor(0, 0xfffff, ACCESS_CODE | 0x60, FLAT32);
	gdt[USER_DATA / 8] = descriptor(0, 0xfffff, ACCESS_DATA | 0x60, FLAT32);
	gdt[TSS / 8] = descriptor((uint32_t)base, 136 + 8192, 0x89, 0);
	gdt[CODE16 / 8] = descriptor(0, 0xfffff, ACCESS_CODE, 8);
	gdt[DATA16 / 8] = descriptor(0, 0xffff, ACCESS_DATA, 0);
	*(uint16_t *)(tss + 8) = DATA;
#endif
	*(uint16_t *)(tss + 102) = sizeof(tss); /* no I/O map */
	outb(0x21, 0xff); /* the 8259s as firmware left them would interrupt on exception vectors */
	outb(0xa1, 0xff);
}

#define LAPIC ((volatile uint32_t *)0xfee00000)

void lapic_enable(void)
{
	LAPIC[0xf0 / 4] = 0x1ff;
	LAPIC[0x80 / 4] = 0;
}

void lapic_self(uint8_t vector)
{
	LAPIC[0x300 / 4] = 0x44000 | vector;
}

void lapic_self_nmi(void)
{
	LAPIC[0x310 / 4] = LAPIC[0x20 / 4] & 0xff000000;
	LAPIC[0x300 / 4] = 0x4400;
}

void lapic_eoi(void)
{
	LAPIC[0xb0 / 4] = 0;
}
