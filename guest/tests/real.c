/*
 * Real mode reached from protected mode and left again: INT and IRET, faults
 * through the IVT without error codes, unreal mode, limits, 32-bit operands,
 * single step.
 */
#include "lib.h"

#define CODE_AT 0x8000 /* the 16-bit code is copied there: segment 0800 */
#define RESULTS ((volatile uint16_t *)0x9000)

struct vector {
	uint16_t ip, cs;
};
extern uint8_t real_begin[], real_end[], real_pieces[];
void real_run(uint32_t piece_offset);

/*
 * real_run(offset of a piece in the copied code): down to real mode with
 * DS = ES = SS = 0, SP = 7000, GS = 0 with a 4 GiB limit left from protected
 * mode; the piece ends with JMP real_back.
 */
#define AT(label) #label " - real_begin + 0x8000"
asm(".globl real_run\n"
    "real_run:\n"
    "	mov 4(%esp), %eax\n"
    "	pusha\n"
    "	pushf\n"
    "	mov %esp, real_esp\n"
    "	lidt real_idt\n"
    "	mov $0x10, %ecx\n"
    "	mov %ecx, %gs\n" /* 4 GiB limit */
    "	mov $0x38, %ecx\n"
    "	mov %ecx, %ds\n mov %ecx, %es\n mov %ecx, %fs\n mov %ecx, %ss\n"
    "	ljmp $0x40, $0\n" /* 16-bit code segment based at 0x8000: real_begin */
    ".code16\n"
    "real_begin:\n"
    "	mov %cr0, %ecx\n"
    "	and $~1, %cl\n"
    "	mov %ecx, %cr0\n"
    "	ljmp $0x800, $1f - real_begin\n"
    "1:	xor %cx, %cx\n"
    "	mov %cx, %ds\n mov %cx, %es\n mov %cx, %fs\n mov %cx, %gs\n mov %cx, %ss\n"
    "	mov $0x7000, %sp\n"
    "	jmp *%ax\n"
    "real_back:\n"
    "	cli\n"
    "	xor %cx, %cx\n"
    "	mov %cx, %ds\n"
    "	mov %cr0, %ecx\n"
    "	or $1, %cl\n"
    "	mov %ecx, %cr0\n"
    "	ljmpl $0x08, $real_up\n"
    ".code32\n"
    "real_up_code:\n"
    ".code16\n"
    /* Pieces. Results go to 0:9000. */
    "piece_int:\n"
    "	sti\n"
    "	stc\n"
    "	int $0x60\n"
    "after_int:\n"
    "	pushf\n popw 0x9006\n"
    "	jmp real_back\n"
    "handler_60:\n"
    "	mov %sp, %bp\n"
    "	mov (%bp), %ax\n mov %ax, 0x9000\n"
    "	mov 2(%bp), %ax\n mov %ax, 0x9002\n"
    "	mov 4(%bp), %ax\n mov %ax, 0x9004\n"
    "	pushf\n popw 0x9008\n"
    "	mov %sp, 0x900a\n"
    "	iret\n"
    "piece_div:\n"
    "	xor %dx, %dx\n xor %cx, %cx\n mov $1, %ax\n"
    "fault_div:\n"
    "	div %cx\n"
    "	jmp real_back\n"
    /* Fault handlers: record vector, IP, FLAGS and how much was pushed; go back. */
    ".macro fault_handler n\n"
    "handler_\\n:\n"
    "	movw $\\n, %cs:0x1000\n"
    "	jmp handler_common\n"
    ".endm\n"
    "fault_handler 0\n"
    "fault_handler 1\n"
    "fault_handler 3\n"
    "fault_handler 6\n"
    "fault_handler 8\n"
    "fault_handler 12\n"
    "fault_handler 13\n"
    "handler_common:\n" /* CS:1000 is 0:9000 */
    "	popw %cs:0x1002\n"
    "	popw %cs:0x1004\n"
    "	popw %cs:0x1006\n"
    "	mov %sp, %cs:0x1008\n"
    "	jmp real_back\n"
    "piece_limit:\n"
    "	mov $0xffff, %bx\n"
    "	mov (%bx), %ax\n"
    "	jmp real_back\n"
    "piece_limit32:\n"
    "	mov $0x10000, %ebx\n"
    "	addr32 movb (%ebx), %al\n"
    "	jmp real_back\n"
    "piece_unreal:\n"
    "	mov $0x200000, %ebx\n"
    "	addr32 movl %gs:(%ebx), %eax\n"
    "	mov %eax, 0x9010\n"
    "	movl $0x600dcafe, %eax\n"
    "	addr32 movl %eax, %gs:4(%ebx)\n"
    "	mov $0x100, %ax\n mov %ax, %gs\n" /* reload: base changes, limit stays */
    "	mov $0x200000 - 0x1000, %ebx\n"
    "	addr32 movl %gs:(%ebx), %eax\n"
    "	mov %eax, 0x9014\n"
    "	jmp real_back\n"
    "piece_lldt:\n"
    "	lldt %ax\n"
    "	jmp real_back\n"
    "piece_lock:\n"
    "	.byte 0xf0\n mov %ax, (%bx)\n"
    "	jmp real_back\n"
    "piece_idt_limit:\n"
    "	lidtl %cs:(short_idt - real_begin)\n"
    "	int $0x60\n"
    "	jmp real_back\n"
    "short_idt: .word 0x60 * 4 + 2\n .long 0\n"
    "piece_step:\n"
    "	movw $(handler_step - real_begin), 4\n"
    "	pushf\n pop %ax\n or $0x100, %ax\n push %ax\n popf\n"
    "	inc %dx\n"
    "step_1:\n"
    "	inc %dx\n"
    "step_2:\n"
    "	pushf\n pop %ax\n and $~0x100, %ax\n push %ax\n popf\n"
    "	jmp real_back\n"
    "handler_step:\n" /* IPs one after another at 0:9020, counted at 0:9000 */
    "	push %bp\n mov %sp, %bp\n push %ax\n push %bx\n"
    "	mov %cs:0x1000, %bx\n"
    "	mov 2(%bp), %ax\n"
    "	mov %ax, %cs:0x1020(%bx)\n"
    "	addw $2, %cs:0x1000\n"
    "	pop %bx\n pop %ax\n pop %bp\n"
    "	iret\n"
    "piece_far32:\n"
    "	lcalll $0x800, $(far_target - real_begin)\n"
    "	mov %sp, 0x9002\n"
    "	jmp real_back\n"
    "far_target:\n"
    "	mov %sp, 0x9000\n"
    "	lretl\n"
    "piece_wrap:\n"
    "	mov $2, %sp\n"
    "	push $0x1234\n push $0x5678\n"
    "	mov %sp, 0x9000\n"
    "	pop %ax\n mov %ax, 0x9002\n pop %ax\n mov %ax, 0x9004\n mov %sp, 0x9006\n"
    "	jmp real_back\n"
    "piece_sp1:\n"
    "	mov $0x7000, %sp\n"
    "	mov $0x10003, %ebp\n"
    "	addr32 mov 0xfffc(%ebp), %ax\n" /* SS: offset 0x1ffff */
    "	jmp real_back\n"
    "piece_flags:\n"
    "	pushw $0xfeff\n popf\n pushf\n popw 0x9000\n pushw $0\n popf\n pushf\n popw 0x9002\n"
    "	jmp real_back\n"
    "piece_iret32:\n"
    "	pushl $0x00240cd7\n" /* ID, AC, OF DF SF ZF AF PF CF; no IF, TF */
    "	pushl $0x800\n pushl $(iret32_to - real_begin)\n"
    "	iretl\n"
    "	int3\n"
    "iret32_to:\n"
    "	pushfl\n popl 0x9000\n cld\n pushl $2\n popfl\n"
    "	jmp real_back\n"
    "real_end:\n"
    ".code32\n"
    "real_up:\n"
    "	mov $0x10, %ecx\n"
    "	mov %ecx, %ds\n mov %ecx, %es\n mov %ecx, %fs\n mov %ecx, %gs\n mov %ecx, %ss\n"
    "	mov real_esp, %esp\n"
    "	lidt idt_pointer\n"
    "	popf\n"
    "	popa\n"
    "	ret\n"
    ".data\n"
    "real_esp: .long 0\n"
    "real_idt: .word 0x3ff\n .long 0\n"
    ".text\n");

