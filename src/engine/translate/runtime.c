/*
 * Stubs: how control enters and leaves translated code. Written with the same
 * emitter as the translations, into the front of the same code memory.
 *
 * The interpreter's traces run with RBX = vcpu on the thread's stack and go on
 * by a jump to a trace's code. Entering keeps that stack pointer in
 * soft.host_sp; leaving restores it.
 */
#include "engine/translate/region.h"

static struct code stub_begin(struct translator *t)
{
	uint8_t *p = t->code.rw + t->stubs_used;

	return (struct code){ .p = p,
			      .end = t->code.rw + t->stubs_end,
			      .to_rx = t->code.rx - t->code.rw };
}

static const void *stub_end(struct translator *t, struct code *c)
{
	const void *start = t->code.rx + t->stubs_used;

	t->stubs_used = (uint32_t)((c->p - t->code.rw + 15) & ~(ptrdiff_t)15);
	return start;
}

static void put_spill(struct code *c, unsigned resident)
{
	for (unsigned g = 0; g < 16; g++)
		if (resident >> g & 1)
			put_store(c, gpr_slot((int)g), home_of(g));
}

static void put_reload(struct code *c, unsigned resident)
{
	for (unsigned g = 0; g < 16; g++)
		if (resident >> g & 1)
			put_load(c, home_of(g), gpr_slot((int)g));
}

/*
 * RBX = vcpu, the thread's stack and the traces' registers again: the soft TLB's (trace_writer.h)
 * as it is now. All guest registers are away.
 */
static void put_to_host(struct code *c)
{
	static const int saved[] = { R15, R14, R13, RBP };

	put_mov(c, RBX, RSP);
	put_load(c, RSP, SLOT(soft.host_sp));
	for (unsigned n = 0; n < 4; n++) {
		if (saved[n] >= 8)
			put8(c, 0x41);
		put8(c, 0x58 | (saved[n] & 7));
	}
	put_load(c, R14, mem_operand(RBX, offsetof(struct vcpu, soft.tlb_read)));
	put_load(c, R15, mem_operand(RBX, offsetof(struct vcpu, soft.tlb_write)));
}

/* RAX: entry of the region. From the interpreter: RBX is the vcpu, arch.rip exact. */
static void write_enter(struct translator *t)
{
	static const int saved[] = { RBP, R13, R14, R15 };
	struct code c = stub_begin(t);
	struct operand rip = SLOT(arch.rip), enter = SLOT(soft.resume);

	for (unsigned n = 0; n < 4; n++) {
		if (saved[n] >= 8)
			put8(&c, 0x41);
		put8(&c, 0x50 | (saved[n] & 7));
	}
	put_store(&c, mem_operand(RBX, offsetof(struct vcpu, soft.host_sp)), RSP);
	put_mov(&c, RSP, RBX);
	put_store(&c, enter, RAX);
	put_insn(&c, OP_W(0x81), 4, rip); /* and qword [rip], ~0xfff */
	put32(&c, (uint32_t)~0xfffu);
	put_reload(&c, CANONICAL);
	put_insn(&c, OP(0xff), 4, enter);
	t->enter_common = stub_end(t, &c);
}

/*
 * Reached through the jump cache for code that is not translated. Canonical;
 * R9: the jump cache's entry; arch.rip is exact.
 */
static void write_leave_known(struct translator *t)
{
	struct code c = stub_begin(t);

	put_spill(&c, CANONICAL);
	put_load(&c, RAX, mem_operand(R9, offsetof(struct jump_entry, target)));
	put_to_host(&c);
	put_insn(&c, OP(0xff), 4, reg_operand(RAX));
	t->leave_known = stub_end(t, &c);
}

/* Not in the jump cache. Canonical; R10: the linear address to go on at. */
static void write_leave_miss(struct translator *t)
{
	struct code c = stub_begin(t);

	put_store(&c, SLOT(arch.rip), R10);
	put_spill(&c, CANONICAL);
	put_insn(&c, OP(0xc6), 0, SLOT(soft.exit));
	put8(&c, TRACE_NEXT);
	put_to_host(&c);
	put_jmp(&c, insn_exit);
	t->leave_miss = stub_end(t, &c);
}

/*
 * Called on a TLB miss: soft.la, soft.access (size, MMU_FILL_WRITE). Keeps all
 * registers. CF: the access is not for the fast path.
 */
static void write_fill(struct translator *t)
{
	static const int kept[] = { RAX, RCX, RDX, RSI, RDI, R8, R9, R10, R11 };
	struct code c = stub_begin(t);

	for (unsigned n = 0; n < 9; n++)
		put_store(&c, mem_operand(RSP, (int32_t)(offsetof(struct vcpu, soft.kept) + n * 8)),
			  kept[n]);
	put_load(&c, RSI, SLOT(soft.la));
	put_insn(&c, OP(0x8b), RDX, SLOT(soft.access));
	put_mov(&c, RDI, RSP);
	put_load(&c, RSP, mem_operand(RDI, offsetof(struct vcpu, soft.host_sp)));
	put8(&c, 0x57); /* push rdi, twice for alignment */
	put8(&c, 0x57);
	put_call(&c, (const void *)(uintptr_t)mmu_fill);
	put8(&c, 0x5c); /* pop rsp */
	put8(&c, 0x3c); /* cmp al, 1 */
	put8(&c, 1);
	for (unsigned n = 0; n < 9; n++)
		put_load(&c, kept[n],
			 mem_operand(RSP, (int32_t)(offsetof(struct vcpu, soft.kept) + n * 8)));
	put_insn(&c, OP(0xff), 4, SLOT(soft.resume));
	t->fill = stub_end(t, &c);
}

