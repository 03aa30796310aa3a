/*
 * The HPET (IA-PC HPET specification 1.0a). Called by the MMIO bus and the
 * clock. Invariant: while the main counter runs, every timer whose interrupt is
 * enabled is armed for its next match; comparators of periodic timers advance
 * when somebody looks.
 */
#include "dev/pc/hpet.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "bus/bus.h"
#include "bus/vclock.h"
#include "dev/pc/tick.h"
#include "state/stream.h"

#define TICK_NS (HPET_PERIOD_FS / 1000000)

#define REG_CAPABILITIES 0x000
#define REG_CONFIG       0x010
#define REG_STATUS       0x020
#define REG_COUNTER      0x0f0
#define REG_TIMER        0x100 /* each 0x20: configuration, comparator, message route */
#define TIMER_LEN        0x20

#define CAPABILITIES                                                                        \
	((uint64_t)HPET_PERIOD_FS << 32 | 0x80860000u | 1u << 15 /* legacy replacement */ | \
	 1u << 13 /* 64-bit counter */ | (HPET_TIMERS - 1) << 8 | 1u /* revision */)

#define CONFIG_ENABLE 0x1u
#define CONFIG_LEGACY 0x2u

#define TIMER_LEVEL        0x2u
#define TIMER_ENABLE       0x4u
#define TIMER_PERIODIC     0x8u
#define TIMER_PERIODIC_CAP 0x10u
#define TIMER_64BIT_CAP    0x20u
#define TIMER_SET_VALUE    0x40u
#define TIMER_32BIT        0x100u
#define TIMER_ROUTE        0x3e00u
#define TIMER_MSI          0x4000u
#define TIMER_MSI_CAP      0x8000u
#define TIMER_WRITABLE                                                                 \
	(TIMER_LEVEL | TIMER_ENABLE | TIMER_PERIODIC | TIMER_SET_VALUE | TIMER_32BIT | \
	 TIMER_ROUTE | TIMER_MSI)

struct hpet_timer_regs {
	uint64_t config; /* writable bits only */
	uint64_t comparator;
	uint64_t period;   /* last value written, in periodic mode */
	uint64_t route;    /* message: address high, data low */
	uint64_t due;      /* counter value of the next match, in the running count */
	uint8_t owed;      /* ticks late and still to be delivered */
	uint64_t first;    /* comparator as last set directly */
	uint8_t first_set; /* and no period written since */
	uint8_t set_high;  /* the set-value write had only its low half yet */
};

struct hpet_regs {
	uint64_t config, status;
	uint64_t counter; /* value while halted; running: value at guest time 0 (may wrap) */
	struct hpet_timer_regs timer[HPET_TIMERS];
};

struct hpet_timer {
	struct hpet *hpet;
	struct vclock_timer clock;
	uint64_t earliest_ns;  /* behind time: not before */
	struct irq_line *line; /* level-triggered and high: where; else NULL */
};

struct hpet {
	pthread_mutex_t lock;
	struct hpet_regs regs;
	struct hpet_timer timer[HPET_TIMERS];
	int legacy; /* switch as last driven */
	struct hpet_config config;
	uint32_t routes; /* I/O APIC inputs offered */
	struct bus *bus;
	uint64_t base;
};

static bool is_running(const struct hpet *h)
{
	return h->regs.config & CONFIG_ENABLE;
}

static uint64_t counter_at(const struct hpet *h, uint64_t now_ns)
{
	return is_running(h) ? h->regs.counter + now_ns / TICK_NS : h->regs.counter;
}

static uint64_t mask(const struct hpet_timer_regs *t)
{
	return t->config & TIMER_32BIT ? UINT32_MAX : UINT64_MAX;
}

static bool is_periodic(const struct hpet_timer_regs *t)
{
	return (t->config & TIMER_PERIODIC) && (t->period & mask(t));
}

static bool in_legacy(const struct hpet *h)
{
	return (h->regs.config & (CONFIG_ENABLE | CONFIG_LEGACY)) ==
	       (CONFIG_ENABLE | CONFIG_LEGACY);
}

/* NULL: the timer sends messages, or its route leads nowhere. */
static struct irq_line *line_of(struct hpet *h, unsigned n)
{
	const struct hpet_timer_regs *t = &h->regs.timer[n];
	unsigned route = (unsigned)(t->config & TIMER_ROUTE) >> 9;

