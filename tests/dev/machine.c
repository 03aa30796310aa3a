/* See machine.h. */
#include "machine.h"

#include <linux/pci_regs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"

static void take_msi(void *ctx, uint64_t address, uint32_t data)
{
	struct machine *m = ctx;

	m->msis[m->msi_count++ % MACHINE_MSIS] = (struct machine_msi){ address, data };
}

static void set_pirq(void *ctx, unsigned pin, int level)
{
	struct machine *m = ctx;

	if (level && !m->pirq[pin])
		m->pirq_edges++;
	m->pirq[pin] = level;
}

static void set_isa(void *ctx, unsigned pin, int level)
{
	((struct machine *)ctx)->isa[pin] = level;
}

static void take_stop(void *ctx, enum stop_reason reason, uint32_t code, const char *detail)
{
	((struct machine *)ctx)->stopped = reason;
}

void machine_init(struct machine *m)
{
	struct pci_host_config config = {
		.msi = { take_msi, m },
		.stop = { take_stop, m },
		.ecam_base = MACHINE_ECAM,
		.io = { 0xc000, 0x3000 },
		.mem = { 0xc0000000, 0x20000000 },
		.mem64 = { 1ull << 38, 1ull << 36 },
		.pm_base = 0x600,
	};

	memset(m, 0, sizeof(*m));
	m->ram = ram_new(MACHINE_RAM_BYTES);
	m->pio = bus_new(0x10000);
	m->mmio = bus_new(1ull << 52);
	m->loop = loop_new();
	ASSERT(m->ram && m->pio && m->mmio && m->loop);
	m->brk = 0x10000;
	config.pio = m->pio;
	config.mmio = m->mmio;
	for (unsigned i = 0; i < PCI_PIRQS; i++)
		config.pirq[i] = (struct irq_line){ set_pirq, m, i };
	for (unsigned i = 0; i < 16; i++)
		config.isa[i] = (struct irq_line){ set_isa, m, i };
	m->host = pci_host_new(&config);
	ASSERT(m->host);
}

void machine_fini(struct machine *m)
{
	pci_host_free(m->host);
	loop_free(m->loop);
	bus_free(m->mmio);
	bus_free(m->pio);
	ram_free(m->ram);
}

uint64_t machine_alloc(struct machine *m, uint64_t bytes, uint64_t align)
{
	uint64_t at = (m->brk + align - 1) & ~(align - 1);
	static const uint8_t zeroes[4096];

	ASSERT(at + bytes <= MACHINE_RAM_BYTES);
	m->brk = at + bytes;
	for (uint64_t i = 0; i < bytes; i += sizeof(zeroes))
		machine_put(m, at + i, zeroes,
			    bytes - i < sizeof(zeroes) ? (size_t)(bytes - i) : sizeof(zeroes));
	return at;
}

void machine_put(struct machine *m, uint64_t gpa, const void *bytes, size_t len)
{
	int err = ram_write(m->ram, gpa, bytes, len);

	ASSERT(!err);
}

void machine_get(struct machine *m, uint64_t gpa, void *bytes, size_t len)
{
	int err = ram_read(m->ram, gpa, bytes, len);

	ASSERT(!err);
}

uint32_t machine_config_read(struct machine *m, unsigned slot, unsigned offset, unsigned size)
{
	return (uint32_t)bus_read(m->mmio, MACHINE_ECAM + (slot << 15) + offset, size);
}

void machine_config_write(struct machine *m, unsigned slot, unsigned offset, unsigned size,
			  uint32_t value)
{
	bus_write(m->mmio, MACHINE_ECAM + (slot << 15) + offset, size, value);
}

uint64_t machine_bar(struct machine *m, unsigned slot, unsigned bar)
{
	unsigned reg = PCI_BASE_ADDRESS_0 + 4 * bar;
	uint64_t value = machine_config_read(m, slot, reg, 4);

	if (value & PCI_BASE_ADDRESS_SPACE_IO)
		return value & ~3ull;
	if (value & PCI_BASE_ADDRESS_MEM_TYPE_64)
		value |= (uint64_t)machine_config_read(m, slot, reg + 4, 4) << 32;
	return value & ~15ull;
}

uint64_t machine_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}
