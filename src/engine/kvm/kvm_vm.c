/*
 * Making a VM and its vcpus in the kernel. Called by the engine's vm_open and
 * vcpu_open, and with other calls by tests.
 *
 * Which MSRs are whose is decided here: what belongs to the machine (time, the
 * local APIC, memory types, machine checks) is answered by cpu/msr.c as under
 * every engine, so that the kernel's versions of these are never used.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bus/tsc.h"
#include "bus/vclock.h"
#include "engine/kvm/kvm.h"
#include "engine/kvm/kvm_priv.h"
#include "mem/ram.h"

/* Four pages that VT-x without "unrestricted guest" wants, where no device and no RAM is. */
#define IDENTITY_MAP 0xfeffc000ull
#define TSS_PAGES    0xfeffd000ul

#define TSC_TOLERANCE 4000 /* 250 parts in a million */

struct needed {
	int cap;
	const char *what;
};

static const struct needed needed[] = {
	{ KVM_CAP_USER_MEMORY, "user memory" },
	{ KVM_CAP_IMMEDIATE_EXIT, "immediate exit" },
	{ KVM_CAP_READONLY_MEM, "read-only memory" },
	{ KVM_CAP_XSAVE, "XSAVE" },
	{ KVM_CAP_XCRS, "XCRs" },
	{ KVM_CAP_VCPU_EVENTS, "vcpu events" },
	{ KVM_CAP_DEBUGREGS, "debug registers" },
	{ KVM_CAP_X86_USER_SPACE_MSR, "MSRs in user space" },
	{ KVM_CAP_X86_MSR_FILTER, "an MSR filter" },
};

/* Ours, whatever the kernel would make of them. */
static const struct {
	uint32_t first, last;
} ours[] = {
	{ 0x10, 0x12 },             /* TSC; the paravirtual clock's old numbers */
	{ 0x1b, 0x1b },             /* IA32_APIC_BASE */
	{ 0x3a, 0x3b },             /* feature control, TSC_ADJUST */
	{ 0x179, 0x17b },           /* machine check */
	{ 0x1a0, 0x1a0 },           /* IA32_MISC_ENABLE */
	{ 0x200, 0x276 },           /* MTRRs, on both sides of PAT */
	{ 0x278, 0x2ff },           /* */
	{ 0x400, 0x47f },           /* machine check banks */
	{ 0x6e0, 0x6e0 },           /* TSC_DEADLINE */
	{ 0x4b564d00, 0x4b564d07 }, /* the paravirtual clock and its kin */
	{ 0xc0010015, 0xc0010015 }, /* HWCR */
	{ 0xc0011029, 0xc0011029 }, /* DE_CFG */
};
#define OURS (sizeof(ours) / sizeof(ours[0]))
_Static_assert(OURS <= KVM_MSR_FILTER_MAX_RANGES, "the kernel takes as many");

