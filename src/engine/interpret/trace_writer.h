/*
 * Between trace_code.c, which lays out the code of a trace, and
 * trace_template.c, which writes single records out instead of calling them.
 *
 * Host registers while the code of a trace runs: RBX the vcpu, R12 the
 * records, R14 and R15 the soft TLB for reading and writing, R13 and EBP the
 * masks of its check. Between records RDX and RDI may mirror guest registers;
 * all other caller-saved registers are free.
 */
#ifndef INSULA_ENGINE_INTERPRET_TRACE_WRITER_H
#define INSULA_ENGINE_INTERPRET_TRACE_WRITER_H

#include "engine/interpret/trace.h"

#define NO_SLOT 0xff /* no guest register */

/*
 * What a template leaves for the end of the trace's code: the call of the
 * handler when the TLB misses, and the way along a branch that is taken.
 */
enum tail_kind { TAIL_MISS, TAIL_LINK, TAIL_LINK_FUSED, TAIL_JUMP };
struct tail {
	uint8_t kind; /* enum tail_kind */
	uint8_t n;    /* the record */
	uint8_t value;
	bool stack; /* what RDX and RDI must mirror when it comes back */
	bool flags; /* a miss: and the guest's flags the host's; a branch: it has to keep them */
	bool stays; /* it never comes back */
	uint16_t site;
	uint16_t back; /* where the jump's displacement is, where to come back, from the trace's
			  code */
};
#define TAILS_MAX   (2 * (TRACE_MAX_INSNS + 1))
#define OUTSIDE_MAX 256

struct writer {
	uint8_t *p;
	uint8_t *start; /* of the trace's code */
	struct trace_cache *cache;
	uint8_t n;         /* the record being written */
	uint8_t value;     /* offset of the guest register that RDX mirrors, or NO_SLOT */
	bool stack;        /* RDI mirrors RSP */
	uint8_t *flags_at; /* at this place of the code the host's flags are the guest's */
	struct tail *miss; /* of this record */
	unsigned tails, outsides;
	struct tail tail[TAILS_MAX];
	uint16_t outside[OUTSIDE_MAX]; /* where put_outside wrote */
};

/* Little-endian bytes of code. */
static inline void put(struct writer *w, uint64_t bytes, unsigned count)
{
	while (count--) {
		*w->p++ = (uint8_t)bytes;
		bytes >>= 8;
	}
}

/* The rel32 of a jump or call to code outside of the trace. */
void put_outside(struct writer *w, const void *target);
/* lea rsi, [r12 + place of record n] */
void put_record(struct writer *w, unsigned n);
/* The host's flags to soft.flags, by way of AX. */
void put_flags(struct writer *w);
/* On to the trace that the record's link names, delta bytes from this one's first byte; to `slow`
 * if there is none yet or somebody requests something. */
void put_link(struct writer *w, int32_t delta, const void *slow);
/* A template for record i. False, and nothing written: it has none and must be called. */
bool put_template(struct writer *w, const struct insn *i, const struct trace_hint *hint);
/* The mirrors of a tail, before it comes back. */
void put_mirrors(struct writer *w, const struct tail *tail);

/* Entries for put_link and TAIL_*: RSI holds the record. */
extern const char trace_link[], trace_link_fused[];

#define TRACE_ENTRY_BYTES 10

#endif
