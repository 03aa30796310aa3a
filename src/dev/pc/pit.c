/*
 * The 8254 with its three counters, and port 0x61. Called by the port bus and
 * the clock. Invariant: while counter 0 has an edge to come, the timer is armed
 * for it (or, behind time, for when it may be delivered) and next_edge names it.
 */
#include "dev/pc/pit.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "bus/bus.h"
#include "bus/vclock.h"
#include "dev/pc/pit_channel.h"
#include "dev/pc/port_bytes.h"
#include "dev/pc/tick.h"
#include "state/stream.h"

#define PORT_PIT        0x40
#define PORT_CONTROL_B  0x61
#define POLL_GAP_NS     50000u /* between two polls of port 0x61: the guest was not running */
#define REFRESH_HALF_NS 15085u /* bit 4 toggles with each DRAM refresh */

#define CONTROL_B_GATE2   0x01
#define CONTROL_B_STORED  0x0f
#define CONTROL_B_REFRESH 0x10
#define CONTROL_B_OUT2    0x20

struct pit_regs {
	struct pit_channel channel[3];
	uint64_t next_edge; /* of counter 0, in clocks; UINT64_MAX: none */
	uint8_t control_b;
	uint8_t irq0; /* as last driven */
};

struct pit {
	pthread_mutex_t lock;
	struct pit_regs regs;
	bool out2_seen;     /* OUT of counter 2 as port 0x61 last had it */
	uint64_t polled_ns; /* when that was */
	struct vclock_timer timer;
	struct vclock *clock;
	struct irq_line irq0;
	struct bus *bus;
};

static uint64_t clocks(struct pit *pit)
{
	return tick_from_ns(vclock_now_ns(pit->clock), PIT_HZ);
}

static void drive(struct pit *pit, bool level)
{
	if (level == pit->regs.irq0)
		return;
	pit->regs.irq0 = level;
	irq_set(&pit->irq0, level);
}

static void arm(struct pit *pit, uint64_t earliest_ns)
{
	uint64_t edge = pit->regs.next_edge, ns = UINT64_MAX;

	if (edge != UINT64_MAX)
		ns = tick_to_ns(edge, PIT_HZ);
	if (ns < earliest_ns)
		ns = earliest_ns;
	vclock_timer_arm(&pit->timer, ns);
}

/* Counter 0 was programmed: its output is what it is now, and edges are counted from here. */
static void restart(struct pit *pit, uint64_t now)
{
	const struct pit_channel *c = &pit->regs.channel[0];
	uint64_t after = now > c->start ? now : c->start;

	/* The short low of modes 2 and 4 is not driven but when it ends. */
	drive(pit, c->mode == 2 || c->mode == 4 || pit_channel_out(c, now));
	pit->regs.next_edge = pit_channel_next_edge(c, after);
	arm(pit, 0);
}

static void edge_due(void *ctx)
{
	struct pit *pit = ctx;
	struct pit_channel *c = &pit->regs.channel[0];
	uint64_t now_ns, now, owed_from, period;

	pthread_mutex_lock(&pit->lock);
	now_ns = vclock_now_ns(pit->clock);
	now = tick_from_ns(now_ns, PIT_HZ);
	if (pit->regs.next_edge > now) { /* programmed anew while we were on our way */
		arm(pit, 0);
		pthread_mutex_unlock(&pit->lock);
		return;
	}
	drive(pit, 0);
	drive(pit, 1);
	period = pit_channel_period(c);
	pit_channel_settle(c, now);
	owed_from = pit->regs.next_edge;
	if (now - owed_from > TICK_OWED_MAX * period)
		owed_from = now - TICK_OWED_MAX * period;
	pit->regs.next_edge = pit_channel_next_edge(c, owed_from);
	arm(pit, period ? tick_earliest(now_ns, tick_to_ns(period, PIT_HZ)) : 0);
	pthread_mutex_unlock(&pit->lock);
}

/* The control register (port 0x43): a mode, a counter latch or a read-back command. */
static void write_control(struct pit *pit, uint8_t value, uint64_t now)
{
	unsigned select = value >> 6, access = value >> 4 & 3;

	if (select == 3) {
		for (unsigned i = 0; i < 3; i++) {
			if (!(value >> (i + 1) & 1))
				continue;
			if (!(value & 0x20))
				pit_channel_latch_count(&pit->regs.channel[i], now);
			if (!(value & 0x10))
				pit_channel_latch_status(&pit->regs.channel[i], now);
		}
		return;
	}
	if (access == 0) {
		pit_channel_latch_count(&pit->regs.channel[select], now);
		return;
	}
	pit_channel_control(&pit->regs.channel[select], access, value >> 1 & 7, value & 1);
	if (select == 0)
		restart(pit, now);
}

