/*
 * The page walk. Called by the soft MMU on a TLB miss. Invariant: no bit of a
 * guest page table is changed unless the access is allowed, and each change is
 * an atomic compare-and-exchange against the entry that was judged.
 */
#include "cpu/paging.h"
#include "base/assert.h"
#include "cpu/excp.h"
#include "cpu/mmu.h"
#include "cpu/model.h"
#include "mem/page.h"

#define PTE_P         0x1ull
#define PTE_W         0x2ull
#define PTE_U         0x4ull
#define PTE_A         0x20ull
#define PTE_D         0x40ull
#define PTE_PS        0x80ull
#define PTE_G         0x100ull
#define PTE_PAT_LARGE 0x1000ull
#define PTE_NX        (1ull << 63)

/* One level's entry as found: where it lies, for the A/D update. */
struct entry {
	gpa_t gpa;
	void *host; /* NULL: not RAM, reads as all ones like any unclaimed address */
	uint64_t value;
};

static gpa_t a20(const struct vcpu *v, gpa_t gpa)
{
	return v->arch.a20_masked ? gpa & ~(1ull << 20) : gpa;
}

static void entry_read(struct vcpu *v, gpa_t gpa, bool wide, struct entry *e)
{
	char *page;

	e->gpa = a20(v, gpa);
	page = ram_page(v->ram, e->gpa);
	e->host = page ? page + (e->gpa & ~PAGE_MASK) : NULL;
	if (!e->host)
		e->value = wide ? ~0ull : 0xffffffffu;
	else if (wide)
		e->value = __atomic_load_n((uint64_t *)e->host, __ATOMIC_ACQUIRE);
	else
		e->value = __atomic_load_n((uint32_t *)e->host, __ATOMIC_ACQUIRE);
}

