/* The console: how ports are agreed on, bytes both ways, and what happens when nobody takes them.
 */
#include <linux/virtio_config.h>
#include <linux/virtio_console.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>
#include <stdlib.h>
#include <string.h>

#include "chardev/chardev_memory.h"
#include "cmocka_all.h"
#include "dev/virtio/virtio_console.h"
#include "ring.h"
#include "state/stream.h"

#define SLOT       5
#define PORTS      3
#define QUEUES     (2 * (PORTS + 1))
#define CONTROL_RX 2
#define CONTROL_TX 3
#define CAPACITY   1024
#define EVERYTHING (~(1ull << VIRTIO_F_RING_PACKED))

struct bench {
	struct machine m;
	struct chardev *chr[PORTS];
	struct virtio_console *con;
	struct driver d;
	uint64_t control, data; /* guest memory */
};

static void bench_init(struct bench *b)
{
	struct virtio_console_port_config ports[PORTS] = {
		{ .console = true },
		{ .name = "insula.agent" },
		{ .name = "other" },
	};

	machine_init(&b->m);
	for (unsigned i = 0; i < PORTS; i++)
		ports[i].chr = b->chr[i] = chardev_memory_new(CAPACITY);
	b->con = virtio_console_new(b->m.host, SLOT, b->m.ram, b->m.loop, ports, PORTS);
	assert_non_null(b->con);
	assert_int_equal(pci_host_assign(b->m.host), 0);
	driver_init(&b->d, &b->m, SLOT);
	b->control = machine_alloc(&b->m, 4096, 4096);
	b->data = machine_alloc(&b->m, 1 << 16, 4096);
}

static void bench_fini(struct bench *b)
{
	virtio_console_free(b->con);
	for (unsigned i = 0; i < PORTS; i++)
		chardev_free(b->chr[i]);
	assert_int_equal(dma_in_flight(b->m.ram), 0);
	machine_fini(&b->m);
}

static void pump(struct bench *b)
{
	assert_true(fake_loop_pump(b->m.loop, 10000));
}

static void say(struct bench *b, uint32_t id, uint16_t event, uint16_t value)
{
	struct virtio_console_control message = { id, event, value };
	struct ring_buffer buffer = { b->control + 2048, sizeof(message), false };

	machine_put(&b->m, buffer.gpa, &message, sizeof(message));
	ring_add(&b->d, CONTROL_TX, &buffer, 1);
	ring_kick(&b->d, CONTROL_TX);
	pump(b);
	assert_true(ring_take(&b->d, CONTROL_TX, NULL, NULL));
}

static void give_control_buffers(struct bench *b, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		struct ring_buffer buffer = { b->control + 64 * i, 64, true };

		ring_add(&b->d, CONTROL_RX, &buffer, 1);
	}
	ring_kick(&b->d, CONTROL_RX);
	pump(b);
}

struct heard {
	struct virtio_console_control header;
	char name[56];
	uint32_t len;
};

/* Message n since the control buffers were given. */
static bool hear(struct bench *b, struct heard *heard)
{
	unsigned n = b->d.rings[CONTROL_RX].used_seen % 32;

	memset(heard, 0, sizeof(*heard));
	if (!ring_take(&b->d, CONTROL_RX, NULL, &heard->len))
		return false;
	machine_get(&b->m, b->control + 64 * n, heard, 64);
	return true;
}

static void expect(struct bench *b, uint32_t id, uint16_t event, uint16_t value)
{
	struct heard heard;

	assert_true(hear(b, &heard));
	assert_int_equal(heard.header.event, event);
	assert_int_equal(heard.header.id, id);
	assert_int_equal(heard.header.value, value);
}

static void bring_up(struct bench *b)
{
	struct heard heard;

	driver_start(&b->d, EVERYTHING, QUEUES);
	assert_true(b->d.features & (1u << VIRTIO_CONSOLE_F_MULTIPORT));
	give_control_buffers(b, 32);
	say(b, VIRTIO_CONSOLE_BAD_ID, VIRTIO_CONSOLE_DEVICE_READY, 1);
	for (unsigned i = 0; i < PORTS; i++)
		expect(b, i, VIRTIO_CONSOLE_PORT_ADD, 1);
	say(b, 0, VIRTIO_CONSOLE_PORT_READY, 1);
	expect(b, 0, VIRTIO_CONSOLE_CONSOLE_PORT, 1);
	expect(b, 0, VIRTIO_CONSOLE_PORT_OPEN, 1);
	say(b, 1, VIRTIO_CONSOLE_PORT_READY, 1);
	assert_true(hear(b, &heard));
	assert_int_equal(heard.header.event, VIRTIO_CONSOLE_PORT_NAME);
	assert_int_equal(heard.len, 8 + 12);
	assert_string_equal((char *)&heard + 8, "insula.agent");
	expect(b, 1, VIRTIO_CONSOLE_PORT_OPEN, 1);
	assert_false(hear(b, &heard));
}

