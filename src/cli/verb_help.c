/* insula help [VERB] */
#include "cli/options.h"
#include "cli/verb.h"

static int help(const struct verb *self, int argc, char **argv)
{
	const struct verb *verb;

	if (argc > 2)
		return usage_error(self, "one verb at a time");
	if (argc < 2) {
		verb_print_overview(0);
		return STATUS_OK;
	}
	verb = verb_find(argv[1]);
	if (!verb && (argv[1][0] == '-'))
		verb = self;
	if (!verb)
		return usage_error(self, "there is no verb %s", argv[1]);
	verb_print_help(verb);
	return STATUS_OK;
}

const struct verb verb_help = {
	.name = "help",
	.arguments = "[VERB]",
	.summary = "what Insula or one of its verbs does",
	.about = "Example:\n\n"
		 "  insula help run\n",
	.run = help,
};
