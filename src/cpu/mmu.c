/*
 * The soft MMU: every guest memory access that is not an inline TLB hit, and
 * the filling of the TLB on the way. What a context and a view are, and the
 * invariant of an entry, say mmu_priv.h.
 */
#include "base/assert.h"
#include "base/bytes.h"
#include "bus/bus.h"
#include "cpu/excp.h"
#include "cpu/exclusive.h"
#include "cpu/fpstate.h"
#include "cpu/lapic.h"
#include "cpu/mmu_priv.h"
#include "mem/page.h"

struct mmu_counts mmu_counts(const struct vcpu *v)
{
	return v->soft.mmu->counts;
}

struct page_listener *mmu_listener(struct vcpu *v)
{
	return v->soft.mmu ? v->soft.mmu->listener : NULL;
}

static int canonical_fault(struct vcpu *v)
{
	return excp_gp(v, 0);
}

/* One page's part of an access: translate, and fill the TLB if a plain access will do next time. */
static int piece_resolve(struct vcpu *v, enum view view, uint64_t la, unsigned len, bool write,
			 struct piece *p)
{
	struct soft_mmu *mmu = v->soft.mmu;
	struct context *c = mmu->current;
	struct tables *t = mmu_tables(c, view);
	unsigned slot = (la >> PAGE_SHIFT) & (TLB_SIZE - 1);
	struct tlb_entry *e = write ? &t->write[slot] : &t->read[slot];
	uint64_t *global = write ? t->write_global : t->read_global;
	uint64_t page = la & PAGE_MASK;
	struct paging_result r;
	uint8_t *host;

	p->la = la;
	p->len = len;
	p->guarded = false;
	if (e->tag == page) {
		p->host = (uint8_t *)(la + e->addend);
		p->gpa = 0;
		return 0;
	}
	if (vcpu_long_mode(v) && !address_canonical(la))
		return canonical_fault(v);
	if (walk_cached(&mmu->walks, &mmu->counts.walks, c->epoch, v, la,
			view_access(view) | (write ? PAGING_WRITE : 0), &r))
		return -1;
	p->gpa = r.gpa;
	host = ram_page(v->ram, r.gpa);
	if (!host) {
		p->host = NULL;
		return 0;
	}
	p->host = host + (la & ~PAGE_MASK);
	if (r.span > PAGE_SIZE) {
		uint64_t first = la & ~(r.span - 1);

		if (first < c->large_first)
			c->large_first = first;
		if (first + r.span - 1 > c->large_last)
			c->large_last = first + r.span - 1;
	}
	if (r.global && (int64_t)la >= 0)
		c->global_user = true;
	if (unlikely(v->soft.check_store) && write)
		v->soft.check_store(v, host, e);
	if (mmu->watching && page_watched(mmu, la)) {
		p->guarded = write;
		return 0;
	}
	if (!write || page_grant_write(v->ram, mmu->listener, r.gpa >> PAGE_SHIFT)) {
		c->filled[view] = true;
		mmu->counts.fills++;
		e->tag = page;
		e->addend = (uint64_t)(uintptr_t)host - page;
		if (r.global)
			global[slot / 64] |= 1ull << (slot % 64);
		else
			global[slot / 64] &= ~(1ull << (slot % 64));
	} else {
		p->guarded = true;
	}
	return 0;
}

bool mmu_fill(struct vcpu *v, uint64_t la, unsigned access)
{
	unsigned size = access & 0xffff;
	bool write = access & MMU_FILL_WRITE;
	const struct tlb_entry *table = write ? v->soft.tlb_write : v->soft.tlb_read;
	struct piece p;

	if (v->soft.mmu->check_alignment || (la & ~PAGE_MASK) + size > PAGE_SIZE)
		return false;
	if (piece_resolve(v, data_view(v), la, size, write, &p))
		return false;
	return table[(la >> PAGE_SHIFT) & (TLB_SIZE - 1)].tag == (la & PAGE_MASK);
}

