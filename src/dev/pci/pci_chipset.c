/*
 * The two functions that make bus 0 a Q35's: the host bridge, which places
 * ECAM, and the LPC bridge, which routes interrupt wires to the 8259. Only
 * what firmware and kernels use is there; the PAM registers hold what is
 * written, and RAM below 1 MiB is plain RAM whatever they say.
 */
#include "dev/pci/pci_priv.h"

#include "base/assert.h"

#define VENDOR_INTEL   0x8086
#define DEVICE_MCH     0x29c0
#define DEVICE_LPC     0x2918
#define ECAM_BASE_MASK 0xff0000000ull /* 256 MiB steps below 64 GiB */

static void bridge_written(void *dev, unsigned offset, unsigned size)
{
	struct pci_host *host = dev;

	if (offset < MCH_PCIEXBAR + 8 && offset + size > MCH_PCIEXBAR)
		if (pci_chipset_place_ecam(host))
			pci_host_retry_bars(host);
}

static void update_routes(struct pci_host *host)
{
	const uint8_t *config = host->lpc.state.config;

	for (unsigned i = 0; i < 4; i++) {
		pci_intx_set_route(host, i, config[LPC_PIRQA_ROUT + i]);
		pci_intx_set_route(host, i + 4, config[LPC_PIRQE_ROUT + i]);
	}
}

static void lpc_written(void *dev, unsigned offset, unsigned size)
{
	if (offset < LPC_PIRQE_ROUT + 4 && offset + size > LPC_PIRQA_ROUT)
		update_routes(dev);
}

static void lpc_reset(void *dev)
{
	struct pci_host *host = dev;

	for (unsigned i = 0; i < PCI_PIRQS; i++)
		pci_intx_set_route(host, i, LPC_PIRQ_NO_ISA);
}

static const struct pci_function_ops bridge_ops = { .config_written = bridge_written };
static const struct pci_function_ops lpc_ops = { .config_written = lpc_written,
						 .reset = lpc_reset };

int pci_chipset_init(struct pci_host *host)
{
	static const struct pci_ids bridge_ids = {
		.vendor = VENDOR_INTEL, .device = DEVICE_MCH, .revision = 0, .class_code = 0x060000
	};
	static const struct pci_ids lpc_ids = {
		.vendor = VENDOR_INTEL, .device = DEVICE_LPC, .revision = 2, .class_code = 0x060100
	};
	struct pci_function *bridge = &host->bridge, *lpc = &host->lpc;
	int err;

	pci_function_init(bridge, "host-bridge", &bridge_ids, &bridge_ops, host);
	pci_config_set(bridge->initial, MCH_PCIEXBAR, 4,
		       (uint32_t)host->config.ecam_base | MCH_PCIEXBAR_EN);
	pci_config_set(bridge->initial, MCH_PCIEXBAR + 4, 4,
		       (uint32_t)(host->config.ecam_base >> 32));
	pci_config_set(bridge->write_mask, MCH_PCIEXBAR, 4,
		       (uint32_t)ECAM_BASE_MASK | MCH_PCIEXBAR_EN);
	pci_config_set(bridge->write_mask, MCH_PCIEXBAR + 4, 4, ECAM_BASE_MASK >> 32);
	for (unsigned i = 0; i < MCH_PAM_COUNT; i++)
		bridge->write_mask[MCH_PAM0 + i] = 0x33;
	bridge->initial[MCH_SMRAM] = 0x02;
	bridge->write_mask[MCH_SMRAM] = 0x78;

	pci_function_init(lpc, "lpc", &lpc_ids, &lpc_ops, host);
	pci_config_set(lpc->initial, LPC_PMBASE, 4, host->config.pm_base | 1u);
	lpc->initial[LPC_ACPI_CNTL] = host->config.pm_base ? LPC_ACPI_EN : 0;
	/* The PM block's place is the board's; a write of the same value by firmware is harmless.
	 */
	for (unsigned i = 0; i < 4; i++) {
		lpc->initial[LPC_PIRQA_ROUT + i] = LPC_PIRQ_NO_ISA;
		lpc->initial[LPC_PIRQE_ROUT + i] = LPC_PIRQ_NO_ISA;
		lpc->write_mask[LPC_PIRQA_ROUT + i] = 0x8f;
		lpc->write_mask[LPC_PIRQE_ROUT + i] = 0x8f;
	}
	pci_config_set(lpc->write_mask, LPC_RCBA, 4, 0xffffc001);
	lpc_reset(host);

	err = pci_function_add(host, bridge, 0, 0);
	if (!err)
		err = pci_function_add(host, lpc, PCI_LPC_SLOT, 0);
	return err;
}

void pci_chipset_fini(struct pci_host *host)
{
	pci_function_remove(&host->lpc);
	pci_function_remove(&host->bridge);
	pci_function_fini(&host->lpc);
	pci_function_fini(&host->bridge);
}

void pci_chipset_follow(struct pci_host *host)
{
	update_routes(host);
	pci_chipset_place_ecam(host);
	pci_host_retry_bars(host);
}

/* What firmware sets up: PIRQs shared over ISA IRQ 10 and 11, level-triggered in the 8259's ELCR.
 */
void pci_chipset_assign(struct pci_host *host)
{
	static const uint8_t isa_irq[4] = { 10, 10, 11, 11 };
	uint8_t *config = host->lpc.state.config;

	for (unsigned i = 0; i < 4; i++) {
		config[LPC_PIRQA_ROUT + i] = isa_irq[i];
		config[LPC_PIRQE_ROUT + i] = isa_irq[i];
	}
	update_routes(host);
	for (unsigned slot = 0; slot < PCI_SLOTS; slot++) {
		for (unsigned i = 0; i < PCI_FUNCTIONS; i++) {
			struct pci_function *fn = host->functions[slot][i];

			if (fn && fn->state.config[PCI_INTERRUPT_PIN])
				fn->state.config[PCI_INTERRUPT_LINE] =
					isa_irq[pci_host_pirq(slot, 0) & 3];
		}
	}
}
