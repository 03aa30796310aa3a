/*
 * IN, OUT, INS and OUTS. A string instruction moves one item a call, so that
 * interrupts and faults find the registers exact between items. Invariant: a
 * port is read only when its value can be stored.
 */
#include "base/assert.h"
#include "bus/bus.h"
#include "cpu/fpstate.h"
#include "cpu/mmu.h"
#include "cpu/segment.h"
#include "engine/interpret/sysop.h"

static uint64_t port_read(struct vcpu *v, uint16_t port, unsigned size)
{
	vcpu_fp_park(v);
	mmu_watch_port(v, port, size);
	return bus_read(v->pio, port, size);
}

static void port_write(struct vcpu *v, uint16_t port, unsigned size, uint64_t value)
{
	vcpu_fp_park(v);
	mmu_watch_port(v, port, size);
	bus_write(v->pio, port, size, value);
}

/* The opcodes of the family: bit 0 clear means a byte. REX.W means nothing. */
static unsigned port_size(const struct sysop *op)
{
	if (!(op->opcode & 1))
		return 1;
	return op->opsize == 2 ? 2 : 4;
}

/* E4-E7 name the port in the instruction, EC-EF in DX. */
static uint16_t port_number(const struct vcpu *v, const struct sysop *op)
{
	return (op->opcode & 8) ? (uint16_t)v->arch.gpr[RDX] : (uint8_t)op->imm;
}

static int op_in(struct vcpu *v, const struct sysop *op)
{
	unsigned size = port_size(op);
	uint16_t port = port_number(v, op);

	if (io_permitted(v, port, size) < 0)
		return -1;
	sysop_reg_write(v, op, RAX, size, port_read(v, port, size));
	return SYSOP_DONE;
}

static int op_out(struct vcpu *v, const struct sysop *op)
{
	unsigned size = port_size(op);
	uint16_t port = port_number(v, op);

	if (io_permitted(v, port, size) < 0)
		return -1;
	port_write(v, port, size, sysop_reg_read(v, op, RAX, size));
	return SYSOP_DONE;
}

/* Address-size wide register arithmetic: 16 bits keep the upper part, 32 clear it. */
static uint64_t index_read(const struct vcpu *v, const struct sysop *op, unsigned reg)
{
	return sysop_reg_read(v, op, reg, op->addrsize);
}

static void index_add(struct vcpu *v, const struct sysop *op, unsigned reg, int64_t delta)
{
	sysop_reg_write(v, op, reg, op->addrsize, index_read(v, op, reg) + (uint64_t)delta);
}

/* After an item: move the index, count, and say whether the instruction goes on. */
static int item_done(struct vcpu *v, const struct sysop *op, unsigned index, unsigned size)
{
	index_add(v, op, index, (v->arch.rflags & FLAG_DF) ? -(int64_t)size : (int64_t)size);
	if (!op->rep && !op->repne)
		return SYSOP_DONE;
	index_add(v, op, RCX, -1);
	return index_read(v, op, RCX) ? SYSOP_AGAIN : SYSOP_DONE;
}

static bool count_is_zero(const struct vcpu *v, const struct sysop *op)
{
	return (op->rep || op->repne) && !index_read(v, op, RCX);
}

static int op_ins(struct vcpu *v, const struct sysop *op)
{
	unsigned size = port_size(op);
	uint16_t port = (uint16_t)v->arch.gpr[RDX];
	uint64_t la, value;

	/* Permission comes first: a REP form that does nothing faults too. */
	if (io_permitted(v, port, size) < 0)
		return -1;
	if (count_is_zero(v, op))
		return SYSOP_DONE;
	if (segment_linear(v, SEG_ES, index_read(v, op, RDI), size, true) < 0)
		return -1;
	la = v->soft.la;
	if (mmu_probe_write(v, la, size, MMU_CPL) < 0)
		return -1;
	value = port_read(v, port, size);
	if (mmu_write(v, la, &value, size, MMU_CPL) < 0)
		return -1;
	return item_done(v, op, RDI, size);
}

static int op_outs(struct vcpu *v, const struct sysop *op)
{
	unsigned size = port_size(op);
	uint16_t port = (uint16_t)v->arch.gpr[RDX];
	uint64_t value = 0;

	/* Permission comes first: a REP form that does nothing faults too. */
	if (io_permitted(v, port, size) < 0)
		return -1;
	if (count_is_zero(v, op))
		return SYSOP_DONE;
	if (segment_linear(v, op->seg, index_read(v, op, RSI), size, false) < 0 ||
	    mmu_read(v, v->soft.la, &value, size, MMU_CPL) < 0)
		return -1;
	port_write(v, port, size, value);
	return item_done(v, op, RSI, size);
}

struct sysop_entry sysop_find_port(const ZydisDecodedInstruction *insn)
{
	switch (insn->mnemonic) {
	case ZYDIS_MNEMONIC_IN:
		return (struct sysop_entry){ op_in, 0 };
	case ZYDIS_MNEMONIC_OUT:
		return (struct sysop_entry){ op_out, 0 };
	case ZYDIS_MNEMONIC_INSB:
	case ZYDIS_MNEMONIC_INSW:
	case ZYDIS_MNEMONIC_INSD:
		return (struct sysop_entry){ op_ins, 0 };
	case ZYDIS_MNEMONIC_OUTSB:
	case ZYDIS_MNEMONIC_OUTSW:
	case ZYDIS_MNEMONIC_OUTSD:
		return (struct sysop_entry){ op_outs, 0 };
	default:
		return (struct sysop_entry){ NULL, 0 };
	}
}
