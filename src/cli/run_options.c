/* The command line of `insula run`. Invariant: what it accepts, the machine can be built from,
 * files apart. */
#include "cli/run_options.h"

#include <stdlib.h>
#include <string.h>

#include "api/runtime_dir.h"
#include "cli/verb.h"
#include "cpu/halt.h"
#include "engine/engine.h"

enum {
	OPT_KERNEL = 1,
	OPT_INITRD,
	OPT_APPEND,
	OPT_DISK,
	OPT_MEM,
	OPT_CPUS,
	OPT_ENGINE,
	OPT_CPU,
	OPT_DEBUG_EXIT,
	OPT_STATS,
	OPT_CODE_CACHE,
	OPT_HOT,
	OPT_HALT_POLL,
	OPT_CHECK,
	OPT_PERF_MAP,
	OPT_LOG,
	OPT_NO_REBOOT,
	OPT_NAME,
	OPT_DETACH,
};

const struct option_def run_option_defs[] = {
	{ "kernel", "FILE",
	  "boot this instead of a named guest: bzImage, ELF with a PVH\nnote, ELF with a "
	  "multiboot header; COM1 is on stdin and stdout",
	  OPT_KERNEL },
	{ "initrd", "FILE[,MODULE...]",
	  "initramfs, or multiboot modules each with its arguments\n"
	  "after a space; a comma in a name is written ,,",
	  OPT_INITRD },
	{ "append", "STRING", "kernel command line; for a named guest, added to its own",
	  OPT_APPEND },
	{ "disk", "FILE[,ro]",
	  "raw disk image as a virtio disk (vda, vdb, ... in order);\nro: the guest cannot "
	  "write it",
	  OPT_DISK },
	{ "mem", "SIZE", "guest memory, as in 512M or 2G (default 512M)", OPT_MEM },
	{ "cpus", "N", "number of virtual cpus (default 1)", OPT_CPUS },
	{ "engine", "NAME",
	  "kvm, translate, interpret, or auto: the best that works here (default)", OPT_ENGINE },
	{ "cpu", "MODEL", "x86-64-v2, x86-64-v3 or host (default)", OPT_CPU },
	{ "debug-exit", NULL,
	  "add port 0xf4: writing V to it ends the run with\nstatus (V << 1) | 1", OPT_DEBUG_EXIT },
	{ "code-cache", "SIZE", "translate: memory for translated code, per cpu (default 64M)",
	  OPT_CODE_CACHE },
	{ "hot", "N", "translate: executions before code is translated (default 200)", OPT_HOT },
	{ "halt-poll", "US",
	  "a halted cpu whose halts are short waits awake for up to so many\nmicroseconds while "
	  "the host has a CPU to spare (default 200; 0: never)",
	  OPT_HALT_POLL },
	{ "check", "HOW",
	  "translate: against the interpreter while the guest runs, many\ntimes slower: lockstep, "
	  "lockstep,exact, pingpong=N or\npingpong=random",
	  OPT_CHECK },
	{ "perf-map", NULL, "translate: write /tmp/perf-PID.map, so that perf names guest code",
	  OPT_PERF_MAP },
	{ "log", "WHAT", "translate: guest and host code of each translation, on stderr", OPT_LOG },
	{ "stats", NULL, "at the end, tell on stderr what the engine did", OPT_STATS },
	{ "no-reboot", NULL, "end, with status 0, when the guest resets itself", OPT_NO_REBOOT },
	{ "name", "NAME", "what insula ps calls it (default: the guest's name)", OPT_NAME },
	{ "detach", NULL, "run in the background (-d) and print the VM's name", OPT_DETACH, 'd' },
	{ 0 },
};

static const char *const engine_names[] = { "kvm", "translate", "interpret", "auto", NULL };
static const char *const cpu_names[] = { "x86-64-v2", "x86-64-v3", "host", NULL };

static bool in_list(const char *word, const char *const *list)
{
	for (; *list; list++) {
		if (strcmp(word, *list) == 0)
			return true;
	}
	return false;
}

/* A copy that lives as long as the options. NULL: out of memory, or too many. */
static char *keep(struct run_options *run, const char *text)
{
	char *copy;

	if (run->split_count == sizeof(run->split) / sizeof(run->split[0]))
		return NULL;
	copy = strdup(text);
	if (copy)
		run->split[run->split_count++] = copy;
	return copy;
}

/* Cuts at single commas, in place, with ",," meaning one. The next part, or NULL. */
static char *next_part(char **rest)
{
	char *part = *rest, *to = part, *from = part;

	if (!part)
		return NULL;
	for (;; from++) {
		if (!*from) {
			*rest = NULL;
			break;
		}
		if (*from == ',') {
			if (from[1] != ',') {
				*rest = from + 1;
				break;
			}
			from++;
		}
		*to++ = *from;
	}
	*to = '\0';
	return part;
}

