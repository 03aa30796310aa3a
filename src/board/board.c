/*
 * The machine: build() is the list of what is in it, in the order in which the
 * parts need each other. Called by the vm.
 *
 * Invariant: a part is in struct board_devices as soon as it exists, so that
 * board_free() takes down a half-built machine like a whole one.
 */
#include "board/board.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "block/block.h"
#include "board/acpi.h"
#include "board/board_map.h"
#include "board/mptable.h"
#include "boot/boot_image.h"
#include "bus/bus.h"
#include "bus/vclock.h"
#include "cpu/lapic.h"
#include "cpu/post.h"
#include "cpu/vcpu.h"
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
#include "dev/pc/vmgenid.h"
#include "dev/pci/pci_host.h"
#include "dev/virtio/virtio_blk.h"
#include "dev/virtio/virtio_console.h"
#include "dev/virtio/virtio_rng.h"
#include "state/stream.h"

#define PORT_SPACE 0x10000ull
#define MMIO_SPACE (1ull << 52)

#define SLOT_CONSOLE 1
#define SLOT_RNG     2
#define SLOT_DISK    3

struct board_devices {
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
	struct uart *com1;
	struct debug_exit *debug_exit;
	struct pci_host *pci;
	struct virtio_console *console;
	bool has_hvc; /* port 0 of the console is one */
	struct virtio_rng *rng;
	struct block *block[BOARD_DISKS_MAX];
	struct virtio_blk *disk[BOARD_DISKS_MAX];
	struct acpi_config acpi;
	unsigned vcpu_count;
	struct vcpu *vcpu[BOARD_CPUS_MAX];
};

static void msi(void *ctx, uint64_t address, uint32_t data)
{
	apic_bus_msi(ctx, address, data);
}

/*
 * A20 comes from a port that a vcpu has written, so for that one this is its
 * own thread; the others are as surprised as on a real board. The mask is part
 * of address translation: what is cached of it goes.
 */
static void a20_set(void *ctx, unsigned pin, int level)
{
	struct board *board = ctx;

	for (unsigned i = 0; i < board->devices->vcpu_count; i++) {
		struct vcpu *v = board->devices->vcpu[i];

		if (v->arch.a20_masked == !level)
			continue;
		v->arch.a20_masked = !level;
		vcpu_request(v, REQ_FLUSH);
	}
}

/* Turns a constructor's -errno into errno. */
static bool failed(int err)
{
	if (err)
		errno = -err;
	return err;
}

static uint64_t pci64_base(const struct ram *ram)
{
	uint64_t end = RAM_HIGH_BASE + ram_high_size(ram);

	return (end + MAP_PCI64_ALIGN - 1) & ~(MAP_PCI64_ALIGN - 1);
}

static bool add_pci_host(struct board *b)
{
	struct board_devices *d = b->devices;
	struct pci_host_config config = {
		.pio = b->pio,
		.mmio = b->mmio,
		.msi = { msi, b->apics },
		.stop = b->stop,
		.ecam_base = MAP_ECAM_BASE,
		.io = { MAP_PORT_PCI_IO, MAP_PCI_IO_LEN },
		.mem = { MAP_PCI_BASE, MAP_PCI_LEN },
		.mem64 = { pci64_base(b->ram), MAP_PCI64_LEN },
		.pm_base = MAP_PORT_PM,
	};

	for (unsigned i = 0; i < PCI_PIRQS; i++)
		config.pirq[i] = ioapic_line(d->ioapic, PCI_GSI_BASE + i);
	for (unsigned i = 0; i < 16; i++)
		config.isa[i] = isa_irq_line(d->isa, i);
	d->pci = pci_host_new(&config);
	return d->pci;
}

static bool add_isa_wires(struct board *b)
{
	struct board_devices *d = b->devices;
	struct irq_line pic[ISA_IRQS], ioapic[ISA_IRQS];

	for (unsigned i = 0; i < ISA_IRQS; i++) {
		pic[i] = pic_line(d->pic, i);
		ioapic[i] = ioapic_line(d->ioapic, i);
	}
	d->isa = isa_irq_new(pic, ioapic);
	return d->isa;
}

static bool add_hpet(struct board *b)
{
	struct board_devices *d = b->devices;
	struct hpet_config config = {
		.clock = b->clock,
		.legacy = { isa_irq_hpet_line(d->isa, 0), isa_irq_hpet_line(d->isa, 1) },
		.legacy_switch = isa_irq_hpet_switch(d->isa),
		.msi = { msi, b->apics },
	};

	d->hpet = hpet_new(&config);
	return d->hpet && !failed(hpet_attach(d->hpet, b->mmio, MAP_HPET_BASE));
}

