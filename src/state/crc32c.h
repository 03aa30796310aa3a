/* CRC32C, the checksum of iSCSI and ext4. Start with crc 0; feed pieces by handing the result on. */
#ifndef INSULA_STATE_CRC32C_H
#define INSULA_STATE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

uint32_t crc32c(uint32_t crc, const uint8_t *bytes, size_t len);

#endif
