/*
 * The KVM paravirtual clock (Linux Documentation/virt/kvm/x86/msr.rst): a page
 * from which a guest derives nanoseconds out of its TSC, and a record of the
 * wall time at boot. Offered so that guests skip the calibration of timers.
 */
#ifndef INSULA_CPU_KVMCLOCK_H
#define INSULA_CPU_KVMCLOCK_H

#include "cpu/vcpu.h"

#define MSR_KVM_WALL_CLOCK      0x11u
#define MSR_KVM_SYSTEM_TIME     0x12u
#define MSR_KVM_WALL_CLOCK_NEW  0x4b564d00u
#define MSR_KVM_SYSTEM_TIME_NEW 0x4b564d01u

/* WRMSR. The address is the guest's choice; what is not RAM there is not written. */
void kvmclock_wall_clock_write(struct vcpu *v, uint64_t value);
void kvmclock_system_time_write(struct vcpu *v, uint64_t value);

/* Writes the vcpu's time page again if the guest has registered one: its TSC was moved, or a state
 * restored. Owner thread. */
void kvmclock_publish(struct vcpu *v);

/*
 * Notes in the time page, if there is one, that the whole guest stood still and
 * its watchdogs have nothing to complain of. Under the pause barrier.
 */
void kvmclock_guest_stopped(struct vcpu *v);

#endif
