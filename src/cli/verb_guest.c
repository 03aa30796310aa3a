/* insula guest build NAME, insula guest list, insula guest remove NAME */
#include <string.h>

#include "cli/guest_build.h"
#include "cli/options.h"
#include "cli/verb.h"

enum { OPT_JSON = 1 };

static const struct option_def option_defs[] = {
	{ "json", NULL, "manifests as JSON on stdout", OPT_JSON },
	{ 0 },
};

static int guest(const struct verb *self, int argc, char **argv)
{
	const char *words[2] = { 0 }, *value;
	struct options options;
	unsigned count = 0;
	bool json = false;
	int id;

	options_init(&options, self, argc, argv);
	while ((id = options_next(&options, &value)) != OPTION_END) {
		if (id == OPTION_ERROR)
			return STATUS_USAGE;
		if (id == OPTION_HELP) {
			verb_print_help(self);
			return STATUS_OK;
		}
		if (id == OPT_JSON) {
			json = true;
			continue;
		}
		if (count == 2)
			return usage_error(self, "unexpected %s", value);
		words[count++] = value;
	}
	if (count == 1 && strcmp(words[0], "list") == 0)
		return guest_build_list(json);
	if (count == 2 && strcmp(words[0], "build") == 0)
		return guest_build(words[1], json);
	if (count == 2 && strcmp(words[0], "remove") == 0)
		return guest_build_remove(words[1]);
	return usage_error(self, "say build NAME, list or remove NAME");
}

const struct verb verb_guest = {
	.name = "guest",
	.arguments = "build NAME | list | remove NAME",
	.summary = "build a guest, list those there are, or remove one",
	.about = "build makes a guest from Debian's own packages: a kernel and a small userland, "
		 "kept "
		 "under\nXDG_CACHE_HOME (or ~/.cache). It needs apt and a network, but no root.\n\n"
		 "  debian           the cloud kernel: the default guest\n"
		 "  debian-generic   the generic kernel\n\n"
		 "Examples:\n\n"
		 "  insula guest build debian\n"
		 "  insula guest list --json\n",
	.options = option_defs,
	.run = guest,
};