static void say(char *error, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* errno is kept. */
static void say(char *error, const char *format, ...)
{
	int saved = errno;
	va_list args;

	va_start(args, format);
	vsnprintf(error, KVM_ERROR_MAX, format, args);
	va_end(args);
	errno = saved;
}

static int vm_call(const struct kvm_vm *vm, unsigned long request, uintptr_t arg)
{
	return vm->calls->ioctl(vm->fd, request, arg);
}

bool kvm_has_all(const struct kvm_calls *calls, int dev, char *error)
{
	if (calls->ioctl(dev, KVM_GET_API_VERSION, 0) != KVM_API_VERSION) {
		errno = ENOTSUP;
		say(error, "/dev/kvm is not the interface of any current Linux");
		return false;
	}
	for (size_t n = 0; n < sizeof(needed) / sizeof(needed[0]); n++) {
		if (calls->ioctl(dev, KVM_CHECK_EXTENSION, (uintptr_t)needed[n].cap) > 0)
			continue;
		errno = ENOTSUP;
		say(error, "/dev/kvm lacks %s, which Linux 5.10 and later have", needed[n].what);
		return false;
	}
	return true;
}

static int create_vm(const struct kvm_vm *vm)
{
	int fd;

	/* A signal may come between; busy is whoever else holds the hardware. */
	do {
		fd = vm->calls->ioctl(vm->dev, KVM_CREATE_VM, 0);
	} while (fd < 0 && errno == EINTR);
	return fd;
}

static bool filter_msrs(const struct kvm_vm *vm)
{
	struct kvm_enable_cap cap = { .cap = KVM_CAP_X86_USER_SPACE_MSR,
				      .args = { KVM_MSR_EXIT_REASON_INVAL |
						KVM_MSR_EXIT_REASON_UNKNOWN |
						KVM_MSR_EXIT_REASON_FILTER } };
	struct kvm_msr_filter filter = { .flags = KVM_MSR_FILTER_DEFAULT_ALLOW };
	static const uint8_t deny[32]; /* zeroes: as many as the longest range has bits */

	for (size_t n = 0; n < OURS; n++) {
		filter.ranges[n] = (struct kvm_msr_filter_range){
			.flags = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE,
			.base = ours[n].first,
			.nmsrs = ours[n].last - ours[n].first + 1,
			.bitmap = (uint8_t *)deny,
		};
	}
	return vm_call(vm, KVM_ENABLE_CAP, (uintptr_t)&cap) == 0 &&
	       vm_call(vm, KVM_X86_SET_MSR_FILTER, (uintptr_t)&filter) == 0;
}

static bool map_ram(const struct kvm_vm *vm, struct ram *ram)
{
	struct ram_slot slot;

	for (unsigned n = 0; ram_slot(ram, n, &slot); n++) {
		struct kvm_userspace_memory_region region = {
			.slot = n,
			.flags = slot.rom ? KVM_MEM_READONLY : 0,
			.guest_phys_addr = slot.gpa,
			.memory_size = slot.len,
			.userspace_addr = (uintptr_t)slot.host,
		};

		if (vm_call(vm, KVM_SET_USER_MEMORY_REGION, (uintptr_t)&region) < 0)
			return false;
	}
	return true;
}

static bool build(struct kvm_vm *vm, struct ram *ram, char *error)
{
	uint64_t identity = IDENTITY_MAP;
	int err, bytes;

	if (!kvm_has_all(vm->calls, vm->dev, error))
		return false;
	err = kvm_supported_leaves(vm->calls, vm->dev, &vm->supported);
	if (err) {
		errno = -err;
		say(error, "KVM does not say which CPU features it has: %s", strerror(-err));
		return false;
	}
	vm->sregs2 = vm->calls->ioctl(vm->dev, KVM_CHECK_EXTENSION, KVM_CAP_SREGS2) > 0;
	vm->tsc_offset =
		vm->calls->ioctl(vm->dev, KVM_CHECK_EXTENSION, KVM_CAP_VCPU_ATTRIBUTES) > 0;
	bytes = vm->calls->ioctl(vm->dev, KVM_GET_VCPU_MMAP_SIZE, 0);
	vm->fd = create_vm(vm);
	if (bytes < (int)sizeof(struct kvm_run) || vm->fd < 0) {
		if (vm->fd >= 0)
			errno = ENOTSUP;
		say(error, "KVM makes no virtual machine: %s%s", strerror(errno),
		    errno == EBUSY ? "; another monitor holds the processor's extension" : "");
		return false;
	}
	vm->run_bytes = (size_t)bytes;
	/* Only VT-x knows these. */
	(void)vm_call(vm, KVM_SET_IDENTITY_MAP_ADDR, (uintptr_t)&identity);
	(void)vm_call(vm, KVM_SET_TSS_ADDR, TSS_PAGES);
	if (!map_ram(vm, ram)) {
		say(error, "KVM does not take the guest's memory: %s", strerror(errno));
		return false;
	}
	if (!filter_msrs(vm)) {
		say(error, "KVM does not leave MSRs to us: %s", strerror(errno));
		return false;
	}
	return true;
}

void kvm_say_no_device(char *error, int err)
{
	const char *advice = "";

	if (err == ENOENT)
		advice = "; this host offers no hardware virtualization, and --engine translate "
			 "needs none";
	else if (err == EACCES || err == EPERM)
		advice = "; its group, kvm, may open it";
	snprintf(error, KVM_ERROR_MAX, "/dev/kvm cannot be opened: %s%s", strerror(err), advice);
}

struct kvm_vm *kvm_vm_new(const struct kvm_calls *calls, struct ram *ram, char *error)
{
	struct kvm_vm *vm = calloc(1, sizeof(*vm));
	int err;

	if (!vm) {
		say(error, "out of memory");
		return NULL;
	}
	vm->calls = calls;
	vm->fd = -1;
	vm->dev = calls->open();
	if (vm->dev >= 0 && build(vm, ram, error))
		return vm;
	err = errno;
	if (vm->dev < 0)
		kvm_say_no_device(error, err);
	kvm_vm_free(vm);
	errno = err;
	return NULL;
}

void kvm_vm_free(struct kvm_vm *vm)
{
	if (!vm)
		return;
	if (vm->fd >= 0)
		vm->calls->close(vm->fd);
	if (vm->dev >= 0)
		vm->calls->close(vm->dev);
	free(vm);
}

/* ---- vcpus ---- */

/* A guest that began on another host goes on at that one's speed. */
static int set_tsc_speed(const struct vcpu *v, const struct kvm_vcpu *k)
{
	uint64_t guest = vclock_tsc_khz(v->clock), host = tsc_host_khz();
	uint64_t apart = guest > host ? guest - host : host - guest;

	/* The kernel takes as little for the same, and no clock is better than that. */
	if (apart <= host / TSC_TOLERANCE)
		return 0;
	return k->vm->calls->ioctl(k->fd, KVM_SET_TSC_KHZ, guest);
}

int kvm_vcpu_open(struct vcpu *v, const char **error)
{
	struct kvm_vm *vm = v->engine_vm;
	struct kvm_vcpu *k = calloc(1, sizeof(*k));
	struct kvm_leaves *leaves = calloc(1, sizeof(*leaves));
	int err = ENOMEM;

	*error = "out of memory for a vcpu";
	if (!k || !leaves)
		goto fail;
	k->vm = vm;
	do {
		k->fd = vm_call(vm, KVM_CREATE_VCPU, v->index);
	} while (k->fd < 0 && errno == EINTR);
	if (k->fd < 0) {
		err = errno;
		*error = "KVM makes no vcpu; fewer --cpus may help";
		goto fail;
	}
	k->run = vm->calls->map(k->fd, vm->run_bytes);
	if (!k->run) {
		err = errno;
		*error = "a vcpu's page cannot be mapped";
		goto fail_fd;
	}
	kvm_cpuid_compose(v, &vm->supported, leaves);
	if (kvm_call(k, KVM_SET_CPUID2, leaves) < 0) {
		err = errno;
		*error = "KVM refuses the CPU model; another --cpu may work";
		goto fail_map;
	}
	if (set_tsc_speed(v, k) < 0) {
		err = errno;
		*error =
			"the guest's TSC runs at another speed than this host's, and the processor "
			"cannot scale it; another engine can go on with it";
		goto fail_map;
	}
	free(leaves);
	v->engine_priv = k;
	return 0;
fail_map:
	vm->calls->unmap(k->run, vm->run_bytes);
fail_fd:
	vm->calls->close(k->fd);
fail:
	free(leaves);
	free(k);
	return -err;
}

void kvm_vcpu_close(struct vcpu *v)
{
	struct kvm_vcpu *k = v->engine_priv;

	if (!k)
		return;
	k->vm->calls->unmap(k->run, k->vm->run_bytes);
	k->vm->calls->close(k->fd);
	free(k);
	v->engine_priv = NULL;
}

int kvm_vcpu_fail(struct vcpu *v, const char *what, int err)
{
	struct kvm_vcpu *k = v->engine_priv;

	if (!k->failed)
		snprintf(k->error, sizeof(k->error), "KVM failed to %s: %s", what, strerror(err));
	k->failed = true;
	return -err;
}
