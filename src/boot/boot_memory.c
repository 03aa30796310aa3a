/*
 * The machine's memory map as loaders see it. Pure.
 * Invariant: no sum here can wrap; lengths are compared against what is left.
 */
#include "boot/boot_memory.h"

bool boot_memory_is_ram(const struct boot_machine *machine, uint64_t base, uint64_t len)
{
	for (unsigned i = 0; i < machine->range_count && len; i++) {
		const struct boot_range *range = &machine->range[i];

		if (range->type != BOOT_RANGE_RAM || base < range->base ||
		    base - range->base >= range->len)
			continue;
		uint64_t left = range->len - (base - range->base);

		if (len <= left)
			return true;
		base += left;
		len -= left;
	}
	return false;
}

uint64_t boot_memory_low_end(const struct boot_machine *machine)
{
	uint64_t end = 0;

	for (unsigned i = 0; i < machine->range_count; i++) {
		const struct boot_range *range = &machine->range[i];

		if (range->type == BOOT_RANGE_RAM && range->base < RAM_HIGH_BASE &&
		    range->base + range->len > end)
			end = range->base + range->len;
	}
	return end;
}

unsigned long boot_memory_mib(const struct boot_machine *machine)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < machine->range_count; i++) {
		if (machine->range[i].type == BOOT_RANGE_RAM)
			sum += machine->range[i].len;
	}
	/* Rounded: the holes below 1 MiB should not turn 64 MiB into 63. */
	return (unsigned long)((sum + (1u << 19)) >> 20);
}

gpa_t boot_memory_place_high(const struct boot_machine *machine, uint64_t len, uint64_t align,
			     uint64_t floor, uint64_t limit)
{
	gpa_t best = 0;

	for (unsigned i = 0; i < machine->range_count; i++) {
		const struct boot_range *range = &machine->range[i];
		uint64_t low = range->base > floor ? range->base : floor;
		uint64_t high = range->base + range->len < limit ? range->base + range->len : limit;

		if (range->type != BOOT_RANGE_RAM || high <= low || high - low < len)
			continue;
		gpa_t place = (high - len) & ~(align - 1);

		if (place >= low && place > best)
			best = place;
	}
	return best;
}
