/*
 * A character back end that several may look at: what the guest writes goes to
 * the monitor's own stream, if it has one, to whoever has attached, and into a
 * log of its last bytes. What any of them types goes to the guest.
 *
 * Only the monitor's own stream holds the guest up when nobody reads it; who
 * has attached and does not keep up loses what does not fit.
 */
#ifndef INSULA_CLI_CHARDEV_HUB_H
#define INSULA_CLI_CHARDEV_HUB_H

#include <stdbool.h>
#include <stddef.h>

#include "chardev/chardev.h"

struct loop;

#define HUB_LOG_BYTES    (256u << 10)
#define HUB_ATTACHED_MAX 8

/* own: borrowed, NULL: nobody but those who attach. NULL with errno. */
struct chardev *chardev_hub_new(struct loop *loop, struct chardev *own);
/* Another output of the same hub, as a command's stderr; borrowed from the hub, freed with it. */
struct chardev *chardev_hub_err(struct chardev *hub, struct chardev *own);
/* The loop's thread. Takes the descriptor (a socket); false and closed if too many are attached. */
bool chardev_hub_attach(struct chardev *hub, int fd);
/* The last bytes written, at most HUB_LOG_BYTES; malloc()ed. NULL: no memory. Any thread. */
char *chardev_hub_log(struct chardev *hub, size_t *len);
/* Sends what waits to those attached, or gives up after a moment. After the loop has stopped. */
void chardev_hub_drain(struct chardev *hub);

#endif
