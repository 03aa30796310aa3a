/*
 * Long mode: the interrupt frame and stack alignment, IST, IRETQ in all its
 * checks, SYSCALL and SYSRET, SYSENTER and SYSEXIT, compatibility mode, far
 * transfers, call gates, FS and GS bases, what is undefined in 64-bit mode.
 */
#include "lib.h"

#define MSR_EFER 0xc0000080
#define MSR_STAR 0xc0000081
#define MSR_LSTAR 0xc0000082
#define MSR_CSTAR 0xc0000083
#define MSR_FMASK 0xc0000084
#define MSR_FS_BASE 0xc0000100
#define MSR_GS_BASE 0xc0000101
#define MSR_KERNEL_GS_BASE 0xc0000102
#define IDT_ERROR(v) ((v) * 8 + 2)
#define NOT_CANONICAL 0x800000000000
#define ENTRY(s) gdt[(s) / 8]
#define USER_SP ((word)user_stack + 4096 + USER_ALIAS)

static uint8_t ist_stack[4096] __attribute__((aligned(64)));
static bool amd;

static void int50_at(void *p)
{
	asm volatile("mov %%rsp, %%rbx\n sub %0, %%rsp\n int $0x50\n mov %%rbx, %%rsp" ::"r"(p) : "rbx", "memory");
}
static word frame_address, frame_sp;
static void note_frame(struct frame *f)
{
	frame_address = (word)&f->error;
	frame_sp = f->sp;
}
static void ud(void *p)
{
	asm volatile("ud2");
}

static void frames(void)
{
	struct trap t;
	unsigned n;
	bool aligned = true, saved = true;

	handlers[0x50] = note_frame;
	for (n = 0; n < 16; n++) {
		word sp;

		asm volatile("mov %%rsp, %0" : "=r"(sp));
		t = catch(int50_at, (void *)(word)(256 + n));
		/* error (pushed by the stub), then RIP CS RFLAGS RSP SS up to a multiple of 16. */
		aligned &= ((frame_address + 48) & 15) == 0;
		saved &= frame_address + 48 <= frame_sp && frame_address + 64 > frame_sp;
	}
	check(aligned, "frame aligned to 16 bytes whatever RSP was");
	check(saved, "old RSP in the frame");
	handlers[0x50] = NULL;
	t = catch(ud, NULL);
	check_eq("SS pushed at the same level", t.ss, DATA);
	check_eq("RF set for a fault", t.flags & 0x10000, 0x10000);

	*(uint64_t *)(tss + 36) = (word)ist_stack + sizeof(ist_stack) - 8; /* IST1, misaligned */
	handlers[0x50] = note_frame;
	idt[2 * 0x50] |= 1ull << 32;
	asm volatile("int $0x50" ::: "memory");
	check_eq("IST stack, aligned down", frame_address + 48, (word)ist_stack + sizeof(ist_stack) - 16);
	handlers[0x50] = NULL;
	*(uint64_t *)(tss + 36) = NOT_CANONICAL;
	t = catch(int50_at, NULL);
	check_trap("IST not canonical", &t, 12, 0);
	gate_default(0x50);
}

static void gates(void)
{
	struct trap t;

	idt[2 * 0x50] &= ~(0x80ull << 40);
	t = catch(int50_at, NULL);
	check_trap("absent gate", &t, 11, IDT_ERROR(0x50));
	gate(0x50, 6, 0, CODE, 0, 0);
	t = catch(int50_at, NULL);
	check_trap("16-bit gate type", &t, 13, IDT_ERROR(0x50));
	gate(0x50, 5, 0, CODE, 0, 0);
	t = catch(int50_at, NULL);
	check_trap("task gate", &t, 13, IDT_ERROR(0x50));
	gate(0x50, 14, 0, CODE32, 0, 0);
	t = catch(int50_at, NULL);
	check_trap("handler in 32-bit code", &t, 13, CODE32);
	gate(0x50, 14, 0, DATA, 0, 0);
	t = catch(int50_at, NULL);
	check_trap("handler in data", &t, 13, DATA);
	gate(0x50, 14, 0, CODE, NOT_CANONICAL, 0);
	t = catch(int50_at, NULL);
	check_trap("handler not canonical", &t, 13, 0);
	gate_default(0x50);
}

