/*
 * oracle: random instructions on the bare CPU and on the engine, compared.
 *
 *   oracle [--cases N] [--seed N] [--model NAME] [--only TEXT] [--failures N]
 *   oracle --one SEED     repeats one case and shows both results
 *   --compat              32-bit code under a 64-bit kernel
 *   --step                the engine executes one instruction at a time
 *   --translate           the translator instead of the interpreter, with exact flags
 *   --translate-fast      the translator as users run it: accesses looked up in groups, and
 *                         arithmetic flags that nobody reads are not compared where a fault looks
 *   --block N             at most N instructions in a translation
 *   --evict N             all translations are forgotten in place of every Nth, at random
 *   --code-cache KIB      and when they fill so much (default 65536)
 *
 * Exit status 0: all equal; 1: some differ; 2: usage or host trouble; 77: skipped.
 */
#include "oracle.h"
#include "cpu/model.h"
#include "engine/translate/translate.h"
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define BATCH 256u

struct run {
	struct native *native;
	struct target *target;
	struct oracle_case *cases; /* two batches, shared with the child */
	const char *only;
	uint64_t seed, next, total, failed, unsteady, lost, faults;
	unsigned max_failures;
	bool stepping, compat, translate, fast;
	struct translate_options options;
};

static uint64_t case_seed(const struct run *run, uint64_t n)
{
	return run->seed + n * 0x9e3779b97f4a7c15ull;
}

static double seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void report(const struct oracle_case *c)
{
	print_case(c);
	compare_case(c, true);
	fflush(stdout);
}

/*
 * XSAVE says in XSTATE_BV which components are in use, and the processor may
 * or may not notice that one is back in its initial state (SDM 1, 13.6): a
 * context switch of the host between load and save changes the answer. A case
 * that agrees when it is repeated is counted apart.
 */
static bool agrees_when_repeated(struct run *run, unsigned index)
{
	struct oracle_case *c = &run->cases[index];

	for (unsigned turn = 0; turn < 3; turn++) {
		native_submit(run->native, index, 1);
		target_run(run->target, c);
		native_wait(run->native);
		if (c->native.done && compare_case(c, false))
			return true;
	}
	return false;
}

static void check(struct run *run, unsigned index)
{
	const struct oracle_case *c = &run->cases[index];

	run->faults += c->native.vector != NO_VECTOR;
	if (!c->native.done) {
		run->lost++;
		printf("native side lost a case:\n");
		print_case(c);
		return;
	}
	if (compare_case(c, false))
		return;
	if (agrees_when_repeated(run, index)) {
		run->unsteady++;
		return;
	}
	if (run->failed++ < run->max_failures)
		report(c);
}

static unsigned generate_batch(struct run *run, unsigned first)
{
	unsigned n = 0;

	while (n < BATCH && run->next < run->total) {
		struct oracle_case *c = &run->cases[first + n++];

		generate_case(c, case_seed(run, run->next++), run->only, run->compat);
		if (!run->stepping && !vendor_is_amd())
			c->skip &= ~(uint32_t)SKIP_FAULT_FLAGS;
		if (run->fast)
			c->skip |= SKIP_FAULT_FLAGS | SKIP_FAULT_X87;
	}
	return n;
}

/* The child runs a batch while this process runs the same on the engine and prepares the next. */
static void run_all(struct run *run)
{
	double started = seconds(), said = started;
	unsigned first = 0, count = generate_batch(run, first);
	uint64_t done = 0;

	while (count) {
		unsigned next_first = first ? 0 : BATCH, next_count;

		native_submit(run->native, first, count);
		for (unsigned i = 0; i < count; i++)
			target_run(run->target, &run->cases[first + i]);
		next_count = generate_batch(run, next_first);
		native_wait(run->native);
		for (unsigned i = 0; i < count; i++)
			check(run, first + i);
		done += count;
		first = next_first;
		count = next_count;
		if (run->total > 2000000 && seconds() - said > 30) {
			said = seconds();
			printf("%lu cases, %lu differ, %.0f/s\n", done, run->failed,
			       (double)done / (said - started));
			fflush(stdout);
		}
		if (run->failed > run->max_failures * 20ull + 1000)
			break;
	}
	printf("oracle: %lu cases (%lu faulted natively), %u mnemonics, seed %lu: %lu differ, %lu "
	       "lost, %lu agreed when repeated; %.0f cases/s\n",
	       done, run->faults, template_mnemonics(), run->seed, run->failed, run->lost,
	       run->unsteady, (double)done / (seconds() - started));
}

