/*
 * Where loaders may put things: questions on the machine's memory map, and
 * filling RAM. Used by the loaders of this room only.
 */
#ifndef INSULA_BOOT_BOOT_MEMORY_H
#define INSULA_BOOT_BOOT_MEMORY_H

#include <stdbool.h>

#include "boot/boot_image.h"

/* True if the range, which may not be empty, lies in RAM that the map gives to the guest. Adjacent
 * ranges count as one. */
bool boot_memory_is_ram(const struct boot_machine *machine, uint64_t base, uint64_t len);

/* End of the highest usable RAM below 4 GiB. */
uint64_t boot_memory_low_end(const struct boot_machine *machine);

/* All usable RAM in MiB, for sentences. */
unsigned long boot_memory_mib(const struct boot_machine *machine);

/*
 * The highest aligned place for len bytes that ends at or below `limit`, begins
 * at or above `floor` and is RAM; 0 if there is none. align: a power of two.
 */
gpa_t boot_memory_place_high(const struct boot_machine *machine, uint64_t len, uint64_t align,
			     uint64_t floor, uint64_t limit);

#endif
