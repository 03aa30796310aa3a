/*
 * See the header. Put by `insula run` between the terminal and whatever the
 * user types to. Invariant: everything but escape_write and escape_kick runs on
 * the loop's thread, which alone touches the ring.
 */
#include "cli/chardev_escape.h"

#include <stdlib.h>

#include "base/loop.h"
#include "cli/terminal.h"

#define CHUNK 512

struct chardev_escape {
	struct chardev chr;
	struct chardev *inner;
	struct loop *loop;
	struct loop_task deliver_task;
	void (*quit)(void *ctx);
	void *ctx;
	struct escape escape;
	bool ended;       /* the inner one has no more input */
	bool told;        /* and the front end knows */
	size_t at, count; /* the ring's oldest byte and how many wait */
	uint8_t ring[CHARDEV_ESCAPE_AHEAD];
};

static size_t escape_write(struct chardev *chr, const uint8_t *bytes, size_t count)
{
	return chardev_write(((struct chardev_escape *)chr)->inner, bytes, count);
}

static void escape_kick(struct chardev *chr)
{
	struct chardev_escape *e = (struct chardev_escape *)chr;

	loop_post(e->loop, &e->deliver_task);
}

static void deliver(void *ctx)
{
	struct chardev_escape *e = ctx;
	const struct chardev_frontend *front = &e->chr.frontend;

	while (e->count && front->room && front->receive) {
		size_t take = front->room(front->ctx);

		if (!take)
			return; /* escape_kick brings us back */
		if (take > e->count)
			take = e->count;
		if (take > CHARDEV_ESCAPE_AHEAD - e->at)
			take = CHARDEV_ESCAPE_AHEAD - e->at;
		front->receive(front->ctx, e->ring + e->at, take);
		e->at = (e->at + take) % CHARDEV_ESCAPE_AHEAD;
		e->count -= take;
	}
	if (e->ended && !e->told && front->closed) {
		e->told = true;
		front->closed(front->ctx);
	}
}

static size_t inner_room(void *ctx)
{
	return CHUNK;
}

static void inner_receive(void *ctx, const uint8_t *bytes, size_t count)
{
	struct chardev_escape *e = ctx;
	uint8_t out[2 * CHUNK];
	size_t made;
	bool quit;

	if (count > CHUNK)
		count = CHUNK;
	made = escape_filter(&e->escape, bytes, count, out, &quit);
	for (size_t i = 0; i < made && e->count < CHARDEV_ESCAPE_AHEAD; i++)
		e->ring[(e->at + e->count++) % CHARDEV_ESCAPE_AHEAD] = out[i];
	deliver(e);
	if (quit)
		e->quit(e->ctx);
}

static void inner_writable(void *ctx)
{
	const struct chardev_frontend *front = &((struct chardev_escape *)ctx)->chr.frontend;

	if (front->writable)
		front->writable(front->ctx);
}

static void inner_closed(void *ctx)
{
	struct chardev_escape *e = ctx;

	e->ended = true;
	deliver(e);
}

static void escape_free(struct chardev *chr)
{
	struct chardev_escape *e = (struct chardev_escape *)chr;

	loop_cancel(e->loop, &e->deliver_task);
	free(e);
}

static const struct chardev_ops escape_ops = {
	.write = escape_write,
	.kick_input = escape_kick,
	.free = escape_free,
};

struct chardev *chardev_escape_new(struct loop *loop, struct chardev *inner,
				   void (*quit)(void *ctx), void *ctx)
{
	struct chardev_escape *e = calloc(1, sizeof(*e));
	const struct chardev_frontend front = {
		.room = inner_room,
		.receive = inner_receive,
		.writable = inner_writable,
		.closed = inner_closed,
		.ctx = e,
	};

	if (!e)
		return NULL;
	e->chr.ops = &escape_ops;
	e->inner = inner;
	e->loop = loop;
	e->quit = quit;
	e->ctx = ctx;
	loop_task_init(&e->deliver_task, deliver, e);
	chardev_connect(inner, &front);
	chardev_kick_input(inner);
	return &e->chr;
}
