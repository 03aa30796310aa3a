/*
 * Kernel modules of the guest: /lib/modules/insula.list, written when the guest
 * is built, has one line for each module:
 *
 *   NAME FILE DEPENDENCY... : ALIAS...
 *
 * Lines come after those of their dependencies. We are also /sbin/modprobe,
 * which the kernel calls when it misses something, say a file system.
 */
#include "init.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LIST      "/lib/modules/insula.list"
#define LIST_MAX  65536
#define DEPTH_MAX 16

static char list[LIST_MAX];
static size_t list_len;

static void list_read(void)
{
	int fd = list_len ? -1 : open(LIST, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	ssize_t got = read(fd, list, sizeof(list) - 1);

	list_len = got > 0 ? (size_t)got : 0;
	close(fd);
}

/* Module names treat - and _ alike. */
static bool same_name(const char *a, const char *b)
{
	for (; *a && *b; a++, b++) {
		if (*a != *b && !((*a == '-' || *a == '_') && (*b == '-' || *b == '_')))
			return false;
	}
	return *a == *b;
}

static void insert(const char *file)
{
	char path[128];

	snprintf(path, sizeof(path), "/lib/modules/%s", file);
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	syscall(SYS_finit_module, fd, "", 0); /* EEXIST: loaded already */
	close(fd);
}

static int load(const char *name, int depth)
{
	char line[1024];
	const char *at = list;

	while (depth < DEPTH_MAX && *at) {
		const char *end = strchrnul(at, '\n');
		size_t len = (size_t)(end - at);
		char *rest = line, *module, *file, *word;
		bool match, aliases = false;

		if (len >= sizeof(line))
			return -1;
		memcpy(line, at, len);
		line[len] = 0;
		at = *end ? end + 1 : end;
		module = strsep(&rest, " ");
		file = strsep(&rest, " ");
		if (!file)
			continue;
		match = same_name(module, name);
		for (char *scan = rest; scan && !match;) {
			size_t word_len = strcspn(scan, " ");

			if (aliases && word_len == strlen(name) && !strncmp(scan, name, word_len))
				match = true;
			if (word_len == 1 && *scan == ':')
				aliases = true;
			scan = scan[word_len] ? scan + word_len + 1 : NULL;
		}
		if (!match)
			continue;
		while ((word = strsep(&rest, " ")) && strcmp(word, ":"))
			load(word, depth + 1);
		insert(file);
		return 0;
	}
	return -1;
}

int modules_load(const char *name)
{
	list_read();
	return load(name, 0);
}

int modules_modprobe_main(int argc, char **argv)
{
	int err = 0;

	for (int i = 1; i < argc; i++) {
		if (argv[i][0] != '-')
			err |= modules_load(argv[i]);
	}
	return err ? 1 : 0;
}
