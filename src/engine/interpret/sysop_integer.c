/*
 * Integer instructions that compilers do not emit, or that need care beyond
 * one load, one operation and one store. Flags that the manual leaves undefined
 * get a fixed value. Invariant: as sysop.h says.
 */
#include "base/assert.h"
#include "base/bytes.h"
#include "base/syscall.h"
#include "cpu/excp.h"
#include "cpu/mmu.h"
#include "cpu/model.h"
#include "cpu/segment.h"
#include "cpu/stack.h"
#include "engine/interpret/insn.h"
#include "engine/interpret/sysop.h"
#include <cpuid.h>
#include <sys/syscall.h>

static void flags_set(struct vcpu *v, uint64_t mask, uint64_t value)
{
	v->arch.rflags = (v->arch.rflags & ~mask) | (value & mask);
}

/* SF, ZF and PF of a byte. */
static uint64_t byte_flags(uint8_t x)
{
	return (x & 0x80 ? FLAG_SF : 0) | (x == 0 ? FLAG_ZF : 0) |
	       (__builtin_parity(x) ? 0 : FLAG_PF);
}

static int op_aaa_aas(struct vcpu *v, const struct sysop *op)
{
	uint16_t ax = (uint16_t)v->arch.gpr[RAX];
	bool adjust = (ax & 0xf) > 9 || (v->arch.rflags & FLAG_AF);

	if (adjust)
		ax = (uint16_t)(op->mnemonic == ZYDIS_MNEMONIC_AAA ? ax + 0x106 : ax - 0x106);
	ax &= 0xff0f;
	sysop_reg_write(v, op, RAX, 2, ax);
	flags_set(v, FLAGS_ARITH, (adjust ? FLAG_AF | FLAG_CF : 0) | byte_flags((uint8_t)ax));
	return SYSOP_DONE;
}

static int op_daa_das(struct vcpu *v, const struct sysop *op)
{
	bool das = op->mnemonic == ZYDIS_MNEMONIC_DAS;
	uint8_t old = (uint8_t)v->arch.gpr[RAX], al = old;
	bool carry = v->arch.rflags & FLAG_CF, half = v->arch.rflags & FLAG_AF;
	uint64_t flags = 0;

	if ((old & 0xf) > 9 || half) {
		/* DAS: the borrow of this step counts; DAA's carry implies the next test anyway. */
		if (carry || (das && old < 6))
			flags |= FLAG_CF;
		al = (uint8_t)(das ? al - 6 : al + 6);
		flags |= FLAG_AF;
	}
	if (old > 0x99 || carry) {
		al = (uint8_t)(das ? al - 0x60 : al + 0x60);
		flags |= FLAG_CF;
	}
	sysop_reg_write(v, op, RAX, 2, (v->arch.gpr[RAX] & 0xff00) | al);
	flags_set(v, FLAGS_ARITH, flags | byte_flags(al));
	return SYSOP_DONE;
}

static int op_aam(struct vcpu *v, const struct sysop *op)
{
	uint8_t base = (uint8_t)op->imm, al = (uint8_t)v->arch.gpr[RAX];

	if (!base)
		return excp_raise(v, VEC_DE);
	sysop_reg_write(v, op, RAX, 2, (uint64_t)(al / base) << 8 | al % base);
	flags_set(v, FLAGS_ARITH, byte_flags(al % base));
	return SYSOP_DONE;
}

static int op_aad(struct vcpu *v, const struct sysop *op)
{
	uint64_t ax = v->arch.gpr[RAX];
	uint8_t al = (uint8_t)(ax + (ax >> 8 & 0xff) * (op->imm & 0xff));

	sysop_reg_write(v, op, RAX, 2, al);
	flags_set(v, FLAGS_ARITH, byte_flags(al));
	return SYSOP_DONE;
}

