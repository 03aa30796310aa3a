/*
 * Templates: host code that does what a record's handler would do. Called by
 * trace_code.c for each record it writes. Invariant: a template changes
 * nothing of the guest's before it knows that it cannot fault; where the soft
 * TLB misses, its tail calls the handler, which does the whole instruction.
 *
 * A guest register just written or read is often wanted by the next
 * instruction, and through memory it costs the host a store and a load: RDX
 * mirrors the last one, RDI the stack pointer.
 */
#include "base/bytes.h"
#include "engine/interpret/ops.h"
#include "engine/interpret/trace_writer.h"

enum { HOST_RAX, HOST_RCX, HOST_RDX, HOST_RSI = 6, HOST_RDI };

#define SLOT_RSP   (RSP * 8)
#define SLOT_ZERO  offsetof(struct vcpu_arch, zero)
#define SLOT_RIP   offsetof(struct vcpu_arch, rip)
#define SLOT_FLAGS offsetof(struct vcpu, soft.flags)

/* ModRM for [rbx + slot]. */
static void put_slot(struct writer *w, unsigned reg, unsigned slot)
{
	if (slot <= 127) {
		put(w, 0x43 | reg << 3, 1);
		put(w, slot, 1);
	} else {
		put(w, 0x83 | reg << 3, 1);
		put(w, slot, 4);
	}
}

/* Prefixes and the opcode, given in its wide form. */
static void put_opcode(struct writer *w, unsigned size_log, unsigned opcode)
{
	if (size_log == 1)
		put(w, 0x66, 1);
	if (size_log == 3)
		put(w, 0x48, 1);
	put(w, size_log ? opcode : opcode & ~1u, 1);
}
static void put_op_slot(struct writer *w, unsigned size_log, unsigned opcode, unsigned reg,
			unsigned slot)
{
	put_opcode(w, size_log, opcode);
	put_slot(w, reg, slot);
}
static void put_op_host(struct writer *w, unsigned size_log, unsigned opcode, unsigned reg,
			unsigned rm)
{
	put_opcode(w, size_log, opcode);
	put(w, 0xc0 | reg << 3 | rm, 1);
}
/* The operand at the host address in RAX. */
static void put_op_memory(struct writer *w, unsigned size_log, unsigned opcode, unsigned reg)
{
	put_opcode(w, size_log, opcode);
	put(w, reg << 3, 1);
}

static void put_load(struct writer *w, unsigned host, unsigned slot)
{
	put_op_slot(w, 3, 0x8b, host, slot);
}

/* The guest register of this slot was written other than by put_result. */
static void forget(struct writer *w, unsigned slot)
{
	slot &= ~7u;
	if (w->value == slot)
		w->value = NO_SLOT;
	if (slot == SLOT_RSP)
		w->stack = false;
}

/* The register into RDX; above its size zero, or whatever the guest has there. */
static void put_value(struct writer *w, unsigned slot, unsigned size_log)
{
	if (w->value == slot)
		return;
	w->value = NO_SLOT;
	if (size_log < 2) { /* movzx edx, [slot] */
		put(w, size_log ? 0xb70f : 0xb60f, 2);
		put_slot(w, HOST_RDX, slot);
		return;
	}
	if (w->stack && slot == SLOT_RSP)
		put_op_host(w, size_log, 0x89, HOST_RDI, HOST_RDX);
	else
		put_op_slot(w, size_log, 0x8b, HOST_RDX, slot);
	if (size_log == 3)
		w->value = (uint8_t)slot;
}

/* RDX into the register. A 32-bit result has its upper half clear already. */
static void put_result(struct writer *w, unsigned slot, unsigned size_log)
{
	put_op_slot(w, size_log < 2 ? size_log : 3, 0x89, HOST_RDX, slot);
	forget(w, slot);
	w->value = size_log < 2 ? NO_SLOT : (uint8_t)slot;
}

