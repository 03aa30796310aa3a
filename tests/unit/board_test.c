/* The whole machine without a CPU: built, reset, twice in one process, refused with a sentence, and
 * what firmware would leave in memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/loop.h"
#include "board/board.h"
#include "board/board_map.h"
#include "boot/boot_image.h"
#include "bus/bus.h"
#include "cpu/vcpu.h"

#define MIB (1ull << 20)

struct fixture {
	struct loop *loop;
	struct board_options options;
	char error[BOARD_ERROR_MAX];
	enum stop_reason reason;
	uint32_t code;
};

static void on_stop(void *ctx, enum stop_reason reason, uint32_t code, const char *detail)
{
	struct fixture *f = ctx;

	f->reason = reason;
	f->code = code;
}

static void fixture_init(struct fixture *f)
{
	memset(f, 0, sizeof(*f));
	f->loop = loop_new();
	assert_non_null(f->loop);
	assert_int_equal(loop_start(f->loop), 0);
	f->options = (struct board_options){ .mem_bytes = 64 * MIB,
					     .cpus = 1,
					     .loop = f->loop,
					     .stop = { on_stop, f },
					     .debug_exit = true };
}

static struct board *make(struct fixture *f)
{
	struct board *board = board_new(&f->options, f->error);

	if (!board)
		fail_msg("%s", f->error);
	return board;
}

static uint32_t config_read(struct board *board, unsigned slot, unsigned reg)
{
	bus_write(board->pio, 0xcf8, 4, 0x80000000u | slot << 11 | reg);
	return (uint32_t)bus_read(board->pio, 0xcfc, 4);
}

static void expect_firmware(struct board *board)
{
	char bytes[8] = { 0 };

	assert_int_equal(ram_read(board->ram, MAP_TABLES_BASE, bytes, 8), 0);
	assert_memory_equal(bytes, "RSD PTR ", 8);
	assert_int_equal(ram_read(board->ram, MAP_MPTABLE_BASE, bytes, 4), 0);
	assert_memory_equal(bytes, "_MP_", 4);
	/* ECAM and ports show the same host bridge; BARs are placed and decoded. */
	assert_int_equal(config_read(board, 0, 0) & 0xffff, 0x8086);
	assert_int_equal(bus_read(board->mmio, MAP_ECAM_BASE, 4), config_read(board, 0, 0));
	assert_int_equal(config_read(board, 2, 0) & 0xffff, 0x1af4);
	uint32_t bar = config_read(board, 2, 0x20);

	assert_in_range(bar & ~15u, MAP_PCI_BASE, MAP_PCI_BASE + MAP_PCI_LEN);
	assert_true(config_read(board, 2, 4) & 2);
	assert_true(bus_claims(board->mmio, bar & ~15u, 4));
}

static void test_life(void **state)
{
	struct fixture f, g;
	struct boot_machine machine;

	fixture_init(&f);
	fixture_init(&g);
	g.options.mem_bytes = 3072 * MIB; /* low and high RAM */
	g.options.cpus = 4;
	struct board *one = make(&f), *two = make(&g);

	expect_firmware(one);
	expect_firmware(two);
	board_boot_machine(one, &machine);
	assert_int_equal(machine.range_count, 5);
	assert_int_equal(machine.range[3].base + machine.range[3].len, 64 * MIB);
	board_boot_machine(two, &machine);
	assert_int_equal(machine.range_count, 6);
	assert_int_equal(machine.range[5].base, RAM_HIGH_BASE);
	assert_int_equal(machine.range[5].len, 1024 * MIB);

	/* What the guest wrote over is there again after a reset, and RAM stays. */
	assert_int_equal(ram_write(one->ram, MAP_TABLES_BASE, "xxxxxxxxxxxx", 12), 0);
	assert_int_equal(ram_write(one->ram, 0x200000, "kept", 4), 0);
	bus_write(one->pio, 0xcf8, 4, 0x80000000u | 2 << 11 | 4);
	bus_write(one->pio, 0xcfc, 2, 0);
	assert_int_equal(board_reset(one, f.error), 0);
	expect_firmware(one);
	char kept[4];

	assert_int_equal(ram_read(one->ram, 0x200000, kept, 4), 0);
	assert_memory_equal(kept, "kept", 4);

	bus_write(one->pio, MAP_PORT_DEBUG_EXIT, 1, 21);
	assert_int_equal(f.reason, STOP_DEBUG_EXIT);
	assert_int_equal(f.code, 21);
	assert_int_equal(g.reason, STOP_NONE);
	bus_write(two->pio, MAP_PORT_PM + 4, 2, 5 << 10 | 1 << 13);
	assert_int_equal(g.reason, STOP_POWER_OFF);
	board_free(one);
	board_free(two);
	loop_free(f.loop);
	loop_free(g.loop);
}

