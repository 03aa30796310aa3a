/*
 * Posting requests and interrupts to a vcpu, and the sleep that they end.
 *
 * The order is the whole of it. A poster makes its news visible (bitmap, then
 * request bit) and only then looks whether anybody sleeps; a sleeper announces
 * its sleep first and only then looks for news. One of the two always sees the
 * other, so no wake-up is lost and none is sent to a running vcpu. The same
 * goes for an owner about to enter a system call that runs guest code: first
 * its kick_tid, then a look at req.
 */
#include "cpu/post.h"
#include "base/futex.h"
#include "cpu/excp.h"
#include "cpu/fpstate.h"

void vcpu_request(struct vcpu *v, uint32_t bits)
{
	int32_t tid;

	atomic_fetch_or(&v->req, bits);
	if (atomic_load(&v->sleeping) && atomic_exchange(&v->sleeping, 0))
		futex_wake(&v->sleeping, 1);
	/* One signal is enough: the owner says its name anew before it goes back. */
	if (atomic_load(&v->kick_tid) && (tid = atomic_exchange(&v->kick_tid, 0)))
		syscall6(SYS_tgkill, syscall6(SYS_getpid, 0, 0, 0, 0, 0, 0), tid, VCPU_KICK_SIGNAL,
			 0, 0, 0);
}

void vcpu_post_irq(struct vcpu *v, uint8_t vector, bool level)
{
	uint32_t bit = 1u << (vector % 32);

	/* TMR before the vector: whoever takes the vector finds its trigger mode. */
	if (level)
		atomic_fetch_or(&v->posted_level[vector / 32], bit);
	else
		atomic_fetch_and(&v->posted_level[vector / 32], ~bit);
	atomic_fetch_or(&v->posted[vector / 32], bit);
	vcpu_request(v, REQ_IRQ);
}

void vcpu_wait(struct vcpu *v, uint64_t host_deadline_ns)
{
	vcpu_fp_park(v);
	atomic_store(&v->sleeping, 1);
	/*
	 * Not every request bit ends a sleep: the 8259's line may be masked, an NMI
	 * held off, decoded code dropped. Looking at the bits alone would spin on
	 * those; whatever is posted from here on makes the futex word differ.
	 */
	if (!(atomic_load(&v->req) & REQ_PAUSE) && !vcpu_has_work(v))
		futex_wait(&v->sleeping, 1, host_deadline_ns);
	atomic_store(&v->sleeping, 0);
}
