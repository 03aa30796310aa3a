/* The table of verbs, and what is said about them. Invariant: every refusal is one line on stderr.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "cli/options.h"
#include "cli/verb.h"

const struct verb *const verbs[] = {
	&verb_run,     &verb_ps,     &verb_console, &verb_logs,    &verb_stats,
	&verb_pause,   &verb_resume, &verb_stop,    &verb_kill,    &verb_snapshot,
	&verb_restore, &verb_fork,   &verb_switch,  &verb_inspect, &verb_guest,
	&verb_doctor,  &verb_help,   &verb_version, NULL,
};

const struct verb *verb_find(const char *name)
{
	for (const struct verb *const *v = verbs; *v; v++) {
		if (strcmp((*v)->name, name) == 0)
			return *v;
	}
	return NULL;
}

void verb_print_overview(int to_stderr)
{
	FILE *out = to_stderr ? stderr : stdout;

	fprintf(out, "Insula runs unmodified x86-64 operating systems in an ordinary process.\n\n"
		     "usage: insula VERB [ARGUMENTS]\n\n");
	for (const struct verb *const *v = verbs; *v; v++)
		fprintf(out, "  %-9s %s\n", (*v)->name, (*v)->summary);
	fprintf(out, "\ninsula VERB --help says more. First steps:\n\n"
		     "  insula guest build debian       make the default guest, once\n"
		     "  insula run                      its shell\n"
		     "  insula run -- uname -a          one command in it\n");
}

static void print_indented(const char *text, int column)
{
	for (const char *end; *text; text = end) {
		end = strchr(text, '\n');
		end = end ? end + 1 : text + strlen(text);
		fwrite(text, 1, (size_t)(end - text), stdout);
		if (*end)
			printf("%*s", column, "");
	}
	putchar('\n');
}

void verb_print_help(const struct verb *verb)
{
	printf("usage: insula %s%s%s\n\n", verb->name, *verb->arguments ? " " : "",
	       verb->arguments);
	for (const struct option_def *o = verb->options; o && o->name; o++) {
		char left[64];

		if (o == verb->options)
			printf("%s\n\n", "Options:");
		snprintf(left, sizeof(left), "--%s%s%s", o->name, o->metavar ? " " : "",
			 o->metavar ? o->metavar : "");
		if (strlen(left) > 24)
			printf("  %s\n%28s", left, "");
		else
			printf("  %-26s", left);
		print_indented(o->help, 28);
	}
	if (verb->options)
		putchar('\n');
	fputs(verb->about, stdout);
}

int usage_error(const struct verb *verb, const char *format, ...)
{
	char sentence[1024];
	va_list args;

	va_start(args, format);
	vsnprintf(sentence, sizeof(sentence), format, args);
	va_end(args);
	if (verb)
		fprintf(stderr, "insula: %s: %s (see insula %s --help)\n", verb->name, sentence,
			verb->name);
	else
		fprintf(stderr, "insula: %s (see insula --help)\n", sentence);
	return STATUS_USAGE;
}
