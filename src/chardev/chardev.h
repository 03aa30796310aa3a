/*
 * Character back ends: where a serial port's or console port's bytes go.
 *
 * The front end (a device) writes with chardev_write() from any thread; it
 * never blocks and may accept fewer bytes than offered. Whoever is refused is
 * told by `writable` when there is room again. Input arrives through
 * `receive`, on the event loop's thread; the front end says how much it can
 * take with `room`, and calls chardev_kick_input() when it has room again.
 */
#ifndef INSULA_CHARDEV_CHARDEV_H
#define INSULA_CHARDEV_CHARDEV_H

#include <stddef.h>
#include <stdint.h>

struct chardev;

struct chardev_frontend {
	size_t (*room)(void *ctx);                                      /* bytes the front end can take now */
	void (*receive)(void *ctx, const uint8_t *bytes, size_t count); /* at most what room() said */
	void (*writable)(void *ctx);                                    /* room in the back end again; may be NULL */
	void (*closed)(void *ctx);                                      /* input ended (EOF); may be NULL */
	void *ctx;
};

/* A back end embeds this and fills ops; see chardev_fd.h, chardev_memory.h. */
struct chardev_ops {
	size_t (*write)(struct chardev *chr, const uint8_t *bytes, size_t count);
	void (*kick_input)(struct chardev *chr);
	void (*free)(struct chardev *chr);
};

struct chardev {
	const struct chardev_ops *ops;
	struct chardev_frontend frontend;
};

/*
 * Once, before the machine runs. Input is not read before it, so nothing typed
 * early is lost.
 */
static inline void chardev_connect(struct chardev *chr, const struct chardev_frontend *frontend)
{
	if (!chr)
		return;
	chr->frontend = *frontend;
	if (chr->ops->kick_input)
		chr->ops->kick_input(chr);
}

/* Number of bytes accepted, 0..count. A NULL back end accepts and forgets everything. */
static inline size_t chardev_write(struct chardev *chr, const uint8_t *bytes, size_t count)
{
	return chr ? chr->ops->write(chr, bytes, count) : count;
}

static inline void chardev_kick_input(struct chardev *chr)
{
	if (chr && chr->ops->kick_input)
		chr->ops->kick_input(chr);
}

/* After it no callback of the front end runs or will. Output still waiting is dropped; see chardev_fd_drain. */
static inline void chardev_free(struct chardev *chr)
{
	if (chr)
		chr->ops->free(chr);
}

#endif
