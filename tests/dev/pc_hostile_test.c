/*
 * A guest and a state file that mean harm: every register of every PC device
 * with every size at every offset and many values, and saved states with
 * changed bytes. What counts is that nothing crashes, hangs or trips a
 * sanitizer; and that save, load, save gives the same bytes.
 */
#include "pc_machine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/bytes.h"
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
#include "state/crc32c.h"
#include "state/stream.h"

#define IOAPIC_BASE 0xfec00000ull
#define HPET_BASE   0xfed00000ull

struct pc {
	struct pc_machine m;
	struct apic_bus *apics;
	struct vcpu *v;
	struct chardev *chr;
	struct uart *uart;
	struct pic *pic;
	struct ioapic *ioapic;
	struct isa_irq *isa;
	struct pit *pit;
	struct rtc *rtc;
	struct hpet *hpet;
	struct acpi_pm *pm;
	struct port92 *port92;
	struct i8042 *kbd;
	struct port_delay *delay;
	struct debug_exit *debug_exit;
};

static void send_msi(void *ctx, uint64_t address, uint32_t data)
{
	apic_bus_msi(ctx, address, data);
}

static void start_interrupts(struct pc *p)
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

static void start_vcpu(struct pc *p)
{
	p->v = aligned_alloc(64, (sizeof(*p->v) + 63) & ~63ul);
	memset(p->v, 0, sizeof(*p->v));
	p->v->clock = p->m.clock;
	p->apics = apic_bus_new();
	assert_int_equal(apic_bus_attach(p->apics, p->v), 0);
	lapic_reset(p->v, false);
}

static void start(struct pc *p)
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
	    ioapic_attach(p->ioapic, p->m.mmio, IOAPIC_BASE) || pit_attach(p->pit, p->m.pio) ||
	    rtc_attach(p->rtc, p->m.pio) || hpet_attach(p->hpet, p->m.mmio, HPET_BASE) ||
	    acpi_pm_attach(p->pm, p->m.pio, 0x600) || port92_attach(p->port92, p->m.pio) ||
	    i8042_attach(p->kbd, p->m.pio) || port_delay_attach(p->delay, p->m.pio) ||
	    debug_exit_attach(p->debug_exit, p->m.pio))
		fail();
}

static void end(struct pc *p)
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

