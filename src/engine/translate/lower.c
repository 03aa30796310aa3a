/*
 * Writes a planned region. Every guest register has a home (home_of) and is
 * either there, "resident", or in arch.gpr; homes of registers that are not
 * resident are the scratch registers. At the borders of blocks the residents
 * are those of the region, at the region's borders the canonical ones.
 *
 * Arithmetic flags are in the host's, in soft.flags, or in both. A look-up of
 * the TLB overwrites the host's, so it saves them first if they are live.
 *
 * Invariant: at each instruction's boundary where control can leave, the
 * residents are right, and flags that are live are where g->flags says.
 */
#include "engine/translate/region.h"

#define BIT(r) (1u << (r))
#define ALL_HOMED 0xf7ffu
#define RESIDENT_MOST 13 /* two scratch registers at least */

enum flags_place { FLAGS_HOST = 1, FLAGS_SAVED = 2, FLAGS_BOTH = 3 };

enum cold_kind {
	COLD_FILL,  /* a TLB miss: fill, try again, else leave slowly */
	COLD_LEAVE, /* to stub `target` with exit_offset */
	COLD_EDGE,  /* a branch to another block or out of the region */
};

struct cold {
	enum cold_kind kind;
	uint8_t *from; /* displacement to close */
	uint8_t *second; /* another one, or NULL: leaves slowly */
	const uint8_t *retry;
	uint16_t offset, resident, size;
	bool store;
	int8_t s0, s1;
	enum leave_why why;
	int16_t block; /* EDGE: -1: outside */
	int32_t target;
	uint8_t flags;
};

#define COLD_MOST (PLAN_INSNS * 3 + 2 * PLAN_BLOCKS)

struct gen {
	struct translator *t;
	struct plan *p;
	struct code c;
	struct region *r;
	const struct guest_block *block;
	const struct guest_insn *insn;
	unsigned at; /* its number in the block */
	unsigned resident, dirty;
	unsigned border; /* residents at the borders of blocks */
	unsigned busy;   /* host registers in use as scratch */
	enum flags_place flags;
	bool failed; /* beyond what this file can do: leave it to the interpreter */
	bool full;   /* out of room: flush */
	int r11; /* scratch that stands for guest R11 within this instruction */
	struct cold cold[COLD_MOST];
	unsigned cold_count;
	uint8_t *block_code[PLAN_BLOCKS];
	struct {
		uint8_t *at;
		int16_t block;
	} fixes[2 * PLAN_BLOCKS + COLD_MOST];
	unsigned fix_count;
};

static int host_of(const struct gen *g, int guest)
{
	return guest == NONE ? NONE : guest == R11 ? g->r11 : home_of((unsigned)guest);
}

/* Registers. */

static unsigned homes(unsigned residents)
{
	unsigned used = residents & ~(BIT(RSP) | BIT(R11));

	return residents & BIT(RSP) ? used | BIT(R11) : used;
}

static void evict(struct gen *g, unsigned guest)
{
	if (g->dirty & BIT(guest))
		put_store(&g->c, gpr_slot((int)guest), home_of(guest));
	g->resident &= ~BIT(guest);
	g->dirty &= ~BIT(guest);
}

/* How far away the register's next use in this block is. */
static unsigned next_use(const struct gen *g, unsigned guest)
{
	unsigned n, limit = g->block->count;

	for (n = g->at + 1; n < limit; n++) {
		const struct guest_insn *i = &g->p->insns[g->block->first + n];

		if ((i->reads | i->writes) >> guest & 1)
			return n;
	}
	return g->border & BIT(guest) ? limit : limit + 1;
}

static void evict_one(struct gen *g, unsigned keep)
{
	unsigned best = 16, distance = 0;

	for (unsigned r = 0; r < 16; r++) {
		unsigned d;

		if (!(g->resident & ~keep & BIT(r)))
			continue;
		d = next_use(g, r);
		if (best == 16 || d > distance) {
			best = r;
			distance = d;
		}
	}
	if (best == 16)
		g->failed = true;
	else
		evict(g, best);
}

static int scratch(struct gen *g)
{
	unsigned free = ~(homes(g->resident) | g->busy | BIT(RSP)) & 0xffffu;
	int r;

	if (!free) {
		g->failed = true;
		return RAX;
	}
	r = 31 - __builtin_clz(free);
	g->busy |= BIT(r);
	return r;
}

