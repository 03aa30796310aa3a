/*
 * The keyboard controller with a keyboard and a mouse behind it (IBM PS/2
 * technical reference; the devices' command sets as their makers document
 * them). Called by the port bus. Invariant: the output buffer is full whenever
 * an enabled device has bytes queued, and the IRQ lines follow it.
 */
#include "dev/pc/i8042.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "bus/bus.h"
#include "dev/pc/port_bytes.h"
#include "state/stream.h"

#define PORT_DATA    0x60
#define PORT_COMMAND 0x64

#define STATUS_OBF     0x01
#define STATUS_SYSTEM  0x04
#define STATUS_COMMAND 0x08 /* the last write was to 0x64 */
#define STATUS_UNLOCK  0x10
#define STATUS_AUX     0x20 /* the byte in the buffer is the mouse's */

#define CONFIG_KBD_IRQ   0x01
#define CONFIG_AUX_IRQ   0x02
#define CONFIG_SYSTEM    0x04
#define CONFIG_KBD_OFF   0x10
#define CONFIG_AUX_OFF   0x20
#define CONFIG_TRANSLATE 0x40

#define OUTPUT_NO_RESET 0x01
#define OUTPUT_A20      0x02
#define OUTPUT_KBD_IRQ  0x10
#define OUTPUT_AUX_IRQ  0x20

#define ACK    0xfa
#define RESEND 0xfe

#define QUEUE_MAX 16

struct queue {
	uint8_t byte[QUEUE_MAX]; /* oldest first */
	uint8_t count;
};

enum source { FROM_NOBODY, FROM_CONTROLLER, FROM_CONTROLLER_AUX, FROM_KEYBOARD, FROM_MOUSE };

struct i8042_regs {
	struct queue keyboard, mouse; /* answers on their way */
	uint8_t config, output;       /* output: the port with A20 and reset */
	uint8_t buffer, source;       /* output buffer and who filled it; enum source */
	uint8_t pending;              /* controller command that waits for its data byte; 0: none */
	uint8_t last_was_command;
	uint8_t keyboard_pending, mouse_pending; /* device command that waits for its argument */
	uint8_t scan_set, leds, typematic;
	uint8_t mouse_resolution, mouse_rate, mouse_flags;
	uint8_t ram[31]; /* commands 0x21..0x3f and 0x61..0x7f */
};

/* mouse_flags, as the status request shows them */
#define MOUSE_REMOTE    0x40
#define MOUSE_REPORTING 0x20
#define MOUSE_SCALING   0x10

struct i8042 {
	pthread_mutex_t lock;
	struct i8042_regs regs;
	int keyboard_line, aux_line, a20;
	struct i8042_config config;
	struct bus *bus;
};

static void put(struct queue *queue, uint8_t byte)
{
	if (queue->count < QUEUE_MAX)
		queue->byte[queue->count++] = byte;
}

static uint8_t take(struct queue *queue)
{
	uint8_t byte = queue->byte[0];

	queue->count--;
	memmove(queue->byte, queue->byte + 1, queue->count);
	return byte;
}

static void drive(const struct irq_line *line, int *was, int level)
{
	if (*was == level)
		return;
	*was = level;
	irq_set(line, level);
}

static bool from_aux(const struct i8042_regs *r)
{
	return r->source == FROM_MOUSE || r->source == FROM_CONTROLLER_AUX;
}

/* Fills an empty output buffer and makes the lines follow. */
static void update(struct i8042 *kbd)
{
	struct i8042_regs *r = &kbd->regs;

	if (r->source == FROM_NOBODY) {
		if (r->keyboard.count && !(r->config & CONFIG_KBD_OFF)) {
			r->buffer = take(&r->keyboard);
			r->source = FROM_KEYBOARD;
		} else if (r->mouse.count && !(r->config & CONFIG_AUX_OFF)) {
			r->buffer = take(&r->mouse);
			r->source = FROM_MOUSE;
		}
	}
	drive(&kbd->config.keyboard, &kbd->keyboard_line,
	      r->source != FROM_NOBODY && !from_aux(r) && (r->config & CONFIG_KBD_IRQ));
	drive(&kbd->config.aux, &kbd->aux_line,
	      r->source != FROM_NOBODY && from_aux(r) && (r->config & CONFIG_AUX_IRQ));
	drive(&kbd->config.a20, &kbd->a20, (r->output & OUTPUT_A20) != 0);
}

