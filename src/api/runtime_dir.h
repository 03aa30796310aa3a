/*
 * Where running VMs are found: a folder of sockets, one for each, in the user's
 * runtime directory. $XDG_RUNTIME_DIR/insula, or /tmp/insula-UID where there is
 * none; ours alone (mode 0700), or it is not used.
 *
 * A socket NAME.sock whose owner was killed answers no connection: it is stale,
 * and whoever meets it removes it. Making, looking and removing happen under a
 * lock on the folder, so none removes what another just made.
 */
#ifndef INSULA_API_RUNTIME_DIR_H
#define INSULA_API_RUNTIME_DIR_H

#include <stdbool.h>
#include <stddef.h>

#define RUNTIME_NAME_MAX  48 /* bytes of a VM's name, without the end; sun_path is short */
#define RUNTIME_PATH_MAX  108
#define RUNTIME_ERROR_MAX 256

/* Letters, digits, '.', '_' and '-', beginning with a letter or digit. */
bool runtime_name_valid(const char *name);

struct runtime_dir {
	int fd;
	char path[RUNTIME_PATH_MAX];
};

/*
 * create: make it if it is not there. 0 or -errno with a sentence in error
 * (RUNTIME_ERROR_MAX bytes); -ENOENT without create: no VM has ever run.
 */
int runtime_dir_open(struct runtime_dir *dir, bool create, char *error)
	__attribute__((warn_unused_result));
void runtime_dir_close(struct runtime_dir *dir);

/*
 * Claims the name and listens: the socket's descriptor, or -errno with a
 * sentence, -EADDRINUSE if a VM of that name runs. name may hold a pattern's
 * first part: with `any` a number is added ("debian-2") until one is free, and
 * name (RUNTIME_NAME_MAX + 1 bytes) says which.
 */
int runtime_claim(struct runtime_dir *dir, char *name, bool any, char *error)
	__attribute__((warn_unused_result));
/* Gives the name up. The socket is closed by the caller, afterwards. */
void runtime_unclaim(struct runtime_dir *dir, const char *name);

/* A connection, or -errno: -ENOENT no such VM; stale sockets are removed on the way. */
int runtime_connect(struct runtime_dir *dir, const char *name) __attribute__((warn_unused_result));

/* Names of the sockets, sorted, NULL-terminated; running or stale. free() each and the list. NULL:
 * no memory. */
char **runtime_names(struct runtime_dir *dir);
void runtime_names_free(char **names);

#endif
