/*
 * Reading ahead: what is fetched, that it is never older than what the guest
 * wrote, and that no failure of it reaches the guest. First against an io whose
 * requests finish when the test says so, then at random against real files.
 */
#include "block/block_ahead.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/log.h"
#include "base/loop.h"
#include "block/block_io.h"

#define KIB  1024u
#define STEP (256 * KIB)
#define DISK (4096 * KIB)

struct job {
	struct block_request request;
	struct iovec iov[2];
	_Atomic int state; /* 0 in flight, 1 done */
	int result;
};

static void done(struct block_request *request, int result)
{
	struct job *job = (struct job *)request;

	job->result = result;
	assert_int_equal(atomic_exchange(&job->state, 1), 0);
}

static void start(struct block *block, struct job *job, enum block_op op, uint64_t offset,
		  uint8_t *bytes, size_t len)
{
	memset(job, 0, sizeof(*job));
	job->request.op = op;
	job->request.offset = offset;
	job->request.len = len;
	job->request.iov = job->iov;
	job->request.iov_count = 2;
	job->iov[0] = (struct iovec){ bytes, 4096 };
	job->iov[1] = (struct iovec){ bytes + 4096, len - 4096 };
	job->request.done = done;
	block_submit(block, &job->request);
	block_commit(block);
}

static int end(struct job *job)
{
	for (unsigned i = 0; i < 10000 && !atomic_load(&job->state); i++)
		usleep(1000);
	assert_int_equal(atomic_load(&job->state), 1);
	return job->result;
}

/* --- an io that finishes what it is told to --- */

#define PENDING_MAX 16

struct fake {
	uint8_t disk[DISK];
	struct block_request *pending[PENDING_MAX];
	bool told[PENDING_MAX];
	int error[PENDING_MAX];
	unsigned count;
};

static struct fake fake;

static int fake_open(struct block *block, unsigned depth)
{
	block->ready_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	return block->ready_fd < 0 ? -errno : 0;
}

static void fake_close(struct block *block)
{
	close(block->ready_fd);
}

static void fake_submit(struct block *block, struct block_request *request)
{
	assert_true(fake.count < PENDING_MAX);
	fake.told[fake.count] = false;
	fake.error[fake.count] = 0;
	fake.pending[fake.count++] = request;
}

static void fake_commit(struct block *block)
{
}

static int move(const struct block_request *request)
{
	uint64_t at = request->offset + request->completed;
	int moved = 0;

	for (unsigned i = 0; i < request->iov_count; i++) {
		if (request->op == BLOCK_READ)
			memcpy(request->iov[i].iov_base, fake.disk + at, request->iov[i].iov_len);
		else
			memcpy(fake.disk + at, request->iov[i].iov_base, request->iov[i].iov_len);
		at += request->iov[i].iov_len;
		moved += (int)request->iov[i].iov_len;
	}
	return moved;
}

static void fake_reap(struct block *block)
{
	unsigned kept = 0;
	uint64_t count;

	(void)!read(block->ready_fd, &count, sizeof(count));
	for (unsigned i = 0; i < fake.count; i++) {
		struct block_request *request = fake.pending[i];

		if (fake.told[i]) {
			block_io_finish(block, request,
					fake.error[i] ? fake.error[i] : move(request));
			continue;
		}
		fake.pending[kept] = request;
		fake.told[kept] = false;
		kept++;
	}
	fake.count = kept;
}

static void fake_wait(struct block *block)
{
	for (unsigned i = 0; i < fake.count; i++)
		fake.told[i] = true;
}

static const struct block_io_ops fake_ops = {
	.name = "fake",
	.open = fake_open,
	.close = fake_close,
	.submit = fake_submit,
	.commit = fake_commit,
	.reap = fake_reap,
	.wait = fake_wait,
};

static struct loop *loop;

static struct block *fake_block(void)
{
	struct block *block = calloc(1, sizeof(*block));

	memset(&fake, 0, sizeof(fake));
	for (unsigned i = 0; i < DISK; i++)
		fake.disk[i] = (uint8_t)(i * 2654435761u >> 15);
	loop = loop_new();
	block_init(block, loop);
	block->ahead.life_ns = INT64_MAX; /* this host may be slow */
	block->info.size_bytes = DISK;
	block->info.iov_align = 1;
	block->direct_align = 512;
	block->direct_always = true;
	block->fd = dup(0);
	block->direct_fd = dup(0); /* only compared */
	assert_int_equal(block_bind(block, &fake_ops, 8), 0);
	assert_int_equal(loop_start(loop), 0);
	return block;
}

