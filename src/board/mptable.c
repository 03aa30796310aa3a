/*
 * MP table builder. Called by the board at power-on and reset. It tells the
 * same story as the MADT and the _PRT; see acpi.c.
 */
#include "board/mptable.h"

#include <stdbool.h>
#include <string.h>

#include "board/acpi.h"
#include "board/board_map.h"

#define BUS_PCI     0
#define BUS_ISA     1
#define IOAPIC_ID   0
#define IRQ_INT     0
#define IRQ_NMI     1
#define IRQ_EXTINT  3
#define LEVEL_HIGH  0x0d
#define LEVEL_LOW   0x0f
#define POINTER_LEN 16
#define HEADER_LEN  44

struct mp_writer {
	uint8_t *area;
	uint32_t len, used;
	uint16_t entries;
	bool full;
};

static void entry_put(struct mp_writer *w, const uint8_t *bytes, uint32_t count)
{
	if (count > w->len - w->used) {
		w->full = true;
		return;
	}
	memcpy(w->area + w->used, bytes, count);
	w->used += count;
	w->entries++;
}

static void bus_put(struct mp_writer *w, uint8_t id, const char type[6])
{
	uint8_t entry[8] = { 1, id };

	memcpy(entry + 2, type, 6);
	entry_put(w, entry, sizeof(entry));
}

static void irq_put(struct mp_writer *w, uint8_t kind, uint8_t flags, uint8_t bus, uint8_t source,
		    uint8_t input)
{
	entry_put(w, (uint8_t[8]){ 3, kind, flags, 0, bus, source, IOAPIC_ID, input }, 8);
}

static void cpus_put(struct mp_writer *w, unsigned cpus)
{
	for (unsigned id = 0; id < cpus && id < 255; id++) {
		/* enabled, boot processor; family 6; FPU and APIC present */
		uint8_t entry[20] = { 0, (uint8_t)id, 0x14, (uint8_t)(id ? 1 : 3), 0, 6, 0,
				      0, 0x01,        0x02 };

		entry_put(w, entry, sizeof(entry));
	}
}

static void interrupts_put(struct mp_writer *w, const struct acpi_config *config)
{
	for (uint8_t irq = 0; irq < 16; irq++) {
		if (irq == 2)
			continue;
		irq_put(w, IRQ_INT, irq == MAP_IRQ_SCI ? LEVEL_HIGH : 0, BUS_ISA, irq,
			irq == MAP_IRQ_PIT ? MAP_GSI_PIT : irq);
	}
	for (unsigned i = 0; i < config->pin_count; i++) {
		const struct acpi_pin *pin = &config->pin[i];

		irq_put(w, IRQ_INT, LEVEL_LOW, BUS_PCI, (uint8_t)(pin->slot << 2 | pin->pin),
			pin->gsi);
	}
	/* Local inputs: the 8259 on LINT0, NMI on LINT1, of every processor. */
	entry_put(w, (uint8_t[8]){ 4, IRQ_EXTINT, 0, 0, BUS_ISA, 0, 0xff, 0 }, 8);
	entry_put(w, (uint8_t[8]){ 4, IRQ_NMI, 0, 0, BUS_ISA, 0, 0xff, 1 }, 8);
}

static uint8_t checksum(const uint8_t *bytes, uint32_t count)
{
	uint8_t sum = 0;

	while (count--)
		sum = (uint8_t)(sum + *bytes++);
	return (uint8_t)-sum;
}

uint32_t mptable_build(const struct acpi_config *config, uint64_t base, uint8_t *area, uint32_t len)
{
	struct mp_writer w = { .area = area, .len = len, .used = POINTER_LEN + HEADER_LEN };
	uint32_t table_gpa = (uint32_t)base + POINTER_LEN, lapic = MAP_LAPIC_BASE;
	uint8_t *header = area + POINTER_LEN;

	if (len < w.used)
		return 0;
	memset(area, 0, w.used);
	cpus_put(&w, config->cpus);
	bus_put(&w, BUS_PCI, "PCI   ");
	bus_put(&w, BUS_ISA, "ISA   ");
	entry_put(&w, (uint8_t[8]){ 2, IOAPIC_ID, 0x11, 1, 0x00, 0x00, 0xc0, 0xfe }, 8);
	interrupts_put(&w, config);
	if (w.full)
		return 0;

	uint16_t table_len = (uint16_t)(w.used - POINTER_LEN);

	memcpy(header, "PCMP", 4);
	memcpy(header + 4, &table_len, 2);
	header[6] = 4; /* specification 1.4 */
	memcpy(header + 8, "INSULA  BOARD       ", 20);
	memcpy(header + 34, &w.entries, 2);
	memcpy(header + 36, &lapic, 4);
	header[7] = checksum(header, table_len);

	memcpy(area, "_MP_", 4);
	memcpy(area + 4, &table_gpa, 4);
	area[8] = 1; /* in paragraphs */
	area[9] = 4;
	area[10] = checksum(area, POINTER_LEN);
	return w.used;
}
