/*
 * 16550A: registers and interrupt logic of the PC16550D data sheet. Called by
 * the port bus, the back end and the clock. Invariant: after every change of
 * state under the lock, update_irq() has made the line what IIR says.
 *
 * The back end is called without the lock, since it may call back at once.
 */
#include "dev/pc/uart.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "bus/bus.h"
#include "bus/vclock.h"
#include "chardev/chardev.h"
#include "dev/pc/port_bytes.h"
#include "state/stream.h"

#define FIFO_DEPTH 16

#define IER_RDA  0x01
#define IER_THRE 0x02
#define IER_RLS  0x04
#define IER_MS   0x08

#define IIR_NONE    0x01
#define IIR_MS      0x00
#define IIR_THRE    0x02
#define IIR_RDA     0x04
#define IIR_RLS     0x06
#define IIR_TIMEOUT 0x0c
#define IIR_FIFO    0xc0

#define FCR_ENABLE   0x01
#define FCR_RX_RESET 0x02
#define FCR_TX_RESET 0x04

#define LCR_DLAB 0x80

#define MCR_DTR  0x01
#define MCR_RTS  0x02
#define MCR_OUT1 0x04
#define MCR_OUT2 0x08 /* on a PC this output lets the interrupt through */
#define MCR_LOOP 0x10

#define LSR_DR     0x01
#define LSR_OE     0x02
#define LSR_ERRORS 0x1e
#define LSR_THRE   0x20
#define LSR_TEMT   0x40

#define MSR_DELTA 0x0f
#define MSR_TERI  0x04
#define MSR_CTS   0x10
#define MSR_DSR   0x20
#define MSR_RI    0x40
#define MSR_DCD   0x80

struct fifo {
	uint8_t byte[FIFO_DEPTH]; /* oldest first */
	uint8_t count;
};

struct uart_regs {
	struct fifo rx, tx;
	uint16_t divisor;
	uint8_t ier, fcr, lcr, mcr, msr, scr;
	uint8_t overrun;
	uint8_t rx_timeout;   /* character timeout indication stands */
	uint8_t thre_pending; /* THRE interrupt not yet seen in IIR */
};

struct uart {
	pthread_mutex_t lock;
	struct uart_regs regs;
	int line; /* level last driven */

	bool sending;             /* some thread is in chardev_write with bytes of tx */
	bool room_again;          /* the back end called `writable` meanwhile */
	uint32_t tx_generation;   /* counts emptyings of tx, for the sender */
	bool input_wanted;        /* kick the back end once the lock is dropped */
	struct vclock_timer idle; /* character timeout */

	struct chardev *chr;
	struct irq_line irq;
	struct vclock *clock;
	struct bus *bus;
	uint16_t base;
};

static uint8_t fifo_pop(struct fifo *fifo)
{
	uint8_t byte = fifo->byte[0];

	fifo->count--;
	memmove(fifo->byte, fifo->byte + 1, fifo->count);
	return byte;
}

static unsigned depth(const struct uart *u)
{
	return u->regs.fcr & FCR_ENABLE ? FIFO_DEPTH : 1;
}

static unsigned trigger_level(const struct uart *u)
{
	static const uint8_t level[4] = { 1, 4, 8, 14 };

	return u->regs.fcr & FCR_ENABLE ? level[u->regs.fcr >> 6] : 1;
}

/* The highest interrupt that stands and is enabled, without the FIFO bits. */
static uint8_t interrupt_id(const struct uart *u)
{
	const struct uart_regs *r = &u->regs;

	if ((r->ier & IER_RLS) && r->overrun)
		return IIR_RLS;
	if ((r->ier & IER_RDA) && r->rx.count >= trigger_level(u))
		return IIR_RDA;
	if ((r->ier & IER_RDA) && r->rx_timeout)
		return IIR_TIMEOUT;
	if ((r->ier & IER_THRE) && r->thre_pending)
		return IIR_THRE;
	if ((r->ier & IER_MS) && (r->msr & MSR_DELTA))
		return IIR_MS;
	return IIR_NONE;
}

static void update_irq(struct uart *u)
{
	/* In loopback mode OUT2 is off at the pin, whatever the register says. */
	int level =
		interrupt_id(u) != IIR_NONE && (u->regs.mcr & (MCR_OUT2 | MCR_LOOP)) == MCR_OUT2;

	if (level != u->line) {
		u->line = level;
		irq_set(&u->irq, level);
	}
}

