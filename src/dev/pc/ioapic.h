/*
 * An 82093AA I/O APIC with 24 inputs, version 0x20 (it has the EOI register).
 * Interrupts leave as messages; the EOI of a level-triggered one comes back
 * through ioapic_eoi().
 */
#ifndef INSULA_DEV_PC_IOAPIC_H
#define INSULA_DEV_PC_IOAPIC_H

#include <stdint.h>

#include "bus/irq.h"

#define IOAPIC_PINS 24
#define IOAPIC_LEN  0x1000

struct bus;
struct ioapic;
struct state_reader;
struct state_writer;

/* sink: apic_bus_msi() of the board. NULL with errno on failure. */
struct ioapic *ioapic_new(struct msi_sink sink);
/* Leaves the bus, so the bus goes after it. */
void ioapic_free(struct ioapic *ioapic);
int ioapic_attach(struct ioapic *ioapic, struct bus *mmio, uint64_t base)
	__attribute__((warn_unused_result));
void ioapic_reset(struct ioapic *ioapic);

/* An input: pin 0..23. Any thread. */
struct irq_line ioapic_line(struct ioapic *ioapic, unsigned pin);
/* Some CPU ended the interrupt `vector`, which was level-triggered. `ioapic` is a struct ioapic,
 * typed for apic_bus_on_eoi(). */
void ioapic_eoi(void *ioapic, uint8_t vector);

/* Its section of a saved state. Load: all or nothing, then lines and timers follow; vcpus stopped,
 * the clock already set. */
void ioapic_save(struct ioapic *io, struct state_writer *writer);
int ioapic_load(struct ioapic *io, struct state_reader *reader) __attribute__((warn_unused_result));

#endif