static int usage(void)
{
	fprintf(stderr,
		"usage: oracle [--cases N] [--seed N] [--model NAME] [--only TEXT] "
		"[--failures N] [--compat] [--step] [--translate] [--translate-fast] [--block N] "
		"[--evict N] [--code-cache KIB] [--one SEED]\n");
	return 2;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "cases", required_argument, NULL, 'c' },
		{ "seed", required_argument, NULL, 's' },
		{ "one", required_argument, NULL, 'o' },
		{ "only", required_argument, NULL, 'm' },
		{ "model", required_argument, NULL, 'M' },
		{ "failures", required_argument, NULL, 'f' },
		{ "compat", no_argument, NULL, '3' },
		{ "step", no_argument, NULL, 'S' },
		{ "translate", no_argument, NULL, 'T' },
		{ "translate-fast", no_argument, NULL, 'F' },
		{ "block", required_argument, NULL, 'B' },
		{ "evict", required_argument, NULL, 'E' },
		{ "code-cache", required_argument, NULL, 'C' },
		{ 0 },
	};
	struct run run = { .total = 100000, .seed = 1, .max_failures = 10 };
	const char *model_name = "host", *error = NULL;
	const struct cpu_model *model;
	uint64_t one = 0;
	bool only_one = false;
	uint8_t *pristine;
	int o;

	while ((o = getopt_long(argc, argv, "", options, NULL)) >= 0)
		switch (o) {
		case 'c':
			run.total = strtoull(optarg, NULL, 0);
			break;
		case 's':
			run.seed = strtoull(optarg, NULL, 0);
			break;
		case 'o':
			one = strtoull(optarg, NULL, 0);
			only_one = true;
			break;
		case 'm':
			run.only = optarg;
			break;
		case 'M':
			model_name = optarg;
			break;
		case 'f':
			run.max_failures = (unsigned)strtoul(optarg, NULL, 0);
			break;
		case '3':
			run.compat = true;
			break;
		case 'S':
			run.stepping = true;
			break;
		case 'T':
			run.translate = true;
			break;
		case 'F':
			run.translate = run.fast = true;
			break;
		case 'B':
			run.options.insn_most = (unsigned)strtoul(optarg, NULL, 0);
			break;
		case 'E':
			run.options.evict = (unsigned)strtoul(optarg, NULL, 0);
			break;
		case 'C':
			run.options.code_bytes = strtoull(optarg, NULL, 0) << 10;
			break;
		default:
			return usage();
		}
	if (optind != argc)
		return usage();
	if (!__builtin_cpu_supports("avx2")) {
		printf("oracle: skipped: this host has no AVX2\n");
		return 77;
	}
	model = cpu_model_new(model_name, 1, 1000000, &error);
	if (!model || template_init(model, run.compat) < 0) {
		fprintf(stderr, "oracle: %s\n", error ? error : "no instruction decodes");
		return 2;
	}
	if (run.only && !template_matches(run.only)) {
		fprintf(stderr, "oracle: no instruction is called %s\n", run.only);
		return 2;
	}
	pristine = mmap(NULL, DATA_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
			-1, 0);
	run.cases = mmap(NULL, 2 * BATCH * sizeof(*run.cases), PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (pristine == MAP_FAILED || run.cases == MAP_FAILED) {
		perror("oracle: mmap");
		return 2;
	}
	generate_data(pristine, 0x1e5);
	run.native = native_start(pristine, run.cases, run.compat);
	/* Every instruction is translated when first met. */
	run.options.heat = 1;
	run.options.exact = !run.fast;
	run.target = target_new(pristine, model, run.stepping, run.compat,
				run.translate ? &run.options : NULL);
	if (!run.native || !run.target)
		return 2;
	if (only_one) {
		generate_case(&run.cases[0], one, run.only, run.compat);
		if (run.fast)
			run.cases[0].skip |= SKIP_FAULT_FLAGS | SKIP_FAULT_X87;
		native_submit(run.native, 0, 1);
		target_run(run.target, &run.cases[0]);
		native_wait(run.native);
		report(&run.cases[0]);
		run.failed = !compare_case(&run.cases[0], false);
	} else {
		run_all(&run);
	}
	native_stop(run.native);
	target_free(run.target);
	cpu_model_free(model);
	return run.failed || run.lost ? 1 : 0;
}
