/*
 * Operands of rare instructions, and which function executes them. Called by
 * the functions in sysop_*.c and by the decoder. Invariant: an access that
 * faults has changed nothing.
 */
#include "engine/interpret/sysop.h"
#include "base/assert.h"
#include "cpu/mmu.h"
#include "cpu/segment.h"

static uint64_t size_mask(unsigned size)
{
	return size >= 8 ? ~0ull : (1ull << (size * 8)) - 1;
}

uint64_t sysop_ea(struct vcpu *v, const struct sysop *op)
{
	uint64_t ea = (uint64_t)op->disp;

	if (op->rip_relative)
		ea += v->arch.rip + op->len;
	if (op->base != NO_REG)
		ea += v->arch.gpr[op->base];
	if (op->index != NO_REG)
		ea += v->arch.gpr[op->index] << op->shift;
	return ea & size_mask(op->addrsize);
}

int sysop_load(struct vcpu *v, const struct sysop *op, unsigned delta, unsigned size,
	       uint64_t *value)
{
	uint64_t offset = (sysop_ea(v, op) + delta) & size_mask(op->addrsize);

	*value = 0;
	if (segment_linear(v, op->seg, offset, size, false) < 0)
		return -1;
	return mmu_read(v, v->soft.la, value, size, MMU_CPL);
}

int sysop_store(struct vcpu *v, const struct sysop *op, unsigned delta, unsigned size,
		uint64_t value)
{
	uint64_t offset = (sysop_ea(v, op) + delta) & size_mask(op->addrsize);

	if (segment_linear(v, op->seg, offset, size, true) < 0)
		return -1;
	return mmu_write(v, v->soft.la, &value, size, MMU_CPL);
}

/* AH, CH, DH, BH are the numbers 4 to 7 of a byte register without REX. */
static bool is_high_byte(const struct sysop *op, unsigned reg, unsigned size)
{
	return size == 1 && !op->rex && reg >= 4 && reg < 8;
}

uint64_t sysop_reg_read(const struct vcpu *v, const struct sysop *op, unsigned reg, unsigned size)
{
	if (is_high_byte(op, reg, size))
		return v->arch.gpr[reg - 4] >> 8 & 0xff;
	return v->arch.gpr[reg] & size_mask(size);
}

void sysop_reg_write(struct vcpu *v, const struct sysop *op, unsigned reg, unsigned size,
		     uint64_t value)
{
	uint64_t *gpr = &v->arch.gpr[reg];

	if (is_high_byte(op, reg, size))
		v->arch.gpr[reg - 4] = (v->arch.gpr[reg - 4] & ~0xff00ull) | (value & 0xff) << 8;
	else if (size >= 4)
		*gpr = value & size_mask(size);
	else
		*gpr = (*gpr & ~size_mask(size)) | (value & size_mask(size));
}

int sysop_rm_read(struct vcpu *v, const struct sysop *op, unsigned size, uint64_t *value)
{
	if (op->is_mem)
		return sysop_load(v, op, 0, size, value);
	*value = sysop_reg_read(v, op, op->rm, size);
	return 0;
}

int sysop_rm_write(struct vcpu *v, const struct sysop *op, unsigned size, uint64_t value)
{
	if (op->is_mem)
		return sysop_store(v, op, 0, size, value);
	sysop_reg_write(v, op, op->rm, size, value);
	return 0;
}

struct sysop_entry sysop_find(const ZydisDecodedInstruction *insn)
{
	static struct sysop_entry (*const finders[])(const ZydisDecodedInstruction *) = {
		sysop_find_system,  sysop_find_flags,    sysop_find_port,
		sysop_find_integer, sysop_find_transfer, sysop_find_fpu,
	};
	struct sysop_entry entry = { NULL, 0 };
	unsigned n;

	for (n = 0; n < sizeof(finders) / sizeof(finders[0]) && !entry.execute; n++)
		entry = finders[n](insn);
	return entry;
}

bool sysop_repeatable(const struct sysop *op)
{
	switch (op->mnemonic) {
	case ZYDIS_MNEMONIC_RDTSC:
	case ZYDIS_MNEMONIC_RDTSCP:
	case ZYDIS_MNEMONIC_RDPMC:
	case ZYDIS_MNEMONIC_RDMSR:
	case ZYDIS_MNEMONIC_RDRAND:
	case ZYDIS_MNEMONIC_RDSEED:
	case ZYDIS_MNEMONIC_VMCALL:
	case ZYDIS_MNEMONIC_VMMCALL:
		return false;
	default:
		return true;
	}
}
