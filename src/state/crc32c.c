/*
 * CRC32C on every host: by the processor's instruction, or by half bytes, where
 * a table of 16 constants needs no set-up.
 */
#include "state/crc32c.h"
#include "base/crc32c.h"

static uint32_t by_table(uint32_t crc, const uint8_t *bytes, size_t len)
{
	static const uint32_t half[16] = {
		0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3,
		0x61c69362, 0x7198540d, 0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9,
		0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75,
	};

	crc = ~crc;
	while (len--) {
		crc ^= *bytes++;
		crc = crc >> 4 ^ half[crc & 15];
		crc = crc >> 4 ^ half[crc & 15];
	}
	return ~crc;
}

uint32_t crc32c(uint32_t crc, const uint8_t *bytes, size_t len)
{
	/* Each answer is a fact about the host: threads that race here store the same. */
	static int native = -1;

	if (__atomic_load_n(&native, __ATOMIC_RELAXED) < 0)
		__atomic_store_n(&native, crc32c_native(), __ATOMIC_RELAXED);
	return native ? crc32c_by_native(crc, bytes, len) : by_table(crc, bytes, len);
}