/* lahf; seto al; mov [soft.flags], ax */
void put_flags(struct writer *w)
{
	put(w, 0xc0900f9f, 4);
	put_op_slot(w, 1, 0x89, HOST_RAX, SLOT_FLAGS);
	w->flags_at = w->p;
}

/* The guest's flags into the host's: by way of AX. */
static void put_flags_in(struct writer *w)
{
	put(w, 0xb70f, 2); /* movzx eax, word [soft.flags] */
	put_slot(w, HOST_RAX, SLOT_FLAGS);
	put(w, 0x9e7f04, 3); /* add al, 0x7f; sahf */
}

/* bt word [soft.flags], 8 */
static void put_carry_in(struct writer *w)
{
	put(w, 0xba0f66, 3);
	put_slot(w, 4, SLOT_FLAGS);
	put(w, 8, 1);
}

/* True if the host's flags are the guest's here; whoever comes back to here must then restore
 * them. */
static bool flags_here(struct writer *w)
{
	unsigned n = w->tails;

	if (w->flags_at != w->p)
		return false;
	while (n--)
		if (w->tail[n].kind == TAIL_MISS && !w->tail[n].stays &&
		    w->start + w->tail[n].back == w->p)
			w->tail[n].flags = true;
	return true;
}

/* Makes condition cc one of the host's flags: returns which. RAX may be lost. */
static unsigned put_condition(struct writer *w, unsigned cc)
{
	/* Of the even conditions: the byte of soft.flags and the bits of which one is set. */
	static const struct {
		uint8_t byte, bits;
	} plain[8] = { { 0, 1 },    { 1, 0x01 }, { 1, 0x40 }, { 1, 0x41 },
		       { 1, 0x80 }, { 1, 0x04 }, { 0, 0 },    { 0, 0 } };

	if (flags_here(w))
		return cc;
	if (!plain[cc >> 1].bits) {
		put_flags_in(w);
		w->flags_at = w->p;
		return cc;
	}
	put(w, 0xf6, 1); /* test byte [soft.flags + byte], bits */
	put_slot(w, 0, SLOT_FLAGS + plain[cc >> 1].byte);
	put(w, plain[cc >> 1].bits, 1);
	return 5 ^ (cc & 1);
}

/* A conditional jump to a tail. */
static struct tail *put_jump_tail(struct writer *w, unsigned cc, enum tail_kind kind)
{
	bool flags = w->flags_at == w->p;
	struct tail *tail = &w->tail[w->tails++];

	put(w, 0x800f | cc << 8, 2);
	*tail = (struct tail){ .kind = (uint8_t)kind,
			       .n = w->n,
			       .site = (uint16_t)(w->p - w->start) };
	w->p += 4;
	if (flags)
		w->flags_at = w->p;
	return tail;
}

/* base + index << shift + disp into RAX or RDX. */
static void put_address(struct writer *w, const struct insn *i, unsigned host, bool wide)
{
	bool indexed = i->index != SLOT_ZERO, based = i->base != SLOT_ZERO;
	unsigned base = HOST_RAX, index = HOST_RCX, mod;
	int32_t disp = i->disp;

	if (based && i->base == w->value)
		base = HOST_RDX;
	else if (based && i->base == SLOT_RSP && w->stack)
		base = HOST_RDI;
	else if (based)
		put_load(w, base, i->base);
	if (indexed && i->index == w->value)
		index = HOST_RDX;
	else if (indexed)
		put_load(w, index, i->index);
	if (!based && !indexed) {
		if (wide) {
			put(w, 0xc0c748 | host << 16, 3); /* mov host, simm32 */
		} else {
			put(w, 0xb8 | host, 1);
		}
		put(w, (uint32_t)disp, 4);
		return;
	}
	if (based && !indexed && !disp) {
		if (base != host || !wide)
			put_op_host(w, wide ? 3 : 2, 0x89, base, host);
		return;
	}
	mod = !based || !disp ? 0 : disp == (int8_t)disp ? 1 : 2;
	put_opcode(w, wide ? 3 : 2, 0x8d); /* lea */
	if (indexed) {
		put(w, mod << 6 | host << 3 | 4, 1);
		put(w, (unsigned)i->shift << 6 | index << 3 | (based ? base : 5), 1);
	} else {
		put(w, mod << 6 | host << 3 | base, 1);
	}
	if (mod == 1)
		put(w, (uint8_t)disp, 1);
	else if (mod == 2 || !based)
		put(w, (uint32_t)disp, 4);
}

