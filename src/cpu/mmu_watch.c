/* Data and I/O breakpoints (SDM 3B, 18.2): pages they lie on have no entry in a soft TLB. */
#include "base/bytes.h"
#include "cpu/mmu_priv.h"

/* The widest span a data breakpoint covers, by DR7.LEN. */
void mmu_watch_update(struct vcpu *v)
{
	static const uint8_t lengths[4] = { 1, 2, 8, 4 };
	struct soft_mmu *mmu = v->soft.mmu;
	uint64_t now[5] = { v->arch.dr[0], v->arch.dr[1], v->arch.dr[2], v->arch.dr[3],
			    v->arch.dr[7] };
	bool watching = false;
	unsigned n;

	for (n = 0; n < 4; n++) {
		unsigned kind = now[4] >> (16 + 4 * n) & 3,
			 len = lengths[now[4] >> (18 + 4 * n) & 3];

		mmu->watch[n] = (struct watch){ 1, 0, false };
		if (!(now[4] >> (2 * n) & 3) || (kind != 1 && kind != 3))
			continue;
		mmu->watch[n].first = now[n] & ~(uint64_t)(len - 1);
		mmu->watch[n].last = mmu->watch[n].first + len - 1;
		mmu->watch[n].on_read = kind == 3;
		watching = true;
	}
	bytes_copy(mmu->watched_dr, now, sizeof(now));
	if (watching || mmu->watching)
		for (n = 0; n < CONTEXTS; n++)
			mmu_context_flush(mmu, &mmu->contexts[n], false);
	mmu->watching = watching;
}

void mmu_watch_port(struct vcpu *v, uint16_t port, unsigned size)
{
	static const uint8_t lengths[4] = { 1, 2, 8, 4 };
	uint64_t dr7 = v->arch.dr[7];
	unsigned n;

	if (likely(!(dr7 & 0xff)) || !(v->arch.cr4 & CR4_DE))
		return;
	for (n = 0; n < 4; n++) {
		unsigned len = lengths[dr7 >> (18 + 4 * n) & 3];
		uint64_t first = v->arch.dr[n] & ~(uint64_t)(len - 1);

		if ((dr7 >> (2 * n) & 3) && (dr7 >> (16 + 4 * n) & 3) == 2 && first < port + size &&
		    port < first + len)
			v->soft.mmu->watch_hits |= 1ull << n;
	}
}

uint64_t mmu_take_watch_hits(struct vcpu *v)
{
	struct soft_mmu *mmu = v->soft.mmu;
	uint64_t hits = mmu->watch_hits;

	mmu->watch_hits = 0;
	return hits;
}
