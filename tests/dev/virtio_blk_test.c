/* The block device: what requests mean, how many at once, resets in flight, the legacy interface.
 */
#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>
#include <stdlib.h>
#include <string.h>

#include "cmocka_all.h"
#include "dev/virtio/virtio_blk.h"
#include "dev/virtio/virtio_blk_req.h"
#include "fake_block.h"
#include "ring.h"
#include "state/stream.h"

#define SLOT       2
#define DISK_BYTES (1u << 20)
#define EVERYTHING (~(1ull << VIRTIO_F_RING_PACKED))

struct bench {
	struct machine m;
	struct fake_disk disk;
	struct virtio_blk *blk;
	struct driver d;
	uint64_t header, data, status; /* guest memory */
};

static void bench_init(struct bench *b, bool read_only)
{
	machine_init(&b->m);
	fake_disk_init(&b->disk, b->m.loop, DISK_BYTES, read_only);
	b->blk = virtio_blk_new(b->m.host, SLOT, b->m.ram, b->m.loop, b->disk.block,
				"island-serial-number-too-long");
	assert_non_null(b->blk);
	assert_int_equal(pci_host_assign(b->m.host), 0);
	driver_init(&b->d, &b->m, SLOT);
	b->header = machine_alloc(&b->m, 4096, 4096);
	b->status = machine_alloc(&b->m, 4096, 4096);
	b->data = machine_alloc(&b->m, 1 << 20, 4096);
}

static void bench_fini(struct bench *b)
{
	virtio_blk_free(b->blk);
	assert_int_equal(dma_in_flight(b->m.ram), 0);
	fake_disk_fini(&b->disk);
	machine_fini(&b->m);
}

static void pump(struct bench *b)
{
	assert_true(fake_loop_pump(b->m.loop, 10000));
}

static uint64_t put_header(struct bench *b, unsigned n, uint32_t type, uint64_t sector)
{
	struct virtio_blk_outhdr header = { .type = type, .sector = sector };
	uint8_t none = 0xee;

	machine_put(&b->m, b->header + 16 * n, &header, sizeof(header));
	machine_put(&b->m, b->status + n, &none, 1);
	return b->header + 16 * n;
}

/* Makes request n available: header, data, status. */
static void post(struct bench *b, unsigned n, uint32_t type, uint64_t sector, uint64_t data,
		 uint32_t len)
{
	bool in = type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID;
	struct ring_buffer buffers[3] = { { put_header(b, n, type, sector), 16, false },
					  { data, len, in },
					  { b->status + n, 1, true } };

	if (!len)
		buffers[1] = buffers[2];
	ring_add(&b->d, 0, buffers, len ? 3 : 2);
}

static uint8_t status_of(struct bench *b, unsigned n)
{
	uint8_t status;

	machine_get(&b->m, b->status + n, &status, 1);
	return status;
}

static uint8_t request(struct bench *b, uint32_t type, uint64_t sector, uint32_t len)
{
	post(b, 0, type, sector, b->data, len);
	ring_kick(&b->d, 0);
	pump(b);
	assert_true(ring_take(&b->d, 0, NULL, NULL));
	return status_of(b, 0);
}

