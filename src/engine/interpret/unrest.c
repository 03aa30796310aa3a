/*
 * The judgement of restless pages. Called by the trace cache; what follows from
 * it is there.
 */
#include "engine/interpret/unrest.h"

#define TICK_SHIFT 24 /* some milliseconds */
#define LOUD       128
#define PATIENCE   256
#define DOUBT_MAX  12
/* Restless again within so many ticks, doubled like the patience: it was found calm too early. */
#define SOON       4u

static uint32_t tick(uint64_t tsc)
{
	return (uint32_t)(tsc >> TICK_SHIFT);
}

bool unrest_noise(struct unrest *u, unsigned noise, uint64_t tsc)
{
	uint32_t now = tick(tsc), past = now - u->stamp;

	if (u->restless)
		return false;
	u->noise = (past < 32 ? u->noise >> past : 0) + noise;
	u->stamp = now;
	if (u->noise < LOUD)
		return false;
	if (u->settled && (int32_t)(now - u->settled) < (int32_t)(SOON << u->doubt))
		u->doubt += u->doubt < DOUBT_MAX;
	else
		u->doubt = 0;
	u->noise = 0;
	u->restless = true;
	u->changed = false;
	return true;
}

int32_t unrest_patience(const struct unrest *u)
{
	return PATIENCE << u->doubt;
}

bool unrest_ask(struct unrest *u, uint64_t tsc)
{
	if (!u->restless)
		return true;
	if (u->changed) {
		u->changed = false;
		return false;
	}
	u->restless = false;
	u->settled = tick(tsc) | 1; /* never 0 */
	return true;
}
