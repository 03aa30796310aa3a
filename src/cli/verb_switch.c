/* insula switch: a running VM goes on under another engine. */
#include <stdio.h>
#include <string.h>

#include "api/control_client.h"
#include "cli/options.h"
#include "cli/verb.h"
#include "cli/verb_control.h"
#include "engine/engine.h"

enum { OPT_ENGINE = 1 };

static int engine_option(void *ctx, int id, const char *value)
{
	if (!engine_find(value) && strcmp(value, "auto") != 0)
		return usage_error(&verb_switch, "--engine %s: auto, kvm, translate or interpret",
				   value);
	*(const char **)ctx = value;
	return -1;
}

static int switch_verb(const struct verb *verb, int argc, char **argv)
{
	const char *name, *engine = NULL;
	struct control_client *client;
	json_t *answer = NULL, *result;
	int status = control_words(verb, argc, argv, &name, engine_option, &engine);

	if (status >= 0)
		return status;
	if (!engine)
		return usage_error(verb, "to which engine? --engine interpret, for one");
	client = control_open(name);
	if (client)
		answer = control_ask(client,
				     json_pack("{s:s, s:s}", "verb", "switch", "engine", engine));
	result = json_object_get(answer, "result");
	if (answer)
		printf("%s: %s, was %s; stood still for %.2f ms\n", name,
		       json_string_value(json_object_get(result, "to")),
		       json_string_value(json_object_get(result, "from")),
		       (double)json_integer_value(json_object_get(result, "pause_ns")) / 1e6);
	control_close(client);
	status = answer ? STATUS_OK : STATUS_HOST_ERROR;
	json_decref(answer);
	return status;
}

static const struct option_def switch_options[] = {
	{ "engine", "ENGINE", "auto, kvm, translate or interpret", OPT_ENGINE },
	{ 0 },
};

const struct verb verb_switch = {
	.name = "switch",
	.arguments = "VM --engine ENGINE",
	.summary = "go on under another engine",
	.about = "The guest notices nothing but a moment in which it does not run, which is "
		 "printed. If\nthe engine cannot be had it goes on under the old one.\n\n"
		 "Example:\n\n  insula switch box --engine interpret\n",
	.options = switch_options,
	.run = switch_verb,
};