/* The controller's own answer replaces what is in the buffer. */
static void answer(struct i8042_regs *r, uint8_t byte)
{
	r->buffer = byte;
	r->source = FROM_CONTROLLER;
}

static void keyboard_defaults(struct i8042_regs *r)
{
	r->scan_set = 2;
	r->leds = 0;
	r->typematic = 0x2b;
}

static void keyboard_argument(struct i8042_regs *r, uint8_t value)
{
	uint8_t command = r->keyboard_pending;

	r->keyboard_pending = 0;
	put(&r->keyboard, ACK);
	switch (command) {
	case 0xed:
		r->leds = value & 7;
		break;
	case 0xf3:
		r->typematic = value & 0x7f;
		break;
	case 0xf0:
		if (value == 0)
			put(&r->keyboard, r->scan_set);
		else if (value <= 3)
			r->scan_set = value;
		break;
	}
}

static void keyboard_command(struct i8042_regs *r, uint8_t value)
{
	if (r->keyboard_pending && value < 0xed) {
		keyboard_argument(r, value);
		return;
	}
	r->keyboard_pending = 0;
	switch (value) {
	case 0xed: /* LEDs */
	case 0xf0: /* scan code set */
	case 0xf3: /* typematic rate */
		r->keyboard_pending = value;
		put(&r->keyboard, ACK);
		return;
	case 0xee: /* echo */
		put(&r->keyboard, 0xee);
		return;
	case 0xf2: /* identify: an MF2 keyboard; with translation its second byte is 0x41 */
		put(&r->keyboard, ACK);
		put(&r->keyboard, 0xab);
		put(&r->keyboard, r->config & CONFIG_TRANSLATE ? 0x41 : 0x83);
		return;
	case 0xf5: /* off, with defaults */
	case 0xf6: /* defaults */
		keyboard_defaults(r);
		put(&r->keyboard, ACK);
		return;
	case 0xf4: /* on */
		put(&r->keyboard, ACK);
		return;
	case 0xff: /* reset, self-test passed */
		keyboard_defaults(r);
		r->keyboard.count = 0;
		put(&r->keyboard, ACK);
		put(&r->keyboard, 0xaa);
		return;
	default:
		put(&r->keyboard, value >= 0xf7 && value <= 0xfd ? ACK : RESEND);
		return;
	}
}

static void mouse_defaults(struct i8042_regs *r)
{
	r->mouse_resolution = 2;
	r->mouse_rate = 100;
	r->mouse_flags = 0;
}