static void fake_free(struct block *block)
{
	loop_stop(loop);
	block_close(block);
	loop_free(loop);
}

/* Whether the io has a request of this offset; `how` is 0 to look, 1 to finish it, or an error. */
static bool pending(struct block *block, uint64_t offset, int how)
{
	uint64_t one = 1;
	bool found = false;

	pthread_mutex_lock(&block->lock);
	for (unsigned i = 0; i < fake.count && !found; i++) {
		if (fake.pending[i]->offset != offset || fake.told[i])
			continue;
		found = true;
		if (how) {
			fake.told[i] = true;
			fake.error[i] = how < 0 ? how : 0;
		}
	}
	pthread_mutex_unlock(&block->lock);
	if (found && how)
		assert_int_equal(write(block->ready_fd, &one, sizeof(one)), sizeof(one));
	return found;
}

static enum { EMPTY_OR_GONE, IN_FLIGHT, READY } piece_state(struct block *block, uint64_t offset)
{
	int state = EMPTY_OR_GONE;

	pthread_mutex_lock(&block->lock);
	for (unsigned i = 0; i < AHEAD_PIECES; i++) {
		const struct ahead_piece *piece = &block->ahead.piece[i];

		if (piece->state == AHEAD_EMPTY || piece->offset != offset || piece->stale)
			continue;
		state = piece->state == AHEAD_READY ? READY : IN_FLIGHT;
	}
	pthread_mutex_unlock(&block->lock);
	return state;
}

static void until_ready(struct block *block, uint64_t offset)
{
	for (unsigned i = 0; i < 10000 && piece_state(block, offset) != READY; i++)
		usleep(1000);
	assert_int_equal(piece_state(block, offset), READY);
}

static uint8_t buffer[4 * STEP], other[STEP];

/* Two reads from the start: enough for a stream. Pieces at 2 and 3 steps are being fetched then. */
static void stream(struct block *block)
{
	struct job job;

	for (unsigned i = 0; i < 2; i++) {
		start(block, &job, BLOCK_READ, i * STEP, buffer, STEP);
		assert_true(pending(block, i * STEP, 1));
		assert_int_equal(end(&job), 0);
		assert_memory_equal(buffer, fake.disk + i * STEP, STEP);
	}
	assert_true(pending(block, 2 * STEP, 0));
	assert_true(pending(block, 3 * STEP, 0));
	assert_int_equal(fake.count, 2);
}

static void served(void **state)
{
	struct block *block = fake_block();
	struct job job;

	stream(block);
	/* One that is there already ... */
	assert_true(pending(block, 2 * STEP, 1));
	until_ready(block, 2 * STEP);
	start(block, &job, BLOCK_READ, 2 * STEP, buffer, STEP);
	assert_int_equal(end(&job), 0);
	assert_memory_equal(buffer, fake.disk + 2 * STEP, STEP);
	/* ... whose room is used for the next, and one that is waited for. */
	assert_true(pending(block, 4 * STEP, 0));
	start(block, &job, BLOCK_READ, 3 * STEP, buffer, STEP);
	usleep(20000);
	assert_int_equal(atomic_load(&job.state), 0);
	assert_true(pending(block, 3 * STEP, 1));
	assert_int_equal(end(&job), 0);
	assert_memory_equal(buffer, fake.disk + 3 * STEP, STEP);
	assert_int_equal(block->ahead.served, 2);
	fake_free(block);
}

static void not_a_stream(void **state)
{
	static const uint64_t offsets[] = { 5, 9, 0, 4, 5 };
	struct block *block = fake_block();
	struct job job, second;

	for (unsigned i = 0; i < 5; i++) {
		start(block, &job, BLOCK_READ, offsets[i] * STEP, buffer, STEP);
		assert_true(pending(block, offsets[i] * STEP, 1));
		assert_int_equal(end(&job), 0);
		assert_int_equal(fake.count, 0);
	}
	/* Small ones in a row, and large ones of which two are in flight. */
	for (unsigned i = 0; i < 5; i++) {
		start(block, &job, BLOCK_READ, i * 64 * KIB, buffer, 64 * KIB);
		assert_true(pending(block, i * 64 * KIB, 1));
		assert_int_equal(end(&job), 0);
		assert_int_equal(fake.count, 0);
	}
	for (unsigned i = 0; i < 6; i += 2) {
		start(block, &job, BLOCK_READ, i * STEP, buffer, STEP);
		start(block, &second, BLOCK_READ, (i + 1) * STEP, buffer + STEP, STEP);
		assert_true(pending(block, i * STEP, 1));
		assert_int_equal(end(&job), 0);
		assert_true(pending(block, (i + 1) * STEP, 1));
		assert_int_equal(end(&second), 0);
		if (i == 0)
			assert_int_equal(fake.count, 0);
		block_drain(block); /* the third read found nothing else in flight */
	}
	fake_free(block);
}

