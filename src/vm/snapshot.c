/*
 * See the header. Invariant: what is saved is one moment. The machine is paused,
 * and whatever lives on the event loop is read on its thread in one go, so no
 * byte is on its way between the two.
 */
#include "vm/snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <zstd.h>

#include "base/assert.h"
#include "base/bytes.h"
#include "base/loop.h"
#include "bus/tsc.h"
#include "bus/vclock.h"
#include "cpu/vcpu_state.h"
#include "state/crc32c.h"
#include "state/stream.h"
#include "vm/snapshot_live.h"
#include "vm/snapshot_priv.h"
#include "vm/vm_priv.h"

#define RUN_MAX    (1u << 20) /* bytes of RAM in one write */
#define ZSTD_LEVEL 1
#define ZERO_PAGE  4096u

/* ---- the machine's description ---- */

static const struct state_field machine_fields[] = {
	STATE_FIELD(struct machine_state, mem_bytes),
	STATE_FIELD(struct machine_state, tsc_khz),
	STATE_FIELD(struct machine_state, wall_base_ns),
	STATE_FIELD(struct machine_state, cpus),
	STATE_FIELD(struct machine_state, disks),
	STATE_FIELD(struct machine_state, debug_exit),
	STATE_FIELD(struct machine_state, host_tsc_khz),
	STATE_ARRAY(struct machine_state, host_boot),
	STATE_FIELD(struct machine_state, console),
	STATE_FIELD(struct machine_state, agent),
	STATE_END,
};

static int machine_post_load(void *object, const char **error)
{
	const struct machine_state *m = object;

	*error = "no machine is like that";
	if (m->mem_bytes < BOARD_MEM_MIN || m->mem_bytes > BOARD_MEM_MAX ||
	    m->mem_bytes % PAGE_SIZE || !m->cpus || m->cpus > BOARD_CPUS_MAX ||
	    m->disks > BOARD_DISKS_MAX || m->tsc_khz < 1000 || m->tsc_khz > 100000000)
		return -1;
	return 0;
}

static const struct state_table machine_table = {
	.name = "machine",
	.version = 1,
	.size = sizeof(struct machine_state),
	.fields = machine_fields,
	.post_load = machine_post_load,
};

static const struct state_field disk_fields[] = {
	STATE_ARRAY(struct snapshot_disk, path),
	STATE_FIELD(struct snapshot_disk, size_bytes),
	STATE_FIELD(struct snapshot_disk, mtime_ns),
	STATE_FIELD(struct snapshot_disk, read_only),
	STATE_END,
};

static int disk_post_load(void *object, const char **error)
{
	struct snapshot_disk *disk = object;

	*error = "a disk has no path";
	disk->path[sizeof(disk->path) - 1] = 0;
	return disk->path[0] == '/' ? 0 : -1;
}

static const struct state_table disk_table = {
	.name = "disk",
	.version = 1,
	.size = sizeof(struct snapshot_disk),
	.fields = disk_fields,
	.post_load = disk_post_load,
};

/* All zero where the host does not tell. */
static void host_boot_id(uint8_t id[BOOT_ID_LEN])
{
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);

	memset(id, 0, BOOT_ID_LEN);
	if (fd < 0)
		return;
	if (read(fd, id, BOOT_ID_LEN) != BOOT_ID_LEN)
		memset(id, 0, BOOT_ID_LEN);
	close(fd);
}

static int disk_identity(const char *path, struct snapshot_disk *disk)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return -errno;
	disk->size_bytes = (uint64_t)st.st_size;
	disk->mtime_ns = (uint64_t)st.st_mtim.tv_sec * 1000000000u + (uint64_t)st.st_mtim.tv_nsec;
	return 0;
}

static int disk_save(struct vm *vm, unsigned n, struct state_writer *w, char *error)
{
	const struct board_disk *option = &vm->options.board.disks[n];
	struct snapshot_disk disk = { .read_only = option->read_only };
	char resolved[PATH_MAX], name[16];

	if (!realpath(option->path, resolved) || strlen(resolved) >= sizeof(disk.path)) {
		snprintf(error, SNAPSHOT_ERROR_MAX, "disk %s: %s", option->path,
			 errno ? strerror(errno) : "its path is too long");
		return errno ? -errno : -ENAMETOOLONG;
	}
	strcpy((char *)disk.path, resolved);
	if (disk_identity(resolved, &disk) < 0) {
		snprintf(error, SNAPSHOT_ERROR_MAX, "disk %s: %s", option->path, strerror(errno));
		return -errno;
	}
	snprintf(name, sizeof(name), "disk.%u", n);
	state_save_named(&disk_table, name, &disk, w);
	return 0;
}

