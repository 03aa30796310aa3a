/*
 * The ACPI power button, for a guest with a shell on its console: the monitor
 * presses it when it is asked to end, and the guest powers off in order. Runs
 * in a child of PID 1, so that nobody waits for two modules.
 */
#include "init.h"

#include <fcntl.h>
#include <glob.h>
#include <linux/input.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#define INPUTS_MAX 16

/* Returns when the power key was pressed, or if there is none. */
static void power_key_wait(void)
{
	struct pollfd inputs[INPUTS_MAX];
	struct input_event event;
	unsigned count = 0;
	glob_t found;

	if (glob("/dev/input/event*", 0, NULL, &found))
		return;
	for (size_t i = 0; i < found.gl_pathc && count < INPUTS_MAX; i++) {
		int fd = open(found.gl_pathv[i], O_RDONLY | O_CLOEXEC);

		if (fd >= 0)
			inputs[count++] = (struct pollfd){ .fd = fd, .events = POLLIN };
	}
	globfree(&found);
	while (count && poll(inputs, count, -1) > 0) {
		for (unsigned i = 0; i < count; i++) {
			if (!inputs[i].revents)
				continue;
			if (read(inputs[i].fd, &event, sizeof(event)) != sizeof(event))
				return;
			if (event.type == EV_KEY && event.code == KEY_POWER && event.value == 1)
				return;
		}
	}
}

void power_button_watch(pid_t shell)
{
	modules_load("evdev");
	if (modules_load("button"))
		return;
	power_key_wait();
	/* PID 1 waits for the shell, and then powers off. */
	kill(shell, SIGKILL);
}
