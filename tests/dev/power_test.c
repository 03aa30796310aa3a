/* Power, reset and the keyboard controller: ACPI PM block, ports 0x92, 0x60/0x64, 0x80, 0xf4. */
#include "pc_machine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "dev/pc/acpi_pm.h"
#include "dev/pc/debug_exit.h"
#include "dev/pc/i8042.h"
#include "dev/pc/port92.h"
#include "dev/pc/port_delay.h"

#define PM  0x600
#define A20 20 /* wire */

struct fixture {
	struct pc_machine m;
	struct acpi_pm *pm;
	struct port92 *port92;
	struct i8042 *kbd;
	struct port_delay *delay;
	struct debug_exit *debug_exit;
};

static void start(struct fixture *f)
{
	struct i8042_config config;

	pc_machine_init(&f->m);
	f->pm = acpi_pm_new(f->m.clock, pc_machine_line(&f->m, 9), pc_machine_stop(&f->m));
	f->port92 = port92_new(pc_machine_line(&f->m, A20), pc_machine_stop(&f->m));
	config = (struct i8042_config){
		.keyboard = pc_machine_line(&f->m, 1),
		.aux = pc_machine_line(&f->m, 12),
		.a20 = port92_keyboard_a20(f->port92),
		.stop = pc_machine_stop(&f->m),
	};
	f->kbd = i8042_new(&config);
	f->delay = port_delay_new();
	f->debug_exit = debug_exit_new(pc_machine_stop(&f->m));
	assert_int_equal(acpi_pm_attach(f->pm, f->m.pio, PM), 0);
	assert_int_equal(port92_attach(f->port92, f->m.pio), 0);
	assert_int_equal(i8042_attach(f->kbd, f->m.pio), 0);
	assert_int_equal(port_delay_attach(f->delay, f->m.pio), 0);
	assert_int_equal(debug_exit_attach(f->debug_exit, f->m.pio), 0);
}

static void end(struct fixture *f)
{
	debug_exit_free(f->debug_exit);
	port_delay_free(f->delay);
	i8042_free(f->kbd);
	port92_free(f->port92);
	acpi_pm_free(f->pm);
	pc_machine_fini(&f->m);
}

static void power_button(void **state)
{
	struct fixture f;

	(void)state;
	start(&f);
	acpi_pm_power_button(f.pm);
	assert_int_equal(f.m.wire[9].level, 0); /* not enabled yet */
	bus_write(f.m.pio, PM + 2, 2, 0x0120);
	assert_int_equal(f.m.wire[9].level, 1);
	assert_int_equal(bus_read(f.m.pio, PM, 4), 0x01200100);
	bus_write(f.m.pio, PM, 2, 0x0100);
	assert_int_equal(f.m.wire[9].level, 0);
	/* A general-purpose event. */
	bus_write(f.m.pio, PM + ACPI_PM_GPE0 + 4, 4, 1u << 9);
	acpi_pm_gpe(f.pm, 9);
	assert_int_equal(f.m.wire[9].level, 1);
	bus_write(f.m.pio, PM + ACPI_PM_GPE0 + 1, 1, 1u << 1);
	assert_int_equal(f.m.wire[9].level, 0);
	end(&f);
}

static void power_off(void **state)
{
	struct fixture f;

	(void)state;
	start(&f);
	assert_int_equal(bus_read(f.m.pio, PM + 4, 2), 1);
	bus_write(f.m.pio, PM + 4, 2, 1 << 10 | 1 << 13); /* not a state we have: back at once */
	assert_int_equal(f.m.stopped, STOP_NONE);
	assert_int_equal(bus_read(f.m.pio, PM, 2), 0x8000);
	bus_write(f.m.pio, PM + 4, 2, ACPI_PM_SLP_TYP_S5 << 10);
	assert_int_equal(f.m.stopped, STOP_NONE);
	bus_write(f.m.pio, PM + 4, 2, ACPI_PM_SLP_TYP_S5 << 10 | 1 << 13);
	assert_int_equal(f.m.stopped, STOP_POWER_OFF);
	end(&f);
}

/* The guest looks at a change before the clock's thread has come round to it. */
static void pm_timer_seen_first(void **state)
{
	struct fixture f;

	(void)state;
	start(&f);
	bus_write(f.m.pio, PM + 2, 2, 1);
	vclock_pause(f.m.clock);
	vclock_set_ns(f.m.clock, 700000000000ull);
	vclock_resume(f.m.clock);
	assert_int_equal(f.m.wire[9].level, 0);
	assert_int_equal(bus_read(f.m.pio, PM, 2), 1);
	assert_int_equal(f.m.wire[9].level, 1);
	bus_write(f.m.pio, PM, 2, 1);
	vclock_advance(f.m.clock, 0);
	assert_int_equal(f.m.wire[9].rises, 1); /* once, though the thread came too */
	/* And the next one is armed for. */
	vclock_advance(f.m.clock, 600000000000ull);
	assert_int_equal(f.m.wire[9].rises, 2);
	end(&f);
}

