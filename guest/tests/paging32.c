/*
 * 32-bit and PAE paging: error codes, accessed and dirty bits, write protection
 * of the supervisor, large pages, global pages, reserved bits, no-execute, page
 * faults that become double faults.
 */
#include "lib.h"

#define WINDOW 0x40000000
#define P 1
#define W 2
#define U 4
#define A 0x20
#define D 0x40
#define PS 0x80
#define G 0x100

static uint32_t directory[1024] __attribute__((aligned(4096)));
static uint32_t low_tables[16][1024] __attribute__((aligned(4096)));
static uint32_t window[1024] __attribute__((aligned(4096)));
static uint8_t page_a[4096] __attribute__((aligned(4096))), page_b[4096] __attribute__((aligned(4096)));
static volatile uint8_t *const win = (uint8_t *)WINDOW;

static void set(uint32_t flags)
{
	window[0] = (word)page_a | flags;
	invlpg(win);
}

static void load(void *p)
{
	(void)*(volatile uint8_t *)p;
}
static void store(void *p)
{
	*(volatile uint8_t *)p = 1;
}
static void rmw(void *p)
{
	asm volatile("lock orb $0, (%0)" ::"r"(p) : "memory", "cc");
}
static void exec(void *p)
{
	((void (*)(void))(word)p)();
}

extern uint8_t user_load[], user_store[], user_jump[];
asm("user_load: movb (%eax), %cl; int $0x80\n"
    "user_store: movb $1, (%eax); int $0x80\n"
    "user_jump: jmp *%eax\n");

static void expect(const char *what, void (*fn)(void *), uint32_t vector, uint32_t error)
{
	struct trap t = catch(fn, (void *)WINDOW);

	check_trap(what, &t, vector, error);
	if (vector == 14 && t.vector == 14)
		check_eq("  CR2", t.cr2, WINDOW);
}
static void expect_user(const char *what, uint8_t *code, uint32_t vector, uint32_t error)
{
	struct trap t = catch_user((word)code, WINDOW);

	check_trap(what, &t, vector, error);
}

static void paging_on(void)
{
	unsigned n, i;

	for (n = 0; n < 16; n++) {
		for (i = 0; i < 1024; i++)
			low_tables[n][i] = (n * 1024 + i) * 4096 | P | W | U;
		directory[n] = (word)low_tables[n] | P | W | U;
	}
	directory[WINDOW >> 22] = (word)window | P | W | U;
	write_cr4(read_cr4() | 0x10);
	write_cr3((word)directory);
	write_cr0((read_cr0() | 0x80000000) & ~0x10000ul);
}

static void error_codes(void)
{
	set(0);
	expect("load, not present", load, 14, 0);
	expect("store, not present", store, 14, 2);
	expect("locked, not present", rmw, 14, 2);
	expect_user("user load, not present", user_load, 14, 4);
	expect_user("user store, not present", user_store, 14, 6);
	expect_user("user fetch, not present", user_jump, 14, 4);
	set(P | W);
	expect("supervisor page, load", load, NO_TRAP, 0);
	expect_user("supervisor page, user load", user_load, 14, 5);
	expect_user("supervisor page, user store", user_store, 14, 7);
	set(P | U);
	expect("read-only, CR0.WP clear", store, NO_TRAP, 0);
	expect_user("read-only, user store", user_store, 14, 7);
	write_cr0(read_cr0() | 0x10000);
	expect("read-only, CR0.WP set", store, 14, 3);
	set(P);
	expect("read-only supervisor page, CR0.WP set", store, 14, 3);
	expect("  load", load, NO_TRAP, 0);
	directory[WINDOW >> 22] &= ~U;
	set(P | W | U);
	expect_user("user bit clear in the directory", user_load, 14, 5);
	directory[WINDOW >> 22] |= U;
	directory[WINDOW >> 22] &= ~W;
	set(P | W | U);
	expect("write bit clear in the directory", store, 14, 3);
	directory[WINDOW >> 22] |= W;
	directory[WINDOW >> 22] &= ~P;
	set(P | W | U);
	expect("directory entry absent", store, 14, 2);
	directory[WINDOW >> 22] |= P;
}

