/*
 * A character back end over file descriptors: terminal, pipe, socket, file.
 *
 * Output waits in a buffer of CHARDEV_FD_BUFFER bytes and leaves on the loop's
 * thread. When the reader does not read, chardev_write accepts what fits and
 * then refuses, so a guest that fills its console neither blocks a vcpu nor
 * costs memory; `writable` is called when half of the buffer is free again.
 * When the reader has gone for good (EPIPE), output is accepted and forgotten.
 */
#ifndef INSULA_CHARDEV_CHARDEV_FD_H
#define INSULA_CHARDEV_CHARDEV_FD_H

#include "base/loop.h"
#include "chardev/chardev.h"

#define CHARDEV_FD_BUFFER 65536

/*
 * in_fd -1: no input. out_fd -1: output is forgotten. Both are duplicated, so
 * they stay the caller's. NULL with errno on failure.
 */
struct chardev *chardev_fd_new(struct loop *loop, int in_fd, int out_fd);

/*
 * Waits until all output has been taken, or until the reader took nothing for
 * `stall_ms` (-1: waits for ever). True if nothing is left. For the end of a
 * run, so that the guest's last words arrive; the loop may be stopped by then.
 */
bool chardev_fd_drain(struct chardev *chr, int stall_ms);

#endif
