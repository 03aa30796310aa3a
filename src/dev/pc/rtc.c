/*
 * MC146818: registers, flags and the three interrupts. Called by the port bus
 * and the clock. Invariant: under the lock, after settle(), register C holds
 * every flag whose moment has passed, and the time of day is that of the
 * clock unless the guest stopped it.
 *
 * Nothing ticks unless an interrupt is enabled: flags and time are computed
 * when somebody looks.
 */
#include "dev/pc/rtc.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "bus/bus.h"
#include "bus/vclock.h"
#include "dev/pc/port_bytes.h"
#include "dev/pc/rtc_date.h"
#include "dev/pc/tick.h"
#include "state/stream.h"

#define PORT_RTC 0x70
#define PORT_LEN 8
#define SECOND   ((int64_t)NS_PER_SECOND)

enum {
	SECONDS,
	SECONDS_ALARM,
	MINUTES,
	MINUTES_ALARM,
	HOURS,
	HOURS_ALARM,
	WEEKDAY,
	DAY,
	MONTH,
	YEAR,
	REG_A,
	REG_B,
	REG_C,
	REG_D,
	EQUIPMENT = 0x14,
	BASE_KB = 0x15,
	EXTENDED_KB = 0x17,
	EXTENDED_KB_2 = 0x30,
	CENTURY = 0x32,
	ABOVE_16M = 0x34, /* in 64 KiB */
	ABOVE_4G = 0x5b,  /* in 64 KiB */
	CPUS_LESS_ONE = 0x5f,
};

#define A_UIP     0x80
#define A_DIVIDER 0x70
#define A_NORMAL  0x20 /* 32.768 kHz, counting */
#define A_RATE    0x0f

#define B_SET  0x80
#define B_PIE  0x40
#define B_AIE  0x20
#define B_UIE  0x10
#define B_SQWE 0x08
#define B_DM   0x04 /* binary, not BCD */
#define B_24H  0x02

#define C_IRQF 0x80
#define C_PF   0x40
#define C_AF   0x20
#define C_UF   0x10

#define D_VRT 0x80

/* UIP rises 244 us before an update cycle of 1984 us, at whose end the second has changed. */
#define UIP_NS ((244 + 1984) * 1000)

/* A lazily found alarm looks back no further than this. */
#define ALARM_LOOK_BACK 86400

struct rtc_regs {
	uint8_t ram[128];              /* time of day: valid only while stopped */
	int64_t offset_ns;             /* what the guest's settings added to wall time */
	int64_t seen_second;           /* C reflects all updates up to this second */
	uint64_t periods;              /* periodic ticks since guest time 0 that PF has told of */
	uint64_t periodic_earliest_ns; /* behind time: not before */
	uint8_t index;
	uint8_t upper[128]; /* the second bank, plain memory */
	uint8_t upper_index;
};

struct rtc {
	pthread_mutex_t lock;
	struct rtc_regs regs;
	int64_t wall_base_ns; /* wall time of guest time 0 */
	int line;
	struct vclock_timer timer;
	struct vclock *clock;
	struct irq_line irq8;
	struct rtc_memory memory;
	struct bus *bus;
};

static bool is_stopped(const struct rtc *rtc)
{
	return (rtc->regs.ram[REG_B] & B_SET) || (rtc->regs.ram[REG_A] & A_DIVIDER) != A_NORMAL;
}

/* Nanoseconds since 1970 by this clock, while it is not stopped. */
static int64_t time_ns(const struct rtc *rtc, uint64_t now_ns)
{
	return (int64_t)((uint64_t)rtc->wall_base_ns + (uint64_t)rtc->regs.offset_ns + now_ns);
}

static int64_t second_of(int64_t ns)
{
	return ns / SECOND - (ns % SECOND < 0);
}

static int64_t fraction_of(int64_t ns)
{
	int64_t rest = ns % SECOND;

	return rest < 0 ? rest + SECOND : rest;
}

static uint8_t encode(const struct rtc *rtc, unsigned value)
{
	if (rtc->regs.ram[REG_B] & B_DM)
		return (uint8_t)value;
	return (uint8_t)(value / 10 % 10 << 4 | value % 10);
}

static unsigned decode(const struct rtc *rtc, uint8_t byte)
{
	if (rtc->regs.ram[REG_B] & B_DM)
		return byte;
	return (byte >> 4) * 10u + (byte & 0xf);
}

static uint8_t encode_hour(const struct rtc *rtc, unsigned hour)
{
	if (rtc->regs.ram[REG_B] & B_24H)
		return encode(rtc, hour);
	return encode(rtc, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? 0x80 : 0);
}

