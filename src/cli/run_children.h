/*
 * Many VMs from one snapshot or fork: each a process of its own, all sharing the
 * RAM that none of them writes. Used by insula restore -n and by the process that
 * insula fork makes. Before any thread exists.
 */
#ifndef INSULA_CLI_RUN_CHILDREN_H
#define INSULA_CLI_RUN_CHILDREN_H

#include <stdbool.h>

#define CHILDREN_MAX           10000u
#define CHILDREN_PATTERN_ERROR "--name %s: letters, digits, '.', '_', '-' and once %%d, at most 42"

struct run;

struct children_options {
	unsigned count;
	/* A name, "%d" in it standing for a number; without it, "-%d" is added unless there is one
	 * child and `exact`. Numbers whose name is taken are left out. */
	const char *pattern;
	bool exact;
	bool json; /* one line of JSON a child instead of its name: how long it took until it ran */
};

/* False: no name could come of it. */
bool children_pattern_valid(const char *pattern);

/*
 * run: options and snapshot, opened; nothing else. Prints the children's names as they run. The
 * exit status: of this process when all run or have failed; a child does not return before its VM
 * has ended.
 */
int run_children(struct run *run, const struct children_options *options);

#endif
