/* State streams: identical after save-load-save, refused when cut, never a crash when damaged. */
#include "state/crc32c.h"
#include "state/stream.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct inner {
	uint16_t low, high;
	bool on;
};

struct gadget {
	void *host; /* not state */
	uint8_t mode;
	uint16_t divisor;
	uint32_t control;
	uint64_t start_ns;
	bool enabled;
	uint8_t ram[16];
	uint32_t irr[8];
	uint16_t grid[2][3];
	struct inner one, many[3];
	uint64_t late; /* since version 2 */
};

static const struct state_field inner_fields[] = {
	STATE_FIELD(struct inner, low),
	STATE_FIELD(struct inner, high),
	STATE_FIELD(struct inner, on),
	STATE_END,
};

static const struct state_table inner_table = {
	.name = "inner", .version = 1, .size = sizeof(struct inner), .fields = inner_fields
};

static int gadget_post_load(void *object, const char **error)
{
	const struct gadget *g = object;

	if (g->mode < 6)
		return 0;
	*error = "mode is not one of 0 to 5";
	return -1;
}

#define GADGET_FIELDS                                                                      \
	STATE_FIELD(struct gadget, mode), STATE_FIELD(struct gadget, divisor),             \
		STATE_FIELD(struct gadget, control), STATE_FIELD(struct gadget, start_ns), \
		STATE_FIELD(struct gadget, enabled), STATE_ARRAY(struct gadget, ram),      \
		STATE_ARRAY(struct gadget, irr),                                           \
		STATE_ARRAY_SINCE(struct gadget, grid, grid[0][0], 1),                     \
		STATE_STRUCT_FIELD(struct gadget, one, &inner_table),                      \
		STATE_STRUCT_ARRAY(struct gadget, many, &inner_table)

static const struct state_field fields_v1[] = { GADGET_FIELDS, STATE_END };
static const struct state_field fields_v2[] = { GADGET_FIELDS,
						STATE_FIELD_SINCE(struct gadget, late, 2),
						STATE_END };
static const struct state_table table_v1 = { "gadget", 1, sizeof(struct gadget), fields_v1,
					     gadget_post_load };
static const struct state_table table_v2 = { "gadget", 2, sizeof(struct gadget), fields_v2,
					     gadget_post_load };

static const struct gadget sample = {
	.mode = 3,
	.divisor = 0x1234,
	.control = 0xdeadbeef,
	.start_ns = 0x8000000000000001ull,
	.enabled = true,
	.ram = "fifteen letters",
	.irr = { 1, 2, 3, 4, 5, 6, 7, 0x80000000u },
	.grid = { { 1, 2, 3 }, { 4, 5, 6 } },
	.one = { 1, 2, true },
	.many = { { 3, 4, false }, { 5, 6, true }, { 7, 8, false } },
	.late = 99,
};

static void save(struct state_writer *w, const struct state_table *table, const struct gadget *g)
{
	state_writer_init(w);
	state_save(table, g, w);
	state_save_named(table, "gadget.1", g, w);
	assert_int_equal(state_writer_finish(w), 0);
}

static void checksum_is_crc32c(void **state)
{
	assert_int_equal(crc32c(0, (const uint8_t *)"123456789", 9), 0xe3069283);
}

static void save_load_save_is_identical(void **state)
{
	struct gadget g = { .host = &g };
	struct state_writer a, b;
	struct state_reader r;

	save(&a, &table_v2, &sample);
	assert_int_equal(state_reader_init(&r, a.bytes, a.len), 0);
	assert_int_equal(state_load(&table_v2, &g, &r), 0);
	assert_string_equal(state_reader_leftover(&r), "gadget.1");
	assert_int_equal(state_load_named(&table_v2, "gadget.1", &g, &r), 0);
	assert_null(state_reader_leftover(&r));
	assert_int_equal(state_load_named(&table_v2, "gizmo", &g, &r), -ENOENT);
	assert_ptr_equal(g.host, &g);
	save(&b, &table_v2, &g);
	assert_int_equal(a.len, b.len);
	assert_memory_equal(a.bytes, b.bytes, a.len);
	state_reader_fini(&r);
	state_writer_fini(&a);
	state_writer_fini(&b);
}

