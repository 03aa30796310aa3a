/*
 * Field tables: what of a device or vcpu is state, declared once beside its
 * structure. Saving, loading, inspection and comparison all read the table.
 *
 *	static const struct state_field rtc_fields[] = {
 *		STATE_FIELD(struct rtc_state, index),
 *		STATE_ARRAY(struct rtc_state, ram),
 *		STATE_FIELD_SINCE(struct rtc_state, alarm_ns, 2),
 *		STATE_END
 *	};
 *	const struct state_table rtc_table = {
 *		.name = "rtc", .version = 2, .size = sizeof(struct rtc_state),
 *		.fields = rtc_fields, .post_load = rtc_post_load,
 *	};
 *
 * Names and meanings are for ever; a new field gets the new version of its
 * table as `since`, and an older stream then leaves it as it was before the
 * load. Values are little-endian in the stream, as they are in memory.
 */
#ifndef INSULA_STATE_FIELD_H
#define INSULA_STATE_FIELD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum state_type {
	STATE_NONE, /* ends a table */
	STATE_U8,
	STATE_U16,
	STATE_U32,
	STATE_U64,
	STATE_BOOL,   /* one byte; anything but 0 and 1 is refused */
	STATE_STRUCT, /* fields of its own */
};

#define STATE_NAME_MAX   63 /* bytes of a name, without the end */
#define STATE_FIELDS_MAX 64 /* fields of one table */
#define STATE_DEPTH_MAX  4  /* tables within tables */

struct state_field {
	const char *name;
	uint32_t offset;
	uint32_t count;  /* elements; 1 if it is no array */
	uint32_t stride; /* bytes from one element to the next */
	uint32_t since;  /* first version of the table that has it */
	uint8_t type;
	const struct state_table *table; /* STATE_STRUCT only */
};

struct state_table {
	const char *name;
	uint32_t version;
	uint32_t size; /* of the object */
	const struct state_field *fields;
	/*
	 * Looks at a loaded object before anybody acts on it: -1 with one
	 * sentence in *error if its values cannot have come from a real device
	 * (indexes out of range, impossible combinations). It sees a copy and
	 * may correct it, but owns nothing. NULL: every value is legal.
	 */
	int (*post_load)(void *object, const char **error);
};

/* clang-format takes #m for a directive. */
/* clang-format off */
#define STATE_MEMBER_(s, m) (((s *)0)->m)
/* The integer type of an element by its size; _Bool is told apart by its type. */
#define STATE_TYPE_(element)                                                   \
	_Generic((element), bool : STATE_BOOL,                                 \
		 default : sizeof(element) == 1 ? STATE_U8                     \
			 : sizeof(element) == 2 ? STATE_U16                    \
			 : sizeof(element) == 4 ? STATE_U32                    \
			 : sizeof(element) == 8 ? STATE_U64                    \
						: STATE_NONE) +        \
		0 * sizeof(char[sizeof(element) <= 8 && !(sizeof(element) & (sizeof(element) - 1)) ? 1 : -1])

/* An integer, enum or bool. */
#define STATE_FIELD_SINCE(s, m, version)                                       \
	{                                                                      \
		#m, offsetof(s, m), 1, sizeof(STATE_MEMBER_(s, m)), version,   \
			STATE_TYPE_(STATE_MEMBER_(s, m)), NULL                 \
	}
#define STATE_FIELD(s, m) STATE_FIELD_SINCE(s, m, 1)

/* An array of those, of one dimension or, taken as flat, more (give `first`: one element). */
#define STATE_ARRAY_SINCE(s, m, first, version)                                \
	{                                                                      \
		#m, offsetof(s, m),                                            \
			sizeof(STATE_MEMBER_(s, m)) / sizeof(STATE_MEMBER_(s, first)), \
			sizeof(STATE_MEMBER_(s, first)), version,              \
			STATE_TYPE_(STATE_MEMBER_(s, first)), NULL             \
	}
#define STATE_ARRAY(s, m) STATE_ARRAY_SINCE(s, m, m[0], 1)

/* A structure, or an array of structures, with a table of its own. Its version is that of the outer one. */
#define STATE_STRUCT_FIELD(s, m, inner)                                        \
	{                                                                      \
		#m, offsetof(s, m), 1, sizeof(STATE_MEMBER_(s, m)), 1,         \
			STATE_STRUCT, inner                                    \
	}
#define STATE_STRUCT_ARRAY(s, m, inner)                                        \
	{                                                                      \
		#m, offsetof(s, m),                                            \
			sizeof(STATE_MEMBER_(s, m)) / sizeof(STATE_MEMBER_(s, m[0])), \
			sizeof(STATE_MEMBER_(s, m[0])), 1, STATE_STRUCT, inner \
	}
#define STATE_END                                                              \
	{                                                                      \
		NULL, 0, 0, 0, 0, STATE_NONE, NULL                             \
	}
/* clang-format on */

/* Bytes of one element in the stream; 0 for STATE_STRUCT, whose size varies. */
static inline unsigned state_type_size(unsigned type)
{
	switch (type) {
	case STATE_U8:
	case STATE_BOOL:
		return 1;
	case STATE_U16:
		return 2;
	case STATE_U32:
		return 4;
	case STATE_U64:
		return 8;
	default:
		return 0;
	}
}

#endif
