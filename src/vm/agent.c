/*
 * The monitor's end of the guest agent. Between two queues: a device thread
 * fills `in` under the lock and posts the task; the loop's thread parses it and
 * pulls frames out one at a time while the port has room for their bytes.
 *
 * Invariant: nothing grows with what the guest does. `in` refuses bytes when
 * full, output beyond the window is a broken protocol, control frames wait as
 * flags and sums until there is room to form them.
 */
#include "vm/agent.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/loop.h"
#include "chardev/chardev.h"
#include "state/stream.h"
#include "vm/agent_wire.h"

_Static_assert(AGENT_WINDOW == WIRE_WINDOW && AGENT_COMMAND_MAX == WIRE_PAYLOAD_MAX,
	       "agent.h states the protocol's");

#define IN_SIZE (64u << 10)

enum agent_state { AGENT_SILENT, AGENT_READY, AGENT_RUNNING, AGENT_OVER };

struct agent {
	struct chardev chr; /* first: the ops get a pointer to it */
	struct loop *loop;
	struct loop_task task;
	const struct agent_events *events;
	void *ctx;
	enum agent_state state;

	pthread_mutex_t lock; /* guards in, in_head, in_len, in_refused; a leaf */
	uint8_t in[IN_SIZE];
	uint32_t in_head, in_len;
	bool in_refused; /* the device waits for writable() */

	struct wire_reader reader;
	uint8_t reader_bytes[WIRE_HEADER_LEN + WIRE_DATA_MAX];

	/* What is to be said, in order of urgency. */
	bool say_hello, say_hold, say_renew, say_power_off, say_size, say_eof;
	char host_name[WIRE_HOST_NAME_MAX + 1]; /* say_renew; empty: the machine is the same */
	bool stdin_ended;                       /* agent_stdin takes no more */
	int say_signal;
	uint16_t rows, cols;
	uint32_t consumed[3];    /* bytes to return as credit */
	uint32_t outstanding[3]; /* bytes received and not yet returned */
	uint8_t *run;            /* the RUN frame, owned, until sent */
	uint32_t run_len;
	uint32_t credit; /* stdin bytes the guest will take */
	uint8_t stdin_ring[AGENT_WINDOW];
	uint32_t stdin_head, stdin_len;

	/* The frame on its way out; bytes points into frame or run. */
	const uint8_t *out;
	uint32_t out_len;
	uint8_t frame[WIRE_HEADER_LEN + WIRE_DATA_MAX];
};

static void agent_end(struct agent *agent, const char *sentence)
{
	if (agent->state == AGENT_OVER)
		return;
	agent->state = AGENT_OVER;
	agent->events->failed(agent->ctx, sentence);
}

/* --- to the guest --- */

static void frame_form(struct agent *agent, enum wire_type type, uint8_t stream, uint32_t len)
{
	wire_header(agent->frame, len, type, stream);
	agent->out = agent->frame;
	agent->out_len = WIRE_HEADER_LEN + len;
}

static void stdin_form(struct agent *agent)
{
	uint32_t len = agent->stdin_len;

	if (len > agent->credit)
		len = agent->credit;
	if (len > WIRE_DATA_MAX)
		len = WIRE_DATA_MAX;
	for (uint32_t i = 0; i < len; i++)
		agent->frame[WIRE_HEADER_LEN + i] =
			agent->stdin_ring[(agent->stdin_head + i) % AGENT_WINDOW];
	agent->stdin_head = (agent->stdin_head + len) % AGENT_WINDOW;
	agent->stdin_len -= len;
	agent->credit -= len;
	frame_form(agent, WIRE_DATA, AGENT_STDIN, len);
}

static bool credit_form(struct agent *agent, uint8_t stream)
{
	uint32_t amount = agent->consumed[stream];

	/* Small amounts wait, unless they are all that the guest could be waiting for. */
	if (!amount || (amount < AGENT_WINDOW / 8 && amount < agent->outstanding[stream]))
		return false;
	agent->consumed[stream] = 0;
	agent->outstanding[stream] -= amount;
	wire_store32(agent->frame + WIRE_HEADER_LEN, amount);
	frame_form(agent, WIRE_CREDIT, stream, 4);
	return true;
}