static bool is_lapic(const struct vcpu *v, gpa_t gpa)
{
	return (v->arch.lapic.base_msr & (APIC_BASE_ENABLE | APIC_BASE_X2APIC)) ==
		       APIC_BASE_ENABLE &&
	       (gpa & PAGE_MASK) == (v->arch.lapic.base_msr & 0xffffff000ull);
}

/* Device memory. The guest's vector registers leave the host's while foreign code runs. */
static uint64_t mmio_read(struct vcpu *v, gpa_t gpa, unsigned size)
{
	bool live = v->fp_live;
	uint64_t value;

	if (unlikely(v->soft.in_check))
		v->soft.check_store(v, NULL, NULL);
	if (is_lapic(v, gpa) && size <= 4)
		return lapic_mmio_read(v, gpa & 0xfff, size);
	vcpu_fp_park(v);
	value = bus_read(v->mmio, gpa, size);
	if (live)
		vcpu_fp_load(v);
	return value;
}

static void mmio_write(struct vcpu *v, gpa_t gpa, unsigned size, uint64_t value)
{
	bool live = v->fp_live;

	if (unlikely(v->soft.in_check))
		v->soft.check_store(v, NULL, NULL);
	if (is_lapic(v, gpa) && size <= 4) {
		lapic_mmio_write(v, gpa & 0xfff, size, (uint32_t)value);
		return;
	}
	vcpu_fp_park(v);
	bus_write(v->mmio, gpa, size, value);
	if (live)
		vcpu_fp_load(v);
}

/* The largest naturally sized step a device access of `len` bytes at gpa may take. */
static unsigned mmio_step(gpa_t gpa, unsigned len)
{
	unsigned step = len >= 8 ? 8 : len >= 4 ? 4 : len >= 2 ? 2 : 1;

	while ((gpa & (step - 1)) && step > 4)
		step >>= 1;
	return step;
}

static void piece_load(struct vcpu *v, const struct piece *p, uint8_t *bytes)
{
	unsigned done = 0;

	if (v->soft.mmu->watching)
		watch_check(v->soft.mmu, p->la, p->len, false);
	if (p->host) {
		switch (p->len) {
		case 1:
			*bytes = *(const volatile uint8_t *)p->host;
			return;
		case 2:
			*(uint16_t *)bytes = *(const volatile uint16_t *)p->host;
			return;
		case 4:
			*(uint32_t *)bytes = *(const volatile uint32_t *)p->host;
			return;
		case 8:
			*(uint64_t *)bytes = *(const volatile uint64_t *)p->host;
			return;
		default:
			bytes_copy(bytes, p->host, p->len);
			return;
		}
	}
	while (done < p->len) {
		unsigned step = mmio_step(p->gpa + done, p->len - done);
		uint64_t value = mmio_read(v, p->gpa + done, step);

		bytes_copy(bytes + done, &value, step);
		done += step;
	}
}

static void piece_store(struct vcpu *v, const struct piece *p, const uint8_t *bytes)
{
	unsigned done = 0;

	if (v->soft.mmu->watching)
		watch_check(v->soft.mmu, p->la, p->len, true);
	if (p->host) {
		if (p->guarded && page_write_begin(v->ram, v->soft.mmu->listener, p->gpa, p->len))
			return;
		switch (p->len) {
		case 1:
			*(volatile uint8_t *)p->host = *bytes;
			break;
		case 2:
			*(volatile uint16_t *)p->host = *(const uint16_t *)bytes;
			break;
		case 4:
			*(volatile uint32_t *)p->host = *(const uint32_t *)bytes;
			break;
		case 8:
			*(volatile uint64_t *)p->host = *(const uint64_t *)bytes;
			break;
		default:
			bytes_copy(p->host, bytes, p->len);
		}
		if (p->guarded)
			page_write_end(v->ram, v->soft.mmu->listener, p->gpa, p->len);
		return;
	}
	while (done < p->len) {
		unsigned step = mmio_step(p->gpa + done, p->len - done);
		uint64_t value = 0;

		bytes_copy(&value, bytes + done, step);
		mmio_write(v, p->gpa + done, step, value);
		done += step;
	}
}

/* Splits [la, la+len) at page ends; len is at most one page, so two pieces do. Judges all before
 * any is touched. */
