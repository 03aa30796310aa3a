/*
 * Writing x86-64 code: instructions with any general register and memory
 * operand, in the encodings of SDM volume 2, chapter 2.
 */
#ifndef INSULA_ENGINE_TRANSLATE_EMIT_H
#define INSULA_ENGINE_TRANSLATE_EMIT_H

#include "cpu/vcpu.h"
#include <string.h>

struct code {
	uint8_t *p;     /* next byte, in the writable mapping */
	uint8_t *end;   /* writing stops here; full is set instead */
	intptr_t to_rx; /* add: address in the executable mapping */
	bool full;
};

enum { NONE = -1 };

/* Register, or memory [base + index << shift + disp]; base or index may be NONE. */
struct operand {
	bool memory;
	int8_t reg; /* not memory */
	int8_t base, index;
	uint8_t shift;
	int32_t disp;
};

static inline struct operand reg_operand(int reg)
{
	return (struct operand){ .reg = (int8_t)reg };
}
static inline struct operand mem_operand(int base, int32_t disp)
{
	return (struct operand){
		.memory = true, .base = (int8_t)base, .index = NONE, .disp = disp
	};
}
/* Translated code keeps the vcpu in RSP. */
#define SLOT(field) mem_operand(RSP, (int32_t)offsetof(struct vcpu, field))
static inline struct operand gpr_slot(int guest)
{
	return mem_operand(RSP, guest * 8);
}

enum opcode_map { MAP_ONE, MAP_0F, MAP_0F38, MAP_0F3A };

/* Everything of an instruction but its registers and immediate. */
struct opcode {
	uint8_t map; /* enum opcode_map */
	uint8_t byte;
	uint8_t prefix; /* 0, 0x66, 0xf2 or 0xf3 */
	bool narrow;    /* 0x66 as well as the prefix */
	bool lock;
	bool wide;      /* REX.W or VEX.W */
	bool byte_regs; /* 8-bit register operands: SPL.. need a REX prefix */
	bool high_byte; /* AH..BH are operands: no REX may be there */
	bool vex;
	bool vex_long; /* VEX.L */
	uint8_t vvvv;  /* VEX only: register, not inverted */
};

static inline uint8_t *code_rx(const struct code *c)
{
	return c->p + c->to_rx;
}

static inline void put8(struct code *c, unsigned x)
{
	if (c->p < c->end)
		*c->p++ = (uint8_t)x;
	else
		c->full = true;
}
static inline void put32(struct code *c, uint32_t x)
{
	for (int n = 0; n < 4; n++)
		put8(c, x >> (8 * n));
}
static inline void put64(struct code *c, uint64_t x)
{
	put32(c, (uint32_t)x);
	put32(c, (uint32_t)(x >> 32));
}

#define RIP_RELATIVE 16 /* as a base: relative to the end of an instruction without immediate */

static inline void put_modrm(struct code *c, int reg, struct operand rm)
{
	unsigned r = (unsigned)(reg & 7) << 3;
	unsigned mod;

	if (!rm.memory) {
		put8(c, 0xc0 | r | (rm.reg & 7));
		return;
	}
	if (rm.base == RIP_RELATIVE) {
		put8(c, r | 5);
		put32(c, (uint32_t)rm.disp);
		return;
	}
	if (rm.base == NONE) {
		put8(c, r | 4);
		put8(c, (unsigned)rm.shift << 6 | (rm.index == NONE ? 4u : rm.index & 7u) << 3 | 5);
		put32(c, (uint32_t)rm.disp);
		return;
	}
	if (rm.disp == 0 && (rm.base & 7) != RBP)
		mod = 0;
	else
		mod = rm.disp == (int8_t)rm.disp ? 0x40 : 0x80;
	if (rm.index != NONE || (rm.base & 7) == RSP) {
		put8(c, mod | r | 4);
		put8(c, (unsigned)rm.shift << 6 | (rm.index == NONE ? 4u : rm.index & 7u) << 3 |
				(rm.base & 7));
	} else {
		put8(c, mod | r | (rm.base & 7));
	}
	if (mod == 0x40)
		put8(c, (uint8_t)rm.disp);
	else if (mod == 0x80)
		put32(c, (uint32_t)rm.disp);
}