/* The guest writes to what was fetched: before and after it came, and while it is waited for. */
static void overtaken_by_a_write(void **state)
{
	for (unsigned turn = 0; turn < 3; turn++) {
		struct block *block = fake_block();
		struct job job, write;

		memset(other, 0xa0 + (int)turn, sizeof(other));
		stream(block);
		if (turn == 0) {
			assert_true(pending(block, 2 * STEP, 1));
			until_ready(block, 2 * STEP);
		} else if (turn == 2) {
			start(block, &job, BLOCK_READ, 2 * STEP, buffer, STEP);
		}
		start(block, &write, BLOCK_WRITE, 2 * STEP + 8192, other, 8192);
		assert_int_equal(piece_state(block, 2 * STEP), EMPTY_OR_GONE);
		if (turn) /* the fetch, which is older than the write */
			assert_true(pending(block, 2 * STEP, 1));
		assert_true(pending(block, 2 * STEP + 8192, 1));
		assert_int_equal(end(&write), 0);
		if (turn < 2)
			start(block, &job, BLOCK_READ, 2 * STEP, buffer, STEP);
		for (unsigned i = 0; i < 1000 && !pending(block, 2 * STEP, 1); i++)
			usleep(1000);
		assert_int_equal(end(&job), 0);
		assert_memory_equal(buffer, fake.disk + 2 * STEP, STEP);
		assert_memory_equal(buffer + 8192, other, 8192);
		assert_int_equal(block->ahead.served, 0);
		fake_free(block);
	}
}

/* While a write is in flight nothing is fetched: it could be older than the write when it comes. */
static void nothing_beside_a_write(void **state)
{
	struct block *block = fake_block();
	struct job job, write;

	start(block, &write, BLOCK_WRITE, 6 * STEP, other, 8192);
	for (unsigned i = 0; i < 4; i++) {
		start(block, &job, BLOCK_READ, i * STEP, buffer, STEP);
		assert_true(pending(block, i * STEP, 1));
		assert_int_equal(end(&job), 0);
		assert_int_equal(fake.count, 1);
	}
	assert_true(pending(block, 6 * STEP, 1));
	assert_int_equal(end(&write), 0);
	start(block, &job, BLOCK_READ, 4 * STEP, buffer, STEP);
	assert_true(pending(block, 4 * STEP, 1));
	assert_int_equal(end(&job), 0);
	assert_true(pending(block, 5 * STEP, 0));
	fake_free(block);
}

static void failed(void **state)
{
	struct block *block = fake_block();
	struct job job;

	/* A fetch that fails while it is waited for, and then one nobody waits for: the request is
	 * tried by itself, and its own result counts. */
	stream(block);
	start(block, &job, BLOCK_READ, 2 * STEP, buffer, STEP);
	assert_true(pending(block, 2 * STEP, -EIO));
	for (unsigned i = 0; i < 1000 && !pending(block, 2 * STEP, 1); i++)
		usleep(1000);
	assert_int_equal(end(&job), 0);
	assert_memory_equal(buffer, fake.disk + 2 * STEP, STEP);
	assert_true(pending(block, 3 * STEP, -EIO));
	for (unsigned i = 0; i < 1000 && piece_state(block, 3 * STEP) != EMPTY_OR_GONE; i++)
		usleep(1000);
	start(block, &job, BLOCK_READ, 3 * STEP, buffer, STEP);
	assert_true(pending(block, 3 * STEP, -ENODATA));
	assert_int_equal(end(&job), -ENODATA);
	assert_int_equal(block->ahead.served, 0);
	fake_free(block);
}

static void to_the_end_of_the_disk(void **state)
{
	struct block *block = fake_block();
	struct job job;

	stream(block);
	for (unsigned i = 2; i < DISK / STEP; i++) {
		start(block, &job, BLOCK_READ, i * STEP, buffer, STEP);
		assert_true(pending(block, i * STEP, 1));
		assert_int_equal(end(&job), 0);
		assert_memory_equal(buffer, fake.disk + i * STEP, STEP);
	}
	assert_int_equal(fake.count, 0);
	assert_int_equal(block->ahead.served, DISK / STEP - 2);
	fake_free(block);
}

