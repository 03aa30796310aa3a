/*
 * The guest's side of virtio, for tests: finds a device's regions through its
 * capabilities, brings it up by the book, and drives its queues. Every step
 * can also be taken apart, to do it wrong.
 */
#ifndef INSULA_TESTS_DEV_RING_H
#define INSULA_TESTS_DEV_RING_H

#include "machine.h"

#define RING_QUEUES 40

struct ring {
	uint64_t desc, avail, used; /* guest-physical */
	uint16_t size;
	uint16_t next_desc, avail_index, used_seen;
	bool event_idx;
};

struct driver {
	struct machine *m;
	unsigned slot;
	uint64_t common, notify, isr, config; /* MMIO addresses */
	uint32_t notify_multiplier;
	uint64_t features;
	struct ring rings[RING_QUEUES];
};

struct ring_buffer {
	uint64_t gpa;
	uint32_t len;
	bool in; /* the device writes it */
};

/* Finds the regions. */
void driver_init(struct driver *d, struct machine *m, unsigned slot);

uint64_t driver_get(struct driver *d, unsigned field, unsigned size);
void driver_set(struct driver *d, unsigned field, unsigned size, uint64_t value);
uint8_t driver_status(struct driver *d);

/* Reset, acknowledge, negotiate `wanted` among what is offered. True if FEATURES_OK stuck. */
bool driver_negotiate(struct driver *d, uint64_t wanted);
/* MSI-X on, vector n for queue n, configuration changes on vector `queues`; queues set up. */
void driver_queues(struct driver *d, unsigned queues);
void driver_ok(struct driver *d);
/* All of these. */
void driver_start(struct driver *d, uint64_t wanted, unsigned queues);

/* Makes a chain available without telling the device; returns its head. */
uint16_t ring_add(struct driver *d, unsigned queue, const struct ring_buffer *buffers,
		  unsigned count);
/* The same through an indirect table. */
uint16_t ring_add_indirect(struct driver *d, unsigned queue, const struct ring_buffer *buffers,
			   unsigned count);
void ring_kick(struct driver *d, unsigned queue);
/* Takes one used entry. False if there is none. */
bool ring_take(struct driver *d, unsigned queue, uint16_t *head, uint32_t *len);
/* Raw writes for tests that do it wrong. */
void ring_put_desc(struct driver *d, unsigned queue, uint16_t index, uint64_t gpa, uint32_t len,
		   uint16_t flags, uint16_t next);
void ring_publish(struct driver *d, unsigned queue, uint16_t head);
void ring_set_avail_index(struct driver *d, unsigned queue, uint16_t index);
void ring_set_used_event(struct driver *d, unsigned queue, uint16_t index);

#endif
