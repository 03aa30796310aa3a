/*
 * See the header. Used by `insula run GUEST`. Invariant: of each output stream
 * at most AGENT_WINDOW bytes are in our hands; the agent's flow control sees to
 * that, and we return credit only for what a back end has accepted.
 */
#include "cli/run_session.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/assert.h"
#include "base/loop.h"
#include "chardev/chardev.h"
#include "state/stream.h"
#include "vm/agent.h"

#define HOLD_WAIT_MS 2000

struct sink {
	struct session *session;
	struct chardev *chr;
	enum agent_stream stream;
	size_t at, count; /* the ring's oldest byte and how many wait */
	uint8_t ring[AGENT_WINDOW];
};

struct session {
	struct session_options options;
	struct session_events events;
	void *ctx;
	struct agent *agent;
	bool running;     /* the agent has the command */
	bool stdin_ended; /* by our own stdin */
	bool exited;      /* the agent said so; ended is due when the rings are empty */
	bool over;        /* ended was called */
	int status;
	struct sink out, err;

	pthread_mutex_t hold_lock; /* guards held */
	pthread_cond_t hold_changed;
	bool held;
};

static void end(struct session *s, int status, const char *failure)
{
	if (s->over)
		return;
	s->over = true;
	s->running = false;
	s->events.ended(s->ctx, status, failure);
}

static void end_if_delivered(struct session *s)
{
	if (s->exited && !s->out.count && !s->err.count)
		end(s, s->status, NULL);
}

/* ---- output ---- */

static void sink_init(struct sink *k, struct session *s, struct chardev *chr,
		      enum agent_stream stream)
{
	k->session = s;
	k->chr = chr;
	k->stream = stream;
}

static void sink_push(struct sink *k)
{
	size_t total = 0;

	while (k->count) {
		size_t chunk = AGENT_WINDOW - k->at, taken;

		if (chunk > k->count)
			chunk = k->count;
		taken = chardev_write(k->chr, k->ring + k->at, chunk);
		k->at = (k->at + taken) % AGENT_WINDOW;
		k->count -= taken;
		total += taken;
		if (taken < chunk)
			break; /* `writable` brings us back */
	}
	if (total && !k->session->over)
		agent_consumed(k->session->agent, k->stream, total);
}

static void sink_put(struct sink *k, const uint8_t *bytes, size_t count)
{
	ASSERT(count <= AGENT_WINDOW - k->count);
	for (size_t i = 0; i < count;) {
		size_t to = (k->at + k->count) % AGENT_WINDOW;
		size_t chunk = AGENT_WINDOW - to < count - i ? AGENT_WINDOW - to : count - i;

		memcpy(k->ring + to, bytes + i, chunk);
		k->count += chunk;
		i += chunk;
	}
	sink_push(k);
}

static void sink_writable(void *ctx)
{
	struct sink *k = ctx;

	sink_push(k);
	end_if_delivered(k->session);
}

/* ---- the agent's events ---- */

static void agent_ready(void *ctx)
{
	static const char *const shell[] = { "/bin/sh", "-l", NULL };
	static const char *const script[] = { "/bin/sh", NULL };
	struct session *s = ctx;
	const char *term = getenv("TERM");
	char setting[128];
	const char *env[] = { setting, NULL };
	struct agent_command command = { .tty = s->options.tty,
					 .rows = s->options.rows,
					 .cols = s->options.cols };

	if (s->options.command)
		command.argv = (const char *const *)s->options.command;
	else
		command.argv = s->options.tty ? shell : script;
	if (s->options.tty && term &&
	    snprintf(setting, sizeof(setting), "TERM=%s", term) < (int)sizeof(setting))
		command.env = env;
	if (agent_run(s->agent, &command) < 0) {
		end(s, 0, "the command is too long");
		return;
	}
	s->running = true;
	if (s->stdin_ended)
		agent_stdin_eof(s->agent);
	s->events.ready(s->ctx);
	chardev_kick_input(s->options.in_out);
}