static unsigned rx_queue(unsigned port)
{
	return port ? 2 * port + 2 : 0;
}

static void output(struct bench *b, unsigned port, const char *text)
{
	struct ring_buffer buffer = { b->data, (uint32_t)strlen(text), false };

	machine_put(&b->m, b->data, text, strlen(text));
	ring_add(&b->d, rx_queue(port) + 1, &buffer, 1);
	ring_kick(&b->d, rx_queue(port) + 1);
	pump(b);
}

static void talks_both_ways(void **state)
{
	struct bench b;
	struct ring_buffer buffer;
	char text[64] = { 0 };
	uint32_t len;

	bench_init(&b);
	assert_int_equal(bus_read(b.m.mmio, b.d.config + 4, 4), PORTS);
	bring_up(&b);
	output(&b, 0, "hello");
	assert_true(ring_take(&b.d, 1, NULL, &len));
	assert_int_equal(len, 0);
	assert_int_equal(chardev_memory_take(b.chr[0], text, sizeof(text)), 5);
	assert_string_equal(text, "hello");
	output(&b, 1, "agent");
	assert_int_equal(chardev_memory_take(b.chr[1], text, sizeof(text)), 5);
	assert_string_equal(text, "agent");

	/* Input before there is a buffer for it, then in two buffers. */
	assert_int_equal(chardev_memory_inject(b.chr[0], "typed ahead", 11), 11);
	buffer = (struct ring_buffer){ b.data + 0x1000, 5, true };
	ring_add(&b.d, 0, &buffer, 1);
	ring_kick(&b.d, 0);
	pump(&b);
	assert_true(ring_take(&b.d, 0, NULL, &len));
	assert_int_equal(len, 5);
	assert_false(ring_take(&b.d, 0, NULL, NULL));
	buffer = (struct ring_buffer){ b.data + 0x1005, 100, true };
	ring_add(&b.d, 0, &buffer, 1);
	ring_kick(&b.d, 0);
	pump(&b);
	assert_true(ring_take(&b.d, 0, NULL, &len));
	assert_int_equal(len, 6);
	machine_get(&b.m, b.data + 0x1000, text, 11);
	assert_memory_equal(text, "typed ahead", 11);
	bench_fini(&b);
}

static void closed_ports_take_no_input(void **state)
{
	struct bench b;
	struct ring_buffer buffer;
	struct heard heard;
	uint32_t len;

	bench_init(&b);
	bring_up(&b);
	assert_int_equal(chardev_memory_inject(b.chr[1], "early", 5), 5);
	buffer = (struct ring_buffer){ b.data, 100, true };
	ring_add(&b.d, 4, &buffer, 1);
	ring_kick(&b.d, 4);
	pump(&b);
	assert_false(ring_take(&b.d, 4, NULL, NULL));
	assert_int_equal(chardev_memory_queued(b.chr[1]), 5);
	assert_false(virtio_console_guest_open(b.con, 1));
	say(&b, 1, VIRTIO_CONSOLE_PORT_OPEN, 1);
	assert_true(virtio_console_guest_open(b.con, 1));
	assert_int_equal(chardev_memory_queued(b.chr[1]), 0);
	assert_true(ring_take(&b.d, 4, NULL, &len));
	assert_int_equal(len, 5);

	/* The end of input is told once all input has been. */
	assert_int_equal(chardev_memory_inject(b.chr[1], "last", 4), 4);
	chardev_memory_close(b.chr[1]);
	pump(&b);
	assert_false(hear(&b, &heard));
	ring_add(&b.d, 4, &buffer, 1);
	ring_kick(&b.d, 4);
	pump(&b);
	assert_true(ring_take(&b.d, 4, NULL, &len));
	assert_int_equal(len, 4);
	expect(&b, 1, VIRTIO_CONSOLE_PORT_OPEN, 0);
	/* A console has no end. */
	chardev_memory_close(b.chr[0]);
	pump(&b);
	assert_false(hear(&b, &heard));
	bench_fini(&b);
}

