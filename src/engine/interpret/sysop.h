/*
 * Rare and privileged instructions: executed by ordinary C functions on
 * canonical state, with no concern for speed of dispatch.
 *
 * The caller has put the instruction's own address into arch.rip and
 * materialised arch.rflags; afterwards it reads the flags back. The function
 * returns SYSOP_DONE (the caller advances rip by len), SYSOP_JUMPED (rip was
 * set), or -1 with v->fault set and no architectural change made. CPL, mode
 * and feature checks are the function's own.
 */
#ifndef INSULA_ENGINE_INTERPRET_SYSOP_H
#define INSULA_ENGINE_INTERPRET_SYSOP_H

#include "cpu/vcpu.h"
#include <Zydis/Zydis.h>

enum {
	SYSOP_DONE = 0,
	SYSOP_JUMPED = 1,
	SYSOP_AGAIN = 2 /* REP: one piece done, same instruction again */
};

#define NO_REG 0xff

struct sysop {
	int (*execute)(struct vcpu *v, const struct sysop *op);
	uint16_t mnemonic; /* ZydisMnemonic */
	uint8_t opcode, opcode_map;
	uint8_t opsize;   /* effective operand size in bytes: 1, 2, 4, 8 */
	uint8_t addrsize; /* effective address size in bytes: 2, 4, 8 */
	uint8_t len;
	uint8_t reg; /* ModRM.reg with REX.R, a gpr / sreg / cr / dr number */
	uint8_t rm;  /* ModRM.rm with REX.B when !is_mem */
	bool is_mem, lock, rep, repne;
	bool rex;    /* a REX prefix is present: byte registers 4..7 are SPL.. instead of AH.. */
	uint8_t seg; /* of the memory operand, override applied */
	uint8_t base, index, shift; /* gpr numbers or NO_REG; a RIP-relative operand has base NO_REG
				       and rip_relative */
	bool rip_relative;          /* disp counts from the next instruction */
	int64_t disp;
	uint64_t imm, imm2; /* imm sign-extended as the instruction defines; far pointers: imm =
			       offset, imm2 = selector */
};

/* Effective address (an offset in its segment), wrapped to the address size. */
uint64_t sysop_ea(struct vcpu *v, const struct sysop *op);
/* The memory operand at ea + delta, `size` bytes, zero-extended; segment and page checks made. */
int sysop_load(struct vcpu *v, const struct sysop *op, unsigned delta, unsigned size,
	       uint64_t *value);
int sysop_store(struct vcpu *v, const struct sysop *op, unsigned delta, unsigned size,
		uint64_t value);
/* General registers by number; 1-byte ones obey op->rex; 4-byte writes zero-extend. */
uint64_t sysop_reg_read(const struct vcpu *v, const struct sysop *op, unsigned reg, unsigned size);
void sysop_reg_write(struct vcpu *v, const struct sysop *op, unsigned reg, unsigned size,
		     uint64_t value);
/* The r/m operand, register or memory. */
int sysop_rm_read(struct vcpu *v, const struct sysop *op, unsigned size, uint64_t *value);
int sysop_rm_write(struct vcpu *v, const struct sysop *op, unsigned size, uint64_t value);

enum sysop_flags {
	SYSOP_LIGHT = 1, /* touches general registers, flags and memory only: the trace goes on
			    behind it */
};
struct sysop_entry {
	int (*execute)(struct vcpu *v, const struct sysop *op);
	unsigned flags;
};

/* Which function executes the instruction; {NULL} if none: the decoder then makes it #UD. */
/* Of a light one: it depends on registers and memory alone. */
bool sysop_repeatable(const struct sysop *op);

struct sysop_entry
sysop_find(const ZydisDecodedInstruction *insn); /* dispatches over those below */
struct sysop_entry
sysop_find_system(const ZydisDecodedInstruction
			  *insn); /* sysop_system.c: CRx, MSR, tables, HLT, CPUID, ... */
struct sysop_entry
sysop_find_transfer(const ZydisDecodedInstruction
			    *insn); /* sysop_transfer.c: far transfers, INT, IRET, segment loads */
struct sysop_entry sysop_find_flags(
	const ZydisDecodedInstruction *insn); /* sysop_flags.c: PUSHF, POPF, STI, CLI, ... */
struct sysop_entry
sysop_find_port(const ZydisDecodedInstruction *insn); /* sysop_port.c: IN, OUT, INS, OUTS */
struct sysop_entry sysop_find_integer(
	const ZydisDecodedInstruction *insn); /* sysop_integer.c: BCD, BOUND, ENTER, PUSHA, ... */
struct sysop_entry
sysop_find_fpu(const ZydisDecodedInstruction
		       *insn); /* sysop_fpu.c: FXSAVE, XSAVE, FNSTENV and their kin */

#endif
