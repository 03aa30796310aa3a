/*
 * PID 1 of Insula's default guest. It sets up what a program may expect of a
 * Linux system, then serves one command for the monitor over the port
 * "insula.agent", or a shell on the console, and powers off when that ends.
 *
 * Time to the first instruction of the command counts: modules are loaded for
 * the devices that are there, and what nobody waits for is done by a child.
 */
#include "init.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PORT_NAME    "insula.agent"
#define PORT_WAIT_MS 10000

char *init_environment[] = {
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	"HOME=/root",
	"USER=root",
	"LOGNAME=root",
	"SHELL=/bin/sh",
	"TERM=linux",
	"PS1=\\u@\\h:\\w\\$ ",
	NULL,
};

enum { HAVE_CONSOLE = 1, HAVE_BLOCK = 2, HAVE_RNG = 4, HAVE_NET = 8 };

static void mount_all(void)
{
	mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	mount("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, "mode=0755");
	mkdir("/dev/pts", 0755);
	mkdir("/dev/shm", 01777);
	mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=620,ptmxmode=666");
	mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, NULL);
	mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, NULL);
	mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755");
	symlink("/proc/self/fd", "/dev/fd");
	symlink("/proc/self/fd/0", "/dev/stdin");
	symlink("/proc/self/fd/1", "/dev/stdout");
	symlink("/proc/self/fd/2", "/dev/stderr");
}

static void loopback_up(void)
{
	struct ifreq ifr = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return;
	ioctl(fd, SIOCSIFFLAGS, &ifr);
	close(fd);
}

/* The first line of a small file; false if there is none. */
static bool read_line(const char *path, char *line, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return false;
	ssize_t got = read(fd, line, size - 1);

	close(fd);
	if (got < 0)
		return false;
	line[got] = 0;
	line[strcspn(line, "\n")] = 0;
	return true;
}

/* Which virtio devices are on the PCI bus: ids 0x1040 + type, or 0x1000.. in the transitional
 * numbering. */
static unsigned devices_find(void)
{
	DIR *dir = opendir("/sys/bus/pci/devices");
	struct dirent *entry;
	unsigned have = 0;

	while (dir && (entry = readdir(dir))) {
		char path[320], value[16];

		snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/vendor", entry->d_name);
		if (entry->d_name[0] == '.' || !read_line(path, value, sizeof(value)) ||
		    strcmp(value, "0x1af4"))
			continue;
		snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/device", entry->d_name);
		if (!read_line(path, value, sizeof(value)))
			continue;
		switch (strtoul(value, NULL, 16)) {
		case 0x1000:
		case 0x1041:
			have |= HAVE_NET;
			break;
		case 0x1001:
		case 0x1042:
			have |= HAVE_BLOCK;
			break;
		case 0x1003:
		case 0x1043:
			have |= HAVE_CONSOLE;
			break;
		case 0x1005:
		case 0x1044:
			have |= HAVE_RNG;
			break;
		}
	}
	if (dir)
		closedir(dir);
	return have;
}

static void sleep_ms(long ms)
{
	nanosleep(&(struct timespec){ ms / 1000, ms % 1000 * 1000000 }, NULL);
}

/* -1 if the console device has no such port now. */
static int port_open_once(void)
{
	DIR *dir = opendir("/sys/class/virtio-ports");
	struct dirent *entry;
	int fd = -1;

	while (dir && fd < 0 && (entry = readdir(dir))) {
		char path[320], name[64];

		snprintf(path, sizeof(path), "/sys/class/virtio-ports/%s/name", entry->d_name);
		if (entry->d_name[0] == '.' || !read_line(path, name, sizeof(name)) ||
		    strcmp(name, PORT_NAME))
			continue;
		snprintf(path, sizeof(path), "/dev/%s", entry->d_name);
		fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
	}
	if (dir)
		closedir(dir);
	return fd;
}

/* Ports appear some time after the driver is bound: the host names each in a message of its own. */
static int port_open(bool wait)
{
	int fd = port_open_once();

	for (int ms = 0; fd < 0 && wait && ms < PORT_WAIT_MS; ms += ms < 50 ? 1 : 10) {
		sleep_ms(ms < 50 ? 1 : 10);
		fd = port_open_once();
	}
	return fd;
}

