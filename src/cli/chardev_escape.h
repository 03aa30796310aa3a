/*
 * A character back end around another one: its input is looked through for
 * Ctrl-] q. Everything else passes unchanged. Input is read ahead, so that the
 * keys work also while the guest takes nothing.
 */
#ifndef INSULA_CLI_CHARDEV_ESCAPE_H
#define INSULA_CLI_CHARDEV_ESCAPE_H

#include "chardev/chardev.h"

struct loop;

/* What a guest that does not read may leave waiting; what is typed beyond it is lost. */
#define CHARDEV_ESCAPE_AHEAD (256u << 10)

/* inner is borrowed and must outlive it; quit is called on the event loop's thread. NULL with
 * errno. */
struct chardev *chardev_escape_new(struct loop *loop, struct chardev *inner,
				   void (*quit)(void *ctx), void *ctx);

#endif
