/* The virtio transport and queues, with the entropy device as the simplest one that uses them. */
#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "cmocka_all.h"
#include "dev/virtio/virtio_rng.h"
#include "ring.h"
#include "state/crc32c.h"
#include "state/stream.h"

#define SLOT        3
#define QUEUE_MSI   (0x100 * SLOT)
#define CONFIG_MSI  (0x100 * SLOT + 1)
#define ALL_RING    (1ull << VIRTIO_RING_F_EVENT_IDX | 1ull << VIRTIO_RING_F_INDIRECT_DESC)
#define NEEDS_RESET VIRTIO_CONFIG_S_NEEDS_RESET

struct bench {
	struct machine m;
	struct virtio_rng *rng;
	struct driver d;
};

static void bench_init(struct bench *b)
{
	machine_init(&b->m);
	b->rng = virtio_rng_new(b->m.host, SLOT, b->m.ram, b->m.loop);
	assert_non_null(b->rng);
	assert_int_equal(pci_host_assign(b->m.host), 0);
	driver_init(&b->d, &b->m, SLOT);
}

static void bench_fini(struct bench *b)
{
	assert_int_equal(dma_in_flight(b->m.ram), 0);
	virtio_rng_free(b->rng);
	machine_fini(&b->m);
}

static void pump(struct bench *b)
{
	assert_true(fake_loop_pump(b->m.loop, 10000));
}

static void rings_work(uint64_t features)
{
	struct bench b;
	uint64_t page;
	uint8_t bytes[64], zeroes[64] = { 0 };
	uint32_t len;
	uint16_t head;

	bench_init(&b);
	driver_start(&b.d, features, 1);
	page = machine_alloc(&b.m, 4096, 4096);
	for (unsigned i = 0; i < 1000; i++) {
		struct ring_buffer buffers[3] = { { page, 20, true },
						  { page + 100, 30, true },
						  { page + 50, 14, true } };
		uint16_t expect;

		machine_put(&b.m, page, zeroes, sizeof(zeroes));
		if (features & (1ull << VIRTIO_RING_F_INDIRECT_DESC) && i % 2)
			expect = ring_add_indirect(&b.d, 0, buffers, 3);
		else
			expect = ring_add(&b.d, 0, buffers, 3);
		ring_set_used_event(&b.d, 0, (uint16_t)i);
		ring_kick(&b.d, 0);
		assert_false(ring_take(&b.d, 0, NULL, NULL)); /* not on the vcpu's thread */
		pump(&b);
		assert_true(ring_take(&b.d, 0, &head, &len));
		assert_int_equal(head, expect);
		assert_int_equal(len, 64);
		assert_int_equal(b.m.msi_count, i + 1);
		assert_int_equal(b.m.msis[i % MACHINE_MSIS].data, QUEUE_MSI);
	}
	machine_get(&b.m, page, bytes, sizeof(bytes));
	assert_memory_not_equal(bytes, zeroes, 20);
	bench_fini(&b);
}

static void split_ring(void **state)
{
	rings_work(0);
}

static void event_index_and_indirect(void **state)
{
	rings_work(ALL_RING);
}

static void interrupts_only_when_wanted(void **state)
{
	struct bench b;
	struct ring_buffer buffer = { 0, 8, true };
	uint16_t flags = VRING_AVAIL_F_NO_INTERRUPT, event;

	bench_init(&b);
	driver_start(&b.d, ALL_RING, 1);
	buffer.gpa = machine_alloc(&b.m, 8, 8);
	ring_set_used_event(&b.d, 0, 9);
	for (unsigned i = 0; i < 10; i++) {
		assert_int_equal(b.m.msi_count, 0);
		ring_add(&b.d, 0, &buffer, 1);
		ring_kick(&b.d, 0);
		pump(&b);
	}
	assert_int_equal(b.m.msi_count, 1);
	/* The device says which entry it wants to be kicked for: the next one. */
	machine_get(&b.m, b.d.rings[0].used + 4 + 8ull * b.d.rings[0].size, &event, 2);
	assert_int_equal(event, 10);

	driver_start(&b.d, 0, 1);
	b.m.msi_count = 0;
	machine_put(&b.m, b.d.rings[0].avail, &flags, 2);
	ring_add(&b.d, 0, &buffer, 1);
	ring_kick(&b.d, 0);
	pump(&b);
	assert_true(ring_take(&b.d, 0, NULL, NULL));
	assert_int_equal(b.m.msi_count, 0);
	machine_get(&b.m, b.d.rings[0].used, &flags, 2);
	assert_int_equal(flags, 0);
	bench_fini(&b);
}

