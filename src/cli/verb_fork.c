/* insula fork: copies of a running VM, which go on from where it is. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/control_client.h"
#include "api/runtime_dir.h"
#include "cli/options.h"
#include "cli/run_children.h"
#include "cli/verb.h"
#include "cli/verb_control.h"

enum { OPT_COUNT = 1, OPT_NAME, OPT_JSON };

struct fork_options {
	uint64_t count;
	const char *pattern;
	bool json;
};

static int set_option(void *ctx, int id, const char *value)
{
	struct fork_options *o = ctx;

	switch (id) {
	case OPT_COUNT:
		if (!number_parse(value, CHILDREN_MAX, &o->count) || !o->count)
			return usage_error(&verb_fork, "-n %s: a number from 1 to %u", value,
					   CHILDREN_MAX);
		return -1;
	case OPT_NAME:
		if (!children_pattern_valid(value))
			return usage_error(&verb_fork, CHILDREN_PATTERN_ERROR, value);
		o->pattern = value;
		return -1;
	default:
		o->json = true;
		return -1;
	}
}

static void print_names(const json_t *result)
{
	const json_t *child;
	size_t i;

	json_array_foreach(json_object_get(result, "children"), i, child)
	{
		printf("%s\n", json_string_value(child));
	}
}

static int fork_verb(const struct verb *verb, int argc, char **argv)
{
	struct fork_options o = { .count = 1 };
	struct control_client *client;
	json_t *answer = NULL, *result;
	const char *name;
	int status = control_words(verb, argc, argv, &name, set_option, &o);

	if (status >= 0)
		return status;
	client = control_open(name);
	if (client)
		answer = control_ask(client, json_pack("{s:s, s:I, s:s*, s:b}", "verb", "fork",
						       "count", (json_int_t)o.count, "name",
						       o.pattern, "json", o.json));
	result = json_object_get(answer, "result");
	if (result && o.json) {
		json_dumpf(result, stdout, JSON_INDENT(2));
		putchar('\n');
	} else if (result) {
		print_names(result);
	}
	status = answer ? STATUS_OK : STATUS_HOST_ERROR;
	control_close(client);
	json_decref(answer);
	return status;
}

static const struct option_def fork_options[] = {
	{ "count", "N", "so many children (default: 1)", OPT_COUNT, 'n' },
	{ "name", "PATTERN",
	  "their names, with a number for %d (default: the VM's name and\na number)", OPT_NAME },
	{ "json", NULL, "say how long the VM stood still, and each child took to run", OPT_JSON },
	{ 0 },
};

const struct verb verb_fork = {
	.name = "fork",
	.arguments = "VM [-n COUNT] [--name PATTERN]",
	.summary = "copy a running VM into new ones",
	.about = "Each child goes on from where the VM is, in the background, and its name is\n"
		 "printed when it runs. Children share the VM's memory until they write to it.\n"
		 "Nobody sees what another writes from then on.\n\n"
		 "Examples:\n\n"
		 "  insula run -d --name base\n"
		 "  insula fork base -n 3 --name worker-%d\n"
		 "  insula console worker-2\n",
	.options = fork_options,
	.run = fork_verb,
};
