/* The pure parts of the command line: options, sizes, the keys that leave, the console's tail. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/loop.h"
#include "chardev/chardev_memory.h"
#include "cli/chardev_escape.h"
#include "cli/chardev_tail.h"
#include "cli/run_options.h"
#include "cli/terminal.h"
#include "cli/verb.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static char last_error[1024];

static void sizes(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes; /* UINT64_MAX: refused */
	} cases[] = {
		{ "512M", 512ull << 20 },
		{ "1g", 1ull << 30 },
		{ "64K", 64 << 10 },
		{ "7B", 7 },
		{ "2T", 2ull << 40 },
		{ "512", UINT64_MAX },
		{ "M", UINT64_MAX },
		{ "", UINT64_MAX },
		{ "-1M", UINT64_MAX },
		{ "1.5G", UINT64_MAX },
		{ "99999999999T", UINT64_MAX },
		{ "18446744073709551616B", UINT64_MAX },
		{ "1MM", UINT64_MAX },
		{ " 1M", UINT64_MAX },
		{ "0x10M", UINT64_MAX },
		{ "11111111111111111111111111111M", UINT64_MAX },
	};

	for (size_t i = 0; i < COUNT(cases); i++) {
		uint64_t bytes = 0;
		bool ok = size_parse(cases[i].text, &bytes);

		assert_int_equal(ok, cases[i].bytes != UINT64_MAX);
		if (ok)
			assert_int_equal(bytes, cases[i].bytes);
	}
}

static void suggestions(void **state)
{
	static const char *const list[] = { "kernel", "initrd", "mem", NULL };

	assert_string_equal(nearest_word("kernal", list), "kernel");
	assert_string_equal(nearest_word("memm", list), "mem");
	assert_null(nearest_word("zebra", list));
	assert_null(nearest_word("an-option-that-is-much-longer-than-any-that-there-is", list));
}

static int parse(struct run_options *run, const char *line)
{
	static char copy[512];
	static char *argv[32];
	int argc = 0;

	FILE *real = stderr;
	int status;

	memset(last_error, 0, sizeof(last_error));
	snprintf(copy, sizeof(copy), "run %s", line);
	for (char *word = strtok(copy, " "); word; word = strtok(NULL, " "))
		argv[argc++] = word;
	argv[argc] = NULL;
	stderr = fmemopen(last_error, sizeof(last_error), "w");
	status = run_options_parse(run, &verb_run, argc, argv);
	fclose(stderr);
	stderr = real;
	return status;
}

static void options_accepted(void **state)
{
	struct run_options run;

	assert_int_equal(parse(&run, ""), -1);
	assert_string_equal(run.guest, "debian");
	assert_int_equal(run.mem_bytes, 512 << 20);
	assert_int_equal(run.cpus, 1);
	assert_null(run.command);
	run_options_fini(&run);

	assert_int_equal(
		parse(&run,
		      "--kernel k --initrd=a,b,,c --initrd d --disk x.img,ro --disk y --mem 1G "
		      "--cpus 2 --engine interpret --cpu x86-64-v2 --debug-exit --no-reboot"),
		-1);
	assert_null(run.guest);
	assert_int_equal(run.module_count, 3);
	assert_string_equal(run.modules[0], "a");
	assert_string_equal(run.modules[1], "b,c");
	assert_string_equal(run.modules[2], "d");
	assert_int_equal(run.disk_count, 2);
	assert_string_equal(run.disks[0].path, "x.img");
	assert_true(run.disks[0].read_only);
	assert_false(run.disks[1].read_only);
	assert_true(run.debug_exit && run.no_reboot);
	run_options_fini(&run);

	assert_int_equal(parse(&run, "debian -- echo --mem hello"), -1);
	assert_string_equal(run.command[0], "echo");
	assert_string_equal(run.command[1], "--mem");
	assert_null(run.command[3]);
	run_options_fini(&run);
}

static void options_refused(void **state)
{
	static const struct {
		const char *line, *says;
	} cases[] = {
		{ "--kernal k", "unknown option --kernal; did you mean --kernel?" },
		{ "--kern=k", "unknown option --kern" },
		{ "-x", "unknown option -x" },
		{ "--", "no COMMAND after --" },
		{ "--mem", "--mem needs a value" },
		{ "--mem 512", "--mem 512 is not a size" },
		{ "--mem 1M", "too small" },
		{ "--mem 2T", "too large" },
		{ "--mem 5000K --mem 4097B", "too small" },
		{ "--mem 8388609B", "not a multiple of 4K" },
		{ "--cpus 0", "--cpus 0: a number from 1" },
		{ "--cpus 256", "--cpus 256: a number from 1" },
		{ "--cpus -1", "--cpus -1: a number from 1" },
		{ "--engine fast", "--engine fast is unknown" },
		{ "--engine interpet", "did you mean interpret?" },
		{ "--cpu x86-64-v4", "--cpu x86-64-v4 is unknown; did you mean x86-64-v" },
		{ "--cpu 486", "known are x86-64-v2, x86-64-v3, host" },
		{ "--disk a.img,rx", "unknown flag rx" },
		{ "--disk ,ro", "the file name is empty" },
		{ "--kernel k debian", "not both" },
		{ "--kernel k -- ls", "needs a guest" },
		{ "--initrd i", "goes with --kernel" },
		{ "--kernel k --initrd a,,,b,", "a file name is empty" },
		{ "debian ls", "a COMMAND goes behind --" },
		{ "--debug-exit=1", "--debug-exit takes no value" },
		{ "--kernel a --kernel b", "given twice" },
	};

	for (size_t i = 0; i < COUNT(cases); i++) {
		struct run_options run;

		assert_int_equal(parse(&run, cases[i].line), STATUS_USAGE);
		if (!strstr(last_error, cases[i].says))
			fail_msg("%s: said \"%s\"", cases[i].line, last_error);
		assert_ptr_equal(strchr(last_error, '\n'), last_error + strlen(last_error) - 1);
		run_options_fini(&run);
	}
}

