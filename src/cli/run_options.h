/* What `insula run` was asked to do, parsed and checked as far as that goes without opening
 * anything. */
#ifndef INSULA_CLI_RUN_OPTIONS_H
#define INSULA_CLI_RUN_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "board/board.h"
#include "boot/boot_image.h"
#include "cli/options.h"
#include "engine/translate/translate.h"

#define RUN_MEM_DEFAULT (512ull << 20)

struct engine;

struct run_options {
	const char *guest;    /* NULL: --kernel was given */
	char *const *command; /* NULL-terminated; NULL: none */
	const char *kernel;
	const char *modules[BOOT_MODULES_MAX];
	size_t module_count;
	const char *append;
	struct board_disk disks[BOARD_DISKS_MAX];
	size_t disk_count;
	uint64_t mem_bytes;
	unsigned cpus;
	const char *engine_name;
	const struct engine *engine; /* NULL: auto, not looked for yet */
	const char *cpu_model;
	bool debug_exit;
	bool stats;
	uint64_t code_cache; /* bytes; 0: the engine's default */
	unsigned hot;        /* executions; 0: the engine's default */
	unsigned halt_poll_us;
	bool perf_map, log_translate;
	enum translate_check check;
	bool check_exact;
	unsigned check_turn;
	bool no_reboot;
	const char *name; /* NULL: one is made up */
	bool detach;

	/* insula restore only */
	char **command_words; /* what command points to, if it is ours; the words are borrowed */
	bool trust_disks, verify, paused;
	unsigned children; /* 0: the VM is this process */

	char *split[BOOT_MODULES_MAX +
		    BOARD_DISKS_MAX]; /* owned copies that the pointers above point into */
	size_t split_count;
};

extern const struct option_def run_option_defs[];

/* Negative: go on; else the process's exit status. */
int run_options_parse(struct run_options *run, const struct verb *verb, int argc, char **argv);
void run_options_fini(struct run_options *run);

#endif
