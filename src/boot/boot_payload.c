/*
 * bzImage payloads: recognising the format, and LZ4, which is what Debian's
 * cloud kernel has (formats: lz4's doc/lz4_Block_format.md and the legacy part
 * of lz4_Frame_format.md). Used by the guest builder and, to spare a
 * software engine the work, when a bzImage is loaded; hostile bytes, as any kernel
 * file. Invariant: every copy is checked against both buffers first.
 */
#include "boot/boot_payload.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "boot/boot_bytes.h"
#include "boot/boot_linux.h"

#define HDR_PAYLOAD_OFFSET 0x248
#define HDR_PAYLOAD_LENGTH 0x24c
#define LZ4_LEGACY_MAGIC   0x184c2102u
#define LZ4_BLOCK_UNPACKED (8u << 20)
#define UNPACKED_MAX       (256u << 20)
#define LZ4_MIN_MATCH      4

static enum boot_payload_format format_of(const uint8_t *bytes)
{
	if (load32(bytes) == LZ4_LEGACY_MAGIC)
		return BOOT_PAYLOAD_LZ4;
	if (!memcmp(bytes,
		    "\xfd"
		    "7zXZ",
		    5))
		return BOOT_PAYLOAD_XZ;
	if (load32(bytes) == 0xfd2fb528)
		return BOOT_PAYLOAD_ZSTD;
	if (bytes[0] == 0x1f && bytes[1] == 0x8b)
		return BOOT_PAYLOAD_GZIP;
	return BOOT_PAYLOAD_UNKNOWN;
}

int boot_payload_find(const uint8_t *image, size_t len, struct boot_payload *payload)
{
	struct boot_linux parsed;
	const char *why;

	if (boot_linux_parse(image, len, &parsed, &why))
		return -EINVAL;
	uint64_t offset = parsed.body_offset + load32(image + HDR_PAYLOAD_OFFSET);
	uint64_t payload_len = load32(image + HDR_PAYLOAD_LENGTH);

	if (payload_len < 16 || !bytes_inside(offset, payload_len, len))
		return -EINVAL;
	payload->offset = offset;
	payload->len = payload_len - 4;
	payload->unpacked_len = load32(image + offset + payload_len - 4);
	payload->format = format_of(image + offset);
	return payload->format == BOOT_PAYLOAD_UNKNOWN ? -EINVAL : 0;
}

/* Lengths of 15 and more go on in further bytes, up to one that is not 255. */
static bool length_read(const uint8_t **in, const uint8_t *end, size_t *len)
{
	uint8_t byte;

	if (*len != 15)
		return true;
	do {
		if (*in == end)
			return false;
		byte = *(*in)++;
		*len += byte;
	} while (byte == 255);
	return true;
}

/* One block; matches may reach back into what earlier blocks wrote. Bytes written, or -1. */
static long block_unpack(const uint8_t *in, size_t in_len, uint8_t *out_begin, uint8_t *out,
			 const uint8_t *out_end)
{
	const uint8_t *end = in + in_len;
	uint8_t *at = out;

	while (in < end) {
		size_t literals = *in >> 4, match = *in & 15;

		in++;
		if (!length_read(&in, end, &literals) || literals > (size_t)(end - in) ||
		    literals > (size_t)(out_end - at))
			return -1;
		memcpy(at, in, literals);
		at += literals;
		in += literals;
		if (in == end) /* the last sequence has literals only */
			break;
		if (end - in < 2)
			return -1;
		size_t distance = load16(in);

		in += 2;
		if (!length_read(&in, end, &match))
			return -1;
		match += LZ4_MIN_MATCH;
		if (!distance || distance > (size_t)(at - out_begin) ||
		    match > (size_t)(out_end - at))
			return -1;
		const uint8_t *from = at - distance;

		if (distance >= match) {
			memcpy(at, from, match);
			at += match;
		} else {
			while (match--)
				*at++ = *from++;
		}
	}
	return at - out;
}

long boot_payload_unlz4(const uint8_t *in, size_t in_len, uint8_t *out, size_t out_len)
{
	uint8_t *at = out, *out_end = out + out_len;
	size_t offset = 4;

	if (in_len < 4 || load32(in) != LZ4_LEGACY_MAGIC)
		return -EINVAL;
	while (in_len - offset >= 4) {
		size_t block_len = load32(in + offset);
		uint8_t *block_end = (size_t)(out_end - at) > LZ4_BLOCK_UNPACKED
					     ? at + LZ4_BLOCK_UNPACKED
					     : out_end;

		offset += 4;
		if (block_len == LZ4_LEGACY_MAGIC) /* a further stream, as lz4 appends them */
			continue;
		if (block_len > in_len - offset)
			return -EINVAL;
		long written = block_unpack(in + offset, block_len, out, at, block_end);

		if (written < 0)
			return -EINVAL;
		at += written;
		offset += block_len;
	}
	return at - out;
}

static bool is_entry(const struct boot_elf *elf)
{
	for (unsigned i = 0; i < elf->segment_count; i++) {
		const struct boot_elf_segment *seg = &elf->segment[i];

		if (elf->entry >= seg->paddr && elf->entry - seg->paddr < seg->file_len)
			return elf->is_64;
	}
	return false;
}

int boot_payload_unpack(const uint8_t *image, size_t len, struct boot_unpacked *unpacked)
{
	struct boot_payload payload;
	const char *why;

	*unpacked = (struct boot_unpacked){ 0 };
	if (boot_payload_find(image, len, &payload) || payload.format != BOOT_PAYLOAD_LZ4 ||
	    payload.unpacked_len > UNPACKED_MAX)
		return -EINVAL;
	unpacked->bytes = malloc(payload.unpacked_len ? payload.unpacked_len : 1);
	if (!unpacked->bytes)
		return -ENOMEM;
	long written = boot_payload_unlz4(image + payload.offset, payload.len, unpacked->bytes,
					  payload.unpacked_len);

	if (written == (long)payload.unpacked_len &&
	    !boot_elf_parse(unpacked->bytes, (size_t)written, &unpacked->elf, &why) &&
	    is_entry(&unpacked->elf))
		return 0;
	boot_payload_fini(unpacked);
	return -EINVAL;
}

void boot_payload_fini(struct boot_unpacked *unpacked)
{
	free(unpacked->bytes);
	unpacked->bytes = NULL;
}
