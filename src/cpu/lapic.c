/*
 * The registers of the local APIC: xAPIC page, x2APIC MSRs, IA32_APIC_BASE, and
 * the way of an interrupt through IRR, ISR and EOI. Everything runs on the
 * vcpu's own thread; other threads come in through lapic_bus.c.
 *
 * Invariant: after every change that may let an interrupt through (TPR, EOI, a
 * new IRR bit) the vcpu's own REQ_IRQ is set, so the engine looks again.
 *
 * A register is known by its x2APIC number, offset / 16 in the xAPIC page.
 */
#include "cpu/lapic.h"

#include "base/bytes.h"
#include "cpu/excp.h"
#include "cpu/fpstate.h"
#include "cpu/lapic_priv.h"
#include "cpu/model.h"
#include "cpu/post.h"

enum reg {
	REG_ID = 0x02,
	REG_VERSION = 0x03,
	REG_TPR = 0x08,
	REG_APR = 0x09,
	REG_PPR = 0x0a,
	REG_EOI = 0x0b,
	REG_RRD = 0x0c,
	REG_LDR = 0x0d,
	REG_DFR = 0x0e,
	REG_SVR = 0x0f,
	REG_ISR = 0x10,
	REG_TMR = 0x18,
	REG_IRR = 0x20,
	REG_ESR = 0x28,
	REG_ICR = 0x30,
	REG_ICR_HIGH = 0x31,
	REG_LVT_TIMER = 0x32,
	REG_LVT_ERROR = 0x37,
	REG_TIMER_INITIAL = 0x38,
	REG_TIMER_CURRENT = 0x39,
	REG_TIMER_DIVIDE = 0x3e,
	REG_SELF_IPI = 0x3f,
};

/* Six LVT entries (no CMCI), an integrated APIC; no EOI broadcast suppression. */
#define VERSION 0x00050014u

#define SVR_ENABLED 0x100u
#define SVR_MASK    0x3ffu

#define ESR_SEND_ILLEGAL    (1u << 5)
#define ESR_RECEIVE_ILLEGAL (1u << 6)
#define ESR_REGISTER        (1u << 7)

#define ICR_LOGICAL   (1u << 11)
#define ICR_ASSERT    (1u << 14)
#define ICR_LEVEL     (1u << 15)
#define ICR_SHORTHAND (3u << 18)
#define ICR_WRITABLE  0x000ccfffu
enum { SHORT_NONE, SHORT_SELF, SHORT_ALL, SHORT_OTHERS };

#define LVT_MODE(lvt) ((lvt) >> 8 & 7)

#define APIC_BASE_FLAGS (APIC_BASE_BSP | APIC_BASE_X2APIC | APIC_BASE_ENABLE)

/* Writable bits of each LVT entry, 0 for one that does not exist. */
static const uint32_t lvt_mask[LVT_COUNT] = {
	[LVT_CMCI] = 0,        [LVT_TIMER] = 0x700ff, [LVT_THERMAL] = 0x107ff, [LVT_PMC] = 0x107ff,
	[LVT_LINT0] = 0x1a7ff, [LVT_LINT1] = 0x1a7ff, [LVT_ERROR] = 0x100ff,
};

static bool is_x2apic(const struct vcpu *v)
{
	return v->arch.lapic.base_msr & APIC_BASE_X2APIC;
}

static bool is_enabled(const struct vcpu *v)
{
	return v->arch.lapic.base_msr & APIC_BASE_ENABLE;
}

static bool has(const struct vcpu *v, enum cpu_feature feature)
{
	return !v->model || cpu_has(v->model, feature);
}

/* For the senders of messages: see struct lapic_port. */
static void publish(struct vcpu *v)
{
	const struct lapic_state *apic = &v->arch.lapic;
	uint64_t route = v->index;

	if (!v->lapic_port)
		return;
	route |= (uint64_t)(apic->ldr >> 24) << ROUTE_LDR_SHIFT;
	if (apic->dfr >> 28 == 0xf)
		route |= ROUTE_FLAT;
	if (is_x2apic(v))
		route |= ROUTE_X2APIC;
	if (is_enabled(v))
		route |= ROUTE_ENABLED;
	if (apic->svr & SVR_ENABLED)
		route |= ROUTE_SOFTWARE;
	atomic_store_explicit(&v->lapic_port->route, route, memory_order_release);
}

