/*
 * Sleep on a word and wake its sleepers (futex(2)), process-private, without
 * libc. Callers loop: a wait may return early for any reason.
 */
#ifndef INSULA_BASE_FUTEX_H
#define INSULA_BASE_FUTEX_H

#include "base/syscall.h"

#include <limits.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>

/*
 * Sleeps while *word == expected until a wake or until CLOCK_MONOTONIC reaches
 * deadline_ns (UINT64_MAX: no deadline). 0, -EAGAIN (the word differs), -EINTR
 * or -ETIMEDOUT.
 */
static inline int futex_wait(_Atomic uint32_t *word, uint32_t expected, uint64_t deadline_ns)
{
	struct timespec ts, *timeout = NULL;

	if (deadline_ns != UINT64_MAX) {
		ts.tv_sec = (time_t)(deadline_ns / 1000000000u);
		ts.tv_nsec = (long)(deadline_ns % 1000000000u);
		timeout = &ts;
	}
	return (int)syscall6(SYS_futex, (long)word, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG,
			     (long)expected, (long)timeout, 0, (long)FUTEX_BITSET_MATCH_ANY);
}

/* Wakes up to `count` sleepers; INT_MAX for all. */
static inline void futex_wake(_Atomic uint32_t *word, int count)
{
	syscall6(SYS_futex, (long)word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, count, 0, 0, 0);
}

#endif
