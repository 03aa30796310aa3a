/*
 * One VM in this process, from its options to its end: what `insula run` and
 * `insula restore` share. The event loop has a thread of its own; the main one
 * waits for the end.
 */
#ifndef INSULA_CLI_RUN_H
#define INSULA_CLI_RUN_H

#include <stdbool.h>

#include <jansson.h>

#include "api/runtime_dir.h"
#include "cli/guest.h"
#include "cli/run_options.h"
#include "engine/engine.h"

struct chardev;
struct control;
struct loop;
struct run_progress;
struct run_signals;
struct session;
struct vm;
struct vm_snapshot;

struct run {
	struct run_options options;
	char no_kvm[ENGINE_ERROR_MAX]; /* why auto took another engine, or empty */
	struct guest guest; /* options.guest only */
	struct loop *loop;
	struct chardev *in_out, *err; /* our own streams; NULL when detached */
	struct chardev *keys;         /* around in_out while the terminal is raw */
	struct chardev *hub;          /* around those: what the guest's terminal is connected to */
	struct chardev *console;      /* options.guest: COM1's last words */
	struct session *session;      /* options.guest */
	struct run_signals *signals;
	struct run_progress *progress;
	struct vm *vm;
	struct vm_snapshot *snapshot; /* insula restore: what the VM is made from */
	bool raw;
	bool is_child; /* of several made of one machine: it is another one now */

	/* Others find us by it. */
	struct runtime_dir dir;
	char name[RUNTIME_NAME_MAX + 1]; /* empty: not claimed */
	int listener;                    /* -1: none, or the control's */
	struct control *control;
	int ready_fd; /* options.detach: whoever started us waits for our name here */
	int gate_fd;  /* is_child: its end is the sign that all are there, and may run. -1: none */

	/* Loop's thread until the VM has ended, then the main thread. */
	unsigned asked_to_end; /* signals that mean it */
	bool ready;            /* the session has begun */
	bool session_over;
	int session_status;
	char session_failure[256];
};

void run_init(struct run *run);
/*
 * From options to end. Negative never; the process's exit status. With
 * options.detach only a child comes to the end, and the caller returns when the
 * VM runs.
 */
int run_to_end(struct run *run);
void run_fini(struct run *run);

/* run_children.c: what every child would do by itself is done before they are forked. Negative: go
 * on; else the exit status. */
int run_prepare_children(struct run *run);
/* As run_to_end, in the background, from where run->name is claimed. */
int run_as_child(struct run *run);
/* An operation of the control socket: see verb_fork.c. */
struct control_call;
int run_fork(void *ctx, struct control_call *call);

/* run_snapshot.c: the part "run" of a snapshot. NULL: no memory, or a name is not UTF-8. */
json_t *run_describe(const struct run *run);
/* The reverse, into options whose strings are the JSON's. False: it makes no sense. */
bool run_undescribe(struct run_options *options, const json_t *json);
/* An operation of the control socket. */
struct control_call;
int run_snapshot(void *ctx, struct control_call *call);

/*
 * Around a moment that may be the beginning of several machines. What a guest's user code could see
 * in more than one of them, such as random bytes, it must not: so none of it runs at that moment, and
 * the guest's agent lets it go on once it has seen to that. True: run_renew() is due. The control's
 * thread; a guest without an agent, or a paused one, is left alone.
 */
bool run_hold(struct run *run);
void run_renew(struct run *run);

/* Loop's thread. The first time the guest is asked to power off, the second time it is stopped. */
void run_ask_to_end(struct run *run, int signal_number);

/* run_control.c: serves run->listener. 0 or -errno. */
int run_control_start(struct run *run) __attribute__((warn_unused_result));

#endif
