/* Guest RAM, the page authority and device access, also with several threads at it. */
#include "base/bytes.h"
#include "base/futex.h"
#include "mem/dirty.h"
#include "mem/dma.h"
#include "mem/page.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MIB 0x100000ull

struct hearer {
	struct page_listener listener;
	int changed, revoked, beside;
	struct page_listener *self;
	gfn_t gfn;
	unsigned offset, len;
	struct ram *ram; /* drop code when told */
};

static void hear_change(struct page_listener *listener, struct page_listener *self, gfn_t gfn,
			unsigned offset, unsigned len)
{
	struct hearer *h = (struct hearer *)listener;

	h->changed++;
	h->self = self;
	h->gfn = gfn;
	h->offset = offset;
	h->len = len;
	if (h->ram)
		page_drop_code(h->ram, listener, gfn);
}

static void hear_revoke(struct page_listener *listener, struct page_listener *self, gfn_t gfn)
{
	struct hearer *h = (struct hearer *)listener;

	h->revoked++;
	h->self = self;
	h->gfn = gfn;
}

static void hear_beside(struct page_listener *listener, gfn_t gfn)
{
	((struct hearer *)listener)->beside++;
}

#define HEARER                                       \
	{                                            \
		.listener = {                        \
			.code_changed = hear_change, \
			.code_beside = hear_beside,  \
			.revoke_write = hear_revoke  \
		}                                    \
	}

static void bytes(void **state)
{
	uint8_t a[300], b[300];

	for (size_t len = 0; len < 130; len++) {
		for (size_t i = 0; i < sizeof(a); i++)
			a[i] = (uint8_t)(i * 7 + len);
		memset(b, 0xee, sizeof(b));
		bytes_copy(b + 3, a + 1, len);
		assert_memory_equal(b + 3, a + 1, len);
		assert_int_equal(b[2], 0xee);
		assert_int_equal(b[3 + len], 0xee);
		assert_true(bytes_equal(b + 3, a + 1, len));
		if (len) {
			b[3 + len / 2] ^= 1;
			assert_false(bytes_equal(b + 3, a + 1, len));
		}
		bytes_zero(b + 3, len);
		for (size_t i = 0; i < len; i++)
			assert_int_equal(b[3 + i], 0);
		assert_int_equal(b[3 + len], 0xee);
	}
}

static void futex_times_out(void **state)
{
	_Atomic uint32_t word = 1;
	struct timespec ts;
	uint64_t now;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	now = (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
	assert_int_equal(futex_wait(&word, 0, UINT64_MAX), -EAGAIN);
	assert_int_equal(futex_wait(&word, 1, now), -ETIMEDOUT);
	assert_int_equal(futex_wait(&word, 1, now + 2000000), -ETIMEDOUT);
	futex_wake(&word, 1);
}

static void sizes(void **state)
{
	struct ram *ram;
	struct stat st;

	assert_null(ram_new(0));
	assert_int_equal(errno, EINVAL);
	assert_null(ram_new(4097));
	assert_null(ram_new(UINT64_MAX & PAGE_MASK));
	ram = ram_new(4096);
	assert_int_equal(ram_low_size(ram), 4096);
	assert_null(ram_page(ram, 4096));
	ram_free(ram);

	/* Sparse: 6 GiB costs nothing until it is touched. */
	ram = ram_new(6144 * MIB);
	assert_int_equal(ram_size(ram), 6144 * MIB);
	assert_int_equal(ram_low_size(ram), RAM_LOW_LIMIT);
	assert_int_equal(ram_high_size(ram), 4096 * MIB);
	assert_null(ram_page(ram, RAM_LOW_LIMIT));
	assert_null(ram_page(ram, RAM_HIGH_BASE - 1));
	assert_ptr_equal(ram_page(ram, RAM_HIGH_BASE + 5),
			 (uint8_t *)ram_page(ram, RAM_LOW_LIMIT - 1) + 4096);
	assert_int_equal(ram_gpa_of(ram, ram_page(ram, RAM_HIGH_BASE)), RAM_HIGH_BASE);
	assert_null(ram_page(ram, RAM_HIGH_BASE + 4096 * MIB));
	assert_null(ram_page(ram, UINT64_MAX));
	assert_int_equal((uintptr_t)ram_page(ram, 0) % (2 * MIB), 0);
	assert_int_equal(fstat(ram_fd(ram), &st), 0);
	assert_true(st.st_blocks * 512 < (int64_t)MIB);
	assert_int_equal(ftruncate(ram_fd(ram), 4096), -1);
	assert_int_equal(errno, EPERM);
	ram_free(ram);
	ram_free(NULL);
}

static void the_memfd_is_the_memory(void **state)
{
	struct ram *ram = ram_new(MIB);
	uint32_t value = 0xfeedface;
	uint8_t *view = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_SHARED, ram_fd(ram), 0);

	assert_true(view != MAP_FAILED);
	assert_int_equal(ram_write(ram, 0x1ffe, &value, 4), 0);
	assert_memory_equal(view + 0x1ffe, &value, 4);
	munmap(view, MIB);
	ram_free(ram);
}