static bool add_keyboard(struct board *b)
{
	struct board_devices *d = b->devices;
	struct i8042_config config = {
		.keyboard = isa_irq_line(d->isa, MAP_IRQ_KEYBOARD),
		.aux = isa_irq_line(d->isa, MAP_IRQ_MOUSE),
		.stop = b->stop,
	};

	d->port92 = port92_new((struct irq_line){ a20_set, b, 0 }, b->stop);
	if (!d->port92 || failed(port92_attach(d->port92, b->pio)))
		return false;
	config.a20 = port92_keyboard_a20(d->port92);
	d->kbd = i8042_new(&config);
	return d->kbd && !failed(i8042_attach(d->kbd, b->pio));
}

static bool add_console(struct board *b, const struct board_options *options)
{
	struct board_devices *d = b->devices;
	struct virtio_console_port_config ports[2];
	unsigned count = 0;

	if (options->console)
		ports[count++] = (struct virtio_console_port_config){ .name = "insula.console",
								      .console = true,
								      .chr = options->console };
	if (options->agent)
		ports[count++] = (struct virtio_console_port_config){ .name = "insula.agent",
								      .chr = options->agent };
	d->has_hvc = options->console;
	if (!count)
		return true;
	d->console = virtio_console_new(d->pci, SLOT_CONSOLE, b->ram, options->loop, ports, count);
	return d->console;
}

static int add_disk(struct board *b, const struct board_options *options, unsigned n, char *error)
{
	struct board_devices *d = b->devices;
	struct block_options block = { .path = options->disks[n].path,
				       .read_only = options->disks[n].read_only,
				       .overlay = options->disks[n].overlay,
				       .base_fd = options->disks[n].base_fd };
	char serial[24];

	d->block[n] = block_raw_open(options->loop, &block, error);
	if (!d->block[n])
		return -errno;
	snprintf(serial, sizeof(serial), "insula-disk-%u", n);
	d->disk[n] =
		virtio_blk_new(d->pci, SLOT_DISK + n, b->ram, options->loop, d->block[n], serial);
	if (d->disk[n])
		return 0;
	int err = errno;

	snprintf(error, BOARD_ERROR_MAX, "disk %s: the machine cannot take it: %s",
		 options->disks[n].path, strerrordesc_np(err));
	return -err;
}

static void pin_visit(void *ctx, unsigned slot, unsigned function, unsigned pin)
{
	struct acpi_config *config = ctx;

	for (unsigned i = 0; i < config->pin_count; i++) {
		if (config->pin[i].slot == slot && config->pin[i].pin == pin)
			return;
	}
	if (config->pin_count < ACPI_PINS_MAX)
		config->pin[config->pin_count++] = (struct acpi_pin){
			.slot = (uint8_t)slot,
			.pin = (uint8_t)pin,
			.gsi = (uint8_t)(PCI_GSI_BASE + pci_host_pirq(slot, pin)),
		};
}

static int tables_write(struct board *b)
{
	static const uint8_t ebda[2] = { MAP_EBDA_LEN >> 10, 0 };
	uint16_t ebda_segment = MAP_EBDA_BASE >> 4, base_kib = MAP_EBDA_BASE >> 10;
	uint8_t *area = calloc(1, MAP_TABLES_LEN);
	int err = area ? 0 : -ENOMEM;
	uint32_t used;

	if (!err) {
		used = acpi_build(&b->devices->acpi, MAP_TABLES_BASE, area, MAP_TABLES_LEN);
		err = used ? ram_write(b->ram, MAP_TABLES_BASE, area, used) : -ENOSPC;
	}
	if (!err) {
		used = mptable_build(&b->devices->acpi, MAP_MPTABLE_BASE, area, MAP_MPTABLE_LEN);
		err = used ? ram_write(b->ram, MAP_MPTABLE_BASE, area, used) : -ENOSPC;
	}
	free(area);
	/* BIOS data area: where the EBDA is, and how much memory lies below it. */
	if (!err)
		err = ram_write(b->ram, MAP_EBDA_BASE, ebda, sizeof(ebda));
	if (!err)
		err = ram_write(b->ram, 0x40e, &ebda_segment, 2);
	if (!err)
		err = ram_write(b->ram, 0x413, &base_kib, 2);
	return err;
}

