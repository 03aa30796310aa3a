/* The exit port of test guests. Called by the port bus. */
#include "dev/pc/debug_exit.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>

#include "bus/bus.h"

#define PORT 0xf4
#define LEN  4 /* a 32-bit write is one code */

struct debug_exit {
	struct stop_sink stop;
	struct bus *bus;
};

static uint64_t debug_exit_read(void *dev, uint64_t offset, unsigned size)
{
	(void)dev;
	(void)offset;
	(void)size;
	return 0;
}

static void debug_exit_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	struct debug_exit *port = dev;

	(void)size;
	if (offset == 0)
		stop_request(&port->stop, STOP_DEBUG_EXIT, (uint32_t)value, NULL);
}

static const struct bus_ops debug_exit_ops = { .read = debug_exit_read, .write = debug_exit_write };

struct debug_exit *debug_exit_new(struct stop_sink stop)
{
	struct debug_exit *port = calloc(1, sizeof(*port));

	if (port)
		port->stop = stop;
	return port;
}

void debug_exit_free(struct debug_exit *port)
{
	if (!port)
		return;
	if (port->bus)
		bus_remove(port->bus, PORT, port);
	free(port);
}

int debug_exit_attach(struct debug_exit *port, struct bus *pio)
{
	int error = bus_add(pio, &(struct bus_region){ .name = "debug exit",
						       .base = PORT,
						       .len = LEN,
						       .ops = &debug_exit_ops,
						       .dev = port });

	if (!error)
		port->bus = pio;
	return error;
}
