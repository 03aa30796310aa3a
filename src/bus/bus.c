/*
 * The map of a port or MMIO space. vcpu threads look up, the board and PCI
 * change the map. Invariant: no lock is held while a device is called.
 *
 * The map is a sorted array under a sequence lock: a reader copies the region
 * it wants and starts over if the map changed meanwhile. Chosen before an
 * RCU-like swap because a guest may move a BAR as often as it likes: this way
 * there is nothing to reclaim. A table that became too small is kept until the
 * bus goes, since a reader may still look at it; tables double, so what is
 * kept is smaller than what is in use.
 */
#include "bus/bus.h"

#include "base/assert.h"
#include "base/spin.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

/*
 * Fields are atomic because a reader may see them change; the sequence count tells
 * it to forget them.
 */
struct bus_entry {
	_Atomic uint64_t base;
	_Atomic uint64_t len;
	const struct bus_ops *_Atomic ops;
	void *_Atomic dev;
	const char *_Atomic name;
};

struct bus_table {
	struct bus_table *older;
	unsigned capacity;
	struct bus_entry entry[];
};

struct bus {
	uint64_t limit;
	pthread_mutex_t writer;
	_Atomic uint32_t sequence; /* odd while a writer is at work */
	_Atomic uint32_t count;
	struct bus_table *_Atomic table;
};

#define FIRST_CAPACITY 32

static struct bus_table *table_new(unsigned capacity)
{
	struct bus_table *table = calloc(1, sizeof(*table) + capacity * sizeof(struct bus_entry));

	if (table)
		table->capacity = capacity;
	return table;
}

struct bus *bus_new(uint64_t limit)
{
	struct bus *bus = calloc(1, sizeof(*bus));
	struct bus_table *table = table_new(FIRST_CAPACITY);

	if (!bus || !table) {
		free(bus);
		free(table);
		errno = ENOMEM;
		return NULL;
	}
	bus->limit = limit;
	pthread_mutex_init(&bus->writer, NULL);
	atomic_init(&bus->table, table);
	return bus;
}

void bus_free(struct bus *bus)
{
	struct bus_table *table, *older;

	if (!bus)
		return;
	for (table = atomic_load(&bus->table); table; table = older) {
		older = table->older;
		free(table);
	}
	pthread_mutex_destroy(&bus->writer);
	free(bus);
}

#define get(field)        atomic_load_explicit(&(field), memory_order_relaxed)
#define set(field, value) atomic_store_explicit(&(field), (value), memory_order_relaxed)

/* Index of the first entry that ends above addr; count if none does. */
static unsigned first_above(const struct bus_table *table, unsigned count, uint64_t addr)
{
	unsigned low = 0, high = count;

	while (low < high) {
		unsigned mid = (low + high) / 2;
		/* base + len cannot wrap: the space ends below 2^64. */
		if (get(table->entry[mid].base) + get(table->entry[mid].len) > addr)
			high = mid;
		else
			low = mid + 1;
	}
	return low;
}

/*
 * Copies the region that holds addr, or the next one above it; len 0 if there
 * is none.
 */
static void find(struct bus *bus, uint64_t addr, struct bus_region *region)
{
	unsigned turn = 0;

	for (;;) {
		uint32_t sequence = atomic_load_explicit(&bus->sequence, memory_order_acquire);
		struct bus_table *table;
		unsigned count, i;

		if (sequence & 1) {
			spin_relax(turn++);
			continue;
		}
		table = atomic_load_explicit(&bus->table, memory_order_acquire);
		count = get(bus->count);
		/*
		 * Table and count may be of two ages; then the result is thrown
		 * away, but stay inside.
		 */
		if (count > table->capacity)
			count = table->capacity;
		i = first_above(table, count, addr);
		region->len = 0;
		if (i < count) {
			region->base = get(table->entry[i].base);
			region->len = get(table->entry[i].len);
			region->ops = get(table->entry[i].ops);
			region->dev = get(table->entry[i].dev);
			region->name = get(table->entry[i].name);
		}
		atomic_thread_fence(memory_order_acquire);
		if (get(bus->sequence) == sequence)
			return;
	}
}

static void write_start(struct bus *bus)
{
	set(bus->sequence, get(bus->sequence) + 1);
	atomic_thread_fence(memory_order_release);
}

static void write_done(struct bus *bus)
{
	atomic_store_explicit(&bus->sequence, get(bus->sequence) + 1, memory_order_release);
}

static void entry_move(struct bus_entry *to, const struct bus_entry *from)
{
	set(to->base, get(from->base));
	set(to->len, get(from->len));
	set(to->ops, get(from->ops));
	set(to->dev, get(from->dev));
	set(to->name, get(from->name));
}