static int resolve(struct vcpu *v, uint64_t la, unsigned len, bool write, enum mmu_how how,
		   struct piece p[2], unsigned *count)
{
	enum view view = view_for(v, how);
	unsigned room = (unsigned)(PAGE_SIZE - (la & ~PAGE_MASK));
	uint64_t second;

	if (!vcpu_code64(v) && !vcpu_long_mode(v))
		la &= 0xffffffffu;
	if (unlikely(
		    v->soft.mmu->check_alignment && how == MMU_CPL &&
		    (len == 10 ? la & 7 : (len & (len - 1)) == 0 && len <= 8 && (la & (len - 1))) &&
		    (!vcpu_long_mode(v) || address_canonical(la))))
		return excp_raise_error(v, VEC_AC, 0);
	*count = len > room ? 2 : 1;
	/* The canonical form of the whole operand is judged before its first page is. */
	if (unlikely(*count == 2 && vcpu_long_mode(v) && !address_canonical(la + len - 1)))
		return canonical_fault(v);
	if (piece_resolve(v, view, la, *count == 2 ? room : len, write, &p[0]))
		return -1;
	if (*count == 1)
		return 0;
	second = la + room;
	if (!vcpu_long_mode(v))
		second &= 0xffffffffu;
	return piece_resolve(v, view, second, len - room, write, &p[1]);
}

int mmu_read(struct vcpu *v, uint64_t la, void *bytes, unsigned len, enum mmu_how how)
{
	struct piece p[2];
	unsigned count, n;
	uint8_t *out = bytes;

	if (unlikely(resolve(v, la, len, false, how, p, &count)))
		return -1;
	for (n = 0; n < count; n++) {
		piece_load(v, &p[n], out);
		out += p[n].len;
	}
	return 0;
}

int mmu_write(struct vcpu *v, uint64_t la, const void *bytes, unsigned len, enum mmu_how how)
{
	struct piece p[2];
	unsigned count, n;
	const uint8_t *in = bytes;

	if (unlikely(resolve(v, la, len, true, how, p, &count)))
		return -1;
	for (n = 0; n < count; n++) {
		piece_store(v, &p[n], in);
		in += p[n].len;
	}
	return 0;
}

int mmu_probe_write(struct vcpu *v, uint64_t la, unsigned len, enum mmu_how how)
{
	struct piece p[2];
	unsigned count;

	return resolve(v, la, len, true, how, p, &count);
}

int mmu_probe_read(struct vcpu *v, uint64_t la, unsigned len, enum mmu_how how)
{
	struct piece p[2];
	unsigned count;

	return resolve(v, la, len, false, how, p, &count);
}

void *mmu_write_span(struct vcpu *v, uint64_t la, unsigned len)
{
	struct piece p[2];
	unsigned count;

	if (resolve(v, la, len, true, MMU_CPL, p, &count) || count != 1 || p[0].guarded ||
	    v->soft.mmu->watching)
		return NULL;
	return p[0].host;
}

void *mmu_lock(struct vcpu *v, uint64_t la, unsigned len)
{
	struct soft_mmu *mmu = v->soft.mmu;
	struct locked *l = &mmu->locked;
	unsigned n, done = 0;

	/* Before the look at the page tables: while we wait here others may change them. */
	l->exclusive = (la & 63) + len > 64;
	if (l->exclusive)
		exclusive_begin(v);
	if (resolve(v, la, len, true, MMU_CPL, l->piece, &l->count)) {
		if (l->exclusive)
			exclusive_end(v);
		return NULL;
	}
	l->guarded = l->piece[0].guarded;
	if (!l->exclusive && l->piece[0].host &&
	    (!l->guarded || !page_write_begin(v->ram, mmu->listener, l->piece[0].gpa, len))) {
		if (mmu->watching)
			watch_check(mmu, la, len, true);
		l->count = 0;
		return l->piece[0].host;
	}
	/* Devices, ROM, split operands: piece_store() deals with each. */
	for (n = 0; n < l->count; n++) {
		piece_load(v, &l->piece[n], l->copy + done);
		done += l->piece[n].len;
	}
	return l->copy;
}