static uint8_t read_counter(void *dev, unsigned offset)
{
	struct pit *pit = dev;
	uint8_t value = 0xff;

	pthread_mutex_lock(&pit->lock);
	if (offset < 3)
		value = pit_channel_read(&pit->regs.channel[offset], clocks(pit));
	pthread_mutex_unlock(&pit->lock);
	return value;
}

static void write_counter(void *dev, unsigned offset, uint8_t value)
{
	struct pit *pit = dev;
	uint64_t now;

	pthread_mutex_lock(&pit->lock);
	now = clocks(pit);
	if (offset == 3) {
		write_control(pit, value, now);
	} else if (offset < 3) {
		struct pit_channel *c = &pit->regs.channel[offset];

		pit_channel_write(c, now, value);
		/* A count that waits for the end of the period does not disturb the edges. */
		if (offset == 0 && !c->pending)
			restart(pit, now);
	}
	pthread_mutex_unlock(&pit->lock);
}

/*
 * OUT of counter 2 as a poll shows it. A guest that measures its TSC polls until
 * OUT is high and takes the time after each poll that showed it low. If the
 * host had the CPU meanwhile, an end of the count shown at once would hide the
 * gap and make the TSC seem slow. So the end is shown one poll late, as if the
 * port had been read before the gap: the guest then sees it and measures again.
 */
static bool poll_out2(struct pit *pit, uint64_t now_ns)
{
	struct pit_channel *c = &pit->regs.channel[2];
	uint64_t now = tick_from_ns(now_ns, PIT_HZ);
	bool out, late;

	pit_channel_settle(c, now);
	out = pit_channel_out(c, now);
	late = out && !pit->out2_seen && now_ns - pit->polled_ns > POLL_GAP_NS;
	pit->out2_seen = out;
	pit->polled_ns = now_ns;
	return out && !late;
}

static uint8_t read_control_b(void *dev, unsigned offset)
{
	struct pit *pit = dev;
	uint64_t now_ns;
	uint8_t value;

	(void)offset;
	pthread_mutex_lock(&pit->lock);
	now_ns = vclock_now_ns(pit->clock);
	value = pit->regs.control_b & CONTROL_B_STORED;
	if (now_ns / REFRESH_HALF_NS & 1)
		value |= CONTROL_B_REFRESH;
	if (poll_out2(pit, now_ns))
		value |= CONTROL_B_OUT2;
	pthread_mutex_unlock(&pit->lock);
	return value;
}

static void write_control_b(void *dev, unsigned offset, uint8_t value)
{
	struct pit *pit = dev;

	(void)offset;
	pthread_mutex_lock(&pit->lock);
	pit->regs.control_b = value & CONTROL_B_STORED;
	pit_channel_set_gate(&pit->regs.channel[2], clocks(pit), value & CONTROL_B_GATE2);
	pthread_mutex_unlock(&pit->lock);
}

static uint64_t pit_read(void *dev, uint64_t offset, unsigned size)
{
	return port_bytes_read(dev, offset, size, read_counter);
}

static void pit_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	port_bytes_write(dev, offset, size, value, write_counter);
}

static uint64_t control_b_read(void *dev, uint64_t offset, unsigned size)
{
	return port_bytes_read(dev, offset, size, read_control_b);
}

static void control_b_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	port_bytes_write(dev, offset, size, value, write_control_b);
}

static const struct bus_ops pit_ops = { .read = pit_read, .write = pit_write };
static const struct bus_ops control_b_ops = { .read = control_b_read, .write = control_b_write };

struct pit *pit_new(struct vclock *clock, struct irq_line irq0)
{
	struct pit *pit = calloc(1, sizeof(*pit));

	if (!pit)
		return NULL;
	pthread_mutex_init(&pit->lock, NULL);
	pit->clock = clock;
	pit->irq0 = irq0;
	vclock_timer_init(&pit->timer, clock, edge_due, pit);
	pit_reset(pit);
	return pit;
}

void pit_free(struct pit *pit)
{
	if (!pit)
		return;
	if (pit->bus) {
		bus_remove(pit->bus, PORT_PIT, pit);
		bus_remove(pit->bus, PORT_CONTROL_B, pit);
	}
	vclock_timer_disarm(&pit->timer);
	pthread_mutex_destroy(&pit->lock);
	free(pit);
}