static unsigned decode_hour(const struct rtc *rtc, uint8_t byte)
{
	if (rtc->regs.ram[REG_B] & B_24H)
		return decode(rtc, byte);
	return decode(rtc, byte & 0x7f) % 12 + (byte & 0x80 ? 12 : 0);
}

/* The running time into the registers. */
static void show_time(struct rtc *rtc, uint64_t now_ns)
{
	struct rtc_date date = rtc_date_from_seconds(second_of(time_ns(rtc, now_ns)));
	uint8_t *ram = rtc->regs.ram;

	ram[SECONDS] = encode(rtc, date.second);
	ram[MINUTES] = encode(rtc, date.minute);
	ram[HOURS] = encode_hour(rtc, date.hour);
	ram[WEEKDAY] = encode(rtc, date.weekday);
	ram[DAY] = encode(rtc, date.day);
	ram[MONTH] = encode(rtc, date.month);
	ram[YEAR] = encode(rtc, date.year % 100);
	/* The century byte is firmware's and always BCD. */
	ram[CENTURY] = (uint8_t)(date.year / 1000 % 10 << 4 | date.year / 100 % 10);
}

/* The registers as the time from now on, `fraction` nanoseconds into the second. */
static void adopt_time(struct rtc *rtc, uint64_t now_ns, int64_t fraction)
{
	const uint8_t *ram = rtc->regs.ram;
	struct rtc_date date = {
		.year = (ram[CENTURY] >> 4) * 1000u + (ram[CENTURY] & 0xf) * 100u +
			decode(rtc, ram[YEAR]),
		.month = decode(rtc, ram[MONTH]),
		.day = decode(rtc, ram[DAY]),
		.hour = decode_hour(rtc, ram[HOURS]),
		.minute = decode(rtc, ram[MINUTES]),
		.second = decode(rtc, ram[SECONDS]),
	};
	int64_t second = rtc_date_to_seconds(&date);
	uint64_t ns = (uint64_t)second * NS_PER_SECOND + (uint64_t)fraction;

	rtc->regs.offset_ns = (int64_t)(ns - now_ns - (uint64_t)rtc->wall_base_ns);
	rtc->regs.seen_second = second_of(time_ns(rtc, now_ns));
}

/* Periodic ticks per second as a shift of 32768 Hz; 0: none. */
static unsigned rate_shift(const struct rtc *rtc)
{
	unsigned rate = rtc->regs.ram[REG_A] & A_RATE;

	if (!rate || (rtc->regs.ram[REG_A] & A_DIVIDER) != A_NORMAL)
		return 0;
	/* The two highest rates repeat 256 and 128 Hz (data sheet, table 5). */
	return rate < 3 ? rate + 6 : rate - 1;
}

static uint64_t periods_at(const struct rtc *rtc, uint64_t now_ns)
{
	return tick_from_ns(now_ns, 32768) >> rate_shift(rtc);
}

static bool alarm_field(const struct rtc *rtc, unsigned alarm, unsigned value)
{
	uint8_t byte = rtc->regs.ram[alarm];

	if ((byte & 0xc0) == 0xc0)
		return true; /* don't care */
	return value == (alarm == HOURS_ALARM ? decode_hour(rtc, byte) : decode(rtc, byte));
}

static bool is_alarm(const struct rtc *rtc, int64_t second)
{
	struct rtc_date date = rtc_date_from_seconds(second);

	return alarm_field(rtc, SECONDS_ALARM, date.second) &&
	       alarm_field(rtc, MINUTES_ALARM, date.minute) &&
	       alarm_field(rtc, HOURS_ALARM, date.hour);
}

static void settle_updates(struct rtc *rtc, uint64_t now_ns)
{
	int64_t second, from;

	if (is_stopped(rtc))
		return;
	second = second_of(time_ns(rtc, now_ns));
	from = rtc->regs.seen_second;
	if (second == from)
		return;
	rtc->regs.seen_second = second;
	rtc->regs.ram[REG_C] |= C_UF;
	/* Time set backwards, or a long while: look at the last day only. */
	if (second < from || second - from > ALARM_LOOK_BACK)
		from = second - ALARM_LOOK_BACK;
	while (!(rtc->regs.ram[REG_C] & C_AF) && from < second)
		if (is_alarm(rtc, ++from))
			rtc->regs.ram[REG_C] |= C_AF;
}

/*
 * With the interrupt enabled each period is told of once, a few of them late,
 * as fast as the guest reads C; without, PF only says that some have passed.
 */
