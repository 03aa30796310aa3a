/*
 * Reads a state stream. Its input may come from anywhere: every length is
 * checked against what is left, every name and type against the table, and an
 * object changes only after its whole section was found good.
 */
#include "base/assert.h"
#include "base/bytes.h"
#include "state/crc32c.h"
#include "state/format.h"
#include "state/stream.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What is left to parse. */
struct span {
	const uint8_t *at;
	size_t len;
};

/* Where in a section we are, for the sentence. */
struct place {
	struct state_reader *reader;
	const char *section;
	uint32_t version;
};

static int __attribute__((format(printf, 2, 3)))
refuse(struct state_reader *r, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(r->error, sizeof(r->error), format, args);
	va_end(args);
	return -EINVAL;
}

static bool take(struct span *span, size_t len, const uint8_t **bytes)
{
	if (len > span->len)
		return false;
	*bytes = span->at;
	span->at += len;
	span->len -= len;
	return true;
}

static bool take8(struct span *span, uint8_t *value)
{
	const uint8_t *bytes;

	if (!take(span, 1, &bytes))
		return false;
	*value = *bytes;
	return true;
}

static bool take32(struct span *span, uint32_t *value)
{
	const uint8_t *bytes;

	if (!take(span, 4, &bytes))
		return false;
	*value = bytes_load32(bytes);
	return true;
}

/* Names reach people's terminals: only what our tables use. */
static bool take_name(struct span *span, char name[STATE_NAME_MAX + 1])
{
	const uint8_t *bytes;
	uint8_t len;

	if (!take8(span, &len) || !len || len > STATE_NAME_MAX || !take(span, len, &bytes))
		return false;
	for (unsigned i = 0; i < len; i++)
		if (bytes[i] <= ' ' || bytes[i] > '~')
			return false;
	memcpy(name, bytes, len);
	name[len] = 0;
	return true;
}

static int read_section(struct state_reader *r, struct span *span, const uint8_t *start)
{
	struct state_section *section = &r->sections[r->count];
	const uint8_t *crc_at;
	uint32_t crc, len;

	*section = (struct state_section){ 0 };
	if (!take_name(span, section->name) || !take32(span, &section->version) ||
	    !take32(span, &len))
		return refuse(r, "The state is damaged or cut short after %u sections.", r->count);
	crc_at = span->at;
	if (!take32(span, &crc) || !take(span, len, &section->bytes))
		return refuse(r, "The state is cut short in section %s.", section->name);
	section->len = len;
	if (crc32c(crc32c(0, start, (size_t)(crc_at - start)), section->bytes, len) != crc)
		return refuse(r, "Section %s of the state is damaged: its checksum differs.",
			      section->name);
	for (unsigned i = 0; i < r->count; i++)
		if (!strcmp(r->sections[i].name, section->name))
			return refuse(r, "The state has section %s twice.", section->name);
	r->count++;
	return 0;
}

static int read_end(struct state_reader *r, struct span *span, const uint8_t *start)
{
	uint32_t sections, crc;

	if (!take32(span, &sections) || !take32(span, &crc))
		return refuse(r, "The state is cut short at its end.");
	if (crc32c(0, start, 8) != crc || sections != r->count)
		return refuse(r, "The end of the state is damaged.");
	if (span->len)
		return refuse(r, "The state has %zu bytes too many.", span->len);
	return 0;
}

static int read_stream(struct state_reader *r, struct span span)
{
	const uint8_t *magic, *start;
	uint32_t version, tag;
	int result;

	if (!take(&span, FORMAT_MAGIC_LEN, &magic) || memcmp(magic, FORMAT_MAGIC, FORMAT_MAGIC_LEN))
		return refuse(r, "This is not a saved state of Insula.");
	if (!take32(&span, &version) || version != FORMAT_VERSION)
		return refuse(r, "The state has a format this Insula does not know.");
	for (;;) {
		start = span.at;
		if (!take32(&span, &tag))
			return refuse(r, "The state is cut short after %u sections.", r->count);
		if (tag == FORMAT_END)
			return read_end(r, &span, start);
		if (tag != FORMAT_SECTION)
			return refuse(r, "The state is damaged after %u sections.", r->count);
		if (r->count == STATE_SECTIONS_MAX)
			return refuse(r, "The state has more than %u sections.",
				      STATE_SECTIONS_MAX);
		result = read_section(r, &span, start);
		if (result < 0)
			return result;
	}
}

int state_reader_init(struct state_reader *r, const uint8_t *bytes, size_t len)
{
	int result;

	*r = (struct state_reader){ 0 };
	r->sections = calloc(STATE_SECTIONS_MAX, sizeof(*r->sections));
	if (!r->sections) {
		refuse(r, "There is no memory to read the state.");
		return -ENOMEM;
	}
	result = read_stream(r, (struct span){ bytes, len });
	if (result < 0) {
		free(r->sections);
		r->sections = NULL;
		r->count = 0;
	}
	return result;
}

void state_reader_fini(struct state_reader *r)
{
	free(r->sections);
	r->sections = NULL;
	r->count = 0;
}

static int read_fields(const struct place *place, const struct state_table *table, uint8_t *object,
		       struct span span, unsigned depth);

static int read_structs(const struct place *place, const struct state_field *field, uint8_t *object,
			struct span span, unsigned depth)
{
	for (uint32_t i = 0; i < field->count; i++) {
		struct span one;
		uint32_t len;
		int result;

		if (!take32(&span, &len) || !take(&span, len, &one.at))
			return refuse(place->reader, "Section %s: field %s is cut short.",
				      place->section, field->name);
		one.len = len;
		result = read_fields(place, field->table,
				     object + field->offset + (size_t)i * field->stride, one,
				     depth + 1);
		if (result < 0)
			return result;
	}
	if (span.len)
		return refuse(place->reader, "Section %s: field %s is too long.", place->section,
			      field->name);
	return 0;
}