int pit_attach(struct pit *pit, struct bus *pio)
{
	int error = bus_add(
		pio,
		&(struct bus_region){
			.name = "pit", .base = PORT_PIT, .len = 4, .ops = &pit_ops, .dev = pit });

	if (error)
		return error;
	error = bus_add(pio, &(struct bus_region){ .name = "control port B",
						   .base = PORT_CONTROL_B,
						   .len = 1,
						   .ops = &control_b_ops,
						   .dev = pit });
	if (error) {
		bus_remove(pio, PORT_PIT, pit);
		return error;
	}
	pit->bus = pio;
	return 0;
}

void pit_reset(struct pit *pit)
{
	pthread_mutex_lock(&pit->lock);
	/* Undefined by the data sheet; ours stand still in mode 3 until programmed. */
	pit->regs = (struct pit_regs){ .next_edge = UINT64_MAX, .irq0 = pit->regs.irq0 };
	for (unsigned i = 0; i < 3; i++) {
		pit->regs.channel[i].gate = i < 2;
		pit_channel_control(&pit->regs.channel[i], 3, 3, false);
	}
	pit->out2_seen = true;
	arm(pit, 0);
	drive(pit, 0);
	pthread_mutex_unlock(&pit->lock);
}

static const struct state_field channel_fields[] = {
	STATE_FIELD(struct pit_channel, start),
	STATE_FIELD(struct pit_channel, held),
	STATE_FIELD(struct pit_channel, count),
	STATE_FIELD(struct pit_channel, pending),
	STATE_FIELD(struct pit_channel, latch),
	STATE_FIELD(struct pit_channel, mode),
	STATE_FIELD(struct pit_channel, access),
	STATE_FIELD(struct pit_channel, bcd),
	STATE_FIELD(struct pit_channel, gate),
	STATE_FIELD(struct pit_channel, counting),
	STATE_FIELD(struct pit_channel, latched),
	STATE_FIELD(struct pit_channel, status),
	STATE_FIELD(struct pit_channel, status_latched),
	STATE_FIELD(struct pit_channel, read_high),
	STATE_FIELD(struct pit_channel, write_high),
	STATE_FIELD(struct pit_channel, write_low),
	STATE_END,
};

static const struct state_table channel_table = {
	.name = "8254 counter",
	.version = 1,
	.size = sizeof(struct pit_channel),
	.fields = channel_fields,
};

static const struct state_field pit_fields[] = {
	STATE_STRUCT_ARRAY(struct pit_regs, channel, &channel_table),
	STATE_FIELD(struct pit_regs, next_edge),
	STATE_FIELD(struct pit_regs, control_b),
	STATE_FIELD(struct pit_regs, irq0),
	STATE_END,
};

static int pit_post_load(void *object, const char **error)
{
	const struct pit_regs *r = object;

	for (unsigned i = 0; i < 3; i++) {
		const struct pit_channel *c = &r->channel[i];

		if (c->mode > 5 || c->access < 1 || c->access > 3 || c->latched > 2 || c->bcd > 1 ||
		    c->count > 65536 || c->pending > 65536 || (c->counting && !c->count)) {
			*error = "a counter of the 8254 is in a state that it cannot have";
			return -1;
		}
	}
	return 0;
}

static const struct state_table pit_table = {
	.name = "pit",
	.version = 1,
	.size = sizeof(struct pit_regs),
	.fields = pit_fields,
	.post_load = pit_post_load,
};

void pit_save(struct pit *pit, struct state_writer *writer)
{
	struct pit_regs regs;

	pthread_mutex_lock(&pit->lock);
	regs = pit->regs;
	pthread_mutex_unlock(&pit->lock);
	state_save(&pit_table, &regs, writer);
}

int pit_load(struct pit *pit, struct state_reader *reader)
{
	struct pit_regs regs;
	int error;

	pthread_mutex_lock(&pit->lock);
	regs = pit->regs;
	pthread_mutex_unlock(&pit->lock);
	error = state_load(&pit_table, &regs, reader);
	if (error)
		return error;
	pthread_mutex_lock(&pit->lock);
	pit->regs = regs;
	irq_set(&pit->irq0, pit->regs.irq0 != 0);
	arm(pit, 0);
	pthread_mutex_unlock(&pit->lock);
	return 0;
}
