/*
 * Stop requests: what a device or vcpu may say about the life of the machine.
 * The first request wins; later ones are ignored. Any thread, never blocks.
 */
#ifndef INSULA_BUS_STOP_H
#define INSULA_BUS_STOP_H

#include <stdint.h>

enum stop_reason {
	STOP_NONE = 0,
	STOP_POWER_OFF,    /* ACPI S5 */
	STOP_RESET,        /* reset register, keyboard controller, port 0xcf9 */
	STOP_TRIPLE_FAULT, /* a vcpu entered shutdown */
	STOP_DEBUG_EXIT,   /* port 0xf4; code = value written */
	STOP_GUEST_ERROR,  /* the guest drove the machine somewhere it cannot go on from */
	STOP_HOST_ERROR,   /* the host failed us */
	STOP_USER,         /* a person or a signal asked */
};

struct stop_sink {
	/* `detail` is one human sentence or NULL; copied. */
	void (*request)(void *ctx, enum stop_reason reason, uint32_t code, const char *detail);
	void *ctx;
};

static inline void stop_request(const struct stop_sink *sink, enum stop_reason reason, uint32_t code, const char *detail)
{
	if (sink && sink->request)
		sink->request(sink->ctx, reason, code, detail);
}

#endif