static uint64_t random_next(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

/* Every space a guest reaches the devices through, as one range of accesses. */
static const struct target {
	enum { PORTS, MMIO, LAPIC_PAGE, LAPIC_MSR } kind;
	uint64_t base, len;
} targets[] = {
	{ PORTS, 0x1e, 6 },
	{ PORTS, 0x3e, 8 },
	{ PORTS, 0x5e, 10 },
	{ PORTS, 0x6e, 12 },
	{ PORTS, 0x7e, 4 },
	{ PORTS, 0x90, 4 },
	{ PORTS, 0x9e, 6 },
	{ PORTS, 0xec, 12 },
	{ PORTS, 0x3f6, 12 },
	{ PORTS, 0x4ce, 6 },
	{ PORTS, 0x5fc, 0x38 },
	{ MMIO, IOAPIC_BASE, 0x50 },
	{ MMIO, IOAPIC_BASE + 0xff0, 16 },
	{ MMIO, HPET_BASE, 0x188 },
	{ MMIO, HPET_BASE + 0x3f8, 8 },
	{ LAPIC_PAGE, 0, 0x1000 },
	{ LAPIC_MSR, 0x7ff, 0x102 },
};
#define TARGETS (sizeof(targets) / sizeof(targets[0]))

static void access(struct pc *p, const struct target *t, uint64_t offset, unsigned size,
		   uint64_t value)
{
	uint64_t read;

	switch (t->kind) {
	case PORTS:
		if (size > 4)
			size = 4;
		bus_write(p->m.pio, t->base + offset, size, value);
		bus_read(p->m.pio, t->base + offset, size);
		return;
	case MMIO:
		bus_write(p->m.mmio, t->base + offset, size, value);
		bus_read(p->m.mmio, t->base + offset, size);
		return;
	case LAPIC_PAGE:
		lapic_mmio_write(p->v, (unsigned)offset, size, (uint32_t)value);
		lapic_mmio_read(p->v, (unsigned)offset, size);
		return;
	case LAPIC_MSR:
		(void)lapic_msr_write(p->v, (uint32_t)(t->base + offset), value);
		(void)lapic_msr_read(p->v, (uint32_t)(t->base + offset), &read);
		return;
	}
}

/* As an engine would between instructions. */
static void run_vcpu(struct pc *p)
{
	uint32_t req = atomic_exchange(&p->v->req, 0);
	int vector;

	if (req & REQ_TIMER)
		lapic_timer_check(p->v);
	lapic_take_posted(p->v);
	if (p->v->extint && lapic_accepts_extint(p->v))
		assert_in_range(pic_ack(p->pic), 0, 255);
	vector = lapic_pending(p->v);
	if (vector >= 0)
		lapic_ack(p->v, (uint8_t)vector);
	if (vector >= 0 && (vector & 1))
		lapic_mmio_write(p->v, 0xb0, 4, 0);
}

static const uint64_t values[] = {
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
#define VALUES (sizeof(values) / sizeof(values[0]))

static void every_register(void **state)
{
	struct pc p;
	unsigned turn = 0;

	(void)state;
	start(&p);
	for (unsigned pass = 0; pass < 2; pass++) {
		for (unsigned i = 0; i < TARGETS; i++)
			for (uint64_t offset = 0; offset < targets[i].len; offset++)
				for (unsigned size = 1; size <= 8; size *= 2)
					for (unsigned n = 0; n < VALUES; n++) {
						access(&p, &targets[i], offset, size, values[n]);
						run_vcpu(&p);
						if (++turn % 64 == 0)
							vclock_advance(p.m.clock, 12345);
					}
		/* Again with the local APIC as an x2APIC. */
		(void)lapic_base_write(p.v, LAPIC_DEFAULT_BASE);
		assert_int_equal(lapic_base_write(p.v, LAPIC_DEFAULT_BASE | APIC_BASE_ENABLE), 0);
		assert_int_equal(lapic_base_write(p.v, LAPIC_DEFAULT_BASE | APIC_BASE_ENABLE |
							       APIC_BASE_X2APIC),
				 0);
	}
	end(&p);
}

static void disturb(struct pc *p, uint64_t *seed, unsigned count)
{
	char bytes[16];

	for (unsigned i = 0; i < count; i++) {
		uint64_t r = random_next(seed);
		const struct target *t = &targets[r % TARGETS];
		uint64_t value = r >> 40 & 1 ? values[(r >> 41) % VALUES] : random_next(seed);

		access(p, t, (r >> 8) % t->len, 1u << (r >> 32 & 3), value);
		run_vcpu(p);
		switch (r >> 50 & 63) {
		case 0:
			vclock_advance(p->m.clock, random_next(seed) % 3000000);
			break;
		case 1:
			chardev_memory_inject(p->chr, "hostile", r >> 56 & 7);
			break;
		case 2:
			chardev_memory_take(p->chr, bytes, sizeof(bytes));
			break;
		case 3:
			acpi_pm_power_button(p->pm);
			break;
		}
	}
}

static void at_random(void **state)
{
	uint64_t seed = 0x1234567;
	struct pc p;

	(void)state;
	start(&p);
	disturb(&p, &seed, 300000);
	end(&p);
}

static void save(struct pc *p, struct state_writer *w)
{
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
	assert_int_equal(state_writer_finish(w), 0);
}

/* How many sections were taken. */
static unsigned load(struct pc *p, const uint8_t *bytes, size_t len)
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

static void copy_clock(struct pc *to, struct pc *from)
{
	vclock_pause(to->m.clock);
	vclock_set_ns(to->m.clock, vclock_now_ns(from->m.clock));
	vclock_resume(to->m.clock);
}

static void save_load_save(void **state)
{
	uint64_t seed = 0x7654321;

	(void)state;
	for (int round = 0; round < 200; round++) {
		struct state_writer first, second;
		struct pc from, to;

		start(&from);
		start(&to);
		disturb(&from, &seed, 500);
		/* Where output waits for a reader it would flow on load; that is not what is
		 * compared. */
		while (chardev_memory_take(from.chr, (char[64]){ 0 }, 64))
			;
		save(&from, &first);
		copy_clock(&to, &from);
		assert_int_equal(load(&to, first.bytes, first.len), 10);
		/* The wall clock has gone on by some microseconds; all else is the same. */
		save(&to, &second);
		assert_int_equal(first.len, second.len);
		for (size_t i = 0, differ = 0; i < first.len; i++) {
			differ += first.bytes[i] != second.bytes[i];
			assert_true(differ <= 12);
		}
		state_writer_fini(&first);
		state_writer_fini(&second);
		end(&from);
		end(&to);
	}
}

/* One byte of one section changed, with a checksum that fits. */
static void harm(uint8_t *bytes, uint64_t *seed)
{
	unsigned skip = (unsigned)(random_next(seed) % 10);
	size_t at = 12;

	for (;;) {
		size_t name_len = bytes[at + 4], head = at + 5 + name_len;
		uint32_t len = bytes_load32(bytes + head + 4), crc;

		if (skip--) {
			at = head + 12 + len;
			continue;
		}
		bytes[head + 12 + random_next(seed) % len] = (uint8_t)random_next(seed);
		crc = crc32c(0, bytes + at, head + 8 - at);
		crc = crc32c(crc, bytes + head + 12, len);
		bytes_store32(bytes + head + 8, crc);
		return;
	}
}

static void harmful_state(void **state)
{
	uint64_t seed = 0xabcdef;
	struct state_writer w;
	unsigned all = 0, refused = 0;
	struct pc p;

	(void)state;
	start(&p);
	disturb(&p, &seed, 5000);
	save(&p, &w);
	for (int round = 0; round < 4000; round++) {
		uint8_t *copy = malloc(w.len);
		unsigned taken;

		memcpy(copy, w.bytes, w.len);
		for (uint64_t n = random_next(&seed) % 4 + 1; n; n--)
			harm(copy, &seed);
		taken = load(&p, copy, w.len);
		all += taken == 10;
		refused += taken > 0 && taken < 10;
		free(copy);
		disturb(&p, &seed, 20);
		vclock_advance(p.m.clock, 100000);
	}
	/* Both must have happened, or the checksums are wrong and nothing was tried. */
	assert_true(all > 100);
	assert_true(refused > 100);
	state_writer_fini(&w);
	end(&p);
}

static const struct CMUnitTest tests[] = {
	cmocka_unit_test(every_register),
	cmocka_unit_test(at_random),
	cmocka_unit_test(save_load_save),
	cmocka_unit_test(harmful_state),
};

int main(void)
{
	return cmocka_run_group_tests(tests, NULL, NULL);
}