struct iret {
	uint64_t ip, cs, flags, sp, ss;
};
static void do_iret(void *p)
{
	asm volatile("push 32(%0); push 24(%0); push 16(%0); push 8(%0); push (%0); iretq" ::"r"(p) : "memory");
}
static void try_iret(const char *what, uint64_t ip, uint64_t cs, uint64_t flags, uint64_t sp, uint64_t ss,
		     uint32_t vector, uint32_t error)
{
	struct iret f = { ip, cs, flags, sp, ss };
	struct trap t = catch(do_iret, &f);

	check_trap(what, &t, vector, error);
}

extern uint8_t user_end[], user_selectors[], kernel_end[], kernel_selectors[];
asm("user_selectors: mov %ds, %eax\n"
    "	mov %es, %ecx\n"
    "user_end: int $0x80\n"
    "kernel_selectors: mov %ds, %eax\n"
    "	mov %es, %ecx\n"
    "kernel_end: int $0x81\n");

static void irets(void)
{
	word user = (word)user_end + USER_ALIAS, kernel = (word)kernel_end, sp;
	struct trap t;
	struct iret f;

	asm volatile("mov %%rsp, %0" : "=r"(sp));
	sp -= 2048;
	*(uint64_t *)(tss + 4) = sp - 1024;
	try_iret("to user mode", user, USER_CODE, 2, USER_SP, USER_DATA, USER_END, 0);
	try_iret("to the same level", kernel, CODE, 2, sp, DATA, 0x81, 0);
	try_iret("to the same level, null SS", kernel, CODE, 2, sp, 0, 0x81, 0);
	try_iret("null CS", kernel, 0, 2, sp, DATA, 13, 0);
	try_iret("null SS to user mode", user, USER_CODE, 2, USER_SP, 3, 13, 0);
	try_iret("null SS with another RPL", kernel, CODE, 2, sp, 1, 13, 0);
	try_iret("CS is data", kernel, DATA, 2, sp, DATA, 13, DATA);
	try_iret("CS beyond the GDT", kernel, 0x1000, 2, sp, DATA, 13, 0x1000);
	try_iret("CS RPL above DPL", user, CODE | 3, 2, USER_SP, USER_DATA, 13, CODE);
	try_iret("SS RPL", user, USER_CODE, 2, USER_SP, USER_DATA & ~3, 13, USER_DATA & ~3);
	try_iret("SS DPL", user, USER_CODE, 2, USER_SP, DATA | 3, 13, DATA);
	try_iret("RIP not canonical", NOT_CANONICAL, USER_CODE, 2, USER_SP, USER_DATA, 13, 0);
	try_iret("NT", kernel, CODE, 2, sp, DATA, 0x81, 0);
	write_flags(0x4002);
	f = (struct iret){ kernel, CODE, 2, sp, DATA };
	t = catch(do_iret, &f);
	write_flags(2);
	check_trap("IRET with NT set", &t, 13, 0);
	ENTRY(FREE_SELECTOR) = descriptor(0, 0xfffff, 0xfb, 0xe); /* L and D */
	try_iret("CS with L and D", user, FREE_SELECTOR | 3, 2, USER_SP, USER_DATA, 13, FREE_SELECTOR);
	ENTRY(FREE_SELECTOR) = descriptor(0, 0xfffff, 0x7b, 0xa);
	try_iret("CS absent", user, FREE_SELECTOR | 3, 2, USER_SP, USER_DATA, 11, FREE_SELECTOR);
	ENTRY(FREE_SELECTOR) = descriptor(0, 0xfffff, 0x73, 0xc);
	/* SDM 2A says #NP; AMD's parts raise #SS. */
	try_iret("SS absent", user, USER_CODE, 2, USER_SP, FREE_SELECTOR | 3, amd ? 12 : 11, FREE_SELECTOR);
	f = (struct iret){ user, USER_CODE, 0x244cd7, USER_SP, USER_DATA };
	t = catch(do_iret, &f);
	check_eq("flags in user mode", t.flags, 0x244cd7);
	f = (struct iret){ user, USER_CODE, 0x3002, USER_SP, USER_DATA };
	t = catch(do_iret, &f);
	check_eq("IOPL from level 0", t.flags, 0x3002);
	/* On the way out null selectors lose their RPL, as a kernel's sigreturn may have set it. */
	for (unsigned rpl = 0; rpl < 4; rpl++) {
		asm volatile("mov %0, %%ds\n mov %0, %%es\n mov %0, %%gs" ::"r"(rpl));
		wrmsr(MSR_GS_BASE, 0x123456789000);
		f = (struct iret){ (word)user_selectors + USER_ALIAS, USER_CODE, 2, USER_SP, USER_DATA };
		t = catch(do_iret, &f);
		check_trap("to user mode with null DS and ES", &t, USER_END, 0);
		check_eq("DS", t.frame.ax, 0);
		check_eq("ES", t.frame.cx, 0);
		check_eq("the base of a null GS", rdmsr(MSR_GS_BASE), 0x123456789000);
		asm volatile("mov %0, %%ds\n mov %0, %%es" ::"r"(rpl));
		f = (struct iret){ (word)kernel_selectors, CODE, 2, sp, DATA };
		t = catch(do_iret, &f);
		check_eq("null DS on a return to the same level", t.frame.ax, rpl);
		check_eq("and ES", t.frame.cx, rpl);
	}
	asm volatile("mov %0, %%ds\n mov %0, %%es\n mov %0, %%gs" ::"r"(DATA));
	wrmsr(MSR_GS_BASE, 0);
}