void mmu_unlock(struct vcpu *v)
{
	struct locked *l = &v->soft.mmu->locked;
	unsigned n, done = 0;

	if (!l->count) {
		if (l->guarded)
			page_write_end(v->ram, v->soft.mmu->listener, l->piece[0].gpa,
				       l->piece[0].len);
		return;
	}
	for (n = 0; n < l->count; n++) {
		piece_store(v, &l->piece[n], l->copy + done);
		done += l->piece[n].len;
	}
	if (l->exclusive)
		exclusive_end(v);
}

int mmu_fetch(struct vcpu *v, uint64_t la, gpa_t *gpa, const uint8_t **host)
{
	struct soft_mmu *mmu = v->soft.mmu;
	struct context *c = mmu->current;
	bool user = v->arch.cpl == 3;
	struct fetch_entry *f =
		&c->fetch[((la >> PAGE_SHIFT) ^ (user ? 128 : 0)) & (FETCH_SIZE - 1)];
	uint64_t tag = (la & PAGE_MASK) | (user ? 2 : 0);
	struct paging_result r;

	if (!vcpu_code64(v))
		la &= 0xffffffffu, tag &= 0xffffffffu;
	if (likely(f->tag == tag)) {
		*gpa = f->gpa | (la & ~PAGE_MASK);
		*host = f->host ? f->host + (la & ~PAGE_MASK) : NULL;
		v->soft.fetch_global = f->global;
		return 0;
	}
	if (vcpu_code64(v) && !address_canonical(la))
		return excp_gp(v, 0);
	mmu->counts.fetch_walks++;
	if (paging_walk(v, la, PAGING_EXEC | (user ? PAGING_USER : 0), &r))
		return -1;
	if (r.span > PAGE_SIZE) {
		uint64_t first = la & ~(r.span - 1);

		if (first < c->large_first)
			c->large_first = first;
		if (first + r.span - 1 > c->large_last)
			c->large_last = first + r.span - 1;
		if (r.global && first < mmu->large_code_first)
			mmu->large_code_first = first;
		if (r.global && first + r.span - 1 > mmu->large_code_last)
			mmu->large_code_last = first + r.span - 1;
	}
	if (r.global && (int64_t)la >= 0)
		c->global_user = true;
	bloom_add(r.global ? &mmu->code_pages : &c->code_pages, la);
	f->global = r.global;
	v->soft.fetch_global = r.global;
	f->tag = tag;
	f->gpa = r.gpa & PAGE_MASK;
	f->host = ram_page(v->ram, r.gpa);
	*gpa = r.gpa;
	*host = f->host ? f->host + (la & ~PAGE_MASK) : NULL;
	return 0;
}

int mmu_phys_read(struct vcpu *v, gpa_t gpa, void *bytes, unsigned len)
{
	uint8_t *out = bytes;

	if (!ram_contains(v->ram, gpa, len))
		return -1;
	while (len) {
		unsigned step = (unsigned)(PAGE_SIZE - (gpa & ~PAGE_MASK));

		if (step > len)
			step = len;
		bytes_copy(out, (uint8_t *)ram_page(v->ram, gpa) + (gpa & ~PAGE_MASK), step);
		gpa += step;
		out += step;
		len -= step;
	}
	return 0;
}

int mmu_phys_write(struct vcpu *v, gpa_t gpa, const void *bytes, unsigned len)
{
	const uint8_t *in = bytes;

	if (!ram_contains(v->ram, gpa, len))
		return -1;
	while (len) {
		unsigned step = (unsigned)(PAGE_SIZE - (gpa & ~PAGE_MASK));

		if (step > len)
			step = len;
		/* No grant stands behind this store: it is told, whatever the page was a moment
		 * ago. */
		if (!page_write_begin(v->ram, mmu_listener(v), gpa, step)) {
			bytes_copy((uint8_t *)ram_page(v->ram, gpa) + (gpa & ~PAGE_MASK), in, step);
			page_write_end(v->ram, mmu_listener(v), gpa, step);
		}
		gpa += step;
		in += step;
		len -= step;
	}
	return 0;
}