/* The machine, part by part. NULL, or the name of the part that could not be made, with errno. */
static const char *build(struct board *b, const struct board_options *options)
{
	struct board_devices *d = b->devices;

	b->ram = options->ram ? options->ram : ram_new(options->mem_bytes);
	if (!b->ram)
		return "memory";
	if (!(b->clock = vclock_new(options->tsc_khz)))
		return "clock";
	if (!(b->pio = bus_new(PORT_SPACE)) || !(b->mmio = bus_new(MMIO_SPACE)))
		return "bus";
	if (!(b->apics = apic_bus_new()))
		return "APIC bus";

	if (!(d->pic = pic_new((struct irq_line){ apic_bus_extint, b->apics, 0 })) ||
	    failed(pic_attach(d->pic, b->pio)))
		return "8259 pair";
	if (!(d->ioapic = ioapic_new((struct msi_sink){ msi, b->apics })) ||
	    failed(ioapic_attach(d->ioapic, b->mmio, MAP_IOAPIC_BASE)))
		return "I/O APIC";
	apic_bus_on_eoi(b->apics, ioapic_eoi, d->ioapic);
	if (!add_isa_wires(b))
		return "ISA interrupts";

	if (!(d->pit = pit_new(b->clock, isa_irq_line(d->isa, MAP_IRQ_PIT))) ||
	    failed(pit_attach(d->pit, b->pio)))
		return "8254";
	struct rtc_memory memory = { ram_low_size(b->ram), ram_high_size(b->ram), options->cpus };

	if (!(d->rtc = rtc_new(b->clock, isa_irq_line(d->isa, MAP_IRQ_RTC), &memory)) ||
	    failed(rtc_attach(d->rtc, b->pio)))
		return "RTC";
	if (!add_hpet(b))
		return "HPET";
	if (!(d->pm = acpi_pm_new(b->clock, isa_irq_line(d->isa, MAP_IRQ_SCI), b->stop)) ||
	    failed(acpi_pm_attach(d->pm, b->pio, MAP_PORT_PM)))
		return "ACPI hardware";
	if (!add_keyboard(b))
		return "keyboard controller";
	if (!(d->delay = port_delay_new()) || failed(port_delay_attach(d->delay, b->pio)))
		return "POST port";
	if (!(d->com1 = uart_new(b->clock, options->serial, isa_irq_line(d->isa, MAP_IRQ_COM1))) ||
	    failed(uart_attach(d->com1, b->pio, MAP_PORT_COM1)))
		return "COM1";
	if (options->debug_exit && (!(d->debug_exit = debug_exit_new(b->stop)) ||
				    failed(debug_exit_attach(d->debug_exit, b->pio))))
		return "debug exit";

	if (!add_pci_host(b))
		return "PCI host";
	if (!add_console(b, options))
		return "virtio console";
	if (!(d->rng = virtio_rng_new(d->pci, SLOT_RNG, b->ram, options->loop)))
		return "virtio rng";
	return NULL;
}

/* After every part is there, and after a reset: what firmware would do. */
static const char *set_up(struct board *b, bool tables)
{
	if (failed(pci_host_assign(b->devices->pci)))
		return "PCI address map";
	if (tables && (failed(tables_write(b)) || failed(vmgenid_renew(b->ram, MAP_VMGENID))))
		return "firmware tables";
	return NULL;
}

static bool options_sound(const struct board_options *options, char *error)
{
	if (options->mem_bytes < BOARD_MEM_MIN || options->mem_bytes > BOARD_MEM_MAX ||
	    options->mem_bytes % PAGE_SIZE) {
		snprintf(error, BOARD_ERROR_MAX,
			 "memory of %llu bytes: it must be a multiple of 4 KiB from %llu MiB to "
			 "%llu GiB",
			 (unsigned long long)options->mem_bytes, BOARD_MEM_MIN >> 20,
			 BOARD_MEM_MAX >> 30);
		return false;
	}
	if (options->cpus < 1 || options->cpus > BOARD_CPUS_MAX) {
		snprintf(error, BOARD_ERROR_MAX, "%u cpus: a machine has 1 to %d", options->cpus,
			 BOARD_CPUS_MAX);
		return false;
	}
	if (options->disk_count > BOARD_DISKS_MAX) {
		snprintf(error, BOARD_ERROR_MAX, "%zu disks: a machine takes %d",
			 options->disk_count, BOARD_DISKS_MAX);
		return false;
	}
	return true;
}

