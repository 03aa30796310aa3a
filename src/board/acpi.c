/*
 * ACPI table builder. Called by the board at power-on and reset.
 * Invariant: every table it emits has a right length and checksum, and lies on
 * a 64-byte boundary, as the FACS must.
 */
#include "board/acpi.h"

#include <stdbool.h>
#include <string.h>

#include "board/board_map.h"
#include "board/dsdt.hex"
#include "dev/pc/acpi_pm.h"

#define TABLES_MAX 8
#define HEADER_LEN 36

/* The tables are written front to back; a table that does not fit makes the whole build fail. */
struct writer {
	uint8_t *area;
	uint64_t base;
	uint32_t len, used;
	uint32_t table; /* offset of the table being written */
	bool full;
	uint64_t address[TABLES_MAX]; /* for the XSDT */
	unsigned table_count;
};

static void put(struct writer *w, const void *bytes, uint32_t count)
{
	if (w->full || count > w->len - w->used) {
		w->full = true;
		return;
	}
	memcpy(w->area + w->used, bytes, count);
	w->used += count;
}

static void put8(struct writer *w, uint8_t value)
{
	put(w, &value, 1);
}

static void put16(struct writer *w, uint16_t value)
{
	put(w, &value, 2);
}

static void put32(struct writer *w, uint32_t value)
{
	put(w, &value, 4);
}

static void put64(struct writer *w, uint64_t value)
{
	put(w, &value, 8);
}

static void put_zeros(struct writer *w, uint32_t count)
{
	while (count--)
		put8(w, 0);
}

static void align(struct writer *w)
{
	while (w->used % 64 && !w->full)
		put8(w, 0);
}

static uint8_t checksum(const uint8_t *bytes, uint32_t count)
{
	uint8_t sum = 0;

	while (count--)
		sum = (uint8_t)(sum + *bytes++);
	return (uint8_t)-sum;
}

static uint64_t table_begin(struct writer *w, const char signature[4], uint8_t revision)
{
	align(w);
	w->table = w->used;
	put(w, signature, 4);
	put32(w, 0); /* length: table_end */
	put8(w, revision);
	put8(w, 0); /* checksum: table_end */
	put(w, "INSULA", 6);
	put(w, "BOARD\0\0\0", 8);
	put32(w, 1);
	put(w, "INSU", 4);
	put32(w, 1);
	return w->base + w->table;
}

static void table_end(struct writer *w)
{
	if (w->full)
		return;
	uint32_t len = w->used - w->table;

	memcpy(w->area + w->table + 4, &len, 4);
	w->area[w->table + 9] = checksum(w->area + w->table, len);
}

/* A table the XSDT lists. */
static void table_list(struct writer *w, uint64_t address)
{
	w->address[w->table_count++] = address;
}

/* Generic address structure: I/O space, `width` bits. */
static void put_gas_io(struct writer *w, uint8_t width, uint8_t access, uint64_t port)
{
	put8(w, 1);
	put8(w, width);
	put8(w, 0);
	put8(w, access);
	put64(w, port);
}

static uint64_t facs_build(struct writer *w)
{
	align(w);
	uint64_t address = w->base + w->used;

	put(w, "FACS", 4);
	put32(w, 64);
	put_zeros(w, 24);
	put8(w, 2); /* version */
	put_zeros(w, 31);
	return address;
}

