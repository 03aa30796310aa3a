/*
 * See the header. Invariant: a page whose bit is set neither in the dirty log
 * nor in `todo` is in the file as it is in RAM, and `sums` has its sum.
 */
#include "vm/snapshot_live.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "mem/dirty.h"
#include "mem/ram.h"
#include "state/crc32c.h"
#include "vm/snapshot_file.h"
#include "vm/vm_priv.h"

#define RUN_PAGES  256u  /* in one write */
#define KEPT_MAX   4096u /* pages copied at the pause; more are written there and then */
#define FEW_PAGES  512u  /* so few are copied in a millisecond */
#define ROUNDS_MAX 12u

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static bool bit(const uint64_t *bits, uint64_t n)
{
	return bits[n / 64] >> (n % 64) & 1;
}

static bool is_zero(const uint8_t *page)
{
	return page[0] == 0 && memcmp(page, page + 1, PAGE_SIZE - 1) == 0;
}

int live_init(struct live *l, struct vm *vm, struct snapshot_writer *w)
{
	static const uint8_t zeroes[PAGE_SIZE];
	uint32_t zero_sum = crc32c(0, zeroes, sizeof(zeroes));
	size_t words = dirty_log_words(vm->board->ram);

	*l = (struct live){ .vm = vm, .w = w, .pages = ram_size(vm->board->ram) / PAGE_SIZE };
	l->todo = calloc(words, sizeof(*l->todo));
	l->written = calloc(words, sizeof(*l->written));
	l->sums = malloc(l->pages * sizeof(*l->sums));
	l->bounce = malloc(RUN_PAGES * PAGE_SIZE);
	l->kept = malloc(KEPT_MAX * PAGE_SIZE);
	l->kept_at = malloc(KEPT_MAX * sizeof(*l->kept_at));
	if (!l->todo || !l->written || !l->sums || !l->bounce || !l->kept || !l->kept_at) {
		snprintf(w->error, sizeof(w->error), "there is no memory to write RAM live");
		return -ENOMEM;
	}
	/* Not only reserved: a fault for each page would come at the pause. */
	memset(l->kept, 1, KEPT_MAX * PAGE_SIZE);
	for (uint64_t n = 0; n < l->pages; n++)
		l->sums[n] = zero_sum;
	return 0;
}

void live_fini(struct live *l)
{
	if (l->vm && dirty_log_runs(l->vm->board->ram))
		dirty_log_stop(l->vm->board->ram);
	free(l->todo);
	free(l->written);
	free(l->sums);
	free(l->bounce);
	free(l->kept);
	free(l->kept_at);
	*l = (struct live){ 0 };
}

/*
 * Up to RUN_PAGES pages from page `first` on. They are copied before anything
 * is made of them: a vcpu may store to them meanwhile, and then they come again.
 */
static int write_run(struct live *l, uint64_t first, uint64_t count, const uint8_t *bytes)
{
	uint64_t done = 0;

	memcpy(l->bounce, bytes, count * PAGE_SIZE);
	while (done < count) {
		uint64_t run = 0;
		int err;

		while (done + run < count) {
			const uint8_t *page = l->bounce + (done + run) * PAGE_SIZE;
			uint64_t n = first + done + run;

			/* A hole is a page of zeroes. */
			if (is_zero(page) && !bit(l->written, n))
				break;
			l->sums[n] = crc32c(0, page, PAGE_SIZE);
			l->written[n / 64] |= 1ull << (n % 64);
			run++;
		}
		if (run) {
			err = snapshot_write(l->w, SNAPSHOT_RAM_OFFSET + (first + done) * PAGE_SIZE,
					     l->bounce + done * PAGE_SIZE, run * PAGE_SIZE);
			if (err)
				return err;
			l->written_bytes += run * PAGE_SIZE;
		}
		done += run ? run : 1;
	}
	return 0;
}

static int write_all(struct live *l)
{
	struct ram *ram = l->vm->board->ram;
	uint64_t at = 0, len;
	int err = 0;

	for (; !err && ram_next_data(ram, &at, &len); at += len) {
		for (uint64_t done = 0; !err && done < len; done += RUN_PAGES * PAGE_SIZE) {
			uint64_t run = len - done;

			if (run > RUN_PAGES * PAGE_SIZE)
				run = RUN_PAGES * PAGE_SIZE;
			err = write_run(l, (at + done) / PAGE_SIZE, run / PAGE_SIZE,
					ram_view(ram, at + done, run));
		}
	}
	return err;
}

