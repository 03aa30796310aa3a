/*
 * Makes the named guests: a Debian kernel from its package, busybox-static and
 * Insula's own init, as a folder that `insula run` boots (cli/guest.h). Needs
 * apt and dpkg-deb, but no root and no compiler.
 */
#ifndef INSULA_CLI_GUEST_BUILD_H
#define INSULA_CLI_GUEST_BUILD_H

#include <stdbool.h>

/*
 * Builds the guest, replacing an older one only when the new one is complete.
 * Progress goes to stderr; with json the manifest goes to stdout in the end.
 * The process's exit status; failures are said on stderr.
 */
int guest_build(const char *name, bool json);

/* Prints the manifests of the guests there are, and which are not built. */
int guest_build_list(bool json);
int guest_build_remove(const char *name);

#endif
