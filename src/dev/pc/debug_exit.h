/*
 * Port 0xf4: a write ends the run, with the value written as its code. For test
 * guests; present only when asked for.
 */
#ifndef INSULA_DEV_PC_DEBUG_EXIT_H
#define INSULA_DEV_PC_DEBUG_EXIT_H

#include "bus/stop.h"

struct bus;
struct debug_exit;

/* NULL with errno on failure. */
struct debug_exit *debug_exit_new(struct stop_sink stop);
/* Leaves the bus, so the bus goes after it. */
void debug_exit_free(struct debug_exit *port);
int debug_exit_attach(struct debug_exit *port, struct bus *pio) __attribute__((warn_unused_result));

#endif
