/* Rare instructions one by one: privilege, modes, flags, faults that change nothing. */
#include "cpu_fixture.h"
#include "engine/interpret/sysop.h"

static int setup(void **state)
{
	static struct fixture f;

	fixture_init(&f, "x86-64-v3", 2);
	*state = &f;
	return 0;
}

static int teardown(void **state)
{
	fixture_fini(*state);
	return 0;
}

/* Decodes as the engine does for the fields that these tests use, and executes. */
static int run(struct fixture *f, const char *bytes, unsigned len)
{
	struct vcpu *v = f->v;
	bool code64 = vcpu_code64(v), code32 = v->arch.seg[SEG_CS].attr & SEG_DB;
	ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
	struct sysop op = { .base = NO_REG, .index = NO_REG, .seg = SEG_DS };
	ZydisDecodedInstruction insn;
	struct sysop_entry entry;
	ZydisDecoder decoder;

	ZydisDecoderInit(&decoder,
			 code64   ? ZYDIS_MACHINE_MODE_LONG_64
			 : code32 ? ZYDIS_MACHINE_MODE_LEGACY_32
				  : ZYDIS_MACHINE_MODE_LEGACY_16,
			 code64   ? ZYDIS_STACK_WIDTH_64
			 : code32 ? ZYDIS_STACK_WIDTH_32
				  : ZYDIS_STACK_WIDTH_16);
	assert_true(ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes, len, &insn, operands)));
	entry = sysop_find(&insn);
	assert_non_null(entry.execute);
	op.mnemonic = (uint16_t)insn.mnemonic;
	op.opcode = insn.opcode;
	op.opsize = insn.operand_width / 8;
	op.addrsize = insn.address_width / 8;
	op.len = insn.length;
	op.reg = insn.raw.modrm.reg |
		 (insn.attributes & ZYDIS_ATTRIB_HAS_REX ? insn.raw.rex.R << 3 : 0);
	op.rm = insn.raw.modrm.rm |
		(insn.attributes & ZYDIS_ATTRIB_HAS_REX ? insn.raw.rex.B << 3 : 0);
	op.rep = insn.attributes & ZYDIS_ATTRIB_HAS_REP;
	op.imm = insn.raw.imm[0].value.u;
	op.imm2 = insn.raw.imm[1].value.u;
	/* Memory operands here are always [RBX] or [BX]. */
	op.is_mem = (insn.attributes & ZYDIS_ATTRIB_HAS_MODRM) && insn.raw.modrm.mod != 3;
	if (op.is_mem)
		op.base = RBX;
	return entry.execute(v, &op);
}
#define RUN(f, bytes) run(f, bytes, sizeof(bytes) - 1)

/* Flat 32-bit protected mode without paging. */
static void protected32(struct fixture *f)
{
	struct vcpu *v = f->v;

	for (unsigned n = 0; n < 6; n++)
		v->arch.seg[n] =
			(struct segment){ .limit = 0xffffffff, .attr = 0xc093, .selector = 16 };
	v->arch.seg[SEG_CS].attr = 0xc09b;
	assert_int_equal(cr0_write(v, CR0_PE), 0);
}

static void user(struct fixture *f)
{
	f->v->arch.cpl = 3;
	vcpu_mode_changed(f->v);
}

static void vm86(struct fixture *f, unsigned iopl)
{
	struct vcpu *v = f->v;

	assert_int_equal(cr0_write(v, CR0_PE), 0);
	for (unsigned n = 0; n < 6; n++)
		v->arch.seg[n] = (struct segment){ .limit = 0xffff, .attr = 0xf3 };
	v->arch.rflags = FLAG_FIXED | FLAG_VM | iopl << 12;
	user(f);
}