/* The id never changes, as on current CPUs; its register's form follows the mode. */
static void set_id(struct vcpu *v)
{
	v->arch.lapic.id = is_x2apic(v) ? v->index : v->index << 24;
}

/* Logical id of x2APIC mode (SDM 3A, 11.12.10.2). */
static uint32_t x2apic_ldr(const struct vcpu *v)
{
	return v->index >> 4 << 16 | 1u << (v->index & 15);
}

static void look_again(struct vcpu *v)
{
	atomic_fetch_or_explicit(&v->req, REQ_IRQ, memory_order_relaxed);
}

static int highest(const uint32_t bits[8])
{
	for (int i = 7; i >= 0; i--)
		if (bits[i])
			return i * 32 + 31 - __builtin_clz(bits[i]);
	return -1;
}

/* SDM 3A, 11.8.3.1 */
static uint32_t processor_priority(const struct lapic_state *apic)
{
	int in_service = highest(apic->isr);
	uint32_t service = in_service < 0 ? 0 : (uint32_t)in_service & 0xf0;

	return (apic->tpr & 0xf0) >= service ? apic->tpr : service;
}

int lapic_pending(struct vcpu *v)
{
	const struct lapic_state *apic = &v->arch.lapic;
	int vector = highest(apic->irr);

	if (vector < 0 || !is_enabled(v))
		return -1;
	return (uint32_t)vector >> 4 > processor_priority(apic) >> 4 ? vector : -1;
}

void lapic_ack(struct vcpu *v, uint8_t vector)
{
	uint32_t bit = 1u << (vector & 31);

	v->arch.lapic.irr[vector / 32] &= ~bit;
	v->arch.lapic.isr[vector / 32] |= bit;
}

static void request_vector(struct vcpu *v, uint8_t vector)
{
	uint32_t bit = 1u << (vector & 31);

	v->arch.lapic.irr[vector / 32] |= bit;
	v->arch.lapic.tmr[vector / 32] &= ~bit;
	look_again(v);
}

static void error(struct vcpu *v, uint32_t bit)
{
	uint32_t lvt = v->arch.lapic.lvt[LVT_ERROR];

	v->arch.lapic.esr_pending |= bit;
	/* Not through lapic_local_interrupt(): a bad vector in this entry must not come back here.
	 */
	if (!(lvt & LVT_MASKED) && (uint8_t)lvt >= 16)
		request_vector(v, (uint8_t)lvt);
}

void lapic_local_interrupt(struct vcpu *v, unsigned index)
{
	uint32_t lvt = v->arch.lapic.lvt[index];

	if (!is_enabled(v) || (lvt & LVT_MASKED))
		return;
	/* The timer's entry has no delivery mode: the bits are its own. */
	switch (index == LVT_TIMER || index == LVT_ERROR ? DELIVERY_FIXED : LVT_MODE(lvt)) {
	case DELIVERY_FIXED:
		if ((uint8_t)lvt < 16)
			error(v, ESR_RECEIVE_ILLEGAL);
		else
			request_vector(v, (uint8_t)lvt);
		return;
	case DELIVERY_NMI:
		atomic_fetch_or_explicit(&v->req, REQ_NMI, memory_order_relaxed);
		return;
	case DELIVERY_INIT:
		atomic_fetch_or_explicit(&v->req, REQ_INIT, memory_order_relaxed);
		return;
	default: /* SMI: none here. ExtINT: the 8259 is asked for the vector at delivery. */
		return;
	}
}

