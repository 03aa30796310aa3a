/*
 * The engine kvm, as engine.h wants it. Its parts: kvm_vm.c makes VM and vcpus,
 * kvm_cpuid.c composes CPUID, kvm_state.c moves the canonical state, kvm_run.c
 * runs.
 *
 * The local APIC is our own (cpu/lapic.c), so it is in the canonical state at
 * all times, keeps the VM's time and is the same under every engine and on
 * every host. The price is an exit for each of its registers.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/kvm/kvm.h"
#include "engine/kvm/kvm_priv.h"

/*
 * INSULA_KVM=any in the environment is for tests of this engine in a KVM that
 * can run less than a stock kernel.
 */
static int check(char *why)
{
	const char *wish = getenv("INSULA_KVM");
	char found[KVM_WHY_MAX];

	if (wish && strcmp(wish, "any") == 0)
		return 0;
	switch (kvm_probe(&kvm_calls_host, found)) {
	case KVM_KIND_FULL:
		return 0;
	case KVM_KIND_NONE:
		snprintf(why, ENGINE_ERROR_MAX, "%.150s", found);
		return -ENOENT;
	case KVM_KIND_NO_ACCESS:
		snprintf(why, ENGINE_ERROR_MAX, "/dev/kvm: %.150s", found);
		return -EACCES;
	case KVM_KIND_PARAVIRT:
		snprintf(why, ENGINE_ERROR_MAX, "/dev/kvm runs no stock kernels");
		return -ENOTSUP;
	case KVM_KIND_LIMITED:
		snprintf(why, ENGINE_ERROR_MAX, "/dev/kvm: %.150s", found);
		return -ENOTSUP;
	}
	return -ENOTSUP;
}

static int model_limit(struct cpu_model *model, char *error)
{
	const struct kvm_calls *calls = &kvm_calls_host;
	struct kvm_leaves leaves;
	int dev = calls->open(), err;

	if (dev < 0) {
		err = errno;
		kvm_say_no_device(error, err);
		return -err;
	}
	err = kvm_supported_leaves(calls, dev, &leaves);
	calls->close(dev);
	if (err)
		snprintf(error, ENGINE_ERROR_MAX, "KVM does not say which CPU features it has: %s",
			 strerror(-err));
	else
		kvm_cpuid_limit(model, &leaves);
	return err;
}

static int vm_open(struct vcpu **vcpus, unsigned count, void **engine_vm, char *error)
{
	(void)count;
	*engine_vm = kvm_vm_new(&kvm_calls_host, vcpus[0]->ram, error);
	return *engine_vm ? 0 : -errno;
}

static void vm_close(void *engine_vm)
{
	kvm_vm_free(engine_vm);
}

static int vcpu_open(struct vcpu *v, const char **error)
{
	int err = kvm_run_accept_kicks();

	*error = "a signal handler cannot be installed";
	return err ? err : kvm_vcpu_open(v, error);
}

static void enter(struct vcpu *v)
{
	struct kvm_vcpu *k = v->engine_priv;

	k->ready = k->unfinished = false;
	(void)kvm_state_in(v);
}

static void leave(struct vcpu *v)
{
	struct kvm_vcpu *k = v->engine_priv;

	kvm_run_settle(v);
	/* After a failure arch is as it was; a machine that stops has no use for it. */
	(void)kvm_state_out(v);
	k->run->request_interrupt_window = 0;
	/* Whoever enters next looks at what waits by itself. */
	atomic_fetch_or(&v->req, REQ_IRQ | REQ_EXTINT);
}

static void kick(struct vcpu *v)
{
	/* vcpu_request() has done it. */
	(void)v;
}

/* An exit is a return to the dispatcher: for an access that is ours, or for an event. */
static void stats(struct vcpu *v, struct engine_stats *stats)
{
	const struct kvm_vcpu *k = v->engine_priv;

	*stats = (struct engine_stats){ 0 };
	for (unsigned reason = 0; reason < KVM_EXITS; reason++) {
		switch (reason) {
		case KVM_EXIT_IO:
		case KVM_EXIT_MMIO:
		case KVM_EXIT_X86_RDMSR:
		case KVM_EXIT_X86_WRMSR:
			stats->exits_slow += k->exits[reason];
			break;
		default:
			stats->exits_events += k->exits[reason];
			break;
		}
	}
}

const struct engine engine_kvm = {
	.name = "kvm",
	.check = check,
	.model_limit = model_limit,
	.unheard = true,
	.vm_open = vm_open,
	.vm_close = vm_close,
	.vcpu_open = vcpu_open,
	.vcpu_close = kvm_vcpu_close,
	.enter = enter,
	.run = kvm_run_guest,
	.leave = leave,
	.kick = kick,
	.stats = stats,
};
