/* The parts of the guest's init: PID 1 (init.c), modules (modules.c), one command for the monitor
 * (session.c), the power button (power_button.c). */
#ifndef INSULA_GUEST_INIT_H
#define INSULA_GUEST_INIT_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* Loads a module with what it depends on; by its name or one of its aliases. 0, or -1 if there is
 * none such. */
int modules_load(const char *name);
int modules_modprobe_main(int argc, char **argv);

/* Serves the monitor on an open port until a command has ended or the monitor is gone; then the
 * guest is to power off. */
void session_serve(int port, pid_t shell);

/* Ends the shell when the ACPI power button is pressed. */
void power_button_watch(pid_t shell);

/* Ends all processes and, if disks are mounted, unmounts. */
void init_quiesce(void);

extern char *init_environment[];

#endif
