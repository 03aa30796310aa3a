/* The command line's first word. Everything else is the verbs' (cli/verb.h). */
#include <string.h>

#include "cli/options.h"
#include "cli/verb.h"

int main(int argc, char **argv)
{
	const struct verb *verb;
	const char *nearest;
	const char *names[32];
	size_t count = 0;

	if (argc < 2) {
		verb_print_overview(1);
		return STATUS_USAGE;
	}
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)
		return verb_help.run(&verb_help, 1, argv + 1);
	if (strcmp(argv[1], "--version") == 0)
		return verb_version.run(&verb_version, 1, argv + 1);
	if (strcmp(argv[1], verb_children.name) == 0)
		return verb_children.run(&verb_children, argc - 1, argv + 1);
	verb = verb_find(argv[1]);
	if (verb)
		return verb->run(verb, argc - 1, argv + 1);
	if (argv[1][0] == '-')
		return usage_error(NULL, "unknown option %s", argv[1]);
	for (const struct verb *const *v = verbs; *v; v++)
		names[count++] = (*v)->name;
	names[count] = NULL;
	nearest = nearest_word(argv[1], names);
	if (nearest)
		return usage_error(NULL, "unknown verb %s; did you mean %s?", argv[1], nearest);
	return usage_error(NULL, "unknown verb %s", argv[1]);
}
