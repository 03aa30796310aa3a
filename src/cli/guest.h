/*
 * Named guests: where their files are. `insula guest build` makes them,
 * `insula run` boots them. A guest is a folder of these files, and a
 * manifest.json that says where they come from:
 *
 *   $XDG_CACHE_HOME/insula/guests/NAME/kernel     unpacked, so that it need not unpack itself
 *   $XDG_CACHE_HOME/insula/guests/NAME/vmlinuz    kernel, as packaged
 *   $XDG_CACHE_HOME/insula/guests/NAME/initrd     initramfs with Insula's init and agent
 *   $XDG_CACHE_HOME/insula/guests/NAME/cmdline    kernel command line, one line
 */
#ifndef INSULA_CLI_GUEST_H
#define INSULA_CLI_GUEST_H

#include <stddef.h>

#define GUEST_NAME_MAX 64

struct guest {
	char *kernel, *initrd; /* paths */
	char *cmdline;         /* with what was to be added */
};

/* The names that insula guest build knows; ends with NULL. */
extern const char *const guest_names[];

/*
 * Negative: found. Else the process's exit status, with the reason on stderr,
 * which is the command to type if the guest was never built. append: added to
 * the command line; may be NULL.
 */
int guest_open(struct guest *guest, const char *name, const char *append);
void guest_fini(struct guest *guest);

/* The folder of a guest, whether or not it exists; the caller frees. NULL with errno: no home, no
 * memory. */
char *guest_directory(const char *name);

#endif
