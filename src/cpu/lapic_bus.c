/*
 * The APIC bus: who receives a message. Called by devices' interrupts on any
 * thread and by vcpus' IPIs. Invariant: a sender reads of another vcpu only its
 * published route and writes only its posting words; there is no lock.
 */
#include "cpu/lapic.h"

#include <errno.h>
#include <stdlib.h>

#include "cpu/lapic_priv.h"
#include "cpu/post.h"

#define CPUS_MAX 256

struct apic_bus {
	struct lapic_port *port[CPUS_MAX]; /* by index, which is the APIC id */
	unsigned count;
	_Atomic uint32_t rotor; /* spreads lowest-priority interrupts */
	void (*eoi)(void *ctx, uint8_t vector);
	void *eoi_ctx;
};

struct apic_bus *apic_bus_new(void)
{
	return calloc(1, sizeof(struct apic_bus));
}

void apic_bus_free(struct apic_bus *bus)
{
	if (!bus)
		return;
	for (unsigned i = 0; i < bus->count; i++) {
		struct lapic_port *port = bus->port[i];

		if (!port)
			continue;
		vclock_timer_disarm(&port->timer);
		port->v->lapic_port = NULL;
		port->v->apics = NULL;
		free(port);
	}
	free(bus);
}

static void timer_expired(void *ctx)
{
	struct lapic_port *port = ctx;

	vcpu_request(port->v, REQ_TIMER);
}

int apic_bus_attach(struct apic_bus *bus, struct vcpu *v)
{
	struct lapic_port *port;

	if (v->index >= CPUS_MAX || !v->clock)
		return -EINVAL;
	if (bus->port[v->index])
		return -EEXIST;
	port = calloc(1, sizeof(*port));
	if (!port)
		return -ENOMEM;
	port->v = v;
	port->deadline_ns = UINT64_MAX;
	vclock_timer_init(&port->timer, v->clock, timer_expired, port);
	bus->port[v->index] = port;
	if (bus->count <= v->index)
		bus->count = v->index + 1;
	v->lapic_port = port;
	v->apics = bus;
	lapic_loaded(v);
	return 0;
}

void apic_bus_on_eoi(struct apic_bus *bus, void (*eoi)(void *ctx, uint8_t vector), void *ctx)
{
	bus->eoi = eoi;
	bus->eoi_ctx = ctx;
}

void apic_bus_eoi(struct apic_bus *bus, uint8_t vector)
{
	if (bus->eoi)
		bus->eoi(bus->eoi_ctx, vector);
}

static void post_vector(struct lapic_port *port, uint64_t route, const struct apic_message *m)
{
	if (m->vector < 16) {
		atomic_fetch_or(&port->wires, WIRE_ILLEGAL_VECTOR);
		vcpu_request(port->v, REQ_IRQ);
		return;
	}
	/* SDM 3A, 11.4.7.2: a software-disabled APIC takes no fixed interrupts. */
	if (!(route & ROUTE_SOFTWARE))
		return;
	vcpu_post_irq(port->v, m->vector, m->level);
}

static void deliver(struct lapic_port *port, uint64_t route, const struct apic_message *m)
{
	switch (m->mode) {
	case DELIVERY_FIXED:
	case DELIVERY_LOWEST:
		post_vector(port, route, m);
		return;
	case DELIVERY_NMI:
		vcpu_request(port->v, REQ_NMI);
		return;
	case DELIVERY_INIT:
		/* A SIPI sent before it must not be taken for one sent after it. */
		atomic_fetch_and(&port->v->req, ~(uint32_t)REQ_SIPI);
		vcpu_request(port->v, REQ_INIT);
		return;
	case DELIVERY_STARTUP:
		atomic_store(&port->v->sipi_vector, m->vector);
		vcpu_request(port->v, REQ_SIPI);
		return;
	default: /* SMI: there is no SMM. ExtINT comes by wire, not by message. */
		return;
	}
}

