/* The PCI host and functions: configuration, BARs that move, MSI-X, pins, state. */
#include <errno.h>
#include <linux/pci_regs.h>
#include <stdlib.h>
#include <string.h>

#include "cmocka_all.h"
#include "dev/pci/pci_function.h"
#include "machine.h"
#include "state/stream.h"

#define SLOT 4

struct probe {
	struct pci_function fn;
	uint64_t last_offset, last_value;
	unsigned reads, writes;
};

static uint64_t probe_read(void *dev, uint64_t offset, unsigned size)
{
	struct probe *p = dev;

	p->reads++;
	p->last_offset = offset;
	return 0x5a5a5a5a5a5a5a5aull;
}

static void probe_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	struct probe *p = dev;

	p->writes++;
	p->last_offset = offset;
	p->last_value = value;
}

static const struct bus_ops probe_ops = { .read = probe_read, .write = probe_write };

static void probe_add(struct probe *p, struct machine *m, unsigned slot)
{
	static const struct pci_ids ids = { .vendor = 0x1af4,
					    .device = 0x1234,
					    .class_code = 0xff };
	struct pci_bar bar = { .kind = PCI_BAR_IO, .size = 64, .name = "io", .ops = &probe_ops };

	memset(p, 0, sizeof(*p));
	bar.dev = p;
	pci_function_init(&p->fn, "probe", &ids, NULL, p);
	pci_function_set_pin(&p->fn);
	pci_function_set_bar(&p->fn, 0, &bar);
	pci_function_add_msix(&p->fn, 1, 5);
	bar.kind = PCI_BAR_MEM64;
	bar.size = 0x4000;
	pci_function_set_bar(&p->fn, 2, &bar);
	assert_int_equal(pci_function_add(m->host, &p->fn, slot, 0), 0);
}

static void probe_remove(struct probe *p)
{
	pci_function_remove(&p->fn);
	pci_function_fini(&p->fn);
}

static void finds_functions(void **state)
{
	struct machine m;
	struct probe p;

	machine_init(&m);
	probe_add(&p, &m, SLOT);
	assert_int_equal(machine_config_read(&m, 0, 0, 4), 0x29c08086);
	assert_int_equal(machine_config_read(&m, PCI_LPC_SLOT, 0, 4), 0x29188086);
	assert_int_equal(machine_config_read(&m, SLOT, 0, 4), 0x12341af4);
	assert_int_equal(machine_config_read(&m, SLOT, 2, 2), 0x1234);
	assert_int_equal(machine_config_read(&m, SLOT, 3, 1), 0x12);
	assert_int_equal(machine_config_read(&m, 5, 0, 4), 0xffffffff);
	assert_int_equal(machine_config_read(&m, SLOT, 0x100, 4), 0xffffffff);
	assert_int_equal(bus_read(m.mmio, MACHINE_ECAM + (1 << 20), 4), 0xffffffff);
	assert_int_equal(bus_read(m.mmio, MACHINE_ECAM + (SLOT << 15) + (1 << 12), 4), 0xffffffff);

	/* Mechanism #1, with the detection that kernels do. */
	bus_write(m.pio, 0xcfb, 1, 1);
	bus_write(m.pio, 0xcf8, 4, 0x80000000);
	assert_int_equal(bus_read(m.pio, 0xcf8, 4), 0x80000000);
	assert_int_equal(bus_read(m.pio, 0xcfc, 4), 0x29c08086);
	bus_write(m.pio, 0xcf8, 4, 0x80000000 | SLOT << 11);
	assert_int_equal(bus_read(m.pio, 0xcfe, 2), 0x1234);
	assert_int_equal(bus_read(m.pio, 0xcfd, 1), 0x1a);
	bus_write(m.pio, 0xcf8, 4, SLOT << 11);
	assert_int_equal(bus_read(m.pio, 0xcfc, 4), 0xffffffff);

	/* The reset register lies among the ports. */
	bus_write(m.pio, 0xcf9, 1, 0x02);
	assert_int_equal(m.stopped, STOP_NONE);
	bus_write(m.pio, 0xcf9, 1, 0x06);
	assert_int_equal(m.stopped, STOP_RESET);
	probe_remove(&p);
	machine_fini(&m);
}

