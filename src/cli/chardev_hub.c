/*
 * See the header. Put by `insula run` between the guest's terminal and
 * everybody who looks at it. Invariant: the set of the attached changes on the
 * loop's thread alone and under the lock, which is never held over a call of a
 * front end.
 */
#include "cli/chardev_hub.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/loop.h"
#include "chardev/chardev_fd.h"

#define DRAIN_MS 200

struct hub;

struct attached {
	struct hub *hub;
	struct chardev *chr; /* NULL: a free place */
	bool gone;           /* to be freed by the task */
};

struct hub_err {
	struct chardev chr; /* first: the ops get a pointer to it */
	struct hub *hub;
	struct chardev *own;
};

struct hub {
	struct chardev chr; /* first: the ops get a pointer to it */
	struct loop *loop;
	struct chardev *own;
	struct hub_err err;
	struct loop_task reap_task;

	pthread_mutex_t lock; /* guards all below; back ends are written to under it */
	struct attached attached[HUB_ATTACHED_MAX];
	uint64_t written;
	uint8_t log[HUB_LOG_BYTES];
};

/* Everybody but the own stream gets what that has taken. */
static void hub_tell(struct hub *h, const uint8_t *bytes, size_t count)
{
	pthread_mutex_lock(&h->lock);
	for (size_t done = 0; done < count;) {
		size_t at = h->written % HUB_LOG_BYTES;
		size_t chunk =
			HUB_LOG_BYTES - at < count - done ? HUB_LOG_BYTES - at : count - done;

		memcpy(h->log + at, bytes + done, chunk);
		h->written += chunk;
		done += chunk;
	}
	for (unsigned i = 0; i < HUB_ATTACHED_MAX; i++)
		if (h->attached[i].chr && !h->attached[i].gone)
			chardev_write(h->attached[i].chr, bytes, count);
	pthread_mutex_unlock(&h->lock);
}

static size_t hub_write(struct chardev *chr, const uint8_t *bytes, size_t count)
{
	struct hub *h = (struct hub *)chr;

	count = chardev_write(h->own, bytes, count);
	hub_tell(h, bytes, count);
	return count;
}

static void hub_kick_input(struct chardev *chr)
{
	struct hub *h = (struct hub *)chr;

	chardev_kick_input(h->own);
	pthread_mutex_lock(&h->lock);
	for (unsigned i = 0; i < HUB_ATTACHED_MAX; i++)
		if (h->attached[i].chr && !h->attached[i].gone)
			chardev_kick_input(h->attached[i].chr);
	pthread_mutex_unlock(&h->lock);
}

static void hub_free(struct chardev *chr)
{
	static const struct chardev_frontend nobody;
	struct hub *h = (struct hub *)chr;

	if (h->own)
		h->own->frontend = nobody;
	loop_cancel(h->loop, &h->reap_task);
	for (unsigned i = 0; i < HUB_ATTACHED_MAX; i++)
		chardev_free(h->attached[i].chr);
	pthread_mutex_destroy(&h->lock);
	free(h);
}

static const struct chardev_ops hub_ops = {
	.write = hub_write,
	.kick_input = hub_kick_input,
	.free = hub_free,
};

/* ---- input, on the loop's thread ---- */

static size_t own_room(void *ctx)
{
	const struct chardev_frontend *front = &((struct hub *)ctx)->chr.frontend;

	return front->room ? front->room(front->ctx) : 0;
}

static void own_receive(void *ctx, const uint8_t *bytes, size_t count)
{
	const struct chardev_frontend *front = &((struct hub *)ctx)->chr.frontend;

	if (front->receive)
		front->receive(front->ctx, bytes, count);
}

static void own_writable(void *ctx)
{
	const struct chardev_frontend *front = &((struct hub *)ctx)->chr.frontend;

	if (front->writable)
		front->writable(front->ctx);
}

static void own_closed(void *ctx)
{
	const struct chardev_frontend *front = &((struct hub *)ctx)->chr.frontend;

	if (front->closed)
		front->closed(front->ctx);
}

static size_t attached_room(void *ctx)
{
	return own_room(((struct attached *)ctx)->hub);
}

static void attached_receive(void *ctx, const uint8_t *bytes, size_t count)
{
	own_receive(((struct attached *)ctx)->hub, bytes, count);
}

