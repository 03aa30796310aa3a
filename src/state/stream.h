/*
 * Machine state as bytes: self-describing, versioned, little-endian.
 *
 *	stream  := "INSULAST" u32 format=1 section... end
 *	section := u32 'SECT' u8 name_len name u32 version u32 len u32 crc bytes[len]
 *	end     := u32 'END.' u32 sections u32 crc
 *	bytes   := field...
 *	field   := u8 name_len name u8 type u32 count value
 *	value   := count integers, or for STATE_STRUCT u32 len, then count times (u32 len field...)
 *
 * The crc (CRC32C) of a section covers everything from 'SECT' to its last
 * byte but the crc itself; that of the end covers the end.
 *
 * The reader takes its input as hostile: everything is checked before any
 * object changes, and what is wrong is told in one sentence.
 */
#ifndef INSULA_STATE_STREAM_H
#define INSULA_STATE_STREAM_H

#include "state/field.h"

#include <jansson.h>

/* Not shared between threads. Errors (memory only) are kept until finish. */
struct state_writer {
	uint8_t *bytes; /* owned */
	size_t len, capacity;
	uint32_t sections;
	int error;
};

void state_writer_init(struct state_writer *w);
void state_writer_fini(struct state_writer *w);
/* One section, named after the table or, for one of several, as told; names must differ. */
void state_save(const struct state_table *table, const void *object, struct state_writer *w);
void state_save_named(const struct state_table *table, const char *name, const void *object,
		      struct state_writer *w);
/* 0, and w->bytes/len are the stream; or -ENOMEM. */
int state_writer_finish(struct state_writer *w) __attribute__((warn_unused_result));

struct state_section {
	char name[STATE_NAME_MAX + 1];
	uint32_t version;
	const uint8_t *bytes;
	uint32_t len;
	bool loaded;
};

#define STATE_SECTIONS_MAX 1024

struct state_reader {
	struct state_section *sections; /* owned */
	unsigned count;
	char error[256]; /* the sentence, after a call failed */
};

/* Indexes and checks a whole stream; the bytes are borrowed until fini. 0 or -EINVAL, -ENOMEM. */
int state_reader_init(struct state_reader *r, const uint8_t *bytes, size_t len)
	__attribute__((warn_unused_result));
void state_reader_fini(struct state_reader *r);
/*
 * Loads the section into the object: all of it, or on failure nothing. Only
 * fields of the table change. 0 or -EINVAL, -ENOENT (no such section), -ENOMEM.
 */
int state_load(const struct state_table *table, void *object, struct state_reader *r)
	__attribute__((warn_unused_result));
int state_load_named(const struct state_table *table, const char *name, void *object,
		     struct state_reader *r) __attribute__((warn_unused_result));
/* Name of a section that nobody loaded, NULL if none: a machine with other devices than ours. */
const char *state_reader_leftover(const struct state_reader *r);

/* The object for people: integers up to 32 bits as numbers, 64 bits and byte arrays in hex. NULL:
 * no memory. */
json_t *state_to_json(const struct state_table *table, const void *object);
/* The same of every section of a stream, by what it says of itself; one that makes no sense is
 * null. NULL: no memory. */
json_t *state_stream_to_json(const struct state_reader *r);

#endif