/* Makes `used` resident and `count` scratch registers free. */
static void prepare(struct gen *g, unsigned used, unsigned count)
{
	unsigned wanted, load;

	g->busy = 0;
	g->r11 = NONE;
	if (used & BIT(R11))
		count++;
	wanted = used & ~BIT(R11);
	while (!g->failed &&
	       15 - (unsigned)__builtin_popcount(g->resident | wanted) < count)
		evict_one(g, wanted);
	load = wanted & ~g->resident;
	for (unsigned r = 0; r < 16; r++)
		if (load & BIT(r))
			put_load(&g->c, home_of(r), gpr_slot((int)r));
	g->resident |= load;
	if (used & BIT(R11)) {
		g->r11 = scratch(g);
		put_load(&g->c, g->r11, gpr_slot(R11));
	}
}

static void wrote(struct gen *g, unsigned written)
{
	g->dirty |= written & ~BIT(R11);
	if (written & BIT(R11))
		put_store(&g->c, gpr_slot(R11), g->r11);
}

/* The residents become exactly these. */
static void normalise(struct gen *g, unsigned residents)
{
	for (unsigned r = 0; r < 16; r++)
		if (g->resident & ~residents & BIT(r))
			evict(g, r);
	for (unsigned r = 0; r < 16; r++)
		if (residents & ~g->resident & BIT(r))
			put_load(&g->c, home_of(r), gpr_slot((int)r));
	g->resident = residents;
}

/* Flags. Both need a scratch register unless RAX is one. */

static void save_flags(struct gen *g)
{
	unsigned busy = g->busy;
	int keep = NONE;

	if (g->flags & FLAGS_SAVED)
		return;
	if (g->resident & BIT(RAX) || busy & BIT(RAX)) {
		keep = scratch(g);
		put_mov(&g->c, keep, RAX);
	}
	put8(&g->c, 0x9f); /* lahf */
	put_insn(&g->c, OP_0F(0x90), 0, reg_operand(RAX)); /* seto al */
	put8(&g->c, 0x66);
	put_insn(&g->c, OP(0x89), RAX, SLOT(soft.flags));
	if (keep != NONE)
		put_mov(&g->c, RAX, keep);
	g->busy = busy;
	g->flags = FLAGS_BOTH;
}

static void restore_flags(struct gen *g)
{
	unsigned busy = g->busy;
	int keep = NONE;

	if (g->flags & FLAGS_HOST)
		return;
	if (g->resident & BIT(RAX) || busy & BIT(RAX)) {
		keep = scratch(g);
		put_mov(&g->c, keep, RAX);
	}
	put_insn(&g->c, OP_0F(0xb7), RAX, SLOT(soft.flags)); /* movzx eax, word */
	put8(&g->c, 0x04); /* add al, 0x7f: OF */
	put8(&g->c, 0x7f);
	put8(&g->c, 0x9e); /* sahf */
	if (keep != NONE)
		put_mov(&g->c, RAX, keep);
	g->busy = busy;
	g->flags = FLAGS_BOTH;
}

/* The host's flags are about to be overwritten; `live` ones must survive. */
static void clobber_flags(struct gen *g, unsigned live)
{
	if (live)
		save_flags(g);
	/* Dead ones are as good as anywhere. */
	g->flags = live ? FLAGS_SAVED : FLAGS_HOST;
}

/* Leaving. */

static struct cold *cold_add(struct gen *g, enum cold_kind kind, uint8_t *from)
{
	struct cold *cold = &g->cold[g->cold_count];

	if (g->cold_count == COLD_MOST - 1)
		g->failed = true;
	else
		g->cold_count++;
	*cold = (struct cold){ .kind = kind,
			       .from = from,
			       .offset = g->insn->offset,
			       .resident = (uint16_t)g->resident,
			       .why = LEAVE_SLOW,
			       .flags = (uint8_t)g->flags };
	return cold;
}

static void put_leave(struct gen *g, int32_t offset, unsigned resident, enum leave_why why)
{
	const void *stub = runtime_leave(g->t, resident, why);

	if (!stub) {
		g->full = true;
		return;
	}
	put_store_imm(&g->c, false, SLOT(soft.exit_offset), (uint32_t)offset);
	put_jmp(&g->c, stub);
}

/* Memory. */

struct access {
	int base, index; /* guest registers or NONE */
	uint8_t shift, seg;
	bool rip, aligned, store;
	int32_t disp;
	unsigned size;
};

static struct access access_of(const struct guest_insn *i)
{
	return (struct access){ .base = i->base,
				.index = i->index,
				.shift = i->shift,
				.seg = i->seg,
				.rip = i->rip,
				.aligned = i->aligned,
				.store = i->store,
				.disp = i->disp,
				.size = i->size };
}

