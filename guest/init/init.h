/* The parts of the guest's init: PID 1 (init.c), what holds the user's processes and renews the
 * machine (renew.c), modules (modules.c), one command for the monitor (session.c), the power button
 * (power_button.c). */
#ifndef INSULA_GUEST_INIT_H
#define INSULA_GUEST_INIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Loads a module with what it depends on; by its name or one of its aliases. 0, or -1 if there is
 * none such. */
int modules_load(const char *name);
int modules_modprobe_main(int argc, char **argv);

/* Serves the monitor on an open port until a command has ended or the monitor is gone; then the
 * guest is to power off. */
void session_serve(int port, pid_t shell);

/*
 * The user's processes have a control group, so that all of them can be held at once. Make: once,
 * as early as can be. Enter: what a child of ours does before it becomes the user's. Hold: nothing
 * of the user's runs when it returns, or it could not be had within a second.
 */
void user_make(void);
void user_enter(void);
void user_hold(bool hold);

/* A machine-id of the kernel's random numbers; nobody may wait for those so early. */
void machine_id_make(void);

/* What a RENEW frame says (vm/agent_wire.h). */
void renew(const uint8_t *payload, uint32_t len);

/* Ends the shell when the ACPI power button is pressed. */
void power_button_watch(pid_t shell);

/* Ends all processes and, if disks are mounted, unmounts. */
void init_quiesce(void);

extern char *init_environment[];

#endif
