/*
 * Module metadata for guest_build.c, read from the modules themselves, because
 * Debian writes modules.dep only when a kernel is installed.
 */
#include "cli/guest_module.h"

#include <elf.h>
#include <errno.h>
#include <fts.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "boot/boot_file.h"

#define MODULE_MAX (64u << 20)
#define DEPTH_MAX  16

static bool inside(uint64_t offset, uint64_t len, size_t size)
{
	return offset <= size && len <= size - offset;
}

/* The .modinfo section; NULL if there is none. */
static const char *modinfo_find(const uint8_t *bytes, size_t len, size_t *info_len)
{
	Elf64_Ehdr eh;
	Elf64_Shdr names, sh;

	if (len < sizeof(eh))
		return NULL;
	memcpy(&eh, bytes, sizeof(eh));
	if (memcmp(eh.e_ident, ELFMAG, SELFMAG) || eh.e_ident[EI_CLASS] != ELFCLASS64 ||
	    eh.e_shentsize != sizeof(sh) || eh.e_shstrndx >= eh.e_shnum ||
	    !inside(eh.e_shoff, (uint64_t)eh.e_shnum * sizeof(sh), len))
		return NULL;
	memcpy(&names, bytes + eh.e_shoff + eh.e_shstrndx * sizeof(sh), sizeof(names));
	if (!inside(names.sh_offset, names.sh_size, len))
		return NULL;
	for (unsigned i = 0; i < eh.e_shnum; i++) {
		memcpy(&sh, bytes + eh.e_shoff + i * sizeof(sh), sizeof(sh));
		if (!inside(sh.sh_name, sizeof(".modinfo"), names.sh_size) ||
		    memcmp(bytes + names.sh_offset + sh.sh_name, ".modinfo", sizeof(".modinfo")))
			continue;
		if (sh.sh_type == SHT_NOBITS || !inside(sh.sh_offset, sh.sh_size, len))
			return NULL;
		*info_len = sh.sh_size;
		return (const char *)bytes + sh.sh_offset;
	}
	return NULL;
}

char *guest_module_info(const uint8_t *bytes, size_t len, const char *key)
{
	size_t info_len = 0, key_len = strlen(key), used = 0;
	const char *info = modinfo_find(bytes, len, &info_len);
	char *joined = info ? malloc(info_len + 1) : NULL;

	if (!joined)
		return NULL;
	for (size_t at = 0; at < info_len;) {
		size_t item_len = strnlen(info + at, info_len - at);

		if (item_len > key_len && !memcmp(info + at, key, key_len) &&
		    info[at + key_len] == '=') {
			size_t value_len = item_len - key_len - 1;

			if (used && value_len)
				joined[used++] = ' ';
			memcpy(joined + used, info + at + key_len + 1, value_len);
			used += value_len;
		}
		at += item_len + 1;
	}
	joined[used] = 0;
	for (char *c = joined; *c; c++) {
		if (*c == ',')
			*c = ' ';
	}
	return joined;
}

static void underscores(char *name)
{
	for (; *name; name++) {
		if (*name == '-')
			*name = '_';
	}
}

/* Device aliases are patterns that our modprobe does not match; what is left is short. */
static void plain_only(char *aliases)
{
	char *out = aliases, *rest = aliases, *word;

	while ((word = strsep(&rest, " "))) {
		size_t len = strlen(word);

		if (!len || strpbrk(word, "*?["))
			continue;
		if (out != aliases)
			*out++ = ' ';
		memmove(out, word, len);
		out += len;
	}
	*out = 0;
}

/* The file NAME.ko under folder, - and _ taken as one; the caller frees. */
static char *module_find(const char *folder, const char *name)
{
	char *const roots[] = { (char *)folder, NULL };
	FTS *fts = fts_open(roots, FTS_PHYSICAL | FTS_NOCHDIR, NULL);
	char *path = NULL;
	FTSENT *entry;

	while (fts && !path && (entry = fts_read(fts))) {
		char file[256];
		size_t len = entry->fts_namelen;

		if (entry->fts_info != FTS_F || len < 4 || len >= sizeof(file) ||
		    strcmp(entry->fts_name + len - 3, ".ko"))
			continue;
		memcpy(file, entry->fts_name, len - 3);
		file[len - 3] = 0;
		underscores(file);
		if (!strcmp(file, name))
			path = strdup(entry->fts_path);
	}
	if (fts)
		fts_close(fts);
	return path;
}

static int add(struct guest_modules *modules, const char *folder, const char *name, unsigned depth)
{
	struct guest_module module = { 0 };
	struct boot_file file;
	const char *why;
	int err;

	for (unsigned i = 0; i < modules->count; i++) {
		if (!strcmp(modules->module[i].name, name))
			return 0;
	}
	if (depth == DEPTH_MAX)
		return -ELOOP;
	module.path = module_find(folder, name);
	if (!module.path)
		return -ENOENT;
	err = boot_file_read(&file, module.path, MODULE_MAX, &why);
	if (!err) {
		module.name = strdup(name);
		module.depends = guest_module_info(file.bytes, file.len, "depends");
		module.aliases = guest_module_info(file.bytes, file.len, "alias");
		boot_file_fini(&file);
		if (!module.name || !module.depends || !module.aliases)
			err = -EINVAL;
	}
	if (!err) {
		char *depends = strdup(module.depends), *rest = depends, *word;

		underscores(module.depends);
		plain_only(module.aliases);
		while (!err && (word = strsep(&rest, " "))) {
			underscores(word);
			if (*word)
				err = add(modules, folder, word, depth + 1);
		}
		free(depends);
	}
	if (!err && modules->count == GUEST_MODULES_MAX)
		err = -E2BIG;
	if (!err) {
		modules->module[modules->count++] = module;
		return 0;
	}
	free(module.name);
	free(module.path);
	free(module.depends);
	free(module.aliases);
	return err;
}

int guest_modules_add(struct guest_modules *modules, const char *folder, const char *name)
{
	return add(modules, folder, name, 0);
}

void guest_modules_list(const struct guest_modules *modules, FILE *out)
{
	for (unsigned i = 0; i < modules->count; i++) {
		const struct guest_module *module = &modules->module[i];

		fprintf(out, "%s %s.ko", module->name, module->name);
		if (*module->depends)
			fprintf(out, " %s", module->depends);
		fprintf(out, " :%s%s\n", *module->aliases ? " " : "", module->aliases);
	}
}

void guest_modules_fini(struct guest_modules *modules)
{
	for (unsigned i = 0; i < modules->count; i++) {
		free(modules->module[i].name);
		free(modules->module[i].path);
		free(modules->module[i].depends);
		free(modules->module[i].aliases);
	}
	modules->count = 0;
}
