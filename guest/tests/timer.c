/*
 * The local APIC's timer ends whatever a program does: loops of every shape that
 * never look at memory for a sign to stop, long instructions, HLT. The handler
 * leads out of the loop; without an interrupt the guest would never end. Prints
 * how late the interrupts came by the TSC, which nobody judges.
 */
#include "lib.h"

#define LAPIC        ((volatile uint32_t *)0xfee00000)
#define VECTOR       0x50
#define DEADLINE     0x40000
#define ONE_SHOT     0
#define MSR_DEADLINE 0x6e0
#define ROUNDS       7

static bool by_tsc;
static uint64_t due, late[ROUNDS];
static volatile unsigned fired;
uint8_t from[65536], to[65536]; /* for code in assembly */
extern uint8_t loop_out[];
void loop_run(void (*loop)(void));

static inline uint64_t rdtsc(void)
{
	uint32_t lo, hi;

	asm volatile("lfence; rdtsc" : "=a"(lo), "=d"(hi)::"memory");
	return (uint64_t)hi << 32 | lo;
}

static void on_timer(struct frame *f)
{
	uint64_t now = rdtsc();

	late[fired++ % ROUNDS] = now - due;
	f->ip = (word)loop_out;
	lapic_eoi();
}

static void arm(uint64_t ticks)
{
	due = rdtsc() + ticks;
	if (by_tsc)
		wrmsr(MSR_DEADLINE, due);
	else
		LAPIC[0x380 / 4] = (uint32_t)ticks;
}

/* loop_run(loop) comes back when the handler has led to loop_out, whatever the loop did to registers. */
asm(".pushsection .text\n"
    "loop_sp: .quad 0\n"
    "loop_run:\n"
    "	push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
    "	mov %rsp, loop_sp\n"
    "	sti\n"
    "	jmp *%rdi\n"
    "loop_out:\n"
    "	cli\n"
    "	cld\n"
    "	mov loop_sp, %rsp\n"
    "	pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
    "	ret\n"
    ".popsection\n");