/*
 * The linear address in RAX becomes a host address, if the whole access hits
 * the soft TLB. RCX and RSI are lost.
 */
static void put_check(struct writer *w, unsigned size_log, bool write)
{
	if (size_log)
		put(w, 0x708d48 | ((1ull << size_log) - 1) << 24, 4); /* lea rsi, [rax + size-1] */
	else
		put(w, 0xc68948, 3); /* mov rsi, rax */
	put(w, 0x08e9c1c189, 5);     /* mov ecx, eax; shr ecx, 8 */
	put(w, 0xe921ee214c, 5);     /* and rsi, r13; and ecx, ebp */
	put(w, 0x343b49, 3);         /* cmp rsi, [r14 or r15 + rcx] */
	put(w, write ? 0x0f : 0x0e, 1);
	w->miss = put_jump_tail(w, 5, TAIL_MISS);
	put(w, 0x440349, 3); /* add rax, [r14 or r15 + rcx + 8] */
	put(w, write ? 0x080f : 0x080e, 2);
}
_Static_assert(sizeof(struct tlb_entry) == 16 && offsetof(struct tlb_entry, tag) == 0 &&
		       offsetof(struct tlb_entry, addend) == 8 && PAGE_SHIFT == 12,
	       "put_check");

static void put_memory(struct writer *w, const struct insn *i, unsigned size_log, bool write)
{
	put_address(w, i, HOST_RAX, true);
	put_check(w, size_log, write);
}

/* ADD OR ADC SBB AND SUB XOR CMP: the number in the opcode is the place in the group. */
static const uint8_t alu_group[ALU_OPS] = { 0, 1, 2, 3, 4, 5, 6, 7, 0 };

static int64_t truncated(uint64_t imm, unsigned size_log)
{
	return size_log == 0   ? (int8_t)imm
	       : size_log == 1 ? (int16_t)imm
	       : size_log == 2 ? (int32_t)imm
			       : (int64_t)imm;
}

enum place { PLACE_VALUE, PLACE_MEMORY, PLACE_SLOT };
/* op with an immediate on RDX, on [rax] or on a register's slot. */
static void put_op_imm(struct writer *w, unsigned op, unsigned size_log, int64_t imm,
		       enum place place, unsigned slot)
{
	bool small = op != ALU_TEST && size_log && imm == (int8_t)imm;

	put_opcode(w, size_log, op == ALU_TEST ? 0xf7 : small ? 0x83 : 0x81);
	if (place == PLACE_VALUE)
		put(w, 0xc0 | alu_group[op] << 3 | HOST_RDX, 1);
	else if (place == PLACE_MEMORY)
		put(w, alu_group[op] << 3, 1);
	else
		put_slot(w, alu_group[op], slot);
	put(w, (uint64_t)imm, small || !size_log ? 1 : size_log == 1 ? 2 : 4);
}

