/*
 * The MultiProcessor table (Intel MP specification 1.4), for guests that do not
 * read ACPI. Pure: builds into a buffer, which the board writes to guest memory.
 */
#ifndef INSULA_BOARD_MPTABLE_H
#define INSULA_BOARD_MPTABLE_H

#include <stdint.h>

struct acpi_config;

/* The floating pointer, then the table, for guest address base (16-aligned). The bytes used; 0 if
 * len is too small. */
uint32_t mptable_build(const struct acpi_config *config, uint64_t base, uint8_t *area,
		       uint32_t len);

#endif
