/*
 * Several cpus: INIT and SIPI, IPIs in every form of destination, NMI, HLT and
 * its wake-up, locked operations of every alignment, TLB shootdown, accessed
 * and dirty bits, code that another cpu rewrites, the TSC. Wants SMP_CPUS cpus.
 */
#include "lib.h"

#define SMP_CPUS   4
#define TRAMPOLINE 0x8000
#define STACK      16384
#define LAPIC      ((volatile uint32_t *)0xfee00000)
#define WINDOW     0x100000000ul /* linear addresses of our own, 4 KiB pages */

#define ICR_NMI     0x400
#define ICR_INIT    0x500
#define ICR_STARTUP 0x600
#define ICR_LOGICAL 0x800
#define ICR_ASSERT  0x4000
#define ICR_SELF    0x40000
#define ICR_ALL     0x80000
#define ICR_OTHERS  0xc0000

enum { VECTOR_IPI = 0x40, VECTOR_WAKE = 0x41, VECTOR_FLUSH = 0x42 };

extern uint8_t smp_trampoline[], smp_trampoline_end[];
extern uint64_t pdpt[];
extern uint8_t idt_pointer[];

static uint8_t stacks[SMP_CPUS][STACK] __attribute__((aligned(16)));
uint64_t smp_stack; /* of the cpu that is starting */
static volatile uint32_t online[SMP_CPUS], starts[SMP_CPUS];
static volatile uint32_t ipis[SMP_CPUS], nmis[SMP_CPUS], wakes[SMP_CPUS], flushes[SMP_CPUS];

/* Work for the others: run by all when `round` moves, which then count themselves done. */
static void (*volatile job)(unsigned cpu);
static volatile uint32_t job_round;
static uint32_t job_done;

static uint64_t window_table[512] __attribute__((aligned(4096)));
static uint64_t window_directory[512] __attribute__((aligned(4096)));
static uint8_t frames[8][4096] __attribute__((aligned(4096)));

asm(".pushsection .text\n"
    ".code16\n"
    "smp_trampoline:\n"
    "	cli\n"
    "	xor %ax, %ax\n"
    "	mov %ax, %ds\n"
    "	lgdtl 0x8000 + smp_gdt_pointer - smp_trampoline\n"
    "	mov %cr4, %eax\n"
    "	or $0x620, %eax\n"
    "	mov %eax, %cr4\n"
    "	mov $pml4, %eax\n"
    "	mov %eax, %cr3\n"
    "	mov $0xc0000080, %ecx\n"
    "	rdmsr\n"
    "	or $0x901, %eax\n"
    "	wrmsr\n"
    "	mov %cr0, %eax\n"
    "	and $~0x6000000c, %eax\n"
    "	or $0x80010023, %eax\n"
    "	mov %eax, %cr0\n"
    "	ljmpl $8, $smp_start64\n"
    "	.align 8\n"
    "smp_gdt:\n"
    "	.quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff\n"
    "smp_gdt_pointer:\n"
    "	.word 23\n"
    "	.long 0x8000 + smp_gdt - smp_trampoline\n"
    "smp_trampoline_end:\n"
    ".code64\n"
    "smp_start64:\n"
    "	mov $0x10, %eax\n"
    "	mov %eax, %ds\n"
    "	mov %eax, %es\n"
    "	mov %eax, %ss\n"
    "	mov smp_stack, %rsp\n"
    "	lidt idt_pointer\n"
    "	call smp_cpu_main\n"
    ".popsection\n");

static inline unsigned cpu(void)
{
	return LAPIC[0x20 / 4] >> 24;
}

static inline void relax(void)
{
	asm volatile("pause" ::: "memory");
}

static inline uint64_t rdtsc(void)
{
	uint32_t lo, hi;

	asm volatile("lfence; rdtsc" : "=a"(lo), "=d"(hi)::"memory");
	return (uint64_t)hi << 32 | lo;
}

