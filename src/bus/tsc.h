/*
 * The host's time stamp counter: whether it is fit to be a clock, how fast it
 * runs, and its value. Used by the VM's clock only; everybody else asks that.
 */
#ifndef INSULA_BUS_TSC_H
#define INSULA_BUS_TSC_H

#include <stdbool.h>
#include <stdint.h>

/* Runs at a constant rate in every power state (CPUID 80000007h EDX bit 8), or the kernel trusts
 * it. */
bool tsc_invariant(void);

/* Found once per process: from CPUID, from the kernel, or by 10 ms of measurement. Any thread. */
uint64_t tsc_host_khz(void);
/* What another process found on this host since it booted, so that it need not be found again. */
void tsc_host_preset(uint64_t khz);

static inline uint64_t tsc_read(void)
{
	uint32_t low, high;

	/*
	 * The fence keeps two readings of one thread, or of threads that hand over
	 * a lock, in order.
	 */
	__asm__ volatile("lfence\n\trdtsc" : "=a"(low), "=d"(high) : : "memory");
	return (uint64_t)high << 32 | low;
}

#endif
