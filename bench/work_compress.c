/* Compressors from Debian's static libraries, each on the same 16 KiB of text. Every operation
 * starts from a fresh state and its output is compared with the first one's. */
#include "workload.h"

#include <stdbool.h>
#include <string.h>

#include <bzlib.h>
#include <zlib.h>
#include <zstd.h>

#define TEXT   16384
#define PACKED (2 * TEXT)

static char text[TEXT], packed[PACKED], unpacked[TEXT];
static size_t packed_len;

static bool text_setup(void)
{
	bench_text(text, TEXT);
	return true;
}

static bool check(size_t len)
{
	if (packed_len && packed_len != len)
		return false;
	packed_len = len;
	bench_check = len;
	return true;
}

static bool unpacked_right(void)
{
	bench_check = TEXT;
	return !memcmp(text, unpacked, TEXT);
}

static bool deflate_once(void)
{
	uLongf len = PACKED;

	return compress2((Bytef *)packed, &len, (const Bytef *)text, TEXT, 6) == Z_OK && check(len);
}

static uint64_t deflate_run(uint64_t ops)
{
	for (uint64_t i = 0; i < ops; i++) {
		if (!deflate_once())
			return 0;
	}
	bench_check = bench_digest(packed, packed_len);
	return ops;
}

static bool inflate_setup(void)
{
	return text_setup() && deflate_once();
}

static uint64_t inflate_run(uint64_t ops)
{
	for (uint64_t i = 0; i < ops; i++) {
		uLongf len = TEXT;

		if (uncompress((Bytef *)unpacked, &len, (const Bytef *)packed, packed_len) != Z_OK)
			return 0;
	}
	return unpacked_right() ? ops : 0;
}

static uint64_t bzip2_run(uint64_t ops)
{
	for (uint64_t i = 0; i < ops; i++) {
		unsigned len = PACKED;

		/* Blocks of 100 k: the least, still more than the text. */
		if (BZ2_bzBuffToBuffCompress(packed, &len, text, TEXT, 1, 0, 0) != BZ_OK ||
		    !check(len))
			return 0;
	}
	bench_check = bench_digest(packed, packed_len);
	return ops;
}

static ZSTD_CCtx *compressor;
static ZSTD_DCtx *decompressor;

static bool zstd_once(void)
{
	size_t len = ZSTD_compressCCtx(compressor, packed, PACKED, text, TEXT, 3);

	return !ZSTD_isError(len) && check(len);
}

static bool zstd_setup(void)
{
	compressor = ZSTD_createCCtx();
	return compressor && text_setup();
}

static uint64_t zstd_run(uint64_t ops)
{
	for (uint64_t i = 0; i < ops; i++) {
		if (!zstd_once())
			return 0;
	}
	bench_check = bench_digest(packed, packed_len);
	return ops;
}

static bool unzstd_setup(void)
{
	decompressor = ZSTD_createDCtx();
	return decompressor && zstd_setup() && zstd_once();
}

static uint64_t unzstd_run(uint64_t ops)
{
	for (uint64_t i = 0; i < ops; i++) {
		if (ZSTD_decompressDCtx(decompressor, unpacked, TEXT, packed, packed_len) != TEXT)
			return 0;
	}
	return unpacked_right() ? ops : 0;
}

const struct workload compress_workloads[] = {
	{ "deflate", "integer", text_setup, deflate_run, 0 },
	{ "inflate", "integer", inflate_setup, inflate_run, 0 },
	{ "bzip2", "integer", text_setup, bzip2_run, 0 },
	{ "zstd", "integer", zstd_setup, zstd_run, 0 },
	{ "unzstd", "integer", unzstd_setup, unzstd_run, 0 },
	{ 0 },
};