/* A guest that fills the console while nobody reads: it waits, nothing grows, nothing is lost. */
static void nobody_reads(void **state)
{
	struct bench b;
	struct ring_buffer buffer;
	uint8_t bytes[8192], out[500];
	unsigned used = 0, taken = 0;

	bench_init(&b);
	bring_up(&b);
	for (unsigned i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)(i * 31 + i / 256);
	machine_put(&b.m, b.data, bytes, sizeof(bytes));
	for (unsigned i = 0; i < 6; i++) {
		buffer = (struct ring_buffer){ b.data, sizeof(bytes), false };
		ring_add(&b.d, 1, &buffer, 1);
		ring_kick(&b.d, 1);
		pump(&b);
	}
	for (unsigned i = 0; i < 50; i++) {
		ring_kick(&b.d, 1);
		pump(&b);
	}
	assert_false(
		ring_take(&b.d, 1, NULL, NULL)); /* 1 KiB behind, 4 KiB staged, 8 KiB a buffer */
	assert_int_equal(driver_status(&b.d) & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
	while (taken < 6 * sizeof(bytes)) {
		size_t got = chardev_memory_take(b.chr[0], out, sizeof(out));

		for (size_t i = 0; i < got; i++)
			assert_int_equal(out[i], bytes[(taken + i) % sizeof(bytes)]);
		taken += (unsigned)got;
		pump(&b);
		while (ring_take(&b.d, 1, NULL, NULL))
			used++;
		assert_true(got > 0);
	}
	assert_int_equal(used, 6);
	bench_fini(&b);
}

static void input_meets_a_slow_guest(void **state)
{
	struct bench b;
	struct ring_buffer buffer = { 0, 100, true };
	uint8_t bytes[1000], got[100];
	unsigned sent = 0, seen = 0;
	uint32_t len;

	bench_init(&b);
	bring_up(&b);
	while (sent < 20000 || seen < sent) {
		for (unsigned i = 0; i < sizeof(bytes); i++)
			bytes[i] = (uint8_t)((sent + i) * 13);
		if (sent < 20000)
			sent += (unsigned)chardev_memory_inject(b.chr[0], bytes, sizeof(bytes));
		buffer.gpa = b.data;
		ring_add(&b.d, 0, &buffer, 1);
		ring_kick(&b.d, 0);
		pump(&b);
		assert_true(ring_take(&b.d, 0, NULL, &len));
		machine_get(&b.m, b.data, got, len);
		for (unsigned i = 0; i < len; i++)
			assert_int_equal(got[i], (uint8_t)((seen + i) * 13));
		seen += len;
	}
	bench_fini(&b);
}

static void single_port_without_multiport(void **state)
{
	struct bench b;
	char text[8] = { 0 };

	bench_init(&b);
	driver_start(&b.d, EVERYTHING & ~(1ull << VIRTIO_CONSOLE_F_MULTIPORT), 2);
	output(&b, 0, "plain");
	assert_int_equal(chardev_memory_take(b.chr[0], text, sizeof(text)), 5);
	assert_string_equal(text, "plain");
	virtio_console_resize(b.con, 0, 132, 43);
	pump(&b);
	assert_int_equal(bus_read(b.m.mmio, b.d.config, 2), 132);
	assert_int_equal(bus_read(b.m.mmio, b.d.config + 2, 2), 43);
	assert_true(b.m.msi_count);
	bench_fini(&b);
}

static void resize_is_told(void **state)
{
	struct bench b;
	struct heard heard;

	bench_init(&b);
	bring_up(&b);
	virtio_console_resize(b.con, 1, 1, 1); /* no console */
	virtio_console_resize(b.con, 99, 1, 1);
	virtio_console_resize(b.con, 0, 80, 24);
	pump(&b);
	assert_true(hear(&b, &heard));
	assert_int_equal(heard.header.event, VIRTIO_CONSOLE_RESIZE);
	assert_int_equal(heard.len, 12);
	assert_false(hear(&b, &heard));
	bench_fini(&b);
}

/* Control messages of every kind, for every port, to a guest that takes no answers. */
static void control_storm(void **state)
{
	struct bench b;
	uint64_t seed = 0x853c49e6748fea9bull;
	struct heard heard;
	unsigned messages = 0;

	bench_init(&b);
	driver_start(&b.d, EVERYTHING, QUEUES);
	for (unsigned i = 0; i < 20000; i++) {
		uint64_t r = machine_random(&seed);
		struct virtio_console_control message = { (uint32_t)(r % 5 ? r % 4 : r >> 8),
							  (uint16_t)((r >> 32) % 10),
							  (uint16_t)((r >> 48) % 3) };
		struct ring_buffer buffer = { b.control + 2048, (uint32_t)(r >> 40) % 12, false };

		machine_put(&b.m, buffer.gpa, &message, sizeof(message));
		ring_add(&b.d, CONTROL_TX, &buffer, 1);
		ring_kick(&b.d, CONTROL_TX);
		pump(&b);
		assert_true(ring_take(&b.d, CONTROL_TX, NULL, NULL));
	}
	give_control_buffers(&b, 32);
	while (hear(&b, &heard))
		messages++;
	assert_true(messages <= PORTS * 5);
	bench_fini(&b);
}

static void reset_storm(void **state)
{
	struct bench b;

	bench_init(&b);
	for (unsigned i = 0; i < 300; i++) {
		char text[CAPACITY];

		b.m.brk = b.data + (1 << 16);
		bring_up(&b);
		say(&b, 1, VIRTIO_CONSOLE_PORT_OPEN, 1);
		output(&b, i % 2, "x");
		chardev_memory_inject(b.chr[0], "y", 1);
		if (i % 3)
			driver_set(&b.d, VIRTIO_PCI_COMMON_STATUS, 1, 0);
		chardev_memory_take(b.chr[i % 2], text, sizeof(text));
	}
	bench_fini(&b);
}

static void state_round_trip(void **state)
{
	struct bench b, c;
	struct ring_buffer buffer;
	struct state_writer first, second;
	struct state_reader reader;
	uint8_t page[4096], bytes[8192], out[16384];
	size_t before, after = 0, got;

	bench_init(&b);
	bench_init(&c);
	bring_up(&b);
	say(&b, 1, VIRTIO_CONSOLE_PORT_OPEN, 1);
	/* In the middle of a buffer that nobody reads, with input that has no buffer yet. */
	for (unsigned i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)(i * 31 + i / 256);
	machine_put(&b.m, b.data, bytes, sizeof(bytes));
	buffer = (struct ring_buffer){ b.data, sizeof(bytes), false };
	ring_add(&b.d, 1, &buffer, 1);
	ring_kick(&b.d, 1);
	pump(&b);
	assert_int_equal(chardev_memory_inject(b.chr[1], "question", 8), 8);
	pci_host_quiesce(b.m.host);
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
	pci_host_resume(c.m.host);
	c.d = b.d;
	c.d.m = &c.m;

	before = chardev_memory_take(b.chr[0], out, sizeof(out));
	assert_memory_equal(out, bytes, before);
	do {
		pump(&c);
		got = chardev_memory_take(c.chr[0], out + after, sizeof(out) - after);
		after += got;
	} while (got);
	assert_int_equal(before + after, sizeof(bytes));
	assert_memory_equal(out, bytes + before, after);
	assert_true(ring_take(&c.d, 1, NULL, NULL));
	buffer = (struct ring_buffer){ c.data, 100, true };
	ring_add(&c.d, 4, &buffer, 1);
	ring_kick(&c.d, 4);
	pump(&c);
	machine_get(&c.m, c.data, out, 8);
	assert_memory_equal(out, "question", 8);
	state_writer_fini(&first);
	state_writer_fini(&second);
	bench_fini(&c);
	bench_fini(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(talks_both_ways),
		cmocka_unit_test(closed_ports_take_no_input),
		cmocka_unit_test(nobody_reads),
		cmocka_unit_test(input_meets_a_slow_guest),
		cmocka_unit_test(single_port_without_multiport),
		cmocka_unit_test(resize_is_told),
		cmocka_unit_test(control_storm),
		cmocka_unit_test(reset_storm),
		cmocka_unit_test(state_round_trip),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
