/*
 * Signals as events: blocked in all threads, read through a signalfd on the
 * event loop. Nothing of the monitor runs in a signal handler.
 */
#ifndef INSULA_CLI_RUN_SIGNALS_H
#define INSULA_CLI_RUN_SIGNALS_H

#include <signal.h>

struct loop;
struct run_signals;

/* Blocks SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGWINCH, SIGCONT and SIGPIPE in the caller and in the
 * threads it makes from now on. Before any thread. */
void run_signals_block(void);
/* received: on the loop's thread. NULL with errno. */
struct run_signals *run_signals_new(struct loop *loop, void (*received)(void *ctx, int number),
				    void *ctx);
/* The default actions are in force again afterwards, SIGPIPE's too. */
void run_signals_free(struct run_signals *signals);

#endif
