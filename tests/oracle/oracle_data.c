/* What a case did to memory: found, summed up, undone. Used by both sides. */
#include "oracle.h"
#include <string.h>

/* jmp [rip + 0], and STUB_BASE */
const uint8_t low_stub_code[EPILOGUE_SIZE] = { 0xff,
					       0x25,
					       [6] = (uint8_t)STUB_BASE,
					       (uint8_t)(STUB_BASE >> 8),
					       (uint8_t)(STUB_BASE >> 16),
					       (uint8_t)(STUB_BASE >> 24),
					       (uint8_t)(STUB_BASE >> 32),
					       (uint8_t)(STUB_BASE >> 40) };

void data_collect(struct oracle_result *result, uint8_t *const pages[DATA_PAGES],
		  const uint8_t *pristine)
{
	result->digest = 0;
	result->dirty_lines = 0;
	result->line = 0;
	for (unsigned i = 0; i < DATA_PAGES; i++) {
		const uint8_t *before = pristine + i * PAGE;

		if (!(DATA_WRITABLE >> i & 1) || !memcmp(pages[i], before, PAGE))
			continue;
		for (unsigned at = 0; at < PAGE; at += 64) {
			uint64_t words[8];

			if (!memcmp(pages[i] + at, before + at, 64))
				continue;
			memcpy(words, pages[i] + at, 64);
			if (!result->dirty_lines++) {
				result->line = i * PAGE + at;
				memcpy(result->line_bytes, words, 64);
			}
			result->digest = (result->digest ^ (i * PAGE + at)) * 0x100000001b3ull;
			for (unsigned w = 0; w < 8; w++)
				result->digest =
					(result->digest ^ words[w]) * 0x9e3779b97f4a7c15ull;
			memcpy(pages[i] + at, before + at, 64);
		}
	}
}