/* A word NAME=VALUE of the kernel command line. */
static bool option(const char *name, char *value, size_t size)
{
	char line[4096], *rest = line, *word;
	size_t len = strlen(name);

	if (!read_line("/proc/cmdline", line, sizeof(line)))
		return false;
	while ((word = strsep(&rest, " "))) {
		if (!strncmp(word, name, len) && word[len] == '=') {
			snprintf(value, size, "%s", word + len + 1);
			return true;
		}
	}
	return false;
}

/* A login shell that owns the terminal, so that job control and Ctrl-C work. */
static pid_t shell_start(const char *device)
{
	char path[80];
	pid_t pid = fork();

	if (pid)
		return pid;
	snprintf(path, sizeof(path), "/dev/%s", device);
	user_enter();
	setsid();
	int fd = open(path, O_RDWR);

	if (fd < 0)
		fd = open("/dev/console", O_RDWR);
	if (fd >= 0) {
		ioctl(fd, TIOCSCTTY, 1);
		for (int i = 0; i < 3; i++)
			dup2(fd, i);
		if (fd > 2)
			close(fd);
	}
	if (chdir("/root"))
		chdir("/");
	execve("/bin/sh", (char *[]){ "-sh", NULL }, init_environment);
	_exit(127);
}

static void shell_wait(pid_t shell)
{
	pid_t pid;

	do {
		pid = wait(NULL);
	} while (pid != shell && (pid > 0 || errno == EINTR));
}

/* What no command waits for. */
static void later(unsigned have, pid_t shell)
{
	if (fork())
		return;
	if (have & HAVE_RNG)
		modules_load("virtio_rng");
	if (have & HAVE_NET)
		modules_load("virtio_net");
	if (shell > 0)
		power_button_watch(shell);
	_exit(0);
}

static bool disks_mounted(void)
{
	char line[1024];
	bool found = false;
	FILE *mounts = fopen("/proc/mounts", "re");

	while (mounts && !found && fgets(line, sizeof(line), mounts))
		found = !strncmp(line, "/dev/", 5);
	if (mounts)
		fclose(mounts);
	return found;
}

/* The latest mount first; what stays busy is made read-only. */
static void disks_unmount(void)
{
	char line[1024], target[64][256];
	int count = 0;
	FILE *mounts = fopen("/proc/mounts", "re");

	while (mounts && count < 64 && fgets(line, sizeof(line), mounts)) {
		if (sscanf(line, "/dev/%*s %255s", target[count]) == 1)
			count++;
	}
	if (mounts)
		fclose(mounts);
	while (count--) {
		if (umount2(target[count], 0))
			mount(NULL, target[count], NULL, MS_REMOUNT | MS_RDONLY, NULL);
	}
}

void init_quiesce(void)
{
	kill(-1, SIGKILL);
	while (waitpid(-1, NULL, WNOHANG) > 0)
		;
	if (disks_mounted()) {
		sync();
		disks_unmount();
	}
	sync();
}

int main(int argc, char **argv)
{
	const char *name = strrchr(argv[0], '/');
	char device[64] = "";
	pid_t shell = 0;

	if (!strcmp(name ? name + 1 : argv[0], "modprobe"))
		return modules_modprobe_main(argc, argv);
	if (getpid() != 1) {
		fprintf(stderr, "%s: this is the guest's init\n", argv[0]);
		return 1;
	}
	signal(SIGPIPE, SIG_IGN);
	mount_all();
	user_make();
	machine_id_make();
	sethostname("insula", 6);
	loopback_up();

	unsigned have = devices_find();

	if (have)
		modules_load("virtio_pci");
	if (have & HAVE_CONSOLE)
		modules_load("virtio_console");
	if (have & HAVE_BLOCK)
		modules_load("virtio_blk");

	bool wants_shell = option("insula.shell", device, sizeof(device));
	int port = port_open((have & HAVE_CONSOLE) && !wants_shell);

	if (wants_shell || port < 0)
		shell = shell_start(device[0] ? device : "console");
	later(have, shell);
	if (wants_shell && port < 0)
		port = port_open_once();
	if (port >= 0)
		session_serve(port, shell);
	else
		shell_wait(shell);
	init_quiesce();
	reboot(RB_POWER_OFF);
	for (;;)
		pause();
}
