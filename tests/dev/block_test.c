/* Raw images through both ways of doing I/O, against real files; and every way to be refused. */
#include "block/block.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/loop.h"
#include "base/log.h"

#define IMAGE_BYTES (8u << 20)
#define REQUESTS    64

struct image {
	char path[64];
	int fd;
};

static void image_make(struct image *image, off_t size)
{
	/* Beside the build, not in /tmp, which may be a tmpfs without direct I/O. */
	strcpy(image->path, "block-test-XXXXXX");
	image->fd = mkstemp(image->path);
	assert_true(image->fd >= 0);
	assert_int_equal(ftruncate(image->fd, size), 0);
}

static void image_drop(struct image *image)
{
	close(image->fd);
	unlink(image->path);
}

struct job {
	struct block_request request;
	struct iovec iov[4];
	_Atomic int state; /* 0 in flight, 1 done */
	int result;
};

static _Atomic unsigned finished, batches;

static void done(struct block_request *request, int result)
{
	struct job *job = (struct job *)request;

	job->result = result;
	assert_int_equal(atomic_exchange(&job->state, 1), 0);
	atomic_fetch_add(&finished, 1);
}

static void batch_end(void *ctx)
{
	atomic_fetch_add(&batches, 1);
}

static void job_start(struct block *block, struct job *job, enum block_op op, uint64_t offset,
		      void *bytes, size_t len)
{
	memset(job, 0, sizeof(*job));
	job->request.op = op;
	job->request.offset = offset;
	job->request.len = len;
	job->request.iov = job->iov;
	job->request.done = done;
	/* In up to three pieces. */
	for (size_t at = 0, piece; bytes && at < len; at += piece) {
		piece = len - at > 4096 && job->request.iov_count < 2 ? 4096 : len - at;
		job->iov[job->request.iov_count++] = (struct iovec){ (uint8_t *)bytes + at, piece };
	}
	block_submit(block, &job->request);
}

static int wait_for(struct job *job)
{
	for (unsigned i = 0; i < 10000 && !atomic_load(&job->state); i++)
		usleep(1000);
	assert_int_equal(atomic_load(&job->state), 1);
	return job->result;
}

static int once(struct block *block, enum block_op op, uint64_t offset, void *bytes, size_t len)
{
	struct job job;

	job_start(block, &job, op, offset, bytes, len);
	block_commit(block);
	return wait_for(&job);
}

static void everything(enum block_io io, bool direct)
{
	static struct job jobs[REQUESTS];
	struct image image;
	struct block_options options = { .io = io, .direct = direct };
	char error[BLOCK_ERROR_MAX] = "";
	struct loop *loop = loop_new();
	struct block *block;
	uint8_t *bytes = aligned_alloc(4096, IMAGE_BYTES), *back = aligned_alloc(4096, IMAGE_BYTES);
	struct stat before, after;

	assert_non_null(bytes);
	assert_non_null(back);
	image_make(&image, IMAGE_BYTES);
	options.path = image.path;
	assert_int_equal(loop_start(loop), 0);
	block = block_raw_open(loop, &options, error);
	if (!block && io == BLOCK_IO_URING) {
		print_message("skipped: %s\n", error);
		goto out;
	}
	assert_non_null(block);
	block_connect(block, batch_end, NULL);
	assert_int_equal(block_info(block)->size_bytes, IMAGE_BYTES);
	assert_string_equal(block_info(block)->io_name,
			    io == BLOCK_IO_URING ? "io_uring" : "threads");

	for (unsigned i = 0; i < IMAGE_BYTES; i++)
		bytes[i] = (uint8_t)(i * 2654435761u >> 13);
	for (unsigned i = 0; i < REQUESTS; i++)
		job_start(block, &jobs[i], BLOCK_WRITE, i * 65536ull, bytes + i * 65536, 65536);
	block_commit(block);
	block_drain(block);
	for (unsigned i = 0; i < REQUESTS; i++) {
		assert_int_equal(atomic_load(&jobs[i].state), 1);
		assert_int_equal(jobs[i].result, 0);
	}
	assert_true(atomic_load(&batches) > 0);
	assert_int_equal(once(block, BLOCK_FLUSH, 0, NULL, 0), 0);
	assert_int_equal(pread(image.fd, back, 64 * 65536, 0), 64 * 65536);
	assert_memory_equal(bytes, back, 64 * 65536);

	memset(back, 0, IMAGE_BYTES);
	for (unsigned i = 0; i < REQUESTS; i++)
		job_start(block, &jobs[i], BLOCK_READ, i * 65536ull, back + i * 65536, 65536);
	block_commit(block);
	for (unsigned i = 0; i < REQUESTS; i++)
		assert_int_equal(wait_for(&jobs[i]), 0);
	assert_memory_equal(bytes, back, 64 * 65536);

	/* What direct I/O cannot take: one sector, at an odd address. */
	assert_int_equal(once(block, BLOCK_READ, 512, back + 1, 512), 0);
	assert_memory_equal(back + 1, bytes + 512, 512);
	assert_int_equal(once(block, BLOCK_WRITE, 512, bytes + 777, 1024), 0);
	assert_int_equal(once(block, BLOCK_READ, 0, back, 4096), 0);
	assert_memory_equal(back + 512, bytes + 777, 1024);

	if (block_info(block)->can_discard) {
		assert_int_equal(fstat(image.fd, &before), 0);
		assert_int_equal(once(block, BLOCK_DISCARD, 1 << 20, NULL, 1 << 20), 0);
		assert_int_equal(fstat(image.fd, &after), 0);
		assert_true(after.st_blocks < before.st_blocks);
		assert_int_equal(once(block, BLOCK_WRITE_ZEROES, 0, NULL, 4096), 0);
		assert_int_equal(once(block, BLOCK_READ, 0, back, 4096), 0);
		for (unsigned i = 0; i < 4096; i++)
			assert_int_equal(back[i], 0);
		assert_int_equal(once(block, BLOCK_UNMAP_ZEROES, 3 << 20, NULL, 4096), 0);
		assert_int_equal(after.st_size, IMAGE_BYTES);
	}

	/* Somebody cuts the file: an error, not a short read taken for a whole one. */
	assert_int_equal(ftruncate(image.fd, IMAGE_BYTES / 2), 0);
	assert_int_equal(once(block, BLOCK_READ, IMAGE_BYTES / 2 - 4096, back, 8192), -EIO);
	block_close(block);
out:
	loop_free(loop);
	image_drop(&image);
	free(bytes);
	free(back);
}