static struct operand effective(const struct gen *g, const struct access *a)
{
	return (struct operand){ .memory = true,
				 .base = (int8_t)host_of(g, a->base),
				 .index = (int8_t)host_of(g, a->index),
				 .shift = a->shift,
				 .disp = a->disp };
}

static struct operand segment_base(unsigned seg)
{
	return mem_operand(RSP, (int32_t)(offsetof(struct vcpu, arch.seg) +
					  seg * sizeof(struct segment) +
					  offsetof(struct segment, base)));
}

/*
 * Looks the access up in the TLB and answers the host operand. Needs two
 * scratch registers, which it claims; the host's flags are lost.
 */
static struct operand put_access(struct gen *g, const struct access *a, unsigned live)
{
	struct code *c = &g->c;
	struct cold *cold;
	const uint8_t *retry;
	struct operand result;
	int s0, s1;

	clobber_flags(g, live);
	s0 = scratch(g);
	s1 = scratch(g);
	retry = c->p;
	if (a->rip) {
		put_load(c, s0, SLOT(arch.rip));
		put_lea(c, s0, mem_operand(s0, a->disp));
	} else {
		put_lea(c, s0, effective(g, a));
	}
	if (a->seg == SEG_FS || a->seg == SEG_GS)
		put_insn(c, OP_W(0x03), s0, segment_base(a->seg));
	if (g->t->bmi2) {
		put_insn(c,
			 (struct opcode){ .map = MAP_0F3A, .byte = 0xf0, .prefix = 0xf2, .vex = true },
			 s1, reg_operand(s0)); /* rorx s1d, s0d, 8 */
		put8(c, PAGE_SHIFT - 4);
	} else {
		put_insn(c, OP(0x8b), s1, reg_operand(s0));
		put_insn(c, OP(0xc1), 5, reg_operand(s1));
		put8(c, PAGE_SHIFT - 4);
	}
	put_insn(c, OP(0x81), 4, reg_operand(s1));
	put32(c, (TLB_SIZE - 1) << 4);
	put_insn(c, OP_W(0x03), s1,
		 a->store ? SLOT(soft.tlb_write) : SLOT(soft.tlb_read));
	put_insn(c, OP_W(0x2b), s0, mem_operand(s1, 0));
	put_insn(c, OP_W(0x81), 7, reg_operand(s0));
	put32(c, (uint32_t)(PAGE_SIZE - a->size));
	cold = cold_add(g, COLD_FILL, put_jcc_open(c, CC_A));
	cold->retry = retry;
	cold->s0 = (int8_t)s0;
	cold->s1 = (int8_t)s1;
	cold->size = (uint16_t)a->size;
	cold->store = a->store;
	if (a->aligned) {
		put_insn(c, (struct opcode){ .byte = 0xf6, .byte_regs = true }, 0, reg_operand(s0));
		put8(c, a->size - 1);
		cold->second = put_jcc_open(c, CC_NE);
	}
	put_load(c, s1, mem_operand(s1, offsetof(struct tlb_entry, addend)));
	if (a->seg == SEG_FS || a->seg == SEG_GS)
		put_insn(c, OP_W(0x03), s1, segment_base(a->seg));
	if (a->rip) {
		put_insn(c, OP_W(0x03), s1, SLOT(arch.rip));
		return mem_operand(s1, a->disp);
	}
	result = effective(g, a);
	if (result.base != NONE && result.index != NONE) {
		put_lea(c, s1,
			(struct operand){ .memory = true,
					  .base = (int8_t)s1,
					  .index = result.index,
					  .shift = result.shift });
		result.index = (int8_t)s1;
		result.shift = 0;
	} else if (result.base != NONE) {
		result.index = (int8_t)s1;
		result.shift = 0;
	} else {
		result.base = (int8_t)s1;
	}
	g->busy &= ~BIT(s0);
	return result;
}

static struct operand put_stack_access(struct gen *g, int32_t disp, bool store, unsigned live)
{
	struct access a = {
		.base = RSP, .index = NONE, .disp = disp, .store = store, .size = 8, .seg = SEG_SS
	};

	return put_access(g, &a, live);
}

static void move_rsp(struct gen *g, int32_t by)
{
	put_lea(&g->c, R11, mem_operand(R11, by));
	wrote(g, BIT(RSP));
}

/* One instruction. */

