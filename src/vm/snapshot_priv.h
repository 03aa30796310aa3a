/* What snapshot.c and vm.c share. Stays in this folder. */
#ifndef INSULA_VM_SNAPSHOT_PRIV_H
#define INSULA_VM_SNAPSHOT_PRIV_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "state/stream.h"
#include "vm/snapshot.h"

struct cpu_model;
struct ram;
struct vm;

#define SNAPSHOT_DISK_PATH 1024

struct snapshot_disk {
	uint8_t path[SNAPSHOT_DISK_PATH];
	uint64_t size_bytes, mtime_ns; /* as they were */
	bool read_only;
};

#define BOOT_ID_LEN 36

struct machine_state {
	uint64_t mem_bytes, tsc_khz;
	uint64_t wall_base_ns; /* wall time of guest time 0 */
	uint32_t cpus, disks;
	bool debug_exit, console, agent;
	/* On the same host, not booted since, the counter need not be measured again: that takes
	 * longer than all the rest, and would give a slightly other figure. */
	uint64_t host_tsc_khz;
	uint8_t host_boot[BOOT_ID_LEN];
};

struct vm_snapshot {
	struct snapshot_file file;
	struct state_reader state;
	uint8_t *state_bytes, *session;
	size_t session_len;
	json_t *run;
	struct machine_state machine;
	struct snapshot_disk disks[BOARD_DISKS_MAX];
	struct board_disk board_disks[BOARD_DISKS_MAX];
	struct snapshot_wishes wishes;
	/* vm_snapshot_share(): RAM already made, for a machine in this process or in one forked
	 * from it. Owned until a machine takes it. */
	struct ram *ram;
	bool ram_shared; /* a machine took it */
	int disk_fd;     /* of a fork: the first of its disks' bases */
	int ram_fd;      /* of a fork: what RAM holds; -1: it is in the file */
};

/*
 * The machine paused: its state and its disks' identity into w, what its owner adds into *session,
 * which the caller frees. 0 or -errno with a sentence in error (SNAPSHOT_ERROR_MAX bytes).
 */
int snapshot_collect(struct vm *vm, const struct snapshot_extra *extra, struct state_writer *w,
		     uint8_t **session, size_t *session_len, char *error)
	__attribute__((warn_unused_result));
/* s->state_bytes, len of them, into what they say. 0 or -errno with a sentence in s->file.error. */
int snapshot_parse_state(struct vm_snapshot *s, size_t len) __attribute__((warn_unused_result));
/* The same for part "run". */
int snapshot_parse_run(struct vm_snapshot *s, const char *text, size_t len)
	__attribute__((warn_unused_result));
/* RAM's contents, or what is needed to fetch them. 0 or -errno with a sentence in s->file.error. */
int snapshot_load_ram(struct vm_snapshot *s, struct ram *ram, int damage_fd)
	__attribute__((warn_unused_result));

/* A board has s->ram now, if there is one. */
void snapshot_ram_taken(struct vm_snapshot *s);

/* NULL with a sentence in error (VM_ERROR_MAX bytes). */
const struct cpu_model *snapshot_model(struct vm_snapshot *snapshot, char *error);
/* Into a VM that was built and never ran, its clock paused and its devices quiet. 0 or -errno with
 * a sentence. */
int snapshot_load(struct vm_snapshot *snapshot, struct vm *vm, char *error);

#endif