static void settle_periods(struct rtc *rtc, uint64_t now_ns)
{
	uint64_t periods;

	if (!rate_shift(rtc))
		return;
	periods = periods_at(rtc, now_ns);
	if (periods == rtc->regs.periods)
		return;
	if (!(rtc->regs.ram[REG_B] & B_PIE)) {
		rtc->regs.ram[REG_C] |= C_PF;
		rtc->regs.periods = periods;
		return;
	}
	if (periods - rtc->regs.periods > TICK_OWED_MAX)
		rtc->regs.periods = periods - TICK_OWED_MAX;
	if ((rtc->regs.ram[REG_C] & C_PF) || now_ns < rtc->regs.periodic_earliest_ns)
		return;
	rtc->regs.ram[REG_C] |= C_PF;
	rtc->regs.periods++;
	rtc->regs.periodic_earliest_ns =
		tick_earliest(now_ns, tick_to_ns(1ull << rate_shift(rtc), 32768));
}

static void update_irq(struct rtc *rtc)
{
	uint8_t *c = &rtc->regs.ram[REG_C];
	int level = (*c & rtc->regs.ram[REG_B] & (C_PF | C_AF | C_UF)) != 0;

	*c = level ? *c | C_IRQF : *c & (uint8_t)~C_IRQF;
	if (level != rtc->line) {
		rtc->line = level;
		irq_set(&rtc->irq8, level);
	}
}

/* The next moment at which an enabled interrupt may come. */
static void arm(struct rtc *rtc, uint64_t now_ns)
{
	uint8_t b = rtc->regs.ram[REG_B], c = rtc->regs.ram[REG_C];
	uint64_t next = UINT64_MAX, ns;

	if (!is_stopped(rtc) && (((b & B_UIE) && !(c & C_UF)) || ((b & B_AIE) && !(c & C_AF))))
		next = now_ns + (uint64_t)(SECOND - fraction_of(time_ns(rtc, now_ns)));
	/* While PF stands unread nothing can be told; the read of C arms again. */
	if ((b & B_PIE) && !(c & C_PF) && rate_shift(rtc)) {
		ns = tick_to_ns((rtc->regs.periods + 1) << rate_shift(rtc), 32768);
		if (ns < rtc->regs.periodic_earliest_ns)
			ns = rtc->regs.periodic_earliest_ns;
		if (ns < next)
			next = ns;
	}
	vclock_timer_arm(&rtc->timer, next);
}

static void settle(struct rtc *rtc, uint64_t now_ns)
{
	settle_updates(rtc, now_ns);
	settle_periods(rtc, now_ns);
	update_irq(rtc);
}

static void timer_due(void *ctx)
{
	struct rtc *rtc = ctx;
	uint64_t now_ns;

	pthread_mutex_lock(&rtc->lock);
	now_ns = vclock_now_ns(rtc->clock);
	settle(rtc, now_ns);
	arm(rtc, now_ns);
	pthread_mutex_unlock(&rtc->lock);
}

static bool is_time(unsigned index)
{
	switch (index) {
	case SECONDS:
	case MINUTES:
	case HOURS:
	case WEEKDAY:
	case DAY:
	case MONTH:
	case YEAR:
	case CENTURY:
		return true;
	}
	return false;
}

static uint8_t read_data(struct rtc *rtc, uint64_t now_ns)
{
	unsigned index = rtc->regs.index;
	uint8_t value;

	if (is_time(index) && !is_stopped(rtc))
		show_time(rtc, now_ns);
	value = rtc->regs.ram[index];
	if (index == REG_A && !is_stopped(rtc) &&
	    fraction_of(time_ns(rtc, now_ns)) >= SECOND - UIP_NS)
		value |= A_UIP;
	if (index == REG_C) {
		rtc->regs.ram[REG_C] = 0;
		update_irq(rtc);
		arm(rtc, now_ns);
	}
	return value;
}

static void write_control(struct rtc *rtc, unsigned index, uint8_t value, uint64_t now_ns)
{
	bool stopped = is_stopped(rtc), in_reset = (rtc->regs.ram[REG_A] & 0x60) == 0x60;
	int64_t fraction = fraction_of(time_ns(rtc, now_ns));

	if (!stopped)
		show_time(rtc, now_ns);
	if (index == REG_A)
		value &= (uint8_t)~A_UIP;
	else if (value & B_SET)
		value &= (uint8_t)~B_UIE; /* SET clears UIE */
	rtc->regs.ram[index] = value;
	/* BCD or binary, 12 or 24 hours: registers keep their bytes, time is read from them anew
	 * only when stopped. */
	if (stopped && !is_stopped(rtc)) {
		/* Out of divider reset the first update comes after half a second. */
		adopt_time(rtc, now_ns, in_reset ? SECOND / 2 : fraction);
	}
	rtc->regs.periods = periods_at(rtc, now_ns);
	update_irq(rtc);
	arm(rtc, now_ns);
}

