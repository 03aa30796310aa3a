/*
 * The KVM engine over a kernel that is made up: every refusal, the canonical
 * state there and back, each kind of exit, kicks.
 */
#include "cpu_fixture.h"
#include "bus/stop.h"
#include "cpu/post.h"
#include "engine/kvm/kvm.h"
#include "engine/kvm/kvm_priv.h"
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#define RUN_BYTES 8192

/* What the made-up kernel holds, and how it is to behave. */
static struct fake {
	int open_error;       /* errno of opening the device, or 0 */
	unsigned long refuse; /* the request that fails with refuse_errno */
	int refuse_errno;
	unsigned refuse_times; /* that often; 0: always */
	unsigned fail_nth;     /* of all calls: that one fails with EIO; 0: none */
	int lacks;             /* a capability that is not there */
	unsigned calls, runs, open_fds;
	unsigned unknown_msr;
	int (*on_run)(struct kvm_run *run); /* an errno, or 0 for an exit */

	struct kvm_regs regs;
	struct kvm_sregs2 sregs;
	struct kvm_debugregs debug;
	struct kvm_vcpu_events events;
	uint32_t xsave[1024];
	struct kvm_xcrs xcrs;
	uint64_t msr[32];
	uint32_t msr_index[32];
	unsigned msrs;
	uint64_t khz;
	struct kvm_leaves cpuid;
	int injected, nmis;
	union {
		struct kvm_run run;
		uint8_t bytes[RUN_BYTES];
	} page;
} fake;

static int fake_open(void)
{
	errno = fake.open_error;
	return fake.open_error ? -1 : (int)(100 + fake.open_fds++);
}

static int fake_close(int fd)
{
	assert_true(fake.open_fds > 0);
	fake.open_fds--;
	return 0;
}

static uint64_t *msr_slot(uint32_t index)
{
	for (unsigned n = 0; n < fake.msrs; n++)
		if (fake.msr_index[n] == index)
			return &fake.msr[n];
	assert_true(fake.msrs < 32);
	fake.msr_index[fake.msrs] = index;
	return &fake.msr[fake.msrs++];
}

static int msrs(struct kvm_msrs *m, bool set)
{
	for (uint32_t n = 0; n < m->nmsrs; n++) {
		if (m->entries[n].index == fake.unknown_msr)
			return (int)n;
		if (set)
			*msr_slot(m->entries[n].index) = m->entries[n].data;
		else
			m->entries[n].data = *msr_slot(m->entries[n].index);
	}
	return (int)m->nmsrs;
}

static void all_supported(struct kvm_leaves *leaves)
{
	static const struct {
		uint32_t leaf, index, flags;
	} known[] = { { 1, 0, 0 },          { 6, 0, 0 },          { 7, 0, 1 },
		      { 7, 1, 1 },          { 0xd, 0, 1 },        { 0xd, 1, 1 },
		      { 0x80000001, 0, 0 }, { 0x80000008, 0, 0 }, { 0x80000021, 0, 0 } };

	leaves->count = 9;
	for (unsigned n = 0; n < 9; n++)
		leaves->entry[n] = (struct kvm_cpuid_entry2){ .function = known[n].leaf,
							      .index = known[n].index,
							      .flags = known[n].flags,
							      .eax = n == 7 ? 48 : ~0u,
							      .ebx = ~0u,
							      .ecx = ~0u,
							      .edx = ~0u };
}

#define PUT(to) memcpy((void *)arg, &(to), sizeof(to))
#define GET(to) memcpy(&(to), (const void *)arg, sizeof(to))

static int answer(unsigned long request, uintptr_t arg)
{
	switch (request) {
	case KVM_GET_API_VERSION:
		return KVM_API_VERSION;
	case KVM_CHECK_EXTENSION:
		return (int)arg != fake.lacks;
	case KVM_GET_VCPU_MMAP_SIZE:
		return RUN_BYTES;
	case KVM_CREATE_VM:
	case KVM_CREATE_VCPU:
		return (int)(100 + fake.open_fds++);
	case KVM_GET_SUPPORTED_CPUID:
		all_supported((struct kvm_leaves *)arg);
		return 0;
	case KVM_SET_CPUID2:
		GET(fake.cpuid);
		return 0;
	case KVM_SET_REGS:
		GET(fake.regs);
		return 0;
	case KVM_GET_REGS:
		PUT(fake.regs);
		return 0;
	case KVM_SET_SREGS2:
		GET(fake.sregs);
		return 0;
	case KVM_GET_SREGS2:
		PUT(fake.sregs);
		return 0;
	case KVM_SET_SREGS:
		memcpy(&fake.sregs, (const void *)arg,
		       offsetof(struct kvm_sregs, interrupt_bitmap));
		return 0;
	case KVM_GET_SREGS:
		memcpy((void *)arg, &fake.sregs, offsetof(struct kvm_sregs, interrupt_bitmap));
		return 0;
	case KVM_SET_DEBUGREGS:
		GET(fake.debug);
		return 0;
	case KVM_GET_DEBUGREGS:
		PUT(fake.debug);
		return 0;
	case KVM_SET_VCPU_EVENTS:
		GET(fake.events);
		return 0;
	case KVM_GET_VCPU_EVENTS:
		PUT(fake.events);
		return 0;
	case KVM_SET_XSAVE:
		GET(fake.xsave);
		return 0;
	case KVM_GET_XSAVE:
		PUT(fake.xsave);
		return 0;
	case KVM_SET_XCRS:
		GET(fake.xcrs);
		return 0;
	case KVM_GET_XCRS:
		PUT(fake.xcrs);
		return 0;
	case KVM_SET_MSRS:
		return msrs((struct kvm_msrs *)arg, true);
	case KVM_GET_MSRS:
		return msrs((struct kvm_msrs *)arg, false);
	case KVM_SET_TSC_KHZ:
		fake.khz = arg;
		return 0;
	case KVM_INTERRUPT:
		fake.injected = (int)((const struct kvm_interrupt *)arg)->irq;
		return 0;
	case KVM_NMI:
		fake.nmis++;
		return 0;
	case KVM_RUN:
		fake.runs++;
		errno = fake.on_run(&fake.page.run);
		return errno ? -1 : 0;
	default:
		return 0;
	}
}

