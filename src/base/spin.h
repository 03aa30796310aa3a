/*
 * A lock for a few instructions, never held over a call that may block. Usable
 * in every room: no libc. After a bounded spin the waiter yields, since the
 * holder may have lost its CPU.
 */
#ifndef INSULA_BASE_SPIN_H
#define INSULA_BASE_SPIN_H

#include "base/syscall.h"

#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>

struct spin {
	_Atomic uint32_t held;
};

/* One step of waiting for another thread; `turn` counts the steps. */
static inline void spin_relax(unsigned turn)
{
	if (turn % 128 == 127)
		syscall6(SYS_sched_yield, 0, 0, 0, 0, 0, 0);
	else
		__builtin_ia32_pause();
}

static inline void spin_lock(struct spin *spin)
{
	unsigned turn = 0;

	while (atomic_exchange_explicit(&spin->held, 1, memory_order_acquire))
		while (atomic_load_explicit(&spin->held, memory_order_relaxed))
			spin_relax(turn++);
}

static inline void spin_unlock(struct spin *spin)
{
	atomic_store_explicit(&spin->held, 0, memory_order_release);
}

#endif