#define PIECE(name) extern uint8_t name[];
PIECE(piece_int)
PIECE(after_int)
PIECE(handler_60)
PIECE(piece_div)
PIECE(fault_div)
PIECE(handler_0)
PIECE(handler_1)
PIECE(handler_3)
PIECE(handler_6)
PIECE(handler_8)
PIECE(handler_12)
PIECE(handler_13)
PIECE(piece_limit)
PIECE(piece_limit32)
PIECE(piece_unreal)
PIECE(piece_lldt)
PIECE(piece_lock)
PIECE(piece_idt_limit)
PIECE(piece_step)
PIECE(step_1)
PIECE(step_2)
PIECE(piece_far32)
PIECE(piece_wrap)
PIECE(piece_sp1)
PIECE(piece_flags)
PIECE(piece_iret32)
#define OFFSET(label) ((uint16_t)((word)(label) - (word)real_begin))

static void ivt(unsigned vector, const uint8_t *handler)
{
	((volatile uint32_t *)0)[vector] = 0x800u << 16 | OFFSET(handler);
}

static void run(const uint8_t *piece)
{
	unsigned n;

	for (n = 0; n < 32; n++)
		RESULTS[n] = 0;
	real_run(OFFSET(piece));
}

static void expect_fault(const char *what, const uint8_t *piece, unsigned vector)
{
	run(piece);
	check_eq(what, RESULTS[0], vector);
	check_eq("  three words were pushed", RESULTS[4], 0x7000);
}

