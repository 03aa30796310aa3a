/*
 * See the header. Called by vm/snapshot.c. Invariant: the name a person gave
 * stands for a complete snapshot or for what was there before, at every moment.
 */
#include "vm/snapshot_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/bytes.h"
#include "state/crc32c.h"

#define MAGIC         "INSULASN"
#define MAGIC_LEN     8
#define VERSION       1u
#define HEADER_BYTES  4096u
#define AT_VERSION    8
#define AT_COUNT      12
#define AT_FILE_BYTES 16
#define AT_CRC        24
#define AT_PARTS      64
#define PART_BYTES    64
#define PART_OFFSET   24
#define PART_LEN      32
#define PART_ENCODING 40
#define PART_CRC      44
#define GAP_MAX       4096u       /* between two parts, all zeroes */
#define PLAIN_MAX     (16u << 20) /* of one PLAIN part */
#define DEFAULT_NAME  "snapshot"
#define SUFFIX        ".partial"

_Static_assert(AT_PARTS + SNAPSHOT_PARTS_MAX * PART_BYTES <= HEADER_BYTES, "the parts fit");

static int __attribute__((format(printf, 3, 4))) fail(char *error, int err, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(error, SNAPSHOT_ERROR_MAX, format, args);
	va_end(args);
	return err;
}

/* ---- writing ---- */

/* Cuts a path into the folder it lies in, opened, and its name there. */
static int find_place(struct snapshot_writer *w, const char *path)
{
	char *folder = NULL, *slash;
	struct stat st;
	int err = 0;

	if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) {
		folder = strdup(path);
		w->name = strdup(DEFAULT_NAME);
	} else {
		folder = strdup(path);
		slash = folder ? strrchr(folder, '/') : NULL;
		w->name = strdup(slash ? slash + 1 : path);
		if (slash == folder && folder)
			slash++;
		if (slash)
			*slash = '\0';
		else if (folder)
			strcpy(folder, *folder ? "." : "");
	}
	if (!folder || !w->name || asprintf(&w->temporary, ".%s" SUFFIX, w->name) < 0) {
		w->temporary = NULL;
		err = fail(w->error, -ENOMEM, "out of memory");
	} else if (!*w->name) {
		err = fail(w->error, -EISDIR, "%s: the folder does not exist", path);
	} else {
		w->folder = open(*folder ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (w->folder < 0)
			err = fail(w->error, -errno, "cannot write %s: %s", path, strerror(errno));
	}
	free(folder);
	return err;
}

