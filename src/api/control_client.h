/* The other end of a control socket: the verbs of the command line. Blocking; one thread. */
#ifndef INSULA_API_CONTROL_CLIENT_H
#define INSULA_API_CONTROL_CLIENT_H

#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

#define CONTROL_CLIENT_ERROR_MAX 640

struct control_client {
	int fd;     /* -1: not connected */
	size_t len; /* read ahead: bytes behind the last answer's line */
	char ahead[65536];
};

/* Connects to the VM of that name. 0 or -errno with a sentence; -ENOENT: there is none. */
int control_client_open(struct control_client *client, const char *name, char *error)
	__attribute__((warn_unused_result));
void control_client_close(struct control_client *client);

/*
 * Sends the request (a reference of which it takes) and waits for the answer,
 * timeout_ms -1: for ever. 0 and *answer, the whole object, which the caller
 * lets go of; or -errno with a sentence: the VM refused, went, or was silent.
 */
int control_client_call(struct control_client *client, json_t *request, int timeout_ms,
			json_t **answer, char *error) __attribute__((warn_unused_result));

/* Up to size raw bytes behind the answer; 0: the end, -errno. */
long control_client_read(struct control_client *client, void *bytes, size_t size);
/* Waits until the VM closes the connection, because it has ended. False: not within timeout_ms. */
bool control_client_wait_end(struct control_client *client, int timeout_ms);

#endif
