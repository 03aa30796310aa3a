/*
 * How translated code goes on elsewhere: within its region, to other regions
 * by links, cells and the jump cache, and out to the dispatcher.
 */
#include "engine/translate/lower.h"

struct cold *cold_add(struct gen *g, enum cold_kind kind, uint8_t *from)
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

void put_leave(struct gen *g, int32_t offset, unsigned resident, enum leave_why why)
{
	const void *stub = runtime_leave(g->t, resident, why);

	if (!stub) {
		g->full = true;
		return;
	}
	put_store_imm(&g->c, false, SLOT(soft.exit_offset), (uint32_t)offset);
	put_jmp(&g->c, stub);
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

void put_indirect(struct gen *g, int32_t release, const struct guest_insn *i, bool checked)
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

void lower_miss(struct gen *g, const struct cold *cold)
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

void lower_cell(struct gen *g, struct cold *cold)
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

void put_exit(struct gen *g, int32_t offset)
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

void fix_add(struct gen *g, uint8_t *at, int block)
{
	g->fixes[g->fix_count].at = at;
	g->fixes[g->fix_count].twin = false;
	g->fixes[g->fix_count++].block = (int16_t)block;
}

void put_edge(struct gen *g, int block, bool fall)
{
	normalise(g, g->border);
	g->busy = 0;
	if (g->p->blocks[block].live_in)
		restore_flags(g);
	if (!fall)
		fix_add(g, put_jmp_open(&g->c), block);
}
