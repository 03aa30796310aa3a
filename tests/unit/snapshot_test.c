/*
 * Snapshots with a real board and a kernel of a few bytes: restored it goes on
 * from where it was, saved again it is the same bytes, damaged it is refused.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/loop.h"
#include "bus/vclock.h"
#include "cpu/vcpu.h"
#include "engine/engine.h"
#include "mem/ram.h"
#include "state/crc32c.h"
#include "state/stream.h"
#include "vm/snapshot.h"
#include "vm/vm.h"

#define LOAD    0x100000u
#define COUNTER 0x200000u
#define MEM     (8u << 20)

/* 1: inc dword [COUNTER]; jmp 1b */
static const uint8_t count_for_ever[] = { 0xff, 0x05, 0x00, 0x00, 0x20, 0x00, 0xeb, 0xf8 };

struct machine {
	char path[64], file[80], second[80];
	struct loop *loop;
	struct vm *vm;
	struct vm_snapshot *snapshot;
	json_t *run;
};

static void sleep_ms(long ms)
{
	const struct timespec time = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 };

	nanosleep(&time, NULL);
}

static struct vm_options options_of(struct machine *m)
{
	struct vm_options options = {
		.board = { .mem_bytes = MEM, .cpus = 2, .loop = m->loop },
		.boot = { .kernel = m->path },
		.engine = engine_find("interpret"),
		.cpu_model = "x86-64-v2",
	};

	return options;
}

static int make(void **state)
{
	const uint32_t magic = 0x1badb002, flags = 0x10000;
	const uint32_t header[8] = { magic, flags, -(magic + flags), LOAD, LOAD, 0, 0, LOAD + 32 };
	struct machine *m = calloc(1, sizeof(*m));
	struct vm_options options;
	char error[VM_ERROR_MAX] = "";
	int fd;

	snprintf(m->path, sizeof(m->path), "/tmp/insula-snapshot-test-XXXXXX");
	fd = mkstemp(m->path);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, header, sizeof(header)), sizeof(header));
	assert_int_equal(write(fd, count_for_ever, sizeof(count_for_ever)), sizeof(count_for_ever));
	close(fd);
	snprintf(m->file, sizeof(m->file), "%s.snap", m->path);
	snprintf(m->second, sizeof(m->second), "%s.again", m->path);
	m->run = json_pack("{s:s}", "guest", "none");
	m->loop = loop_new();
	assert_int_equal(loop_start(m->loop), 0);
	options = options_of(m);
	m->vm = vm_new(&options, error);
	if (!m->vm)
		fail_msg("%s", error);
	assert_int_equal(vm_start(m->vm, error), 0);
	*state = m;
	return 0;
}

static void end_vm(struct machine *m)
{
	vm_free(m->vm);
	m->vm = NULL;
	vm_snapshot_close(m->snapshot);
	m->snapshot = NULL;
}

static int unmake(void **state)
{
	struct machine *m = *state;

	end_vm(m);
	loop_free(m->loop);
	json_decref(m->run);
	unlink(m->path);
	if (!getenv("KEEP")) {
		unlink(m->file);
		unlink(m->second);
	}
	free(m);
	return 0;
}

static uint32_t counter(struct machine *m)
{
	uint32_t value;

	assert_int_equal(ram_read(vm_board(m->vm)->ram, COUNTER, &value, sizeof(value)), 0);
	return value;
}

static void wait_for_progress(struct machine *m)
{
	uint32_t before = counter(m);

	for (unsigned i = 0; i < 20000 && counter(m) == before; i++)
		sleep_ms(1);
	assert_int_not_equal(counter(m), before);
}

static int take(struct machine *m, const char *file, bool compress, bool hold, char *error)
{
	struct snapshot_options options = { .path = file, .compress = compress, .hold = hold };
	struct snapshot_extra extra = { .run = m->run };
	struct snapshot_report report;

	*error = 0;
	return vm_snapshot(m->vm, &options, &extra, &report, error);
}

static void take_well(struct machine *m, const char *file, bool compress, bool hold)
{
	char error[SNAPSHOT_ERROR_MAX];

	if (take(m, file, compress, hold, error) < 0)
		fail_msg("%s", error);
}

/* A VM from the file, not started. NULL with a sentence. */
static bool open_vm(struct machine *m, const char *file, bool eager, char *error)
{
	struct vm_options options = options_of(m);
	struct snapshot_wishes wishes = { .eager = eager };

	m->snapshot = vm_snapshot_open(file, error);
	if (m->snapshot && vm_snapshot_apply(m->snapshot, &options, &wishes, error) == 0)
		m->vm = vm_new(&options, error);
	if (m->vm && vm_snapshot_check_all(m->snapshot, error) == 0)
		return true;
	end_vm(m);
	return false;
}

