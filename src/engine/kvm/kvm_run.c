/*
 * Running: into the kernel and out again, and what it comes out for. Called by
 * the vcpu's thread.
 *
 * A kick is a request bit and then a signal, whose handler sets immediate_exit
 * in the shared page; so a signal that comes just before the entry ends it as
 * well as one that comes during. Invariant: kick_tid is set exactly while a
 * poster must send one, and requests are looked at after it was set.
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "bus/bus.h"
#include "bus/stop.h"
#include "cpu/control.h"
#include "cpu/excp.h"
#include "cpu/lapic.h"
#include "cpu/post.h"
#include "engine/kvm/kvm_priv.h"
#include "mem/ram.h"

#define MSR_APIC_BASE 0x1bu

/* Requests that only software engines act upon. */
#define REQ_NOT_OURS (REQ_CODE | REQ_SHADOW | REQ_FLUSH | REQ_EXCLUSIVE)

/* The shared page of the vcpu that this thread is about to run: the handler takes no argument. */
static __thread struct kvm_run *running;

static void kicked(int signal)
{
	if (running)
		running->immediate_exit = 1;
}

int kvm_run_accept_kicks(void)
{
	const struct sigaction action = { .sa_handler = kicked,
					  .sa_flags = SA_RESTART | SA_ONSTACK };
	sigset_t set;

	if (sigaction(VCPU_KICK_SIGNAL, &action, NULL) < 0)
		return -errno;
	sigemptyset(&set);
	sigaddset(&set, VCPU_KICK_SIGNAL);
	return -pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

/* ---- accesses ---- */

static bool is_lapic(const struct vcpu *v, gpa_t gpa)
{
	return (v->arch.lapic.base_msr & (APIC_BASE_ENABLE | APIC_BASE_X2APIC)) ==
		       APIC_BASE_ENABLE &&
	       (gpa & PAGE_MASK) == (v->arch.lapic.base_msr & 0xffffff000ull);
}

/* Buses know powers of two; what straddles two pages comes in other sizes. */
static unsigned piece(unsigned len)
{
	return len >= 8 ? 8 : len >= 4 ? 4 : len >= 2 ? 2 : 1;
}

static void mmio(struct vcpu *v, struct kvm_run *run)
{
	gpa_t gpa = run->mmio.phys_addr;
	unsigned len = run->mmio.len <= 8 ? run->mmio.len : 8;

	for (unsigned at = 0; at < len;) {
		unsigned size = piece(len - at);
		bool lapic = is_lapic(v, gpa + at) && size <= 4;
		uint64_t value = 0;

		if (run->mmio.is_write) {
			memcpy(&value, run->mmio.data + at, size);
			if (lapic)
				lapic_mmio_write(v, (gpa + at) & 0xfff, size, (uint32_t)value);
			else
				bus_write(v->mmio, gpa + at, size, value);
		} else {
			value = lapic ? lapic_mmio_read(v, (gpa + at) & 0xfff, size)
				      : bus_read(v->mmio, gpa + at, size);
			memcpy(run->mmio.data + at, &value, size);
		}
		at += size;
	}
}

static void pio(struct vcpu *v, struct kvm_run *run)
{
	const struct kvm_vcpu *k = v->engine_priv;
	uint64_t offset = run->io.data_offset;
	unsigned size = run->io.size;

	if ((size != 1 && size != 2 && size != 4) || offset > k->vm->run_bytes ||
	    (uint64_t)size * run->io.count > k->vm->run_bytes - offset)
		return;
	for (uint32_t n = 0; n < run->io.count; n++, offset += size) {
		uint8_t *data = (uint8_t *)run + offset;
		uint64_t value = 0;

		if (run->io.direction == KVM_EXIT_IO_OUT) {
			memcpy(&value, data, size);
			bus_write(v->pio, run->io.port, size, value);
		} else {
			value = bus_read(v->pio, run->io.port, size);
			memcpy(data, &value, size);
		}
	}
}

/*
 * MSRs that are ours, and those that the kernel does not know, which our model
 * may have. One of the kernel's own comes here when it refused the value.
 */
static void msr(struct vcpu *v, struct kvm_run *run)
{
	struct kvm_vcpu *k = v->engine_priv;
	uint64_t base = v->arch.lapic.base_msr;
	bool write = run->exit_reason == KVM_EXIT_X86_WRMSR;
	uint64_t value = run->msr.data;
	int rc;

	if (kvm_state_holds_msr(run->msr.index))
		rc = -1;
	else if (write)
		rc = msr_write(v, run->msr.index, value);
	else
		rc = msr_read(v, run->msr.index, &value);
	run->msr.error = rc < 0;
	run->msr.data = value;
	if (v->arch.msr.tsc_offset != k->tsc_offset)
		(void)kvm_state_set_tsc(v);
	if (v->arch.lapic.base_msr != base) {
		/* CPUID says whether there is a local APIC. */
		struct kvm_one_msr one = { .count = 1,
					   .entry = { .index = MSR_APIC_BASE,
						      .data = v->arch.lapic.base_msr } };

		if (kvm_call(k, KVM_SET_MSRS, &one) != 1)
			kvm_vcpu_fail(v, "move the local APIC", errno);
	}
}

/* ---- events ---- */

static bool extint_pending(struct vcpu *v)
{
	return atomic_load_explicit(&v->extint, memory_order_acquire) && v->pic_ack &&
	       lapic_accepts_extint(v);
}

static bool interrupt_pending(struct vcpu *v)
{
	return lapic_pending(v) >= 0 || extint_pending(v);
}

/* An interrupt is given to the kernel when it can take one; else it says when it can. */
static void offer_interrupt(struct vcpu *v)
{
	struct kvm_vcpu *k = v->engine_priv;
	struct kvm_interrupt interrupt;
	int vector;

	k->run->request_interrupt_window = 0;
	if (!interrupt_pending(v))
		return;
	if (v->arch.activity == ACTIVITY_HALT && !(v->arch.rflags & FLAG_IF))
		return;
	v->arch.activity = ACTIVITY_RUN;
	if (!k->ready) {
		k->run->request_interrupt_window = 1;
		return;
	}
	if (extint_pending(v)) {
		vector = v->pic_ack(v->pic_ctx);
	} else {
		vector = lapic_pending(v);
		lapic_ack(v, (uint8_t)vector);
	}
	if (vector < 0)
		return;
	interrupt.irq = (uint32_t)vector;
	k->ready = false;
	if (kvm_call(k, KVM_INTERRUPT, &interrupt) < 0)
		kvm_vcpu_fail(v, "inject an interrupt", errno);
	k->run->request_interrupt_window = interrupt_pending(v);
}

/* State that we have changed goes into the kernel again. */
static void changed(struct vcpu *v)
{
	struct kvm_vcpu *k = v->engine_priv;

	k->ready = false;
	(void)kvm_state_in(v);
}

static void init(struct vcpu *v)
{
	kvm_run_settle(v);
	if (kvm_state_out(v) < 0)
		return;
	/* What was about to be delivered is lost, an NMI that waits is not. */
	vcpu_init_signal(v);
	changed(v);
}

/* SDM 3A, 8.4.2: the startup vector is a page number in the first megabyte. */
static void start_up(struct vcpu *v)
{
	uint32_t vector = atomic_load_explicit(&v->sipi_vector, memory_order_acquire) & 0xff;

	v->arch.seg[SEG_CS].selector = (uint16_t)(vector << 8);
	v->arch.seg[SEG_CS].base = (uint64_t)vector << 12;
	v->arch.rip = 0;
	v->arch.activity = ACTIVITY_RUN;
	changed(v);
}

/*
 * What cpu/events.c does for software engines: INIT, SIPI, NMI, interrupts. A
 * bit is cleared only by looking at what it announces.
 */
static void attend(struct vcpu *v)
{
	uint32_t req = atomic_fetch_and(&v->req, (uint32_t)REQ_PAUSE);

	if (req & REQ_TIMER)
		lapic_timer_check(v);
	if (req & REQ_IRQ)
		lapic_take_posted(v);
	if (req & REQ_INIT)
		init(v);
	if (v->arch.activity == ACTIVITY_WAIT_SIPI) {
		if (req & REQ_SIPI)
			start_up(v);
		return;
	}
	if (v->arch.activity == ACTIVITY_SHUTDOWN)
		return;
	if (req & REQ_KICK) {
		v->arch.kicked = v->arch.activity != ACTIVITY_HALT;
		v->arch.activity = ACTIVITY_RUN;
	}
	if (req & REQ_NMI) {
		v->arch.activity = ACTIVITY_RUN;
		if (kvm_call(v->engine_priv, KVM_NMI, NULL) < 0)
			kvm_vcpu_fail(v, "inject an NMI", errno);
	}
	offer_interrupt(v);
}

/* ---- exits ---- */

static void stop(struct vcpu *v, enum stop_reason reason, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

static void stop(struct vcpu *v, enum stop_reason reason, const char *format, ...)
{
	struct kvm_vcpu *k = v->engine_priv;
	va_list args;

	va_start(args, format);
	vsnprintf(k->error, sizeof(k->error), format, args);
	va_end(args);
	stop_request(v->stop, reason, 0, k->error);
	k->failed = true;
}

static void internal_error(struct vcpu *v, const struct kvm_run *run)
{
	if (kvm_state_out(v) < 0)
		v->arch.rip = 0;
	if (run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION)
		stop(v, STOP_GUEST_ERROR,
		     "KVM could not emulate the instruction at %#" PRIx64
		     "; --engine translate can run it",
		     v->arch.rip);
	else
		stop(v, STOP_HOST_ERROR, "KVM failed with internal error %u at %#" PRIx64,
		     run->internal.suberror, v->arch.rip);
}

/*
 * A guest that was started by another engine may wait in HLT, interrupts off,
 * for a kick by hypercall, which the kernel does not forward to us. So such a
 * HLT ends by itself after a while; whoever waits in that way looks again.
 */
#define NAP_NS     50000u
#define NAP_SHIFTS 8 /* the longest: 12.8 ms */
#define NAP_AWAKE  1000000u

static uint64_t host_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static bool nap(struct vcpu *v)
{
	struct kvm_vcpu *k = v->engine_priv;
	uint64_t now;

	if (v->model->cpus < 2 || !v->model->kvm_clock || (v->arch.rflags & FLAG_IF))
		return false;
	now = host_ns();
	if (now - k->nap_end_ns > NAP_AWAKE)
		k->naps = 0;
	vcpu_wait(v, now + ((uint64_t)NAP_NS << k->naps));
	k->naps += k->naps < NAP_SHIFTS;
	k->nap_end_ns = host_ns();
	return true;
}

/* True: *why ends the run. */
static bool handle(struct vcpu *v, struct kvm_run *run, enum vcpu_exit *why)
{
	struct kvm_vcpu *k = v->engine_priv;

	if (run->exit_reason < KVM_EXITS)
		k->exits[run->exit_reason]++;
	switch (run->exit_reason) {
	case KVM_EXIT_MMIO:
		k->unfinished = true;
		mmio(v, run);
		return false;
	case KVM_EXIT_IO:
		k->unfinished = true;
		pio(v, run);
		return false;
	case KVM_EXIT_X86_RDMSR:
	case KVM_EXIT_X86_WRMSR:
		k->unfinished = true;
		msr(v, run);
		return false;
	case KVM_EXIT_HLT:
		v->arch.rflags =
			(v->arch.rflags & ~(uint64_t)FLAG_IF) | (run->if_flag ? FLAG_IF : 0);
		v->arch.nmi_masked = 0;
		if (v->arch.kicked)
			v->arch.kicked = 0;
		else if (!nap(v))
			v->arch.activity = ACTIVITY_HALT;
		return false;
	case KVM_EXIT_INTR:
	case KVM_EXIT_IRQ_WINDOW_OPEN:
	case KVM_EXIT_SET_TPR:
		return false;
	case KVM_EXIT_SHUTDOWN:
		v->arch.activity = ACTIVITY_SHUTDOWN;
		*why = EXIT_SHUTDOWN;
		return true;
	case KVM_EXIT_INTERNAL_ERROR:
		internal_error(v, run);
		break;
	case KVM_EXIT_FAIL_ENTRY:
		stop(v, STOP_HOST_ERROR, "KVM could not enter the guest: hardware reason %#llx",
		     run->fail_entry.hardware_entry_failure_reason);
		break;
	default:
		stop(v, STOP_HOST_ERROR, "KVM came back for the unknown reason %u",
		     run->exit_reason);
		break;
	}
	*why = EXIT_ERROR;
	return true;
}

/* One entry. 0: there is an exit to handle; 1: none, look again; -1: failed. */
static int enter_guest(struct vcpu *v, bool settle)
{
	struct kvm_vcpu *k = v->engine_priv;
	struct kvm_run *run = k->run;
	int rc, err;

	run->cr8 = lapic_cr8_read(v);
	running = run;
	run->immediate_exit = settle;
	atomic_store(&v->kick_tid, (int32_t)syscall(SYS_gettid));
	if (atomic_load(&v->req) & ~(uint32_t)REQ_NOT_OURS)
		run->immediate_exit = 1;
	rc = kvm_call(k, KVM_RUN, NULL);
	err = errno;
	atomic_store(&v->kick_tid, 0);
	running = NULL;
	k->unfinished = false;
	k->ready = run->ready_for_interrupt_injection && run->if_flag;
	if (run->cr8 != lapic_cr8_read(v))
		lapic_cr8_write(v, (unsigned)run->cr8);
	if (rc == 0)
		return 0;
	if (err == EINTR || err == EAGAIN)
		return 1;
	kvm_vcpu_fail(v, "run the guest", err);
	return -1;
}

void kvm_run_settle(struct vcpu *v)
{
	struct kvm_vcpu *k = v->engine_priv;
	enum vcpu_exit why;

	/* The second half of an access that straddles pages may come out again. */
	while (k->unfinished && !k->failed)
		if (enter_guest(v, true) == 0 && handle(v, k->run, &why))
			return;
}

enum vcpu_exit kvm_run_guest(struct vcpu *v, uint64_t max_insns)
{
	struct kvm_vcpu *k = v->engine_priv;
	enum vcpu_exit why;

	for (;;) {
		if (atomic_load(&v->req) & ~(uint32_t)REQ_NOT_OURS || interrupt_pending(v) ||
		    v->arch.activity != ACTIVITY_RUN)
			attend(v);
		if (k->failed) {
			stop_request(v->stop, STOP_HOST_ERROR, 0, k->error);
			return EXIT_ERROR;
		}
		if (atomic_load(&v->req) & REQ_PAUSE)
			return EXIT_REQUEST;
		if (v->arch.activity == ACTIVITY_SHUTDOWN)
			return EXIT_SHUTDOWN;
		if (v->arch.activity != ACTIVITY_RUN)
			return EXIT_HALT;
		if (enter_guest(v, false) == 0 && handle(v, k->run, &why))
			return why;
	}
}
