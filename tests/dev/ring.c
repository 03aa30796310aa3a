/* See ring.h. */
#include "ring.h"

#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>
#include <stddef.h>
#include <string.h>

#include "base/assert.h"

#define MSI_ADDRESS 0xfee00000u

void driver_init(struct driver *d, struct machine *m, unsigned slot)
{
	unsigned cap;

	memset(d, 0, sizeof(*d));
	d->m = m;
	d->slot = slot;
	cap = machine_config_read(m, slot, PCI_CAPABILITY_LIST, 1);
	for (unsigned turn = 0; cap && turn < 48; turn++) {
		unsigned id = machine_config_read(m, slot, cap, 1);
		unsigned type = machine_config_read(
			m, slot, cap + offsetof(struct virtio_pci_cap, cfg_type), 1);
		unsigned bar =
			machine_config_read(m, slot, cap + offsetof(struct virtio_pci_cap, bar), 1);
		uint32_t at = machine_config_read(m, slot,
						  cap + offsetof(struct virtio_pci_cap, offset), 4);

		if (id == PCI_CAP_ID_VNDR && type != VIRTIO_PCI_CAP_PCI_CFG) {
			uint64_t address = machine_bar(m, slot, bar) + at;

			switch (type) {
			case VIRTIO_PCI_CAP_COMMON_CFG:
				d->common = address;
				break;
			case VIRTIO_PCI_CAP_NOTIFY_CFG:
				d->notify = address;
				d->notify_multiplier = machine_config_read(
					m, slot, cap + sizeof(struct virtio_pci_cap), 4);
				break;
			case VIRTIO_PCI_CAP_ISR_CFG:
				d->isr = address;
				break;
			case VIRTIO_PCI_CAP_DEVICE_CFG:
				d->config = address;
				break;
			}
		}
		cap = machine_config_read(m, slot, cap + PCI_CAP_LIST_NEXT, 1);
	}
	ASSERT(d->common && d->notify && d->isr);
}

uint64_t driver_get(struct driver *d, unsigned field, unsigned size)
{
	return bus_read(d->m->mmio, d->common + field, size);
}

void driver_set(struct driver *d, unsigned field, unsigned size, uint64_t value)
{
	bus_write(d->m->mmio, d->common + field, size, value);
}

uint8_t driver_status(struct driver *d)
{
	return (uint8_t)driver_get(d, VIRTIO_PCI_COMMON_STATUS, 1);
}

