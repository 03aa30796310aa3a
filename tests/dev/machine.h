/*
 * A machine without a CPU: RAM, buses, a PCI host, the fake loop, and a record
 * of every interrupt. The test is the guest.
 */
#ifndef INSULA_TESTS_DEV_MACHINE_H
#define INSULA_TESTS_DEV_MACHINE_H

#include "bus/bus.h"
#include "bus/stop.h"
#include "dev/pci/pci_host.h"
#include "fake_loop.h"
#include "mem/dma.h"
#include "mem/ram.h"

#define MACHINE_RAM_BYTES (16u << 20)
#define MACHINE_ECAM      0xb0000000ull
#define MACHINE_MSIS      1024

struct machine_msi {
	uint64_t address;
	uint32_t data;
};

struct machine {
	struct ram *ram;
	struct bus *pio, *mmio;
	struct loop *loop;
	struct pci_host *host;
	struct machine_msi msis[MACHINE_MSIS]; /* the last ones, oldest first */
	unsigned msi_count;
	int pirq[PCI_PIRQS], isa[16];
	unsigned pirq_edges;
	enum stop_reason stopped;
	uint64_t brk; /* next free guest-physical address */
};

void machine_init(struct machine *m);
/* Its devices must be gone. */
void machine_fini(struct machine *m);

/* Guest memory, zeroed, for the test to use. */
uint64_t machine_alloc(struct machine *m, uint64_t bytes, uint64_t align);
void machine_put(struct machine *m, uint64_t gpa, const void *bytes, size_t len);
void machine_get(struct machine *m, uint64_t gpa, void *bytes, size_t len);

/* Configuration space through ECAM. */
uint32_t machine_config_read(struct machine *m, unsigned slot, unsigned offset, unsigned size);
void machine_config_write(struct machine *m, unsigned slot, unsigned offset, unsigned size,
			  uint32_t value);
/* The address a BAR decodes. */
uint64_t machine_bar(struct machine *m, unsigned slot, unsigned bar);

/* A small fast generator, so that every run is the same. */
uint64_t machine_random(uint64_t *state);

#endif
