/* What the verbs that speak to a running VM share. Failures are said on stderr. */
#ifndef INSULA_CLI_VERB_CONTROL_H
#define INSULA_CLI_VERB_CONTROL_H

#include <jansson.h>

struct control_client;
struct verb;

/*
 * Reads a command line of options and one word, a VM's name. Negative: go on;
 * else the exit status. option returns likewise.
 */
int control_words(const struct verb *verb, int argc, char **argv, const char **name,
		  int (*option)(void *ctx, int id, const char *value), void *ctx);

/* NULL: said why. */
struct control_client *control_open(const char *name);
void control_close(struct control_client *client);
/* Takes the request; the answer, which the caller lets go of. NULL: said why. */
json_t *control_ask(struct control_client *client, json_t *request);

#endif
