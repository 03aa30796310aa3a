/*
 * The fixed ACPI hardware (ACPI 6.4, 4.8): PM1a event and control blocks, the
 * power management timer and a general-purpose event block. There is no SMI
 * command port; ACPI mode is the only mode, so SCI_EN always reads 1.
 *
 * Offsets from the base: 0 PM1_STS, 2 PM1_EN, 4 PM1_CNT, 8 PM_TMR, 0x20
 * GPE0_STS, 0x24 GPE0_EN.
 */
#ifndef INSULA_DEV_PC_ACPI_PM_H
#define INSULA_DEV_PC_ACPI_PM_H

#include <stdint.h>

#include "bus/irq.h"
#include "bus/stop.h"

#define ACPI_PM_LEN        0x30
#define ACPI_PM_TIMER_HZ   3579545u
#define ACPI_PM_SLP_TYP_S5 5 /* as the DSDT's _S5 says */
#define ACPI_PM_GPE0       0x20
#define ACPI_PM_GPE0_LEN   8 /* 32 events */

struct acpi_pm;
struct state_reader;
struct state_writer;
struct bus;
struct vclock;

/* sci: level, active high. NULL with errno on failure. */
struct acpi_pm *acpi_pm_new(struct vclock *clock, struct irq_line sci, struct stop_sink stop);
/* Leaves the bus, so the bus goes after it. */
void acpi_pm_free(struct acpi_pm *pm);
int acpi_pm_attach(struct acpi_pm *pm, struct bus *pio, uint16_t base)
	__attribute__((warn_unused_result));
void acpi_pm_reset(struct acpi_pm *pm);

/* Presses the power button once. Any thread. */
void acpi_pm_power_button(struct acpi_pm *pm);
/* Signals general-purpose event 0..31. Any thread. */
void acpi_pm_gpe(struct acpi_pm *pm, unsigned event);

/* Its section of a saved state. Load: all or nothing, then lines and timers follow; vcpus stopped,
 * the clock already set. */
void acpi_pm_save(struct acpi_pm *pm, struct state_writer *writer);
int acpi_pm_load(struct acpi_pm *pm, struct state_reader *reader)
	__attribute__((warn_unused_result));

#endif
