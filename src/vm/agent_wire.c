/*
 * Framing; see the header. Used on both sides of the guest's wall, so either
 * end may be fed anything. Invariant: used never exceeds the capacity, nor the
 * length that the frame's own header states.
 */
#include "vm/agent_wire.h"

#include <string.h>

uint32_t wire_load32(const uint8_t *bytes)
{
	return bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 |
	       (uint32_t)bytes[3] << 24;
}

uint16_t wire_load16(const uint8_t *bytes)
{
	return (uint16_t)(bytes[0] | bytes[1] << 8);
}

void wire_store32(uint8_t *bytes, uint32_t value)
{
	for (unsigned i = 0; i < 4; i++)
		bytes[i] = (uint8_t)(value >> (8 * i));
}

void wire_store16(uint8_t *bytes, uint16_t value)
{
	bytes[0] = (uint8_t)value;
	bytes[1] = (uint8_t)(value >> 8);
}

void wire_header(uint8_t *bytes, uint32_t len, enum wire_type type, uint8_t stream)
{
	wire_store32(bytes, len);
	bytes[4] = (uint8_t)type;
	bytes[5] = stream;
	bytes[6] = 0;
	bytes[7] = 0;
}

/* Bytes of the frame at hand, header included; the header alone while that is incomplete; 0:
 * broken. */
static uint32_t frame_len(const struct wire_reader *reader)
{
	if (reader->used < WIRE_HEADER_LEN)
		return WIRE_HEADER_LEN;
	uint32_t len = wire_load32(reader->buffer);

	if (len > reader->capacity - WIRE_HEADER_LEN || reader->buffer[6] || reader->buffer[7])
		return 0;
	return WIRE_HEADER_LEN + len;
}

size_t wire_feed(struct wire_reader *reader, const uint8_t *bytes, size_t count)
{
	size_t taken = 0;

	/* Twice at most: the header, and then the rest that it announces. */
	for (int part = 0; part < 2; part++) {
		uint32_t want = frame_len(reader);

		if (want <= reader->used)
			break;
		size_t piece = want - reader->used;

		if (piece > count - taken)
			piece = count - taken;
		memcpy(reader->buffer + reader->used, bytes + taken, piece);
		reader->used += (uint32_t)piece;
		taken += piece;
	}
	return taken;
}

int wire_next(const struct wire_reader *reader, struct wire_frame *frame)
{
	uint32_t want = frame_len(reader);

	if (!want)
		return -1;
	if (reader->used < WIRE_HEADER_LEN || reader->used < want)
		return 0;
	*frame = (struct wire_frame){
		.len = want - WIRE_HEADER_LEN,
		.type = reader->buffer[4],
		.stream = reader->buffer[5],
		.payload = reader->buffer + WIRE_HEADER_LEN,
	};
	return 1;
}

void wire_drop(struct wire_reader *reader)
{
	reader->used = 0;
}
