/*
 * Interrupt pins. A slot's pins are swizzled over eight wires, PIRQA..PIRQH,
 * each shared by whoever is wired to it: high while any function asserts it.
 * A wire always drives its IOAPIC input and, if the LPC bridge routes it, an
 * ISA interrupt as well, for guests that know only the 8259.
 */
#include "dev/pci/pci_priv.h"

#include "base/assert.h"

#define ISA_ROUTABLE 0xdef8u /* IRQ 3-7, 9-12, 14, 15 (ICH9 datasheet, 13.1.18) */

unsigned pci_host_pirq(unsigned slot, unsigned pin)
{
	return (slot + pin) % PCI_PIRQS;
}

/* irq_lock held: drives the ISA lines as the wires and routes now say. */
static void update_isa(struct pci_host *host)
{
	uint16_t level = 0, changed;

	for (unsigned i = 0; i < PCI_PIRQS; i++)
		if (host->pirq_count[i] && !(host->pirq_route[i] & LPC_PIRQ_NO_ISA))
			level |= (uint16_t)(1u << (host->pirq_route[i] & 0xf));
	level &= ISA_ROUTABLE;
	changed = level ^ host->isa_level;
	host->isa_level = level;
	for (unsigned i = 0; i < 16; i++)
		if (changed & (1u << i))
			irq_set(&host->config.isa[i], (level >> i) & 1);
}

/* irq_lock held: makes the wire agree with level and disable bit. */
static void update_pin(struct pci_function *fn)
{
	struct pci_host *host = fn->host;
	unsigned pirq = pci_host_pirq(fn->slot, 0);
	bool asserted = fn->state.intx_level && !fn->intx_disabled;

	if (asserted == fn->intx_asserted)
		return;
	fn->intx_asserted = asserted;
	if (asserted) {
		if (host->pirq_count[pirq]++)
			return;
	} else {
		ASSERT(host->pirq_count[pirq]);
		if (--host->pirq_count[pirq])
			return;
	}
	irq_set(&host->config.pirq[pirq], asserted);
	update_isa(host);
}

void pci_function_set_intx(struct pci_function *fn, int level)
{
	pthread_mutex_lock(&fn->host->irq_lock);
	fn->state.intx_level = level != 0;
	update_pin(fn);
	pthread_mutex_unlock(&fn->host->irq_lock);
}

void pci_intx_mirror(struct pci_function *fn, bool disabled)
{
	pthread_mutex_lock(&fn->host->irq_lock);
	fn->intx_disabled = disabled;
	update_pin(fn);
	pthread_mutex_unlock(&fn->host->irq_lock);
}

void pci_intx_remove(struct pci_function *fn)
{
	pci_function_set_intx(fn, 0);
}

void pci_intx_set_route(struct pci_host *host, unsigned pirq, uint8_t route)
{
	pthread_mutex_lock(&host->irq_lock);
	host->pirq_route[pirq] = route;
	update_isa(host);
	pthread_mutex_unlock(&host->irq_lock);
}
