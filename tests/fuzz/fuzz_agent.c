/*
 * The monitor's end of the guest agent: the input is what a guest writes to the
 * port, in pieces whose sizes are drawn from it too. Whatever it is, there is at
 * most one last event, and the window is kept.
 */
#include <signal.h>
#include <stdint.h>
#include <string.h>

#include "base/assert.h"
#include "base/loop.h"
#include "chardev/chardev.h"
#include "vm/agent.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

struct run {
	struct loop *loop;
	struct agent *agent;
	struct loop_task step;
	const uint8_t *bytes;
	size_t len;
	bool over, consume;
	size_t held[3];
	uint32_t seed;
};

static void on_ready(void *ctx)
{
	struct run *run = ctx;
	const char *argv[] = { "cat", NULL };

	ASSERT(!run->over);
	ASSERT(!agent_run(run->agent, &(struct agent_command){ .argv = argv }));
	agent_stdin(run->agent, (const uint8_t *)"input", 5);
	agent_window_size(run->agent, 25, 80);
	agent_signal(run->agent, SIGTERM);
}

static void on_output(void *ctx, enum agent_stream stream, const uint8_t *bytes, size_t count)
{
	struct run *run = ctx;

	ASSERT(!run->over && (stream == AGENT_STDOUT || stream == AGENT_STDERR));
	run->held[stream] += count;
	ASSERT(run->held[stream] <= AGENT_WINDOW);
	if (!run->consume)
		return;
	agent_consumed(run->agent, stream, run->held[stream]);
	run->held[stream] = 0;
}

static void on_room(void *ctx)
{
	struct run *run = ctx;

	agent_stdin(run->agent, (const uint8_t *)"more", 4);
}

static void on_exited(void *ctx, int status)
{
	struct run *run = ctx;

	ASSERT(!run->over && status >= 0 && status <= 255);
	run->over = true;
}

static void on_failed(void *ctx, const char *sentence)
{
	struct run *run = ctx;

	ASSERT(!run->over && *sentence);
	run->over = true;
}

static const struct agent_events events = { on_ready, on_output, on_room, on_exited, on_failed };

static uint32_t draw(struct run *run)
{
	run->seed = run->seed * 1664525 + 1013904223;
	return run->seed >> 16;
}

static size_t port_room(void *ctx)
{
	return draw(ctx) % 40;
}

static void port_receive(void *ctx, const uint8_t *bytes, size_t count)
{
}

static void step(void *ctx)
{
	struct run *run = ctx;
	size_t piece = draw(run) % 3 ? draw(run) % 16 : draw(run) % 5000;

	if (piece > run->len)
		piece = run->len;
	piece = chardev_write(agent_chardev(run->agent), run->bytes, piece);
	run->bytes += piece;
	run->len -= piece;
	if (run->len)
		loop_post(run->loop, &run->step);
	else
		loop_stop(run->loop);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
	struct run run = { .bytes = bytes, .len = len };

	if (!len)
		return 0;
	run.seed = bytes[0];
	run.consume = bytes[0] & 1;
	run.bytes++;
	run.len--;
	run.loop = loop_new();
	run.agent = agent_new(run.loop, &events, &run);
	ASSERT(run.loop && run.agent);
	chardev_connect(agent_chardev(run.agent),
			&(struct chardev_frontend){ port_room, port_receive, NULL, NULL, &run });
	loop_task_init(&run.step, step, &run);
	loop_post(run.loop, &run.step);
	loop_run(run.loop);
	agent_free(run.agent);
	loop_free(run.loop);
	return 0;
}
