/*
 * All devices of a PC on the test machine of pc_machine.h, wired as the board
 * wires them, beside one vcpu whose local APIC is their end. The test is the
 * guest, with reads and writes of any kind.
 */
#ifndef INSULA_TESTS_DEV_PC_DEVICES_H
#define INSULA_TESTS_DEV_PC_DEVICES_H

#include <stddef.h>
#include <stdint.h>

#include "pc_machine.h"

#define PC_IOAPIC_BASE 0xfec00000ull
#define PC_HPET_BASE   0xfed00000ull
#define PC_SECTIONS    10 /* of a saved state */

struct state_writer;

struct pc_devices {
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

/* The machine begins at guest time 0 with every device as its constructor leaves it. */
void pc_devices_init(struct pc_devices *p);
void pc_devices_fini(struct pc_devices *p);
/* As the board does at a reset. */
void pc_devices_reset(struct pc_devices *p);

/* A space through which a guest reaches devices, as one range of accesses. */
enum pc_space { PC_PORTS, PC_MMIO, PC_LAPIC_PAGE, PC_LAPIC_MSR };
struct pc_target {
	enum pc_space space;
	uint64_t base, len;
};

#define PC_TARGETS 17
extern const struct pc_target pc_targets[PC_TARGETS];

/* Registers' values at which something tends to happen. */
#define PC_VALUES 38
extern const uint64_t pc_values[PC_VALUES];

/* One access: size is 1, 2, 4 or 8, or what of it the space has. */
void pc_devices_write(struct pc_devices *p, const struct pc_target *t, uint64_t offset,
		      unsigned size, uint64_t value);
void pc_devices_read(struct pc_devices *p, const struct pc_target *t, uint64_t offset,
		     unsigned size);
/* What an engine does between instructions: posted interrupts, an acknowledgement, sometimes EOI.
 */
void pc_devices_run_vcpu(struct pc_devices *p);

/* Every device's section, finished. */
void pc_devices_save(struct pc_devices *p, struct state_writer *w);
/* How many sections were taken, 0..PC_SECTIONS. */
unsigned pc_devices_load(struct pc_devices *p, const uint8_t *bytes, size_t len);

#endif