/* The stub for these residents: filled, or an empty place with its key set; NULL: no room. */
static struct stub *stub_find(struct translator *t, unsigned resident, unsigned what)
{
	uint32_t key = resident | what << 16 | 1u << 31;
	uint32_t slot = key ^ key >> 8 ^ key >> 13;
	struct stub *s;

	for (;; slot++) {
		s = &t->stubs[slot % STUBS];
		if (s->key == key)
			return s;
		if (!s->key)
			break;
	}
	if (t->stub_count > STUBS / 4 * 3 || t->stubs_used + 512 > t->stubs_end)
		return NULL;
	t->stub_count++;
	s->key = key;
	return s;
}

/* rip = page + offset of soft.exit_offset. RAX is free. */
static void put_exact_rip(struct code *c)
{
	put_insn(c, OP_W(0x63), RAX, SLOT(soft.exit_offset)); /* movsxd */
	put_insn(c, OP_W(0x01), RAX, SLOT(arch.rip));
}

const void *runtime_leave(struct translator *t, unsigned resident, enum leave_why why)
{
	static const uint8_t exits[LEAVES] = { TRACE_SLOW, TRACE_EVENTS, TRACE_NEXT, TRACE_STALE };
	struct stub *s = stub_find(t, resident, why);
	struct code c;

	if (!s || s->code)
		return s ? s->code : NULL;
	c = stub_begin(t);
	put_spill(&c, resident);
	put_exact_rip(&c);
	put_insn(&c, OP(0xc6), 0, SLOT(soft.exit));
	put8(&c, exits[why]);
	put_to_host(&c);
	put_jmp(&c, insn_exit);
	s->code = stub_end(t, &c);
	return s->code;
}

const void *runtime_callout(struct translator *t, unsigned resident)
{
	struct stub *s = stub_find(t, resident, STUB_CALLOUT);
	uint8_t *out, *gone;
	struct code c;

	if (!s || s->code)
		return s ? s->code : NULL;
	c = stub_begin(t);
	put_spill(&c, resident);
	put_exact_rip(&c);
	put_load(&c, RSI, SLOT(soft.callout));
	put_mov(&c, RBX, RSP);
	put_mov(&c, RDI, RSP);
	put_load(&c, RSP, SLOT(soft.host_sp));
	put_insn(&c, OP(0xff), 2, mem_operand(RSI, offsetof(struct insn, handler)));
	put_insn(&c, OP_W(0x85), RAX, reg_operand(RAX));
	out = put_jcc_open(&c, CC_NE);
	put_mov(&c, RSP, RBX);
	/* The handler may have written over the code we came from. */
	put_insn(&c, OP(0x80), 7, SLOT(soft.killed));
	put8(&c, 0);
	gone = put_jcc_open(&c, CC_NE);
	put_insn(&c, OP_W(0x81), 4, SLOT(arch.rip));
	put32(&c, (uint32_t)~0xfffu);
	put_reload(&c, resident);
	put_insn(&c, OP(0xff), 4, SLOT(soft.resume));

	close_rel32(&c, gone, c.p);
	put_load(&c, RSI, SLOT(soft.callout));
	put_insn(&c, (struct opcode){ .map = MAP_0F, .byte = 0xb6 }, RAX,
		 mem_operand(RSI, offsetof(struct insn, len)));
	put_insn(&c, OP_W(0x01), RAX, SLOT(arch.rip));
	put_insn(&c, OP(0xc6), 0, SLOT(soft.exit));
	put8(&c, TRACE_STALE);
	put_to_host(&c);
	put_jmp(&c, insn_exit);

	/* RAX: the interpreter's next code, on its stack already. */
	close_rel32(&c, out, c.p);
	put_mov(&c, RSP, RBX);
	put_to_host(&c);
	put_insn(&c, OP(0xff), 4, reg_operand(RAX));
	s->code = stub_end(t, &c);
	return s->code;
}

void runtime_reset(struct translator *t)
{
	t->stubs_used = 0;
	t->stub_count = 0;
	memset(t->stubs, 0, sizeof(t->stubs));
	write_enter(t);
	write_leave_known(t);
	write_leave_miss(t);
	write_fill(t);
	t->v->soft.leave_known = (uintptr_t)t->leave_known;
	t->v->soft.jump_mask = (JUMP_SIZE - 1) * sizeof(struct jump_entry);
}

void runtime_open(struct translator *t)
{
	t->stubs_end = t->code.bytes / 4 < 512u << 10 ? (uint32_t)t->code.bytes / 4 : 512u << 10;
	runtime_reset(t);
}