	if (n < 2 && in_legacy(h))
		return &h->config.legacy[n];
	if (t->config & TIMER_MSI)
		return NULL;
	return h->routes >> route & 1 ? &h->config.ioapic[route] : NULL;
}

/* The line of a level-triggered timer follows status, enable and route. */
static void update_level(struct hpet *h, unsigned n)
{
	const struct hpet_timer_regs *t = &h->regs.timer[n];
	struct irq_line *line = NULL;

	if ((t->config & TIMER_LEVEL) && (t->config & TIMER_ENABLE) && (h->regs.status >> n & 1))
		line = line_of(h, n);
	if (line == h->timer[n].line)
		return;
	if (h->timer[n].line)
		irq_set(h->timer[n].line, 0);
	h->timer[n].line = line;
	if (line)
		irq_set(line, 1);
}

static void fire(struct hpet *h, unsigned n)
{
	const struct hpet_timer_regs *t = &h->regs.timer[n];
	struct irq_line *line = line_of(h, n);

	if (!(t->config & TIMER_ENABLE) || (t->config & TIMER_LEVEL))
		return; /* level: update_level() drives it */
	if (line)
		irq_pulse(line);
	else if (t->config & TIMER_MSI)
		msi_send(&h->config.msi, t->route >> 32, (uint32_t)t->route);
}

/*
 * Takes in the matches up to `now`: status, the comparator of a periodic timer,
 * ticks owed. True if there was one.
 */
static bool settle(struct hpet *h, unsigned n, uint64_t now)
{
	struct hpet_timer_regs *t = &h->regs.timer[n];
	uint64_t period = t->period & mask(t), times;

	if (!is_running(h) || (int64_t)(now - t->due) < 0)
		return false;
	if (t->config & TIMER_LEVEL)
		h->regs.status |= 1ull << n;
	if (!is_periodic(t)) {
		/* With 32 bits the count comes round to the same value every 43 seconds. */
		if (mask(t) == UINT32_MAX)
			t->due += (((now - t->due) >> 32) + 1) << 32;
		else
			t->due = now + INT64_MAX;
		return true;
	}
	times = (now - t->due) / period + 1;
	t->due += times * period;
	t->comparator = (t->comparator + times * period) & mask(t);
	times += t->owed;
	t->owed = (uint8_t)(times - 1 > TICK_OWED_MAX ? TICK_OWED_MAX : times - 1);
	return true;
}

static void arm(struct hpet *h, unsigned n, uint64_t now_ns)
{
	const struct hpet_timer_regs *t = &h->regs.timer[n];
	uint64_t now = counter_at(h, now_ns), left = t->due - now, ns = UINT64_MAX;

	if (!is_running(h) || !(t->config & TIMER_ENABLE)) {
		vclock_timer_arm(&h->timer[n].clock, UINT64_MAX);
		return;
	}
	if ((int64_t)left < 0 || t->owed)
		left = 0;
	if (left < (UINT64_MAX - now_ns) / TICK_NS)
		ns = (now_ns / TICK_NS + left) * TICK_NS;
	if (ns < h->timer[n].earliest_ns)
		ns = h->timer[n].earliest_ns;
	vclock_timer_arm(&h->timer[n].clock, ns);
}

static void timer_due(void *ctx)
{
	struct hpet_timer *timer = ctx;
	struct hpet *h = timer->hpet;
	unsigned n = (unsigned)(timer - h->timer);
	struct hpet_timer_regs *t = &h->regs.timer[n];
	uint64_t now_ns;

	pthread_mutex_lock(&h->lock);
	now_ns = vclock_now_ns(h->config.clock);
	/* A look by the guest may have settled this match already; ticks behind it may still be
	 * owed. */
	if (settle(h, n, counter_at(h, now_ns))) {
		fire(h, n);
	} else if (t->owed) {
		t->owed--;
		fire(h, n);
	}
	update_level(h, n);
	timer->earliest_ns =
		is_periodic(t) ? tick_earliest(now_ns, (t->period & mask(t)) * TICK_NS) : 0;
	arm(h, n, now_ns);
	pthread_mutex_unlock(&h->lock);
}