static void icr(uint32_t dest, uint32_t low)
{
	LAPIC[0x310 / 4] = dest << 24;
	LAPIC[0x300 / 4] = low;
}

/* Half a second, by a clock that nobody need calibrate: about a million reads of a port. */
static bool within(volatile uint32_t *p, uint32_t want)
{
	unsigned n;

	for (n = 0; n < 2000000; n++) {
		if (*p == want)
			return true;
		relax();
	}
	return *p == want;
}

static void settle(void)
{
	unsigned n;

	for (n = 0; n < 20000; n++)
		relax();
}

static void on_ipi(struct frame *f)
{
	ipis[cpu()]++;
	lapic_eoi();
}

static void on_nmi(struct frame *f)
{
	nmis[cpu()]++;
}

static void on_wake(struct frame *f)
{
	wakes[cpu()]++;
	lapic_eoi();
}

static void on_flush(struct frame *f)
{
	invlpg((void *)WINDOW);
	__atomic_fetch_add(&flushes[cpu()], 1, __ATOMIC_SEQ_CST);
	lapic_eoi();
}

void smp_cpu_main(void)
{
	unsigned me = cpu();
	uint32_t seen = job_round;

	lapic_enable();
	LAPIC[0xe0 / 4] = 0xffffffff;	   /* flat */
	LAPIC[0xd0 / 4] = 1u << (24 + me); /* logical id */
	starts[me]++;
	__atomic_store_n(&online[me], 1, __ATOMIC_SEQ_CST);
	asm volatile("sti");
	for (;;) {
		while (__atomic_load_n(&job_round, __ATOMIC_SEQ_CST) == seen)
			relax();
		seen = job_round;
		job(me);
		__atomic_fetch_add(&job_done, 1, __ATOMIC_SEQ_CST);
	}
}

/* All cpus, the caller included, run fn. */
static void everywhere(void (*fn)(unsigned))
{
	job_done = 0;
	job = fn;
	__atomic_fetch_add(&job_round, 1, __ATOMIC_SEQ_CST);
	fn(0);
	while (__atomic_load_n(&job_done, __ATOMIC_SEQ_CST) != SMP_CPUS - 1)
		relax();
}

static bool start(unsigned who, bool logical)
{
	unsigned n;

	online[who] = 0;
	smp_stack = (uint64_t)(stacks[who] + STACK);
	icr(who, ICR_INIT | ICR_ASSERT);
	for (n = 0; n < 10000; n++)
		inb(0x80);
	icr(who, ICR_STARTUP | ICR_ASSERT | TRAMPOLINE >> 12);
	return within(&online[who], 1);
}

static uint32_t sum(volatile uint32_t *counters)
{
	uint32_t total = 0;
	unsigned n;

	for (n = 0; n < SMP_CPUS; n++)
		total += counters[n];
	return total;
}

static void ipi_case(const char *what, uint32_t dest, uint32_t low, unsigned mask)
{
	unsigned n;
	bool ok = true;

	for (n = 0; n < SMP_CPUS; n++)
		ipis[n] = 0;
	icr(dest, low | VECTOR_IPI | ICR_ASSERT);
	for (n = 0; n < SMP_CPUS; n++)
		if (mask >> n & 1)
			ok &= within(&ipis[n], 1);
	settle();
	for (n = 0; n < SMP_CPUS; n++)
		ok &= ipis[n] == (mask >> n & 1);
	check(ok, what);
	if (!ok)
		print("  %d %d %d %d, want mask %x\n", ipis[0], ipis[1], ipis[2], ipis[3], (word)mask);
}

static void set_cluster(unsigned me)
{
	LAPIC[0xe0 / 4] = 0x0fffffff;
	LAPIC[0xd0 / 4] = (me / 2 + 1) << 28 | 1u << (24 + me % 2);
}

static void set_flat(unsigned me)
{
	LAPIC[0xe0 / 4] = 0xffffffff;
	LAPIC[0xd0 / 4] = 1u << (24 + me);
}

