/*
 * The KVM paravirtual clock's pages. Called by WRMSR, and when a vcpu's TSC is
 * moved or its state was restored.
 *
 * Invariant: all pages of a VM describe one line through one origin, guest time
 * 0, which is a constant of the VM because TSC and nanoseconds are two scales
 * of one count (bus/vclock.h). So pages never disagree between vcpus, need no
 * refresh as time goes by, and stay right across a pause.
 */
#include "cpu/kvmclock.h"
#include "base/bytes.h"
#include "bus/vclock.h"
#include "cpu/fpstate.h"
#include "cpu/mmu.h"
#include "cpu/model.h"
#include "mem/dma.h"

#include <stddef.h>

#define SYSTEM_TIME_ENABLE 1ull
#define FLAG_TSC_STABLE    1u
#define FLAG_GUEST_STOPPED 2u /* the guest clears it */
#define NS_PER_SECOND      1000000000ull

/* Both records start with a version: odd while the rest is being written. */
struct wall_clock_page {
	uint32_t version, seconds, nanoseconds;
};

struct time_page {
	uint32_t version, padding;
	uint64_t tsc_timestamp, system_time;
	uint32_t tsc_to_system_mul;
	int8_t tsc_shift;
	uint8_t flags, padding2[2];
};
_Static_assert(sizeof(struct wall_clock_page) == 12 && sizeof(struct time_page) == 32, "guest ABI");

/*
 * The version goes up by two; in between it is odd. A reader on another cpu
 * sees the three stores in this order (x86 keeps stores in order, and each call
 * is opaque to the compiler). False if there is no RAM.
 */
static bool page_write(struct vcpu *v, gpa_t gpa, uint32_t *record, unsigned len)
{
	uint32_t version;

	if (mmu_phys_read(v, gpa, &version, sizeof(version)) < 0)
		return false;
	version = (version | 1) + 2;
	if (mmu_phys_write(v, gpa, &version, sizeof(version)) < 0)
		return false;
	record[0] = version;
	if (mmu_phys_write(v, gpa, record, len) < 0)
		return false;
	version++;
	return mmu_phys_write(v, gpa, &version, sizeof(version)) == 0;
}

/* nanoseconds = ((ticks << shift) * mul) >> 32; the largest 32-bit mul, for precision. */
static void tsc_scale(uint64_t tsc_khz, uint32_t *mul, int8_t *shift)
{
	uint64_t numerator = 1000000, denominator = tsc_khz;
	int s = 0;

	while (numerator >= denominator) {
		denominator <<= 1;
		s++;
	}
	while (2 * numerator < denominator) {
		numerator <<= 1;
		s--;
	}
	/* Now 1/2 <= numerator / denominator < 1. */
	*mul = (uint32_t)((numerator << 32) / denominator);
	*shift = (int8_t)s;
}

void kvmclock_publish(struct vcpu *v)
{
	uint64_t value = v->arch.msr.kvm_system_time;
	struct time_page page = { 0 };

	if (!(value & SYSTEM_TIME_ENABLE))
		return;
	vcpu_fp_park(v);
	page.tsc_timestamp = vclock_ns_to_tsc(v->clock, 0) + v->arch.msr.tsc_offset;
	page.system_time = 0;
	tsc_scale(vclock_tsc_khz(v->clock), &page.tsc_to_system_mul, &page.tsc_shift);
	/* Stable: the page of one vcpu may be used with the TSC of another. */
	page.flags = v->arch.msr.tsc_offset == 0 ? FLAG_TSC_STABLE : 0;
	page_write(v, value & ~SYSTEM_TIME_ENABLE, (uint32_t *)&page, sizeof(page));
}

void kvmclock_guest_stopped(struct vcpu *v)
{
	uint64_t value = v->arch.msr.kvm_system_time;
	gpa_t gpa = (value & ~SYSTEM_TIME_ENABLE) + offsetof(struct time_page, flags);
	uint8_t flags;

	/* One byte beside the versioned words: readers take it whenever they like. */
	if (!(value & SYSTEM_TIME_ENABLE) || dma_read(v->ram, gpa, &flags, 1) < 0)
		return;
	flags |= FLAG_GUEST_STOPPED;
	/* What is not RAM is not told. */
	if (dma_write(v->ram, gpa, &flags, 1) < 0)
		return;
}

void kvmclock_system_time_write(struct vcpu *v, uint64_t value)
{
	v->arch.msr.kvm_system_time = value;
	kvmclock_publish(v);
}

void kvmclock_wall_clock_write(struct vcpu *v, uint64_t value)
{
	struct wall_clock_page page = { 0 };
	uint64_t wall_ns;

	v->arch.msr.kvm_wall_clock = value;
	if (!value)
		return;
	vcpu_fp_park(v);
	wall_ns = vclock_wall_ns(v->clock, 0);
	page.seconds = (uint32_t)(wall_ns / NS_PER_SECOND);
	page.nanoseconds = (uint32_t)(wall_ns % NS_PER_SECOND);
	page_write(v, value, (uint32_t *)&page, sizeof(page));
}
