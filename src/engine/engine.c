/* The engines by name, and which one a guest gets if nobody says. Called by the command line. */
#include "engine/engine.h"

#include <stddef.h>
#include <string.h>

/* In order of preference; the last but one and the last run everywhere. */
static const struct engine *const engines[] = { &engine_kvm, &engine_translate, &engine_interpret };
#define ENGINES (sizeof(engines) / sizeof(engines[0]))

const struct engine *engine_find(const char *name)
{
	for (size_t i = 0; i < ENGINES; i++) {
		if (strcmp(engines[i]->name, name) == 0)
			return engines[i];
	}
	return NULL;
}

int engine_check(const struct engine *engine, char *why)
{
	why[0] = '\0';
	return engine->check ? engine->check(why) : 0;
}

const struct engine *engine_best(char *why)
{
	char later[ENGINE_ERROR_MAX];

	if (engine_check(engines[0], why) == 0)
		return engines[0];
	for (size_t i = 1; i < ENGINES - 1; i++) {
		if (engine_check(engines[i], later) == 0)
			return engines[i];
	}
	return engines[ENGINES - 1];
}
