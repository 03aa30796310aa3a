/*
 * The kernel proper inside a bzImage: an ELF file, compressed. Taking it out
 * spares the guest the work of unpacking itself.
 */
#ifndef INSULA_BOOT_BOOT_PAYLOAD_H
#define INSULA_BOOT_BOOT_PAYLOAD_H

#include <stddef.h>
#include <stdint.h>

#include "boot/boot_elf.h"

enum boot_payload_format {
	BOOT_PAYLOAD_UNKNOWN,
	BOOT_PAYLOAD_LZ4,
	BOOT_PAYLOAD_XZ,
	BOOT_PAYLOAD_ZSTD,
	BOOT_PAYLOAD_GZIP
};

struct boot_payload {
	enum boot_payload_format format;
	size_t offset, len;    /* in the bzImage, without the size field at its end */
	uint32_t unpacked_len; /* as that field states */
};

/* Pure. 0, or -EINVAL: no bzImage, or one without a payload that is known. */
int boot_payload_find(const uint8_t *image, size_t len, struct boot_payload *payload)
	__attribute__((warn_unused_result));

/*
 * Unpacks the "legacy" LZ4 stream that kernels use. Pure. The bytes written to
 * out, at most out_len; -EINVAL if the stream is damaged or has more.
 */
long boot_payload_unlz4(const uint8_t *in, size_t in_len, uint8_t *out, size_t out_len)
	__attribute__((warn_unused_result));

struct boot_unpacked {
	uint8_t *bytes; /* owned; boot_payload_fini frees */
	struct boot_elf elf;
};

/*
 * Unpacks an LZ4 payload that is a 64-bit ELF kernel whose entry, a physical
 * address, lies in one of its segments. -EINVAL: it is not like that, or
 * damaged; then the guest may try for itself.
 */
int boot_payload_unpack(const uint8_t *image, size_t len, struct boot_unpacked *unpacked)
	__attribute__((warn_unused_result));
void boot_payload_fini(struct boot_unpacked *unpacked);

#endif
