/*
 * The native side: a child process that runs cases on the bare CPU. It loads
 * a whole state, jumps into the code page, and gets the state back from a stub
 * at the end of the code or from the signal a fault raised.
 *
 * The child never uses the low 4 GiB for anything but the case's own pages.
 */
#include "oracle.h"
#include <asm/prctl.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

/* The page behind the stub's code. Offsets are used by the assembly below. */
struct stub_data {
	uint64_t gpr[16];    /* 0 */
	uint64_t rflags;     /* 128 */
	uint64_t target;     /* 136 */
	uint64_t host_rsp;   /* 144 */
	uint32_t far_offset; /* 152: far pointer to 32-bit code */
	uint32_t far_selector;
	uint64_t pad[12];
	uint8_t fx[FX_SIZE] __attribute__((aligned(64))); /* 256 */
};

/*
 * exit_stub must come first: a case jumps to STUB_BASE. Register numbers are
 * the architecture's (RAX RCX RDX RBX RSP RBP RSI RDI R8..R15).
 */
asm(".pushsection .data\n"
    ".balign 4096\n"
    "oracle_stub:\n"
    "	movq %rax, oracle_stub_data+0(%rip)\n"
    "	movq %rcx, oracle_stub_data+8(%rip)\n"
    "	movq %rdx, oracle_stub_data+16(%rip)\n"
    "	movq %rbx, oracle_stub_data+24(%rip)\n"
    "	movq %rsp, oracle_stub_data+32(%rip)\n"
    "	movq %rbp, oracle_stub_data+40(%rip)\n"
    "	movq %rsi, oracle_stub_data+48(%rip)\n"
    "	movq %rdi, oracle_stub_data+56(%rip)\n"
    "	movq %r8, oracle_stub_data+64(%rip)\n"
    "	movq %r9, oracle_stub_data+72(%rip)\n"
    "	movq %r10, oracle_stub_data+80(%rip)\n"
    "	movq %r11, oracle_stub_data+88(%rip)\n"
    "	movq %r12, oracle_stub_data+96(%rip)\n"
    "	movq %r13, oracle_stub_data+104(%rip)\n"
    "	movq %r14, oracle_stub_data+112(%rip)\n"
    "	movq %r15, oracle_stub_data+120(%rip)\n"
    "	movq oracle_stub_data+144(%rip), %rsp\n"
    "	pushfq\n"
    "	popq oracle_stub_data+128(%rip)\n"
    "	pushq $0x202\n"
    "	popfq\n"
    "	movl $7, %eax\n"
    "	xorl %edx, %edx\n"
    "	xsave64 oracle_stub_data+256(%rip)\n"
    "oracle_stub_resume:\n"
    "	fninit\n"
    "	movl $0x1f80, -8(%rsp)\n"
    "	ldmxcsr -8(%rsp)\n"
    "	vzeroupper\n"
    "	popq %r15\n"
    "	popq %r14\n"
    "	popq %r13\n"
    "	popq %r12\n"
    "	popq %rbp\n"
    "	popq %rbx\n"
    "	ret\n"
    "oracle_stub_entry:\n"
    "	pushq %rbx\n"
    "	pushq %rbp\n"
    "	pushq %r12\n"
    "	pushq %r13\n"
    "	pushq %r14\n"
    "	pushq %r15\n"
    "	movq %rsp, oracle_stub_data+144(%rip)\n"
    "	movl $7, %eax\n"
    "	xorl %edx, %edx\n"
    "	xrstor64 oracle_stub_data+256(%rip)\n"
    "	pushq oracle_stub_data+128(%rip)\n"
    "	popfq\n"
    "	movq oracle_stub_data+0(%rip), %rax\n"
    "	movq oracle_stub_data+8(%rip), %rcx\n"
    "	movq oracle_stub_data+16(%rip), %rdx\n"
    "	movq oracle_stub_data+24(%rip), %rbx\n"
    "	movq oracle_stub_data+32(%rip), %rsp\n"
    "	movq oracle_stub_data+40(%rip), %rbp\n"
    "	movq oracle_stub_data+48(%rip), %rsi\n"
    "	movq oracle_stub_data+56(%rip), %rdi\n"
    "	movq oracle_stub_data+64(%rip), %r8\n"
    "	movq oracle_stub_data+72(%rip), %r9\n"
    "	movq oracle_stub_data+80(%rip), %r10\n"
    "	movq oracle_stub_data+88(%rip), %r11\n"
    "	movq oracle_stub_data+96(%rip), %r12\n"
    "	movq oracle_stub_data+104(%rip), %r13\n"
    "	movq oracle_stub_data+112(%rip), %r14\n"
    "	movq oracle_stub_data+120(%rip), %r15\n"
    "	jmp *oracle_stub_data+136(%rip)\n"
    "oracle_stub_far:\n"
    "	ljmpl *oracle_stub_data+152(%rip)\n"
    ".balign 4096\n"
    "oracle_stub_data:\n"
    "	.space 4096\n"
    ".popsection\n");