static void negotiation_by_the_book(void **state)
{
	struct bench b;

	bench_init(&b);
	assert_true(driver_negotiate(&b.d, UINT64_MAX));
	assert_false(driver_negotiate(&b.d, ALL_RING)); /* without VERSION_1 */
	driver_set(&b.d, VIRTIO_PCI_COMMON_GFSELECT, 4, 0);
	driver_set(&b.d, VIRTIO_PCI_COMMON_GF, 4, 0xffffffff); /* more than offered */
	driver_set(&b.d, VIRTIO_PCI_COMMON_STATUS, 1, VIRTIO_CONFIG_S_FEATURES_OK);
	assert_false(driver_status(&b.d) & VIRTIO_CONFIG_S_FEATURES_OK);
	driver_set(&b.d, VIRTIO_PCI_COMMON_DFSELECT, 4, 2);
	assert_int_equal(driver_get(&b.d, VIRTIO_PCI_COMMON_DF, 4), 0);
	assert_int_equal(driver_get(&b.d, VIRTIO_PCI_COMMON_NUMQ, 2), 1);
	driver_set(&b.d, VIRTIO_PCI_COMMON_Q_SELECT, 2, 1);
	assert_int_equal(driver_get(&b.d, VIRTIO_PCI_COMMON_Q_SIZE, 2), 0);
	driver_set(&b.d, VIRTIO_PCI_COMMON_Q_SELECT, 2, 0);
	driver_set(&b.d, VIRTIO_PCI_COMMON_Q_SIZE, 2, 24);
	assert_int_equal(driver_get(&b.d, VIRTIO_PCI_COMMON_Q_SIZE, 2), 64);
	driver_set(&b.d, VIRTIO_PCI_COMMON_Q_SIZE, 2, 16);
	assert_int_equal(driver_get(&b.d, VIRTIO_PCI_COMMON_Q_SIZE, 2), 16);
	driver_set(&b.d, VIRTIO_PCI_COMMON_Q_MSIX, 2, 99);
	assert_int_equal(driver_get(&b.d, VIRTIO_PCI_COMMON_Q_MSIX, 2), 0xffff);
	/* Enabled registers stand still; a reset brings everything back. */
	driver_set(&b.d, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
	driver_set(&b.d, VIRTIO_PCI_COMMON_Q_SIZE, 2, 8);
	assert_int_equal(driver_get(&b.d, VIRTIO_PCI_COMMON_Q_SIZE, 2), 16);
	driver_set(&b.d, VIRTIO_PCI_COMMON_STATUS, 1, 0);
	assert_int_equal(driver_status(&b.d), 0);
	assert_int_equal(driver_get(&b.d, VIRTIO_PCI_COMMON_Q_SIZE, 2), 64);
	assert_int_equal(driver_get(&b.d, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
	bench_fini(&b);
}

static void pin_without_msix(void **state)
{
	struct bench b;
	struct ring_buffer buffer = { 0, 8, true };
	unsigned pirq = pci_host_pirq(SLOT, 0);

	bench_init(&b);
	driver_start(&b.d, ALL_RING, 1);
	machine_config_write(&b.m, SLOT, 0x42, 2, 0); /* MSI-X off */
	buffer.gpa = machine_alloc(&b.m, 8, 8);
	ring_add(&b.d, 0, &buffer, 1);
	ring_kick(&b.d, 0);
	pump(&b);
	assert_int_equal(b.m.msi_count, 0);
	assert_int_equal(b.m.pirq[pirq], 1);
	assert_int_equal(bus_read(b.m.mmio, b.d.isr, 1), 1);
	assert_int_equal(b.m.pirq[pirq], 0);
	assert_int_equal(bus_read(b.m.mmio, b.d.isr, 1), 0);
	/* A failure interrupts for the configuration. */
	ring_publish(&b.d, 0, 0xffff);
	ring_kick(&b.d, 0);
	pump(&b);
	assert_int_equal(bus_read(b.m.mmio, b.d.isr, 1), 2);
	bench_fini(&b);
}

/* Configuration space as a way to the registers (4.1.4.9). */
static void config_access_window(void **state)
{
	struct bench b;
	unsigned cap;

	bench_init(&b);
	for (cap = machine_config_read(&b.m, SLOT, PCI_CAPABILITY_LIST, 1);
	     machine_config_read(&b.m, SLOT, cap, 1) != PCI_CAP_ID_VNDR ||
	     machine_config_read(&b.m, SLOT, cap + 3, 1) != VIRTIO_PCI_CAP_PCI_CFG;)
		cap = machine_config_read(&b.m, SLOT, cap + 1, 1);
	machine_config_write(&b.m, SLOT, cap + 4, 1, 4);
	machine_config_write(&b.m, SLOT, cap + 8, 4, VIRTIO_PCI_COMMON_STATUS);
	machine_config_write(&b.m, SLOT, cap + 12, 4, 1);
	machine_config_write(&b.m, SLOT, cap + 16, 1, 3);
	assert_int_equal(driver_status(&b.d), 3);
	assert_int_equal(machine_config_read(&b.m, SLOT, cap + 16, 1), 3);
	machine_config_write(&b.m, SLOT, cap + 16, 4, 0);
	assert_int_equal(driver_status(&b.d), 0);
	/* Nonsense windows do nothing. */
	for (unsigned bar = 0; bar < 8; bar++) {
		for (unsigned length = 0; length < 9; length++) {
			machine_config_write(&b.m, SLOT, cap + 4, 1, bar);
			machine_config_write(&b.m, SLOT, cap + 8, 4, 0xfffffffc + bar);
			machine_config_write(&b.m, SLOT, cap + 12, 4, length);
			machine_config_write(&b.m, SLOT, cap + 16, 4, 0xffffffff);
			machine_config_read(&b.m, SLOT, cap + 16, 4);
		}
	}
	bench_fini(&b);
}

static void every_register_every_way(void **state)
{
	struct bench b;
	uint64_t seed = 0x9e3779b97f4a7c15ull;

	bench_init(&b);
	for (unsigned round = 0; round < 3; round++) {
		for (unsigned at = 0; at < 0x4000; at++) {
			unsigned size = 1u << machine_random(&seed) % 4;

			bus_read(b.m.mmio, b.d.common + at, size);
			bus_write(b.m.mmio, b.d.common + at, size, machine_random(&seed));
			if (at % 64 == 0)
				fake_loop_pump(b.m.loop, 10);
		}
	}
	for (unsigned i = 0; i < 50000; i++) {
		unsigned at = machine_random(&seed) % 64;
		uint64_t value = machine_random(&seed);

		if (value & 1)
			value &= 0xff;
		bus_write(b.m.mmio, b.d.common + at, 1u << machine_random(&seed) % 4, value >> 1);
		if (i % 16 == 0)
			ring_kick(&b.d, 0);
		if (i % 32 == 0)
			fake_loop_pump(b.m.loop, 10);
	}
	driver_start(&b.d, ALL_RING, 1);
	assert_int_equal(driver_status(&b.d) & NEEDS_RESET, 0);
	bench_fini(&b);
}

/* One way to break the protocol; the device must fail, say so, stay silent, and work after a reset.
 */
struct crime {
	const char *name;
	void (*commit)(struct driver *d);
};

static void wild_head(struct driver *d)
{
	ring_publish(d, 0, 0x8000);
}

static void wild_index(struct driver *d)
{
	ring_set_avail_index(d, 0, 0x4000);
}

static void wild_address(struct driver *d)
{
	ring_put_desc(d, 0, 0, 0xfffffffffffff000ull, 64, VRING_DESC_F_WRITE, 0);
	ring_publish(d, 0, 0);
}

static void wrapping_address(struct driver *d)
{
	ring_put_desc(d, 0, 0, 0xfffffffffffff000ull, 0xffffffff, VRING_DESC_F_WRITE, 0);
	ring_publish(d, 0, 0);
}

static void past_the_end(struct driver *d)
{
	ring_put_desc(d, 0, 0, MACHINE_RAM_BYTES - 8, 64, VRING_DESC_F_WRITE, 0);
	ring_publish(d, 0, 0);
}

static void loop_of_one(struct driver *d)
{
	ring_put_desc(d, 0, 0, 0x1000, 8, VRING_DESC_F_WRITE | VRING_DESC_F_NEXT, 0);
	ring_publish(d, 0, 0);
}

static void loop_of_two_empty(struct driver *d)
{
	ring_put_desc(d, 0, 0, 0x1000, 0, VRING_DESC_F_WRITE | VRING_DESC_F_NEXT, 1);
	ring_put_desc(d, 0, 1, 0x1000, 0, VRING_DESC_F_WRITE | VRING_DESC_F_NEXT, 0);
	ring_publish(d, 0, 0);
}

static void wild_next(struct driver *d)
{
	ring_put_desc(d, 0, 0, 0x1000, 8, VRING_DESC_F_WRITE | VRING_DESC_F_NEXT, 0xffff);
	ring_publish(d, 0, 0);
}

static void readable_after_writable(struct driver *d)
{
	ring_put_desc(d, 0, 0, 0x1000, 8, VRING_DESC_F_WRITE | VRING_DESC_F_NEXT, 1);
	ring_put_desc(d, 0, 1, 0x1000, 8, 0, 0);
	ring_publish(d, 0, 0);
}

static void indirect(struct driver *d, uint64_t table, uint32_t len, uint16_t flags)
{
	ring_put_desc(d, 0, 0, table, len, (uint16_t)(VRING_DESC_F_INDIRECT | flags), 1);
	ring_publish(d, 0, 0);
}

static void indirect_odd(struct driver *d)
{
	indirect(d, 0x2000, 17, 0);
}

static void indirect_empty(struct driver *d)
{
	indirect(d, 0x2000, 0, 0);
}

static void indirect_and_next(struct driver *d)
{
	indirect(d, 0x2000, 16, VRING_DESC_F_NEXT);
}

static void indirect_wild(struct driver *d)
{
	indirect(d, 0xfffffffffffffff0ull, 0xfffffff0, 0);
}

static void indirect_in_indirect(struct driver *d)
{
	struct vring_desc desc = { .addr = 0x2000, .len = 16, .flags = VRING_DESC_F_INDIRECT };

	machine_put(d->m, 0x2000, &desc, sizeof(desc));
	indirect(d, 0x2000, 16, 0);
}

static void indirect_loop(struct driver *d)
{
	struct vring_desc desc = { .addr = 0x1000,
				   .len = 1,
				   .flags = VRING_DESC_F_NEXT | VRING_DESC_F_WRITE };

	machine_put(d->m, 0x2000, &desc, sizeof(desc));
	indirect(d, 0x2000, 16, 0);
}

static void indirect_wild_next(struct driver *d)
{
	struct vring_desc desc = {
		.addr = 0x1000, .len = 1, .flags = VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, .next = 1
	};

	machine_put(d->m, 0x2000, &desc, sizeof(desc));
	indirect(d, 0x2000, 16, 0);
}

static const struct crime crimes[] = {
	{ "wild head", wild_head },
	{ "wild index", wild_index },
	{ "wild address", wild_address },
	{ "wrapping address", wrapping_address },
	{ "past the end of RAM", past_the_end },
	{ "loop of one", loop_of_one },
	{ "loop of empty ones", loop_of_two_empty },
	{ "wild next", wild_next },
	{ "readable after writable", readable_after_writable },
	{ "indirect, odd length", indirect_odd },
	{ "indirect, empty", indirect_empty },
	{ "indirect and next", indirect_and_next },
	{ "indirect, wild", indirect_wild },
	{ "indirect in indirect", indirect_in_indirect },
	{ "indirect loop", indirect_loop },
	{ "indirect, wild next", indirect_wild_next },
};

static void crimes_need_a_reset(void **state)
{
	struct bench b;
	struct ring_buffer good = { 0x3000, 8, true };

	bench_init(&b);
	for (unsigned i = 0; i < sizeof(crimes) / sizeof(crimes[0]); i++) {
		driver_start(&b.d, ALL_RING, 1);
		b.m.msi_count = 0;
		crimes[i].commit(&b.d);
		ring_kick(&b.d, 0);
		pump(&b);
		if (!(driver_status(&b.d) & NEEDS_RESET))
			fail_msg("%s went unnoticed", crimes[i].name);
		assert_int_equal(b.m.msi_count, 1);
		assert_int_equal(b.m.msis[0].data, CONFIG_MSI);
		assert_false(ring_take(&b.d, 0, NULL, NULL));
		ring_add(&b.d, 0, &good, 1);
		ring_kick(&b.d, 0);
		pump(&b);
		assert_false(ring_take(&b.d, 0, NULL, NULL));
	}
	/* Not negotiated: an indirect descriptor is a crime too. */
	driver_start(&b.d, 0, 1);
	indirect(&b.d, 0x2000, 16, 0);
	ring_kick(&b.d, 0);
	pump(&b);
	assert_true(driver_status(&b.d) & NEEDS_RESET);

	driver_start(&b.d, ALL_RING, 1);
	ring_add(&b.d, 0, &good, 1);
	ring_kick(&b.d, 0);
	pump(&b);
	assert_true(ring_take(&b.d, 0, NULL, NULL));
	bench_fini(&b);
}

static void queues_outside_memory(void **state)
{
	static const uint64_t places[] = { MACHINE_RAM_BYTES - 16, 0xffffffffffffff00ull, 0x1001 };
	static const unsigned fields[] = { VIRTIO_PCI_COMMON_Q_DESCLO, VIRTIO_PCI_COMMON_Q_AVAILLO,
					   VIRTIO_PCI_COMMON_Q_USEDLO };
	struct bench b;

	bench_init(&b);
	for (unsigned i = 0; i < 9; i++) {
		assert_true(driver_negotiate(&b.d, UINT64_MAX));
		driver_queues(&b.d, 0);
		driver_set(&b.d, VIRTIO_PCI_COMMON_Q_SELECT, 2, 0);
		for (unsigned j = 0; j < 3; j++)
			driver_set(&b.d, fields[j], 8, 0x10000 * (j + 1));
		driver_set(&b.d, fields[i % 3], 8, places[i / 3]);
		driver_set(&b.d, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
		driver_ok(&b.d);
		ring_kick(&b.d, 0);
		pump(&b);
		assert_true(driver_status(&b.d) & NEEDS_RESET);
	}
	bench_fini(&b);
}

/* A running queue must not notice what the guest does to its registers, nor a storm of resets. */
static void reset_storm(void **state)
{
	struct bench b;
	struct ring_buffer buffer = { 0x3000, 8, true };

	bench_init(&b);
	for (unsigned i = 0; i < 2000; i++) {
		b.m.brk = 0x10000;
		driver_start(&b.d, ALL_RING, 1);
		driver_set(&b.d, VIRTIO_PCI_COMMON_Q_DESCLO, 8, ~0ull);
		ring_add(&b.d, 0, &buffer, 1);
		ring_kick(&b.d, 0);
		if (i % 3)
			pump(&b);
		if (i % 3)
			assert_true(ring_take(&b.d, 0, NULL, NULL));
		if (i % 5 == 0)
			driver_set(&b.d, VIRTIO_PCI_COMMON_STATUS, 1, 0);
		if (i % 7 == 0)
			ring_kick(&b.d, i % 3);
	}
	bench_fini(&b);
}

/* Checksums that fit, for as many sections as still can be told apart. */
static void reseal(struct state_writer *w)
{
	size_t at = 12;

	while (at + 17 < w->len && bytes_load32(w->bytes + at) == 0x54434553u) {
		size_t crc = at + 5 + w->bytes[at + 4] + 8;
		uint32_t len, sum;

		if (crc + 4 > w->len)
			return;
		len = bytes_load32(w->bytes + crc - 4);
		if (len > w->len - crc - 4)
			return;
		sum = crc32c(0, w->bytes + at, crc - at);
		bytes_store32(w->bytes + crc, crc32c(sum, w->bytes + crc + 4, len));
		at = crc + 4 + len;
	}
}

static void state_round_trip(void **state)
{
	unsigned taken = 0, refused = 0;
	struct bench b, c;
	struct ring_buffer buffer = { 0x3000, 8, true };
	struct state_writer first, second;
	struct state_reader reader;
	uint8_t page[4096];

	bench_init(&b);
	bench_init(&c);
	driver_start(&b.d, ALL_RING, 1);
	for (unsigned i = 0; i < 70; i++) {
		ring_add(&b.d, 0, &buffer, 1);
		ring_kick(&b.d, 0);
		pump(&b);
		assert_true(ring_take(&b.d, 0, NULL, NULL));
	}
	ring_add(&b.d, 0, &buffer, 1);
	pci_host_quiesce(b.m.host);
	ring_kick(&b.d, 0); /* lost in the pause, found again at the resume */
	pump(&b);
	assert_false(ring_take(&b.d, 0, NULL, NULL));

	state_writer_init(&first);
	pci_host_save(b.m.host, &first);
	assert_int_equal(state_writer_finish(&first), 0);
	for (uint64_t at = 0; at < MACHINE_RAM_BYTES; at += sizeof(page)) {
		machine_get(&b.m, at, page, sizeof(page));
		machine_put(&c.m, at, page, sizeof(page));
	}
	pci_host_quiesce(c.m.host);
	assert_int_equal(state_reader_init(&reader, first.bytes, first.len), 0);
	assert_int_equal(pci_host_load(c.m.host, &reader), 0);
	assert_null(state_reader_leftover(&reader));
	state_reader_fini(&reader);
	state_writer_init(&second);
	pci_host_save(c.m.host, &second);
	assert_int_equal(state_writer_finish(&second), 0);
	assert_int_equal(first.len, second.len);
	assert_memory_equal(first.bytes, second.bytes, first.len);

	/* The other machine goes on where this one stood. */
	pci_host_resume(c.m.host);
	pump(&c);
	c.d = b.d;
	c.d.m = &c.m;
	assert_true(ring_take(&c.d, 0, NULL, NULL));
	assert_int_equal(c.m.msi_count, 0); /* used_event was 0: not wanted */
	state_writer_fini(&second);

	/* A damaged state is loaded or refused with a sentence, and the machine lives on. */
	pci_host_quiesce(c.m.host);
	for (size_t i = 0; i < first.len; i += 5) {
		uint8_t whole = first.bytes[i];

		first.bytes[i] ^= (uint8_t)(1 << i % 8);
		reseal(&first);
		if (state_reader_init(&reader, first.bytes, first.len) == 0) {
			if (pci_host_load(c.m.host, &reader) == 0) {
				taken++;
			} else {
				assert_true(reader.error[0]);
				refused++;
			}
			state_reader_fini(&reader);
		}
		first.bytes[i] = whole;
		reseal(&first);
	}
	assert_true(taken > 100 && refused > 100);
	assert_int_equal(state_reader_init(&reader, first.bytes, first.len), 0);
	assert_int_equal(pci_host_load(c.m.host, &reader), 0);
	state_reader_fini(&reader);
	pci_host_resume(c.m.host);
	driver_start(&c.d, ALL_RING, 1);
	ring_add(&c.d, 0, &buffer, 1);
	ring_kick(&c.d, 0);
	pump(&c);
	assert_true(ring_take(&c.d, 0, NULL, NULL));
	state_writer_fini(&first);
	bench_fini(&c);
	bench_fini(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(split_ring),
		cmocka_unit_test(event_index_and_indirect),
		cmocka_unit_test(interrupts_only_when_wanted),
		cmocka_unit_test(negotiation_by_the_book),
		cmocka_unit_test(pin_without_msix),
		cmocka_unit_test(config_access_window),
		cmocka_unit_test(every_register_every_way),
		cmocka_unit_test(crimes_need_a_reset),
		cmocka_unit_test(queues_outside_memory),
		cmocka_unit_test(reset_storm),
		cmocka_unit_test(state_round_trip),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
