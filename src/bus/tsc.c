/*
 * How fast the host's time stamp counter runs. Sources, best first: what the
 * processor says (CPUID 15h, SDM 2A), what a hypervisor around us says, the
 * relation the kernel itself uses, and last a measurement.
 */
#include "bus/tsc.h"

#include <cpuid.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define HYPERVISOR_BASE 0x40000000u
#define HYPERVISOR_TIMING \
	0x40000010u /* EAX: TSC in kHz; VMware's, also KVM's and Xen's on some hosts */

/* A hypervisor may not pass the bit on, yet the kernel, who watches it, keeps its time by it. */
static bool kernel_trusts_it(void)
{
	char name[8] = "";
	int fd = open("/sys/devices/system/clocksource/clocksource0/current_clocksource",
		      O_RDONLY | O_CLOEXEC);
	ssize_t got = fd < 0 ? -1 : read(fd, name, sizeof(name));

	if (fd >= 0)
		close(fd);
	return got == 4 && memcmp(name, "tsc\n", 4) == 0;
}

bool tsc_invariant(void)
{
	unsigned a, b, c, d;

	if (__get_cpuid(0x80000007u, &a, &b, &c, &d) && (d & 1u << 8))
		return true;
	return kernel_trusts_it();
}

static uint64_t khz_of_cpuid(void)
{
	unsigned a, b, c, d;

	/* Crystal clock in Hz (ECX) times EBX/EAX; processors that leave ECX 0 do not say. */
	if (__get_cpuid_count(0x15, 0, &a, &b, &c, &d) && a && b && c)
		return (uint64_t)c * b / a / 1000;
	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & 1u << 31))
		return 0;
	__cpuid(HYPERVISOR_BASE, a, b, c, d);
	if (a < HYPERVISOR_TIMING || a > HYPERVISOR_BASE + 0xffff)
		return 0;
	__cpuid(HYPERVISOR_TIMING, a, b, c, d);
	return a;
}

/*
 * The page that accompanies a perf event says how the kernel turns TSC into
 * nanoseconds: ns = tsc * mult >> shift.
 */
static uint64_t khz_of_kernel(void)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_SOFTWARE,
		.size = sizeof(attr),
		.config = PERF_COUNT_SW_DUMMY,
		.exclude_kernel = 1,
		.exclude_hv = 1,
	};
	long page_bytes = sysconf(_SC_PAGESIZE);
	struct perf_event_mmap_page *page;
	uint64_t khz = 0;
	int fd = (int)syscall(SYS_perf_event_open, &attr, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);

	if (fd < 0)
		return 0;
	page = mmap(NULL, (size_t)page_bytes, PROT_READ, MAP_SHARED, fd, 0);
	if (page != MAP_FAILED) {
		if (page->cap_user_time && page->time_mult && page->time_shift < 40)
			khz = (uint64_t)(((unsigned __int128)1000000 << page->time_shift) /
					 page->time_mult);
		munmap(page, (size_t)page_bytes);
	}
	close(fd);
	return khz;
}

struct reading {
	uint64_t tsc, ns;
};

/* The tightest of a few pairs: the rest were torn apart by an interrupt. */
static struct reading read_pair(void)
{
	struct reading best = { 0, 0 };
	uint64_t narrowest = UINT64_MAX;

	for (int i = 0; i < 16; i++) {
		struct timespec ts;
		uint64_t before = tsc_read(), after;

		clock_gettime(CLOCK_MONOTONIC_RAW, &ts);
		after = tsc_read();
		if (after - before < narrowest) {
			narrowest = after - before;
			best.tsc = before + (after - before) / 2;
			best.ns = (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
		}
	}
	return best;
}

static uint64_t khz_by_measurement(void)
{
	const struct timespec nap = { .tv_nsec = 10000000 };
	struct reading start = read_pair(), end;

	do {
		nanosleep(&nap, NULL);
		end = read_pair();
	} while (end.ns - start.ns < 5000000);
	return (uint64_t)((unsigned __int128)(end.tsc - start.tsc) * 1000000 / (end.ns - start.ns));
}

/* A fact about the host, the same for every VM; two threads may find it twice. */
static _Atomic uint64_t found;

void tsc_host_preset(uint64_t khz)
{
	uint64_t none = 0;

	atomic_compare_exchange_strong(&found, &none, khz);
}

uint64_t tsc_host_khz(void)
{
	uint64_t khz = atomic_load(&found);

	if (khz)
		return khz;
	khz = khz_of_cpuid();
	if (!khz)
		khz = khz_of_kernel();
	if (!khz)
		khz = khz_by_measurement();
	/* The first answer stays, so that all VMs agree. */
	uint64_t none = 0;
	if (!atomic_compare_exchange_strong(&found, &none, khz))
		khz = none;
	return khz;
}