extern char oracle_stub[], oracle_stub_resume[], oracle_stub_entry[], oracle_stub_data[],
	oracle_stub_far[];

/* Linux's selectors. */
#define USER32_CS 0x23
#define USER_DS   0x2b
#define USER_CS   0x33

struct native {
	pid_t pid;
	int request[2], reply[2];
	const uint8_t *pristine;
	struct oracle_case *cases;
	unsigned first, count;
};

/* The child's own; it has one thread. */
static struct stub_data *stub;
static bool compat_code;
static struct oracle_case *current;
static volatile bool running;
static uint8_t *code_alias;
static uint8_t *data_alias[DATA_PAGES];

bool native_keeps_fip(void)
{
	static uint8_t fx[512] __attribute__((aligned(16)));
	static int known; /* 1: yes, 2: no */
	uint64_t fip;

	if (!known) {
		asm volatile("fninit\n\tfld1\n\tfxsave64 %0\n\tfninit" : "=m"(fx));
		memcpy(&fip, fx + 8, 8);
		known = fip ? 1 : 2;
	}
	return known == 1;
}

static void on_signal(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	greg_t *r = uc->uc_mcontext.gregs;
	static const uint8_t order[16] = { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
					   REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
					   REG_R12, REG_R13, REG_R14, REG_R15 };
	struct oracle_result *out;

	/* A case may have set AC, and the kernel leaves it set. */
	__builtin_ia32_writeeflags_u64(__builtin_ia32_readeflags_u64() & ~0x40000ull);
	if (!running) {
		if (sig == SIGALRM)
			return;
		_exit(3);
	}
	out = &current->native;
	for (unsigned i = 0; i < 16; i++)
		stub->gpr[i] = (uint64_t)r[order[i]];
	stub->rflags = (uint64_t)r[REG_EFL];
	memcpy(stub->fx, uc->uc_mcontext.fpregs, FX_SIZE);
	out->state.rip = (uint64_t)r[REG_RIP];
	out->vector = (uint8_t)r[REG_TRAPNO];
	out->error = (uint32_t)r[REG_ERR];
	out->cr2 = (uint64_t)r[REG_CR2];
	out->done = sig != SIGALRM;
	r[REG_RIP] = (greg_t)(STUB_BASE + (uint64_t)(oracle_stub_resume - oracle_stub));
	r[REG_RSP] = (greg_t)stub->host_rsp;
	r[REG_EFL] = 0x202;
	r[REG_CSGSFS] = (r[REG_CSGSFS] & ~0xffffll) | USER_CS;
	running = false;
}

static void die(const char *what)
{
	fprintf(stderr, "oracle: native child: %s: %s\n", what, strerror(errno));
	_exit(2);
}

static void *map_at(uint64_t address, size_t len, int prot, int fd, off_t offset)
{
	void *p = mmap((void *)address, len, prot, MAP_SHARED | MAP_FIXED_NOREPLACE | MAP_POPULATE,
		       fd, offset);

	if (p != (void *)address)
		die("mmap");
	return p;
}

static int memory_file(size_t len)
{
	int fd = memfd_create("oracle", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, (off_t)len))
		die("memfd");
	return fd;
}

