/*
 * What is to be translated: a region is the code reachable from one entry by
 * direct branches within its page, as far as it has been executed before. The
 * planner decodes it, finds its blocks and which flags are live where.
 */
#ifndef INSULA_ENGINE_TRANSLATE_PLAN_H
#define INSULA_ENGINE_TRANSLATE_PLAN_H

#include "engine/interpret/decode.h"
#include "engine/translate/emit.h"

#define PLAN_INSNS  384
#define PLAN_BLOCKS 96

enum guest_kind {
	G_PLAIN,   /* executes as itself, registers and memory operand renamed */
	G_NOTHING, /* no effect */
	G_LEA,
	G_PUSH,
	G_PUSH_IMM,
	G_PUSH_MEM,
	G_POP,
	G_LEAVE,
	G_CALLOUT, /* the interpreter's handler executes it and translated code goes on */
	/* These end a block: */
	G_JMP,
	G_JCC,
	G_CALL,
	G_JMP_IND, /* register or memory operand */
	G_CALL_IND,
	G_RET,
	G_LAST, /* as CALLOUT, but hardly ever goes on */
};

struct guest_insn {
	uint16_t offset; /* in the page */
	uint8_t len;
	uint8_t kind;
	uint16_t reads, writes; /* general registers, by bit; address registers are read */
	/* FLAGS_ARITH bits. written: for certain; touched: besides, those it may leave as they are;
	 * live: before it */
	uint16_t flags_read, flags_written, flags_touched, live;
	/* How it is encoded. */
	struct opcode op;
	uint8_t reg, rm, imm_len;
	bool has_modrm, reg_gpr, rm_gpr, vvvv_gpr, in_opcode; /* in_opcode: rm is in its low bits */
	const uint8_t *imm;
	/* Memory operand. */
	bool memory, store, aligned, rip;
	int8_t base, index;
	uint8_t shift, seg, size;
	int32_t disp; /* rip: from the page's first byte */
	/* x87 and whatever may raise SIGFPE. */
	bool x87, traps;
	uint16_t fop;
	/* Branches. */
	uint8_t cc;
	int32_t target; /* from the page's first byte */
	uint16_t ret_bytes;
	const struct insn *record; /* CALLOUT, LAST */
};

struct guest_block {
	uint16_t first, count; /* instructions */
	uint16_t offset;
	int16_t next,
		taken; /* blocks: where it falls through, where its branch goes; -1: outside */
	uint16_t live_in, live_out;
	uint8_t depth;       /* of loops around it */
	bool head;           /* a branch from a block at or behind it comes here */
	bool joined;         /* some block of the region comes here */
	int32_t next_offset; /* what follows the last instruction */
};

struct plan {
	struct vcpu *v;
	struct decoder *decoder;
	struct trace *scratch; /* for decode_trace */
	bool (*executed)(void *ctx, gpa_t gpa, uint32_t mode);
	void *ctx;
	bool exact;         /* all flags right wherever a fault can look */
	unsigned insn_most; /* of a region: at most PLAN_INSNS */
	gpa_t page;
	uint64_t rip;                  /* linear address of the page: for the records only */
	uint8_t bytes[PAGE_SIZE + 16]; /* the page, then zeroes */
	unsigned insn_count, block_count;
	bool loops;
	uint16_t first_byte, last_byte;
	uint64_t granules; /* of 64 bytes that the region's instructions touch */
	struct guest_insn insns[PLAN_INSNS];
	struct guest_block blocks[PLAN_BLOCKS];
	int16_t block_at[PAGE_SIZE];
};

enum plan_status {
	PLAN_OK,
	PLAN_NO /* nothing here to translate */,
	PLAN_FULL /* flush, try again */
};

/* The region entered at byte `offset` of p->page, whose content is in p->bytes. Parked. */
enum plan_status plan_region(struct plan *p, unsigned offset);

#endif
