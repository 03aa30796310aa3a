/*
 * System control port A (0x92): the fast way to gate A20 and to reset. A20 is
 * open if this port or the keyboard controller says so; the sum is a line.
 */
#ifndef INSULA_DEV_PC_PORT92_H
#define INSULA_DEV_PC_PORT92_H

#include "bus/irq.h"
#include "bus/stop.h"

struct bus;
struct port92;
struct state_reader;
struct state_writer;

/* a20: 1 while address line 20 is let through. NULL with errno on failure. */
struct port92 *port92_new(struct irq_line a20, struct stop_sink stop);
/* Leaves the bus, so the bus goes after it. */
void port92_free(struct port92 *port);
int port92_attach(struct port92 *port, struct bus *pio) __attribute__((warn_unused_result));
/* A20 open, as firmware leaves it. */
void port92_reset(struct port92 *port);
/* The keyboard controller's say in A20. Any thread. */
struct irq_line port92_keyboard_a20(struct port92 *port);

/* Its section of a saved state. Load: all or nothing, then lines and timers follow; vcpus stopped,
 * the clock already set. */
void port92_save(struct port92 *port, struct state_writer *writer);
int port92_load(struct port92 *port, struct state_reader *reader)
	__attribute__((warn_unused_result));

#endif