static void pm_timer(void **state)
{
	struct fixture f;

	(void)state;
	start(&f);
	vclock_advance(f.m.clock, 1000000000);
	assert_int_equal(bus_read(f.m.pio, PM + 8, 4), 3579545);
	assert_int_equal(bus_read(f.m.pio, PM + 9, 1), 3579545 >> 8 & 0xff);
	/* The top bit changes every ten minutes. */
	bus_write(f.m.pio, PM + 2, 2, 1);
	vclock_advance(f.m.clock, 598000000000ull);
	assert_int_equal(f.m.wire[9].level, 0);
	vclock_advance(f.m.clock, 2000000000);
	assert_int_equal(f.m.wire[9].level, 1);
	bus_write(f.m.pio, PM, 2, 1);
	assert_int_equal(f.m.wire[9].level, 0);
	end(&f);
}

static uint8_t answer(struct fixture *f)
{
	assert_int_equal(pc_in(&f->m, 0x64) & 1, 1);
	return pc_in(&f->m, 0x60);
}

static void keyboard(void **state)
{
	struct fixture f;

	(void)state;
	start(&f);
	assert_int_equal(pc_in(&f.m, 0x64), 0x14);
	pc_out(&f.m, 0x64, 0xaa);
	assert_int_equal(answer(&f), 0x55);
	pc_out(&f.m, 0x64, 0xab);
	assert_int_equal(answer(&f), 0);
	pc_out(&f.m, 0x64, 0x60);
	pc_out(&f.m, 0x60, 0x07); /* interrupts on, no translation */
	pc_out(&f.m, 0x64, 0x20);
	assert_int_equal(answer(&f), 0x07);
	f.m.wire[1].rises = 0;
	pc_out(&f.m, 0x60, 0xff);
	assert_int_equal(f.m.wire[1].level, 1);
	assert_int_equal(answer(&f), 0xfa);
	assert_int_equal(answer(&f), 0xaa);
	assert_int_equal(f.m.wire[1].rises, 2);
	assert_int_equal(f.m.wire[1].level, 0);
	pc_out(&f.m, 0x60, 0xf2);
	assert_int_equal(answer(&f), 0xfa);
	assert_int_equal(answer(&f), 0xab);
	assert_int_equal(answer(&f), 0x83);
	pc_out(&f.m, 0x60, 0xed);
	assert_int_equal(answer(&f), 0xfa);
	pc_out(&f.m, 0x60, 0x07);
	assert_int_equal(answer(&f), 0xfa);
	/* The mouse answers on its own line, marked in the status. */
	pc_out(&f.m, 0x64, 0xd4);
	pc_out(&f.m, 0x60, 0xf2);
	assert_int_equal(f.m.wire[12].level, 1);
	assert_int_equal(pc_in(&f.m, 0x64) & 0x21, 0x21);
	assert_int_equal(answer(&f), 0xfa);
	assert_int_equal(answer(&f), 0x00);
	/* Loopback of the auxiliary port, by which Linux finds it. */
	pc_out(&f.m, 0x64, 0xd3);
	pc_out(&f.m, 0x60, 0x5a);
	assert_int_equal(pc_in(&f.m, 0x64) & 0x21, 0x21);
	assert_int_equal(answer(&f), 0x5a);
	/* Off: answers wait. */
	pc_out(&f.m, 0x60, 0xf4);
	pc_in(&f.m, 0x60);
	pc_out(&f.m, 0x64, 0xad);
	assert_int_equal(pc_in(&f.m, 0x64) & 1, 0);
	end(&f);
}

static void a20_and_reset(void **state)
{
	struct fixture f;

	(void)state;
	start(&f);
	assert_int_equal(f.m.wire[A20].level, 1);
	pc_out(&f.m, 0x92, 0);
	assert_int_equal(f.m.wire[A20].level, 1); /* the keyboard controller still opens it */
	pc_out(&f.m, 0x64, 0xd1);
	pc_out(&f.m, 0x60, 0xdd);
	assert_int_equal(f.m.wire[A20].level, 0);
	pc_out(&f.m, 0x64, 0xd0);
	assert_int_equal(answer(&f) & 0x03, 0x01);
	pc_out(&f.m, 0x92, 2);
	assert_int_equal(f.m.wire[A20].level, 1);
	assert_int_equal(f.m.stopped, STOP_NONE);
	pc_out(&f.m, 0x64, 0xff); /* pulses nothing */
	assert_int_equal(f.m.stopped, STOP_NONE);
	pc_out(&f.m, 0x64, 0xfe);
	assert_int_equal(f.m.stopped, STOP_RESET);
	f.m.stopped = STOP_NONE;
	pc_out(&f.m, 0x92, 3);
	assert_int_equal(f.m.stopped, STOP_RESET);
	end(&f);
}

static void small_ports(void **state)
{
	struct fixture f;

	(void)state;
	start(&f);
	pc_out(&f.m, 0x80, 0x42);
	assert_int_equal(pc_in(&f.m, 0x80), 0x42);
	pc_out(&f.m, 0xed, 1);
	assert_int_equal(pc_in(&f.m, 0xed), 0xff);
	pc_out(&f.m, 0xf4, 0x31);
	assert_int_equal(f.m.stopped, STOP_DEBUG_EXIT);
	assert_int_equal(f.m.stop_code, 0x31);
	end(&f);
}

static const struct CMUnitTest tests[] = {
	cmocka_unit_test(power_button), cmocka_unit_test(power_off),
	cmocka_unit_test(pm_timer),     cmocka_unit_test(pm_timer_seen_first),
	cmocka_unit_test(keyboard),     cmocka_unit_test(a20_and_reset),
	cmocka_unit_test(small_ports),
};

int main(void)
{
	return cmocka_run_group_tests(tests, NULL, NULL);
}