static void renew_form(struct agent *agent)
{
	uint8_t *payload = agent->frame + WIRE_HEADER_LEN, *at = payload + 4;
	size_t name_len = strlen(agent->host_name);

	agent->say_renew = false;
	wire_store32(payload, name_len ? WIRE_RENEW_IDENTITY : 0);
	/* So few bytes always come, and at once: the host has long been up. */
	if (getrandom(at, WIRE_SEED_LEN + WIRE_MACHINE_ID_LEN, 0) < 0)
		memset(at, 0, WIRE_SEED_LEN + WIRE_MACHINE_ID_LEN);
	at += WIRE_SEED_LEN;
	if (name_len) {
		at += WIRE_MACHINE_ID_LEN;
		memcpy(at, agent->host_name, name_len);
		at += name_len;
	}
	frame_form(agent, WIRE_RENEW, 0, (uint32_t)(at - payload));
}

/* Forms the next frame to send; false if there is nothing to say. */
static bool frame_next(struct agent *agent)
{
	uint8_t *payload = agent->frame + WIRE_HEADER_LEN;

	if (agent->state == AGENT_SILENT)
		return false;
	if (agent->say_hello) {
		agent->say_hello = false;
		memcpy(payload, WIRE_MAGIC, WIRE_MAGIC_LEN);
		wire_store32(payload + WIRE_MAGIC_LEN, WIRE_VERSION);
		frame_form(agent, WIRE_HELLO, 0, WIRE_MAGIC_LEN + 4);
	} else if (agent->say_renew) {
		renew_form(agent);
	} else if (agent->run) {
		agent->out = agent->run;
		agent->out_len = agent->run_len;
	} else if (agent->say_power_off) {
		agent->say_power_off = false;
		frame_form(agent, WIRE_POWER_OFF, 0, 0);
	} else if (agent->say_hold) {
		agent->say_hold = false;
		frame_form(agent, WIRE_HOLD, 0, 0);
	} else if (agent->say_signal && agent->state == AGENT_RUNNING) {
		wire_store32(payload, (uint32_t)agent->say_signal);
		agent->say_signal = 0;
		frame_form(agent, WIRE_SIGNAL, 0, 4);
	} else if (agent->say_size && agent->state == AGENT_RUNNING) {
		agent->say_size = false;
		wire_store16(payload, agent->rows);
		wire_store16(payload + 2, agent->cols);
		frame_form(agent, WIRE_WINSIZE, 0, 4);
	} else if (credit_form(agent, AGENT_STDOUT) || credit_form(agent, AGENT_STDERR)) {
		return true;
	} else if (agent->stdin_len && agent->credit && agent->state == AGENT_RUNNING) {
		stdin_form(agent);
	} else if (agent->say_eof && !agent->stdin_len && agent->state == AGENT_RUNNING) {
		agent->say_eof = false;
		frame_form(agent, WIRE_EOF, AGENT_STDIN, 0);
	} else {
		return false;
	}
	return true;
}

static void out_pump(struct agent *agent)
{
	const struct chardev_frontend *port = &agent->chr.frontend;

	while (port->room && (agent->out_len || frame_next(agent))) {
		size_t room = port->room(port->ctx);

		if (!room)
			return;
		size_t piece = room < agent->out_len ? room : agent->out_len;

		port->receive(port->ctx, agent->out, piece);
		agent->out += piece;
		agent->out_len -= (uint32_t)piece;
		if (!agent->out_len && agent->run && agent->out == agent->run + agent->run_len) {
			free(agent->run);
			agent->run = NULL;
		}
	}
}

/* --- from the guest --- */

static void hello_act(struct agent *agent, const struct wire_frame *frame)
{
	if (agent->state != AGENT_SILENT)
		agent_end(agent, "the guest's agent started anew while its command was running");
	else if (frame->len != WIRE_MAGIC_LEN + 4 ||
		 memcmp(frame->payload, WIRE_MAGIC, WIRE_MAGIC_LEN))
		agent_end(agent, "the guest's agent does not speak Insula's protocol");
	else if (wire_load32(frame->payload + WIRE_MAGIC_LEN) != WIRE_VERSION)
		agent_end(agent, "the guest's agent is of another version; build the guest again");
	else {
		agent->state = AGENT_READY;
		agent->say_hello = true;
		agent->events->ready(agent->ctx);
	}
}