int snapshot_create(struct snapshot_writer *w, const char *path)
{
	struct stat here, there;
	int err;

	*w = (struct snapshot_writer){ .fd = -1, .folder = -1, .end = HEADER_BYTES };
	err = find_place(w, path);
	if (err)
		return err;
	w->fd = openat(w->folder, w->temporary, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (w->fd < 0)
		return fail(w->error, -errno, "cannot write %s: %s", path, strerror(errno));
	/* Left by a crash it is nobody's; another snapshot's it is locked, and soon renamed. */
	if (flock(w->fd, LOCK_EX | LOCK_NB) < 0 || fstat(w->fd, &here) < 0 ||
	    fstatat(w->folder, w->temporary, &there, AT_SYMLINK_NOFOLLOW) < 0 ||
	    here.st_ino != there.st_ino) {
		close(w->fd);
		w->fd = -1;
		return fail(w->error, -EBUSY, "another snapshot is being written to %s", path);
	}
	if (!S_ISREG(here.st_mode) || ftruncate(w->fd, 0) < 0)
		return fail(w->error, -EINVAL, "cannot write %s", path);
	return 0;
}

int snapshot_write(struct snapshot_writer *w, uint64_t offset, const void *bytes, size_t len)
{
	const uint8_t *at = bytes;

	if (offset + len > w->end)
		w->end = offset + len;
	while (len) {
		ssize_t put = pwrite(w->fd, at, len, (off_t)offset);

		if (put < 0 && errno == EINTR)
			continue;
		if (put <= 0)
			return fail(w->error, put < 0 ? -errno : -EIO,
				    "cannot write the snapshot: %s",
				    put < 0 ? strerror(errno) : "nothing was written");
		at += put;
		len -= (size_t)put;
		offset += (uint64_t)put;
	}
	return 0;
}

int snapshot_extend(struct snapshot_writer *w, uint64_t end)
{
	if (end <= w->end)
		return 0;
	if (ftruncate(w->fd, (off_t)end) < 0)
		return fail(w->error, -errno, "cannot write the snapshot: %s", strerror(errno));
	w->end = end;
	return 0;
}

int snapshot_name_part(struct snapshot_writer *w, const char *name, uint64_t offset, uint64_t len,
		       enum snapshot_encoding encoding, uint32_t crc)
{
	struct snapshot_part *part = &w->parts[w->count];

	ASSERT(strlen(name) <= SNAPSHOT_NAME_MAX);
	if (w->count == SNAPSHOT_PARTS_MAX)
		return fail(w->error, -ENOSPC, "the machine has too many parts for a snapshot");
	*part = (struct snapshot_part){
		.offset = offset, .len = len, .encoding = encoding, .crc = crc
	};
	strcpy(part->name, name);
	w->count++;
	if (offset + len > w->end)
		w->end = offset + len;
	return 0;
}

int snapshot_add(struct snapshot_writer *w, const char *name, const void *bytes, size_t len)
{
	uint64_t offset = (w->end + 7) & ~7ull;
	int err = snapshot_write(w, offset, bytes, len);

	if (err)
		return err;
	return snapshot_name_part(w, name, offset, len, SNAPSHOT_PLAIN, crc32c(0, bytes, len));
}

static int write_header(struct snapshot_writer *w)
{
	uint8_t header[HEADER_BYTES] = { 0 };

	memcpy(header, MAGIC, MAGIC_LEN);
	bytes_store32(header + AT_VERSION, VERSION);
	bytes_store32(header + AT_COUNT, w->count);
	bytes_store64(header + AT_FILE_BYTES, w->end);
	for (unsigned i = 0; i < w->count; i++) {
		uint8_t *at = header + AT_PARTS + (size_t)i * PART_BYTES;
		const struct snapshot_part *part = &w->parts[i];

		memcpy(at, part->name, SNAPSHOT_NAME_MAX);
		bytes_store64(at + PART_OFFSET, part->offset);
		bytes_store64(at + PART_LEN, part->len);
		bytes_store32(at + PART_ENCODING, part->encoding);
		bytes_store32(at + PART_CRC, part->crc);
	}
	bytes_store32(header + AT_CRC, crc32c(0, header, sizeof(header)));
	return snapshot_write(w, 0, header, sizeof(header));
}

int snapshot_commit(struct snapshot_writer *w)
{
	int err = write_header(w);

	if (err)
		return err;
	/* A hole at the end has not made the file as long as it is. */
	if (ftruncate(w->fd, (off_t)w->end) < 0 || fsync(w->fd) < 0)
		return fail(w->error, -errno, "cannot write the snapshot: %s", strerror(errno));
	if (renameat(w->folder, w->temporary, w->folder, w->name) < 0)
		return fail(w->error, -errno, "cannot put the snapshot in its place: %s",
			    strerror(errno));
	free(w->temporary);
	w->temporary = NULL;
	if (fsync(w->folder) < 0)
		return fail(w->error, -errno, "cannot write the snapshot's folder: %s",
			    strerror(errno));
	return 0;
}

void snapshot_discard(struct snapshot_writer *w)
{
	/* While the lock is held: nobody else's. */
	if (w->temporary && w->fd >= 0)
		unlinkat(w->folder, w->temporary, 0);
	if (w->fd >= 0)
		close(w->fd);
	if (w->folder >= 0)
		close(w->folder);
	free(w->temporary);
	free(w->name);
	w->fd = w->folder = -1;
	w->temporary = w->name = NULL;
}

/* ---- reading ---- */

static int read_at(struct snapshot_file *f, uint64_t offset, void *bytes, size_t len)
{
	uint8_t *to = bytes;

	while (len) {
		ssize_t got = pread(f->fd, to, len, (off_t)offset);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return fail(f->error, got < 0 ? -errno : -EIO, "cannot be read at %llu: %s",
				    (unsigned long long)offset,
				    got < 0 ? strerror(errno) : "it ends there");
		to += got;
		len -= (size_t)got;
		offset += (uint64_t)got;
	}
	return 0;
}

/* Also what no part owns is as it was written, so that every bit of the file counts. */
static int check_gap(struct snapshot_file *f, uint64_t from, uint64_t to)
{
	uint8_t gap[GAP_MAX];
	int err;

	if (to < from || to - from > GAP_MAX)
		return fail(f->error, -EINVAL, "is damaged: a part begins at %llu",
			    (unsigned long long)to);
	err = read_at(f, from, gap, (size_t)(to - from));
	for (uint64_t i = 0; !err && i < to - from; i++)
		if (gap[i])
			err = fail(f->error, -EINVAL, "is damaged at %llu",
				   (unsigned long long)(from + i));
	return err;
}

static bool name_sound(const char *name)
{
	size_t len = strnlen(name, SNAPSHOT_NAME_MAX);

	for (size_t i = 0; i < len; i++)
		if (name[i] <= ' ' || name[i] > '~')
			return false;
	return len;
}

static int parse_parts(struct snapshot_file *f, const uint8_t *header, uint32_t count)
{
	uint64_t end = HEADER_BYTES;
	int err;

	for (uint32_t i = 0; i < count; i++) {
		const uint8_t *at = header + AT_PARTS + (size_t)i * PART_BYTES;
		struct snapshot_part *part = &f->parts[i];

		memcpy(part->name, at, SNAPSHOT_NAME_MAX);
		part->offset = bytes_load64(at + PART_OFFSET);
		part->len = bytes_load64(at + PART_LEN);
		part->encoding = bytes_load32(at + PART_ENCODING);
		part->crc = bytes_load32(at + PART_CRC);
		if (!name_sound(part->name) || snapshot_find(f, part->name))
			return fail(f->error, -EINVAL, "is damaged: part %u has no good name", i);
		if (part->encoding > SNAPSHOT_ZSTD)
			return fail(f->error, -EINVAL,
				    "part %s is written in a way this Insula does not know",
				    part->name);
		if (part->offset < end || part->offset > f->file_bytes ||
		    part->len > f->file_bytes - part->offset)
			return fail(f->error, -EINVAL, "is damaged: part %s lies at %llu",
				    part->name, (unsigned long long)part->offset);
		err = check_gap(f, end, part->offset);
		if (err)
			return err;
		end = part->offset + part->len;
		f->count++;
	}
	return check_gap(f, end, f->file_bytes);
}

static int parse(struct snapshot_file *f)
{
	uint8_t header[HEADER_BYTES];
	uint32_t crc, count;
	uint64_t file_bytes;
	struct stat st;
	int err;

	if (fstat(f->fd, &st) < 0)
		return fail(f->error, -errno, "%s", strerror(errno));
	if (!S_ISREG(st.st_mode))
		return fail(f->error, -EINVAL, "is no regular file");
	if (st.st_size < MAGIC_LEN + 4)
		return fail(f->error, -EINVAL, "is not a snapshot of Insula");
	err = read_at(f, 0, header, MAGIC_LEN + 4);
	if (err)
		return err;
	if (memcmp(header, MAGIC, MAGIC_LEN) != 0)
		return fail(f->error, -EINVAL, "is not a snapshot of Insula");
	if (bytes_load32(header + AT_VERSION) != VERSION)
		return fail(f->error, -EINVAL,
			    "has format %u; this Insula knows format %u: take a newer one",
			    bytes_load32(header + AT_VERSION), VERSION);
	if (st.st_size < HEADER_BYTES)
		return fail(f->error, -EINVAL, "is cut short within its header");
	err = read_at(f, 0, header, sizeof(header));
	if (err)
		return err;
	crc = bytes_load32(header + AT_CRC);
	bytes_store32(header + AT_CRC, 0);
	if (crc32c(0, header, sizeof(header)) != crc)
		return fail(f->error, -EINVAL, "is damaged: the checksum of its header differs");
	file_bytes = bytes_load64(header + AT_FILE_BYTES);
	if (file_bytes != (uint64_t)st.st_size)
		return fail(f->error, -EINVAL, "%s: it has %llu bytes of %llu",
			    (uint64_t)st.st_size < file_bytes ? "is cut short" : "is too long",
			    (unsigned long long)st.st_size, (unsigned long long)file_bytes);
	f->file_bytes = file_bytes;
	count = bytes_load32(header + AT_COUNT);
	if (count > SNAPSHOT_PARTS_MAX)
		return fail(f->error, -EINVAL, "is damaged: it has %u parts", count);
	return parse_parts(f, header, count);
}

int snapshot_open_fd(struct snapshot_file *f, int fd)
{
	int err;

	*f = (struct snapshot_file){ .fd = fd };
	err = parse(f);
	if (err)
		snapshot_close(f);
	return err;
}

int snapshot_open(struct snapshot_file *f, const char *path)
{
	char *within = NULL;
	struct stat st;
	int fd;

	if (stat(path, &st) == 0 && S_ISDIR(st.st_mode) &&
	    asprintf(&within, "%s/" DEFAULT_NAME, path) < 0)
		within = NULL;
	fd = open(within ? within : path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	free(within);
	if (fd < 0) {
		*f = (struct snapshot_file){ .fd = -1 };
		return fail(f->error, -errno, "%s", strerror(errno));
	}
	return snapshot_open_fd(f, fd);
}

void snapshot_close(struct snapshot_file *f)
{
	if (f->fd >= 0)
		close(f->fd);
	f->fd = -1;
	f->count = 0;
}

const struct snapshot_part *snapshot_find(const struct snapshot_file *f, const char *name)
{
	for (unsigned i = 0; i < f->count; i++)
		if (strcmp(f->parts[i].name, name) == 0)
			return &f->parts[i];
	return NULL;
}

int snapshot_read(struct snapshot_file *f, const char *name, uint8_t **bytes, size_t *len)
{
	const struct snapshot_part *part = snapshot_find(f, name);
	int err;

	*bytes = NULL;
	if (!part)
		return fail(f->error, -ENOENT, "has no part %s", name);
	if (part->encoding != SNAPSHOT_PLAIN || part->len > PLAIN_MAX)
		return fail(f->error, -EINVAL, "is damaged: part %s has %llu bytes", name,
			    (unsigned long long)part->len);
	*bytes = malloc(part->len + 1);
	if (!*bytes)
		return fail(f->error, -ENOMEM, "there is no memory to read part %s", name);
	(*bytes)[part->len] = 0;
	err = read_at(f, part->offset, *bytes, part->len);
	if (!err && crc32c(0, *bytes, part->len) != part->crc)
		err = fail(f->error, -EINVAL, "is damaged: the checksum of part %s differs", name);
	if (err) {
		free(*bytes);
		*bytes = NULL;
		return err;
	}
	*len = part->len;
	return 0;
}
