/*
 * The block device as it runs in a VM: a loop on its own thread, a real file
 * behind it, a vcpu's thread that kicks, polls and resets while requests are
 * in flight. Under both ways of doing I/O.
 */
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cmocka_all.h"

#include "block/block.h"
#include "dev/virtio/virtio_blk.h"
#include "ring.h"

#define SLOT       2
#define IMAGE      (16u << 20)
#define PIECE      16384u
#define IN_FLIGHT  32
#define EVERYTHING (~(1ull << VIRTIO_F_RING_PACKED))

struct bench {
	struct machine m;
	struct block *block;
	struct virtio_blk *blk;
	struct driver d;
	uint64_t header, data, status;
	char path[32];
	int fd;
};

static uint8_t pattern(uint64_t at)
{
	return (uint8_t)(at * 2654435761u >> 11);
}

static void bench_init(struct bench *b, enum block_io io)
{
	struct block_options options = { .path = b->path, .direct = true, .io = io };
	char error[BLOCK_ERROR_MAX];
	static uint8_t bytes[PIECE];

	strcpy(b->path, "live-test-XXXXXX");
	b->fd = mkstemp(b->path);
	assert_true(b->fd >= 0);
	for (uint64_t at = 0; at < IMAGE; at += PIECE) {
		for (unsigned i = 0; i < PIECE; i++)
			bytes[i] = pattern(at + i);
		assert_int_equal(pwrite(b->fd, bytes, PIECE, (off_t)at), PIECE);
	}
	machine_init(&b->m);
	assert_int_equal(loop_start(b->m.loop), 0);
	b->block = block_raw_open(b->m.loop, &options, error);
	if (!b->block)
		fail_msg("%s", error);
	b->blk = virtio_blk_new(b->m.host, SLOT, b->m.ram, b->m.loop, b->block, "live");
	assert_non_null(b->blk);
	assert_int_equal(pci_host_assign(b->m.host), 0);
	driver_init(&b->d, &b->m, SLOT);
	b->header = machine_alloc(&b->m, 4096, 4096);
	b->status = machine_alloc(&b->m, 4096, 4096);
	b->data = machine_alloc(&b->m, IN_FLIGHT * PIECE, 4096);
}

static void bench_fini(struct bench *b)
{
	loop_stop(b->m.loop);
	virtio_blk_free(b->blk);
	block_close(b->block);
	assert_int_equal(dma_in_flight(b->m.ram), 0);
	machine_fini(&b->m);
	close(b->fd);
	unlink(b->path);
}

static void post(struct bench *b, unsigned n, uint32_t type, uint64_t offset)
{
	struct virtio_blk_outhdr header = { .type = type, .sector = offset / 512 };
	struct ring_buffer buffers[3] = { { b->header + 16 * n, 16, false },
					  { b->data + PIECE * n, PIECE, type == VIRTIO_BLK_T_IN },
					  { b->status + n, 1, true } };

	machine_put(&b->m, b->header + 16 * n, &header, sizeof(header));
	ring_add_indirect(&b->d, 0, buffers, 3);
}

static void wait_used(struct bench *b, unsigned count)
{
	struct timespec pause = { .tv_nsec = 50000 };

	for (unsigned turns = 0; count; turns++) {
		assert_true(turns < 200000);
		if (ring_take(&b->d, 0, NULL, NULL))
			count--;
		else
			nanosleep(&pause, NULL);
	}
}

static void live(enum block_io io)
{
	struct bench b;
	static uint8_t bytes[PIECE];
	uint64_t seed = 0x9e3779b97f4a7c15ull, mark;

	bench_init(&b, io);
	driver_start(&b.d, EVERYTHING, 1);
	mark = b.m.brk;
	for (unsigned round = 0; round < 25; round++) {
		uint64_t offsets[IN_FLIGHT];

		b.m.brk = mark;
		for (unsigned n = 0; n < IN_FLIGHT; n++) {
			offsets[n] = machine_random(&seed) % (IMAGE / PIECE) * PIECE;
			post(&b, n, VIRTIO_BLK_T_IN, offsets[n]);
			if (n % 8 == 7)
				ring_kick(&b.d, 0);
		}
		wait_used(&b, IN_FLIGHT);
		for (unsigned n = 0; n < IN_FLIGHT; n++) {
			machine_get(&b.m, b.data + PIECE * n, bytes, PIECE);
			for (unsigned i = 0; i < PIECE; i += 511)
				assert_int_equal(bytes[i], pattern(offsets[n] + i));
		}
		/* Write back what was read, so that the pattern stays. */
		for (unsigned n = 0; n < IN_FLIGHT; n++)
			post(&b, n, VIRTIO_BLK_T_OUT, offsets[n]);
		ring_kick(&b.d, 0);
		wait_used(&b, IN_FLIGHT);
	}
	for (unsigned round = 0; round < 200; round++) {
		uint16_t used, later;

		b.m.brk = b.data + IN_FLIGHT * PIECE;
		driver_start(&b.d, EVERYTHING, 1);
		for (unsigned n = 0; n < IN_FLIGHT; n++)
			post(&b, n, VIRTIO_BLK_T_IN,
			     machine_random(&seed) % (IMAGE / 512 - 64) * 512);
		ring_kick(&b.d, 0);
		if (round % 3)
			usleep(round % 50 * 10);
		if (round % 5 == 0) {
			pci_host_quiesce(b.m.host);
			assert_int_equal(dma_in_flight(b.m.ram), 0);
			pci_host_resume(b.m.host);
		}
		driver_set(&b.d, VIRTIO_PCI_COMMON_STATUS, 1, 0);
		assert_int_equal(driver_status(&b.d), 0);
		assert_int_equal(dma_in_flight(b.m.ram), 0);
		machine_get(&b.m, b.d.rings[0].used + 2, &used, 2);
		usleep(20);
		machine_get(&b.m, b.d.rings[0].used + 2, &later, 2);
		assert_int_equal(used, later);
	}
	bench_fini(&b);
}

static void live_default(void **state)
{
	live(BLOCK_IO_AUTO);
}

static void live_threads(void **state)
{
	live(BLOCK_IO_THREADS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(live_default),
		cmocka_unit_test(live_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
