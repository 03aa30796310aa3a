/*
 * Slow paths of memory operands: what a handler calls when its inline TLB
 * check misses, and the address computation of segmented modes.
 */
#include "cpu/mode.h"
#include "cpu/segment.h"
#include "engine/interpret/insn.h"

int insn_linear(struct vcpu *v, const struct insn *i, unsigned size, bool write)
{
	uint64_t ea = insn_ea64(v, i);

	if (i->width != 8)
		ea &= i->width == 4 ? 0xffffffffu : 0xffffu;
	if (v->soft.mode & MODE_CODE64) {
		v->soft.la =
			ea + (i->seg == SEG_FS || i->seg == SEG_GS ? v->arch.seg[i->seg].base : 0);
		return 0;
	}
	if ((v->soft.flat >> i->seg & 1) && ea + size - 1 <= 0xffffffffu) {
		v->soft.la = ea;
		return 0;
	}
	return segment_linear(v, i->seg, ea, size, write);
}

int mem_load_slow(struct vcpu *v, uint64_t la, unsigned size)
{
	v->soft.value = 0;
	return mmu_read(v, la, &v->soft.value, size, MMU_CPL);
}

int mem_store_slow(struct vcpu *v, uint64_t la, unsigned size)
{
	return mmu_write(v, la, &v->soft.value, size, MMU_CPL);
}

int mem_rmw_slow(struct vcpu *v, uint64_t la, unsigned size)
{
	if (mmu_probe_write(v, la, size, MMU_CPL))
		return -1;
	return mem_load_slow(v, la, size);
}

int mem_load_bounce(struct vcpu *v, uint64_t la, unsigned size)
{
	return mmu_read(v, la, v->soft.bounce, size, MMU_CPL);
}

int mem_store_bounce(struct vcpu *v, uint64_t la, unsigned size)
{
	return mmu_write(v, la, v->soft.bounce, size, MMU_CPL);
}