/* The instruction up to its immediate. reg: ModRM.reg, a register or an opcode extension. */
static inline void put_insn(struct code *c, struct opcode op, int reg, struct operand rm)
{
	unsigned r = reg >> 3 & 1, x = 0, b;

	if (rm.memory) {
		x = rm.index != NONE ? rm.index >> 3 & 1 : 0;
		b = rm.base != NONE && rm.base != RIP_RELATIVE ? rm.base >> 3 & 1 : 0;
	} else {
		b = rm.reg >> 3 & 1;
	}
	if (op.vex) {
		static const uint8_t pp[256] = { [0x66] = 1, [0xf3] = 2, [0xf2] = 3 };

		put8(c, 0xc4);
		put8(c, (r ^ 1) << 7 | (x ^ 1) << 6 | (b ^ 1) << 5 | op.map);
		put8(c, (unsigned)op.wide << 7 | (~op.vvvv & 15u) << 3 |
				(unsigned)op.vex_long << 2 | pp[op.prefix]);
	} else {
		unsigned rex = (unsigned)op.wide << 3 | r << 2 | x << 1 | b;

		if (op.lock)
			put8(c, 0xf0);
		if (op.narrow)
			put8(c, 0x66);
		if (op.prefix)
			put8(c, op.prefix);
		if (rex ||
		    (op.byte_regs && (((reg & ~3) == 4) || (!rm.memory && (rm.reg & ~3) == 4))))
			put8(c, 0x40 | rex);
		if (op.map != MAP_ONE)
			put8(c, 0x0f);
		if (op.map == MAP_0F38)
			put8(c, 0x38);
		if (op.map == MAP_0F3A)
			put8(c, 0x3a);
	}
	put8(c, op.byte);
	put_modrm(c, reg, rm);
}

/* Data near the code. before: bytes from here to the displacement. */
static inline struct operand near_operand(const struct code *c, const void *data, unsigned before)
{
	return mem_operand(RIP_RELATIVE,
			   (int32_t)((intptr_t)data - (intptr_t)(code_rx(c) + before + 4)));
}

#define OP(b)    ((struct opcode){ .byte = (b) })
#define OP_W(b)  ((struct opcode){ .byte = (b), .wide = true })
#define OP_0F(b) ((struct opcode){ .map = MAP_0F, .byte = (b) })

static inline void put_mov(struct code *c, int to, int from)
{
	put_insn(c, OP_W(0x8b), to, reg_operand(from));
}
static inline void put_load(struct code *c, int to, struct operand from)
{
	put_insn(c, OP_W(0x8b), to, from);
}
static inline void put_store(struct code *c, struct operand to, int from)
{
	put_insn(c, OP_W(0x89), from, to);
}
static inline void put_lea(struct code *c, int to, struct operand address)
{
	put_insn(c, OP_W(0x8d), to, address);
}
/* mov dword or qword [slot], simm32 */
static inline void put_store_imm(struct code *c, bool wide, struct operand to, uint32_t imm)
{
	put_insn(c, wide ? OP_W(0xc7) : OP(0xc7), 0, to);
	put32(c, imm);
}

/* jmp, call, jcc to an address in the executable mapping, within reach. */
static inline void put_rel32(struct code *c, const void *target)
{
	put32(c, (uint32_t)((uintptr_t)target - (uintptr_t)(code_rx(c) + 4)));
}
static inline void put_jmp(struct code *c, const void *target)
{
	put8(c, 0xe9);
	put_rel32(c, target);
}
static inline void put_call(struct code *c, const void *target)
{
	put8(c, 0xe8);
	put_rel32(c, target);
}
static inline void put_jcc(struct code *c, unsigned cc, const void *target)
{
	put8(c, 0x0f);
	put8(c, 0x80 | cc);
	put_rel32(c, target);
}
/* To a stub that comes back by soft.resume: RSP is no stack. `link`: a register to spoil. */
static inline void put_call_stub(struct code *c, int link, const void *stub)
{
	put8(c, 0x48 | (link >> 3 & 1) << 2); /* lea link, [rip + ...] */
	put8(c, 0x8d);
	put8(c, 0x05 | (link & 7) << 3);
	put32(c, 8 + 5);
	put_store(c, SLOT(soft.resume), link);
	put_jmp(c, stub);
}
/* The same with the target to come: answers where its displacement stands. */
static inline uint8_t *put_jmp_open(struct code *c)
{
	put8(c, 0xe9);
	put32(c, 0);
	return c->p - 4;
}
static inline uint8_t *put_jcc_open(struct code *c, unsigned cc)
{
	put8(c, 0x0f);
	put8(c, 0x80 | cc);
	put32(c, 0);
	return c->p - 4;
}
/* Points the displacement at `at` to `target`, both in the writable mapping. */
static inline void close_rel32(struct code *c, uint8_t *at, const uint8_t *target)
{
	uint32_t rel = (uint32_t)(target - (at + 4));

	if (!c->full)
		memcpy(at, &rel, 4);
}

enum { CC_B = 2, CC_AE, CC_E, CC_NE, CC_BE, CC_A };

#endif
