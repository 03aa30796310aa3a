/*
 * Fixed ACPI hardware. Called by the port bus, the clock and whoever presses
 * the button. Invariant: SCI is high exactly while an enabled status bit
 * stands; every change of status or enable ends in update_sci().
 */
#include "dev/pc/acpi_pm.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "bus/bus.h"
#include "bus/vclock.h"
#include "dev/pc/tick.h"
#include "state/stream.h"

#define PM1_STS 0
#define PM1_EN  2
#define PM1_CNT 4
#define PM_TMR  8

#define STS_TMR    (1u << 0)
#define STS_GBL    (1u << 5)
#define STS_PWRBTN (1u << 8)
#define STS_SLPBTN (1u << 9)
#define STS_RTC    (1u << 10)
#define STS_WAK    (1u << 15)
#define EN_ALL     (STS_TMR | STS_GBL | STS_PWRBTN | STS_SLPBTN | STS_RTC)

#define CNT_SCI_EN  (1u << 0)
#define CNT_BM_RLD  (1u << 1)
#define CNT_SLP_TYP (7u << 10)
#define CNT_SLP_EN  (1u << 13)

struct acpi_pm_regs {
	uint16_t pm1_sts, pm1_en, pm1_cnt;
	uint32_t gpe_sts, gpe_en;
	uint64_t toggles; /* changes of the timer's top bit that TMR_STS has told of */
};

struct acpi_pm {
	pthread_mutex_t lock;
	struct acpi_pm_regs regs;
	int line;
	struct vclock_timer timer; /* next change of the timer's top bit */
	struct vclock *clock;
	struct irq_line sci;
	struct stop_sink stop;
	struct bus *bus;
	uint16_t base;
};

static uint64_t timer_ticks(struct acpi_pm *pm)
{
	return tick_from_ns(vclock_now_ns(pm->clock), ACPI_PM_TIMER_HZ);
}

static void update_sci(struct acpi_pm *pm)
{
	const struct acpi_pm_regs *r = &pm->regs;
	int level = (r->pm1_sts & r->pm1_en & EN_ALL) || (r->gpe_sts & r->gpe_en);

	if (level != pm->line) {
		pm->line = level;
		irq_set(&pm->sci, level);
	}
}

/* TMR_STS follows the top bit of the 32-bit count (ACPI 6.4, 4.8.3.1.1, TMR_VAL_EXT). True: it has
 * changed. */
static bool settle_timer(struct acpi_pm *pm)
{
	uint64_t toggles = timer_ticks(pm) >> 31;

	if (toggles == pm->regs.toggles)
		return false;
	pm->regs.toggles = toggles;
	pm->regs.pm1_sts |= STS_TMR;
	return true;
}

static void arm(struct acpi_pm *pm)
{
	uint64_t ns = UINT64_MAX;

	if (pm->regs.pm1_en & STS_TMR)
		ns = tick_to_ns((pm->regs.toggles + 1) << 31, ACPI_PM_TIMER_HZ);
	vclock_timer_arm(&pm->timer, ns);
}

static void timer_due(void *ctx)
{
	struct acpi_pm *pm = ctx;

	pthread_mutex_lock(&pm->lock);
	settle_timer(pm);
	update_sci(pm);
	arm(pm);
	pthread_mutex_unlock(&pm->lock);
}

static uint8_t read_byte(const struct acpi_pm *pm, unsigned offset, uint32_t ticks)
{
	const struct acpi_pm_regs *r = &pm->regs;
	unsigned shift = (offset & 1) * 8;

	switch (offset & ~1u) {
	case PM1_STS:
		return (uint8_t)(r->pm1_sts >> shift);
	case PM1_EN:
		return (uint8_t)(r->pm1_en >> shift);
	case PM1_CNT:
		return (uint8_t)((r->pm1_cnt | CNT_SCI_EN) >> shift);
	}
	shift = (offset & 3) * 8;
	switch (offset & ~3u) {
	case PM_TMR:
		return (uint8_t)(ticks >> shift);
	case ACPI_PM_GPE0:
		return (uint8_t)(r->gpe_sts >> shift);
	case ACPI_PM_GPE0 + ACPI_PM_GPE0_LEN / 2:
		return (uint8_t)(r->gpe_en >> shift);
	}
	return 0;
}

/* Status bits are cleared by writing ones. True: the guest asks for the sleep state in PM1_CNT. */
static bool write_byte(struct acpi_pm *pm, unsigned offset, uint8_t value)
{
	struct acpi_pm_regs *r = &pm->regs;
	unsigned shift = (offset & 1) * 8;
	uint16_t bits = (uint16_t)(value << shift), others = (uint16_t) ~(0xff << shift);

	switch (offset & ~1u) {
	case PM1_STS:
		r->pm1_sts &= (uint16_t)~bits;
		return false;
	case PM1_EN:
		r->pm1_en = (uint16_t)((r->pm1_en & others) | (bits & EN_ALL));
		return false;
	case PM1_CNT:
		r->pm1_cnt =
			(uint16_t)((r->pm1_cnt & others) | (bits & (CNT_BM_RLD | CNT_SLP_TYP)));
		return bits & CNT_SLP_EN;
	}
	shift = (offset & 3) * 8;
	switch (offset & ~3u) {
	case ACPI_PM_GPE0:
		r->gpe_sts &= ~((uint32_t)value << shift);
		break;
	case ACPI_PM_GPE0 + ACPI_PM_GPE0_LEN / 2:
		r->gpe_en = (r->gpe_en & ~(0xffu << shift)) | (uint32_t)value << shift;
		break;
	}
	return false;
}

