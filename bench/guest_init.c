/*
 * insula-bench as process 1 of a guest: says at once that it is there, sets up
 * what the workloads need, then serves bench/run over the console. A request is
 * a line; CLOCK is the guest's CLOCK_MONOTONIC, by which the host sees whether
 * that clock is right:
 *
 *   run WORDS...   as the command line insula-bench WORDS...
 *                  begin CLOCK 0, what that prints, end CLOCK STATUS
 *   clock          clock CLOCK 0
 *   off            powers the guest down
 *
 * Invariant: between requests the guest does nothing, so it may be left idle
 * while the host is measured.
 */
#include "workload.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define MODULES     "/modules"
#define MODULES_MAX 32
#define WORDS_MAX   32

static void say(const char *line)
{
	if (write(STDOUT_FILENO, line, strlen(line)) < 0)
		return;
}

/* A word, CLOCK_MONOTONIC in seconds, and perhaps a status. */
static void say_clock(const char *word, int status)
{
	char line[80];
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	snprintf(line, sizeof(line), "%s %lld.%09ld %d\n", word, (long long)t.tv_sec, t.tv_nsec,
		 status);
	say(line);
}

/* What bench/run put there, in the order of their names. */
static void modules_load(void)
{
	char path[64];

	for (int i = 0; i < MODULES_MAX; i++) {
		snprintf(path, sizeof(path), MODULES "/%02d.ko", i);
		int fd = open(path, O_RDONLY | O_CLOEXEC);

		if (fd < 0)
			break;
		if (syscall(SYS_finit_module, fd, "", 0) && errno != EEXIST)
			fprintf(stderr, "insula-bench: %s: %s\n", path, strerror(errno));
		close(fd);
	}
}

static void console_raw(void)
{
	struct termios t;

	if (tcgetattr(STDIN_FILENO, &t))
		return;
	t.c_iflag = IGNBRK | ICRNL;
	t.c_oflag = 0;
	t.c_lflag = ICANON;
	tcsetattr(STDIN_FILENO, TCSANOW, &t);
}

static int serve(char *line)
{
	char *argv[WORDS_MAX + 1] = { "insula-bench" }, *word;
	int argc = 1, status = 0;
	pid_t pid;

	while ((word = strsep(&line, " \n"))) {
		if (*word && argc < WORDS_MAX)
			argv[argc++] = word;
	}
	pid = fork();
	if (!pid) {
		execv("/proc/self/exe", argv);
		_exit(127);
	}
	if (pid < 0)
		return 1;
	while (waitpid(pid, &status, 0) != pid)
		;
	while (waitpid(-1, NULL, WNOHANG) > 0)
		;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

void guest_init(void)
{
	char line[1024];

	say("insula-bench: init\n");
	mkdir("/proc", 0755);
	mkdir("/sys", 0755);
	mkdir("/tmp", 0755);
	mount("proc", "/proc", "proc", 0, NULL);
	mount("sysfs", "/sys", "sysfs", 0, NULL);
	mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
	mkdir("/dev/shm", 0755);
	mount("tmpfs", "/dev/shm", "tmpfs", 0, NULL);
	console_raw();
	modules_load();
	say("insula-bench: ready\n");
	while (fgets(line, sizeof(line), stdin)) {
		if (!strncmp(line, "off", 3))
			break;
		if (!strncmp(line, "clock", 5))
			say_clock("clock", 0);
		if (strncmp(line, "run ", 4))
			continue;
		say_clock("begin", 0);
		say_clock("end", serve(line + 4));
	}
	sync();
	reboot(RB_POWER_OFF);
	for (;;)
		pause();
}