static int fake_ioctl(int fd, unsigned long request, uintptr_t arg)
{
	bool refused = request == fake.refuse;

	fake.calls++;
	if (refused && fake.refuse_times && !--fake.refuse_times)
		fake.refuse = 0;
	if (refused || fake.calls == fake.fail_nth) {
		errno = refused ? fake.refuse_errno : EIO;
		return -1;
	}
	return answer(request, arg);
}

static void *fake_map(int fd, size_t len)
{
	assert_int_equal(len, RUN_BYTES);
	return &fake.page;
}

static void fake_unmap(void *address, size_t len)
{
	assert_ptr_equal(address, &fake.page);
}

static const struct kvm_calls fake_calls = {
	.open = fake_open,
	.close = fake_close,
	.ioctl = fake_ioctl,
	.map = fake_map,
	.unmap = fake_unmap,
};

/* ---- a vcpu in it ---- */

static struct {
	enum stop_reason reason;
	char detail[256];
} stopped;

static void note_stop(void *ctx, enum stop_reason reason, uint32_t code, const char *detail)
{
	if (stopped.reason != STOP_NONE)
		return;
	stopped.reason = reason;
	snprintf(stopped.detail, sizeof(stopped.detail), "%s", detail ? detail : "");
}

static const struct stop_sink stop_sink = { .request = note_stop };

static void begin(struct fixture *f, unsigned cpus)
{
	const char *error = NULL;
	char why[KVM_ERROR_MAX] = "";

	memset(&fake, 0, sizeof(fake));
	memset(&stopped, 0, sizeof(stopped));
	fixture_init(f, "x86-64-v2", cpus);
	f->v->stop = &stop_sink;
	f->v->engine_vm = kvm_vm_new(&fake_calls, f->v->ram, why);
	if (!f->v->engine_vm)
		print_error("%s\n", why);
	assert_non_null(f->v->engine_vm);
	assert_int_equal(kvm_run_accept_kicks(), 0);
	assert_int_equal(kvm_vcpu_open(f->v, &error), 0);
	engine_kvm.enter(f->v);
	atomic_store(&f->v->req, 0);
}

static void end(struct fixture *f)
{
	kvm_vcpu_close(f->v);
	kvm_vm_free(f->v->engine_vm);
	assert_int_equal(fake.open_fds, 0);
	fixture_fini(f);
}

/* ---- refusals ---- */

static void refusal(struct ram *ram, const char *wanted)
{
	char error[KVM_ERROR_MAX] = "";

	assert_null(kvm_vm_new(&fake_calls, ram, error));
	if (!strstr(error, wanted))
		print_error("%s\n", error);
	assert_non_null(strstr(error, wanted));
	assert_null(strchr(error, '\n'));
	assert_int_equal(fake.open_fds, 0);
	memset(&fake, 0, sizeof(fake));
}

static void refusals_say_why(void **state)
{
	struct ram *ram = ram_new(1 << 20);

	memset(&fake, 0, sizeof(fake));
	fake.open_error = ENOENT;
	refusal(ram, "no hardware virtualization");
	fake.open_error = EACCES;
	refusal(ram, "group, kvm");
	fake.lacks = KVM_CAP_X86_MSR_FILTER;
	refusal(ram, "an MSR filter");
	fake.refuse = KVM_CREATE_VM;
	fake.refuse_errno = EBUSY;
	refusal(ram, "another monitor");
	fake.refuse = KVM_SET_USER_MEMORY_REGION;
	fake.refuse_errno = EINVAL;
	refusal(ram, "memory");
	fake.refuse = KVM_GET_SUPPORTED_CPUID;
	fake.refuse_errno = E2BIG;
	refusal(ram, "CPU features");
	ram_free(ram);
}

static void a_signal_meanwhile_is_no_refusal(void **state)
{
	struct ram *ram = ram_new(1 << 20);
	char error[KVM_ERROR_MAX];
	struct kvm_vm *vm;

	memset(&fake, 0, sizeof(fake));
	fake.refuse = KVM_CREATE_VM;
	fake.refuse_errno = EINTR;
	fake.refuse_times = 3;
	vm = kvm_vm_new(&fake_calls, ram, error);
	assert_non_null(vm);
	kvm_vm_free(vm);
	ram_free(ram);
}

/* Whichever call fails: a sentence and nothing left open, or a VM that does without. */
static void any_call_may_fail(void **state)
{
	struct ram *ram = ram_new(1 << 20);
	unsigned refused = 0, n;

	for (n = 1;; n++) {
		char error[KVM_ERROR_MAX] = "";
		struct kvm_vm *vm;

		memset(&fake, 0, sizeof(fake));
		fake.fail_nth = n;
		vm = kvm_vm_new(&fake_calls, ram, error);
		refused += !vm;
		assert_true(vm || *error);
		kvm_vm_free(vm);
		assert_int_equal(fake.open_fds, 0);
		if (fake.calls < n)
			break;
	}
	assert_true(refused >= 12);
	ram_free(ram);
}

