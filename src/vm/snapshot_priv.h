/* What snapshot.c and vm.c share. Stays in this folder. */
#ifndef INSULA_VM_SNAPSHOT_PRIV_H
#define INSULA_VM_SNAPSHOT_PRIV_H

#include <stdbool.h>
#include <stdint.h>

struct cpu_model;
struct vm;
struct vm_snapshot;

#define SNAPSHOT_DISK_PATH 1024

struct snapshot_disk {
	uint8_t path[SNAPSHOT_DISK_PATH];
	uint64_t size_bytes, mtime_ns; /* as they were */
	bool read_only;
};

/* NULL with a sentence in error (VM_ERROR_MAX bytes). */
const struct cpu_model *snapshot_model(struct vm_snapshot *snapshot, char *error);
/* Into a VM that was built and never ran, its clock paused and its devices quiet. 0 or -errno with
 * a sentence. */
int snapshot_load(struct vm_snapshot *snapshot, struct vm *vm, char *error);

#endif