static void destinations(void)
{
	unsigned n;

	asm volatile("sti");
	ipi_case("IPI: physical", 2, 0, 4);
	ipi_case("IPI: physical, to its sender", 0, 0, 1);
	ipi_case("IPI: physical, nobody", 9, 0, 0);
	ipi_case("IPI: physical broadcast", 0xff, 0, 15);
	ipi_case("IPI: self", 0, ICR_SELF, 1);
	ipi_case("IPI: all", 0, ICR_ALL, 15);
	ipi_case("IPI: all others", 0, ICR_OTHERS, 14);
	ipi_case("IPI: logical, flat", 0xa, ICR_LOGICAL, 10);
	ipi_case("IPI: logical broadcast", 0xff, ICR_LOGICAL, 15);
	everywhere(set_cluster);
	ipi_case("IPI: logical, cluster", 0x23, ICR_LOGICAL, 12);
	ipi_case("IPI: logical, one of a cluster", 0x12, ICR_LOGICAL, 2);
	everywhere(set_flat);
	for (n = 0; n < SMP_CPUS; n++)
		ipis[n] = 0;
	for (n = 0; n < 40; n++) {
		uint32_t before = sum(ipis), turns = 0;

		icr(0xe, ICR_LOGICAL | 0x100 | VECTOR_IPI | ICR_ASSERT);
		while (sum(ipis) == before && turns++ < 2000000)
			relax();
	}
	settle();
	check_eq("IPI: lowest priority reaches one", sum(ipis), 40);
	check_eq("  of those named", ipis[0], 0);

	for (n = 0; n < SMP_CPUS; n++)
		nmis[n] = 0;
	icr(3, ICR_NMI | ICR_ASSERT);
	check(within(&nmis[3], 1), "NMI to one");
	icr(0, ICR_NMI | ICR_ASSERT | ICR_OTHERS);
	check(within(&nmis[1], 1) && within(&nmis[2], 1) && within(&nmis[3], 2) && nmis[0] == 0,
	      "NMI to all others");
	asm volatile("cli");
}

/* ---- HLT ---- */

#define PINGS 500
static volatile uint32_t ball;

/* Whose turn it is not sleeps with HLT until the other's IPI. STI's shadow closes the gap. */
static void play(unsigned me)
{
	unsigned other = me ^ 1;

	if (me > 1)
		return;
	while (ball < 2 * PINGS) {
		asm volatile("cli" ::: "memory");
		if (ball % 2 != me) {
			asm volatile("sti; hlt" ::: "memory");
			continue;
		}
		asm volatile("sti" ::: "memory");
		__atomic_fetch_add(&ball, 1, __ATOMIC_SEQ_CST);
		icr(other, VECTOR_WAKE | ICR_ASSERT);
	}
	icr(other, VECTOR_WAKE | ICR_ASSERT);
	asm volatile("sti");
}

static void halting(void)
{
	ball = 0;
	everywhere(play);
	check_eq("HLT: no wake-up is lost", ball, 2 * PINGS);
	asm volatile("cli");
}

/* ---- locked operations ---- */

#define ROUNDS 1000
static uint8_t *where; /* the operand, at any alignment */
static uint64_t crc_lock;

#define EACH(cpu_rounds) for (unsigned n = 0; n < (cpu_rounds); n++)

