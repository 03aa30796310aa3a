/*
 * The 8259A pair (Intel 8259A data sheet, 82371 ELCR). Called by the port bus,
 * by whoever drives an input and by the vcpu that acknowledges. Invariant:
 * under the lock, the slave's INT is the level of the master's input 2 and
 * the master's INT is the level last driven on INTR.
 */
#include "dev/pc/pic.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#include "bus/bus.h"
#include "dev/pc/port_bytes.h"
#include "state/stream.h"

#define CASCADE_INPUT 2
#define SPURIOUS      7

#define ICW1_INIT   0x10
#define ICW1_LEVEL  0x08
#define ICW1_SINGLE 0x02
#define ICW1_ICW4   0x01

#define ICW4_SFNM 0x10
#define ICW4_AEOI 0x02

#define OCW3      0x08
#define OCW3_ESMM 0x40
#define OCW3_SMM  0x20
#define OCW3_POLL 0x04
#define OCW3_RR   0x02
#define OCW3_RIS  0x01

/* What the next write to the odd port is. */
enum step { STEP_OCW1, STEP_ICW2, STEP_ICW3, STEP_ICW4 };

struct chip_regs {
	uint8_t irr, isr, imr;
	uint8_t level; /* inputs as they are now */
	uint8_t elcr;  /* 1: level-triggered */
	uint8_t icw1, icw4;
	uint8_t vector_base;
	uint8_t lowest; /* input of lowest priority; 7 unless rotated */
	uint8_t step;   /* enum step */
	uint8_t rotate_aeoi;
	uint8_t special_mask;
	uint8_t read_isr; /* even port shows ISR, not IRR */
	uint8_t poll;     /* the next read of either port is a poll */
};

struct pic_regs {
	struct chip_regs chip[2]; /* master, slave */
};

struct pic {
	pthread_mutex_t lock;
	struct pic_regs regs;
	int line; /* INTR as last driven */
	struct irq_line intr;
	struct bus *bus;
};

/* The set bit of highest priority as its rank, 0 the highest; 8 if none. */
static unsigned highest_rank(const struct chip_regs *c, uint8_t bits)
{
	for (unsigned rank = 0; rank < 8; rank++)
		if (bits >> ((c->lowest + 1 + rank) & 7) & 1)
			return rank;
	return 8;
}

static unsigned input_of_rank(const struct chip_regs *c, unsigned rank)
{
	return (c->lowest + 1 + rank) & 7;
}

/* The input whose request would be acknowledged now, or -1. */
static int chip_request(const struct chip_regs *c, bool master)
{
	uint8_t in_service = c->isr;
	unsigned rank = highest_rank(c, (uint8_t)(c->irr & ~c->imr));

	if (rank == 8)
		return -1;
	/* Special mask mode: a masked level in service inhibits nobody (8259A, "Special Mask
	 * Mode"). */
	if (c->special_mask)
		in_service &= (uint8_t)~c->imr;
	/* Special fully nested: further requests of the slave pass while one is in service. */
	if (master && (c->icw4 & ICW4_SFNM) && input_of_rank(c, rank) == CASCADE_INPUT)
		in_service &= (uint8_t) ~(1u << CASCADE_INPUT);
	if (highest_rank(c, in_service) <= rank)
		return -1;
	return (int)input_of_rank(c, rank);
}

static void chip_set_input(struct chip_regs *c, unsigned input, int level)
{
	uint8_t bit = (uint8_t)(1u << input);

	if ((c->elcr & bit) || (c->icw1 & ICW1_LEVEL)) {
		c->irr = level ? c->irr | bit : c->irr & (uint8_t)~bit;
	} else if (level && !(c->level & bit)) {
		/* The edge is kept although the line may fall again: senders pulse. */
		c->irr |= bit;
	}
	c->level = level ? c->level | bit : c->level & (uint8_t)~bit;
}

static void update(struct pic *pic)
{
	int level;

	/* The cascade has no edge of its own: it shows the slave's INT as long as that stands. */
	if (chip_request(&pic->regs.chip[1], false) >= 0)
		pic->regs.chip[0].irr |= 1u << CASCADE_INPUT;
	else
		pic->regs.chip[0].irr &= (uint8_t) ~(1u << CASCADE_INPUT);
	level = chip_request(&pic->regs.chip[0], true) >= 0;
	if (level != pic->line) {
		pic->line = level;
		irq_set(&pic->intr, level);
	}
}

