/*
 * See the header. Made by `insula run` for its VM. A connection handles one
 * request at a time: while that is under way nothing is read from it, so what
 * waits is bounded by a line.
 *
 * Invariant: a connection is changed by the loop's thread alone; the worker
 * sees only the call that was handed to it, between `working` and `answered`.
 */
#include "api/control.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/loop.h"

#define CONNECTIONS_MAX 32

struct connection {
	struct control *control;
	int fd;
	struct loop_fd *watch;
	char *in; /* CONTROL_LINE_MAX bytes */
	size_t in_len;
	char *out; /* what is still to be sent; owned */
	size_t out_len, out_at;
	bool busy;   /* a call is on its way through the worker */
	bool ending; /* closes once `out` is sent */
	bool dead;   /* closes as soon as nothing of it is under way */

	json_t *request;
	const struct control_operation *operation;
	struct control_call call;
	int status;
	void (*adopt)(void *ctx, int fd);
	struct connection *next_job;
};

struct control {
	struct loop *loop;
	const struct control_operation *operations;
	void *ctx;
	int listener;
	struct loop_fd *watch;
	struct connection *connections[CONNECTIONS_MAX];
	bool ending; /* only what was asked is still answered */

	pthread_t thread;
	pthread_mutex_t lock; /* guards all below */
	pthread_cond_t changed;
	bool quit;
	struct connection *working, **working_end; /* jobs in order */
	struct connection *answered;               /* for the loop */
	struct loop_task answer_task;
};

static void connection_read(struct connection *c);

/* ---- connections, on the loop's thread ---- */

static void call_fini(struct connection *c)
{
	json_decref(c->call.result);
	free(c->call.bytes);
	json_decref(c->request);
	c->call = (struct control_call){ 0 };
	c->request = NULL;
}

static void connection_free(struct connection *c)
{
	struct control *control = c->control;

	for (unsigned i = 0; i < CONNECTIONS_MAX; i++)
		if (control->connections[i] == c)
			control->connections[i] = NULL;
	loop_remove_fd(c->watch);
	if (c->fd >= 0)
		close(c->fd);
	call_fini(c);
	free(c->in);
	free(c->out);
	free(c);
}

static void connection_end(struct connection *c)
{
	if (!c->busy) {
		connection_free(c);
		return;
	}
	/* The answer comes back to it; nobody is there any more, so that hang-ups need no watching.
	 */
	c->dead = true;
	loop_remove_fd(c->watch);
	c->watch = NULL;
}

/* True: all sent. The connection may be gone if not. */
static bool connection_flush(struct connection *c)
{
	while (c->out_at < c->out_len) {
		ssize_t sent = send(c->fd, c->out + c->out_at, c->out_len - c->out_at,
				    MSG_NOSIGNAL | MSG_DONTWAIT);

		if (sent > 0) {
			c->out_at += (size_t)sent;
		} else if (sent < 0 && errno == EINTR) {
			continue;
		} else if (sent < 0 && errno == EAGAIN) {
			loop_mod_fd(c->watch, EPOLLOUT);
			return false;
		} else {
			connection_end(c);
			return false;
		}
	}
	free(c->out);
	c->out = NULL;
	c->out_len = c->out_at = 0;
	return true;
}

static void connection_give_away(struct connection *c)
{
	void (*adopt)(void *ctx, int fd) = c->adopt;
	struct control *control = c->control;
	int fd = c->fd;

	loop_remove_fd(c->watch);
	c->watch = NULL;
	c->fd = -1;
	connection_free(c);
	adopt(control->ctx, fd);
}

static void connection_go_on(struct connection *c)
{
	if (!connection_flush(c))
		return;
	if (c->adopt) {
		connection_give_away(c);
		return;
	}
	if (c->ending) {
		connection_end(c);
		return;
	}
	loop_mod_fd(c->watch, EPOLLIN);
	connection_read(c);
}