static void agent_output(void *ctx, enum agent_stream stream, const uint8_t *bytes, size_t count)
{
	struct session *s = ctx;

	if (!s->over)
		sink_put(stream == AGENT_STDERR ? &s->err : &s->out, bytes, count);
}

static void agent_stdin_has_room(void *ctx)
{
	struct session *s = ctx;

	chardev_kick_input(s->options.in_out);
}

static void agent_exited(void *ctx, int status)
{
	struct session *s = ctx;

	s->exited = true;
	s->status = status;
	s->running = false;
	end_if_delivered(s);
}

static void agent_held(void *ctx)
{
	struct session *s = ctx;

	pthread_mutex_lock(&s->hold_lock);
	s->held = true;
	pthread_cond_signal(&s->hold_changed);
	pthread_mutex_unlock(&s->hold_lock);
}

static void agent_failed(void *ctx, const char *sentence)
{
	end(ctx, 0, sentence);
}

/* ---- our own stdin ---- */

static size_t stdin_room(void *ctx)
{
	struct session *s = ctx;

	return s->running ? agent_stdin_room(s->agent) : 0;
}

static void stdin_receive(void *ctx, const uint8_t *bytes, size_t count)
{
	struct session *s = ctx;

	if (s->running)
		agent_stdin(s->agent, bytes, count);
}

static void stdin_closed(void *ctx)
{
	struct session *s = ctx;

	s->stdin_ended = true;
	if (s->running)
		agent_stdin_eof(s->agent);
}

static void out_writable(void *ctx)
{
	sink_writable(&((struct session *)ctx)->out);
}

/* ---- interface ---- */

struct session *session_new(const struct session_options *options,
			    const struct session_events *events, void *ctx)
{
	static const struct agent_events agent_events = {
		.ready = agent_ready,
		.output = agent_output,
		.stdin_room = agent_stdin_has_room,
		.exited = agent_exited,
		.held = agent_held,
		.failed = agent_failed,
	};
	struct session *s = calloc(1, sizeof(*s));
	struct chardev_frontend in_out = {
		.room = stdin_room,
		.receive = stdin_receive,
		.writable = out_writable,
		.closed = stdin_closed,
		.ctx = s,
	};
	struct chardev_frontend err = { .writable = sink_writable };

	if (!s)
		return NULL;
	pthread_mutex_init(&s->hold_lock, NULL);
	pthread_cond_init(&s->hold_changed, NULL);
	s->options = *options;
	s->events = *events;
	s->ctx = ctx;
	sink_init(&s->out, s, options->in_out, AGENT_STDOUT);
	sink_init(&s->err, s, options->err, AGENT_STDERR);
	s->agent = agent_new(options->loop, &agent_events, s);
	if (!s->agent) {
		free(s);
		return NULL;
	}
	err.ctx = &s->err;
	chardev_connect(options->in_out, &in_out);
	chardev_connect(options->err, &err);
	return s;
}

void session_free(struct session *s)
{
	if (!s)
		return;
	agent_free(s->agent);
	pthread_cond_destroy(&s->hold_changed);
	pthread_mutex_destroy(&s->hold_lock);
	free(s);
}

struct chardev *session_chardev(struct session *s)
{
	return agent_chardev(s->agent);
}

bool session_signal(struct session *s, int number)
{
	if (s->running)
		agent_signal(s->agent, number);
	return s->running;
}

bool session_power_off(struct session *s)
{
	if (s->running)
		agent_power_off(s->agent);
	return s->running;
}

void session_window_size(struct session *s, uint16_t rows, uint16_t cols)
{
	s->options.rows = rows;
	s->options.cols = cols;
	if (s->running && s->options.tty)
		agent_window_size(s->agent, rows, cols);
}

struct hold {
	struct session *session;
	bool asked;
};

static void hold_ask(void *ctx)
{
	struct hold *hold = ctx;

	hold->asked = agent_hold(hold->session->agent);
}

