/* Child programs and folders for guest_build.c. */
#include "cli/guest_command.h"

#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define OUTPUT_MAX (1u << 20)

/* In the child. A failed exec is told through the pipe, so that "not installed" differs from any
 * exit status. */
static void child(const char *folder, const char *const *argv, int out_fd, int quiet, int told)
{
	int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	dup2(null_fd, 0);
	dup2(out_fd >= 0 ? out_fd : null_fd, 1);
	if (quiet)
		dup2(null_fd, 2);
	if (!chdir(folder))
		execvp(argv[0], (char *const *)argv);
	int err = errno;
	ssize_t written = write(told, &err, sizeof(err));

	_exit(written < 0 ? 126 : 127);
}

static int run(const char *folder, const char *const *argv, int out_fd, int quiet)
{
	int told[2], err = 0, status = 0;

	if (pipe2(told, O_CLOEXEC))
		return -errno;
	pid_t pid = fork();

	if (pid == 0)
		child(folder, argv, out_fd, quiet, told[1]);
	close(told[1]);
	if (pid < 0)
		err = errno;
	else if (read(told[0], &err, sizeof(err)) != sizeof(err))
		err = 0;
	close(told[0]);
	while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (err)
		return -err;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int guest_command(const char *folder, const char *const *argv, const char *out, int quiet)
{
	int fd = -1;

	if (out) {
		fd = open(out, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
		if (fd < 0)
			return -errno;
	}
	int status = run(folder, argv, fd, quiet);

	if (fd >= 0)
		close(fd);
	return status;
}

char *guest_command_output(const char *folder, const char *const *argv)
{
	FILE *file = tmpfile();
	char *text = NULL;

	if (file && run(folder, argv, fileno(file), 1) == 0) {
		off_t len = lseek(fileno(file), 0, SEEK_END);

		if (len >= 0 && len <= (off_t)OUTPUT_MAX)
			text = calloc(1, (size_t)len + 1);
		if (text && pread(fileno(file), text, (size_t)len, 0) != len) {
			free(text);
			text = NULL;
		}
	}
	if (file)
		fclose(file);
	return text;
}

void guest_folder_remove(const char *path)
{
	char *const roots[] = { (char *)path, NULL };
	FTS *fts = fts_open(roots, FTS_PHYSICAL | FTS_NOCHDIR, NULL);
	FTSENT *entry;

	while (fts && (entry = fts_read(fts))) {
		if (entry->fts_info == FTS_D)
			continue;
		if (entry->fts_info == FTS_DP)
			rmdir(entry->fts_accpath);
		else
			unlink(entry->fts_accpath);
	}
	if (fts)
		fts_close(fts);
}

int guest_folder_make(const char *path)
{
	char *copy = strdup(path);
	int err = copy ? 0 : -ENOMEM;

	for (char *slash = copy; !err && slash;) {
		slash = strchr(slash + 1, '/');
		if (slash)
			*slash = 0;
		if (mkdir(copy, 0755) && errno != EEXIST)
			err = -errno;
		if (slash)
			*slash = '/';
	}
	free(copy);
	return err;
}