static void zeros_take_no_memory(void **state)
{
	struct ram *ram = ram_new(MIB);
	uint8_t *bytes = malloc(MIB), *back = malloc(MIB);
	struct stat before, after;

	memset(bytes, 0xa5, MIB);
	assert_int_equal(ram_write(ram, 0, bytes, MIB), 0);
	assert_int_equal(fstat(ram_fd(ram), &before), 0);
	assert_int_equal(ram_zero(ram, 0x1001, 0x80000), 0);
	assert_int_equal(ram_zero(ram, 0xa0010, 0x20), 0);
	assert_int_equal(ram_zero(ram, MIB - 1, 1), 0);
	assert_int_equal(ram_zero(ram, MIB, 0), 0);
	/* Reading would fill the hole. */
	assert_int_equal(fstat(ram_fd(ram), &after), 0);
	assert_true(after.st_blocks <= before.st_blocks - 0x7f000 / 512);
	memset(bytes + 0x1001, 0, 0x80000);
	memset(bytes + 0xa0010, 0, 0x20);
	bytes[MIB - 1] = 0;
	assert_int_equal(ram_read(ram, 0, back, MIB), 0);
	assert_memory_equal(bytes, back, MIB);
	free(bytes);
	free(back);
	ram_free(ram);
}

static void wild_ranges_touch_nothing(void **state)
{
	struct hearer a = HEARER;
	static const struct {
		uint64_t gpa, len;
	} wild[] = {
		{ MIB, 1 },           { MIB - 1, 2 },
		{ 0, MIB + 1 },       { 0, UINT64_MAX },
		{ UINT64_MAX, 2 },    { UINT64_MAX - 10, 11 },
		{ RAM_HIGH_BASE, 1 }, { 0xfffffffffffff000ull, 0x2000 },
		{ 1, UINT64_MAX },
	};
	struct ram *ram = ram_new(MIB);
	struct dma_mapping mapping;
	uint8_t byte[16] = { 0 };
	uint16_t word;

	for (size_t i = 0; i < sizeof(wild) / sizeof(wild[0]); i++) {
		assert_int_equal(dma_read(ram, wild[i].gpa, byte, wild[i].len), -EFAULT);
		assert_int_equal(dma_write(ram, wild[i].gpa, byte, wild[i].len), -EFAULT);
		assert_int_equal(ram_read(ram, wild[i].gpa, byte, wild[i].len), -EFAULT);
		assert_int_equal(ram_write(ram, wild[i].gpa, byte, wild[i].len), -EFAULT);
		assert_int_equal(ram_zero(ram, wild[i].gpa, wild[i].len), -EFAULT);
		assert_int_equal(dma_map(ram, wild[i].gpa, wild[i].len, DMA_TO_GUEST, &mapping),
				 -EFAULT);
		assert_int_equal(page_write_begin(ram, NULL, wild[i].gpa, wild[i].len), -EFAULT);
		page_write_end(ram, NULL, wild[i].gpa, wild[i].len);
		assert_false(ram_contains(ram, wild[i].gpa, wild[i].len));
	}
	assert_int_equal(dma_read(ram, UINT64_MAX, byte, 0), 0);
	assert_int_equal(dma_write(ram, UINT64_MAX, byte, 0), 0);
	assert_int_equal(dma_map(ram, 0, 0, DMA_TO_GUEST, &mapping), -EFAULT);
	assert_int_equal(dma_load16(ram, MIB - 1, &word), -EFAULT);
	assert_int_equal(dma_store16(ram, UINT64_MAX, 1), -EFAULT);
	assert_int_equal(dma_store16(ram, MIB - 3, 0xabcd), 0);
	assert_int_equal(dma_load16(ram, MIB - 3, &word), 0);
	assert_int_equal(word, 0xabcd);
	assert_int_equal(page_reasons(ram, 256), PAGE_ABSENT);
	assert_int_equal(page_reasons(ram, UINT64_MAX), PAGE_ABSENT);
	page_listener_add(ram, &a.listener);
	assert_false(page_grant_write(ram, &a.listener, UINT64_MAX));
	assert_false(page_grant_write(ram, &a.listener, 1ull << 52));
	page_write_dropped(ram, &a.listener, UINT64_MAX);
	assert_true(page_add_code(ram, &a.listener, UINT64_MAX, 1));
	page_listener_remove(ram, &a.listener);
	assert_int_equal(dma_in_flight(ram), 0);
	ram_free(ram);
}

