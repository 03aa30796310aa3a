/*
 * Clocks of other frequencies against guest nanoseconds, and how fast a
 * periodic timer may fire. All pure.
 */
#ifndef INSULA_DEV_PC_TICK_H
#define INSULA_DEV_PC_TICK_H

#include <stdint.h>

#define NS_PER_SECOND 1000000000u

/* No periodic timer fires more often, so that no guest can occupy the clock's thread. */
#define TICK_MIN_NS   20000u
/* Periods that the host kept from being delivered in time and that are made up for. */
#define TICK_OWED_MAX 8u

/* Ticks of a clock of `hz` that began at guest time 0; the product needs 128 bits after an hour. */
static inline uint64_t tick_from_ns(uint64_t ns, uint32_t hz)
{
	return (uint64_t)((unsigned __int128)ns * hz / NS_PER_SECOND);
}

/* First nanosecond at which tick_from_ns() gives `ticks`; UINT64_MAX if out of reach. */
static inline uint64_t tick_to_ns(uint64_t ticks, uint32_t hz)
{
	unsigned __int128 ns = ((unsigned __int128)ticks * NS_PER_SECOND + hz - 1) / hz;

	return ns > UINT64_MAX ? UINT64_MAX : (uint64_t)ns;
}

/* When a periodic timer that fired at `now_ns` may fire again: twice its rate, to catch up. */
static inline uint64_t tick_earliest(uint64_t now_ns, uint64_t period_ns)
{
	return now_ns + (period_ns / 2 < TICK_MIN_NS ? TICK_MIN_NS : period_ns / 2);
}

#endif
