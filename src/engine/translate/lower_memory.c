/*
 * Memory operands of translated code: look-ups of the soft TLB written in
 * place, and groups of accesses that share one.
 */
#include "engine/translate/lower.h"

struct access access_of(const struct guest_insn *i)
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

struct operand effective(const struct gen *g, const struct access *a)
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

void put_table(struct gen *g)
{
	if (g->t->gs)
		put8(&g->c, 0x65);
}

struct operand put_access(struct gen *g, const struct access *a, unsigned live)
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

struct operand put_group_access(struct gen *g, const struct access *a, int group)
{
	int s = scratch(g);

	put_load(&g->c, s, SLOT(soft.group[group]));
	return (struct operand){ .memory = true,
				 .base = (int8_t)host_of(g, a->base),
				 .index = (int8_t)s,
				 .disp = a->disp };
}

struct operand put_stack_access(struct gen *g, int32_t disp, bool store, unsigned live)
{
	struct access a = {
		.base = RSP, .index = NONE, .disp = disp, .store = store, .size = 8, .seg = SEG_SS
	};

	if (g->stack_group_of[g->at] >= 0)
		return put_group_access(g, &a, g->stack_group_of[g->at]);
	return put_access(g, &a, live);
}

void move_rsp(struct gen *g, int32_t by)
{
	put_lea(&g->c, R11, mem_operand(R11, by));
	wrote(g, BIT(RSP));
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

void find_groups(struct gen *g, const struct guest_block *b)
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

void put_groups(struct gen *g, const struct guest_block *b, unsigned number)
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