static void rom_is_read_only(void **state)
{
	struct ram *ram = ram_new(16 * MIB);
	const gpa_t base = 0xfffff000;
	struct hearer a = HEARER;
	struct dma_mapping mapping;
	uint8_t image[5000], got[8192];

	memset(image, 0x5a, sizeof(image));
	assert_int_equal(ram_add_rom(ram, 0x1000, image, 10), -EEXIST);
	assert_int_equal(ram_add_rom(ram, base + 1, image, 10), -EINVAL);
	assert_int_equal(ram_add_rom(ram, base, image, 0), -EINVAL);
	assert_int_equal(ram_add_rom(ram, UINT64_MAX & PAGE_MASK, image, 10), -EINVAL);
	assert_int_equal(ram_add_rom(ram, 0xffffe000, image, sizeof(image)), 0);
	assert_int_equal(ram_add_rom(ram, base, image, 10), -EEXIST);
	assert_int_equal(ram_add_rom(ram, 0x80000000, image, RAM_ROM_BYTES), -ENOSPC);

	assert_int_equal(ram_read(ram, 0xffffe000, got, 8192), 0);
	assert_memory_equal(got, image, sizeof(image));
	assert_int_equal(got[5000], 0xff);
	assert_int_equal(got[8191], 0xff);
	assert_int_equal(page_reasons(ram, base >> PAGE_SHIFT), PAGE_ROM);
	page_listener_add(ram, &a.listener);
	assert_false(page_grant_write(ram, &a.listener, base >> PAGE_SHIFT));
	assert_true(page_add_code(ram, &a.listener, base >> PAGE_SHIFT, 1));
	assert_int_equal(page_reasons(ram, base >> PAGE_SHIFT), PAGE_ROM);
	page_listener_remove(ram, &a.listener);
	assert_int_equal(page_write_begin(ram, NULL, base, 4), -EROFS);
	assert_int_equal(dma_write(ram, base, got, 4), -EFAULT);
	assert_int_equal(dma_map(ram, base, 4, DMA_TO_GUEST, &mapping), -EFAULT);
	assert_int_equal(dma_map(ram, base, 4, DMA_FROM_GUEST, &mapping), 0);
	dma_unmap(ram, &mapping, 0);
	assert_false(ram_contains(ram, base, 1));
	assert_int_equal(ram_gpa_of(ram, (uint8_t *)ram_page(ram, base) + 3), base + 3);
	ram_free(ram);
}

static bool always_quiet(struct page_listener *listener)
{
	return true;
}