/* Called by the back end itself, which can only be freed later. */
static void attached_closed(void *ctx)
{
	struct attached *a = ctx;

	pthread_mutex_lock(&a->hub->lock);
	a->gone = true;
	pthread_mutex_unlock(&a->hub->lock);
	loop_post(a->hub->loop, &a->hub->reap_task);
}

static void reap(void *ctx)
{
	struct hub *h = ctx;

	for (unsigned i = 0; i < HUB_ATTACHED_MAX; i++) {
		struct attached *a = &h->attached[i];
		struct chardev *chr = NULL;

		pthread_mutex_lock(&h->lock);
		if (a->gone) {
			chr = a->chr;
			a->chr = NULL;
			a->gone = false;
		}
		pthread_mutex_unlock(&h->lock);
		chardev_free(chr);
	}
}

/* ---- interface ---- */

struct chardev *chardev_hub_new(struct loop *loop, struct chardev *own)
{
	struct hub *h = calloc(1, sizeof(*h));
	const struct chardev_frontend front = {
		.room = own_room,
		.receive = own_receive,
		.writable = own_writable,
		.closed = own_closed,
		.ctx = h,
	};

	if (!h)
		return NULL;
	h->chr.ops = &hub_ops;
	h->loop = loop;
	h->own = own;
	pthread_mutex_init(&h->lock, NULL);
	loop_task_init(&h->reap_task, reap, h);
	for (unsigned i = 0; i < HUB_ATTACHED_MAX; i++)
		h->attached[i].hub = h;
	chardev_connect(own, &front);
	return &h->chr;
}

static size_t err_write(struct chardev *chr, const uint8_t *bytes, size_t count)
{
	struct hub_err *err = (struct hub_err *)chr;

	count = chardev_write(err->own, bytes, count);
	hub_tell(err->hub, bytes, count);
	return count;
}

static void err_writable(void *ctx)
{
	const struct chardev_frontend *front = &((struct hub_err *)ctx)->chr.frontend;

	if (front->writable)
		front->writable(front->ctx);
}

/* Lives in the hub. */
static void err_free(struct chardev *chr)
{
}

static const struct chardev_ops err_ops = { .write = err_write, .free = err_free };

struct chardev *chardev_hub_err(struct chardev *hub, struct chardev *own)
{
	struct hub *h = (struct hub *)hub;
	const struct chardev_frontend front = { .writable = err_writable, .ctx = &h->err };

	h->err = (struct hub_err){ .chr.ops = &err_ops, .hub = h, .own = own };
	chardev_connect(own, &front);
	return &h->err.chr;
}

bool chardev_hub_attach(struct chardev *hub, int fd)
{
	struct hub *h = (struct hub *)hub;
	struct chardev *chr = chardev_fd_new(h->loop, fd, fd);
	struct chardev_frontend front = {
		.room = attached_room,
		.receive = attached_receive,
		.closed = attached_closed,
	};
	unsigned place = 0;

	close(fd);
	if (!chr)
		return false;
	pthread_mutex_lock(&h->lock);
	while (place < HUB_ATTACHED_MAX && h->attached[place].chr)
		place++;
	if (place < HUB_ATTACHED_MAX)
		h->attached[place].chr = chr;
	pthread_mutex_unlock(&h->lock);
	if (place == HUB_ATTACHED_MAX) {
		chardev_free(chr);
		return false;
	}
	front.ctx = &h->attached[place];
	chardev_connect(chr, &front);
	return true;
}

char *chardev_hub_log(struct chardev *hub, size_t *len)
{
	struct hub *h = (struct hub *)hub;
	char *copy = malloc(HUB_LOG_BYTES);
	uint64_t at;

	if (!copy)
		return NULL;
	pthread_mutex_lock(&h->lock);
	at = h->written > HUB_LOG_BYTES ? h->written - HUB_LOG_BYTES : 0;
	*len = 0;
	while (at < h->written) {
		copy[(*len)++] = (char)h->log[at % HUB_LOG_BYTES];
		at++;
	}
	pthread_mutex_unlock(&h->lock);
	return copy;
}

void chardev_hub_drain(struct chardev *hub)
{
	struct hub *h = (struct hub *)hub;

	for (unsigned i = 0; hub && i < HUB_ATTACHED_MAX; i++)
		if (h->attached[i].chr)
			chardev_fd_drain(h->attached[i].chr, DRAIN_MS);
}