static void fadt_build(struct writer *w, uint64_t dsdt, uint64_t facs)
{
	/* WBINVD, PROC_C1, SLP_BUTTON (no fixed one), RTC wake not fixed, TMR_VAL_EXT,
	 * RESET_REG_SUP */
	const uint32_t flags = 1u << 0 | 1u << 2 | 1u << 5 | 1u << 6 | 1u << 8 | 1u << 10;

	table_list(w, table_begin(w, "FACP", 5));
	put32(w, (uint32_t)facs);
	put32(w, (uint32_t)dsdt);
	put8(w, 0);
	put8(w, 0); /* preferred profile: unspecified */
	put16(w, MAP_IRQ_SCI);
	put32(w, 0); /* no SMI command port: ACPI mode is the only mode */
	put_zeros(w, 4);
	put32(w, MAP_PORT_PM);
	put32(w, 0);
	put32(w, MAP_PORT_PM + 4);
	put32(w, 0);
	put32(w, 0);
	put32(w, MAP_PORT_PM_TIMER);
	put32(w, MAP_PORT_PM + ACPI_PM_GPE0);
	put32(w, 0);
	put8(w, 4); /* PM1 event block */
	put8(w, 2); /* PM1 control */
	put8(w, 0);
	put8(w, 4); /* PM timer */
	put8(w, ACPI_PM_GPE0_LEN);
	put_zeros(w, 3);
	put16(w, 0xfff); /* C2, C3 latencies: not supported */
	put16(w, 0xfff);
	put_zeros(w, 4); /* flush size and stride */
	put8(w, 0);
	put8(w, 0);
	put8(w, 0);
	put8(w, 0);
	put8(w, 0x32);                        /* RTC century register */
	put16(w, 0x0003 | 1u << 2 | 1u << 4); /* legacy devices, 8042, no VGA, no PCIe ASPM */
	put8(w, 0);
	put32(w, flags);
	put_gas_io(w, 8, 1, MAP_PORT_RESET);
	put8(w, 0x06); /* what to write there: hard reset */
	put16(w, 0);
	put8(w, 1); /* minor version */
	put64(w, facs);
	put64(w, dsdt);
	put_gas_io(w, 32, 2, MAP_PORT_PM);
	put_zeros(w, 12);
	put_gas_io(w, 16, 2, MAP_PORT_PM + 4);
	put_zeros(w, 12);
	put_zeros(w, 12);
	put_gas_io(w, 32, 3, MAP_PORT_PM_TIMER);
	put_gas_io(w, ACPI_PM_GPE0_LEN * 8, 1, MAP_PORT_PM + ACPI_PM_GPE0);
	put_zeros(w, 12);
	put_zeros(w, 12); /* sleep control */
	put_zeros(w, 12); /* sleep status */
	table_end(w);
}

static void madt_override(struct writer *w, uint8_t irq, uint32_t gsi, uint16_t flags)
{
	put8(w, 2);
	put8(w, 10);
	put8(w, 0); /* ISA */
	put8(w, irq);
	put32(w, gsi);
	put16(w, flags);
}

static void madt_build(struct writer *w, unsigned cpus)
{
	table_list(w, table_begin(w, "APIC", 4));
	put32(w, MAP_LAPIC_BASE);
	put32(w, 1); /* there are 8259s too */
	for (unsigned id = 0; id < cpus && id < 255; id++) {
		put8(w, 0);
		put8(w, 8);
		put8(w, (uint8_t)id);
		put8(w, (uint8_t)id);
		put32(w, 1);
	}
	for (unsigned id = 255; id < cpus; id++) {
		put8(w, 9);
		put8(w, 16);
		put16(w, 0);
		put32(w, id);
		put32(w, 1);
		put32(w, id);
	}
	put8(w, 1);
	put8(w, 12);
	put8(w, 0); /* IOAPIC id */
	put8(w, 0);
	put32(w, MAP_IOAPIC_BASE);
	put32(w, 0);
	madt_override(w, MAP_IRQ_PIT, MAP_GSI_PIT, 0);
	madt_override(w, MAP_IRQ_SCI, MAP_IRQ_SCI, 0x0d); /* level, active high */
	put8(w, 4);                                       /* NMI: LINT1 of all processors */
	put8(w, 6);
	put8(w, 0xff);
	put16(w, 0);
	put8(w, 1);
	table_end(w);
}

static void mcfg_build(struct writer *w)
{
	table_list(w, table_begin(w, "MCFG", 1));
	put_zeros(w, 8);
	put64(w, MAP_ECAM_BASE);
	put16(w, 0);
	put8(w, 0);
	put8(w, 255);
	put_zeros(w, 4);
	table_end(w);
}

static void hpet_build(struct writer *w)
{
	table_list(w, table_begin(w, "HPET", 1));
	put32(w, 0x8086a201); /* as in the capabilities register: 64-bit counter, 3 comparators,
				 legacy routes */
	put8(w, 0);           /* memory space */
	put8(w, 64);
	put8(w, 0);
	put8(w, 0);
	put64(w, MAP_HPET_BASE);
	put8(w, 0);
	put16(w, 100);
	put8(w, 0);
	table_end(w);
}

