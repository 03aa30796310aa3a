/*
 * The silicon is the oracle: the same bytes and the same full state, run by
 * the bare CPU in a child process and by an engine; everything compared.
 *
 * Memory that a case sees, at the same linear addresses on both sides:
 *
 *   CODE_BASE  two pages, read and execute; the third is absent
 *   DATA_BASE  eight pages: - W W R - R W -   (W writable, R read-only, - absent)
 *   STUB_BASE  where a case that ran to its end jumps to
 */
#ifndef INSULA_TESTS_ORACLE_H
#define INSULA_TESTS_ORACLE_H

#include <stdbool.h>
#include <stdint.h>

#define CODE_BASE  0x10000000ull
#define CODE_PAGES 2u
#define DATA_BASE  0x20000000ull
#define DATA_PAGES 8u
#define STUB_BASE \
	0x7fe012340000ull /* far from everything that a case's 32-bit displacement reaches */
#define LOW_STUB_BASE                                                                      \
	0x30000000ull /* where 32-bit code goes first: a page of 64-bit code that jumps to \
			 STUB_BASE */
#define GS_BASE (DATA_BASE + 0x1800)
#define PAGE    4096u

#define DATA_WRITABLE 0x46u /* bit n: page n */
#define DATA_PRESENT  0x6eu

#define CASE_CODE_MAX  96
#define CASE_INSNS_MAX 6
#define EPILOGUE_SIZE  14
#define NO_VECTOR      0xff /* ran to its end */
#define FX_SIZE        832  /* x87, SSE and AVX in the standard XSAVE format */

struct oracle_state {
	uint64_t gpr[16];
	uint64_t rip, rflags;
	uint8_t fx[FX_SIZE] __attribute__((aligned(64)));
};

struct oracle_result {
	struct oracle_state state;
	uint64_t cr2;
	uint32_t error;
	uint8_t vector;
	uint8_t done; /* 0: this side lost the case (crash, time-out) */
	uint16_t dirty_lines;
	uint64_t digest; /* of all 64-byte lines of data that changed */
	uint32_t line;   /* the first of them, offset from DATA_BASE */
	uint8_t line_bytes[64];
};

struct oracle_case {
	struct oracle_state initial;
	uint8_t code[CASE_CODE_MAX]; /* instructions, then the epilogue */
	uint8_t code_len;            /* with the epilogue */
	uint8_t insns;
	uint8_t insn_at[CASE_INSNS_MAX + 1]; /* byte offsets; [insns] is the epilogue */
	uint32_t undefined[CASE_INSNS_MAX +
			   1]; /* flags that no manual defines before instruction n */
	bool branches;
	uint32_t skip;   /* enum case_skip: parts of the state not compared */
	uint32_t offset; /* of the code from CODE_BASE */
	uint64_t seed;   /* of the case, for its reproducer */
	struct oracle_result native, engine;
};

/* Not compared, because hardware may do as it likes, after a fault. */
enum case_skip {
	/* Some CPUs switch to MMX state before the store of MOVNTQ faults. */
	SKIP_FAULT_X87 = 1 << 0,
	/* Which byte of a large operand CR2 names. */
	SKIP_FAULT_OFFSET = 1 << 1,
	/* How much of a large operand was written. */
	SKIP_FAULT_MEMORY = 1 << 2,
	/* Whether a masked store faults on bytes that it does not store. */
	SKIP_FAULT = 1 << 3,
	/* POPA: how many registers were loaded. */
	SKIP_FAULT_REGISTERS = 1 << 5,
	/* An engine that stops between iterations of REP CMPS shows the flags of the last one; with
	   --step. */
	SKIP_FAULT_FLAGS = 1 << 4,
	/* AMD: how far a gather came, and whether the mask shows it. */
	SKIP_FAULT_VECTORS = 1 << 6,
	/* AMD: the SHA extension wants no alignment. */
	SKIP_ALIGNMENT = 1 << 7,
	/* AMD: with alignment checks on, which vector accesses are checked, and before what. */
	SKIP_ALIGNMENT_CHECK = 1 << 8,
};

