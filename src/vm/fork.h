/*
 * Forks: many VMs that begin as one VM is, or as a snapshot says. They share its
 * RAM until they write to it. A child is an ordinary restored VM, each in a
 * process of its own: whoever starts them opens the fork, calls
 * vm_snapshot_share(), and fork(2)s itself before any thread exists.
 */
#ifndef INSULA_VM_FORK_H
#define INSULA_VM_FORK_H

#include <stdint.h>

#include "board/board.h"

struct snapshot_extra;
struct snapshot_wishes;
struct vm;
struct vm_snapshot;

/* A VM at one moment, in files that can be handed to another process. */
struct vm_fork_point {
	int state_fd; /* the caller's, as all here; this version of Insula alone can read it */
	int ram_fd;
	int disk_fd[BOARD_DISKS_MAX]; /* copies of the disks that can be written, in order */
	unsigned disk_count;
	uint64_t pause_ns; /* for how long the machine stood still */
};

/*
 * Not on the event loop's thread. The first one of a VM makes its RAM the base of its own further
 * life too, which costs it a copy of each page that it writes from then on; each later one copies
 * RAM, while the VM runs. 0; or -errno with a sentence in error (SNAPSHOT_ERROR_MAX bytes).
 */
int vm_fork_point(struct vm *vm, const struct snapshot_extra *extra, struct vm_fork_point *point,
		  char *error) __attribute__((warn_unused_result));

void vm_fork_point_close(struct vm_fork_point *point);

/*
 * The other end: descriptors as above, the disks' one after the other from disk_fd on, the
 * snapshot's from here on. NULL with errno and a sentence.
 */
struct vm_snapshot *vm_snapshot_open_fork(int state_fd, int ram_fd, int disk_fd, char *error);

/*
 * Makes RAM of a snapshot or a fork, so that machines in processes forked from this one share what
 * they do not write. Before any thread exists. One machine per process may be made of it then. 0 or
 * -errno with a sentence.
 */
int vm_snapshot_share(struct vm_snapshot *snapshot, const struct snapshot_wishes *wishes,
		      char *error) __attribute__((warn_unused_result));

#endif