static int exit_hlt(struct kvm_run *run)
{
	run->exit_reason = KVM_EXIT_HLT;
	run->if_flag = 1;
	run->ready_for_interrupt_injection = 1;
	return 0;
}

/* From nothing to the first instruction of the last vcpu. */
static void few_calls_to_the_first_instruction(void **state)
{
	struct fixture f;

	begin(&f, 1);
	fake.on_run = exit_hlt;
	assert_int_equal(kvm_run_guest(f.v, RUN_UNLIMITED), EXIT_HALT);
	assert_int_equal(fake.runs, 1);
	print_message("%u calls\n", fake.calls);
	assert_true(fake.calls <= 60);
	end(&f);
}

/* A call that fails while state moves stops the machine with one sentence, once. */
static void state_that_cannot_move_stops(void **state)
{
	static const unsigned long calls[] = { KVM_SET_SREGS2, KVM_SET_REGS,        KVM_SET_XSAVE,
					       KVM_SET_MSRS,   KVM_SET_VCPU_EVENTS, KVM_RUN };
	struct fixture f;

	for (unsigned n = 0; n < sizeof(calls) / sizeof(calls[0]); n++) {
		begin(&f, 1);
		fake.refuse = calls[n];
		fake.refuse_errno = EFAULT;
		engine_kvm.enter(f.v);
		assert_int_equal(kvm_run_guest(f.v, RUN_UNLIMITED), EXIT_ERROR);
		assert_int_equal(stopped.reason, STOP_HOST_ERROR);
		assert_non_null(strstr(stopped.detail, "KVM failed to "));
		engine_kvm.leave(f.v);
		end(&f);
	}
}

/* ---- state ---- */

static void fill(struct vcpu *v)
{
	struct vcpu_arch *a = &v->arch;
	uint64_t x = 0x0123456789abcdefull;

	for (unsigned n = 0; n < 16; n++)
		a->gpr[n] = x * (n + 1);
	a->rip = 0x401000;
	a->rflags = FLAG_FIXED | FLAG_IF | FLAG_ZF;
	for (unsigned n = 0; n < SEG_COUNT; n++)
		a->seg[n] = (struct segment){ .base = 0x1000 * n,
					      .limit = 0xfffff + n,
					      .selector = (uint16_t)(8 * n),
					      .attr = (uint16_t)(0xa09b + (n == 5 ? 0x4000 : 0)) };
	a->seg[SEG_ES] = (struct segment){ .attr = 0x0013 }; /* a null selector */
	a->seg[SEG_SS].attr = 0xc0f3;
	a->gdtr = (struct dtable){ 0xffffffff81000000ull, 0x7f };
	a->idtr = (struct dtable){ 0xfffffe0000000000ull, 0xfff };
	a->cr0 = CR0_PE | CR0_PG | CR0_ET | CR0_NE | CR0_WP;
	a->cr2 = 0x7fff12345678;
	a->cr3 = 0x1000;
	a->cr4 = CR4_PAE | CR4_PGE | CR4_OSFXSR;
	a->efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
	a->dr[0] = 0x1234;
	a->dr[3] = 0x5678;
	a->dr[6] = 0xffff4ff0;
	a->dr[7] = 0x401;
	a->cpl = 3;
	a->shadow = SHADOW_STI;
	a->nmi_masked = 1;
	a->msr.star = 0x23001000000000ull;
	a->msr.lstar = 0xffffffff81800000ull;
	a->msr.fmask = 0x47700;
	a->msr.kernel_gs_base = 0xffff888000000000ull;
	a->msr.tsc_aux = 5;
	a->msr.pat = 0x0407050600070106ull;
	for (unsigned n = 0; n < 512; n++)
		a->xsave[n] = (uint8_t)(n * 7);
	memset(a->xsave + 24, 0, 8);
	a->xsave[25] = 0x1f; /* MXCSR 1f80H */
	a->xsave[24] = 0x80;
	memset(a->xsave + 512, 0, sizeof(a->xsave) - 512);
	a->xsave[512] = 3;
	a->fpu_op = (uint16_t)(a->xsave[6] | a->xsave[7] << 8);
	memcpy(&a->fpu_ip, a->xsave + 8, 8);
	memcpy(&a->fpu_dp, a->xsave + 16, 8);
}