static char *answer_text(struct connection *c, size_t *len)
{
	json_t *answer = json_object();
	char *text, *line = NULL;

	if (c->status < 0) {
		json_object_set_new(answer, "ok", json_false());
		json_object_set_new(answer, "error", json_string(c->call.error));
	} else {
		json_object_set_new(answer, "ok", json_true());
		json_object_set(answer, "result", c->call.result ? c->call.result : json_null());
		if (c->call.bytes)
			json_object_set_new(answer, "bytes",
					    json_integer((json_int_t)c->call.byte_count));
	}
	text = json_dumps(answer, JSON_COMPACT);
	json_decref(answer);
	if (!text)
		return NULL;
	*len = strlen(text);
	line = realloc(text, *len + 1 + c->call.byte_count);
	if (!line) {
		free(text);
		return NULL;
	}
	line[(*len)++] = '\n';
	if (c->status >= 0 && c->call.bytes) {
		memcpy(line + *len, c->call.bytes, c->call.byte_count);
		*len += c->call.byte_count;
	}
	return line;
}

static void connection_answer(struct connection *c)
{
	c->busy = false;
	if (!c->dead) {
		c->out = answer_text(c, &c->out_len);
		c->ending |= !c->out || (c->status >= 0 && c->call.bytes);
		c->adopt = c->status < 0 ? NULL : c->call.adopt;
	}
	call_fini(c);
	if (c->dead)
		connection_free(c);
	else
		connection_go_on(c);
}

static void connection_refuse(struct connection *c, const char *why)
{
	c->status = -EINVAL;
	strncpy(c->call.error, why, sizeof(c->call.error) - 1);
	connection_answer(c);
}

static void connection_request(struct connection *c, const char *line, size_t len)
{
	struct control *control = c->control;
	const struct control_operation *operation = control->operations;
	const char *verb;

	c->request = json_loadb(line, len, JSON_REJECT_DUPLICATES, NULL);
	verb = json_string_value(json_object_get(c->request, "verb"));
	if (!verb) {
		connection_refuse(c, "a request is one JSON object a line, with a verb");
		return;
	}
	while (operation->name && strcmp(operation->name, verb) != 0)
		operation++;
	if (!operation->name) {
		connection_refuse(c, "this VM does not know the verb");
		return;
	}
	if (control->ending) {
		connection_refuse(c, "the VM has ended");
		return;
	}
	c->operation = operation;
	c->call.arguments = c->request;
	c->busy = true;
	if (!operation->waits) {
		c->status = operation->run(control->ctx, &c->call);
		connection_answer(c);
		return;
	}
	loop_mod_fd(c->watch, 0);
	pthread_mutex_lock(&control->lock);
	c->next_job = NULL;
	*control->working_end = c;
	control->working_end = &c->next_job;
	pthread_cond_signal(&control->changed);
	pthread_mutex_unlock(&control->lock);
}

/* Reads until a line is complete and acts on that one. The connection may be gone afterwards. */
static void connection_read(struct connection *c)
{
	for (;;) {
		char *end = memchr(c->in, '\n', c->in_len);
		ssize_t got;

		if (end) {
			size_t len = (size_t)(end - c->in);
			char *line = malloc(len + 1);

			if (!line) {
				connection_end(c);
				return;
			}
			memcpy(line, c->in, len);
			c->in_len -= len + 1;
			memmove(c->in, end + 1, c->in_len);
			connection_request(c, line, len);
			free(line);
			return;
		}
		if (c->in_len == CONTROL_LINE_MAX) {
			c->ending = true;
			connection_refuse(c, "the request is too long");
			return;
		}
		got = recv(c->fd, c->in + c->in_len, CONTROL_LINE_MAX - c->in_len, MSG_DONTWAIT);
		if (got > 0) {
			c->in_len += (size_t)got;
		} else if (got < 0 && errno == EINTR) {
			continue;
		} else if (got < 0 && errno == EAGAIN) {
			return;
		} else {
			connection_end(c);
			return;
		}
	}
}

static void connection_ready(void *ctx, uint32_t events)
{
	struct connection *c = ctx;

	if (c->busy) {
		/* Only a hang-up can come; the answer has nobody to go to. */
		connection_end(c);
		return;
	}
	if (c->out)
		connection_go_on(c);
	else
		connection_read(c);
}

