/* Fuzz target: control messages, port data and back ends of the console. */
#include <linux/virtio_console.h>
#include <linux/virtio_pci.h>

#include "base/assert.h"
#include "chardev/chardev_memory.h"
#include "dev/virtio/virtio_console.h"
#include "harm_host.h"
#include "ring.h"

#define SLOT      5
#define PORTS     3
#define QUEUES    (2 * (PORTS + 1))
#define ARENA     0x8000ull
#define RINGS     0x10000ull
#define STEPS_MAX 400

static struct machine m;
static struct virtio_console *con;
static struct chardev *chr[PORTS];
static struct driver d;
static bool harmed; /* registers may be anywhere */

static void set_up(void)
{
	struct virtio_console_port_config ports[PORTS] = { { .console = true },
							   { .name = "agent" },
							   { .console = true } };

	machine_init(&m);
	for (unsigned i = 0; i < PORTS; i++)
		ports[i].chr = chr[i] = chardev_memory_new(512);
	con = virtio_console_new(m.host, SLOT, m.ram, m.loop, ports, PORTS);
	ASSERT(con);
}

static void add(struct input *in, unsigned queue, bool writable)
{
	struct ring_buffer buffers[4];
	unsigned count = 1 + input_take(in, 1) % 4;

	for (unsigned i = 0; i < count; i++) {
		uint64_t kind = input_take(in, 1);

		buffers[i] = (struct ring_buffer){ kind < 4 ? input_take(in, 8)
							    : ARENA + (input_take(in, 2) & 0x3fff),
						   (uint32_t)input_take(in, kind & 1 ? 1 : 2),
						   kind & 2 ? writable : !!(kind & 4) };
	}
	ring_add(&d, queue, buffers, count);
}

/* After a loaded state only firmware knows where the device is. */
static void find_again(void)
{
	int err;

	if (!harmed)
		return;
	pci_host_reset(m.host);
	err = pci_host_assign(m.host);
	ASSERT(!err);
	driver_init(&d, &m, SLOT);
	harmed = false;
}

static void step(struct input *in)
{
	struct virtio_console_control message;
	uint8_t bytes[600];
	unsigned port = (unsigned)input_take(in, 1) % PORTS, queue, size;
	uint64_t at;

	switch (input_take(in, 1) % 12) {
	case 0:
	case 1:
		message = (struct virtio_console_control){ (uint32_t)input_take(in, 1) % 5,
							   (uint16_t)(input_take(in, 1) % 10),
							   (uint16_t)(input_take(in, 1) % 3) };
		machine_put(&m, ARENA, &message, sizeof(message));
		{
			struct ring_buffer buffer = { ARENA, sizeof(message), false };

			ring_add(&d, 3, &buffer, 1);
		}
		ring_kick(&d, 3);
		break;
	case 2:
		add(in, 2, true);
		ring_kick(&d, 2);
		break;
	case 3:
	case 4:
		queue = (unsigned)input_take(in, 1) % QUEUES;
		add(in, queue, !(queue & 1));
		ring_kick(&d, queue);
		break;
	case 5:
		memset(bytes, 'i', sizeof(bytes));
		chardev_memory_inject(chr[port], bytes, input_take(in, 1));
		break;
	case 6:
		chardev_memory_take(chr[port], bytes, sizeof(bytes));
		break;
	case 7:
		fake_loop_pump(m.loop, 8);
		break;
	case 8:
		at = input_take(in, 1);
		if (at >= 0xf0) {
			harm_host(m.host, in);
			harmed = true;
		} else
			virtio_console_resize(con, port, (uint16_t)at, 25);
		break;
	case 9:
		at = input_take(in, 2) % 0x4000;
		size = input_size(in);
		bus_write(m.mmio, d.common + at, size, input_take(in, size));
		bus_read(m.mmio, d.common + at, size);
		break;
	case 10:
		queue = (unsigned)input_take(in, 1) % QUEUES;
		ring_put_desc(&d, queue, (uint16_t)(input_take(in, 1) % 128), input_take(in, 2),
			      (uint32_t)input_take(in, 2), (uint16_t)(input_take(in, 1) % 8),
			      (uint16_t)input_take(in, 1));
		ring_publish(&d, queue, (uint16_t)(input_take(in, 1) % 130));
		ring_kick(&d, queue);
		break;
	case 11:
		find_again();
		m.brk = RINGS;
		driver_start(&d, input_take(in, 8), QUEUES);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
	struct input in = { bytes, len };
	uint8_t drop[600];
	int err;

	if (!con)
		set_up();
	pci_host_reset(m.host);
	err = pci_host_assign(m.host);
	ASSERT(!err);
	harmed = false;
	driver_init(&d, &m, SLOT);
	m.brk = RINGS;
	driver_start(&d, input_take(&in, 8), QUEUES);
	for (unsigned i = 0; i < STEPS_MAX && in.left; i++)
		step(&in);
	find_again();

	driver_set(&d, VIRTIO_PCI_COMMON_STATUS, 1, 0);
	ASSERT(driver_status(&d) == 0);
	ASSERT(dma_in_flight(m.ram) == 0);
	fake_loop_pump(m.loop, 1000);
	for (unsigned i = 0; i < PORTS; i++)
		while (chardev_memory_take(chr[i], drop, sizeof(drop)))
			;
	return 0;
}
