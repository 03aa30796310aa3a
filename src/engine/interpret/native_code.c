/*
 * Executable memory for native thunks. Called by vector.c when it decodes.
 * Everything here runs parked, except the signal handler's redirection.
 *
 * Invariant: no page is ever writable and executable through one mapping.
 */
#include "engine/interpret/native_code.h"
#include "base/bytes.h"
#include "cpu/fpstate.h"
#include "engine/interpret/code_memory.h"
#include <signal.h>
#include <stdlib.h>
#include <ucontext.h>

#define CODE_SIZE  (4u << 20)
#define CODE_ALIGN 16u
#define INDEX_SIZE (1u << 17)
#define MOVE_SIZE  16u

struct index_entry {
	uint32_t hash;
	uint32_t offset; /* of the first byte; 0: free */
	uint32_t len;
};

struct native_code {
	struct code_memory memory;
	uint32_t used, first; /* [0, first): the register moves, which survive a reset */
	uint32_t count;
	struct index_entry *index;
	struct range *range, *inlined;
};

/* Where thunks of this process are, for the signal handler. Nodes are never freed, only reused. */
struct range {
	_Atomic uintptr_t start; /* 0: unused */
	_Atomic size_t bytes;
	struct range *next;
};
static _Atomic(struct range *) ranges;
static _Atomic int handler_installed;
static struct sigaction previous_action;
static _Atomic(native_trap *) on_trap;

void native_code_on_trap(native_trap *trap)
{
	atomic_store(&on_trap, trap);
}

static bool in_ranges(uintptr_t pc)
{
	for (struct range *r = atomic_load(&ranges); r; r = r->next) {
		uintptr_t start = atomic_load(&r->start);

		if (start && pc - start < atomic_load(&r->bytes))
			return true;
	}
	return false;
}

/*
 * The kernel saved the guest's vector state in the frame and gives it back on
 * return, so this function may be ordinary C.
 */
static void fp_signal(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	greg_t *regs = uc->uc_mcontext.gregs;
	const void *go_on;
	native_trap *trap;

	if (in_ranges((uintptr_t)regs[REG_RIP])) {
		/* RDI and RSI still hold the vcpu and the record, RSP what it was at the record's
		 * entry. */
		regs[REG_RDX] = regs[REG_TRAPNO];
		regs[REG_RIP] = (greg_t)(uintptr_t)native_fault_tail;
		regs[REG_EFL] &= ~(greg_t)(1 << 10);
		return;
	}
	trap = atomic_load(&on_trap);
	if (trap && (go_on = trap((uintptr_t)regs[REG_RIP], regs)) != NULL) {
		regs[REG_RIP] = (greg_t)(uintptr_t)go_on;
		regs[REG_EFL] &= ~(greg_t)(1 << 10);
		return;
	}
	if (previous_action.sa_flags & SA_SIGINFO)
		previous_action.sa_sigaction(sig, info, context);
	else if (previous_action.sa_handler != SIG_DFL && previous_action.sa_handler != SIG_IGN)
		previous_action.sa_handler(sig);
	else
		signal(SIGFPE, SIG_DFL); /* the instruction repeats and ends the process */
}

static int handler_install(void)
{
	struct sigaction action = { .sa_sigaction = fp_signal,
				    .sa_flags = SA_SIGINFO | SA_ONSTACK };

	if (atomic_exchange(&handler_installed, 1))
		return 0;
	sigemptyset(&action.sa_mask);
	return sigaction(SIGFPE, &action, &previous_action);
}

static struct range *range_add(const void *start, size_t bytes)
{
	uintptr_t unused;

	for (struct range *r = atomic_load(&ranges); r; r = r->next) {
		unused = 0;
		if (atomic_compare_exchange_strong(&r->start, &unused, (uintptr_t)start)) {
			atomic_store(&r->bytes, bytes);
			return r;
		}
	}
	struct range *r = calloc(1, sizeof(*r));
	if (!r)
		return NULL;
	atomic_init(&r->start, (uintptr_t)start);
	atomic_init(&r->bytes, bytes);
	r->next = atomic_load(&ranges);
	while (!atomic_compare_exchange_weak(&ranges, &r->next, r))
		;
	return r;
}

static uint8_t *put(uint8_t *p, const void *bytes, unsigned len)
{
	bytes_copy(p, bytes, len);
	return p + len;
}

/* [v]movups/vmovdqu of register n at [rdi], then ret. Slots of 16 bytes: 16 gets, 16 puts, 8 MMX
 * gets. */
