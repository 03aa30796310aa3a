/* The engines by name. Called by the command line; the list is complete and in order of preference.
 */
#include "engine/engine.h"

#include <stddef.h>
#include <string.h>

static const struct engine *const engines[] = { &engine_translate, &engine_interpret };

const struct engine *engine_find(const char *name)
{
	if (strcmp(name, "auto") == 0)
		return engines[0];
	for (size_t i = 0; i < sizeof(engines) / sizeof(engines[0]); i++) {
		if (strcmp(engines[i]->name, name) == 0)
			return engines[i];
	}
	return NULL;
}
