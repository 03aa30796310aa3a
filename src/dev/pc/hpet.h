/*
 * A high precision event timer block (IA-PC HPET specification 1.0a): a 64-bit
 * main counter of 100 MHz and three comparators, all able of periodic mode and
 * of message interrupts; timers 0 and 1 can replace the PIT and the RTC.
 */
#ifndef INSULA_DEV_PC_HPET_H
#define INSULA_DEV_PC_HPET_H

#include <stdint.h>

#include "bus/irq.h"

#define HPET_TIMERS    3
#define HPET_LEN       0x400
#define HPET_PERIOD_FS 10000000u /* femtoseconds per tick */

struct bus;
struct hpet;
struct state_reader;
struct state_writer;
struct vclock;

struct hpet_config {
	struct vclock *clock;
	struct irq_line
		legacy[2]; /* isa_irq_hpet_line(): timers 0 and 1 under legacy replacement */
	struct irq_line legacy_switch; /* isa_irq_hpet_switch() */
	struct irq_line ioapic[32];    /* inputs to which a timer may be routed; no other device may
					  drive them. Unset: not offered */
	struct msi_sink msi;           /* unset: message interrupts are not offered */
};

/* NULL with errno on failure. */
struct hpet *hpet_new(const struct hpet_config *config);
/* Leaves the bus, so the bus goes after it. */
void hpet_free(struct hpet *hpet);
int hpet_attach(struct hpet *hpet, struct bus *mmio, uint64_t base)
	__attribute__((warn_unused_result));
void hpet_reset(struct hpet *hpet);

/* Its section of a saved state. Load: all or nothing, then lines and timers follow; vcpus stopped,
 * the clock already set. */
void hpet_save(struct hpet *h, struct state_writer *writer);
int hpet_load(struct hpet *h, struct state_reader *reader) __attribute__((warn_unused_result));

#endif