void lapic_take_posted(struct vcpu *v)
{
	struct lapic_state *apic = &v->arch.lapic;
	uint32_t wires = 0;

	for (unsigned i = 0; i < 8; i++) {
		uint32_t bits, level;

		if (!atomic_load_explicit(&v->posted[i], memory_order_relaxed))
			continue;
		bits = atomic_exchange_explicit(&v->posted[i], 0, memory_order_acquire);
		level = atomic_load_explicit(&v->posted_level[i], memory_order_relaxed);
		apic->irr[i] |= bits;
		apic->tmr[i] = (apic->tmr[i] & ~bits) | (level & bits);
	}
	if (v->lapic_port && atomic_load_explicit(&v->lapic_port->wires, memory_order_relaxed))
		wires = atomic_exchange(&v->lapic_port->wires, 0);
	if (wires & WIRE_LINT0)
		lapic_local_interrupt(v, LVT_LINT0);
	if (wires & WIRE_LINT1)
		lapic_local_interrupt(v, LVT_LINT1);
	if (wires & WIRE_ILLEGAL_VECTOR)
		error(v, ESR_RECEIVE_ILLEGAL);
}

bool lapic_accepts_extint(const struct vcpu *v)
{
	uint32_t lint0 = v->arch.lapic.lvt[LVT_LINT0];

	if (!is_enabled(v)) /* LINT0 is then the INTR pin (SDM 3A, 11.4.3) */
		return v->index == 0;
	return !(lint0 & LVT_MASKED) && LVT_MODE(lint0) == DELIVERY_EXTINT;
}

static void set_tpr(struct vcpu *v, uint32_t tpr)
{
	v->arch.lapic.tpr = tpr;
	if (lapic_pending(v) >= 0)
		look_again(v);
}

unsigned lapic_cr8_read(const struct vcpu *v)
{
	return v->arch.lapic.tpr >> 4 & 0xf;
}

void lapic_cr8_write(struct vcpu *v, unsigned cr8)
{
	set_tpr(v, (cr8 & 0xf) << 4);
}

static void end_of_interrupt(struct vcpu *v)
{
	struct lapic_state *apic = &v->arch.lapic;
	int vector = highest(apic->isr);
	uint32_t bit;

	if (vector < 0)
		return;
	bit = 1u << (vector & 31);
	apic->isr[vector / 32] &= ~bit;
	if ((apic->tmr[vector / 32] & bit) && v->apics) {
		vcpu_fp_park(v); /* the I/O APIC is ordinary C */
		apic_bus_eoi(v->apics, (uint8_t)vector);
	}
	if (lapic_pending(v) >= 0)
		look_again(v);
}

/* Sends what the ICR says (SDM 3A, 11.6.1). */
static void send_ipi(struct vcpu *v)
{
	const struct lapic_state *apic = &v->arch.lapic;
	uint32_t icr = apic->icr_low;
	struct apic_message m = {
		.dest = is_x2apic(v) ? apic->icr_high : apic->icr_high >> 24,
		.wide = is_x2apic(v),
		.vector = (uint8_t)icr,
		.mode = icr >> 8 & 7,
		.logical = icr & ICR_LOGICAL,
	};
	unsigned shorthand = icr >> 18 & 3;
	bool fixed = m.mode == DELIVERY_FIXED || m.mode == DELIVERY_LOWEST;

	/* INIT level de-assert only synchronised arbitration ids, of CPUs long gone. */
	if (m.mode == DELIVERY_INIT && (icr & ICR_LEVEL) && !(icr & ICR_ASSERT))
		return;
	if (m.mode == 3 || m.mode == DELIVERY_EXTINT)
		return;
	if (fixed && m.vector < 16) {
		error(v, ESR_SEND_ILLEGAL);
		return;
	}
	if (shorthand == SHORT_SELF) {
		if (m.mode == DELIVERY_FIXED && (apic->svr & SVR_ENABLED))
			request_vector(v, m.vector);
		return;
	}
	m.broadcast = shorthand != SHORT_NONE;
	m.except = shorthand == SHORT_OTHERS ? v : NULL;
	if (v->apics)
		apic_bus_send(v->apics, &m);
}