static void note_x87(struct gen *g, const struct guest_insn *i)
{
	int s = scratch(g);

	put_load(&g->c, s, SLOT(arch.rip));
	put_lea(&g->c, s, mem_operand(s, i->offset));
	put_store(&g->c, SLOT(arch.fpu_ip), s);
	if (i->memory) {
		if (i->rip) {
			put_load(&g->c, s, SLOT(arch.rip));
			put_lea(&g->c, s, mem_operand(s, i->disp));
		} else {
			struct access a = access_of(i);

			put_lea(&g->c, s, effective(g, &a));
		}
		put_store(&g->c, SLOT(arch.fpu_dp), s);
	}
	put8(&g->c, 0x66);
	put_insn(&g->c, OP(0xc7), 0, SLOT(arch.fpu_op));
	put8(&g->c, i->fop & 0xff);
	put8(&g->c, i->fop >> 8);
}

static bool last_x87(const struct gen *g)
{
	if (g->p->exact)
		return true;
	for (unsigned n = g->at + 1; n < g->block->count; n++)
		if (g->p->insns[g->block->first + n].x87)
			return false;
	return true;
}

static void lower_plain(struct gen *g, const struct guest_insn *i)
{
	unsigned live_after = g->at + 1 < g->block->count ? i[1].live : g->block->live_out;
	/* Flags that must be the host's when it executes: what it reads and what it lets pass. */
	unsigned through = i->flags_read | (live_after & ~i->flags_written);
	bool changes = i->flags_written || i->flags_read;
	struct operand rm = { 0 };
	struct opcode op = i->op;
	unsigned scratches = 1;
	int reg = i->reg;

	if (i->memory)
		scratches = i->live && changes && through ? 3 : 2;
	prepare(g, i->reads | i->writes, scratches);
	if (i->memory) {
		struct access a = access_of(i);

		rm = put_access(g, &a, g->p->exact ? i->live : i->flags_read | through);
	} else if (i->rm_gpr || i->in_opcode) {
		rm = reg_operand(host_of(g, i->rm));
	} else {
		rm = reg_operand(i->rm);
	}
	if (changes && through)
		restore_flags(g);
	if (i->reg_gpr)
		reg = host_of(g, reg);
	if (i->vvvv_gpr)
		op.vvvv = (uint8_t)host_of(g, op.vvvv);
	if (op.high_byte)
		op.byte_regs = false; /* numbers 4..7 mean AH..BH */
	if (i->traps) {
		struct translator *t = g->t;

		if (t->trap_count == TRAPS_MOST || !runtime_leave(t, g->resident, LEAVE_SLOW))
			g->full = true;
		else
			t->traps[t->trap_count++] =
				(struct trap){ .position = (uint32_t)(g->c.p - t->code.rw),
					       .offset = i->offset,
					       .resident = (uint16_t)g->resident,
					       .host_flags = g->flags & FLAGS_HOST && i->live };
	}
	if (i->has_modrm) {
		put_insn(&g->c, op, reg, rm);
	} else if (i->in_opcode) {
		op.byte = (uint8_t)(op.byte | (rm.reg & 7));
		if (op.prefix)
			put8(&g->c, op.prefix);
		if (op.wide || rm.reg >= 8 || (op.byte_regs && rm.reg >= 4))
			put8(&g->c, 0x40 | (unsigned)op.wide << 3 | (rm.reg >= 8));
		if (op.map == MAP_0F)
			put8(&g->c, 0x0f);
		put8(&g->c, op.byte);
	} else {
		if (op.lock)
			put8(&g->c, 0xf0);
		if (op.vex) {
			put_insn(&g->c, op, 0, reg_operand(0));
			g->c.p--; /* without ModRM: VZEROUPPER and its like */
		} else {
			if (op.prefix)
				put8(&g->c, op.prefix);
			if (op.wide)
				put8(&g->c, 0x48);
			if (op.map == MAP_0F)
				put8(&g->c, 0x0f);
			put8(&g->c, op.byte);
		}
	}
	for (unsigned n = 0; n < i->imm_len; n++)
		put8(&g->c, i->imm[n]);
	if (i->flags_written)
		g->flags = FLAGS_HOST;
	if (i->x87 && last_x87(g))
		note_x87(g, i);
	wrote(g, i->writes);
}

static void lower_lea(struct gen *g, const struct guest_insn *i)
{
	struct access a = access_of(i);
	int to;

	prepare(g, i->reads | i->writes, 1);
	to = host_of(g, i->reg);
	if (i->rip) {
		put_load(&g->c, to, SLOT(arch.rip));
		put_insn(&g->c, i->op, to, mem_operand(to, i->disp));
	} else {
		put_insn(&g->c, i->op, to, effective(g, &a));
	}
	wrote(g, i->writes);
}

