/*
 * The board: one PC with everything on it but the vcpus. board_new() reads as
 * the list of what the machine consists of; the struct below is that list.
 *
 * The vm owns the board, the board owns its devices. The vm makes the vcpus and
 * plugs each in with board_attach_vcpu() before any of them runs.
 *
 * Where things are is in board_map.h.
 */
#ifndef INSULA_BOARD_BOARD_H
#define INSULA_BOARD_BOARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bus/irq.h"
#include "bus/stop.h"
#include "mem/ram.h"

struct boot_machine;
struct bus;
struct chardev;
struct loop;
struct state_reader;
struct state_writer;
struct vclock;
struct vcpu;
struct apic_bus;

#define BOARD_CPUS_MAX  255
#define BOARD_DISKS_MAX 16
#define BOARD_MEM_MIN   (4ull << 20)
#define BOARD_MEM_MAX   (1ull << 40)

struct board_disk {
	const char *path;
	bool read_only;
	bool overlay; /* as in block_options */
	int base_fd;
};

struct board_options {
	uint64_t mem_bytes; /* multiple of 4 KiB, BOARD_MEM_MIN..BOARD_MEM_MAX */
	unsigned cpus;      /* 1..BOARD_CPUS_MAX */
	uint64_t tsc_khz;   /* 0: the host's */
	struct loop *loop;  /* borrowed: device I/O completes here */
	struct stop_sink stop;
	struct ram
		*ram; /* NULL: new, empty RAM; else the board's from here on, its contents kept */

	/* Back ends, borrowed; must outlive the board. NULL: bytes written are forgotten, none
	 * arrive. */
	struct chardev *serial;  /* COM1 */
	struct chardev *console; /* virtio-console port 0, hvc0; NULL leaves the port out */
	struct chardev *agent;   /* virtio-console port "insula.agent"; NULL leaves the port out */

	const struct board_disk *disks;
	size_t disk_count;
	bool debug_exit; /* port 0xf4 */
};

#define BOARD_ERROR_MAX 384

struct board {
	struct ram *ram;
	struct vclock *clock;
	struct bus *pio, *mmio;
	struct apic_bus *apics;
	unsigned cpus;
	struct stop_sink stop;
	struct board_devices *devices; /* board.c's list */
};

/* NULL with errno and one human sentence in error (BOARD_ERROR_MAX bytes) on failure. */
struct board *board_new(const struct board_options *options, char *error);
/* No vcpu may run any more. */
void board_free(struct board *board);

/*
 * Power-on state of every device and of the firmware tables; RAM keeps its
 * contents, as a PC's does. Vcpus are stopped. The vm then resets the vcpus and loads the kernel
 * again.
 */
int board_reset(struct board *board, char *error) __attribute__((warn_unused_result));

/*
 * Fills in the vcpu's fixed fields (buses, RAM, clock, APIC bus, PIC, stop sink)
 * and connects it. v->index, model and engine are the vm's, set before. 0 or -errno.
 */
int board_attach_vcpu(struct board *board, struct vcpu *v) __attribute__((warn_unused_result));

/* Memory map and RSDP for the loaders. */
void board_boot_machine(const struct board *board, struct boot_machine *machine);

/* Presses the power button: an ACPI guest shuts down in order. Any thread. */
void board_power_button(struct board *board);

/* The machine goes on from a moment that may be another's too: the generation ID changes and the
 * guest hears of it. Vcpus stopped. */
void board_renew(struct board *board);

/* A file with what disk n holds, between quiesce and resume: a descriptor of the caller's or
 * -errno. */
int board_disk_copy(struct board *board, unsigned n) __attribute__((warn_unused_result));

/* The size of the terminal behind options.console. Any thread. */
void board_console_resize(struct board *board, uint16_t columns, uint16_t rows);

/*
 * Around a pause, vcpus stopped, not on the loop's thread: quiesce finishes
 * device I/O in flight and stops devices from reading guest memory; resume lets
 * them go on, wall clocks caught up.
 */
void board_quiesce(struct board *board);
void board_resume(struct board *board);

/*
 * Every device's state and guest time; RAM and vcpus are the caller's. Between
 * quiesce and resume, the clock paused. Load expects a board of the same options
 * with its own RAM contents loaded: 0, or -errno with a sentence in the reader, and
 * then the machine must not run.
 */
void board_save(struct board *board, struct state_writer *w);
int board_load(struct board *board, struct state_reader *r) __attribute__((warn_unused_result));

#endif