static void write_data(struct rtc *rtc, uint8_t value, uint64_t now_ns)
{
	unsigned index = rtc->regs.index;

	if (index == REG_C || index == REG_D)
		return;
	if (index == REG_A || index == REG_B) {
		write_control(rtc, index, value, now_ns);
		return;
	}
	if (!is_time(index) || is_stopped(rtc)) {
		rtc->regs.ram[index] = value;
		return;
	}
	/* Set on the run. The weekday is computed, whatever the guest thinks it is. */
	show_time(rtc, now_ns);
	rtc->regs.ram[index] = value;
	adopt_time(rtc, now_ns, fraction_of(time_ns(rtc, now_ns)));
	arm(rtc, now_ns);
}

/* 0x70, 0x71: index and data. 0x72, 0x73: of the second bank. The four repeat at 0x74. */
static uint8_t read_byte(void *dev, unsigned offset)
{
	struct rtc *rtc = dev;
	uint64_t now_ns;
	uint8_t value = 0xff; /* an index is write-only */

	pthread_mutex_lock(&rtc->lock);
	switch (offset & 3) {
	case 1:
		now_ns = vclock_now_ns(rtc->clock);
		settle(rtc, now_ns);
		value = read_data(rtc, now_ns);
		break;
	case 3:
		value = rtc->regs.upper[rtc->regs.upper_index];
		break;
	}
	pthread_mutex_unlock(&rtc->lock);
	return value;
}

static void write_byte(void *dev, unsigned offset, uint8_t value)
{
	struct rtc *rtc = dev;
	uint64_t now_ns;

	pthread_mutex_lock(&rtc->lock);
	switch (offset & 3) {
	case 0:
		rtc->regs.index = value & 0x7f; /* bit 7 masks NMI on a PC */
		break;
	case 1:
		now_ns = vclock_now_ns(rtc->clock);
		settle(rtc, now_ns);
		write_data(rtc, value, now_ns);
		break;
	case 2:
		rtc->regs.upper_index = value & 0x7f;
		break;
	case 3:
		rtc->regs.upper[rtc->regs.upper_index] = value;
		break;
	}
	pthread_mutex_unlock(&rtc->lock);
}

static uint64_t rtc_read(void *dev, uint64_t offset, unsigned size)
{
	return port_bytes_read(dev, offset, size, read_byte);
}

static void rtc_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	port_bytes_write(dev, offset, size, value, write_byte);
}

static const struct bus_ops rtc_ops = { .read = rtc_read, .write = rtc_write };

static void put16(uint8_t *ram, unsigned index, uint64_t value)
{
	if (value > 0xffff)
		value = 0xffff;
	ram[index] = (uint8_t)value;
	ram[index + 1] = (uint8_t)(value >> 8);
}

/* What a PC's firmware finds in, or writes into, CMOS. */
static void fill_memory(struct rtc *rtc)
{
	const struct rtc_memory *memory = &rtc->memory;
	uint8_t *ram = rtc->regs.ram;
	uint64_t low = memory->low_bytes, high = memory->high_bytes >> 16;

	ram[EQUIPMENT] = 0x06; /* FPU, PS/2 mouse */
	put16(ram, BASE_KB, 640);
	put16(ram, EXTENDED_KB, low > 1 << 20 ? (low >> 10) - 1024 : 0);
	put16(ram, EXTENDED_KB_2, low > 1 << 20 ? (low >> 10) - 1024 : 0);
	put16(ram, ABOVE_16M, low > 16 << 20 ? (low >> 16) - 256 : 0);
	put16(ram, ABOVE_4G, high & 0xffff);
	ram[ABOVE_4G + 2] = (uint8_t)(high >> 16);
	ram[CPUS_LESS_ONE] = (uint8_t)(memory->cpus ? memory->cpus - 1 : 0);
}

struct rtc *rtc_new(struct vclock *clock, struct irq_line irq8, const struct rtc_memory *memory)
{
	struct rtc *rtc = calloc(1, sizeof(*rtc));

