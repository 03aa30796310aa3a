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

#include <stdlib.h>

#define BIT(r)        (1u << (r))
#define ALL_HOMED     0xf7ffu
#define RESIDENT_MOST 13 /* two scratch registers at least */

enum flags_place { FLAGS_HOST = 1, FLAGS_SAVED = 2, FLAGS_BOTH = 3 };

enum cold_kind {
	COLD_FILL,  /* a TLB miss: fill, try again, else leave slowly */
	COLD_LEAVE, /* to stub `target` with exit_offset */
	COLD_EDGE,  /* a branch out of the region */
	COLD_LINK,  /* the end of an exit that is not linked yet */
	COLD_CELL,  /* a direct branch to another page whose cell does not know the way */
	COLD_MISS,  /* an indirect branch whose target is not in the jump cache, or that has to wait
		     */
};

struct cold {
	enum cold_kind kind;
	uint8_t *from;   /* displacement to close */
	uint8_t *second; /* another one, or NULL: leaves slowly */
	const uint8_t *retry;
	uint16_t offset, resident, size;
	bool store;
	int8_t s0, s1;
	enum leave_why why;
	bool checked, elsewhere;
	struct cell *cell;
	int32_t release;
	int16_t twin; /* FILL: the block whose twin to go on in if that fails, or -1 */
	int32_t target;
	uint8_t flags;
};

#define COLD_MOST (PLAN_INSNS * 5 + 8 * PLAN_BLOCKS)

/*
 * Accesses of a block through one base register at known distances from its
 * value at the block's start: looked up once, at the start, for the range they
 * span. If that is not in one page of the TLB the block's twin runs, in which
 * every access is looked up by itself.
 */
#define GROUPS      4
#define GROUP_SPAN  1024
#define GROUP_REACH (1 << 30) /* distance of a member from its base */
struct group {
	int base;
	int32_t low, high;
	bool store;
	unsigned count;
};

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
	unsigned coming; /* guest registers that the instruction writes, not resident before it */
	enum flags_place flags;
	bool failed; /* beyond what this file can do: leave it to the interpreter */
	bool full;   /* out of room: flush */
	int r11;     /* scratch that stands for guest R11 within this instruction */
	struct cold cold[COLD_MOST];
	unsigned cold_count;
	uint8_t *block_code[PLAN_BLOCKS];
	uint8_t *twin_code[PLAN_BLOCKS];
	struct group groups[GROUPS];
	unsigned group_count;
	uint8_t twins[PLAN_BLOCKS];
	unsigned twin_count;
	/* Of the block's instruction n: its group, and the group of its push or pop; -1: none. */
	int8_t group_of[PLAN_INSNS], stack_group_of[PLAN_INSNS];
	struct {
		uint8_t *at;
		int16_t block;
		bool twin;
	} fixes[4 * PLAN_BLOCKS + COLD_MOST];
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
	unsigned free = ~(homes(g->resident | g->coming) | g->busy | BIT(RSP)) & 0xffffu;
	int r;

	if (!free) {
		g->failed = true;
		return RAX;
	}
	r = 31 - __builtin_clz(free);
	g->busy |= BIT(r);
	return r;
}

/*
 * Makes the registers resident, those that are read with their values, and
 * `count` scratch registers free.
 */
static void prepare(struct gen *g, unsigned reads, unsigned writes, unsigned count)
{
	unsigned used = reads | writes, wanted, load;

	g->busy = 0;
	g->coming = 0;
	g->r11 = NONE;
	if (used & BIT(R11))
		count++;
	wanted = used & ~BIT(R11);
	while (!g->failed && 15 - (unsigned)__builtin_popcount(g->resident | wanted) < count)
		evict_one(g, wanted);
	load = reads & wanted & ~g->resident;
	for (unsigned r = 0; r < 16; r++)
		if (load & BIT(r))
			put_load(&g->c, home_of(r), gpr_slot((int)r));
	g->resident |= load;
	g->coming = wanted & ~g->resident;
	if (used & BIT(R11)) {
		g->r11 = scratch(g);
		if (reads & BIT(R11))
			put_load(&g->c, g->r11, gpr_slot(R11));
	}
}

