/*
 * Between the files that write a region: what they know of it while it is
 * being written, and each file's calls. All on the vcpu's thread, parked.
 */
#ifndef INSULA_ENGINE_TRANSLATE_LOWER_H
#define INSULA_ENGINE_TRANSLATE_LOWER_H

#include "engine/translate/region.h"

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

struct access {
	int base, index; /* guest registers or NONE */
	uint8_t shift, seg;
	bool rip, aligned, store;
	int32_t disp;
	unsigned size;
};

/* lower_registers.c: registers and flags. */

/* Where a guest register is within this instruction; NONE stays NONE. */
int host_of(const struct gen *g, int guest);
/* Claims a host register that is nobody's until the next prepare(). */
int scratch(struct gen *g);
/*
 * Makes the registers resident, those that are read with their values, and
 * `count` scratch registers free.
 */
void prepare(struct gen *g, unsigned reads, unsigned writes, unsigned count);
/* The instruction has written these into their homes. */
void wrote(struct gen *g, unsigned written);
/* The residents become exactly these. */
void normalise(struct gen *g, unsigned residents);
/* Also in soft.flags, or also in the host's. Need a scratch register unless RAX is one. */
void save_flags(struct gen *g);
void restore_flags(struct gen *g);
/* The host's flags are about to be overwritten; `live` ones must survive. */
void clobber_flags(struct gen *g, unsigned live);

/* lower_memory.c: memory. */

/* The memory operand of an instruction, and its address in host registers. */
struct access access_of(const struct guest_insn *i);
struct operand effective(const struct gen *g, const struct access *a);
/* The next operand is in the current TLB tables. */
void put_table(struct gen *g);
/*
 * Looks the access up in the TLB and answers the host operand. Needs two
 * scratch registers, which it claims; the host's flags are lost.
 */
struct operand put_access(struct gen *g, const struct access *a, unsigned live);
/* As put_access for a member of a group, whose addend is known. Flags stay. */
struct operand put_group_access(struct gen *g, const struct access *a, int group);
/* The qword `disp` from RSP: in its group, or looked up. */
struct operand put_stack_access(struct gen *g, int32_t disp, bool store, unsigned live);
/* Without touching flags. */
void move_rsp(struct gen *g, int32_t by);
/* Which accesses of the block share a look-up, if its border's registers are resident. */
void find_groups(struct gen *g, const struct guest_block *b);
/* Looks the block's groups up, at its start. */
void put_groups(struct gen *g, const struct guest_block *b, unsigned number);

/* lower_exits.c: going on elsewhere. */

/* A piece of code to be written far away, reached by the jump whose displacement is at `from`. */
struct cold *cold_add(struct gen *g, enum cold_kind kind, uint8_t *from);
/* To the dispatcher, at `offset` from the page's first byte. */
void put_leave(struct gen *g, int32_t offset, unsigned resident, enum leave_why why);
/* R10: a linear address. The stack pointer moves by `release` once it is certain. */
void put_indirect(struct gen *g, int32_t release, const struct guest_insn *i, bool checked);
/* COLD_MISS. */
void lower_miss(struct gen *g, const struct cold *cold);
/* COLD_CELL: by the jump cache, and the cell learns it. */
void lower_cell(struct gen *g, struct cold *cold);
/* To a fixed place outside the region, `offset` from the page's first byte. */
void put_exit(struct gen *g, int32_t offset);
/* The jump at `at` is to lead to a block of the region. */
void fix_add(struct gen *g, uint8_t *at, int block);
/* To a block of the region. `fall`: it is the next one written. */
void put_edge(struct gen *g, int block, bool fall);

#endif
