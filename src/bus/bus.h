/*
 * Port and MMIO spaces: every access a vcpu makes that is not to RAM.
 *
 * A bus is a flat set of non-overlapping regions. Readers (vcpu threads) look
 * up without blocking writers for long; the map changes only when firmware or
 * a kernel moves a PCI BAR. No bus lock is held while a device is called, so a
 * device may change the map from inside its own handler.
 *
 * The offset a device sees is relative to its region. Sizes are 1, 2, 4 or 8
 * bytes and an access never spans two regions: the bus splits it. Any value,
 * size and alignment may come from a hostile guest.
 */
#ifndef INSULA_BUS_BUS_H
#define INSULA_BUS_BUS_H

#include <stdbool.h>
#include <stdint.h>

struct bus;

struct bus_ops {
	/* Returns the value in the low `size` bytes; undecoded registers read as all ones or as the datasheet says. */
	uint64_t (*read)(void *dev, uint64_t offset, unsigned size);
	void (*write)(void *dev, uint64_t offset, unsigned size, uint64_t value);
};

struct bus_region {
	const char *name; /* static string, for logs and inspection */
	uint64_t base;
	uint64_t len;
	const struct bus_ops *ops;
	void *dev; /* borrowed; must outlive the bus or be removed first */
};

/* `limit` is the first address beyond the space: 0x10000 for ports, 1 << 52 for MMIO. */
struct bus *bus_new(uint64_t limit);
void bus_free(struct bus *bus);

/* 0, or -EEXIST if the range overlaps another region, -EINVAL if it leaves the space. Copies *region. */
int bus_add(struct bus *bus, const struct bus_region *region) __attribute__((warn_unused_result));
/* Removes the region that `dev` placed at `base`; an access already under way in another thread may still finish. */
void bus_remove(struct bus *bus, uint64_t base, void *dev);

/* Unclaimed addresses read as all ones and swallow writes, as a PC's do. Any thread. */
uint64_t bus_read(struct bus *bus, uint64_t addr, unsigned size);
void bus_write(struct bus *bus, uint64_t addr, unsigned size, uint64_t value);

/* True if some region claims any byte of [addr, addr+len). */
bool bus_claims(struct bus *bus, uint64_t addr, uint64_t len);

#endif