static void write_svr(struct vcpu *v, uint32_t value)
{
	struct lapic_state *apic = &v->arch.lapic;

	apic->svr = value & SVR_MASK;
	if (!(apic->svr & SVR_ENABLED)) {
		/* All entries become masked, and stay so while disabled (11.4.7.2). */
		for (unsigned i = 0; i < LVT_COUNT; i++)
			if (i != LVT_TIMER)
				apic->lvt[i] |= LVT_MASKED;
		lapic_timer_lvt_write(v, apic->lvt[LVT_TIMER] | LVT_MASKED);
	}
	publish(v);
}

static void write_lvt(struct vcpu *v, unsigned index, uint32_t value)
{
	struct lapic_state *apic = &v->arch.lapic;

	value &= lvt_mask[index];
	if (!(apic->svr & SVR_ENABLED))
		value |= LVT_MASKED;
	if (index == LVT_TIMER) {
		if (!has(v, FEAT_TSC_DEADLINE))
			value &= ~LVT_TIMER_DEADLINE;
		lapic_timer_lvt_write(v, value);
		return;
	}
	apic->lvt[index] = value;
	/* The 8259 may have been asking all the time. */
	if (index == LVT_LINT0)
		atomic_fetch_or_explicit(&v->req, REQ_EXTINT, memory_order_relaxed);
}

static void write_esr(struct vcpu *v)
{
	v->arch.lapic.esr = v->arch.lapic.esr_pending;
	v->arch.lapic.esr_pending = 0;
}

/* False: no such register, or it cannot be read. */
static bool read_reg(struct vcpu *v, unsigned reg, uint32_t *value)
{
	const struct lapic_state *apic = &v->arch.lapic;

	switch (reg) {
	case REG_ID:
		*value = apic->id;
		return true;
	case REG_VERSION:
		*value = VERSION;
		return true;
	case REG_TPR:
		*value = apic->tpr;
		return true;
	case REG_PPR:
		*value = processor_priority(apic);
		return true;
	case REG_LDR:
		*value = is_x2apic(v) ? x2apic_ldr(v) : apic->ldr;
		return true;
	case REG_SVR:
		*value = apic->svr;
		return true;
	case REG_ISR ... REG_ISR + 7:
		*value = apic->isr[reg - REG_ISR];
		return true;
	case REG_TMR ... REG_TMR + 7:
		*value = apic->tmr[reg - REG_TMR];
		return true;
	case REG_IRR ... REG_IRR + 7:
		lapic_take_posted(v);
		*value = apic->irr[reg - REG_IRR];
		/* What we took must still be looked at. */
		if (*value)
			look_again(v);
		return true;
	case REG_ESR:
		*value = apic->esr;
		return true;
	case REG_ICR:
		*value = apic->icr_low;
		return true;
	case REG_LVT_TIMER ... REG_LVT_ERROR:
		*value = apic->lvt[LVT_TIMER + reg - REG_LVT_TIMER];
		return true;
	case REG_TIMER_INITIAL:
		*value = apic->timer_initial;
		return true;
	case REG_TIMER_CURRENT:
		*value = lapic_timer_current(v);
		return true;
	case REG_TIMER_DIVIDE:
		*value = apic->timer_divide;
		return true;
	}
	if (is_x2apic(v))
		return false;
	switch (reg) {
	case REG_APR: /* arbitration is gone; the value would be that of PPR */
		*value = processor_priority(apic);
		return true;
	case REG_RRD:
	case REG_EOI:
		*value = 0;
		return true;
	case REG_DFR:
		*value = apic->dfr;
		return true;
	case REG_ICR_HIGH:
		*value = apic->icr_high;
		return true;
	}
	return false;
}