static void mouse_command(struct i8042_regs *r, uint8_t value)
{
	uint8_t command = r->mouse_pending;

	if (command) {
		r->mouse_pending = 0;
		if (command == 0xe8)
			r->mouse_resolution = value & 3;
		else
			r->mouse_rate = value;
		put(&r->mouse, ACK);
		return;
	}
	switch (value) {
	case 0xe6: /* scaling 1:1 */
		r->mouse_flags &= (uint8_t)~MOUSE_SCALING;
		break;
	case 0xe7: /* 2:1 */
		r->mouse_flags |= MOUSE_SCALING;
		break;
	case 0xe8: /* resolution */
	case 0xf3: /* sample rate */
		r->mouse_pending = value;
		break;
	case 0xe9: /* status */
		put(&r->mouse, ACK);
		put(&r->mouse, r->mouse_flags);
		put(&r->mouse, r->mouse_resolution);
		put(&r->mouse, r->mouse_rate);
		return;
	case 0xea: /* stream mode */
		r->mouse_flags &= (uint8_t)~MOUSE_REMOTE;
		break;
	case 0xf0: /* remote mode */
		r->mouse_flags |= MOUSE_REMOTE;
		break;
	case 0xeb: /* read: nothing has moved */
		put(&r->mouse, ACK);
		put(&r->mouse, 0x08);
		put(&r->mouse, 0);
		put(&r->mouse, 0);
		return;
	case 0xf2: /* identify: a plain PS/2 mouse */
		put(&r->mouse, ACK);
		put(&r->mouse, 0);
		return;
	case 0xf4:
		r->mouse_flags |= MOUSE_REPORTING;
		break;
	case 0xf5:
		r->mouse_flags &= (uint8_t)~MOUSE_REPORTING;
		break;
	case 0xf6:
		mouse_defaults(r);
		break;
	case 0xff:
		mouse_defaults(r);
		r->mouse.count = 0;
		put(&r->mouse, ACK);
		put(&r->mouse, 0xaa);
		put(&r->mouse, 0);
		return;
	default:
		put(&r->mouse, RESEND);
		return;
	}
	put(&r->mouse, ACK);
}

static void write_output(struct i8042 *kbd, uint8_t value)
{
	kbd->regs.output = value | OUTPUT_NO_RESET;
	if (!(value & OUTPUT_NO_RESET))
		stop_request(&kbd->config.stop, STOP_RESET, 0, NULL);
}

/* A byte at 0x60: for the controller's command that waits for one, else for the keyboard. */
static void write_data(struct i8042 *kbd, uint8_t value)
{
	struct i8042_regs *r = &kbd->regs;
	uint8_t command = r->pending;

	r->pending = 0;
	r->last_was_command = 0;
	switch (command) {
	case 0:
		/* Talking to the keyboard turns it on. */
		r->config &= (uint8_t)~CONFIG_KBD_OFF;
		keyboard_command(r, value);
		return;
	case 0x60:
		r->config = value & 0x7f;
		return;
	case 0x61 ... 0x7f:
		r->ram[command - 0x61] = value;
		return;
	case 0xd1:
		write_output(kbd, value);
		return;
	case 0xd2: /* as if the keyboard had sent it */
		answer(r, value);
		return;
	case 0xd3: /* as if the mouse had */
		answer(r, value);
		r->source = FROM_CONTROLLER_AUX;
		return;
	case 0xd4:
		r->config &= (uint8_t)~CONFIG_AUX_OFF;
		mouse_command(r, value);
		return;
	}
}

static void write_command(struct i8042 *kbd, uint8_t value)
{
	struct i8042_regs *r = &kbd->regs;

	r->pending = 0;
	r->last_was_command = 1;
	switch (value) {
	case 0x20:
		answer(r, r->config);
		return;
	case 0x21 ... 0x3f:
		answer(r, r->ram[value - 0x21]);
		return;
	case 0x60 ... 0x7f:
	case 0xd1 ... 0xd4:
		r->pending = value;
		return;
	case 0xa7:
		r->config |= CONFIG_AUX_OFF;
		return;
	case 0xa8:
		r->config &= (uint8_t)~CONFIG_AUX_OFF;
		return;
	case 0xaa: /* self-test; the keyboard is off after it */
		r->config |= CONFIG_SYSTEM | CONFIG_KBD_OFF | CONFIG_AUX_OFF;
		answer(r, 0x55);
		return;
	case 0xa9: /* tests of the two interfaces */
	case 0xab:
		answer(r, 0);
		return;
	case 0xad:
		r->config |= CONFIG_KBD_OFF;
		return;
	case 0xae:
		r->config &= (uint8_t)~CONFIG_KBD_OFF;
		return;
	case 0xc0: /* input port: not locked */
		answer(r, 0x80);
		return;
	case 0xd0:
		answer(r, (uint8_t)(r->output | (kbd->keyboard_line ? OUTPUT_KBD_IRQ : 0) |
				    (kbd->aux_line ? OUTPUT_AUX_IRQ : 0)));
		return;
	case 0xdd:
		r->output &= (uint8_t)~OUTPUT_A20;
		return;
	case 0xdf:
		r->output |= OUTPUT_A20;
		return;
	case 0xf0 ... 0xff: /* pulses the output port's bits that are 0; bit 0 is the CPU's reset */
		if (!(value & 1))
			stop_request(&kbd->config.stop, STOP_RESET, 0, NULL);
		return;
	}
}

