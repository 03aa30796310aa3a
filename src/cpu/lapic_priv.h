/*
 * Between the local APIC (lapic.c, lapic_timer.c) and the bus that joins them
 * (lapic_bus.c). A port is a vcpu's place on the bus.
 */
#ifndef INSULA_CPU_LAPIC_PRIV_H
#define INSULA_CPU_LAPIC_PRIV_H

#include "bus/vclock.h"
#include "cpu/vcpu.h"

struct lapic_port {
	struct vcpu *v;
	struct vclock_timer timer; /* requests REQ_TIMER at deadline_ns */
	uint64_t deadline_ns;      /* owner thread; UINT64_MAX: none */

	/* Read by every sender, written by the owner: how messages find us. */
	_Atomic uint64_t route;
	/* Written by senders, taken by the owner. */
	_Atomic uint32_t wires; /* enum lapic_wire */
};

enum lapic_wire { WIRE_LINT0 = 1, WIRE_LINT1 = 2, WIRE_ILLEGAL_VECTOR = 4 };

/* route: bits 0-31 the id, 32-39 the xAPIC logical id, and these. */
#define ROUTE_LDR_SHIFT 32
#define ROUTE_FLAT      (1ull << 40)
#define ROUTE_X2APIC    (1ull << 41)
#define ROUTE_ENABLED   (1ull << 42) /* IA32_APIC_BASE */
#define ROUTE_SOFTWARE  (1ull << 43) /* SVR */

enum delivery_mode {
	DELIVERY_FIXED,
	DELIVERY_LOWEST,
	DELIVERY_SMI,
	DELIVERY_NMI = 4,
	DELIVERY_INIT,
	DELIVERY_STARTUP,
	DELIVERY_EXTINT,
};

struct apic_message {
	uint32_t dest;
	uint8_t vector;
	uint8_t mode; /* enum delivery_mode */
	bool logical;
	bool wide;      /* dest has 32 bits, as an x2APIC sends it */
	bool broadcast; /* a shorthand: everybody but `except` */
	bool level;
	const struct vcpu *except;
};

void apic_bus_send(struct apic_bus *bus, const struct apic_message *message);
void apic_bus_eoi(struct apic_bus *bus, uint8_t vector);

/* lapic.c, for lapic_timer.c: what an LVT entry says is to happen. */
void lapic_local_interrupt(struct vcpu *v, unsigned lvt);

/* lapic_timer.c. All on the owner thread. */
#define LVT_MASKED         (1u << 16)
#define LVT_TIMER_PERIODIC (1u << 17)
#define LVT_TIMER_DEADLINE (2u << 17)
#define LVT_TIMER_MODE     (3u << 17)

void lapic_timer_stop(struct vcpu *v);
/* The deadline anew from the registers. */
void lapic_timer_plan(struct vcpu *v);
void lapic_timer_lvt_write(struct vcpu *v, uint32_t value);
void lapic_timer_initial_write(struct vcpu *v, uint32_t value);
void lapic_timer_divide_write(struct vcpu *v, uint32_t value);
uint32_t lapic_timer_current(struct vcpu *v);

#endif