/* Request to service, as the first INTA pulse does it. */
static void chip_acknowledge(struct chip_regs *c, unsigned input)
{
	uint8_t bit = (uint8_t)(1u << input);

	if (c->icw4 & ICW4_AEOI) {
		if (c->rotate_aeoi)
			c->lowest = (uint8_t)input;
	} else {
		c->isr |= bit;
	}
	if (!((c->elcr & bit) || (c->icw1 & ICW1_LEVEL)))
		c->irr &= (uint8_t)~bit;
}

int pic_ack(void *ctx)
{
	struct pic *pic = ctx;
	struct chip_regs *master = &pic->regs.chip[0], *slave = &pic->regs.chip[1];
	int input, vector;

	pthread_mutex_lock(&pic->lock);
	input = chip_request(master, true);
	if (input < 0) {
		vector = master->vector_base + SPURIOUS;
	} else {
		chip_acknowledge(master, (unsigned)input);
		vector = master->vector_base + input;
		if (input == CASCADE_INPUT) {
			input = chip_request(slave, false);
			if (input >= 0)
				chip_acknowledge(slave, (unsigned)input);
			else
				input = SPURIOUS;
			vector = slave->vector_base + input;
		}
	}
	update(pic);
	pthread_mutex_unlock(&pic->lock);
	return vector;
}

static void set_input(void *ctx, unsigned pin, int level)
{
	struct pic *pic = ctx;

	pthread_mutex_lock(&pic->lock);
	chip_set_input(&pic->regs.chip[pin >> 3 & 1], pin & 7, level);
	update(pic);
	pthread_mutex_unlock(&pic->lock);
}

struct irq_line pic_line(struct pic *pic, unsigned pin)
{
	/* The master's input 2 is the slave's. */
	if (pin == CASCADE_INPUT || pin > 15)
		return (struct irq_line){ 0 };
	return (struct irq_line){ .set = set_input, .ctx = pic, .pin = pin };
}

static void write_icw1(struct chip_regs *c, uint8_t value)
{
	uint8_t level_triggered = value & ICW1_LEVEL ? 0xff : c->elcr;

	c->icw1 = value;
	c->icw4 = 0;
	c->imr = 0;
	c->isr = 0;
	/* The edge detector starts over; lines of level-triggered inputs that are high still ask.
	 */
	c->irr = c->level & level_triggered;
	c->lowest = 7;
	c->special_mask = 0;
	c->rotate_aeoi = 0;
	c->read_isr = 0;
	c->poll = 0;
	c->step = STEP_ICW2;
}

/* OCW2: R, SL and EOI in the top three bits. */
static void write_ocw2(struct chip_regs *c, uint8_t value)
{
	unsigned input = value & 7, rank;

	switch (value >> 5) {
	case 0: /* rotate in AEOI mode: clear */
	case 4: /* set */
		c->rotate_aeoi = value >> 7;
		return;
	case 1: /* non-specific EOI */
	case 5: /* and rotate */
		rank = highest_rank(c, c->special_mask ? c->isr & (uint8_t)~c->imr : c->isr);
		if (rank == 8)
			return;
		input = input_of_rank(c, rank);
		c->isr &= (uint8_t) ~(1u << input);
		if (value & 0x80)
			c->lowest = (uint8_t)input;
		return;
	case 3: /* specific EOI */
	case 7: /* and rotate */
		c->isr &= (uint8_t) ~(1u << input);
		if (value & 0x80)
			c->lowest = (uint8_t)input;
		return;
	case 6: /* set priority */
		c->lowest = (uint8_t)input;
		return;
	}
}

static void write_ocw3(struct chip_regs *c, uint8_t value)
{
	if (value & OCW3_ESMM)
		c->special_mask = (value & OCW3_SMM) != 0;
	if (value & OCW3_POLL)
		c->poll = 1;
	else if (value & OCW3_RR)
		c->read_isr = value & OCW3_RIS;
}