/* xoshiro256** */
struct rng {
	uint64_t s[4];
};
static inline uint64_t rng_next(struct rng *r)
{
	uint64_t x = r->s[1] * 5, result = (x << 7 | x >> 57) * 9, t = r->s[1] << 17;

	r->s[2] ^= r->s[0];
	r->s[3] ^= r->s[1];
	r->s[1] ^= r->s[2];
	r->s[0] ^= r->s[3];
	r->s[2] ^= t;
	r->s[3] = r->s[3] << 45 | r->s[3] >> 19;
	return result;
}
static inline void rng_seed(struct rng *r, uint64_t seed)
{
	for (unsigned i = 0; i < 4; i++) { /* splitmix64 */
		uint64_t z = (seed += 0x9e3779b97f4a7c15ull);

		z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
		z = (z ^ z >> 27) * 0x94d049bb133111ebull;
		r->s[i] = z ^ z >> 31;
	}
}
static inline uint32_t rng_below(struct rng *r, uint32_t n)
{
	return (uint32_t)((rng_next(r) >> 32) * n >> 32);
}
static inline bool rng_chance(struct rng *r, unsigned percent)
{
	return rng_below(r, 100) < percent;
}

/* oracle_template.c: every encoding that decodes and that both sides may run. */
struct template
{
	uint16_t mnemonic;
	uint8_t vex; /* else legacy */
	uint8_t map, prefix, w, l, opcode;
	uint8_t modrm; /* has one */
	uint8_t mod3, reg, rm;
	uint8_t sib;  /* the memory form needs one (VSIB) */
	uint8_t vvvv; /* takes a register there */
};
struct cpu_model;
/* compat: 32-bit code in long mode, else 64-bit code. */
int template_init(const struct cpu_model *model, bool compat);
unsigned template_mnemonics(void);
unsigned template_matches(const char *only);
const struct template *template_pick(struct rng *r, const char *only);

/* oracle_generate.c */
void generate_data(uint8_t *pages, uint64_t seed); /* DATA_PAGES pages */
void generate_case(struct oracle_case *c, uint64_t seed, const char *only, bool compat);

/* oracle_vendor.c: of this host. */
bool vendor_is_amd(void);
/* The two ran into what this host's CPU has of its own. */
bool vendor_incomparable(const struct oracle_result *native, const struct oracle_result *engine);

/* oracle_native.c: a child process. */
struct native;
struct native *native_start(const uint8_t *pristine, struct oracle_case *cases, bool compat);
void native_stop(struct native *n);
/* The page at LOW_STUB_BASE. */
extern const uint8_t low_stub_code[EPILOGUE_SIZE];
/* Runs cases [first, first+count) of the shared array; submit returns at once. */
void native_submit(struct native *n, unsigned first, unsigned count);
/* Waits. False: the child died; it is started again and the rest of the batch is marked lost. */
bool native_wait(struct native *n);
/*
 * False: this CPU forgets where the last x87 instruction was, unless its exception is pending, as
 * AMD's do (APM 1, 6.2.5); XSAVE then writes zeros, and there is nothing to compare with.
 */
bool native_keeps_fip(void);

/* oracle_engine.c */
struct target;
struct translate_options;
/* translate: how, or NULL for the interpreter. */
struct target *target_new(const uint8_t *pristine, const struct cpu_model *model, bool stepping,
			  bool compat, const struct translate_options *translate);
void target_free(struct target *t);
void target_run(struct target *t, struct oracle_case *c);

/* oracle_compare.c: true if equal in all that is defined; says what differs on `report` if not
 * NULL. */
bool compare_case(const struct oracle_case *c, bool report);
void print_case(const struct oracle_case *c);

/* Shared by both sides: collects and undoes what a case did to the writable data pages. */
void data_collect(struct oracle_result *result, uint8_t *const pages[DATA_PAGES],
		  const uint8_t *pristine);

#endif
