/*
 * Fuzz target: the reader of saved states. An input is either a stream as it
 * is, or the parts of one, which are put together here with checksums that fit:
 * who means harm can compute them too, and the fuzzer cannot. What loads must
 * save and load again as the same bytes; what is refused must change nothing and
 * say why in one sentence.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/assert.h"
#include "base/bytes.h"
#include "input.h"
#include "state/crc32c.h"
#include "state/format.h"
#include "state/stream.h"

#define STREAM_MAX 70000

struct leaf {
	uint16_t port;
	bool on;
};

struct branch {
	uint8_t name[5];
	struct leaf leaves[2];
};

/* A device with every kind of field, nested as deep as tables may be. */
struct tree {
	void *host;
	uint8_t mode, fifo[16];
	uint16_t divisor, counts[3];
	uint32_t control, irr[8];
	uint64_t start_ns, queue[2];
	bool enabled, pins[4];
	struct leaf one;
	struct branch branches[3];
	uint64_t late;  /* since version 2 */
	bool later[2];  /* since version 3 */
	uint32_t after; /* no field: must never change */
};

static const struct state_field leaf_fields[] = {
	STATE_FIELD(struct leaf, port),
	STATE_FIELD(struct leaf, on),
	STATE_END,
};
static const struct state_table leaf_table = { "leaf", 1, sizeof(struct leaf), leaf_fields, NULL };

static int branch_post_load(void *object, const char **error)
{
	const struct branch *branch = object;

	*error = "a branch has no name";
	return branch->name[0] ? 0 : -1;
}

static const struct state_field branch_fields[] = {
	STATE_ARRAY(struct branch, name),
	STATE_STRUCT_ARRAY(struct branch, leaves, &leaf_table),
	STATE_END,
};
static const struct state_table branch_table = { "branch", 1, sizeof(struct branch), branch_fields,
						 branch_post_load };

static int tree_post_load(void *object, const char **error)
{
	struct tree *tree = object;

	if (tree->mode > 5) {
		*error = "the mode is not one of 0 to 5";
		return -1;
	}
	tree->divisor |= 1; /* post_load may correct */
	return 0;
}

static const struct state_field tree_fields[] = {
	STATE_FIELD(struct tree, mode),
	STATE_ARRAY(struct tree, fifo),
	STATE_FIELD(struct tree, divisor),
	STATE_ARRAY(struct tree, counts),
	STATE_FIELD(struct tree, control),
	STATE_ARRAY(struct tree, irr),
	STATE_FIELD(struct tree, start_ns),
	STATE_ARRAY(struct tree, queue),
	STATE_FIELD(struct tree, enabled),
	STATE_ARRAY(struct tree, pins),
	STATE_STRUCT_FIELD(struct tree, one, &leaf_table),
	STATE_STRUCT_ARRAY(struct tree, branches, &branch_table),
	STATE_FIELD_SINCE(struct tree, late, 2),
	STATE_ARRAY_SINCE(struct tree, later, later[0], 3),
	STATE_END,
};
static const struct state_table tree_table = { "tree", 3, sizeof(struct tree), tree_fields,
					       tree_post_load };

static const struct tree sample = {
	.host = (void *)&tree_table,
	.mode = 4,
	.divisor = 0x1235,
	.start_ns = 1ull << 63,
	.enabled = true,
	.branches = { { .name = "one" }, { .name = "two" }, { .name = "three" } },
	.late = 7,
	.after = 0xa5a5a5a5,
};

static const char *const names[] = { "tree", "tree.1", "leaf", "branch" };
#define NAMES (sizeof(names) / sizeof(names[0]))

struct stream {
	uint8_t bytes[STREAM_MAX];
	size_t len;
	uint32_t sections;
};

static void put(struct stream *s, const void *bytes, size_t len)
{
	ASSERT(len <= sizeof(s->bytes) - s->len);
	memcpy(s->bytes + s->len, bytes, len);
	s->len += len;
}

static void put32(struct stream *s, uint32_t value)
{
	put(s, &value, 4);
}

