/* Inside the PCI room: the host's own state and the parts its files call in each other. */
#ifndef INSULA_DEV_PCI_PCI_PRIV_H
#define INSULA_DEV_PCI_PCI_PRIV_H

#include <linux/pci_regs.h>

#include "bus/stop.h"
#include "dev/pci/pci_function.h"
#include "dev/pci/pci_host.h"

#define PCI_SLOTS     32
#define PCI_FUNCTIONS 8

/* Host bridge (Intel 3 series MCH, doc 316966, 5.1) and LPC (ICH9, doc 316972, 13.1) registers. */
#define MCH_PCIEXBAR       0x60
#define MCH_PCIEXBAR_EN    1u
#define MCH_PAM0           0x90
#define MCH_PAM_COUNT      7
#define MCH_SMRAM          0x9d
#define LPC_PMBASE         0x40
#define LPC_ACPI_CNTL      0x44
#define LPC_ACPI_EN        0x80
#define LPC_PIRQA_ROUT     0x60
#define LPC_PIRQE_ROUT     0x68
#define LPC_PIRQ_NO_ISA    0x80
#define LPC_RCBA           0xf0
#define RESET_CONTROL_PORT 0xcf9
#define RESET_CPU          0x04

struct pci_host_state {
	uint32_t config_address; /* port 0xcf8 */
	uint8_t reset_control;   /* port 0xcf9 */
};

struct pci_host {
	struct pci_host_config config;

	pthread_mutex_t lock; /* configuration space, BAR placement, the slots */
	struct pci_function *functions[PCI_SLOTS][PCI_FUNCTIONS];
	struct pci_host_state state;
	bool ecam_mapped;
	uint64_t ecam_base;

	pthread_mutex_t
		irq_lock; /* pins and routes; no other lock is taken under it but the sinks' */
	unsigned pirq_count[PCI_PIRQS]; /* asserted pins that share the wire */
	uint8_t pirq_route[PCI_PIRQS];  /* LPC's PIRQx_ROUT */
	uint16_t isa_level;             /* bit n: isa[n] is driven high */

	struct pci_function bridge, lpc;
};

/* pci_host.c */
struct pci_function *pci_host_function(struct pci_host *host, unsigned slot, unsigned function);
/* Some region left the bus: BARs that found their place taken may fit now. Lock held. */
void pci_host_retry_bars(struct pci_host *host);

/* The first function at or after *cursor in slot order, NULL at the end; the cursor moves past it.
 */
struct pci_function *pci_host_next(struct pci_host *host, unsigned *cursor);

/* pci_function.c; configuration lock held */
uint32_t pci_function_config_read(struct pci_function *fn, unsigned offset, unsigned size);
void pci_function_config_write(struct pci_function *fn, unsigned offset, unsigned size,
			       uint32_t value);
/* Returns true if a region was removed from the bus. */
bool pci_function_place_bars(struct pci_function *fn);
void pci_function_reset(struct pci_function *fn);
void pci_function_mirror(struct pci_function *fn);

/* pci_msix.c */
extern const struct bus_ops pci_msix_ops;
void pci_msix_mirror(struct pci_function *fn, uint16_t control);
void pci_msix_reset(struct pci_function *fn);
/* Takes over a loaded table, as far as a guest could have written it. */
void pci_msix_adopt(struct pci_function *fn, const struct pci_function_state *loaded);

/* pci_intx.c */
void pci_intx_mirror(struct pci_function *fn, bool disabled);
void pci_intx_set_route(struct pci_host *host, unsigned pirq, uint8_t route);
void pci_intx_remove(struct pci_function *fn);

/* pci_chipset.c; configuration lock held */
int pci_chipset_init(struct pci_host *host);
void pci_chipset_fini(struct pci_host *host);
void pci_chipset_assign(struct pci_host *host);
void pci_chipset_follow(
	struct pci_host *host); /* routes and ECAM, after configuration was loaded */
bool pci_chipset_place_ecam(struct pci_host *host);

#endif