static void child_map(const uint8_t *pristine)
{
	int fd = memory_file(CODE_PAGES * PAGE);

	code_alias = mmap(NULL, CODE_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (code_alias == MAP_FAILED)
		die("mmap");
	memset(code_alias, 0xcc, CODE_PAGES * PAGE);
	map_at(CODE_BASE, CODE_PAGES * PAGE, PROT_READ | PROT_EXEC, fd, 0);
	fd = memory_file(DATA_PAGES * PAGE);
	uint8_t *alias = mmap(NULL, DATA_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (alias == MAP_FAILED)
		die("mmap");
	memcpy(alias, pristine, DATA_PAGES * PAGE);
	for (unsigned i = 0; i < DATA_PAGES; i++) {
		data_alias[i] = alias + i * PAGE;
		if (DATA_PRESENT >> i & 1)
			map_at(DATA_BASE + i * PAGE, PAGE,
			       DATA_WRITABLE >> i & 1 ? PROT_READ | PROT_WRITE : PROT_READ, fd,
			       (off_t)(i * PAGE));
	}
	uint8_t *low = mmap((void *)LOW_STUB_BASE, PAGE, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	if (low != (uint8_t *)LOW_STUB_BASE)
		die("mmap");
	memset(low, 0xcc, PAGE);
	memcpy(low, low_stub_code, EPILOGUE_SIZE);
	if (mprotect(low, PAGE, PROT_READ | PROT_EXEC))
		die("mprotect");
	/* A private copy of the stub, its code executable, its data page behind it writable. */
	size_t len = (size_t)(oracle_stub_data - oracle_stub) + PAGE;
	uint8_t *p = mmap((void *)STUB_BASE, len, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	if (p != (uint8_t *)STUB_BASE)
		die("mmap stub");
	memcpy(p, oracle_stub, len);
	if (mprotect(p, len - PAGE, PROT_READ | PROT_EXEC))
		die("mprotect");
	stub = (struct stub_data *)(p + len - PAGE);
}

static void child_signals(void)
{
	static uint8_t stack[65536] __attribute__((aligned(64)));
	static const int sigs[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGALRM, SIGSYS };
	struct sigaction action = { .sa_sigaction = on_signal,
				    .sa_flags = SA_SIGINFO | SA_ONSTACK };
	stack_t ss = { .ss_sp = stack, .ss_size = sizeof(stack) };

	if (sigaltstack(&ss, NULL))
		die("sigaltstack");
	for (unsigned i = 0; i < sizeof(sigs) / sizeof(sigs[0]); i++)
		if (sigaction(sigs[i], &action, NULL))
			die("sigaction");
	if (syscall(SYS_arch_prctl, ARCH_SET_GS, GS_BASE))
		die("arch_prctl");
}

static void run_one(struct oracle_case *c, const uint8_t *pristine)
{
	struct oracle_result *out = &c->native;

	out->done = 0;
	current = c;
	memcpy(code_alias + c->offset, c->code, c->code_len);
	memcpy(stub->gpr, c->initial.gpr, sizeof(stub->gpr));
	stub->rflags = c->initial.rflags;
	stub->target = CODE_BASE + c->offset;
	if (compat_code) {
		stub->far_offset = (uint32_t)stub->target;
		stub->far_selector = USER32_CS;
		stub->target = STUB_BASE + (uint64_t)(oracle_stub_far - oracle_stub);
	}
	memcpy(stub->fx, c->initial.fx, FX_SIZE);
	out->vector = NO_VECTOR;
	out->error = 0;
	out->cr2 = 0;
	out->state.rip = STUB_BASE;
	out->done = 1;
	running = true;
	((void (*)(void))(STUB_BASE + (uint64_t)(oracle_stub_entry - oracle_stub)))();
	running = false;
	memcpy(out->state.gpr, stub->gpr, sizeof(stub->gpr));
	out->state.rflags = stub->rflags;
	memcpy(out->state.fx, stub->fx, FX_SIZE);
	memset(code_alias + c->offset, 0xcc, c->code_len);
	data_collect(out, data_alias, pristine);
}

static void child(struct native *n)
{
	struct itimerval off = { 0 }, limit = { .it_value.tv_sec = 2 };
	unsigned range[2];

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_DUMPABLE, 0);
	child_map(n->pristine);
	child_signals();
	if (compat_code) /* 64-bit code does not need them, and Linux starts it with none */
		asm volatile("movl %0, %%ds\n\tmovl %0, %%es" : : "r"(USER_DS));
	while (read(n->request[0], range, sizeof(range)) == sizeof(range)) {
		for (unsigned i = 0; i < range[1]; i++) {
			if (i % 64 == 0)
				setitimer(ITIMER_REAL, &limit, NULL);
			run_one(&n->cases[range[0] + i], n->pristine);
		}
		setitimer(ITIMER_REAL, &off, NULL);
		if (write(n->reply[1], range, sizeof(range)) != sizeof(range))
			break;
	}
	_exit(0);
}

static void child_start(struct native *n)
{
	if (pipe(n->request) || pipe(n->reply)) {
		perror("oracle: pipe");
		exit(2);
	}
	n->pid = fork();
	if (n->pid < 0) {
		perror("oracle: fork");
		exit(2);
	}
	if (!n->pid) {
		close(n->request[1]);
		close(n->reply[0]);
		child(n);
	}
	close(n->request[0]);
	close(n->reply[1]);
}

static void child_reap(struct native *n)
{
	close(n->request[1]);
	close(n->reply[0]);
	waitpid(n->pid, NULL, 0);
}

struct native *native_start(const uint8_t *pristine, struct oracle_case *cases, bool compat)
{
	struct native *n = calloc(1, sizeof(*n));

	if (!n)
		return NULL;
	signal(SIGPIPE, SIG_IGN);
	n->pristine = pristine;
	compat_code = compat;
	n->cases = cases;
	child_start(n);
	return n;
}

void native_stop(struct native *n)
{
	child_reap(n);
	free(n);
}

void native_submit(struct native *n, unsigned first, unsigned count)
{
	unsigned range[2] = { first, count };

	n->first = first;
	n->count = count;
	for (unsigned i = 0; i < count; i++)
		n->cases[first + i].native.done = 0;
	if (write(n->request[1], range, sizeof(range)) != sizeof(range))
		return; /* dead: native_wait finds out */
}

bool native_wait(struct native *n)
{
	unsigned range[2];

	if (read(n->reply[0], range, sizeof(range)) == sizeof(range))
		return true;
	child_reap(n);
	child_start(n);
	return false;
}
