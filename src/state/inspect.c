/*
 * Objects as JSON, for people who inspect a machine. Guided by the same tables
 * as the stream; reads, never writes.
 */
#include "base/bytes.h"
#include "state/stream.h"

#include <stdio.h>
#include <stdlib.h>

static uint64_t value_of(const uint8_t *at, unsigned type)
{
	switch (type) {
	case STATE_U16:
		return bytes_load16(at);
	case STATE_U32:
		return bytes_load32(at);
	case STATE_U64:
		return bytes_load64(at);
	default:
		return *at;
	}
}

static json_t *element_to_json(const struct state_field *field, const uint8_t *at)
{
	uint64_t value = value_of(at, field->type);

	switch (field->type) {
	case STATE_STRUCT:
		return state_to_json(field->table, at);
	case STATE_BOOL:
		return json_boolean(value);
	case STATE_U64:
		/* JSON numbers are exact to 53 bits only; addresses are read in hex anyway. */
		return json_sprintf("0x%llx", (unsigned long long)value);
	default:
		return json_integer((json_int_t)value);
	}
}

static json_t *bytes_to_json(const uint8_t *bytes, size_t count)
{
	char *text = malloc(2 * count + 1);
	json_t *json;

	if (!text)
		return NULL;
	text[0] = 0;
	for (size_t i = 0; i < count; i++)
		snprintf(text + 2 * i, 3, "%02x", bytes[i]);
	json = json_string(text);
	free(text);
	return json;
}

static json_t *field_to_json(const struct state_field *field, const uint8_t *object)
{
	const uint8_t *at = object + field->offset;
	json_t *array;

	if (field->count == 1)
		return element_to_json(field, at);
	if (field->type == STATE_U8)
		return bytes_to_json(at, field->count);
	array = json_array();
	for (uint32_t i = 0; array && i < field->count; i++) {
		if (json_array_append_new(
			    array, element_to_json(field, at + (size_t)i * field->stride)) < 0) {
			json_decref(array);
			return NULL;
		}
	}
	return array;
}

json_t *state_to_json(const struct state_table *table, const void *object)
{
	json_t *json = json_object();

	for (const struct state_field *field = table->fields; json && field->name; field++) {
		if (json_object_set_new(json, field->name, field_to_json(field, object)) < 0) {
			json_decref(json);
			return NULL;
		}
	}
	return json;
}
