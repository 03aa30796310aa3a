/* Tells an impatient user that the guest is still booting: one line on a terminal, after two
 * seconds. */
#ifndef INSULA_CLI_RUN_PROGRESS_H
#define INSULA_CLI_RUN_PROGRESS_H

struct loop;
struct run_progress;

/* NULL if stderr is no terminal, or on failure: it is a courtesy. what: borrowed. */
struct run_progress *run_progress_new(struct loop *loop, const char *what);
/* Wipes the line. On the loop's thread or after the loop; NULL is fine, and so is twice. */
void run_progress_done(struct run_progress *progress);
void run_progress_free(struct run_progress *progress);

#endif
