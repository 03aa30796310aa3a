/*
 * For people who look into translated code: /tmp/perf-PID.map, by which perf
 * names it, and listings of guest and host code side by side, as
 * translate_options ask. Called by translate.c, on the vcpu's thread, parked.
 */
#ifndef INSULA_ENGINE_TRANSLATE_LISTING_H
#define INSULA_ENGINE_TRANSLATE_LISTING_H

#include "engine/translate/region.h"

/* 0, or -1 with a sentence in *error. close: also without open, or after a failure. */
int listing_open(struct translator *t, const char **error);
void listing_close(struct translator *t);
/* The region was written from t->plan; rip: linear address of its entry, far: where its far part
 * begins. */
void listing_region(struct translator *t, const struct region *r, uint64_t rip, uint32_t far);
/* All code memory is about to be used anew. */
void listing_forget(struct translator *t);

/* One instruction as text; its length, 0 if it is none. `bytes` holds `room` of them. */
unsigned listing_insn(const struct translator *t, const uint8_t *bytes, unsigned room,
		      uint64_t address, char *text, unsigned size);

#endif
