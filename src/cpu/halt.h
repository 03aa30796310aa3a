/*
 * How a halted vcpu waits. To put its thread to sleep and to wake it costs many
 * times what an interrupt costs, so a vcpu whose halts are mostly short looks
 * for news awake before it sleeps, as KVM's halt polling does. How long adapts
 * to how long its halts last; while somebody else wants the host CPU it does not.
 */
#ifndef INSULA_CPU_HALT_H
#define INSULA_CPU_HALT_H

#include "cpu/vcpu.h"

#define HALT_POLL_US     200 /* unless told otherwise */
#define HALT_POLL_US_MAX 100000

/* What the vcpus of one VM share: how many of them want a host CPU. */
struct halt_room;

/*
 * For `count` vcpus on the CPUs that the caller may use. Sets each v->halt.room; the
 * array is borrowed until the room goes. most_us: polls never last longer; 0: they never begin.
 */
struct halt_room *halt_room_new(struct vcpu **vcpus, unsigned count, unsigned most_us);
void halt_room_free(struct halt_room *room);

/*
 * Owner thread, when a halt begins. True: there is news, REQ_PAUSE included. False: nothing
 * came for as long as it pays to wait awake; sleep by halt_sleep(). Calls nothing that
 * touches vector registers.
 */
bool halt_poll(struct vcpu *v);
/* As vcpu_wait(); the next polls are as long as this halt teaches. */
void halt_sleep(struct vcpu *v, uint64_t host_deadline_ns);

#endif