static int64_t sign_extend(uint64_t value, unsigned size)
{
	unsigned shift = 64 - 8 * size;

	return (int64_t)(value << shift) >> shift;
}

static int op_bound(struct vcpu *v, const struct sysop *op)
{
	unsigned size = op->opsize == 2 ? 2 : 4;
	uint64_t low, high;
	int64_t index;

	if (!op->is_mem || vcpu_code64(v))
		return excp_ud(v);
	if (sysop_load(v, op, 0, size, &low) < 0 || sysop_load(v, op, size, size, &high) < 0)
		return -1;
	index = sign_extend(sysop_reg_read(v, op, op->reg, size), size);
	if (index < sign_extend(low, size) || index > sign_extend(high, size))
		return excp_raise(v, VEC_BR);
	return SYSOP_DONE;
}

/*
 * ENTER pushes as it goes, because a display entry it copies may be one it has
 * just pushed; registers change only when every push and the last check passed.
 */
static int op_enter(struct vcpu *v, const struct sysop *op)
{
	struct stack st = stack_current(v);
	unsigned size = op->opsize == 2 ? 2 : vcpu_code64(v) ? 8 : 4;
	unsigned level = (unsigned)op->imm2 & 31, n;
	uint64_t frame, value = v->arch.gpr[RBP], bp = value;

	if (stack_write(v, &st, &value, 1, size) < 0)
		return -1;
	frame = st.sp;
	for (n = 1; n < level; n++) {
		bp -= size;
		value = 0;
		if (segment_linear(v, SEG_SS, bp & st.mask, size, false) < 0 ||
		    mmu_read(v, v->soft.la, &value, size, MMU_CPL) < 0 ||
		    stack_write(v, &st, &value, 1, size) < 0)
			return -1;
	}
	if (level) {
		value = (v->arch.gpr[RSP] & ~st.mask) | frame;
		if (stack_write(v, &st, &value, 1, size) < 0)
			return -1;
	}
	st.sp = (st.sp - (op->imm & 0xffff)) & st.mask;
	if (segment_linear(v, SEG_SS, st.sp, size, true) < 0 ||
	    mmu_probe_write(v, v->soft.la, size, MMU_CPL) < 0)
		return -1;
	sysop_reg_write(v, op, RBP, size, (v->arch.gpr[RSP] & ~st.mask) | frame);
	stack_commit(v, &st);
	return SYSOP_DONE;
}

static int op_pusha(struct vcpu *v, const struct sysop *op)
{
	struct stack st = stack_current(v);
	unsigned size = op->mnemonic == ZYDIS_MNEMONIC_PUSHA ? 2 : 4, n;
	uint64_t items[8];

	/* Pushed from AX to DI, so the topmost slot faults first. */
	for (n = 1; n <= 8; n++)
		if (segment_linear(v, SEG_SS, (v->arch.gpr[RSP] - n * size) & st.mask, size, true) <
			    0 ||
		    mmu_probe_write(v, v->soft.la, size, MMU_CPL) < 0)
			return -1;
	/* Lowest address first: DI, SI, BP, SP, BX, DX, CX, AX. */
	for (n = 0; n < 8; n++)
		items[n] = v->arch.gpr[RDI - n];
	if (stack_write(v, &st, items, 8, size) < 0)
		return -1;
	stack_commit(v, &st);
	return SYSOP_DONE;
}

static int op_popa(struct vcpu *v, const struct sysop *op)
{
	struct stack st = stack_current(v);
	unsigned size = op->mnemonic == ZYDIS_MNEMONIC_POPA ? 2 : 4, n;
	uint64_t items[8];

	/* Slot by slot, for the order of faults and the alignment of each. */
	for (n = 0; n < 8; n++)
		if (segment_linear(v, SEG_SS, (v->arch.gpr[RSP] + n * size) & st.mask, size,
				   false) < 0 ||
		    mmu_probe_read(v, v->soft.la, size, MMU_CPL) < 0)
			return -1;
	if (stack_read(v, &st, items, 8, size) < 0)
		return -1;
	for (n = 0; n < 8; n++)
		if (RDI - n != RSP)
			sysop_reg_write(v, op, RDI - n, size, items[n]);
	stack_commit(v, &st);
	return SYSOP_DONE;
}