static void there_and_back(void **state)
{
	static const struct vcpu_event events[] = {
		{ 0 },
		{ .pending = 1, .vector = 0x31, .type = EXCP_INTERRUPT },
		{ .pending = 1, .vector = VEC_NMI, .type = EXCP_NMI },
		{ .pending = 1, .vector = VEC_PF, .has_error = 1, .error = 6, .cr2 = 0xdead000 },
		{ .pending = 1, .vector = VEC_UD },
	};
	struct vcpu_arch before;
	struct fixture f;

	for (unsigned n = 0; n < 2 * sizeof(events) / sizeof(events[0]); n++) {
		begin(&f, 1);
		((struct kvm_vm *)f.v->engine_vm)->sregs2 = n & 1;
		fill(f.v);
		f.v->arch.event = events[n / 2];
		if (f.v->arch.event.vector == VEC_PF)
			f.v->arch.cr2 = f.v->arch.event.cr2;
		before = f.v->arch;
		assert_int_equal(kvm_state_in(f.v), 0);
		/* Nothing but what the machine owns comes from the old copy. */
		memset(f.v->arch.gpr, 0xee, sizeof(f.v->arch.gpr));
		memset(f.v->arch.seg, 0xee, sizeof(f.v->arch.seg));
		memset(f.v->arch.dr, 0, sizeof(f.v->arch.dr));
		memset(f.v->arch.xsave, 0xee, sizeof(f.v->arch.xsave));
		f.v->arch.rip = f.v->arch.rflags = f.v->arch.cr2 = f.v->arch.cr3 = 0;
		f.v->arch.msr.star = f.v->arch.msr.lstar = f.v->arch.msr.pat = 0;
		f.v->arch.cpl = f.v->arch.shadow = f.v->arch.nmi_masked = 0;
		f.v->arch.fpu_op = 0;
		assert_int_equal(kvm_state_out(f.v), 0);
		/* Debug register 4 and 5 are no registers. */
		assert_memory_equal(&f.v->arch, &before, sizeof(before));
		end(&f);
	}
}

/* In legacy PAE paging the four PDPTEs are state of their own. */
static void pdptes_travel(void **state)
{
	struct fixture f;
	uint64_t table[4] = { 0x2001, 0x3001, 0, 0x4001 };

	for (unsigned sregs2 = 0; sregs2 < 2; sregs2++) {
		begin(&f, 1);
		((struct kvm_vm *)f.v->engine_vm)->sregs2 = sregs2;
		f.v->arch.cr0 |= CR0_PE | CR0_PG;
		f.v->arch.cr4 = CR4_PAE;
		f.v->arch.cr3 = 0x5020;
		memcpy(f.v->arch.pdpte, table, sizeof(table));
		assert_int_equal(ram_write(f.v->ram, 0x5020, table, sizeof(table)), 0);
		assert_int_equal(kvm_state_in(f.v), 0);
		memset(f.v->arch.pdpte, 0, sizeof(f.v->arch.pdpte));
		assert_int_equal(kvm_state_out(f.v), 0);
		assert_memory_equal(f.v->arch.pdpte, table, sizeof(table));
		end(&f);
	}
}

static void an_msr_unknown_to_the_host_is_left_out(void **state)
{
	struct fixture f;

	begin(&f, 1);
	fake.unknown_msr = 0x48;
	f.v->arch.msr.spec_ctrl = 1;
	f.v->arch.msr.debugctl = 2; /* comes after it */
	assert_int_equal(kvm_state_in(f.v), 0);
	f.v->arch.msr.debugctl = 0;
	assert_int_equal(kvm_state_out(f.v), 0);
	assert_int_equal(f.v->arch.msr.debugctl, 2);
	assert_int_equal(f.v->arch.msr.spec_ctrl, 1);
	end(&f);
}

/* A saved file's XSAVE image may hold anything; the kernel gets what it accepts. */
static void hostile_xsave(void **state)
{
	struct fixture f;
	const uint64_t *header;

	begin(&f, 1);
	memset(f.v->arch.xsave, 0xff, sizeof(f.v->arch.xsave));
	assert_int_equal(kvm_state_in(f.v), 0);
	header = (const uint64_t *)((const uint8_t *)fake.xsave + 512);
	assert_int_equal(header[0], 3);
	for (unsigned n = 1; n < 8; n++)
		assert_int_equal(header[n], 0);
	assert_int_equal(fake.xsave[6] >> 16, 0);
	end(&f);
}

static void the_tsc_is_the_machines(void **state)
{
	const char *error = NULL;
	struct fixture f;

	begin(&f, 1);
	f.v->arch.msr.tsc_offset = 1000;
	assert_int_equal(kvm_state_set_tsc(f.v), 0);
	/* The clock of this test stands still, and is not the host's counter. */
	assert_int_equal(*msr_slot(0x10), vclock_tsc(f.v->clock) + 1000);
	vclock_advance(f.v->clock, 1000000);
	f.v->arch.msr.tsc_offset = 5000;
	assert_int_equal(kvm_state_set_tsc(f.v), 0);
	assert_int_equal(*msr_slot(0x10), vclock_tsc(f.v->clock) + 5000);
	assert_int_equal(fake.khz, FIXTURE_TSC_KHZ);
	/* A processor that cannot scale. */
	kvm_vcpu_close(f.v);
	fake.refuse = KVM_SET_TSC_KHZ;
	fake.refuse_errno = EINVAL;
	assert_int_equal(kvm_vcpu_open(f.v, &error), -EINVAL);
	assert_non_null(strstr(error, "another speed"));
	assert_int_equal(fake.open_fds, 2);
	end(&f);
}

/* ---- CPUID ---- */

static const struct kvm_cpuid_entry2 *leaf(uint32_t function, uint32_t index)
{
	for (uint32_t n = 0; n < fake.cpuid.count; n++)
		if (fake.cpuid.entry[n].function == function && fake.cpuid.entry[n].index == index)
			return &fake.cpuid.entry[n];
	return NULL;
}

