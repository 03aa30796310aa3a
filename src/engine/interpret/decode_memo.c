/*
 * The memory of shapes. Called by decode.c. Invariant: a memo is only made of
 * an instruction whose displacement and immediate Zydis found where the key
 * ends, and reported in no other form than they stand there; all else that it
 * reports follows from the bytes of the key.
 */
#include "engine/interpret/decode_memo.h"
#include "base/bytes.h"

/* One bit an opcode: a ModRM byte follows. Of one that is wrong here nothing is learned. */
static const uint32_t modrm_map[8] = {
	0x0f0f0f0f, 0x0f0f0f0f, 0x00000000, 0x00000a08,
	0x0000ffff, 0x00000000, 0xff0f00c3, 0xc0c00000,
};
/* The same behind 0F. */
static const uint32_t modrm_map_0f[8] = {
	0xffff200f, 0x0000ff0f, 0xffffffff, 0xff7fffff,
	0xffff0000, 0xfffff838, 0xffff00ff, 0xffffffff,
};

static bool has(const uint32_t map[8], unsigned opcode)
{
	return map[opcode / 32] >> (opcode % 32) & 1;
}

uint64_t memo_key(const uint8_t *bytes, unsigned room)
{
	unsigned n = 0, opcode;
	uint64_t key = 0;
	bool modrm;

	/* Eight bytes may be read, and at most seven are the key's. */
	if (room < 8)
		return 0;
	for (;; n++) {
		if (n == 3)
			return 0;
		switch (bytes[n]) {
		case 0x66:
		case 0xf2:
		case 0xf3:
		case 0xf0:
		case 0x64:
		case 0x65:
			continue;
		default:
			break;
		}
		break;
	}
	if ((bytes[n] & 0xf0) == 0x40)
		n++;
	opcode = bytes[n++];
	if (opcode == 0x0f) {
		opcode = bytes[n++];
		if (opcode == 0x0f || opcode == 0x38 || opcode == 0x3a)
			return 0;
		modrm = has(modrm_map_0f, opcode);
	} else {
		modrm = has(modrm_map, opcode);
	}
	if (modrm) {
		unsigned m = bytes[n++];

		if (m < 0xc0 && (m & 7) == 4)
			n++; /* SIB */
	}
	if (n > 7)
		return 0;
	bytes_copy(&key, bytes, 8);
	return (key & ~(~0ull << 8 * n)) | (uint64_t)n << 56;
}

static int64_t load_signed(const uint8_t *p, unsigned bytes)
{
	switch (bytes) {
	case 1:
		return (int8_t)*p;
	case 2:
		return (int16_t)bytes_load16(p);
	case 4:
		return (int32_t)bytes_load32(p);
	default:
		return (int64_t)bytes_load64(p);
	}
}

static int64_t load_immediate(const uint8_t *p, unsigned bytes, bool is_signed)
{
	int64_t x = load_signed(p, bytes);

	return is_signed || bytes == 8 ? x : x & (int64_t) ~(~0ull << 8 * bytes);
}

bool memo_use(struct memo *memo, uint64_t key, const uint8_t *bytes, unsigned room)
{
	if (memo->key != key || room < memo->zi.length)
		return false;
	if (memo->disp_bytes) {
		int64_t disp = load_signed(bytes + memo->disp_at, memo->disp_bytes);

		memo->zi.raw.disp.value = disp;
		for (unsigned n = 0; n < memo->zi.operand_count; n++)
			if (memo->ops[n].type == ZYDIS_OPERAND_TYPE_MEMORY &&
			    memo->ops[n].mem.disp.has_displacement)
				memo->ops[n].mem.disp.value = disp;
	}
	if (memo->imm_bytes) {
		int64_t imm = load_immediate(bytes + memo->imm_at, memo->imm_bytes,
					     memo->zi.raw.imm[0].is_signed);

		memo->zi.raw.imm[0].value.s = imm;
		for (unsigned n = 0; n < memo->zi.operand_count; n++)
			if (memo->ops[n].type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
				memo->ops[n].imm.value.s = imm;
	}
	return true;
}

void memo_learn(struct memo *memo, uint64_t key, const uint8_t *bytes,
		const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
	unsigned head = (unsigned)(key >> 56), n;
	unsigned disp = zi->raw.disp.size / 8u, imm = zi->raw.imm[0].size / 8u;

	memo->key = 0;
	if (zi->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY ||
	    zi->operand_count > MEMO_OPERANDS || disp > 4 || zi->raw.imm[1].size ||
	    zi->length != head + disp + imm ||
	    (disp && (zi->raw.disp.offset != head ||
		      zi->raw.disp.value != load_signed(bytes + head, disp))) ||
	    (imm && (zi->raw.imm[0].offset != head + disp ||
		     zi->raw.imm[0].value.s !=
			     load_immediate(bytes + head + disp, imm, zi->raw.imm[0].is_signed))))
		return;
	for (n = 0; n < zi->operand_count; n++) {
		const ZydisDecodedOperand *o = &ops[n];

		if (o->type == ZYDIS_OPERAND_TYPE_POINTER ||
		    (o->type == ZYDIS_OPERAND_TYPE_MEMORY && o->mem.disp.has_displacement &&
		     (!disp || o->mem.disp.value != zi->raw.disp.value)) ||
		    (o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE && imm &&
		     o->imm.value.s != zi->raw.imm[0].value.s))
			return;
		memo->ops[n] = *o;
	}
	memo->zi = *zi;
	memo->disp_at = (uint8_t)head;
	memo->disp_bytes = (uint8_t)disp;
	memo->imm_at = (uint8_t)(head + disp);
	memo->imm_bytes = (uint8_t)imm;
	memo->key = key;
}
