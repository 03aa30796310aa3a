/*
 * Names and listings of translated code. The map's lines are those of perf's
 * own format, "START SIZE NAME" in hexadecimal; a name is the guest's privilege
 * and the linear address of the region's entry. Invariant: what stands in the
 * map, as long as only one vcpu writes it, is code that exists.
 */
#include "engine/translate/listing.h"
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define LEFT 58 /* columns of guest code */

static void map_line(const struct translator *t, uint32_t from, uint32_t to, const char *name)
{
	char line[128];
	int len = snprintf(line, sizeof(line), "%" PRIxPTR " %" PRIx32 " %s\n",
			   (uintptr_t)(t->code.rx + from), to - from, name);

	/* In one piece: other vcpus append too. A full disk is no reason to stop a guest. */
	if (to > from && len > 0 && write(t->perf_map, line, (size_t)len) < 0)
		return;
}

static void map_begin(const struct translator *t)
{
	char name[32];

	snprintf(name, sizeof(name), "insula:stubs-vcpu%u", t->v->index);
	map_line(t, 0, t->stubs_end, name);
}

int listing_open(struct translator *t, const char **error)
{
	char path[64];

	t->perf_map = -1;
	if (!translate_options.perf_map)
		return 0;
	snprintf(path, sizeof(path), "/tmp/perf-%d.map", (int)getpid());
	t->perf_map = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (t->perf_map < 0) {
		*error = "cannot write /tmp/perf-PID.map";
		return -1;
	}
	map_begin(t);
	return 0;
}

void listing_close(struct translator *t)
{
	if (t->perf_map >= 0)
		close(t->perf_map);
	t->perf_map = -1;
}

void listing_forget(struct translator *t)
{
	/* Other vcpus' lines go too, so then the old ones stay and perf may take one for a new. */
	if (t->perf_map < 0 || t->v->exclusive || ftruncate(t->perf_map, 0))
		return;
	map_begin(t);
}

unsigned listing_insn(const struct translator *t, const uint8_t *bytes, unsigned room,
		      uint64_t address, char *text, unsigned size)
{
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction zi;
	ZydisFormatter formatter;

	ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_ATT);
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&t->decoder->zydis[0], bytes,
						 room < 15 ? room : 15, &zi, ops)) ||
	    !ZYAN_SUCCESS(ZydisFormatterFormatInstruction(
		    &formatter, &zi, ops, zi.operand_count_visible, text, size, address, NULL)))
		return 0;
	return zi.length;
}

/* Host code, one line at each call. */
struct host_lines {
	uint32_t at, end;
};

static bool host_line(const struct translator *t, struct host_lines *h, char *line, unsigned size)
{
	unsigned len;
	int put;

	if (h->at >= h->end)
		return false;
	put = snprintf(line, size, "%" PRIxPTR "  ", (uintptr_t)(t->code.rx + h->at));
	len = listing_insn(t, t->code.rw + h->at, h->end - h->at, (uintptr_t)(t->code.rx + h->at),
			   line + put, size - (unsigned)put);
	if (!len) {
		snprintf(line + put, size - (unsigned)put, ".byte %#x", t->code.rw[h->at]);
		len = 1;
	}
	h->at += len;
	return true;
}

static void print_row(const struct translator *t, struct host_lines *h, const char *left)
{
	char right[160];

	if (host_line(t, h, right, sizeof(right)))
		fprintf(stderr, "  %-*.*s | %s\n", LEFT, LEFT, left, right);
	else
		fprintf(stderr, "  %s\n", left);
}

static void print_listing(const struct translator *t, const struct region *r, uint64_t rip,
			  uint32_t far)
{
	const struct plan *p = t->plan;
	struct host_lines h = { r->entry, r->end };
	char line[160], text[128];
	unsigned n, k;

	flockfile(stderr);
	fprintf(stderr,
		"insula: region %" PRIx64 ", page %" PRIx64
		", cpl %u: %u instructions in %u blocks, %" PRIu32 " bytes here and %" PRIu32
		" far\n",
		rip, (uint64_t)p->page, t->v->arch.cpl, p->insn_count, p->block_count,
		r->end - r->entry, t->far_used - far);
	for (n = 0; n < p->block_count; n++) {
		const struct guest_block *b = &p->blocks[n];

		snprintf(line, sizeof(line), "block %u:%s%s", n, b->head ? " loop" : "",
			 b->live_in ? " flags" : "");
		print_row(t, &h, line);
		for (k = 0; k < b->count; k++) {
			const struct guest_insn *i = &p->insns[b->first + k];
			uint64_t at = (rip & PAGE_MASK) + i->offset;

			if (!listing_insn(t, p->bytes + i->offset, (unsigned)PAGE_SIZE - i->offset,
					  at, text, sizeof(text)))
				snprintf(text, sizeof(text), "(bad)");
			snprintf(line, sizeof(line), "%" PRIx64 "  %s", at, text);
			print_row(t, &h, line);
		}
	}
	while (h.at < h.end)
		print_row(t, &h, "");
	h = (struct host_lines){ far, t->far_used };
	while (h.at < h.end)
		print_row(t, &h, h.at == far ? "far:" : "");
	funlockfile(stderr);
}

void listing_region(struct translator *t, const struct region *r, uint64_t rip, uint32_t far)
{
	char name[64];

	if (t->perf_map >= 0) {
		int len = snprintf(name, sizeof(name), "%s:%" PRIx64,
				   t->v->arch.cpl == 3 ? "user" : "kernel", rip);

		map_line(t, r->enter, r->end, name);
		snprintf(name + len, sizeof(name) - (size_t)len, ":far");
		map_line(t, far, t->far_used, name);
	}
	if (translate_options.log)
		print_listing(t, r, rip, far);
}