static void accessed_dirty(void)
{
	directory[WINDOW >> 22] &= ~(A | D);
	set(P | W | U);
	expect("load", load, NO_TRAP, 0);
	check_eq("  A in the table", window[0] & 0xfff, P | W | U | A);
	check_eq("  A in the directory", directory[WINDOW >> 22] & 0xfff & ~D, P | W | U | A);
	expect("store", store, NO_TRAP, 0);
	check_eq("  D", window[0] & 0xfff, P | W | U | A | D);
	set(P | W | U);
	expect("store first", store, NO_TRAP, 0);
	check_eq("  A and D", window[0] & 0xfff, P | W | U | A | D);
	/* Clearing D without INVLPG leaves it to the TLB; with INVLPG the next store sets it again. */
	window[0] &= ~(uint32_t)D;
	invlpg(win);
	expect("load after D was cleared", load, NO_TRAP, 0);
	check_eq("  D stays clear", window[0] & D, 0);
	expect("store after it", store, NO_TRAP, 0);
	check_eq("  D again", window[0] & D, D);
	set(P | U);
	expect("refused store", store, 14, 3);
	check_eq("  sets no D", window[0] & D, 0);
	set(0);
	expect("absent", load, 14, 0);
	check_eq("  sets no A", window[0] & A, 0);
	set(P | W | U);
	*(volatile uint8_t *)page_a = 0xc3;
	expect("fetch", exec, NO_TRAP, 0);
	check_eq("  sets A, not D", window[0] & 0xfff, P | W | U | A);
}

static void large_pages(void)
{
	uint32_t old = directory[WINDOW >> 22];
	word base = 0x400000;

	directory[WINDOW >> 22] = base | P | W | U | PS;
	write_cr3((word)directory);
	*(volatile uint32_t *)(base + 0x123450) = 0xabcd1234;
	check_eq("4 MiB page", *(volatile uint32_t *)(WINDOW + 0x123450), 0xabcd1234);
	check_eq("  A", directory[WINDOW >> 22] & 0xfff, P | W | U | PS | A);
	*(volatile uint32_t *)(WINDOW + 0x3ffffc) = 0x77777777;
	check_eq("  end of it", *(volatile uint32_t *)(base + 0x3ffffc), 0x77777777);
	check_eq("  D", directory[WINDOW >> 22] & 0xfff, P | W | U | PS | A | D);
	directory[WINDOW >> 22] = base | P | U | PS;
	invlpg(win + 0x200000);
	expect("read-only 4 MiB page", store, 14, 3);
	directory[WINDOW >> 22] = base | P | W | U | PS | 1u << 21; /* reserved bit of a 4 MiB entry */
	write_cr3((word)directory);
	expect("reserved bit in it", load, 14, 9);
	directory[WINDOW >> 22] = old;
	write_cr3((word)directory);
}

static void global_pages(void)
{
	write_cr4(read_cr4() | 0x80);
	*(volatile uint8_t *)page_a = 1;
	*(volatile uint8_t *)page_b = 2;
	set(P | W | U);
	check_eq("page a", *win, 1);
	window[0] = (word)page_b | P | W | U;
	write_cr3((word)directory);
	check_eq("CR3 load drops a local entry", *win, 2);
	window[0] = (word)page_a | P | W | U | G;
	invlpg(win);
	check_eq("global entry", *win, 1);
	window[0] = (word)page_b | P | W | U | G;
	invlpg(win);
	check_eq("INVLPG drops a global entry", *win, 2);
	window[0] = (word)page_a | P | W | U | G;
	write_cr4(read_cr4() & ~0x80ul);
	check_eq("CR4.PGE change drops global entries", *win, 1);
}

/* #PF while #GP is delivered and the like; #DF by a task gate with paging on. */
struct tss32 {
	uint32_t link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags, eax, ecx, edx, ebx, esp, ebp, esi, edi, es, cs,
		ss, ds, fs, gs, ldt;
	uint16_t trap, iomap;
};
static volatile struct tss32 df __attribute__((aligned(128)));
static uint8_t df_stack[4096] __attribute__((aligned(16)));
static volatile uint32_t df_count, df_cr2;
static void resume(void *p)
{
	asm volatile("mov catch_sp, %%esp; sub $64, %%esp; int $0x81" ::: "memory");
}
static void df_main(void)
{
	volatile struct tss32 *t = (void *)tss;

	df_count++;
	df_cr2 = read_cr2();
	t->eip = (word)resume;
	t->cs = CODE;
	t->ss = t->ds = t->es = DATA;
	t->eflags = 2;
	asm volatile("iret" ::: "memory");
	__builtin_unreachable();
}
static void bad_stack(void *p)
{
	/* Push with ESP in the missing page: #PF, whose delivery faults again. */
	asm volatile("mov %0, %%esp; push %%eax" ::"r"(WINDOW + 0x800) : "memory");
}
static void bad_stack_ud(void *p)
{
	asm volatile("mov %0, %%esp; ud2" ::"r"(WINDOW + 0x800) : "memory");
}
static void bad_stack_int(void *p)
{
	asm volatile("mov %0, %%esp; int $0x50" ::"r"(WINDOW + 0x800) : "memory");
}

static void expect_df(const char *what, void (*fn)(void *))
{
	struct trap t;

	fill((void *)&df, 0, sizeof(df));
	df.eip = (word)df_main;
	df.eflags = 2;
	df.esp = (word)df_stack + sizeof(df_stack);
	df.es = df.ss = df.ds = df.fs = df.gs = DATA;
	df.cs = CODE;
	df.cr3 = (word)directory;
	((volatile struct tss32 *)tss)->cr3 = (word)directory;
	gdt[FREE_SELECTOR / 8] = descriptor((word)&df, 0x67, 0x89, 0);
	gate(8, 5, 0, FREE_SELECTOR, 0, 0);
	df_count = 0;
	set(0);
	t = catch(fn, NULL);
	asm volatile("clts");
	gate_default(8);
	check(t.vector == 0x81 && df_count == 1, what);
	check((df_cr2 & ~0xfffu) == WINDOW, "  CR2 of the second fault");
}