static void privileged_instructions_fault_in_user_mode(void **state)
{
	static const struct {
		const char *bytes;
		unsigned len;
		uint8_t vector;
	} cases[] = {
		{ "\xf4", 1, VEC_GP },                 /* HLT */
		{ "\x0f\x32", 2, VEC_GP },             /* RDMSR */
		{ "\x0f\x30", 2, VEC_GP },             /* WRMSR */
		{ "\x0f\x20\xc0", 3, VEC_GP },         /* MOV RAX, CR0 */
		{ "\x0f\x22\xd8", 3, VEC_GP },         /* MOV CR3, RAX */
		{ "\x44\x0f\x20\xc0", 4, VEC_GP },     /* MOV RAX, CR8 */
		{ "\x0f\x21\xc0", 3, VEC_GP },         /* MOV RAX, DR0 */
		{ "\x0f\x23\xf8", 3, VEC_GP },         /* MOV DR7, RAX */
		{ "\x0f\x06", 2, VEC_GP },             /* CLTS */
		{ "\x0f\x01\xf0", 3, VEC_GP },         /* LMSW AX */
		{ "\x0f\x01\x13", 3, VEC_GP },         /* LGDT [RBX] */
		{ "\x0f\x01\x1b", 3, VEC_GP },         /* LIDT [RBX] */
		{ "\x0f\x08", 2, VEC_GP },             /* INVD */
		{ "\x0f\x09", 2, VEC_GP },             /* WBINVD */
		{ "\x0f\x01\x3b", 3, VEC_GP },         /* INVLPG [RBX] */
		{ "\x66\x0f\x38\x82\x03", 5, VEC_GP }, /* INVPCID RAX, [RBX] */
		{ "\x0f\x01\xf8", 3, VEC_GP },         /* SWAPGS */
		{ "\x0f\x01\xd1", 3, VEC_GP },         /* XSETBV */
		{ "\x0f\x01\xca", 3, VEC_UD },         /* CLAC */
		{ "\xfa", 1, VEC_GP },                 /* CLI */
		{ "\xfb", 1, VEC_GP },                 /* STI */
		{ "\x0f\x33", 2, VEC_GP },             /* RDPMC */
		{ "\x0f\x31", 2, VEC_GP },             /* RDTSC with CR4.TSD */
		{ "\x0f\x01\x03", 3, VEC_GP },         /* SGDT with CR4.UMIP */
		{ "\x0f\x00\xc8", 3, VEC_GP },         /* STR EAX with CR4.UMIP */
		{ "\x0f\x01\xe0", 3, VEC_GP },         /* SMSW EAX with CR4.UMIP */
	};
	struct fixture *f = *state;
	struct vcpu_arch before;

	fixture_long_mode(f);
	assert_int_equal(cr4_write(f->v, CR4_PAE | CR4_OSXSAVE | CR4_TSD | CR4_UMIP), 0);
	f->v->arch.gpr[RBX] = 0x9000;
	user(f);
	for (unsigned n = 0; n < sizeof(cases) / sizeof(cases[0]); n++) {
		memcpy(&before, &f->v->arch, sizeof(before));
		assert_fault(f, run(f, cases[n].bytes, cases[n].len), cases[n].vector);
		assert_memory_equal(&before, &f->v->arch, sizeof(before));
	}
}

static void control_moves(void **state)
{
	struct fixture *f = *state;
	struct vcpu *v = f->v;

	fixture_long_mode(f);
	v->arch.gpr[RAX] = 0x123456789;
	assert_int_equal(RUN(f, "\x0f\x22\xd0"), SYSOP_DONE); /* MOV CR2, RAX */
	assert_int_equal(v->arch.cr2, 0x123456789);
	v->arch.gpr[RAX] = 9;
	assert_int_equal(RUN(f, "\x44\x0f\x22\xc0"), SYSOP_DONE); /* MOV CR8, RAX */
	assert_int_equal(v->arch.lapic.tpr, 0x90);
	v->arch.gpr[RAX] = 16;
	assert_fault(f, RUN(f, "\x44\x0f\x22\xc0"), VEC_GP);
	v->arch.cr0 |= CR0_TS;
	assert_int_equal(RUN(f, "\x0f\x06"), SYSOP_DONE); /* CLTS */
	assert_false(v->arch.cr0 & CR0_TS);
	v->arch.gpr[RAX] = 0xe; /* LMSW cannot clear PE */
	assert_int_equal(RUN(f, "\x0f\x01\xf0"), SYSOP_DONE);
	assert_int_equal(v->arch.cr0 & 0xf, 0xf);
}

