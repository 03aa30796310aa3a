/*
 * The page authority. Asked by engines at TLB fills and on stores that have no
 * grant, by mem/dma.c around every device store. Invariant: while a page has
 * the CODE reason no new write grant is given, and whoever stores to a granule
 * with code tells every holder.
 *
 * Locking: a page's lock orders changes of its reasons, granules and holders;
 * all three are read without it. Callbacks run with no page lock held, under
 * the listeners' read side.
 *
 * Writers without a grant and decoders meet as in Dekker's algorithm: the
 * decoder publishes holder, granule and CODE, in this order, and then reads the
 * bytes; the writer stores and then reads CODE, granules and holders. Each has a
 * full barrier in between, so at least one of them sees the other.
 *
 * Writers with a grant look at nothing. They set their bit in `granted` and
 * then look at CODE once; the decoder sets CODE and then looks at `granted`. A
 * bit found there is a writer that may store unheard until it has dropped the
 * grant; only then is what the decoder reads worth keeping.
 */
#include "mem/ram_priv.h"

#include "base/assert.h"
#include "base/bytes.h"

#include <errno.h>

#define LISTENERS_WRITER 0x80000000u
/* Listeners beyond 63 share the last bit; it is dropped only by their removal. */
#define HOLDER_SHARED    (1ull << 63)
#define BLOCKED_BYTES    (0x0101010101010101ull * (PAGE_ROM | PAGE_CODE | PAGE_DIRTY_LOG))

static void listeners_read_lock(struct ram *ram)
{
	unsigned turn = 0;

	while (atomic_fetch_add(&ram->listeners_lock, 1) & LISTENERS_WRITER) {
		atomic_fetch_sub(&ram->listeners_lock, 1);
		while (atomic_load(&ram->listeners_lock) & LISTENERS_WRITER)
			spin_relax(turn++);
	}
}

static void listeners_read_unlock(struct ram *ram)
{
	atomic_fetch_sub(&ram->listeners_lock, 1);
}

static void listeners_write_lock(struct ram *ram)
{
	unsigned turn = 0;

	while (atomic_fetch_or(&ram->listeners_lock, LISTENERS_WRITER) & LISTENERS_WRITER)
		spin_relax(turn++);
	while (atomic_load(&ram->listeners_lock) != LISTENERS_WRITER)
		spin_relax(turn++);
}

static void listeners_write_unlock(struct ram *ram)
{
	atomic_fetch_and(&ram->listeners_lock, ~LISTENERS_WRITER);
}

static struct spin *lock_page(struct ram *ram, uint64_t index)
{
	struct spin *spin = &ram->locks[index % PAGE_LOCKS].spin;

	spin_lock(spin);
	return spin;
}

/* Index of a page in the authority's arrays, RAM_NOWHERE if it is neither RAM nor ROM. */
static uint64_t page_index(const struct ram *ram, gfn_t gfn)
{
	uint64_t offset;

	if (gfn >> (64 - PAGE_SHIFT))
		return RAM_NOWHERE;
	offset = ram_offset(ram, gfn << PAGE_SHIFT, PAGE_SIZE, true);
	return offset == RAM_NOWHERE ? RAM_NOWHERE : offset >> PAGE_SHIFT;
}

static void drop_holder(struct ram *ram, uint64_t index, uint64_t holder)
{
	struct spin *spin = lock_page(ram, index);

	if ((atomic_fetch_and(&ram->holders[index], ~holder) & ~holder) == 0) {
		atomic_fetch_and(&ram->reasons[index], (uint8_t)~PAGE_CODE);
		atomic_store(&ram->granules[index], 0);
	}
	spin_unlock(spin);
}

void page_listener_add(struct ram *ram, struct page_listener *listener)
{
	uint64_t vacant;

	listeners_write_lock(ram);
	vacant = ~ram->holders_taken & ~HOLDER_SHARED;
	listener->holder = vacant ? vacant & -vacant : HOLDER_SHARED;
	ram->holders_taken |= listener->holder;
	listener->next = ram->listeners;
	ram->listeners = listener;
	listeners_write_unlock(ram);
}

void page_listener_remove(struct ram *ram, struct page_listener *listener)
{
	uint64_t pages = ram->file_bytes >> PAGE_SHIFT;
	struct page_listener **link;
	bool shared = false;

	listeners_write_lock(ram);
	for (link = &ram->listeners; *link && *link != listener; link = &(*link)->next)
		;
	if (*link)
		*link = listener->next;
	for (struct page_listener *l = ram->listeners; l; l = l->next)
		shared |= l->holder == listener->holder;
	if (!shared) {
		for (uint64_t i = 0; i < pages; i++)
			if (atomic_load_explicit(&ram->reasons[i], memory_order_relaxed) &
			    PAGE_CODE)
				drop_holder(ram, i, listener->holder);
		page_write_dropped_all(ram, listener);
		ram->holders_taken &= ~listener->holder;
	}
	listeners_write_unlock(ram);
}

