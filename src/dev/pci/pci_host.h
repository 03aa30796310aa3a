/*
 * The PCI host: bus 0 of a Q35-like machine, with configuration mechanism #1
 * at ports 0xcf8/0xcfc, ECAM, the host bridge at 00:00.0 and an ICH9-like LPC
 * bridge at 00:1f.0 that steers interrupt pins.
 *
 * The board makes one, hands it to each device's constructor, and calls
 * pci_host_assign() once all functions are there: without firmware nobody else
 * would place the BARs. Firmware or a kernel may move them later.
 *
 * One lock guards the configuration space of all functions and the placing of
 * BARs. Order: host configuration lock, device lock, interrupt lock, bus or
 * interrupt sink.
 */
#ifndef INSULA_DEV_PCI_PCI_HOST_H
#define INSULA_DEV_PCI_PCI_HOST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bus/bus.h"
#include "bus/irq.h"
#include "bus/stop.h"

struct pci_host;
struct pci_function;
struct state_reader;
struct state_writer;

#define PCI_PIRQS       8 /* PIRQA..PIRQH, which are GSI 16..23 */
#define PCI_GSI_BASE    16
#define PCI_LPC_SLOT    31
#define PCI_ECAM_BYTES  (1ull << 28) /* 256 buses; only bus 0 answers */
#define PCI_SCI_ISA_IRQ 9

struct pci_window {
	uint64_t base;
	uint64_t len;
};

struct pci_host_config {
	struct bus *pio, *mmio; /* borrowed */
	struct msi_sink msi;
	struct stop_sink stop;           /* hears of a reset through port 0xcf9 */
	struct irq_line pirq[PCI_PIRQS]; /* to IOAPIC inputs 16..23 */
	struct irq_line isa[16];         /* to both 8259 and IOAPIC; for guests without an IOAPIC */
	uint64_t ecam_base;              /* 256 MiB aligned */
	struct pci_window io, mem, mem64; /* where pci_host_assign() places BARs */
	uint16_t pm_base; /* ACPI PM I/O block, shown in the LPC's PMBASE; not decoded here */
};

/* NULL with errno on failure. Claims ports 0xcf8..0xcff, the reset register 0xcf9 among them, and
 * ECAM. */
struct pci_host *pci_host_new(const struct pci_host_config *config);
/* Devices first: every function they added must be gone. */
void pci_host_free(struct pci_host *host);

/*
 * What firmware would do: places every BAR in the windows, sets interrupt
 * lines and PIRQ routes, and enables I/O and memory decode. 0, or -ENOSPC.
 */
int pci_host_assign(struct pci_host *host) __attribute__((warn_unused_result));

/*
 * Power-on state of the host and of every function, the devices behind them
 * included; waits for I/O in flight. Vcpus are stopped. Follow with pci_host_assign().
 */
void pci_host_reset(struct pci_host *host);

/* For the ACPI _PRT and the MP table: the PIRQ (GSI less 16) of a slot's pin, 0 for INTA#. */
unsigned pci_host_pirq(unsigned slot, unsigned pin);

/* Calls visit for every function that has an interrupt pin (0 for INTA#), in slot order. */
void pci_host_each_pin(struct pci_host *host,
		       void (*visit)(void *ctx, unsigned slot, unsigned function, unsigned pin),
		       void *ctx);

/*
 * Around a snapshot, vcpus stopped: quiesce finishes I/O in flight and stops
 * taking requests from guest memory; resume goes on with what waits there.
 * Any thread but not from inside a device callback.
 */
void pci_host_quiesce(struct pci_host *host);
void pci_host_resume(struct pci_host *host);

/*
 * The state of the host and of every function, the devices behind them
 * included; between quiesce and resume. Load expects the same set of devices:
 * 0, or -errno with a sentence in the reader, and then the machine must not run.
 */
void pci_host_save(struct pci_host *host, struct state_writer *writer);
int pci_host_load(struct pci_host *host, struct state_reader *reader)
	__attribute__((warn_unused_result));

#endif
