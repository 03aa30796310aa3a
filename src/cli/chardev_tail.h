/*
 * A character back end that keeps only the last bytes written: the console of
 * a guest that is used through its agent, shown when the guest dies of itself.
 */
#ifndef INSULA_CLI_CHARDEV_TAIL_H
#define INSULA_CLI_CHARDEV_TAIL_H

#include <stdio.h>

#include "chardev/chardev.h"

struct chardev *chardev_tail_new(void);
/* Whole lines, unprintable bytes left out, with `prefix` before each. The guest stands still. */
void chardev_tail_print(struct chardev *chr, FILE *out, const char *prefix);

/* The kept bytes as they are; malloc()ed. NULL: no memory. */
char *chardev_tail_copy(struct chardev *chr, size_t *len);

#endif
