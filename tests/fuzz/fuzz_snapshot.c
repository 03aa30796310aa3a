/*
 * The file of a snapshot: header and parts, and whatever of the state can be read
 * without a machine around it. The input is the file. Checksums are put right
 * first if the first byte of its padding says so, or the fuzzer would never get
 * past them.
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

/* Header, table and plain parts get the sums of what is there. */
static void put_right(uint8_t *file, size_t len)
{
	uint32_t count = bytes_load32(file + 12);

	memcpy(file, "INSULASN", 8);
	bytes_store32(file + 8, 1);
	bytes_store64(file + 16, len);
	for (uint32_t i = 0; i < count && i < SNAPSHOT_PARTS_MAX; i++) {
		uint8_t *part = file + AT_BEGIN + (size_t)i * 64;
		uint64_t offset = bytes_load64(part + 24), size = bytes_load64(part + 32);

		if (offset <= len && size <= len - offset)
			bytes_store32(part + 44, crc32c(0, file + offset, size));
	}
	bytes_store32(file + 24, 0);
	bytes_store32(file + 24, crc32c(0, file, HEADER));
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
	file = malloc(len);
	ASSERT(file);
	memcpy(file, bytes, len);
	if (len >= HEADER && file[HEADER - 1])
		put_right(file, len);
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
