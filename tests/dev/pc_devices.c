/* The devices of pc_devices.h. */
#include "pc_devices.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "chardev/chardev_memory.h"
#include "cpu/lapic.h"
#include "dev/pc/acpi_pm.h"
#include "dev/pc/debug_exit.h"
#include "dev/pc/hpet.h"
#include "dev/pc/i8042.h"
#include "dev/pc/ioapic.h"
#include "dev/pc/isa_irq.h"
#include "dev/pc/pic.h"
#include "dev/pc/pit.h"
#include "dev/pc/port92.h"
#include "dev/pc/port_delay.h"
#include "dev/pc/rtc.h"
#include "dev/pc/uart.h"
#include "state/stream.h"

static void send_msi(void *ctx, uint64_t address, uint32_t data)
{
	apic_bus_msi(ctx, address, data);
}

static void start_interrupts(struct pc_devices *p)
{
	struct msi_sink msi = { send_msi, p->apics };
	struct irq_line pic[ISA_IRQS], ioapic[ISA_IRQS];

	p->pic = pic_new((struct irq_line){ apic_bus_extint, p->apics, 0 });
	p->ioapic = ioapic_new(msi);
	apic_bus_on_eoi(p->apics, ioapic_eoi, p->ioapic);
	for (unsigned i = 0; i < ISA_IRQS; i++) {
		pic[i] = pic_line(p->pic, i);
		ioapic[i] = ioapic_line(p->ioapic, i);
	}
	p->isa = isa_irq_new(pic, ioapic);
}

static void start_vcpu(struct pc_devices *p)
{
	int error;

	p->v = aligned_alloc(64, (sizeof(*p->v) + 63) & ~63ul);
	ASSERT(p->v);
	memset(p->v, 0, sizeof(*p->v));
	p->v->clock = p->m.clock;
	p->apics = apic_bus_new();
	error = apic_bus_attach(p->apics, p->v);
	ASSERT(!error);
	lapic_reset(p->v, false);
}

void pc_devices_init(struct pc_devices *p)
{
	const struct rtc_memory memory = { .low_bytes = 1ull << 31,
					   .high_bytes = 1ull << 38,
					   .cpus = 300 };
	struct hpet_config hpet;
	struct i8042_config kbd;
	struct stop_sink stop;

	pc_machine_init(&p->m);
	stop = pc_machine_stop(&p->m);
	start_vcpu(p);
	start_interrupts(p);
	p->chr = chardev_memory_new(64);
	p->uart = uart_new(p->m.clock, p->chr, isa_irq_line(p->isa, 4));
	p->pit = pit_new(p->m.clock, isa_irq_line(p->isa, 0));
	p->rtc = rtc_new(p->m.clock, isa_irq_line(p->isa, 8), &memory);
	hpet = (struct hpet_config){
		.clock = p->m.clock,
		.legacy = { isa_irq_hpet_line(p->isa, 0), isa_irq_hpet_line(p->isa, 1) },
		.legacy_switch = isa_irq_hpet_switch(p->isa),
		.ioapic[22] = ioapic_line(p->ioapic, 22),
		.msi = { send_msi, p->apics },
	};
	p->hpet = hpet_new(&hpet);
	p->pm = acpi_pm_new(p->m.clock, isa_irq_line(p->isa, 9), stop);
	p->port92 = port92_new(pc_machine_line(&p->m, 20), stop);
	kbd = (struct i8042_config){ isa_irq_line(p->isa, 1), isa_irq_line(p->isa, 12),
				     port92_keyboard_a20(p->port92), stop };
	p->kbd = i8042_new(&kbd);
	p->delay = port_delay_new();
	p->debug_exit = debug_exit_new(stop);
	if (uart_attach(p->uart, p->m.pio, 0x3f8) || pic_attach(p->pic, p->m.pio) ||
	    ioapic_attach(p->ioapic, p->m.mmio, PC_IOAPIC_BASE) || pit_attach(p->pit, p->m.pio) ||
	    rtc_attach(p->rtc, p->m.pio) || hpet_attach(p->hpet, p->m.mmio, PC_HPET_BASE) ||
	    acpi_pm_attach(p->pm, p->m.pio, 0x600) || port92_attach(p->port92, p->m.pio) ||
	    i8042_attach(p->kbd, p->m.pio) || port_delay_attach(p->delay, p->m.pio) ||
	    debug_exit_attach(p->debug_exit, p->m.pio))
		abort();
}

void pc_devices_fini(struct pc_devices *p)
{
	debug_exit_free(p->debug_exit);
	port_delay_free(p->delay);
	i8042_free(p->kbd);
	port92_free(p->port92);
	acpi_pm_free(p->pm);
	hpet_free(p->hpet);
	rtc_free(p->rtc);
	pit_free(p->pit);
	uart_free(p->uart);
	chardev_free(p->chr);
	isa_irq_free(p->isa);
	ioapic_free(p->ioapic);
	pic_free(p->pic);
	apic_bus_free(p->apics);
	free(p->v);
	pc_machine_fini(&p->m);
}

void pc_devices_reset(struct pc_devices *p)
{
	isa_irq_reset(p->isa);
	pic_reset(p->pic);
	ioapic_reset(p->ioapic);
	pit_reset(p->pit);
	rtc_reset(p->rtc);
	hpet_reset(p->hpet);
	acpi_pm_reset(p->pm);
	port92_reset(p->port92);
	i8042_reset(p->kbd);
	port_delay_reset(p->delay);
	uart_reset(p->uart);
	lapic_reset(p->v, false);
}

