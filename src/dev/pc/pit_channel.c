/*
 * An 8254 counter. Called by pit.c under its lock. Invariant: `counting`
 * implies that `count` is 1..65536 and `start` is when it was loaded.
 */
#include "dev/pc/pit_channel.h"

static bool is_periodic(const struct pit_channel *c)
{
	return c->mode == 2 || c->mode == 3;
}

/* Modes whose counting begins with a rising GATE, not with the count. */
static bool is_triggered(const struct pit_channel *c)
{
	return c->mode == 1 || c->mode == 5;
}

/* Counts since `start`. */
static uint64_t elapsed(const struct pit_channel *c, uint64_t now)
{
	if (!c->gate && (c->mode == 0 || c->mode == 4))
		return c->held;
	return now > c->start ? now - c->start : 0;
}

static uint32_t modulus(const struct pit_channel *c)
{
	return c->bcd ? 10000 : 65536;
}

void pit_channel_settle(struct pit_channel *c, uint64_t now)
{
	if (!c->pending || !c->counting || !is_periodic(c) || !c->gate)
		return;
	/* `start` is that of the period in which the count was written; it follows that period's
	 * end. */
	if (elapsed(c, now) < c->count)
		return;
	c->start += c->count;
	c->count = c->pending;
	c->pending = 0;
}

static void load(struct pit_channel *c, uint64_t now)
{
	if (!c->pending)
		return;
	c->count = c->pending;
	c->pending = 0;
	c->counting = 1;
	c->start = now + 1; /* CE is loaded on the clock after the write */
	c->held = 0;
}

static void set_count(struct pit_channel *c, uint64_t now, uint16_t written)
{
	uint32_t value = written;

	if (c->bcd)
		value = (written & 0xf) + (written >> 4 & 0xf) * 10u + (written >> 8 & 0xf) * 100u +
			(written >> 12) * 1000u;
	pit_channel_settle(c, now);
	if (is_periodic(c) && c->counting)
		c->start += elapsed(c, now) / c->count * c->count;
	c->pending = value ? value : modulus(c);
	if (is_triggered(c) || (is_periodic(c) && (c->counting || !c->gate)))
		return;
	load(c, now);
}

void pit_channel_control(struct pit_channel *c, unsigned access, unsigned mode, bool bcd)
{
	*c = (struct pit_channel){
		.mode = (uint8_t)(mode > 5 ? mode - 4 : mode),
		.access = (uint8_t)access,
		.bcd = bcd,
		.gate = c->gate,
	};
}

void pit_channel_write(struct pit_channel *c, uint64_t now, uint8_t byte)
{
	if (c->access == 1) {
		set_count(c, now, byte);
	} else if (c->access == 2) {
		set_count(c, now, (uint16_t)(byte << 8));
	} else if (!c->write_high) {
		c->write_low = byte;
		c->write_high = 1;
		/* Mode 0: the first byte stops counting, OUT goes low. */
		if (c->mode == 0) {
			c->counting = 0;
			c->count = 0;
		}
	} else {
		c->write_high = 0;
		set_count(c, now, (uint16_t)(byte << 8 | c->write_low));
	}
}

static uint16_t current_count(const struct pit_channel *c, uint64_t now)
{
	uint64_t gone = elapsed(c, now);
	uint32_t value = c->count ? c->count : c->pending;

	if (c->counting) {
		if (c->mode == 2)
			value = c->count - (uint32_t)(gone % c->count);
		else if (c->mode == 3) /* by two, twice per period; an odd count loses its one */
			value = (c->count & ~1u) -
				(uint32_t)(2 * (gone % c->count) % c->count & ~1u);
		else
			value = (uint32_t)((c->count + modulus(c) - gone % modulus(c)) %
					   modulus(c));
	}
	value %= modulus(c);
	if (c->bcd)
		value = value % 10 | value / 10 % 10 << 4 | value / 100 % 10 << 8 |
			value / 1000 << 12;
	return (uint16_t)value;
}

bool pit_channel_out(const struct pit_channel *c, uint64_t now)
{
	uint64_t gone = elapsed(c, now);

	if (!c->counting)
		return c->mode != 0;
	switch (c->mode) {
	case 0:
	case 1:
		return gone >= c->count;
	case 2:
		return !c->gate || gone % c->count != c->count - 1 || c->count == 1;
	case 3:
		return !c->gate || gone % c->count < (c->count + 1) / 2;
	default:
		return gone != c->count;
	}
}

uint32_t pit_channel_period(const struct pit_channel *c)
{
	return is_periodic(c) && c->counting && c->gate ? c->count : 0;
}

uint64_t pit_channel_next_edge(const struct pit_channel *c, uint64_t after)
{
	uint64_t edge;

	if (!c->counting || (!c->gate && !is_triggered(c)))
		return UINT64_MAX;
	if (is_periodic(c)) {
		if (after < c->start)
			return c->start;
		return c->start + ((after - c->start) / c->count + 1) * c->count;
	}
	edge = c->start + c->count + (c->mode >= 4 ? 1 : 0);
	return edge > after ? edge : UINT64_MAX;
}

void pit_channel_latch_count(struct pit_channel *c, uint64_t now)
{
	if (c->latched) /* the first of two latches counts */
		return;
	pit_channel_settle(c, now);
	c->latch = current_count(c, now);
	c->latched = c->access == 3 ? 2 : 1;
	c->read_high = 0;
}

void pit_channel_latch_status(struct pit_channel *c, uint64_t now)
{
	if (c->status_latched)
		return;
	pit_channel_settle(c, now);
	c->status = (uint8_t)(pit_channel_out(c, now) << 7 | (c->pending || !c->count) << 6 |
			      c->access << 4 | c->mode << 1 | c->bcd);
	c->status_latched = 1;
}

uint8_t pit_channel_read(struct pit_channel *c, uint64_t now)
{
	uint16_t value;
	bool high = c->access == 2;

	if (c->status_latched) {
		c->status_latched = 0;
		return c->status;
	}
	pit_channel_settle(c, now);
	value = c->latched ? c->latch : current_count(c, now);
	if (c->access == 3) {
		high = c->read_high;
		c->read_high = !high;
	}
	if (c->latched)
		c->latched--;
	return (uint8_t)(high ? value >> 8 : value);
}

void pit_channel_set_gate(struct pit_channel *c, uint64_t now, bool gate)
{
	if (gate == c->gate)
		return;
	pit_channel_settle(c, now);
	if (!gate) {
		c->held = elapsed(c, now);
		c->gate = 0;
		return;
	}
	c->gate = 1;
	if (is_triggered(c) || is_periodic(c)) {
		/* A rising GATE starts over from the initial count. */
		if (!c->pending)
			c->pending = c->count;
		load(c, now);
	} else {
		c->start = now - c->held;
	}
}