static void bars_follow_the_guest(void **state)
{
	struct machine m;
	struct probe p, q;
	uint64_t io, mem;

	machine_init(&m);
	probe_add(&p, &m, SLOT);
	probe_add(&q, &m, SLOT + 1);
	assert_false(bus_claims(m.pio, 0xc000, 0x1000));
	assert_int_equal(pci_host_assign(m.host), 0);
	io = machine_bar(&m, SLOT, 0);
	mem = machine_bar(&m, SLOT, 2);
	assert_true(io >= 0xc000 && io % 64 == 0 && mem >= 0xc0000000 && mem % 0x4000 == 0);
	assert_true(machine_bar(&m, SLOT + 1, 2) != mem);
	bus_write(m.pio, io + 3, 1, 7);
	assert_int_equal(p.last_offset, 3);
	assert_int_equal(bus_read(m.mmio, mem + 0x3ffc, 4), 0x5a5a5a5a);
	assert_int_equal(p.last_offset, 0x3ffc);

	/* Sizing, with decode left on. */
	machine_config_write(&m, SLOT, PCI_BASE_ADDRESS_2, 4, 0xffffffff);
	machine_config_write(&m, SLOT, PCI_BASE_ADDRESS_3, 4, 0xffffffff);
	assert_int_equal(machine_config_read(&m, SLOT, PCI_BASE_ADDRESS_2, 4), 0xffffc00c);
	assert_int_equal(machine_config_read(&m, SLOT, PCI_BASE_ADDRESS_3, 4), 0xffffffff);
	machine_config_write(&m, SLOT, PCI_BASE_ADDRESS_0, 4, 0xffffffff);
	assert_int_equal(machine_config_read(&m, SLOT, PCI_BASE_ADDRESS_0, 4), 0xffffffc1);
	assert_false(bus_claims(m.mmio, mem, 0x4000));

	/* Above 4 GiB. */
	machine_config_write(&m, SLOT, PCI_BASE_ADDRESS_2, 4, 0x12340000);
	machine_config_write(&m, SLOT, PCI_BASE_ADDRESS_3, 4, 0x40);
	p.reads = 0;
	assert_int_equal(bus_read(m.mmio, 0x4012340010, 4), 0x5a5a5a5a);
	assert_int_equal(p.reads, 1);

	/* A place that is taken decodes for its owner only, until that one moves. */
	mem = machine_bar(&m, SLOT + 1, 2);
	machine_config_write(&m, SLOT, PCI_BASE_ADDRESS_3, 4, (uint32_t)(mem >> 32));
	machine_config_write(&m, SLOT, PCI_BASE_ADDRESS_2, 4, (uint32_t)mem);
	q.reads = p.reads = 0;
	bus_read(m.mmio, mem, 4);
	assert_int_equal(q.reads, 1);
	machine_config_write(&m, SLOT + 1, PCI_COMMAND, 2, 0);
	bus_read(m.mmio, mem, 4);
	assert_int_equal(p.reads, 1);
	machine_config_write(&m, SLOT, PCI_COMMAND, 2, 0);
	assert_false(bus_claims(m.mmio, mem, 0x4000));
	assert_false(bus_claims(m.pio, io, 64));
	probe_remove(&q);
	probe_remove(&p);
	machine_fini(&m);
}