static void cpuid_is_the_models(void **state)
{
	struct fixture f;
	struct cpuid_regs r;

	begin(&f, 4);
	for (uint32_t n = 0; n < fake.cpuid.count; n++) {
		const struct kvm_cpuid_entry2 *e = &fake.cpuid.entry[n];

		vcpu_cpuid(f.v, e->function, e->index, &r);
		if (e->function == 0x40000001)
			r.eax &= ~(1u << 7); /* no kick by hypercall */
		assert_int_equal(e->eax, r.eax);
		assert_int_equal(e->ebx, r.ebx);
		assert_int_equal(e->ecx, r.ecx);
		assert_int_equal(e->edx, r.edx);
	}
	assert_non_null(leaf(0x80000008, 0));
	assert_non_null(leaf(0xb, 1));
	assert_non_null(leaf(0x40000000, 0));
	assert_null(leaf(0x40000002, 0));
	end(&f);
}

static void a_model_loses_what_the_host_lacks(void **state)
{
	struct kvm_leaves leaves = { 0 };
	const char *error;
	struct cpu_model *model =
		(struct cpu_model *)cpu_model_new("x86-64-v2", 1, 1000000, &error);
	struct cpu_model before = *model;

	all_supported(&leaves);
	kvm_cpuid_limit(model, &leaves);
	assert_memory_equal(model, &before, sizeof(before));
	leaves.entry[0].ecx &= ~(1u << 17 | 1u << 21 | 1u << 24); /* PCID; our own two stay */
	leaves.entry[2].ebx &= ~(1u << 10);                       /* INVPCID */
	leaves.entry[7].eax = 40;
	kvm_cpuid_limit(model, &leaves);
	assert_false(cpu_has(model, FEAT_PCID));
	assert_false(cpu_has(model, FEAT_INVPCID));
	assert_true(cpu_has(model, FEAT_X2APIC));
	assert_true(cpu_has(model, FEAT_TSC_DEADLINE));
	assert_int_equal(model->phys_bits, 40);
	cpu_model_free(model);
}

/* ---- exits ---- */

/* Bytes that a device was given, and what it answers. */
static struct {
	unsigned count;
	uint64_t addr[16], value[16];
	unsigned size[16];
} device;

static uint64_t device_read(void *dev, uint64_t offset, unsigned size)
{
	device.addr[device.count] = offset;
	device.size[device.count++] = size;
	return 0x1122334455667788ull + offset;
}

static void device_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	device.addr[device.count] = offset;
	device.size[device.count] = size;
	device.value[device.count++] = value;
}

static const struct bus_ops device_ops = { .read = device_read, .write = device_write };

static void add_device(struct fixture *f)
{
	const struct bus_region mmio = { "test", 0xd0000000, 0x1000, &device_ops, &device };
	const struct bus_region pio = { "test", 0x500, 0x10, &device_ops, &device };

	memset(&device, 0, sizeof(device));
	assert_int_equal(bus_add(f->v->mmio, &mmio), 0);
	assert_int_equal(bus_add(f->v->pio, &pio), 0);
}

static unsigned step;
static struct vcpu *subject;

static int then_pause(struct kvm_run *run)
{
	vcpu_request(subject, REQ_PAUSE);
	return EINTR;
}

static int run_accesses(struct kvm_run *run)
{
	uint16_t words[3] = { 1, 2, 3 };

	switch (step++) {
	case 0: /* outsw, three of them */
		run->exit_reason = KVM_EXIT_IO;
		run->io.direction = KVM_EXIT_IO_OUT;
		run->io.port = 0x502;
		run->io.size = 2;
		run->io.count = 3;
		run->io.data_offset = 4096;
		memcpy((uint8_t *)run + 4096, words, sizeof(words));
		return 0;
	case 1:
		run->exit_reason = KVM_EXIT_IO;
		run->io.direction = KVM_EXIT_IO_IN;
		run->io.port = 0x504;
		run->io.size = 4;
		run->io.count = 1;
		run->io.data_offset = 4096;
		return 0;
	case 2:
		assert_int_equal(*(uint32_t *)((uint8_t *)run + 4096), 0x5566778c);
		run->exit_reason = KVM_EXIT_MMIO;
		run->mmio.phys_addr = 0xd0000ffd;
		run->mmio.len = 3;
		run->mmio.is_write = 1;
		memcpy(run->mmio.data, "\x0a\x0b\x0c", 3);
		return 0;
	case 3:
		run->exit_reason = KVM_EXIT_MMIO;
		run->mmio.phys_addr = 0xd0000008;
		run->mmio.len = 8;
		run->mmio.is_write = 0;
		return 0;
	case 4:
		assert_int_equal(*(uint64_t *)run->mmio.data, 0x1122334455667790ull);
		/* The local APIC's version register. */
		run->exit_reason = KVM_EXIT_MMIO;
		run->mmio.phys_addr = 0xfee00030;
		run->mmio.len = 4;
		return 0;
	default:
		assert_int_equal(*(uint32_t *)run->mmio.data & 0xff, 0x14);
		return then_pause(run);
	}
}

static void accesses_reach_the_buses(void **state)
{
	struct engine_stats stats;
	struct fixture f;

	begin(&f, 1);
	add_device(&f);
	subject = f.v;
	step = 0;
	fake.on_run = run_accesses;
	assert_int_equal(kvm_run_guest(f.v, RUN_UNLIMITED), EXIT_REQUEST);
	assert_int_equal(device.count, 7);
	for (unsigned n = 0; n < 3; n++) {
		assert_int_equal(device.addr[n], 2);
		assert_int_equal(device.value[n], n + 1);
	}
	assert_int_equal(device.size[4], 2);
	assert_int_equal(device.value[4], 0x0b0a);
	assert_int_equal(device.addr[5], 0xfff);
	assert_int_equal(device.value[5], 0x0c);
	engine_kvm.stats(f.v, &stats);
	assert_int_equal(stats.exits_slow, 5);
	assert_int_equal(stats.exits_events, 0);
	end(&f);
}