unsigned page_reasons(struct ram *ram, gfn_t gfn)
{
	uint64_t index = page_index(ram, gfn);

	if (index == RAM_NOWHERE)
		return PAGE_ABSENT;
	return atomic_load_explicit(&ram->reasons[index], memory_order_acquire);
}

bool page_grant_write(struct ram *ram, struct page_listener *self, gfn_t gfn)
{
	uint64_t index = page_index(ram, gfn);
	uint8_t seen;

	if (index == RAM_NOWHERE)
		return false;
	seen = atomic_load_explicit(&ram->reasons[index], memory_order_acquire);
	if (unlikely(seen & PAGE_DIRTY_LOG)) {
		dirty_mark(ram, index);
		seen = atomic_load(&ram->reasons[index]);
	}
	if (seen)
		return false;
	/*
	 * Still ours from before: whoever adds a reason from now on finds the bit,
	 * and whoever added one in between has queued the news for us.
	 */
	if (atomic_load_explicit(&ram->granted[index], memory_order_relaxed) & self->holder)
		return true;
	atomic_fetch_or(&ram->granted[index], self->holder);
	if (!atomic_load(&ram->reasons[index]))
		return true;
	page_write_dropped(ram, self, gfn);
	return false;
}

void page_write_dropped(struct ram *ram, struct page_listener *self, gfn_t gfn)
{
	uint64_t index = page_index(ram, gfn);

	/* A shared bit may stand for the grant of another: it stays, and with it doubt. */
	if (index != RAM_NOWHERE && self->holder != HOLDER_SHARED)
		atomic_fetch_and(&ram->granted[index], ~self->holder);
}

void page_write_dropped_all(struct ram *ram, struct page_listener *self)
{
	uint64_t pages = ram->file_bytes >> PAGE_SHIFT;

	if (self->holder == HOLDER_SHARED)
		return;
	for (uint64_t i = 0; i < pages; i++)
		if (atomic_load_explicit(&ram->granted[i], memory_order_relaxed) & self->holder)
			atomic_fetch_and(&ram->granted[i], ~self->holder);
}

/* Withdraws the page's grants if CODE is `fresh`. True: none of them can be used any more. */
static bool settle(struct ram *ram, struct page_listener *self, gfn_t gfn, uint64_t granted,
		   bool fresh)
{
	bool settled = true;

	listeners_read_lock(ram);
	for (struct page_listener *l = ram->listeners; l; l = l->next) {
		if (!(granted & l->holder))
			continue;
		/* Our own at once, whoever made the page one of code: our next store is ours. */
		if (l->revoke_write && (fresh || l == self))
			l->revoke_write(l, self, gfn);
		if (l != self && !(l->quiet && l->quiet(l)))
			settled = false;
	}
	listeners_read_unlock(ram);
	return settled;
}

bool page_add_code(struct ram *ram, struct page_listener *self, gfn_t gfn, uint64_t granules)
{
	uint64_t index = page_index(ram, gfn), granted;
	bool fresh = false;
	uint8_t seen;

	if (index == RAM_NOWHERE || !granules)
		return true;
	seen = atomic_load_explicit(&ram->reasons[index], memory_order_acquire);
	if (seen & PAGE_ROM)
		return true;
	/*
	 * If all was published before, by a locked instruction that everybody has
	 * seen, no barrier is needed.
	 */
	if (!(seen & PAGE_CODE) || (atomic_load(&ram->granules[index]) & granules) != granules ||
	    !(atomic_load(&ram->holders[index]) & self->holder)) {
		struct spin *spin = lock_page(ram, index);

		atomic_fetch_or(&ram->holders[index], self->holder);
		atomic_fetch_or(&ram->granules[index], granules);
		fresh = !(atomic_fetch_or(&ram->reasons[index], PAGE_CODE) & PAGE_CODE);
		spin_unlock(spin);
	}
	granted = atomic_load(&ram->granted[index]);
	return likely(!granted) || settle(ram, self, gfn, granted, fresh);
}

void page_drop_code(struct ram *ram, struct page_listener *self, gfn_t gfn)
{
	uint64_t index = page_index(ram, gfn);

	/* A shared bit may stand for code of another listener: it stays. */
	if (index == RAM_NOWHERE || self->holder == HOLDER_SHARED)
		return;
	if (atomic_load(&ram->holders[index]) & self->holder)
		drop_holder(ram, index, self->holder);
}