static uint64_t acpi_pm_read(void *dev, uint64_t offset, unsigned size)
{
	struct acpi_pm *pm = dev;
	uint64_t value = 0;
	uint32_t ticks;

	pthread_mutex_lock(&pm->lock);
	/* Who sees the status first raises the SCI for it: the clock's thread may be late. */
	if (settle_timer(pm)) {
		update_sci(pm);
		arm(pm);
	}
	/* One look at the clock for all bytes of the access. */
	ticks = (uint32_t)timer_ticks(pm);
	for (unsigned i = 0; i < size; i++)
		value |= (uint64_t)read_byte(pm, (unsigned)offset + i, ticks) << (8 * i);
	pthread_mutex_unlock(&pm->lock);
	return value;
}

static void acpi_pm_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	struct acpi_pm *pm = dev;
	bool sleep = false, power_off = false;

	pthread_mutex_lock(&pm->lock);
	settle_timer(pm);
	for (unsigned i = 0; i < size; i++)
		sleep |= write_byte(pm, (unsigned)offset + i, (uint8_t)(value >> (8 * i)));
	if (sleep) {
		power_off = (pm->regs.pm1_cnt & CNT_SLP_TYP) >> 10 == ACPI_PM_SLP_TYP_S5;
		/* No other sleep state is offered: as if woken at once. */
		if (!power_off)
			pm->regs.pm1_sts |= STS_WAK;
	}
	update_sci(pm);
	arm(pm);
	pthread_mutex_unlock(&pm->lock);
	if (power_off)
		stop_request(&pm->stop, STOP_POWER_OFF, 0, NULL);
}

static const struct bus_ops acpi_pm_ops = { .read = acpi_pm_read, .write = acpi_pm_write };

void acpi_pm_power_button(struct acpi_pm *pm)
{
	pthread_mutex_lock(&pm->lock);
	pm->regs.pm1_sts |= STS_PWRBTN;
	update_sci(pm);
	pthread_mutex_unlock(&pm->lock);
}

void acpi_pm_gpe(struct acpi_pm *pm, unsigned event)
{
	pthread_mutex_lock(&pm->lock);
	pm->regs.gpe_sts |= 1u << (event & 31);
	update_sci(pm);
	pthread_mutex_unlock(&pm->lock);
}

struct acpi_pm *acpi_pm_new(struct vclock *clock, struct irq_line sci, struct stop_sink stop)
{
	struct acpi_pm *pm = calloc(1, sizeof(*pm));

	if (!pm)
		return NULL;
	pthread_mutex_init(&pm->lock, NULL);
	pm->clock = clock;
	pm->sci = sci;
	pm->stop = stop;
	vclock_timer_init(&pm->timer, clock, timer_due, pm);
	acpi_pm_reset(pm);
	return pm;
}

void acpi_pm_free(struct acpi_pm *pm)
{
	if (!pm)
		return;
	if (pm->bus)
		bus_remove(pm->bus, pm->base, pm);
	vclock_timer_disarm(&pm->timer);
	pthread_mutex_destroy(&pm->lock);
	free(pm);
}

int acpi_pm_attach(struct acpi_pm *pm, struct bus *pio, uint16_t base)
{
	int error = bus_add(pio, &(struct bus_region){ .name = "acpi pm",
						       .base = base,
						       .len = ACPI_PM_LEN,
						       .ops = &acpi_pm_ops,
						       .dev = pm });

	if (error)
		return error;
	pm->bus = pio;
	pm->base = base;
	return 0;
}

void acpi_pm_reset(struct acpi_pm *pm)
{
	pthread_mutex_lock(&pm->lock);
	pm->regs = (struct acpi_pm_regs){ .toggles = timer_ticks(pm) >> 31 };
	update_sci(pm);
	arm(pm);
	pthread_mutex_unlock(&pm->lock);
}

static const struct state_field acpi_pm_fields[] = {
	STATE_FIELD(struct acpi_pm_regs, pm1_sts),
	STATE_FIELD(struct acpi_pm_regs, pm1_en),
	STATE_FIELD(struct acpi_pm_regs, pm1_cnt),
	STATE_FIELD(struct acpi_pm_regs, gpe_sts),
	STATE_FIELD(struct acpi_pm_regs, gpe_en),
	STATE_FIELD(struct acpi_pm_regs, toggles),
	STATE_END,
};

static const struct state_table acpi_pm_table = {
	.name = "acpi_pm",
	.version = 1,
	.size = sizeof(struct acpi_pm_regs),
	.fields = acpi_pm_fields,
};

void acpi_pm_save(struct acpi_pm *pm, struct state_writer *writer)
{
	struct acpi_pm_regs regs;

	pthread_mutex_lock(&pm->lock);
	regs = pm->regs;
	pthread_mutex_unlock(&pm->lock);
	state_save(&acpi_pm_table, &regs, writer);
}

int acpi_pm_load(struct acpi_pm *pm, struct state_reader *reader)
{
	struct acpi_pm_regs regs;
	int error;

	pthread_mutex_lock(&pm->lock);
	regs = pm->regs;
	pthread_mutex_unlock(&pm->lock);
	error = state_load(&acpi_pm_table, &regs, reader);
	if (error)
		return error;
	pthread_mutex_lock(&pm->lock);
	pm->regs = regs;
	update_sci(pm);
	arm(pm);
	pthread_mutex_unlock(&pm->lock);
	return 0;
}
