/*
 * ISA interrupt wires. Called by any driver of an IRQ. Invariant: a line at
 * the sinks is the level of the driver that owns it, who changes with the
 * HPET's switch; the lock covers deciding and driving, so that two changes
 * of one line never reach a sink in the wrong order.
 */
#include "dev/pc/isa_irq.h"
#include "state/stream.h"

#include <pthread.h>
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#define TIMER_IRQ 0
#define RTC_IRQ   8

struct isa_irq_regs {
	uint8_t level[ISA_IRQS]; /* as the ISA devices drive them */
	uint8_t hpet[2];         /* as the HPET drives IRQ 0 and 8 */
	uint8_t replaced;        /* the HPET owns these two */
};

struct isa_irq {
	pthread_mutex_t lock;
	struct isa_irq_regs regs;
	struct irq_line pic[ISA_IRQS], ioapic[ISA_IRQS];
};

/* Lock held. The timer's IRQ 0 is I/O APIC input 2, which the cascade leaves free. */
static void drive(struct isa_irq *isa, unsigned irq, int level)
{
	irq_set(&isa->pic[irq], level);
	irq_set(&isa->ioapic[irq == TIMER_IRQ ? 2 : irq], level);
}

static bool cut_off(const struct isa_irq *isa, unsigned irq)
{
	return isa->regs.replaced && (irq == TIMER_IRQ || irq == RTC_IRQ);
}

static void set_isa(void *ctx, unsigned irq, int level)
{
	struct isa_irq *isa = ctx;

	pthread_mutex_lock(&isa->lock);
	isa->regs.level[irq] = level != 0;
	if (!cut_off(isa, irq))
		drive(isa, irq, level);
	pthread_mutex_unlock(&isa->lock);
}

static void set_hpet(void *ctx, unsigned timer, int level)
{
	struct isa_irq *isa = ctx;

	pthread_mutex_lock(&isa->lock);
	isa->regs.hpet[timer] = level != 0;
	if (isa->regs.replaced)
		drive(isa, timer ? RTC_IRQ : TIMER_IRQ, level);
	pthread_mutex_unlock(&isa->lock);
}

static void set_switch(void *ctx, unsigned pin, int level)
{
	struct isa_irq *isa = ctx;

	(void)pin;
	pthread_mutex_lock(&isa->lock);
	if (isa->regs.replaced != (level != 0)) {
		isa->regs.replaced = level != 0;
		drive(isa, TIMER_IRQ, level ? isa->regs.hpet[0] : isa->regs.level[TIMER_IRQ]);
		drive(isa, RTC_IRQ, level ? isa->regs.hpet[1] : isa->regs.level[RTC_IRQ]);
	}
	pthread_mutex_unlock(&isa->lock);
}

struct irq_line isa_irq_line(struct isa_irq *isa, unsigned irq)
{
	/* 2 is the cascade, no device's. */
	if (irq >= ISA_IRQS || irq == 2)
		return (struct irq_line){ 0 };
	return (struct irq_line){ .set = set_isa, .ctx = isa, .pin = irq };
}

struct irq_line isa_irq_hpet_line(struct isa_irq *isa, unsigned timer)
{
	if (timer > 1)
		return (struct irq_line){ 0 };
	return (struct irq_line){ .set = set_hpet, .ctx = isa, .pin = timer };
}

struct irq_line isa_irq_hpet_switch(struct isa_irq *isa)
{
	return (struct irq_line){ .set = set_switch, .ctx = isa };
}

struct isa_irq *isa_irq_new(const struct irq_line pic[ISA_IRQS],
			    const struct irq_line ioapic[ISA_IRQS])
{
	struct isa_irq *isa = calloc(1, sizeof(*isa));

	if (!isa)
		return NULL;
	pthread_mutex_init(&isa->lock, NULL);
	for (unsigned irq = 0; irq < ISA_IRQS; irq++) {
		isa->pic[irq] = pic[irq];
		isa->ioapic[irq] = ioapic[irq];
	}
	return isa;
}

void isa_irq_free(struct isa_irq *isa)
{
	if (!isa)
		return;
	pthread_mutex_destroy(&isa->lock);
	free(isa);
}

void isa_irq_reset(struct isa_irq *isa)
{
	pthread_mutex_lock(&isa->lock);
	isa->regs.replaced = 0;
	isa->regs.hpet[0] = isa->regs.hpet[1] = 0;
	for (unsigned irq = 0; irq < ISA_IRQS; irq++) {
		isa->regs.level[irq] = 0;
		if (irq != 2)
			drive(isa, irq, 0);
	}
	pthread_mutex_unlock(&isa->lock);
}

static const struct state_field isa_irq_fields[] = {
	STATE_ARRAY(struct isa_irq_regs, level),
	STATE_ARRAY(struct isa_irq_regs, hpet),
	STATE_FIELD(struct isa_irq_regs, replaced),
	STATE_END,
};

static const struct state_table isa_irq_table = {
	.name = "isa_irq",
	.version = 1,
	.size = sizeof(struct isa_irq_regs),
	.fields = isa_irq_fields,
};

void isa_irq_save(struct isa_irq *isa, struct state_writer *writer)
{
	struct isa_irq_regs regs;

	pthread_mutex_lock(&isa->lock);
	regs = isa->regs;
	pthread_mutex_unlock(&isa->lock);
	state_save(&isa_irq_table, &regs, writer);
}

int isa_irq_load(struct isa_irq *isa, struct state_reader *reader)
{
	struct isa_irq_regs regs;
	int error;

	pthread_mutex_lock(&isa->lock);
	regs = isa->regs;
	pthread_mutex_unlock(&isa->lock);
	error = state_load(&isa_irq_table, &regs, reader);
	if (error)
		return error;
	pthread_mutex_lock(&isa->lock);
	isa->regs = regs;
	pthread_mutex_unlock(&isa->lock);
	return 0;
}