static void msix_masks_and_pends(void **state)
{
	struct machine m;
	struct probe p;
	uint64_t table;
	unsigned cap;

	machine_init(&m);
	probe_add(&p, &m, SLOT);
	assert_int_equal(pci_host_assign(m.host), 0);
	table = machine_bar(&m, SLOT, 1);
	cap = machine_config_read(&m, SLOT, PCI_CAPABILITY_LIST, 1);
	assert_int_equal(machine_config_read(&m, SLOT, cap, 1), PCI_CAP_ID_MSIX);
	assert_int_equal(machine_config_read(&m, SLOT, cap + 2, 2), 4);

	bus_write(m.mmio, table + 16, 8, 0xfee01003);
	bus_write(m.mmio, table + 24, 4, 0x41);
	pci_msix_notify(&p.fn, 1); /* not enabled: lost */
	machine_config_write(&m, SLOT, cap + 2, 2, PCI_MSIX_FLAGS_ENABLE);
	assert_int_equal(m.msi_count, 0);
	pci_msix_notify(&p.fn, 1); /* masked at power-on: pends */
	assert_int_equal(m.msi_count, 0);
	assert_int_equal(bus_read(m.mmio, table + PCI_MSIX_PBA_AT, 8), 2);
	bus_write(m.mmio, table + 28, 4, 0xfffffffe);
	assert_int_equal(m.msi_count, 1);
	assert_int_equal(m.msis[0].address, 0xfee01000);
	assert_int_equal(m.msis[0].data, 0x41);
	assert_int_equal(bus_read(m.mmio, table + PCI_MSIX_PBA_AT, 8), 0);

	machine_config_write(&m, SLOT, cap + 2, 2, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	pci_msix_notify(&p.fn, 1);
	pci_msix_notify(&p.fn, 1);
	assert_int_equal(m.msi_count, 1);
	machine_config_write(&m, SLOT, cap + 2, 2, PCI_MSIX_FLAGS_ENABLE);
	assert_int_equal(m.msi_count, 2);
	pci_msix_notify(&p.fn, 5);
	pci_msix_notify(&p.fn, 0xffff);
	assert_int_equal(m.msi_count, 2);
	probe_remove(&p);
	machine_fini(&m);
}

static void pins_share_wires(void **state)
{
	struct machine m;
	struct probe p, q;
	unsigned pirq = pci_host_pirq(SLOT, 0);

	machine_init(&m);
	probe_add(&p, &m, SLOT);
	probe_add(&q, &m, SLOT + PCI_PIRQS);
	assert_int_equal(pci_host_assign(m.host), 0);
	assert_int_equal(machine_config_read(&m, SLOT, PCI_INTERRUPT_PIN, 1), 1);
	assert_int_equal(machine_config_read(&m, SLOT, PCI_INTERRUPT_LINE, 1), 10);
	pci_function_set_intx(&p.fn, 1);
	pci_function_set_intx(&q.fn, 1);
	pci_function_set_intx(&q.fn, 1);
	assert_int_equal(m.pirq[pirq], 1);
	assert_int_equal(m.isa[10], 1);
	assert_true(machine_config_read(&m, SLOT, PCI_STATUS, 2) & PCI_STATUS_INTERRUPT);
	pci_function_set_intx(&p.fn, 0);
	assert_int_equal(m.pirq[pirq], 1);
	machine_config_write(&m, SLOT + PCI_PIRQS, PCI_COMMAND, 2, PCI_COMMAND_INTX_DISABLE);
	assert_int_equal(m.pirq[pirq], 0);
	assert_int_equal(m.isa[10], 0);
	assert_true(machine_config_read(&m, SLOT + PCI_PIRQS, PCI_STATUS, 2) &
		    PCI_STATUS_INTERRUPT);
	machine_config_write(&m, SLOT + PCI_PIRQS, PCI_COMMAND, 2, 0);
	assert_int_equal(m.pirq[pirq], 1);

	/* The LPC bridge routes, also while the wire is high. */
	machine_config_write(&m, PCI_LPC_SLOT, 0x68 + pirq - 4, 1, 5);
	assert_int_equal(m.isa[10], 0);
	assert_int_equal(m.isa[5], 1);
	machine_config_write(&m, PCI_LPC_SLOT, 0x68 + pirq - 4, 1, 0x80);
	assert_int_equal(m.isa[5], 0);
	machine_config_write(&m, PCI_LPC_SLOT, 0x68 + pirq - 4, 1, 2); /* not routable */
	assert_int_equal(m.isa[2], 0);
	assert_int_equal(m.pirq[pirq], 1);
	probe_remove(&q);
	assert_int_equal(m.pirq[pirq], 0);
	probe_remove(&p);
	machine_fini(&m);
}

/* Every register of every function with every size, then chaos; the host stays what it is. */
static void survives_any_access(void **state)
{
	struct machine m;
	struct probe p, q;
	uint64_t seed = 88172645463325252ull;

	machine_init(&m);
	probe_add(&p, &m, SLOT);
	probe_add(&q, &m, SLOT + 1);
	assert_int_equal(pci_host_assign(m.host), 0);
	for (unsigned round = 0; round < 20; round++) {
		for (unsigned at = 0; at < 4096; at++) {
			static const unsigned slots[] = { SLOT, SLOT + 1, PCI_LPC_SLOT };
			unsigned slot = slots[machine_random(&seed) % 3];
			unsigned size = 1u << machine_random(&seed) % 4;
			uint64_t value = machine_random(&seed);

			/* The bridge too, but for what moves ECAM away from us. */
			bus_write(m.mmio, MACHINE_ECAM + (slot << 15) + at, size, value);
			bus_read(m.mmio, MACHINE_ECAM + (slot << 15) + at, size);
			bus_write(m.pio, 0xcf8 + at % 8, size > 4 ? 4 : size, value & ~0xffffull);
			bus_read(m.pio, 0xcf8 + at % 8, size > 4 ? 4 : size);
			bus_write(m.mmio, machine_bar(&m, SLOT, 1) + at, size, value);
			bus_read(m.mmio, machine_bar(&m, SLOT, 1) + at, size);
			pci_msix_notify(&p.fn, value % 8);
			pci_function_set_intx(&q.fn, value & 1);
		}
	}
	assert_int_equal(p.fn.state.config[0], 0xf4);
	pci_host_reset(m.host);
	assert_int_equal(pci_host_assign(m.host), 0);
	p.reads = 0;
	bus_read(m.mmio, machine_bar(&m, SLOT, 2), 4);
	assert_int_equal(p.reads, 1);
	probe_remove(&q);
	probe_remove(&p);
	machine_fini(&m);
}

static void ecam_moves(void **state)
{
	struct machine m;

	machine_init(&m);
	machine_config_write(&m, 0, 0x60, 4, 0xe0000001);
	assert_false(bus_claims(m.mmio, MACHINE_ECAM, PCI_ECAM_BYTES));
	assert_int_equal(bus_read(m.mmio, 0xe0000000, 4), 0x29c08086);
	pci_host_reset(m.host);
	assert_int_equal(machine_config_read(&m, 0, 0, 4), 0x29c08086);
	machine_fini(&m);
}

static void multifunction_is_shown(void **state)
{
	static const struct pci_ids ids = { .vendor = 1, .device = 2 };
	struct pci_function fn;
	struct machine m;
	struct probe p;

	machine_init(&m);
	probe_add(&p, &m, SLOT);
	pci_function_init(&fn, "second", &ids, NULL, NULL);
	assert_int_equal(pci_function_add(m.host, &fn, 32, 0), -EINVAL);
	assert_int_equal(pci_function_add(m.host, &fn, SLOT, 0), -EEXIST);
	assert_int_equal(pci_function_add(m.host, &fn, SLOT, 3), 0);
	assert_int_equal(machine_config_read(&m, SLOT, PCI_HEADER_TYPE, 1), 0x80);
	assert_int_equal(bus_read(m.mmio, MACHINE_ECAM + (SLOT << 15) + (3 << 12), 4), 0x20001);
	pci_function_remove(&fn);
	pci_function_fini(&fn);
	probe_remove(&p);
	machine_fini(&m);
}

static void full_windows_are_refused(void **state)
{
	struct pci_host_config config = { .io = { 0xc000, 64 }, .mem = { 0xc0000000, 0x1000 } };
	struct machine m;
	struct pci_host *host;
	struct probe p;

	machine_init(&m);
	config.pio = bus_new(0x10000);
	config.mmio = bus_new(1ull << 40);
	host = pci_host_new(&config);
	assert_non_null(host);
	memset(&p, 0, sizeof(p));
	{
		struct machine other = { .host = host };

		probe_add(&p, &other, 1);
	}
	assert_int_equal(pci_host_assign(host), -ENOSPC);
	probe_remove(&p);
	pci_host_free(host);
	bus_free(config.pio);
	bus_free(config.mmio);
	machine_fini(&m);
}

static void state_round_trip(void **state)
{
	struct machine m, n;
	struct probe p, q;
	struct state_writer first, second;
	struct state_reader reader;
	unsigned cap;

	machine_init(&m);
	machine_init(&n);
	probe_add(&p, &m, SLOT);
	probe_add(&q, &n, SLOT);
	assert_int_equal(pci_host_assign(m.host), 0);
	cap = machine_config_read(&m, SLOT, PCI_CAPABILITY_LIST, 1);
	machine_config_write(&m, SLOT, cap + 2, 2, PCI_MSIX_FLAGS_ENABLE);
	bus_write(m.mmio, machine_bar(&m, SLOT, 1) + 16, 8, 0xfee01000);
	pci_msix_notify(&p.fn, 1);
	pci_function_set_intx(&p.fn, 1);
	machine_config_write(&m, SLOT, PCI_BASE_ADDRESS_3, 4, 0x41);
	bus_write(m.pio, 0xcf8, 4, 0x80002010);

	state_writer_init(&first);
	pci_host_save(m.host, &first);
	assert_int_equal(state_writer_finish(&first), 0);
	assert_int_equal(state_reader_init(&reader, first.bytes, first.len), 0);
	assert_int_equal(pci_host_load(n.host, &reader), 0);
	assert_null(state_reader_leftover(&reader));
	state_reader_fini(&reader);
	state_writer_init(&second);
	pci_host_save(n.host, &second);
	assert_int_equal(state_writer_finish(&second), 0);
	assert_int_equal(first.len, second.len);
	assert_memory_equal(first.bytes, second.bytes, first.len);

	/* What is derived came too: the BAR decodes and the wires are driven. */
	bus_read(n.mmio, machine_bar(&m, SLOT, 2), 4);
	assert_int_equal(q.reads, 1);
	assert_int_equal(n.pirq[pci_host_pirq(SLOT, 0)], 1);
	assert_int_equal(n.isa[10], 1);
	bus_write(n.mmio, machine_bar(&n, SLOT, 1) + 28, 4, 0);
	assert_int_equal(n.msi_count, 1);
	state_writer_fini(&second);
	state_writer_fini(&first);
	probe_remove(&q);
	probe_remove(&p);
	machine_fini(&n);
	machine_fini(&m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(finds_functions),
		cmocka_unit_test(bars_follow_the_guest),
		cmocka_unit_test(msix_masks_and_pends),
		cmocka_unit_test(pins_share_wires),
		cmocka_unit_test(survives_any_access),
		cmocka_unit_test(ecam_moves),
		cmocka_unit_test(multifunction_is_shown),
		cmocka_unit_test(full_windows_are_refused),
		cmocka_unit_test(state_round_trip),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
