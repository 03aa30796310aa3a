/*
 * When the monitor copies the machine, or starts it again from what it saved:
 * the user's processes stand still until what they must not see twice is new.
 * Called by init.c and session.c. Invariant: whoever is held is let go by the
 * RENEW that follows, in this machine and in each copy of it.
 */
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "vm/agent_wire.h"

#define CGROUPS      "/sys/fs/cgroup"
#define USER         CGROUPS "/user"
#define HOLD_WAIT_MS 1000

static bool write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	bool written;

	if (fd < 0)
		return false;
	written = write(fd, text, strlen(text)) == (ssize_t)strlen(text);
	close(fd);
	return written;
}

void user_make(void)
{
	/* A kernel without control groups: then nobody can be held. */
	if (mount("cgroup2", CGROUPS, "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) == 0)
		mkdir(USER, 0755);
}

void user_enter(void)
{
	write_file(USER "/cgroup.procs", "0");
}

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

void user_hold(bool hold)
{
	int64_t end = now_ms() + HOLD_WAIT_MS;
	int fd;

	if (!write_file(USER "/cgroup.freeze", hold ? "1" : "0") || !hold)
		return;
	fd = open(USER "/cgroup.events", O_RDONLY | O_CLOEXEC);
	while (fd >= 0) {
		struct pollfd change = { .fd = fd, .events = POLLPRI };
		char text[128] = "";
		int64_t left = end - now_ms();

		if (pread(fd, text, sizeof(text) - 1, 0) <= 0 || strstr(text, "frozen 1") ||
		    left <= 0)
			break;
		poll(&change, 1, (int)left);
	}
	if (fd >= 0)
		close(fd);
}

static void machine_id_write(const uint8_t *id)
{
	char text[2 * WIRE_MACHINE_ID_LEN + 2];
	int fd = open("/etc/machine-id", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0444);

	if (fd < 0)
		return;
	for (unsigned i = 0; i < WIRE_MACHINE_ID_LEN; i++)
		sprintf(text + (size_t)2 * i, "%02x", id[i]);
	strcat(text, "\n");
	if (write(fd, text, strlen(text)) < 0)
		errno = 0; /* a full disk: then it has none */
	close(fd);
}

void machine_id_make(void)
{
	uint8_t id[WIRE_MACHINE_ID_LEN];

	if (access("/etc/machine-id", F_OK) &&
	    getrandom(id, sizeof(id), GRND_NONBLOCK) == sizeof(id))
		machine_id_write(id);
}

static void seed(const uint8_t *bytes)
{
	struct {
		int entropy_bits, len;
		uint8_t bytes[WIRE_SEED_LEN];
	} pool = { .entropy_bits = WIRE_SEED_LEN * 8, .len = WIRE_SEED_LEN };
	int fd = open("/dev/urandom", O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	memcpy(pool.bytes, bytes, sizeof(pool.bytes));
	ioctl(fd, RNDADDENTROPY, &pool);
	/* The pool is only looked at now and then; the generator's key must be another now. */
	ioctl(fd, RNDRESEEDCRNG, NULL);
	close(fd);
}

void renew(const uint8_t *payload, uint32_t len)
{
	const uint8_t *id = payload + 4 + WIRE_SEED_LEN, *name = id + WIRE_MACHINE_ID_LEN;
	const uint8_t *end = payload + len;

	if (len >= 4 + WIRE_SEED_LEN)
		seed(payload + 4);
	if (len > 4 + WIRE_SEED_LEN + WIRE_MACHINE_ID_LEN &&
	    (wire_load32(payload) & WIRE_RENEW_IDENTITY)) {
		machine_id_write(id);
		if (sethostname((const char *)name, (size_t)(end - name)) < 0)
			errno = 0; /* too long: the old one stays */
	}
	user_hold(false);
}