static void descriptor_tables(void **state)
{
	struct fixture *f = *state;
	struct vcpu *v = f->v;
	uint8_t image[10] = { 0x34, 0x12, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11 }, out[12];

	fixture_long_mode(f);
	v->arch.gpr[RBX] = 0x9000;
	assert_int_equal(ram_write(v->ram, 0x9000, image, sizeof(image)), 0);
	assert_fault(f, RUN(f, "\x0f\x01\x13"), VEC_GP); /* the base is not canonical */
	image[9] = image[8] = 0;
	assert_int_equal(ram_write(v->ram, 0x9000, image, sizeof(image)), 0);
	assert_int_equal(RUN(f, "\x0f\x01\x13"), SYSOP_DONE);
	assert_int_equal(v->arch.gdtr.limit, 0x1234);
	assert_true(v->arch.gdtr.base == 0x334455667788);
	v->arch.gpr[RBX] = 0x9100;
	assert_int_equal(RUN(f, "\x0f\x01\x03"), SYSOP_DONE); /* SGDT */
	assert_int_equal(ram_read(v->ram, 0x9100, out, 10), 0);
	assert_memory_equal(out, image, 10);
}

static void push_and_pop_flags(void **state)
{
	struct fixture *f = *state;
	struct vcpu *v = f->v;
	uint64_t image;

	fixture_long_mode(f);
	v->arch.gpr[RSP] = 0x9000;
	v->arch.rflags = FLAG_FIXED | FLAG_IF | FLAG_RF | FLAG_CF;
	assert_int_equal(RUN(f, "\x9c"), SYSOP_DONE); /* PUSHFQ */
	assert_int_equal(v->arch.gpr[RSP], 0x8ff8);
	assert_int_equal(ram_read(v->ram, 0x8ff8, &image, 8), 0);
	assert_int_equal(image, FLAG_FIXED | FLAG_IF | FLAG_CF);
	/* CPL 0: IOPL, IF, AC and ID follow; VM, VIF, VIP and reserved bits do not. */
	image = 0xffffffffffffffff & ~(uint64_t)FLAG_TF;
	assert_int_equal(ram_write(v->ram, 0x8ff8, &image, 8), 0);
	assert_int_equal(RUN(f, "\x9d"), SYSOP_DONE);
	assert_int_equal(v->arch.rflags, FLAGS_ARITH | FLAG_FIXED | FLAG_IF | FLAG_DF | FLAG_IOPL |
						 FLAG_NT | FLAG_AC | FLAG_ID);
	/* CPL 3, IOPL 0: neither IOPL nor IF. */
	v->arch.rflags = FLAG_FIXED;
	v->arch.gpr[RSP] = 0x8ff8;
	user(f);
	assert_int_equal(RUN(f, "\x9d"), SYSOP_DONE);
	assert_int_equal(v->arch.rflags,
			 FLAGS_ARITH | FLAG_FIXED | FLAG_DF | FLAG_NT | FLAG_AC | FLAG_ID);
	/* A fault leaves RSP alone. */
	v->arch.gpr[RSP] = 0x800000000000;
	assert_fault(f, RUN(f, "\x9d"), VEC_SS);
	assert_true(v->arch.gpr[RSP] == 0x800000000000);
}

