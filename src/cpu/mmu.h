/*
 * Guest linear memory for software engines: the soft TLB, the page walk's
 * fast twin, and checked accesses for everything that is not a hot path.
 *
 * All calls run on the vcpu's thread. -1 means a fault is in v->fault and
 * nothing was read or written (a store that crosses a page checks both pages
 * first). RAM, ROM and MMIO are told apart here; MMIO goes to v->mmio.
 */
#ifndef INSULA_CPU_MMU_H
#define INSULA_CPU_MMU_H

#include "base/assert.h"
#include "cpu/vcpu.h"
#include "mem/ram.h"

enum mmu_how {
	MMU_CPL = 0,    /* an explicit access at the current privilege */
	MMU_SYSTEM = 1, /* an implicit supervisor access: GDT, IDT, TSS, stack of an inner level
			   (SMAP ignores AC) */
	MMU_USER = 2,   /* as if at CPL 3 */
};

int mmu_read(struct vcpu *v, uint64_t la, void *bytes, unsigned len, enum mmu_how how);
int mmu_write(struct vcpu *v, uint64_t la, const void *bytes, unsigned len, enum mmu_how how);
/* Would a write of len bytes at la fault? Sets A and D as the write itself would. */
int mmu_probe_write(struct vcpu *v, uint64_t la, unsigned len, enum mmu_how how);
int mmu_probe_read(struct vcpu *v, uint64_t la, unsigned len, enum mmu_how how);

static inline int mmu_read16(struct vcpu *v, uint64_t la, uint16_t *x, enum mmu_how how)
{
	return mmu_read(v, la, x, 2, how);
}
static inline int mmu_read32(struct vcpu *v, uint64_t la, uint32_t *x, enum mmu_how how)
{
	return mmu_read(v, la, x, 4, how);
}
static inline int mmu_read64(struct vcpu *v, uint64_t la, uint64_t *x, enum mmu_how how)
{
	return mmu_read(v, la, x, 8, how);
}
static inline int mmu_write16(struct vcpu *v, uint64_t la, uint16_t x, enum mmu_how how)
{
	return mmu_write(v, la, &x, 2, how);
}
static inline int mmu_write32(struct vcpu *v, uint64_t la, uint32_t x, enum mmu_how how)
{
	return mmu_write(v, la, &x, 4, how);
}
static inline int mmu_write64(struct vcpu *v, uint64_t la, uint64_t x, enum mmu_how how)
{
	return mmu_write(v, la, &x, 8, how);
}

/*
 * Host pointer for [la, la+len) if it hits one of soft's tables whole, else
 * NULL and the call above does it. For the few accesses of interrupts and
 * their returns that are worth a look ahead of the call.
 */
static inline void *mmu_hit(const struct tlb_entry *table, uint64_t la, unsigned len)
{
	const struct tlb_entry *e = &table[(la >> PAGE_SHIFT) & (TLB_SIZE - 1)];

	return likely(e->tag == ((la + len - 1) & PAGE_MASK)) ? (void *)(la + e->addend) : NULL;
}

static inline int mmu_read_system64(struct vcpu *v, uint64_t la, uint64_t *x)
{
	const volatile uint64_t *host = mmu_hit(v->soft.system_read, la, 8);

	if (unlikely(!host))
		return mmu_read(v, la, x, 8, MMU_SYSTEM);
	*x = *host;
	return 0;
}

/* Guest-physical accesses by the CPU itself (PDPTE loads, kvm-clock pages): RAM only, page
 * authority respected. */
int mmu_phys_read(struct vcpu *v, gpa_t gpa, void *bytes, unsigned len);
int mmu_phys_write(struct vcpu *v, gpa_t gpa, const void *bytes, unsigned len);

/*
 * Instruction fetch: guest-physical address of the byte at la, with execute
 * permission checked at the current privilege. *host points to that byte if
 * the page is RAM or ROM, else it is NULL (code in MMIO space: the engine reads it byte by byte).
 */