static void grants_are_revoked_by_code(void **state)
{
	struct ram *ram = ram_new(MIB);
	struct hearer a = HEARER, b = HEARER, c = HEARER;

	page_listener_add(ram, &a.listener);
	page_listener_add(ram, &b.listener);
	page_listener_add(ram, &c.listener);
	assert_true(page_grant_write(ram, &a.listener, 7));
	assert_true(page_grant_write(ram, &b.listener, 7));
	assert_true(page_grant_write(ram, &b.listener, 7));
	assert_int_equal(page_reasons(ram, 7), 0);

	/* Those hear who were granted; what is read may be kept when the last has dropped its
	 * grant. */
	assert_false(page_add_code(ram, &a.listener, 7, 1));
	assert_int_equal(a.revoked, 1);
	assert_int_equal(b.revoked, 1);
	assert_int_equal(c.revoked, 0);
	assert_int_equal(b.gfn, 7);
	assert_ptr_equal(b.self, &a.listener);
	assert_int_equal(page_reasons(ram, 7), PAGE_CODE);
	assert_false(page_grant_write(ram, &c.listener, 7));
	page_write_dropped(ram, &a.listener, 7);
	assert_false(page_add_code(ram, &a.listener, 7, 1));
	assert_false(page_add_code(ram, &c.listener, 7, 1));
	assert_int_equal(b.revoked, 1);
	b.listener.quiet = always_quiet;
	assert_true(page_add_code(ram, &a.listener, 7, 1));
	b.listener.quiet = NULL;
	assert_false(page_add_code(ram, &a.listener, 7, 1));
	page_write_dropped(ram, &b.listener, 7);
	assert_true(page_add_code(ram, &a.listener, 7, 1));
	page_drop_code(ram, &c.listener, 7);

	/* Its own grant a listener drops at once, though another made the page one of code. */
	assert_true(page_grant_write(ram, &b.listener, 8));
	assert_false(page_add_code(ram, &a.listener, 8, 1));
	assert_int_equal(b.revoked, 2);
	assert_true(page_add_code(ram, &b.listener, 8, 1));
	assert_int_equal(b.revoked, 3);
	page_write_dropped_all(ram, &b.listener);
	assert_true(page_add_code(ram, &a.listener, 8, 1));

	/* No grant stands: nobody need hear. */
	assert_true(page_add_code(ram, &b.listener, 7, 2));
	assert_int_equal(a.revoked, 1);
	page_drop_code(ram, &a.listener, 7);
	assert_false(page_grant_write(ram, &a.listener, 7));
	page_drop_code(ram, &b.listener, 7);
	assert_true(page_grant_write(ram, &a.listener, 7));
	/* Dropping what one has not is nothing. */
	page_drop_code(ram, &b.listener, 7);
	page_drop_code(ram, &b.listener, UINT64_MAX);
	/* A listener that is gone stores no more. */
	page_listener_remove(ram, &a.listener);
	assert_true(page_add_code(ram, &b.listener, 7, 1));
	page_listener_remove(ram, &b.listener);
	page_listener_remove(ram, &c.listener);
	ram_free(ram);
}

