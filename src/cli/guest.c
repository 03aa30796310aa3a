/* Named guests on disk. Called by `insula run` and `insula guest`. Invariant: a name is never a
 * path. */
#include "cli/guest.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/options.h"
#include "cli/verb.h"

#define CMDLINE_MAX 4096

const char *const guest_names[] = { "debian", "debian-generic", NULL };

static bool known(const char *name)
{
	for (const char *const *n = guest_names; *n; n++) {
		if (strcmp(*n, name) == 0)
			return true;
	}
	return false;
}

char *guest_directory(const char *name)
{
	const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
	char *path;
	int rc;

	/* The specification says to ignore a relative path. */
	if (cache && cache[0] == '/') {
		rc = asprintf(&path, "%s/insula/guests/%s", cache, name);
	} else if (home && home[0] == '/') {
		rc = asprintf(&path, "%s/.cache/insula/guests/%s", home, name);
	} else {
		errno = ENOENT;
		return NULL;
	}
	return rc < 0 ? NULL : path;
}

static char *join(const char *directory, const char *file)
{
	char *path;

	return asprintf(&path, "%s/%s", directory, file) < 0 ? NULL : path;
}

/* The file's only line, then a space and append. NULL with errno. */
static char *read_cmdline(const char *path, const char *append)
{
	char line[CMDLINE_MAX] = "", *both;
	FILE *file = fopen(path, "re");

	if (!file)
		return NULL;
	if (!fgets(line, sizeof(line), file))
		line[0] = '\0';
	fclose(file);
	line[strcspn(line, "\n")] = '\0';
	if (asprintf(&both, "%s%s%s", line, append ? " " : "", append ? append : "") < 0)
		return NULL;
	return both;
}

int guest_open(struct guest *guest, const char *name, const char *append)
{
	char *directory = NULL, *cmdline = NULL;
	const char *nearest;
	int status = STATUS_HOST_ERROR;

	*guest = (struct guest){ 0 };
	if (!known(name)) {
		nearest = nearest_word(name, guest_names);
		if (nearest)
			return usage_error(&verb_run, "there is no guest %s; did you mean %s?",
					   name, nearest);
		return usage_error(&verb_run,
				   "there is no guest %s; a kernel file goes behind --kernel",
				   name);
	}
	directory = guest_directory(name);
	if (!directory) {
		fprintf(stderr,
			"insula: neither XDG_CACHE_HOME nor HOME says where guests are kept\n");
		return STATUS_HOST_ERROR;
	}
	guest->kernel = join(directory, "kernel");
	guest->initrd = join(directory, "initrd");
	cmdline = join(directory, "cmdline");
	if (!guest->kernel || !guest->initrd || !cmdline) {
		fprintf(stderr, "insula: out of memory\n");
		goto out;
	}
	if (access(guest->kernel, F_OK) < 0 || access(guest->initrd, F_OK) < 0 ||
	    access(cmdline, F_OK) < 0) {
		fprintf(stderr,
			"insula: guest %s is not built yet; build it with: insula guest build %s\n",
			name, name);
		goto out;
	}
	guest->cmdline = read_cmdline(cmdline, append);
	if (!guest->cmdline) {
		fprintf(stderr, "insula: %s: %s\n", cmdline, strerror(errno));
		goto out;
	}
	status = -1;
out:
	free(directory);
	free(cmdline);
	return status;
}

void guest_fini(struct guest *guest)
{
	free(guest->kernel);
	free(guest->initrd);
	free(guest->cmdline);
	*guest = (struct guest){ 0 };
}
