/*
 * A guest and a state file that mean harm: every register of every PC device
 * with every size at every offset and many values, and saved states with
 * changed bytes. What counts is that nothing crashes, hangs or trips a
 * sanitizer; and that save, load, save gives the same bytes.
 */
#include "pc_devices.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "chardev/chardev_memory.h"
#include "cpu/lapic.h"
#include "dev/pc/acpi_pm.h"
#include "state/crc32c.h"
#include "state/stream.h"

static void access(struct pc_devices *p, const struct pc_target *t, uint64_t offset, unsigned size,
		   uint64_t value)
{
	pc_devices_write(p, t, offset, size, value);
	pc_devices_read(p, t, offset, size);
	pc_devices_run_vcpu(p);
}

static uint64_t random_next(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

static void every_register(void **state)
{
	struct pc_devices p;
	unsigned turn = 0;

	(void)state;
	pc_devices_init(&p);
	for (unsigned pass = 0; pass < 2; pass++) {
		for (unsigned i = 0; i < PC_TARGETS; i++)
			for (uint64_t offset = 0; offset < pc_targets[i].len; offset++)
				for (unsigned size = 1; size <= 8; size *= 2)
					for (unsigned n = 0; n < PC_VALUES; n++) {
						access(&p, &pc_targets[i], offset, size,
						       pc_values[n]);
						if (++turn % 64 == 0)
							vclock_advance(p.m.clock, 12345);
					}
		/* Again with the local APIC as an x2APIC. */
		(void)lapic_base_write(p.v, LAPIC_DEFAULT_BASE);
		assert_int_equal(lapic_base_write(p.v, LAPIC_DEFAULT_BASE | APIC_BASE_ENABLE), 0);
		assert_int_equal(lapic_base_write(p.v, LAPIC_DEFAULT_BASE | APIC_BASE_ENABLE |
							       APIC_BASE_X2APIC),
				 0);
	}
	pc_devices_fini(&p);
}

static void disturb(struct pc_devices *p, uint64_t *seed, unsigned count)
{
	char bytes[16];

	for (unsigned i = 0; i < count; i++) {
		uint64_t r = random_next(seed);
		const struct pc_target *t = &pc_targets[r % PC_TARGETS];
		uint64_t value = r >> 40 & 1 ? pc_values[(r >> 41) % PC_VALUES] : random_next(seed);

		access(p, t, (r >> 8) % t->len, 1u << (r >> 32 & 3), value);
		switch (r >> 50 & 63) {
		case 0:
			vclock_advance(p->m.clock, random_next(seed) % 3000000);
			break;
		case 1:
			chardev_memory_inject(p->chr, "hostile", r >> 56 & 7);
			break;
		case 2:
			chardev_memory_take(p->chr, bytes, sizeof(bytes));
			break;
		case 3:
			acpi_pm_power_button(p->pm);
			break;
		}
	}
}

static void at_random(void **state)
{
	uint64_t seed = 0x1234567;
	struct pc_devices p;

	(void)state;
	pc_devices_init(&p);
	disturb(&p, &seed, 300000);
	pc_devices_fini(&p);
}

static void copy_clock(struct pc_devices *to, struct pc_devices *from)
{
	vclock_pause(to->m.clock);
	vclock_set_ns(to->m.clock, vclock_now_ns(from->m.clock));
	vclock_resume(to->m.clock);
}

static void save_load_save(void **state)
{
	uint64_t seed = 0x7654321;

	(void)state;
	for (int round = 0; round < 200; round++) {
		struct state_writer first, second;
		struct pc_devices from, to;

		pc_devices_init(&from);
		pc_devices_init(&to);
		disturb(&from, &seed, 500);
		/* Where output waits for a reader it would flow on load; that is not what is
		 * compared. */
		while (chardev_memory_take(from.chr, (char[64]){ 0 }, 64))
			;
		pc_devices_save(&from, &first);
		copy_clock(&to, &from);
		assert_int_equal(pc_devices_load(&to, first.bytes, first.len), PC_SECTIONS);
		/* The wall clock has gone on by some microseconds; all else is the same. */
		pc_devices_save(&to, &second);
		assert_int_equal(first.len, second.len);
		for (size_t i = 0, differ = 0; i < first.len; i++) {
			differ += first.bytes[i] != second.bytes[i];
			assert_true(differ <= 12);
		}
		state_writer_fini(&first);
		state_writer_fini(&second);
		pc_devices_fini(&from);
		pc_devices_fini(&to);
	}
}

/* One byte of one section changed, with a checksum that fits. */
static void harm(uint8_t *bytes, uint64_t *seed)
{
	unsigned skip = (unsigned)(random_next(seed) % 10);
	size_t at = 12;

	for (;;) {
		size_t name_len = bytes[at + 4], head = at + 5 + name_len;
		uint32_t len = bytes_load32(bytes + head + 4), crc;

		if (skip--) {
			at = head + 12 + len;
			continue;
		}
		bytes[head + 12 + random_next(seed) % len] = (uint8_t)random_next(seed);
		crc = crc32c(0, bytes + at, head + 8 - at);
		crc = crc32c(crc, bytes + head + 12, len);
		bytes_store32(bytes + head + 8, crc);
		return;
	}
}

static void harmful_state(void **state)
{
	uint64_t seed = 0xabcdef;
	struct state_writer w;
	unsigned all = 0, refused = 0;
	struct pc_devices p;

	(void)state;
	pc_devices_init(&p);
	disturb(&p, &seed, 5000);
	pc_devices_save(&p, &w);
	for (int round = 0; round < 4000; round++) {
		uint8_t *copy = malloc(w.len);
		unsigned taken;

		memcpy(copy, w.bytes, w.len);
		for (uint64_t n = random_next(&seed) % 4 + 1; n; n--)
			harm(copy, &seed);
		taken = pc_devices_load(&p, copy, w.len);
		all += taken == PC_SECTIONS;
		refused += taken > 0 && taken < PC_SECTIONS;
		free(copy);
		disturb(&p, &seed, 20);
		vclock_advance(p.m.clock, 100000);
	}
	/* Both must have happened, or the checksums are wrong and nothing was tried. */
	assert_true(all > 100);
	assert_true(refused > 100);
	state_writer_fini(&w);
	pc_devices_fini(&p);
}

static const struct CMUnitTest tests[] = {
	cmocka_unit_test(every_register),
	cmocka_unit_test(at_random),
	cmocka_unit_test(save_load_save),
	cmocka_unit_test(harmful_state),
};

int main(void)
{
	return cmocka_run_group_tests(tests, NULL, NULL);
}