/* Name (an index, or 0xff and any bytes), version, length, the fields as they are. */
static void put_section(struct stream *s, struct input *in)
{
	uint64_t which = input_take(in, 1);
	const char *name = names[which % NAMES];
	size_t start = s->len, crc_at;
	uint8_t other[64], name_len = (uint8_t)strlen(name);
	uint32_t crc, len;

	if (which == 0xff) {
		name_len = (uint8_t)(input_take(in, 1) % sizeof(other));
		for (unsigned i = 0; i < name_len; i++)
			other[i] = (uint8_t)input_take(in, 1);
		name = (const char *)other;
	}
	put32(s, FORMAT_SECTION);
	put(s, &name_len, 1);
	put(s, name, name_len);
	put32(s, (uint32_t)input_take(in, 1));
	len = (uint32_t)input_take(in, 2);
	if (len > in->left)
		len = (uint32_t)in->left;
	put32(s, len);
	crc_at = s->len;
	put32(s, 0);
	put(s, in->bytes, len);
	in->bytes += len;
	in->left -= len;
	crc = crc32c(0, s->bytes + start, crc_at - start);
	bytes_store32(s->bytes + crc_at, crc32c(crc, s->bytes + crc_at + 4, len));
	s->sections++;
}

static void put_stream(struct stream *s, struct input *in)
{
	uint64_t harm = input_take(in, 1);
	size_t start;

	put(s, FORMAT_MAGIC, FORMAT_MAGIC_LEN);
	put32(s, FORMAT_VERSION);
	while (in->left && s->len < STREAM_MAX / 2 && s->sections < 3)
		put_section(s, in);
	start = s->len;
	put32(s, FORMAT_END);
	put32(s, s->sections);
	put32(s, crc32c(0, s->bytes + start, s->len - start));
	if (harm == 1 && in->left)
		s->len = input_take(in, 2) % s->len;
	else if (harm == 2 && in->left)
		s->bytes[input_take(in, 2) % s->len] ^= (uint8_t)input_take(in, 1);
}

static void assert_sentence(const struct state_reader *r)
{
	size_t len = strnlen(r->error, sizeof(r->error));

	ASSERT(len > 10 && len < sizeof(r->error) && r->error[len - 1] == '.');
	for (size_t i = 0; i < len; i++)
		ASSERT(r->error[i] >= ' ' && r->error[i] <= '~');
}

/* What was loaded, saved: loads into another object, which saves as the same. */
static void assert_saves(const struct tree *tree)
{
	struct tree again = sample;
	struct state_writer first, second;
	struct state_reader r;
	json_t *json;
	int error;

	state_writer_init(&first);
	state_save(&tree_table, tree, &first);
	error = state_writer_finish(&first);
	ASSERT(!error);
	error = state_reader_init(&r, first.bytes, first.len);
	ASSERT(!error);
	error = state_load(&tree_table, &again, &r);
	ASSERT(!error);
	ASSERT(!state_reader_leftover(&r));
	state_reader_fini(&r);
	state_writer_init(&second);
	state_save(&tree_table, &again, &second);
	error = state_writer_finish(&second);
	ASSERT(!error);
	ASSERT(first.len == second.len && !memcmp(first.bytes, second.bytes, first.len));
	state_writer_fini(&first);
	state_writer_fini(&second);
	json = state_to_json(&tree_table, tree);
	ASSERT(json);
	json_decref(json);
}

static void load(struct state_reader *r, const char *name)
{
	struct tree tree, before;
	struct leaf leaf = { .port = 0x3f8 };
	int error;

	memcpy(&tree, &sample, sizeof(tree));
	memcpy(&before, &tree, sizeof(before));
	error = state_load_named(&tree_table, name, &tree, r);
	if (error) {
		ASSERT(error == -EINVAL || error == -ENOENT);
		assert_sentence(r);
		ASSERT(!memcmp(&tree, &before, sizeof(tree)));
	} else {
		ASSERT(tree.mode <= 5 && tree.host == sample.host && tree.after == sample.after);
		ASSERT(tree.branches[0].name[0] && tree.branches[2].name[0]);
		assert_saves(&tree);
	}
	error = state_load_named(&leaf_table, name, &leaf, r);
	if (error)
		assert_sentence(r);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
	static struct stream s;
	struct input in = { bytes, len };
	struct state_reader r;
	uint8_t *exact;
	int error;

	s.len = s.sections = 0;
	if (input_take(&in, 1) & 1)
		put(&s, in.bytes, in.left < STREAM_MAX ? in.left : STREAM_MAX);
	else
		put_stream(&s, &in);
	/* In memory of just that length, so that a sanitizer sees any byte read beyond. */
	exact = malloc(s.len ? s.len : 1);
	ASSERT(exact);
	memcpy(exact, s.bytes, s.len);
	error = state_reader_init(&r, exact, s.len);
	if (error) {
		ASSERT(error == -EINVAL);
		assert_sentence(&r);
	} else {
		for (unsigned i = 0; i < NAMES; i++)
			load(&r, names[i]);
		state_reader_leftover(&r);
		state_reader_fini(&r);
	}
	free(exact);
	return 0;
}
