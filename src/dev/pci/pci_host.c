/*
 * How the guest reaches configuration space: mechanism #1 (PCI 3.0, 3.2.2.3.2)
 * and ECAM (PCIe 7.2.2), both over one table of functions; and what firmware
 * would do for a kernel that is booted without any: placing BARs.
 */
#include "dev/pci/pci_priv.h"

#include <errno.h>
#include <stdlib.h>

#include "base/assert.h"

#define CONFIG_ADDRESS_PORT 0xcf8
#define CONFIG_PORTS        8
#define CONFIG_DATA         4 /* relative to the address port */
#define CONFIG_ENABLE       0x80000000u
#define ELCR2_PORT          0x4d1
#define ELCR2_IRQ10_11      0x0c

struct pci_function *pci_host_function(struct pci_host *host, unsigned slot, unsigned function)
{
	return slot < PCI_SLOTS && function < PCI_FUNCTIONS ? host->functions[slot][function]
							    : NULL;
}

static uint64_t ones(unsigned size)
{
	return size >= 8 ? UINT64_MAX : (1ull << (8 * size)) - 1;
}

/* Lock held; size 1, 2 or 4, and the access lies in one function's space. */
static uint32_t config_read(struct pci_host *host, unsigned bus, unsigned devfn, unsigned offset,
			    unsigned size)
{
	struct pci_function *fn = bus ? NULL : pci_host_function(host, devfn >> 3, devfn & 7);

	return fn ? pci_function_config_read(fn, offset, size) : UINT32_MAX;
}

static void config_write(struct pci_host *host, unsigned bus, unsigned devfn, unsigned offset,
			 unsigned size, uint32_t value)
{
	struct pci_function *fn = bus ? NULL : pci_host_function(host, devfn >> 3, devfn & 7);

	if (fn)
		pci_function_config_write(fn, offset, size, value);
}

static uint64_t port_read(void *dev, uint64_t offset, unsigned size)
{
	struct pci_host *host = dev;
	uint64_t value = ones(size);
	uint32_t address;

	pthread_mutex_lock(&host->lock);
	address = host->state.config_address;
	if (offset == 0 && size == 4)
		value = address;
	else if (offset == RESET_CONTROL_PORT - CONFIG_ADDRESS_PORT && size == 1)
		value = host->state.reset_control;
	else if (offset >= CONFIG_DATA && size <= 4 && offset + size <= CONFIG_PORTS &&
		 (address & CONFIG_ENABLE))
		value = config_read(host, (address >> 16) & 0xff, (address >> 8) & 0xff,
				    (address & 0xfc) + (unsigned)(offset & 3), size);
	pthread_mutex_unlock(&host->lock);
	return value & ones(size);
}

static void port_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	struct pci_host *host = dev;
	uint32_t address;
	bool reset = false;

	pthread_mutex_lock(&host->lock);
	address = host->state.config_address;
	if (offset == 0 && size == 4) {
		host->state.config_address = (uint32_t)value & 0x80fffffcu;
	} else if (offset == RESET_CONTROL_PORT - CONFIG_ADDRESS_PORT && size == 1) {
		reset = (value & RESET_CPU) && !(host->state.reset_control & RESET_CPU);
		host->state.reset_control = value & 0x0e;
	} else if (offset >= CONFIG_DATA && size <= 4 && offset + size <= CONFIG_PORTS &&
		   (address & CONFIG_ENABLE)) {
		config_write(host, (address >> 16) & 0xff, (address >> 8) & 0xff,
			     (address & 0xfc) + (unsigned)(offset & 3), size, (uint32_t)value);
	}
	pthread_mutex_unlock(&host->lock);
	if (reset)
		stop_request(&host->config.stop, STOP_RESET, 0, NULL);
}

/* ECAM: bus in bits 27:20, device and function in 19:12, register in 11:0. */
static uint64_t ecam_read(void *dev, uint64_t offset, unsigned size)
{
	struct pci_host *host = dev;
	unsigned bus = (unsigned)(offset >> 20), devfn = (unsigned)(offset >> 12) & 0xff;
	unsigned reg = offset & 0xfff;
	uint64_t value;

	pthread_mutex_lock(&host->lock);
	value = config_read(host, bus, devfn, reg, size > 4 ? 4 : size);
	if (size == 8)
		value |= (uint64_t)config_read(host, bus, devfn, reg + 4, 4) << 32;
	pthread_mutex_unlock(&host->lock);
	return value & ones(size);
}

