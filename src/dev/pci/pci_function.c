/*
 * A function's configuration space: header, write masks, capabilities, and the
 * BARs that follow what the guest writes there. Called by pci_host.c with the
 * configuration lock held. Invariant: a BAR's region stands on a bus exactly
 * when decode is on, its address is usable and nobody else is there.
 */
#include "dev/pci/pci_priv.h"

#include <errno.h>
#include <string.h>

#include "base/assert.h"

#define CAP_FIRST 0x40

uint32_t pci_config_get(const uint8_t *config, unsigned offset, unsigned size)
{
	uint32_t value = 0;

	for (unsigned i = 0; i < size; i++)
		value |= (uint32_t)config[offset + i] << (8 * i);
	return value;
}

void pci_config_set(uint8_t *config, unsigned offset, unsigned size, uint32_t value)
{
	for (unsigned i = 0; i < size; i++)
		config[offset + i] = (uint8_t)(value >> (8 * i));
}

void pci_function_init(struct pci_function *fn, const char *name, const struct pci_ids *ids,
		       const struct pci_function_ops *ops, void *dev)
{
	memset(fn, 0, sizeof(*fn));
	fn->name = name;
	fn->ops = ops;
	fn->dev = dev;
	fn->cap_end = CAP_FIRST;
	pthread_mutex_init(&fn->msix_lock, NULL);

	pci_config_set(fn->initial, PCI_VENDOR_ID, 2, ids->vendor);
	pci_config_set(fn->initial, PCI_DEVICE_ID, 2, ids->device);
	pci_config_set(fn->initial, PCI_CLASS_REVISION, 4, ids->class_code << 8 | ids->revision);
	pci_config_set(fn->initial, PCI_SUBSYSTEM_VENDOR_ID, 2, ids->subsystem_vendor);
	pci_config_set(fn->initial, PCI_SUBSYSTEM_ID, 2, ids->subsystem);

	pci_config_set(fn->write_mask, PCI_COMMAND, 2,
		       PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER |
			       PCI_COMMAND_PARITY | PCI_COMMAND_SERR | PCI_COMMAND_INTX_DISABLE);
	pci_config_set(fn->clear_mask, PCI_STATUS, 2,
		       PCI_STATUS_PARITY | PCI_STATUS_SIG_TARGET_ABORT |
			       PCI_STATUS_REC_TARGET_ABORT | PCI_STATUS_REC_MASTER_ABORT |
			       PCI_STATUS_SIG_SYSTEM_ERROR | PCI_STATUS_DETECTED_PARITY);
	fn->write_mask[PCI_CACHE_LINE_SIZE] = 0xff;
	fn->write_mask[PCI_LATENCY_TIMER] = 0xff;
}

void pci_function_fini(struct pci_function *fn)
{
	ASSERT(!fn->host);
	pthread_mutex_destroy(&fn->msix_lock);
}

void pci_function_set_pin(struct pci_function *fn)
{
	fn->initial[PCI_INTERRUPT_PIN] = 1;
	fn->write_mask[PCI_INTERRUPT_LINE] = 0xff;
}

void pci_function_set_bar(struct pci_function *fn, unsigned index, const struct pci_bar *bar)
{
	unsigned at = PCI_BASE_ADDRESS_0 + 4 * index;
	uint64_t mask = ~(bar->size - 1);

	ASSERT(index < PCI_BARS && (bar->size & (bar->size - 1)) == 0);
	ASSERT(bar->size >= (bar->kind == PCI_BAR_IO ? 4 : 16));
	fn->bars[index] = *bar;
	fn->bars[index].mapped = false;
	pci_config_set(fn->write_mask, at, 4, (uint32_t)mask);
	switch (bar->kind) {
	case PCI_BAR_IO:
		pci_config_set(fn->initial, at, 4, PCI_BASE_ADDRESS_SPACE_IO);
		break;
	case PCI_BAR_MEM32:
		break;
	case PCI_BAR_MEM64:
		ASSERT(index + 1 < PCI_BARS);
		pci_config_set(fn->initial, at, 4,
			       PCI_BASE_ADDRESS_MEM_TYPE_64 | PCI_BASE_ADDRESS_MEM_PREFETCH);
		pci_config_set(fn->write_mask, at + 4, 4, (uint32_t)(mask >> 32));
		break;
	case PCI_BAR_NONE:
		ASSERT(bar->kind != PCI_BAR_NONE);
	}
}

unsigned pci_function_add_cap(struct pci_function *fn, uint8_t id, unsigned len, const void *body,
			      const uint8_t *writable)
{
	unsigned at = fn->cap_end;

	ASSERT(len >= 2 && at + len <= PCI_CONFIG_BYTES);
	fn->cap_end = (at + len + 3) & ~3u;
	fn->initial[at + PCI_CAP_LIST_ID] = id;
	memcpy(fn->initial + at + PCI_CAP_FLAGS, body, len - PCI_CAP_FLAGS);
	if (writable)
		memcpy(fn->write_mask + at + PCI_CAP_FLAGS, writable, len - PCI_CAP_FLAGS);

	if (fn->cap_last)
		fn->initial[fn->cap_last + PCI_CAP_LIST_NEXT] = (uint8_t)at;
	else
		fn->initial[PCI_CAPABILITY_LIST] = (uint8_t)at;
	fn->cap_last = at;
	fn->initial[PCI_STATUS] |= PCI_STATUS_CAP_LIST;
	return at;
}

/* Where the guest's BAR value puts the region; false if decode is off or the value is no address.
 */