/*
 * A snapshot that outlives a crash of the host must not be ahead of its disks.
 * The machine may run again: what it writes now makes no difference to that.
 */
static void disks_sync(const struct vm *vm)
{
	for (size_t i = 0; i < vm->options.board.disk_count; i++) {
		const struct board_disk *disk = &vm->options.board.disks[i];
		int fd = disk->read_only ? -1 : open(disk->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

		if (fd < 0)
			continue;
		if (fdatasync(fd) < 0)
			errno = 0; /* then neither would be there */
		close(fd);
	}
}

/* ---- saving: the state ---- */

struct collect {
	struct vm *vm;
	const struct snapshot_extra *extra;
	struct state_writer *w;
	uint8_t *session;
	size_t session_len;
	int err;
};

/* On the loop's thread, the machine paused. */
static void collect(void *ctx)
{
	struct collect *c = ctx;
	struct vm *vm = c->vm;
	const struct board_options *o = &vm->options.board;
	struct machine_state machine = {
		.mem_bytes = o->mem_bytes,
		.tsc_khz = vclock_tsc_khz(vm->board->clock),
		.wall_base_ns = vm->held ? vm->held_base_ns : vclock_wall_ns(vm->board->clock, 0),
		.cpus = vm->vcpu_count,
		.disks = (uint32_t)o->disk_count,
		.debug_exit = o->debug_exit,
		.console = o->console,
		.agent = o->agent,
		.host_tsc_khz = tsc_host_khz(),
	};

	host_boot_id(machine.host_boot);
	state_save(&machine_table, &machine, c->w);
	cpu_model_save(vm->model, c->w);
	board_save(vm->board, c->w);
	for (unsigned i = 0; i < vm->vcpu_count; i++)
		vcpu_save(vm->vcpus[i], c->w);
	if (c->extra && c->extra->save)
		c->err = c->extra->save(c->extra->ctx, c->w, &c->session, &c->session_len);
}

int snapshot_collect(struct vm *vm, const struct snapshot_extra *extra, struct state_writer *w,
		     uint8_t **session, size_t *session_len, char *error)
{
	struct collect c = { .vm = vm, .extra = extra, .w = w };
	int err;

	loop_call(vm->options.board.loop, collect, &c);
	err = c.err;
	for (unsigned i = 0; !err && i < vm->options.board.disk_count; i++)
		err = disk_save(vm, i, w, error);
	*session = c.session;
	*session_len = c.session_len;
	return err;
}

int vm_state(struct vm *vm, struct state_writer *w)
{
	struct collect c = { .vm = vm, .w = w };
	int err = vm_pause(vm);

	if (err)
		return err;
	loop_call(vm->options.board.loop, collect, &c);
	vm_resume(vm);
	return state_writer_finish(w);
}

/* ---- saving: RAM ---- */

static bool is_zero(const void *page)
{
	const uint64_t *word = page;

	/* Most pages that are not zero show it at once. */
	if (word[0] | word[1] | word[511])
		return false;
	for (unsigned i = 0; i < PAGE_SIZE / 8; i += 8)
		if (word[i] | word[i + 1] | word[i + 2] | word[i + 3] | word[i + 4] | word[i + 5] |
		    word[i + 6] | word[i + 7])
			return false;
	return true;
}

/* Runs of pages that are not zero, as they lie. */
static int write_pages(struct vm *vm, struct snapshot_writer *w, uint64_t *written)
{
	struct ram *ram = vm->board->ram;
	uint64_t at = 0, len;

	for (; ram_next_data(ram, &at, &len); at += len) {
		const uint8_t *bytes = ram_view(ram, at, len);
		uint64_t done = 0;

		while (done < len) {
			uint64_t run = 0;
			int err;

			if (is_zero(bytes + done)) {
				done += PAGE_SIZE;
				continue;
			}
			while (done + run < len && run < RUN_MAX && !is_zero(bytes + done + run))
				run += PAGE_SIZE;
			err = snapshot_write(w, SNAPSHOT_RAM_OFFSET + at + done, bytes + done, run);
			if (err)
				return err;
			done += run;
			*written += run;
		}
	}
	return 0;
}

/* The sums, from what was written: the machine runs again meanwhile. */
static int name_pages(struct snapshot_writer *w, uint64_t ram_bytes)
{
	static const uint8_t zeroes[ZERO_PAGE];
	uint64_t pages = ram_bytes / PAGE_SIZE, at = 0;
	uint32_t zero_sum = crc32c(0, zeroes, sizeof(zeroes)), *sums;
	const uint8_t *map;
	int err;

	/* Holes at the end of RAM have not made the file as long as it is. */
	err = snapshot_extend(w, SNAPSHOT_RAM_OFFSET + ram_bytes);
	if (err)
		return err;
	err = snapshot_name_part(w, "ram", SNAPSHOT_RAM_OFFSET, ram_bytes, SNAPSHOT_PAGES, 0);
	if (err)
		return err;
	sums = malloc(pages * sizeof(*sums));
	map = mmap(NULL, SNAPSHOT_RAM_OFFSET + ram_bytes, PROT_READ, MAP_SHARED, w->fd, 0);
	if (!sums || map == MAP_FAILED) {
		free(sums);
		snprintf(w->error, sizeof(w->error), "there is no memory for the sums of RAM");
		return -ENOMEM;
	}
	for (uint64_t i = 0; i < pages; i++)
		sums[i] = zero_sum;
	while (at < ram_bytes) {
		off_t start = lseek(w->fd, (off_t)(SNAPSHOT_RAM_OFFSET + at), SEEK_DATA), end;

		if (start < 0 && errno == ENXIO)
			break;
		end = start < 0 ? -1 : lseek(w->fd, start, SEEK_HOLE);
		if (end < 0) {
			start = (off_t)(SNAPSHOT_RAM_OFFSET + at);
			end = (off_t)(SNAPSHOT_RAM_OFFSET + ram_bytes);
		}
		for (at = ((uint64_t)start - SNAPSHOT_RAM_OFFSET) / PAGE_SIZE * PAGE_SIZE;
		     at < ram_bytes && SNAPSHOT_RAM_OFFSET + at < (uint64_t)end; at += PAGE_SIZE)
			sums[at / PAGE_SIZE] = crc32c(0, map + SNAPSHOT_RAM_OFFSET + at, PAGE_SIZE);
	}
	munmap((void *)map, SNAPSHOT_RAM_OFFSET + ram_bytes);
	err = snapshot_add(w, "ram.sums", sums, pages * sizeof(*sums));
	free(sums);
	return err;
}

/* One record of "ram.frames": u32 stored bytes, 0 for a frame of zeroes, u32 checksum of them. */
#define FRAME_RECORD 8

static int write_frames(struct vm *vm, struct snapshot_writer *w, uint64_t *written, uint8_t *table)
{
	struct ram *ram = vm->board->ram;
	uint64_t limit = ram_size(ram), at = 0, len = 0, offset = SNAPSHOT_RAM_OFFSET;
	size_t bound = ZSTD_compressBound(SNAPSHOT_FRAME);
	ZSTD_CCtx *zstd = ZSTD_createCCtx();
	uint8_t *frame = malloc(bound);
	bool data = ram_next_data(ram, &at, &len);
	int err = frame && zstd ? 0 : -ENOMEM;

	if (err)
		snprintf(w->error, sizeof(w->error), "there is no memory to compress RAM");
	for (uint64_t base = 0; !err && base < limit; base += SNAPSHOT_FRAME) {
		uint64_t size = limit - base < SNAPSHOT_FRAME ? limit - base : SNAPSHOT_FRAME;
		uint8_t *record = table + base / SNAPSHOT_FRAME * FRAME_RECORD;
		size_t stored;

		while (data && at + len <= base) {
			at += len;
			data = ram_next_data(ram, &at, &len);
		}
		if (!data || at >= base + size)
			continue;
		stored = ZSTD_compressCCtx(zstd, frame, bound, ram_view(ram, base, size), size,
					   ZSTD_LEVEL);
		if (ZSTD_isError(stored)) {
			snprintf(w->error, sizeof(w->error), "cannot compress RAM: %s",
				 ZSTD_getErrorName(stored));
			err = -EIO;
			break;
		}
		err = snapshot_write(w, offset, frame, stored);
		bytes_store32(record, (uint32_t)stored);
		bytes_store32(record + 4, crc32c(0, frame, stored));
		offset += stored;
		*written += size;
	}
	ZSTD_freeCCtx(zstd);
	free(frame);
	return err;
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* The machine stands still from here to the end; what can wait comes afterwards. */
static int write_paused(struct collect *c, struct snapshot_writer *w, uint8_t *table,
			struct live *live, struct snapshot_report *report)
{
	int err = snapshot_collect(c->vm, c->extra, c->w, &c->session, &c->session_len, w->error);

	if (err)
		return err;
	if (live)
		return live_last(live);
	return table ? write_frames(c->vm, w, &report->ram_bytes, table)
		     : write_pages(c->vm, w, &report->ram_bytes);
}

static int write_rest(struct collect *c, struct snapshot_writer *w, uint8_t *table,
		      struct live *live)
{
	uint64_t ram_bytes = c->vm->options.board.mem_bytes;
	size_t frames = (ram_bytes + SNAPSHOT_FRAME - 1) / SNAPSHOT_FRAME;
	char *run = json_dumps(c->extra->run, JSON_COMPACT);
	int err = run && state_writer_finish(c->w) == 0 ? 0 : -ENOMEM;

	if (err) {
		snprintf(w->error, sizeof(w->error), "out of memory, or a name is not UTF-8");
	} else if (table) {
		err = snapshot_name_part(w, "ram", SNAPSHOT_RAM_OFFSET,
					 w->end - SNAPSHOT_RAM_OFFSET, SNAPSHOT_ZSTD, 0);
		if (!err)
			err = snapshot_add(w, "ram.frames", table, frames * FRAME_RECORD);
	} else {
		err = live ? live_finish(live) : name_pages(w, ram_bytes);
	}
	if (!err)
		err = snapshot_add(w, "run", run, strlen(run));
	if (!err)
		err = snapshot_add(w, "state", c->w->bytes, c->w->len);
	if (!err && c->session)
		err = snapshot_add(w, "session", c->session, c->session_len);
	free(run);
	if (!err)
		disks_sync(c->vm);
	return err ? err : snapshot_commit(w);
}

int vm_snapshot(struct vm *vm, const struct snapshot_options *options,
		const struct snapshot_extra *extra, struct snapshot_report *report, char *error)
{
	size_t frames = (vm->options.board.mem_bytes + SNAPSHOT_FRAME - 1) / SNAPSHOT_FRAME;
	struct snapshot_writer w;
	struct state_writer state;
	struct collect c = { .vm = vm, .extra = extra, .w = &state };
	struct live rounds = { 0 }, *live = options->live ? &rounds : NULL;
	uint8_t *table = NULL;
	uint64_t began;
	bool held = false;
	int err;

	*report = (struct snapshot_report){ 0 };
	for (size_t i = 0; i < vm->options.board.disk_count; i++) {
		if (!vm->options.board.disks[i].overlay)
			continue;
		snprintf(error, SNAPSHOT_ERROR_MAX,
			 "what this child of another VM has written to disk %.300s ends with it: "
			 "it can be forked, not saved",
			 vm->options.board.disks[i].path);
		return -EOPNOTSUPP;
	}
	state_writer_init(&state);
	err = snapshot_create(&w, options->path);
	if (!err && options->compress) {
		table = calloc(frames, FRAME_RECORD);
		err = table ? 0 : -ENOMEM;
	}
	if (!err && live)
		err = live_init(live, vm, &w);
	if (!err && live)
		err = live_rounds(live);
	began = now_ns();
	if (!err && options->hold) {
		err = vm_hold(vm);
		held = !err;
		err = err == -EALREADY ? 0 : err;
	}
	if (!err) {
		err = vm_pause(vm);
		if (err)
			snprintf(w.error, sizeof(w.error), "the VM has ended");
	}
	if (!err) {
		err = write_paused(&c, &w, table, live, report);
		vm_resume(vm);
		report->pause_ns = now_ns() - began;
	}
	if (!err)
		err = write_rest(&c, &w, table, live);
	if (live) {
		report->ram_bytes = live->written_bytes;
		report->rounds = live->rounds;
		if (live->pause_ns > report->pause_ns)
			report->pause_ns = live->pause_ns;
		live_fini(live);
	}
	if (err) {
		snprintf(error, SNAPSHOT_ERROR_MAX, "%s",
			 *w.error ? w.error : "the snapshot could not be written");
		if (held && vm_release(vm) < 0)
			held = false;
	}
	snapshot_discard(&w);
	state_writer_fini(&state);
	free(c.session);
	free(table);
	return err;
}

/* ---- restoring ---- */

static int load_disks(struct vm_snapshot *s)
{
	char name[16];
	int err = 0;

	for (unsigned i = 0; !err && i < s->machine.disks; i++) {
		snprintf(name, sizeof(name), "disk.%u", i);
		err = state_load_named(&disk_table, name, &s->disks[i], &s->state);
	}
	return err;
}

int snapshot_parse_state(struct vm_snapshot *s, size_t len)
{
	int err = state_reader_init(&s->state, s->state_bytes, len);

	if (!err)
		err = state_load(&machine_table, &s->machine, &s->state);
	if (!err)
		err = load_disks(s);
	if (err)
		snprintf(s->file.error, sizeof(s->file.error), "is refused: %s", s->state.error);
	return err;
}

int snapshot_parse_run(struct vm_snapshot *s, const char *text, size_t len)
{
	s->run = json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL);
	if (json_is_object(s->run))
		return 0;
	snprintf(s->file.error, sizeof(s->file.error), "is damaged: part run is no object");
	return -EINVAL;
}

static int open_parts(struct vm_snapshot *s)
{
	uint8_t *text;
	size_t len;
	int err = snapshot_read(&s->file, "state", &s->state_bytes, &len);

	if (!err)
		err = snapshot_parse_state(s, len);
	if (!err)
		err = snapshot_read(&s->file, "run", &text, &len);
	if (err)
		return err;
	err = snapshot_parse_run(s, (const char *)text, len);
	free(text);
	if (err)
		return err;
	if (snapshot_find(&s->file, "session"))
		return snapshot_read(&s->file, "session", &s->session, &s->session_len);
	return 0;
}

struct vm_snapshot *vm_snapshot_open(const char *path, char *error)
{
	struct vm_snapshot *s = calloc(1, sizeof(*s));
	int err;

	if (!s) {
		snprintf(error, SNAPSHOT_ERROR_MAX, "out of memory");
		return NULL;
	}
	s->ram_fd = -1;
	err = snapshot_open(&s->file, path);
	if (!err)
		err = open_parts(s);
	if (!err)
		return s;
	snprintf(error, SNAPSHOT_ERROR_MAX, "snapshot %.150s %.300s", path, s->file.error);
	vm_snapshot_close(s);
	errno = -err;
	return NULL;
}

void vm_snapshot_close(struct vm_snapshot *s)
{
	if (!s)
		return;
	snapshot_close(&s->file);
	ram_free(s->ram);
	if (s->ram_fd >= 0)
		close(s->ram_fd);
	state_reader_fini(&s->state);
	free(s->state_bytes);
	free(s->session);
	json_decref(s->run);
	free(s);
}

const json_t *vm_snapshot_run(const struct vm_snapshot *s)
{
	return s->run;
}

const uint8_t *vm_snapshot_session(const struct vm_snapshot *s, size_t *len)
{
	*len = s->session_len;
	return s->session;
}

struct state_reader *vm_snapshot_state(struct vm_snapshot *s)
{
	return &s->state;
}

static int check_disk(const struct snapshot_disk *disk, char *error)
{
	struct snapshot_disk now = { 0 };
	int err = disk_identity((const char *)disk->path, &now);

	if (err)
		snprintf(error, SNAPSHOT_ERROR_MAX, "disk %.300s of the snapshot: %s", disk->path,
			 strerror(-err));
	else if (now.size_bytes != disk->size_bytes || now.mtime_ns != disk->mtime_ns)
		err = -ESTALE,
		snprintf(error, SNAPSHOT_ERROR_MAX,
			 "disk %.300s was changed after the snapshot was taken; --trust-disks "
			 "takes it as it is",
			 disk->path);
	return err;
}

int vm_snapshot_apply(struct vm_snapshot *s, struct vm_options *options,
		      const struct snapshot_wishes *wishes, char *error)
{
	const struct machine_state *m = &s->machine;
	struct board_options *board = &options->board;
	uint8_t boot[BOOT_ID_LEN];
	int bases = 0;

	if (!board->console != !m->console || !board->agent != !m->agent) {
		snprintf(error, SNAPSHOT_ERROR_MAX,
			 "the snapshot's machine and its run contradict each other");
		return -EINVAL;
	}
	host_boot_id(boot);
	if (boot[0] && memcmp(boot, m->host_boot, sizeof(boot)) == 0 && m->host_tsc_khz >= 1000 &&
	    m->host_tsc_khz <= 100000000)
		tsc_host_preset(m->host_tsc_khz);
	board->mem_bytes = m->mem_bytes;
	board->cpus = m->cpus;
	board->tsc_khz = m->tsc_khz;
	board->ram = s->ram;
	board->debug_exit = m->debug_exit;
	for (unsigned i = 0; i < m->disks; i++) {
		bool base = s->ram_fd >= 0 && !s->disks[i].read_only;
		int err = wishes->trust_disks || base ? 0 : check_disk(&s->disks[i], error);

		if (err)
			return err;
		/* Children write each into an overlay of its own. */
		s->board_disks[i] =
			(struct board_disk){ .path = (const char *)s->disks[i].path,
					     .read_only = s->disks[i].read_only,
					     .overlay = s->ram && !s->disks[i].read_only,
					     .base_fd = base ? s->disk_fd + bases : 0 };
		bases += base;
	}
	board->disks = s->board_disks;
	board->disk_count = m->disks;
	s->wishes = *wishes;
	options->restore = s;
	return 0;
}

int vm_snapshot_check_all(const struct vm_snapshot *s, char *error)
{
	const char *name = state_reader_leftover(&s->state);

	if (!name)
		return 0;
	snprintf(error, SNAPSHOT_ERROR_MAX,
		 "the snapshot holds %.64s, which this Insula does not know: take a newer one",
		 name);
	return -EINVAL;
}

/* ---- for vm.c ---- */

void snapshot_ram_taken(struct vm_snapshot *s)
{
	s->ram_shared = s->ram;
	s->ram = NULL;
}

const struct cpu_model *snapshot_model(struct vm_snapshot *s, char *error)
{
	const struct cpu_model *model =
		cpu_model_load(&s->state, s->machine.cpus, s->machine.tsc_khz);

	if (!model)
		snprintf(error, VM_ERROR_MAX, "%s", s->state.error);
	return model;
}

static int load_frames(struct vm_snapshot *s, struct ram *ram, const struct snapshot_part *part)
{
	uint64_t limit = ram_size(ram), offset = part->offset;
	size_t frames = (limit + SNAPSHOT_FRAME - 1) / SNAPSHOT_FRAME, len;
	uint8_t *table, *frame = malloc(ZSTD_compressBound(SNAPSHOT_FRAME));
	ZSTD_DCtx *zstd = ZSTD_createDCtx();
	int err = snapshot_read(&s->file, "ram.frames", &table, &len);

	if (!err && (!frame || !zstd)) {
		snprintf(s->file.error, sizeof(s->file.error), "needs more memory than there is");
		err = -ENOMEM;
	}
	if (!err && len != frames * FRAME_RECORD)
		err = -EINVAL, snprintf(s->file.error, sizeof(s->file.error),
					"is damaged: part ram.frames has %zu bytes", len);
	for (size_t i = 0; !err && i < frames; i++) {
		uint64_t base = i * SNAPSHOT_FRAME;
		uint64_t size = limit - base < SNAPSHOT_FRAME ? limit - base : SNAPSHOT_FRAME;
		uint32_t stored = bytes_load32(table + i * FRAME_RECORD);
		uint32_t crc = bytes_load32(table + i * FRAME_RECORD + 4);
		bool good = stored <= part->offset + part->len - offset &&
			    stored <= ZSTD_compressBound(SNAPSHOT_FRAME);

		if (good && !stored)
			continue;
		good = good && pread(s->file.fd, frame, stored, (off_t)offset) == (ssize_t)stored &&
		       crc32c(0, frame, stored) == crc &&
		       ZSTD_decompressDCtx(zstd, ram_fill(ram, base, size), size, frame, stored) ==
			       size;
		if (!good) {
			snprintf(s->file.error, sizeof(s->file.error),
				 "is damaged: RAM at %llu MiB", (unsigned long long)i);
			err = -EINVAL;
		}
		offset += stored;
	}
	if (!err && offset != part->offset + part->len)
		err = -EINVAL,
		snprintf(s->file.error, sizeof(s->file.error), "is damaged: part ram is too long");
	ZSTD_freeDCtx(zstd);
	free(frame);
	free(table);
	return err;
}

/* The table of sums is small; the pages themselves are compared as they are touched. */
static int map_pages(struct vm_snapshot *s, struct ram *ram, const struct snapshot_part *part,
		     int damage_fd)
{
	const struct snapshot_part *sums = snapshot_find(&s->file, "ram.sums");
	uint64_t bytes = ram_size(ram), base, inner;
	const uint8_t *map;
	int err;

	if (!sums || sums->encoding != SNAPSHOT_PLAIN || sums->offset % 4 ||
	    sums->len != bytes / PAGE_SIZE * 4 || part->len != bytes || part->offset % PAGE_SIZE) {
		snprintf(s->file.error, sizeof(s->file.error),
			 "is damaged: RAM and its sums do not fit the machine");
		return -EINVAL;
	}
	inner = sums->offset % PAGE_SIZE;
	base = sums->offset - inner;
	map = mmap(NULL, inner + sums->len, PROT_READ, MAP_PRIVATE | MAP_POPULATE, s->file.fd,
		   (off_t)base);
	if (map == MAP_FAILED) {
		snprintf(s->file.error, sizeof(s->file.error), "cannot be mapped: %s",
			 strerror(errno));
		return -errno;
	}
	err = crc32c(0, map + inner, sums->len) == sums->crc ? 0 : -EINVAL;
	munmap((void *)map, inner + sums->len);
	if (err) {
		snprintf(s->file.error, sizeof(s->file.error),
			 "is damaged: the checksum of part ram.sums differs");
		return err;
	}
	err = ram_map_file(ram, s->file.fd, part->offset, sums->offset, damage_fd);
	if (err)
		snprintf(s->file.error, sizeof(s->file.error), "cannot be mapped: %s",
			 strerror(-err));
	return err;
}

/* Touches what is not a hole; holes are zero, as their sums must say when they are touched. */
static int touch_all(struct vm_snapshot *s, struct ram *ram)
{
	uint64_t at = 0, len;

	for (; ram_next_data(ram, &at, &len); at += len)
		ram_view(ram, at, len);
	if (ram_damage(ram) == UINT64_MAX)
		return 0;
	snprintf(s->file.error, sizeof(s->file.error), "is damaged: RAM at address %#llx",
		 (unsigned long long)ram_damage(ram));
	return -EINVAL;
}

/* A damaged page is found when it is touched, on any thread; the loop tells the VM. */
int snapshot_load_ram(struct vm_snapshot *s, struct ram *ram, int damage_fd)
{
	const struct snapshot_part *part = snapshot_find(&s->file, "ram");
	int err;

	if (!part || part->encoding == SNAPSHOT_PLAIN) {
		snprintf(s->file.error, sizeof(s->file.error), "is damaged: it has no RAM");
		return -EINVAL;
	}
	if (part->encoding == SNAPSHOT_ZSTD)
		return load_frames(s, ram, part);
	err = map_pages(s, ram, part, damage_fd);
	if (!err && s->wishes.eager)
		err = touch_all(s, ram);
	return err;
}

int snapshot_load(struct vm_snapshot *s, struct vm *vm, char *error)
{
	struct ram *ram = vm->board->ram;
	int err = 0;

	if (s->ram_shared)
		ram_adopt(ram, vm->damage_fd);
	else
		err = snapshot_load_ram(s, ram, vm->damage_fd);
	if (err) {
		snprintf(error, VM_ERROR_MAX, "the snapshot %.400s", s->file.error);
		return err;
	}
	err = board_load(vm->board, &s->state);
	for (unsigned i = 0; !err && i < vm->vcpu_count; i++)
		err = vcpu_load(vm->vcpus[i], &s->state);
	if (err) {
		snprintf(error, VM_ERROR_MAX, "the snapshot is refused: %s", s->state.error);
		return err;
	}
	vm->held_base_ns = s->machine.wall_base_ns;
	return 0;
}