#define LOOP(name, ...)                                                      \
	void loop_##name(void);                                              \
	asm(".pushsection .text\nloop_" #name ":\n" __VA_ARGS__ "\n.popsection\n")

LOOP(empty, "1: jmp 1b");
LOOP(counted, "1: mov $1000, %ecx\n 2: dec %ecx\n jnz 2b\n jmp 1b");
LOOP(loop_insn, "1: mov $1000, %ecx\n 2: loop 2b\n jmp 1b");
LOOP(memory, "1: lea from, %rsi\n lea to, %rdi\n mov $8000, %ecx\n"
	     "2: mov (%rsi), %rax\n add %rax, (%rdi)\n add $8, %rsi\n add $8, %rdi\n dec %ecx\n jnz 2b\n jmp 1b");
LOOP(forward, "xor %eax, %eax\n 1: test %eax, %eax\n jz 2f\n ud2\n 2: xor %eax, %eax\n jz 3f\n ud2\n 3: jmp 1b");
LOOP(straight, "1: .rept 3000\n add $12345, %rax\n .endr\n jmp 1b");
LOOP(pages, "jmp 1f\n .balign 4096\n 1: inc %eax\n jmp 2f\n .balign 4096\n 2: dec %eax\n jmp 1b");
LOOP(indirect, "mov $1f, %eax\n 1: jmp *%rax");
LOOP(targets, "xor %ecx, %ecx\n 1: inc %ecx\n mov %ecx, %eax\n and $3, %eax\n jmp *9f(, %rax, 8)\n"
	      "2: inc %edx\n jmp 1b\n 3: dec %edx\n jmp 1b\n 4: not %edx\n jmp 1b\n 5: neg %edx\n jmp 1b\n"
	      ".balign 8\n 9: .quad 2b, 3b, 4b, 5b");
LOOP(calls, "1: call 2f\n jmp 1b\n 2: call 3f\n ret\n 3: ret");
LOOP(call_only, "jmp 2f\n 1: pop %rax\n 2: call 1b");
LOOP(ret_only, "1: push $1b\n ret");
LOOP(iret_only, "1: mov %rsp, %rax\n pushq $0x10\n push %rax\n pushfq\n pushq $8\n pushq $1b\n iretq");
LOOP(recursive, "1: mov $50, %ecx\n call 2f\n jmp 1b\n 2: dec %ecx\n jz 3f\n call 2b\n 3: ret");
LOOP(interrupts, "1: int $0x51\n jmp 1b");
LOOP(divisions, "1: mov $77, %edx\n mov $12345, %eax\n mov $1234567, %ecx\n div %rcx\n jmp 1b");
LOOP(x87, "fninit\n fldpi\n 1: fsin\n fldpi\n faddp\n jmp 1b");
LOOP(rep_stosb, "1: lea to, %rdi\n mov $65536, %ecx\n rep stosb\n jmp 1b");
LOOP(rep_movsq, "1: lea from, %rsi\n lea to, %rdi\n mov $8192, %ecx\n rep movsq\n jmp 1b");
LOOP(rep_movsb_back, "std\n 1: lea from + 65535, %rsi\n lea to + 65535, %rdi\n mov $65536, %ecx\n rep movsb\n jmp 1b");
LOOP(rep_scasb, "1: lea from, %rdi\n mov $65536, %ecx\n mov $1, %eax\n repne scasb\n jmp 1b");
LOOP(rep_cmpsb, "1: lea from, %rsi\n lea from, %rdi\n mov $65536, %ecx\n repe cmpsb\n jmp 1b");
LOOP(rep_insb, "1: lea to, %rdi\n mov $0x3fd, %edx\n mov $60000, %ecx\n rep insb\n jmp 1b");
LOOP(cpuid, "1: xor %eax, %eax\n cpuid\n jmp 1b");
LOOP(rdtsc, "1: rdtsc\n jmp 1b");
LOOP(port, "1: mov $0x3fd, %edx\n in %dx, %al\n jmp 1b");
LOOP(device, "1: mov 0xfee00020, %eax\n jmp 1b");
LOOP(locked, "lea to, %rdi\n 1: lock incq (%rdi)\n jmp 1b");
LOOP(split_lock, "lea to + 61, %rdi\n 1: lock incq (%rdi)\n jmp 1b");
LOOP(pauses, "1: pause\n jmp 1b");
LOOP(cli_sti, "1: cli\n nop\n sti\n nop\n jmp 1b");
LOOP(popf, "1: pushfq\n cli\n popfq\n jmp 1b");
LOOP(shadows, "1: sti\n mov %ss, %eax\n mov %eax, %ss\n jmp 1b");
LOOP(far, "1: ljmp *2f\n 2: .long 3f\n .word 8\n 3: jmp 1b");
LOOP(stores_on_itself, "1: lea 2f(%rip), %rdi\n mov $0x90, %al\n 3: stosb\n 2: nop\n nop\n jmp 1b");
LOOP(halt, "1: hlt\n jmp 1b");

static const struct {
	const char *what;
	void (*loop)(void);
} loops[] = {
	{ "a jump to itself", loop_empty },
	{ "a counted loop", loop_counted },
	{ "LOOP", loop_loop_insn },
	{ "loads and stores", loop_memory },
	{ "forward branches", loop_forward },
	{ "3000 instructions in a row", loop_straight },
	{ "jumps between two pages", loop_pages },
	{ "an indirect jump to itself", loop_indirect },
	{ "indirect jumps", loop_targets },
	{ "calls and returns", loop_calls },
	{ "only calls", loop_call_only },
	{ "only returns", loop_ret_only },
	{ "only IRETQ", loop_iret_only },
	{ "recursion", loop_recursive },
	{ "software interrupts", loop_interrupts },
	{ "divisions", loop_divisions },
	{ "FSIN", loop_x87 },
	{ "REP STOSB", loop_rep_stosb },
	{ "REP MOVSQ", loop_rep_movsq },
	{ "REP MOVSB downwards", loop_rep_movsb_back },
	{ "REPNE SCASB", loop_rep_scasb },
	{ "REPE CMPSB", loop_rep_cmpsb },
	{ "REP INSB", loop_rep_insb },
	{ "CPUID", loop_cpuid },
	{ "RDTSC", loop_rdtsc },
	{ "a port", loop_port },
	{ "a device's memory", loop_device },
	{ "locked increments", loop_locked },
	{ "locked increments across a cache line", loop_split_lock },
	{ "PAUSE", loop_pauses },
	{ "CLI and STI", loop_cli_sti },
	{ "CLI and POPF", loop_popf },
	{ "the shadows of STI and MOV SS", loop_shadows },
	{ "far jumps", loop_far },
	{ "stores to itself", loop_stores_on_itself },
	{ "HLT", loop_halt },
};

static void ignore(struct frame *f)
{
}

/* The TSC's kHz as KVM's leaf gives it, or 0. */
static uint32_t tsc_khz(void)
{
	uint32_t r[4];

	cpuid(0x40000000, 0, r);
	if (r[0] < 0x40000010 || r[1] != 0x4b4d564b)
		return 0;
	cpuid(0x40000010, 0, r);
	return r[0];
}

static void sort(uint64_t *a, unsigned n)
{
	for (unsigned i = 1; i < n; i++) {
		uint64_t x = a[i];
		unsigned k = i;

		for (; k && a[k - 1] > x; k--)
			a[k] = a[k - 1];
		a[k] = x;
	}
}

void test_main(void)
{
	uint32_t r[4], khz = tsc_khz();

	cpuid(1, 0, r);
	by_tsc = r[2] >> 24 & 1;
	lapic_enable();
	handlers[VECTOR] = on_timer;
	handlers[0x51] = ignore;
	LAPIC[0x3e0 / 4] = 0xb; /* by 1 */
	LAPIC[0x320 / 4] = VECTOR | (by_tsc ? DEADLINE : ONE_SHOT);
	fill(from, 0, sizeof(from));
	for (unsigned n = 0; n < sizeof(loops) / sizeof(loops[0]); n++) {
		bool early = false;

		fired = 0;
		for (unsigned i = 0; i < ROUNDS; i++) {
			/* Never at the same point of a loop. */
			arm(300000 + 7919 * i);
			loop_run(loops[n].loop);
			early |= by_tsc && (int64_t)late[i] < 0;
		}
		check(fired == ROUNDS && !early, loops[n].what);
		if (!by_tsc || !khz)
			continue;
		sort(late, ROUNDS);
		print("  late by %d us, at most %d\n", (unsigned)(late[ROUNDS / 2] * 1000 / khz),
		      (unsigned)(late[ROUNDS - 1] * 1000 / khz));
	}
}