static void double_faults(void)
{
	expect_df("#PF in the delivery of #PF", bad_stack);
	expect_df("#UD on a missing stack: #PF, then #PF again", bad_stack_ud);
	expect_df("INT n on a missing stack: #PF, then #PF again", bad_stack_int);
}

/* PAE: the same window through 64-bit entries. */
static uint64_t pdpt[4] __attribute__((aligned(4096)));
static uint64_t pae_directories[4][512] __attribute__((aligned(4096)));
static uint64_t pae_window[512] __attribute__((aligned(4096)));

static void set_pae(uint64_t flags)
{
	pae_window[0] = (word)page_a | flags;
	invlpg(win);
}

static void load_cr3(void *p)
{
	write_cr3((word)p);
}

static void pae(void)
{
	uint32_t r[4];
	bool nx;
	unsigned n;

	write_cr0(read_cr0() & ~0x80000000ul);
	for (n = 0; n < 512; n++)
		pae_directories[0][n] = (uint64_t)n << 21 | P | W | U | PS;
	pae_directories[1][0] = (word)pae_window | P | W | U;
	for (n = 0; n < 4; n++)
		pdpt[n] = (word)pae_directories[n] | P;
	write_cr4(read_cr4() | 0x20);
	write_cr3((word)pdpt);
	write_cr0(read_cr0() | 0x80010000);
	set_pae(P | W | U);
	expect("PAE load", load, NO_TRAP, 0);
	check_eq("  A", pae_window[0] & 0xfff, P | W | U | A);
	expect("PAE store", store, NO_TRAP, 0);
	check_eq("  D", pae_window[0] & 0xfff, P | W | U | A | D);
	set_pae(0);
	expect("PAE, not present", load, 14, 0);
	set_pae(P | U);
	expect("PAE, read-only", store, 14, 3);
	set_pae(P | W | U | 1ull << 62);
	expect("PAE, reserved bit 62", load, 14, 9);
	set_pae(P | W | U | 1ull << 51);
	expect("PAE, reserved physical bit 51", load, 14, 9);
	expect_user("PAE, reserved bit, user", user_load, 14, 0xd);
	set_pae(P | W | U | 1ull << 63);
	expect("PAE, bit 63 without NXE", load, 14, 9);
	cpuid(0x80000001, 0, r);
	nx = r[3] >> 20 & 1;
	if (nx) {
		*(volatile uint8_t *)page_a = 0xc3;
		wrmsr(0xc0000080, rdmsr(0xc0000080) | 0x800);
		set_pae(P | W | U | 1ull << 63);
		expect("NX page: load", load, NO_TRAP, 0);
		expect("NX page: fetch", exec, 14, 0x11);
		expect_user("NX page: user fetch", user_jump, 14, 0x15);
		set_pae(0);
		expect("absent page: fetch", exec, 14, 0x10);
		set_pae(P | W | U);
		expect("executable page", exec, NO_TRAP, 0);
		pae_directories[1][0] |= 1ull << 63;
		set_pae(P | W | U);
		expect("NX in the directory", exec, 14, 0x11);
		pae_directories[1][0] &= ~(1ull << 63);
		set_pae(P | W | U);
	} else {
		skip("NX: not in CPUID");
	}
	pae_directories[1][0] = 0x400000 | P | W | U | PS | 1 << 13;
	write_cr3((word)pdpt);
	expect("2 MiB page with reserved bit 13", load, 14, 9);
	pae_directories[1][0] = (word)pae_window | P | W | U;
	/* PDPTEs are registers: a change in memory counts only from the next CR3 load. */
	write_cr3((word)pdpt);
	set_pae(P | W | U);
	pdpt[1] = 0;
	invlpg(win);
	expect("PDPTE cleared in memory only", load, NO_TRAP, 0);
	write_cr3((word)pdpt);
	expect("PDPTE cleared and CR3 loaded", load, 14, 0);
	pdpt[1] = (word)pae_directories[1] | P | 1 << 1;
	{
		struct trap t = catch(load_cr3, pdpt);

		check_trap("PDPTE with a reserved bit: MOV CR3 faults", &t, 13, 0);
	}
	pdpt[1] = (word)pae_directories[1] | P;
	write_cr3((word)pdpt);
	expect("and is well again", load, NO_TRAP, 0);
}

void test_main(void)
{
	paging_on();
	error_codes();
	accessed_dirty();
	large_pages();
	global_pages();
	double_faults();
	pae();
}
