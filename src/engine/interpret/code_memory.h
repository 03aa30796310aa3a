/*
 * Executable memory, W^X by mapping one memfd twice, within reach of a direct
 * call from and to the monitor's own text.
 */
#ifndef INSULA_ENGINE_INTERPRET_CODE_MEMORY_H
#define INSULA_ENGINE_INTERPRET_CODE_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct code_memory {
	uint8_t *rw;       /* for writing */
	const uint8_t *rx; /* for running */
	size_t bytes;
};

/* 0, or -errno with one sentence in *error. Set-up only: uses libc. */
int code_memory_open(struct code_memory *memory, size_t bytes, const char **error);
/*
 * Zeroed memory for data that code in `memory` addresses relative to itself;
 * NULL: none. The caller unmaps it.
 */
void *code_memory_data(size_t bytes);
void code_memory_close(struct code_memory *memory);
/*
 * Bytes [from, to) are written: gives back what of the writable mapping lies
 * whole between, which would else count as resident a second time. They may
 * still be written to, at the price of a page fault.
 */
void code_memory_settle(struct code_memory *m, size_t from, size_t to);
/* Would it do anything? It calls out of these rooms. */
#define CODE_MEMORY_SETTLE ((size_t)128 << 10)
static inline bool code_memory_settles(size_t from, size_t to)
{
	return from / CODE_MEMORY_SETTLE != to / CODE_MEMORY_SETTLE;
}
/* Nothing from byte `from` on is wanted any more: gives the memory back. */
void code_memory_release(struct code_memory *m, size_t from);

#endif