static void versions(void **state)
{
	struct gadget g = { .late = 7 };
	struct state_writer old, new;
	struct state_reader r;

	save(&old, &table_v1, &sample);
	assert_int_equal(state_reader_init(&r, old.bytes, old.len), 0);
	assert_int_equal(state_load(&table_v2, &g, &r), 0);
	assert_int_equal(g.late, 7);
	assert_int_equal(g.control, 0xdeadbeef);
	state_reader_fini(&r);

	save(&new, &table_v2, &sample);
	assert_int_equal(state_reader_init(&r, new.bytes, new.len), 0);
	assert_int_equal(state_load(&table_v1, &g, &r), -EINVAL);
	assert_string_equal(r.error,
			    "Section gadget has version 2; this Insula knows versions 1 to 1.");
	state_reader_fini(&r);
	state_writer_fini(&old);
	state_writer_fini(&new);
}

/* A stream with fields we do not know, as a later Insula of the same version number of the table
 * might add. */
static void unknown_fields_are_skipped_and_missing_ones_refused(void **state)
{
	static const struct state_field few[] = { STATE_FIELD(struct gadget, divisor),
						  STATE_FIELD(struct gadget, control), STATE_END };
	static const struct state_table table_few = { "gadget", 1, sizeof(struct gadget), few,
						      NULL };
	struct gadget g = { 0 };
	struct state_writer w;
	struct state_reader r;

	save(&w, &table_v1, &sample);
	assert_int_equal(state_reader_init(&r, w.bytes, w.len), 0);
	assert_int_equal(state_load(&table_few, &g, &r), 0);
	assert_int_equal(g.divisor, 0x1234);
	assert_int_equal(g.mode, 0);
	state_reader_fini(&r);
	state_writer_fini(&w);

	save(&w, &table_few, &sample);
	assert_int_equal(state_reader_init(&r, w.bytes, w.len), 0);
	assert_int_equal(state_load(&table_v1, &g, &r), -EINVAL);
	assert_string_equal(r.error, "Section gadget lacks field mode.");
	assert_int_equal(g.mode, 0);
	state_reader_fini(&r);
	state_writer_fini(&w);
}

static void impossible_values_change_nothing(void **state)
{
	struct gadget bad = sample, g = { .divisor = 77 };
	struct state_writer w;
	struct state_reader r;

	bad.mode = 200;
	save(&w, &table_v2, &bad);
	assert_int_equal(state_reader_init(&r, w.bytes, w.len), 0);
	assert_int_equal(state_load(&table_v2, &g, &r), -EINVAL);
	assert_string_equal(r.error, "Section gadget is refused: mode is not one of 0 to 5.");
	assert_int_equal(g.divisor, 77);
	state_reader_fini(&r);
	state_writer_fini(&w);
}

static void twice_is_refused(void **state)
{
	static const struct state_field dup[] = { STATE_FIELD(struct gadget, divisor),
						  STATE_FIELD(struct gadget, divisor), STATE_END };
	static const struct state_table table_dup = { "gadget", 1, sizeof(struct gadget), dup,
						      NULL };
	struct gadget g = { 0 };
	struct state_writer w;
	struct state_reader r;

	save(&w, &table_dup, &sample);
	assert_int_equal(state_reader_init(&r, w.bytes, w.len), 0);
	assert_int_equal(state_load(&table_v1, &g, &r), -EINVAL);
	assert_string_equal(r.error, "Section gadget has field divisor twice.");
	state_reader_fini(&r);
	state_writer_fini(&w);

	state_writer_init(&w);
	state_save(&table_v1, &sample, &w);
	state_save(&table_v1, &sample, &w);
	assert_int_equal(state_writer_finish(&w), 0);
	assert_int_equal(state_reader_init(&r, w.bytes, w.len), -EINVAL);
	assert_string_equal(r.error, "The state has section gadget twice.");
	state_writer_fini(&w);
}

