/* ASSERT is for our own bugs only: always compiled in, never on a value a guest, image or peer chose. */
#ifndef INSULA_BASE_ASSERT_H
#define INSULA_BASE_ASSERT_H

#include <stdnoreturn.h>

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

noreturn void assert_failed(const char *expression, const char *file, int line);

#define ASSERT(expression)                                                     \
	do {                                                                   \
		if (unlikely(!(expression)))                                   \
			assert_failed(#expression, __FILE__, __LINE__);        \
	} while (0)

#endif