static bool put_alu(struct writer *w, const struct insn *i, const struct trace_hint *h, int64_t imm)
{
	unsigned op = h->op, size_log = h->size_log;
	bool reads = op == ALU_CMP || op == ALU_TEST, carry = op == ALU_ADC || op == ALU_SBB;
	bool turns = op == ALU_ADD || op == ALU_OR || op == ALU_AND || op == ALU_XOR;
	unsigned load = op == ALU_TEST ? 0x85 : alu_group[op] << 3 | 3;
	unsigned store = op == ALU_TEST ? 0x85 : alu_group[op] << 3 | 1;

	imm = truncated((uint64_t)imm, size_log);
	if (imm != (int32_t)imm)
		return false;
	switch (h->form) {
	case FORM_RR:
		if (reads && i->src == w->value) {
			if (i->dst == i->src)
				put_op_host(w, size_log, store, HOST_RDX, HOST_RDX);
			else
				put_op_slot(w, size_log, store, HOST_RDX, i->dst);
			break;
		}
		if (turns && i->src == w->value && i->dst != i->src) {
			put_op_slot(w, size_log, load, HOST_RDX, i->dst);
			put_result(w, i->dst, size_log);
			break;
		}
		put_value(w, i->dst, size_log);
		if (carry)
			put_carry_in(w);
		if (i->dst == i->src)
			put_op_host(w, size_log, store, HOST_RDX, HOST_RDX);
		else
			put_op_slot(w, size_log, load, HOST_RDX, i->src);
		if (!reads)
			put_result(w, i->dst, size_log);
		break;
	case FORM_RI:
		if (reads) {
			put_op_imm(w, op, size_log, imm,
				   i->dst == w->value ? PLACE_VALUE : PLACE_SLOT, i->dst);
			break;
		}
		put_value(w, i->dst, size_log);
		if (carry)
			put_carry_in(w);
		put_op_imm(w, op, size_log, imm, PLACE_VALUE, 0);
		put_result(w, i->dst, size_log);
		break;
	case FORM_RA:
	case FORM_RX:
		put_memory(w, i, size_log, false);
		put_value(w, i->dst, size_log);
		if (carry)
			put_carry_in(w);
		put_op_memory(w, size_log, load, HOST_RDX);
		if (!reads)
			put_result(w, i->dst, size_log);
		break;
	case FORM_AR:
	case FORM_XR:
		put_memory(w, i, size_log, !reads);
		put_value(w, i->src, size_log);
		if (carry)
			put_carry_in(w);
		put_op_memory(w, size_log, store, HOST_RDX);
		break;
	case FORM_AI:
	case FORM_XI:
		put_memory(w, i, size_log, !reads);
		if (carry)
			put_carry_in(w);
		put_op_imm(w, op, size_log, imm, PLACE_MEMORY, 0);
		break;
	default:
		return false;
	}
	if (!h->dead)
		put_flags(w);
	return true;
}

static bool put_mov(struct writer *w, const struct insn *i, const struct trace_hint *h)
{
	unsigned size_log = h->size_log;
	int64_t imm = truncated(i->imm, size_log);

	switch (h->form) {
	case FORM_RR:
		if (size_log == 2 && w->value == i->src) /* mov edx, edx: RDX has all 64 bits */
			put(w, 0xd289, 2);
		put_value(w, i->src, size_log);
		put_result(w, i->dst, size_log);
		return true;
	case FORM_RI:
		if (size_log < 2) {
			put_op_slot(w, size_log, 0xc7, 0, i->dst);
			put(w, (uint64_t)imm, 1u << size_log);
			forget(w, i->dst);
			return true;
		}
		if (size_log == 2 || (uint64_t)imm == (uint32_t)imm) {
			put(w, 0xba, 1); /* mov edx, imm32 */
			put(w, (uint64_t)imm, 4);
		} else if (imm == (int32_t)imm) {
			put(w, 0xc2c748, 3); /* mov rdx, simm32 */
			put(w, (uint64_t)imm, 4);
		} else {
			put(w, 0xba48, 2); /* mov rdx, imm64 */
			put(w, (uint64_t)imm, 8);
		}
		put_result(w, i->dst, size_log);
		return true;
	case FORM_RA:
	case FORM_RX:
		put_memory(w, i, size_log, false);
		if (size_log < 2) {
			put(w, size_log ? 0xb70f : 0xb60f, 2); /* movzx edx, [rax] */
			put(w, HOST_RDX << 3, 1);
		} else {
			put_op_memory(w, size_log, 0x8b, HOST_RDX);
		}
		put_result(w, i->dst, size_log);
		return true;
	case FORM_AR:
	case FORM_XR:
		put_memory(w, i, size_log, true);
		put_value(w, i->src, size_log);
		put_op_memory(w, size_log, 0x89, HOST_RDX);
		return true;
	case FORM_AI:
	case FORM_XI:
		if (imm != (int32_t)imm)
			return false;
		put_memory(w, i, size_log, true);
		put_op_memory(w, size_log, 0xc7, 0);
		put(w, (uint64_t)imm, size_log == 3 ? 4 : 1u << size_log);
		return true;
	default:
		return false;
	}
}