/* Four character times from now, if bytes wait below the trigger level. */
static void arm_timeout(struct uart *u)
{
	const struct uart_regs *r = &u->regs;
	uint64_t bit_ns, bits = 2u + 5 + (r->lcr & 3) + (r->lcr >> 3 & 1) + (r->lcr >> 2 & 1);

	if (!(r->fcr & FCR_ENABLE) || !r->rx.count || r->rx_timeout || !(r->ier & IER_RDA) ||
	    r->rx.count >= trigger_level(u)) {
		vclock_timer_arm(&u->idle, UINT64_MAX);
		return;
	}
	bit_ns = 1000000000ull * (r->divisor ? r->divisor : 1) / 115200;
	vclock_timer_arm(&u->idle, vclock_now_ns(u->clock) + 4 * bits * bit_ns);
}

static void idle_expired(void *ctx)
{
	struct uart *u = ctx;

	pthread_mutex_lock(&u->lock);
	if ((u->regs.fcr & FCR_ENABLE) && u->regs.rx.count) {
		u->regs.rx_timeout = 1;
		update_irq(u);
	}
	pthread_mutex_unlock(&u->lock);
}

static void rx_push(struct uart *u, uint8_t byte)
{
	struct fifo *rx = &u->regs.rx;

	if (rx->count >= depth(u)) {
		/* Without FIFO the new character replaces the old; with, it is lost. */
		if (depth(u) == 1)
			rx->byte[0] = byte;
		u->regs.overrun = 1;
		return;
	}
	rx->byte[rx->count++] = byte;
}

/* Modem status inputs: a cable that is always ready, or our own outputs in loopback. */
static void update_modem(struct uart *u)
{
	uint8_t mcr = u->regs.mcr, lines = MSR_CTS | MSR_DSR | MSR_DCD;
	uint8_t before = u->regs.msr, changed;

	if (mcr & MCR_LOOP)
		lines = (uint8_t)((mcr & MCR_RTS ? MSR_CTS : 0) | (mcr & MCR_DTR ? MSR_DSR : 0) |
				  (mcr & MCR_OUT1 ? MSR_RI : 0) | (mcr & MCR_OUT2 ? MSR_DCD : 0));
	changed = (before ^ lines) & 0xf0;
	if (lines & MSR_RI) /* only the trailing edge of RI counts */
		changed &= (uint8_t)~MSR_RI;
	u->regs.msr = (uint8_t)(lines | (before & MSR_DELTA) | changed >> 4);
}

static void tx_empty(struct uart *u)
{
	u->regs.thre_pending = 1;
}

/*
 * Hands tx to the back end. Lock held, dropped around the call. One thread at a
 * time sends, so bytes keep their order. Room that appears between a refusal
 * and our noting it is not lost: `writable` sets room_again, and we look again.
 */
static void send(struct uart *u)
{
	uint8_t bytes[FIFO_DEPTH];
	unsigned count, sent;
	uint32_t generation;

	if (u->sending) {
		u->room_again = true;
		return;
	}
	u->sending = true;
	while (u->regs.tx.count) {
		u->room_again = false;
		count = u->regs.tx.count;
		generation = u->tx_generation;
		memcpy(bytes, u->regs.tx.byte, count);
		pthread_mutex_unlock(&u->lock);
		sent = (unsigned)chardev_write(u->chr, bytes, count);
		pthread_mutex_lock(&u->lock);
		/* The guest may have reset the FIFO while we were out. */
		if (generation == u->tx_generation && sent) {
			u->regs.tx.count = (uint8_t)(u->regs.tx.count - sent);
			memmove(u->regs.tx.byte, u->regs.tx.byte + sent, u->regs.tx.count);
			if (!u->regs.tx.count)
				tx_empty(u);
		}
		if (sent < count && !u->room_again)
			break;
	}
	u->sending = false;
}

static void write_thr(struct uart *u, uint8_t byte)
{
	struct fifo *tx = &u->regs.tx;

	u->regs.thre_pending = 0;
	if (u->regs.mcr & MCR_LOOP) {
		u->regs.rx_timeout = 0;
		rx_push(u, byte);
		arm_timeout(u);
		tx_empty(u);
		return;
	}
	if (tx->count >= depth(u)) {
		if (depth(u) > 1)
			return; /* a full FIFO: the guest did not look at THRE */
		tx->count = 0;
		u->tx_generation++;
	}
	tx->byte[tx->count++] = byte;
	send(u);
}

static void write_fcr(struct uart *u, uint8_t value)
{
	struct uart_regs *r = &u->regs;
	bool toggled = (value ^ r->fcr) & FCR_ENABLE;

	/* The other bits are not programmed unless bit 0 is written as 1. */
	r->fcr = value & FCR_ENABLE ? value & 0xc9 : 0;
	if (toggled || (value & FCR_RX_RESET)) {
		r->rx.count = 0;
		r->rx_timeout = 0;
		u->input_wanted = true;
	}
	if ((toggled || (value & FCR_TX_RESET)) && r->tx.count) {
		r->tx.count = 0;
		u->tx_generation++;
		tx_empty(u);
	}
	arm_timeout(u);
}

