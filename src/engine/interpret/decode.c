/*
 * The decoder: one pass lowers instructions to records, one pass backwards
 * finds dead flags. Called by the dispatcher on a trace-cache miss.
 * Invariant: what it emits depends only on the bytes, the mode word and the
 * CPU model, never on register contents.
 */
#include "engine/interpret/decode_priv.h"
#include "cpu/fpstate.h"

enum { DECODER_LONG, DECODER_COMPAT_32, DECODER_COMPAT_16, DECODER_LEGACY_32, DECODER_LEGACY_16 };

void decoder_init(struct decoder *d, struct vcpu *v, struct trace_cache *cache,
		  struct native_code *native)
{
	d->v = v;
	d->cache = cache;
	d->native = native;
	ZydisDecoderInit(&d->zydis[DECODER_LONG], ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	ZydisDecoderInit(&d->zydis[DECODER_COMPAT_32], ZYDIS_MACHINE_MODE_LONG_COMPAT_32,
			 ZYDIS_STACK_WIDTH_32);
	ZydisDecoderInit(&d->zydis[DECODER_COMPAT_16], ZYDIS_MACHINE_MODE_LONG_COMPAT_16,
			 ZYDIS_STACK_WIDTH_16);
	ZydisDecoderInit(&d->zydis[DECODER_LEGACY_32], ZYDIS_MACHINE_MODE_LEGACY_32,
			 ZYDIS_STACK_WIDTH_32);
	ZydisDecoderInit(&d->zydis[DECODER_LEGACY_16], ZYDIS_MACHINE_MODE_LEGACY_16,
			 ZYDIS_STACK_WIDTH_16);
}

static ZydisDecoder *decoder_for(struct decoder *d, uint32_t mode)
{
	if (mode & MODE_CODE64)
		return &d->zydis[DECODER_LONG];
	if (mode & MODE_LONG)
		return &d->zydis[mode & MODE_CODE32 ? DECODER_COMPAT_32 : DECODER_COMPAT_16];
	return &d->zydis[mode & MODE_CODE32 ? DECODER_LEGACY_32 : DECODER_LEGACY_16];
}

static void lower(struct lowering *l)
{
	/* VEX and EVEX never mean an instruction of the hot integer set. */
	if (l->zi->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
	    (lower_arithmetic(l) || lower_move(l) || lower_branch(l) || lower_stack(l) ||
	     lower_string(l) || lower_muldiv(l) || lower_bits(l)))
		return;
	*l->note = (struct note){ 0 };
	lower_rare(l);
}

/* CMP/TEST at a, Jcc at b: one record at a, if the layout has room. */
static bool fuse(struct lowering *l, struct insn *a, struct note *na, const struct insn *b)
{
	unsigned cc = l->zi->opcode & 15;
	enum form form = na->form;
	insn_handler *handler;

	if (!na->fusible || !l->code64 || b->handler != jcc_handler(cc, true, true) ||
	    b->disp != (int16_t)b->disp)
		return false;
	if (form == FORM_RX)
		form = FORM_RA;
	if (form == FORM_XR)
		form = FORM_AR;
	if (form == FORM_XI)
		form = FORM_AI;
	if (form == FORM_RI && (int64_t)a->imm != (int32_t)a->imm)
		return false;
	if (form == FORM_AI && (int64_t)a->imm != (int8_t)a->imm)
		return false;
	handler = fused_handler(na->test, form, na->size_log, cc);
	if (!handler)
		return false;
	if (form == FORM_RI)
		a->disp = (int32_t)a->imm;
	if (form == FORM_AI)
		a->src = (uint8_t)a->imm;
	a->link = NULL;
	a->aux = (uint16_t)b->disp;
	a->len = (uint8_t)(a->len + b->len);
	na->hint.kind = HINT_FUSED;
	na->hint.form = (uint8_t)form;
	na->hint.cc = (uint8_t)cc;
	a->handler = handler;
	return true;
}

/* Backwards: where nobody reads the flags before all are written again, do not compute them. */
static void drop_dead_flags(struct insn *insns, struct note *notes, unsigned count)
{
	bool live = true;

	while (count--) {
		struct note *n = &notes[count];

		if (!live && n->dead)
			insns[count].handler = n->dead;
		n->hint.dead = !live;
		if (n->exits || n->reads)
			live = true;
		else if (n->kills)
			live = false;
	}
}

/* Anything in memory, the stack included; whatever is rare counts as if it did. */
static bool may_store(const struct lowering *l)
{
	if (l->out->handler == insn_sysop_light)
		return true;
	for (unsigned n = 0; n < l->zi->operand_count; n++)
		if (is_mem(&l->op[n]) && (l->op[n].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
			return true;
	return false;
}

/* The instruction at `bytes` in l->zi and l->op, which are zi and ops or a memo's. */
static ZyanStatus decode_one(struct lowering *l, ZydisDecoder *zydis, const uint8_t *bytes,
			     unsigned room, ZydisDecodedInstruction *zi, ZydisDecodedOperand *ops)
{
	uint64_t key = l->code64 ? memo_key(bytes, room) : 0;
	struct memo *memo = key ? memo_slot(l->d->memos, key) : NULL;
	ZyanStatus status;

	if (memo && memo_use(memo, key, bytes, room)) {
		l->zi = &memo->zi;
		l->op = memo->ops;
		return ZYAN_STATUS_SUCCESS;
	}
	vcpu_fp_park(l->v);
	status = ZydisDecoderDecodeFull(zydis, bytes, room, zi, ops);
	if (memo && ZYAN_SUCCESS(status))
		memo_learn(memo, key, bytes, zi, ops);
	l->zi = zi;
	l->op = ops;
	return status;
}

enum decode_status decode_trace(struct decoder *d, struct trace *t, uint64_t rip,
				const uint8_t *bytes, unsigned avail, unsigned most)
{
	struct vcpu *v = d->v;
	uint32_t mode = v->soft.mode;
	struct note notes[TRACE_MAX_INSNS];
	ZydisDecodedInstruction zi;
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
	struct lowering l = {
		.d = d, .v = v, .mode = mode, .code64 = mode & MODE_CODE64, .rip = rip
	};
	ZydisDecoder *zydis = decoder_for(d, mode);
	uint64_t limit = l.code64 ? ~0ull : v->arch.seg[SEG_CS].limit;
	unsigned done = 0, count = 0;
	bool ends = false, stored = false;
	struct insn *end;

	while (count < most && !ends && !stored) {
		unsigned room = avail - done < 15 ? avail - done : 15;
		struct insn *out = &t->insns[count];
		unsigned length = 1;
		ZyanStatus status;

		if (!room)
			break;
		status = decode_one(&l, zydis, bytes + done, room, &zi, ops);
		if (ZYAN_SUCCESS(status))
			length = l.zi->length;
		if (status == ZYDIS_STATUS_NO_MORE_DATA && room < 15) {
			if (!count)
				return DECODE_CROSSES;
			break;
		}
		notes[count] = (struct note){ 0 };
		*out = (struct insn){
			.offset = (uint16_t)done, .base = OFF_ZERO, .index = OFF_ZERO, .seg = SEG_DS
		};
		l.out = out;
		l.note = &notes[count];
		out->len = (uint8_t)length;
		l.bytes = bytes + done;
		l.fast = false;
		if (!ZYAN_SUCCESS(status)) {
			bool too_long = status == ZYDIS_STATUS_INSTRUCTION_TOO_LONG ||
					status == ZYDIS_STATUS_NO_MORE_DATA;

			lower_fault(&l, too_long ? VEC_GP : VEC_UD, too_long);
		} else if (!l.code64 && ((rip + done) & 0xffffffffu) + length - 1 > limit) {
			lower_fault(&l, VEC_GP, true);
		} else {
			lower(&l);
			if (l.full)
				return DECODE_FULL;
			stored = d->checked && may_store(&l);
			if (out->handler == insn_nop && most > 1 && count) {
				/*
				 * No record: what follows has its own offset. Not so the first one:
				 * a killed trace must leave at its first byte.
				 */
				done += length;
				continue;
			}
			if (count && most > 1 &&
			    fuse(&l, &t->insns[count - 1], &notes[count - 1], out)) {
				notes[count - 1].exits = true;
				notes[count - 1].fusible = false;
				notes[count - 1].dead = NULL;
				done += length;
				continue;
			}
		}
		done += length;
		count++;
		ends = l.note->ends;
	}
	drop_dead_flags(t->insns, notes, count);
	t->count = (uint16_t)count;
	for (unsigned n = 0; n < count; n++) {
		d->hints[n] = notes[n].hint;
		d->hints[n].tested = notes[n].exits;
		d->hints[n].ends = notes[n].ends;
	}
	t->bytes = (uint16_t)done;
	end = &t->insns[count];
	*end = (struct insn){ .link = NULL, .offset = (uint16_t)done, .disp = (int32_t)done };
	end->width = (uint8_t)(l.code64 ? 8 : (mode & MODE_CODE32) ? 4 : 2);
	d->hints[count] = (struct trace_hint){ .ends = true };
	if (most == 1) {
		end->handler = insn_stop;
	} else {
		/* Behind a page's last whole instruction comes one that crosses: its trace is never
		 * linked. */
		bool near = same_page(&l, rip + done) && (count == most || stored);

		end->handler = end_handler(near, l.code64);
		if (near)
			d->hints[count].kind = HINT_JUMP;
	}
	return DECODE_OK;
}
