/*
 * The event loop without threads, for device tests: tasks run, in the order
 * posted, and descriptors are taken to be ready, only when the test says so.
 * Linked in place of base/loop.c.
 */
#ifndef INSULA_TESTS_DEV_FAKE_LOOP_H
#define INSULA_TESTS_DEV_FAKE_LOOP_H

#include "base/loop.h"

/* Runs until nothing is posted, or `turns` tasks have run. True if nothing is left. */
bool fake_loop_pump(struct loop *loop, unsigned turns);

#endif
