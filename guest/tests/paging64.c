/*
 * 4-level paging: rights at every level, accessed and dirty bits, NX, SMEP,
 * SMAP, UMIP, reserved bits, 2 MiB and 1 GiB pages, canonical addresses, PCID,
 * INVPCID and global pages.
 */
#include "lib.h"

#define P 1ull
#define W 2ull
#define U 4ull
#define A 0x20ull
#define D 0x40ull
#define PS 0x80ull
#define G 0x100ull
#define NX (1ull << 63)

#define CR4_PGE 0x80
#define CR4_UMIP 0x800
#define CR4_PCIDE 0x20000
#define CR4_SMEP 0x100000
#define CR4_SMAP 0x200000

/* A third PML4 slot of our own: pml4[2] -> pdpt -> directory -> table. */
#define WINDOW 0x10000000000ull
static volatile uint8_t *const win = (uint8_t *)WINDOW;
extern uint64_t pml4[512];
static uint64_t w_pdpt[512] __attribute__((aligned(4096)));
static uint64_t w_dir[512] __attribute__((aligned(4096)));
static uint64_t w_table[512] __attribute__((aligned(4096)));
static uint64_t pml4_b[512] __attribute__((aligned(4096)));
static uint64_t b_pdpt[512] __attribute__((aligned(4096)));
static uint64_t b_dir[512] __attribute__((aligned(4096)));
static uint64_t b_table[512] __attribute__((aligned(4096)));
static uint8_t page_a[4096] __attribute__((aligned(4096))), page_b[4096] __attribute__((aligned(4096)));