/* In memory of exactly that length, so that a sanitizer sees any byte read beyond. */
static int try_bytes(const uint8_t *bytes, size_t len)
{
	uint8_t *exact = malloc(len ? len : 1);
	struct gadget g = { 0 };
	struct state_reader r;
	int result;

	memcpy(exact, bytes, len);
	result = state_reader_init(&r, exact, len);
	if (result == 0) {
		result = state_load(&table_v2, &g, &r);
		state_reader_fini(&r);
	}
	if (result < 0)
		assert_true(strlen(r.error) > 10 && r.error[strlen(r.error) - 1] == '.');
	free(exact);
	return result;
}

static void every_truncation_is_refused(void **state)
{
	struct state_writer w;

	save(&w, &table_v2, &sample);
	assert_int_equal(try_bytes(w.bytes, w.len), 0);
	for (size_t len = 0; len < w.len; len++)
		assert_int_equal(try_bytes(w.bytes, len), -EINVAL);
	state_writer_fini(&w);
}

static void every_bit_flip_is_refused(void **state)
{
	struct state_writer w;

	save(&w, &table_v2, &sample);
	for (size_t bit = 0; bit < w.len * 8; bit++) {
		w.bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
		assert_int_equal(try_bytes(w.bytes, w.len), -EINVAL);
		w.bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	state_writer_fini(&w);
}

/* Someone who means harm computes the checksum anew. */
static void flips_with_a_right_checksum_never_crash(void **state)
{
	const size_t head = 12, name = 6, crc_at = head + 4 + 1 + name + 4 + 4;
	struct state_writer w;
	unsigned accepted = 0;

	state_writer_init(&w);
	state_save(&table_v2, &sample, &w);
	assert_int_equal(state_writer_finish(&w), 0);
	for (size_t bit = (crc_at + 4) * 8; bit < (w.len - 12) * 8; bit++) {
		uint32_t crc;

		w.bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
		crc = crc32c(0, w.bytes + head, crc_at - head);
		crc = crc32c(crc, w.bytes + crc_at + 4, w.len - 12 - crc_at - 4);
		memcpy(w.bytes + crc_at, &crc, 4);
		accepted += try_bytes(w.bytes, w.len) == 0;
		w.bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	/* Flips in plain values are values like others. */
	assert_true(accepted > 100);
	state_writer_fini(&w);
}

static void json(void **state)
{
	json_t *j = state_to_json(&table_v2, &sample);

	assert_non_null(j);
	assert_int_equal(json_integer_value(json_object_get(j, "divisor")), 0x1234);
	assert_string_equal(json_string_value(json_object_get(j, "start_ns")),
			    "0x8000000000000001");
	assert_true(json_is_true(json_object_get(j, "enabled")));
	assert_string_equal(json_string_value(json_object_get(j, "ram")),
			    "6669667465656e206c65747465727300");
	assert_int_equal(json_array_size(json_object_get(j, "grid")), 6);
	assert_int_equal(json_integer_value(json_object_get(
				 json_array_get(json_object_get(j, "many"), 1), "high")),
			 6);
	json_decref(j);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(checksum_is_crc32c),
		cmocka_unit_test(save_load_save_is_identical),
		cmocka_unit_test(versions),
		cmocka_unit_test(unknown_fields_are_skipped_and_missing_ones_refused),
		cmocka_unit_test(impossible_values_change_nothing),
		cmocka_unit_test(twice_is_refused),
		cmocka_unit_test(every_truncation_is_refused),
		cmocka_unit_test(every_bit_flip_is_refused),
		cmocka_unit_test(flips_with_a_right_checksum_never_crash),
		cmocka_unit_test(json),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
