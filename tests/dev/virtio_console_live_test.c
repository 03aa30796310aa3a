/*
 * The console as it runs in a VM: a loop on its own thread, pipes behind the
 * ports, a vcpu's thread that writes, reads, pauses and resets meanwhile.
 */
#include <fcntl.h>
#include <linux/virtio_config.h>
#include <linux/virtio_console.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cmocka_all.h"

#include "chardev/chardev_fd.h"
#include "dev/virtio/virtio_console.h"
#include "ring.h"

#define SLOT  5
#define TOTAL (1u << 20)
#define PIECE 1000u

struct bench {
	struct machine m;
	struct chardev *chr;
	struct virtio_console *con;
	struct driver d;
	int to_guest[2], from_guest[2];
	uint64_t data;
};

static uint8_t pattern(uint64_t at)
{
	return (uint8_t)(at * 31 + at / 256);
}

static void bench_init(struct bench *b)
{
	struct virtio_console_port_config port = { .console = true };

	machine_init(&b->m);
	assert_int_equal(loop_start(b->m.loop), 0);
	assert_int_equal(pipe(b->to_guest), 0);
	assert_int_equal(pipe(b->from_guest), 0);
	b->chr = chardev_fd_new(b->m.loop, b->to_guest[0], b->from_guest[1]);
	assert_non_null(b->chr);
	port.chr = b->chr;
	b->con = virtio_console_new(b->m.host, SLOT, b->m.ram, b->m.loop, &port, 1);
	assert_non_null(b->con);
	assert_int_equal(pci_host_assign(b->m.host), 0);
	driver_init(&b->d, &b->m, SLOT);
	b->data = machine_alloc(&b->m, 64 << 10, 4096);
}

/* With the loop running, as a board may. */
static void bench_fini(struct bench *b)
{
	virtio_console_free(b->con);
	chardev_free(b->chr);
	loop_stop(b->m.loop);
	machine_fini(&b->m);
	close(b->to_guest[0]);
	close(b->to_guest[1]);
	close(b->from_guest[0]);
	close(b->from_guest[1]);
}

static void rest(void)
{
	struct timespec pause = { .tv_nsec = 20000 };

	nanosleep(&pause, NULL);
}

static void *read_all(void *arg)
{
	struct bench *b = arg;
	uint8_t bytes[777];
	uint64_t at = 0;

	while (at < TOTAL) {
		ssize_t got = read(b->from_guest[0], bytes, sizeof(bytes));

		if (got <= 0)
			return "the pipe ended";
		for (ssize_t i = 0; i < got; i++)
			if (bytes[i] != pattern(at + (uint64_t)i))
				return "wrong bytes";
		at += (uint64_t)got;
		if (at % 64 < 8)
			rest();
	}
	return NULL;
}

static void *write_all(void *arg)
{
	struct bench *b = arg;
	uint8_t bytes[555];

	for (uint64_t at = 0; at < TOTAL;) {
		size_t count = TOTAL - at < sizeof(bytes) ? (size_t)(TOTAL - at) : sizeof(bytes);

		for (size_t i = 0; i < count; i++)
			bytes[i] = pattern(at + i);
		if (write(b->to_guest[1], bytes, count) != (ssize_t)count)
			return "the pipe ended";
		at += count;
	}
	return NULL;
}

static void bytes_both_ways(void **state)
{
	struct bench b;
	pthread_t reader, writer;
	uint64_t sent = 0, seen = 0;
	uint8_t bytes[PIECE];
	bool sending = false, waiting = false;
	const char *wrong;
	uint32_t len;

	bench_init(&b);
	driver_start(&b.d, 1ull << VIRTIO_RING_F_EVENT_IDX, 2);
	assert_int_equal(pthread_create(&reader, NULL, read_all, &b), 0);
	assert_int_equal(pthread_create(&writer, NULL, write_all, &b), 0);
	for (unsigned turn = 0; sent < TOTAL || seen < TOTAL; turn++) {
		struct ring_buffer out = { b.data, PIECE, false },
				   in = { b.data + 8192, PIECE, true };

		assert_true(turn < 10000000);
		if (sending && ring_take(&b.d, 1, NULL, NULL)) {
			sending = false;
			sent += out.len < TOTAL - sent ? out.len : TOTAL - sent;
		}
		if (!sending && sent < TOTAL) {
			out.len = TOTAL - sent < PIECE ? (uint32_t)(TOTAL - sent) : PIECE;
			for (unsigned i = 0; i < out.len; i++)
				bytes[i] = pattern(sent + i);
			machine_put(&b.m, out.gpa, bytes, out.len);
			ring_add(&b.d, 1, &out, 1);
			ring_kick(&b.d, 1);
			sending = true;
		}
		if (waiting && ring_take(&b.d, 0, NULL, &len)) {
			waiting = false;
			machine_get(&b.m, in.gpa, bytes, len);
			for (unsigned i = 0; i < len; i++)
				assert_int_equal(bytes[i], pattern(seen + i));
			seen += len;
		}
		if (!waiting && seen < TOTAL) {
			ring_add(&b.d, 0, &in, 1);
			ring_kick(&b.d, 0);
			waiting = true;
		}
		if (turn % 1000 == 999) {
			pci_host_quiesce(b.m.host);
			pci_host_resume(b.m.host);
		}
		rest();
	}
	pthread_join(writer, (void **)&wrong);
	assert_null(wrong);
	pthread_join(reader, (void **)&wrong);
	assert_null(wrong);
	bench_fini(&b);
}

static void resets_while_it_talks(void **state)
{
	struct bench b;
	uint8_t bytes[4096];

	bench_init(&b);
	assert_int_equal(fcntl(b.from_guest[0], F_SETFL, O_NONBLOCK), 0);
	assert_int_equal(fcntl(b.to_guest[1], F_SETFL, O_NONBLOCK), 0);
	for (unsigned round = 0; round < 1000; round++) {
		struct ring_buffer out = { b.data, 20000, false },
				   in = { b.data + 32768, 100, true };

		b.m.brk = b.data + (64 << 10);
		driver_start(&b.d, ~0ull >> 30, 4);
		for (unsigned i = 0; i < 4; i++) {
			ring_add(&b.d, 1, &out, 1);
			ring_kick(&b.d, 1);
			ring_add(&b.d, 0, &in, 1);
			ring_kick(&b.d, 0);
		}
		if (write(b.to_guest[1], bytes, 300) < 0)
			rest();
		if (round % 3)
			rest();
		driver_set(&b.d, VIRTIO_PCI_COMMON_STATUS, 1, 0);
		assert_int_equal(driver_status(&b.d), 0);
		while (round % 4 && read(b.from_guest[0], bytes, sizeof(bytes)) > 0)
			;
		if (round % 100 == 0)
			virtio_console_resize(b.con, 0, 80, (uint16_t)round);
	}
	bench_fini(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bytes_both_ways),
		cmocka_unit_test(resets_while_it_talks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