/* The first page of `todo` at or after n; l->pages: none. */
static uint64_t next_todo(const struct live *l, uint64_t n)
{
	while (n < l->pages && !bit(l->todo, n)) {
		uint64_t rest = l->todo[n / 64] >> (n % 64);

		n = rest ? n + (unsigned)__builtin_ctzll(rest) : (n | 63) + 1;
	}
	return n < l->pages ? n : l->pages;
}

static int write_todo(struct live *l)
{
	struct ram *ram = l->vm->board->ram;
	uint64_t n = 0;

	while ((n = next_todo(l, n)) < l->pages) {
		uint64_t run = 1;
		int err;

		while (run < RUN_PAGES && n + run < l->pages && bit(l->todo, n + run))
			run++;
		err = write_run(l, n, run, ram_view(ram, n * PAGE_SIZE, run * PAGE_SIZE));
		if (err)
			return err;
		n += run;
	}
	memset(l->todo, 0, dirty_log_words(ram) * sizeof(*l->todo));
	return 0;
}

/* A moment in which no vcpu executes anything: the log begins, or what it holds is taken. */
static int stop_briefly(struct live *l, bool begin, uint64_t *count)
{
	struct vm *vm = l->vm;
	struct ram *ram = vm->board->ram;
	uint64_t began = now_ns(), pause_ns;
	int err = 0;

	pthread_mutex_lock(&vm->world);
	if (vm->ended) {
		pthread_mutex_unlock(&vm->world);
		snprintf(l->w->error, sizeof(l->w->error), "the VM has ended");
		return -ECANCELED;
	}
	if (vm->options.engine->unheard) {
		pthread_mutex_unlock(&vm->world);
		snprintf(l->w->error, sizeof(l->w->error),
			 "engine %s cannot tell which pages change: take the snapshot without "
			 "--live, or insula switch first",
			 vm->options.engine->name);
		return -EOPNOTSUPP;
	}
	if (!vm->held)
		barrier_stop_vcpus(vm);
	if (begin)
		err = dirty_log_start(ram);
	else
		*count = dirty_log_take(ram, l->todo);
	if (!vm->held)
		barrier_resume_vcpus(vm);
	pthread_mutex_unlock(&vm->world);
	pause_ns = now_ns() - began;
	if (pause_ns > l->pause_ns)
		l->pause_ns = pause_ns;
	if (err)
		snprintf(l->w->error, sizeof(l->w->error), "there is no memory for the dirty log");
	return err;
}

int live_rounds(struct live *l)
{
	uint64_t count = l->pages, before;
	int err = stop_briefly(l, true, NULL);

	if (!err)
		err = write_all(l);
	/* On until few are left, or until the guest is quicker than we are. */
	do {
		before = count;
		l->rounds++;
		if (!err)
			err = stop_briefly(l, false, &count);
		if (!err)
			err = write_todo(l);
	} while (!err && count > FEW_PAGES && l->rounds < ROUNDS_MAX && count < before / 8 * 7);
	return err;
}

int live_last(struct live *l)
{
	struct ram *ram = l->vm->board->ram;
	uint64_t n = 0;

	dirty_log_take(ram, l->todo);
	for (; (n = next_todo(l, n)) < l->pages && l->kept_count < KEPT_MAX; n++) {
		memcpy(l->kept + l->kept_count * PAGE_SIZE, ram_view(ram, n * PAGE_SIZE, PAGE_SIZE),
		       PAGE_SIZE);
		l->kept_at[l->kept_count++] = n;
		l->todo[n / 64] &= ~(1ull << (n % 64));
	}
	return n < l->pages ? write_todo(l) : 0;
}

int live_finish(struct live *l)
{
	int err = 0;

	for (size_t i = 0; !err && i < l->kept_count; i++)
		err = write_run(l, l->kept_at[i], 1, l->kept + i * PAGE_SIZE);
	if (!err)
		err = snapshot_extend(l->w, SNAPSHOT_RAM_OFFSET + l->pages * PAGE_SIZE);
	if (!err)
		err = snapshot_name_part(l->w, "ram", SNAPSHOT_RAM_OFFSET, l->pages * PAGE_SIZE,
					 SNAPSHOT_PAGES, 0);
	return err ? err : snapshot_add(l->w, "ram.sums", l->sums, l->pages * sizeof(*l->sums));
}
