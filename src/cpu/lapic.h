/*
 * The local APIC (SDM 3A, chapter 11), xAPIC and x2APIC. Its registers are in
 * arch.lapic and only the owner thread touches them; others post.
 */
#ifndef INSULA_CPU_LAPIC_H
#define INSULA_CPU_LAPIC_H

#include "cpu/vcpu.h"

#define LAPIC_DEFAULT_BASE 0xfee00000ull
#define APIC_BASE_BSP      (1u << 8)
#define APIC_BASE_X2APIC   (1u << 10)
#define APIC_BASE_ENABLE   (1u << 11)

#define LAPIC_TIMER_HZ 1000000000u /* before the divider; CPUID 0x15 and 0x40000010 must agree */

/*
 * init: INIT keeps the base MSR and id. At power-on the boot cpu (index 0) is in
 * virtual wire mode, as firmware would leave it: LINT0 takes the 8259's ExtINT.
 */
void lapic_reset(struct vcpu *v, bool init);
/* arch.lapic was loaded from a saved state or by another engine: publish where messages find us,
 * arm the timer. Owner thread. */
void lapic_loaded(struct vcpu *v);

/* MMIO page at the APIC base; offset 0..0xfff; any size and alignment. */
uint32_t lapic_mmio_read(struct vcpu *v, unsigned offset, unsigned size);
void lapic_mmio_write(struct vcpu *v, unsigned offset, unsigned size, uint32_t value);
/* MSRs 0x800..0x8ff and IA32_APIC_BASE. -1: #GP. */
int lapic_msr_read(struct vcpu *v, uint32_t index, uint64_t *value);
int lapic_msr_write(struct vcpu *v, uint32_t index, uint64_t value);
int lapic_base_write(struct vcpu *v, uint64_t value);
int lapic_tsc_deadline_write(struct vcpu *v, uint64_t value);
uint64_t lapic_tsc_deadline_read(struct vcpu *v);
unsigned lapic_cr8_read(const struct vcpu *v);
void lapic_cr8_write(struct vcpu *v, unsigned cr8);

/* Take posted vectors into IRR. Owner thread. */
void lapic_take_posted(struct vcpu *v);
/* Highest vector that may be delivered now given PPR, or -1. */
int lapic_pending(struct vcpu *v);
/* IRR -> ISR for that vector. */
void lapic_ack(struct vcpu *v, uint8_t vector);
/* True if an ExtINT from the 8259 reaches this cpu (LINT0 unmasked ExtINT, or APIC disabled on the
 * boot cpu). */
bool lapic_accepts_extint(const struct vcpu *v);
/* Guest-time deadline of the timer, UINT64_MAX if none. The vcpu thread sleeps by it; while running
 * a vclock timer requests REQ_TIMER. */
uint64_t lapic_timer_deadline(const struct vcpu *v);
/* REQ_TIMER or wake-up: fire if due, re-arm periodic. Also after the guest's TSC was set, for a
 * deadline in its ticks. */
void lapic_timer_check(struct vcpu *v);

/* The APIC bus of one VM: routes MSIs and IPIs to vcpus by destination. Fixed set of vcpus,
 * lock-free. */
struct apic_bus *apic_bus_new(void);
void apic_bus_free(struct apic_bus *bus);
/* Before threads start, with v->clock set; allocates v->lapic_port and sets v->apics. 0 or -errno.
 * The bus goes after its vcpus have stopped. */
int apic_bus_attach(struct apic_bus *bus, struct vcpu *v) __attribute__((warn_unused_result));
/* An MSI write, as devices and the IOAPIC make it. Any thread. */
void apic_bus_msi(struct apic_bus *bus, uint64_t address, uint32_t data);
/* The 8259's INTR: level on LINT0 of the boot cpu; `bus` is a struct apic_bus, typed for an
 * irq_line. Any thread. */
void apic_bus_extint(void *bus, unsigned pin, int level);
/* An edge on LINT1 of every cpu: the NMI button. Any thread. */
void apic_bus_nmi(struct apic_bus *bus);
/* The paravirtual kick: ends the HLT of the cpu with this APIC id, or its next. Any thread. */
void apic_bus_kick(struct apic_bus *bus, uint64_t id);
/* Whoever must hear an EOI of a level-triggered vector (the IOAPIC); called on the vcpu thread. */
void apic_bus_on_eoi(struct apic_bus *bus, void (*eoi)(void *ctx, uint8_t vector), void *ctx);

#endif