static void write_odd(struct chip_regs *c, uint8_t value)
{
	switch (c->step) {
	case STEP_OCW1:
		c->imr = value;
		return;
	case STEP_ICW2:
		c->vector_base = value & 0xf8;
		c->step = c->icw1 & ICW1_SINGLE ? STEP_ICW4 : STEP_ICW3;
		break;
	case STEP_ICW3: /* the wiring is fixed; what the guest says of it changes nothing */
		c->step = STEP_ICW4;
		break;
	case STEP_ICW4:
		c->icw4 = value & 0x1f;
		c->step = STEP_OCW1;
		return;
	}
	if (c->step == STEP_ICW4 && !(c->icw1 & ICW1_ICW4))
		c->step = STEP_OCW1;
}

static uint8_t poll(struct chip_regs *c, bool master)
{
	int input = chip_request(c, master);

	c->poll = 0;
	if (input < 0)
		return 0;
	chip_acknowledge(c, (unsigned)input);
	return (uint8_t)(0x80 | input);
}

static uint8_t read_chip(struct pic *pic, unsigned index, unsigned offset)
{
	struct chip_regs *c = &pic->regs.chip[index];
	uint8_t value;

	pthread_mutex_lock(&pic->lock);
	if (c->poll) {
		value = poll(c, index == 0);
		update(pic);
	} else if (offset) {
		value = c->imr;
	} else {
		value = c->read_isr ? c->isr : c->irr;
	}
	pthread_mutex_unlock(&pic->lock);
	return value;
}

static void write_chip(struct pic *pic, unsigned index, unsigned offset, uint8_t value)
{
	struct chip_regs *c = &pic->regs.chip[index];

	pthread_mutex_lock(&pic->lock);
	if (offset)
		write_odd(c, value);
	else if (value & ICW1_INIT)
		write_icw1(c, value);
	else if (value & OCW3)
		write_ocw3(c, value);
	else
		write_ocw2(c, value);
	update(pic);
	pthread_mutex_unlock(&pic->lock);
}

static uint8_t master_read(void *dev, unsigned offset)
{
	return read_chip(dev, 0, offset & 1);
}

static void master_write(void *dev, unsigned offset, uint8_t value)
{
	write_chip(dev, 0, offset & 1, value);
}

static uint8_t slave_read(void *dev, unsigned offset)
{
	return read_chip(dev, 1, offset & 1);
}

static void slave_write(void *dev, unsigned offset, uint8_t value)
{
	write_chip(dev, 1, offset & 1, value);
}

static uint8_t elcr_read(void *dev, unsigned offset)
{
	struct pic *pic = dev;
	uint8_t value;

	pthread_mutex_lock(&pic->lock);
	value = pic->regs.chip[offset & 1].elcr;
	pthread_mutex_unlock(&pic->lock);
	return value;
}

static void elcr_write(void *dev, unsigned offset, uint8_t value)
{
	/* Timer, keyboard, cascade, RTC and FPU are edge-triggered for good. */
	static const uint8_t settable[2] = { 0xf8, 0xde };
	struct pic *pic = dev;
	struct chip_regs *c = &pic->regs.chip[offset & 1];
	uint8_t was;

	pthread_mutex_lock(&pic->lock);
	was = c->elcr;
	c->elcr = value & settable[offset & 1];
	/* An input that becomes level-triggered shows its line at once. */
	c->irr = (uint8_t)((c->irr & ~(c->elcr & ~was)) | (c->level & c->elcr & ~was));
	update(pic);
	pthread_mutex_unlock(&pic->lock);
}

