/*
 * See the header. Used by every monitor for its own socket and by the verbs
 * that talk to others. Invariant: a socket is bound and listening before the
 * folder's lock is let go, so a refused connection means a dead owner.
 */
#include "api/runtime_dir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define SUFFIX     ".sock"
#define SUFFIX_LEN 5
#define NUMBER_MAX 9999
#define BACKLOG    64
#define TRIES      100 /* of 10 ms, while a monitor's backlog is full */

static int __attribute__((format(printf, 3, 4))) fail(char *error, int err, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(error, RUNTIME_ERROR_MAX, format, args);
	va_end(args);
	return err;
}

bool runtime_name_valid(const char *name)
{
	size_t len = strlen(name);

	if (!len || len > RUNTIME_NAME_MAX || name[0] == '.' || name[0] == '-' || name[0] == '_')
		return false;
	return strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") ==
	       len;
}

static int choose_path(struct runtime_dir *dir)
{
	const char *base = getenv("XDG_RUNTIME_DIR");
	struct stat st;
	int len = -1;

	/* One that does not exist, as after su, is worth nothing. */
	if (base && base[0] == '/' && stat(base, &st) == 0 && S_ISDIR(st.st_mode))
		len = snprintf(dir->path, sizeof(dir->path), "%s/insula", base);
	/* Too long for a socket's address: the other place. */
	if (len < 0 || len + 1 + RUNTIME_NAME_MAX + SUFFIX_LEN >= RUNTIME_PATH_MAX)
		len = snprintf(dir->path, sizeof(dir->path), "/tmp/insula-%u", (unsigned)geteuid());
	return len;
}

int runtime_dir_open(struct runtime_dir *dir, bool create, char *error)
{
	struct stat st;

	choose_path(dir);
	dir->fd = -1;
	if (create && mkdir(dir->path, 0700) < 0 && errno != EEXIST)
		return fail(error, -errno, "cannot make %s: %s", dir->path, strerror(errno));
	dir->fd = open(dir->path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (dir->fd < 0)
		return fail(error, -errno, "cannot open %s: %s", dir->path, strerror(errno));
	/* In /tmp anybody may have made it first. */
	if (fstat(dir->fd, &st) < 0 || st.st_uid != geteuid() || (st.st_mode & 077)) {
		runtime_dir_close(dir);
		return fail(error, -EPERM,
			    "%s is not a folder of yours alone; remove it, or chmod 700 it",
			    dir->path);
	}
	return 0;
}

void runtime_dir_close(struct runtime_dir *dir)
{
	if (dir->fd >= 0)
		close(dir->fd);
	dir->fd = -1;
}

static void lock(struct runtime_dir *dir)
{
	while (flock(dir->fd, LOCK_EX) < 0 && errno == EINTR)
		;
}

static void unlock(struct runtime_dir *dir)
{
	flock(dir->fd, LOCK_UN);
}

static void address_of(const struct runtime_dir *dir, const char *name, struct sockaddr_un *address)
{
	*address = (struct sockaddr_un){ .sun_family = AF_UNIX };
	/* choose_path() has seen to it that it fits. */
	snprintf(address->sun_path, sizeof(address->sun_path), "%.*s/%.*s" SUFFIX,
		 RUNTIME_PATH_MAX - RUNTIME_NAME_MAX - SUFFIX_LEN - 2, dir->path, RUNTIME_NAME_MAX,
		 name);
}

/* A connection, or -errno; -ECONNREFUSED: nobody listens any more. */
static int connect_to(const struct sockaddr_un *address)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), flags, err;

	if (fd < 0)
		return -errno;
	/* Non-blocking: a monitor that is stopped, its backlog full, must not hold us. */
	if (connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0) {
		err = -errno;
		close(fd);
		return err;
	}
	flags = fcntl(fd, F_GETFL);
	fcntl(fd, F_SETFL, flags & ~O_NONBLOCK);
	return fd;
}

/* Folder locked. 0: the name is free now. */
static int make_free(const struct sockaddr_un *address)
{
	int fd = connect_to(address);

	if (fd >= 0) {
		close(fd);
		return -EADDRINUSE;
	}
	if (fd == -ENOENT)
		return 0;
	if (fd != -ECONNREFUSED)
		return -EADDRINUSE;
	return unlink(address->sun_path) < 0 ? -errno : 0;
}

