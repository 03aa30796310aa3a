/*
 * The file of a snapshot: header and parts, and whatever of the state can be read
 * without a machine around it. The input is the file; or, if it begins with a
 * zero byte, what a file with right checksums is made of, or the fuzzer would
 * never get past those.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/bytes.h"
#include "state/crc32c.h"
#include "state/stream.h"
#include "vm/snapshot.h"
#include "vm/snapshot_file.h"

#define HEADER   4096u
#define LEN_MAX  (256u << 10)
#define AT_BEGIN 64u

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

static const char *const names[] = { "run", "state", "session", "ram", "ram.sums", "other" };

/*
 * A file whose header and sums are right: of each part the input says the gap
 * before it, its encoding and its length, then come the contents.
 */
static size_t compose(uint8_t *file, const uint8_t *bytes, size_t len)
{
	size_t count = sizeof(names) / sizeof(names[0]), head = 1 + 4 * count, at = HEADER;

	if (len < head)
		return 0;
	memset(file, 0, HEADER);
	memcpy(file, "INSULASN", 8);
	bytes_store32(file + 8, 1);
	bytes_store32(file + 12, (uint32_t)count);
	for (size_t i = 0; i < count; i++) {
		const uint8_t *say = bytes + 1 + 4 * i;
		size_t size = bytes_load16(say + 2), left = len - head;
		uint8_t *part = file + AT_BEGIN + i * 64;

		size = size < left ? size : left;
		memset(file + at, 0, say[0]);
		at += say[0];
		memcpy(file + at, bytes + head, size);
		strcpy((char *)part, names[i]);
		bytes_store64(part + 24, at);
		bytes_store64(part + 32, size);
		bytes_store32(part + 40, say[1]);
		bytes_store32(part + 44, crc32c(0, file + at, size));
		at += size;
		head += size;
	}
	bytes_store64(file + 16, at);
	bytes_store32(file + 24, crc32c(0, file, HEADER));
	return at;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
	char path[64], error[SNAPSHOT_ERROR_MAX] = "";
	struct vm_snapshot *snapshot;
	uint8_t *file;
	int fd;

	if (!len || len > LEN_MAX)
		return 0;
	fd = memfd_create("fuzz", MFD_CLOEXEC);
	ASSERT(fd >= 0);
	file = malloc(len + HEADER + 8 * 256);
	ASSERT(file);
	if (bytes[0])
		memcpy(file, bytes, len);
	else
		len = compose(file, bytes, len);
	ASSERT(write(fd, file, len) == (ssize_t)len);
	free(file);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	snapshot = vm_snapshot_open(path, error);
	if (snapshot) {
		json_t *json = state_stream_to_json(vm_snapshot_state(snapshot));
		size_t session_len;

		ASSERT(json_is_object(json) && json_is_object(vm_snapshot_run(snapshot)));
		json_decref(json);
		vm_snapshot_session(snapshot, &session_len);
		ASSERT(vm_snapshot_check_all(snapshot, error) <= 0);
		vm_snapshot_close(snapshot);
	} else {
		ASSERT(*error && !strchr(error, '\n'));
	}
	close(fd);
	return 0;
}
