/* AVX2, compiled with -mavx2: buffers of bytes and of floats, larger than the first cache, are
 * read, transformed and written. Invariant: nothing here runs before main.c has seen that the CPU
 * has it. */
#include "workload.h"

#include <immintrin.h>
#include <stdbool.h>

#define BYTES  131072
#define FLOATS 32768

static uint8_t bytes[BYTES + 64] __attribute__((aligned(32)));
static uint8_t upper[BYTES] __attribute__((aligned(32)));
static float floats[FLOATS] __attribute__((aligned(32)));
static float scaled[FLOATS] __attribute__((aligned(32)));

static bool setup(void)
{
	bench_text((char *)bytes, sizeof(bytes));
	for (int i = 0; i < FLOATS; i++)
		floats[i] = (float)(i % 61) * 0.25f - 7;
	return true;
}

/* Bytes turned to upper case, shuffled, and their distance to the neighbours summed. */
static uint64_t byte_work(void)
{
	const __m256i first = _mm256_set1_epi8('a' - 1), last = _mm256_set1_epi8('z' + 1),
		      bit = _mm256_set1_epi8(0x20),
		      turn = _mm256_setr_epi8(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0,
					      15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
	__m256i sum = _mm256_setzero_si256();
	uint64_t lanes[4];

	for (int i = 0; i < BYTES; i += 32) {
		__m256i a = _mm256_load_si256((const __m256i *)(bytes + i)),
			b = _mm256_loadu_si256((const __m256i *)(bytes + i + 1));
		__m256i lower =
			_mm256_and_si256(_mm256_cmpgt_epi8(a, first), _mm256_cmpgt_epi8(last, a));

		a = _mm256_sub_epi8(a, _mm256_and_si256(lower, bit));
		a = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(a, turn), 0x4e);
		_mm256_store_si256((__m256i *)(upper + i), a);
		sum = _mm256_add_epi64(sum, _mm256_sad_epu8(a, b));
	}
	_mm256_storeu_si256((__m256i *)lanes, sum);
	return lanes[0] + lanes[1] * 3 + lanes[2] * 5 + lanes[3] * 7;
}

static float float_work(void)
{
	const __m256 scale = _mm256_set1_ps(0.5f), shift = _mm256_set1_ps(1.25f);
	__m256 sum = _mm256_setzero_ps();
	float lanes[8];

	for (int i = 0; i < FLOATS; i += 8) {
		__m256 x = _mm256_load_ps(floats + i);
		__m256 y = _mm256_add_ps(_mm256_mul_ps(x, scale), shift);
		__m256 above = _mm256_cmp_ps(y, x, _CMP_GT_OQ);

		y = _mm256_blendv_ps(_mm256_sqrt_ps(_mm256_mul_ps(x, x)), y, above);
		_mm256_store_ps(scaled + i, y);
		sum = _mm256_add_ps(sum, _mm256_permute2f128_ps(y, y, 1));
	}
	_mm256_storeu_ps(lanes, sum);
	return lanes[0] + lanes[3] + lanes[5] + lanes[7];
}

static uint64_t run(uint64_t ops)
{
	for (uint64_t i = 0; i < ops; i++) {
		float f;

		__asm__ volatile(""
				 :
				 : "r"(bytes), "r"(floats), "r"(upper), "r"(scaled)
				 : "memory");
		bench_check = byte_work();
		f = float_work();
		bench_check ^= bench_digest(&f, sizeof(f));
	}
	return ops;
}

const struct workload avx2_workloads[] = {
	{ "avx2", "float", setup, run, WORKLOAD_AVX2 },
	{ 0 },
};
