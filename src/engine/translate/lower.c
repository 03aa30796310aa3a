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
#include "engine/translate/lower.h"
#include <stdlib.h>

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
	g->insn = NULL; /* not the one above */
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