void session_hold(struct session *s)
{
	struct hold hold = { .session = s };
	struct timespec end;

	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_sec += HOLD_WAIT_MS / 1000;
	pthread_mutex_lock(&s->hold_lock);
	s->held = false;
	pthread_mutex_unlock(&s->hold_lock);
	loop_call(s->options.loop, hold_ask, &hold);
	if (!hold.asked)
		return;
	pthread_mutex_lock(&s->hold_lock);
	while (!s->held &&
	       pthread_cond_timedwait(&s->hold_changed, &s->hold_lock, &end) != ETIMEDOUT)
		;
	pthread_mutex_unlock(&s->hold_lock);
}

void session_renew(struct session *s, const char *host_name)
{
	agent_renew(s->agent, host_name);
}

void session_go_on(struct session *s)
{
	sink_push(&s->out);
	sink_push(&s->err);
	end_if_delivered(s);
	if (s->running)
		chardev_kick_input(s->options.in_out);
}

bool session_is_running(const struct session *s)
{
	return s->running || s->exited;
}

/* ---- state ---- */

struct session_saved {
	bool running, exited, tty;
	uint32_t status, out_len, err_len; /* so many bytes follow, and then the agent's */
};

static const struct state_field session_fields[] = {
	STATE_FIELD(struct session_saved, running),
	STATE_FIELD(struct session_saved, exited),
	STATE_FIELD(struct session_saved, tty),
	STATE_FIELD(struct session_saved, status),
	STATE_FIELD(struct session_saved, out_len),
	STATE_FIELD(struct session_saved, err_len),
	STATE_END,
};

static int session_post_load(void *object, const char **error)
{
	const struct session_saved *s = object;

	*error = "no session can have come so far";
	return s->status > 255 || s->out_len > AGENT_WINDOW || s->err_len > AGENT_WINDOW ||
			       (s->running && s->exited)
		       ? -1
		       : 0;
}

static const struct state_table session_table = {
	.name = "session",
	.version = 1,
	.size = sizeof(struct session_saved),
	.fields = session_fields,
	.post_load = session_post_load,
};

static size_t sink_copy(const struct sink *k, uint8_t *to)
{
	for (size_t i = 0; i < k->count; i++)
		to[i] = k->ring[(k->at + i) % AGENT_WINDOW];
	return k->count;
}

int session_save(struct session *s, struct state_writer *w, uint8_t **bytes, size_t *len)
{
	struct session_saved saved = {
		.running = s->running,
		.exited = s->exited,
		.tty = s->options.tty,
		.status = (uint32_t)s->status & 0xff,
		.out_len = (uint32_t)s->out.count,
		.err_len = (uint32_t)s->err.count,
	};
	uint8_t *buffer = malloc(2 * AGENT_WINDOW + AGENT_BYTES_MAX);

	if (!buffer)
		return -ENOMEM;
	state_save(&session_table, &saved, w);
	*len = sink_copy(&s->out, buffer);
	*len += sink_copy(&s->err, buffer + *len);
	agent_save(s->agent, w, buffer, len);
	*bytes = buffer;
	return 0;
}

int session_load(struct session *s, struct state_reader *r, const uint8_t *bytes, size_t len)
{
	struct session_saved saved = { 0 };
	int err = state_load(&session_table, &saved, r);
	size_t own = (size_t)saved.out_len + saved.err_len;

	if (err)
		return err;
	if (own > len) {
		snprintf(r->error, sizeof(r->error), "Section session: its bytes are not there.");
		return -EINVAL;
	}
	s->running = saved.running;
	s->exited = saved.exited;
	s->status = (int)saved.status;
	s->options.tty = saved.tty;
	memcpy(s->out.ring, bytes, saved.out_len);
	s->out.count = saved.out_len;
	memcpy(s->err.ring, bytes + saved.out_len, saved.err_len);
	s->err.count = saved.err_len;
	return agent_load(s->agent, r, bytes + own, len - own);
}