static void ecam_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	struct pci_host *host = dev;
	unsigned bus = (unsigned)(offset >> 20), devfn = (unsigned)(offset >> 12) & 0xff;
	unsigned reg = offset & 0xfff;

	pthread_mutex_lock(&host->lock);
	config_write(host, bus, devfn, reg, size > 4 ? 4 : size, (uint32_t)value);
	if (size == 8)
		config_write(host, bus, devfn, reg + 4, 4, (uint32_t)(value >> 32));
	pthread_mutex_unlock(&host->lock);
}

static const struct bus_ops port_ops = { .read = port_read, .write = port_write };
static const struct bus_ops ecam_ops = { .read = ecam_read, .write = ecam_write };

/* Lock held. Moves ECAM to where the host bridge says; true if it left a place. */
bool pci_chipset_place_ecam(struct pci_host *host)
{
	const uint8_t *config = host->bridge.state.config;
	uint32_t low = pci_config_get(config, MCH_PCIEXBAR, 4);
	uint64_t base =
		(uint64_t)pci_config_get(config, MCH_PCIEXBAR + 4, 4) << 32 | (low & 0xf0000000u);
	bool want = (low & MCH_PCIEXBAR_EN) && base, removed = false;
	struct bus_region region = {
		.name = "ecam",
		.base = base,
		.len = PCI_ECAM_BYTES,
		.ops = &ecam_ops,
		.dev = host,
	};

	if (host->ecam_mapped && (!want || base != host->ecam_base)) {
		bus_remove(host->config.mmio, host->ecam_base, host);
		host->ecam_mapped = false;
		removed = true;
	}
	if (want && !host->ecam_mapped && bus_add(host->config.mmio, &region) == 0) {
		host->ecam_mapped = true;
		host->ecam_base = base;
	}
	return removed;
}

struct pci_function *pci_host_next(struct pci_host *host, unsigned *cursor)
{
	while (*cursor < PCI_SLOTS * PCI_FUNCTIONS) {
		struct pci_function *fn =
			host->functions[*cursor / PCI_FUNCTIONS][*cursor % PCI_FUNCTIONS];

		(*cursor)++;
		if (fn)
			return fn;
	}
	return NULL;
}

void pci_host_retry_bars(struct pci_host *host)
{
	struct pci_function *fn;

	for (unsigned cursor = 0; (fn = pci_host_next(host, &cursor));)
		pci_function_place_bars(fn);
	pci_chipset_place_ecam(host);
}

struct pci_host *pci_host_new(const struct pci_host_config *config)
{
	struct pci_host *host = calloc(1, sizeof(*host));
	struct bus_region ports = {
		.name = "pci-config",
		.base = CONFIG_ADDRESS_PORT,
		.len = CONFIG_PORTS,
		.ops = &port_ops,
		.dev = host,
	};
	int err;

	if (!host)
		return NULL;
	host->config = *config;
	pthread_mutex_init(&host->lock, NULL);
	pthread_mutex_init(&host->irq_lock, NULL);
	err = pci_chipset_init(host);
	if (!err)
		err = bus_add(config->pio, &ports);
	if (!err && config->ecam_base) {
		pci_chipset_place_ecam(host);
		err = host->ecam_mapped ? 0 : -EEXIST;
	}
	if (err) {
		pci_host_free(host);
		errno = -err;
		return NULL;
	}
	return host;
}

void pci_host_free(struct pci_host *host)
{
	unsigned cursor = 0;

	if (!host)
		return;
	pci_chipset_fini(host);
	ASSERT(!pci_host_next(host, &cursor));
	bus_remove(host->config.pio, CONFIG_ADDRESS_PORT, host);
	if (host->ecam_mapped)
		bus_remove(host->config.mmio, host->ecam_base, host);
	pthread_mutex_destroy(&host->irq_lock);
	pthread_mutex_destroy(&host->lock);
	free(host);
}