static int add_modules(struct run_options *run, const struct verb *verb, const char *value)
{
	char *rest = keep(run, value), *part;

	if (!rest)
		return usage_error(verb, "--initrd was given too often");
	while ((part = next_part(&rest))) {
		if (!*part)
			return usage_error(verb, "--initrd %s: a file name is empty", value);
		if (run->module_count == BOOT_MODULES_MAX)
			return usage_error(verb, "--initrd: at most %d files", BOOT_MODULES_MAX);
		run->modules[run->module_count++] = part;
	}
	return -1;
}

static int add_disk(struct run_options *run, const struct verb *verb, const char *value)
{
	struct board_disk *disk = &run->disks[run->disk_count];
	char *path, *flag;

	if (run->disk_count == BOARD_DISKS_MAX)
		return usage_error(verb, "--disk: at most %d disks", BOARD_DISKS_MAX);
	path = keep(run, value);
	if (!path)
		return usage_error(verb, "--disk: out of memory");
	flag = strrchr(path, ',');
	*disk = (struct board_disk){ .path = path };
	if (flag && strcmp(flag, ",ro") == 0) {
		*flag = '\0';
		disk->read_only = true;
	} else if (flag && strcmp(flag, ",rw") == 0) {
		*flag = '\0';
	} else if (flag && !strchr(flag, '/') && !strchr(flag, '.')) {
		return usage_error(verb, "--disk %s: unknown flag %s; only ro is known", value,
				   flag + 1);
	}
	if (!*path)
		return usage_error(verb, "--disk %s: the file name is empty", value);
	run->disk_count++;
	return -1;
}

static int set_mem(struct run_options *run, const struct verb *verb, const char *value)
{
	if (!size_parse(value, &run->mem_bytes))
		return usage_error(verb, "--mem %s is not a size; write it as in 512M or 2G",
				   value);
	if (run->mem_bytes < BOARD_MEM_MIN)
		return usage_error(verb, "--mem %s is too small; at least %lluM", value,
				   BOARD_MEM_MIN >> 20);
	if (run->mem_bytes > BOARD_MEM_MAX)
		return usage_error(verb, "--mem %s is too large; at most %lluG", value,
				   BOARD_MEM_MAX >> 30);
	if (run->mem_bytes % PAGE_SIZE)
		return usage_error(verb, "--mem %s is not a multiple of 4K", value);
	return -1;
}

static int set_name(const struct verb *verb, const char *option, const char *value,
		    const char *const *known, const char **to)
{
	const char *nearest;

	*to = value;
	if (in_list(value, known))
		return -1;
	nearest = nearest_word(value, known);
	if (nearest)
		return usage_error(verb, "--%s %s is unknown; did you mean %s?", option, value,
				   nearest);
	if (known == cpu_names)
		return usage_error(verb, "--%s %s is unknown; known are x86-64-v2, x86-64-v3, host",
				   option, value);
	return usage_error(verb, "--%s %s is unknown; known are kvm, translate, interpret, auto",
			   option, value);
}

static int set_check(struct run_options *run, const struct verb *verb, const char *value)
{
	uint64_t turn = 0;

	run->check_exact = strcmp(value, "lockstep,exact") == 0;
	if (run->check_exact || strcmp(value, "lockstep") == 0) {
		run->check = CHECK_LOCKSTEP;
		return -1;
	}
	if (strncmp(value, "pingpong=", 9) != 0 ||
	    (strcmp(value + 9, "random") != 0 &&
	     (!number_parse(value + 9, 1000000, &turn) || turn == 0)))
		return usage_error(verb,
				   "--check %s is unknown; known are lockstep, lockstep,exact, "
				   "pingpong=1 to pingpong=1000000, pingpong=random",
				   value);
	run->check = CHECK_PINGPONG;
	run->check_turn = (unsigned)turn;
	return -1;
}