bool driver_negotiate(struct driver *d, uint64_t wanted)
{
	uint64_t offered;

	driver_set(d, VIRTIO_PCI_COMMON_STATUS, 1, 0);
	driver_set(d, VIRTIO_PCI_COMMON_STATUS, 1,
		   VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
	driver_set(d, VIRTIO_PCI_COMMON_DFSELECT, 4, 0);
	offered = driver_get(d, VIRTIO_PCI_COMMON_DF, 4);
	driver_set(d, VIRTIO_PCI_COMMON_DFSELECT, 4, 1);
	offered |= driver_get(d, VIRTIO_PCI_COMMON_DF, 4) << 32;
	d->features = offered & wanted;
	driver_set(d, VIRTIO_PCI_COMMON_GFSELECT, 4, 0);
	driver_set(d, VIRTIO_PCI_COMMON_GF, 4, (uint32_t)d->features);
	driver_set(d, VIRTIO_PCI_COMMON_GFSELECT, 4, 1);
	driver_set(d, VIRTIO_PCI_COMMON_GF, 4, d->features >> 32);
	driver_set(d, VIRTIO_PCI_COMMON_STATUS, 1, driver_status(d) | VIRTIO_CONFIG_S_FEATURES_OK);
	return driver_status(d) & VIRTIO_CONFIG_S_FEATURES_OK;
}

static unsigned find_cap(struct driver *d, unsigned id)
{
	unsigned cap = machine_config_read(d->m, d->slot, PCI_CAPABILITY_LIST, 1);

	while (cap && machine_config_read(d->m, d->slot, cap, 1) != id)
		cap = machine_config_read(d->m, d->slot, cap + PCI_CAP_LIST_NEXT, 1);
	return cap;
}

static void msix_start(struct driver *d, unsigned vectors)
{
	unsigned cap = find_cap(d, PCI_CAP_ID_MSIX);
	uint64_t table = machine_bar(
		d->m, d->slot, machine_config_read(d->m, d->slot, cap + PCI_MSIX_TABLE, 4) & 7);

	for (unsigned i = 0; i < vectors; i++) {
		bus_write(d->m->mmio, table + 16 * i, 4, MSI_ADDRESS);
		bus_write(d->m->mmio, table + 16 * i + 4, 4, 0);
		bus_write(d->m->mmio, table + 16 * i + 8, 4, 0x100 * d->slot + i);
		bus_write(d->m->mmio, table + 16 * i + 12, 4, 0);
	}
	machine_config_write(d->m, d->slot, cap + PCI_MSIX_FLAGS, 2, PCI_MSIX_FLAGS_ENABLE);
}

void driver_queues(struct driver *d, unsigned queues)
{
	msix_start(d, queues + 1);
	driver_set(d, VIRTIO_PCI_COMMON_MSIX, 2, queues);
	for (unsigned i = 0; i < queues; i++) {
		struct ring *r = &d->rings[i];

		driver_set(d, VIRTIO_PCI_COMMON_Q_SELECT, 2, i);
		r->size = (uint16_t)driver_get(d, VIRTIO_PCI_COMMON_Q_SIZE, 2);
		ASSERT(r->size);
		r->desc = machine_alloc(d->m, r->size * 16u, 16);
		r->avail = machine_alloc(d->m, 6 + r->size * 2u, 2);
		r->used = machine_alloc(d->m, 6 + r->size * 8u, 4);
		r->next_desc = r->avail_index = r->used_seen = 0;
		r->event_idx = (d->features >> VIRTIO_RING_F_EVENT_IDX) & 1;
		driver_set(d, VIRTIO_PCI_COMMON_Q_MSIX, 2, i);
		driver_set(d, VIRTIO_PCI_COMMON_Q_DESCLO, 4, (uint32_t)r->desc);
		driver_set(d, VIRTIO_PCI_COMMON_Q_DESCHI, 4, r->desc >> 32);
		driver_set(d, VIRTIO_PCI_COMMON_Q_AVAILLO, 8, r->avail);
		driver_set(d, VIRTIO_PCI_COMMON_Q_USEDLO, 8, r->used);
		driver_set(d, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
	}
}

void driver_ok(struct driver *d)
{
	driver_set(d, VIRTIO_PCI_COMMON_STATUS, 1, driver_status(d) | VIRTIO_CONFIG_S_DRIVER_OK);
}

void driver_start(struct driver *d, uint64_t wanted, unsigned queues)
{
	bool agreed = driver_negotiate(d, wanted | 1ull << VIRTIO_F_VERSION_1);

	ASSERT(agreed);
	driver_queues(d, queues);
	driver_ok(d);
}

void ring_put_desc(struct driver *d, unsigned queue, uint16_t index, uint64_t gpa, uint32_t len,
		   uint16_t flags, uint16_t next)
{
	struct vring_desc desc = { .addr = gpa, .len = len, .flags = flags, .next = next };

	machine_put(d->m, d->rings[queue].desc + 16ull * index, &desc, sizeof(desc));
}

void ring_set_avail_index(struct driver *d, unsigned queue, uint16_t index)
{
	d->rings[queue].avail_index = index;
	machine_put(d->m, d->rings[queue].avail + 2, &index, 2);
}

void ring_publish(struct driver *d, unsigned queue, uint16_t head)
{
	struct ring *r = &d->rings[queue];

	machine_put(d->m, r->avail + 4 + 2ull * (r->avail_index % r->size), &head, 2);
	ring_set_avail_index(d, queue, (uint16_t)(r->avail_index + 1));
}

void ring_set_used_event(struct driver *d, unsigned queue, uint16_t index)
{
	machine_put(d->m, d->rings[queue].avail + 4 + 2ull * d->rings[queue].size, &index, 2);
}

/* Descriptors are used round and round: tests never have more out than the ring holds. */
uint16_t ring_add(struct driver *d, unsigned queue, const struct ring_buffer *buffers,
		  unsigned count)
{
	struct ring *r = &d->rings[queue];
	uint16_t head = r->next_desc;

	for (unsigned i = 0; i < count; i++) {
		uint16_t at = r->next_desc;

		r->next_desc = (uint16_t)((at + 1) % r->size);
		ring_put_desc(d, queue, at, buffers[i].gpa, buffers[i].len,
			      (uint16_t)((buffers[i].in ? VRING_DESC_F_WRITE : 0) |
					 (i + 1 < count ? VRING_DESC_F_NEXT : 0)),
			      r->next_desc);
	}
	ring_publish(d, queue, head);
	return head;
}

uint16_t ring_add_indirect(struct driver *d, unsigned queue, const struct ring_buffer *buffers,
			   unsigned count)
{
	struct ring *r = &d->rings[queue];
	uint64_t table = machine_alloc(d->m, 16ull * count, 16);
	uint16_t head = r->next_desc;

	r->next_desc = (uint16_t)((head + 1) % r->size);
	for (unsigned i = 0; i < count; i++) {
		struct vring_desc desc = {
			.addr = buffers[i].gpa,
			.len = buffers[i].len,
			.flags = (uint16_t)((buffers[i].in ? VRING_DESC_F_WRITE : 0) |
					    (i + 1 < count ? VRING_DESC_F_NEXT : 0)),
			.next = (uint16_t)(i + 1),
		};

		machine_put(d->m, table + 16ull * i, &desc, sizeof(desc));
	}
	ring_put_desc(d, queue, head, table, 16 * count, VRING_DESC_F_INDIRECT, 0);
	ring_publish(d, queue, head);
	return head;
}

void ring_kick(struct driver *d, unsigned queue)
{
	bus_write(d->m->mmio, d->notify + (uint64_t)queue * d->notify_multiplier, 2, queue);
}

bool ring_take(struct driver *d, unsigned queue, uint16_t *head, uint32_t *len)
{
	struct ring *r = &d->rings[queue];
	uint16_t index;
	uint32_t entry[2];

	machine_get(d->m, r->used + 2, &index, 2);
	if (index == r->used_seen)
		return false;
	machine_get(d->m, r->used + 4 + 8ull * (r->used_seen % r->size), entry, 8);
	r->used_seen++;
	if (head)
		*head = (uint16_t)entry[0];
	if (len)
		*len = entry[1];
	return true;
}