static bool data_act(struct agent *agent, const struct wire_frame *frame)
{
	enum agent_stream stream = frame->stream;

	if (agent->state != AGENT_RUNNING || (stream != AGENT_STDOUT && stream != AGENT_STDERR) ||
	    frame->len > AGENT_WINDOW - agent->outstanding[stream])
		return false;
	agent->outstanding[stream] += frame->len;
	if (frame->len)
		agent->events->output(agent->ctx, stream, frame->payload, frame->len);
	return true;
}

static bool credit_act(struct agent *agent, const struct wire_frame *frame)
{
	if (frame->len != 4 || frame->stream != AGENT_STDIN ||
	    wire_load32(frame->payload) > AGENT_WINDOW - agent->credit)
		return false;
	agent->credit += wire_load32(frame->payload);
	return true;
}

static void frame_act(struct agent *agent, const struct wire_frame *frame)
{
	bool sound = true;

	switch (frame->type) {
	case WIRE_HELLO:
		hello_act(agent, frame);
		return;
	case WIRE_DATA:
		sound = data_act(agent, frame);
		break;
	case WIRE_CREDIT:
		sound = credit_act(agent, frame);
		break;
	case WIRE_EXIT:
		sound = agent->state == AGENT_RUNNING && frame->len == 4 &&
			wire_load32(frame->payload) <= 255;
		if (!sound)
			break;
		agent->state = AGENT_OVER;
		agent->events->exited(agent->ctx, (int)wire_load32(frame->payload));
		break;
	case WIRE_HELD:
		/* Late, perhaps: whoever asked has gone on without. */
		sound = frame->len == 0;
		if (sound && agent->events->held)
			agent->events->held(agent->ctx);
		break;
	default:
		sound = false;
	}
	if (!sound)
		agent_end(agent, "the guest's agent broke its protocol");
}

/* Up to `size` bytes out of `in`; tells whether the device was refused and may try again. */
static uint32_t in_take(struct agent *agent, uint8_t *bytes, uint32_t size, bool *refused)
{
	pthread_mutex_lock(&agent->lock);
	uint32_t piece = IN_SIZE - agent->in_head;

	if (piece > agent->in_len)
		piece = agent->in_len;
	if (piece > size)
		piece = size;
	memcpy(bytes, agent->in + agent->in_head, piece);
	agent->in_head = (agent->in_head + piece) % IN_SIZE;
	agent->in_len -= piece;
	*refused = agent->in_refused && agent->in_len <= IN_SIZE / 2;
	if (*refused)
		agent->in_refused = false;
	pthread_mutex_unlock(&agent->lock);
	return piece;
}

static void in_parse(struct agent *agent, const uint8_t *bytes, uint32_t count)
{
	/* Once over, what still comes is swallowed, so that the guest is not held up on its way
	 * down. */
	for (uint32_t at = 0; at < count && agent->state != AGENT_OVER;) {
		struct wire_frame frame;

		at += (uint32_t)wire_feed(&agent->reader, bytes + at, count - at);
		int ready = wire_next(&agent->reader, &frame);

		if (ready < 0) {
			agent_end(agent, "the guest's agent broke its protocol");
		} else if (ready > 0) {
			/* Dropped first: a frame's event may start things, its bytes stay where
			 * they are. */
			wire_drop(&agent->reader);
			frame_act(agent, &frame);
		}
	}
}

static void agent_turn(void *ctx)
{
	struct agent *agent = ctx;
	const struct chardev_frontend *port = &agent->chr.frontend;
	uint8_t bytes[4096];
	size_t room = agent_stdin_room(agent);
	bool refused;
	/* A bounded turn: the loop serves others too. */
	for (unsigned i = 0; i < 2 * IN_SIZE / sizeof(bytes); i++) {
		uint32_t count = in_take(agent, bytes, sizeof(bytes), &refused);

		in_parse(agent, bytes, count);
		if (refused && port->writable)
			port->writable(port->ctx);
		if (!count)
			break;
		if (i + 1 == 2 * IN_SIZE / sizeof(bytes))
			loop_post(agent->loop, &agent->task);
	}
	out_pump(agent);
	if (agent->state == AGENT_RUNNING && room < AGENT_WINDOW / 2 &&
	    agent_stdin_room(agent) > room && agent->events->stdin_room)
		agent->events->stdin_room(agent->ctx);
}