struct board *board_new(const struct board_options *options, char *error)
{
	struct board *board;
	const char *part;
	int err = 0;

	error[0] = 0;
	if (!options_sound(options, error)) {
		errno = EINVAL;
		return NULL;
	}
	board = calloc(1, sizeof(*board));
	if (board)
		board->devices = calloc(1, sizeof(*board->devices));
	if (!board || !board->devices) {
		free(board);
		snprintf(error, BOARD_ERROR_MAX, "out of host memory");
		errno = ENOMEM;
		return NULL;
	}
	board->cpus = options->cpus;
	board->stop = options->stop;
	part = build(board, options);
	for (unsigned n = 0; !part && !err && n < options->disk_count; n++)
		err = add_disk(board, options, n, error);
	if (!part && !err) {
		board->devices->acpi = (struct acpi_config){ .cpus = options->cpus,
							     .pci64_base = pci64_base(board->ram),
							     .pci64_len = MAP_PCI64_LEN };
		pci_host_each_pin(board->devices->pci, pin_visit, &board->devices->acpi);
		part = set_up(board, !options->ram);
	}
	if (!part && !err)
		return board;
	if (part) {
		err = -errno;
		snprintf(error, BOARD_ERROR_MAX, "cannot build the machine: %s: %s", part,
			 strerrordesc_np(-err));
	}
	/* What was given to a machine that could not be is its giver's again. */
	if (options->ram)
		board->ram = NULL;
	board_free(board);
	errno = -err;
	return NULL;
}

/* Calls a destructor if there is something to destroy. */
#define FREE(destroy, part)            \
	do {                           \
		if (part)              \
			destroy(part); \
	} while (0)

void board_free(struct board *board)
{
	struct board_devices *d = board ? board->devices : NULL;

	if (!board)
		return;
	for (unsigned n = BOARD_DISKS_MAX; n--;) {
		FREE(virtio_blk_free, d->disk[n]);
		FREE(block_close, d->block[n]);
	}
	FREE(virtio_rng_free, d->rng);
	FREE(virtio_console_free, d->console);
	FREE(pci_host_free, d->pci);
	FREE(debug_exit_free, d->debug_exit);
	FREE(uart_free, d->com1);
	FREE(port_delay_free, d->delay);
	FREE(i8042_free, d->kbd);
	FREE(port92_free, d->port92);
	FREE(acpi_pm_free, d->pm);
	FREE(hpet_free, d->hpet);
	FREE(rtc_free, d->rtc);
	FREE(pit_free, d->pit);
	FREE(isa_irq_free, d->isa);
	FREE(ioapic_free, d->ioapic);
	FREE(pic_free, d->pic);
	FREE(apic_bus_free, board->apics);
	FREE(bus_free, board->mmio);
	FREE(bus_free, board->pio);
	FREE(vclock_free, board->clock);
	FREE(ram_free, board->ram);
	free(d);
	free(board);
}

int board_reset(struct board *board, char *error)
{
	struct board_devices *d = board->devices;

	isa_irq_reset(d->isa);
	pic_reset(d->pic);
	ioapic_reset(d->ioapic);
	pit_reset(d->pit);
	rtc_reset(d->rtc);
	hpet_reset(d->hpet);
	acpi_pm_reset(d->pm);
	port92_reset(d->port92);
	i8042_reset(d->kbd);
	port_delay_reset(d->delay);
	uart_reset(d->com1);
	pci_host_reset(d->pci);
	const char *part = set_up(board, true);

	if (!part)
		return 0;
	int err = -errno;

	snprintf(error, BOARD_ERROR_MAX, "cannot reset the machine: %s: %s", part,
		 strerrordesc_np(-err));
	return err;
}

int board_attach_vcpu(struct board *board, struct vcpu *v)
{
	struct board_devices *d = board->devices;

	if (d->vcpu_count == board->cpus)
		return -ENOSPC;
	v->ram = board->ram;
	v->pio = board->pio;
	v->mmio = board->mmio;
	v->clock = board->clock;
	v->stop = &board->stop;
	v->pic_ack = pic_ack;
	v->pic_ctx = d->pic;
	int err = apic_bus_attach(board->apics, v);

	if (!err)
		d->vcpu[d->vcpu_count++] = v;
	return err;
}

static void range_add(struct boot_machine *machine, uint64_t base, uint64_t len,
		      enum boot_range_type type)
{
	if (len)
		machine->range[machine->range_count++] = (struct boot_range){ base, len, type };
}