static void stores_to_code_are_told(void **state)
{
	struct ram *ram = ram_new(MIB);
	struct hearer a = HEARER, b = HEARER;
	uint8_t buffer[3 * 4096] = { 0 };
	struct dma_mapping mapping;

	page_listener_add(ram, &a.listener);
	page_listener_add(ram, &b.listener);
	assert_true(page_add_code(ram, &a.listener, 5, 1ull << 2)); /* bytes 128..191 */

	/* Beside the code: silence. */
	assert_int_equal(page_write_begin(ram, &a.listener, 5 * 4096 + 120, 8), 0);
	page_write_end(ram, &a.listener, 5 * 4096 + 120, 8);
	assert_int_equal(dma_write(ram, 5 * 4096 + 192, buffer, 3000), 0);
	assert_int_equal(a.changed, 0);
	assert_int_equal(a.beside, 1);

	/* One byte reaches in. Own store: before only; others only hear what they hold. */
	assert_int_equal(page_write_begin(ram, &a.listener, 5 * 4096 + 127, 2), 0);
	assert_int_equal(a.changed, 1);
	assert_ptr_equal(a.self, &a.listener);
	page_write_end(ram, &a.listener, 5 * 4096 + 127, 2);
	assert_int_equal(a.changed, 1);
	assert_int_equal(a.offset, 127);
	assert_int_equal(a.len, 2);
	assert_int_equal(b.changed, 0);

	/* Another listener's store: only after. */
	assert_int_equal(page_write_begin(ram, &b.listener, 5 * 4096 + 130, 4), 0);
	assert_int_equal(a.changed, 1);
	page_write_end(ram, &b.listener, 5 * 4096 + 130, 4);
	assert_int_equal(a.changed, 2);
	assert_ptr_equal(a.self, &b.listener);

	/* DMA over three pages: the part in this page. */
	assert_int_equal(dma_write(ram, 4 * 4096 + 10, buffer, sizeof(buffer) - 100), 0);
	assert_int_equal(a.changed, 3);
	assert_null(a.self);
	assert_int_equal(a.gfn, 5);
	assert_int_equal(a.offset, 0);
	assert_int_equal(a.len, 4096);

	assert_int_equal(dma_map(ram, 5 * 4096 + 100, 4096, DMA_TO_GUEST, &mapping), 0);
	assert_int_equal(dma_in_flight(ram), 1);
	assert_ptr_equal(mapping.iov.iov_base, (uint8_t *)ram_page(ram, 5 * 4096) + 100);
	dma_unmap(ram, &mapping, 512);
	assert_int_equal(a.changed, 4);
	assert_int_equal(dma_in_flight(ram), 0);
	assert_int_equal(dma_map(ram, 5 * 4096, 4096, DMA_TO_GUEST, &mapping), 0);
	dma_unmap(ram, &mapping, 0);
	assert_int_equal(a.changed, 4);

	/* Dropped from inside the callback. */
	a.ram = ram;
	assert_int_equal(dma_store16(ram, 5 * 4096 + 128, 0x9090), 0);
	assert_int_equal(a.changed, 5);
	assert_int_equal(page_reasons(ram, 5), 0);
	assert_int_equal(dma_store16(ram, 5 * 4096 + 128, 0x9090), 0);
	assert_int_equal(a.changed, 5);

	/* What is no longer code is told to nobody, but only its one holder can say so. */
	a.ram = NULL;
	assert_true(page_add_code(ram, &a.listener, 7, 3));
	page_trim_code(ram, &a.listener, 7, 2);
	assert_int_equal(dma_store16(ram, 7 * 4096, 0x9090), 0);
	assert_int_equal(a.changed, 5);
	assert_int_equal(dma_store16(ram, 7 * 4096 + 64, 0x9090), 0);
	assert_int_equal(a.changed, 6);
	assert_true(page_add_code(ram, &b.listener, 7, 1));
	page_trim_code(ram, &a.listener, 7, 2);
	assert_int_equal(dma_store16(ram, 7 * 4096, 0x9090), 0);
	assert_int_equal(b.changed, 1);

	/* What a removed listener held is plain again. */
	assert_true(page_add_code(ram, &b.listener, 9, ~0ull));
	page_listener_remove(ram, &b.listener);
	assert_int_equal(page_reasons(ram, 9), 0);
	page_listener_remove(ram, &a.listener);
	ram_free(ram);
}

static void more_listeners_than_bits(void **state)
{
	enum { MANY = 70 };
	struct ram *ram = ram_new(MIB);
	struct hearer many[MANY];
	uint8_t byte = 0;

	for (int i = 0; i < MANY; i++) {
		many[i] = (struct hearer)HEARER;
		page_listener_add(ram, &many[i].listener);
		assert_true(page_add_code(ram, &many[i].listener, 3, 1));
	}
	assert_int_equal(dma_write(ram, 3 * 4096, &byte, 1), 0);
	for (int i = 0; i < MANY; i++)
		assert_int_equal(many[i].changed, 1);
	for (int i = 0; i < MANY; i++) {
		assert_int_equal(page_reasons(ram, 3), PAGE_CODE);
		page_listener_remove(ram, &many[i].listener);
	}
	assert_int_equal(page_reasons(ram, 3), 0);
	ram_free(ram);
}

/*
 * Two threads, as a vcpu that decodes and a device that writes: after the
 * device's last word, whatever the decoder believes must be what is in memory.
 */