static void restore(struct machine *m, const char *file)
{
	char error[VM_ERROR_MAX];

	if (!open_vm(m, file, false, error))
		fail_msg("%s", error);
	assert_int_equal(vm_start(m->vm, error), 0);
}

/* It goes on from exactly there, guest time never goes back, any number of times. */
static void goes_on(struct machine *m, bool compress)
{
	uint32_t at;
	uint64_t ns;

	wait_for_progress(m);
	take_well(m, m->file, compress, true);
	assert_true(vm_is_held(m->vm));
	at = counter(m);
	ns = vclock_now_ns(vm_board(m->vm)->clock);
	assert_int_equal(vm_release(m->vm), 0);
	wait_for_progress(m);
	end_vm(m);
	for (unsigned round = 0; round < 3; round++) {
		restore(m, m->file);
		assert_true(vm_is_held(m->vm));
		assert_int_equal(counter(m), at);
		assert_int_equal(vclock_now_ns(vm_board(m->vm)->clock), ns);
		assert_int_equal(vm_release(m->vm), 0);
		assert_true(vclock_now_ns(vm_board(m->vm)->clock) > ns);
		wait_for_progress(m);
		end_vm(m);
	}
}

static void restored_goes_on(void **state)
{
	goes_on(*state, false);
}

static void restored_goes_on_from_zstd(void **state)
{
	goes_on(*state, true);
}

static uint8_t *slurp(const char *file, size_t *len)
{
	struct stat st;
	int fd = open(file, O_RDONLY);
	uint8_t *bytes;

	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &st), 0);
	*len = (size_t)st.st_size;
	bytes = malloc(*len + 1);
	assert_int_equal(read(fd, bytes, *len), *len);
	close(fd);
	return bytes;
}

/* Restored and, without an instruction in between, saved again: the same file, byte for byte. */
static void same_bytes(struct machine *m, bool compress)
{
	uint8_t *first, *second;
	size_t first_len, second_len;

	wait_for_progress(m);
	take_well(m, m->file, compress, true);
	end_vm(m);
	sleep_ms(1100); /* the wall clock's second is another one */
	restore(m, m->file);
	take_well(m, m->second, compress, false);
	first = slurp(m->file, &first_len);
	second = slurp(m->second, &second_len);
	assert_int_equal(first_len, second_len);
	assert_memory_equal(first, second, first_len);
	free(first);
	free(second);
	/* And once more from the second, after it has run a while: another file, which restores. */
	assert_int_equal(vm_release(m->vm), 0);
	wait_for_progress(m);
	take_well(m, m->second, compress, false);
	end_vm(m);
	restore(m, m->second);
	assert_int_equal(vm_release(m->vm), 0);
	wait_for_progress(m);
}

static void saved_again_is_the_same(void **state)
{
	same_bytes(*state, false);
}

static void saved_again_is_the_same_zstd(void **state)
{
	same_bytes(*state, true);
}

static void refused(struct machine *m, const char *what, uint64_t where)
{
	char error[VM_ERROR_MAX] = "";

	if (open_vm(m, m->file, true, error))
		fail_msg("%s at %llu was taken", what, (unsigned long long)where);
	assert_true(*error && !strchr(error, '\n'));
	assert_true(strstr(error, "snapshot") != NULL);
}

static void cut_anywhere(struct machine *m, bool compress)
{
	struct snapshot_file f;
	uint64_t cuts[4 * SNAPSHOT_PARTS_MAX + 8], whole;
	uint8_t *bytes;
	size_t len, count = 0;
	int fd;

	wait_for_progress(m);
	take_well(m, m->file, compress, false);
	end_vm(m);
	bytes = slurp(m->file, &len);
	assert_int_equal(snapshot_open(&f, m->file), 0);
	whole = f.file_bytes;
	for (uint64_t at = 0; at < 5; at++)
		cuts[count++] = at * 10;
	cuts[count++] = 4095;
	for (unsigned i = 0; i < f.count; i++) {
		cuts[count++] = f.parts[i].offset;
		cuts[count++] = f.parts[i].offset + f.parts[i].len / 2;
		cuts[count++] = f.parts[i].offset + f.parts[i].len - 1;
	}
	snapshot_close(&f);
	for (size_t i = 0; i < count; i++) {
		if (cuts[i] >= whole)
			continue;
		fd = open(m->file, O_WRONLY | O_TRUNC);
		assert_int_equal(write(fd, bytes, cuts[i]), cuts[i]);
		close(fd);
		refused(m, "a file cut", cuts[i]);
	}
	/* A byte too many. */
	fd = open(m->file, O_WRONLY | O_TRUNC);
	assert_int_equal(write(fd, bytes, len), len);
	assert_int_equal(write(fd, "", 1), 1);
	close(fd);
	refused(m, "a file with a byte too many", len);
	free(bytes);
}