/* A kernel that lies about the size of what it hands over reaches nothing. */
static int run_bad_io(struct kvm_run *run)
{
	if (step++)
		return then_pause(run);
	run->exit_reason = KVM_EXIT_IO;
	run->io.direction = KVM_EXIT_IO_OUT;
	run->io.size = 4;
	run->io.count = 2000;
	run->io.data_offset = 4096;
	run->io.port = 0x500;
	return 0;
}

static void io_stays_in_the_shared_page(void **state)
{
	struct fixture f;

	begin(&f, 1);
	add_device(&f);
	subject = f.v;
	step = 0;
	fake.on_run = run_bad_io;
	assert_int_equal(kvm_run_guest(f.v, RUN_UNLIMITED), EXIT_REQUEST);
	assert_int_equal(device.count, 0);
	end(&f);
}

/* The machine is paused between the halves of an access: both are done before the state is told. */
static int run_halves(struct kvm_run *run)
{
	switch (step++) {
	case 0:
		vcpu_request(subject, REQ_PAUSE);
		run->exit_reason = KVM_EXIT_MMIO;
		run->mmio.phys_addr = 0xd0000010;
		run->mmio.len = 4;
		run->mmio.is_write = 1;
		return 0;
	case 1:
		assert_true(run->immediate_exit);
		run->exit_reason = KVM_EXIT_MMIO;
		run->mmio.phys_addr = 0xd0000014;
		run->mmio.len = 4;
		run->mmio.is_write = 1;
		return 0;
	default:
		assert_true(run->immediate_exit);
		return EINTR;
	}
}

static void a_pause_waits_for_the_second_half(void **state)
{
	struct fixture f;

	begin(&f, 1);
	add_device(&f);
	subject = f.v;
	step = 0;
	fake.on_run = run_halves;
	assert_int_equal(kvm_run_guest(f.v, RUN_UNLIMITED), EXIT_REQUEST);
	assert_int_equal(device.count, 1);
	engine_kvm.leave(f.v);
	assert_int_equal(device.count, 2);
	assert_int_equal(step, 3);
	end(&f);
}

static uint32_t asked_msr;
static bool asked_write;
static uint64_t asked_value;
static struct {
	uint8_t error;
	uint64_t value;
} told;

static int run_msr(struct kvm_run *run)
{
	if (step++) {
		told.error = run->msr.error;
		told.value = run->msr.data;
		return then_pause(run);
	}
	run->exit_reason = asked_write ? KVM_EXIT_X86_WRMSR : KVM_EXIT_X86_RDMSR;
	run->msr.index = asked_msr;
	run->msr.data = asked_value;
	return 0;
}

static bool msr_access(struct fixture *f, uint32_t index, bool write, uint64_t value)
{
	asked_msr = index;
	asked_write = write;
	asked_value = value;
	subject = f->v;
	step = 0;
	fake.on_run = run_msr;
	assert_int_equal(kvm_run_guest(f->v, RUN_UNLIMITED), EXIT_REQUEST);
	atomic_store(&f->v->req, 0);
	return !told.error;
}

static void msrs_of_the_machine(void **state)
{
	struct fixture f;

	begin(&f, 1);
	assert_true(msr_access(&f, 0xfe, false, 0)); /* MTRRCAP */
	assert_int_equal(told.value & 0xff, MTRR_VARIABLE);
	assert_true(msr_access(&f, 0x200, true, 6));
	assert_int_equal(f.v->arch.msr.mtrr_var[0], 6);
	assert_false(msr_access(&f, 0x200, true, 2));       /* no such memory type */
	assert_false(msr_access(&f, 0x12345678, false, 0)); /* no such register */
	/* The kernel's own come here only when it refused the value. */
	assert_false(msr_access(&f, 0xc0000082, true, 1ull << 63));
	assert_false(msr_access(&f, 0xc0000080, true, 0));
	/* x2APIC, switched on by IA32_APIC_BASE, which CPUID must hear of. */
	assert_true(msr_access(&f, 0x1b, true,
			       0xfee00000 | APIC_BASE_BSP | APIC_BASE_ENABLE | APIC_BASE_X2APIC));
	assert_int_equal(*msr_slot(0x1b), f.v->arch.lapic.base_msr);
	assert_true(msr_access(&f, 0x803, false, 0));
	assert_int_equal(told.value & 0xff, 0x14);
	/* IA32_TSC moves the guest's TSC in the kernel too. */
	assert_true(msr_access(&f, 0x10, true, 1ull << 40));
	assert_int_equal(*msr_slot(0x10), 1ull << 40);
	end(&f);
}

static int run_idle(struct kvm_run *run)
{
	run->if_flag = 1;
	run->ready_for_interrupt_injection = 1;
	return then_pause(run);
}

static int run_window(struct kvm_run *run)
{
	switch (step++) {
	case 0: /* IF is clear */
		assert_true(run->request_interrupt_window);
		run->exit_reason = KVM_EXIT_IRQ_WINDOW_OPEN;
		run->if_flag = 1;
		run->ready_for_interrupt_injection = 1;
		return 0;
	default:
		return run_idle(run);
	}
}

