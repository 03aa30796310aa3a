/*
 * The I/O APIC (82093AA data sheet; EOI register as in later chipsets). Called
 * by the MMIO bus, by whoever drives an input, and by the local APICs' EOI.
 * Invariant: a level-triggered input whose line is high, unmasked and not in
 * remote IRR has had its message sent: service() follows every change.
 */
#include "dev/pc/ioapic.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "bus/bus.h"
#include "state/stream.h"

#define IOREGSEL 0x00
#define IOWIN    0x10
#define IOEOI    0x40

#define REG_ID      0x00
#define REG_VERSION 0x01
#define REG_ARB     0x02
#define REG_TABLE   0x10

#define VERSION 0x20u

#define RTE_VECTOR       0xffull
#define RTE_DELIVERY     0x700ull
#define RTE_LOGICAL      (1ull << 11)
#define RTE_SEND_PENDING (1ull << 12)
#define RTE_REMOTE_IRR   (1ull << 14)
#define RTE_LEVEL        (1ull << 15)
#define RTE_MASKED       (1ull << 16)
#define RTE_READ_ONLY    (RTE_SEND_PENDING | RTE_REMOTE_IRR)
#define RTE_WRITABLE     0xff0000000001ffffull

#define DELIVERY_FIXED  0ull
#define DELIVERY_LOWEST 0x100ull

struct ioapic_regs {
	uint64_t rte[IOAPIC_PINS];
	uint32_t level; /* inputs as they are now */
	uint32_t id;
	uint8_t select;
};

struct ioapic {
	pthread_mutex_t lock;
	struct ioapic_regs regs;
	struct msi_sink sink;
	struct bus *bus;
	uint64_t base;
};

/* The redirection entry as the message it causes (SDM 3A, 11.11). */
static void send(struct ioapic *io, uint64_t rte)
{
	uint64_t address = 0xfee00000ull | (rte >> 56) << 12 | (rte & RTE_LOGICAL ? 4 : 0);
	uint32_t data = (uint32_t)(rte & (RTE_VECTOR | RTE_DELIVERY));

	if (rte & RTE_LEVEL)
		data |= 1u << 15 | 1u << 14;
	/* A lowest-priority message asks for redirection. */
	if ((rte & RTE_DELIVERY) == DELIVERY_LOWEST)
		address |= 8;
	msi_send(&io->sink, address, data);
}

/* Remote IRR is for what a local APIC will end with an EOI. */
static bool has_remote_irr(uint64_t rte)
{
	uint64_t mode = rte & RTE_DELIVERY;

	return (rte & RTE_LEVEL) && (mode == DELIVERY_FIXED || mode == DELIVERY_LOWEST);
}

static void service_level(struct ioapic *io, unsigned pin)
{
	uint64_t *rte = &io->regs.rte[pin];

	if (!(*rte & RTE_LEVEL) || (*rte & (RTE_MASKED | RTE_REMOTE_IRR)) ||
	    !(io->regs.level >> pin & 1))
		return;
	if (has_remote_irr(*rte))
		*rte |= RTE_REMOTE_IRR;
	send(io, *rte);
}

static void set_input(void *ctx, unsigned pin, int level)
{
	struct ioapic *io = ctx;
	uint32_t bit = 1u << pin;
	bool rising;

	pthread_mutex_lock(&io->lock);
	rising = level && !(io->regs.level & bit);
	io->regs.level = level ? io->regs.level | bit : io->regs.level & ~bit;
	if (rising) {
		/* An edge at a masked input is lost (82093AA, 3.2.4). */
		if (io->regs.rte[pin] & RTE_LEVEL)
			service_level(io, pin);
		else if (!(io->regs.rte[pin] & RTE_MASKED))
			send(io, io->regs.rte[pin]);
	}
	pthread_mutex_unlock(&io->lock);
}

struct irq_line ioapic_line(struct ioapic *io, unsigned pin)
{
	if (pin >= IOAPIC_PINS)
		return (struct irq_line){ 0 };
	return (struct irq_line){ .set = set_input, .ctx = io, .pin = pin };
}

void ioapic_eoi(void *ctx, uint8_t vector)
{
	struct ioapic *io = ctx;

	pthread_mutex_lock(&io->lock);
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
		uint64_t *rte = &io->regs.rte[pin];

		if ((*rte & RTE_REMOTE_IRR) && (*rte & RTE_VECTOR) == vector) {
			*rte &= ~RTE_REMOTE_IRR;
			service_level(io, pin);
		}
	}
	pthread_mutex_unlock(&io->lock);
}

static uint32_t read_register(const struct ioapic *io)
{
	unsigned index = io->regs.select;

	switch (index) {
	case REG_ID:
	case REG_ARB:
		return io->regs.id << 24;
	case REG_VERSION:
		return VERSION | (IOAPIC_PINS - 1) << 16;
	}
	if (index < REG_TABLE || index >= REG_TABLE + 2 * IOAPIC_PINS)
		return 0;
	index -= REG_TABLE;
	return (uint32_t)(io->regs.rte[index / 2] >> (index & 1 ? 32 : 0));
}