/* SYSCALL lands here with the user's RSP: note what there is and end by a trap. */
extern uint8_t syscall_entry[], user_syscall[];
asm("syscall_entry:\n"
    "	mov %cs, %r8d\n"
    "	mov %ss, %r9d\n"
    "	pushfq\n" /* onto the user's stack, mapped at the alias */
    "	pop %r10\n"
    "	int $0x81\n"
    "user_syscall: syscall\n"
    "user_after: int $0x80\n");
extern uint8_t user_after[];
static void do_sysretq(void *p)
{
	register uint64_t r11 asm("r11") = ((uint64_t *)p)[1];

	asm volatile("mov %2, %%rsp\n .byte 0x48, 0x0f, 0x07" ::"c"(((uint64_t *)p)[0]), "r"(r11), "r"(((uint64_t *)p)[2])
		     : "memory");
}
static void do_sysretl(void *p)
{
	register uint64_t r11 asm("r11") = ((uint64_t *)p)[1];

	asm volatile("mov %2, %%rsp\n .byte 0x0f, 0x07" ::"c"(((uint64_t *)p)[0]), "r"(r11), "r"(((uint64_t *)p)[2])
		     : "memory");
}
extern word user_flags;

static void syscalls(void)
{
	word user = (word)user_end + USER_ALIAS;
	uint64_t args[3];
	struct trap t;
	word sp;

	asm volatile("mov %%rsp, %0" : "=r"(sp));
	*(uint64_t *)(tss + 4) = sp - 4096;
	wrmsr(MSR_STAR, (uint64_t)(USER_CODE32 & ~3) << 48 | (uint64_t)CODE << 32);
	wrmsr(MSR_LSTAR, (word)syscall_entry);
	wrmsr(MSR_FMASK, 0x4601);
	user_flags = 0x402 | 1;
	t = catch_user((word)user_syscall + USER_ALIAS, 0);
	user_flags = 2;
	check_trap("SYSCALL", &t, 0x81, 0);
	check_eq("  RCX", t.frame.cx, (word)user_after + USER_ALIAS);
	check_eq("  R11", t.frame.r11, 0x403);
	check_eq("  CS", t.frame.r8 & 0xffff, CODE);
	check_eq("  SS", t.frame.r9 & 0xffff, CODE + 8);
	check_eq("  flags masked", t.frame.r10, 2);
	check_eq("  RSP untouched", t.sp, USER_SP);
	args[0] = user;
	args[1] = 0x240ed7 & ~0x300ull;
	args[2] = USER_SP;
	t = catch(do_sysretq, args);
	check_trap("SYSRETQ", &t, USER_END, 0);
	check(t.cs == USER_CODE && t.ss == USER_DATA, "  CS and SS");
	check_eq("  flags", t.flags, 0x240cd7);
	check_eq("  RIP", t.ip, user + 2);
	args[1] = ~0ull & ~0x100ull & ~0x200ull; /* TF, IF off; all reserved ones on */
	t = catch(do_sysretq, args);
	check_eq("  reserved, RF and VM do not come from R11", t.flags, 0x3c7cd7);
	args[0] = NOT_CANONICAL;
	args[1] = 2;
	args[2] = sp - 2048;
	t = catch(do_sysretq, args);
	if (amd)
		check(t.vector == 13 && (t.cs & 3) == 3, "SYSRETQ to a non-canonical RCX: AMD faults in user mode");
	else
		check(t.vector == 13 && t.cs == CODE, "SYSRETQ to a non-canonical RCX: Intel faults at CPL 0");
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~1ull);
	t = catch_user((word)user_syscall + USER_ALIAS, 0);
	check_trap("SYSCALL without EFER.SCE", &t, 6, 0);
	args[0] = user;
	t = catch(do_sysretq, args);
	check_trap("SYSRET without EFER.SCE", &t, 6, 0);
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | 1);
	t = catch(do_sysretq, args);
	check_trap("SYSRETQ again", &t, USER_END, 0);
}