static void uring(void **state)
{
	everything(BLOCK_IO_URING, false);
}

static void uring_direct(void **state)
{
	everything(BLOCK_IO_URING, true);
}

static void threads(void **state)
{
	everything(BLOCK_IO_THREADS, false);
}

static void threads_direct(void **state)
{
	everything(BLOCK_IO_THREADS, true);
}

/* More in flight than the ring is deep; the rest waits its turn. */
static void deeper_than_the_ring(void **state)
{
	static struct job jobs[REQUESTS];
	struct block_options options = { .depth = 4 };
	char error[BLOCK_ERROR_MAX];
	struct loop *loop = loop_new();
	struct image image;
	struct block *block;
	uint8_t bytes[512];

	image_make(&image, IMAGE_BYTES);
	options.path = image.path;
	block = block_raw_open(loop, &options, error);
	assert_non_null(block);
	for (unsigned i = 0; i < REQUESTS; i++)
		job_start(block, &jobs[i], BLOCK_READ, i * 512, bytes, 512);
	block_commit(block);
	block_drain(block); /* on this thread: nobody runs the loop */
	for (unsigned i = 0; i < REQUESTS; i++)
		assert_int_equal(jobs[i].result, 0);
	block_close(block);
	loop_free(loop);
	image_drop(&image);
}

static void environment_chooses(void **state)
{
	struct block_options options = { 0 };
	char error[BLOCK_ERROR_MAX];
	struct loop *loop = loop_new();
	struct image image;
	struct block *block;

	image_make(&image, IMAGE_BYTES);
	options.path = image.path;
	setenv("INSULA_IO", "threads", 1);
	block = block_raw_open(loop, &options, error);
	unsetenv("INSULA_IO");
	assert_non_null(block);
	assert_string_equal(block_info(block)->io_name, "threads");
	block_close(block);
	loop_free(loop);
	image_drop(&image);
}

static void refused(struct loop *loop, const char *path, bool read_only, const char *words)
{
	struct block_options options = { .path = path, .read_only = read_only };
	char error[BLOCK_ERROR_MAX] = "";

	assert_null(block_raw_open(loop, &options, error));
	assert_true(errno > 0);
	if (!strstr(error, words) || !strstr(error, path))
		fail_msg("\"%s\" does not say \"%s\"", error, words);
	assert_null(strchr(error, '\n'));
}

static void refusals(void **state)
{
	struct loop *loop = loop_new();
	struct image image;
	struct block_options options = { 0 };
	char error[BLOCK_ERROR_MAX];
	struct block *first, *second;

	image_make(&image, 1000);
	refused(loop, image.path, false, "multiple of 512");
	assert_int_equal(ftruncate(image.fd, 0), 0);
	refused(loop, image.path, false, "empty");
	assert_int_equal(ftruncate(image.fd, 4096), 0);
	refused(loop, "no-such-disk.img", false, "No such file");
	refused(loop, "/", false, "neither a file nor a block device");
	refused(loop, "/dev/null", false, "neither a file nor a block device");
	if (geteuid() != 0) {
		assert_int_equal(fchmod(image.fd, 0400), 0);
		refused(loop, image.path, false, ",ro");
		assert_int_equal(fchmod(image.fd, 0), 0);
		refused(loop, image.path, true, "denied");
		assert_int_equal(fchmod(image.fd, 0600), 0);
	}

	options.path = image.path;
	first = block_raw_open(loop, &options, error);
	assert_non_null(first);
	refused(loop, image.path, false, "in use");
	refused(loop, image.path, true, "in use");
	block_close(first);
	options.read_only = true;
	first = block_raw_open(loop, &options, error);
	second = block_raw_open(loop, &options, error);
	assert_non_null(first);
	assert_non_null(second);
	assert_true(block_info(first)->read_only);
	assert_false(block_info(first)->can_discard);
	refused(loop, image.path, false, "in use");
	block_close(first);
	block_close(second);
	image_drop(&image);
	loop_free(loop);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(uring),
		cmocka_unit_test(uring_direct),
		cmocka_unit_test(threads),
		cmocka_unit_test(threads_direct),
		cmocka_unit_test(deeper_than_the_ring),
		cmocka_unit_test(environment_chooses),
		cmocka_unit_test(refusals),
	};

	log_set_level(LOG_DEBUG);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
