/* A disk read from its start with O_DIRECT, 1 MiB at a time, until the time or the disk ends: what
 * has been read once may be in a cache of the host's, so it is not read again. */
#include "workload.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHUNK (1 << 20)

static int disk = -1;
static void *chunk;

static bool setup(void)
{
	/* The device's node may come some time after its driver. */
	for (int ms = 0; bench_disk && disk < 0 && ms < 2000; ms += 50) {
		disk = open(bench_disk, O_RDONLY | O_DIRECT | O_CLOEXEC);
		if (disk < 0)
			usleep(50000);
	}
	if (disk < 0) {
		bench_reason = bench_disk ? strerror(errno) : "no --disk";
		return false;
	}
	chunk = aligned_alloc(4096, CHUNK);
	if (!chunk)
		return false;
	memset(chunk, 0, CHUNK);
	return true;
}

static uint64_t run(uint64_t ops)
{
	uint64_t done = 0;

	while (done < ops && read(disk, chunk, CHUNK) == CHUNK)
		done++;
	return done;
}

const struct workload disk_workloads[] = {
	{ "disk_read", "disk", setup, run, WORKLOAD_NO_WARM_UP },
	{ 0 },
};