/* Compatibility mode: 32-bit code must be below 4 GiB for the user too, so a copy of the alias in PML4 slot 0 is made
   user-accessible for one 2 MiB page: the directory entries are the identity ones. */
extern uint64_t pml4[512], pdpt[512];
extern uint8_t compat_code[], compat_far[];
asm(".code32\n"
    "compat_code:\n"
    "	mov %cs, %ecx\n"
    "	mov $0xffffffff, %edx\n"
    "	inc %edx\n" /* 0x42: INC here, a REX prefix in 64-bit code */
    "	push $0x1234\n"
    "	int $0x80\n"
    "compat_far:\n" /* to 64-bit user code and back again */
    "	ljmp $0x2b, $compat_64\n"
    "compat_32:\n"
    "	mov %cs, %ecx\n"
    "	int $0x80\n"
    "compat_syscall:\n"
    "	syscall\n"
    "	int $0x80\n"
    ".code64\n"
    "compat_64:\n"
    "	mov %cs, %esi\n"
    "	mov $0x123456789abcdef0, %rdi\n"
    "	ljmp *compat_pointer\n"
    ".data\n"
    "compat_pointer: .long compat_32\n .word 0x1b\n"
    ".text\n");
extern uint8_t compat_syscall[];

static void user_identity(bool on)
{
	uint64_t *directory = (uint64_t *)(pdpt[0] & ~0xfffull);
	unsigned n;

	for (n = 0; n < 8; n++)
		directory[n] = (directory[n] & ~4ull) | (on ? 4 : 0);
	pdpt[0] = (pdpt[0] & ~4ull) | (on ? 4 : 0);
	pml4[0] = (pml4[0] & ~4ull) | (on ? 4 : 0);
	write_cr3(read_cr3());
}