static void lower_push(struct gen *g, const struct guest_insn *i)
{
	struct operand top;
	int value = NONE;

	prepare(g, i->reads | i->writes, i->kind == G_PUSH_MEM ? 3 : 2);
	if (i->kind == G_PUSH_MEM) {
		struct access a = access_of(i);
		unsigned r11 = g->r11 != NONE ? BIT(g->r11) : 0;

		a.store = false;
		top = put_access(g, &a, i->live);
		g->busy = r11;
		value = scratch(g);
		put_load(&g->c, value, top);
	}
	top = put_stack_access(g, -8, true, i->live);
	if (i->kind == G_PUSH_IMM)
		put_store_imm(&g->c, true, top, (uint32_t)i->target);
	else
		put_store(&g->c, top, value != NONE ? value : host_of(g, i->rm));
	move_rsp(g, -8);
}

static void lower_pop(struct gen *g, const struct guest_insn *i)
{
	struct operand top;

	prepare(g, i->reads | i->writes, 2);
	top = put_stack_access(g, 0, false, i->live);
	put_load(&g->c, host_of(g, i->rm), top);
	if (i->rm != RSP)
		move_rsp(g, 8);
	wrote(g, i->writes);
}

static void lower_leave(struct gen *g, const struct guest_insn *i)
{
	struct access a = { .base = RBP, .index = NONE, .size = 8, .seg = SEG_SS };
	struct operand top;

	prepare(g, i->reads | i->writes, 2);
	top = put_access(g, &a, i->live);
	put_lea(&g->c, R11, mem_operand(RBP, 8));
	put_load(&g->c, RBP, top);
	wrote(g, i->writes);
}

static void lower_callout(struct gen *g, const struct guest_insn *i)
{
	const void *stub;
	int s;

	prepare(g, 0, 1);
	save_flags(g);
	put_store_imm(&g->c, false, SLOT(soft.exit_offset), i->offset);
	s = scratch(g);
	put8(&g->c, 0x48 | (s >= 8)); /* mov s, imm64 */
	put8(&g->c, 0xb8 | (s & 7));
	put64(&g->c, (uintptr_t)i->record);
	put_store(&g->c, SLOT(soft.callout), s);
	stub = runtime_callout(g->t, g->resident);
	if (!stub) {
		g->full = true;
		return;
	}
	put_call_stub(&g->c, s, stub);
	/* The stub put all away and brought it back. */
	g->dirty = 0;
	g->flags = FLAGS_SAVED;
}

/* Going on elsewhere. Canonical: R10 and R9 are free. */

static void put_poll(struct gen *g, int32_t offset)
{
	uint8_t *go;

	put_insn(&g->c, OP(0x83), 7, SLOT(req));
	put8(&g->c, 0);
	go = put_jcc_open(&g->c, CC_E);
	put_leave(g, offset, CANONICAL, LEAVE_EVENTS);
	close_rel32(&g->c, go, g->c.p);
}

