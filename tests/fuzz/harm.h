/* Saved states whose bytes a fuzzer changes, under checksums that fit. */
#ifndef INSULA_TESTS_FUZZ_HARM_H
#define INSULA_TESTS_FUZZ_HARM_H

#include <stdbool.h>
#include <string.h>

#include "base/bytes.h"
#include "input.h"
#include "state/crc32c.h"
#include "state/format.h"
#include "state/stream.h"

/* A section of a stream that the writer made. */
struct harm_section {
	const char *name;
	size_t at, name_len, body, len;
};

#define HARM_STREAM_HEAD 12 /* where the first section is */

/* The section at *at, which moves on; false at the end. */
static inline bool harm_next(const struct state_writer *w, size_t *at, struct harm_section *section)
{
	if (bytes_load32(w->bytes + *at) != FORMAT_SECTION)
		return false;
	section->at = *at;
	section->name_len = w->bytes[*at + 4];
	section->name = (const char *)w->bytes + *at + 5;
	section->body = *at + 5 + section->name_len + 12;
	section->len = bytes_load32(w->bytes + section->body - 8);
	*at = section->body + section->len;
	return true;
}

/* Some bytes of one section. */
static inline void harm_state(struct state_writer *w, struct input *in)
{
	unsigned wanted = (unsigned)input_take(in, 1) % w->sections,
		 changes = 1 + (unsigned)input_take(in, 1) % 8;
	size_t at = HARM_STREAM_HEAD, crc_at;
	struct harm_section section;
	uint32_t crc;

	for (unsigned i = 0; i <= wanted; i++)
		harm_next(w, &at, &section);
	while (changes--) {
		uint64_t place = input_take(in, 2) % section.len;

		w->bytes[section.body + place] = (uint8_t)input_take(in, 1);
	}
	crc_at = section.body - 4;
	crc = crc32c(0, w->bytes + section.at, crc_at - section.at);
	bytes_store32(w->bytes + crc_at, crc32c(crc, w->bytes + section.body, section.len));
}

#endif
