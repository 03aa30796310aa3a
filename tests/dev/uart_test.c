/* The 16550A as a driver sees it. */
#include "pc_machine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "chardev/chardev_memory.h"
#include "dev/pc/uart.h"

#define COM1     0x3f8
#define CAPACITY 20

enum { DATA = COM1, IER, IIR, LCR, MCR, LSR, MSR, SCR };
#define FCR IIR

struct fixture {
	struct pc_machine m;
	struct chardev *chr;
	struct uart *uart;
};

static void start(struct fixture *f)
{
	pc_machine_init(&f->m);
	f->chr = chardev_memory_new(CAPACITY);
	f->uart = uart_new(f->m.clock, f->chr, pc_machine_line(&f->m, 4));
	assert_non_null(f->uart);
	assert_int_equal(uart_attach(f->uart, f->m.pio, COM1), 0);
}

static void end(struct fixture *f)
{
	uart_free(f->uart);
	chardev_free(f->chr);
	pc_machine_fini(&f->m);
}

static void identification(void **state)
{
	struct fixture f;

	(void)state;
	start(&f);
	assert_int_equal(pc_in(&f.m, IIR), 0x01);
	assert_int_equal(pc_in(&f.m, LSR), 0x60);
	assert_int_equal(pc_in(&f.m, MSR), 0xb0);
	pc_out(&f.m, SCR, 0x5a);
	assert_int_equal(pc_in(&f.m, SCR), 0x5a);
	pc_out(&f.m, FCR, 0x01);
	assert_int_equal(pc_in(&f.m, IIR), 0xc1);
	/* The divisor hides behind DLAB; 16 bits at once are two registers. */
	pc_out(&f.m, LCR, 0x83);
	bus_write(f.m.pio, DATA, 2, 0x0102);
	assert_int_equal(pc_in(&f.m, DATA), 2);
	assert_int_equal(pc_in(&f.m, IER), 1);
	pc_out(&f.m, LCR, 0x03);
	assert_int_equal(pc_in(&f.m, IER), 0);
	end(&f);
}

static void output(void **state)
{
	struct fixture f;
	char text[32];

	(void)state;
	start(&f);
	pc_out(&f.m, MCR, 0x0b);
	/* Enabling the interrupt while the register is empty raises it; reading IIR answers it. */
	pc_out(&f.m, IER, 0x02);
	assert_int_equal(f.m.wire[4].level, 1);
	assert_int_equal(pc_in(&f.m, IIR), 0x02);
	assert_int_equal(f.m.wire[4].level, 0);
	pc_out(&f.m, DATA, 'a');
	assert_int_equal(f.m.wire[4].level, 1);
	assert_int_equal(pc_in(&f.m, LSR) & 0x60, 0x60);
	assert_int_equal(chardev_memory_take(f.chr, text, sizeof(text)), 1);
	assert_int_equal(text[0], 'a');
	/* Without OUT2 the line is not driven. */
	pc_out(&f.m, MCR, 0x03);
	assert_int_equal(f.m.wire[4].level, 0);
	end(&f);
}

/* A back end that is full makes the guest wait; nothing is lost, and the interrupt comes when there
 * is room. */
static void back_pressure(void **state)
{
	struct fixture f;
	char text[64];
	size_t got;

	(void)state;
	start(&f);
	pc_out(&f.m, FCR, 0x01);
	pc_out(&f.m, MCR, 0x0b);
	for (int i = 0; i < CAPACITY; i++)
		pc_out(&f.m, DATA, (uint8_t)('A' + i));
	assert_int_equal(pc_in(&f.m, LSR) & 0x60, 0x60);
	for (int i = 0; i < 16; i++)
		pc_out(&f.m, DATA, (uint8_t)('a' + i));
	assert_int_equal(pc_in(&f.m, LSR) & 0x60, 0);
	pc_in(&f.m, IIR);
	pc_out(&f.m, IER, 0x02);
	assert_int_equal(f.m.wire[4].level, 0);
	got = chardev_memory_take(f.chr, text, sizeof(text));
	assert_int_equal(got, CAPACITY);
	assert_memory_equal(text, "ABCDEFGHIJKLMNOPQRST", CAPACITY);
	assert_int_equal(f.m.wire[4].level, 1);
	assert_int_equal(pc_in(&f.m, LSR) & 0x60, 0x60);
	got = chardev_memory_take(f.chr, text, sizeof(text));
	assert_int_equal(got, 16);
	assert_memory_equal(text, "abcdefghijklmnop", 16);
	end(&f);
}