void page_trim_code(struct ram *ram, struct page_listener *self, gfn_t gfn, uint64_t granules)
{
	uint64_t index = page_index(ram, gfn);
	struct spin *spin;

	if (index == RAM_NOWHERE || self->holder == HOLDER_SHARED ||
	    atomic_load(&ram->holders[index]) != self->holder)
		return;
	spin = lock_page(ram, index);
	/* Others' granules are not told from ours; alone we know. */
	if (atomic_load(&ram->holders[index]) == self->holder)
		atomic_store(&ram->granules[index], granules);
	spin_unlock(spin);
}

/* The granules that [offset, offset+len) of one page touches; len is not 0. */
static uint64_t granules_of(unsigned offset, unsigned len)
{
	unsigned first = offset / 64, last = (offset + len - 1) / 64;

	return (~0ull >> (63 - last)) & (~0ull << first);
}

/* Bytes from gpa to the end of its page, at most len. */
static unsigned within_page(gpa_t gpa, size_t len)
{
	size_t rest = PAGE_SIZE - gpa % PAGE_SIZE;

	return (unsigned)(len < rest ? len : rest);
}

/*
 * First page at or after `index` and below `end` with ROM, CODE or DIRTY_LOG. Eight pages
 * at a time, since a large DMA goes over mostly plain memory.
 */
static uint64_t next_blocked(const struct ram *ram, uint64_t index, uint64_t end)
{
	const uint8_t *reasons = (const uint8_t *)ram->reasons;

	while (index + 8 <= end && !(bytes_load64(reasons + index) & BLOCKED_BYTES))
		index += 8;
	while (index < end && !(atomic_load_explicit(&ram->reasons[index], memory_order_relaxed) &
				(PAGE_ROM | PAGE_CODE | PAGE_DIRTY_LOG)))
		index++;
	return index;
}

/* Tells the holders of code in the range of one page: all but self, or only `only`. */
static void tell(struct ram *ram, struct page_listener *only, struct page_listener *self,
		 uint64_t index, gpa_t gpa, unsigned len)
{
	unsigned offset = (unsigned)(gpa % PAGE_SIZE);
	uint64_t holders;

	holders = atomic_load(&ram->holders[index]);
	if (!(atomic_load(&ram->granules[index]) & granules_of(offset, len))) {
		if (only && (holders & only->holder) && only->code_beside)
			only->code_beside(only, gpa >> PAGE_SHIFT);
		return;
	}
	if (only) {
		if (holders & only->holder)
			only->code_changed(only, self, gpa >> PAGE_SHIFT, offset, len);
		return;
	}
	listeners_read_lock(ram);
	for (struct page_listener *l = ram->listeners; l; l = l->next)
		if (l != self && (holders & l->holder))
			l->code_changed(l, self, gpa >> PAGE_SHIFT, offset, len);
	listeners_read_unlock(ram);
}

/* Walks the pages of a range that lies in one slot; `end`: after the store. */
static int walk(struct ram *ram, struct page_listener *self, uint64_t offset, gpa_t gpa, size_t len,
		bool end)
{
	uint64_t first = offset >> PAGE_SHIFT;
	uint64_t beyond = ((offset + len - 1) >> PAGE_SHIFT) + 1;

	for (uint64_t i = next_blocked(ram, first, beyond); i < beyond;
	     i = next_blocked(ram, i + 1, beyond)) {
		size_t skip = i == first ? 0 : (size_t)((i << PAGE_SHIFT) - offset);
		uint8_t seen = atomic_load_explicit(&ram->reasons[i], memory_order_relaxed);

		if (seen & PAGE_ROM)
			return -EROFS;
		if (end && (seen & PAGE_DIRTY_LOG))
			dirty_mark(ram, i);
		if (!(seen & PAGE_CODE))
			continue;
		if (end)
			tell(ram, NULL, self, i, gpa + skip, within_page(gpa + skip, len - skip));
		else if (self)
			tell(ram, self, self, i, gpa + skip, within_page(gpa + skip, len - skip));
	}
	return 0;
}

int page_write_begin(struct ram *ram, struct page_listener *self, gpa_t gpa, size_t len)
{
	uint64_t offset = ram_offset(ram, gpa, len, true);

	if (!len)
		return 0;
	return offset == RAM_NOWHERE ? -EFAULT : walk(ram, self, offset, gpa, len, false);
}

void page_write_end(struct ram *ram, struct page_listener *self, gpa_t gpa, size_t len)
{
	uint64_t offset = ram_offset(ram, gpa, len, true);

	if (!len || offset == RAM_NOWHERE)
		return;
	/* The store before, the look at CODE after: see the head of the file. */
	atomic_thread_fence(memory_order_seq_cst);
	walk(ram, self, offset, gpa, len, true);
}
