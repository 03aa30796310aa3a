/* Fuzz target: descriptors, rings, registers and requests of a block device, modern and legacy. */
#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>

#include "base/assert.h"
#include "dev/virtio/virtio_blk.h"
#include "fake_block.h"
#include "harm_host.h"
#include "ring.h"

#define SLOT       2
#define DISK_BYTES (64u << 10)
#define ARENA      0x8000ull /* headers, data and status live here */
#define RINGS      0x10000ull
#define STEPS_MAX  400

static struct machine m;
static struct fake_disk disk;
static struct virtio_blk *blk;
static struct driver d;
static bool harmed; /* registers may be anywhere */

static void set_up(void)
{
	int err;

	machine_init(&m);
	fake_disk_init(&disk, m.loop, DISK_BYTES, false);
	blk = virtio_blk_new(m.host, SLOT, m.ram, m.loop, disk.block, "fuzz");
	ASSERT(blk);
	err = pci_host_assign(m.host);
	ASSERT(!err);
}

/* Mostly inside the arena, sometimes anywhere. */
static uint64_t address(struct input *in)
{
	uint64_t kind = input_take(in, 1);

	if (kind < 16)
		return input_take(in, 8);
	if (kind < 32)
		return MACHINE_RAM_BYTES - 64 + input_take(in, 1);
	return ARENA + (input_take(in, 2) & 0x3fff);
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

static void step(struct input *in, uint64_t io)
{
	struct virtio_blk_outhdr header;
	uint64_t at;
	unsigned size;

	switch (input_take(in, 1) % 14) {
	case 0:
	case 1:
		at = input_take(in, 1) % 64;
		ring_put_desc(&d, 0, (uint16_t)at, address(in), (uint32_t)input_take(in, 3),
			      (uint16_t)(input_take(in, 1) % 8), (uint16_t)input_take(in, 1));
		break;
	case 2:
		ring_publish(&d, 0, (uint16_t)(input_take(in, 1) % 80));
		break;
	case 3:
		ring_set_avail_index(&d, 0, (uint16_t)input_take(in, 2));
		break;
	case 4:
	case 5:
		header = (struct virtio_blk_outhdr){ .type = (uint32_t)input_take(in, 1) % 20,
						     .sector = input_take(in, 1) };
		machine_put(&m, ARENA + (input_take(in, 2) & 0x3ff0), &header, sizeof(header));
		break;
	case 6:
		at = input_take(in, 8);
		machine_put(&m, ARENA + (input_take(in, 2) & 0x3ff8), &at, 8);
		break;
	case 7:
	case 8:
		ring_kick(&d, 0);
		fake_loop_pump(m.loop, 8);
		break;
	case 9:
		at = input_take(in, 1);
		disk.hold = at & 1;
		disk.reverse = at & 2;
		disk.fail_with = at & 4 ? -EIO : 0;
		if (at >= 0xf0) {
			harm_host(m.host, in);
			harmed = true;
		}
		break;
	case 10:
		at = input_take(in, 2) % 0x4000;
		size = input_size(in);
		bus_write(m.mmio, d.common + at, size, input_take(in, size));
		break;
	case 11:
		at = input_take(in, 1) % VIRTIO_PCI_CONFIG_OFF(1);
		size = input_size(in) & 7;
		bus_write(m.pio, io + at, size ? size : 1, input_take(in, 4));
		break;
	case 12:
		bus_read(m.pio, io + input_take(in, 1) % 128, input_size(in) & 7 ? 4 : 1);
		bus_read(m.mmio, d.common + input_take(in, 2) % 0x4000, input_size(in));
		break;
	case 13:
		find_again();
		m.brk = RINGS;
		driver_start(&d, input_take(in, 8), 1);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
	struct input in = { bytes, len };
	uint64_t io;
	int err;

	if (!blk)
		set_up();
	disk.hold = disk.reverse = false;
	disk.fail_with = 0;
	pci_host_reset(m.host);
	err = pci_host_assign(m.host);
	ASSERT(!err);
	fake_loop_pump(m.loop, 100);
	harmed = false;
	driver_init(&d, &m, SLOT);
	io = machine_bar(&m, SLOT, 0);
	m.brk = RINGS;
	driver_start(&d, input_take(&in, 8), 1);
	for (unsigned i = 0; i < STEPS_MAX && in.left; i++)
		step(&in, io);
	find_again();

	/* Whatever happened: a reset works and leaves nothing behind. */
	driver_set(&d, VIRTIO_PCI_COMMON_STATUS, 1, 0);
	ASSERT(driver_status(&d) == 0);
	ASSERT(dma_in_flight(m.ram) == 0);
	fake_loop_pump(m.loop, 100);
	return 0;
}