static uint8_t read_data(void *dev, unsigned offset)
{
	struct i8042 *kbd = dev;
	uint8_t value;

	(void)offset;
	pthread_mutex_lock(&kbd->lock);
	value = kbd->regs.buffer; /* an empty buffer shows its last byte */
	kbd->regs.source = FROM_NOBODY;
	/* Low before the next byte raises it: the 8259 wants an edge for each. */
	drive(&kbd->config.keyboard, &kbd->keyboard_line, 0);
	drive(&kbd->config.aux, &kbd->aux_line, 0);
	update(kbd);
	pthread_mutex_unlock(&kbd->lock);
	return value;
}

static uint8_t read_status(void *dev, unsigned offset)
{
	struct i8042 *kbd = dev;
	const struct i8042_regs *r = &kbd->regs;
	uint8_t value = STATUS_UNLOCK;

	(void)offset;
	pthread_mutex_lock(&kbd->lock);
	if (r->source != FROM_NOBODY)
		value |= STATUS_OBF;
	if (from_aux(r))
		value |= STATUS_AUX;
	if (r->config & CONFIG_SYSTEM)
		value |= STATUS_SYSTEM;
	if (r->last_was_command)
		value |= STATUS_COMMAND;
	pthread_mutex_unlock(&kbd->lock);
	return value;
}

static void write_port(struct i8042 *kbd, bool command, uint8_t value)
{
	pthread_mutex_lock(&kbd->lock);
	if (command)
		write_command(kbd, value);
	else
		write_data(kbd, value);
	update(kbd);
	pthread_mutex_unlock(&kbd->lock);
}

static void data_write(void *dev, unsigned offset, uint8_t value)
{
	(void)offset;
	write_port(dev, false, value);
}

static void command_write(void *dev, unsigned offset, uint8_t value)
{
	(void)offset;
	write_port(dev, true, value);
}

static uint64_t data_bus_read(void *dev, uint64_t offset, unsigned size)
{
	return port_bytes_read(dev, offset, size, read_data);
}

static void data_bus_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	port_bytes_write(dev, offset, size, value, data_write);
}

static uint64_t command_bus_read(void *dev, uint64_t offset, unsigned size)
{
	return port_bytes_read(dev, offset, size, read_status);
}

static void command_bus_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	port_bytes_write(dev, offset, size, value, command_write);
}

static const struct bus_ops data_ops = { .read = data_bus_read, .write = data_bus_write };
static const struct bus_ops command_ops = { .read = command_bus_read, .write = command_bus_write };

struct i8042 *i8042_new(const struct i8042_config *config)
{
	struct i8042 *kbd = calloc(1, sizeof(*kbd));

	if (!kbd)
		return NULL;
	pthread_mutex_init(&kbd->lock, NULL);
	kbd->config = *config;
	i8042_reset(kbd);
	return kbd;
}

void i8042_free(struct i8042 *kbd)
{
	if (!kbd)
		return;
	if (kbd->bus) {
		bus_remove(kbd->bus, PORT_DATA, kbd);
		bus_remove(kbd->bus, PORT_COMMAND, kbd);
	}
	pthread_mutex_destroy(&kbd->lock);
	free(kbd);
}

