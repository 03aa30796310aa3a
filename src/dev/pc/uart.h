/*
 * A 16550A serial port (National PC16550D) in front of a character back end.
 *
 * The line is as fast as the back end: a byte written is sent at once, and the
 * transmitter holding register stays full only while the back end refuses.
 * All calls from any thread; the back end's callbacks arrive on its own.
 */
#ifndef INSULA_DEV_PC_UART_H
#define INSULA_DEV_PC_UART_H

#include <stdint.h>

#include "bus/irq.h"

struct bus;
struct chardev;
struct uart;
struct state_reader;
struct state_writer;
struct vclock;

#define UART_PORTS 8

/* chr is borrowed, may be NULL, and is connected here; it must outlive the port. NULL with errno on
 * failure. */
struct uart *uart_new(struct vclock *clock, struct chardev *chr, struct irq_line irq);
/* Leaves the bus, so the bus goes after it. */
void uart_free(struct uart *uart);
/* 0 or -errno of bus_add. */
int uart_attach(struct uart *uart, struct bus *pio, uint16_t base)
	__attribute__((warn_unused_result));
void uart_reset(struct uart *uart);

/* Its section of a saved state. Load: all or nothing, then lines and timers follow; vcpus stopped,
 * the clock already set. */
void uart_save(struct uart *u, struct state_writer *writer);
int uart_load(struct uart *u, struct state_reader *reader) __attribute__((warn_unused_result));

#endif
