/*
 * The PC's devices without a CPU: buses, a clock that stands still, and a record
 * of what the devices say. The test is the guest.
 */
#ifndef INSULA_TESTS_DEV_PC_MACHINE_H
#define INSULA_TESTS_DEV_PC_MACHINE_H

#include <stdint.h>

#include "bus/bus.h"
#include "bus/irq.h"
#include "bus/stop.h"
#include "bus/vclock.h"

/* A wire's sink: its level and how often it rose. */
struct pc_wire {
	int level;
	unsigned rises;
};

struct pc_machine {
	struct vclock *clock;
	struct bus *pio, *mmio;
	struct pc_wire wire[32];
	uint64_t msi_address; /* the last message */
	uint32_t msi_data;
	unsigned msi_count;
	enum stop_reason stopped;
	uint32_t stop_code;
};

void pc_machine_init(struct pc_machine *m);
/* Its devices must be gone. */
void pc_machine_fini(struct pc_machine *m);

/* A line whose sink is wire[n]. */
struct irq_line pc_machine_line(struct pc_machine *m, unsigned n);
struct msi_sink pc_machine_msi(struct pc_machine *m);
struct stop_sink pc_machine_stop(struct pc_machine *m);

uint8_t pc_in(struct pc_machine *m, uint16_t port);
void pc_out(struct pc_machine *m, uint16_t port, uint8_t value);

#endif