/* Registers that both modes write alike, reserved bits dropped. False: no such, or read-only. */
static bool write_reg(struct vcpu *v, unsigned reg, uint32_t value)
{
	struct lapic_state *apic = &v->arch.lapic;

	switch (reg) {
	case REG_TPR:
		set_tpr(v, value & 0xff);
		return true;
	case REG_EOI:
		end_of_interrupt(v);
		return true;
	case REG_SVR:
		write_svr(v, value);
		return true;
	case REG_ESR:
		write_esr(v);
		return true;
	case REG_ICR:
		apic->icr_low = value & ICR_WRITABLE;
		send_ipi(v);
		return true;
	case REG_LVT_TIMER ... REG_LVT_ERROR:
		write_lvt(v, LVT_TIMER + reg - REG_LVT_TIMER, value);
		return true;
	case REG_TIMER_INITIAL:
		lapic_timer_initial_write(v, value);
		return true;
	case REG_TIMER_DIVIDE:
		lapic_timer_divide_write(v, value);
		return true;
	}
	if (is_x2apic(v))
		return false;
	switch (reg) {
	case REG_LDR:
		apic->ldr = value & 0xff000000;
		publish(v);
		return true;
	case REG_DFR:
		apic->dfr = value | 0x0fffffff;
		publish(v);
		return true;
	case REG_ICR_HIGH:
		apic->icr_high = value & 0xff000000;
		return true;
	}
	return false;
}

uint32_t lapic_mmio_read(struct vcpu *v, unsigned offset, unsigned size)
{
	uint32_t value = 0;

	(void)size; /* the caller keeps the bytes it asked for */
	/* Each register is the first dword of 16 bytes; the rest is undefined (11.4.1). */
	if ((offset & 0xf) > 3 || offset > 0xfff)
		return 0;
	if (!read_reg(v, offset >> 4, &value)) {
		error(v, ESR_REGISTER);
		return 0;
	}
	return value >> (offset & 3) * 8;
}

void lapic_mmio_write(struct vcpu *v, unsigned offset, unsigned size, uint32_t value)
{
	if ((offset & 0xf) || size < 4 || offset > 0xfff)
		return;
	/* The id is not the guest's to choose; writing it is legal all the same. */
	if (!write_reg(v, offset >> 4, value) && offset >> 4 != REG_ID)
		error(v, ESR_REGISTER);
}

/* Bits that an x2APIC register takes; a write of any other raises #GP. */
static uint64_t x2apic_mask(const struct vcpu *v, unsigned reg)
{
	switch (reg) {
	case REG_TPR:
	case REG_SELF_IPI:
		return 0xff;
	case REG_SVR:
		return SVR_MASK;
	case REG_ICR:
		/* Delivery status, read-only in xAPIC mode, is written back by some kernels. */
		return 0xffffffff00000000ull | ICR_WRITABLE | 1u << 12;
	case REG_LVT_TIMER:
		return (lvt_mask[LVT_TIMER] | 1u << 12) &
		       ~(has(v, FEAT_TSC_DEADLINE) ? 0u : LVT_TIMER_DEADLINE);
	case REG_LVT_TIMER + 1 ... REG_LVT_ERROR:
		return lvt_mask[LVT_TIMER + reg - REG_LVT_TIMER] | 1u << 12 | 1u << 14;
	case REG_TIMER_INITIAL:
		return 0xffffffff;
	case REG_TIMER_DIVIDE:
		return 0xb;
	default: /* EOI and ESR take 0 only */
		return 0;
	}
}

static int x2apic_write(struct vcpu *v, unsigned reg, uint64_t value)
{
	if (value & ~x2apic_mask(v, reg))
		return excp_gp(v, 0);
	if (reg == REG_ICR)
		v->arch.lapic.icr_high = (uint32_t)(value >> 32);
	if (reg == REG_SELF_IPI) {
		if (value < 16)
			error(v, ESR_SEND_ILLEGAL);
		else if (v->arch.lapic.svr & SVR_ENABLED)
			request_vector(v, (uint8_t)value);
		return 0;
	}
	return write_reg(v, reg, (uint32_t)value) ? 0 : excp_gp(v, 0);
}

int lapic_msr_read(struct vcpu *v, uint32_t index, uint64_t *value)
{
	unsigned reg = index - 0x800;
	uint32_t low;

	if (index == 0x1b) {
		*value = v->arch.lapic.base_msr;
		return 0;
	}
	if (reg > 0xff || !is_x2apic(v) || !is_enabled(v) || !read_reg(v, reg, &low))
		return excp_gp(v, 0);
	*value = low;
	if (reg == REG_ICR)
		*value |= (uint64_t)v->arch.lapic.icr_high << 32;
	return 0;
}