static void virtual_interrupt_flag(void **state)
{
	struct fixture *f = *state;
	struct vcpu *v = f->v;
	uint16_t image;

	vm86(f, 0);
	v->arch.gpr[RSP] = 0x9000;
	assert_fault(f, RUN(f, "\x9c"), VEC_GP); /* PUSHF without VME */
	assert_fault(f, RUN(f, "\xfa"), VEC_GP);
	assert_int_equal(cr4_write(v, CR4_VME), 0);
	assert_int_equal(RUN(f, "\xfb"), SYSOP_DONE); /* STI */
	assert_int_equal(v->arch.rflags & (FLAG_IF | FLAG_VIF), FLAG_VIF);
	assert_int_equal(v->arch.shadow, SHADOW_NONE);
	assert_int_equal(RUN(f, "\x9c"), SYSOP_DONE);
	assert_int_equal(ram_read(v->ram, 0x8ffe, &image, 2), 0);
	assert_int_equal(image, FLAG_FIXED | FLAG_IF | FLAG_IOPL);
	assert_fault(f, RUN(f, "\x66\x9c"), VEC_GP); /* PUSHFD */
	v->arch.rflags |= FLAG_VIP;
	assert_fault(f, RUN(f, "\x9d"), VEC_GP); /* IF of the image while VIP */
	assert_fault(f, RUN(f, "\xfb"), VEC_GP);
	v->arch.rflags &= ~(uint64_t)FLAG_VIP;
	image = FLAG_CF;
	assert_int_equal(ram_write(v->ram, 0x8ffe, &image, 2), 0);
	assert_int_equal(RUN(f, "\x9d"), SYSOP_DONE);
	assert_int_equal(v->arch.rflags & (FLAG_VIF | FLAG_CF | FLAG_IOPL), FLAG_CF);
	image = FLAG_TF;
	v->arch.gpr[RSP] = 0x8ffe;
	assert_int_equal(ram_write(v->ram, 0x8ffe, &image, 2), 0);
	assert_fault(f, RUN(f, "\x9d"), VEC_GP);
}

static void sti_shadow(void **state)
{
	struct fixture *f = *state;
	struct vcpu *v = f->v;

	assert_int_equal(RUN(f, "\xfb"), SYSOP_DONE);
	assert_int_equal(v->arch.shadow, SHADOW_STI);
	v->arch.shadow = SHADOW_NONE;
	assert_int_equal(RUN(f, "\xfb"), SYSOP_DONE); /* IF was set: no shadow */
	assert_int_equal(v->arch.shadow, SHADOW_NONE);
	assert_int_equal(RUN(f, "\xfa"), SYSOP_DONE);
	assert_false(v->arch.rflags & FLAG_IF);
}

static void decimal(void **state)
{
	static const struct {
		char bytes[2];
		unsigned len;
		uint16_t ax, flags, ax_after, flags_after, mask;
	} cases[] = {
		/* SDM 2A's example: ADD 79H + 35H = AEH, then DAA gives 14H with carry. */
		{ "\x27", 1, 0x00ae, 0, 0x0014, FLAG_CF | FLAG_AF, FLAG_CF | FLAG_AF | FLAG_ZF },
		/* and DAS after 35H - 47H = EEH gives 88H with borrow. */
		{ "\x2f", 1, 0x00ee, FLAG_CF | FLAG_AF, 0x0088, FLAG_CF | FLAG_AF | FLAG_SF,
		  FLAG_CF | FLAG_AF | FLAG_SF },
		{ "\x2f", 1, 0x0003, FLAG_AF, 0x00fd, FLAG_CF | FLAG_AF | FLAG_SF,
		  FLAG_CF | FLAG_AF | FLAG_SF },
		{ "\x27", 1, 0x0000, 0, 0x0000, FLAG_ZF | FLAG_PF,
		  FLAG_CF | FLAG_AF | FLAG_ZF | FLAG_PF },
		{ "\x37", 1, 0x00fa, 0, 0x0200, FLAG_CF | FLAG_AF, FLAG_CF | FLAG_AF },
		{ "\x37", 1, 0x0105, 0, 0x0105, 0, FLAG_CF | FLAG_AF },
		{ "\x3f", 1, 0x020b, 0, 0x0105, FLAG_CF | FLAG_AF, FLAG_CF | FLAG_AF },
		{ "\xd4\x0a", 2, 0x0063, 0, 0x0909, FLAG_PF, FLAG_SF | FLAG_ZF | FLAG_PF },
		{ "\xd5\x0a", 2, 0x0909, 0, 0x0063, FLAG_PF, FLAG_SF | FLAG_ZF | FLAG_PF },
	};
	struct fixture *f = *state;
	struct vcpu *v = f->v;

	protected32(f);
	for (unsigned n = 0; n < sizeof(cases) / sizeof(cases[0]); n++) {
		v->arch.gpr[RAX] = 0xabcd0000u | cases[n].ax;
		v->arch.rflags = FLAG_FIXED | cases[n].flags;
		assert_int_equal(run(f, cases[n].bytes, cases[n].len), SYSOP_DONE);
		assert_int_equal(v->arch.gpr[RAX], 0xabcd0000u | cases[n].ax_after);
		assert_int_equal(v->arch.rflags & cases[n].mask, cases[n].flags_after);
	}
	assert_fault(f, RUN(f, "\xd4\x00"), VEC_DE);
}