/* Sets bits in the entry if it is still what we judged. False: it changed, walk again. */
static bool entry_mark(struct vcpu *v, struct entry *e, uint64_t bits, bool wide)
{
	struct page_listener *self = mmu_listener(v);
	bool ok;

	if ((e->value & bits) == bits || !e->host)
		return true;
	if (page_write_begin(v->ram, self, e->gpa, wide ? 8 : 4))
		return true; /* tables in ROM: nothing can be marked */
	if (wide) {
		uint64_t old = e->value;

		ok = __atomic_compare_exchange_n((uint64_t *)e->host, &old, old | bits, false,
						 __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
	} else {
		uint32_t old = (uint32_t)e->value;

		ok = __atomic_compare_exchange_n((uint32_t *)e->host, &old, old | (uint32_t)bits,
						 false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
	}
	page_write_end(v->ram, self, e->gpa, wide ? 8 : 4);
	if (ok)
		e->value |= bits;
	return ok;
}

static int page_fault(struct vcpu *v, uint64_t la, unsigned access, uint32_t error)
{
	bool nx = (v->arch.efer & EFER_NXE) && (v->arch.cr4 & CR4_PAE);

	if (access & PAGING_WRITE)
		error |= PF_W;
	if (access & PAGING_USER)
		error |= PF_U;
	if ((access & PAGING_EXEC) && (nx || (v->arch.cr4 & CR4_SMEP)))
		error |= PF_I;
	return excp_pf(v, la, error);
}

/* rights: the AND of W and U over all levels, the OR of NX. */
static bool allowed(const struct vcpu *v, uint64_t rights, unsigned access)
{
	bool user_page = rights & PTE_U;

	if (access & PAGING_USER) {
		if (!user_page)
			return false;
		if ((access & PAGING_WRITE) && !(rights & PTE_W))
			return false;
	} else {
		if (user_page) {
			if ((access & PAGING_EXEC) && (v->arch.cr4 & CR4_SMEP))
				return false;
			if (!(access & PAGING_EXEC) && (access & PAGING_SMAP))
				return false;
		}
		if ((access & PAGING_WRITE) && !(rights & PTE_W) && (v->arch.cr0 & CR0_WP))
			return false;
	}
	return !((access & PAGING_EXEC) && (rights & PTE_NX));
}

static void fill_result(const struct vcpu *v, uint64_t la, unsigned access, uint64_t rights,
			uint64_t leaf, gpa_t frame, uint64_t span, struct paging_result *r)
{
	r->gpa = a20(v, frame | (la & (span - 1)));
	r->span = span;
	r->global = (leaf & PTE_G) && (v->arch.cr4 & CR4_PGE);
	r->user = rights & PTE_U;
	r->dirty_ok = leaf & PTE_D;
	r->writable = (rights & PTE_W) || (!(access & PAGING_USER) && !(v->arch.cr0 & CR0_WP));
}

/* PAE and 4-level paging: 8-byte entries. Reserved bits by SDM 3A tables 4-8 to 4-20. */
static int walk_wide(struct vcpu *v, uint64_t la, unsigned access, struct paging_result *r)
{
	uint64_t physical = ~0ull >> (64 - v->model->phys_bits);
	uint64_t nxe = v->arch.efer & EFER_NXE;
	bool four = v->arch.efer & EFER_LMA;
	uint64_t base_reserved = (0x000ffffffffff000ull & ~physical) | (nxe ? 0 : PTE_NX);
	struct entry e[4];
	uint64_t rights = PTE_W | PTE_U, table;
	int level, top;

	if (four) {
		table = v->arch.cr3 & physical & 0x000ffffffffff000ull;
		top = 3;
	} else {
		uint64_t pdpte = v->arch.pdpte[(la >> 30) & 3];

		if (!(pdpte & PTE_P))
			return page_fault(v, la, access, 0);
		table = pdpte & physical & 0x000ffffffffff000ull;
		top = 1;
		base_reserved |= 0x7ff0000000000000ull; /* bits 52..62 are reserved in PAE paging */
	}
	for (level = top;; level--) {
		unsigned shift = 12 + 9 * (unsigned)level;
		uint64_t reserved = base_reserved, pte;

		entry_read(v, table + ((la >> shift) & 511) * 8, true, &e[level]);
		pte = e[level].value;
		if (!(pte & PTE_P))
			return page_fault(v, la, access, 0);
		if (level == 3)
			reserved |= PTE_PS;
		else if (level == 2 && !cpu_has(v->model, FEAT_GBPAGES))
			reserved |= PTE_PS;
		if (level && (pte & PTE_PS))
			reserved |= ((1ull << shift) - 1) & 0x000ffffffffff000ull & ~PTE_PAT_LARGE;
		if (pte & reserved)
			return page_fault(v, la, access, PF_P | PF_RSVD);
		rights = (rights & (pte | ~(PTE_W | PTE_U))) | (pte & PTE_NX);
		if (level == 0 || (pte & PTE_PS)) {
			uint64_t span = 1ull << shift;
			uint64_t mark = PTE_A | ((access & PAGING_WRITE) ? PTE_D : 0);
			int above;

			if (!allowed(v, rights, access))
				return page_fault(v, la, access, PF_P);
			if (!(access & PAGING_PEEK)) {
				for (above = top; above > level; above--)
					if (!entry_mark(v, &e[above], PTE_A, true))
						return 1;
				if (!entry_mark(v, &e[level], mark, true))
					return 1;
			}
			fill_result(v, la, access, rights, e[level].value,
				    pte & physical & 0x000ffffffffff000ull & ~(span - 1), span, r);
			return 0;
		}
		table = pte & physical & 0x000ffffffffff000ull;
	}
}

/* 32-bit paging: 4-byte entries, 4 MiB pages with PSE-36. */
static int walk_narrow(struct vcpu *v, uint64_t la, unsigned access, struct paging_result *r)
{
	struct entry dir, leaf;
	uint64_t rights;

	la &= 0xffffffffu;
	entry_read(v, (v->arch.cr3 & 0xfffff000u) + (la >> 22) * 4, false, &dir);
	if (!(dir.value & PTE_P))
		return page_fault(v, la, access, 0);
	rights = dir.value & (PTE_W | PTE_U);
	if ((dir.value & PTE_PS) && (v->arch.cr4 & CR4_PSE)) {
		gpa_t frame = (dir.value & 0xffc00000u) | ((dir.value >> 13) & 0xff) << 32;

		if ((dir.value & (1u << 21)) || (frame >> v->model->phys_bits))
			return page_fault(v, la, access, PF_P | PF_RSVD);
		if (!allowed(v, rights, access))
			return page_fault(v, la, access, PF_P);
		if (!(access & PAGING_PEEK) &&
		    !entry_mark(v, &dir, PTE_A | ((access & PAGING_WRITE) ? PTE_D : 0), false))
			return 1;
		fill_result(v, la, access, rights, dir.value, frame, 4u << 20, r);
		return 0;
	}
	entry_read(v, (dir.value & 0xfffff000u) + ((la >> 12) & 1023) * 4, false, &leaf);
	if (!(leaf.value & PTE_P))
		return page_fault(v, la, access, 0);
	rights &= leaf.value;
	if (!allowed(v, rights, access))
		return page_fault(v, la, access, PF_P);
	if (!(access & PAGING_PEEK)) {
		if (!entry_mark(v, &dir, PTE_A, false) ||
		    !entry_mark(v, &leaf, PTE_A | ((access & PAGING_WRITE) ? PTE_D : 0), false))
			return 1;
	}
	fill_result(v, la, access, rights, leaf.value, leaf.value & 0xfffff000u, 4096, r);
	return 0;
}

int paging_walk(struct vcpu *v, uint64_t la, unsigned access, struct paging_result *r)
{
	int status;

	if (!(v->arch.cr0 & CR0_PG)) {
		*r = (struct paging_result){ .gpa = a20(v, la & 0xffffffffu),
					     .user = true,
					     .dirty_ok = true,
					     .writable = true };
		return 0;
	}
	/*
	 * Another vcpu may change an entry between our read and our mark: then the
	 * walk is judged again. It cannot go on for ever, because each round needs
	 * a fresh store by somebody else.
	 */
	do {
		if (v->arch.cr4 & CR4_PAE)
			status = walk_wide(v, la, access, r);
		else
			status = walk_narrow(v, la, access, r);
	} while (status > 0);
	return status;
}