const struct pc_target pc_targets[PC_TARGETS] = {
	{ PC_PORTS, 0x1e, 6 },
	{ PC_PORTS, 0x3e, 8 },
	{ PC_PORTS, 0x5e, 10 },
	{ PC_PORTS, 0x6e, 12 },
	{ PC_PORTS, 0x7e, 4 },
	{ PC_PORTS, 0x90, 4 },
	{ PC_PORTS, 0x9e, 6 },
	{ PC_PORTS, 0xec, 12 },
	{ PC_PORTS, 0x3f6, 12 },
	{ PC_PORTS, 0x4ce, 6 },
	{ PC_PORTS, 0x5fc, 0x38 },
	{ PC_MMIO, PC_IOAPIC_BASE, 0x50 },
	{ PC_MMIO, PC_IOAPIC_BASE + 0xff0, 16 },
	{ PC_MMIO, PC_HPET_BASE, 0x188 },
	{ PC_MMIO, PC_HPET_BASE + 0x3f8, 8 },
	{ PC_LAPIC_PAGE, 0, 0x1000 },
	{ PC_LAPIC_MSR, 0x7ff, 0x102 },
};

const uint64_t pc_values[PC_VALUES] = {
	0,
	1,
	2,
	3,
	4,
	8,
	0x10,
	0x11,
	0x20,
	0x34,
	0x36,
	0x38,
	0x3f,
	0x40,
	0x55,
	0x70,
	0x7f,
	0x80,
	0xaa,
	0xb0,
	0xc2,
	0xd1,
	0xd4,
	0xe7,
	0xfe,
	0xff,
	0x100,
	0x7fff,
	0x8000,
	0xffff,
	0x10000,
	0x7fffffff,
	0x80000000,
	0xffffffff,
	0x100000000ull,
	0x7fffffffffffffffull,
	0x8000000000000000ull,
	UINT64_MAX,
};

void pc_devices_write(struct pc_devices *p, const struct pc_target *t, uint64_t offset,
		      unsigned size, uint64_t value)
{
	switch (t->space) {
	case PC_PORTS:
		bus_write(p->m.pio, t->base + offset, size > 4 ? 4 : size, value);
		return;
	case PC_MMIO:
		bus_write(p->m.mmio, t->base + offset, size, value);
		return;
	case PC_LAPIC_PAGE:
		lapic_mmio_write(p->v, (unsigned)offset, size, (uint32_t)value);
		return;
	case PC_LAPIC_MSR:
		(void)lapic_msr_write(p->v, (uint32_t)(t->base + offset), value);
		return;
	}
}

void pc_devices_read(struct pc_devices *p, const struct pc_target *t, uint64_t offset,
		     unsigned size)
{
	uint64_t value;

	switch (t->space) {
	case PC_PORTS:
		bus_read(p->m.pio, t->base + offset, size > 4 ? 4 : size);
		return;
	case PC_MMIO:
		bus_read(p->m.mmio, t->base + offset, size);
		return;
	case PC_LAPIC_PAGE:
		lapic_mmio_read(p->v, (unsigned)offset, size);
		return;
	case PC_LAPIC_MSR:
		(void)lapic_msr_read(p->v, (uint32_t)(t->base + offset), &value);
		return;
	}
}

void pc_devices_run_vcpu(struct pc_devices *p)
{
	uint32_t req = atomic_exchange(&p->v->req, 0);
	int vector;

	if (req & REQ_TIMER)
		lapic_timer_check(p->v);
	lapic_take_posted(p->v);
	if (p->v->extint && lapic_accepts_extint(p->v)) {
		vector = pic_ack(p->pic);
		ASSERT(vector >= 0 && vector <= 255);
	}
	vector = lapic_pending(p->v);
	if (vector >= 0)
		lapic_ack(p->v, (uint8_t)vector);
	if (vector >= 0 && (vector & 1))
		lapic_mmio_write(p->v, 0xb0, 4, 0);
}

void pc_devices_save(struct pc_devices *p, struct state_writer *w)
{
	int error;

	state_writer_init(w);
	isa_irq_save(p->isa, w);
	pic_save(p->pic, w);
	ioapic_save(p->ioapic, w);
	uart_save(p->uart, w);
	pit_save(p->pit, w);
	rtc_save(p->rtc, w);
	hpet_save(p->hpet, w);
	acpi_pm_save(p->pm, w);
	port92_save(p->port92, w);
	i8042_save(p->kbd, w);
	error = state_writer_finish(w);
	ASSERT(!error);
}

unsigned pc_devices_load(struct pc_devices *p, const uint8_t *bytes, size_t len)
{
	struct state_reader r;
	unsigned taken = 0;

	if (state_reader_init(&r, bytes, len))
		return 0;
	taken += !isa_irq_load(p->isa, &r);
	taken += !pic_load(p->pic, &r);
	taken += !ioapic_load(p->ioapic, &r);
	taken += !uart_load(p->uart, &r);
	taken += !pit_load(p->pit, &r);
	taken += !rtc_load(p->rtc, &r);
	taken += !hpet_load(p->hpet, &r);
	taken += !acpi_pm_load(p->pm, &r);
	taken += !port92_load(p->port92, &r);
	taken += !i8042_load(p->kbd, &r);
	state_reader_fini(&r);
	return taken;
}