/* R10: a linear address. The stack pointer moves by `release` once it is certain. */
static void put_indirect(struct gen *g, int32_t release, const struct guest_insn *i, bool checked)
{
	struct code *c = &g->c;
	uint8_t *miss, *miss2, *hit, *events, *canonical;

	put_insn(c, OP(0x8b), R9, reg_operand(R10)); /* mov r9d, r10d */
	put_insn(c, OP(0x81), 4, reg_operand(R9));
	put32(c, (1u << JUMP_BITS) - 1);
	put_insn(c, OP(0xc1), 4, reg_operand(R9));
	put8(c, 5);
	put_insn(c, OP_W(0x03), R9, SLOT(soft.jumps));
	put_insn(c, OP_W(0x3b), R10, mem_operand(R9, offsetof(struct jump_entry, rip)));
	miss = put_jcc_open(c, CC_NE);
	put_load(c, R10, mem_operand(R9, offsetof(struct jump_entry, gen)));
	put_insn(c, OP_W(0x3b), R10, SLOT(soft.code_gen));
	hit = put_jcc_open(c, CC_E);
	put_insn(c, OP_W(0x3b), R10, SLOT(soft.global_gen));
	miss2 = put_jcc_open(c, CC_NE);
	close_rel32(c, hit, c->p);
	put_load(c, R10, mem_operand(R9, offsetof(struct jump_entry, rip)));
	put_insn(c, OP(0x83), 7, SLOT(req));
	put8(c, 0);
	events = put_jcc_open(c, CC_NE);
	if (release) {
		put_lea(c, R11, mem_operand(R11, release));
	}
	put_insn(c, OP_W(0x81), 4, reg_operand(R10));
	put32(c, (uint32_t)~0xfffu);
	put_store(c, SLOT(arch.rip), R10);
	put_insn(c, OP(0xff), 4, mem_operand(R9, offsetof(struct jump_entry, fast)));

	close_rel32(c, miss2, c->p);
	put_load(c, R10, mem_operand(R9, offsetof(struct jump_entry, rip)));
	close_rel32(c, miss, c->p);
	close_rel32(c, events, c->p);
	if (checked) {
		put_mov(c, R9, R10);
		put_insn(c, OP_W(0xc1), 4, reg_operand(R9));
		put8(c, 16);
		put_insn(c, OP_W(0xc1), 7, reg_operand(R9));
		put8(c, 16);
		put_insn(c, OP_W(0x3b), R9, reg_operand(R10));
		canonical = put_jcc_open(c, CC_E);
		put_leave(g, i->offset, CANONICAL, LEAVE_SLOW);
		close_rel32(c, canonical, c->p);
	}
	if (release)
		put_lea(c, R11, mem_operand(R11, release));
	put_jmp(c, g->t->leave_miss);
}

/* To a fixed place outside the region, `offset` from the page's first byte. */
static void put_exit(struct gen *g, int32_t offset)
{
	struct translator *t = g->t;

	normalise(g, CANONICAL);
	g->busy = 0;
	save_flags(g);
	if (offset < 0 || offset >= (int32_t)PAGE_SIZE) {
		put_load(&g->c, R10, SLOT(arch.rip));
		put_lea(&g->c, R10, mem_operand(R10, offset));
		put_indirect(g, 0, g->insn, false);
		return;
	}
	if (offset <= g->insn->offset)
		put_poll(g, offset);
	if (t->exit_count == EXITS_MOST) {
		g->full = true;
		return;
	}
	t->exits[t->exit_count].at = put_jmp_open(&g->c);
	close_rel32(&g->c, t->exits[t->exit_count].at, g->c.p);
	t->exit_count++;
	put_store_imm(&g->c, false, SLOT(soft.link_exit), t->exit_count);
	put_leave(g, offset, CANONICAL, LEAVE_NEXT);
}

static void fix_add(struct gen *g, uint8_t *at, int block)
{
	g->fixes[g->fix_count].at = at;
	g->fixes[g->fix_count++].block = (int16_t)block;
}

/* To a block of the region. `fall`: it is the next one written. */
static void put_edge(struct gen *g, int block, bool fall)
{
	normalise(g, g->border);
	g->busy = 0;
	if (g->p->blocks[block].live_in)
		restore_flags(g);
	if (!fall)
		fix_add(g, put_jmp_open(&g->c), block);
}

static void lower_call(struct gen *g, const struct guest_insn *i)
{
	struct operand top;
	int s;

	prepare(g, i->reads | i->writes, 2);
	normalise(g, CANONICAL);
	g->busy = 0;
	g->r11 = NONE;
	top = put_stack_access(g, -8, true, FLAGS_ARITH);
	s = scratch(g);
	put_load(&g->c, s, SLOT(arch.rip));
	put_lea(&g->c, s, mem_operand(s, i->offset + i->len));
	put_store(&g->c, top, s);
	move_rsp(g, -8);
	put_exit(g, i->target);
}

/* The target of an indirect branch, into `to`. */
static void put_target(struct gen *g, const struct guest_insn *i)
{
	if (i->memory) {
		struct access a = access_of(i);
		struct operand from;
		int s;

		prepare(g, i->reads | i->writes, 2);
		from = put_access(g, &a, FLAGS_ARITH);
		s = from.base;
		for (unsigned r = 0; r < 16; r++)
			if (g->busy & BIT(r) && (int)r != g->r11)
				s = (int)r;
		put_load(&g->c, s, from);
		put_store(&g->c, SLOT(soft.target), s);
	} else {
		prepare(g, i->reads | i->writes, 1);
		put_store(&g->c, SLOT(soft.target), host_of(g, i->rm));
	}
	normalise(g, CANONICAL);
	g->busy = 0;
	g->r11 = NONE;
}

