/* The 8259 pair, the I/O APIC and the wires between them. */
#include "pc_machine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "dev/pc/ioapic.h"
#include "dev/pc/isa_irq.h"
#include "dev/pc/pic.h"

#define INTR 31 /* wire */
#define BASE 0xfec00000ull

struct fixture {
	struct pc_machine m;
	struct pic *pic;
	struct ioapic *ioapic;
	struct isa_irq *isa;
};

static void start(struct fixture *f)
{
	struct irq_line pic[ISA_IRQS], ioapic[ISA_IRQS];

	pc_machine_init(&f->m);
	f->pic = pic_new(pc_machine_line(&f->m, INTR));
	f->ioapic = ioapic_new(pc_machine_msi(&f->m));
	assert_int_equal(pic_attach(f->pic, f->m.pio), 0);
	assert_int_equal(ioapic_attach(f->ioapic, f->m.mmio, BASE), 0);
	for (unsigned i = 0; i < ISA_IRQS; i++) {
		pic[i] = pic_line(f->pic, i);
		ioapic[i] = ioapic_line(f->ioapic, i);
	}
	f->isa = isa_irq_new(pic, ioapic);
}

static void end(struct fixture *f)
{
	isa_irq_free(f->isa);
	ioapic_free(f->ioapic);
	pic_free(f->pic);
	pc_machine_fini(&f->m);
}

/* As a PC's firmware and Linux do it. */
static void program(struct fixture *f, uint8_t icw4)
{
	static const struct {
		uint16_t port;
		uint8_t value;
	} words[] = { { 0x20, 0x11 }, { 0x21, 0x30 }, { 0x21, 0x04 },
		      { 0xa0, 0x11 }, { 0xa1, 0x38 }, { 0xa1, 0x02 } };

	for (unsigned i = 0; i < 3; i++)
		pc_out(&f->m, words[i].port, words[i].value);
	pc_out(&f->m, 0x21, icw4);
	for (unsigned i = 3; i < 6; i++)
		pc_out(&f->m, words[i].port, words[i].value);
	pc_out(&f->m, 0xa1, icw4);
	pc_out(&f->m, 0x21, 0);
	pc_out(&f->m, 0xa1, 0);
}

static void set(struct fixture *f, unsigned irq, int level)
{
	struct irq_line line = isa_irq_line(f->isa, irq);

	irq_set(&line, level);
}

static void pulse(struct fixture *f, unsigned irq)
{
	set(f, irq, 1);
	set(f, irq, 0);
}

static void pic_priority(void **state)
{
	struct fixture f;

	(void)state;
	start(&f);
	program(&f, 1);
	pulse(&f, 4);
	assert_int_equal(f.m.wire[INTR].level, 1);
	assert_int_equal(pic_ack(f.pic), 0x34);
	assert_int_equal(f.m.wire[INTR].level, 0);
	pulse(&f, 6); /* lower: waits */
	assert_int_equal(f.m.wire[INTR].level, 0);
	pulse(&f, 1); /* higher: nests */
	assert_int_equal(pic_ack(f.pic), 0x31);
	pc_out(&f.m, 0x20, 0x0b);
	assert_int_equal(pc_in(&f.m, 0x20), 0x12);
	pc_out(&f.m, 0x20, 0x20); /* ends 1 */
	assert_int_equal(pc_in(&f.m, 0x20), 0x10);
	pc_out(&f.m, 0x20, 0x64); /* ends 4 by name */
	assert_int_equal(pic_ack(f.pic), 0x36);
	pc_out(&f.m, 0x20, 0x20);
	/* Nothing there: spurious, and not in service. */
	assert_int_equal(pic_ack(f.pic), 0x37);
	assert_int_equal(pc_in(&f.m, 0x20), 0);
	end(&f);
}