static int listen_at(const struct sockaddr_un *address)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), err;

	if (fd < 0)
		return -errno;
	if (bind(fd, (const struct sockaddr *)address, sizeof(*address)) == 0 &&
	    chmod(address->sun_path, 0600) == 0 && listen(fd, BACKLOG) == 0)
		return fd;
	err = -errno;
	close(fd);
	return err;
}

static int claim_any(const struct runtime_dir *dir, char *name, struct sockaddr_un *address)
{
	char base[RUNTIME_NAME_MAX + 1];
	int err = -EADDRINUSE;

	snprintf(base, sizeof(base), "%.*s", RUNTIME_NAME_MAX - 5, name);
	for (unsigned n = 1; n <= NUMBER_MAX && err == -EADDRINUSE; n++) {
		if (n > 1)
			snprintf(name, RUNTIME_NAME_MAX + 1, "%.*s-%u", RUNTIME_NAME_MAX - 5, base,
				 n);
		address_of(dir, name, address);
		err = make_free(address);
	}
	return err;
}

int runtime_claim(struct runtime_dir *dir, char *name, bool any, char *error)
{
	struct sockaddr_un address;
	int fd;

	lock(dir);
	if (any) {
		fd = claim_any(dir, name, &address);
	} else {
		address_of(dir, name, &address);
		fd = make_free(&address);
	}
	if (!fd)
		fd = listen_at(&address);
	unlock(dir);
	if (fd == -EADDRINUSE)
		return fail(error, fd, "a VM named %s runs already; see insula ps", name);
	if (fd < 0)
		return fail(error, fd, "cannot make the control socket %s: %s", address.sun_path,
			    strerror(-fd));
	return fd;
}

void runtime_unclaim(struct runtime_dir *dir, const char *name)
{
	struct sockaddr_un address;

	address_of(dir, name, &address);
	lock(dir);
	unlink(address.sun_path);
	unlock(dir);
}

int runtime_connect(struct runtime_dir *dir, const char *name)
{
	const struct timespec pause = { .tv_nsec = 10000000 };
	struct sockaddr_un address;
	int fd;

	address_of(dir, name, &address);
	fd = connect_to(&address);
	for (unsigned try = 0; fd == -EAGAIN && try < TRIES; try++) {
		nanosleep(&pause, NULL);
		fd = connect_to(&address);
	}
	if (fd != -ECONNREFUSED)
		return fd;
	/* Once more under the lock: a new owner may be about to listen. */
	lock(dir);
	fd = connect_to(&address);
	if (fd == -ECONNREFUSED) {
		unlink(address.sun_path);
		fd = -ENOENT;
	}
	unlock(dir);
	return fd;
}

static int compare(const void *a, const void *b)
{
	return strverscmp(*(char *const *)a, *(char *const *)b);
}

static bool name_of(const char *file, char *name)
{
	size_t len = strlen(file);

	if (len <= SUFFIX_LEN || len - SUFFIX_LEN > RUNTIME_NAME_MAX ||
	    strcmp(file + len - SUFFIX_LEN, SUFFIX) != 0)
		return false;
	memcpy(name, file, len - SUFFIX_LEN);
	name[len - SUFFIX_LEN] = '\0';
	return runtime_name_valid(name);
}

char **runtime_names(struct runtime_dir *dir)
{
	int fd = openat(dir->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *list = fd < 0 ? NULL : fdopendir(fd);
	size_t count = 0, room = 16;
	char **names = calloc(room, sizeof(*names));
	struct dirent *entry;

	if (!names || !list) {
		if (list)
			closedir(list);
		else if (fd >= 0)
			close(fd);
		return names;
	}
	while ((entry = readdir(list))) {
		char name[RUNTIME_NAME_MAX + 1];

		if (!name_of(entry->d_name, name))
			continue;
		if (count + 1 == room) {
			char **more = realloc(names, 2 * room * sizeof(*names));

			if (!more)
				break;
			names = more;
			room *= 2;
		}
		names[count] = strdup(name);
		if (!names[count])
			break;
		names[++count] = NULL;
	}
	closedir(list);
	qsort(names, count, sizeof(*names), compare);
	return names;
}

void runtime_names_free(char **names)
{
	for (char **name = names; name && *name; name++)
		free(*name);
	free(names);
}