static void wrote(struct gen *g, unsigned written)
{
	g->resident |= written & ~BIT(R11);
	g->coming = 0;
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
	put8(&g->c, 0x9f);                                 /* lahf */
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
	put8(&g->c, 0x04);                                   /* add al, 0x7f: OF */
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
			       .twin = -1,
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

/* The next operand is in the current TLB tables. */
static void put_table(struct gen *g)
{
	if (g->t->gs)
		put8(&g->c, 0x65);
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
	struct operand entry, result;
	int s0, s1;

	clobber_flags(g, live);
	s0 = scratch(g);
	s1 = scratch(g);
	retry = c->p;
	if (a->rip) {
		put_load(c, s0, SLOT(arch.rip));
		put_lea(c, s0, mem_operand(s0, a->disp));
	} else {
		struct operand ea = effective(g, a);

		if (ea.base != NONE && ea.index == NONE && !ea.disp)
			put_mov(c, s0, ea.base);
		else
			put_lea(c, s0, ea);
	}
	if (a->seg == SEG_FS || a->seg == SEG_GS)
		put_insn(c, OP_W(0x03), s0, segment_base(a->seg));
	if (g->t->bmi2) {
		put_insn(c,
			 (struct opcode){
				 .map = MAP_0F3A, .byte = 0xf0, .prefix = 0xf2, .vex = true },
			 s1, reg_operand(s0)); /* rorx s1d, s0d, 8 */
		put8(c, PAGE_SHIFT - 4);
	} else {
		put_insn(c, OP(0x8b), s1, reg_operand(s0));
		put_insn(c, OP(0xc1), 5, reg_operand(s1));
		put8(c, PAGE_SHIFT - 4);
	}
	put_insn(c, OP(0x81), 4, reg_operand(s1));
	put32(c, (TLB_SIZE - 1) << 4);
	entry = mem_operand(s1, g->t->gs && a->store ? (int32_t)MMU_WRITE_TABLE : 0);
	if (!g->t->gs)
		put_insn(c, OP_W(0x03), s1, a->store ? SLOT(soft.tlb_write) : SLOT(soft.tlb_read));
	put_table(g);
	put_insn(c, OP_W(0x2b), s0, entry);
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
	entry.disp += (int32_t)offsetof(struct tlb_entry, addend);
	put_table(g);
	put_load(c, s1, entry);
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

/* As put_access for a member of a group, whose addend is known. Flags stay. */
static struct operand put_group_access(struct gen *g, const struct access *a, int group)
{
	int s = scratch(g);

	put_load(&g->c, s, SLOT(soft.group[group]));
	return (struct operand){ .memory = true,
				 .base = (int8_t)host_of(g, a->base),
				 .index = (int8_t)s,
				 .disp = a->disp };
}

static struct operand put_stack_access(struct gen *g, int32_t disp, bool store, unsigned live)
{
	struct access a = {
		.base = RSP, .index = NONE, .disp = disp, .store = store, .size = 8, .seg = SEG_SS
	};

	if (g->stack_group_of[g->at] >= 0)
		return put_group_access(g, &a, g->stack_group_of[g->at]);
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
	bool changes = i->flags_touched || i->flags_read;
	struct operand rm = { 0 };
	struct opcode op = i->op;
	unsigned scratches = 1;
	int reg = i->reg;

	if (i->memory)
		scratches = i->live && changes && through ? 3 : 2;
	prepare(g, i->reads, i->writes, scratches);
	if (i->memory) {
		struct access a = access_of(i);

		if (g->group_of[g->at] >= 0)
			rm = put_group_access(g, &a, g->group_of[g->at]);
		else
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
		uint32_t position = (uint32_t)(g->c.p - t->code.rw);
		unsigned far = position >= t->far;

		if (t->trap_count[far] == TRAPS_MOST || !runtime_leave(t, g->resident, LEAVE_SLOW))
			g->full = true;
		else
			t->traps[far][t->trap_count[far]++] =
				(struct trap){ .position = position,
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
	if (i->flags_touched)
		g->flags = FLAGS_HOST;
	if (i->x87 && last_x87(g))
		note_x87(g, i);
	wrote(g, i->writes);
}

static void lower_lea(struct gen *g, const struct guest_insn *i)
{
	struct access a = access_of(i);
	int to;

	prepare(g, i->reads, i->writes, 1);
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

	prepare(g, i->reads, i->writes, i->kind == G_PUSH_MEM ? 3 : 2);
	if (i->kind == G_PUSH_MEM) {
		struct access a = access_of(i);
		unsigned r11 = g->r11 != NONE ? BIT(g->r11) : 0;

		a.store = false;
		if (g->group_of[g->at] >= 0)
			top = put_group_access(g, &a, g->group_of[g->at]);
		else
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

	prepare(g, i->reads, i->writes, 2);
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

	prepare(g, i->reads, i->writes, 2);
	if (g->stack_group_of[g->at] >= 0)
		top = put_group_access(g, &a, g->stack_group_of[g->at]);
	else
		top = put_access(g, &a, i->live);
	put_lea(&g->c, R11, mem_operand(RBP, 8));
	put_load(&g->c, RBP, top);
	wrote(g, i->writes);
}

static void lower_callout(struct gen *g, const struct guest_insn *i)
{
	const void *stub;
	int s;

	prepare(g, 0, 0, 1);
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
	struct cold *cold;

	put_insn(&g->c, OP(0x83), 7, SLOT(req));
	put8(&g->c, 0);
	cold = cold_add(g, COLD_LEAVE, put_jcc_open(&g->c, CC_NE));
	cold->why = LEAVE_EVENTS;
	cold->offset = (uint16_t)offset;
}

static void put_poll_far(struct gen *g, int32_t offset)
{
	struct cold *cold;

	put_insn(&g->c, OP(0x83), 7, SLOT(req));
	put8(&g->c, 0);
	cold = cold_add(g, COLD_LEAVE, put_jcc_open(&g->c, CC_NE));
	cold->why = LEAVE_EVENTS;
	cold->target = offset;
	cold->elsewhere = true;
}

/* The generation that code of this region's page is known under. */
static struct operand generation(const struct gen *g)
{
	return g->t->global ? SLOT(soft.global_gen) : SLOT(soft.code_gen);
}

#define ENTRY(field) mem_operand(R9, offsetof(struct jump_entry, field))

/* R9 = the jump cache's entry for the linear address in R10; R10 = its key for this generation. */
static void put_jump_key(struct gen *g)
{
	struct code *c = &g->c;

	if (g->t->bmi2) {
		struct opcode rorx = { .map = MAP_0F3A, .byte = 0xf0, .prefix = 0xf2, .vex = true };
		struct opcode pdep = {
			.map = MAP_0F38, .byte = 0xf5, .prefix = 0xf2, .vex = true, .vvvv = R9
		};

		put_insn(c, rorx, R9, reg_operand(R10));
		put8(c, JUMP_FOLD);
		put_insn(c, OP(0x33), R9, reg_operand(R10));
		put_insn(c, pdep, R9, SLOT(soft.jump_mask));
	} else {
		put_insn(c, OP(0x8b), R9, reg_operand(R10));
		put_insn(c, OP(0xc1), 5, reg_operand(R9));
		put8(c, JUMP_FOLD);
		put_insn(c, OP(0x33), R9, reg_operand(R10));
		put_insn(c, OP(0x81), 4, reg_operand(R9));
		put32(c, JUMP_SIZE - 1);
		put_insn(c, OP(0xc1), 4, reg_operand(R9));
		put8(c, 5);
	}
	put_insn(c, OP_W(0x03), R9, SLOT(soft.jumps));
	put_insn(c, OP_W(0x33), R10, generation(g));
}

/* Through the entry in R9, which is the right one. */
static void put_jump(struct gen *g)
{
	put_load(&g->c, R10, ENTRY(rip));
	put_store(&g->c, SLOT(arch.rip), R10);
	put_insn(&g->c, OP(0xff), 4, ENTRY(fast));
}

/* R10: a linear address. The stack pointer moves by `release` once it is certain. */
static void put_indirect(struct gen *g, int32_t release, const struct guest_insn *i, bool checked)
{
	struct code *c = &g->c;
	struct cold *cold;
	uint8_t *miss;

	put_jump_key(g);
	put_insn(c, OP_W(0x3b), R10, ENTRY(key));
	miss = put_jcc_open(c, CC_NE);
	put_insn(c, OP(0x83), 7, SLOT(req));
	put8(c, 0);
	cold = cold_add(g, COLD_MISS, put_jcc_open(c, CC_NE));
	cold->second = miss;
	cold->release = release;
	cold->checked = checked;
	cold->offset = i->offset;
	if (release)
		put_lea(c, R11, mem_operand(R11, release));
	put_jump(g);
}

static void lower_miss(struct gen *g, const struct cold *cold)
{
	struct code *c = &g->c;
	uint8_t *canonical, *other, *events;

	/* `second`: nothing is known of it under this generation, but perhaps under the other. */
	put_insn(c, OP_W(0x33), R10, generation(g)); /* `from` comes here: events */
	events = put_jmp_open(c);
	close_rel32(c, cold->second, c->p);
	put_insn(c, OP_W(0x33), R10, SLOT(soft.code_gen));
	put_insn(c, OP_W(0x33), R10, SLOT(soft.global_gen));
	put_insn(c, OP_W(0x3b), R10, ENTRY(key));
	other = put_jcc_open(c, CC_NE);
	put_insn(c, OP(0x83), 7, SLOT(req));
	put8(c, 0);
	canonical = put_jcc_open(c, CC_NE);
	if (cold->release)
		put_lea(c, R11, mem_operand(R11, cold->release));
	put_jump(g);
	close_rel32(c, other, c->p);
	close_rel32(c, canonical, c->p);
	put_insn(c, OP_W(0x33), R10, g->t->global ? SLOT(soft.code_gen) : SLOT(soft.global_gen));
	close_rel32(c, events, c->p);
	/* R10 = the target. */
	if (cold->checked) {
		put_mov(c, R9, R10);
		put_insn(c, OP_W(0xc1), 4, reg_operand(R9));
		put8(c, 16);
		put_insn(c, OP_W(0xc1), 7, reg_operand(R9));
		put8(c, 16);
		put_insn(c, OP_W(0x3b), R9, reg_operand(R10));
		canonical = put_jcc_open(c, CC_E);
		put_leave(g, cold->offset, CANONICAL, LEAVE_SLOW);
		close_rel32(c, canonical, c->p);
	}
	if (cold->release)
		put_lea(c, R11, mem_operand(R11, cold->release));
	put_jmp(c, g->t->leave_miss);
}

/* To a fixed place on another page: by its cell. Backward jumps look at requests. */
static void put_far_exit(struct gen *g, int32_t offset)
{
	struct code *c = &g->c;
	struct cold *cold;
	struct cell *cell;

	if (offset < 0 && g->insn->kind != G_CALL)
		put_poll_far(g, offset);
	if (g->t->cell_count == CELLS_MOST) {
		g->full = true;
		return;
	}
	cell = &g->t->cells[g->t->cell_count++];
	put_load(c, R10, SLOT(arch.rip));
	put_insn(c, OP_W(0x33), R10, generation(g));
	put_insn(c, OP_W(0x3b), R10, near_operand(c, &cell->key, 3));
	cold = cold_add(g, COLD_CELL, put_jcc_open(c, CC_NE));
	cold->target = offset;
	cold->cell = cell;
	put_load(c, R10, near_operand(c, &cell->page, 3));
	put_store(c, SLOT(arch.rip), R10);
	put_insn(c, OP(0xff), 4, near_operand(c, &cell->target, 2));
}

/* The cell does not know: by the jump cache, and the cell learns it. */
static void lower_cell(struct gen *g, struct cold *cold)
{
	struct code *c = &g->c;
	struct cell *cell = cold->cell;
	uint8_t *miss, *trace;

	put_load(c, R10, SLOT(arch.rip));
	put_lea(c, R10, mem_operand(R10, cold->target));
	put_jump_key(g);
	put_insn(c, OP_W(0x3b), R10, ENTRY(key));
	miss = put_jcc_open(c, CC_NE);
	put_load(c, R10, ENTRY(fast));
	put_insn(c, OP_W(0x3b), R10, SLOT(soft.leave_known));
	trace = put_jcc_open(c, CC_E);
	put_store(c, near_operand(c, &cell->target, 3), R10);
	put_load(c, R10, SLOT(arch.rip));
	put_insn(c, OP_W(0x33), R10, generation(g));
	put_store(c, near_operand(c, &cell->key, 3), R10);
	put_load(c, R10, ENTRY(rip));
	put_store(c, near_operand(c, &cell->page, 3), R10);
	put_jump(g);
	/* Not for a cell. */
	close_rel32(c, miss, c->p);
	close_rel32(c, trace, c->p);
	put_load(c, R10, SLOT(arch.rip));
	put_lea(c, R10, mem_operand(R10, cold->target));
	put_indirect(g, 0, g->insn, false);
}

/* To a fixed place outside the region, `offset` from the page's first byte. */
static void put_exit(struct gen *g, int32_t offset)
{
	struct translator *t = g->t;
	struct cold *cold;

	normalise(g, CANONICAL);
	g->busy = 0;
	save_flags(g);
	/* At the page's end may stand an instruction that crosses: never part of a region. */
	if (offset < 0 || offset > (int32_t)PAGE_SIZE - 15) {
		put_far_exit(g, offset);
		return;
	}
	if (offset <= g->insn->offset)
		put_poll(g, offset);
	if (t->exit_count == EXITS_MOST) {
		g->full = true;
		return;
	}
	t->exits[t->exit_count].at = put_jmp_open(&g->c);
	cold = cold_add(g, COLD_LINK, t->exits[t->exit_count].at);
	cold->target = (int32_t)++t->exit_count;
	cold->offset = (uint16_t)offset;
}

static void fix_add(struct gen *g, uint8_t *at, int block)
{
	g->fixes[g->fix_count].at = at;
	g->fixes[g->fix_count].twin = false;
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

	prepare(g, i->reads, i->writes, 2);
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

/*
 * Canonical registers, flags saved, and where the target of an indirect branch
 * is: in a register's home, or in soft.target (NONE).
 */
static int put_target(struct gen *g, const struct guest_insn *i)
{
	int home = NONE;

	if (i->memory) {
		struct access a = access_of(i);
		struct operand from;
		int s;

		prepare(g, i->reads, i->writes, 2);
		if (g->group_of[g->at] >= 0)
			from = put_group_access(g, &a, g->group_of[g->at]);
		else
			from = put_access(g, &a, FLAGS_ARITH);
		s = from.base;
		for (unsigned r = 0; r < 16; r++)
			if (g->busy & BIT(r) && (int)r != g->r11)
				s = (int)r;
		put_load(&g->c, s, from);
		put_store(&g->c, SLOT(soft.target), s);
	} else if (CANONICAL & BIT(i->rm)) {
		home = home_of(i->rm);
	} else {
		prepare(g, i->reads, i->writes, 1);
		put_store(&g->c, SLOT(soft.target), host_of(g, i->rm));
	}
	normalise(g, CANONICAL);
	g->busy = 0;
	g->r11 = NONE;
	save_flags(g);
	return home;
}

static void put_load_target(struct gen *g, int home)
{
	if (home != NONE)
		put_mov(&g->c, R10, home);
	else
		put_load(&g->c, R10, SLOT(soft.target));
}

static void lower_jump_indirect(struct gen *g, const struct guest_insn *i)
{
	put_load_target(g, put_target(g, i));
	put_indirect(g, 0, i, true);
}

static void lower_call_indirect(struct gen *g, const struct guest_insn *i)
{
	int s, home = put_target(g, i);
	struct operand top;

	/* A target that faults must do so before the push, which may overwrite where it came from.
	 */
	put_load_target(g, home);
	put_mov(&g->c, R9, R10);
	put_insn(&g->c, OP_W(0xc1), 4, reg_operand(R9));
	put8(&g->c, 16);
	put_insn(&g->c, OP_W(0xc1), 7, reg_operand(R9));
	put8(&g->c, 16);
	put_insn(&g->c, OP_W(0x3b), R9, reg_operand(R10));
	cold_add(g, COLD_LEAVE, put_jcc_open(&g->c, CC_NE));
	top = put_stack_access(g, -8, true, FLAGS_ARITH);
	s = scratch(g);
	put_load(&g->c, s, SLOT(arch.rip));
	put_lea(&g->c, s, mem_operand(s, i->offset + i->len));
	put_store(&g->c, top, s);
	g->busy = 0;
	put_load_target(g, home);
	put_indirect(g, -8, i, false);
}

static void lower_ret(struct gen *g, const struct guest_insn *i)
{
	struct operand top;

	normalise(g, CANONICAL);
	g->busy = 0;
	g->r11 = NONE;
	save_flags(g);
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

/* Adds an access `disp` from the base's value at the block's start. -1: it is in no group. */
static int group_add(struct gen *g, int base, int64_t disp, unsigned size, bool store)
{
	struct group *group;
	int64_t low, high;
	unsigned n;

	/* The guest chooses these: what is added below must not wrap. */
	if (disp < -GROUP_REACH || disp > GROUP_REACH)
		return -1;
	for (n = 0; n < g->group_count && g->groups[n].base != base; n++)
		;
	if (n == GROUPS || !(g->resident & BIT(base)))
		return -1;
	group = &g->groups[n];
	if (n == g->group_count) {
		*group =
			(struct group){ .base = base, .low = (int32_t)disp, .high = (int32_t)disp };
		g->group_count++;
	}
	low = disp < group->low ? disp : group->low;
	high = disp + size > group->high ? disp + size : group->high;
	if (high - low > GROUP_SPAN)
		return -1;
	group->low = (int32_t)low;
	group->high = (int32_t)high;
	group->store |= store;
	group->count++;
	return (int)n;
}

/* add or sub rsp, imm: by how much? */
static bool moves_rsp(const struct guest_insn *i, int32_t *by)
{
	int32_t imm;

	if (i->kind == G_LEA && i->base == RSP && i->index == NONE && !i->rip && i->reg == RSP &&
	    i->op.wide) {
		*by = i->disp;
		return true;
	}
	if (i->kind != G_PLAIN || i->memory || i->writes != BIT(RSP) || !i->op.wide ||
	    i->op.map != MAP_ONE || !i->rm_gpr || i->rm != RSP)
		return false;
	if (i->op.byte == 0x83 && i->imm_len == 1) {
		imm = (int8_t)i->imm[0];
	} else if (i->op.byte == 0x81 && i->imm_len == 4) {
		memcpy(&imm, i->imm, 4);
	} else {
		return false;
	}
	if (i->reg_gpr || (i->reg != 0 && i->reg != 5) || imm > 1 << 20 || imm < -(1 << 20))
		return false;
	*by = i->reg ? -imm : imm;
	return true;
}

static void find_groups(struct gen *g, const struct guest_block *b)
{
	unsigned changed = 0, n, kept = 0;
	int8_t number[GROUPS];
	int64_t rsp = 0;

	g->group_count = 0;
	memset(g->group_of, -1, b->count);
	memset(g->stack_group_of, -1, b->count);
	if (g->p->exact)
		return;
	for (n = 0; n < b->count; n++) {
		const struct guest_insn *i = &g->p->insns[b->first + n];
		bool stack = !(changed & BIT(RSP));
		int32_t by;

		if (i->kind == G_CALLOUT || i->kind == G_LAST)
			break; /* the address space may be another one behind it */
		if (i->memory && i->base != NONE && i->index == NONE && i->seg != SEG_FS &&
		    i->seg != SEG_GS && !i->aligned && i->base != R11 && !(changed & BIT(i->base)))
			g->group_of[n] = (int8_t)group_add(g, i->base,
							   i->base == RSP ? rsp + i->disp : i->disp,
							   i->size, i->store);
		switch ((enum guest_kind)i->kind) {
		case G_PUSH:
		case G_PUSH_IMM:
		case G_PUSH_MEM:
		case G_CALL:
		case G_CALL_IND:
			if (stack)
				g->stack_group_of[n] = (int8_t)group_add(g, RSP, rsp - 8, 8, true);
			rsp -= 8;
			continue;
		case G_POP:
		case G_RET:
			if (stack)
				g->stack_group_of[n] = (int8_t)group_add(g, RSP, rsp, 8, false);
			rsp += 8;
			changed |= i->writes & ~BIT(RSP);
			if (i->kind == G_POP && i->rm == RSP)
				changed |= BIT(RSP);
			continue;
		case G_LEAVE:
			if (!(changed & BIT(RBP)))
				g->stack_group_of[n] = (int8_t)group_add(g, RBP, 0, 8, false);
			changed |= BIT(RSP) | BIT(RBP);
			continue;
		default:
			break;
		}
		if (moves_rsp(i, &by))
			rsp += by;
		else
			changed |= i->writes;
	}
	/* Alone they are looked up where they stand; so are all if saving flags costs more. */
	for (n = 0; n < g->group_count; n++) {
		number[n] = -1;
		if (g->groups[n].count >= (b->live_in ? 3u : 2u)) {
			g->groups[kept] = g->groups[n];
			number[n] = (int8_t)kept++;
		}
	}
	g->group_count = kept;
	for (n = 0; n < b->count; n++) {
		if (g->group_of[n] >= 0)
			g->group_of[n] = number[g->group_of[n]];
		if (g->stack_group_of[n] >= 0)
			g->stack_group_of[n] = number[g->stack_group_of[n]];
	}
}

/* Looks the block's groups up, at its start. */
static void put_groups(struct gen *g, const struct guest_block *b, unsigned number)
{
	for (unsigned n = 0; n < g->group_count; n++) {
		const struct group *group = &g->groups[n];
		struct access a = { .base = group->base,
				    .index = NONE,
				    .seg = SEG_DS,
				    .store = group->store,
				    .disp = group->low,
				    .size = (unsigned)(group->high - group->low) };
		struct operand found;

		prepare(g, BIT(group->base), 0, 2);
		found = put_access(g, &a, b->live_in);
		g->cold[g->cold_count - 1].twin = (int16_t)number;
		put_store(&g->c, SLOT(soft.group[n]), found.index);
	}
}

static void lower_block(struct gen *g, unsigned number, bool twin)
{
	const struct guest_block *b = &g->p->blocks[number];
	const struct guest_insn *i = NULL;

	g->block = b;
	if (twin)
		g->twin_code[number] = g->c.p;
	else
		g->block_code[number] = g->c.p;
	g->at = 0;
	g->insn = &g->p->insns[b->first];
	if (number || b->joined) {
		g->resident = g->border;
		g->dirty = g->border;
		g->flags = FLAGS_HOST;
	} else {
		g->resident = CANONICAL;
		g->dirty = CANONICAL;
		g->flags = FLAGS_SAVED;
	}
	g->busy = 0;
	g->coming = 0;
	g->r11 = NONE;
	if (twin) {
		memset(g->group_of, -1, b->count);
		memset(g->stack_group_of, -1, b->count);
		if (b->live_in)
			g->flags = FLAGS_SAVED;
	} else {
		find_groups(g, b);
	}
	if (b->head && !twin) {
		struct cold *cold;

		clobber_flags(g, b->live_in);
		put_insn(&g->c, OP(0x83), 7, SLOT(req));
		put8(&g->c, 0);
		cold = cold_add(g, COLD_LEAVE, put_jcc_open(&g->c, CC_NE));
		cold->why = LEAVE_EVENTS;
		cold->offset = b->offset;
	}
	if (!twin && g->group_count) {
		put_groups(g, b, number);
		g->twins[g->twin_count++] = (uint8_t)number;
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
				put_edge(g, b->taken, !twin && b->taken == (int)number + 1);
			else
				put_exit(g, i->target);
			return;
		case G_JCC:
			lower_jcc(g, i, twin ? PLAN_BLOCKS : number);
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
		put_edge(g, b->next, !twin && b->next == (int)number + 1);
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
		put_table(g);
		put_insn(c, OP_W(0x03), cold->s0,
			 mem_operand(cold->s1,
				     g->t->gs && cold->store ? (int32_t)MMU_WRITE_TABLE : 0));
		put_store(c, SLOT(soft.la), cold->s0);
		put_store_imm(c, false, SLOT(soft.access),
			      cold->size | (cold->store ? MMU_FILL_WRITE : 0));
		put_call_stub(c, cold->s0, g->t->fill);
		put_jcc(c, CC_AE, cold->retry + c->to_rx);
		if (cold->second)
			close_rel32(c, cold->second, c->p);
		if (cold->twin >= 0) {
			fix_add(g, put_jmp_open(c), cold->twin);
			g->fixes[g->fix_count - 1].twin = true;
			break;
		}
		put_leave(g, cold->offset, cold->resident, LEAVE_SLOW);
		break;
	case COLD_LEAVE:
		put_leave(g, cold->elsewhere ? cold->target : cold->offset, cold->resident,
			  cold->why);
		break;
	case COLD_LINK:
		put_store_imm(c, false, SLOT(soft.link_exit), (uint32_t)cold->target);
		put_leave(g, cold->offset, CANONICAL, LEAVE_NEXT);
		break;
	case COLD_CELL:
		branch.offset = cold->offset;
		g->insn = &branch;
		lower_cell(g, cold);
		break;
	case COLD_MISS:
		lower_miss(g, cold);
		break;
	case COLD_EDGE:
		g->resident = cold->resident;
		g->dirty = cold->resident;
		g->flags = (enum flags_place)cold->flags;
		branch.offset = cold->offset;
		g->insn = &branch;
		put_exit(g, cold->target); /* may add to the list */
		break;
	}
}

/* One instruction of so many bytes, 5 at most, that does nothing. */
static void put_nop(struct code *c, uint32_t bytes)
{
	static const uint8_t nops[6][5] = { { 0 },
					    { 0x90 },
					    { 0x66, 0x90 },
					    { 0x0f, 0x1f, 0x00 },
					    { 0x0f, 0x1f, 0x40, 0x00 },
					    { 0x0f, 0x1f, 0x44, 0x00, 0x00 } };

	if (bytes <= 5)
		for (unsigned n = 0; n < bytes; n++)
			put8(c, nops[bytes][n]);
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
		if (least == 16)
			break;
		border &= ~BIT(least);
		before -= weight[least] < before ? weight[least] : before;
	}
	return before > 8 ? border : CANONICAL;
}

enum region_status region_write(struct translator *t, struct region *r)
{
	struct gen *g = t->gen;
	struct plan *p = t->plan;
	uint32_t traps = t->trap_count[0], far_traps = t->trap_count[1], exits = t->exit_count;
	bool hot_full;

	/* Too large for a thread's own data: every thread of the process would begin by clearing
	 * it.
	 */
	if (!g)
		g = t->gen = calloc(1, sizeof(*g));
	if (!g)
		return REGION_NO;
	memset(g, 0, offsetof(struct gen, cold));
	g->t = t;
	g->p = p;
	g->r = r;
	g->cold_count = g->fix_count = g->twin_count = 0;
	g->c = (struct code){ .p = t->code.rw + t->used,
			      .end = t->code.rw + t->far,
			      .to_rx = t->code.rx - t->code.rw };
	g->border = choose_border(p);
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
	put_nop(&g->c, r->entry + 5 - (uint32_t)(g->c.p - t->code.rw));
	for (unsigned n = 0; n < p->block_count && !g->failed; n++)
		lower_block(g, n, false);
	/* What runs seldom lies far away, so that what runs often is dense. */
	r->end = (uint32_t)(g->c.p - t->code.rw);
	hot_full = g->c.full;
	g->c.p = t->code.rw + t->far_used;
	g->c.end = t->code.rw + t->code.bytes;
	g->c.full = false;
	for (unsigned n = 0; n < g->twin_count && !g->failed; n++)
		lower_block(g, g->twins[n], true);
	for (unsigned n = 0; n < g->cold_count && !g->failed; n++)
		lower_cold(g, &g->cold[n]);
	r->stale = (uint32_t)(g->c.p - t->code.rw);
	put_leave(g, p->blocks[0].offset, CANONICAL, LEAVE_STALE);
	for (unsigned n = 0; n < g->fix_count && !g->failed; n++)
		close_rel32(&g->c, g->fixes[n].at,
			    g->fixes[n].twin ? g->twin_code[g->fixes[n].block]
					     : g->block_code[g->fixes[n].block]);
	if (g->failed || g->full || g->c.full || hot_full) {
		t->trap_count[0] = traps;
		t->trap_count[1] = far_traps;
		t->exit_count = exits;
		return g->full || g->c.full || hot_full ? REGION_FULL : REGION_NO;
	}
	t->stats.cold_bytes += (uint32_t)(g->c.p - t->code.rw) - t->far_used;
	t->far_used = (uint32_t)((g->c.p - t->code.rw + 15) & ~(ptrdiff_t)15);
	t->used = (r->end + 15) & ~15u;
	return REGION_WRITTEN;
}