static void write_register(struct ioapic *io, uint32_t value)
{
	unsigned index = io->regs.select;
	uint64_t *rte, written;

	if (index == REG_ID)
		io->regs.id = value >> 24 & 0xf;
	if (index < REG_TABLE || index >= REG_TABLE + 2 * IOAPIC_PINS)
		return;
	index -= REG_TABLE;
	rte = &io->regs.rte[index / 2];
	if (index & 1)
		written = (uint64_t)value << 32 | (uint32_t)*rte;
	else
		written = (*rte & ~0xffffffffull) | value;
	*rte = (written & RTE_WRITABLE & ~RTE_READ_ONLY) | (*rte & RTE_READ_ONLY);
	/* Edge-triggered there is no remote IRR; kernels switch an input to edge and back to clear
	 * it. */
	if (!has_remote_irr(*rte))
		*rte &= ~RTE_REMOTE_IRR;
	service_level(io, index / 2);
}

static uint64_t ioapic_read(void *dev, uint64_t offset, unsigned size)
{
	struct ioapic *io = dev;
	uint32_t value = 0;

	(void)size; /* registers are 32 bits wide; the bus keeps what was asked for */
	pthread_mutex_lock(&io->lock);
	if (offset == IOREGSEL)
		value = io->regs.select;
	else if (offset == IOWIN)
		value = read_register(io);
	pthread_mutex_unlock(&io->lock);
	return value;
}

static void ioapic_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	struct ioapic *io = dev;

	if (offset == IOEOI) {
		ioapic_eoi(io, (uint8_t)value);
		return;
	}
	pthread_mutex_lock(&io->lock);
	if (offset == IOREGSEL)
		io->regs.select = (uint8_t)value;
	else if (offset == IOWIN && size >= 4)
		write_register(io, (uint32_t)value);
	pthread_mutex_unlock(&io->lock);
}

static const struct bus_ops ioapic_ops = { .read = ioapic_read, .write = ioapic_write };

struct ioapic *ioapic_new(struct msi_sink sink)
{
	struct ioapic *io = calloc(1, sizeof(*io));

	if (!io)
		return NULL;
	pthread_mutex_init(&io->lock, NULL);
	io->sink = sink;
	ioapic_reset(io);
	return io;
}

void ioapic_free(struct ioapic *io)
{
	if (!io)
		return;
	if (io->bus)
		bus_remove(io->bus, io->base, io);
	pthread_mutex_destroy(&io->lock);
	free(io);
}

int ioapic_attach(struct ioapic *io, struct bus *mmio, uint64_t base)
{
	int error = bus_add(mmio, &(struct bus_region){ .name = "ioapic",
							.base = base,
							.len = IOAPIC_LEN,
							.ops = &ioapic_ops,
							.dev = io });

	if (error)
		return error;
	io->bus = mmio;
	io->base = base;
	return 0;
}

void ioapic_reset(struct ioapic *io)
{
	pthread_mutex_lock(&io->lock);
	/* The inputs belong to their drivers. */
	io->regs = (struct ioapic_regs){ .level = io->regs.level };
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
		io->regs.rte[pin] = RTE_MASKED;
	pthread_mutex_unlock(&io->lock);
}

static const struct state_field ioapic_fields[] = {
	STATE_ARRAY(struct ioapic_regs, rte),
	STATE_FIELD(struct ioapic_regs, level),
	STATE_FIELD(struct ioapic_regs, id),
	STATE_FIELD(struct ioapic_regs, select),
	STATE_END,
};

static int ioapic_post_load(void *object, const char **error)
{
	const struct ioapic_regs *r = object;

	if (r->level >> IOAPIC_PINS || r->id > 15) {
		*error = "the I/O APIC has an input or id that it cannot have";
		return -1;
	}
	return 0;
}

static const struct state_table ioapic_table = {
	.name = "ioapic",
	.version = 1,
	.size = sizeof(struct ioapic_regs),
	.fields = ioapic_fields,
	.post_load = ioapic_post_load,
};

void ioapic_save(struct ioapic *io, struct state_writer *writer)
{
	struct ioapic_regs regs;

	pthread_mutex_lock(&io->lock);
	regs = io->regs;
	pthread_mutex_unlock(&io->lock);
	state_save(&ioapic_table, &regs, writer);
}

int ioapic_load(struct ioapic *io, struct state_reader *reader)
{
	struct ioapic_regs regs;
	int error;

	pthread_mutex_lock(&io->lock);
	regs = io->regs;
	pthread_mutex_unlock(&io->lock);
	error = state_load(&ioapic_table, &regs, reader);
	if (error)
		return error;
	pthread_mutex_lock(&io->lock);
	io->regs = regs;
	pthread_mutex_unlock(&io->lock);
	return 0;
}