static void cut_is_refused(void **state)
{
	cut_anywhere(*state, false);
}

static void cut_is_refused_zstd(void **state)
{
	cut_anywhere(*state, true);
}

/* Any single bit anywhere; most often where there is anything but zero pages. */
static void flip(struct machine *m, bool compress, unsigned rounds)
{
	struct snapshot_file f;
	uint64_t seed = 1;
	uint8_t byte;
	int fd;

	wait_for_progress(m);
	take_well(m, m->file, compress, false);
	end_vm(m);
	assert_int_equal(snapshot_open(&f, m->file), 0);
	fd = open(m->file, O_RDWR);
	for (unsigned i = 0; i < rounds; i++) {
		const struct snapshot_part *part;
		uint64_t at;

		seed = seed * 6364136223846793005ull + 1442695040888963407ull;
		part = &f.parts[(seed >> 33) % f.count];
		at = i % 4 == 0   ? (seed >> 20) % 4096
		     : i % 4 == 1 ? (seed >> 20) % f.file_bytes
				  : part->offset + (seed >> 40) % part->len;
		assert_int_equal(pread(fd, &byte, 1, (off_t)at), 1);
		byte ^= (uint8_t)(1u << (seed >> 60 & 7));
		assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
		refused(m, "a bit flipped", at);
		byte ^= (uint8_t)(1u << (seed >> 60 & 7));
		assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
	}
	close(fd);
	snapshot_close(&f);
	restore(m, m->file);
	assert_int_equal(vm_release(m->vm), 0);
	wait_for_progress(m);
}

static void flips_are_refused(void **state)
{
	flip(*state, false, 400);
}

static void flips_are_refused_zstd(void **state)
{
	flip(*state, true, 200);
}

/* Without comparing RAM first: the page is found damaged when it is touched, and never seen. */
static void damage_is_found_when_touched(void **state)
{
	struct machine *m = *state;
	struct vm_end end;
	uint8_t byte;
	int fd;

	wait_for_progress(m);
	take_well(m, m->file, false, false);
	end_vm(m);
	fd = open(m->file, O_RDWR);
	assert_int_equal(pread(fd, &byte, 1, SNAPSHOT_RAM_OFFSET + COUNTER + 100), 1);
	byte ^= 4;
	assert_int_equal(pwrite(fd, &byte, 1, SNAPSHOT_RAM_OFFSET + COUNTER + 100), 1);
	close(fd);
	restore(m, m->file);
	assert_int_equal(vm_release(m->vm), 0);
	vm_wait(m->vm, &end);
	assert_int_equal(end.reason, STOP_HOST_ERROR);
	assert_non_null(strstr(end.detail, "0x200000"));
	assert_int_equal(ram_read(vm_board(m->vm)->ram, COUNTER + 100, &byte, 1), 0);
	assert_int_equal(byte, 0);
}

/* A later format, an unknown part's encoding, a section that nobody knows. */
static void unknown_is_refused(void **state)
{
	struct machine *m = *state;
	char error[VM_ERROR_MAX];
	uint32_t version = 2;
	int fd;

	wait_for_progress(m);
	take_well(m, m->file, false, false);
	end_vm(m);
	fd = open(m->file, O_RDWR);
	assert_int_equal(pwrite(fd, &version, 4, 8), 4);
	assert_false(open_vm(m, m->file, true, error));
	assert_non_null(strstr(error, "has format 2"));
	assert_int_equal(ftruncate(fd, 0), 0);
	assert_false(open_vm(m, m->file, true, error));
	assert_non_null(strstr(error, "not a snapshot"));
	close(fd);
	unlink(m->file);
	assert_false(open_vm(m, m->file, true, error));
	assert_non_null(strstr(error, "No such file"));
	assert_false(open_vm(m, "/dev/null", true, error));
	assert_non_null(strstr(error, "no regular file"));
}

