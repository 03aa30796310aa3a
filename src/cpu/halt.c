/*
 * Halt polling. Invariant: a vcpu polls only while the awake vcpus of its VM
 * have a host CPU each, and a poll in which the thread lost its CPU is followed
 * by a long time without: what is spent on polls on a busy host stays small.
 *
 * Time here is the host's TSC: nothing depends on it but how long we look.
 */
#include "cpu/halt.h"

#include <sched.h>
#include <stdlib.h>

#include "bus/tsc.h"
#include "cpu/excp.h"
#include "cpu/post.h"

#define FIRST_US 10 /* the shortest poll; doubled by each halt that it was too short for */
/* The loop takes well under a microsecond a turn. What takes this long is another thread's turn. */
#define LOST_US  100
#define QUIET_US 50000

struct halt_room {
	_Atomic unsigned awake; /* running guest code, or polling */
	unsigned host_cpus;
	uint64_t first, most, lost, quiet; /* ticks */
	struct vcpu **vcpus;
	unsigned count;
};

struct halt_room *halt_room_new(struct vcpu **vcpus, unsigned count, unsigned most_us)
{
	struct halt_room *room = calloc(1, sizeof(*room));
	uint64_t khz = tsc_host_khz();
	cpu_set_t may;

	if (!room)
		return NULL;
	room->awake = count;
	room->host_cpus = sched_getaffinity(0, sizeof(may), &may) ? 1 : (unsigned)CPU_COUNT(&may);
	room->most = most_us * khz / 1000;
	room->first = most_us < FIRST_US ? room->most : FIRST_US * khz / 1000;
	room->lost = LOST_US * khz / 1000;
	room->quiet = QUIET_US * khz / 1000;
	room->vcpus = vcpus;
	room->count = count;
	for (unsigned i = 0; i < count; i++)
		vcpus[i]->halt.room = room;
	return room;
}

void halt_room_free(struct halt_room *room)
{
	if (!room)
		return;
	for (unsigned i = 0; i < room->count; i++)
		if (room->vcpus[i])
			room->vcpus[i]->halt.room = NULL;
	free(room);
}

/* News come from other threads, and those need a CPU too. */
static bool has_cpus(const struct halt_room *room)
{
	return room->host_cpus > 1 &&
	       atomic_load_explicit(&room->awake, memory_order_relaxed) <= room->host_cpus;
}

bool halt_poll(struct vcpu *v)
{
	struct halt *halt = &v->halt;
	const struct halt_room *room = halt->room;
	uint64_t start = __builtin_ia32_rdtsc(), now = start, before;

	halt->since = start;
	if (!room || !halt->window)
		return false;
	if (start - halt->lost_at < room->quiet)
		return false;
	while (now - start < halt->window && has_cpus(room)) {
		uint32_t req = atomic_load_explicit(&v->req, memory_order_relaxed);

		if (req && ((req & REQ_PAUSE) || vcpu_has_work(v))) {
			halt->polled++;
			return true;
		}
		__builtin_ia32_pause();
		before = now;
		now = __builtin_ia32_rdtsc();
		if (now - before > room->lost) {
			halt->lost_at = now;
			break;
		}
	}
	return false;
}

/* A halt lasted `length` and we slept in it. */
static void learn(struct halt *halt, uint64_t length)
{
	const struct halt_room *room = halt->room;

	if (length > room->most)
		halt->window = 0;
	else if (halt->window)
		halt->window = halt->window * 2 < room->most ? halt->window * 2 : room->most;
	else
		halt->window = room->first;
}

void halt_sleep(struct vcpu *v, uint64_t host_deadline_ns)
{
	struct halt *halt = &v->halt;

	halt->slept++;
	if (halt->room)
		atomic_fetch_sub_explicit(&halt->room->awake, 1, memory_order_relaxed);
	vcpu_wait(v, host_deadline_ns);
	if (!halt->room)
		return;
	atomic_fetch_add_explicit(&halt->room->awake, 1, memory_order_relaxed);
	learn(halt, __builtin_ia32_rdtsc() - halt->since);
}