static bool bar_wanted(const struct pci_function *fn, unsigned index, uint64_t *address)
{
	const struct pci_bar *bar = &fn->bars[index];
	const uint8_t *config = fn->state.config;
	uint32_t command = pci_config_get(config, PCI_COMMAND, 2);
	uint64_t value = pci_config_get(config, PCI_BASE_ADDRESS_0 + 4 * index, 4);
	bool io = bar->kind == PCI_BAR_IO;

	if (!(command & (io ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY)))
		return false;
	if (bar->kind == PCI_BAR_MEM64)
		value |= (uint64_t)pci_config_get(config, PCI_BASE_ADDRESS_0 + 4 * index + 4, 4)
			 << 32;
	value &= ~(bar->size - 1);
	/* Zero and the sizing pattern are not addresses: a guest may size BARs with decode left on.
	 */
	if (!value || value + (bar->size - 1) == UINT32_MAX || value + bar->size < value)
		return false;
	*address = value;
	return true;
}

static struct bus *bar_bus(const struct pci_function *fn, const struct pci_bar *bar)
{
	return bar->kind == PCI_BAR_IO ? fn->host->config.pio : fn->host->config.mmio;
}

bool pci_function_place_bars(struct pci_function *fn)
{
	uint64_t address;
	bool removed = false;

	/* All leave before any comes: two BARs may swap places. */
	for (unsigned i = 0; i < PCI_BARS; i++) {
		struct pci_bar *bar = &fn->bars[i];

		if (!bar->mapped)
			continue;
		if (bar_wanted(fn, i, &address) && address == bar->address)
			continue;
		bus_remove(bar_bus(fn, bar), bar->address, bar->dev);
		bar->mapped = false;
		removed = true;
	}
	for (unsigned i = 0; i < PCI_BARS; i++) {
		struct pci_bar *bar = &fn->bars[i];
		struct bus_region region = {
			.name = bar->name,
			.len = bar->size,
			.ops = bar->ops,
			.dev = bar->dev,
		};

		if (bar->kind == PCI_BAR_NONE || bar->mapped || !bar_wanted(fn, i, &address))
			continue;
		/* A place already taken or out of the space: the BAR decodes nothing until it
		 * moves. */
		region.base = address;
		if (bus_add(bar_bus(fn, bar), &region) == 0) {
			bar->mapped = true;
			bar->address = address;
		}
	}
	return removed;
}

void pci_function_mirror(struct pci_function *fn)
{
	const uint8_t *config = fn->state.config;

	pci_intx_mirror(fn, pci_config_get(config, PCI_COMMAND, 2) & PCI_COMMAND_INTX_DISABLE);
	if (fn->msix_cap)
		pci_msix_mirror(fn,
				(uint16_t)pci_config_get(config, fn->msix_cap + PCI_MSIX_FLAGS, 2));
}

uint32_t pci_function_config_read(struct pci_function *fn, unsigned offset, unsigned size)
{
	uint32_t value;

	if (offset + size > PCI_CONFIG_BYTES)
		return UINT32_MAX;
	if (fn->ops && fn->ops->config_before_read)
		fn->ops->config_before_read(fn->dev, offset, size);
	value = pci_config_get(fn->state.config, offset, size);
	if (offset <= PCI_STATUS && PCI_STATUS < offset + size) {
		pthread_mutex_lock(&fn->host->irq_lock);
		if (fn->state.intx_level)
			value |= (uint32_t)PCI_STATUS_INTERRUPT << (8 * (PCI_STATUS - offset));
		pthread_mutex_unlock(&fn->host->irq_lock);
	}
	return value;
}

void pci_function_config_write(struct pci_function *fn, unsigned offset, unsigned size,
			       uint32_t value)
{
	uint8_t *config = fn->state.config;

	if (offset + size > PCI_CONFIG_BYTES)
		return;
	for (unsigned i = offset; i < offset + size; i++) {
		uint8_t byte = (uint8_t)(value >> (8 * (i - offset)));

		config[i] = (config[i] & ~fn->write_mask[i]) | (byte & fn->write_mask[i]);
		config[i] &= ~(byte & fn->clear_mask[i]);
	}
	pci_function_mirror(fn);
	if (pci_function_place_bars(fn))
		pci_host_retry_bars(fn->host);
	if (fn->ops && fn->ops->config_written)
		fn->ops->config_written(fn->dev, offset, size);
}

void pci_function_reset(struct pci_function *fn)
{
	memcpy(fn->state.config, fn->initial, sizeof(fn->state.config));
	pci_msix_reset(fn);
	pci_function_mirror(fn);
	pci_function_place_bars(fn);
}

int pci_function_add(struct pci_host *host, struct pci_function *fn, unsigned slot,
		     unsigned function)
{
	int err = 0;

	if (slot >= PCI_SLOTS || function >= PCI_FUNCTIONS)
		return -EINVAL;
	pthread_mutex_lock(&host->lock);
	if (host->functions[slot][function]) {
		err = -EEXIST;
	} else {
		host->functions[slot][function] = fn;
		fn->host = host;
		fn->slot = slot;
		fn->function = function;
		if (function && host->functions[slot][0]) {
			host->functions[slot][0]->initial[PCI_HEADER_TYPE] |= 0x80;
			host->functions[slot][0]->state.config[PCI_HEADER_TYPE] |= 0x80;
		}
		pci_function_reset(fn);
	}
	pthread_mutex_unlock(&host->lock);
	return err;
}

void pci_function_remove(struct pci_function *fn)
{
	struct pci_host *host = fn->host;

	if (!host)
		return;
	pthread_mutex_lock(&host->lock);
	pci_config_set(fn->state.config, PCI_COMMAND, 2, 0);
	pci_function_place_bars(fn);
	pci_intx_remove(fn);
	host->functions[fn->slot][fn->function] = NULL;
	fn->host = NULL;
	pthread_mutex_unlock(&host->lock);
}