static void push_all(void **state)
{
	struct fixture *f = *state;
	struct vcpu *v = f->v;
	uint32_t image[8];

	protected32(f);
	for (unsigned n = 0; n < 8; n++)
		v->arch.gpr[n] = 0x1000 + n;
	v->arch.gpr[RSP] = 0x9000;
	assert_int_equal(RUN(f, "\x60"), SYSOP_DONE);
	assert_int_equal(v->arch.gpr[RSP], 0x9000 - 32);
	assert_int_equal(ram_read(v->ram, 0x9000 - 32, image, 32), 0);
	assert_int_equal(image[7], 0x1000 + RAX);
	assert_int_equal(image[3], 0x9000);
	assert_int_equal(image[0], 0x1000 + RDI);
	for (unsigned n = 0; n < 8; n++)
		if (n != RSP)
			v->arch.gpr[n] = 0;
	assert_int_equal(RUN(f, "\x61"), SYSOP_DONE);
	for (unsigned n = 0; n < 8; n++)
		assert_int_equal(v->arch.gpr[n], n == RSP ? 0x9000 : 0x1000 + n);
}

static void enter_with_display(void **state)
{
	struct fixture *f = *state;
	struct vcpu *v = f->v;
	uint64_t image[4], outer[2] = { 0xaaaa, 0xbbbb };

	fixture_long_mode(f);
	v->arch.gpr[RSP] = 0x9000;
	v->arch.gpr[RBP] = 0xa000;
	assert_int_equal(ram_write(v->ram, 0xa000 - 16, outer, 16), 0);
	assert_int_equal(RUN(f, "\xc8\x20\x00\x03"), SYSOP_DONE); /* ENTER 32, 3 */
	assert_int_equal(v->arch.gpr[RBP], 0x8ff8);
	assert_int_equal(v->arch.gpr[RSP], 0x9000 - 32 - 32);
	assert_int_equal(ram_read(v->ram, 0x9000 - 32, image, 32), 0);
	assert_int_equal(image[3], 0xa000);
	assert_int_equal(image[2], 0xbbbb);
	assert_int_equal(image[1], 0xaaaa);
	assert_int_equal(image[0], 0x8ff8);
	/* The frame's end lies where nothing is mapped. */
	v->arch.gpr[RSP] = 0x8000000000ull;
	assert_fault(f, RUN(f, "\xc8\x20\x00\x00"), VEC_PF);
	assert_true(v->arch.gpr[RSP] == 0x8000000000ull);
	assert_int_equal(v->arch.gpr[RBP], 0x8ff8);
}