/* MOVZX, MOVSX, MOVSXD to 32 or 64 bits. */
static bool put_movx(struct writer *w, const struct insn *i, const struct trace_hint *h)
{
	bool memory = h->form != FORM_RR;

	if (h->form > FORM_RX || h->form == FORM_RI)
		return false;
	if (memory)
		put_memory(w, i, h->from_log, false);
	if (h->sign && h->size_log == 3)
		put(w, 0x48, 1);
	if (h->from_log == 2)
		put(w, 0x63, 1);
	else
		put(w, (h->sign ? 0xbe0fu : 0xb60fu) | (unsigned)h->from_log << 8, 2);
	if (memory)
		put(w, HOST_RDX << 3, 1);
	else if (i->src == w->value)
		put(w, 0xc0 | HOST_RDX << 3 | HOST_RDX, 1);
	else
		put_slot(w, HOST_RDX, i->src);
	put_result(w, i->dst, h->size_log);
	return true;
}

/* Shifts and rotates of a 32- or 64-bit register. */
static void put_shift(struct writer *w, const struct insn *i, const struct trace_hint *h)
{
	/* Counts that may be zero, and rotates, leave flags as they were. */
	bool keeps = h->by_cl || h->op < SHIFT_SHL;

	if (h->by_cl && h->size_log == 2 && w->value == i->dst)
		put(w, 0xd289, 2); /* mov edx, edx */
	put_value(w, i->dst, h->size_log);
	if (h->by_cl)
		put_op_slot(w, 2, 0x8b, HOST_RCX, RCX * 8);
	if (keeps && !h->dead)
		put_flags_in(w);
	put_op_host(w, h->size_log, h->by_cl ? 0xd3 : 0xc1,
		    h->op == SHIFT_SAR ? 7 : (unsigned)h->op, HOST_RDX);
	if (!h->by_cl)
		put(w, i->imm, 1);
	put_result(w, i->dst, h->size_log);
	if (!h->dead)
		put_flags(w);
}

static void put_alu1(struct writer *w, const struct insn *i, const struct trace_hint *h)
{
	bool carries = h->op == ALU1_INC || h->op == ALU1_DEC;

	put_value(w, i->dst, h->size_log);
	if (carries && !h->dead)
		put_carry_in(w);
	put_op_host(w, h->size_log, carries ? 0xff : 0xf7,
		    h->op == ALU1_INC   ? 0
		    : h->op == ALU1_DEC ? 1
		    : h->op == ALU1_NEG ? 3
					: 2,
		    HOST_RDX);
	put_result(w, i->dst, h->size_log);
	if (!h->dead && h->op != ALU1_NOT)
		put_flags(w);
}