void board_boot_machine(const struct board *board, struct boot_machine *machine)
{
	*machine = (struct boot_machine){ .ram = board->ram, .rsdp = MAP_TABLES_BASE };
	range_add(machine, 0, MAP_EBDA_BASE, BOOT_RANGE_RAM);
	range_add(machine, MAP_EBDA_BASE, MAP_EBDA_LEN, BOOT_RANGE_RESERVED);
	range_add(machine, MAP_TABLES_BASE, MAP_FIRMWARE_END - MAP_TABLES_BASE,
		  BOOT_RANGE_RESERVED);
	range_add(machine, MAP_FIRMWARE_END, ram_low_size(board->ram) - MAP_FIRMWARE_END,
		  BOOT_RANGE_RAM);
	range_add(machine, MAP_ECAM_BASE, MAP_ECAM_LEN, BOOT_RANGE_RESERVED);
	range_add(machine, RAM_HIGH_BASE, ram_high_size(board->ram), BOOT_RANGE_RAM);
}

void board_power_button(struct board *board)
{
	acpi_pm_power_button(board->devices->pm);
}

void board_renew(struct board *board)
{
	/* Without it the guest is as well off as on a machine that has no such device. */
	if (vmgenid_renew(board->ram, MAP_VMGENID) == 0)
		acpi_pm_gpe(board->devices->pm, MAP_GPE_VMGENID);
}

int board_disk_copy(struct board *board, unsigned n)
{
	return block_copy(board->devices->block[n]);
}

void board_console_resize(struct board *board, uint16_t columns, uint16_t rows)
{
	if (board->devices->has_hvc)
		virtio_console_resize(board->devices->console, 0, columns, rows);
}

void board_quiesce(struct board *board)
{
	pci_host_quiesce(board->devices->pci);
}

void board_resume(struct board *board)
{
	rtc_resync(board->devices->rtc);
	pci_host_resume(board->devices->pci);
}

/* ---- state ---- */

struct clock_state {
	uint64_t tsc, now_ns; /* two scales of one count; which one a host goes by is its own */
};

static const struct state_field clock_fields[] = { STATE_FIELD(struct clock_state, tsc),
						   STATE_FIELD(struct clock_state, now_ns),
						   STATE_END };
static const struct state_table clock_table = {
	.name = "clock", .version = 1, .size = sizeof(struct clock_state), .fields = clock_fields
};

void board_save(struct board *board, struct state_writer *w)
{
	struct clock_state clock = { .tsc = vclock_tsc(board->clock),
				     .now_ns = vclock_now_ns(board->clock) };
	struct board_devices *d = board->devices;

	state_save(&clock_table, &clock, w);
	pit_save(d->pit, w);
	rtc_save(d->rtc, w);
	hpet_save(d->hpet, w);
	acpi_pm_save(d->pm, w);
	port92_save(d->port92, w);
	i8042_save(d->kbd, w);
	port_delay_save(d->delay, w);
	uart_save(d->com1, w);
	pci_host_save(d->pci, w);
	isa_irq_save(d->isa, w);
	ioapic_save(d->ioapic, w);
	pic_save(d->pic, w);
}

/*
 * Time first, since timers are armed by it. Whoever drives an interrupt line
 * says its level as it is loaded; whoever receives it comes later and is then
 * as it was, edges included.
 */
int board_load(struct board *board, struct state_reader *r)
{
	struct board_devices *d = board->devices;
	struct clock_state clock;
	int err = state_load(&clock_table, &clock, r);

	if (err)
		return err;
	/* Far from where sums with deadlines would wrap: 146 years. */
	if (clock.now_ns >> 62 || vclock_tsc_to_ns(board->clock, clock.tsc) >> 62) {
		snprintf(r->error, sizeof(r->error), "Section clock is refused: it is too late.");
		return -EINVAL;
	}
	vclock_set_tsc(board->clock, clock.tsc, clock.now_ns);
	if ((err = pit_load(d->pit, r)) || (err = rtc_load(d->rtc, r)) ||
	    (err = hpet_load(d->hpet, r)) || (err = acpi_pm_load(d->pm, r)) ||
	    (err = port92_load(d->port92, r)) || (err = i8042_load(d->kbd, r)) ||
	    (err = port_delay_load(d->delay, r)) || (err = uart_load(d->com1, r)) ||
	    (err = pci_host_load(d->pci, r)) || (err = isa_irq_load(d->isa, r)) ||
	    (err = ioapic_load(d->ioapic, r)))
		return err;
	return pic_load(d->pic, r);
}