static void compare_exchange(void **state)
{
	struct fixture *f = *state;
	struct vcpu *v = f->v;
	uint64_t memory[2] = { 1, 2 };

	fixture_long_mode(f);
	v->arch.gpr[RBX] = 0x9010;
	assert_int_equal(ram_write(v->ram, 0x9010, memory, 16), 0);
	v->arch.gpr[RAX] = 1;
	v->arch.gpr[RDX] = 2;
	v->arch.gpr[RCX] = 7;
	assert_int_equal(RUN(f, "\xf0\x48\x0f\xc7\x0b"), SYSOP_DONE); /* LOCK CMPXCHG16B [RBX] */
	assert_true(v->arch.rflags & FLAG_ZF);
	assert_int_equal(ram_read(v->ram, 0x9010, memory, 16), 0);
	assert_int_equal(memory[0], 0x9010);
	assert_int_equal(memory[1], 7);
	assert_int_equal(RUN(f, "\xf0\x48\x0f\xc7\x0b"), SYSOP_DONE);
	assert_false(v->arch.rflags & FLAG_ZF);
	assert_int_equal(v->arch.gpr[RAX], 0x9010);
	assert_int_equal(v->arch.gpr[RDX], 7);
	v->arch.gpr[RBX] = 0x9018;
	assert_fault(f, RUN(f, "\x48\x0f\xc7\x0b"), VEC_GP); /* misaligned */
	/* CMPXCHG8B across a page: the slow way. */
	v->arch.gpr[RBX] = 0x9ffc;
	memory[0] = 0x1111111122222222;
	assert_int_equal(ram_write(v->ram, 0x9ffc, memory, 8), 0);
	v->arch.gpr[RAX] = 0x22222222;
	v->arch.gpr[RDX] = 0x11111111;
	v->arch.gpr[RCX] = 0x5;
	assert_int_equal(RUN(f, "\xf0\x0f\xc7\x0b"), SYSOP_DONE);
	assert_true(v->arch.rflags & FLAG_ZF);
	assert_int_equal(ram_read(v->ram, 0x9ffc, memory, 8), 0);
	assert_true(memory[0] == 0x500009ffcull);
}

static uint64_t port_value;
static unsigned port_reads;

static uint64_t test_port_read(void *dev, uint64_t offset, unsigned size)
{
	port_reads++;
	return 0x44332211 + offset;
}

static void test_port_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	port_value = value << 8 | size;
}

static void port_strings(void **state)
{
	static const struct bus_ops ops = { test_port_read, test_port_write };
	struct bus_region region = { "test", 0x80, 4, &ops, NULL };
	struct fixture *f = *state;
	struct vcpu *v = f->v;
	uint32_t word;

	port_reads = 0;
	fixture_long_mode(f);
	assert_int_equal(bus_add(v->pio, &region), 0);
	v->arch.gpr[RAX] = ~0ull;
	assert_int_equal(RUN(f, "\xe5\x80"), SYSOP_DONE); /* IN EAX, 80H */
	assert_true(v->arch.gpr[RAX] == 0x44332211);
	assert_int_equal(RUN(f, "\xe6\x81"), SYSOP_DONE); /* OUT 81H, AL */
	assert_int_equal(port_value, 0x1101);
	v->arch.gpr[RDX] = 0x80;
	v->arch.gpr[RDI] = 0x9000;
	v->arch.gpr[RCX] = 2;
	assert_int_equal(RUN(f, "\xf3\x6d"), SYSOP_AGAIN); /* REP INSD */
	assert_int_equal(v->arch.gpr[RDI], 0x9004);
	v->arch.rflags |= FLAG_DF;
	assert_int_equal(RUN(f, "\xf3\x6d"), SYSOP_DONE);
	assert_int_equal(v->arch.gpr[RDI], 0x9000);
	assert_int_equal(v->arch.gpr[RCX], 0);
	assert_int_equal(ram_read(v->ram, 0x9004, &word, 4), 0);
	assert_int_equal(word, 0x44332211);
	assert_int_equal(RUN(f, "\xf3\x6d"), SYSOP_DONE); /* a count of zero does nothing */
	assert_int_equal(port_reads, 3);
	/* A destination that faults: the port was not read. */
	v->arch.gpr[RCX] = 1;
	v->arch.gpr[RDI] = 0x8000000000ull;
	assert_fault(f, RUN(f, "\xf3\x6d"), VEC_PF);
	assert_int_equal(port_reads, 3);
	assert_int_equal(v->arch.gpr[RCX], 1);
	v->arch.gpr[RSI] = 0x9004;
	assert_int_equal(RUN(f, "\x66\x6f"), SYSOP_DONE); /* OUTSW */
	assert_int_equal(port_value, 0x221102);
	assert_int_equal(v->arch.gpr[RSI], 0x9002);
}

