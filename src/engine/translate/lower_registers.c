/*
 * Which guest registers are in host registers while a region is written, and
 * where its arithmetic flags are. The rules are at the head of lower.c.
 */
#include "engine/translate/lower.h"

int host_of(const struct gen *g, int guest)
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

int scratch(struct gen *g)
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

void prepare(struct gen *g, unsigned reads, unsigned writes, unsigned count)
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

void wrote(struct gen *g, unsigned written)
{
	g->resident |= written & ~BIT(R11);
	g->coming = 0;
	g->dirty |= written & ~BIT(R11);
	if (written & BIT(R11))
		put_store(&g->c, gpr_slot(R11), g->r11);
}

void normalise(struct gen *g, unsigned residents)
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

void save_flags(struct gen *g)
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

void restore_flags(struct gen *g)
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

void clobber_flags(struct gen *g, unsigned live)
{
	if (live)
		save_flags(g);
	/* Dead ones are as good as anywhere. */
	g->flags = live ? FLAGS_SAVED : FLAGS_HOST;
}
