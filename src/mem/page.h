/*
 * The page authority: who may write a page of guest RAM, and who must hear of it.
 *
 * Every 4 KiB page has a mask of reasons why a plain store to it is withheld.
 * A writer, DMA included, may store without a word only while the mask is
 * empty; otherwise it calls page_write_begin() and page_write_end() around the
 * store. Grants that engines hold in their TLBs are revoked through listeners
 * when a reason is added.
 *
 * DIRTY_LOG: the page counts as clean (mem/dirty.h). A store, or the grant to make
 * one, is noted and ends the reason.
 *
 * CODE: some engine has decoded instructions from the page. Granules of 64
 * bytes say which part; a store that touches none of them is let through
 * without telling anybody.
 */
#ifndef INSULA_MEM_PAGE_H
#define INSULA_MEM_PAGE_H

#include "mem/ram.h"

enum page_reason {
	PAGE_ABSENT = 1 << 0,
	PAGE_COW = 1 << 1,
	PAGE_ROM = 1 << 2,
	PAGE_CODE = 1 << 3,
	PAGE_PT_TRACE = 1 << 4,
	PAGE_DIRTY_LOG = 1 << 5,
	PAGE_WATCH = 1 << 6,
};

struct page_listener {
	/*
	 * Code in [offset, offset+len) of the page is about to change, or has just
	 * changed (DMA). `self` is the listener on whose behalf the store is made,
	 * NULL for a device. Called on the writer's thread; the owner of another
	 * thread's cache queues the news and kicks. Must not block; of this file's
	 * functions it may call page_drop_code, page_trim_code and page_reasons. Only listeners
	 * that hold code on the page hear it.
	 */
	void (*code_changed)(struct page_listener *listener, struct page_listener *self, gfn_t gfn, unsigned offset,
			     unsigned len);
	/*
	 * `listener` is about to store to a page that it has code on, but to no
	 * granule with code. As code_changed; NULL: it need not know.
	 */
	void (*code_beside)(struct page_listener *listener, gfn_t gfn);
	/*
	 * The write grant for the page is withdrawn: drop TLB write entries, then
	 * call page_write_dropped(). Called on the thread that adds the reason, and
	 * only if the listener was granted the page. A listener whose cache belongs
	 * to another thread queues this for it.
	 */
	void (*revoke_write)(struct page_listener *listener, struct page_listener *self, gfn_t gfn);
	/*
	 * Any thread. True: the listener makes no store now, and will act on what
	 * was queued for it before it makes one. NULL: never.
	 */
	bool (*quiet)(struct page_listener *listener);
	struct page_listener *next; /* owned by the authority */
	uint64_t holder;            /* owned by the authority: its bit in a page's set of holders */
};

/* Any thread. When remove returns no callback runs or will; the code it held counts as dropped. */
void page_listener_add(struct ram *ram, struct page_listener *listener);
void page_listener_remove(struct ram *ram, struct page_listener *listener);

/* Current reasons of a page of RAM; PAGE_ABSENT for what is not RAM. Lock-free. */
unsigned page_reasons(struct ram *ram, gfn_t gfn);

/*
 * An engine is about to cache a write grant. True: no reason stands, and the
 * page is marked as granted to self. False: the store must go through
 * page_write_begin.
 */
bool page_grant_write(struct ram *ram, struct page_listener *self, gfn_t gfn);
/* After revoke_write: self holds no grant for the page any more. */
void page_write_dropped(struct ram *ram, struct page_listener *self, gfn_t gfn);
/* Self holds no grant for any page: it lost count of what was withdrawn and emptied its cache. */
void page_write_dropped_all(struct ram *ram, struct page_listener *self);

/*
 * Adds code granules (bit n: bytes 64n..64n+63) and, if the page had none, the
 * CODE reason, revoking write grants. True: from now on every store to the
 * granules is told. What is read from the page from here on may be decoded and
 * kept. False: another thread may still store through a grant that it has not
 * dropped yet, and nobody would hear of it. Then what is read may be executed
 * once, as a processor does that fetches it now, but not kept; ask again.
 * ROM needs no watching: true.
 */
bool page_add_code(struct ram *ram, struct page_listener *self, gfn_t gfn, uint64_t granules)
	__attribute__((warn_unused_result));
/* Of the listener's code on the page only these granules are left. */
void page_trim_code(struct ram *ram, struct page_listener *self, gfn_t gfn, uint64_t granules);
/* The listener has no decoded code on the page any more. When no listener has, CODE falls and stores are plain again. */
void page_drop_code(struct ram *ram, struct page_listener *self, gfn_t gfn);

/*
 * Around a store to a page whose mask is not empty; the range may span pages.
 * Begin: 0, -EROFS if a page is ROM, -EFAULT if one is not RAM (the store is
 * dropped and End not called). Listeners with code in the range hear
 * code_changed before the store from Begin for their own vcpu, and after it
 * from End for all others. Both are cheap when no granule is touched.
 */
int page_write_begin(struct ram *ram, struct page_listener *self, gpa_t gpa, size_t len);
void page_write_end(struct ram *ram, struct page_listener *self, gpa_t gpa, size_t len);

#endif