/* What cannot be written leaves the earlier file, no other, and a VM that runs. */
static void full_disk_leaves_the_old(void **state)
{
	struct machine *m = *state;
	struct rlimit old, limit;
	char error[SNAPSHOT_ERROR_MAX], partial[160];
	uint8_t *before, *after;
	size_t before_len, after_len;
	int err;

	signal(SIGXFSZ, SIG_IGN);
	wait_for_progress(m);
	take_well(m, m->file, false, false);
	before = slurp(m->file, &before_len);
	snprintf(partial, sizeof(partial), "/tmp/.%s.partial", m->file + strlen("/tmp/"));
	getrlimit(RLIMIT_FSIZE, &old);
	for (unsigned step = 0; step < 40; step++) {
		limit = old;
		limit.rlim_cur = step < 8    ? step * 700
				 : step < 24 ? MEM / 16 * (step - 7)
					     : before_len - (40 - step);
		setrlimit(RLIMIT_FSIZE, &limit);
		err = take(m, m->file, false, false, error);
		setrlimit(RLIMIT_FSIZE, &old);
		assert_int_equal(err, -EFBIG);
		assert_non_null(strstr(error, "File too large"));
		assert_int_equal(access(partial, F_OK), -1);
		assert_false(vm_is_held(m->vm));
	}
	after = slurp(m->file, &after_len);
	assert_int_equal(before_len, after_len);
	assert_memory_equal(before, after, before_len);
	free(before);
	free(after);
	assert_int_equal(take(m, "/nowhere/at/all", false, true, error), -ENOENT);
	assert_false(vm_is_held(m->vm));
	wait_for_progress(m);
	/* What a crash has left behind is taken over. */
	close(open(partial, O_CREAT | O_WRONLY, 0600));
	take_well(m, m->file, false, false);
	assert_int_equal(access(partial, F_OK), -1);
}

/* Values that no guest could have brought about, in a file whose checksums are right. */
static void hostile_state_is_refused(void **state)
{
	struct machine *m = *state;
	static const struct {
		const char *field;
		uint8_t size;
		uint64_t value;
	} wrong[] = {
		{ "cpl", 1, 4 },          { "activity", 1, 9 },
		{ "shadow", 1, 7 },       { "cr0", 8, 1ull << 31 },
		{ "cr4", 8, 1ull << 40 }, { "efer", 8, 1ull << 10 },
		{ "xcr0", 8, 1ull << 9 }, { "cr3", 8, 1ull << 60 },
		{ "now_ns", 8, ~0ull },   { "cpus", 4, 0 },
		{ "cpus", 4, 3 },         { "mem_bytes", 8, 12345 },
		{ "disks", 4, 17 },       { "base_msr", 8, 1ull << 60 },
	};

	wait_for_progress(m);
	take_well(m, m->file, false, false);
	end_vm(m);
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		struct snapshot_file f;
		const struct snapshot_part *part;
		uint8_t *bytes, *at, header[4096];
		size_t len, name_len = strlen(wrong[i].field);
		char error[VM_ERROR_MAX];
		uint64_t old;
		int fd = open(m->file, O_RDWR);

		assert_int_equal(snapshot_open(&f, m->file), 0);
		part = snapshot_find(&f, "state");
		len = part->len;
		bytes = malloc(len);
		assert_int_equal(pread(fd, bytes, len, (off_t)part->offset), len);
		/* The first field of that name: its name, type, count, value. */
		for (at = bytes; at < bytes + len - name_len; at++)
			if (at[0] == name_len && !memcmp(at + 1, wrong[i].field, name_len))
				break;
		at += 1 + name_len + 5;
		old = 0;
		memcpy(&old, at, wrong[i].size);
		memcpy(at, &wrong[i].value, wrong[i].size);
		for (int turn = 0; turn < 2; turn++) {
			/* Every checksum anew: sections, part, header. */
			uint8_t *s = bytes + 12;

			while (bytes_load32(s) == 0x54434553) {
				uint8_t *crc = s + 5 + s[4] + 8;
				uint32_t size = bytes_load32(crc - 4);

				bytes_store32(crc, crc32c(crc32c(0, s, (size_t)(crc - s)), crc + 4,
							  size));
				s = crc + 4 + size;
			}
			assert_int_equal(pwrite(fd, bytes, len, (off_t)part->offset), len);
			assert_int_equal(pread(fd, header, sizeof(header), 0), sizeof(header));
			bytes_store32(header + 64 + (size_t)(part - f.parts) * 64 + 44,
				      crc32c(0, bytes, len));
			bytes_store32(header + 24, 0);
			bytes_store32(header + 24, crc32c(0, header, sizeof(header)));
			assert_int_equal(pwrite(fd, header, sizeof(header), 0), sizeof(header));
			if (turn == 0) {
				if (open_vm(m, m->file, true, error))
					fail_msg("%s was taken", wrong[i].field);
				assert_non_null(strstr(error, "refused"));
				memcpy(at, &old, wrong[i].size);
			}
		}
		close(fd);
		free(bytes);
		snapshot_close(&f);
	}
	restore(m, m->file);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, make, unmake)
	const struct CMUnitTest tests[] = {
		TEST(restored_goes_on),
		TEST(restored_goes_on_from_zstd),
		TEST(saved_again_is_the_same),
		TEST(saved_again_is_the_same_zstd),
		TEST(cut_is_refused),
		TEST(cut_is_refused_zstd),
		TEST(flips_are_refused),
		TEST(flips_are_refused_zstd),
		TEST(damage_is_found_when_touched),
		TEST(unknown_is_refused),
		TEST(full_disk_leaves_the_old),
		TEST(hostile_state_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