static int op_xlat(struct vcpu *v, const struct sysop *op)
{
	uint64_t offset = v->arch.gpr[RBX] + (v->arch.gpr[RAX] & 0xff), value = 0;

	if (op->addrsize < 8)
		offset &= op->addrsize == 4 ? 0xffffffffu : 0xffffu;
	if (segment_linear(v, op->seg, offset, 1, false) < 0 ||
	    mmu_read(v, v->soft.la, &value, 1, MMU_CPL) < 0)
		return -1;
	sysop_reg_write(v, op, RAX, 1, value);
	return SYSOP_DONE;
}

static bool cas8(void *p, uint64_t expected[2], const uint64_t desired[2])
{
	uint64_t old = expected[0];
	bool equal;

	__asm__ volatile("lock cmpxchgq %3, %1"
			 : "=@ccz"(equal), "+m"(*(uint64_t *)p), "+a"(old)
			 : "r"(desired[0])
			 : "memory");
	expected[0] = old;
	return equal;
}

static bool cas16(void *p, uint64_t expected[2], const uint64_t desired[2])
{
	bool equal;

	__asm__ volatile("lock cmpxchg16b %1"
			 : "=@ccz"(equal), "+m"(*(uint64_t(*)[2])p), "+a"(expected[0]),
			   "+d"(expected[1])
			 : "b"(desired[0]), "c"(desired[1])
			 : "memory");
	return equal;
}

static int op_cmpxchg_pair(struct vcpu *v, const struct sysop *op)
{
	bool wide = op->mnemonic == ZYDIS_MNEMONIC_CMPXCHG16B, equal, locked;
	unsigned size = wide ? 16 : 8, half = size / 2;
	uint64_t *gpr = v->arch.gpr, expected[2], desired[2], la;
	void *host;

	if (!cpu_has(v->model, wide ? FEAT_CX16 : FEAT_CX8) || !op->is_mem)
		return excp_ud(v);
	/* 64-bit code only; comes before the address is looked at, so that it is #GP on the stack
	 * too. */
	if (wide && ((sysop_ea(v, op) + (op->seg >= SEG_FS ? v->arch.seg[op->seg].base : 0)) & 15))
		return excp_gp(v, 0);
	if (segment_linear(v, op->seg, sysop_ea(v, op), size, true) < 0)
		return -1;
	la = v->soft.la;
	if (wide) {
		expected[0] = gpr[RAX];
		expected[1] = gpr[RDX];
		desired[0] = gpr[RBX];
		desired[1] = gpr[RCX];
	} else {
		expected[0] = gpr[RDX] << 32 | (uint32_t)gpr[RAX];
		expected[1] = desired[1] = 0;
		desired[0] = gpr[RCX] << 32 | (uint32_t)gpr[RBX];
	}
	host = tlb_lock_ptr(v, la, size);
	locked = !host;
	if (locked)
		host = mmu_lock(v, la, size);
	if (!host)
		return -1;
	equal = wide ? cas16(host, expected, desired) : cas8(host, expected, desired);
	if (locked)
		mmu_unlock(v);
	flags_set(v, FLAG_ZF, equal ? FLAG_ZF : 0);
	if (!equal) {
		sysop_reg_write(v, op, RAX, half, expected[0]);
		sysop_reg_write(v, op, RDX, half, wide ? expected[1] : expected[0] >> 32);
	}
	return SYSOP_DONE;
}

static uint64_t byte_swap(uint64_t value, unsigned size)
{
	return __builtin_bswap64(value) >> (64 - 8 * size);
}

