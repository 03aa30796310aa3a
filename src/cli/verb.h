/*
 * The command line's verbs: each is one file and one row of main.c's table.
 * Exit statuses are part of the interface (docs/insula.1).
 */
#ifndef INSULA_CLI_VERB_H
#define INSULA_CLI_VERB_H

#include <stddef.h>

enum {
	STATUS_OK = 0,
	STATUS_HOST_ERROR = 1,
	STATUS_USAGE = 2,
	STATUS_TRIPLE_FAULT = 3,
};

struct verb {
	const char *name;
	const char *arguments; /* as the usage line shows them */
	const char *summary;   /* one line for the list of verbs */
	/* The rest of --help, options left out: what it does, examples. Ends in a newline. */
	const char *about;
	const struct option_def *options; /* ends with name NULL; may be NULL */
	/* argv[0] is the verb. The process's exit status. */
	int (*run)(const struct verb *verb, int argc, char **argv);
};

extern const struct verb verb_run, verb_ps, verb_console, verb_logs, verb_stats, verb_pause,
	verb_resume, verb_stop, verb_kill, verb_snapshot, verb_restore, verb_switch, verb_fork,
	verb_inspect, verb_guest, verb_doctor, verb_help, verb_version;

/* Not in the table: what insula fork executes in the VM's name. */
extern const struct verb verb_children;

/* main.c's table; ends with NULL. */
extern const struct verb *const verbs[];
const struct verb *verb_find(const char *name);

/* The whole --help of one verb on stdout. */
void verb_print_help(const struct verb *verb);
/* The list of verbs; to_stderr: after a command line without one. */
void verb_print_overview(int to_stderr);

/* A sentence on stderr that ends with where to read more; returns STATUS_USAGE. */
int usage_error(const struct verb *verb, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

#endif
