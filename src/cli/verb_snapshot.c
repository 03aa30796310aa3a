/* insula snapshot: a running VM as a file. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/control_client.h"
#include "cli/options.h"
#include "cli/verb.h"
#include "cli/verb_control.h"

enum { OPT_COMPRESS = 1, OPT_STOP, OPT_JSON, OPT_LIVE };

/* The monitor has another working directory than we, perhaps. NULL with errno. */
static char *absolute(const char *path)
{
	char *folder, *whole = NULL;

	if (*path == '/')
		return strdup(path);
	folder = getcwd(NULL, 0);
	if (folder && asprintf(&whole, "%s/%s", folder, path) < 0)
		whole = NULL;
	free(folder);
	return whole;
}

struct wishes {
	bool compress, live, stop, json;
};

static int snapshot_option(void *ctx, int id, const char *value)
{
	struct wishes *wishes = ctx;

	switch (id) {
	case OPT_COMPRESS:
		wishes->compress = true;
		break;
	case OPT_LIVE:
		wishes->live = true;
		break;
	case OPT_STOP:
		wishes->stop = true;
		break;
	default:
		wishes->json = true;
	}
	return -1;
}

static int snapshot_verb(const struct verb *verb, int argc, char **argv)
{
	struct wishes wishes = { false };
	const char *words[2];
	struct control_client *client;
	struct options options;
	json_t *answer = NULL, *result;
	char *whole;
	int status;

	options_init(&options, verb, argc, argv);
	status = options_words(&options, words, 2, snapshot_option, &wishes);
	if (status >= 0)
		return status;
	if (!words[0])
		return usage_error(verb, "which VM? insula ps lists those that run");
	if (!words[1] || !*words[1])
		return usage_error(verb, "into which file?");
	if (wishes.live && wishes.compress)
		return usage_error(verb, "what is written --live is not compressed");
	status = STATUS_HOST_ERROR;
	whole = absolute(words[1]);
	if (!whole) {
		fprintf(stderr, "insula: %s: %s\n", words[1], strerror(errno));
		return STATUS_HOST_ERROR;
	}
	client = control_open(words[0]);
	if (client)
		answer = control_ask(client,
				     json_pack("{s:s, s:s, s:b, s:b, s:b}", "verb", "snapshot",
					       "path", whole, "compress", wishes.compress, "live",
					       wishes.live, "stop", wishes.stop));
	result = json_object_get(answer, "result");
	if (answer) {
		status = STATUS_OK;
		if (wishes.json) {
			json_dumpf(result, stdout, JSON_INDENT(2));
			putchar('\n');
		}
		/* It is gone when its name is free. */
		if (wishes.stop)
			control_client_wait_end(client, 10000);
	}
	control_close(client);
	json_decref(answer);
	free(whole);
	return status;
}

static const struct option_def snapshot_options[] = {
	{ "compress", NULL, "RAM by zstd: a smaller file that takes longer to restore",
	  OPT_COMPRESS },
	{ "live", NULL, "while it runs: it stands still for a few milliseconds only", OPT_LIVE },
	{ "stop", NULL, "end the VM there, so that its disks stay as the snapshot knows them",
	  OPT_STOP },
	{ "json", NULL, "say how long it stood still and how much RAM was written", OPT_JSON },
	{ 0 },
};

const struct verb verb_snapshot = {
	.name = "snapshot",
	.arguments = "VM FILE|DIR [OPTIONS]",
	.summary = "write a running VM into a file",
	.about =
		"The whole machine: processors, devices, memory, the command under way. Disks are\n"
		"named, not copied. In a folder the file is called snapshot. A file that was "
		"there\n"
		"is replaced when the new one is complete.\n\n"
		"Examples:\n\n"
		"  insula run -d --name box\n"
		"  insula snapshot box box.snap\n"
		"  insula restore box.snap --name box2 -d\n",
	.options = snapshot_options,
	.run = snapshot_verb,
};
