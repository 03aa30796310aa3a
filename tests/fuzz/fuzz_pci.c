/* Fuzz target: configuration space, BARs, MSI-X tables and interrupt pins. */
#include <linux/pci_regs.h>

#include "base/assert.h"
#include "dev/pci/pci_function.h"
#include "harm_host.h"
#include "machine.h"

#define SLOTS     3
#define STEPS_MAX 400

static struct machine m;
static struct pci_function functions[SLOTS];

static uint64_t any_read(void *dev, uint64_t offset, unsigned size)
{
	struct pci_function *fn = dev;

	ASSERT(offset < 0x4000);
	pci_msix_notify(fn, (unsigned)offset);
	return offset;
}

static void any_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	ASSERT(offset < 0x4000);
	pci_function_set_intx(dev, value & 1);
}

static const struct bus_ops any_ops = { .read = any_read, .write = any_write };

static void set_up(void)
{
	static const struct pci_ids ids = { .vendor = 0x1af4, .device = 0x1111 };

	machine_init(&m);
	for (unsigned i = 0; i < SLOTS; i++) {
		struct pci_function *fn = &functions[i];
		struct pci_bar bar = {
			.kind = PCI_BAR_IO, .size = 64, .name = "any", .ops = &any_ops, .dev = fn
		};
		int err;

		pci_function_init(fn, "any", &ids, NULL, fn);
		pci_function_set_pin(fn);
		pci_function_set_bar(fn, 0, &bar);
		pci_function_add_msix(fn, 1, PCI_MSIX_VECTORS_MAX);
		bar.kind = PCI_BAR_MEM64;
		bar.size = 0x4000;
		pci_function_set_bar(fn, 2, &bar);
		bar.kind = PCI_BAR_MEM32;
		pci_function_set_bar(fn, 4, &bar);
		err = pci_function_add(m.host, fn, 1 + i, i);
		ASSERT(!err);
	}
}

static void save_and_load(void)
{
	struct state_writer writer;
	struct state_reader reader;
	int err;

	state_writer_init(&writer);
	pci_host_save(m.host, &writer);
	err = state_writer_finish(&writer);
	ASSERT(!err);
	err = state_reader_init(&reader, writer.bytes, writer.len);
	ASSERT(!err);
	err = pci_host_load(m.host, &reader);
	ASSERT(!err);
	state_reader_fini(&reader);
	state_writer_fini(&writer);
}

static void step(struct input *in)
{
	unsigned which = (unsigned)input_take(in, 1), size = input_size(in);
	unsigned fn = which % SLOTS, slot = which < 200 ? 1 + fn : which < 230 ? 31 : 0;
	uint64_t at = input_take(in, 1);
	uint64_t config = MACHINE_ECAM + (slot << 15) + ((slot && slot < 31 ? fn : 0) << 12) + at;

	switch (input_take(in, 1) % 9) {
	case 0:
	case 1:
		bus_write(m.mmio, config, size, input_take(in, size));
		break;
	case 2:
		bus_read(m.mmio, config, size);
		break;
	case 3:
		bus_write(m.pio, 0xcf8, 4, 0x80000000u | (uint32_t)input_take(in, 3));
		bus_write(m.pio, 0xcf8 + at % 8, size & 7 ? size : 1, input_take(in, 4));
		bus_read(m.pio, 0xcf8 + at % 8, size & 7 ? size : 1);
		break;
	case 4:
		for (unsigned i = 0; i < PCI_BARS; i++) {
			const struct pci_bar *bar = &functions[fn].bars[i];
			struct bus *bus = bar->kind == PCI_BAR_IO ? m.pio : m.mmio;
			uint64_t offset = input_take(in, 2) & (bar->size - 1);

			if (!bar->mapped)
				continue;
			ASSERT(bus_claims(bus, bar->address, bar->size));
			bus_write(bus, bar->address + offset, size, input_take(in, size));
			bus_read(bus, bar->address + offset, size);
		}
		break;
	case 5:
		pci_msix_notify(&functions[fn], (unsigned)at);
		break;
	case 6:
		pci_function_set_intx(&functions[fn], at & 1);
		break;
	case 7:
		if (at < 8) /* slow */
			save_and_load();
		else if (at < 16)
			harm_host(m.host, in);
		break;
	case 8:
		/* Swap places with a neighbour: the case in which BARs find each other's. */
		machine_config_write(&m, slot, PCI_BASE_ADDRESS_4, 4,
				     (uint32_t)functions[(fn + 1) % SLOTS].bars[4].address);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
	struct input in = { bytes, len };
	int err;

	if (!m.host)
		set_up();
	for (unsigned i = 0; i < SLOTS; i++)
		pci_function_set_intx(&functions[i], 0);
	pci_host_reset(m.host);
	err = pci_host_assign(m.host);
	ASSERT(!err);
	for (unsigned i = 0; i < STEPS_MAX && in.left; i++)
		step(&in);

	for (unsigned i = 0; i < SLOTS; i++)
		pci_function_set_intx(&functions[i], 0);
	for (unsigned i = 0; i < PCI_PIRQS; i++)
		ASSERT(!m.pirq[i]);
	for (unsigned i = 0; i < 16; i++)
		ASSERT(!m.isa[i]);
	return 0;
}