static void compatibility(void)
{
	struct iret f = { (word)compat_code, USER_CODE32, 2, (word)user_stack + 4096, USER_DATA };
	uint64_t args[3];
	struct trap t;
	word sp;

	asm volatile("mov %%rsp, %0" : "=r"(sp));
	*(uint64_t *)(tss + 4) = sp - 4096;
	user_identity(true);
	t = catch(do_iret, &f);
	check_trap("compatibility mode by IRETQ", &t, USER_END, 0);
	check_eq("  CS", t.cs, USER_CODE32);
	check_eq("  INC is INC", t.frame.dx & 0xffffffff, 0);
	check_eq("  4-byte push", t.sp, (word)user_stack + 4092);
	f.ip = (word)compat_far;
	t = catch(do_iret, &f);
	check_trap("far jumps to 64-bit code and back", &t, USER_END, 0);
	check(t.cs == USER_CODE32 && (t.frame.si & 0xffff) == USER_CODE, "  selectors");
	f.ip = (word)compat_syscall;
	wrmsr(MSR_CSTAR, (word)syscall_entry);
	t = catch(do_iret, &f);
	if (amd)
		check_trap("SYSCALL in compatibility mode (AMD)", &t, 0x81, 0);
	else
		check_trap("SYSCALL in compatibility mode (Intel)", &t, 6, 0);
	args[0] = (word)compat_code;
	args[1] = 2;
	args[2] = (word)user_stack + 4096;
	t = catch(do_sysretl, args);
	check_trap("SYSRET to 32-bit code", &t, USER_END, 0);
	check_eq("  CS", t.cs, USER_CODE32);
	f = (struct iret){ 0x100000000 | (word)compat_code, USER_CODE32, 2, (word)user_stack + 4096, USER_DATA };
	t = catch(do_iret, &f);
	check_trap("upper half of RIP is ignored on the way to 32-bit code", &t, USER_END, 0);
	check(t.ip >> 32 == 0, "  IP");
	user_identity(false);
}

extern uint8_t sysenter_entry[], user_sysenter[];
asm("sysenter_entry:\n"
    "	mov %cs, %r8d\n"
    "	mov %ss, %r9d\n"
    "	mov %rsp, %r10\n"
    "	int $0x81\n"
    "user_sysenter: sysenter\n"
    "	int $0x80\n");
static void sysexitq(void *p)
{
	const uint64_t *a = p;

	asm volatile(".byte 0x48, 0x0f, 0x35" ::"d"(a[0]), "c"(a[1]) : "memory");
}
static uint64_t gdt_saved[8];

static void sysenters(void)
{
	uint64_t args[2] = { (word)user_end + USER_ALIAS, USER_SP };
	struct trap t;
	unsigned n;

	wrmsr(0x174, CODE);
	wrmsr(0x175, (word)ist_stack + 2048);
	wrmsr(0x176, (word)sysenter_entry);
	t = catch_user((word)user_sysenter + USER_ALIAS, 0);
	if (amd) {
		check_trap("SYSENTER in long mode (AMD)", &t, 6, 0);
		return;
	}
	check_trap("SYSENTER", &t, 0x81, 0);
	check(t.frame.r8 == CODE && t.frame.r9 == CODE + 8, "  CS and SS");
	check_eq("  RSP", t.frame.r10, (word)ist_stack + 2048);
	check_eq("  IF clear", t.flags & 0x200, 0);
	/* SYSEXIT wants CODE + 32 and + 40 as 64-bit code and data: 0x28 and 0x30, where TR's descriptor lies. */
	for (n = 0; n < 8; n++)
		gdt_saved[n] = gdt[n];
	gdt[6] = descriptor(0, 0xfffff, ACCESS_DATA | 0x60, FLAT32);
	t = catch(sysexitq, args);
	check_trap("SYSEXIT to 64-bit code", &t, USER_END, 0);
	check(t.cs == (CODE + 32 + 3) && t.ss == (CODE + 40 + 3), "  CS and SS");
	check_eq("  RSP", t.sp, USER_SP);
	gdt[6] = gdt_saved[6];
	args[0] = NOT_CANONICAL;
	t = catch(sysexitq, args);
	check_trap("SYSEXIT to a non-canonical RDX", &t, 13, 0);
	wrmsr(0x174, 0);
	t = catch_user((word)user_sysenter + USER_ALIAS, 0);
	check_trap("SYSENTER with a null CS", &t, 13, 0);
	wrmsr(0x174, CODE);
}