/* Before the guest reads or changes anything: what has matched by now is delivered. */
static void catch_up(struct hpet *h, uint64_t now_ns)
{
	for (unsigned n = 0; n < HPET_TIMERS; n++) {
		if (settle(h, n, counter_at(h, now_ns))) {
			fire(h, n);
			arm(h, n, now_ns);
		}
		update_level(h, n);
	}
}

/* Where the running count will next equal the comparator. */
static void plan(struct hpet *h, unsigned n, uint64_t now_ns)
{
	struct hpet_timer_regs *t = &h->regs.timer[n];
	uint64_t now = counter_at(h, now_ns), period = t->period & mask(t);
	uint64_t ahead = (t->comparator - now) & mask(t), behind = (now - t->comparator) & mask(t);

	if (is_periodic(t) && behind && behind <= mask(t) / 2) {
		/* The guest was slow to write the period: on with the first tick still to come. */
		t->comparator = (t->comparator + (behind / period + 1) * period) & mask(t);
		ahead = (t->comparator - now) & mask(t);
	} else if (mask(t) == UINT64_MAX && (int64_t)ahead < 0) {
		ahead = INT64_MAX; /* a 64-bit value behind the count is as good as never */
	}
	t->due = now + ahead;
	t->owed = 0;
	h->timer[n].earliest_ns = 0;
	arm(h, n, now_ns);
}

static void write_config(struct hpet *h, uint64_t value, uint64_t now_ns)
{
	uint64_t now = counter_at(h, now_ns);
	bool was_running = is_running(h);
	int legacy;

	h->regs.config = value & (CONFIG_ENABLE | CONFIG_LEGACY);
	if (is_running(h) != was_running)
		h->regs.counter = is_running(h) ? now - now_ns / TICK_NS : now;
	legacy = in_legacy(h);
	for (unsigned n = 0; n < HPET_TIMERS; n++) {
		if (is_running(h) && !was_running)
			plan(h, n, now_ns);
		else
			arm(h, n, now_ns);
		update_level(h, n);
	}
	if (legacy != h->legacy) {
		h->legacy = legacy;
		irq_set(&h->config.legacy_switch, legacy);
	}
}

static void write_timer_config(struct hpet *h, unsigned n, uint64_t value, uint64_t now_ns)
{
	struct hpet_timer_regs *t = &h->regs.timer[n];
	unsigned route = (unsigned)(value & TIMER_ROUTE) >> 9;
	bool changed;

	value &= TIMER_WRITABLE;
	if (!h->config.msi.send)
		value &= ~(uint64_t)TIMER_MSI;
	/* A route that is not offered reads back as another value (2.3.8). */
	if (!(h->routes >> route & 1))
		value &= ~(uint64_t)TIMER_ROUTE;
	changed = (t->config ^ value) & (TIMER_32BIT | TIMER_PERIODIC);
	t->config = value;
	if (value & TIMER_32BIT) {
		t->comparator &= UINT32_MAX;
		t->period &= UINT32_MAX;
	}
	/* Planning anew would find a match of this very tick once more. */
	if (changed)
		plan(h, n, now_ns);
	else
		arm(h, n, now_ns);
	update_level(h, n);
}

/* `low`/`high`: which halves of the register the access covers. */
static void write_comparator(struct hpet *h, unsigned n, uint64_t value, bool low, bool high,
			     uint64_t now_ns)
{
	struct hpet_timer_regs *t = &h->regs.timer[n];
	bool set = (t->config & TIMER_SET_VALUE) || (high && !low && t->set_high);
	uint64_t keep = (low ? 0 : UINT32_MAX) | (high ? 0 : 0xffffffff00000000ull);

	if (mask(t) == UINT32_MAX) {
		if (!low)
			return;
		keep = 0;
		value &= UINT32_MAX;
	}
	if (!(t->config & TIMER_PERIODIC) || set) {
		t->comparator = (t->comparator & keep) | value;
		t->first = t->comparator;
		t->first_set = set;
	} else if (t->first_set) {
		/* Matches since then advanced by the value that was set, which is no period. */
		t->comparator = t->first;
		t->first_set = 0;
	}
	if (t->config & TIMER_PERIODIC)
		t->period = (t->period & keep) | value;
	t->set_high = set && low && !high;
	t->config &= ~(uint64_t)TIMER_SET_VALUE;
	plan(h, n, now_ns);
}

