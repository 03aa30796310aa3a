/* The verbs that say one thing to a running VM: pause, resume, stop, kill, stats, logs, inspect. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/control_client.h"
#include "cli/options.h"
#include "cli/verb.h"
#include "cli/verb_control.h"

/* A VM that was told to end and whose process does not go has a host in trouble. */
#define KILL_WAIT_MS 10000
#define STOP_WAIT_S  30

enum { OPT_TIMEOUT = 1, OPT_SERIAL };

int control_words(const struct verb *verb, int argc, char **argv, const char **name,
		  int (*option)(void *ctx, int id, const char *value), void *ctx)
{
	struct options options;
	int status;

	options_init(&options, verb, argc, argv);
	status = options_words(&options, name, 1, option, ctx);
	if (status >= 0)
		return status;
	if (options.separator)
		return usage_error(verb, "unexpected --");
	if (!*name)
		return usage_error(verb, "which VM? insula ps lists those that run");
	return -1;
}

struct control_client *control_open(const char *name)
{
	struct control_client *client = malloc(sizeof(*client));
	char error[CONTROL_CLIENT_ERROR_MAX] = "out of memory";

	if (client && control_client_open(client, name, error) == 0)
		return client;
	fprintf(stderr, "insula: %s\n", error);
	free(client);
	return NULL;
}

void control_close(struct control_client *client)
{
	if (!client)
		return;
	control_client_close(client);
	free(client);
}

json_t *control_ask(struct control_client *client, json_t *request)
{
	char error[CONTROL_CLIENT_ERROR_MAX];
	json_t *answer;

	if (control_client_call(client, request, -1, &answer, error) == 0)
		return answer;
	fprintf(stderr, "insula: %s\n", error);
	return NULL;
}

/* Asks, and prints the result if there is one. */
static int ask_plainly(const struct verb *verb, int argc, char **argv)
{
	struct control_client *client;
	json_t *answer = NULL, *result;
	const char *name;
	int status = control_words(verb, argc, argv, &name, NULL, NULL);

	if (status >= 0)
		return status;
	client = control_open(name);
	if (client)
		answer = control_ask(client, json_pack("{s:s}", "verb", verb->name));
	result = json_object_get(answer, "result");
	if (json_is_object(result)) {
		json_dumpf(result, stdout, JSON_INDENT(2));
		putchar('\n');
	}
	control_close(client);
	status = answer ? STATUS_OK : STATUS_HOST_ERROR;
	json_decref(answer);
	return status;
}

/* ---- stop and kill: over when the process has gone ---- */

static int stop_option(void *ctx, int id, const char *value)
{
	uint64_t *seconds = ctx;

	if (!number_parse(value, 86400, seconds))
		return usage_error(&verb_stop, "--timeout %s: seconds, 0 to 86400", value);
	return -1;
}

static int end_vm(const struct verb *verb, int argc, char **argv)
{
	uint64_t timeout_s = STOP_WAIT_S;
	struct control_client *client;
	json_t *answer;
	const char *name;
	int status = control_words(verb, argc, argv, &name, stop_option, &timeout_s);
	bool gone = false, asked;

	if (status >= 0)
		return status;
	client = control_open(name);
	if (!client)
		return STATUS_HOST_ERROR;
	if (verb == &verb_stop) {
		answer = control_ask(client, json_pack("{s:s}", "verb", "stop"));
		asked = answer;
		json_decref(answer);
		gone = asked && control_client_wait_end(client, (int)timeout_s * 1000);
		if (asked && !gone)
			fprintf(stderr,
				"insula: %s did not power off within %u s and is stopped by "
				"force\n",
				name, (unsigned)timeout_s);
	}
	if (!gone) {
		answer = control_ask(client, json_pack("{s:s}", "verb", "kill"));
		json_decref(answer);
		gone = answer && control_client_wait_end(client, KILL_WAIT_MS);
		if (answer && !gone)
			fprintf(stderr, "insula: the process of %s does not end\n", name);
	}
	control_close(client);
	return gone ? STATUS_OK : STATUS_HOST_ERROR;
}

/* ---- logs ---- */

static int logs_option(void *ctx, int id, const char *value)
{
	*(bool *)ctx = true;
	return -1;
}

static int show_logs(const struct verb *verb, int argc, char **argv)
{
	struct control_client *client;
	bool serial = false;
	json_t *answer = NULL;
	const char *name;
	char bytes[4096];
	long got = 0;
	int status = control_words(verb, argc, argv, &name, logs_option, &serial);

	if (status >= 0)
		return status;
	client = control_open(name);
	if (client)
		answer = control_ask(client,
				     json_pack("{s:s, s:b}", "verb", "logs", "serial", serial));
	while (answer && (got = control_client_read(client, bytes, sizeof(bytes))) > 0)
		fwrite(bytes, 1, (size_t)got, stdout);
	status = answer && got == 0 ? STATUS_OK : STATUS_HOST_ERROR;
	json_decref(answer);
	control_close(client);
	return status;
}

/* ---- the table ---- */

static const struct option_def stop_options[] = {
	{ "timeout", "SECONDS", "how long the guest may take to power off (default 30)",
	  OPT_TIMEOUT, 't' },
	{ 0 },
};

static const struct option_def logs_options[] = {
	{ "serial", NULL, "the first serial port of a named guest: its kernel's messages",
	  OPT_SERIAL },
	{ 0 },
};

const struct verb verb_pause = {
	.name = "pause",
	.arguments = "VM",
	.summary = "let a running VM stand still",
	.about = "Its processors, devices and clocks stop until insula resume. The processor time\n"
		 "it takes meanwhile is none.\n",
	.run = ask_plainly,
};

const struct verb verb_resume = {
	.name = "resume",
	.arguments = "VM",
	.summary = "let a paused VM go on",
	.about =
		"The guest's clocks jump to the present: its date is right, and what was due comes "
		"due\nat once.\n",
	.run = ask_plainly,
};

const struct verb verb_stop = {
	.name = "stop",
	.arguments = "VM [--timeout SECONDS]",
	.summary = "ask a VM to power off, and end it if it does not",
	.about = "Returns when it is gone. A guest that was not made by insula guest is asked by "
		 "its\nACPI power button.\n",
	.options = stop_options,
	.run = end_vm,
};

const struct verb verb_kill = {
	.name = "kill",
	.arguments = "VM",
	.summary = "end a VM at once, as if its power failed",
	.about = "Returns when it is gone.\n",
	.run = end_vm,
};

const struct verb verb_stats = {
	.name = "stats",
	.arguments = "VM",
	.summary = "what a VM has used, as JSON",
	.about = "uptime_ns is guest time, which stands still while the VM is paused; thread_ns is "
		 "the\nhost's processor time of each thread of the monitor.\n",
	.run = ask_plainly,
};

const struct verb verb_inspect = {
	.name = "inspect",
	.arguments = "VM",
	.summary = "the state of a VM's processors and devices, as JSON",
	.about = "It stands still for a moment.\n",
	.run = ask_plainly,
};

const struct verb verb_logs = {
	.name = "logs",
	.arguments = "VM [--serial]",
	.summary = "the last that a VM wrote to its terminal",
	.about = "At most 256 KiB.\n",
	.options = logs_options,
	.run = show_logs,
};
