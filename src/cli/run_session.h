/*
 * A command, or a shell, in a named guest: joins the agent's streams to the
 * monitor's own. All on the event loop's thread but new and free.
 */
#ifndef INSULA_CLI_RUN_SESSION_H
#define INSULA_CLI_RUN_SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct chardev;
struct loop;
struct session;
struct state_reader;
struct state_writer;

struct session_events {
	/* The guest is up, the command has been handed over. Once at most. */
	void (*ready)(void *ctx);
	/*
	 * It is over and all its output is with the back ends. status 0..255;
	 * failure: NULL, or the sentence why there is no status. Once at most.
	 */
	void (*ended)(void *ctx, int status, const char *failure);
};

struct session_options {
	struct loop *loop;
	struct chardev *in_out; /* borrowed: stdin and stdout */
	struct chardev *err;    /* borrowed: stderr */
	char *const *command;   /* NULL: a shell */
	bool tty;               /* give it a terminal */
	uint16_t rows, cols;
};

/* NULL with errno. */
struct session *session_new(const struct session_options *options,
			    const struct session_events *events, void *ctx);
void session_free(struct session *session);
/* What the board's agent port is connected to. */
struct chardev *session_chardev(struct session *session);

/* False before ready: there is nobody to tell. */
bool session_signal(struct session *session, int number);
bool session_power_off(struct session *session);
void session_window_size(struct session *session, uint16_t rows, uint16_t cols);

/*
 * Not on the loop's thread: asks the guest to let none of the user's processes run, and waits until
 * it does so, or for HOLD_WAIT_MS: an older guest does not know how. Whatever came of it,
 * session_renew() follows, here and in every copy.
 */
void session_hold(struct session *session);
/* On the loop: as agent_renew(). */
void session_renew(struct session *session, const char *host_name);

/*
 * Sections "session" and "agent", and a malloc()ed buffer of the bytes that are
 * on their way. Load is for a new session. 0, or -errno; load with a sentence in
 * the reader.
 */
int session_save(struct session *session, struct state_writer *w, uint8_t **bytes, size_t *len)
	__attribute__((warn_unused_result));
int session_load(struct session *session, struct state_reader *r, const uint8_t *bytes, size_t len)
	__attribute__((warn_unused_result));
/* On the loop, after a load: what was on its way to us goes on. */
void session_go_on(struct session *session);
/* It was under way when it was saved: its command runs, nobody will say that it begins. */
bool session_is_running(const struct session *session);

#endif