void test_main(void)
{
	static const struct {
		unsigned vector;
		uint8_t *handler;
	} handlers16[] = { { 0, handler_0 }, { 1, handler_1 }, { 3, handler_3 }, { 6, handler_6 }, { 8, handler_8 },
			   { 12, handler_12 }, { 13, handler_13 }, { 0x60, handler_60 } };
	unsigned n;

	gdt[FREE_SELECTOR / 8] = descriptor(CODE_AT, 0xffff, ACCESS_CODE, 0);
	copy((void *)CODE_AT, real_begin, (size_t)(real_end - real_begin));
	for (n = 0; n < sizeof(handlers16) / sizeof(*handlers16); n++)
		ivt(handlers16[n].vector, handlers16[n].handler);

	run(piece_int);
	check_eq("INT pushes IP", RESULTS[0], OFFSET(after_int));
	check_eq("INT pushes CS", RESULTS[1], 0x800);
	check_eq("INT pushes FLAGS", RESULTS[2] & 0x301, 0x201);
	check_eq("IF clear in the handler", RESULTS[4] & 0x300, 0);
	check_eq("SP in the handler", RESULTS[5], 0x7000 - 6);
	check_eq("IRET restores IF and CF", RESULTS[3] & 0x201, 0x201);

	expect_fault("divide error", piece_div, 0);
	check_eq("  IP is the instruction", RESULTS[1], OFFSET(fault_div));
	expect_fault("word at offset ffff", piece_limit, 13);
	expect_fault("offset 10000", piece_limit32, 13);
	expect_fault("LLDT is undefined", piece_lldt, 6);
	expect_fault("LOCK MOV is undefined", piece_lock, 6);
	expect_fault("SS: offset beyond 64K", piece_sp1, 12);
	expect_fault("vector beyond the IDT limit", piece_idt_limit, 13);

	*(volatile uint32_t *)0x200000 = 0xfeedf00d;
	*(volatile uint32_t *)0x200004 = 0;
	run(piece_unreal);
	check_eq("unreal mode reads above 1 MiB", *(volatile uint32_t *)(RESULTS + 8), 0xfeedf00d);
	check_eq("and writes", *(volatile uint32_t *)0x200004, 0x600dcafe);
	check_eq("a reload keeps the limit", *(volatile uint32_t *)(RESULTS + 10), 0xfeedf00d);

	run(piece_step);
	check(RESULTS[0] >= 4 && RESULTS[16] == OFFSET(step_1) && RESULTS[17] == OFFSET(step_2), "single step");
	ivt(1, handler_1);
	run(piece_far32);
	check_eq("32-bit far call pushes eight bytes", RESULTS[0], 0x7000 - 8);
	check_eq("  and returns", RESULTS[1], 0x7000);
	run(piece_wrap);
	check_eq("SP wraps at 0", RESULTS[0], 0xfffe);
	check(RESULTS[1] == 0x5678 && RESULTS[2] == 0x1234, "  values");
	check_eq("  and back", RESULTS[3], 2);
	run(piece_flags);
	check_eq("POPF sets IOPL and NT, not reserved bits", RESULTS[0], 0x7ed7);
	check_eq("POPF clears them", RESULTS[1], 2);
	run(piece_iret32);
	check_eq("32-bit IRET restores AC and ID", *(volatile uint32_t *)RESULTS, 0x00240cd7);
}
