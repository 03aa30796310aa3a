/* The test machine of pc_machine.h. */
#include "pc_machine.h"

#include <stdlib.h>
#include <string.h>

static void wire_set(void *ctx, unsigned pin, int level)
{
	struct pc_machine *m = ctx;
	struct pc_wire *wire = &m->wire[pin];

	if (level && !wire->level)
		wire->rises++;
	wire->level = level;
}

static void msi_record(void *ctx, uint64_t address, uint32_t data)
{
	struct pc_machine *m = ctx;

	m->msi_address = address;
	m->msi_data = data;
	m->msi_count++;
}

static void stop_record(void *ctx, enum stop_reason reason, uint32_t code, const char *detail)
{
	struct pc_machine *m = ctx;

	(void)detail;
	m->stopped = reason;
	m->stop_code = code;
}

struct irq_line pc_machine_line(struct pc_machine *m, unsigned n)
{
	return (struct irq_line){ .set = wire_set, .ctx = m, .pin = n };
}

struct msi_sink pc_machine_msi(struct pc_machine *m)
{
	return (struct msi_sink){ .send = msi_record, .ctx = m };
}

struct stop_sink pc_machine_stop(struct pc_machine *m)
{
	return (struct stop_sink){ .request = stop_record, .ctx = m };
}

void pc_machine_init(struct pc_machine *m)
{
	memset(m, 0, sizeof(*m));
	m->clock = vclock_new_manual(1000000);
	m->pio = bus_new(0x10000);
	m->mmio = bus_new(1ull << 52);
	if (!m->clock || !m->pio || !m->mmio)
		abort();
}

void pc_machine_fini(struct pc_machine *m)
{
	bus_free(m->pio);
	bus_free(m->mmio);
	vclock_free(m->clock);
}

uint8_t pc_in(struct pc_machine *m, uint16_t port)
{
	return (uint8_t)bus_read(m->pio, port, 1);
}

void pc_out(struct pc_machine *m, uint16_t port, uint8_t value)
{
	bus_write(m->pio, port, 1, value);
}