static int set_option(struct run_options *run, const struct verb *verb, int id, const char *value)
{
	uint64_t number;

	switch (id) {
	case OPT_KERNEL:
		if (run->kernel)
			return usage_error(verb, "--kernel was given twice");
		if (!*value)
			return usage_error(verb, "--kernel: the file name is empty");
		run->kernel = value;
		return -1;
	case OPT_INITRD:
		return add_modules(run, verb, value);
	case OPT_APPEND:
		if (run->append)
			return usage_error(verb, "--append was given twice");
		run->append = value;
		return -1;
	case OPT_DISK:
		return add_disk(run, verb, value);
	case OPT_MEM:
		return set_mem(run, verb, value);
	case OPT_CPUS:
		if (!number_parse(value, BOARD_CPUS_MAX, &number) || number == 0)
			return usage_error(verb, "--cpus %s: a number from 1 to %d", value,
					   BOARD_CPUS_MAX);
		run->cpus = (unsigned)number;
		return -1;
	case OPT_ENGINE:
		return set_name(verb, "engine", value, engine_names, &run->engine_name);
	case OPT_CPU:
		return set_name(verb, "cpu", value, cpu_names, &run->cpu_model);
	case OPT_STATS:
		run->stats = true;
		return -1;
	case OPT_CODE_CACHE:
		if (!size_parse(value, &run->code_cache) || run->code_cache < 1u << 20 ||
		    run->code_cache > 256u << 20)
			return usage_error(verb, "--code-cache %s: a size from 1M to 256M", value);
		return -1;
	case OPT_HOT:
		if (!number_parse(value, 1000000, &number) || number == 0)
			return usage_error(verb, "--hot %s: a number from 1 to 1000000", value);
		run->hot = (unsigned)number;
		return -1;
	case OPT_HALT_POLL:
		if (!number_parse(value, HALT_POLL_US_MAX, &number))
			return usage_error(verb, "--halt-poll %s: microseconds, from 0 to %d",
					   value, HALT_POLL_US_MAX);
		run->halt_poll_us = (unsigned)number;
		return -1;
	case OPT_PERF_MAP:
		run->perf_map = true;
		return -1;
	case OPT_LOG:
		if (strcmp(value, "translate") != 0)
			return usage_error(verb, "--log %s is unknown; known is translate", value);
		run->log_translate = true;
		return -1;
	case OPT_CHECK:
		return set_check(run, verb, value);
	case OPT_DEBUG_EXIT:
		run->debug_exit = true;
		return -1;
	case OPT_NAME:
		if (!runtime_name_valid(value))
			return usage_error(
				verb, "--name %s: letters, digits, '.', '_' and '-', at most %d",
				value, RUNTIME_NAME_MAX);
		run->name = value;
		return -1;
	case OPT_DETACH:
		run->detach = true;
		return -1;
	default:
		run->no_reboot = true;
		return -1;
	}
}

static int check_together(struct run_options *run, const struct verb *verb,
			  const struct options *options)
{
	if (options->separator) {
		if (options->at >= options->argc)
			return usage_error(verb, "no COMMAND after --");
		run->command = options->argv + options->at;
	}
	if (run->kernel && run->guest)
		return usage_error(verb, "either a guest (%s) or --kernel, not both", run->guest);
	if (run->kernel && run->command)
		return usage_error(
			verb, "a COMMAND needs a guest with Insula's agent; --kernel has none");
	if (!run->kernel && run->module_count)
		return usage_error(verb, "--initrd goes with --kernel");
	if (!run->kernel && !run->guest)
		run->guest = "debian";
	/* "auto" is found when a VM is made: it takes a look at the host. */
	run->engine = engine_find(run->engine_name);
	if (run->check && !run->engine)
		run->engine = &engine_translate;
	if (run->check && run->engine != &engine_translate)
		return usage_error(verb, "--check is of the engine translate");
	if (run->check == CHECK_LOCKSTEP && run->cpus > 1)
		return usage_error(verb, "--check lockstep wants --cpus 1");
	return -1;
}

int run_options_parse(struct run_options *run, const struct verb *verb, int argc, char **argv)
{
	struct options options;
	const char *value;
	int id, status;

	*run = (struct run_options){ .mem_bytes = RUN_MEM_DEFAULT,
				     .cpus = 1,
				     .engine_name = "auto",
				     .cpu_model = "host",
				     .halt_poll_us = HALT_POLL_US };
	options_init(&options, verb, argc, argv);
	while ((id = options_next(&options, &value)) != OPTION_END) {
		switch (id) {
		case OPTION_ERROR:
			return STATUS_USAGE;
		case OPTION_HELP:
			verb_print_help(verb);
			return STATUS_OK;
		case OPTION_WORD:
			if (run->guest)
				return usage_error(
					verb,
					"unexpected %s after the guest; a COMMAND goes behind --",
					value);
			run->guest = value;
			break;
		default:
			status = set_option(run, verb, id, value);
			if (status >= 0)
				return status;
		}
	}
	return check_together(run, verb, &options);
}

void run_options_fini(struct run_options *run)
{
	for (size_t i = 0; i < run->split_count; i++)
		free(run->split[i]);
	run->split_count = 0;
	free(run->command_words);
	run->command_words = NULL;
}