static void invpcid_checks(void **state)
{
	struct fixture *f = *state;
	struct vcpu *v = f->v;
	uint64_t descriptor[2] = { 5, 0x1000 };

	fixture_long_mode(f);
	v->arch.gpr[RBX] = 0x9000;
	assert_int_equal(ram_write(v->ram, 0x9000, descriptor, 16), 0);
	v->arch.gpr[RAX] = 1;
	assert_fault(f, RUN(f, "\x66\x0f\x38\x82\x03"), VEC_GP); /* PCID 5 without PCIDE */
	assert_int_equal(cr4_write(v, CR4_PAE | CR4_PCIDE), 0);
	for (v->arch.gpr[RAX] = 0; v->arch.gpr[RAX] < 4; v->arch.gpr[RAX]++)
		assert_int_equal(RUN(f, "\x66\x0f\x38\x82\x03"), SYSOP_DONE);
	assert_fault(f, RUN(f, "\x66\x0f\x38\x82\x03"), VEC_GP); /* type 4 */
	descriptor[0] = 0x1005;
	assert_int_equal(ram_write(v->ram, 0x9000, descriptor, 16), 0);
	v->arch.gpr[RAX] = 2;
	assert_fault(f, RUN(f, "\x66\x0f\x38\x82\x03"), VEC_GP);
	descriptor[0] = 5;
	descriptor[1] = 1ull << 47;
	assert_int_equal(ram_write(v->ram, 0x9000, descriptor, 16), 0);
	v->arch.gpr[RAX] = 0;
	assert_fault(f, RUN(f, "\x66\x0f\x38\x82\x03"), VEC_GP);
}

static void segment_bases(void **state)
{
	struct fixture *f = *state;
	struct vcpu *v = f->v;

	fixture_long_mode(f);
	assert_fault(f, RUN(f, "\xf3\x48\x0f\xae\xd0"), VEC_UD); /* WRFSBASE without CR4.FSGSBASE */
	assert_int_equal(cr4_write(v, CR4_PAE | CR4_FSGSBASE), 0);
	v->arch.gpr[RAX] = 0xffff800000001234;
	assert_int_equal(RUN(f, "\xf3\x48\x0f\xae\xd8"), SYSOP_DONE); /* WRGSBASE RAX */
	v->arch.msr.kernel_gs_base = 0x42;
	assert_int_equal(RUN(f, "\x0f\x01\xf8"), SYSOP_DONE);
	assert_int_equal(v->arch.seg[SEG_GS].base, 0x42);
	assert_true(v->arch.msr.kernel_gs_base == 0xffff800000001234);
	v->arch.gpr[RAX] = 1ull << 47;
	assert_fault(f, RUN(f, "\xf3\x48\x0f\xae\xd8"), VEC_GP);
	assert_int_equal(RUN(f, "\xf3\x0f\xae\xc8"), SYSOP_DONE); /* RDGSBASE EAX */
	assert_int_equal(v->arch.gpr[RAX], 0x42);
}

