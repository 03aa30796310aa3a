/*
 * ACPI and MP tables: lengths, checksums and links, and that iasl takes every
 * table apart without complaint.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "board/acpi.h"
#include "board/mptable.h"

#define BASE 0xe0000u

static uint8_t area[0x10000];
static char dir[] = "/tmp/insula-acpi-XXXXXX";

static struct acpi_config config_of(unsigned cpus)
{
	struct acpi_config config = { .cpus = cpus,
				      .pci64_base = 8ull << 30,
				      .pci64_len = 16ull << 30 };

	for (unsigned slot = 1; slot < 20; slot++)
		config.pin[config.pin_count++] =
			(struct acpi_pin){ (uint8_t)slot, 0, (uint8_t)(16 + slot % 8) };
	return config;
}

static uint32_t word(const uint8_t *bytes)
{
	uint32_t value;

	memcpy(&value, bytes, 4);
	return value;
}

static uint8_t sum(const uint8_t *bytes, uint32_t len)
{
	uint8_t total = 0;

	while (len--)
		total = (uint8_t)(total + *bytes++);
	return total;
}

static void expect_disassembles(const uint8_t *table, unsigned index)
{
	char command[256], path[64];

	snprintf(path, sizeof(path), "%s/%u-%.4s.dat", dir, index, (const char *)table);
	FILE *file = fopen(path, "wb");

	fwrite(table, 1, word(table + 4), file);
	fclose(file);
	snprintf(command, sizeof(command),
		 "cd %s && iasl -d %s >iasl.log 2>&1 && ! grep -qiE 'error|invalid|warning' "
		 "iasl.log",
		 dir, path);
	if (system(command))
		fail_msg("iasl does not like %s", path);
}

static void test_acpi(void **state)
{
	const unsigned counts[] = { 1, 4, 255 };

	for (unsigned c = 0; c < 3; c++) {
		struct acpi_config config = config_of(counts[c]);
		uint32_t used = acpi_build(&config, BASE, area, sizeof(area));

		assert_true(used > 0);
		assert_memory_equal(area, "RSD PTR ", 8);
		assert_int_equal(sum(area, 20), 0);
		assert_int_equal(sum(area, 36), 0);
		const uint8_t *xsdt = area + (word(area + 24) - BASE);
		const uint8_t *rsdt = area + (word(area + 16) - BASE);
		unsigned count = (word(xsdt + 4) - 36) / 8;

		assert_memory_equal(xsdt, "XSDT", 4);
		assert_memory_equal(rsdt, "RSDT", 4);
		assert_int_equal(count, 6);
		assert_int_equal(sum(xsdt, word(xsdt + 4)), 0);
		assert_int_equal(sum(rsdt, word(rsdt + 4)), 0);
		for (unsigned i = 0; i < count; i++) {
			const uint8_t *table = area + (word(xsdt + 36 + i * 8) - BASE);

			assert_int_equal(word(rsdt + 36 + i * 4), word(xsdt + 36 + i * 8));
			assert_int_equal(sum(table, word(table + 4)), 0);
			if (c == 1)
				expect_disassembles(table, i);
			if (!memcmp(table, "FACP", 4)) {
				const uint8_t *dsdt = area + (word(table + 40) - BASE);

				assert_int_equal(word(table + 4), 268);
				assert_memory_equal(dsdt, "DSDT", 4);
				assert_int_equal(sum(dsdt, word(dsdt + 4)), 0);
				assert_int_equal(word(table + 36) % 64, 0);
			}
			if (!memcmp(table, "APIC", 4))
				assert_int_equal(word(table + 4),
						 44 + 8 * counts[c] + 12 + 10 + 10 + 6);
		}
		/* One byte too few, at any place, is noticed. */
		for (uint32_t len = 36; len < used; len += 37)
			assert_int_equal(acpi_build(&config, BASE, area, len), 0);
	}
}

static void test_mptable(void **state)
{
	const unsigned counts[] = { 1, 4, 255 };

	for (unsigned c = 0; c < 3; c++) {
		struct acpi_config config = config_of(counts[c]);
		uint32_t used = mptable_build(&config, 0xf0000, area, sizeof(area));
		unsigned entries = 0, at = 16 + 44;

		assert_memory_equal(area, "_MP_", 4);
		assert_int_equal(sum(area, 16), 0);
		assert_int_equal(word(area + 4), 0xf0010);
		assert_memory_equal(area + 16, "PCMP", 4);
		assert_int_equal(sum(area + 16, used - 16), 0);
		for (; at < used; entries++)
			at += area[at] == 0 ? 20 : 8;
		assert_int_equal(at, used);
		assert_int_equal(entries, area[16 + 34] | area[16 + 35] << 8);
		for (uint32_t len = 0; len < used; len += 13)
			assert_int_equal(mptable_build(&config, 0xf0000, area, len), 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_acpi),
		cmocka_unit_test(test_mptable),
	};
	char command[64];

	if (!mkdtemp(dir))
		return 1;
	int failed = cmocka_run_group_tests(tests, NULL, NULL);

	snprintf(command, sizeof(command), "rm -r %s", dir);
	return system(command) ? 1 : failed;
}
