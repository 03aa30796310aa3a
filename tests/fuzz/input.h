/* A fuzzer's bytes as a stream of choices; when they run out every choice is 0. */
#ifndef INSULA_TESTS_FUZZ_INPUT_H
#define INSULA_TESTS_FUZZ_INPUT_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct input {
	const uint8_t *bytes;
	size_t left;
};

static inline uint64_t input_take(struct input *in, unsigned size)
{
	uint64_t value = 0;
	size_t count = in->left < size ? in->left : size;

	memcpy(&value, in->bytes, count);
	in->bytes += count;
	in->left -= count;
	return value;
}

static inline unsigned input_size(struct input *in)
{
	return 1u << (input_take(in, 1) & 3);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

#endif
