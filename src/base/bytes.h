/*
 * Copy, clear and compare without libc. The rooms that run while the guest's
 * vector registers are live (see cpu/vcpu.h) may not call memcpy and its kin,
 * which use those registers; everything here is general registers only and is
 * written so that no compiler turns it back into a libc call.
 *
 * Each source byte is read exactly once, so a copy out of guest memory is safe
 * to parse even while the guest writes there.
 */
#ifndef INSULA_BASE_BYTES_H
#define INSULA_BASE_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bytes_u16 {
	uint16_t v;
} __attribute__((packed, may_alias));
struct bytes_u32 {
	uint32_t v;
} __attribute__((packed, may_alias));
struct bytes_u64 {
	uint64_t v;
} __attribute__((packed, may_alias));

/* Unaligned host-order (little-endian) loads and stores, one access each. */
static inline uint16_t bytes_load16(const void *p)
{
	return ((const volatile struct bytes_u16 *)p)->v;
}
static inline uint32_t bytes_load32(const void *p)
{
	return ((const volatile struct bytes_u32 *)p)->v;
}
static inline uint64_t bytes_load64(const void *p)
{
	return ((const volatile struct bytes_u64 *)p)->v;
}
static inline void bytes_store16(void *p, uint16_t v)
{
	((volatile struct bytes_u16 *)p)->v = v;
}
static inline void bytes_store32(void *p, uint32_t v)
{
	((volatile struct bytes_u32 *)p)->v = v;
}
static inline void bytes_store64(void *p, uint64_t v)
{
	((volatile struct bytes_u64 *)p)->v = v;
}

/* The ranges must not overlap, except that dst below src is fine. */
static inline void bytes_copy(void *dst, const void *src, size_t len)
{
	/*
	 * The start-up of rep movsb costs more than a few moves; the sizes of
	 * registers take those.
	 */
	switch (len) {
	case 1:
		*(volatile uint8_t *)dst = *(const volatile uint8_t *)src;
		return;
	case 2:
		bytes_store16(dst, bytes_load16(src));
		return;
	case 4:
		bytes_store32(dst, bytes_load32(src));
		return;
	case 8:
		bytes_store64(dst, bytes_load64(src));
		return;
	}
	__asm__ volatile("rep movsb" : "+D"(dst), "+S"(src), "+c"(len) : : "memory");
}

static inline void bytes_fill(void *dst, uint8_t value, size_t len)
{
	__asm__ volatile("rep stosb" : "+D"(dst), "+c"(len) : "a"(value) : "memory");
}

static inline void bytes_zero(void *dst, size_t len)
{
	bytes_fill(dst, 0, len);
}

static inline bool bytes_equal(const void *a, const void *b, size_t len)
{
	const volatile uint8_t *x = a, *y = b;

	while (len >= 8) {
		if (bytes_load64((const void *)x) != bytes_load64((const void *)y))
			return false;
		x += 8;
		y += 8;
		len -= 8;
	}
	while (len--)
		if (*x++ != *y++)
			return false;
	return true;
}

#endif