static void write_ier(struct uart *u, uint8_t value)
{
	uint8_t raised = value & (uint8_t)~u->regs.ier;

	u->regs.ier = value & 0x0f;
	if ((raised & IER_THRE) && !u->regs.tx.count)
		u->regs.thre_pending = 1;
	if (raised & IER_RDA)
		arm_timeout(u);
}

static uint8_t read_rbr(struct uart *u)
{
	struct fifo *rx = &u->regs.rx;
	uint8_t byte = rx->byte[0];

	if (rx->count) {
		byte = fifo_pop(rx);
		u->regs.rx_timeout = 0;
		arm_timeout(u);
		u->input_wanted = true;
	}
	return byte;
}

static uint8_t read_iir(struct uart *u)
{
	uint8_t id = interrupt_id(u);

	if (id == IIR_THRE)
		u->regs.thre_pending = 0;
	return id | (u->regs.fcr & FCR_ENABLE ? IIR_FIFO : 0);
}

static uint8_t read_lsr(struct uart *u)
{
	uint8_t lsr = 0;

	if (u->regs.rx.count)
		lsr |= LSR_DR;
	if (u->regs.overrun)
		lsr |= LSR_OE;
	if (!u->regs.tx.count)
		lsr |= LSR_THRE | LSR_TEMT;
	u->regs.overrun = 0;
	return lsr;
}

/* Lock dropped: the back end may feed us from inside the call. */
static void unlock_and_kick(struct uart *u)
{
	bool wanted = u->input_wanted;

	u->input_wanted = false;
	pthread_mutex_unlock(&u->lock);
	if (wanted)
		chardev_kick_input(u->chr);
}

static uint8_t read_byte(void *dev, unsigned offset)
{
	struct uart *u = dev;
	struct uart_regs *r = &u->regs;
	uint8_t value = 0xff;

	pthread_mutex_lock(&u->lock);
	switch (offset) {
	case 0:
		value = r->lcr & LCR_DLAB ? (uint8_t)r->divisor : read_rbr(u);
		break;
	case 1:
		value = r->lcr & LCR_DLAB ? (uint8_t)(r->divisor >> 8) : r->ier;
		break;
	case 2:
		value = read_iir(u);
		break;
	case 3:
		value = r->lcr;
		break;
	case 4:
		value = r->mcr;
		break;
	case 5:
		value = read_lsr(u);
		break;
	case 6:
		value = r->msr;
		r->msr &= (uint8_t)~MSR_DELTA;
		break;
	case 7:
		value = r->scr;
		break;
	}
	update_irq(u);
	unlock_and_kick(u);
	return value;
}

static void write_byte(void *dev, unsigned offset, uint8_t value)
{
	struct uart *u = dev;
	struct uart_regs *r = &u->regs;

	pthread_mutex_lock(&u->lock);
	switch (offset) {
	case 0:
		if (r->lcr & LCR_DLAB)
			r->divisor = (uint16_t)((r->divisor & 0xff00) | value);
		else
			write_thr(u, value);
		break;
	case 1:
		if (r->lcr & LCR_DLAB)
			r->divisor = (uint16_t)((r->divisor & 0x00ff) | value << 8);
		else
			write_ier(u, value);
		break;
	case 2:
		write_fcr(u, value);
		break;
	case 3:
		r->lcr = value;
		break;
	case 4:
		u->input_wanted = (r->mcr & MCR_LOOP) && !(value & MCR_LOOP);
		r->mcr = value & 0x1f;
		update_modem(u);
		break;
	case 7:
		r->scr = value;
		break;
	}
	update_irq(u);
	unlock_and_kick(u);
}

static uint64_t uart_read(void *dev, uint64_t offset, unsigned size)
{
	return port_bytes_read(dev, offset, size, read_byte);
}

static void uart_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	port_bytes_write(dev, offset, size, value, write_byte);
}

static const struct bus_ops uart_ops = { .read = uart_read, .write = uart_write };

static size_t room(void *ctx)
{
	struct uart *u = ctx;
	size_t count = 0;

	pthread_mutex_lock(&u->lock);
	if (!(u->regs.mcr & MCR_LOOP) && u->regs.rx.count < depth(u))
		count = depth(u) - u->regs.rx.count;
	pthread_mutex_unlock(&u->lock);
	return count;
}