/* RDI = the guest's stack pointer. */
static void put_stack(struct writer *w)
{
	if (w->value == SLOT_RSP)
		put(w, 0xd78948, 3);
	else if (!w->stack)
		put_load(w, HOST_RDI, SLOT_RSP);
	w->stack = false;
}
static void put_stack_result(struct writer *w)
{
	put_op_slot(w, 3, 0x89, HOST_RDI, SLOT_RSP);
	forget(w, SLOT_RSP);
	w->stack = true;
}
static void put_push_check(struct writer *w)
{
	put_stack(w);
	put(w, 0x08ef8348, 4); /* sub rdi, 8 */
	put(w, 0xf88948, 3);   /* mov rax, rdi */
	put_check(w, 3, true);
}
static void put_pop(struct writer *w, const struct insn *i)
{
	put_stack(w);
	put(w, 0xf88948, 3); /* mov rax, rdi */
	put_check(w, 3, false);
	put_op_memory(w, 3, 0x8b, HOST_RDX);
	w->value = NO_SLOT;
	put(w, 0x08c78348, 4); /* add rdi, 8 */
	put_stack_result(w);
	put_result(w, i->dst, 3);
}
static void put_leave(struct writer *w)
{
	if (w->value == RBP * 8)
		put(w, 0xd08948, 3); /* mov rax, rdx */
	else
		put_load(w, HOST_RAX, RBP * 8);
	put(w, 0xc78948, 3); /* mov rdi, rax */
	w->stack = false;
	put_check(w, 3, false);
	put_op_memory(w, 3, 0x8b, HOST_RDX);
	w->value = NO_SLOT;
	put(w, 0x08c78348, 4); /* add rdi, 8 */
	put_stack_result(w);
	put_result(w, RBP * 8, 3);
}

static void put_call(struct writer *w, const struct insn *i, const struct trace_hint *h)
{
	put_push_check(w);
	w->miss->stays = true;
	put_load(w, HOST_RDX, SLOT_RIP);
	put_opcode(w, 3, 0x81); /* add rdx, next instruction */
	put(w, 0xc0 | HOST_RDX, 1);
	put(w, (uint32_t)i->offset + i->len, 4);
	put_op_memory(w, 3, 0x89, HOST_RDX);
	put_op_slot(w, 3, 0x89, HOST_RDI, SLOT_RSP);
	if (h->near) {
		put_link(w, i->disp, trace_link);
		return;
	}
	put(w, 0xdf8948, 3); /* mov rdi, rbx */
	put_record(w, w->n);
	put(w, 0xe8, 1);
	put_outside(w, (const void *)(uintptr_t)jump_handler(false, true));
	put(w, 0xe0ff, 2); /* jmp rax */
}

static void put_convert(struct writer *w, const struct trace_hint *h)
{
	if (h->op == 0x98) { /* cwde, cdqe */
		if (h->size_log == 3)
			put(w, 0x6348, 2);
		else
			put(w, 0xbf0f, 2);
		put_slot(w, HOST_RDX, RAX * 8);
		put_result(w, RAX * 8, h->size_log);
		return;
	}
	put_value(w, RAX * 8, h->size_log);
	put_op_host(w, h->size_log, 0xc1, 7, HOST_RDX); /* sar */
	put(w, h->size_log == 3 ? 63 : 31, 1);
	put_result(w, RDX * 8, h->size_log);
}

