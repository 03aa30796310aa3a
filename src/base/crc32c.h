/*
 * CRC32C (RFC 3720, 12.1), the checksum of iSCSI and ext4, by the processor's own
 * instruction. General registers only, so that it may run while the guest's
 * vector registers are live. Ask crc32c_native() first; state/crc32c.c has the
 * same for every host.
 */
#ifndef INSULA_BASE_CRC32C_H
#define INSULA_BASE_CRC32C_H

#include <cpuid.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"

static inline bool crc32c_native(void)
{
	unsigned a, b, c, d;

	return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_SSE4_2);
}

/* Start with crc 0; feed pieces by handing the result on. */
static inline uint32_t crc32c_by_native(uint32_t crc, const uint8_t *bytes, size_t len)
{
	uint64_t sum = ~crc;

	for (; len >= 8; bytes += 8, len -= 8)
		__asm__("crc32q %1, %0" : "+r"(sum) : "rm"(bytes_load64(bytes)));
	for (; len; bytes++, len--)
		__asm__("crc32b %1, %k0" : "+r"(sum) : "rm"(*bytes));
	return ~(uint32_t)sum;
}

#endif