static uint64_t read_timer(struct hpet *h, unsigned n, unsigned offset)
{
	const struct hpet_timer_regs *t = &h->regs.timer[n];

	switch (offset) {
	case 0x00:
		return t->config | TIMER_PERIODIC_CAP | TIMER_64BIT_CAP |
		       (h->config.msi.send ? TIMER_MSI_CAP : 0) | (uint64_t)h->routes << 32;
	case 0x08:
		return t->comparator;
	case 0x10:
		return t->route;
	}
	return 0;
}

/* A whole 64-bit register. */
static uint64_t read_register(struct hpet *h, unsigned offset, uint64_t now_ns)
{
	unsigned n = (offset - REG_TIMER) / TIMER_LEN;

	switch (offset) {
	case REG_CAPABILITIES:
		return CAPABILITIES;
	case REG_CONFIG:
		return h->regs.config;
	case REG_STATUS:
		return h->regs.status;
	case REG_COUNTER:
		return counter_at(h, now_ns);
	}
	if (offset < REG_TIMER || n >= HPET_TIMERS)
		return 0;
	return read_timer(h, n, offset % TIMER_LEN);
}

static uint64_t hpet_read(void *dev, uint64_t offset, unsigned size)
{
	struct hpet *h = dev;
	uint64_t now_ns, value;

	(void)size; /* the bus keeps what was asked for; beyond the register nothing is defined */
	pthread_mutex_lock(&h->lock);
	now_ns = vclock_now_ns(h->config.clock);
	catch_up(h, now_ns);
	value = read_register(h, (unsigned)offset & ~7u, now_ns) >> (offset & 7) * 8;
	pthread_mutex_unlock(&h->lock);
	return value;
}

static void write_register(struct hpet *h, unsigned offset, uint64_t value, bool low, bool high,
			   uint64_t now_ns)
{
	unsigned n = (offset - REG_TIMER) / TIMER_LEN;
	uint64_t keep = (low ? 0 : UINT32_MAX) | (high ? 0 : 0xffffffff00000000ull);

	switch (offset) {
	case REG_CONFIG:
		if (low)
			write_config(h, value, now_ns);
		return;
	case REG_STATUS:
		h->regs.status &= ~value;
		for (n = 0; n < HPET_TIMERS; n++)
			update_level(h, n);
		return;
	case REG_COUNTER:
		if (!is_running(h))
			h->regs.counter = (h->regs.counter & keep) | value;
		return;
	}
	if (offset < REG_TIMER || n >= HPET_TIMERS)
		return;
	switch (offset % TIMER_LEN) {
	case 0x00:
		if (low)
			write_timer_config(h, n, value, now_ns);
		return;
	case 0x08:
		write_comparator(h, n, value, low, high, now_ns);
		return;
	case 0x10:
		h->regs.timer[n].route = (h->regs.timer[n].route & keep) | value;
		return;
	}
}

static void hpet_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	struct hpet *h = dev;
	bool low = !(offset & 4), high = (offset & 4) || size == 8;
	uint64_t now_ns;

	/* Only aligned 32- and 64-bit accesses are defined (2.3.2). */
	if (size < 4 || offset & (size - 1))
		return;
	if (size == 4)
		value = (value & UINT32_MAX) << (high ? 32 : 0);
	pthread_mutex_lock(&h->lock);
	now_ns = vclock_now_ns(h->config.clock);
	catch_up(h, now_ns);
	write_register(h, (unsigned)offset & ~7u, value, low, high, now_ns);
	pthread_mutex_unlock(&h->lock);
}

static const struct bus_ops hpet_ops = { .read = hpet_read, .write = hpet_write };

struct hpet *hpet_new(const struct hpet_config *config)
{
	struct hpet *h = calloc(1, sizeof(*h));

	if (!h)
		return NULL;
	pthread_mutex_init(&h->lock, NULL);
	h->config = *config;
	for (unsigned i = 0; i < 32; i++)
		if (config->ioapic[i].set)
			h->routes |= 1u << i;
	for (unsigned n = 0; n < HPET_TIMERS; n++) {
		h->timer[n].hpet = h;
		vclock_timer_init(&h->timer[n].clock, config->clock, timer_due, &h->timer[n]);
	}
	hpet_reset(h);
	return h;
}

