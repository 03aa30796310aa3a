/*
 * The file of a snapshot: a header, RAM, and named parts (docs/formats/snapshot.md).
 * Written whole or not at all: under another name, which takes the place of the
 * old file when everything is on the disk. Read as hostile: what is damaged, cut
 * short or unknown is told in one sentence.
 */
#ifndef INSULA_VM_SNAPSHOT_FILE_H
#define INSULA_VM_SNAPSHOT_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SNAPSHOT_ERROR_MAX  512
#define SNAPSHOT_PARTS_MAX  32
#define SNAPSHOT_NAME_MAX   23
#define SNAPSHOT_RAM_OFFSET 4096u /* of the part "ram", page by page: it can be mapped */

enum snapshot_encoding {
	SNAPSHOT_PLAIN,
	SNAPSHOT_PAGES, /* RAM as it lies, zero pages left out as holes; sums in "ram.sums" */
	SNAPSHOT_ZSTD,  /* RAM in frames of SNAPSHOT_FRAME bytes; their table in "ram.frames" */
};

#define SNAPSHOT_FRAME (1u << 20)

struct snapshot_part {
	char name[SNAPSHOT_NAME_MAX + 1];
	uint64_t offset, len; /* in the file, bytes */
	uint32_t encoding;    /* enum snapshot_encoding */
	uint32_t crc;         /* of the stored bytes; PAGES and ZSTD have sums of their own: 0 */
};

/* ---- writing; one thread ---- */

struct snapshot_writer {
	int fd, folder;         /* -1: none */
	char *temporary, *name; /* in the folder; owned */
	uint64_t end;           /* of what is written */
	struct snapshot_part parts[SNAPSHOT_PARTS_MAX];
	unsigned count;
	char error[SNAPSHOT_ERROR_MAX]; /* the sentence, after a call failed */
};

/*
 * path: the file to be, or a folder in which it is called "snapshot". A
 * temporary left by a crash is taken over. All return 0 or -errno with the
 * sentence; after a failure only discard may follow.
 */
int snapshot_create(struct snapshot_writer *w, const char *path)
	__attribute__((warn_unused_result));
/* Anywhere in the file; large pieces are best. */
int snapshot_write(struct snapshot_writer *w, uint64_t offset, const void *bytes, size_t len)
	__attribute__((warn_unused_result));
/* The file is at least so long; what was not written is zero. */
int snapshot_extend(struct snapshot_writer *w, uint64_t end) __attribute__((warn_unused_result));
/* Names bytes already written; they begin at the end of what was named before, or behind it. */
int snapshot_name_part(struct snapshot_writer *w, const char *name, uint64_t offset, uint64_t len,
		       enum snapshot_encoding encoding, uint32_t crc)
	__attribute__((warn_unused_result));
/* A part in one piece, behind all others. */
int snapshot_add(struct snapshot_writer *w, const char *name, const void *bytes, size_t len)
	__attribute__((warn_unused_result));
/* Header, disk, rename, disk. After success the file is there, whatever happens. */
int snapshot_commit(struct snapshot_writer *w) __attribute__((warn_unused_result));
/* Always at the end; what was not committed leaves no trace. */
void snapshot_discard(struct snapshot_writer *w);

/* ---- reading ---- */

struct snapshot_file {
	int fd; /* -1: none */
	uint64_t file_bytes;
	struct snapshot_part parts[SNAPSHOT_PARTS_MAX]; /* in order of offset, not overlapping */
	unsigned count;
	char error[SNAPSHOT_ERROR_MAX];
};

/* 0, or -errno with a sentence without the path. path as for create. */
int snapshot_open(struct snapshot_file *f, const char *path) __attribute__((warn_unused_result));
/* The same for an open file, which becomes f's. */
int snapshot_open_fd(struct snapshot_file *f, int fd) __attribute__((warn_unused_result));
void snapshot_close(struct snapshot_file *f);
/* NULL: there is no such part. */
const struct snapshot_part *snapshot_find(const struct snapshot_file *f, const char *name);
/* A PLAIN part, compared with its checksum; malloc()ed, a zero byte behind it. */
int snapshot_read(struct snapshot_file *f, const char *name, uint8_t **bytes, size_t *len)
	__attribute__((warn_unused_result));

#endif
