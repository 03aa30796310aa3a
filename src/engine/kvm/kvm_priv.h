/* What the files of this room share. Stays in this folder, but for its tests. */
#ifndef INSULA_ENGINE_KVM_KVM_PRIV_H
#define INSULA_ENGINE_KVM_KVM_PRIV_H

#include <linux/kvm.h>
#include <stddef.h>

#include "cpu/model.h"
#include "cpu/vcpu.h"
#include "engine/engine.h"
#include "engine/kvm/kvm_calls.h"

#define KVM_ERROR_MAX  ENGINE_ERROR_MAX
#define KVM_EXITS      48  /* exit reasons that are counted */
#define KVM_LEAVES_MAX 100 /* CPUID leaves and subleaves, the host's or the model's */

/* Laid out as struct kvm_cpuid2 and struct kvm_msrs, which have no room for their entries. */
struct kvm_leaves {
	uint32_t count, padding;
	struct kvm_cpuid_entry2 entry[KVM_LEAVES_MAX];
};
_Static_assert(offsetof(struct kvm_leaves, entry) == sizeof(struct kvm_cpuid2), "kernel ABI");

struct kvm_one_msr {
	uint32_t count, padding;
	struct kvm_msr_entry entry;
};
_Static_assert(offsetof(struct kvm_one_msr, entry) == sizeof(struct kvm_msrs), "kernel ABI");

/* One VM of the kernel's, shared by its vcpus; constant once it is open. */
struct kvm_vm {
	const struct kvm_calls *calls;
	int dev, fd;
	size_t run_bytes; /* of a vcpu's shared page */
	bool sregs2;      /* the four PDPTEs travel with the segment registers */
	bool tsc_offset;  /* the guest's TSC is set as an offset to the host's */
	struct kvm_leaves supported;
	char error[KVM_ERROR_MAX];
};

struct kvm_vcpu {
	struct kvm_vm *vm;
	int fd;
	struct kvm_run *run; /* shared with the kernel; touched by the owner only */
	uint64_t tsc_offset; /* arch.msr.tsc_offset as the kernel has it */
	uint64_t debugctl;   /* as the kernel had it when last asked or told */
	/* Of a HLT that only a lost kick would end: how many in a row, when the last one was. */
	unsigned naps;
	uint64_t nap_end_ns;
	/* An access that we have answered waits in the kernel for the next entry to take effect. */
	bool unfinished;
	bool ready;  /* an interrupt may be injected: known from the last exit */
	bool failed; /* a call on which all depends was refused; the stop is requested */
	uint64_t exits[KVM_EXITS];
	char error[KVM_ERROR_MAX];
};

/* kvm_vm.c. /dev/kvm did not open: why, and what to do. */
void kvm_say_no_device(char *error, int err);
/* Everything that this room needs of the kernel is there; else error says what is not. */
bool kvm_has_all(const struct kvm_calls *calls, int dev, char *error);
/* NULL with one sentence in error (KVM_ERROR_MAX bytes) and errno. */
struct kvm_vm *kvm_vm_new(const struct kvm_calls *calls, struct ram *ram, char *error);
void kvm_vm_free(struct kvm_vm *vm);
/* The leaves that the host's KVM supports. 0 or -errno. */
int kvm_supported_leaves(const struct kvm_calls *calls, int dev, struct kvm_leaves *leaves);
int kvm_vcpu_open(struct vcpu *v, const char **error);
void kvm_vcpu_close(struct vcpu *v);

/* kvm_cpuid.c */
/* What the model says, less what this KVM cannot do, as KVM_SET_CPUID2 takes it. */
void kvm_cpuid_compose(struct vcpu *v, const struct kvm_leaves *supported, struct kvm_leaves *out);
void kvm_cpuid_limit(struct cpu_model *model, const struct kvm_leaves *supported);

/* kvm_state.c. Owner thread. 0, or -errno with k->error set. */
int kvm_state_in(struct vcpu *v);
int kvm_state_out(struct vcpu *v);
int kvm_state_set_tsc(struct vcpu *v);
/* True: the kernel holds this MSR while the engine has entered, and arch's value is old. */
bool kvm_state_holds_msr(uint32_t index);

/* kvm_run.c. Once per thread, before its first run: 0 or -errno. */
int kvm_run_accept_kicks(void);
enum vcpu_exit kvm_run_guest(struct vcpu *v, uint64_t max_insns);
/* Whatever access was answered takes effect, so that the state is one between two instructions. */
void kvm_run_settle(struct vcpu *v);

/* A failure of the host's: remembered, said to the VM once. */
int kvm_vcpu_fail(struct vcpu *v, const char *what, int err);

static inline int kvm_call(const struct kvm_vcpu *k, unsigned long request, const void *arg)
{
	return k->vm->calls->ioctl(k->fd, request, (uintptr_t)arg);
}

#endif
