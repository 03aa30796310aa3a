/* Programs that guest_build.c runs: without a shell where it can be helped, in a folder, their exit
 * status told. */
#ifndef INSULA_CLI_GUEST_COMMAND_H
#define INSULA_CLI_GUEST_COMMAND_H

#include <stddef.h>

/*
 * Runs argv in folder and waits. Its stdout goes to `out` (a file created for
 * it) or, if that is NULL, to /dev/null; its stderr to ours, unless quiet. The
 * exit status; -errno if it could not be started (-ENOENT: not installed).
 */
int guest_command(const char *folder, const char *const *argv, const char *out, int quiet)
	__attribute__((warn_unused_result));

/* As above, its output as text, the caller's to free; NULL if it failed or could not be started. */
char *guest_command_output(const char *folder, const char *const *argv);

/* Removes a folder and all in it; a missing one is fine. */
void guest_folder_remove(const char *path);
/* Creates a folder and those above it. 0 or -errno. */
int guest_folder_make(const char *path) __attribute__((warn_unused_result));

#endif