struct race {
	struct page_listener listener;
	struct ram *ram;
	_Atomic bool stale, stop;
	_Atomic uint64_t rounds;
};

static void race_changed(struct page_listener *listener, struct page_listener *self, gfn_t gfn,
			 unsigned offset, unsigned len)
{
	atomic_store(&((struct race *)listener)->stale, true);
}

static void race_revoke(struct page_listener *listener, struct page_listener *self, gfn_t gfn)
{
}

static void *race_writer(void *arg)
{
	struct race *race = arg;

	for (uint64_t value = 1; !atomic_load(&race->stop); value++) {
		if (dma_write(race->ram, 0x2000, &value, 8) < 0)
			abort();
		atomic_store(&race->rounds, value);
	}
	return NULL;
}

static void no_store_is_missed(void **state)
{
	struct race race = { .listener = { .code_changed = race_changed,
					   .revoke_write = race_revoke } };
	uint64_t decoded, now;
	pthread_t writer;

	race.ram = ram_new(MIB);
	page_listener_add(race.ram, &race.listener);
	assert_int_equal(pthread_create(&writer, NULL, race_writer, &race), 0);
	for (int i = 0; i < 100000; i++) {
		page_drop_code(race.ram, &race.listener, 2);
		atomic_store(&race.stale, false);
		assert_true(page_add_code(race.ram, &race.listener, 2, 1));
		decoded = bytes_load64(ram_page(race.ram, 0x2000));
		now = bytes_load64(ram_page(race.ram, 0x2000));
		if (decoded == now)
			continue;
		/* The writer stored after our decoding: it tells, at the latest before its next
		 * store. */
		now = atomic_load(&race.rounds);
		while (atomic_load(&race.rounds) < now + 2)
			;
		assert_true(atomic_load(&race.stale));
	}
	atomic_store(&race.stop, true);
	pthread_join(writer, NULL);
	page_listener_remove(race.ram, &race.listener);
	ram_free(race.ram);
}

/*
 * A vcpu that stores through a grant as long as it has one, and polls for its
 * withdrawal; another that decodes. Once the decoder is told that it may keep
 * what it reads, no store goes unheard.
 */
struct grant_race {
	struct page_listener decoder, writer;
	struct ram *ram;
	_Atomic bool withdrawn, stale, stop;
	_Atomic unsigned plain, told;
};

static void grant_changed(struct page_listener *listener, struct page_listener *self, gfn_t gfn,
			  unsigned offset, unsigned len)
{
	atomic_store(&((struct grant_race *)listener)->stale, true);
}

static void grant_revoke(struct page_listener *listener, struct page_listener *self, gfn_t gfn)
{
	struct grant_race *race =
		(struct grant_race *)((char *)listener - offsetof(struct grant_race, writer));

	atomic_store(&race->withdrawn, true);
}

static void *grant_writer(void *arg)
{
	struct grant_race *race = arg;
	volatile uint64_t *p = ram_page(race->ram, 0x4000);
	bool granted = false;

	for (uint64_t value = 1; !atomic_load(&race->stop); value++) {
		if (atomic_exchange(&race->withdrawn, false)) {
			granted = false;
			page_write_dropped(race->ram, &race->writer, 4);
		}
		if (!granted)
			granted = page_grant_write(race->ram, &race->writer, 4);
		if (granted) {
			*p = value;
			atomic_fetch_add(&race->plain, 1);
			continue;
		}
		if (page_write_begin(race->ram, &race->writer, 0x4000, 8))
			abort();
		*p = value;
		page_write_end(race->ram, &race->writer, 0x4000, 8);
		atomic_fetch_add(&race->told, 1);
	}
	return NULL;
}

