/*
 * What of `insula run` is in a snapshot beside the machine: which guest and
 * command it was, so that a restore can go on with both. Called by the control
 * socket and by insula restore.
 */
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/control.h"
#include "board/board.h"
#include "cli/run.h"
#include "cli/run_session.h"
#include "cli/verb.h"
#include "engine/engine.h"
#include "vm/snapshot.h"
#include "vm/vm.h"

#define COMMAND_WORDS_MAX 4096

/* A file that a reset would boot, from wherever the restored VM is started. */
static json_t *absolute(const char *path)
{
	char resolved[PATH_MAX];

	return json_string(realpath(path, resolved) ? resolved : path);
}

json_t *run_describe(const struct run *run)
{
	const struct run_options *o = &run->options;
	json_t *json = json_pack("{s:s, s:s, s:b}", "version", INSULA_VERSION, "name", run->name,
				 "no_reboot", o->no_reboot);
	json_t *list;
	int err = json ? 0 : -1;

	if (!err && o->guest) {
		err |= json_object_set_new(json, "guest", json_string(o->guest));
	} else if (!err) {
		err |= json_object_set_new(json, "kernel", absolute(o->kernel));
		list = json_array();
		for (size_t i = 0; i < o->module_count; i++) {
			/* A multiboot module's arguments follow its name: it stays as it was given.
			 */
			err |= json_array_append_new(list, strchr(o->modules[i], ' ')
								   ? json_string(o->modules[i])
								   : absolute(o->modules[i]));
		}
		err |= json_object_set_new(json, "modules", list);
		if (o->append)
			err |= json_object_set_new(json, "append", json_string(o->append));
	}
	if (!err && o->command) {
		list = json_array();
		for (char *const *word = o->command; *word; word++)
			err |= json_array_append_new(list, json_string(*word));
		err |= json_object_set_new(json, "command", list);
	}
	if (!err)
		return json;
	json_decref(json);
	return NULL;
}

static bool undescribe_command(struct run_options *o, const json_t *list)
{
	size_t count = json_array_size(list);

	if (!count || count > COMMAND_WORDS_MAX)
		return false;
	o->command_words = calloc(count + 1, sizeof(*o->command_words));
	for (size_t i = 0; o->command_words && i < count; i++) {
		o->command_words[i] = (char *)json_string_value(json_array_get(list, i));
		if (!o->command_words[i])
			return false;
	}
	o->command = o->command_words;
	return o->command;
}

bool run_undescribe(struct run_options *o, const json_t *json)
{
	const json_t *modules = json_object_get(json, "modules");
	const json_t *command = json_object_get(json, "command");

	o->guest = json_string_value(json_object_get(json, "guest"));
	o->kernel = json_string_value(json_object_get(json, "kernel"));
	o->append = json_string_value(json_object_get(json, "append"));
	o->no_reboot = json_is_true(json_object_get(json, "no_reboot"));
	if (!o->guest == !o->kernel || json_array_size(modules) > BOOT_MODULES_MAX)
		return false;
	for (size_t i = 0; i < json_array_size(modules); i++) {
		o->modules[i] = json_string_value(json_array_get(modules, i));
		if (!o->modules[i])
			return false;
		o->module_count++;
	}
	return !command || undescribe_command(o, command);
}

/* On the loop's thread, the machine paused. */
static int save(void *ctx, struct state_writer *w, uint8_t **bytes, size_t *len)
{
	struct run *run = ctx;

	return run->session ? session_save(run->session, w, bytes, len) : 0;
}

int run_snapshot(void *ctx, struct control_call *call)
{
	struct run *run = ctx;
	const json_t *arguments = call->arguments;
	const char *path = json_string_value(json_object_get(arguments, "path"));
	bool stop = json_is_true(json_object_get(arguments, "stop"));
	struct snapshot_options options = {
		.path = path,
		.compress = json_is_true(json_object_get(arguments, "compress")),
		.live = json_is_true(json_object_get(arguments, "live")),
		.hold = stop,
	};
	struct snapshot_extra extra = { .save = save, .ctx = run, .run = NULL };
	struct snapshot_report report;
	char error[SNAPSHOT_ERROR_MAX];
	json_t *description;
	bool hold;
	int err;

	if (!path || *path != '/') {
		snprintf(call->error, sizeof(call->error), "path must be absolute");
		return -EINVAL;
	}
	if (options.live && options.compress) {
		snprintf(call->error, sizeof(call->error),
			 "what is written live is not compressed: take one of the two");
		return -EINVAL;
	}
	description = run_describe(run);
	if (!description) {
		snprintf(call->error, sizeof(call->error),
			 "a file's name or the command is not UTF-8");
		return -EILSEQ;
	}
	extra.run = description;
	hold = run_hold(run);
	err = vm_snapshot(run->vm, &options, &extra, &report, error);
	if (hold)
		run_renew(run);
	json_decref(description);
	if (err) {
		snprintf(call->error, sizeof(call->error), "%s", error);
		return err;
	}
	/* It goes on from the file, so here it ends without another instruction. */
	if (stop)
		vm_request_stop(run->vm, STOP_USER, STATUS_OK, NULL);
	call->result =
		json_pack("{s:I, s:I, s:i}", "pause_ns", (json_int_t)report.pause_ns, "ram_bytes",
			  (json_int_t)report.ram_bytes, "rounds", (int)report.rounds);
	return 0;
}