/* --- the port's side: any thread --- */

static size_t port_write(struct chardev *chr, const uint8_t *bytes, size_t count)
{
	struct agent *agent = (struct agent *)chr;

	pthread_mutex_lock(&agent->lock);
	size_t room = IN_SIZE - agent->in_len;
	size_t taken = count < room ? count : room;

	for (size_t done = 0; done < taken;) {
		uint32_t at = (agent->in_head + agent->in_len) % IN_SIZE;
		size_t piece = IN_SIZE - at < taken - done ? IN_SIZE - at : taken - done;

		memcpy(agent->in + at, bytes + done, piece);
		agent->in_len += (uint32_t)piece;
		done += piece;
	}
	if (taken < count)
		agent->in_refused = true;
	pthread_mutex_unlock(&agent->lock);
	loop_post(agent->loop, &agent->task);
	return taken;
}

static void port_kick_input(struct chardev *chr)
{
	struct agent *agent = (struct agent *)chr;

	loop_post(agent->loop, &agent->task);
}

/* The agent's owner frees it, not the board. */
static void port_free(struct chardev *chr)
{
}

static const struct chardev_ops port_ops = { port_write, port_kick_input, port_free };

/* --- the vm's side --- */

struct agent *agent_new(struct loop *loop, const struct agent_events *events, void *ctx)
{
	struct agent *agent = calloc(1, sizeof(*agent));

	if (!agent)
		return NULL;
	agent->chr.ops = &port_ops;
	agent->loop = loop;
	agent->events = events;
	agent->ctx = ctx;
	agent->credit = AGENT_WINDOW;
	agent->reader = (struct wire_reader){ agent->reader_bytes, sizeof(agent->reader_bytes), 0 };
	pthread_mutex_init(&agent->lock, NULL);
	loop_task_init(&agent->task, agent_turn, agent);
	return agent;
}

void agent_free(struct agent *agent)
{
	if (!agent)
		return;
	loop_cancel(agent->loop, &agent->task);
	pthread_mutex_destroy(&agent->lock);
	free(agent->run);
	free(agent);
}

struct chardev *agent_chardev(struct agent *agent)
{
	return &agent->chr;
}

static size_t strings_len(const char *const *strings, uint32_t *count)
{
	size_t len = 0;

	for (*count = 0; strings && strings[*count]; ++*count)
		len += strlen(strings[*count]) + 1;
	return len;
}

static uint8_t *strings_put(uint8_t *at, const char *const *strings, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		at = (uint8_t *)stpcpy((char *)at, strings[i]) + 1;
	return at;
}

int agent_run(struct agent *agent, const struct agent_command *command)
{
	uint32_t argc, envc;
	const char *cwd = command->cwd ? command->cwd : "";
	size_t len = WIRE_RUN_HEAD + strlen(cwd) + 1 + strings_len(command->argv, &argc);

	len += strings_len(command->env, &envc);
	if (agent->state != AGENT_READY || !argc)
		return -EINVAL;
	if (len > AGENT_COMMAND_MAX)
		return -E2BIG;
	agent->run = malloc(WIRE_HEADER_LEN + len);
	if (!agent->run)
		return -ENOMEM;
	agent->run_len = WIRE_HEADER_LEN + (uint32_t)len;
	uint8_t *payload = agent->run + WIRE_HEADER_LEN;

	wire_header(agent->run, (uint32_t)len, WIRE_RUN, 0);
	wire_store32(payload, command->tty ? WIRE_RUN_TTY : 0);
	wire_store16(payload + 4, command->rows);
	wire_store16(payload + 6, command->cols);
	wire_store32(payload + 8, argc);
	wire_store32(payload + 12, envc);
	uint8_t *at = strings_put(payload + WIRE_RUN_HEAD, &cwd, 1);

	at = strings_put(at, command->argv, argc);
	strings_put(at, command->env, envc);
	agent->state = AGENT_RUNNING;
	loop_post(agent->loop, &agent->task);
	return 0;
}

size_t agent_stdin_room(const struct agent *agent)
{
	return agent->stdin_ended ? 0 : AGENT_WINDOW - agent->stdin_len;
}

