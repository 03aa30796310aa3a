/* LOCK where it is not allowed, and alignment checks at CPL 3. */
#include "lib.h"

static uint32_t cell[8] __attribute__((aligned(64)));

#define TRY(name, text)                                                        \
	static void name(void *p)                                              \
	{                                                                      \
		asm volatile(text ::"b"(cell), "a"(0), "d"(0), "c"(0) : "memory", "cc", "esi"); \
	}
TRY(lock_add, ".byte 0xf0; addl $1, (%%ebx)")
TRY(lock_add_reg, ".byte 0xf0, 0x83, 0xc0, 0x01") /* add $1, %eax */
TRY(lock_add_load, ".byte 0xf0, 0x03, 0x03")	 /* add (%ebx), %eax */
TRY(lock_mov, ".byte 0xf0, 0x89, 0x03")
TRY(lock_nop, ".byte 0xf0, 0x90")
TRY(lock_cmp, ".byte 0xf0, 0x39, 0x03")
TRY(lock_test, ".byte 0xf0, 0x85, 0x03")
TRY(lock_bt, ".byte 0xf0, 0x0f, 0xa3, 0x03")
TRY(lock_bts, ".byte 0xf0, 0x0f, 0xab, 0x03")
TRY(lock_xchg, ".byte 0xf0, 0x87, 0x03")
TRY(lock_xchg_reg, ".byte 0xf0, 0x87, 0xc1")
TRY(lock_cmpxchg, ".byte 0xf0, 0x0f, 0xb1, 0x0b")
TRY(lock_cmpxchg_reg, ".byte 0xf0, 0x0f, 0xb1, 0xc8")
TRY(lock_cmpxchg8b, ".byte 0xf0, 0x0f, 0xc7, 0x0b")
TRY(lock_xadd, ".byte 0xf0, 0x0f, 0xc1, 0x03")
TRY(lock_inc, ".byte 0xf0, 0xff, 0x03")
TRY(lock_neg, ".byte 0xf0, 0xf7, 0x1b")
TRY(lock_mul, ".byte 0xf0, 0xf7, 0x23")
TRY(lock_shl, ".byte 0xf0, 0xd1, 0x23")
TRY(lock_lea, ".byte 0xf0, 0x8d, 0x03")
TRY(lock_push, ".byte 0xf0, 0xff, 0x33")
TRY(lock_jmp, ".byte 0xf0, 0xeb, 0x00")
TRY(lock_movs, ".byte 0xf0, 0xa4")
TRY(cmpxchg8b_reg, ".byte 0x0f, 0xc7, 0xc8")
TRY(lea_reg, ".byte 0x8d, 0xc0")
TRY(lds_reg, ".byte 0xc5, 0xc0, 0x00") /* VEX in protected mode, an undefined opcode */
TRY(too_long, ".byte 0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x90")
TRY(longest, ".byte 0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x90")
TRY(ud0, ".byte 0x0f, 0xff, 0x03")
TRY(ud1, ".byte 0x0f, 0xb9, 0x03")

static void expect(const char *what, void (*fn)(void *), uint32_t vector)
{
	struct trap t = catch(fn, NULL);

	check_trap(what, &t, vector, 0);
}

extern uint8_t user_load4[], user_store2[], user_load8[], user_push[], user_rep[], user_byte[];
asm("user_load4: mov (%eax), %ecx; int $0x80\n"
    "user_store2: movw $1, (%eax); int $0x80\n"
    "user_load8: cmpxchg8b (%eax); int $0x80\n"
    "user_push: lea -256(%esp), %esp; or $1, %esp; push %eax; int $0x80\n"
    "user_rep: mov %eax, %esi; lea 64(%eax), %edi; mov $2, %ecx; rep movsl; int $0x80\n"
    "user_byte: movb $1, (%eax); int $0x80\n");
extern word user_flags;

static void expect_user(const char *what, uint8_t *code, word arg, uint32_t vector)
{
	struct trap t = catch_user((word)code, arg);

	check_trap(what, &t, vector, 0);
}

static void alignment(void)
{
	word a = (word)cell;

	user_flags = 0x40002;
	expect_user("AC without CR0.AM", user_load4, a + 1, USER_END);
	write_cr0(read_cr0() | 0x40000);
	expect_user("dword at 1", user_load4, a + 1, 17);
	expect_user("dword at 2", user_load4, a + 2, 17);
	expect_user("dword at 4", user_load4, a + 4, USER_END);
	expect_user("word at 1", user_store2, a + 1, 17);
	expect_user("word at 2", user_store2, a + 2, USER_END);
	expect_user("byte at 1", user_byte, a + 1, USER_END);
	expect_user("qword at 4", user_load8, a + 4, 17);
	expect_user("qword at 8", user_load8, a + 8, USER_END);
	expect_user("push on an odd stack", user_push, a, 17);
	expect_user("REP MOVSD from 2", user_rep, a + 2, 17);
	user_flags = 2;
	expect_user("AM without AC", user_load4, a + 1, USER_END);
	write_flags(0x40002);
	expect("CPL 0 is never checked", lock_add, NO_TRAP);
	asm volatile("movl 1(%0), %%eax" ::"r"(cell) : "eax");
	write_flags(2);
	check(true, "unaligned load at CPL 0 with AC");
	write_cr0(read_cr0() & ~0x40000ul);
}

void test_main(void)
{
	expect("LOCK ADD m, imm", lock_add, NO_TRAP);
	expect("LOCK ADD r, imm", lock_add_reg, 6);
	expect("LOCK ADD r, m", lock_add_load, 6);
	expect("LOCK MOV", lock_mov, 6);
	expect("LOCK NOP", lock_nop, 6);
	expect("LOCK CMP", lock_cmp, 6);
	expect("LOCK TEST", lock_test, 6);
	expect("LOCK BT", lock_bt, 6);
	expect("LOCK BTS", lock_bts, NO_TRAP);
	expect("LOCK XCHG m", lock_xchg, NO_TRAP);
	expect("LOCK XCHG r", lock_xchg_reg, 6);
	expect("LOCK CMPXCHG m", lock_cmpxchg, NO_TRAP);
	expect("LOCK CMPXCHG r", lock_cmpxchg_reg, 6);
	expect("LOCK CMPXCHG8B", lock_cmpxchg8b, NO_TRAP);
	expect("LOCK XADD", lock_xadd, NO_TRAP);
	expect("LOCK INC", lock_inc, NO_TRAP);
	expect("LOCK NEG", lock_neg, NO_TRAP);
	expect("LOCK MUL", lock_mul, 6);
	expect("LOCK SHL", lock_shl, 6);
	expect("LOCK LEA", lock_lea, 6);
	expect("LOCK PUSH", lock_push, 6);
	expect("LOCK JMP", lock_jmp, 6);
	expect("LOCK MOVS", lock_movs, 6);
	expect("CMPXCHG8B of a register", cmpxchg8b_reg, 6);
	expect("LEA of a register", lea_reg, 6);
	expect("LDS of a register", lds_reg, 6);
	expect("UD0", ud0, 6);
	expect("UD1", ud1, 6);
	expect("15 bytes", longest, NO_TRAP);
	expect("16 bytes", too_long, 13);
	alignment();
}