int i8042_attach(struct i8042 *kbd, struct bus *pio)
{
	struct bus_region region = {
		.name = "i8042", .base = PORT_DATA, .len = 1, .ops = &data_ops, .dev = kbd
	};
	int error = bus_add(pio, &region);

	if (error)
		return error;
	region.base = PORT_COMMAND;
	region.ops = &command_ops;
	error = bus_add(pio, &region);
	if (error) {
		bus_remove(pio, PORT_DATA, kbd);
		return error;
	}
	kbd->bus = pio;
	return 0;
}

void i8042_reset(struct i8042 *kbd)
{
	pthread_mutex_lock(&kbd->lock);
	/* As a PC's firmware leaves it: tested, translating, A20 open, interrupts off. */
	kbd->regs = (struct i8042_regs){
		.config = CONFIG_SYSTEM | CONFIG_TRANSLATE,
		.output = OUTPUT_NO_RESET | OUTPUT_A20,
	};
	keyboard_defaults(&kbd->regs);
	mouse_defaults(&kbd->regs);
	update(kbd);
	pthread_mutex_unlock(&kbd->lock);
}

static const struct state_field queue_fields[] = {
	STATE_ARRAY(struct queue, byte),
	STATE_FIELD(struct queue, count),
	STATE_END,
};

static const struct state_table queue_table = {
	.name = "queue",
	.version = 1,
	.size = sizeof(struct queue),
	.fields = queue_fields,
};

static const struct state_field i8042_fields[] = {
	STATE_STRUCT_FIELD(struct i8042_regs, keyboard, &queue_table),
	STATE_STRUCT_FIELD(struct i8042_regs, mouse, &queue_table),
	STATE_FIELD(struct i8042_regs, config),
	STATE_FIELD(struct i8042_regs, output),
	STATE_FIELD(struct i8042_regs, buffer),
	STATE_FIELD(struct i8042_regs, source),
	STATE_FIELD(struct i8042_regs, pending),
	STATE_FIELD(struct i8042_regs, last_was_command),
	STATE_FIELD(struct i8042_regs, keyboard_pending),
	STATE_FIELD(struct i8042_regs, mouse_pending),
	STATE_FIELD(struct i8042_regs, scan_set),
	STATE_FIELD(struct i8042_regs, leds),
	STATE_FIELD(struct i8042_regs, typematic),
	STATE_FIELD(struct i8042_regs, mouse_resolution),
	STATE_FIELD(struct i8042_regs, mouse_rate),
	STATE_FIELD(struct i8042_regs, mouse_flags),
	STATE_ARRAY(struct i8042_regs, ram),
	STATE_END,
};

static int i8042_post_load(void *object, const char **error)
{
	const struct i8042_regs *r = object;

	if (r->keyboard.count > QUEUE_MAX || r->mouse.count > QUEUE_MAX || r->source > FROM_MOUSE) {
		*error = "a queue of the keyboard controller holds more than it can";
		return -1;
	}
	return 0;
}

static const struct state_table i8042_table = {
	.name = "i8042",
	.version = 1,
	.size = sizeof(struct i8042_regs),
	.fields = i8042_fields,
	.post_load = i8042_post_load,
};

void i8042_save(struct i8042 *kbd, struct state_writer *writer)
{
	struct i8042_regs regs;

	pthread_mutex_lock(&kbd->lock);
	regs = kbd->regs;
	pthread_mutex_unlock(&kbd->lock);
	state_save(&i8042_table, &regs, writer);
}

int i8042_load(struct i8042 *kbd, struct state_reader *reader)
{
	struct i8042_regs regs;
	int error;

	pthread_mutex_lock(&kbd->lock);
	regs = kbd->regs;
	pthread_mutex_unlock(&kbd->lock);
	error = state_load(&i8042_table, &regs, reader);
	if (error)
		return error;
	pthread_mutex_lock(&kbd->lock);
	kbd->regs = regs;
	update(kbd);
	pthread_mutex_unlock(&kbd->lock);
	return 0;
}
