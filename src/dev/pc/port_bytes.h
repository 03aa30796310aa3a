/*
 * Devices of 8-bit registers on the port bus: a wider access is several byte
 * accesses at consecutive ports, low byte first, as the ISA bus splits it.
 */
#ifndef INSULA_DEV_PC_PORT_BYTES_H
#define INSULA_DEV_PC_PORT_BYTES_H

#include <stdint.h>

static inline uint64_t port_bytes_read(void *dev, uint64_t offset, unsigned size,
				       uint8_t (*read)(void *dev, unsigned offset))
{
	uint64_t value = 0;

	for (unsigned i = 0; i < size; i++)
		value |= (uint64_t)read(dev, (unsigned)offset + i) << (8 * i);
	return value;
}

static inline void port_bytes_write(void *dev, uint64_t offset, unsigned size, uint64_t value,
				    void (*write)(void *dev, unsigned offset, uint8_t value))
{
	for (unsigned i = 0; i < size; i++)
		write(dev, (unsigned)offset + i, (uint8_t)(value >> (8 * i)));
}

#endif