size_t agent_stdin(struct agent *agent, const uint8_t *bytes, size_t count)
{
	size_t room = agent_stdin_room(agent);
	uint32_t taken = (uint32_t)(count < room ? count : room);

	for (uint32_t i = 0; i < taken; i++)
		agent->stdin_ring[(agent->stdin_head + agent->stdin_len + i) % AGENT_WINDOW] =
			bytes[i];
	agent->stdin_len += taken;
	loop_post(agent->loop, &agent->task);
	return taken;
}

void agent_stdin_eof(struct agent *agent)
{
	agent->say_eof = !agent->stdin_ended;
	agent->stdin_ended = true;
	loop_post(agent->loop, &agent->task);
}

void agent_consumed(struct agent *agent, enum agent_stream stream, size_t count)
{
	agent->consumed[stream] += (uint32_t)count;
	loop_post(agent->loop, &agent->task);
}

void agent_window_size(struct agent *agent, uint16_t rows, uint16_t cols)
{
	agent->rows = rows;
	agent->cols = cols;
	agent->say_size = true;
	loop_post(agent->loop, &agent->task);
}

void agent_signal(struct agent *agent, int signal_number)
{
	agent->say_signal = signal_number;
	loop_post(agent->loop, &agent->task);
}

void agent_power_off(struct agent *agent)
{
	agent->say_power_off = true;
	loop_post(agent->loop, &agent->task);
}

bool agent_hold(struct agent *agent)
{
	if (agent->state != AGENT_RUNNING)
		return false;
	agent->say_hold = true;
	loop_post(agent->loop, &agent->task);
	return true;
}

void agent_renew(struct agent *agent, const char *host_name)
{
	snprintf(agent->host_name, sizeof(agent->host_name), "%s", host_name ? host_name : "");
	agent->say_hold = false;
	agent->say_renew = true;
	loop_post(agent->loop, &agent->task);
}

/* --- state --- */

struct agent_saved {
	uint8_t state; /* enum agent_state */
	bool in_refused, say_hello, say_power_off, say_size, say_eof, stdin_ended;
	bool out_is_run; /* the frame on its way is what is left of the RUN frame */
	uint32_t say_signal, credit;
	uint16_t rows, cols;
	uint32_t consumed[3], outstanding[3];
	/* How many bytes of each follow, in this order. */
	uint32_t in_len, reader_len, run_len, out_len, stdin_len;
};

#define FIELD(m) STATE_FIELD(struct agent_saved, m)
static const struct state_field agent_fields[] = {
	FIELD(state),
	FIELD(in_refused),
	FIELD(say_hello),
	FIELD(say_power_off),
	FIELD(say_size),
	FIELD(say_eof),
	FIELD(stdin_ended),
	FIELD(out_is_run),
	FIELD(say_signal),
	FIELD(credit),
	FIELD(rows),
	FIELD(cols),
	STATE_ARRAY(struct agent_saved, consumed),
	STATE_ARRAY(struct agent_saved, outstanding),
	FIELD(in_len),
	FIELD(reader_len),
	FIELD(run_len),
	FIELD(out_len),
	FIELD(stdin_len),
	STATE_END,
};
#undef FIELD

#define FRAME_MAX (WIRE_HEADER_LEN + WIRE_DATA_MAX)
#define RUN_MAX   (WIRE_HEADER_LEN + WIRE_PAYLOAD_MAX)
_Static_assert(IN_SIZE + 2 * FRAME_MAX + RUN_MAX + AGENT_WINDOW <= AGENT_BYTES_MAX, "it fits");

static int agent_post_load(void *object, const char **error)
{
	const struct agent_saved *s = object;

	*error = "no agent can have come so far";
	if (s->state > AGENT_OVER || s->say_signal > 64 || s->credit > AGENT_WINDOW ||
	    s->in_len > IN_SIZE || s->reader_len > FRAME_MAX || s->run_len > RUN_MAX ||
	    s->out_len > FRAME_MAX || s->stdin_len > AGENT_WINDOW)
		return -1;
	for (unsigned i = 0; i < 3; i++)
		if (s->consumed[i] > s->outstanding[i] || s->outstanding[i] > AGENT_WINDOW)
			return -1;
	return s->out_is_run && (s->out_len || !s->run_len) ? -1 : 0;
}

static const struct state_table agent_table = {
	.name = "agent",
	.version = 1,
	.size = sizeof(struct agent_saved),
	.fields = agent_fields,
	.post_load = agent_post_load,
};

