/* See the header. Used by the verbs that speak to a running VM. Invariant: `ahead` holds what came
 * and nobody took. */
#include "api/control_client.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "api/runtime_dir.h"

#define ANSWER_MAX (64u << 20)

static long long now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (long long)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

int control_client_open(struct control_client *client, const char *name, char *error)
{
	struct runtime_dir dir;
	int err;

	client->fd = -1;
	client->len = 0;
	if (!runtime_name_valid(name)) {
		snprintf(error, CONTROL_CLIENT_ERROR_MAX, "%s cannot be the name of a VM", name);
		return -EINVAL;
	}
	err = runtime_dir_open(&dir, false, error);
	if (err == 0) {
		client->fd = runtime_connect(&dir, name);
		runtime_dir_close(&dir);
		err = client->fd < 0 ? client->fd : 0;
		if (err)
			snprintf(error, CONTROL_CLIENT_ERROR_MAX, "cannot reach VM %s: %s", name,
				 strerror(-err));
	}
	if (err == -ENOENT)
		snprintf(error, CONTROL_CLIENT_ERROR_MAX,
			 "no VM named %s runs; insula ps lists those that do", name);
	return err;
}

void control_client_close(struct control_client *client)
{
	if (client->fd >= 0)
		close(client->fd);
	client->fd = -1;
}

static int send_all(int fd, const char *text, size_t len)
{
	while (len) {
		ssize_t sent = send(fd, text, len, MSG_NOSIGNAL);

		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0)
			return -errno;
		text += sent;
		len -= (size_t)sent;
	}
	return 0;
}

/* 1: there is something to read; 0: time is up. */
static int wait_readable(int fd, long long deadline_ms)
{
	struct pollfd poll_fd = { .fd = fd, .events = POLLIN };

	for (;;) {
		long long left = deadline_ms < 0 ? -1 : deadline_ms - now_ms();
		int ready;

		if (deadline_ms >= 0 && left < 0)
			left = 0;
		ready = poll(&poll_fd, 1, left > 1 << 30 ? 1 << 30 : (int)left);
		if (ready >= 0 || errno != EINTR)
			return ready;
	}
}

long control_client_read(struct control_client *client, void *bytes, size_t size)
{
	ssize_t got;

	if (client->len) {
		if (size > client->len)
			size = client->len;
		memcpy(bytes, client->ahead, size);
		client->len -= size;
		memmove(client->ahead, client->ahead + size, client->len);
		return (long)size;
	}
	do {
		got = recv(client->fd, bytes, size, 0);
	} while (got < 0 && errno == EINTR);
	return got < 0 ? -errno : (long)got;
}

/* A line of any length, without its end; NULL with errno. The caller frees. */
static char *read_line(struct control_client *client, long long deadline_ms)
{
	char *line = NULL;
	size_t len = 0;

	for (;;) {
		char *end = memchr(client->ahead, '\n', client->len);
		size_t take = end ? (size_t)(end - client->ahead) : client->len;
		char *longer = len + take < ANSWER_MAX ? realloc(line, len + take + 1) : NULL;
		ssize_t got;

		if (!longer) {
			free(line);
			errno = ENOMEM;
			return NULL;
		}
		line = longer;
		memcpy(line + len, client->ahead, take);
		len += take;
		line[len] = '\0';
		take += end ? 1 : 0;
		client->len -= take;
		memmove(client->ahead, client->ahead + take, client->len);
		if (end)
			return line;
		got = wait_readable(client->fd, deadline_ms);
		if (got > 0)
			got = recv(client->fd, client->ahead, sizeof(client->ahead), 0);
		else if (got == 0)
			errno = ETIMEDOUT, got = -1;
		else
			got = -1;
		if (got <= 0) {
			int err = got < 0 ? errno : ECONNRESET;

			free(line);
			errno = err;
			return NULL;
		}
		client->len = (size_t)got;
	}
}

int control_client_call(struct control_client *client, json_t *request, int timeout_ms,
			json_t **answer, char *error)
{
	char *text = json_dumps(request, JSON_COMPACT), *line;
	int err;

	*answer = NULL;
	json_decref(request);
	if (!text) {
		snprintf(error, CONTROL_CLIENT_ERROR_MAX, "out of memory");
		return -ENOMEM;
	}
	err = send_all(client->fd, text, strlen(text));
	if (!err)
		err = send_all(client->fd, "\n", 1);
	free(text);
	line = err ? NULL : read_line(client, timeout_ms < 0 ? -1 : now_ms() + timeout_ms);
	if (!line) {
		err = err ? err : -errno;
		if (err == -ETIMEDOUT)
			snprintf(error, CONTROL_CLIENT_ERROR_MAX,
				 "the VM did not answer within %d ms", timeout_ms);
		else
			snprintf(error, CONTROL_CLIENT_ERROR_MAX,
				 "the VM ended before it answered");
		return err;
	}
	*answer = json_loads(line, 0, NULL);
	free(line);
	if (json_is_true(json_object_get(*answer, "ok")))
		return 0;
	snprintf(error, CONTROL_CLIENT_ERROR_MAX, "%s",
		 json_is_string(json_object_get(*answer, "error"))
			 ? json_string_value(json_object_get(*answer, "error"))
			 : "the VM's answer makes no sense");
	json_decref(*answer);
	*answer = NULL;
	return -EPROTO;
}

bool control_client_wait_end(struct control_client *client, int timeout_ms)
{
	long long deadline_ms = timeout_ms < 0 ? -1 : now_ms() + timeout_ms;
	char rest[256];

	for (;;) {
		ssize_t got;

		if (wait_readable(client->fd, deadline_ms) <= 0)
			return false;
		got = recv(client->fd, rest, sizeof(rest), 0);
		if (got == 0 || (got < 0 && errno != EINTR))
			return true;
	}
}