static int read_value(const struct place *place, const struct state_field *field, uint8_t *object,
		      struct span value, unsigned depth)
{
	if (field->type == STATE_STRUCT)
		return read_structs(place, field, object, value, depth);
	for (size_t i = 0; field->type == STATE_BOOL && i < value.len; i++)
		if (value.at[i] > 1)
			return refuse(place->reader, "Section %s: field %s is neither 0 nor 1.",
				      place->section, field->name);
	memcpy(object + field->offset, value.at, value.len);
	return 0;
}

/* The head of a field and the bytes of its value. */
struct record {
	char name[STATE_NAME_MAX + 1];
	uint8_t type;
	uint32_t count;
	struct span value;
};

static bool take_record(struct span *span, struct record *record)
{
	uint64_t len;
	uint32_t struct_len;

	if (!take_name(span, record->name) || !take8(span, &record->type) ||
	    !take32(span, &record->count))
		return false;
	len = (uint64_t)record->count * state_type_size(record->type);
	if (record->type == STATE_STRUCT) {
		if (!take32(span, &struct_len))
			return false;
		len = struct_len;
	} else if (!state_type_size(record->type)) {
		return false;
	}
	record->value.len = len;
	return take(span, len, &record->value.at);
}

/* Also fields we do not know may come only once: what else is wrong with such a stream? */
static bool seen_before(struct span span, const uint8_t *end, const char *name)
{
	struct record record;

	while (span.at < end && take_record(&span, &record))
		if (span.at <= end && !strcmp(record.name, name))
			return true;
	return false;
}

static int read_fields(const struct place *place, const struct state_table *table, uint8_t *object,
		       struct span span, unsigned depth)
{
	struct state_reader *r = place->reader;
	const struct span whole = span;
	const struct state_field *field;
	const char *why = "its values are impossible";
	uint64_t seen = 0;
	unsigned records = 0;
	int result;

	for (field = table->fields; field->name; field++)
		;
	ASSERT(field - table->fields <= STATE_FIELDS_MAX);
	if (depth > STATE_DEPTH_MAX)
		return refuse(r, "Section %s is nested too deeply.", place->section);
	while (span.len) {
		const uint8_t *start = span.at;
		struct record record;

		if (++records > 2 * STATE_FIELDS_MAX)
			return refuse(r, "Section %s has too many fields.", place->section);
		if (!take_record(&span, &record))
			return refuse(r, "Section %s: a field is damaged or cut short.",
				      place->section);
		if (seen_before(whole, start, record.name))
			return refuse(r, "Section %s has field %s twice.", place->section,
				      record.name);
		for (field = table->fields; field->name; field++)
			if (!strcmp(field->name, record.name))
				break;
		if (!field->name)
			continue; /* a later version's: not needed to understand the rest */
		if (record.type != field->type || record.count != field->count)
			return refuse(r, "Section %s: field %s has another type or size than here.",
				      place->section, record.name);
		result = read_value(place, field, object, record.value, depth);
		if (result < 0)
			return result;
		seen |= 1ull << (field - table->fields);
	}
	for (field = table->fields; field->name; field++)
		if (field->since <= place->version && !(seen & 1ull << (field - table->fields)))
			return refuse(r, "Section %s lacks field %s.", place->section, field->name);
	if (table->post_load && table->post_load(object, &why) < 0)
		return refuse(r, "Section %s is refused: %s.", place->section, why);
	return 0;
}

static void copy_fields(const struct state_table *table, uint8_t *to, const uint8_t *from)
{
	for (const struct state_field *field = table->fields; field->name; field++) {
		if (field->type != STATE_STRUCT) {
			memcpy(to + field->offset, from + field->offset,
			       (size_t)field->count * field->stride);
			continue;
		}
		for (uint32_t i = 0; i < field->count; i++) {
			size_t offset = field->offset + (size_t)i * field->stride;
			copy_fields(field->table, to + offset, from + offset);
		}
	}
}

int state_load_named(const struct state_table *table, const char *name, void *object,
		     struct state_reader *r)
{
	struct state_section *section = NULL;
	struct place place = { r, name, 0 };
	uint8_t *scratch;
	int result;

	for (unsigned i = 0; i < r->count; i++)
		if (!strcmp(r->sections[i].name, name))
			section = &r->sections[i];
	if (!section) {
		refuse(r, "The state has no section %s.", name);
		return -ENOENT;
	}
	if (!section->version || section->version > table->version)
		return refuse(r, "Section %s has version %u; this Insula knows versions 1 to %u.",
			      name, section->version, table->version);
	/* The strictest alignment in a vcpu's state; the size must be a multiple of it. */
	scratch = aligned_alloc(64, ((size_t)table->size + 63) & ~(size_t)63);
	if (!scratch) {
		refuse(r, "There is no memory to read section %s.", name);
		return -ENOMEM;
	}
	memcpy(scratch, object, table->size);
	place.version = section->version;
	result = read_fields(&place, table, scratch, (struct span){ section->bytes, section->len },
			     0);
	if (result == 0) {
		copy_fields(table, object, scratch);
		section->loaded = true;
	}
	free(scratch);
	return result;
}

int state_load(const struct state_table *table, void *object, struct state_reader *r)
{
	return state_load_named(table, table->name, object, r);
}

const char *state_reader_leftover(const struct state_reader *r)
{
	for (unsigned i = 0; i < r->count; i++)
		if (!r->sections[i].loaded)
			return r->sections[i].name;
	return NULL;
}