static bool matches_logical(uint64_t route, const struct apic_message *m)
{
	uint32_t id = (uint32_t)route, ldr;

	if (route & ROUTE_X2APIC) {
		/* The logical id follows from the id (SDM 3A, 11.12.10.2). 8 bits reach cluster 0.
		 */
		if (m->dest == (m->wide ? UINT32_MAX : 0xff))
			return true;
		return m->dest >> 16 == id >> 4 && (m->dest & 0xffff & 1u << (id & 15));
	}
	if (m->dest > 0xff)
		return m->dest == UINT32_MAX;
	ldr = route >> ROUTE_LDR_SHIFT & 0xff;
	if (route & ROUTE_FLAT)
		return m->dest & ldr;
	return m->dest == 0xff || (m->dest >> 4 == ldr >> 4 && (m->dest & ldr & 0xf));
}

static bool matches(const struct lapic_port *port, uint64_t route, const struct apic_message *m)
{
	if (!(route & ROUTE_ENABLED))
		return false;
	if (m->broadcast)
		return port->v != m->except;
	if (m->logical)
		return matches_logical(route, m);
	return m->dest == (uint32_t)route || m->dest == (m->wide ? UINT32_MAX : 0xff);
}

/* Of those whom the message reaches, one; each in turn. */
static void send_lowest(struct apic_bus *bus, const struct apic_message *m)
{
	unsigned start = atomic_fetch_add_explicit(&bus->rotor, 1, memory_order_relaxed);

	for (unsigned i = 0; i < bus->count; i++) {
		struct lapic_port *port = bus->port[(start + i) % bus->count];
		uint64_t route;

		if (!port)
			continue;
		route = atomic_load_explicit(&port->route, memory_order_acquire);
		if ((route & ROUTE_SOFTWARE) && matches(port, route, m)) {
			deliver(port, route, m);
			return;
		}
	}
}

void apic_bus_send(struct apic_bus *bus, const struct apic_message *m)
{
	if (m->mode == DELIVERY_LOWEST) {
		send_lowest(bus, m);
		return;
	}
	for (unsigned i = 0; i < bus->count; i++) {
		struct lapic_port *port = bus->port[i];
		uint64_t route;

		if (!port)
			continue;
		route = atomic_load_explicit(&port->route, memory_order_acquire);
		if (matches(port, route, m))
			deliver(port, route, m);
	}
}

void apic_bus_msi(struct apic_bus *bus, uint64_t address, uint32_t data)
{
	struct apic_message m = {
		.dest = address >> 12 & 0xff,
		.logical = address & 4,
		.vector = (uint8_t)data,
		.mode = data >> 8 & 7,
		.level = data >> 15 & 1,
	};

	if (address >> 20 != 0xfee)
		return;
	/* A level-triggered message also tells of the line's fall (SDM 3A, 11.11.2); nobody waits
	 * for that. */
	if (m.level && !(data & 1u << 14))
		return;
	/* The redirection hint asks for one receiver, whatever the mode. */
	if ((address & 8) && m.mode == DELIVERY_FIXED)
		m.mode = DELIVERY_LOWEST;
	if (m.mode == DELIVERY_STARTUP)
		return;
	apic_bus_send(bus, &m);
}

static void raise_wire(struct lapic_port *port, enum lapic_wire wire)
{
	atomic_fetch_or(&port->wires, wire);
	vcpu_request(port->v, REQ_IRQ);
}

void apic_bus_extint(void *ctx, unsigned pin, int level)
{
	struct apic_bus *bus = ctx;
	struct lapic_port *boot = bus->port[0];

	(void)pin;
	if (!boot)
		return;
	if (!atomic_exchange(&boot->v->extint, level != 0) && level)
		raise_wire(boot, WIRE_LINT0);
	vcpu_request(boot->v, REQ_EXTINT);
}

void apic_bus_nmi(struct apic_bus *bus)
{
	for (unsigned i = 0; i < bus->count; i++)
		if (bus->port[i])
			raise_wire(bus->port[i], WIRE_LINT1);
}

void apic_bus_kick(struct apic_bus *bus, uint64_t id)
{
	if (id < bus->count && bus->port[id])
		vcpu_request(bus->port[id]->v, REQ_KICK);
}
