/*
 * A VM's control socket: one JSON object a line, requests in, answers out, in
 * order (docs/formats/control.md). Connections live on the event loop; an
 * operation that may wait for the machine runs on a thread of the control's
 * own, never on a vcpu's. Only processes of the same user, or root's, are
 * heard.
 */
#ifndef INSULA_API_CONTROL_H
#define INSULA_API_CONTROL_H

#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

struct control;
struct loop;

#define CONTROL_LINE_MAX  65536 /* bytes of a request */
#define CONTROL_ERROR_MAX 512

/* One request, and what becomes of it. */
struct control_call {
	const json_t *arguments; /* the request's object, borrowed */
	json_t *result;          /* the operation's answer; owned by the call. NULL: none */
	/* Bytes that follow the answer's line as they are, then the connection ends; owned by the
	 * call. */
	char *bytes;
	size_t byte_count;
	/* After the answer the connection is no longer ours: the descriptor, non-blocking, is given
	 * away. On the loop. */
	void (*adopt)(void *ctx, int fd);
	char error[CONTROL_ERROR_MAX]; /* one sentence, after a refusal */
};

struct control_operation {
	const char *name;
	bool waits; /* may block: on the control's thread, one at a time; else on the loop */
	/* 0, or -errno with a sentence in call->error. */
	int (*run)(void *ctx, struct control_call *call);
};

/*
 * Serves the listening socket, which is its own from here on. operations end
 * with name NULL. NULL with errno. May be made before the loop turns.
 */
struct control *control_new(struct loop *loop, int listener,
			    const struct control_operation *operations, void *ctx);
/*
 * Waits for an operation under way and closes all connections. The loop may
 * have stopped; whatever an operation waits for must still be there.
 */
void control_free(struct control *control);

#endif
