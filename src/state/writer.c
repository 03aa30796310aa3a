/*
 * Writes objects as sections of a state stream, guided by their tables. Used
 * by snapshots and tests. Invariant: the same object values give the same
 * bytes, so that two states can be compared as bytes.
 */
#include "base/assert.h"
#include "base/bytes.h"
#include "state/crc32c.h"
#include "state/format.h"
#include "state/stream.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void state_writer_init(struct state_writer *w)
{
	*w = (struct state_writer){ 0 };
}

void state_writer_fini(struct state_writer *w)
{
	free(w->bytes);
	*w = (struct state_writer){ 0 };
}

/* Room for len bytes at the end, or NULL; the error stays. */
static uint8_t *extend(struct state_writer *w, size_t len)
{
	uint8_t *at;

	if (w->error)
		return NULL;
	if (len > w->capacity - w->len) {
		size_t capacity = (w->capacity + len) * 2;
		uint8_t *bytes = realloc(w->bytes, capacity);

		if (!bytes) {
			w->error = -ENOMEM;
			return NULL;
		}
		w->bytes = bytes;
		w->capacity = capacity;
	}
	at = w->bytes + w->len;
	w->len += len;
	return at;
}

static void put(struct state_writer *w, const void *bytes, size_t len)
{
	uint8_t *at = extend(w, len);

	if (at)
		memcpy(at, bytes, len);
}

static void put8(struct state_writer *w, uint8_t value)
{
	put(w, &value, 1);
}

static void put32(struct state_writer *w, uint32_t value)
{
	put(w, &value, 4);
}

static void put_name(struct state_writer *w, const char *name)
{
	size_t len = strlen(name);

	ASSERT(len && len <= STATE_NAME_MAX);
	put8(w, (uint8_t)len);
	put(w, name, len);
}

/* A length that is known later: its place. */
static size_t put_len(struct state_writer *w)
{
	size_t place = w->len;

	put32(w, 0);
	return place;
}

static void close_len(struct state_writer *w, size_t place)
{
	if (!w->error)
		bytes_store32(w->bytes + place, (uint32_t)(w->len - place - 4));
}

static void put_fields(struct state_writer *w, const struct state_table *table,
		       const uint8_t *object);

static void put_structs(struct state_writer *w, const struct state_field *field,
			const uint8_t *object)
{
	size_t all = put_len(w);

	for (uint32_t i = 0; i < field->count; i++) {
		size_t one = put_len(w);
		put_fields(w, field->table, object + field->offset + (size_t)i * field->stride);
		close_len(w, one);
	}
	close_len(w, all);
}

static void put_fields(struct state_writer *w, const struct state_table *table,
		       const uint8_t *object)
{
	for (const struct state_field *field = table->fields; field->name; field++) {
		put_name(w, field->name);
		put8(w, field->type);
		put32(w, field->count);
		if (field->type == STATE_STRUCT)
			put_structs(w, field, object);
		else
			put(w, object + field->offset, (size_t)field->count * field->stride);
	}
}

static void put_header(struct state_writer *w)
{
	if (w->len)
		return;
	put(w, FORMAT_MAGIC, FORMAT_MAGIC_LEN);
	put32(w, FORMAT_VERSION);
}

void state_save_named(const struct state_table *table, const char *name, const void *object,
		      struct state_writer *w)
{
	size_t start, len, crc;

	put_header(w);
	start = w->len;
	put32(w, FORMAT_SECTION);
	put_name(w, name);
	put32(w, table->version);
	len = put_len(w);
	crc = w->len;
	put32(w, 0);
	put_fields(w, table, object);
	w->sections++;
	if (w->error)
		return;
	bytes_store32(w->bytes + len, (uint32_t)(w->len - crc - 4));
	bytes_store32(w->bytes + crc, crc32c(crc32c(0, w->bytes + start, crc - start),
					     w->bytes + crc + 4, w->len - crc - 4));
}

void state_save(const struct state_table *table, const void *object, struct state_writer *w)
{
	state_save_named(table, table->name, object, w);
}

int state_writer_finish(struct state_writer *w)
{
	size_t start;

	put_header(w);
	start = w->len;
	put32(w, FORMAT_END);
	put32(w, w->sections);
	if (!w->error)
		put32(w, crc32c(0, w->bytes + start, w->len - start));
	return w->error;
}