static void input_with_fifo(void **state)
{
	struct fixture f;

	(void)state;
	start(&f);
	pc_out(&f.m, MCR, 0x0b);
	pc_out(&f.m, FCR, 0x41); /* trigger 4 */
	pc_out(&f.m, IER, 0x01);
	assert_int_equal(chardev_memory_inject(f.chr, "abc", 3), 3);
	assert_int_equal(f.m.wire[4].level, 0);
	assert_int_equal(pc_in(&f.m, LSR) & 1, 1);
	/* Below the trigger level: four character times later. */
	vclock_advance(f.m.clock, 10000000);
	assert_int_equal(f.m.wire[4].level, 1);
	assert_int_equal(pc_in(&f.m, IIR), 0xcc);
	assert_int_equal(pc_in(&f.m, DATA), 'a');
	assert_int_equal(f.m.wire[4].level, 0);
	/* At the level at once; the fifth byte is still below it. */
	chardev_memory_inject(f.chr, "de", 2);
	assert_int_equal(pc_in(&f.m, IIR), 0xc4);
	for (const char *c = "bcde"; *c; c++)
		assert_int_equal(pc_in(&f.m, DATA), *c);
	assert_int_equal(pc_in(&f.m, LSR) & 1, 0);
	vclock_advance(f.m.clock, 100000000);
	assert_int_equal(f.m.wire[4].level, 0);
	/* More than fits waits in the back end and follows. */
	assert_int_equal(chardev_memory_inject(f.chr, "0123456789abcdefghij", 20), 20);
	assert_int_equal(chardev_memory_queued(f.chr), 4);
	for (const char *c = "0123456789abcdefghij"; *c; c++)
		assert_int_equal(pc_in(&f.m, DATA), *c);
	assert_int_equal(pc_in(&f.m, LSR), 0x60);
	end(&f);
}

static void loopback(void **state)
{
	struct fixture f;
	char text[4];

	(void)state;
	start(&f);
	pc_out(&f.m, MCR, 0x10);
	pc_in(&f.m, MSR);
	pc_out(&f.m, MCR, 0x1a); /* RTS and OUT2 show as CTS and DCD */
	assert_int_equal(pc_in(&f.m, MSR), 0x99);
	assert_int_equal(pc_in(&f.m, MSR), 0x90);
	pc_out(&f.m, MCR, 0x14); /* OUT1 is RI, whose rise sets no delta */
	assert_int_equal(pc_in(&f.m, MSR), 0x49);
	pc_out(&f.m, MCR, 0x10);
	assert_int_equal(pc_in(&f.m, MSR), 0x04);
	pc_out(&f.m, DATA, 'x');
	pc_out(&f.m, DATA, 'y'); /* overruns the single register */
	assert_int_equal(pc_in(&f.m, LSR), 0x63);
	assert_int_equal(pc_in(&f.m, LSR), 0x61);
	assert_int_equal(pc_in(&f.m, DATA), 'y');
	assert_int_equal(chardev_memory_take(f.chr, text, sizeof(text)), 0);
	end(&f);
}

static void interrupt_priority(void **state)
{
	struct fixture f;

	(void)state;
	start(&f);
	pc_out(&f.m, FCR, 0);
	pc_out(&f.m, IER, 0x0f);
	pc_out(&f.m, MCR, 0x10);
	pc_out(&f.m, DATA, 1);
	pc_out(&f.m, DATA, 2);
	assert_int_equal(pc_in(&f.m, IIR), 0x06);
	pc_in(&f.m, LSR);
	assert_int_equal(pc_in(&f.m, IIR), 0x04);
	pc_in(&f.m, DATA);
	assert_int_equal(pc_in(&f.m, IIR), 0x02);
	assert_int_equal(pc_in(&f.m, IIR), 0x00);
	pc_in(&f.m, MSR);
	assert_int_equal(pc_in(&f.m, IIR), 0x01);
	end(&f);
}

static const struct CMUnitTest tests[] = {
	cmocka_unit_test(identification), cmocka_unit_test(output),
	cmocka_unit_test(back_pressure),  cmocka_unit_test(input_with_fifo),
	cmocka_unit_test(loopback),       cmocka_unit_test(interrupt_priority),
};

int main(void)
{
	return cmocka_run_group_tests(tests, NULL, NULL);
}
