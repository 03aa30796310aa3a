/*
 * The translator: the upper tier of the translate engine. It turns hot code
 * into native code with the guest's registers in the host's, its flags in the
 * host's flags and memory behind an inline look-up of the soft TLB. Whatever
 * is unusual (a fault, a device, a store to a page of code, an instruction
 * that only C can execute) leaves to the interpreter at an instruction
 * boundary, so that there is one implementation of every rare thing.
 *
 * In translated code RSP is the vcpu and arch.rip the linear address of the
 * code's page. Between regions and towards the interpreter the registers are
 * "canonical": see CANONICAL in lower.c; arithmetic flags are in soft.flags.
 *
 * One per vcpu, used by its thread alone, parked.
 */
#ifndef INSULA_ENGINE_TRANSLATE_TRANSLATE_H
#define INSULA_ENGINE_TRANSLATE_TRANSLATE_H

#include "engine/interpret/tier.h"

enum translate_check {
	CHECK_NONE,
	CHECK_LOCKSTEP, /* see check.h */
	CHECK_PINGPONG,
};

struct translate_options {
	size_t code_bytes;  /* of native code; 0: the default */
	unsigned heat;      /* executions after which a trace is translated; 0: the default */
	bool exact;         /* arithmetic flags exact wherever a fault can look */
	bool perf_map;      /* name translations for perf: /tmp/perf-PID.map */
	bool log;           /* print guest and host code of each */
	unsigned insn_most; /* instructions of a region; 0: as many as there are */
	unsigned evict;     /* everything is forgotten in place of every so manyth translation, at
			       random; 0: when it must be */
	enum translate_check check;
	unsigned check_turn; /* CHECK_PINGPONG: executions by each engine in turn; 0: at random */
};

/* What engine_translate works with. Set before a vcpu is opened. */
extern struct translate_options translate_options;

#endif
