/* The access map: splitting, gaps, borders, changes from inside a handler and from other threads.
 */
#include "bus/bus.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

struct device {
	uint64_t offset[16], value[16];
	unsigned size[16], calls;
	struct bus *bus;
	uint8_t fill;
};

/* Every byte reads as its own offset plus `fill`; the bits above `size` are noise on purpose. */
static uint64_t device_read(void *dev, uint64_t offset, unsigned size)
{
	struct device *d = dev;
	uint64_t value = 0x5555555555555555ull;

	for (unsigned i = 0; i < size; i++) {
		value &= ~(0xffull << 8 * i);
		value |= (uint64_t)(uint8_t)(offset + i + d->fill) << 8 * i;
	}
	d->offset[d->calls % 16] = offset;
	d->size[d->calls++ % 16] = size;
	return value;
}

static void device_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	struct device *d = dev;

	d->offset[d->calls % 16] = offset;
	d->size[d->calls % 16] = size;
	d->value[d->calls++ % 16] = value;
}

static const struct bus_ops device_ops = { device_read, device_write };

static int add(struct bus *bus, uint64_t base, uint64_t len, struct device *dev)
{
	const struct bus_region region = { "device", base, len, &device_ops, dev };

	return bus_add(bus, &region);
}

static void claims_and_overlaps(void **state)
{
	struct bus *bus = bus_new(0x10000);
	struct device d = { 0 };

	assert_int_equal(add(bus, 0x100, 0x10, &d), 0);
	assert_int_equal(add(bus, 0x100, 0x10, &d), -EEXIST);
	assert_int_equal(add(bus, 0xff, 2, &d), -EEXIST);
	assert_int_equal(add(bus, 0x10f, 1, &d), -EEXIST);
	assert_int_equal(add(bus, 0xf0, 0x100, &d), -EEXIST);
	assert_int_equal(add(bus, 0x110, 1, &d), 0);
	assert_int_equal(add(bus, 0xff, 1, &d), 0);
	assert_int_equal(add(bus, 0x200, 0, &d), -EINVAL);
	assert_int_equal(add(bus, 0xffff, 2, &d), -EINVAL);
	assert_int_equal(add(bus, 0x10000, 1, &d), -EINVAL);
	assert_int_equal(add(bus, UINT64_MAX, 2, &d), -EINVAL);
	assert_int_equal(add(bus, 0x10, UINT64_MAX, &d), -EINVAL);
	assert_true(bus_claims(bus, 0x10f, 1));
	assert_true(bus_claims(bus, 0, 0x100));
	assert_false(bus_claims(bus, 0, 0xff));
	assert_false(bus_claims(bus, 0x111, UINT64_MAX));
	assert_false(bus_claims(bus, 0x100, 0));
	bus_remove(bus, 0x100, &bus); /* another device's: stays */
	bus_remove(bus, 0x101, &d);
	assert_true(bus_claims(bus, 0x100, 1));
	bus_remove(bus, 0x100, &d);
	assert_false(bus_claims(bus, 0x100, 0x10));
	assert_true(bus_claims(bus, 0x110, 1));
	bus_free(bus);
	bus_free(NULL);
}

static void sizes_and_splits(void **state)
{
	struct bus *bus = bus_new(1ull << 52);
	struct device a = { .fill = 0x10 }, b = { .fill = 0x80 };

	assert_int_equal(add(bus, 0x1000, 6, &a), 0);
	assert_int_equal(add(bus, 0x1006, 0x10, &b), 0);
	assert_int_equal(bus_read(bus, 0x1000, 1), 0x10);
	assert_int_equal(bus_read(bus, 0x1001, 4), 0x14131211);
	assert_int_equal(bus_read(bus, 0x1008, 8), 0x8988878685848382ull);
	assert_int_equal(a.calls, 2);
	assert_int_equal(b.calls, 1);

	/* Over the border: 4 + 2 of a, then 2 of b. */
	a.calls = b.calls = 0;
	assert_int_equal(bus_read(bus, 0x1000, 8), 0x8180151413121110ull);
	assert_int_equal(a.calls, 2);
	assert_int_equal(a.size[0], 4);
	assert_int_equal(a.size[1], 2);
	assert_int_equal(b.size[0], 2);
	a.calls = b.calls = 0;
	bus_write(bus, 0x1005, 4, 0x44332211);
	assert_int_equal(a.value[0], 0x11);
	assert_int_equal(a.offset[0], 5);
	assert_int_equal(b.calls, 2);
	assert_int_equal(b.value[0], 0x3322);
	assert_int_equal(b.value[1], 0x44);
	assert_int_equal(b.offset[1], 2);

	/* Half outside, wholly outside, and at the ends of the world. */
	assert_int_equal(bus_read(bus, 0xffe, 4), 0x1110ffff);
	assert_int_equal(bus_read(bus, 0x1014, 4), 0xffff8f8e);
	assert_int_equal(bus_read(bus, 0x5000, 8), UINT64_MAX);
	assert_int_equal(bus_read(bus, 0x5000, 2), 0xffff);
	assert_int_equal(bus_read(bus, UINT64_MAX, 8), UINT64_MAX);
	assert_int_equal(bus_read(bus, UINT64_MAX - 3, 8), UINT64_MAX);
	bus_write(bus, UINT64_MAX, 8, 1);
	bus_write(bus, (1ull << 52) - 1, 8, 1);
	bus_free(bus);
}