static void no_granted_store_is_missed(void **state)
{
	struct grant_race race = { .decoder = { .code_changed = grant_changed },
				   .writer = { .code_changed = grant_changed,
					       .revoke_write = grant_revoke } };
	volatile uint64_t *p;
	pthread_t writer;
	unsigned waits = 0;

	race.ram = ram_new(MIB);
	p = ram_page(race.ram, 0x4000);
	page_listener_add(race.ram, &race.decoder);
	page_listener_add(race.ram, &race.writer);
	assert_int_equal(pthread_create(&writer, NULL, grant_writer, &race), 0);
	for (unsigned round = 1; round < 20000; round++) {
		unsigned told;
		uint64_t decoded;

		atomic_store(&race.stale, false);
		while (!page_add_code(race.ram, &race.decoder, 4, 1))
			waits++;
		decoded = *p;
		for (volatile unsigned spin = 0; spin < round % 64; spin++)
			;
		if (*p != decoded) {
			told = atomic_load(&race.told);
			while (atomic_load(&race.told) < told + 1)
				;
			assert_true(atomic_load(&race.stale));
		}
		page_drop_code(race.ram, &race.decoder, 4);
		/* Room for the writer to be granted the page anew. */
		if (round % 2) {
			unsigned plain = atomic_load(&race.plain);

			while (atomic_load(&race.plain) == plain)
				;
		}
	}
	atomic_store(&race.stop, true);
	pthread_join(writer, NULL);
	assert_true(waits > 0);
	page_listener_remove(race.ram, &race.decoder);
	page_listener_remove(race.ram, &race.writer);
	ram_free(race.ram);
}

/* Of one take: the only page, ~0 for none, ~1 for several. */
static uint64_t take_one(struct ram *ram)
{
	uint64_t bits[64] = { 0 }, only = ~0ull;

	assert_true(dirty_log_words(ram) <= 64);
	dirty_log_take(ram, bits);
	for (uint64_t n = 0; n < 64 * 64; n++)
		if (bits[n / 64] >> (n % 64) & 1)
			only = only == ~0ull ? n : ~1ull;
	return only;
}

static void dirty_log_notes_stores(void **state)
{
	struct ram *ram = ram_new(4 * MIB + PAGE_SIZE);
	struct hearer vcpu = HEARER;
	struct dma_mapping mapping;
	const uint8_t rom[16] = { 0 };
	uint8_t bytes[3 * PAGE_SIZE] = { 1 };

	assert_int_equal(ram_add_rom(ram, 0xfffff000, rom, sizeof(rom)), 0);
	page_listener_add(ram, &vcpu.listener);
	assert_false(dirty_log_runs(ram));
	assert_true(page_grant_write(ram, &vcpu.listener, 7));
	assert_int_equal(dirty_log_start(ram), 0);
	assert_true(dirty_log_runs(ram));
	assert_int_equal(take_one(ram), ~0ull);
	assert_int_equal(page_reasons(ram, 7), PAGE_DIRTY_LOG);
	assert_int_equal(page_reasons(ram, 0xfffff), PAGE_ROM);
	/* To look is no store; to be granted one is. */
	assert_int_equal(dma_read(ram, 0, bytes, sizeof(bytes)), 0);
	assert_int_equal(dma_map(ram, 0, PAGE_SIZE, DMA_FROM_GUEST, &mapping), 0);
	dma_unmap(ram, &mapping, PAGE_SIZE);
	assert_int_equal(take_one(ram), ~0ull);
	assert_true(page_grant_write(ram, &vcpu.listener, 7));
	assert_int_equal(page_reasons(ram, 7), 0);
	assert_int_equal(take_one(ram), 7);
	assert_int_equal(page_reasons(ram, 7), PAGE_DIRTY_LOG);
	assert_int_equal(take_one(ram), ~0ull);
	/* Without a grant, because of code: each store is heard, and noted after it was made. */
	assert_true(page_add_code(ram, &vcpu.listener, 9, 1));
	assert_int_equal(page_write_begin(ram, &vcpu.listener, 9 * PAGE_SIZE + 8, 8), 0);
	assert_int_equal(vcpu.changed, 1);
	assert_int_equal(take_one(ram), ~0ull);
	page_write_end(ram, &vcpu.listener, 9 * PAGE_SIZE + 8, 8);
	assert_int_equal(take_one(ram), 9);
	assert_false(page_grant_write(ram, &vcpu.listener, 9));
	assert_int_equal(take_one(ram), 9);
	/* Devices: the last page, one in the middle, several; a ROM is none. */
	assert_int_equal(dma_write(ram, 4 * MIB + 1, bytes, 2), 0);
	assert_int_equal(take_one(ram), 1024);
	assert_int_equal(dma_store16(ram, 65 * PAGE_SIZE, 5), 0);
	assert_int_equal(take_one(ram), 65);
	assert_int_equal(dma_map(ram, 3 * PAGE_SIZE, PAGE_SIZE, DMA_TO_GUEST, &mapping), 0);
	assert_int_equal(take_one(ram), ~0ull);
	dma_unmap(ram, &mapping, 1);
	assert_int_equal(take_one(ram), 3);
	assert_int_equal(dma_write(ram, PAGE_SIZE, bytes, sizeof(bytes)), 0);
	assert_int_equal(take_one(ram), ~1ull);
	assert_int_equal(ram_write(ram, 5 * PAGE_SIZE, bytes, 1), 0);
	assert_int_equal(take_one(ram), 5);
	assert_int_equal(dma_write(ram, 0, bytes, 1), 0);
	assert_int_equal(dirty_log_start(ram), 0);
	assert_int_equal(take_one(ram), ~0ull);
	dirty_log_stop(ram);
	assert_int_equal(page_reasons(ram, 7), 0);
	assert_int_equal(page_reasons(ram, 9), PAGE_CODE);
	assert_int_equal(dma_write(ram, 0, bytes, 1), 0);
	assert_int_equal(take_one(ram), ~0ull);
	page_listener_remove(ram, &vcpu.listener);
	ram_free(ram);
}