static void test_vcpus(void **state)
{
	struct fixture f;
	struct vcpu *v[2];

	fixture_init(&f);
	struct board *board = make(&f);

	for (unsigned i = 0; i < 2; i++) {
		v[i] = aligned_alloc(64, (sizeof(*v[i]) + 63) & ~63ul);
		memset(v[i], 0, sizeof(*v[i]));
		v[i]->index = i;
	}
	assert_int_equal(board_attach_vcpu(board, v[0]), 0);
	assert_int_equal(board_attach_vcpu(board, v[1]), -ENOSPC);
	assert_ptr_equal(v[0]->ram, board->ram);
	assert_non_null(v[0]->apics);
	assert_int_equal(v[0]->arch.a20_masked, 0);
	/* Port 0x92 and the keyboard controller's output port both let it through at power-on. */
	bus_write(board->pio, 0x92, 1, 0);
	assert_int_equal(v[0]->arch.a20_masked, 0);
	bus_write(board->pio, 0x64, 1, 0xd1);
	bus_write(board->pio, 0x60, 1, 0xdd);
	assert_int_equal(v[0]->arch.a20_masked, 1);
	assert_true(v[0]->req & REQ_FLUSH);
	bus_write(board->pio, 0x92, 1, 2);
	assert_int_equal(v[0]->arch.a20_masked, 0);
	board_free(board);
	loop_free(f.loop);
	free(v[0]);
	free(v[1]);
}

static void expect_refused(struct fixture *f, const char *words)
{
	assert_null(board_new(&f->options, f->error));
	if (!strstr(f->error, words))
		fail_msg("\"%s\" does not say \"%s\"", f->error, words);
}

static void test_refused(void **state)
{
	static struct board_disk disks[BOARD_DISKS_MAX + 1];
	struct fixture f;

	fixture_init(&f);
	f.options.mem_bytes = 1 * MIB;
	expect_refused(&f, "memory of 1048576 bytes");
	f.options.mem_bytes = 64 * MIB + 1;
	expect_refused(&f, "multiple of 4 KiB");
	f.options.mem_bytes = UINT64_MAX & PAGE_MASK;
	expect_refused(&f, "memory of");
	f.options.mem_bytes = 64 * MIB;
	f.options.cpus = 0;
	expect_refused(&f, "0 cpus");
	f.options.cpus = 256;
	expect_refused(&f, "256 cpus");
	f.options.cpus = 1;
	f.options.disks = disks;
	f.options.disk_count = BOARD_DISKS_MAX + 1;
	expect_refused(&f, "17 disks");
	disks[0].path = "/nonexistent/disk";
	f.options.disk_count = 1;
	expect_refused(&f, "/nonexistent/disk");
	loop_free(f.loop);
}

/* As many disks as there may be: all get their slots, BARs and interrupts. */
static void test_disks(void **state)
{
	static struct board_disk disks[BOARD_DISKS_MAX];
	static char paths[BOARD_DISKS_MAX][32];
	struct fixture f;

	fixture_init(&f);
	for (unsigned i = 0; i < BOARD_DISKS_MAX; i++) {
		strcpy(paths[i], "/tmp/insula-disk-XXXXXX");
		int fd = mkstemp(paths[i]);

		assert_int_equal(ftruncate(fd, MIB), 0);
		close(fd);
		disks[i] = (struct board_disk){ .path = paths[i], .read_only = i & 1 };
	}
	f.options.disks = disks;
	f.options.disk_count = BOARD_DISKS_MAX;
	struct board *board = make(&f);

	for (unsigned i = 0; i < BOARD_DISKS_MAX; i++) {
		assert_int_equal(config_read(board, 3 + i, 0) & 0xffff, 0x1af4);
		assert_int_equal(config_read(board, 3 + i, 0x3c) >> 8 & 0xff, 1);
	}
	board_free(board);
	loop_free(f.loop);
	for (unsigned i = 0; i < BOARD_DISKS_MAX; i++)
		unlink(paths[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_life),
		cmocka_unit_test(test_vcpus),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_disks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