static void small_ones(void **state)
{
	struct fixture *f = *state;
	struct vcpu *v = f->v;
	uint64_t value = 0x1122334455667788;

	fixture_long_mode(f);
	v->arch.gpr[RBX] = 0x9000;
	assert_int_equal(ram_write(v->ram, 0x9000, &value, 8), 0);
	assert_int_equal(RUN(f, "\x48\x0f\x38\xf0\x03"), SYSOP_DONE); /* MOVBE RAX, [RBX] */
	assert_true(v->arch.gpr[RAX] == 0x8877665544332211);
	assert_int_equal(RUN(f, "\x66\x0f\x38\xf0\x03"), SYSOP_DONE); /* MOVBE AX, [RBX] */
	assert_true(v->arch.gpr[RAX] == 0x8877665544338877);
	v->arch.gpr[RAX] = 0xffffffff;
	assert_int_equal(RUN(f, "\xf2\x48\x0f\x38\xf1\x03"), SYSOP_DONE); /* CRC32 RAX, [RBX] */
	assert_int_equal(v->arch.gpr[RAX] >> 32, 0);
	v->arch.rflags = FLAG_FIXED | FLAG_OF;
	assert_int_equal(RUN(f, "\x48\x0f\xc7\xf0"), SYSOP_DONE); /* RDRAND RAX */
	assert_int_equal(v->arch.rflags, FLAG_FIXED | FLAG_CF);
	v->arch.gpr[RAX] = 3;
	assert_int_equal(RUN(f, "\xd7"), SYSOP_DONE); /* XLAT */
	assert_int_equal(v->arch.gpr[RAX], 0x55);
	v->arch.gpr[RAX] = 6;
	assert_int_equal(RUN(f, "\x0f\x01\xc1"), SYSOP_DONE); /* VMCALL */
	assert_true(v->arch.gpr[RAX] == (uint64_t)-1000);
	v->arch.gpr[RBX] = 0x8000000000ull;
	assert_fault(f, RUN(f, "\x0f\xae\x3b"), VEC_PF);      /* CLFLUSH [RBX] */
	assert_int_equal(RUN(f, "\x0f\x01\x3b"), SYSOP_DONE); /* INVLPG there is no fault */
	assert_int_equal(RUN(f, "\x0f\x18\x03"), SYSOP_DONE); /* nor is PREFETCHNTA */
}

/* The hypercall that wakes a cpu which waits for a lock. */
static void kick(void **state)
{
	static const uint64_t nobody[] = { 1, 255, 256, 1ull << 32, UINT64_MAX };
	struct fixture *f = *state;
	struct vcpu *v = f->v;
	unsigned n;

	fixture_long_mode(f);
	v->arch.rflags &= ~(uint64_t)FLAG_IF;
	atomic_store(&v->req, 0);
	for (n = 0; n < 5; n++) {
		v->arch.gpr[RAX] = 5;
		v->arch.gpr[RCX] = nobody[n];
		assert_int_equal(RUN(f, "\x0f\x01\xd9"), SYSOP_DONE); /* VMMCALL */
		assert_int_equal(v->arch.gpr[RAX], 0);
		assert_int_equal(atomic_load(&v->req), 0);
	}
	/* A halted one goes on, with interrupts off. */
	assert_int_equal(RUN(f, "\xf4"), SYSOP_DONE); /* HLT */
	assert_int_equal(v->arch.activity, ACTIVITY_HALT);
	assert_false(vcpu_has_work(v));
	v->arch.gpr[RAX] = 5;
	v->arch.gpr[RCX] = 0;
	assert_int_equal(RUN(f, "\x0f\x01\xc1"), SYSOP_DONE);
	assert_true(vcpu_has_work(v));
	vcpu_events(v);
	assert_int_equal(v->arch.activity, ACTIVITY_RUN);
	/* One that was about to halt does not, once. */
	v->arch.gpr[RAX] = 5;
	assert_int_equal(RUN(f, "\x0f\x01\xc1"), SYSOP_DONE);
	vcpu_events(v);
	assert_int_equal(RUN(f, "\xf4"), SYSOP_DONE);
	assert_int_equal(v->arch.activity, ACTIVITY_RUN);
	assert_int_equal(RUN(f, "\xf4"), SYSOP_DONE);
	assert_int_equal(v->arch.activity, ACTIVITY_HALT);
	v->arch.activity = ACTIVITY_RUN;
	/* Not a user's business. */
	v->arch.cpl = 3;
	v->arch.gpr[RAX] = 5;
	assert_int_equal(RUN(f, "\x0f\x01\xc1"), SYSOP_DONE);
	assert_true(v->arch.gpr[RAX] == (uint64_t)-1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(privileged_instructions_fault_in_user_mode),
		TEST(control_moves),
		TEST(descriptor_tables),
		TEST(push_and_pop_flags),
		TEST(virtual_interrupt_flag),
		TEST(sti_shadow),
		TEST(decimal),
		TEST(push_all),
		TEST(enter_with_display),
		TEST(compare_exchange),
		TEST(port_strings),
		TEST(invpcid_checks),
		TEST(segment_bases),
		TEST(small_ones),
		TEST(kick),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
