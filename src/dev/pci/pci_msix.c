/*
 * MSI-X (PCI 3.0, 6.8.2): a table of messages and a bit of pending each, in a
 * memory BAR of their own. The guest's accesses and the device's interrupts
 * meet under msix_lock. Invariant: a pending bit is set only while its vector
 * cannot be sent.
 */
#include "dev/pci/pci_priv.h"

#include <string.h>

#include "base/assert.h"

#define ENTRY_CONTROL PCI_MSIX_ENTRY_VECTOR_CTRL
#define ENTRY_MASKED  PCI_MSIX_ENTRY_CTRL_MASKBIT

static uint8_t *entry_of(struct pci_function *fn, unsigned vector)
{
	return fn->state.msix_table + vector * PCI_MSIX_ENTRY_BYTES;
}

static bool vector_masked(struct pci_function *fn, unsigned vector)
{
	return fn->msix_masked || (entry_of(fn, vector)[ENTRY_CONTROL] & ENTRY_MASKED);
}

static void send_vector(struct pci_function *fn, unsigned vector)
{
	const uint8_t *entry = entry_of(fn, vector);
	uint64_t address = pci_config_get(entry, PCI_MSIX_ENTRY_LOWER_ADDR, 4) |
			   (uint64_t)pci_config_get(entry, PCI_MSIX_ENTRY_UPPER_ADDR, 4) << 32;

	msi_send(&fn->host->config.msi, address, pci_config_get(entry, PCI_MSIX_ENTRY_DATA, 4));
}

/* msix_lock held: sends what is pending and no longer withheld. */
static void send_pending(struct pci_function *fn)
{
	uint64_t pending = fn->msix_enabled ? fn->state.msix_pending : 0;

	while (pending) {
		unsigned vector = (unsigned)__builtin_ctzll(pending);

		pending &= pending - 1;
		if (vector_masked(fn, vector))
			continue;
		fn->state.msix_pending &= ~(1ull << vector);
		send_vector(fn, vector);
	}
}

bool pci_msix_enabled(struct pci_function *fn)
{
	bool enabled;

	pthread_mutex_lock(&fn->msix_lock);
	enabled = fn->msix_enabled;
	pthread_mutex_unlock(&fn->msix_lock);
	return enabled;
}

void pci_msix_notify(struct pci_function *fn, unsigned vector)
{
	if (vector >= fn->msix_vectors)
		return;
	pthread_mutex_lock(&fn->msix_lock);
	if (fn->msix_enabled) {
		if (vector_masked(fn, vector))
			fn->state.msix_pending |= 1ull << vector;
		else
			send_vector(fn, vector);
	}
	pthread_mutex_unlock(&fn->msix_lock);
}

void pci_msix_mirror(struct pci_function *fn, uint16_t control)
{
	pthread_mutex_lock(&fn->msix_lock);
	fn->msix_enabled = control & PCI_MSIX_FLAGS_ENABLE;
	fn->msix_masked = control & PCI_MSIX_FLAGS_MASKALL;
	send_pending(fn);
	pthread_mutex_unlock(&fn->msix_lock);
}

void pci_msix_reset(struct pci_function *fn)
{
	pthread_mutex_lock(&fn->msix_lock);
	memset(fn->state.msix_table, 0, sizeof(fn->state.msix_table));
	for (unsigned i = 0; i < fn->msix_vectors; i++)
		entry_of(fn, i)[ENTRY_CONTROL] = ENTRY_MASKED;
	fn->state.msix_pending = 0;
	pthread_mutex_unlock(&fn->msix_lock);
}

static uint64_t msix_read(void *dev, uint64_t offset, unsigned size)
{
	struct pci_function *fn = dev;
	unsigned table_bytes = fn->msix_vectors * PCI_MSIX_ENTRY_BYTES;
	uint64_t value = 0;

	pthread_mutex_lock(&fn->msix_lock);
	for (unsigned i = 0; i < size; i++) {
		uint64_t at = offset + i;
		uint8_t byte = 0;

		if (at < table_bytes)
			byte = fn->state.msix_table[at];
		else if (at >= PCI_MSIX_PBA_AT && at < PCI_MSIX_PBA_AT + 8)
			byte = (uint8_t)(fn->state.msix_pending >> (8 * (at - PCI_MSIX_PBA_AT)));
		value |= (uint64_t)byte << (8 * i);
	}
	pthread_mutex_unlock(&fn->msix_lock);
	return value;
}

/* The bits of one byte of the table that exist. */
static uint8_t table_byte(uint64_t at, uint8_t byte)
{
	switch (at % PCI_MSIX_ENTRY_BYTES) {
	case PCI_MSIX_ENTRY_LOWER_ADDR:
		return byte & 0xfc;
	case ENTRY_CONTROL:
		return byte & ENTRY_MASKED;
	case ENTRY_CONTROL + 1:
	case ENTRY_CONTROL + 2:
	case ENTRY_CONTROL + 3:
		return 0;
	default:
		return byte;
	}
}

static void msix_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	struct pci_function *fn = dev;
	unsigned table_bytes = fn->msix_vectors * PCI_MSIX_ENTRY_BYTES;

	pthread_mutex_lock(&fn->msix_lock);
	for (unsigned i = 0; i < size && offset + i < table_bytes; i++)
		fn->state.msix_table[offset + i] =
			table_byte(offset + i, (uint8_t)(value >> (8 * i)));
	send_pending(fn);
	pthread_mutex_unlock(&fn->msix_lock);
}

void pci_msix_adopt(struct pci_function *fn, const struct pci_function_state *loaded)
{
	unsigned table_bytes = fn->msix_vectors * PCI_MSIX_ENTRY_BYTES;

	pthread_mutex_lock(&fn->msix_lock);
	for (unsigned i = 0; i < table_bytes; i++)
		fn->state.msix_table[i] = table_byte(i, loaded->msix_table[i]);
	fn->state.msix_pending = loaded->msix_pending;
	if (fn->msix_vectors < 64)
		fn->state.msix_pending &= (1ull << fn->msix_vectors) - 1;
	pthread_mutex_unlock(&fn->msix_lock);
}

const struct bus_ops pci_msix_ops = { .read = msix_read, .write = msix_write };

void pci_function_add_msix(struct pci_function *fn, unsigned bar, unsigned vectors)
{
	uint8_t body[10], writable[10] = { 0 };
	struct pci_bar table = {
		.kind = PCI_BAR_MEM32,
		.size = PCI_MSIX_BAR_BYTES,
		.name = "msix",
		.ops = &pci_msix_ops,
		.dev = fn,
	};

	ASSERT(vectors >= 1 && vectors <= PCI_MSIX_VECTORS_MAX);
	pci_config_set(body, 0, 2, vectors - 1);
	pci_config_set(body, 2, 4, bar);
	pci_config_set(body, 6, 4, PCI_MSIX_PBA_AT | bar);
	pci_config_set(writable, 0, 2, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	fn->msix_cap = pci_function_add_cap(fn, PCI_CAP_ID_MSIX, 12, body, writable);
	fn->msix_vectors = vectors;
	pci_function_set_bar(fn, bar, &table);
}
