/*
 * Finds out what /dev/kvm is worth. Some hosts offer one that is not backed by
 * VT-x or AMD-V: it passes every capability check, yet no stock kernel runs in
 * it. So a small guest is run that does what every kernel does and such
 * flavours do not: 32-bit paging, and SSE at privilege 0. Invariant: the guest
 * runs in a child with a time limit, so nothing it does can hang the caller.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/kvm/kvm.h"
#include "engine/kvm/kvm_priv.h"

#define MSR_PVM_SIGNATURE 0x4b564d11u
#define PVM_SIGNATURE     0x4d5650u

#define PROBE_SECONDS        3
#define GUEST_BYTES          0x10000u
#define GUEST_CODE           0x1000u
#define GUEST_PAGE_DIRECTORY 0x2000u
#define PROBE_PORT           0x10

enum { PROBE_OK, PROBE_SETUP, PROBE_SHUTDOWN, PROBE_INTERNAL, PROBE_OTHER };

static bool signature_says_paravirt(const struct kvm_calls *calls, int kvm)
{
	union {
		struct kvm_msrs header;
		uint8_t bytes[sizeof(struct kvm_msrs) + sizeof(struct kvm_msr_entry)];
	} msrs = { .header = { .nmsrs = 1 } };
	bool says = false;
	int vm, vcpu;

	msrs.header.entries[0].index = MSR_PVM_SIGNATURE;
	vm = calls->ioctl(kvm, KVM_CREATE_VM, 0);
	if (vm < 0)
		return false;
	vcpu = calls->ioctl(vm, KVM_CREATE_VCPU, 0);
	if (vcpu >= 0) {
		says = calls->ioctl(vcpu, KVM_GET_MSRS, (uintptr_t)&msrs) == 1 &&
		       msrs.header.entries[0].data == PVM_SIGNATURE;
		calls->close(vcpu);
	}
	calls->close(vm);
	return says;
}

/* Flat 32-bit protected mode with 4 MiB pages, identity-mapped. */
static int set_state(const struct kvm_calls *calls, int vcpu)
{
	const struct kvm_segment code = { .limit = 0xffffffff,
					  .selector = 8,
					  .type = 11,
					  .present = 1,
					  .db = 1,
					  .s = 1,
					  .g = 1 };
	const struct kvm_segment data = { .limit = 0xffffffff,
					  .selector = 16,
					  .type = 3,
					  .present = 1,
					  .db = 1,
					  .s = 1,
					  .g = 1 };
	struct kvm_regs regs = { .rip = GUEST_CODE, .rflags = 2, .rsp = GUEST_BYTES };
	struct kvm_sregs sregs;

	if (calls->ioctl(vcpu, KVM_GET_SREGS, (uintptr_t)&sregs) < 0)
		return -1;
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	sregs.cr3 = GUEST_PAGE_DIRECTORY;
	sregs.cr4 |= 0x10 | 0x200;                      /* PSE, OSFXSR */
	sregs.cr0 = (sregs.cr0 & ~0x4ull) | 0x80000033; /* PG, NE, ET, MP, PE; not EM */
	return calls->ioctl(vcpu, KVM_SET_SREGS, (uintptr_t)&sregs) < 0 ||
			       calls->ioctl(vcpu, KVM_SET_REGS, (uintptr_t)&regs) < 0
		       ? -1
		       : 0;
}

static int run_probe(const struct kvm_calls *calls, int kvm)
{
	/* pxor %xmm0,%xmm0; movd %xmm0,%eax; out %al,$0x10; hlt */
	static const uint8_t code[] = { 0x66, 0x0f, 0xef, 0xc0,       0x66, 0x0f,
					0x7e, 0xc0, 0xe6, PROBE_PORT, 0xf4 };
	struct kvm_userspace_memory_region region = { .memory_size = GUEST_BYTES };
	const uint32_t entry = 0x87; /* present, writable, user, 4 MiB at 0 */
	struct kvm_run *run;
	int vm, vcpu, size;
	uint8_t *ram;

	vm = calls->ioctl(kvm, KVM_CREATE_VM, 0);
	size = calls->ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	ram = mmap(NULL, GUEST_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (vm < 0 || size < 0 || ram == MAP_FAILED)
		return PROBE_SETUP;
	memcpy(ram + GUEST_CODE, code, sizeof(code));
	memcpy(ram + GUEST_PAGE_DIRECTORY, &entry, sizeof(entry));
	region.userspace_addr = (uintptr_t)ram;
	/* Intel without unrestricted guest wants a place for its real-mode state. */
	(void)calls->ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000);
	if (calls->ioctl(vm, KVM_SET_USER_MEMORY_REGION, (uintptr_t)&region) < 0)
		return PROBE_SETUP;
	vcpu = calls->ioctl(vm, KVM_CREATE_VCPU, 0);
	if (vcpu < 0)
		return PROBE_SETUP;
	run = calls->map(vcpu, (size_t)size);
	if (!run || set_state(calls, vcpu) < 0)
		return PROBE_SETUP;
	while (calls->ioctl(vcpu, KVM_RUN, 0) < 0) {
		if (errno != EINTR && errno != EAGAIN)
			return PROBE_OTHER;
	}
	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		return run->io.port == PROBE_PORT ? PROBE_OK : PROBE_OTHER;
	case KVM_EXIT_SHUTDOWN:
		return PROBE_SHUTDOWN;
	case KVM_EXIT_INTERNAL_ERROR:
		return PROBE_INTERNAL;
	default:
		return PROBE_OTHER;
	}
}

static int probe_in_child(const struct kvm_calls *calls, int kvm)
{
	int status;
	pid_t child = fork();

	if (child < 0)
		return PROBE_SETUP;
	if (child == 0) {
		alarm(PROBE_SECONDS);
		_exit(run_probe(calls, kvm));
	}
	while (waitpid(child, &status, 0) < 0) {
		if (errno != EINTR)
			return PROBE_OTHER;
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : PROBE_OTHER;
}

enum kvm_kind kvm_probe(const struct kvm_calls *calls, char *why)
{
	static const char *const reasons[] = {
		[PROBE_OK] = "",
		[PROBE_SETUP] = "a virtual machine could not be made",
		[PROBE_SHUTDOWN] = "the probe guest shut down as it used 32-bit paging",
		[PROBE_INTERNAL] = "the probe guest met an instruction that this KVM cannot run",
		[PROBE_OTHER] = "the probe guest did not finish",
	};
	enum kvm_kind kind = KVM_KIND_LIMITED;
	int kvm = calls->open(), result;

	if (kvm < 0) {
		bool none = errno == ENOENT || errno == ENODEV || errno == ENXIO;

		snprintf(why, KVM_WHY_MAX, "%s", none ? "no /dev/kvm" : strerror(errno));
		return none ? KVM_KIND_NONE : KVM_KIND_NO_ACCESS;
	}
	if (signature_says_paravirt(calls, kvm)) {
		snprintf(why, KVM_WHY_MAX, "its signature MSR reads PVM");
		kind = KVM_KIND_PARAVIRT;
	} else if (kvm_has_all(calls, kvm, why)) {
		result = probe_in_child(calls, kvm);
		snprintf(why, KVM_WHY_MAX, "%s",
			 reasons[result <= PROBE_OTHER ? result : PROBE_OTHER]);
		kind = result == PROBE_OK ? KVM_KIND_FULL : KVM_KIND_LIMITED;
	}
	calls->close(kvm);
	return kind;
}