extern uint8_t user_swapgs[];
asm("user_swapgs: swapgs; int $0x80");

static void bases(void)
{
	static uint64_t cell = 0x1122334455667788;
	uint64_t x;
	struct trap t;

	wrmsr(MSR_FS_BASE, (word)&cell - 16);
	asm volatile("mov %%fs:16, %0" : "=r"(x));
	check_eq("FS base", x, cell);
	wrmsr(MSR_GS_BASE, 1);
	wrmsr(MSR_KERNEL_GS_BASE, (word)&cell);
	asm volatile("swapgs; mov %%gs:0, %0" : "=r"(x));
	check_eq("SWAPGS", x, cell);
	check_eq("  the other way", rdmsr(MSR_KERNEL_GS_BASE), 1);
	asm volatile("swapgs");
	t = catch_user((word)user_swapgs + USER_ALIAS, 0);
	check_trap("SWAPGS in user mode", &t, 13, 0);
	asm volatile("mov %0, %%fs" ::"r"(DATA));
	check_eq("loading FS replaces its base", rdmsr(MSR_FS_BASE), 0);
	wrmsr(MSR_FS_BASE, 0x123456789000);
	check_eq("64-bit base", rdmsr(MSR_FS_BASE), 0x123456789000);
	/* A user program with a null FS and a base of its own: IRET must not touch it. */
	asm volatile("mov %0, %%fs" ::"r"(0));
	wrmsr(MSR_FS_BASE, (word)&cell);
	catch_user((word)user_end + USER_ALIAS, 0);
	check_eq("base of a null FS survives a trip through user mode", rdmsr(MSR_FS_BASE), (word)&cell);
}

#define UNDEFINED(name, bytes)                                                 \
	static void name(void *p)                                              \
	{                                                                      \
		asm volatile(bytes);                                           \
	}
UNDEFINED(op_06, ".byte 0x06")
UNDEFINED(op_27, ".byte 0x27")
UNDEFINED(op_60, ".byte 0x60")
UNDEFINED(op_82, ".byte 0x82, 0xc0, 0x01")
UNDEFINED(op_9a, ".byte 0x9a, 0, 0, 0, 0, 0, 0")
UNDEFINED(op_ce, ".byte 0xce")
UNDEFINED(op_d4, ".byte 0xd4, 0x0a")
UNDEFINED(op_d6, ".byte 0xd6")
UNDEFINED(op_ea, ".byte 0xea, 0, 0, 0, 0, 0, 0")

static void undefined(void)
{
	static const struct {
		const char *what;
		void (*fn)(void *);
	} list[] = { { "PUSH ES", op_06 },  { "DAA", op_27 },	{ "PUSHA", op_60 },  { "82 group", op_82 },
		     { "CALL far direct", op_9a }, { "INTO", op_ce },	{ "AAM", op_d4 },    { "SALC", op_d6 },
		     { "JMP far direct", op_ea } };
	struct trap t;
	unsigned n;

	for (n = 0; n < sizeof(list) / sizeof(*list); n++) {
		t = catch(list[n].fn, NULL);
		check_trap(list[n].what, &t, 6, 0);
	}
}

/* Far transfers and a call gate. */
extern uint8_t gate_callee[];
asm("gate_callee: mov %rsp, %r8; mov %ss, %r9d; lretq\n");
static void far_jump64(void *p)
{
	struct {
		uint32_t offset;
		uint16_t selector;
	} __attribute__((packed)) far = { (uint32_t)(word)kernel_end, (uint16_t)(word)p };

	asm volatile("ljmp *%0" ::"m"(far));
}
static void retfq(void *p)
{
	asm volatile("push %0; push %1; lretq" ::"r"((word)CODE), "r"((word)kernel_end) : "memory");
}
extern uint8_t user_gate[];
asm("user_gate:\n"
    "	lcall *user_gate_pointer(%rip)\n"
    "	int $0x80\n"
    "user_gate_pointer: .long 0\n .word 0x53\n");