static void lower_jump_indirect(struct gen *g, const struct guest_insn *i)
{
	put_target(g, i);
	save_flags(g);
	put_load(&g->c, R10, SLOT(soft.target));
	put_indirect(g, 0, i, true);
}

static void lower_call_indirect(struct gen *g, const struct guest_insn *i)
{
	struct operand top;
	int s;

	put_target(g, i);
	top = put_stack_access(g, -8, true, FLAGS_ARITH);
	s = scratch(g);
	put_load(&g->c, s, SLOT(arch.rip));
	put_lea(&g->c, s, mem_operand(s, i->offset + i->len));
	put_store(&g->c, top, s);
	g->busy = 0;
	put_load(&g->c, R10, SLOT(soft.target));
	put_indirect(g, -8, i, true);
}

static void lower_ret(struct gen *g, const struct guest_insn *i)
{
	struct operand top;

	normalise(g, CANONICAL);
	g->busy = 0;
	g->r11 = NONE;
	top = put_stack_access(g, 0, false, FLAGS_ARITH);
	put_load(&g->c, R10, top);
	put_indirect(g, 8 + i->ret_bytes, i, true);
}

static void lower_jcc(struct gen *g, const struct guest_insn *i, unsigned number)
{
	const struct guest_block *b = g->block;
	struct cold *cold;
	uint8_t *at;

	/* Moves change no flags: the residents of both edges are put in order before. */
	normalise(g, g->border);
	g->busy = 0;
	restore_flags(g);
	at = put_jcc_open(&g->c, i->cc);
	if (b->taken >= 0) {
		fix_add(g, at, b->taken);
	} else {
		cold = cold_add(g, COLD_EDGE, at);
		cold->target = i->target;
	}
	if (b->next >= 0)
		put_edge(g, b->next, b->next == (int)number + 1);
	else
		put_exit(g, b->next_offset);
}

static void lower_block(struct gen *g, unsigned number)
{
	const struct guest_block *b = &g->p->blocks[number];
	const struct guest_insn *i = NULL;

	g->block = b;
	g->block_code[number] = g->c.p;
	g->at = 0;
	g->insn = &g->p->insns[b->first];
	if (number || b->joined) {
		g->resident = g->border;
		g->dirty = g->border;
		g->flags = FLAGS_HOST;
	}
	g->busy = 0;
	g->r11 = NONE;
	if (b->head) {
		struct cold *cold;

		clobber_flags(g, b->live_in);
		put_insn(&g->c, OP(0x83), 7, SLOT(req));
		put8(&g->c, 0);
		cold = cold_add(g, COLD_LEAVE, put_jcc_open(&g->c, CC_NE));
		cold->why = LEAVE_EVENTS;
		cold->offset = b->offset;
	}
	for (unsigned n = 0; n < b->count && !g->failed; n++) {
		i = &g->p->insns[b->first + n];
		g->insn = i;
		g->at = n;
		switch ((enum guest_kind)i->kind) {
		case G_PLAIN:
			lower_plain(g, i);
			break;
		case G_NOTHING:
			break;
		case G_LEA:
			lower_lea(g, i);
			break;
		case G_PUSH:
		case G_PUSH_IMM:
		case G_PUSH_MEM:
			lower_push(g, i);
			break;
		case G_POP:
			lower_pop(g, i);
			break;
		case G_LEAVE:
			lower_leave(g, i);
			break;
		case G_CALLOUT:
		case G_LAST:
			lower_callout(g, i);
			break;
		case G_JMP:
			if (b->taken >= 0)
				put_edge(g, b->taken, b->taken == (int)number + 1);
			else
				put_exit(g, i->target);
			return;
		case G_JCC:
			lower_jcc(g, i, number);
			return;
		case G_CALL:
			lower_call(g, i);
			return;
		case G_JMP_IND:
			lower_jump_indirect(g, i);
			return;
		case G_CALL_IND:
			lower_call_indirect(g, i);
			return;
		case G_RET:
			lower_ret(g, i);
			return;
		}
	}
	if (b->next >= 0)
		put_edge(g, b->next, b->next == (int)number + 1);
	else
		put_exit(g, b->next_offset);
}