static void reads_and_writes(void **state)
{
	struct bench b;
	uint8_t bytes[4096];
	uint32_t len;

	bench_init(&b, false);
	driver_start(&b.d, EVERYTHING, 1);
	assert_int_equal(bus_read(b.m.mmio, b.d.config, 8), DISK_BYTES / 512);
	assert_int_equal(bus_read(b.m.mmio, b.d.config + 12, 4), 510);
	memset(bytes, 0x77, sizeof(bytes));
	machine_put(&b.m, b.data, bytes, sizeof(bytes));
	assert_int_equal(request(&b, VIRTIO_BLK_T_OUT, 8, 4096), VIRTIO_BLK_S_OK);
	assert_int_equal(b.disk.bytes[4096], 0x77);
	assert_int_equal(b.disk.bytes[4095], 0);
	assert_int_equal(b.disk.bytes[8191], 0x77);
	assert_int_equal(b.disk.bytes[8192], 0);

	memset(b.disk.bytes + 512, 0x33, 1024);
	post(&b, 0, VIRTIO_BLK_T_IN, 1, b.data, 1024);
	ring_kick(&b.d, 0);
	pump(&b);
	assert_true(ring_take(&b.d, 0, NULL, &len));
	assert_int_equal(len, 1025);
	machine_get(&b.m, b.data, bytes, 1025);
	assert_int_equal(bytes[0], 0x33);
	assert_int_equal(bytes[1023], 0x33);
	assert_int_equal(bytes[1024], 0x77);

	assert_int_equal(b.disk.flushes, 0);
	assert_int_equal(request(&b, VIRTIO_BLK_T_FLUSH, 0, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(b.disk.flushes, 1);
	assert_int_equal(request(&b, VIRTIO_BLK_T_GET_ID, 0, 20), VIRTIO_BLK_S_OK);
	machine_get(&b.m, b.data, bytes, 21);
	assert_memory_equal(bytes, "island-serial-number", 20);
	assert_int_equal(bytes[20], 0x33);
	bench_fini(&b);
}

static void refusals(void **state)
{
	struct bench b;

	bench_init(&b, false);
	driver_start(&b.d, EVERYTHING, 1);
	assert_int_equal(request(&b, VIRTIO_BLK_T_IN, DISK_BYTES / 512, 512), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(&b, VIRTIO_BLK_T_IN, DISK_BYTES / 512 - 1, 1024),
			 VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(&b, VIRTIO_BLK_T_IN, UINT64_MAX, 512), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(&b, VIRTIO_BLK_T_OUT, 1ull << 55, 512), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(&b, VIRTIO_BLK_T_IN, 0, 511), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(&b, VIRTIO_BLK_T_IN, 0, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(request(&b, 77, 0, 512), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(b.disk.submitted, 0);
	b.disk.fail_with = -EIO;
	assert_int_equal(request(&b, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_IOERR);
	b.disk.fail_with = -EOPNOTSUPP;
	assert_int_equal(request(&b, VIRTIO_BLK_T_FLUSH, 0, 0), VIRTIO_BLK_S_UNSUPP);
	bench_fini(&b);
}

static void read_only_disks(void **state)
{
	struct bench b;

	bench_init(&b, true);
	driver_start(&b.d, EVERYTHING, 1);
	assert_true(b.d.features & (1ull << VIRTIO_BLK_F_RO));
	assert_false(b.d.features & (1ull << VIRTIO_BLK_F_DISCARD));
	assert_int_equal(request(&b, VIRTIO_BLK_T_OUT, 0, 512), VIRTIO_BLK_S_IOERR);
	assert_int_equal(b.disk.submitted, 0);
	assert_int_equal(request(&b, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);
	bench_fini(&b);
}

static uint8_t range_request(struct bench *b, uint32_t type, uint64_t sector, uint32_t sectors,
			     uint32_t flags)
{
	struct virtio_blk_discard_write_zeroes range = { .sector = sector,
							 .num_sectors = sectors,
							 .flags = flags };

	machine_put(&b->m, b->data, &range, sizeof(range));
	return request(b, type, 0, sizeof(range));
}

static void discard_and_zeroes(void **state)
{
	struct bench b;

	bench_init(&b, false);
	driver_start(&b.d, EVERYTHING, 1);
	memset(b.disk.bytes, 0xff, DISK_BYTES);
	assert_int_equal(range_request(&b, VIRTIO_BLK_T_WRITE_ZEROES, 1, 2, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(b.disk.bytes[511], 0xff);
	assert_int_equal(b.disk.bytes[512], 0);
	assert_int_equal(b.disk.bytes[1535], 0);
	assert_int_equal(b.disk.bytes[1536], 0xff);
	assert_int_equal(range_request(&b, VIRTIO_BLK_T_WRITE_ZEROES, 8, 1, 1), VIRTIO_BLK_S_OK);
	assert_int_equal(b.disk.bytes[4096], 0);
	assert_int_equal(range_request(&b, VIRTIO_BLK_T_DISCARD, 16, 1, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(range_request(&b, VIRTIO_BLK_T_DISCARD, 16, 1, 1), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(range_request(&b, VIRTIO_BLK_T_DISCARD, 0, 0xffffffff, 0),
			 VIRTIO_BLK_S_IOERR);
	assert_int_equal(range_request(&b, VIRTIO_BLK_T_DISCARD, UINT64_MAX, 1, 0),
			 VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(&b, VIRTIO_BLK_T_DISCARD, 0, 8), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(&b, VIRTIO_BLK_T_DISCARD, 0, 32), VIRTIO_BLK_S_IOERR);
	bench_fini(&b);
}

/* More requests than slots, finishing newest first: each is answered once, all keep their data. */
static void many_at_once(void **state)
{
	struct bench b;
	unsigned taken = 0, commits;
	uint16_t head;

	bench_init(&b, false);
	driver_start(&b.d, EVERYTHING, 1);
	for (unsigned i = 0; i < DISK_BYTES; i++)
		b.disk.bytes[i] = (uint8_t)(i / 512);
	b.disk.hold = true;
	b.disk.reverse = true;
	for (unsigned i = 0; i < 160; i++)
		post(&b, i, VIRTIO_BLK_T_IN, i, b.data + 512 * i, 512);
	commits = b.disk.commits;
	ring_kick(&b.d, 0);
	pump(&b);
	assert_int_equal(b.disk.submitted, 64);
	assert_int_equal(b.disk.commits, commits + 1);
	assert_false(ring_take(&b.d, 0, NULL, NULL));
	b.disk.hold = false;
	while (taken < 160) {
		pump(&b);
		while (ring_take(&b.d, 0, &head, NULL)) {
			taken++;
			assert_int_equal(head % 3, 0);
		}
	}
	assert_int_equal(b.disk.in_kernel_max, 64);
	for (unsigned i = 0; i < 160; i++) {
		uint8_t bytes[2];

		assert_int_equal(status_of(&b, i), VIRTIO_BLK_S_OK);
		machine_get(&b.m, b.data + 512 * i + 510, bytes, 2);
		assert_int_equal(bytes[1], (uint8_t)i);
	}
	assert_true(b.m.msi_count < 10); /* one for a batch, not for each */
	bench_fini(&b);
}

static void odd_framing(void **state)
{
	struct bench b;
	struct ring_buffer buffers[40] = { 0 };
	uint8_t bytes[1024];

	/* Header in bytes, data in crumbs, status at the end of the last crumb. */
	bench_init(&b, false);
	driver_start(&b.d, EVERYTHING, 1);
	for (unsigned i = 0; i < DISK_BYTES; i++)
		b.disk.bytes[i] = (uint8_t)(i * 7 + i / 512);
	put_header(&b, 0, VIRTIO_BLK_T_IN, 3);
	for (unsigned i = 0; i < 16; i++)
		buffers[i] = (struct ring_buffer){ b.header + i, 1, false };
	for (unsigned i = 0; i < 16; i++)
		buffers[16 + i] = (struct ring_buffer){ b.data + 100 * i, 64, true };
	buffers[31].len = 65;
	ring_add_indirect(&b.d, 0, buffers, 32);
	ring_kick(&b.d, 0);
	pump(&b);
	assert_true(ring_take(&b.d, 0, NULL, NULL));
	for (unsigned i = 0; i < 16; i++) {
		machine_get(&b.m, b.data + 100 * i, bytes, 65);
		assert_memory_equal(bytes, b.disk.bytes + 3 * 512 + 64 * i, 64);
	}
	assert_int_equal(bytes[64], VIRTIO_BLK_S_OK);

	/* A write whose header and data share a buffer. */
	put_header(&b, 0, VIRTIO_BLK_T_OUT, 0);
	memset(bytes, 0x42, 512);
	machine_put(&b.m, b.header + 16, bytes, 512);
	buffers[0] = (struct ring_buffer){ b.header, 528, false };
	buffers[1] = (struct ring_buffer){ b.status, 1, true };
	ring_add(&b.d, 0, buffers, 2);
	ring_kick(&b.d, 0);
	pump(&b);
	assert_int_equal(status_of(&b, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(b.disk.bytes[0], 0x42);
	assert_int_equal(b.disk.bytes[511], 0x42);
	bench_fini(&b);
}

static void unanswerable_requests(void **state)
{
	struct bench b;
	struct ring_buffer buffers[3];

	bench_init(&b, false);
	for (unsigned i = 0; i < 5; i++) {
		driver_start(&b.d, EVERYTHING, 1);
		put_header(&b, 0, VIRTIO_BLK_T_IN, 0);
		buffers[0] = (struct ring_buffer){ b.header, i == 0 ? 15 : 16, false };
		buffers[1] = (struct ring_buffer){ i == 2 ? 0xffff0000 : b.data, 512, true };
		buffers[2] = (struct ring_buffer){ i == 3 ? 0xffff0000 : b.status, 1, true };
		if (i == 4)
			buffers[0].gpa = 0xffff0000;
		ring_add(&b.d, 0, buffers, i == 1 ? 1 : 3);
		ring_kick(&b.d, 0);
		pump(&b);
		assert_true(driver_status(&b.d) & VIRTIO_CONFIG_S_NEEDS_RESET);
		assert_false(ring_take(&b.d, 0, NULL, NULL));
	}
	driver_start(&b.d, EVERYTHING, 1);
	assert_int_equal(request(&b, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);
	bench_fini(&b);
}

/* A reset in the middle: when status reads 0 nothing is in flight and nothing was written since. */
static void reset_in_flight(void **state)
{
	struct bench b;
	uint16_t used;

	bench_init(&b, false);
	for (unsigned round = 0; round < 200; round++) {
		b.m.brk = b.data + (1 << 20);
		driver_start(&b.d, EVERYTHING, 1);
		b.disk.hold = true;
		for (unsigned i = 0; i < 100; i++)
			post(&b, i, i % 2 ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT, i, b.data + 512 * i,
			     512);
		ring_kick(&b.d, 0);
		if (round % 4)
			pump(&b);
		driver_set(&b.d, VIRTIO_PCI_COMMON_STATUS, 1, 0);
		assert_int_equal(driver_status(&b.d), 0);
		assert_int_equal(dma_in_flight(b.m.ram), 0);
		machine_get(&b.m, b.d.rings[0].used + 2, &used, 2);
		assert_int_equal(used, 0);
		b.disk.hold = false;
		pump(&b);
		machine_get(&b.m, b.d.rings[0].used + 2, &used, 2);
		assert_int_equal(used, 0);
	}
	driver_start(&b.d, EVERYTHING, 1);
	assert_int_equal(request(&b, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);
	bench_fini(&b);
}

static void durable_without_flush(void **state)
{
	struct bench b;

	bench_init(&b, false);
	driver_start(&b.d, EVERYTHING & ~(1ull << VIRTIO_BLK_F_FLUSH), 1);
	assert_int_equal(request(&b, VIRTIO_BLK_T_OUT, 0, 512), VIRTIO_BLK_S_OK);
	assert_int_equal(b.disk.flushes, 1);
	assert_int_equal(request(&b, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);
	assert_int_equal(b.disk.flushes, 1);
	/* The same if the machine is paused between write and flush. */
	b.disk.hold = true;
	post(&b, 0, VIRTIO_BLK_T_OUT, 0, b.data, 512);
	ring_kick(&b.d, 0);
	pump(&b);
	pci_host_quiesce(b.m.host);
	assert_int_equal(b.disk.flushes, 2);
	assert_int_equal(dma_in_flight(b.m.ram), 0);
	assert_true(ring_take(&b.d, 0, NULL, NULL));
	bench_fini(&b);
}

static void pause_and_move(void **state)
{
	struct bench b, c;
	struct state_writer first, second;
	struct state_reader reader;
	uint8_t page[4096];
	unsigned taken = 0;

	bench_init(&b, false);
	bench_init(&c, false);
	driver_start(&b.d, EVERYTHING, 1);
	b.disk.hold = true;
	for (unsigned i = 0; i < 150; i++)
		post(&b, i, VIRTIO_BLK_T_IN, i, b.data + 512 * i, 512);
	ring_kick(&b.d, 0);
	pump(&b);
	pci_host_quiesce(b.m.host);
	assert_int_equal(dma_in_flight(b.m.ram), 0);
	while (ring_take(&b.d, 0, NULL, NULL))
		taken++;
	assert_int_equal(taken,
			 64); /* what was in flight is answered, the rest waits in the ring */

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
	state_reader_fini(&reader);
	state_writer_init(&second);
	pci_host_save(c.m.host, &second);
	assert_int_equal(state_writer_finish(&second), 0);
	assert_int_equal(first.len, second.len);
	assert_memory_equal(first.bytes, second.bytes, first.len);
	pci_host_resume(c.m.host);
	c.d = b.d;
	c.d.m = &c.m;
	while (taken < 150) {
		pump(&c);
		while (ring_take(&c.d, 0, NULL, NULL))
			taken++;
	}
	for (unsigned i = 0; i < 150; i++)
		assert_int_equal(status_of(&c, i), VIRTIO_BLK_S_OK);
	state_writer_fini(&first);
	state_writer_fini(&second);
	bench_fini(&c);
	bench_fini(&b);
}

static void legacy_interface(void **state)
{
	struct bench b;
	uint64_t io, ring;
	struct ring *r = &b.d.rings[0];

	bench_init(&b, false);
	assert_int_equal(machine_config_read(&b.m, SLOT, 0, 4), 0x10011af4);
	assert_int_equal(machine_config_read(&b.m, SLOT, PCI_SUBSYSTEM_ID, 2), 2);
	assert_int_equal(machine_config_read(&b.m, SLOT, PCI_REVISION_ID, 1), 0);
	io = machine_bar(&b.m, SLOT, 0);
	for (unsigned round = 0; round < 3; round++) {
		bus_write(b.m.pio, io + VIRTIO_PCI_STATUS, 1, 0);
		assert_int_equal(bus_read(b.m.pio, io + VIRTIO_PCI_STATUS, 1), 0);
		bus_write(b.m.pio, io + VIRTIO_PCI_STATUS, 1, 3);
		assert_true(bus_read(b.m.pio, io, 4) & (1u << VIRTIO_BLK_F_FLUSH));
		bus_write(b.m.pio, io + VIRTIO_PCI_GUEST_FEATURES, 4, 1u << VIRTIO_BLK_F_FLUSH);
		assert_int_equal(bus_read(b.m.pio, io + 20, 4), DISK_BYTES / 512);
		assert_int_equal(bus_read(b.m.pio, io + 20 + 12, 4), 254);
		bus_write(b.m.pio, io + VIRTIO_PCI_QUEUE_SEL, 2, 0);
		r->size = (uint16_t)bus_read(b.m.pio, io + VIRTIO_PCI_QUEUE_NUM, 2);
		assert_int_equal(r->size, 256);
		ring = machine_alloc(&b.m, 4 * 4096, 4096);
		r->desc = ring;
		r->avail = ring + 16 * 256;
		r->used = ring + 2 * 4096;
		r->next_desc = r->avail_index = r->used_seen = 0;
		bus_write(b.m.pio, io + VIRTIO_PCI_QUEUE_PFN, 4, ring >> 12);
		assert_int_equal(bus_read(b.m.pio, io + VIRTIO_PCI_QUEUE_PFN, 4), ring >> 12);
		if (round) /* the oldest drivers read before DRIVER_OK */
			bus_write(b.m.pio, io + VIRTIO_PCI_STATUS, 1, 7);

		b.disk.bytes[1024] = (uint8_t)(0x60 + round);
		post(&b, 0, VIRTIO_BLK_T_IN, 2, b.data, 512);
		bus_write(b.m.pio, io + VIRTIO_PCI_QUEUE_NOTIFY, 2, 0);
		pump(&b);
		assert_true(ring_take(&b.d, 0, NULL, NULL));
		{
			uint8_t byte;

			machine_get(&b.m, b.data, &byte, 1);
			assert_int_equal(byte, 0x60 + round);
		}
		assert_int_equal(b.m.pirq[pci_host_pirq(SLOT, 0)], 1);
		assert_int_equal(bus_read(b.m.pio, io + VIRTIO_PCI_ISR, 1), 1);
		assert_int_equal(b.m.pirq[pci_host_pirq(SLOT, 0)], 0);
	}
	bench_fini(&b);
}

static void legacy_registers_every_way(void **state)
{
	struct bench b;
	uint64_t io, seed = 0x2545f4914f6cdd1dull;

	bench_init(&b, false);
	io = machine_bar(&b.m, SLOT, 0);
	for (unsigned i = 0; i < 100000; i++) {
		unsigned at = machine_random(&seed) % 130, size = 1u << machine_random(&seed) % 3;
		uint64_t value = machine_random(&seed) >> (machine_random(&seed) % 64);

		bus_write(b.m.pio, io + at, size, value);
		bus_read(b.m.pio, io + at, size);
		if (i % 64 == 0)
			fake_loop_pump(b.m.loop, 100);
	}
	fake_loop_pump(b.m.loop, 100);
	driver_start(&b.d, EVERYTHING, 1);
	assert_int_equal(request(&b, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);
	bench_fini(&b);
}

/* Random rings in random memory: nothing but NEEDS_RESET and I/O errors may come of it. */
static void wild_rings(void **state)
{
	struct bench b;
	uint64_t seed = 0x853c49e6748fea9bull;

	bench_init(&b, false);
	for (unsigned round = 0; round < 300; round++) {
		b.m.brk = b.data + (1 << 20);
		driver_start(&b.d, machine_random(&seed), 1);
		for (unsigned i = 0; i < 64; i++) {
			uint64_t r = machine_random(&seed);
			uint64_t gpa = r % 8 ? b.header + r % 8192 : machine_random(&seed);
			uint32_t len = r % 5 ? (uint32_t)(r >> 32) % 1024 : (uint32_t)(r >> 32);

			ring_put_desc(&b.d, 0, (uint16_t)i, gpa, len,
				      (uint16_t)(r >> 16) % (r % 11 ? 4 : 8),
				      (uint16_t)((r >> 48) % 64));
			put_header(&b, i, (uint32_t)(r >> 20) % 16, (r >> 8) % 2100);
		}
		for (unsigned i = 0; i < 200; i++) {
			b.disk.hold = machine_random(&seed) % 4 == 0;
			ring_publish(&b.d, 0, (uint16_t)(machine_random(&seed) % 64));
			ring_kick(&b.d, 0);
			fake_loop_pump(b.m.loop, 4);
		}
		b.disk.hold = false;
	}
	driver_start(&b.d, EVERYTHING, 1);
	assert_int_equal(request(&b, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);
	bench_fini(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_and_writes),
		cmocka_unit_test(refusals),
		cmocka_unit_test(read_only_disks),
		cmocka_unit_test(discard_and_zeroes),
		cmocka_unit_test(many_at_once),
		cmocka_unit_test(odd_framing),
		cmocka_unit_test(unanswerable_requests),
		cmocka_unit_test(reset_in_flight),
		cmocka_unit_test(durable_without_flush),
		cmocka_unit_test(pause_and_move),
		cmocka_unit_test(legacy_interface),
		cmocka_unit_test(legacy_registers_every_way),
		cmocka_unit_test(wild_rings),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
