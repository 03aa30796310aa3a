/*
 * Snapshots: a whole VM as a file, and a VM from one. What the file holds is in
 * docs/formats/snapshot.md; how it is written safely, in vm/snapshot_file.h.
 */
#ifndef INSULA_VM_SNAPSHOT_H
#define INSULA_VM_SNAPSHOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "vm/snapshot_file.h"
#include "vm/vm.h"

struct state_reader;
struct state_writer;
struct vm_snapshot;

/* What the VM's owner wants to find again beside the machine. */
struct snapshot_extra {
	/* Sections of the state and, through *bytes, a part "session". On the event loop's thread,
	 * the machine paused. May be NULL. */
	int (*save)(void *ctx, struct state_writer *w, uint8_t **bytes, size_t *len);
	void *ctx;
	const json_t *run; /* part "run"; borrowed */
};

struct snapshot_options {
	const char *path;
	bool compress; /* RAM by zstd: smaller, slower to write, and to restore before it runs */
	/* RAM is written while the machine runs, what it changes meanwhile once more: it stands
	 * still for a moment only. Not with compress. */
	bool live;
	bool hold;     /* the VM stays held: its disks are then as the snapshot knows them */
};

struct snapshot_report {
	uint64_t pause_ns;  /* for how long the machine stood still; live: the longest time at once */
	uint64_t ram_bytes; /* of pages that are not zero; live: that were written, some repeatedly */
	unsigned rounds;    /* live: how often RAM was gone through while the machine ran */
};

/*
 * Not on the event loop's thread. 0; or -errno with a sentence in error
 * (SNAPSHOT_ERROR_MAX bytes), and the VM goes on, and an earlier file is as it was.
 */
int vm_snapshot(struct vm *vm, const struct snapshot_options *options,
		const struct snapshot_extra *extra, struct snapshot_report *report, char *error)
	__attribute__((warn_unused_result));

/* The state alone, as a stream that the caller frees; the machine stands still meanwhile. 0 or
 * -errno. */
int vm_state(struct vm *vm, struct state_writer *w) __attribute__((warn_unused_result));

/* ---- restoring ---- */

/* Opens a file and checks all but RAM. NULL with errno and a sentence that names the file. */
struct vm_snapshot *vm_snapshot_open(const char *path, char *error);
/* After the VM made from it was freed. */
void vm_snapshot_close(struct vm_snapshot *snapshot);

/* Part "run", borrowed. */
const json_t *vm_snapshot_run(const struct vm_snapshot *snapshot);
/* Part "session", borrowed; NULL: none. */
const uint8_t *vm_snapshot_session(const struct vm_snapshot *snapshot, size_t *len);
struct state_reader *vm_snapshot_state(struct vm_snapshot *snapshot);

struct snapshot_wishes {
	bool trust_disks; /* do not compare them with what they were */
	bool eager; /* compare all of RAM with its sums before the VM runs, not page by page */
};

/*
 * The machine to be built: fills in memory, cpus, CPU model, disks (compared
 * with what they were), TSC, and that it is to be restored. Strings are the
 * snapshot's, which must outlive the VM. 0, or -errno with a sentence.
 */
int vm_snapshot_apply(struct vm_snapshot *snapshot, struct vm_options *options,
		      const struct snapshot_wishes *wishes, char *error)
	__attribute__((warn_unused_result));
/* After all that read the state: 0, or -EINVAL with a sentence if it holds what nobody knew. */
int vm_snapshot_check_all(const struct vm_snapshot *snapshot, char *error)
	__attribute__((warn_unused_result));

#endif
