/*
 * The monitor's end of the guest agent: runs one command in the guest with its
 * three streams apart and byte-exact. The wire protocol is docs/formats/agent.md.
 *
 * An agent is a chardev back end: the board connects agent_chardev() to the
 * virtio-console port "insula.agent". Bytes from the guest come in on device
 * threads and are only queued there; they are parsed, and every event below is
 * called, on the loop's thread. All functions are for that thread too.
 *
 * Whatever the guest sends, the worst outcome is one `failed` event.
 */
#ifndef INSULA_VM_AGENT_H
#define INSULA_VM_AGENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct agent;
struct chardev;
struct loop;
struct state_reader;
struct state_writer;

enum agent_stream { AGENT_STDIN, AGENT_STDOUT, AGENT_STDERR };

struct agent_events {
	/* The guest's agent is there and can be given a command. Once. */
	void (*ready)(void *ctx);
	/*
	 * Output of the command. The receiver keeps or writes the bytes and says
	 * agent_consumed() as it gets rid of them; the guest sends at most
	 * AGENT_WINDOW bytes of a stream beyond what was consumed.
	 */
	void (*output)(void *ctx, enum agent_stream stream, const uint8_t *bytes, size_t count);
	/* The stdin window grew: agent_stdin() will take bytes again. */
	void (*stdin_room)(void *ctx);
	/* The command is over, all its output was delivered. status as a shell says it: 0..255, 128
	 * + signal. Last event. */
	void (*exited)(void *ctx, int status);
	/* The guest broke the protocol, or could not do what was asked. One sentence. Last event.
	 */
	void (*failed)(void *ctx, const char *sentence);
	/* After agent_hold(): no process of the user's runs, until agent_renew(). May be NULL. */
	void (*held)(void *ctx);
};

#define AGENT_WINDOW (256u << 10)

struct agent_command {
	const char *const *argv; /* NULL-terminated, at least one */
	const char *const
		*env;        /* NULL-terminated NAME=VALUE; NULL: the guest's default environment */
	const char *cwd;     /* NULL: the guest's default */
	bool tty;            /* a terminal in the guest: stderr arrives as stdout */
	uint16_t rows, cols; /* tty only; 0: unknown */
};

/* NULL with errno on failure. events and ctx are borrowed. */
struct agent *agent_new(struct loop *loop, const struct agent_events *events, void *ctx);
void agent_free(struct agent *agent);
struct chardev *agent_chardev(struct agent *agent);

/* After ready, once. 0, or -E2BIG if arguments and environment exceed AGENT_COMMAND_MAX. */
#define AGENT_COMMAND_MAX (128u << 10)
int agent_run(struct agent *agent, const struct agent_command *command)
	__attribute__((warn_unused_result));

/* Bytes for the command's stdin; the number taken, 0 when the window is full. */
size_t agent_stdin_room(const struct agent *agent);
size_t agent_stdin(struct agent *agent, const uint8_t *bytes, size_t count);
void agent_stdin_eof(struct agent *agent);
void agent_consumed(struct agent *agent, enum agent_stream stream, size_t count);
void agent_window_size(struct agent *agent, uint16_t rows, uint16_t cols);
/* Sends a signal to the command (its process group). */
void agent_signal(struct agent *agent, int signal_number);
/* Asks the guest to power off in order. */
void agent_power_off(struct agent *agent);

/*
 * Around a moment that several machines will begin with. Hold: the guest lets nothing of the user's
 * run, and says so by `held`; an older guest's agent says nothing. Renew: its random generator is
 * seeded anew, then it goes on, if it was held. host_name: the machine is another now, with that
 * name and a new machine-id; NULL: it is the same. False from hold: there is no command yet, or no
 * more.
 */
bool agent_hold(struct agent *agent);
void agent_renew(struct agent *agent, const char *host_name);

/*
 * Where the conversation stands: section "agent", and the bytes between the two
 * ends, appended to a buffer of at least AGENT_BYTES_MAX, *len of them. Load is
 * for a new agent, whose guest is restored with it; the bytes are those of the
 * save. 0, or -errno with a sentence in the reader.
 */
#define AGENT_BYTES_MAX (512u << 10)
void agent_save(const struct agent *agent, struct state_writer *w, uint8_t *bytes, size_t *len);
int agent_load(struct agent *agent, struct state_reader *r, const uint8_t *bytes, size_t len)
	__attribute__((warn_unused_result));

#endif
