/*
 * The wires of the ISA interrupts: IRQ n goes to 8259 input n and I/O APIC
 * input n, but for the timer's IRQ 0, which is I/O APIC input 2. Here too is
 * the switch of the HPET's legacy replacement routing: while it is on, HPET
 * timers 0 and 1 own IRQ 0 and 8 and the PIT and RTC are cut off.
 */
#ifndef INSULA_DEV_PC_ISA_IRQ_H
#define INSULA_DEV_PC_ISA_IRQ_H

#include "bus/irq.h"

#define ISA_IRQS 16

struct isa_irq;
struct state_reader;
struct state_writer;

/* pic: 8259 inputs 0..15; ioapic: I/O APIC inputs 0..15. NULL with errno on failure. */
struct isa_irq *isa_irq_new(const struct irq_line pic[ISA_IRQS],
			    const struct irq_line ioapic[ISA_IRQS]);
void isa_irq_free(struct isa_irq *isa);
/* All lines low, legacy replacement off. Before the reset of those who drive them. */
void isa_irq_reset(struct isa_irq *isa);

/* What an ISA device drives; irq 0 is the PIT's, 8 the RTC's. Any thread. */
struct irq_line isa_irq_line(struct isa_irq *isa, unsigned irq);
/* What the HPET drives: timer 0 (IRQ 0) and 1 (IRQ 8), heard while the switch is on. */
struct irq_line isa_irq_hpet_line(struct isa_irq *isa, unsigned timer);
/* The switch itself, as a line: 1 is legacy replacement. */
struct irq_line isa_irq_hpet_switch(struct isa_irq *isa);

/* Its section of a saved state. Load: all or nothing, then lines and timers follow; vcpus stopped,
 * the clock already set. */
void isa_irq_save(struct isa_irq *isa, struct state_writer *writer);
int isa_irq_load(struct isa_irq *isa, struct state_reader *reader)
	__attribute__((warn_unused_result));

#endif