#define LOGGED_PAGES  70
#define LOGGED_STORES 200000

struct logged {
	struct ram *ram;
	_Atomic unsigned ended;
};

static void *logged_device(void *arg)
{
	struct logged *l = arg;
	uint32_t random = (uint32_t)(uintptr_t)&random | 1;

	for (unsigned n = 1; n <= LOGGED_STORES; n++) {
		random = random * 1664525 + 1013904223;
		assert_int_equal(
			dma_write(l->ram,
				  (random >> 8) % LOGGED_PAGES * PAGE_SIZE + (random & 0xffc), &n,
				  sizeof(n)),
			0);
	}
	atomic_fetch_add(&l->ended, 1);
	return NULL;
}

/* Devices store while a copy is kept up to date by the log alone: in the end it is one. */
static void dirty_log_misses_no_store(void **state)
{
	struct logged l = { .ram = ram_new(MIB) };
	static uint8_t copy[MIB];
	pthread_t threads[2];
	bool last;

	assert_int_equal(dirty_log_start(l.ram), 0);
	for (unsigned n = 0; n < 2; n++)
		assert_int_equal(pthread_create(&threads[n], NULL, logged_device, &l), 0);
	do {
		uint64_t bits[4] = { 0 };

		last = atomic_load(&l.ended) == 2;
		dirty_log_take(l.ram, bits);
		for (uint64_t n = 0; n < 256; n++)
			if (bits[n / 64] >> (n % 64) & 1)
				assert_int_equal(ram_read(l.ram, n * PAGE_SIZE,
							  copy + n * PAGE_SIZE, PAGE_SIZE),
						 0);
	} while (!last);
	for (unsigned n = 0; n < 2; n++)
		pthread_join(threads[n], NULL);
	assert_memory_equal(copy, ram_page(l.ram, 0), MIB);
	ram_free(l.ram);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bytes),
		cmocka_unit_test(futex_times_out),
		cmocka_unit_test(sizes),
		cmocka_unit_test(the_memfd_is_the_memory),
		cmocka_unit_test(zeros_take_no_memory),
		cmocka_unit_test(wild_ranges_touch_nothing),
		cmocka_unit_test(rom_is_read_only),
		cmocka_unit_test(grants_are_revoked_by_code),
		cmocka_unit_test(stores_to_code_are_told),
		cmocka_unit_test(more_listeners_than_bits),
		cmocka_unit_test(no_store_is_missed),
		cmocka_unit_test(no_granted_store_is_missed),
		cmocka_unit_test(dirty_log_notes_stores),
		cmocka_unit_test(dirty_log_misses_no_store),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
