/*
 * System control port A. Called by the port bus and by the keyboard controller
 * through its line. Invariant: the A20 line is the OR of the two bits.
 */
#include "dev/pc/port92.h"

#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>

#include "bus/bus.h"
#include "dev/pc/port_bytes.h"
#include "state/stream.h"

#define PORT 0x92

#define RESET  0x01
#define A20    0x02
#define STORED 0xcb /* activity lights, password lock, A20, the reset bit's last value */

struct port92_regs {
	uint8_t value;
	uint8_t keyboard; /* the keyboard controller's say in A20 */
};

struct port92 {
	pthread_mutex_t lock;
	struct port92_regs regs;
	int line;
	struct irq_line a20;
	struct stop_sink stop;
	struct bus *bus;
};

static void update(struct port92 *port)
{
	int level = (port->regs.value & A20) || port->regs.keyboard;

	if (level != port->line) {
		port->line = level;
		irq_set(&port->a20, level);
	}
}

static uint8_t read_byte(void *dev, unsigned offset)
{
	struct port92 *port = dev;
	uint8_t value;

	(void)offset;
	pthread_mutex_lock(&port->lock);
	value = port->regs.value;
	pthread_mutex_unlock(&port->lock);
	return value;
}

static void write_byte(void *dev, unsigned offset, uint8_t value)
{
	struct port92 *port = dev;
	uint8_t was;

	(void)offset;
	pthread_mutex_lock(&port->lock);
	was = port->regs.value;
	port->regs.value = value & STORED;
	update(port);
	pthread_mutex_unlock(&port->lock);
	/* The pulse is made by the bit's rise. */
	if ((value & RESET) && !(was & RESET))
		stop_request(&port->stop, STOP_RESET, 0, NULL);
}

static void set_keyboard(void *ctx, unsigned pin, int level)
{
	struct port92 *port = ctx;

	(void)pin;
	pthread_mutex_lock(&port->lock);
	port->regs.keyboard = level != 0;
	update(port);
	pthread_mutex_unlock(&port->lock);
}

static uint64_t port92_read(void *dev, uint64_t offset, unsigned size)
{
	return port_bytes_read(dev, offset, size, read_byte);
}

static void port92_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	port_bytes_write(dev, offset, size, value, write_byte);
}

static const struct bus_ops port92_ops = { .read = port92_read, .write = port92_write };

struct irq_line port92_keyboard_a20(struct port92 *port)
{
	return (struct irq_line){ .set = set_keyboard, .ctx = port };
}

struct port92 *port92_new(struct irq_line a20, struct stop_sink stop)
{
	struct port92 *port = calloc(1, sizeof(*port));

	if (!port)
		return NULL;
	pthread_mutex_init(&port->lock, NULL);
	port->a20 = a20;
	port->stop = stop;
	port92_reset(port);
	return port;
}

void port92_free(struct port92 *port)
{
	if (!port)
		return;
	if (port->bus)
		bus_remove(port->bus, PORT, port);
	pthread_mutex_destroy(&port->lock);
	free(port);
}

int port92_attach(struct port92 *port, struct bus *pio)
{
	int error = bus_add(pio, &(struct bus_region){ .name = "port 92",
						       .base = PORT,
						       .len = 1,
						       .ops = &port92_ops,
						       .dev = port });

	if (!error)
		port->bus = pio;
	return error;
}

void port92_reset(struct port92 *port)
{
	pthread_mutex_lock(&port->lock);
	port->regs.value = A20;
	update(port);
	pthread_mutex_unlock(&port->lock);
}

static const struct state_field port92_fields[] = {
	STATE_FIELD(struct port92_regs, value),
	STATE_FIELD(struct port92_regs, keyboard),
	STATE_END,
};

static const struct state_table port92_table = {
	.name = "port92",
	.version = 1,
	.size = sizeof(struct port92_regs),
	.fields = port92_fields,
};

void port92_save(struct port92 *port, struct state_writer *writer)
{
	struct port92_regs regs;

	pthread_mutex_lock(&port->lock);
	regs = port->regs;
	pthread_mutex_unlock(&port->lock);
	state_save(&port92_table, &regs, writer);
}

int port92_load(struct port92 *port, struct state_reader *reader)
{
	struct port92_regs regs;
	int error;

	pthread_mutex_lock(&port->lock);
	regs = port->regs;
	pthread_mutex_unlock(&port->lock);
	error = state_load(&port92_table, &regs, reader);
	if (error)
		return error;
	pthread_mutex_lock(&port->lock);
	port->regs = regs;
	update(port);
	pthread_mutex_unlock(&port->lock);
	return 0;
}