static void interrupts_wait_for_their_window(void **state)
{
	struct fixture f;

	begin(&f, 1);
	subject = f.v;
	lapic_mmio_write(f.v, 0xf0, 4, 0x1ff);
	vcpu_post_irq(f.v, 0x41, false);
	vcpu_post_irq(f.v, 0x52, false);
	step = 0;
	fake.on_run = run_window;
	assert_int_equal(kvm_run_guest(f.v, RUN_UNLIMITED), EXIT_REQUEST);
	assert_int_equal(fake.injected, 0x52);
	/* The lower one waits for the end of the higher. */
	assert_true(f.v->arch.lapic.irr[2] & 1u << 1);
	assert_true(f.v->arch.lapic.isr[2] & 1u << 18);
	atomic_store(&f.v->req, 0);
	lapic_mmio_write(f.v, 0xb0, 4, 0);
	fake.on_run = run_idle;
	fake.injected = 0;
	assert_int_equal(kvm_run_guest(f.v, RUN_UNLIMITED), EXIT_REQUEST);
	assert_int_equal(fake.injected, 0x41);
	end(&f);
}

static int run_cr8(struct kvm_run *run)
{
	switch (step++) {
	case 0: /* the guest holds everything off */
		run->exit_reason = KVM_EXIT_MMIO;
		run->mmio.phys_addr = 0xfee00080;
		run->mmio.len = 4;
		run->mmio.is_write = 0;
		run->cr8 = 15;
		run->if_flag = run->ready_for_interrupt_injection = 1;
		return 0;
	case 1:
		assert_int_equal(*(uint32_t *)run->mmio.data, 0xf0);
		assert_int_equal(run->cr8, 15);
		assert_int_equal(fake.injected, 0);
		run->exit_reason = KVM_EXIT_SET_TPR;
		run->cr8 = 2;
		return 0;
	default:
		return run_idle(run);
	}
}

static void cr8_is_the_task_priority(void **state)
{
	struct fixture f;

	begin(&f, 1);
	subject = f.v;
	lapic_mmio_write(f.v, 0xf0, 4, 0x1ff);
	lapic_mmio_write(f.v, 0x80, 4, 0xf0);
	vcpu_post_irq(f.v, 0x41, false);
	step = 0;
	fake.on_run = run_cr8;
	assert_int_equal(kvm_run_guest(f.v, RUN_UNLIMITED), EXIT_REQUEST);
	assert_int_equal(fake.injected, 0x41);
	assert_int_equal(f.v->arch.lapic.tpr, 0x20);
	end(&f);
}

static void halt_and_wake(void **state)
{
	struct fixture f;

	begin(&f, 1);
	subject = f.v;
	lapic_mmio_write(f.v, 0xf0, 4, 0x1ff);
	fake.on_run = exit_hlt;
	assert_int_equal(kvm_run_guest(f.v, RUN_UNLIMITED), EXIT_HALT);
	assert_int_equal(kvm_run_guest(f.v, RUN_UNLIMITED), EXIT_HALT);
	assert_int_equal(fake.runs, 1);
	assert_false(vcpu_has_work(f.v));
	vcpu_post_irq(f.v, 0x41, false);
	assert_true(vcpu_has_work(f.v));
	fake.on_run = run_idle;
	assert_int_equal(kvm_run_guest(f.v, RUN_UNLIMITED), EXIT_REQUEST);
	assert_int_equal(fake.injected, 0x41);
	atomic_store(&f.v->req, 0);
	vcpu_request(f.v, REQ_NMI);
	assert_int_equal(kvm_run_guest(f.v, RUN_UNLIMITED), EXIT_REQUEST);
	assert_int_equal(fake.nmis, 1);
	end(&f);
}

static void init_and_startup(void **state)
{
	struct fixture f;

	begin(&f, 2);
	subject = f.v;
	fake.on_run = run_idle;
	f.v->arch.lapic.base_msr &= ~(uint64_t)APIC_BASE_BSP;
	fake.regs.rbx = 77;
	vcpu_request(f.v, REQ_INIT);
	assert_int_equal(kvm_run_guest(f.v, RUN_UNLIMITED), EXIT_HALT);
	assert_int_equal(f.v->arch.activity, ACTIVITY_WAIT_SIPI);
	assert_int_equal(fake.runs, 0);
	assert_int_equal(fake.regs.rbx, 0);
	atomic_store(&f.v->sipi_vector, 0x9a);
	vcpu_request(f.v, REQ_SIPI);
	assert_int_equal(kvm_run_guest(f.v, RUN_UNLIMITED), EXIT_REQUEST);
	assert_int_equal(fake.runs, 1);
	assert_int_equal(fake.sregs.cs.base, 0x9a000);
	assert_int_equal(fake.sregs.cs.selector, 0x9a00);
	assert_int_equal(fake.regs.rip, 0);
	end(&f);
}

static uint32_t bad_reason;

static int run_bad(struct kvm_run *run)
{
	run->exit_reason = bad_reason;
	run->internal.suberror = KVM_INTERNAL_ERROR_EMULATION;
	return 0;
}

