/*
 * A character back end for tests: what the front end writes can be taken, and
 * input can be injected. No thread of its own: `receive` runs on the thread
 * that injects or kicks, `writable` on the one that takes.
 */
#ifndef INSULA_CHARDEV_CHARDEV_MEMORY_H
#define INSULA_CHARDEV_CHARDEV_MEMORY_H

#include "chardev/chardev.h"

/* Holds up to `capacity` bytes of output, and as many of input. NULL with errno on failure. */
struct chardev *chardev_memory_new(size_t capacity);

/* Queues input and feeds what the front end has room for. Bytes queued, 0..count. */
size_t chardev_memory_inject(struct chardev *chr, const void *bytes, size_t count);
/* Input still queued because the front end had no room. */
size_t chardev_memory_queued(struct chardev *chr);
/* Takes up to `count` bytes of output. */
size_t chardev_memory_take(struct chardev *chr, void *bytes, size_t count);
/* Ends the input: `closed` is called. */
void chardev_memory_close(struct chardev *chr);

#endif
