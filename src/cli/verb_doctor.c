/*
 * insula doctor: what this host offers and what that means for Insula. Each
 * finding is one function and one row. Invariant: looks only; changes nothing
 * on the host and needs no right that `insula run` does not need.
 */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <linux/io_uring.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "cli/options.h"
#include "cli/verb.h"
#include "engine/kvm/kvm.h"

enum verdict { GOOD, LIMITED, ABSENT };

struct finding {
	enum verdict verdict;
	char value[160];
	const char *meaning; /* static: what follows for the user */
};

static void found(struct finding *f, enum verdict verdict, const char *meaning, const char *format,
		  ...) __attribute__((format(printf, 4, 5)));

static void found(struct finding *f, enum verdict verdict, const char *meaning, const char *format,
		  ...)
{
	va_list args;

	f->verdict = verdict;
	f->meaning = meaning;
	va_start(args, format);
	vsnprintf(f->value, sizeof(f->value), format, args);
	va_end(args);
}

/* First line of a file under /proc or /sys, without its newline; "" if there is none. */
static void read_line(const char *path, char *line, size_t len)
{
	FILE *file = fopen(path, "re");

	line[0] = '\0';
	if (!file)
		return;
	if (!fgets(line, (int)len, file))
		line[0] = '\0';
	line[strcspn(line, "\n")] = '\0';
	fclose(file);
}

static void find_kernel(struct finding *f)
{
	struct utsname name;

	uname(&name);
	found(f, strcmp(name.machine, "x86_64") == 0 ? GOOD : ABSENT,
	      "Insula runs x86-64 guests on x86-64 Linux", "%.40s %.60s %.40s", name.sysname,
	      name.release, name.machine);
}

static void find_cpus(struct finding *f)
{
	cpu_set_t set;
	int usable = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;

	found(f, usable > 1 ? GOOD : LIMITED,
	      usable > 1 ? "the guest and its devices run side by side"
			 : "the guest and its devices take turns on one cpu",
	      "%d usable of %ld", usable, sysconf(_SC_NPROCESSORS_ONLN));
}

static void find_memory(struct finding *f)
{
	uint64_t total = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
	uint64_t free_bytes = (uint64_t)sysconf(_SC_AVPHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);

	found(f, free_bytes > (1ull << 30) ? GOOD : LIMITED,
	      "a guest takes host memory page by page, as it first uses it",
	      "%llu MiB, %llu MiB free", (unsigned long long)(total >> 20),
	      (unsigned long long)(free_bytes >> 20));
}

static void find_kvm(struct finding *f)
{
	static const char software[] = "not needed: Insula's own engines run here";
	char why[KVM_WHY_MAX];

	switch (kvm_probe(&kvm_calls_host, why)) {
	case KVM_KIND_NONE:
		found(f, ABSENT, software, "no /dev/kvm");
		break;
	case KVM_KIND_NO_ACCESS:
		found(f, ABSENT,
		      "the group kvm may use it; without it Insula's own engines run guests",
		      "/dev/kvm: %.120s", why);
		break;
	case KVM_KIND_PARAVIRT:
		found(f, LIMITED,
		      "it runs only kernels made for it, no stock system; Insula's own engines do",
		      "a paravirtual flavour (%.120s)", why);
		break;
	case KVM_KIND_LIMITED:
		found(f, LIMITED,
		      "stock systems would not run in it; Insula's own engines run them", "%.150s",
		      why);
		break;
	case KVM_KIND_FULL:
		found(f, GOOD, "insula run uses it: --engine auto and kvm",
		      "a stock guest can run in it");
		break;
	}
}

static void find_features(struct finding *f)
{
	/* __builtin_cpu_supports wants literals. */
	const struct {
		const char *name;
		bool present;
	} known[] = {
		{ "sse4.2", __builtin_cpu_supports("sse4.2") },
		{ "popcnt", __builtin_cpu_supports("popcnt") },
		{ "avx", __builtin_cpu_supports("avx") },
		{ "avx2", __builtin_cpu_supports("avx2") },
		{ "bmi", __builtin_cpu_supports("bmi") },
		{ "bmi2", __builtin_cpu_supports("bmi2") },
		{ "fma", __builtin_cpu_supports("fma") },
		{ "aes", __builtin_cpu_supports("aes") },
		{ "avx512f", __builtin_cpu_supports("avx512f") },
	};
	char list[120] = "";
	size_t used = 0;

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
		if (known[i].present)
			used += (size_t)snprintf(list + used, sizeof(list) - used, "%s%s",
						 used ? " " : "", known[i].name);
	}
	if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2") &&
	    __builtin_cpu_supports("fma"))
		found(f, GOOD, "guests may use --cpu x86-64-v3, x86-64-v2 or host", "%s", list);
	else if (__builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt"))
		found(f, LIMITED, "guests may use --cpu x86-64-v2 or host", "%s", list);
	else
		found(f, LIMITED, "guests may use --cpu host only", "%s",
		      *list ? list : "none of note");
}