static int op_movbe(struct vcpu *v, const struct sysop *op)
{
	uint64_t value;

	if (!cpu_has(v->model, FEAT_MOVBE) || !op->is_mem)
		return excp_ud(v);
	if (op->opcode & 1) {
		value = sysop_reg_read(v, op, op->reg, op->opsize);
		return sysop_store(v, op, 0, op->opsize, byte_swap(value, op->opsize)) < 0
			       ? -1
			       : SYSOP_DONE;
	}
	if (sysop_load(v, op, 0, op->opsize, &value) < 0)
		return -1;
	sysop_reg_write(v, op, op->reg, op->opsize, byte_swap(value, op->opsize));
	return SYSOP_DONE;
}

/* Every model that has SSE4.2 was refused on a host without it. */
static int op_crc32(struct vcpu *v, const struct sysop *op)
{
	unsigned size = (op->opcode & 1) ? op->opsize : 1;
	uint64_t crc, value;

	if (!cpu_has(v->model, FEAT_SSE42))
		return excp_ud(v);
	if (sysop_rm_read(v, op, size, &value) < 0)
		return -1;
	crc = (uint32_t)v->arch.gpr[op->reg];
	switch (size) {
	case 1:
		__asm__("crc32b %b1, %k0" : "+r"(crc) : "r"(value));
		break;
	case 2:
		__asm__("crc32w %w1, %k0" : "+r"(crc) : "r"(value));
		break;
	case 4:
		__asm__("crc32l %k1, %k0" : "+r"(crc) : "r"(value));
		break;
	default:
		__asm__("crc32q %1, %0" : "+r"(crc) : "r"(value));
		break;
	}
	v->arch.gpr[op->reg] = (uint32_t)crc;
	return SYSOP_DONE;
}

static int op_movdiri(struct vcpu *v, const struct sysop *op)
{
	unsigned size = op->opsize == 8 ? 8 : 4;

	if (!cpu_has(v->model, FEAT_MOVDIRI) || !op->is_mem)
		return excp_ud(v);
	return sysop_store(v, op, 0, size, sysop_reg_read(v, op, op->reg, size)) < 0 ? -1
										     : SYSOP_DONE;
}

static int op_movdir64b(struct vcpu *v, const struct sysop *op)
{
	uint64_t offset = sysop_reg_read(v, op, op->reg, op->addrsize), destination, line[8];

	if (!cpu_has(v->model, FEAT_MOVDIR64B) || !op->is_mem)
		return excp_ud(v);
	if (segment_linear(v, op->seg, sysop_ea(v, op), sizeof(line), false) < 0 ||
	    mmu_read(v, v->soft.la, line, sizeof(line), MMU_CPL) < 0)
		return -1;
	if (segment_linear(v, SEG_ES, offset, sizeof(line), true) < 0)
		return -1;
	destination = v->soft.la;
	if (destination & 63)
		return excp_gp(v, 0);
	return mmu_write(v, destination, line, sizeof(line), MMU_CPL) < 0 ? -1 : SYSOP_DONE;
}

enum { KNOWN = 1, HAS_RDRAND = 2, HAS_RDSEED = 4 };

/* Host leaf 1 ECX bit 30 and leaf 7 EBX bit 18; asked once, and a race stores the same answer. */
static unsigned host_random(void)
{
	static unsigned cached;
	unsigned found = __atomic_load_n(&cached, __ATOMIC_RELAXED), a, b, c, d;

	if (found)
		return found;
	found = KNOWN;
	__cpuid(0, a, b, c, d);
	if (a >= 7) {
		__cpuid_count(7, 0, a, b, c, d);
		found |= b & (1u << 18) ? HAS_RDSEED : 0;
	}
	__cpuid(1, a, b, c, d);
	found |= c & (1u << 30) ? HAS_RDRAND : 0;
	__atomic_store_n(&cached, found, __ATOMIC_RELAXED);
	return found;
}