static void pic_cascade(void **state)
{
	struct fixture f;

	(void)state;
	start(&f);
	program(&f, 1);
	pulse(&f, 12);
	pulse(&f, 8);
	assert_int_equal(pic_ack(f.pic), 0x38);
	/* The slave's next waits for the master's input 2. */
	assert_int_equal(f.m.wire[INTR].level, 0);
	pc_out(&f.m, 0xa0, 0x20);
	pc_out(&f.m, 0x20, 0x20);
	assert_int_equal(f.m.wire[INTR].level, 1);
	assert_int_equal(pic_ack(f.pic), 0x3c);
	pc_out(&f.m, 0xa0, 0x20);
	pc_out(&f.m, 0x20, 0x20);
	/* Masked at the slave while asked for: the slave's spurious vector never reaches us, the
	 * request goes. */
	pulse(&f, 9);
	pc_out(&f.m, 0xa1, 0xff);
	assert_int_equal(f.m.wire[INTR].level, 0);
	pc_out(&f.m, 0xa1, 0);
	assert_int_equal(pic_ack(f.pic), 0x39);
	end(&f);
}

static void pic_level(void **state)
{
	struct fixture f;

	(void)state;
	start(&f);
	program(&f, 1);
	pc_out(&f.m, 0x4d0, 0xff);
	pc_out(&f.m, 0x4d1, 0xff);
	assert_int_equal(pc_in(&f.m, 0x4d0), 0xf8);
	assert_int_equal(pc_in(&f.m, 0x4d1), 0xde);
	set(&f, 5, 1);
	assert_int_equal(pic_ack(f.pic), 0x35);
	pc_out(&f.m, 0x20, 0x20);
	assert_int_equal(f.m.wire[INTR].level, 1); /* still asked for */
	set(&f, 5, 0);
	assert_int_equal(f.m.wire[INTR].level, 0);
	end(&f);
}

static void pic_modes(void **state)
{
	struct fixture f;

	(void)state;
	start(&f);
	program(&f, 3); /* automatic EOI */
	pulse(&f, 3);
	assert_int_equal(pic_ack(f.pic), 0x33);
	pulse(&f, 3);
	assert_int_equal(pic_ack(f.pic), 0x33);
	program(&f, 1);
	/* Poll: acknowledges by a read. */
	pulse(&f, 5);
	pc_out(&f.m, 0x20, 0x0c);
	assert_int_equal(pc_in(&f.m, 0x20), 0x85);
	assert_int_equal(f.m.wire[INTR].level, 0);
	/* Rotation: after input 5 comes 6, then 7, then 0. */
	pc_out(&f.m, 0x20, 0xa0);
	pulse(&f, 4);
	pulse(&f, 6);
	assert_int_equal(pic_ack(f.pic), 0x36);
	pc_out(&f.m, 0x20, 0x20);
	assert_int_equal(pic_ack(f.pic), 0x34);
	/* Special mask: a masked level in service lets lower ones through. */
	program(&f, 1);
	pulse(&f, 1);
	assert_int_equal(pic_ack(f.pic), 0x31);
	pulse(&f, 7);
	assert_int_equal(f.m.wire[INTR].level, 0);
	pc_out(&f.m, 0x21, 0x02);
	pc_out(&f.m, 0x20, 0x68);
	assert_int_equal(pic_ack(f.pic), 0x37);
	end(&f);
}

static void select(struct fixture *f, unsigned index)
{
	bus_write(f->m.mmio, BASE, 4, index);
}

static uint32_t reg_read(struct fixture *f, unsigned index)
{
	select(f, index);
	return (uint32_t)bus_read(f->m.mmio, BASE + 0x10, 4);
}

static void reg_write(struct fixture *f, unsigned index, uint32_t value)
{
	select(f, index);
	bus_write(f->m.mmio, BASE + 0x10, 4, value);
}