	if (!rtc)
		return NULL;
	pthread_mutex_init(&rtc->lock, NULL);
	rtc->clock = clock;
	rtc->irq8 = irq8;
	rtc->memory = *memory;
	vclock_timer_init(&rtc->timer, clock, timer_due, rtc);
	rtc->regs.ram[REG_A] = A_NORMAL | 6; /* 1024 Hz */
	rtc->regs.ram[REG_B] = B_24H;
	rtc->regs.ram[REG_D] = D_VRT;
	fill_memory(rtc);
	rtc_resync(rtc);
	rtc_reset(rtc);
	return rtc;
}

void rtc_free(struct rtc *rtc)
{
	if (!rtc)
		return;
	if (rtc->bus)
		bus_remove(rtc->bus, PORT_RTC, rtc);
	vclock_timer_disarm(&rtc->timer);
	pthread_mutex_destroy(&rtc->lock);
	free(rtc);
}

int rtc_attach(struct rtc *rtc, struct bus *pio)
{
	int error = bus_add(pio, &(struct bus_region){ .name = "rtc",
						       .base = PORT_RTC,
						       .len = PORT_LEN,
						       .ops = &rtc_ops,
						       .dev = rtc });

	if (!error)
		rtc->bus = pio;
	return error;
}

void rtc_reset(struct rtc *rtc)
{
	uint64_t now_ns = vclock_now_ns(rtc->clock);

	pthread_mutex_lock(&rtc->lock);
	rtc->regs.index = 0;
	rtc->regs.ram[REG_B] &= (uint8_t) ~(B_PIE | B_AIE | B_UIE | B_SQWE);
	rtc->regs.ram[REG_C] = 0;
	rtc->regs.periods = periods_at(rtc, now_ns);
	rtc->regs.periodic_earliest_ns = 0;
	update_irq(rtc);
	arm(rtc, now_ns);
	pthread_mutex_unlock(&rtc->lock);
}

void rtc_resync(struct rtc *rtc)
{
	uint64_t now_ns = vclock_now_ns(rtc->clock);

	pthread_mutex_lock(&rtc->lock);
	rtc->wall_base_ns = (int64_t)(vclock_wall_ns(rtc->clock, now_ns) - now_ns);
	rtc->regs.seen_second = second_of(time_ns(rtc, now_ns));
	arm(rtc, now_ns);
	pthread_mutex_unlock(&rtc->lock);
}

static const struct state_field rtc_fields[] = {
	STATE_ARRAY(struct rtc_regs, ram),
	STATE_FIELD(struct rtc_regs, offset_ns),
	STATE_FIELD(struct rtc_regs, seen_second),
	STATE_FIELD(struct rtc_regs, periods),
	STATE_FIELD(struct rtc_regs, periodic_earliest_ns),
	STATE_FIELD(struct rtc_regs, index),
	STATE_ARRAY(struct rtc_regs, upper),
	STATE_FIELD(struct rtc_regs, upper_index),
	STATE_END,
};

static int rtc_post_load(void *object, const char **error)
{
	const struct rtc_regs *r = object;

	/* Nanoseconds since 1970 in 64 bits reach no further than 292 years. */
	if (r->index > 127 || r->upper_index > 127 || r->seen_second / SECOND / 10) {
		*error = "the clock of the RTC, or its index, is out of range";
		return -1;
	}
	return 0;
}

static const struct state_table rtc_table = {
	.name = "rtc",
	.version = 1,
	.size = sizeof(struct rtc_regs),
	.fields = rtc_fields,
	.post_load = rtc_post_load,
};

void rtc_save(struct rtc *rtc, struct state_writer *writer)
{
	struct rtc_regs regs;

	pthread_mutex_lock(&rtc->lock);
	regs = rtc->regs;
	pthread_mutex_unlock(&rtc->lock);
	state_save(&rtc_table, &regs, writer);
}

int rtc_load(struct rtc *rtc, struct state_reader *reader)
{
	struct rtc_regs regs;
	int error;

	pthread_mutex_lock(&rtc->lock);
	regs = rtc->regs;
	pthread_mutex_unlock(&rtc->lock);
	error = state_load(&rtc_table, &regs, reader);
	if (error)
		return error;
	pthread_mutex_lock(&rtc->lock);
	rtc->regs = regs;
	update_irq(rtc);
	pthread_mutex_unlock(&rtc->lock);
	rtc_resync(rtc);
	/* Until the machine goes on, and the board resyncs once more, it is as it was saved. */
	pthread_mutex_lock(&rtc->lock);
	rtc->regs.seen_second = regs.seen_second;
	pthread_mutex_unlock(&rtc->lock);
	return 0;
}