/* ---- the worker ---- */

static void *control_main(void *arg)
{
	struct control *control = arg;

	pthread_mutex_lock(&control->lock);
	for (;;) {
		struct connection *c = control->working;

		if (control->quit)
			break;
		if (!c) {
			pthread_cond_wait(&control->changed, &control->lock);
			continue;
		}
		control->working = c->next_job;
		if (!control->working)
			control->working_end = &control->working;
		pthread_mutex_unlock(&control->lock);
		c->status = c->operation->run(control->ctx, &c->call);
		pthread_mutex_lock(&control->lock);
		c->next_job = control->answered;
		control->answered = c;
		loop_post(control->loop, &control->answer_task);
	}
	pthread_mutex_unlock(&control->lock);
	return NULL;
}

static void answers(void *ctx)
{
	struct control *control = ctx;

	for (;;) {
		struct connection *c;

		pthread_mutex_lock(&control->lock);
		c = control->answered;
		if (c)
			control->answered = c->next_job;
		pthread_mutex_unlock(&control->lock);
		if (!c)
			return;
		connection_answer(c);
	}
}

/* ---- the listener ---- */

static bool peer_is_ours(int fd)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 &&
	       (peer.uid == geteuid() || peer.uid == 0);
}

static bool connection_new(struct control *control, int fd)
{
	struct connection *c = calloc(1, sizeof(*c));
	unsigned slot = 0;

	while (slot < CONNECTIONS_MAX && control->connections[slot])
		slot++;
	if (!c || slot == CONNECTIONS_MAX) {
		free(c);
		return false;
	}
	c->control = control;
	c->fd = fd;
	c->in = malloc(CONTROL_LINE_MAX);
	if (c->in)
		c->watch = loop_add_fd(control->loop, fd, EPOLLIN, connection_ready, c);
	if (!c->watch) {
		free(c->in);
		free(c);
		return false;
	}
	control->connections[slot] = c;
	return true;
}

static void listener_ready(void *ctx, uint32_t events)
{
	struct control *control = ctx;

	for (;;) {
		int fd = accept4(control->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd < 0)
			return;
		if (!peer_is_ours(fd) || !connection_new(control, fd))
			close(fd);
	}
}

struct control *control_new(struct loop *loop, int listener,
			    const struct control_operation *operations, void *ctx)
{
	struct control *control = calloc(1, sizeof(*control));
	sigset_t all, before;
	int err = ENOMEM;

	if (!control)
		goto fail;
	control->loop = loop;
	control->listener = listener;
	control->operations = operations;
	control->ctx = ctx;
	control->working_end = &control->working;
	pthread_mutex_init(&control->lock, NULL);
	pthread_cond_init(&control->changed, NULL);
	loop_task_init(&control->answer_task, answers, control);
	/* Also SIGXFSZ: a file that grows too large is an errno here. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	err = pthread_create(&control->thread, NULL, control_main, control);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (err) {
		free(control);
		goto fail;
	}
	pthread_setname_np(control->thread, "control");
	control->watch = loop_add_fd(loop, listener, EPOLLIN, listener_ready, control);
	if (control->watch)
		return control;
	err = errno;
	control_free(control);
	errno = err;
	return NULL;
fail:
	close(listener);
	errno = err;
	return NULL;
}

void control_free(struct control *control)
{
	if (!control)
		return;
	if (control->watch)
		loop_remove_fd(control->watch);
	control->ending = true;
	pthread_mutex_lock(&control->lock);
	control->quit = true;
	pthread_cond_signal(&control->changed);
	pthread_mutex_unlock(&control->lock);
	pthread_join(control->thread, NULL);
	loop_cancel(control->loop, &control->answer_task);
	/* What ended the VM is answered too: the loop had no turn left for it. */
	answers(control);
	for (unsigned i = 0; i < CONNECTIONS_MAX; i++)
		if (control->connections[i])
			connection_free(control->connections[i]);
	close(control->listener);
	pthread_cond_destroy(&control->changed);
	pthread_mutex_destroy(&control->lock);
	free(control);
}