static void find_tsc(struct finding *f)
{
	char source[32];

	read_line("/sys/devices/system/clocksource/clocksource0/current_clocksource", source,
		  sizeof(source));
	if (strcmp(source, "tsc") == 0)
		found(f, GOOD, "guests read the time without leaving guest code",
		      "clocksource tsc");
	else
		found(f, LIMITED, "the host itself does not trust its TSC; time may be coarser",
		      "clocksource %.31s", *source ? source : "unknown");
}

static void find_huge_pages(struct finding *f)
{
	char shmem[80], pool[32];

	read_line("/sys/kernel/mm/transparent_hugepage/shmem_enabled", shmem, sizeof(shmem));
	read_line("/proc/sys/vm/nr_hugepages", pool, sizeof(pool));
	if (strstr(shmem, "[always]") || strstr(shmem, "[advise]") ||
	    strstr(shmem, "[within_size]"))
		found(f, GOOD, "guest memory may lie in 2 MiB pages", "shmem %s; pool %.20s", shmem,
		      pool);
	else
		found(f, LIMITED, "guest memory lies in 4 KiB pages; somewhat more TLB misses",
		      "shmem %.60s; pool %.20s", *shmem ? shmem : "none", *pool ? pool : "0");
}

static void find_userfaultfd(struct finding *f)
{
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);

	if (fd >= 0) {
		close(fd);
		found(f, GOOD, "not needed yet", "available");
	} else {
		found(f, ABSENT, "not needed yet", "%s", strerror(errno));
	}
}

static void find_io_uring(struct finding *f)
{
	struct io_uring_params params = { 0 };
	int fd = (int)syscall(SYS_io_uring_setup, 4, &params);

	if (fd >= 0) {
		close(fd);
		found(f, GOOD, "disks use it", "available");
	} else {
		found(f, LIMITED, "disks use a pool of threads instead", "%s", strerror(errno));
	}
}

static void find_memfd_exec(struct finding *f)
{
	int fd = memfd_create("doctor", MFD_CLOEXEC);
	void *code = MAP_FAILED;

	if (fd >= 0 && ftruncate(fd, 4096) == 0)
		code = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	if (code != MAP_FAILED) {
		munmap(code, 4096);
		found(f, GOOD,
		      "engines can keep the code they make in memory that is never writable and "
		      "executable",
		      "executable mappings of a memfd work");
	} else {
		found(f, ABSENT,
		      "SIMD and floating-point instructions cannot be run: no engine works",
		      "refused: %s", strerror(errno));
	}
	if (fd >= 0)
		close(fd);
}

static void limit_text(char *text, size_t len, rlim_t limit, unsigned shift, const char *unit)
{
	if (limit == RLIM_INFINITY)
		snprintf(text, len, "unlimited");
	else
		snprintf(text, len, "%llu%s", (unsigned long long)(limit >> shift), unit);
}

static void find_limit_processes(struct finding *f)
{
	struct rlimit limit = { 0 };
	char text[32];

	getrlimit(RLIMIT_NPROC, &limit);
	limit_text(text, sizeof(text), limit.rlim_cur, 0, "");
	found(f, limit.rlim_cur == RLIM_INFINITY || limit.rlim_cur >= 256 ? GOOD : LIMITED,
	      "each virtual cpu is a thread, and a few serve devices", "%s", text);
}

static void find_limit_memlock(struct finding *f)
{
	struct rlimit limit = { 0 };
	char text[32];

	getrlimit(RLIMIT_MEMLOCK, &limit);
	limit_text(text, sizeof(text), limit.rlim_cur, 10, " KiB");
	found(f, GOOD, "Insula locks no memory", "%s", text);
}

static void find_limit_address_space(struct finding *f)
{
	struct rlimit limit = { 0 };
	char text[32];

	getrlimit(RLIMIT_AS, &limit);
	limit_text(text, sizeof(text), limit.rlim_cur, 20, " MiB");
	found(f, limit.rlim_cur == RLIM_INFINITY || limit.rlim_cur >= (4ull << 30) ? GOOD : LIMITED,
	      "guest memory and caches must fit", "%s", text);
}