/* Takes `size` bytes, aligned to themselves, from the window; 0 if it is full. */
static uint64_t window_take(struct pci_window *window, uint64_t size)
{
	uint64_t at = (window->base + size - 1) & ~(size - 1);
	uint64_t used = at - window->base;

	if (at < window->base || used > window->len || window->len - used < size)
		return 0;
	window->base += used + size;
	window->len -= used + size;
	return at;
}

int pci_host_assign(struct pci_host *host)
{
	struct pci_window io = host->config.io, mem = host->config.mem, mem64 = host->config.mem64;
	struct pci_function *fn;
	uint8_t elcr;
	int err = 0;

	pthread_mutex_lock(&host->lock);
	for (unsigned cursor = 0; !err && (fn = pci_host_next(host, &cursor));) {
		uint8_t *config = fn->state.config;
		uint32_t command = pci_config_get(config, PCI_COMMAND, 2);

		for (unsigned i = 0; i < PCI_BARS && !err; i++) {
			const struct pci_bar *bar = &fn->bars[i];
			unsigned reg = PCI_BASE_ADDRESS_0 + 4 * i;
			bool is_io = bar->kind == PCI_BAR_IO;
			uint64_t at;

			if (bar->kind == PCI_BAR_NONE)
				continue;
			/* Below 4 GiB if there is room: a guest without PAE reaches nothing else.
			 */
			at = window_take(is_io ? &io : &mem, bar->size);
			if (!at && bar->kind == PCI_BAR_MEM64)
				at = window_take(&mem64, bar->size);
			if (!at)
				err = -ENOSPC;
			pci_config_set(config, reg, 4, (uint32_t)at | fn->initial[reg]);
			if (bar->kind == PCI_BAR_MEM64)
				pci_config_set(config, reg + 4, 4, (uint32_t)(at >> 32));
			command |= is_io ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY;
		}
		pci_config_set(config, PCI_COMMAND, 2, command);
		pci_function_place_bars(fn);
	}
	pci_chipset_assign(host);
	pthread_mutex_unlock(&host->lock);

	elcr = (uint8_t)bus_read(host->config.pio, ELCR2_PORT, 1);
	if (elcr != 0xff)
		bus_write(host->config.pio, ELCR2_PORT, 1, elcr | ELCR2_IRQ10_11);
	return err;
}

/* The set of functions is fixed once the machine runs, so the calls below need no lock to walk it.
 */
void pci_host_reset(struct pci_host *host)
{
	struct pci_function *fn;

	for (unsigned cursor = 0; (fn = pci_host_next(host, &cursor));)
		if (fn->ops && fn->ops->reset)
			fn->ops->reset(fn->dev);
	pthread_mutex_lock(&host->lock);
	for (unsigned cursor = 0; (fn = pci_host_next(host, &cursor));)
		pci_function_reset(fn);
	host->state.config_address = 0;
	host->state.reset_control = 0;
	pci_chipset_place_ecam(host);
	pthread_mutex_unlock(&host->lock);
}

void pci_host_each_pin(struct pci_host *host,
		       void (*visit)(void *ctx, unsigned slot, unsigned function, unsigned pin),
		       void *ctx)
{
	struct pci_function *fn;

	for (unsigned cursor = 0; (fn = pci_host_next(host, &cursor));)
		if (fn->initial[PCI_INTERRUPT_PIN])
			visit(ctx, fn->slot, fn->function, fn->initial[PCI_INTERRUPT_PIN] - 1u);
}

void pci_host_quiesce(struct pci_host *host)
{
	struct pci_function *fn;

	for (unsigned cursor = 0; (fn = pci_host_next(host, &cursor));)
		if (fn->ops && fn->ops->quiesce)
			fn->ops->quiesce(fn->dev);
}

void pci_host_resume(struct pci_host *host)
{
	struct pci_function *fn;

	for (unsigned cursor = 0; (fn = pci_host_next(host, &cursor));)
		if (fn->ops && fn->ops->resume)
			fn->ops->resume(fn->dev);
}
