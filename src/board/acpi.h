/*
 * ACPI tables (ACPI 6.4): RSDP, RSDT, XSDT, FADT, FACS, MADT, MCFG, HPET, WAET,
 * the compiled DSDT and an SSDT with what differs between machines. Pure: builds
 * into a buffer, which the board writes to guest memory.
 */
#ifndef INSULA_BOARD_ACPI_H
#define INSULA_BOARD_ACPI_H

#include <stdint.h>

#define ACPI_PINS_MAX 128

struct acpi_pin {
	uint8_t slot, pin; /* pin 0: INTA# */
	uint8_t gsi;
};

struct acpi_config {
	unsigned cpus;
	uint64_t pci64_base, pci64_len;
	unsigned pin_count;
	struct acpi_pin pin[ACPI_PINS_MAX]; /* each slot and pin once */
};

/*
 * Builds all tables for guest address base (64-aligned) into area, the RSDP
 * first. The bytes used; 0 if len is too small.
 */
uint32_t acpi_build(const struct acpi_config *config, uint64_t base, uint8_t *area, uint32_t len);

#endif