static void ports_end_at_64k(void **state)
{
	struct bus *bus = bus_new(0x10000);
	struct device a = { .fill = 1 };

	assert_int_equal(add(bus, 0xfffe, 2, &a), 0);
	assert_int_equal(bus_read(bus, 0xfffe, 4), 0xffff0201);
	assert_int_equal(bus_read(bus, 0xffff, 2), 0xff02);
	bus_write(bus, 0xffff, 4, 0x12345678);
	assert_int_equal(a.value[2], 0x78);
	bus_free(bus);
}

/* A handler that moves itself, as a BAR write does. */
static void moving_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	static const struct bus_ops ops = { NULL, moving_write };
	struct device *d = dev;
	const struct bus_region there = { "mover", value, 4, &ops, d };

	bus_remove(d->bus, d->value[0], d);
	if (bus_add(d->bus, &there) == 0)
		d->value[0] = value;
}

static void a_handler_may_move_itself(void **state)
{
	static const struct bus_ops ops = { NULL, moving_write };
	struct device d = { 0 };
	const struct bus_region here = { "mover", 0x100, 4, &ops, &d };

	d.bus = bus_new(0x10000);
	d.value[0] = 0x100;
	assert_int_equal(bus_add(d.bus, &here), 0);
	for (uint64_t at = 0x200; at < 0x8000; at += 0x10) {
		bus_write(d.bus, d.value[0], 4, at);
		assert_int_equal(d.value[0], at);
	}
	assert_false(bus_claims(d.bus, 0, 0x7ff0));
	/* No read handler: as if nobody were there. */
	assert_int_equal(bus_read(d.bus, 0x7ff0, 4), 0xffffffff);
	bus_free(d.bus);
}

struct traffic {
	struct bus *bus;
	_Atomic bool stop;
	_Atomic unsigned wrong;
};

static uint64_t own_base(void *dev, uint64_t offset, unsigned size)
{
	return (uint64_t)(uintptr_t)dev + offset;
}

static const struct bus_ops base_ops = { own_base, NULL };

static void *reader(void *arg)
{
	struct traffic *t = arg;

	for (uint64_t i = 0; !atomic_load(&t->stop); i++) {
		uint64_t addr = 0x1000 * (1 + i % 200) + 8 * (i % 16);
		uint64_t value = bus_read(t->bus, addr, 8);

		/* Every region's device is its base: a mix-up would show. */
		if (value != addr && value != UINT64_MAX)
			atomic_fetch_add(&t->wrong, 1);
	}
	return NULL;
}

static void readers_see_whole_regions(void **state)
{
	struct traffic t = { .bus = bus_new(1ull << 40) };
	pthread_t threads[2];
	unsigned seed = 1;
	bool present[201] = { 0 };

	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, reader, &t), 0);
	for (int i = 0; i < 60000; i++) {
		uint64_t n = 1 + (unsigned)rand_r(&seed) % 200;
		struct bus_region region = { "r", 0x1000 * n, 0x80, &base_ops,
					     (void *)(uintptr_t)(0x1000 * n) };

		if (present[n])
			bus_remove(t.bus, region.base, region.dev);
		else
			assert_int_equal(bus_add(t.bus, &region), 0);
		present[n] = !present[n];
	}
	atomic_store(&t.stop, true);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(t.wrong, 0);
	for (unsigned n = 1; n <= 200; n++)
		assert_int_equal(bus_claims(t.bus, 0x1000 * n, 1), present[n]);
	bus_free(t.bus);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(claims_and_overlaps),
		cmocka_unit_test(sizes_and_splits),
		cmocka_unit_test(ports_end_at_64k),
		cmocka_unit_test(a_handler_may_move_itself),
		cmocka_unit_test(readers_see_whole_regions),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
