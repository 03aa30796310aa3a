/*
 * Virtual-8086 mode: entry by IRET, the frame an exception leaves, IOPL, I/O
 * map, software interrupts by all methods of SDM 3B table 20-2, and the
 * virtual interrupt flag of VME.
 */
#include "lib.h"

#define VM 0x20000
#define VIF 0x80000
#define VIP 0x100000
#define IOPL(n) ((n) << 12)
#define CR4_VME 1
#define IO_MAP 136 /* after the redirection bitmap at 104 */

#define CODE_SEG 0x700
#define STACK_SEG 0x600
#define DATA_SEG 0x800
#define EXTRA_SEG 0x900
#define LOW(seg, off) ((volatile uint8_t *)((seg) * 16 + (off)))

#define PIECE(name, text)                                                      \
	extern uint8_t name[], name##_end[];                                   \
	asm(".code16\n" #name ":\n" text "\n" #name "_end:\n.code32\n");

struct entry {
	uint32_t flags;
};

static void enter(void *p)
{
	struct entry *e = p;
	word sp;

	asm volatile("mov %%esp, %0" : "=r"(sp));
	*(uint32_t *)(tss + 4) = sp - 256; /* well below this frame: catch_resume needs it */
	asm volatile("push %0; push %1; push %0; push %2; push %3; push $0xffe; push %4; push %5; push $0; iret" ::"r"(
			     DATA_SEG),
		     "r"(0x1234), "r"(EXTRA_SEG), "i"(STACK_SEG), "r"(e->flags | VM | 2), "i"(CODE_SEG)
		     : "memory");
}

static struct trap run(const uint8_t *code, const uint8_t *end, uint32_t flags)
{
	struct entry e = { flags };

	copy((void *)(CODE_SEG * 16), code, (size_t)(end - code));
	return catch(enter, &e);
}
#define RUN(name, flags) run(name, name##_end, flags)

static void ivt(unsigned vector, unsigned offset)
{
	((volatile uint32_t *)0)[vector] = CODE_SEG << 16 | offset;
}

PIECE(p_int80, "int $0x80")
PIECE(p_int21, "int $0x21")
PIECE(p_int3, "int3")
PIECE(p_into, "mov $0x7fff, %ax; inc %ax; into")
PIECE(p_icebp, ".byte 0xf1")
PIECE(p_cli, "cli; int3")
PIECE(p_sti, "sti; int3")
PIECE(p_pushf, "pushf; pop %ax; int3")
PIECE(p_pushfd, "pushfl; pop %eax; int3")
PIECE(p_popf, "pushw $2; popf; int3")
PIECE(p_hlt, "hlt")
PIECE(p_iret, "pushf; push %cs; push $0x10; iret; .org p_iret + 0x10; int3")
PIECE(p_segments, "mov %ds, %ax; mov $0x77, %bl; mov %bl, 5; mov %bl, %es:6; mov %bl, %ss:7; mov $0x4444, %ax; mov %ax, %fs; "
		  "mov %fs, %cx; int3")
PIECE(p_limit, "addr32 movb %ds:0x10000, %al; int3")
PIECE(p_limit_ok, "addr32 movb %ds:0xffff, %al; int3")
PIECE(p_straddle, "mov 0xffff, %ax; int3")
PIECE(p_lar, "lar %ax, %ax; int3")
PIECE(p_str, "str %ax; int3")
PIECE(p_lldt, "lldt %ax; int3")
PIECE(p_cr0, "mov %cr0, %eax; int3")
PIECE(p_far, "lcall $0x701, $0x10; int3; .org p_far + 0x20; mov %cs, %ax; mov %sp, %bx; lret")
PIECE(p_in, "in $0x70, %al; int3")
PIECE(p_in16, "in $0x6f, %ax; int3")
PIECE(p_ud, "ud2")
PIECE(p_handler,
      "int $0x21; int3; .org p_handler + 0x40; pop %ax; pop %bx; pop %cx; push %cx; push %bx; push %ax; "
      "pushf; pop %dx; iret")

static void entry_and_frame(void)
{
	struct trap t = RUN(p_ud, 0);

	check_trap("#UD in virtual-8086 mode", &t, 6, 0);
	check_eq("CS:IP", t.cs << 16 | t.ip, CODE_SEG << 16);
	check_eq("VM in the pushed flags, RF too", t.flags, VM | 0x10002);
	check_eq("SS:SP", t.ss << 16 | t.sp, STACK_SEG << 16 | 0xffe);
	check_eq("ES", t.frame.vm_es & 0xffff, EXTRA_SEG);
	check_eq("DS", t.frame.vm_ds & 0xffff, DATA_SEG);
	check_eq("FS", t.frame.vm_fs & 0xffff, 0x1234);
	check_eq("GS", t.frame.vm_gs & 0xffff, DATA_SEG);
	check_eq("DS null in the handler", t.frame.ds & 0xffff, 0);
	check_eq("ES null in the handler", t.frame.es & 0xffff, 0);
	t = RUN(p_segments, 0);
	check_trap("segments are 8086 ones", &t, 3, 0);
	check(*LOW(DATA_SEG, 5) == 0x77 && *LOW(EXTRA_SEG, 6) == 0x77 && *LOW(STACK_SEG, 7) == 0x77, "bases");
	check_eq("FS loads any selector", t.frame.vm_fs & 0xffff, 0x4444);
	t = RUN(p_limit, 0);
	check_trap("offset beyond 64K", &t, 13, 0);
	t = RUN(p_limit_ok, 0);
	check_trap("offset ffff with 32-bit addressing", &t, 3, 0);
	t = RUN(p_straddle, 0);
	check_trap("word at ffff", &t, 13, 0);
	t = RUN(p_far, 0);
	check_trap("far call and return", &t, 3, 0);
	check((t.frame.ax & 0xffff) == 0x701 && (t.frame.bx & 0xffff) == 0xffa, "  with a 4-byte frame");
}

static void privileged(void)
{
	struct trap t;

	t = RUN(p_hlt, IOPL(3));
	check_trap("HLT", &t, 13, 0);
	t = RUN(p_cr0, IOPL(3));
	check_trap("MOV from CR0", &t, 13, 0);
	t = RUN(p_lar, IOPL(3));
	check_trap("LAR is undefined", &t, 6, 0);
	t = RUN(p_str, IOPL(3));
	check_trap("STR is undefined", &t, 6, 0);
	t = RUN(p_lldt, IOPL(3));
	check_trap("LLDT is undefined", &t, 6, 0);
	t = RUN(p_cli, 0);
	check_trap("CLI, IOPL 0", &t, 13, 0);
	t = RUN(p_sti, 0);
	check_trap("STI, IOPL 0", &t, 13, 0);
	t = RUN(p_pushf, IOPL(2));
	check_trap("PUSHF, IOPL 2", &t, 13, 0);
	t = RUN(p_popf, 0);
	check_trap("POPF, IOPL 0", &t, 13, 0);
	t = RUN(p_iret, 0);
	check_trap("IRET, IOPL 0", &t, 13, 0);
	t = RUN(p_cli, IOPL(3) | 0x200);
	check_trap("CLI, IOPL 3", &t, 3, 0);
	check_eq("  clears IF", t.flags & 0x200, 0);
	t = RUN(p_pushf, IOPL(3));
	check_trap("PUSHF, IOPL 3", &t, 3, 0);
	check_eq("  shows IOPL", t.frame.ax & 0xffff, 0x3002);
	t = RUN(p_pushfd, IOPL(3));
	check_eq("PUSHFD hides VM", t.frame.ax, 0x3002);
	t = RUN(p_iret, IOPL(3));
	check_trap("IRET, IOPL 3", &t, 3, 0);
	check_eq("  jumped", t.ip, 0x11);
	check_eq("  VM and IOPL stay", t.flags & (VM | IOPL(3)), VM | IOPL(3));
}

static void io(void)
{
	uint8_t *map = tss + IO_MAP;
	struct trap t;

	*(uint16_t *)(tss + 102) = IO_MAP;
	fill(map, 0xff, 8192);
	tss[IO_MAP + 8192] = 0xff;
	t = RUN(p_in, IOPL(3));
	check_trap("IN not in the map, IOPL 3", &t, 13, 0);
	map[0x70 / 8] &= ~1;
	t = RUN(p_in, 0);
	check_trap("IN allowed by the map, IOPL 0", &t, 3, 0);
	t = RUN(p_in16, 0);
	check_trap("word IN: one of two ports denied", &t, 13, 0);
	map[0x6f / 8] &= 0x7f;
	t = RUN(p_in16, 0);
	check_trap("word IN across map bytes", &t, 3, 0);
	*(uint16_t *)(tss + 102) = sizeof(tss);
	t = RUN(p_in, 0);
	check_trap("map beyond the TSS limit", &t, 13, 0);
	*(uint16_t *)(tss + 102) = IO_MAP;
}

static void interrupts_without_vme(void)
{
	struct trap t;

	t = RUN(p_int80, 0);
	check_trap("INT n, IOPL 0", &t, 13, 0);
	t = RUN(p_int80, IOPL(3));
	check_trap("INT n, IOPL 3", &t, 0x80, 0);
	check_eq("  return IP behind it", t.ip, 2);
	t = RUN(p_int21, IOPL(3));
	check_trap("INT n, gate DPL 0", &t, 13, 0x21 * 8 + 2);
	t = RUN(p_int3, 0);
	check_trap("INT3 ignores IOPL", &t, 3, 0);
	t = RUN(p_into, 0);
	check_trap("INTO ignores IOPL", &t, 4, 0);
	t = RUN(p_icebp, 0);
	check_trap("INT1 ignores IOPL and DPL", &t, 1, 0);
	gdt[FREE_SELECTOR / 8] = descriptor(0, 0xfffff, 0xfb, FLAT32);
	gate(0x80, 14, 3, FREE_SELECTOR, 0, 0);
	t = RUN(p_int80, IOPL(3));
	check_trap("handler at CPL 3", &t, 13, FREE_SELECTOR);
	gdt[FREE_SELECTOR / 8] = descriptor(0, 0xfffff, 0x9f, FLAT32);
	t = RUN(p_int80, IOPL(3));
	check_trap("conforming handler", &t, 13, FREE_SELECTOR);
	gate_default(0x80);
}

static void vme(void)
{
	uint8_t *redirect = tss + IO_MAP - 32;
	uint32_t r[4];
	struct trap t;

	cpuid(1, 0, r);
	if (!(r[3] & 2)) {
		skip("VME: not in CPUID");
		return;
	}
	write_cr4(read_cr4() | CR4_VME);
	fill(redirect, 0, 32);
	ivt(0x21, 0x40);

	t = RUN(p_handler, VIF);
	check_trap("INT n redirected, IOPL 0", &t, 3, 0);
	check_eq("  return IP pushed", t.frame.ax & 0xffff, 2);
	check_eq("  CS pushed", t.frame.bx & 0xffff, CODE_SEG);
	check_eq("  FLAGS pushed: IOPL 3, IF from VIF", t.frame.cx & 0xffff, 0x3202);
	check_eq("  VIF clear inside", t.frame.dx & 0x200, 0);
	check_eq("  IRET brings VIF back", t.flags & VIF, VIF);
	check_eq("  IOPL stays 0", t.flags & IOPL(3), 0);
	t = RUN(p_handler, IOPL(3) | 0x200);
	check_trap("INT n redirected, IOPL 3", &t, 3, 0);
	check_eq("  FLAGS pushed as they are", t.frame.cx & 0xffff, 0x3202);
	check_eq("  IF clear inside", t.frame.dx & 0x200, 0);
	check_eq("  IRET brings IF back", t.flags & 0x200, 0x200);
	redirect[0x21 / 8] |= 1 << (0x21 & 7);
	t = RUN(p_handler, 0);
	check_trap("not redirected, IOPL 0", &t, 13, 0);
	redirect[0x80 / 8] |= 1;
	t = RUN(p_int80, IOPL(3));
	check_trap("not redirected, IOPL 3", &t, 0x80, 0);
	t = RUN(p_int3, 0);
	check_trap("INT3 is never redirected", &t, 3, 0);

	t = RUN(p_cli, VIF);
	check_trap("CLI", &t, 3, 0);
	check_eq("  clears VIF, not IF", t.flags & (VIF | 0x200), 0);
	t = RUN(p_cli, VIF | 0x200);
	check_eq("  IF stays", t.flags & (VIF | 0x200), 0x200);
	t = RUN(p_sti, 0);
	check_trap("STI", &t, 3, 0);
	check_eq("  sets VIF, not IF", t.flags & (VIF | 0x200), VIF);
	t = RUN(p_sti, VIP);
	check_trap("STI with VIP", &t, 13, 0);
	t = RUN(p_pushf, VIF);
	check_eq("PUSHF shows VIF as IF and IOPL 3", t.frame.ax & 0xffff, 0x3202);
	t = RUN(p_pushfd, 0);
	check_trap("PUSHFD has no virtual form", &t, 13, 0);
	t = RUN(p_popf, VIF);
	check_trap("POPF", &t, 3, 0);
	t = RUN(p_iret, VIF | VIP);
	check_trap("IRET that would set VIF with VIP", &t, 13, 0);
	write_cr4(read_cr4() & ~(word)CR4_VME);
}

PIECE(p_popf_if, "pushw $0x0202; popf; int3")
PIECE(p_popf_tf, "pushw $0x0102; popf; int3")
PIECE(p_popf_iopl, "pushw $0x3002; popf; int3")
static void vme_popf(void)
{
	uint32_t r[4];
	struct trap t;

	cpuid(1, 0, r);
	if (!(r[3] & 2))
		return;
	write_cr4(read_cr4() | CR4_VME);
	t = RUN(p_popf_if, 0);
	check_trap("POPF with IF", &t, 3, 0);
	check_eq("  sets VIF", t.flags & (VIF | 0x200), VIF);
	t = RUN(p_popf_if, VIP);
	check_trap("POPF with IF and VIP", &t, 13, 0);
	t = RUN(p_popf_tf, 0);
	check_trap("POPF with TF", &t, 13, 0);
	t = RUN(p_popf_iopl, 0);
	check_eq("POPF leaves IOPL", t.flags & IOPL(3), 0);
	write_cr4(read_cr4() & ~(word)CR4_VME);
	t = RUN(p_popf_if, IOPL(3));
	check_eq("POPF with IOPL 3 sets IF", t.flags & (VIF | 0x200), 0x200);
}

void test_main(void)
{
	entry_and_frame();
	privileged();
	io();
	interrupts_without_vme();
	vme();
	vme_popf();
}