static void exits_that_end_it(void **state)
{
	static const struct {
		uint32_t reason;
		enum vcpu_exit exit;
		enum stop_reason stop;
		const char *words;
	} ends[] = {
		{ KVM_EXIT_SHUTDOWN, EXIT_SHUTDOWN, STOP_NONE, "" },
		{ KVM_EXIT_INTERNAL_ERROR, EXIT_ERROR, STOP_GUEST_ERROR, "could not emulate" },
		{ KVM_EXIT_FAIL_ENTRY, EXIT_ERROR, STOP_HOST_ERROR, "could not enter" },
		{ KVM_EXIT_HYPERV, EXIT_ERROR, STOP_HOST_ERROR, "unknown reason" },
		{ 4711, EXIT_ERROR, STOP_HOST_ERROR, "unknown reason 4711" },
	};
	struct fixture f;

	for (unsigned n = 0; n < sizeof(ends) / sizeof(ends[0]); n++) {
		begin(&f, 1);
		bad_reason = ends[n].reason;
		fake.on_run = run_bad;
		assert_int_equal(kvm_run_guest(f.v, RUN_UNLIMITED), ends[n].exit);
		assert_int_equal(stopped.reason, ends[n].stop);
		assert_non_null(strstr(stopped.detail, ends[n].words));
		end(&f);
	}
}

/* ---- kicks ---- */

static _Atomic bool inside;

/* As the kernel does: waits until a signal has come, or one came before. */
static int run_until_kicked(struct kvm_run *run)
{
	volatile uint8_t *flag = &run->immediate_exit;
	const struct timespec nap = { .tv_nsec = 1000000 };

	atomic_store(&inside, true);
	while (!*flag)
		nanosleep(&nap, NULL);
	return EINTR;
}

static void *kicker(void *arg)
{
	while (!atomic_load(&inside))
		sched_yield();
	vcpu_request(arg, REQ_PAUSE);
	return NULL;
}

static void a_request_ends_the_run(void **state)
{
	pthread_t thread;
	struct fixture f;

	begin(&f, 1);
	fake.on_run = run_until_kicked;
	for (unsigned n = 0; n < 200; n++) {
		atomic_store(&inside, false);
		assert_int_equal(pthread_create(&thread, NULL, kicker, f.v), 0);
		assert_int_equal(kvm_run_guest(f.v, RUN_UNLIMITED), EXIT_REQUEST);
		pthread_join(thread, NULL);
		atomic_store(&f.v->req, 0);
	}
	assert_int_equal(atomic_load(&f.v->kick_tid), 0);
	end(&f);
}

/* ---- the probe ---- */

static void probe_of_what_does_not_open(void **state)
{
	char why[KVM_WHY_MAX];

	memset(&fake, 0, sizeof(fake));
	fake.open_error = ENOENT;
	assert_int_equal(kvm_probe(&fake_calls, why), KVM_KIND_NONE);
	fake.open_error = EACCES;
	assert_int_equal(kvm_probe(&fake_calls, why), KVM_KIND_NO_ACCESS);
	assert_string_equal(why, strerror(EACCES));
}

static int run_probe_port(struct kvm_run *run)
{
	run->exit_reason = KVM_EXIT_IO;
	run->io.port = 0x10;
	return 0;
}

static int run_shutdown(struct kvm_run *run)
{
	run->exit_reason = KVM_EXIT_SHUTDOWN;
	return 0;
}

static void probe_of_what_opens(void **state)
{
	char why[KVM_WHY_MAX];

	memset(&fake, 0, sizeof(fake));
	fake.on_run = run_probe_port;
	assert_int_equal(kvm_probe(&fake_calls, why), KVM_KIND_FULL);
	assert_string_equal(why, "");
	assert_int_equal(fake.open_fds, 0);
	fake.on_run = run_shutdown;
	assert_int_equal(kvm_probe(&fake_calls, why), KVM_KIND_LIMITED);
	assert_non_null(strstr(why, "32-bit paging"));
	fake.on_run = run_probe_port;
	fake.lacks = KVM_CAP_X86_USER_SPACE_MSR;
	assert_int_equal(kvm_probe(&fake_calls, why), KVM_KIND_LIMITED);
	assert_non_null(strstr(why, "MSRs in user space"));
	fake.lacks = 0;
	*msr_slot(0x4b564d11) = 0x4d5650;
	assert_int_equal(kvm_probe(&fake_calls, why), KVM_KIND_PARAVIRT);
	fake.msrs = 0;
	fake.refuse = KVM_CREATE_VM;
	fake.refuse_errno = EBUSY;
	assert_int_equal(kvm_probe(&fake_calls, why), KVM_KIND_LIMITED);
	assert_int_equal(fake.open_fds, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(refusals_say_why),
		cmocka_unit_test(a_signal_meanwhile_is_no_refusal),
		cmocka_unit_test(any_call_may_fail),
		cmocka_unit_test(few_calls_to_the_first_instruction),
		cmocka_unit_test(state_that_cannot_move_stops),
		cmocka_unit_test(there_and_back),
		cmocka_unit_test(pdptes_travel),
		cmocka_unit_test(an_msr_unknown_to_the_host_is_left_out),
		cmocka_unit_test(hostile_xsave),
		cmocka_unit_test(the_tsc_is_the_machines),
		cmocka_unit_test(cpuid_is_the_models),
		cmocka_unit_test(a_model_loses_what_the_host_lacks),
		cmocka_unit_test(accesses_reach_the_buses),
		cmocka_unit_test(io_stays_in_the_shared_page),
		cmocka_unit_test(a_pause_waits_for_the_second_half),
		cmocka_unit_test(msrs_of_the_machine),
		cmocka_unit_test(interrupts_wait_for_their_window),
		cmocka_unit_test(cr8_is_the_task_priority),
		cmocka_unit_test(halt_and_wake),
		cmocka_unit_test(init_and_startup),
		cmocka_unit_test(exits_that_end_it),
		cmocka_unit_test(a_request_ends_the_run),
		cmocka_unit_test(probe_of_what_does_not_open),
		cmocka_unit_test(probe_of_what_opens),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