int mmu_fetch(struct vcpu *v, uint64_t la, gpa_t *gpa, const uint8_t **host);

/*
 * Host pointer for [la, la+len) if it lies in one page of plain writable RAM
 * at the current privilege, else NULL (v->fault may then be set or not: the
 * caller goes on by mmu_write, which tells). For locked and bulk operations.
 */
void *mmu_write_span(struct vcpu *v, uint64_t la, unsigned len);

/*
 * A locked read-modify-write of len bytes (at most 16) at la, at the current
 * privilege, of any kind of memory and any alignment: host pointer on which the
 * caller executes the host's locked instruction of that size, at once, and then
 * calls mmu_unlock(). The instruction always counts as a write. NULL: a fault
 * in v->fault, nothing to unlock. Operands that split a cache line get a copy
 * while all other vcpus stand still: hosts may punish a process for a split
 * lock (split lock detection), and a guest must not choose that.
 */
void *mmu_lock(struct vcpu *v, uint64_t la, unsigned len);
void mmu_unlock(struct vcpu *v);

/* The listener on whose behalf this vcpu's stores are made. */
struct page_listener *mmu_listener(struct vcpu *v);

/*
 * Fills the TLB for an access of `access & 0xffff` bytes at la at the current
 * privilege. False: it would fault, or is not for the fast path (devices, page
 * borders, pages with a reason against plain stores); v->fault is then void.
 */
#define MMU_FILL_WRITE (1u << 16)
bool mmu_fill(struct vcpu *v, uint64_t la, unsigned access);

/*
 * From now on the host's GS base is v->soft.tlb_read, and tlb_write lies
 * MMU_WRITE_TABLE behind it, whatever the mode. At the start of every run on a
 * thread; only if the host allows WRGSBASE.
 */
#define MMU_WRITE_TABLE (TLB_SIZE * sizeof(struct tlb_entry))
void mmu_use_gs(struct vcpu *v);

struct mmu_counts {
	uint64_t fills, walks; /* of the soft TLB; page walks where the second level knew nothing */
	uint64_t fetch_walks;
	uint64_t flushes;       /* of a context */
	uint64_t invalidations; /* of a page */
};
struct mmu_counts mmu_counts(const struct vcpu *v);

/* Soft state for a software engine: allocated by its vcpu_open. */
struct page_listener;
struct soft_mmu *mmu_new(struct page_listener *listener);
void mmu_free(struct soft_mmu *mmu);
/* Write grants for a page are withdrawn: drop write entries for it in every context. Owner thread.
 */
void mmu_revoke_write(struct vcpu *v, gfn_t gfn);

/* Data breakpoints: DR6 bits that accesses since the last call have hit. */
uint64_t mmu_take_watch_hits(struct vcpu *v);
/* I/O breakpoints (CR4.DE): an access to [port, port+size) is being made. */
void mmu_watch_port(struct vcpu *v, uint16_t port, unsigned size);

/* Invalidations, called by cpu/control.c and the instructions of the same names. */
void mmu_flush_all(struct vcpu *v);           /* globals included */
void mmu_flush_nonglobal(struct vcpu *v);     /* current address space; globals stay */
void mmu_invlpg(struct vcpu *v, uint64_t la); /* globals included, all PCIDs for globals */
void mmu_invpcid_address(struct vcpu *v, unsigned pcid, uint64_t la);
void mmu_flush_pcid(struct vcpu *v, unsigned pcid); /* non-global entries of one PCID */
/* CR3 was loaded: pcid is 0 without CR4.PCIDE; keep: bit 63 of the source was set. */
void mmu_switch(struct vcpu *v, unsigned pcid, bool keep);
/* Recompute everything derived from CR0, CR4, EFER, CPL, AC, CS, SS: call after any of them
 * changes. Cheap. */
void vcpu_mode_changed(struct vcpu *v);

#endif
