/*
 * A stream as JSON, by the names and types that it carries itself: for people
 * who look at a machine or at a file from another version. Takes its input as
 * hostile like the reader.
 */
#include "state/stream.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

struct span {
	const uint8_t *at;
	size_t len;
};

static bool take(struct span *span, size_t len, const uint8_t **bytes)
{
	if (len > span->len)
		return false;
	*bytes = span->at;
	span->at += len;
	span->len -= len;
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

static bool take_name(struct span *span, char *name)
{
	const uint8_t *bytes;
	uint8_t len;

	if (!take(span, 1, &bytes))
		return false;
	len = *bytes;
	if (!len || len > STATE_NAME_MAX || !take(span, len, &bytes))
		return false;
	for (unsigned i = 0; i < len; i++)
		if (bytes[i] <= ' ' || bytes[i] > '~')
			return false;
	memcpy(name, bytes, len);
	name[len] = 0;
	return true;
}

static json_t *integer(unsigned type, const uint8_t *at)
{
	switch (type) {
	case STATE_BOOL:
		return json_boolean(*at);
	case STATE_U8:
		return json_integer(*at);
	case STATE_U16:
		return json_integer(bytes_load16(at));
	case STATE_U32:
		return json_integer(bytes_load32(at));
	default:
		/* JSON numbers are exact to 53 bits only; addresses are read in hex anyway. */
		return json_sprintf("0x%llx", (unsigned long long)bytes_load64(at));
	}
}

static json_t *hex(const uint8_t *bytes, size_t count)
{
	static const char digits[] = "0123456789abcdef";
	char *text = malloc(2 * count + 1);
	json_t *json;

	if (!text)
		return NULL;
	for (size_t i = 0; i < count; i++) {
		text[2 * i] = digits[bytes[i] >> 4];
		text[2 * i + 1] = digits[bytes[i] & 15];
	}
	text[2 * count] = 0;
	json = json_string(text);
	free(text);
	return json;
}

static json_t *fields(struct span span, unsigned depth);

static json_t *structs(struct span span, uint32_t count, unsigned depth)
{
	json_t *array = json_array();

	while (array && span.len) {
		struct span one;
		uint32_t len;

		if (!take32(&span, &len) || !take(&span, len, &one.at))
			goto bad;
		one.len = len;
		if (json_array_append_new(array, fields(one, depth + 1)) < 0)
			goto bad;
	}
	if (count == 1 && json_array_size(array) == 1) {
		json_t *only = json_incref(json_array_get(array, 0));

		json_decref(array);
		return only;
	}
	return array;
bad:
	json_decref(array);
	return NULL;
}

static json_t *value(struct span *span, uint8_t type, uint32_t count, unsigned depth)
{
	unsigned size = state_type_size(type);
	const uint8_t *bytes;
	json_t *array;
	uint32_t len;

	if (type == STATE_STRUCT) {
		if (!take32(span, &len) || !take(span, len, &bytes))
			return NULL;
		return structs((struct span){ bytes, len }, count, depth);
	}
	if (!size || !take(span, (size_t)count * size, &bytes))
		return NULL;
	if (count == 1)
		return integer(type, bytes);
	if (type == STATE_U8)
		return hex(bytes, count);
	array = json_array();
	for (uint32_t i = 0; array && i < count; i++)
		if (json_array_append_new(array, integer(type, bytes + (size_t)i * size)) < 0)
			break;
	return array;
}

/* NULL: the bytes are no fields. */
static json_t *fields(struct span span, unsigned depth)
{
	json_t *object = depth > STATE_DEPTH_MAX ? NULL : json_object();

	while (object && span.len) {
		char name[STATE_NAME_MAX + 1];
		const uint8_t *type;
		uint32_t count;

		if (!take_name(&span, name) || !take(&span, 1, &type) || !take32(&span, &count) ||
		    json_object_set_new(object, name, value(&span, *type, count, depth)) < 0) {
			json_decref(object);
			return NULL;
		}
	}
	return object;
}

json_t *state_stream_to_json(const struct state_reader *r)
{
	json_t *object = json_object();

	for (unsigned i = 0; object && i < r->count; i++) {
		const struct state_section *section = &r->sections[i];
		json_t *one = fields((struct span){ section->bytes, section->len }, 0);

		if (json_object_set_new(object, section->name, one ? one : json_null()) < 0) {
			json_decref(object);
			return NULL;
		}
	}
	return object;
}