static void transfers(void)
{
	struct trap t;
	word offset = (word)gate_callee, sp;

	t = catch(far_jump64, (void *)CODE);
	check_trap("far jump to 64-bit code", &t, 0x81, 0);
	ENTRY(FREE_SELECTOR + 16) = descriptor(0, 0xfffff, ACCESS_CODE, 0xe);
	t = catch(far_jump64, (void *)(FREE_SELECTOR + 16));
	check_trap("far jump to L and D", &t, 13, FREE_SELECTOR + 16);
	t = catch(far_jump64, (void *)TSS);
	check_trap("far jump to a TSS", &t, 13, TSS);
	t = catch(retfq, NULL);
	check_trap("RETFQ", &t, 0x81, 0);

	asm volatile("mov %%rsp, %0" : "=r"(sp));
	*(uint64_t *)(tss + 4) = sp - 4096;
	ENTRY(FREE_SELECTOR) = (offset & 0xffff) | (uint64_t)CODE << 16 | 0xecull << 40 | (offset >> 16 & 0xffff) << 48;
	ENTRY(FREE_SELECTOR + 8) = offset >> 32;
	t = catch_user((word)user_gate + USER_ALIAS, 0);
	check_trap("64-bit call gate from user mode", &t, USER_END, 0);
	check_eq("  32-byte frame on RSP0", t.frame.r8, *(uint64_t *)(tss + 4) - 32);
	check_eq("  null SS inside", t.frame.r9 & 0xffff, 0);
	ENTRY(FREE_SELECTOR + 8) = offset >> 32 | 0x1full << 40;
	t = catch_user((word)user_gate + USER_ALIAS, 0);
	check_trap("gate with a type in its upper half", &t, 13, FREE_SELECTOR);
	ENTRY(FREE_SELECTOR + 8) = 0;
	ENTRY(FREE_SELECTOR) = (offset & 0xffff) | (uint64_t)CODE32 << 16 | 0xecull << 40;
	t = catch_user((word)user_gate + USER_ALIAS, 0);
	check_trap("gate to 32-bit code", &t, 13, CODE32);
}

static void efer_write(void *p)
{
	wrmsr(MSR_EFER, (word)p);
}
static void cr0_write(void *p)
{
	write_cr0((word)p);
}
static void cr4_write(void *p)
{
	write_cr4((word)p);
}
static void wrmsr_lstar(void *p)
{
	wrmsr(MSR_LSTAR, (word)p);
}

static void mode_control(void)
{
	struct trap t;

	t = catch(efer_write, (void *)(rdmsr(MSR_EFER) & ~0x100ull));
	check_trap("EFER.LME cleared under paging", &t, 13, 0);
	t = catch(efer_write, (void *)(rdmsr(MSR_EFER) | 0x8000000000000000));
	check_trap("EFER reserved bit", &t, 13, 0);
	t = catch(cr4_write, (void *)(read_cr4() & ~0x20ul));
	check_trap("CR4.PAE cleared in long mode", &t, 13, 0);
	t = catch(cr4_write, (void *)(read_cr4() | 1ul << 40));
	check_trap("CR4 reserved bit", &t, 13, 0);
	t = catch(cr0_write, (void *)(read_cr0() & ~1ul));
	check_trap("CR0.PE cleared under paging", &t, 13, 0);
	t = catch(cr0_write, (void *)(read_cr0() | 1ul << 32));
	check_trap("CR0 upper half", &t, 13, 0);
	t = catch(cr0_write, (void *)((read_cr0() | 0x20000000) & ~0x40000000ul));
	check_trap("CR0.NW without CD", &t, 13, 0);
	t = catch(wrmsr_lstar, (void *)NOT_CANONICAL);
	check_trap("LSTAR not canonical", &t, 13, 0);
}

void test_main(void)
{
	uint32_t r[4];

	cpuid(0, 0, r);
	amd = r[1] == 0x68747541;
	frames();
	gates();
	irets();
	syscalls();
	compatibility();
	sysenters();
	bases();
	undefined();
	transfers();
	mode_control();
}
