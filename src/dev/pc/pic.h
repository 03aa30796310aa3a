/*
 * The pair of 8259A interrupt controllers of a PC with the edge/level control
 * registers of its chipset (ports 0x20, 0xa0, 0x4d0, 0x4d1).
 *
 * Inputs 0..15 are set by isa_irq or the PCI host; the slave hangs on the
 * master's input 2. INTR is the master's output, given as a line.
 */
#ifndef INSULA_DEV_PC_PIC_H
#define INSULA_DEV_PC_PIC_H

#include "bus/irq.h"

struct bus;
struct pic;
struct state_reader;
struct state_writer;

/* intr: apic_bus_extint() of the board. NULL with errno on failure. */
struct pic *pic_new(struct irq_line intr);
/* Leaves the bus, so the bus goes after it. */
void pic_free(struct pic *pic);
int pic_attach(struct pic *pic, struct bus *pio) __attribute__((warn_unused_result));
void pic_reset(struct pic *pic);

/* An input: pin 0..15. Any thread. */
struct irq_line pic_line(struct pic *pic, unsigned pin);
/*
 * The interrupt acknowledge cycle: the vector of the request of highest
 * priority, or the spurious vector (input 7) if it has gone. `pic` is a struct
 * pic, typed as vcpu->pic_ack wants it. Calls INTR.
 */
int pic_ack(void *pic);

/* Its section of a saved state. Load: all or nothing, then lines and timers follow; vcpus stopped,
 * the clock already set. */
void pic_save(struct pic *pic, struct state_writer *writer);
int pic_load(struct pic *pic, struct state_reader *reader) __attribute__((warn_unused_result));

#endif