#define BYTE_OPS(name)                                                                          \
	static uint64_t name##_bus_read(void *dev, uint64_t offset, unsigned size)              \
	{                                                                                       \
		return port_bytes_read(dev, offset, size, name##_read);                         \
	}                                                                                       \
	static void name##_bus_write(void *dev, uint64_t offset, unsigned size, uint64_t value) \
	{                                                                                       \
		port_bytes_write(dev, offset, size, value, name##_write);                       \
	}                                                                                       \
	static const struct bus_ops name##_ops = { name##_bus_read, name##_bus_write }

BYTE_OPS(master);
BYTE_OPS(slave);
BYTE_OPS(elcr);

static const struct {
	uint16_t base;
	const struct bus_ops *ops;
} ports[] = { { 0x20, &master_ops }, { 0xa0, &slave_ops }, { 0x4d0, &elcr_ops } };

#define PORT_RANGES (sizeof(ports) / sizeof(ports[0]))

struct pic *pic_new(struct irq_line intr)
{
	struct pic *pic = calloc(1, sizeof(*pic));

	if (!pic)
		return NULL;
	pthread_mutex_init(&pic->lock, NULL);
	pic->intr = intr;
	pic_reset(pic);
	return pic;
}

void pic_free(struct pic *pic)
{
	if (!pic)
		return;
	for (unsigned i = 0; pic->bus && i < PORT_RANGES; i++)
		bus_remove(pic->bus, ports[i].base, pic);
	pthread_mutex_destroy(&pic->lock);
	free(pic);
}

int pic_attach(struct pic *pic, struct bus *pio)
{
	for (unsigned i = 0; i < PORT_RANGES; i++) {
		int error = bus_add(pio, &(struct bus_region){ .name = "pic",
							       .base = ports[i].base,
							       .len = 2,
							       .ops = ports[i].ops,
							       .dev = pic });

		if (error) {
			while (i--)
				bus_remove(pio, ports[i].base, pic);
			return error;
		}
	}
	pic->bus = pio;
	return 0;
}

void pic_reset(struct pic *pic)
{
	pthread_mutex_lock(&pic->lock);
	/* The inputs belong to their drivers; the edge detectors remember where they are. */
	for (unsigned i = 0; i < 2; i++)
		pic->regs.chip[i] =
			(struct chip_regs){ .level = pic->regs.chip[i].level, .lowest = 7 };
	update(pic);
	pthread_mutex_unlock(&pic->lock);
}

static const struct state_field chip_fields[] = {
	STATE_FIELD(struct chip_regs, irr),
	STATE_FIELD(struct chip_regs, isr),
	STATE_FIELD(struct chip_regs, imr),
	STATE_FIELD(struct chip_regs, level),
	STATE_FIELD(struct chip_regs, elcr),
	STATE_FIELD(struct chip_regs, icw1),
	STATE_FIELD(struct chip_regs, icw4),
	STATE_FIELD(struct chip_regs, vector_base),
	STATE_FIELD(struct chip_regs, lowest),
	STATE_FIELD(struct chip_regs, step),
	STATE_FIELD(struct chip_regs, rotate_aeoi),
	STATE_FIELD(struct chip_regs, special_mask),
	STATE_FIELD(struct chip_regs, read_isr),
	STATE_FIELD(struct chip_regs, poll),
	STATE_END,
};

static const struct state_table chip_table = {
	.name = "8259",
	.version = 1,
	.size = sizeof(struct chip_regs),
	.fields = chip_fields,
};

static const struct state_field pic_fields[] = {
	STATE_STRUCT_ARRAY(struct pic_regs, chip, &chip_table),
	STATE_END,
};

static int pic_post_load(void *object, const char **error)
{
	const struct pic_regs *r = object;

	for (unsigned i = 0; i < 2; i++) {
		if (r->chip[i].lowest > 7 || r->chip[i].step > STEP_ICW4 ||
		    (r->chip[i].vector_base & 7)) {
			*error = "an 8259 has an input, step or vector that it cannot have";
			return -1;
		}
	}
	return 0;
}

static const struct state_table pic_table = {
	.name = "pic",
	.version = 1,
	.size = sizeof(struct pic_regs),
	.fields = pic_fields,
	.post_load = pic_post_load,
};

void pic_save(struct pic *pic, struct state_writer *writer)
{
	struct pic_regs regs;

	pthread_mutex_lock(&pic->lock);
	regs = pic->regs;
	pthread_mutex_unlock(&pic->lock);
	state_save(&pic_table, &regs, writer);
}

int pic_load(struct pic *pic, struct state_reader *reader)
{
	struct pic_regs regs;
	int error;

	pthread_mutex_lock(&pic->lock);
	regs = pic->regs;
	pthread_mutex_unlock(&pic->lock);
	error = state_load(&pic_table, &regs, reader);
	if (error)
		return error;
	pthread_mutex_lock(&pic->lock);
	pic->regs = regs;
	update(pic);
	pthread_mutex_unlock(&pic->lock);
	return 0;
}
