/*
 * What Zydis said before: instructions that differ only in displacement and
 * immediate are decoded once, then those values are put in. Most of a guest's
 * instructions are of some hundred such shapes; Zydis takes ten times as long.
 */
#ifndef INSULA_ENGINE_INTERPRET_DECODE_MEMO_H
#define INSULA_ENGINE_INTERPRET_DECODE_MEMO_H

#include <Zydis/Zydis.h>
#include <stdbool.h>
#include <stdint.h>

#define MEMO_BITS     10
#define MEMO_OPERANDS 6

struct memo {
	uint64_t key; /* bytes before the displacement, their number above them; 0: empty */
	uint8_t disp_at, disp_bytes, imm_at, imm_bytes; /* bytes 0: none */
	ZydisDecodedInstruction zi;
	ZydisDecodedOperand ops[MEMO_OPERANDS];
};

/*
 * The key of the 64-bit instruction at `bytes`, of which `room` may be read; 0:
 * it is of no kind that is remembered.
 */
uint64_t memo_key(const uint8_t *bytes, unsigned room);
static inline struct memo *memo_slot(struct memo *memos, uint64_t key)
{
	return &memos[key * 0x9e3779b97f4a7c15u >> (64 - MEMO_BITS)];
}
/* Puts in the values at `bytes`. False: the memo is of another key, or room ends before the
 * instruction. */
bool memo_use(struct memo *memo, uint64_t key, const uint8_t *bytes, unsigned room);
/* Zydis decoded this: remember it if all that may differ is known. */
void memo_learn(struct memo *memo, uint64_t key, const uint8_t *bytes,
		const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops);

#endif