static void do_add(unsigned me)
{
	EACH(ROUNDS) asm volatile("lock addl $3, (%0)" ::"r"(where) : "memory", "cc");
}
static void do_inc_dec(unsigned me)
{
	EACH(ROUNDS)
	{
		asm volatile("lock incq (%0)" ::"r"(where) : "memory", "cc");
		asm volatile("lock incq (%0)" ::"r"(where) : "memory", "cc");
		asm volatile("lock decq (%0)" ::"r"(where) : "memory", "cc");
	}
}
static void do_xadd(unsigned me)
{
	EACH(ROUNDS)
	{
		uint32_t one = 1;
		asm volatile("lock xaddl %0, (%1)" : "+r"(one) : "r"(where) : "memory", "cc");
	}
}
static void do_cmpxchg(unsigned me)
{
	EACH(ROUNDS)
	{
		uint32_t old = *(volatile uint32_t *)where;
		bool ok;
		do
			asm volatile("lock cmpxchgl %3, (%2)"
				     : "=@ccz"(ok), "+a"(old)
				     : "r"(where), "r"(old + 1)
				     : "memory");
		while (!ok);
	}
}
static void do_cmpxchg8b(unsigned me)
{
	EACH(ROUNDS)
	{
		uint32_t low = 0, high = 0;
		bool ok;
		do {
			uint64_t next = ((uint64_t)high << 32 | low) + 1;
			asm volatile("lock cmpxchg8b (%3)"
				     : "=@ccz"(ok), "+a"(low), "+d"(high)
				     : "r"(where), "b"((uint32_t)next), "c"((uint32_t)(next >> 32))
				     : "memory");
		} while (!ok);
	}
}
static void do_cmpxchg16b(unsigned me)
{
	EACH(ROUNDS)
	{
		uint64_t low = 0, high = 0;
		bool ok;
		do
			asm volatile("lock cmpxchg16b (%3)"
				     : "=@ccz"(ok), "+a"(low), "+d"(high)
				     : "r"(where), "b"(low + 1), "c"(high + 2)
				     : "memory");
		while (!ok);
	}
}
/* A lock by XCHG and a plain store, around a plain addition. */
static void do_xchg(unsigned me)
{
	EACH(ROUNDS)
	{
		uint32_t taken = 1;
		do
			asm volatile("xchgl %0, (%1)" : "+r"(taken) : "r"(where) : "memory");
		while (taken);
		crc_lock++;
		asm volatile("movl $0, (%0)" ::"r"(where) : "memory");
	}
}
/* A lock by BTS and BTR. */
static void do_bts(unsigned me)
{
	EACH(ROUNDS)
	{
		bool set;
		do
			asm volatile("lock btsl $17, (%1)" : "=@ccc"(set) : "r"(where) : "memory");
		while (set);
		crc_lock++;
		asm volatile("lock btrl $17, (%0)" ::"r"(where) : "memory", "cc");
	}
}
/* Every cpu turns its own bits; carries, negations and complements of them all add up to nothing. */
static void do_xor_not(unsigned me)
{
	EACH(ROUNDS)
	{
		asm volatile("lock xorl %1, (%0)" ::"r"(where), "r"(1u << me) : "memory", "cc");
		asm volatile("lock notl (%0)" ::"r"(where) : "memory");
		asm volatile("lock xorl %1, (%0)" ::"r"(where), "r"(1u << me) : "memory", "cc");
		asm volatile("lock notl (%0)" ::"r"(where) : "memory");
	}
}
/* On a halfword, beside a neighbour that is stored plainly. */
static void do_word(unsigned me)
{
	EACH(ROUNDS)
	{
		if (me == 0)
			asm volatile("movw %w1, 2(%0)" ::"r"(where), "r"(n) : "memory");
		asm volatile("lock addw $1, (%0)" ::"r"(where) : "memory", "cc");
	}
}
/* TLB entries that come and go under it. */
static void do_add_flushing(unsigned me)
{
	EACH(ROUNDS / 4)
	{
		invlpg((void *)WINDOW);
		invlpg((void *)(WINDOW + 4096));
		asm volatile("lock addl $1, (%0)" ::"r"(where) : "memory", "cc");
	}
}

static uint64_t load(void)
{
	uint64_t x;

	copy(&x, where, 8);
	return x;
}