/* Writer's lock held. A bigger copy of the table; readers find the same entries in either. */
static int grow(struct bus *bus)
{
	struct bus_table *old = atomic_load(&bus->table);
	struct bus_table *table = table_new(old->capacity * 2);

	if (!table)
		return -ENOMEM;
	for (unsigned i = 0; i < old->capacity; i++)
		entry_move(&table->entry[i], &old->entry[i]);
	table->older = old;
	atomic_store_explicit(&bus->table, table, memory_order_release);
	return 0;
}

static int add_locked(struct bus *bus, const struct bus_region *region)
{
	struct bus_table *table = atomic_load(&bus->table);
	unsigned count = get(bus->count);
	unsigned at = first_above(table, count, region->base);

	if (at < count && get(table->entry[at].base) < region->base + region->len)
		return -EEXIST;
	if (count == table->capacity) {
		if (grow(bus) < 0)
			return -ENOMEM;
		table = atomic_load(&bus->table);
	}
	write_start(bus);
	for (unsigned i = count; i > at; i--)
		entry_move(&table->entry[i], &table->entry[i - 1]);
	set(table->entry[at].base, region->base);
	set(table->entry[at].len, region->len);
	set(table->entry[at].ops, region->ops);
	set(table->entry[at].dev, region->dev);
	set(table->entry[at].name, region->name);
	set(bus->count, count + 1);
	write_done(bus);
	return 0;
}

int bus_add(struct bus *bus, const struct bus_region *region)
{
	int result;

	if (!region->len || region->base >= bus->limit || region->len > bus->limit - region->base)
		return -EINVAL;
	pthread_mutex_lock(&bus->writer);
	result = add_locked(bus, region);
	pthread_mutex_unlock(&bus->writer);
	return result;
}

void bus_remove(struct bus *bus, uint64_t base, void *dev)
{
	struct bus_table *table;
	unsigned count, at;

	pthread_mutex_lock(&bus->writer);
	table = atomic_load(&bus->table);
	count = get(bus->count);
	at = first_above(table, count, base);
	if (at < count && get(table->entry[at].base) == base && get(table->entry[at].dev) == dev) {
		write_start(bus);
		for (unsigned i = at; i + 1 < count; i++)
			entry_move(&table->entry[i], &table->entry[i + 1]);
		set(bus->count, count - 1);
		write_done(bus);
	}
	pthread_mutex_unlock(&bus->writer);
}

static uint64_t ones(unsigned size)
{
	return size >= 8 ? UINT64_MAX : (1ull << (8 * size)) - 1;
}

/* The largest legal access at most `max` bytes long. */
static unsigned piece_size(uint64_t max)
{
	return max >= 8 ? 8 : max >= 4 ? 4 : max >= 2 ? 2 : 1;
}

/*
 * The next piece of an access: at most `size` bytes at addr, all in one region
 * or all in none. True if a region claims it.
 */
static bool next_piece(struct bus *bus, uint64_t addr, unsigned size, struct bus_region *region,
		       unsigned *piece)
{
	uint64_t max = size;
	bool claimed;

	find(bus, addr, region);
	claimed = region->len && addr >= region->base;
	if (claimed && max > region->base + region->len - addr)
		max = region->base + region->len - addr;
	if (!claimed && region->len && max > region->base - addr)
		max = region->base - addr;
	*piece = piece_size(max);
	return claimed;
}

uint64_t bus_read(struct bus *bus, uint64_t addr, unsigned size)
{
	uint64_t value = 0;
	unsigned done = 0;

	ASSERT(size >= 1 && size <= 8);
	while (done < size) {
		uint64_t at = addr + done, part;
		struct bus_region region;
		unsigned piece;

		/* Beyond the space, also past the top of 64 bits, nobody answers. */
		if (at >= bus->limit || at < addr) {
			value |= ones(size - done) << (8 * done);
			break;
		}
		if (next_piece(bus, at, size - done, &region, &piece) && region.ops->read)
			part = region.ops->read(region.dev, at - region.base, piece) & ones(piece);
		else
			part = ones(piece);
		value |= part << (8 * done);
		done += piece;
	}
	return value;
}

void bus_write(struct bus *bus, uint64_t addr, unsigned size, uint64_t value)
{
	unsigned done = 0;

	ASSERT(size >= 1 && size <= 8);
	while (done < size) {
		uint64_t at = addr + done;
		struct bus_region region;
		unsigned piece;

		if (at >= bus->limit || at < addr)
			return;
		if (next_piece(bus, at, size - done, &region, &piece) && region.ops->write)
			region.ops->write(region.dev, at - region.base, piece,
					  (value >> (8 * done)) & ones(piece));
		done += piece;
	}
}

bool bus_claims(struct bus *bus, uint64_t addr, uint64_t len)
{
	struct bus_region region;

	if (!len)
		return false;
	find(bus, addr, &region);
	return region.len && (region.base <= addr || region.base - addr < len);
}
