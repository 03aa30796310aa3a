/*
 * The MC146818 real-time clock with its CMOS memory (ports 0x70..0x77): time of
 * day in UTC, periodic, alarm and update interrupts, and the bytes in which a
 * PC's firmware leaves the memory size.
 *
 * Time runs with the VM's clock from a wall-time base taken at construction and
 * by rtc_resync().
 */
#ifndef INSULA_DEV_PC_RTC_H
#define INSULA_DEV_PC_RTC_H

#include <stdint.h>

#include "bus/irq.h"

struct bus;
struct rtc;
struct state_reader;
struct state_writer;
struct vclock;

struct rtc_memory {
	uint64_t low_bytes;  /* RAM from 0 */
	uint64_t high_bytes; /* RAM from 4 GiB */
	unsigned cpus;       /* in byte 0x5f less one, as SeaBIOS reads it */
};

/* NULL with errno on failure. */
struct rtc *rtc_new(struct vclock *clock, struct irq_line irq8, const struct rtc_memory *memory);
/* Leaves the bus, so the bus goes after it. */
void rtc_free(struct rtc *rtc);
int rtc_attach(struct rtc *rtc, struct bus *pio) __attribute__((warn_unused_result));
/* The reset pin: interrupts off; time and memory stay, as the battery keeps them. */
void rtc_reset(struct rtc *rtc);
/* After a pause or restore: wall time has gone on meanwhile. What the guest itself set stays as an
 * offset. */
void rtc_resync(struct rtc *rtc);

/* Its section of a saved state. Load: all or nothing, then lines and timers follow; vcpus stopped,
 * the clock already set. */
void rtc_save(struct rtc *rtc, struct state_writer *writer);
int rtc_load(struct rtc *rtc, struct state_reader *reader) __attribute__((warn_unused_result));

#endif
