/*
 * Interrupt lines and messages: how a device interrupts, without knowing whom.
 *
 * A line is a wire with a level. Its owner (a PIC, an IOAPIC pin, a fan-out on
 * the board) supplies `set`; a device only calls irq_set() and irq_pulse().
 * Callable from any thread; the sink takes its own lock and never calls back
 * into the device, so a device may hold its lock while it calls.
 */
#ifndef INSULA_BUS_IRQ_H
#define INSULA_BUS_IRQ_H

#include <stdint.h>

struct irq_line {
	void (*set)(void *ctx, unsigned pin, int level);
	void *ctx;
	unsigned pin;
};

/* A line with no sink is legal and silent: an unconnected pin. */
static inline void irq_set(const struct irq_line *line, int level)
{
	if (line && line->set)
		line->set(line->ctx, line->pin, level);
}

/* An edge: high, then low. */
static inline void irq_pulse(const struct irq_line *line)
{
	irq_set(line, 1);
	irq_set(line, 0);
}

/* Message-signalled interrupt: a 32-bit write to the 0xfeexxxxx range (SDM 3A, 11.11). */
struct msi_sink {
	void (*send)(void *ctx, uint64_t address, uint32_t data);
	void *ctx;
};

static inline void msi_send(const struct msi_sink *sink, uint64_t address, uint32_t data)
{
	if (sink && sink->send)
		sink->send(sink->ctx, address, data);
}

#endif
