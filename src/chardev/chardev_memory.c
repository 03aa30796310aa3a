/*
 * Character back end in memory, for tests of front ends. Invariant: the front
 * end is called with no lock held.
 */
#include "chardev/chardev_memory.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct chardev_memory {
	struct chardev chr;
	pthread_mutex_t lock;
	size_t capacity, in_count, out_count;
	int refused;
	uint8_t *in, *out;
};

static size_t memory_write(struct chardev *chr, const uint8_t *bytes, size_t count)
{
	struct chardev_memory *m = (struct chardev_memory *)chr;

	pthread_mutex_lock(&m->lock);
	if (count > m->capacity - m->out_count) {
		count = m->capacity - m->out_count;
		m->refused = 1;
	}
	memcpy(m->out + m->out_count, bytes, count);
	m->out_count += count;
	pthread_mutex_unlock(&m->lock);
	return count;
}

static size_t take(uint8_t *from, size_t *held, void *bytes, size_t count)
{
	if (count > *held)
		count = *held;
	memcpy(bytes, from, count);
	memmove(from, from + count, *held - count);
	*held -= count;
	return count;
}

static void feed(struct chardev *chr)
{
	struct chardev_memory *m = (struct chardev_memory *)chr;
	const struct chardev_frontend *front = &chr->frontend;
	uint8_t bytes[256];
	size_t count;

	if (!front->room || !front->receive)
		return;
	do {
		count = front->room(front->ctx);
		if (count > sizeof(bytes))
			count = sizeof(bytes);
		pthread_mutex_lock(&m->lock);
		count = take(m->in, &m->in_count, bytes, count);
		pthread_mutex_unlock(&m->lock);
		if (count)
			front->receive(front->ctx, bytes, count);
	} while (count);
}

static void memory_free(struct chardev *chr)
{
	struct chardev_memory *m = (struct chardev_memory *)chr;

	pthread_mutex_destroy(&m->lock);
	free(m->in);
	free(m->out);
	free(m);
}

static const struct chardev_ops memory_ops = {
	.write = memory_write,
	.kick_input = feed,
	.free = memory_free,
};

struct chardev *chardev_memory_new(size_t capacity)
{
	struct chardev_memory *m = calloc(1, sizeof(*m));

	if (!m)
		return NULL;
	m->chr.ops = &memory_ops;
	m->capacity = capacity;
	pthread_mutex_init(&m->lock, NULL);
	m->in = malloc(capacity);
	m->out = malloc(capacity);
	if (m->in && m->out)
		return &m->chr;
	memory_free(&m->chr);
	return NULL;
}

size_t chardev_memory_inject(struct chardev *chr, const void *bytes, size_t count)
{
	struct chardev_memory *m = (struct chardev_memory *)chr;

	pthread_mutex_lock(&m->lock);
	if (count > m->capacity - m->in_count)
		count = m->capacity - m->in_count;
	memcpy(m->in + m->in_count, bytes, count);
	m->in_count += count;
	pthread_mutex_unlock(&m->lock);
	feed(chr);
	return count;
}

size_t chardev_memory_queued(struct chardev *chr)
{
	struct chardev_memory *m = (struct chardev_memory *)chr;
	size_t count;

	pthread_mutex_lock(&m->lock);
	count = m->in_count;
	pthread_mutex_unlock(&m->lock);
	return count;
}

size_t chardev_memory_take(struct chardev *chr, void *bytes, size_t count)
{
	struct chardev_memory *m = (struct chardev_memory *)chr;
	int writable;

	pthread_mutex_lock(&m->lock);
	count = take(m->out, &m->out_count, bytes, count);
	writable = count && m->refused;
	if (writable)
		m->refused = 0;
	pthread_mutex_unlock(&m->lock);
	if (writable && chr->frontend.writable)
		chr->frontend.writable(chr->frontend.ctx);
	return count;
}

void chardev_memory_close(struct chardev *chr)
{
	if (chr->frontend.closed)
		chr->frontend.closed(chr->frontend.ctx);
}