static void ioapic_edge(void **state)
{
	struct fixture f;

	(void)state;
	start(&f);
	assert_int_equal(reg_read(&f, 1), 0x00170020);
	reg_write(&f, 0, 0x0f000000);
	assert_int_equal(reg_read(&f, 0), 0x0f000000);
	reg_write(&f, 0x10 + 2 * 4 + 1, 0x05000000);
	pulse(&f, 4); /* masked: lost */
	reg_write(&f, 0x10 + 2 * 4, 0x0841);
	assert_int_equal(f.m.msi_count, 0);
	pulse(&f, 4);
	assert_int_equal(f.m.msi_count, 1);
	assert_int_equal(f.m.msi_address, 0xfee05004);
	assert_int_equal(f.m.msi_data, 0x41);
	/* The timer's IRQ 0 is input 2. */
	reg_write(&f, 0x10 + 2 * 2, 0x30);
	pulse(&f, 0);
	assert_int_equal(f.m.msi_count, 2);
	assert_int_equal(f.m.msi_data, 0x30);
	end(&f);
}

static void ioapic_level(void **state)
{
	struct fixture f;
	struct irq_line line;

	(void)state;
	start(&f);
	line = ioapic_line(f.ioapic, 20);
	irq_set(&line, 1);
	reg_write(&f, 0x10 + 2 * 20, 0x8051); /* unmasked while high: sent at once */
	assert_int_equal(f.m.msi_count, 1);
	assert_int_equal(f.m.msi_data, 0xc051);
	assert_int_equal(reg_read(&f, 0x10 + 2 * 20), 0xc051);
	irq_set(&line, 0);
	irq_set(&line, 1);
	assert_int_equal(f.m.msi_count, 1); /* not before the EOI */
	ioapic_eoi(f.ioapic, 0x50);
	assert_int_equal(f.m.msi_count, 1);
	ioapic_eoi(f.ioapic, 0x51);
	assert_int_equal(f.m.msi_count, 2);
	irq_set(&line, 0);
	bus_write(f.m.mmio, BASE + 0x40, 4, 0x51); /* the EOI register */
	assert_int_equal(f.m.msi_count, 2);
	assert_int_equal(reg_read(&f, 0x10 + 2 * 20), 0x8051);
	/* To edge and back clears remote IRR, as kernels without the register do it. */
	irq_set(&line, 1);
	irq_set(&line, 0);
	assert_int_equal(reg_read(&f, 0x10 + 2 * 20), 0xc051);
	reg_write(&f, 0x10 + 2 * 20, 0x10051);
	reg_write(&f, 0x10 + 2 * 20, 0x8051);
	assert_int_equal(reg_read(&f, 0x10 + 2 * 20), 0x8051);
	end(&f);
}

static void hpet_takes_over(void **state)
{
	struct fixture f;
	struct irq_line hpet0, hpet1, legacy;

	(void)state;
	start(&f);
	hpet0 = isa_irq_hpet_line(f.isa, 0);
	hpet1 = isa_irq_hpet_line(f.isa, 1);
	legacy = isa_irq_hpet_switch(f.isa);
	reg_write(&f, 0x10 + 2 * 2, 0x30);
	reg_write(&f, 0x10 + 2 * 8, 0x38);
	irq_pulse(&hpet0);
	assert_int_equal(f.m.msi_count, 0);
	irq_set(&legacy, 1);
	irq_pulse(&hpet0);
	irq_pulse(&hpet1);
	assert_int_equal(f.m.msi_count, 2);
	assert_int_equal(f.m.msi_data, 0x38);
	pulse(&f, 0);
	pulse(&f, 8);
	assert_int_equal(f.m.msi_count, 2);
	irq_set(&legacy, 0);
	pulse(&f, 8);
	assert_int_equal(f.m.msi_count, 3);
	end(&f);
}

static const struct CMUnitTest tests[] = {
	cmocka_unit_test(pic_priority),    cmocka_unit_test(pic_cascade),
	cmocka_unit_test(pic_level),       cmocka_unit_test(pic_modes),
	cmocka_unit_test(ioapic_edge),     cmocka_unit_test(ioapic_level),
	cmocka_unit_test(hpet_takes_over),
};

int main(void)
{
	return cmocka_run_group_tests(tests, NULL, NULL);
}
