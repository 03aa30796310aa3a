/*
 * One counter of an 8254 (Intel data sheet 231164), as a pure function of time.
 *
 * Time is counted in periods of CLK, 1.193182 MHz, from guest time 0. The
 * counter never ticks: what it shows follows from when it was loaded.
 */
#ifndef INSULA_DEV_PC_PIT_CHANNEL_H
#define INSULA_DEV_PC_PIT_CHANNEL_H

#include <stdbool.h>
#include <stdint.h>

struct pit_channel {
	uint64_t start;   /* clock of the first count; counting only */
	uint64_t held;    /* counts gone when GATE fell (modes 0, 4) */
	uint32_t count;   /* initial count in CE, 1..65536; 0: none loaded */
	uint32_t pending; /* count written but not yet in CE; 0: none */
	uint16_t latch;   /* output latch, while latched */
	uint8_t mode;     /* 0..5 */
	uint8_t access;   /* 1 low byte, 2 high byte, 3 low then high */
	uint8_t bcd;
	uint8_t gate;
	uint8_t counting; /* CE runs, or ran to its end */
	uint8_t latched;  /* bytes of `latch` still to be read */
	uint8_t status;   /* status latch, while status_latched */
	uint8_t status_latched;
	uint8_t read_high;  /* the next byte read is the high one (access 3) */
	uint8_t write_high; /* the next byte written is the high one (access 3) */
	uint8_t write_low;  /* the low byte, waiting for the high one */
};

/* A control word for this counter: access 1..3, mode as written (0..7). */
void pit_channel_control(struct pit_channel *c, unsigned access, unsigned mode, bool bcd);
void pit_channel_write(struct pit_channel *c, uint64_t now, uint8_t byte);
uint8_t pit_channel_read(struct pit_channel *c, uint64_t now);
void pit_channel_latch_count(struct pit_channel *c, uint64_t now);
void pit_channel_latch_status(struct pit_channel *c, uint64_t now);
void pit_channel_set_gate(struct pit_channel *c, uint64_t now, bool gate);
/* Moves a waiting count into CE if its time has come. The calls above do so themselves. */
void pit_channel_settle(struct pit_channel *c, uint64_t now);
bool pit_channel_out(const struct pit_channel *c, uint64_t now);
/* Clock of the first rising edge of OUT after clock `after`, by itself: UINT64_MAX if none comes.
 */
uint64_t pit_channel_next_edge(const struct pit_channel *c, uint64_t after);
/* 0 unless OUT is periodic. */
uint32_t pit_channel_period(const struct pit_channel *c);

#endif
