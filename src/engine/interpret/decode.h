/*
 * From bytes to records: Zydis decodes, this lowers each instruction to the
 * handler that executes it, then drops flag work nobody reads.
 */
#ifndef INSULA_ENGINE_INTERPRET_DECODE_H
#define INSULA_ENGINE_INTERPRET_DECODE_H

#include "engine/interpret/decode_memo.h"
#include "engine/interpret/trace.h"
#include <Zydis/Zydis.h>

struct native_code;

struct decoder {
	struct vcpu *v;
	struct trace_cache *cache;
	struct native_code *native;
	ZydisDecoder zydis[5];                        /* by machine mode */
	struct trace_hint hints[TRACE_MAX_INSNS + 1]; /* of the trace decoded last */
	struct memo memos[1 << MEMO_BITS];
	bool checked; /* the trace is to end behind an instruction that may store */
};

enum decode_status {
	DECODE_OK,
	DECODE_CROSSES, /* the first instruction does not end within `avail` bytes */
	DECODE_FULL,    /* pool or thunk memory is exhausted: flush and try again */
};

void decoder_init(struct decoder *d, struct vcpu *v, struct trace_cache *cache,
		  struct native_code *native);

/*
 * Fills trace->insns, count and bytes from `bytes` (`avail` of them, at most
 * up to the page's end), which lie at instruction pointer rip in the mode of
 * v->soft.mode. most: at most that many instructions. Parks the vcpu if need be.
 */
enum decode_status decode_trace(struct decoder *d, struct trace *trace, uint64_t rip,
				const uint8_t *bytes, unsigned avail, unsigned most);

#endif