static void find_limit_files(struct finding *f)
{
	struct rlimit limit = { 0 };
	char text[32];

	getrlimit(RLIMIT_NOFILE, &limit);
	limit_text(text, sizeof(text), limit.rlim_cur, 0, "");
	found(f, limit.rlim_cur >= 64 ? GOOD : LIMITED, "a VM needs some twenty descriptors", "%s",
	      text);
}

static void find_limit_maps(struct finding *f)
{
	char text[32];

	read_line("/proc/sys/vm/max_map_count", text, sizeof(text));
	found(f, strtoul(text, NULL, 10) >= 65530 ? GOOD : LIMITED,
	      "enough for the engines of this version", "%.31s", *text ? text : "unknown");
}

static const struct row {
	const char *key, *title;
	void (*find)(struct finding *f);
} rows[] = {
	{ "kernel", "kernel", find_kernel },
	{ "cpus", "cpus", find_cpus },
	{ "memory", "memory", find_memory },
	{ "kvm", "KVM", find_kvm },
	{ "cpu_features", "CPU features", find_features },
	{ "tsc", "time", find_tsc },
	{ "huge_pages", "huge pages", find_huge_pages },
	{ "userfaultfd", "userfaultfd", find_userfaultfd },
	{ "io_uring", "io_uring", find_io_uring },
	{ "memfd_exec", "code memory", find_memfd_exec },
	{ "limit_processes", "limit: processes", find_limit_processes },
	{ "limit_memlock", "limit: locked memory", find_limit_memlock },
	{ "limit_address_space", "limit: address space", find_limit_address_space },
	{ "limit_files", "limit: open files", find_limit_files },
	{ "limit_maps", "limit: mappings", find_limit_maps },
};
#define ROWS (sizeof(rows) / sizeof(rows[0]))

static const char *const verdict_words[] = {
	[GOOD] = "good", [LIMITED] = "limited", [ABSENT] = "absent"
};

static void print_text(const struct finding *findings)
{
	for (size_t i = 0; i < ROWS; i++)
		printf("%-21s %-8s %s\n%-21s %-8s -> %s\n", rows[i].title,
		       verdict_words[findings[i].verdict], findings[i].value, "", "",
		       findings[i].meaning);
}

static int print_json(const struct finding *findings)
{
	json_t *all = json_object();
	int rc;

	for (size_t i = 0; i < ROWS; i++) {
		json_t *one =
			json_pack("{s:s, s:s, s:s}", "verdict", verdict_words[findings[i].verdict],
				  "value", findings[i].value, "meaning", findings[i].meaning);

		if (json_object_set_new(all, rows[i].key, one) < 0) {
			json_decref(all);
			fprintf(stderr, "insula: out of memory\n");
			return STATUS_HOST_ERROR;
		}
	}
	rc = json_dumpf(all, stdout, JSON_INDENT(2));
	json_decref(all);
	putchar('\n');
	return rc < 0 ? STATUS_HOST_ERROR : STATUS_OK;
}

enum { OPT_JSON = 1 };

static const struct option_def option_defs[] = {
	{ "json", NULL, "print one JSON object instead of text", OPT_JSON },
	{ 0 },
};

static int doctor(const struct verb *self, int argc, char **argv)
{
	struct finding findings[ROWS];
	struct options options;
	const char *value;
	bool json = false;
	int id;

	options_init(&options, self, argc, argv);
	while ((id = options_next(&options, &value)) != OPTION_END) {
		if (id == OPTION_ERROR)
			return STATUS_USAGE;
		if (id == OPTION_HELP) {
			verb_print_help(self);
			return STATUS_OK;
		}
		if (id == OPTION_WORD)
			return usage_error(self, "unexpected %s", value);
		json = true;
	}
	for (size_t i = 0; i < ROWS; i++)
		rows[i].find(&findings[i]);
	if (json)
		return print_json(findings);
	print_text(findings);
	return STATUS_OK;
}

const struct verb verb_doctor = {
	.name = "doctor",
	.arguments = "[--json]",
	.summary = "what this host offers Insula, and what that means",
	.about = "Each finding is good, limited or absent, with what follows from it. Nothing on "
		 "the host\n"
		 "is changed. The exit status is 0 whatever is found.\n\n"
		 "Examples:\n\n"
		 "  insula doctor\n"
		 "  insula doctor --json | jq .kvm\n",
	.options = option_defs,
	.run = doctor,
};