void hpet_free(struct hpet *h)
{
	if (!h)
		return;
	if (h->bus)
		bus_remove(h->bus, h->base, h);
	for (unsigned n = 0; n < HPET_TIMERS; n++)
		vclock_timer_disarm(&h->timer[n].clock);
	pthread_mutex_destroy(&h->lock);
	free(h);
}

int hpet_attach(struct hpet *h, struct bus *mmio, uint64_t base)
{
	int error = bus_add(mmio, &(struct bus_region){ .name = "hpet",
							.base = base,
							.len = HPET_LEN,
							.ops = &hpet_ops,
							.dev = h });

	if (error)
		return error;
	h->bus = mmio;
	h->base = base;
	return 0;
}

void hpet_reset(struct hpet *h)
{
	pthread_mutex_lock(&h->lock);
	write_config(h, 0, 0);
	h->regs = (struct hpet_regs){ 0 };
	for (unsigned n = 0; n < HPET_TIMERS; n++) {
		h->regs.timer[n].comparator = UINT64_MAX;
		h->timer[n].earliest_ns = 0;
		arm(h, n, 0);
		update_level(h, n);
	}
	pthread_mutex_unlock(&h->lock);
}

static const struct state_field timer_fields[] = {
	STATE_FIELD(struct hpet_timer_regs, config),
	STATE_FIELD(struct hpet_timer_regs, comparator),
	STATE_FIELD(struct hpet_timer_regs, period),
	STATE_FIELD(struct hpet_timer_regs, route),
	STATE_FIELD(struct hpet_timer_regs, due),
	STATE_FIELD(struct hpet_timer_regs, first),
	STATE_FIELD(struct hpet_timer_regs, first_set),
	STATE_FIELD(struct hpet_timer_regs, owed),
	STATE_FIELD(struct hpet_timer_regs, set_high),
	STATE_END,
};

static const struct state_table timer_table = {
	.name = "hpet timer",
	.version = 1,
	.size = sizeof(struct hpet_timer_regs),
	.fields = timer_fields,
};

static const struct state_field hpet_fields[] = {
	STATE_FIELD(struct hpet_regs, config),
	STATE_FIELD(struct hpet_regs, status),
	STATE_FIELD(struct hpet_regs, counter),
	STATE_STRUCT_ARRAY(struct hpet_regs, timer, &timer_table),
	STATE_END,
};

static int hpet_post_load(void *object, const char **error)
{
	const struct hpet_regs *r = object;

	for (unsigned n = 0; n < HPET_TIMERS; n++) {
		if (r->timer[n].owed > TICK_OWED_MAX ||
		    (r->timer[n].config & ~(uint64_t)TIMER_WRITABLE)) {
			*error = "a timer of the HPET is in a state that it cannot have";
			return -1;
		}
	}
	return 0;
}

static const struct state_table hpet_table = {
	.name = "hpet",
	.version = 1,
	.size = sizeof(struct hpet_regs),
	.fields = hpet_fields,
	.post_load = hpet_post_load,
};

void hpet_save(struct hpet *h, struct state_writer *writer)
{
	struct hpet_regs regs;

	pthread_mutex_lock(&h->lock);
	regs = h->regs;
	pthread_mutex_unlock(&h->lock);
	state_save(&hpet_table, &regs, writer);
}

int hpet_load(struct hpet *h, struct state_reader *reader)
{
	struct hpet_regs regs;
	int error;

	pthread_mutex_lock(&h->lock);
	regs = h->regs;
	pthread_mutex_unlock(&h->lock);
	error = state_load(&hpet_table, &regs, reader);
	if (error)
		return error;
	pthread_mutex_lock(&h->lock);
	h->regs = regs;
	for (unsigned n = 0; n < HPET_TIMERS; n++) {
		h->timer[n].earliest_ns = 0;
		arm(h, n, vclock_now_ns(h->config.clock));
		update_level(h, n);
	}
	h->legacy = in_legacy(h);
	irq_set(&h->config.legacy_switch, h->legacy);
	pthread_mutex_unlock(&h->lock);
	return 0;
}
