/* Ports 0x80 and 0xed. Called by the port bus; nothing ever comes of it. */
#include "dev/pc/port_delay.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

#include "bus/bus.h"
#include "state/stream.h"

#define PORT_POST  0x80
#define PORT_DELAY 0xed

struct port_delay {
	_Atomic uint8_t post; /* last byte written to 0x80 */
	struct bus *bus;
};

static uint64_t post_read(void *dev, uint64_t offset, unsigned size)
{
	struct port_delay *port = dev;

	(void)offset;
	(void)size;
	return atomic_load_explicit(&port->post, memory_order_relaxed);
}

static void post_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	struct port_delay *port = dev;

	(void)offset;
	(void)size;
	atomic_store_explicit(&port->post, (uint8_t)value, memory_order_relaxed);
}

static uint64_t delay_read(void *dev, uint64_t offset, unsigned size)
{
	(void)dev;
	(void)offset;
	(void)size;
	return UINT64_MAX;
}

static void delay_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	(void)dev;
	(void)offset;
	(void)size;
	(void)value;
}

static const struct bus_ops post_ops = { .read = post_read, .write = post_write };
static const struct bus_ops delay_ops = { .read = delay_read, .write = delay_write };

struct port_delay *port_delay_new(void)
{
	return calloc(1, sizeof(struct port_delay));
}

void port_delay_free(struct port_delay *port)
{
	if (!port)
		return;
	if (port->bus) {
		bus_remove(port->bus, PORT_POST, port);
		bus_remove(port->bus, PORT_DELAY, port);
	}
	free(port);
}

int port_delay_attach(struct port_delay *port, struct bus *pio)
{
	struct bus_region region = {
		.name = "POST", .base = PORT_POST, .len = 1, .ops = &post_ops, .dev = port
	};
	int error = bus_add(pio, &region);

	if (error)
		return error;
	region = (struct bus_region){
		.name = "delay", .base = PORT_DELAY, .len = 1, .ops = &delay_ops, .dev = port
	};
	error = bus_add(pio, &region);
	if (error) {
		bus_remove(pio, PORT_POST, port);
		return error;
	}
	port->bus = pio;
	return 0;
}

void port_delay_reset(struct port_delay *port)
{
	atomic_store_explicit(&port->post, 0, memory_order_relaxed);
}

struct port_delay_regs {
	uint8_t post;
};

static const struct state_field port_delay_fields[] = { STATE_FIELD(struct port_delay_regs, post),
							STATE_END };

static const struct state_table port_delay_table = {
	.name = "port-delay",
	.version = 1,
	.size = sizeof(struct port_delay_regs),
	.fields = port_delay_fields,
};

void port_delay_save(struct port_delay *port, struct state_writer *writer)
{
	struct port_delay_regs regs = { .post = atomic_load(&port->post) };

	state_save(&port_delay_table, &regs, writer);
}

int port_delay_load(struct port_delay *port, struct state_reader *reader)
{
	struct port_delay_regs regs = { 0 };
	int error = state_load(&port_delay_table, &regs, reader);

	if (!error)
		atomic_store(&port->post, regs.post);
	return error;
}
