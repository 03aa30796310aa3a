/* See the header. Written by the serial port on any thread; bounded whatever a guest prints. */
#include "cli/chardev_tail.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#define TAIL_BYTES 4096

struct chardev_tail {
	struct chardev chr;
	pthread_mutex_t lock; /* guards all below */
	uint64_t written;
	uint8_t bytes[TAIL_BYTES];
};

static size_t tail_write(struct chardev *chr, const uint8_t *bytes, size_t count)
{
	struct chardev_tail *t = (struct chardev_tail *)chr;

	pthread_mutex_lock(&t->lock);
	for (size_t i = 0; i < count; i++)
		t->bytes[t->written++ % TAIL_BYTES] = bytes[i];
	pthread_mutex_unlock(&t->lock);
	return count;
}

static void tail_free(struct chardev *chr)
{
	struct chardev_tail *t = (struct chardev_tail *)chr;

	pthread_mutex_destroy(&t->lock);
	free(t);
}

static const struct chardev_ops tail_ops = {
	.write = tail_write,
	.free = tail_free,
};

struct chardev *chardev_tail_new(void)
{
	struct chardev_tail *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	t->chr.ops = &tail_ops;
	pthread_mutex_init(&t->lock, NULL);
	return &t->chr;
}

void chardev_tail_print(struct chardev *chr, FILE *out, const char *prefix)
{
	struct chardev_tail *t = (struct chardev_tail *)chr;
	bool line_begins = true;
	uint64_t at;

	pthread_mutex_lock(&t->lock);
	at = t->written > TAIL_BYTES ? t->written - TAIL_BYTES : 0;
	/* The first line has lost its beginning. */
	if (at) {
		while (at < t->written && t->bytes[at % TAIL_BYTES] != '\n')
			at++;
		at++;
	}
	for (; at < t->written; at++) {
		uint8_t c = t->bytes[at % TAIL_BYTES];

		if (c == '\n') {
			if (!line_begins)
				fputc('\n', out);
			line_begins = true;
		} else if ((c >= 0x20 && c < 0x7f) || c == '\t') {
			if (line_begins)
				fputs(prefix, out);
			line_begins = false;
			fputc(c, out);
		}
	}
	if (!line_begins)
		fputc('\n', out);
	pthread_mutex_unlock(&t->lock);
}

char *chardev_tail_copy(struct chardev *chr, size_t *len)
{
	struct chardev_tail *t = (struct chardev_tail *)chr;
	char *copy = malloc(TAIL_BYTES);

	*len = 0;
	if (!copy)
		return NULL;
	pthread_mutex_lock(&t->lock);
	for (uint64_t at = t->written > TAIL_BYTES ? t->written - TAIL_BYTES : 0; at < t->written;
	     at++)
		copy[(*len)++] = (char)t->bytes[at % TAIL_BYTES];
	pthread_mutex_unlock(&t->lock);
	return copy;
}