static void set(uint64_t flags)
{
	w_table[0] = (word)page_a | flags;
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
static void exec(void *p)
{
	((void (*)(void))(word)p)();
}
extern uint8_t user_load[], user_store[], user_jump[], user_smsw[], user_sgdt[], user_str[], user_rep[], push_at[];
asm("user_load: movb (%rdi), %cl; int $0x80\n"
    "user_store: movb $1, (%rdi); int $0x80\n"
    "user_jump: jmp *%rdi\n"
    "user_smsw: smsw %eax; int $0x80\n"
    "user_sgdt: sub $64, %rsp; sgdt (%rsp); int $0x80\n"
    "user_str: str %eax; int $0x80\n");

static bool has(uint32_t leaf, unsigned reg, unsigned bit)
{
	uint32_t r[4];

	cpuid(leaf, 0, r);
	return r[reg] >> bit & 1;
}

static void expect_at(const char *what, void (*fn)(void *), word at, uint32_t vector, uint32_t error)
{
	struct trap t = catch(fn, (void *)at);

	check_trap(what, &t, vector, error);
	if (vector == 14 && t.vector == 14)
		check_eq("  CR2", t.cr2, at);
}
static void expect(const char *what, void (*fn)(void *), uint32_t vector, uint32_t error)
{
	expect_at(what, fn, WINDOW, vector, error);
}
static void expect_user(const char *what, uint8_t *code, uint32_t vector, uint32_t error)
{
	struct trap t = catch_user((word)code + USER_ALIAS, WINDOW);

	check_trap(what, &t, vector, error);
}

static void levels(void)
{
	uint64_t *const levels[4] = { &pml4[2], &w_pdpt[0], &w_dir[0], &w_table[0] };
	unsigned n;

	set(P | W | U);
	for (n = 0; n < 4; n++) {
		uint64_t keep = *levels[n] | P | W | U;

		print("level %d\n", 4 - n);
		*levels[n] = keep & ~P;
		invlpg(win);
		expect("not present: load", load, 14, 0);
		expect("not present: store", store, 14, 2);
		expect_user("not present: user load", user_load, 14, 4);
		expect("not present: fetch", exec, 14, 0x10);
		*levels[n] = keep & ~W;
		invlpg(win);
		expect("read-only: store", store, 14, 3);
		expect("read-only: load", load, NO_TRAP, 0);
		*levels[n] = keep & ~U;
		invlpg(win);
		expect_user("supervisor: user load", user_load, 14, 5);
		expect_user("supervisor: user store", user_store, 14, 7);
		expect_user("supervisor: user fetch", user_jump, 14, 0x15);
		*levels[n] = keep | NX;
		invlpg(win);
		expect("NX: fetch", exec, 14, 0x11);
		expect_user("NX: user fetch", user_jump, 14, 0x15);
		*levels[n] = keep | 1ull << 51;
		invlpg(win);
		expect("reserved bit 51: load", load, 14, 9);
		expect_user("reserved bit 51: user store", user_store, 14, 0xf);
		*levels[n] = keep & ~A;
		invlpg(win);
		expect("load", load, NO_TRAP, 0);
		check_eq("  sets A", *levels[n] & A, A);
		if (n < 3)
			check_eq("  no D above the leaf", *levels[n] & D, 0);
		*levels[n] = keep;
		invlpg(win);
	}
	set(P | W | U);
	expect("store", store, NO_TRAP, 0);
	check_eq("  A and D in the leaf", w_table[0] & 0xfff, P | W | U | A | D);
	/* Bit 7 of PML4 entries is reserved, of a table entry it is PAT. */
	pml4[2] |= PS;
	invlpg(win);
	expect("PS in the PML4 entry", load, 14, 9);
	pml4[2] &= ~PS;
	set(P | W | U | PS);
	expect("PAT in the leaf", load, NO_TRAP, 0);
	/* NX off. */
	set(P | W | U | NX);
	wrmsr(0xc0000080, rdmsr(0xc0000080) & ~0x800ull);
	expect("bit 63 without NXE", load, 14, 9);
	set(P | W | U);
	pml4[2] &= ~P;
	invlpg(win);
	expect("no I bit without NXE and SMEP", exec, 14, 0);
	pml4[2] |= P;
	invlpg(win);
	wrmsr(0xc0000080, rdmsr(0xc0000080) | 0x800);
}

static void large(void)
{
	uint64_t dir = w_dir[0], pd = w_pdpt[0];
	word base = 0x1000000;

	w_dir[0] = base | P | W | U | PS;
	invlpg(win);
	*(volatile uint64_t *)(base + 0x123450) = 0x1122334455667788;
	check_eq("2 MiB page", *(volatile uint64_t *)(win + 0x123450), 0x1122334455667788);
	*(volatile uint64_t *)(win + 0x1ffff8) = 42;
	check_eq("  its end", *(volatile uint64_t *)(base + 0x1ffff8), 42);
	check_eq("  A and D", w_dir[0] & 0xfff, P | W | U | PS | A | D);
	w_dir[0] = base | P | U | PS;
	invlpg(win + 0x100000); /* any address in it */
	expect("2 MiB page made read-only", store, 14, 3);
	expect_at("  another part of it", store, WINDOW + 0x1ff000, 14, 3);
	w_dir[0] = base | P | W | U | PS | 1 << 13;
	invlpg(win);
	expect("reserved bit 13 in it", load, 14, 9);
	w_dir[0] = dir;
	invlpg(win);
	if (has(0x80000001, 3, 26)) {
		w_pdpt[0] = P | W | U | PS;
		invlpg(win);
		*(volatile uint64_t *)(base + 0x923450) = 0x99;
		check_eq("1 GiB page", *(volatile uint64_t *)(win + base + 0x923450), 0x99);
		check_eq("  A", w_pdpt[0] & 0xfff, P | W | U | PS | A);
		w_pdpt[0] = P | W | U | PS | 1 << 20;
		invlpg(win);
		expect("reserved bit 20 in it", load, 14, 9);
	} else {
		w_pdpt[0] = P | W | U | PS;
		invlpg(win);
		expect("1 GiB page without the feature", load, 14, 9);
	}
	w_pdpt[0] = pd;
	invlpg(win);
	/* Small to large and back under one address. */
	*(volatile uint8_t *)page_a = 0x5a;
	set(P | W | U);
	check_eq("4 KiB page", *win, 0x5a);
	w_dir[0] = base | P | W | U | PS;
	*(volatile uint8_t *)base = 0xa5;
	invlpg(win);
	check_eq("becomes a 2 MiB page", *win, 0xa5);
	w_dir[0] = dir;
	invlpg(win);
	check_eq("and a 4 KiB page again", *win, 0x5a);
}

static void push_here(void *p)
{
	asm volatile("mov %%rsp, %%rbx\n mov %0, %%rsp\n push %%rax\n mov %%rbx, %%rsp" ::"r"(p) : "rbx", "memory");
}
static void load_rbp(void *p)
{
	asm volatile("mov %%rbp, %%rbx\n mov %0, %%rbp\n mov (%%rbp), %%al\n mov %%rbx, %%rbp" ::"r"(p) : "rax", "rbx", "memory");
}
static void load8(void *p)
{
	(void)*(volatile uint64_t *)p;
}
static void jump_to(void *p)
{
	asm volatile("jmp *%0" ::"r"(p));
}

static uint8_t ss_stack[4096] __attribute__((aligned(16)));

/* Several times through one base at the largest displacement: a range added up in 32 bits would wrap. */
static void load8_far(void *p)
{
	asm volatile("jmp 1f\n1: test %0, %0\n mov 0x7ffffffc(%0), %%rax\n mov 0x7ffffffc(%0), %%rax\n"
		     "mov 0x7ffffffc(%0), %%rax" ::"r"((char *)p - 0x7ffffffc)
		     : "rax", "memory");
}

static void far_displacement(void)
{
	struct trap t;

	set(P | W | U);
	load8_far((void *)(WINDOW + 0xff8));
	t = catch(load8_far, (void *)(WINDOW + 0xffc));
	check_trap("loads far from their base, into an absent page", &t, 14, 0);
}

static void canonical(void)
{
	struct trap t;

	expect_at("load, not canonical", load, 0x800000000000, 13, 0);
	expect_at("load at the end, straddling", load8, 0x7ffffffffffc, 13, 0);
	expect_at("load, upper non-canonical", load, 0xffff7fffffffffff, 13, 0);
	expect_at("RBP-based load, not canonical", load_rbp, 0x800000000000, 12, 0);
	/* #SS cannot be told on the stack that caused it. */
	*(uint64_t *)(tss + 36) = (word)ss_stack + sizeof(ss_stack);
	idt[2 * 12] |= 1ull << 32;
	t = catch(push_here, (void *)0x900000000000);
	gate_default(12);
	check_trap("push, not canonical", &t, 12, 0);
	t = catch(jump_to, (void *)0x800000000000);
	check_trap("jump, not canonical", &t, 13, 0);
	check((t.ip & 0xffff800000000000) == 0, "  faults at the jump itself");
	expect_at("canonical upper half, absent", load, 0xffff800000000000, 14, 0);
}

static void smep_smap(void)
{
	struct trap t;

	if (has(7, 1, 7)) {
		write_cr4(read_cr4() | CR4_SMEP);
		*(volatile uint8_t *)page_a = 0xc3;
		set(P | W | U);
		expect("SMEP: fetch from a user page", exec, 14, 0x11);
		set(P | W);
		expect("SMEP: fetch from a supervisor page", exec, NO_TRAP, 0);
		set(P | W | U);
		copy(page_a, (uint8_t[]){ 0xcd, USER_END }, 2);
		expect_user("SMEP: user fetch", user_jump, USER_END, 0);
		write_cr4(read_cr4() & ~(word)CR4_SMEP);
	} else {
		skip("SMEP: not in CPUID");
	}
	if (has(7, 1, 20)) {
		write_cr4(read_cr4() | CR4_SMAP);
		set(P | W | U);
		asm volatile("clac");
		expect("SMAP: load from a user page", load, 14, 1);
		expect("SMAP: store to it", store, 14, 3);
		asm volatile("stac");
		t = catch(load, (void *)WINDOW);
		check_trap("STAC: load", &t, NO_TRAP, 0);
		asm volatile("stac");
		t = catch(store, (void *)WINDOW);
		check_trap("STAC: store", &t, NO_TRAP, 0);
		asm volatile("clac");
		expect("CLAC: load", load, 14, 1);
		set(P | W);
		expect("SMAP: supervisor page", load, NO_TRAP, 0);
		set(P | U);
		asm volatile("stac");
		t = catch(store, (void *)WINDOW);
		check_trap("STAC: store to a read-only page", &t, 14, 3);
		asm volatile("clac");
		/* Implicit accesses look past AC: a GDT in a user page. */
		set(P | W | U);
		write_cr4(read_cr4() & ~(word)CR4_SMAP);
		asm volatile("stac" ::: "memory");
		asm volatile("clac" ::: "memory");
	} else {
		skip("SMAP: not in CPUID");
	}
	if (has(7, 2, 2)) {
		expect_user("SMSW at CPL 3 without UMIP", user_smsw, USER_END, 0);
		write_cr4(read_cr4() | CR4_UMIP);
		expect_user("UMIP: SMSW", user_smsw, 13, 0);
		expect_user("UMIP: SGDT", user_sgdt, 13, 0);
		expect_user("UMIP: STR", user_str, 13, 0);
		write_cr4(read_cr4() & ~(word)CR4_UMIP);
	} else {
		skip("UMIP: not in CPUID");
	}
}

static void invpcid(uint64_t type, uint64_t pcid, uint64_t la)
{
	uint64_t d[2] = { pcid, la };

	asm volatile("invpcid %0, %1" ::"m"(d), "r"(type) : "memory");
}
static void invpcid_bad(void *p)
{
	invpcid((word)p, 0, 0);
}
static void invpcid_pcid(void *p)
{
	invpcid(0, 0x1000, 0);
}
static void clear_pge(void *p)
{
	write_cr4(read_cr4() & ~(word)CR4_PCIDE);
}
static void set_cr3(void *p)
{
	write_cr3((word)p);
}
static void set_pcide(void *p)
{
	write_cr4(read_cr4() | CR4_PCIDE);
}

static void global_and_pcid(void)
{
	uint64_t cr3 = read_cr3();
	struct trap t;
	unsigned n;

	write_cr4(read_cr4() | CR4_PGE);
	*(volatile uint8_t *)page_a = 1;
	*(volatile uint8_t *)page_b = 2;
	set(P | W);
	check_eq("page a", *win, 1);
	w_table[0] = (word)page_b | P | W;
	write_cr3(cr3);
	check_eq("CR3 load drops a local entry", *win, 2);
	w_table[0] = (word)page_a | P | W | G;
	invlpg(win);
	check_eq("global entry", *win, 1);
	w_table[0] = (word)page_b | P | W | G;
	invlpg(win);
	check_eq("INVLPG drops it", *win, 2);
	w_table[0] = (word)page_a | P | W | G;
	write_cr4(read_cr4() ^ CR4_PGE);
	check_eq("CR4.PGE change drops it", *win, 1);
	write_cr4(read_cr4() | CR4_PGE);
	set(P | W);

	if (!has(1, 2, 17)) {
		skip("PCID: not in CPUID");
		return;
	}
	/* A second address space that differs in the window only. */
	for (n = 0; n < 512; n++)
		pml4_b[n] = pml4[n];
	pml4_b[2] = (word)b_pdpt | P | W | U;
	b_pdpt[0] = (word)b_dir | P | W | U;
	b_dir[0] = (word)b_table | P | W | U;
	b_table[0] = (word)page_b | P | W;
	t = catch(set_cr3, (void *)(cr3 | 1));
	check_trap("CR3 low bits without PCIDE", &t, NO_TRAP, 0);
	t = catch(set_pcide, NULL);
	check_trap("PCIDE with a PCID in CR3", &t, 13, 0);
	write_cr3(cr3);
	t = catch(set_pcide, NULL);
	check_trap("PCIDE", &t, NO_TRAP, 0);
	write_cr3(cr3 | 1);
	check_eq("PCID 1", *win, 1);
	write_cr3((word)pml4_b | 2);
	check_eq("PCID 2", *win, 2);
	write_cr3(cr3 | 1 | 1ull << 63);
	check_eq("PCID 1 kept", *win, 1);
	write_cr3((word)pml4_b | 2 | 1ull << 63);
	check_eq("PCID 2 kept", *win, 2);
	b_table[0] = (word)page_a | P | W;
	write_cr3(cr3 | 1 | 1ull << 63);
	write_cr3((word)pml4_b | 2);
	check_eq("CR3 load without bit 63 drops the PCID's entries", *win, 1);
	b_table[0] = (word)page_b | P | W;
	invlpg(win);
	check_eq("INVLPG in the current PCID", *win, 2);
	if (has(7, 1, 10)) {
		write_cr3(cr3 | 1 | 1ull << 63);
		b_table[0] = (word)page_a | P | W;
		invpcid(0, 2, WINDOW);
		write_cr3((word)pml4_b | 2 | 1ull << 63);
		check_eq("INVPCID of an address in another PCID", *win, 1);
		write_cr3(cr3 | 1 | 1ull << 63);
		b_table[0] = (word)page_b | P | W;
		invpcid(1, 2, 0);
		write_cr3((word)pml4_b | 2 | 1ull << 63);
		check_eq("INVPCID of a PCID", *win, 2);
		b_table[0] = (word)page_a | P | W;
		w_table[0] = (word)page_b | P | W;
		invpcid(3, 0, 0);
		check_eq("INVPCID of all but global", *win, 1);
		write_cr3(cr3 | 1 | 1ull << 63);
		check_eq("  in every PCID", *win, 2);
		w_table[0] = (word)page_a | P | W | G;
		invpcid(2, 0, 0);
		check_eq("INVPCID of all", *win, 1);
		t = catch(invpcid_bad, (void *)4);
		check_trap("INVPCID type 4", &t, 13, 0);
		t = catch(invpcid_pcid, NULL);
		check_trap("INVPCID with reserved bits", &t, 13, 0);
	} else {
		skip("INVPCID: not in CPUID");
	}
	write_cr3(cr3);
	t = catch(clear_pge, NULL);
	check_trap("PCIDE off", &t, NO_TRAP, 0);
	set(P | W | U);
}

static void registers(void)
{
	uint64_t cr3 = read_cr3();
	struct trap t;

	t = catch(set_cr3, (void *)(cr3 | 1ull << 52));
	check_trap("CR3 with reserved bit 52", &t, 13, 0);
	t = catch(set_cr3, (void *)(cr3 | 1ull << 63));
	check_trap("CR3 bit 63 without PCIDE", &t, 13, 0);
}

void test_main(void)
{
	pml4[2] = (word)w_pdpt | P | W | U;
	w_pdpt[0] = (word)w_dir | P | W | U;
	w_dir[0] = (word)w_table | P | W | U;
	*(volatile uint8_t *)page_a = 0xc3;
	levels();
	large();
	canonical();
	far_displacement();
	smep_smap();
	global_and_pcid();
	registers();
}