static void write_moves(struct native_code *code)
{
	bool avx = fpstate_host_mask() & 4;

	for (unsigned n = 0; n < 32; n++) {
		uint8_t *p = code->memory.rw + n * MOVE_SIZE;
		unsigned reg = n & 15;
		uint8_t opcode = n < 16 ? 0x11 : 0x10;
		uint8_t modrm = (uint8_t)((reg & 7) << 3 | RDI);

		if (avx)
			p = put(p, (uint8_t[]){ 0xc5, reg & 8 ? 0x7c : 0xfc, opcode, modrm }, 4);
		else
			p = put(p, (uint8_t[]){ reg & 8 ? 0x44 : 0x40, 0x0f, opcode, modrm }, 4);
		*p = 0xc3;
	}
	for (unsigned n = 0; n < 8; n++) {
		uint8_t *p = code->memory.rw + (32 + n) * MOVE_SIZE;

		p = put(p, (uint8_t[]){ 0x0f, 0x7f, (uint8_t)(n << 3 | RDI), 0xc3 }, 4);
	}
	code->first = 40 * MOVE_SIZE;
	code->used = code->first;
}

native_move *native_vector_get(const struct native_code *code, unsigned n)
{
	return (native_move *)(uintptr_t)(code->memory.rx + (n & 15) * MOVE_SIZE);
}

native_move *native_vector_put(const struct native_code *code, unsigned n)
{
	return (native_move *)(uintptr_t)(code->memory.rx + (16 + (n & 15)) * MOVE_SIZE);
}

native_move *native_mmx_get(const struct native_code *code, unsigned n)
{
	return (native_move *)(uintptr_t)(code->memory.rx + (32 + (n & 7)) * MOVE_SIZE);
}

struct native_code *native_code_new(const char **error)
{
	struct native_code *code = calloc(1, sizeof(*code));

	*error = "out of memory";
	if (!code)
		return NULL;
	code->index = calloc(INDEX_SIZE, sizeof(*code->index));
	if (!code->index || code_memory_open(&code->memory, CODE_SIZE, error))
		goto fail;
	if (handler_install() < 0) {
		*error = "cannot install the floating-point signal handler";
		goto fail;
	}
	code->range = range_add(code->memory.rx, CODE_SIZE);
	if (!code->range)
		goto fail;
	write_moves(code);
	*error = NULL;
	return code;
fail:
	native_code_free(code);
	return NULL;
}

void native_code_free(struct native_code *code)
{
	if (!code)
		return;
	if (code->range)
		atomic_store(&code->range->start, 0);
	if (code->inlined)
		atomic_store(&code->inlined->start, 0);
	code_memory_close(&code->memory);
	free(code->index);
	free(code);
}

void native_code_reset(struct native_code *code)
{
	code->used = code->first;
	code->count = 0;
	bytes_zero(code->index, INDEX_SIZE * sizeof(*code->index));
}

bool native_code_contains(const struct native_code *code, const void *pc)
{
	return (uintptr_t)pc - (uintptr_t)code->memory.rx < CODE_SIZE;
}

static uint32_t hash_of(const uint8_t *bytes, unsigned len)
{
	uint32_t h = 2166136261u; /* FNV-1a */

	for (unsigned i = 0; i < len; i++)
		h = (h ^ bytes[i]) * 16777619u;
	return h;
}

const void *native_code_place(struct native_code *code, const uint8_t *bytes, unsigned len,
			      unsigned entry)
{
	uint32_t hash = hash_of(bytes, len);
	uint32_t slot = hash;
	struct index_entry *e;

	for (;; slot++) {
		e = &code->index[slot & (INDEX_SIZE - 1)];
		if (!e->offset)
			break;
		if (e->hash == hash && e->len == len &&
		    bytes_equal(code->memory.rw + e->offset, bytes, len))
			return code->memory.rx + e->offset + entry;
	}
	if (len > CODE_SIZE - code->used - CODE_ALIGN || code->count >= INDEX_SIZE / 4 * 3)
		return NULL;
	code->count++;
	*e = (struct index_entry){ .hash = hash, .offset = code->used, .len = len };
	bytes_copy(code->memory.rw + code->used, bytes, len);
	code->used = (code->used + len + CODE_ALIGN - 1) & ~(CODE_ALIGN - 1);
	return code->memory.rx + e->offset + entry;
}

int native_code_cover(struct native_code *code, const void *start, size_t bytes)
{
	code->inlined = range_add(start, bytes);
	return code->inlined ? 0 : -1;
}
