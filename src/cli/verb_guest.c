/* insula guest build NAME, insula guest list */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/guest.h"
#if __has_include("cli/guest_build.h")
#include "cli/guest_build.h"
#endif
#include "cli/options.h"
#include "cli/verb.h"

static int list(void)
{
	for (const char *const *name = guest_names; *name; name++) {
		char *directory = guest_directory(*name);

		printf("%-10s %s\n", *name,
		       directory && access(directory, F_OK) == 0 ? directory : "not built");
		free(directory);
	}
	return STATUS_OK;
}

static int guest(const struct verb *self, int argc, char **argv)
{
	const char *words[3] = { 0 }, *value;
	struct options options;
	unsigned count = 0;
	int id;

	options_init(&options, self, argc, argv);
	while ((id = options_next(&options, &value)) != OPTION_END) {
		if (id == OPTION_ERROR)
			return STATUS_USAGE;
		if (id == OPTION_HELP) {
			verb_print_help(self);
			return STATUS_OK;
		}
		if (count == 2)
			return usage_error(self, "unexpected %s", value);
		words[count++] = value;
	}
	if (count == 1 && strcmp(words[0], "list") == 0)
		return list();
	return usage_error(self, "say build NAME or list");
}

const struct verb verb_guest = {
	.name = "guest",
	.arguments = "build NAME | list",
	.summary = "build a guest, or list those there are",
	.about = "build debian makes the default guest from Debian's own packages: the cloud "
		 "kernel and a\n"
		 "small userland. It is kept under XDG_CACHE_HOME (or ~/.cache).\n\n"
		 "Examples:\n\n"
		 "  insula guest build debian\n"
		 "  insula guest list\n",
	.run = guest,
};
