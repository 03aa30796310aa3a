/* insula ps: the VMs of this user. What is stale is removed on the way. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "api/control_client.h"
#include "api/runtime_dir.h"
#include "cli/options.h"
#include "cli/verb.h"

/* A VM that does not answer within this is listed as such. */
#define ANSWER_MS 2000

enum { OPT_JSON = 1 };

static json_t *ask(struct runtime_dir *dir, const char *name)
{
	struct control_client *client = calloc(1, sizeof(*client));
	char error[CONTROL_CLIENT_ERROR_MAX];
	json_t *answer = NULL, *info = NULL;

	if (!client)
		return NULL;
	client->fd = runtime_connect(dir, name);
	if (client->fd == -ENOENT) {
		free(client);
		return NULL;
	}
	if (client->fd >= 0 && control_client_call(client, json_pack("{s:s}", "verb", "info"),
						   ANSWER_MS, &answer, error) == 0)
		info = json_incref(json_object_get(answer, "result"));
	json_decref(answer);
	control_client_close(client);
	free(client);
	return info ? info : json_pack("{s:s, s:s}", "name", name, "state", "silent");
}

static const char *text(const json_t *info, const char *key)
{
	const char *value = json_string_value(json_object_get(info, key));

	return value ? value : "-";
}

static void print_table(const json_t *list)
{
	const json_t *info;
	size_t i;

	printf("%-20s %7s %-8s %-10s %4s %8s %9s  %s\n", "NAME", "PID", "STATE", "ENGINE", "CPUS",
	       "MEM", "UPTIME", "GUEST");
	json_array_foreach(list, i, info)
	{
		unsigned long long up_s =
			(unsigned long long)json_integer_value(json_object_get(info, "uptime_ns")) /
			1000000000u;
		char up[32];

		snprintf(up, sizeof(up), "%llu:%02llu:%02llu", up_s / 3600, up_s / 60 % 60,
			 up_s % 60);
		printf("%-20s %7lld %-8s %-10s %4lld %7lldM %9s  %s\n", text(info, "name"),
		       (long long)json_integer_value(json_object_get(info, "pid")),
		       text(info, "state"), text(info, "engine"),
		       (long long)json_integer_value(json_object_get(info, "cpus")),
		       (long long)json_integer_value(json_object_get(info, "mem_bytes")) >> 20, up,
		       json_object_get(info, "guest") ? text(info, "guest") : text(info, "kernel"));
	}
}

static int json_option(void *ctx, int id, const char *value)
{
	*(bool *)ctx = true;
	return -1;
}

static int ps_verb(const struct verb *verb, int argc, char **argv)
{
	struct options options;
	json_t *list;
	struct runtime_dir dir;
	char error[RUNTIME_ERROR_MAX], **names;
	bool json = false;
	int status, err;

	options_init(&options, verb, argc, argv);
	status = options_words(&options, NULL, 0, json_option, &json);
	if (status >= 0)
		return status;
	list = json_array();
	err = runtime_dir_open(&dir, false, error);
	if (err < 0 && err != -ENOENT) {
		fprintf(stderr, "insula: %s\n", error);
		return STATUS_HOST_ERROR;
	}
	names = err ? NULL : runtime_names(&dir);
	for (char **name = names; name && *name; name++) {
		json_t *info = ask(&dir, *name);

		if (info)
			json_array_append_new(list, info);
	}
	runtime_names_free(names);
	runtime_dir_close(&dir);
	if (json) {
		json_dumpf(list, stdout, JSON_INDENT(2));
		putchar('\n');
	} else {
		print_table(list);
	}
	json_decref(list);
	return STATUS_OK;
}

static const struct option_def ps_options[] = {
	{ "json", NULL, "as a JSON array", OPT_JSON },
	{ 0 },
};

const struct verb verb_ps = {
	.name = "ps",
	.arguments = "[--json]",
	.summary = "list the VMs that run",
	.about = "Yours only. Each has a control socket in $XDG_RUNTIME_DIR/insula, or in\n"
		 "/tmp/insula-UID.\n",
	.options = ps_options,
	.run = ps_verb,
};
