/* insula version */
#include <stdio.h>
#include <string.h>

#include "cli/options.h"
#include "cli/verb.h"

static int version(const struct verb *self, int argc, char **argv)
{
	if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
		verb_print_help(self);
		return STATUS_OK;
	}
	if (argc > 1)
		return usage_error(self, "takes no arguments");
	printf("insula %s\n", INSULA_VERSION);
	return STATUS_OK;
}

const struct verb verb_version = {
	.name = "version",
	.arguments = "",
	.summary = "the version of this program",
	.about = "Prints one line: the name and the version.\n",
	.run = version,
};
