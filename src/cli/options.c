/* Option parsing for all verbs. Invariant: every refusal is one line on stderr. */
#include "cli/options.h"

#include <stdlib.h>
#include <string.h>

#include "cli/verb.h"

#define WORD_MAX    32
#define NEAREST_MAX 64

void options_init(struct options *options, const struct verb *verb, int argc, char **argv)
{
	*options = (struct options){ .verb = verb, .argc = argc, .argv = argv, .at = 1 };
}

/* Edits (insert, delete, replace) that turn a into b; WORD_MAX when either is longer than that. */
static unsigned edit_distance(const char *a, const char *b)
{
	unsigned row[WORD_MAX + 1];
	size_t a_len = strlen(a), b_len = strlen(b);

	if (a_len > WORD_MAX || b_len > WORD_MAX)
		return WORD_MAX;
	for (size_t j = 0; j <= b_len; j++)
		row[j] = (unsigned)j;
	for (size_t i = 1; i <= a_len; i++) {
		unsigned diagonal = row[0];

		row[0] = (unsigned)i;
		for (size_t j = 1; j <= b_len; j++) {
			unsigned best = diagonal + (a[i - 1] != b[j - 1]);

			diagonal = row[j];
			if (row[j] + 1 < best)
				best = row[j] + 1;
			if (row[j - 1] + 1 < best)
				best = row[j - 1] + 1;
			row[j] = best;
		}
	}
	return row[b_len];
}

const char *nearest_word(const char *word, const char *const *list)
{
	const char *best = NULL;
	unsigned best_distance = strlen(word) > 2 ? 3 : 2;

	for (; *list; list++) {
		unsigned distance = edit_distance(word, *list);

		if (distance < best_distance) {
			best_distance = distance;
			best = *list;
		}
	}
	return best;
}

static int refuse_unknown(const struct options *options, const char *word, size_t len)
{
	const char *names[NEAREST_MAX + 1] = { "help" };
	const char *nearest;
	char name[WORD_MAX + 1];
	size_t count = 1;

	for (const struct option_def *o = options->verb->options;
	     o && o->name && count < NEAREST_MAX; o++)
		names[count++] = o->name;
	if (len - 2 <= WORD_MAX && len > 2) {
		memcpy(name, word + 2, len - 2);
		name[len - 2] = '\0';
		nearest = nearest_word(name, names);
		if (nearest) {
			usage_error(options->verb, "unknown option %.*s; did you mean --%s?",
				    (int)len, word, nearest);
			return OPTION_ERROR;
		}
	}
	usage_error(options->verb, "unknown option %.*s", (int)len, word);
	return OPTION_ERROR;
}

int options_next(struct options *options, const char **value)
{
	const char *word, *equals;
	size_t len;

	*value = NULL;
	if (options->at >= options->argc || options->separator)
		return OPTION_END;
	word = options->argv[options->at++];
	if (strcmp(word, "--") == 0) {
		options->separator = true;
		return OPTION_END;
	}
	if (word[0] != '-' || !word[1]) {
		*value = word;
		return OPTION_WORD;
	}
	if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0)
		return OPTION_HELP;
	equals = strchr(word, '=');
	len = equals ? (size_t)(equals - word) : strlen(word);
	for (const struct option_def *o = options->verb->options; o && o->name; o++) {
		bool letter = len == 2 && !equals && word[1] == o->letter;

		if (!letter && (strncmp(word, "--", 2) != 0 || strlen(o->name) != len - 2 ||
				strncmp(word + 2, o->name, len - 2) != 0))
			continue;
		if (!o->metavar) {
			if (equals) {
				usage_error(options->verb, "--%s takes no value", o->name);
				return OPTION_ERROR;
			}
			return o->id;
		}
		if (equals) {
			*value = equals + 1;
		} else if (options->at < options->argc) {
			*value = options->argv[options->at++];
		} else {
			usage_error(options->verb, "--%s needs a value: --%s %s", o->name, o->name,
				    o->metavar);
			return OPTION_ERROR;
		}
		return o->id;
	}
	return refuse_unknown(options, word, len);
}

int options_words(struct options *options, const char **words, size_t most,
		  int (*option)(void *ctx, int id, const char *value), void *ctx)
{
	size_t count = 0;
	const char *value;
	int id, status;

	for (size_t n = 0; n < most; n++)
		words[n] = NULL;
	while ((id = options_next(options, &value)) != OPTION_END) {
		switch (id) {
		case OPTION_ERROR:
			return STATUS_USAGE;
		case OPTION_HELP:
			verb_print_help(options->verb);
			return STATUS_OK;
		case OPTION_WORD:
			if (count == most)
				return usage_error(options->verb, "unexpected %s", value);
			words[count++] = value;
			break;
		default:
			status = option(ctx, id, value);
			if (status >= 0)
				return status;
		}
	}
	return -1;
}

bool number_parse(const char *text, uint64_t max, uint64_t *number)
{
	uint64_t n = 0;

	if (!*text)
		return false;
	for (; *text; text++) {
		if (*text < '0' || *text > '9' || __builtin_mul_overflow(n, 10u, &n) ||
		    __builtin_add_overflow(n, (uint64_t)(*text - '0'), &n))
			return false;
	}
	*number = n;
	return n <= max;
}

bool size_parse(const char *text, uint64_t *bytes)
{
	static const char units[] = "BKMGT";
	char digits[24];
	size_t len = strlen(text);
	const char *unit;

	if (len < 2 || len > sizeof(digits))
		return false;
	unit = strchr(units, text[len - 1] & ~0x20);
	if (!unit || !*unit)
		return false;
	memcpy(digits, text, len - 1);
	digits[len - 1] = '\0';
	if (!number_parse(digits, UINT64_MAX, bytes))
		return false;
	return !__builtin_mul_overflow(*bytes, 1ull << (10 * (unit - units)), bytes);
}