static void locked_at(const char *place, uint8_t *p, bool aligned16)
{
	print("locked operations, %s\n", place);
	where = p;
#define CASE(fn, got, want)                   \
	do {                                  \
		fill(p, 0, 16);               \
		crc_lock = 0;                 \
		everywhere(fn);               \
		check_eq("  " #fn, got, want); \
	} while (0)
	CASE(do_add, load(), 3 * SMP_CPUS * ROUNDS);
	CASE(do_inc_dec, load(), SMP_CPUS * ROUNDS);
	CASE(do_xadd, load(), SMP_CPUS * ROUNDS);
	CASE(do_cmpxchg, load(), SMP_CPUS * ROUNDS);
	CASE(do_cmpxchg8b, load(), SMP_CPUS * ROUNDS);
	CASE(do_xchg, crc_lock, SMP_CPUS * ROUNDS);
	CASE(do_bts, crc_lock, SMP_CPUS * ROUNDS);
	CASE(do_xor_not, load(), 0);
	CASE(do_word, load() & 0xffff, SMP_CPUS * ROUNDS);
	CASE(do_add_flushing, load(), SMP_CPUS * (ROUNDS / 4));
	if (aligned16) {
		CASE(do_cmpxchg16b, load(), SMP_CPUS * ROUNDS);
		check_eq("    upper half", *(uint64_t *)(p + 8), 2 * SMP_CPUS * ROUNDS);
	}
}

/* ---- page tables ---- */

static volatile uint32_t flush_stop, stale_stores;

static void map(unsigned page, const void *frame)
{
	window_table[page] = (uint64_t)frame | 3;
}

static void flush_here(unsigned me)
{
	invlpg((void *)WINDOW);
	invlpg((void *)(WINDOW + 4096));
}

static void window_init(void)
{
	window_directory[0] = (uint64_t)window_table | 3;
	pdpt[WINDOW >> 30] = (uint64_t)window_directory | 3;
	write_cr3(read_cr3());
	/* Two pages that are neighbours in linear addresses only. */
	map(0, frames[0]);
	map(1, frames[5]);
}

/* The others store through the window all the time. */
static void store_on(unsigned me)
{
	asm volatile("sti");
	while (!flush_stop)
		((volatile uint32_t *)WINDOW)[me] = 0xdead;
	asm volatile("cli");
}

static void reload_cr3(unsigned me)
{
	write_cr3(read_cr3());
}

static void shootdown_main(unsigned me)
{
	unsigned n, other, bad = 0;

	if (me) {
		store_on(me);
		asm volatile("sti");
		return;
	}
	for (n = 0; n < 400; n++) {
		uint32_t before[SMP_CPUS];
		volatile uint32_t *old = (volatile uint32_t *)frames[n % 2];

		for (other = 1; other < SMP_CPUS; other++)
			before[other] = flushes[other];
		__atomic_store_n(&window_table[0], (uint64_t)frames[(n + 1) % 2] | 3, __ATOMIC_SEQ_CST);
		icr(0, VECTOR_FLUSH | ICR_ASSERT | ICR_OTHERS);
		for (other = 1; other < SMP_CPUS; other++)
			while (flushes[other] == before[other])
				relax();
		/* From here on nobody stores to the old frame. */
		for (other = 1; other < SMP_CPUS; other++)
			old[other] = n;
		for (other = 0; other < 300; other++)
			relax();
		for (other = 1; other < SMP_CPUS; other++)
			bad += old[other] != n;
	}
	stale_stores = bad;
	flush_stop = 1;
}

static void shootdown(void)
{
	flush_stop = 0;
	everywhere(shootdown_main);
	check_eq("TLB shootdown: no store to the page that was taken away", stale_stores, 0);
	map(0, frames[0]);
	everywhere(flush_here);
}

/* Software's bits of an entry, counted up with LOCK, while other cpus make the processor set A and D. */
static volatile uint32_t dirty_seen;

static void accessed_dirty(unsigned me)
{
	unsigned n;

	if (me < 2) {
		for (n = 0; n < 1500; n++) {
			__atomic_fetch_add(&window_table[0], 1ull << 52, __ATOMIC_SEQ_CST);
			__atomic_fetch_and(&window_table[0], ~0x60ull, __ATOMIC_SEQ_CST);
		}
		return;
	}
	for (n = 0; n < 3000; n++) {
		invlpg((void *)WINDOW);
		((volatile uint32_t *)WINDOW)[me] = n;
	}
}

static void tables(void)
{
	unsigned n;

	window_table[0] = (uint64_t)frames[0] | 3;
	everywhere(accessed_dirty);
	check_eq("A and D: no change of the entry by others is lost", window_table[0] >> 52 & 0x7ff, 3000 & 0x7ff);
	window_table[0] &= ~(0xfffull << 52);
	everywhere(flush_here);
	for (n = 0; n < 200; n++) {
		__atomic_fetch_and(&window_table[0], ~0x60ull, __ATOMIC_SEQ_CST);
		invlpg((void *)WINDOW);
		*(volatile uint32_t *)WINDOW = n;
		dirty_seen += (window_table[0] & 0x60) == 0x60;
	}
	check_eq("  and each store sets them anew", dirty_seen, 200);
}

/* ---- code that another cpu rewrites ---- */

#define REWRITES 200
static volatile uint32_t version, acknowledged[SMP_CPUS], wrong;
static uint8_t code_page[4096] __attribute__((aligned(4096)));
static bool beside; /* data is stored on the page of the code all the time */

static void serialise(void)
{
	uint32_t r[4];

	cpuid(0, 0, r);
}

static void put_code(uint32_t value)
{
	/* mov eax, value; ret. The store of 8 bytes is one store. */
	*(volatile uint64_t *)code_page = 0xb8 | (uint64_t)value << 8 | 0xc3ull << 40;
}

static void rewrite(unsigned me)
{
	unsigned n, other;
	uint32_t (*fn)(void) = (uint32_t(*)(void))(word)code_page;

	if (me) {
		for (n = 1; n <= REWRITES; n++) {
			while (version < n)
				relax();
			serialise();
			if (fn() != n || fn() != n)
				__atomic_fetch_add(&wrong, 1, __ATOMIC_SEQ_CST);
			acknowledged[me] = n;
		}
		return;
	}
	for (n = 1; n <= REWRITES; n++) {
		if (beside)
			((volatile uint32_t *)code_page)[512 + n % 512] = n;
		put_code(n);
		version = n;
		for (other = 1; other < SMP_CPUS; other++)
			while (acknowledged[other] != n)
				relax();
		/* Now and then the page is forgotten as code, so that it is granted for stores again. */
		if (n % 7 == 0)
			fill(code_page + 64, (uint8_t)n, 256);
	}
}

/* A page that is data here and code there by turns: the store that makes it code must be heard. */
static void fresh_code(unsigned me)
{
	unsigned n, other;

	if (me) {
		for (n = 1; n <= REWRITES; n++) {
			uint32_t (*fn)(void) = (uint32_t(*)(void))(word)(code_page + n % 32 * 64);

			while (version < n)
				relax();
			serialise();
			if (fn() != n)
				__atomic_fetch_add(&wrong, 1, __ATOMIC_SEQ_CST);
			acknowledged[me] = n;
		}
		return;
	}
	for (n = 1; n <= REWRITES; n++) {
		volatile uint64_t *p = (volatile uint64_t *)(code_page + n % 32 * 64);

		*p = 0xb8 | (uint64_t)n << 8 | 0xc3ull << 40;
		version = n;
		for (other = 1; other < SMP_CPUS; other++)
			while (acknowledged[other] != n)
				relax();
	}
}

/*
 * The writer does not wait for each reader: what they execute may be any
 * version between the one they saw before and the one they see after.
 */
static void race_code(unsigned me)
{
	uint32_t (*fn)(void) = (uint32_t(*)(void))(word)code_page;
	uint32_t n;

	if (me) {
		uint32_t last = 0;

		while (last < REWRITES * 20) {
			uint32_t before = version, got, after;

			serialise();
			got = fn();
			after = version;
			if (got < before || got > after + 1)
				__atomic_fetch_add(&wrong, 1, __ATOMIC_SEQ_CST);
			last = before;
		}
		return;
	}
	for (n = 1; n <= REWRITES * 20; n++) {
		put_code(n);
		version = n;
	}
}

static void rewriting(const char *what, void (*fn)(unsigned))
{
	unsigned n;

	put_code(0);
	version = wrong = 0;
	for (n = 0; n < SMP_CPUS; n++)
		acknowledged[n] = 0;
	everywhere(fn);
	check_eq(what, wrong, 0);
}

/* ---- time ---- */

static uint64_t tsc_last;
static volatile uint32_t backwards;
static uint32_t tsc_lock;

static void clocks(unsigned me)
{
	unsigned n;

	for (n = 0; n < 3000; n++) {
		uint64_t now;

		while (__atomic_exchange_n(&tsc_lock, 1, __ATOMIC_SEQ_CST))
			relax();
		now = rdtsc();
		if (now < tsc_last)
			backwards++;
		tsc_last = now;
		__atomic_store_n(&tsc_lock, 0, __ATOMIC_SEQ_CST);
	}
}

/* ---- the end, said by another cpu ---- */

static void end_elsewhere(unsigned me)
{
	if (me == 2)
		finish();
	for (;;)
		asm volatile("cli; hlt");
}

void test_main(void)
{
	unsigned n;

	lapic_enable();
	LAPIC[0xe0 / 4] = 0xffffffff;
	LAPIC[0xd0 / 4] = 1u << 24;
	handlers[2] = on_nmi;
	handlers[VECTOR_IPI] = on_ipi;
	handlers[VECTOR_WAKE] = on_wake;
	handlers[VECTOR_FLUSH] = on_flush;
	window_init();
	copy((void *)TRAMPOLINE, smp_trampoline, (size_t)(smp_trampoline_end - smp_trampoline));
	for (n = 1; n < SMP_CPUS; n++) {
		bool ok = start(n, false);

		check(ok, "INIT and SIPI start a cpu");
		if (!ok)
			finish();
	}
	/* A running cpu: INIT stops it wherever it is, and only SIPI starts it again. */
	online[3] = 0;
	icr(3, ICR_INIT | ICR_ASSERT);
	settle();
	icr(3, VECTOR_IPI | ICR_ASSERT);
	settle();
	check_eq("INIT of a running cpu: it waits", online[3], 0);
	smp_stack = (uint64_t)(stacks[3] + STACK);
	icr(3, ICR_STARTUP | ICR_ASSERT | TRAMPOLINE >> 12);
	check(within(&online[3], 1), "  for SIPI");
	icr(3, ICR_STARTUP | ICR_ASSERT | TRAMPOLINE >> 12);
	settle();
	check_eq("  and a second SIPI is nothing", starts[3], 2);

	destinations();
	halting();
	everywhere(reload_cr3);
	locked_at("aligned", (uint8_t *)WINDOW + 64, true);
	locked_at("unaligned within a cache line", (uint8_t *)WINDOW + 64 + 17, false);
	locked_at("across cache lines", (uint8_t *)WINDOW + 128 - 1, false);
	locked_at("across pages", (uint8_t *)WINDOW + 4096 - 2, false);
	shootdown();
	tables();
	rewriting("code rewritten, readers waited for", rewrite);
	beside = true;
	rewriting("  with data stored beside it", rewrite);
	rewriting("code written where data was", fresh_code);
	rewriting("code rewritten, readers not waited for", race_code);
	/* LOCK on a page that has code too. */
	put_code(7);
	check_eq("a page of code", ((uint32_t(*)(void))(word)code_page)(), 7);
	locked_at("on a page with code", code_page + 512, true);
	locked_at("in the granule of code", code_page + 16, true);
	everywhere(clocks);
	check_eq("TSC: never backwards from one cpu to another", backwards, 0);
	everywhere(end_elsewhere);
}