int lapic_msr_write(struct vcpu *v, uint32_t index, uint64_t value)
{
	unsigned reg = index - 0x800;

	if (index == 0x1b)
		return lapic_base_write(v, value);
	if (reg > 0xff || !is_x2apic(v) || !is_enabled(v))
		return excp_gp(v, 0);
	return x2apic_write(v, reg, value);
}

/* Power-on values of all but the base MSR and the id (SDM 3A, 11.4.7.1). */
static void clear(struct vcpu *v)
{
	struct lapic_state *apic = &v->arch.lapic;
	uint64_t base = apic->base_msr;

	bytes_zero(apic, sizeof(*apic));
	apic->base_msr = base;
	apic->dfr = UINT32_MAX;
	apic->svr = 0xff;
	for (unsigned i = 0; i < LVT_COUNT; i++)
		apic->lvt[i] = LVT_MASKED;
	set_id(v);
	lapic_timer_stop(v);
}

/* The modes and the ways between them: SDM 3A, figure 11-9. */
int lapic_base_write(struct vcpu *v, uint64_t value)
{
	unsigned phys_bits = v->model ? v->model->phys_bits : 40;
	uint64_t before = v->arch.lapic.base_msr;
	uint64_t legal = ((1ull << phys_bits) - 1) & ~0xfffull;
	const uint64_t mode = APIC_BASE_ENABLE | APIC_BASE_X2APIC;

	legal |= APIC_BASE_FLAGS;
	if (!has(v, FEAT_X2APIC))
		legal &= ~(uint64_t)APIC_BASE_X2APIC;
	if ((value & ~legal) || (value & mode) == APIC_BASE_X2APIC)
		return excp_gp(v, 0);
	if ((value & mode) == mode && !(before & APIC_BASE_ENABLE))
		return excp_gp(v, 0);
	if ((before & mode) == mode && (value & mode) == APIC_BASE_ENABLE)
		return excp_gp(v, 0);
	v->arch.lapic.base_msr = value;
	if ((before ^ value) & APIC_BASE_ENABLE) {
		/* Through the disabled state all registers lose their values. */
		clear(v);
		atomic_fetch_or_explicit(&v->req, REQ_EXTINT, memory_order_relaxed);
	} else if ((before ^ value) & APIC_BASE_X2APIC) {
		set_id(v);
		v->arch.lapic.icr_high = 0;
	}
	publish(v);
	/* The page that is the APIC's is another one now. */
	if ((before ^ value) & ~(uint64_t)APIC_BASE_BSP)
		atomic_fetch_or_explicit(&v->req, REQ_FLUSH, memory_order_relaxed);
	return 0;
}

void lapic_reset(struct vcpu *v, bool init)
{
	struct lapic_state *apic = &v->arch.lapic;

	if (!init)
		apic->base_msr =
			LAPIC_DEFAULT_BASE | APIC_BASE_ENABLE | (v->index == 0 ? APIC_BASE_BSP : 0);
	for (unsigned i = 0; i < 8; i++)
		atomic_store(&v->posted[i], 0);
	if (v->lapic_port)
		atomic_store(&v->lapic_port->wires, 0);
	clear(v);
	if (!init && v->index == 0) {
		apic->lvt[LVT_LINT0] = DELIVERY_EXTINT << 8;
		apic->lvt[LVT_LINT1] = DELIVERY_NMI << 8;
	}
	publish(v);
}

void lapic_loaded(struct vcpu *v)
{
	struct lapic_state *apic = &v->arch.lapic;

	/* The values may come from a hostile file: keep to what writes could have made. */
	for (unsigned i = 0; i < LVT_COUNT; i++)
		apic->lvt[i] = lvt_mask[i] ? apic->lvt[i] & lvt_mask[i] : LVT_MASKED;
	apic->timer_divide &= 0xb;
	apic->svr &= SVR_MASK;
	apic->tpr &= 0xff;
	set_id(v);
	publish(v);
	lapic_timer_plan(v);
	atomic_fetch_or_explicit(&v->req, REQ_IRQ | REQ_EXTINT, memory_order_relaxed);
}