static bool random_number(bool seed, uint64_t *value)
{
	unsigned has = host_random();
	bool ok = false;

	if (seed && (has & HAS_RDSEED))
		__asm__ volatile("rdseed %0" : "=r"(*value), "=@ccc"(ok));
	else if (!seed && (has & HAS_RDRAND))
		__asm__ volatile("rdrand %0" : "=r"(*value), "=@ccc"(ok));
	if (!ok)
		ok = syscall6(SYS_getrandom, (long)value, sizeof(*value), 0, 0, 0, 0) ==
		     (long)sizeof(*value);
	return ok;
}

static int op_random(struct vcpu *v, const struct sysop *op)
{
	bool seed = op->mnemonic == ZYDIS_MNEMONIC_RDSEED, ok;
	uint64_t value = 0;

	if (!cpu_has(v->model, seed ? FEAT_RDSEED : FEAT_RDRAND) || op->is_mem)
		return excp_ud(v);
	ok = random_number(seed, &value);
	sysop_reg_write(v, op, op->rm, op->opsize, ok ? value : 0);
	flags_set(v, FLAGS_ARITH, ok ? FLAG_CF : 0);
	return SYSOP_DONE;
}

struct sysop_entry sysop_find_integer(const ZydisDecodedInstruction *insn)
{
	switch (insn->mnemonic) {
	case ZYDIS_MNEMONIC_AAA:
	case ZYDIS_MNEMONIC_AAS:
		return (struct sysop_entry){ op_aaa_aas, SYSOP_LIGHT };
	case ZYDIS_MNEMONIC_DAA:
	case ZYDIS_MNEMONIC_DAS:
		return (struct sysop_entry){ op_daa_das, SYSOP_LIGHT };
	case ZYDIS_MNEMONIC_AAM:
		return (struct sysop_entry){ op_aam, SYSOP_LIGHT };
	case ZYDIS_MNEMONIC_AAD:
		return (struct sysop_entry){ op_aad, SYSOP_LIGHT };
	case ZYDIS_MNEMONIC_BOUND:
		return (struct sysop_entry){ op_bound, SYSOP_LIGHT };
	case ZYDIS_MNEMONIC_ENTER:
		return (struct sysop_entry){ op_enter, SYSOP_LIGHT };
	case ZYDIS_MNEMONIC_PUSHA:
	case ZYDIS_MNEMONIC_PUSHAD:
		return (struct sysop_entry){ op_pusha, SYSOP_LIGHT };
	case ZYDIS_MNEMONIC_POPA:
	case ZYDIS_MNEMONIC_POPAD:
		return (struct sysop_entry){ op_popa, SYSOP_LIGHT };
	case ZYDIS_MNEMONIC_XLAT:
		return (struct sysop_entry){ op_xlat, SYSOP_LIGHT };
	case ZYDIS_MNEMONIC_CMPXCHG8B:
	case ZYDIS_MNEMONIC_CMPXCHG16B:
		return (struct sysop_entry){ op_cmpxchg_pair, SYSOP_LIGHT };
	case ZYDIS_MNEMONIC_MOVBE:
		return (struct sysop_entry){ op_movbe, SYSOP_LIGHT };
	case ZYDIS_MNEMONIC_CRC32:
		return (struct sysop_entry){ op_crc32, SYSOP_LIGHT };
	case ZYDIS_MNEMONIC_MOVDIRI:
		return (struct sysop_entry){ op_movdiri, SYSOP_LIGHT };
	case ZYDIS_MNEMONIC_MOVDIR64B:
		return (struct sysop_entry){ op_movdir64b, SYSOP_LIGHT };
	case ZYDIS_MNEMONIC_RDRAND:
	case ZYDIS_MNEMONIC_RDSEED:
		return (struct sysop_entry){ op_random, SYSOP_LIGHT };
	default:
		return (struct sysop_entry){ NULL, 0 };
	}
}