/* Windows ACPI Emulated devices Table: the RTC and PM timer need no workarounds for lost ticks or
 * torn reads. */
static void waet_build(struct writer *w)
{
	table_list(w, table_begin(w, "WAET", 1));
	put32(w, 3);
	table_end(w);
}

/* AML: PkgLength in its two-byte form, which counts itself; enough for 4095 bytes
 * (ACPI 6.4, 20.2.4). */
static uint32_t package_begin(struct writer *w)
{
	put16(w, 0);
	return w->used;
}

static void package_end(struct writer *w, uint32_t begin)
{
	uint32_t len = w->used - begin + 2;

	if (w->full)
		return;
	if (len > 4095) {
		w->full = true;
		return;
	}
	w->area[begin - 2] = (uint8_t)(0x40 | (len & 0xf));
	w->area[begin - 1] = (uint8_t)(len >> 4);
}

#define AML_NAME    0x08
#define AML_DWORD   0x0c
#define AML_BYTE    0x0a
#define AML_QWORD   0x0e
#define AML_SCOPE   0x10
#define AML_PACKAGE 0x12

static void aml_name_qword(struct writer *w, const char name[4], uint64_t value)
{
	put8(w, AML_NAME);
	put(w, name, 4);
	put8(w, AML_QWORD);
	put64(w, value);
}

static void ssdt_build(struct writer *w, const struct acpi_config *config)
{
	table_list(w, table_begin(w, "SSDT", 2));
	put8(w, AML_SCOPE);
	uint32_t scope = package_begin(w);

	put(w, "\\._SB_PCI0", 10);
	aml_name_qword(w, "M64B", config->pci64_base);
	aml_name_qword(w, "M64E", config->pci64_base + config->pci64_len - 1);
	put8(w, AML_NAME);
	put(w, "PRTA", 4);
	put8(w, AML_PACKAGE);
	uint32_t table = package_begin(w);

	put8(w, (uint8_t)config->pin_count);
	for (unsigned i = 0; i < config->pin_count; i++) {
		const struct acpi_pin *pin = &config->pin[i];

		put8(w, AML_PACKAGE);
		uint32_t entry = package_begin(w);

		put8(w, 4);
		put8(w, AML_DWORD);
		put32(w, (uint32_t)pin->slot << 16 | 0xffff);
		put8(w, AML_BYTE);
		put8(w, pin->pin);
		put8(w, AML_BYTE);
		put8(w, 0);
		put8(w, AML_BYTE);
		put8(w, pin->gsi);
		package_end(w, entry);
	}
	package_end(w, table);
	package_end(w, scope);
	table_end(w);
}

static void directory_build(struct writer *w, uint8_t *rsdp)
{
	uint64_t rsdt = table_begin(w, "RSDT", 1);

	for (unsigned i = 0; i < w->table_count; i++)
		put32(w, (uint32_t)w->address[i]);
	table_end(w);

	uint64_t xsdt = table_begin(w, "XSDT", 1);

	for (unsigned i = 0; i < w->table_count; i++)
		put64(w, w->address[i]);
	table_end(w);

	memcpy(rsdp, "RSD PTR \0INSULA\2", 16);
	memcpy(rsdp + 16, &rsdt, 4);
	memcpy(rsdp + 20, &(uint32_t){ 36 }, 4);
	memcpy(rsdp + 24, &xsdt, 8);
	rsdp[8] = checksum(rsdp, 20);
	rsdp[32] = checksum(rsdp, 36);
}

uint32_t acpi_build(const struct acpi_config *config, uint64_t base, uint8_t *area, uint32_t len)
{
	struct writer w = { .area = area, .base = base, .len = len };

	put_zeros(&w, 36); /* RSDP: last, when all addresses are known */
	align(&w);
	uint64_t dsdt = base + w.used;

	put(&w, dsdt_aml_code, sizeof(dsdt_aml_code));
	uint64_t facs = facs_build(&w);

	fadt_build(&w, dsdt, facs);
	madt_build(&w, config->cpus);
	mcfg_build(&w);
	hpet_build(&w);
	waet_build(&w);
	ssdt_build(&w, config);
	if (w.full)
		return 0;
	directory_build(&w, area);
	return w.full ? 0 : w.used;
}
