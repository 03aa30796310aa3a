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

#include "engine/interpret/decode.h"

struct translator;

struct translate_options {
	size_t code_bytes; /* of native code; 0: the default */
	unsigned heat;     /* executions after which a trace is translated; 0: the default */
	bool exact;        /* arithmetic flags exact wherever a fault can look */
};

/* What engine_translate opens its translators with. Set before a vcpu is opened. */
extern struct translate_options translate_options;

/* 0, or -errno with a sentence in *error. */
int translator_open(struct translator **translator, struct vcpu *v, struct decoder *decoder,
		    const struct translate_options *options, const char **error);
void translator_close(struct translator *translator);
/* Forget everything; the trace cache is being emptied. */
void translator_flush(struct translator *translator);

enum translate_status { TRANSLATE_DONE, TRANSLATE_NEVER, TRANSLATE_FULL };
/*
 * Translates the region entered at gpa, whose page is at `host`, in the mode
 * of v->soft.mode; rip is its linear address. DONE: trace_find finds it.
 */
enum translate_status translator_translate(struct translator *translator, gpa_t gpa, uint64_t rip,
					   const uint8_t *host);

/* The code changed: nobody enters the region any more. */
struct region;
void region_kill(struct region *region);
/* Entry points: from the interpreter (as a trace's code), and from translated code. */
const void *region_enter(const struct region *region);
const void *region_entry(const struct region *region);
/* What translated code jumps to for a trace that is not translated: soft.jump is the entry. */
const void *translator_leave(const struct translator *translator);

/* soft.link_exit named an exit of translated code; it may go to this region from now on. */
void translator_link(struct translator *translator, uint32_t exit, const struct region *target);

/*
 * SIGFPE at pc, in the context of a signal handler: if pc is in translated
 * code, brings the vcpu to the faulting instruction's boundary and answers
 * where to go on; else NULL. gregs: of the ucontext.
 */
const void *translator_trap(uintptr_t pc, long long *gregs);

struct translate_stats {
	uint64_t regions, insns, guest_bytes, host_bytes, killed, flushes, links;
};
const struct translate_stats *translator_stats(const struct translator *translator);

#endif
