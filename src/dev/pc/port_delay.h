/*
 * Ports 0x80 and 0xed: written for the time it takes. A byte written to the
 * POST port 0x80 can be read back.
 */
#ifndef INSULA_DEV_PC_PORT_DELAY_H
#define INSULA_DEV_PC_PORT_DELAY_H

struct bus;
struct port_delay;
struct state_reader;
struct state_writer;

/* NULL with errno on failure. */
struct port_delay *port_delay_new(void);
/* Leaves the bus, so the bus goes after it. */
void port_delay_free(struct port_delay *port);
int port_delay_attach(struct port_delay *port, struct bus *pio) __attribute__((warn_unused_result));
void port_delay_reset(struct port_delay *port);
void port_delay_save(struct port_delay *port, struct state_writer *writer);
int port_delay_load(struct port_delay *port, struct state_reader *reader)
	__attribute__((warn_unused_result));

#endif