static void receive(void *ctx, const uint8_t *bytes, size_t count)
{
	struct uart *u = ctx;

	pthread_mutex_lock(&u->lock);
	u->regs.rx_timeout = 0;
	/* The guest may have switched the FIFO off since room(): then OE says so. */
	for (size_t i = 0; i < count; i++)
		rx_push(u, bytes[i]);
	arm_timeout(u);
	update_irq(u);
	pthread_mutex_unlock(&u->lock);
}

static void writable(void *ctx)
{
	struct uart *u = ctx;

	pthread_mutex_lock(&u->lock);
	send(u);
	update_irq(u);
	pthread_mutex_unlock(&u->lock);
}

struct uart *uart_new(struct vclock *clock, struct chardev *chr, struct irq_line irq)
{
	struct uart *u = calloc(1, sizeof(*u));

	if (!u)
		return NULL;
	pthread_mutex_init(&u->lock, NULL);
	u->clock = clock;
	u->chr = chr;
	u->irq = irq;
	vclock_timer_init(&u->idle, clock, idle_expired, u);
	uart_reset(u);
	chardev_connect(chr,
			&(struct chardev_frontend){
				.room = room, .receive = receive, .writable = writable, .ctx = u });
	return u;
}

void uart_free(struct uart *u)
{
	if (!u)
		return;
	if (u->bus)
		bus_remove(u->bus, u->base, u);
	chardev_connect(u->chr, &(struct chardev_frontend){ 0 });
	vclock_timer_disarm(&u->idle);
	pthread_mutex_destroy(&u->lock);
	free(u);
}

int uart_attach(struct uart *u, struct bus *pio, uint16_t base)
{
	int error = bus_add(pio, &(struct bus_region){ .name = "uart",
						       .base = base,
						       .len = UART_PORTS,
						       .ops = &uart_ops,
						       .dev = u });

	if (error)
		return error;
	u->bus = pio;
	u->base = base;
	return 0;
}

void uart_reset(struct uart *u)
{
	pthread_mutex_lock(&u->lock);
	u->regs = (struct uart_regs){ .divisor = 12, .msr = MSR_CTS | MSR_DSR | MSR_DCD };
	u->tx_generation++;
	u->input_wanted = true;
	vclock_timer_arm(&u->idle, UINT64_MAX);
	update_irq(u);
	unlock_and_kick(u);
}

static const struct state_field fifo_fields[] = {
	STATE_ARRAY(struct fifo, byte),
	STATE_FIELD(struct fifo, count),
	STATE_END,
};

static const struct state_table fifo_table = {
	.name = "fifo",
	.version = 1,
	.size = sizeof(struct fifo),
	.fields = fifo_fields,
};

static const struct state_field uart_fields[] = {
	STATE_STRUCT_FIELD(struct uart_regs, rx, &fifo_table),
	STATE_STRUCT_FIELD(struct uart_regs, tx, &fifo_table),
	STATE_FIELD(struct uart_regs, divisor),
	STATE_FIELD(struct uart_regs, ier),
	STATE_FIELD(struct uart_regs, fcr),
	STATE_FIELD(struct uart_regs, lcr),
	STATE_FIELD(struct uart_regs, mcr),
	STATE_FIELD(struct uart_regs, msr),
	STATE_FIELD(struct uart_regs, scr),
	STATE_FIELD(struct uart_regs, overrun),
	STATE_FIELD(struct uart_regs, rx_timeout),
	STATE_FIELD(struct uart_regs, thre_pending),
	STATE_END,
};

static int uart_post_load(void *object, const char **error)
{
	const struct uart_regs *r = object;

	if (r->rx.count > FIFO_DEPTH || r->tx.count > FIFO_DEPTH) {
		*error = "a UART FIFO holds more than it can";
		return -1;
	}
	return 0;
}

static const struct state_table uart_table = {
	.name = "uart",
	.version = 1,
	.size = sizeof(struct uart_regs),
	.fields = uart_fields,
	.post_load = uart_post_load,
};

void uart_save(struct uart *u, struct state_writer *writer)
{
	struct uart_regs regs;

	pthread_mutex_lock(&u->lock);
	regs = u->regs;
	pthread_mutex_unlock(&u->lock);
	state_save(&uart_table, &regs, writer);
}

int uart_load(struct uart *u, struct state_reader *reader)
{
	struct uart_regs regs;
	int error;

	pthread_mutex_lock(&u->lock);
	regs = u->regs;
	pthread_mutex_unlock(&u->lock);
	error = state_load(&uart_table, &regs, reader);
	if (error)
		return error;
	pthread_mutex_lock(&u->lock);
	u->regs = regs;
	u->tx_generation++;
	u->input_wanted = true;
	send(u);
	arm_timeout(u);
	update_irq(u);
	unlock_and_kick(u);
	return 0;
}
