/*
 * The keyboard controller (ports 0x60, 0x64) with a PS/2 keyboard and mouse
 * that identify themselves and take their commands, but have nobody typing:
 * what Linux, GRUB and memtest86+ need to find a PC. Its output port gates A20
 * and resets the machine.
 */
#ifndef INSULA_DEV_PC_I8042_H
#define INSULA_DEV_PC_I8042_H

#include "bus/irq.h"
#include "bus/stop.h"

struct bus;
struct i8042;
struct state_reader;
struct state_writer;

struct i8042_config {
	struct irq_line keyboard; /* IRQ 1 */
	struct irq_line aux;      /* IRQ 12 */
	struct irq_line a20;      /* port92_keyboard_a20() */
	struct stop_sink stop;
};

/* NULL with errno on failure. */
struct i8042 *i8042_new(const struct i8042_config *config);
/* Leaves the bus, so the bus goes after it. */
void i8042_free(struct i8042 *kbd);
int i8042_attach(struct i8042 *kbd, struct bus *pio) __attribute__((warn_unused_result));
void i8042_reset(struct i8042 *kbd);

/* Its section of a saved state. Load: all or nothing, then lines and timers follow; vcpus stopped,
 * the clock already set. */
void i8042_save(struct i8042 *kbd, struct state_writer *writer);
int i8042_load(struct i8042 *kbd, struct state_reader *reader) __attribute__((warn_unused_result));

#endif