static void escape_keys(void **state)
{
	static const struct {
		const char *in, *out;
		bool quit;
	} cases[] = {
		{ "abc", "abc", false },
		{ "a\x1dqb", "a", true },
		{ "a\x1d\x1d"
		  "b",
		  "a\x1d"
		  "b",
		  false },
		{ "a\x1dxb", "a\x1dxb", false },
		{ "\x1d\x1dq", "\x1dq", false },
		{ "q\x1d", "q", false },
	};

	for (size_t i = 0; i < COUNT(cases); i++) {
		/* All at once, and byte by byte: a key press may be split anywhere. */
		for (int split = 0; split < 2; split++) {
			struct escape escape = { 0 };
			size_t len = strlen(cases[i].in), made = 0;
			uint8_t out[64];
			bool quit = false;

			if (!split)
				made = escape_filter(&escape, (const uint8_t *)cases[i].in, len,
						     out, &quit);
			for (size_t n = 0; split && n < len && !quit; n++)
				made += escape_filter(&escape, (const uint8_t *)cases[i].in + n, 1,
						      out + made, &quit);
			assert_int_equal(quit, cases[i].quit);
			assert_int_equal(made, strlen(cases[i].out));
			assert_memory_equal(out, cases[i].out, made);
		}
	}
}

struct reader {
	size_t room, got;
	uint8_t bytes[64];
	bool quit;
};

static size_t reader_room(void *ctx)
{
	return ((struct reader *)ctx)->room;
}

static void reader_receive(void *ctx, const uint8_t *bytes, size_t count)
{
	struct reader *reader = ctx;

	assert_true(count <= reader->room);
	memcpy(reader->bytes + reader->got, bytes, count);
	reader->got += count;
	reader->room -= count;
}

static void reader_quit(void *ctx)
{
	((struct reader *)ctx)->quit = true;
}

/* A guest that takes nothing must not keep the user from leaving, and must get all later. */
static void escape_reads_ahead(void **state)
{
	struct loop *loop = loop_new();
	struct chardev *inner = chardev_memory_new(1024), *keys;
	struct reader reader = { .room = 1 };
	const struct chardev_frontend front = {
		.room = reader_room,
		.receive = reader_receive,
		.ctx = &reader,
	};

	keys = chardev_escape_new(loop, inner, reader_quit, &reader);
	assert_non_null(keys);
	chardev_connect(keys, &front);
	chardev_memory_inject(inner, "hello", 5);
	assert_int_equal(reader.got, 1);
	assert_int_equal(chardev_memory_queued(inner), 0);
	reader.room = 10;
	chardev_memory_inject(inner, "!\x1dq", 3);
	assert_true(reader.quit);
	assert_int_equal(reader.got, 6);
	assert_memory_equal(reader.bytes, "hello!", 6);
	chardev_free(keys);
	chardev_free(inner);
	loop_free(loop);
}

static void tail_keeps_the_end(void **state)
{
	struct chardev *tail = chardev_tail_new();
	char *text;
	size_t len;
	FILE *out;

	for (unsigned i = 0; i < 2000; i++) {
		char line[32];
		int count = snprintf(line, sizeof(line), "line %u\r\n", i);

		assert_int_equal(chardev_write(tail, (const uint8_t *)line, (size_t)count), count);
	}
	chardev_write(tail, (const uint8_t *)"\x1b[31mred", 8);
	out = open_memstream(&text, &len);
	chardev_tail_print(tail, out, "> ");
	fclose(out);
	assert_true(len < 8192);
	assert_int_equal(strncmp(text, "> line ", 7), 0);
	assert_non_null(strstr(text, "\n> line 1999\n> [31mred\n"));
	assert_null(strchr(text, '\x1b'));
	free(text);
	chardev_free(tail);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sizes),
		cmocka_unit_test(suggestions),
		cmocka_unit_test(options_accepted),
		cmocka_unit_test(options_refused),
		cmocka_unit_test(escape_keys),
		cmocka_unit_test(escape_reads_ahead),
		cmocka_unit_test(tail_keeps_the_end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
