/*
 * A virtual machine: owns its board, its vcpus and their threads, and one more
 * thread that carries out what happens to the machine as a whole.
 *
 * Life: vm_new() builds everything and loads the kernel; vm_start() lets the
 * vcpus run; the machine ends by itself or by vm_request_stop(), which
 * vm_wait() reports; vm_free(). Two VMs in one process know nothing of each
 * other.
 *
 * Lock order: the world lock, then the barrier's, then a vcpu's request word (lock-free).
 * No call of this header may be made from a vcpu's thread but
 * vm_request_stop(). The event loop must go on turning, on a thread of its
 * own or of the caller's, while a VM runs, pauses or resets: device requests
 * end there.
 */
#ifndef INSULA_VM_VM_H
#define INSULA_VM_VM_H

#include <stdbool.h>
#include <stdint.h>

#include "board/board.h"
#include "boot/boot_image.h"
#include "bus/stop.h"

struct vm;
struct vm_snapshot;
struct engine;

struct vm_options {
	struct board_options board; /* board.stop is the vm's own and ignored here */
	struct boot_options boot; /* strings are borrowed for the VM's life: a reset loads again */
	const struct engine *engine;
	/* NULL, or what is taken if the guest to be restored uses features of its CPU that `engine`
	 * does not have here. */
	const struct engine *fallback;
	const char *cpu_model; /* "x86-64-v2", "x86-64-v3", "host" */
	unsigned halt_poll_us; /* a halted vcpu sleeps after this at the latest: cpu/halt.h */
	bool no_reboot;        /* a reset ends the machine instead of starting it over */
	/* NULL, or what vm_snapshot_apply() put here: the VM is made from it and held; a reset
	 * boots. */
	struct vm_snapshot *restore;
};

#define VM_ERROR_MAX  512
#define VM_DETAIL_MAX 256

struct engine_stats;

struct vm_end {
	enum stop_reason reason;
	uint32_t code;              /* STOP_DEBUG_EXIT: the value written */
	char detail[VM_DETAIL_MAX]; /* one human sentence or empty */
};

/* NULL with errno and one human sentence in error (VM_ERROR_MAX bytes). */
struct vm *vm_new(const struct vm_options *options, char *error);
/* Ends the machine first if it still runs. */
void vm_free(struct vm *vm);

/* Once. 0, or -errno with a sentence in error; then only vm_free() may follow. */
int vm_start(struct vm *vm, char *error) __attribute__((warn_unused_result));

/* Any thread, a vcpu's included; never blocks. The first request wins. */
void vm_request_stop(struct vm *vm, enum stop_reason reason, uint32_t code, const char *detail);

/* Readable once the machine has ended and its vcpus stand still: for an event loop. */
int vm_ended_fd(const struct vm *vm);
/* Waits for the end. */
void vm_wait(struct vm *vm, struct vm_end *end);

/*
 * The pause barrier. After vm_pause() all vcpus' canonical states are
 * complete, no device transfer is under way and guest time stands still.
 * -ECANCELED if the machine has ended. The thread that paused resumes, soon: the
 * machine's end and a reset wait for it. Not on the event loop's thread.
 */
int vm_pause(struct vm *vm) __attribute__((warn_unused_result));
void vm_resume(struct vm *vm);

/*
 * The same for long, as a person asks for it: between the two calls, which may
 * come from different threads, nobody holds a lock, and the machine may end, be
 * reset or be paused for a moment. On release guest time catches up with the
 * wall clock, so that the guest's date is right; it never goes back. -EALREADY
 * if there is nothing to do, -ECANCELED if the machine has ended. Not on the
 * event loop's thread.
 */
int vm_hold(struct vm *vm) __attribute__((warn_unused_result));
int vm_release(struct vm *vm) __attribute__((warn_unused_result));
/* Any thread; never waits. */
bool vm_is_held(const struct vm *vm);

struct vm_switch_report {
	const struct engine *from; /* what it ran under until now */
	uint64_t pause_ns;         /* for how long it stood still; 0: it was held anyway */
};

/*
 * Goes on under another engine: processors, devices and clocks see nothing but
 * a moment in which no instruction is executed. Not on the event loop's thread.
 * 0; -EALREADY, -ECANCELED, or why the engine cannot be had, with a sentence in
 * error (VM_ERROR_MAX bytes); then it goes on under the old one.
 */
int vm_switch_engine(struct vm *vm, const struct engine *engine, struct vm_switch_report *report,
		     char *error) __attribute__((warn_unused_result));
/* Any thread. The one it runs under. */
const struct engine *vm_engine(struct vm *vm);

/* How often the machine was reset and went on. */
unsigned vm_reset_count(const struct vm *vm);

struct board *vm_board(struct vm *vm);
/* What the engine counted, all vcpus together. After vm_wait(). */
void vm_engine_stats(const struct vm *vm, struct engine_stats *stats);
struct vcpu *vm_vcpu(struct vm *vm, unsigned index);
unsigned vm_vcpu_count(const struct vm *vm);
/* Which boot protocol the kernel was loaded by; static text. */
const char *vm_boot_protocol(const struct vm *vm);

#endif