/* Neither what is old nor what was there before a drain is used. */
static void forgotten(void **state)
{
	struct block *block = fake_block();
	struct job job;

	stream(block);
	assert_true(pending(block, 2 * STEP, 1));
	until_ready(block, 2 * STEP);
	block->ahead.life_ns = 1000000;
	usleep(2000);
	fake.disk[2 * STEP] ^= 0xff;
	start(block, &job, BLOCK_READ, 2 * STEP, buffer, STEP);
	assert_true(pending(block, 2 * STEP, 1));
	assert_int_equal(end(&job), 0);
	assert_memory_equal(buffer, fake.disk + 2 * STEP, STEP);

	block->ahead.life_ns = INT64_MAX;
	block_drain(block);
	assert_int_equal(block->in_flight, 0);
	fake.disk[3 * STEP] ^= 0xff;
	start(block, &job, BLOCK_READ, 3 * STEP, buffer, STEP);
	assert_true(pending(block, 3 * STEP, 1));
	assert_int_equal(end(&job), 0);
	assert_memory_equal(buffer, fake.disk + 3 * STEP, STEP);
	assert_int_equal(block->ahead.served, 0);
	fake_free(block);
}

/* --- real files --- */

static uint64_t random_next(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

/* Streams, writes into them and jumps, against a copy of what the disk should hold. */
static void storm(enum block_io io)
{
	struct block_options options = { .io = io, .direct = true };
	uint8_t *model = aligned_alloc(4096, DISK), *bytes = aligned_alloc(4096, AHEAD_MAX);
	char path[] = "block-ahead-XXXXXX", error[BLOCK_ERROR_MAX] = "";
	int fd = mkstemp(path);
	uint64_t seed = 0x9e3779b97f4a7c15, at = 0;
	struct block *block;
	struct job job;

	assert_true(fd >= 0);
	for (unsigned i = 0; i < DISK; i++)
		model[i] = (uint8_t)(i * 2654435761u >> 13);
	assert_int_equal(pwrite(fd, model, DISK, 0), DISK);
	options.path = path;
	loop = loop_new();
	assert_int_equal(loop_start(loop), 0);
	block = block_raw_open(loop, &options, error);
	if (!block) {
		print_message("skipped: %s\n", error);
		goto out;
	}
	block->ahead.life_ns = INT64_MAX;
	for (unsigned i = 0; i < 300; i++) {
		uint64_t draw = random_next(&seed);
		size_t len = STEP << (draw >> 8 & 1);

		if ((draw & 15) == 0)
			at = (draw >> 16) % (DISK / STEP) * STEP;
		if ((draw & 15) == 1) {
			uint64_t where = (draw >> 16) % (DISK / 4096 - 4) * 4096;

			memset(bytes, (int)(draw >> 40), 16384);
			memcpy(model + where, bytes, 16384);
			start(block, &job, BLOCK_WRITE, where, bytes, 16384);
			assert_int_equal(end(&job), 0);
			continue;
		}
		if ((draw & 0xf0) != 0x10) /* mostly the same length, as streams have it */
			len = STEP;
		if (at + len > DISK)
			at = 0;
		start(block, &job, BLOCK_READ, at, bytes, len);
		assert_int_equal(end(&job), 0);
		assert_memory_equal(bytes, model + at, len);
		at += len;
	}
	if (block->direct_fd >= 0)
		assert_true(block->ahead.served > 30);
	else
		print_message("no direct I/O here: nothing was read ahead\n");
	block_close(block);
out:
	loop_free(loop);
	close(fd);
	unlink(path);
	free(model);
	free(bytes);
}

static void storm_uring(void **state)
{
	storm(BLOCK_IO_URING);
}

static void storm_threads(void **state)
{
	storm(BLOCK_IO_THREADS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(served),
		cmocka_unit_test(not_a_stream),
		cmocka_unit_test(overtaken_by_a_write),
		cmocka_unit_test(nothing_beside_a_write),
		cmocka_unit_test(failed),
		cmocka_unit_test(to_the_end_of_the_disk),
		cmocka_unit_test(forgotten),
		cmocka_unit_test(storm_uring),
		cmocka_unit_test(storm_threads),
	};

	log_set_level(LOG_DEBUG);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
