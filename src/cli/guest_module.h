/*
 * Kernel modules of a package: which are needed for a set of names, and the
 * list by which the guest's init loads them (guest/init/modules.c).
 */
#ifndef INSULA_CLI_GUEST_MODULE_H
#define INSULA_CLI_GUEST_MODULE_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define GUEST_MODULES_MAX 128

struct guest_module {
	char *name;    /* as other modules name it: with underscores */
	char *path;    /* on the host */
	char *depends; /* names, separated by spaces */
	char *aliases; /* plain ones only, separated by spaces */
};

struct guest_modules {
	unsigned count;
	struct guest_module module[GUEST_MODULES_MAX]; /* each after those it depends on */
};

/*
 * Adds a module and what it depends on, looked for under `folder`. 0; -ENOENT
 * if it is not there, which for a driver that is built in is no failure.
 */
int guest_modules_add(struct guest_modules *modules, const char *folder, const char *name);
/* Writes insula.list. */
void guest_modules_list(const struct guest_modules *modules, FILE *out);
void guest_modules_fini(struct guest_modules *modules);

/*
 * The strings KEY=value of a module's .modinfo section, joined by spaces (a
 * dependency list's commas become spaces too); the caller frees. NULL if the
 * file is no ELF module or on lack of memory. Pure.
 */
char *guest_module_info(const uint8_t *bytes, size_t len, const char *key);

#endif