static void lower_cold(struct gen *g, struct cold *cold)
{
	struct guest_insn branch = { 0 };
	struct code *c = &g->c;

	if (cold->from)
		close_rel32(c, cold->from, c->p);
	switch (cold->kind) {
	case COLD_FILL:
		/* s0 = address - tag, s1 = the entry: together the address again. */
		put_insn(c, OP_W(0x03), cold->s0, mem_operand(cold->s1, 0));
		put_store(c, SLOT(soft.la), cold->s0);
		put_store_imm(c, false, SLOT(soft.access),
			      cold->size | (cold->store ? 1u << 8 : 0));
		put_call_stub(c, cold->s0, g->t->fill);
		put_jcc(c, CC_AE, cold->retry + c->to_rx);
		if (cold->second)
			close_rel32(c, cold->second, c->p);
		put_leave(g, cold->offset, cold->resident, LEAVE_SLOW);
		break;
	case COLD_LEAVE:
		put_leave(g, cold->offset, cold->resident, cold->why);
		break;
	case COLD_EDGE:
		g->resident = cold->resident;
		g->dirty = cold->resident;
		g->flags = (enum flags_place)cold->flags;
		branch.offset = cold->offset;
		g->insn = &branch;
		put_exit(g, cold->target);
		break;
	}
}

/* Which registers are resident inside a region with loops: the ones its loops use most. */
static unsigned choose_border(const struct plan *p)
{
	unsigned weight[16] = { 0 }, border = ALL_HOMED, before;

	if (!p->loops)
		return CANONICAL;
	for (unsigned n = 0; n < p->block_count; n++) {
		const struct guest_block *b = &p->blocks[n];

		for (unsigned k = 0; k < b->count; k++) {
			const struct guest_insn *i = &p->insns[b->first + k];

			for (unsigned r = 0; r < 16; r++)
				if ((i->reads | i->writes) >> r & 1)
					weight[r] += 1u << (3 * b->depth);
		}
	}
	before = weight[R9] + weight[R10];
	for (int holes = 0; holes < 2; holes++) {
		unsigned least = 16;

		/* From the top: the customary holes win a tie. */
		for (unsigned r = 16; r-- > 0;)
			if (border & BIT(r) && r != RSP &&
			    (least == 16 || weight[r] < weight[least] ||
			     (weight[r] == weight[least] && (r == R9 || r == R10))))
				least = r;
		border &= ~BIT(least);
		before -= weight[least] < before ? weight[least] : before;
	}
	return before > 8 ? border : CANONICAL;
}

enum region_status region_write(struct translator *t, struct region *r)
{
	static _Thread_local struct gen gen;
	struct gen *g = &gen;
	struct plan *p = t->plan;
	uint32_t traps = t->trap_count, exits = t->exit_count;

	memset(g, 0, offsetof(struct gen, cold));
	g->t = t;
	g->p = p;
	g->r = r;
	g->cold_count = g->fix_count = 0;
	g->c = (struct code){ .p = t->code.rw + t->used,
			      .end = t->code.rw + t->code.bytes,
			      .to_rx = t->code.rx - t->code.rw };
	g->border = choose_border(p);
	r->first_trap = traps;

	/* From the interpreter: lea rax, [entry]; to the common part. */
	r->enter = t->used;
	put8(&g->c, 0x48);
	put8(&g->c, 0x8d);
	put8(&g->c, 0x05);
	put32(&g->c, 5);
	put_jmp(&g->c, t->enter_common);
	r->entry = (uint32_t)(g->c.p - t->code.rw);
	g->insn = &p->insns[0];
	g->block = &p->blocks[0];
	g->resident = CANONICAL;
	g->dirty = CANONICAL;
	g->flags = FLAGS_SAVED;
	if (p->blocks[0].joined)
		put_edge(g, 0, true);
	/* A kill writes a jump here. */
	while ((uint32_t)(g->c.p - t->code.rw) < r->entry + 5)
		put8(&g->c, 0x90);
	for (unsigned n = 0; n < p->block_count && !g->failed; n++)
		lower_block(g, n);
	for (unsigned n = 0; n < g->cold_count && !g->failed; n++)
		lower_cold(g, &g->cold[n]);
	r->stale = (uint32_t)(g->c.p - t->code.rw);
	put_leave(g, p->blocks[0].offset, CANONICAL, LEAVE_STALE);
	for (unsigned n = 0; n < g->fix_count && !g->failed; n++)
		close_rel32(&g->c, g->fixes[n].at, g->block_code[g->fixes[n].block]);
	if (g->failed || g->full || g->c.full) {
		t->trap_count = traps;
		t->exit_count = exits;
		return g->full || g->c.full ? REGION_FULL : REGION_NO;
	}
	r->end = (uint32_t)(g->c.p - t->code.rw);
	r->trap_count = t->trap_count - traps;
	t->used = (r->end + 15) & ~15u;
	return REGION_WRITTEN;
}
