/*
 * Long options, exactly: `--name value` or `--name=value`, no abbreviations; a
 * few have a letter, `-x value`.
 * What is unknown is refused in one line that names the nearest known option.
 */
#ifndef INSULA_CLI_OPTIONS_H
#define INSULA_CLI_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct verb;

struct option_def {
	const char *name;    /* without the dashes; NULL ends the table */
	const char *metavar; /* NULL: takes no value */
	const char *help;    /* may hold newlines: continuation lines */
	int id;              /* > 0 */
	char letter;         /* also -LETTER; 0: none */
};

#define OPTION_END   0  /* no more; `rest` of the cursor is what followed `--`, or the end */
#define OPTION_WORD  -1 /* a plain word, in value */
#define OPTION_ERROR -2 /* refused, and said so */
#define OPTION_HELP  -3 /* --help or -h */

struct options {
	const struct verb *verb;
	int argc;
	char **argv;
	int at;         /* next to look at */
	bool separator; /* `--` was seen: argv[at..] are its words */
};

/* argv[0] is skipped. */
void options_init(struct options *options, const struct verb *verb, int argc, char **argv);
int options_next(struct options *options, const char **value);

/*
 * All of a command line: its words into words[0..most), NULL where there are
 * fewer; each option is given to `option` (NULL: the verb has none), which answers
 * as this does: negative to go on, else the process's exit status.
 */
int options_words(struct options *options, const char **words, size_t most,
		  int (*option)(void *ctx, int id, const char *value), void *ctx);

/* "64K", "512M", "4G", "1T", or bytes with "B"; powers of 1024. False: not a size, or beyond 64
 * bits. */
bool size_parse(const char *text, uint64_t *bytes);
/* A decimal number of at most `max`. */
bool number_parse(const char *text, uint64_t max, uint64_t *number);

/* The word of a NULL-terminated list nearest to `word`, NULL if none is near. */
const char *nearest_word(const char *word, const char *const *list);

#endif
