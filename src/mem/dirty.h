/*
 * The dirty log: which pages of RAM were stored to, by whomever. A page that
 * counts as clean has the reason DIRTY_LOG (mem/page.h), so that the first store
 * to it is heard; the ones after it are plain.
 *
 * Start and take are for one thread at a time, with every vcpu's engine left:
 * an engine that is entered holds no write grants from before. Devices may go
 * on: what they store meanwhile is in this take or in the next one.
 */
#ifndef INSULA_MEM_DIRTY_H
#define INSULA_MEM_DIRTY_H

#include "mem/ram.h"

/* From here on; all that was logged before is forgotten. 0 or -ENOMEM. */
int dirty_log_start(struct ram *ram) __attribute__((warn_unused_result));
/* Any time. Stores cost nothing any more. */
void dirty_log_stop(struct ram *ram);
bool dirty_log_runs(const struct ram *ram);
/*
 * Sets in `bits` the bit of each page (number offset / 4096, offsets as in
 * ram_next_data()) that was stored to since the start or the last take; these
 * pages are clean now. bits: dirty_log_words() words. Returns how many they were.
 */
uint64_t dirty_log_take(struct ram *ram, uint64_t *bits);
size_t dirty_log_words(const struct ram *ram);

#endif
