/*
 * The 8254 interval timer (ports 0x40..0x43) with port 0x61, which gates its
 * channel 2 and shows that channel's output and the refresh toggle.
 *
 * Counts are computed from the VM's clock when read, so they agree with the TSC
 * however much time the host steals. Ticks of channel 0 that could not be
 * delivered in time are made up for, a bounded number of them.
 */
#ifndef INSULA_DEV_PC_PIT_H
#define INSULA_DEV_PC_PIT_H

#include "bus/irq.h"

#define PIT_HZ 1193182u

struct bus;
struct pit;
struct state_reader;
struct state_writer;
struct vclock;

/* irq0: output of channel 0. NULL with errno on failure. */
struct pit *pit_new(struct vclock *clock, struct irq_line irq0);
/* Leaves the bus, so the bus goes after it. */
void pit_free(struct pit *pit);
/* Claims 0x40..0x43 and 0x61. */
int pit_attach(struct pit *pit, struct bus *pio) __attribute__((warn_unused_result));
void pit_reset(struct pit *pit);

/* Its section of a saved state. Load: all or nothing, then lines and timers follow; vcpus stopped,
 * the clock already set. */
void pit_save(struct pit *pit, struct state_writer *writer);
int pit_load(struct pit *pit, struct state_reader *reader) __attribute__((warn_unused_result));

#endif
