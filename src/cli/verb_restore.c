/* insula restore: a VM from a snapshot, in the middle of what it was doing. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/runtime_dir.h"
#include "cli/options.h"
#include "cli/run.h"
#include "cli/run_children.h"
#include "cli/verb.h"
#include "cpu/halt.h"
#include "engine/engine.h"
#include "vm/snapshot.h"

enum { OPT_ENGINE = 1, OPT_NAME, OPT_DETACH, OPT_TRUST, OPT_VERIFY, OPT_PAUSED, OPT_COUNT };

static int set_option(void *ctx, int id, const char *value)
{
	const struct verb *verb = &verb_restore;
	struct run_options *o = ctx;
	uint64_t count;

	switch (id) {
	case OPT_ENGINE:
		o->engine_name = value;
		o->engine = engine_find(value);
		if (!o->engine && strcmp(value, "auto") != 0)
			return usage_error(verb, "--engine %s is unknown", value);
		return -1;
	case OPT_COUNT:
		if (!number_parse(value, CHILDREN_MAX, &count) || !count)
			return usage_error(verb, "-n %s: a number from 1 to %u", value,
					   CHILDREN_MAX);
		o->children = (unsigned)count;
		return -1;
	case OPT_NAME:
		o->name = value;
		return -1;
	case OPT_DETACH:
		o->detach = true;
		return -1;
	case OPT_TRUST:
		o->trust_disks = true;
		return -1;
	case OPT_VERIFY:
		o->verify = true;
		return -1;
	default:
		o->paused = true;
		return -1;
	}
}

static int parse(struct run_options *o, const struct verb *verb, int argc, char **argv,
		 const char **path)
{
	struct options options;
	int status;

	*o = (struct run_options){ .engine_name = "auto",
				   .cpu_model = "saved",
				   .halt_poll_us = HALT_POLL_US };
	options_init(&options, verb, argc, argv);
	status = options_words(&options, path, 1, set_option, o);
	if (status >= 0)
		return status;
	if (options.separator)
		return usage_error(verb, "unexpected --; the snapshot has its command already");
	if (!*path)
		return usage_error(verb, "which file?");
	if (o->children && o->name && !children_pattern_valid(o->name))
		return usage_error(verb, CHILDREN_PATTERN_ERROR, o->name);
	if (!o->children && o->name && !runtime_name_valid(o->name))
		return usage_error(verb, "--name %s: letters, digits, '.', '_' and '-', at most %d",
				   o->name, RUNTIME_NAME_MAX);
	return -1;
}

static int restore_children(struct run *run)
{
	const struct run_options *o = &run->options;
	struct children_options children = { .count = o->children,
					     .pattern = o->name ? o->name : o->guest,
					     .exact = o->name };

	if (!children.pattern)
		children.pattern = "vm";
	return run_children(run, &children);
}

static int open_snapshot(struct run *run, const char *path)
{
	char error[SNAPSHOT_ERROR_MAX];

	run->snapshot = vm_snapshot_open(path, error);
	if (!run->snapshot) {
		fprintf(stderr, "insula: %s\n", error);
		return STATUS_HOST_ERROR;
	}
	if (run_undescribe(&run->options, vm_snapshot_run(run->snapshot)))
		return -1;
	fprintf(stderr, "insula: snapshot %s is damaged: part run makes no sense\n", path);
	return STATUS_HOST_ERROR;
}

static int restore_verb(const struct verb *self, int argc, char **argv)
{
	struct run *run = calloc(1, sizeof(*run));
	const char *path;
	int status;

	if (!run)
		return STATUS_HOST_ERROR;
	run_init(run);
	status = parse(&run->options, self, argc, argv, &path);
	if (status < 0)
		status = open_snapshot(run, path);
	if (status < 0)
		status = run->options.children ? restore_children(run) : run_to_end(run);
	run_fini(run);
	free(run);
	return status;
}

static const struct option_def restore_options[] = {
	{ "engine", "NAME", "as for insula run: any engine takes any snapshot", OPT_ENGINE },
	{ "name", "NAME", "what insula ps calls it (default: the guest's name)", OPT_NAME },
	{ "detach", NULL, "run in the background (-d) and print the VM's name", OPT_DETACH, 'd' },
	{ "count", "N",
	  "so many VMs, in the background, that share the memory they do\nnot write; --name may "
	  "hold %d for their number",
	  OPT_COUNT, 'n' },
	{ "paused", NULL, "leave it standing still until insula resume", OPT_PAUSED },
	{ "verify", NULL,
	  "compare all of memory with its checksums first, instead of\neach page when it is "
	  "touched",
	  OPT_VERIFY },
	{ "trust-disks", NULL, "take disks as they are, though they were changed meanwhile",
	  OPT_TRUST },
	{ 0 },
};

const struct verb verb_restore = {
	.name = "restore",
	.arguments = "FILE|DIR [OPTIONS]",
	.summary = "run a VM from a snapshot, from where it was",
	.about = "It runs at once, whatever its size: memory comes out of the file as it is\n"
		 "touched. The file stays as it is, must not be changed meanwhile, and can be\n"
		 "restored any number of times. A command that was under way goes on, its output "
		 "is\n"
		 "ours, and so is its exit status. The guest's date is right.\n",
	.options = restore_options,
	.run = restore_verb,
};