static void put(uint8_t *bytes, size_t *len, const uint8_t *from, size_t count)
{
	memcpy(bytes + *len, from, count);
	*len += count;
}

static void put_ring(uint8_t *bytes, size_t *len, const uint8_t *ring, uint32_t size, uint32_t head,
		     uint32_t count)
{
	uint32_t first = size - head < count ? size - head : count;

	put(bytes, len, ring + head, first);
	put(bytes, len, ring, count - first);
}

void agent_save(const struct agent *agent, struct state_writer *w, uint8_t *bytes, size_t *len)
{
	bool out_is_run = agent->out_len && agent->run && agent->out != agent->frame;
	struct agent_saved s = {
		.state = (uint8_t)agent->state,
		.in_refused = agent->in_refused,
		.say_hello = agent->say_hello,
		.say_power_off = agent->say_power_off,
		.say_size = agent->say_size,
		.say_eof = agent->say_eof,
		.stdin_ended = agent->stdin_ended,
		.out_is_run = out_is_run,
		.say_signal = (uint32_t)agent->say_signal,
		.credit = agent->credit,
		.rows = agent->rows,
		.cols = agent->cols,
		.in_len = agent->in_len,
		.reader_len = agent->reader.used,
		.run_len = !agent->run  ? 0
			   : out_is_run ? agent->out_len
					: agent->run_len,
		.out_len = out_is_run ? 0 : agent->out_len,
		.stdin_len = agent->stdin_len,
	};

	memcpy(s.consumed, agent->consumed, sizeof(s.consumed));
	memcpy(s.outstanding, agent->outstanding, sizeof(s.outstanding));
	state_save(&agent_table, &s, w);
	put_ring(bytes, len, agent->in, IN_SIZE, agent->in_head, s.in_len);
	put(bytes, len, agent->reader_bytes, s.reader_len);
	if (s.run_len)
		put(bytes, len, out_is_run ? agent->out : agent->run, s.run_len);
	if (s.out_len)
		put(bytes, len, agent->out, s.out_len);
	put_ring(bytes, len, agent->stdin_ring, AGENT_WINDOW, agent->stdin_head, s.stdin_len);
}

int agent_load(struct agent *agent, struct state_reader *r, const uint8_t *bytes, size_t len)
{
	struct agent_saved s = { 0 };
	int err = state_load(&agent_table, &s, r);

	if (err)
		return err;
	if (len != (size_t)s.in_len + s.reader_len + s.run_len + s.out_len + s.stdin_len) {
		snprintf(r->error, sizeof(r->error), "Section agent: its bytes are not there.");
		return -EINVAL;
	}
	agent->run = s.run_len ? malloc(s.run_len) : NULL;
	if (s.run_len && !agent->run) {
		snprintf(r->error, sizeof(r->error), "There is no memory for the agent.");
		return -ENOMEM;
	}
	agent->state = s.state;
	agent->in_refused = s.in_refused;
	agent->say_hello = s.say_hello;
	agent->say_power_off = s.say_power_off;
	agent->say_size = s.say_size;
	agent->say_eof = s.say_eof;
	agent->stdin_ended = s.stdin_ended;
	agent->say_signal = (int)s.say_signal;
	agent->credit = s.credit;
	agent->rows = s.rows;
	agent->cols = s.cols;
	memcpy(agent->consumed, s.consumed, sizeof(s.consumed));
	memcpy(agent->outstanding, s.outstanding, sizeof(s.outstanding));
	agent->in_len = s.in_len;
	memcpy(agent->in, bytes, s.in_len);
	bytes += s.in_len;
	agent->reader.used = s.reader_len;
	memcpy(agent->reader_bytes, bytes, s.reader_len);
	bytes += s.reader_len;
	if (s.run_len)
		memcpy(agent->run, bytes, s.run_len);
	bytes += s.run_len;
	agent->run_len = s.run_len;
	memcpy(agent->frame, bytes, s.out_len);
	bytes += s.out_len;
	agent->out = s.out_is_run ? agent->run : agent->frame;
	agent->out_len = s.out_is_run ? s.run_len : s.out_len;
	agent->stdin_len = s.stdin_len;
	memcpy(agent->stdin_ring, bytes, s.stdin_len);
	loop_post(agent->loop, &agent->task);
	return 0;
}