static bool put_kind(struct writer *w, const struct insn *i, const struct trace_hint *h)
{
	unsigned cc;

	switch (h->kind) {
	case HINT_MOV:
		return put_mov(w, i, h);
	case HINT_MOVX:
		return put_movx(w, i, h);
	case HINT_ZERO:
		put(w, 0xd231, 2); /* xor edx, edx */
		put_result(w, i->dst, 3);
		if (!h->dead) {
			put_op_slot(w, 1, 0xc7, 0, SLOT_FLAGS); /* ZF and PF */
			put(w, 0x4600, 2);
		}
		return true;
	case HINT_LEA:
		put_address(w, i, HOST_RDX, h->size_log == 3);
		put_result(w, i->dst, h->size_log);
		return true;
	case HINT_ALU:
		return put_alu(w, i, h, (int64_t)i->imm);
	case HINT_ALU1:
		put_alu1(w, i, h);
		return true;
	case HINT_SHIFT:
		put_shift(w, i, h);
		return true;
	case HINT_IMUL:
		if (h->form == FORM_RR) {
			put_value(w, i->dst, h->size_log);
			put_opcode(w, h->size_log, 0x0f);
			put(w, 0xaf, 1);
			put_slot(w, HOST_RDX, i->src);
		} else { /* imul rdx, [src], imm32 */
			put_op_slot(w, h->size_log, 0x69, HOST_RDX, i->src);
			put(w, i->imm, 4);
		}
		put_result(w, i->dst, h->size_log);
		if (!h->dead)
			put_flags(w);
		return true;
	case HINT_PUSH:
		if (h->form == FORM_RI && (int64_t)i->imm != (int32_t)i->imm)
			return false;
		put_push_check(w);
		if (h->form == FORM_RI) {
			put_op_memory(w, 3, 0xc7, 0);
			put(w, i->imm, 4);
		} else {
			put_value(w, i->src, 3);
			put_op_memory(w, 3, 0x89, HOST_RDX);
		}
		put_stack_result(w);
		return true;
	case HINT_POP:
		put_pop(w, i);
		return true;
	case HINT_LEAVE:
		put_leave(w);
		return true;
	case HINT_CONVERT:
		put_convert(w, h);
		return true;
	case HINT_SETCC:
		cc = put_condition(w, h->cc);
		put(w, 0x900f | cc << 8, 2);
		put_slot(w, 0, i->dst);
		forget(w, i->dst);
		return true;
	case HINT_CMOV: {
		bool here = flags_here(w);

		put_value(w, i->dst, h->size_log);
		if (here)
			w->flags_at = w->p; /* nothing but moves since */
		cc = put_condition(w, h->cc);
		put_opcode(w, h->size_log, 0x0f);
		put(w, 0x40 | cc, 1);
		put_slot(w, HOST_RDX, i->src);
		put_result(w, i->dst, h->size_log);
		return true;
	}
	case HINT_JCC:
		cc = put_condition(w, h->cc);
		put_jump_tail(w, cc, h->near ? TAIL_LINK : TAIL_JUMP);
		return true;
	case HINT_FUSED:
		if (!put_alu(w, i, h, h->form == FORM_AI ? (int8_t)i->src : i->disp))
			return false;
		/* Who falls through may not want the flags; who branches does. */
		put_jump_tail(w, h->cc, TAIL_LINK_FUSED)->flags = h->dead;
		return true;
	case HINT_JUMP:
		put_link(w, i->disp, trace_link);
		return true;
	case HINT_CALL_NEAR:
		put_call(w, i, h);
		return true;
	default:
		return false;
	}
}

bool put_template(struct writer *w, const struct insn *i, const struct trace_hint *h)
{
	w->miss = NULL;
	if (!put_kind(w, i, h))
		return false;
	if (w->miss) {
		w->miss->back = (uint16_t)(w->p - w->start);
		w->miss->value = w->value;
		w->miss->stack = w->stack;
	}
	return true;
}

void put_mirrors(struct writer *w, const struct tail *tail)
{
	if (tail->value != NO_SLOT)
		put_load(w, HOST_RDX, tail->value);
	if (tail->stack)
		put_load(w, HOST_RDI, SLOT_RSP);
	if (tail->flags)
		put_flags_in(w);
}

void put_link(struct writer *w, int32_t delta, const void *slow)
{
	put_record(w, w->n);
	put_op_slot(w, 2, 0x83, 7, offsetof(struct vcpu, req)); /* cmp dword [req], 0; jne slow */
	put(w, 0, 1);
	put(w, 0x850f, 2);
	put_outside(w, slow);
	if (!delta) { /* this very trace; its arguments are in place */
		put(w, 0xe9, 1);
		put(w, (uint64_t)(w->start + TRACE_ENTRY_BYTES - (w->p + 4)), 4);
		return;
	}
	put(w, 0x08468b48, 4);      /* mov rax, [rsi + link] */
	put(w, 0x840fc08548ull, 5); /* test rax, rax; jz slow */
	put_outside(w, slow);
	put_opcode(w, 3, delta == (int8_t)delta ? 0x83 : 0x81); /* add qword [rip], delta */
	put_slot(w, 0, SLOT_RIP);
	put(w, (uint32_t)delta, delta == (int8_t)delta ? 1 : 4);
	put(w, 0xe0ff, 2); /* jmp rax */
}
_Static_assert(offsetof(struct insn, link) == 8, "put_link");
