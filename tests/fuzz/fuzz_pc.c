/*
 * Fuzz target: the PC's devices, reached as a guest reaches them, with the clock
 * moved, the host's side of the serial port, resets, and saved states whose
 * bytes were changed. Whatever happened: what is saved loads as it was, and a
 * reset leaves nothing behind but what the battery keeps.
 */
#include "base/assert.h"
#include "chardev/chardev_memory.h"
#include "dev/pc/acpi_pm.h"
#include "dev/pc/ioapic.h"
#include "dev/pc/isa_irq.h"
#include "harm.h"
#include "pc_devices.h"

#define STEPS_MAX      400
/* Checksums cost more than all other steps. */
#define SAVES_MAX      4
/* Of guest time in which periodic timers fire, as often as every 20 us each. */
#define ADVANCE_MAX_NS 20000000u
/* Guest time is at most half of what nanoseconds in 63 bits reach. */
#define TIME_MAX_NS    (1ull << 62)

/* ISA interrupts that no device of pc_devices.h drives: a wire has one driver. */
static const uint8_t free_irqs[] = { 3, 5, 6, 7, 10, 11, 15 };
#define FREE_IRQS (sizeof(free_irqs) / sizeof(free_irqs[0]))

static struct pc_devices fresh; /* only ever reset */

struct run {
	struct pc_devices pc;
	uint64_t may_advance_ns;
	unsigned may_save;
	bool harmed; /* a level may stand on a wire that nobody drives */
};

/* The same but for the RTC: its battery outlives a reset, and wall time goes on. */
static void assert_same(const struct state_writer *a, const struct state_writer *b)
{
	struct harm_section left, right;
	size_t i = HARM_STREAM_HEAD, j = HARM_STREAM_HEAD;

	ASSERT(a->len == b->len);
	while (harm_next(a, &i, &left) && harm_next(b, &j, &right)) {
		ASSERT(left.at == right.at && left.len == right.len);
		ASSERT((left.name_len == 3 && !memcmp(left.name, "rtc", 3)) ||
		       !memcmp(a->bytes + left.body, b->bytes + right.body, left.len));
	}
}

static void set_time(struct pc_devices *p, uint64_t ns)
{
	vclock_pause(p->m.clock);
	vclock_set_ns(p->m.clock, ns);
	vclock_resume(p->m.clock);
	vclock_advance(p->m.clock, 0);
}

static void advance(struct run *run, uint64_t ns)
{
	if (ns > run->may_advance_ns)
		ns = run->may_advance_ns;
	run->may_advance_ns -= ns;
	vclock_advance(run->pc.m.clock, ns);
}

static void drain_output(struct pc_devices *p)
{
	uint8_t bytes[64];

	while (chardev_memory_take(p->chr, bytes, sizeof(bytes)))
		;
}

static void save_and_load(struct pc_devices *p)
{
	struct state_writer before, after;
	unsigned taken;

	/* What waits for a reader would flow on load. */
	drain_output(p);
	pc_devices_save(p, &before);
	taken = pc_devices_load(p, before.bytes, before.len);
	ASSERT(taken == PC_SECTIONS);
	pc_devices_save(p, &after);
	assert_same(&before, &after);
	state_writer_fini(&before);
	state_writer_fini(&after);
}

static void load_harmed(struct run *run, struct input *in)
{
	struct state_writer w;

	pc_devices_save(&run->pc, &w);
	harm_state(&w, in);
	pc_devices_load(&run->pc, w.bytes, w.len);
	run->harmed = true;
	state_writer_fini(&w);
}

/* Bits of `how`: 0 and 1 the size, 2 a read, 3 a value that matters somewhere. */
static void access(struct pc_devices *p, struct input *in)
{
	const struct pc_target *t = &pc_targets[input_take(in, 1) % PC_TARGETS];
	uint64_t how = input_take(in, 1), offset = input_take(in, t->len > 256 ? 2 : 1) % t->len;
	unsigned size = 1u << (how & 3);

	if (how & 4)
		pc_devices_read(p, t, offset, size);
	else if (how & 8)
		pc_devices_write(p, t, offset, size, pc_values[input_take(in, 1) % PC_VALUES]);
	else
		pc_devices_write(p, t, offset, size, input_take(in, size));
}

static void step(struct run *run, struct input *in)
{
	struct pc_devices *p = &run->pc;
	uint64_t kind = input_take(in, 1) % 20, value;
	struct irq_line line;
	uint8_t bytes[64];
	unsigned size;

	switch (kind) {
	default:
		access(p, in);
		break;
	case 8: /* any port: accesses across the ends of devices too */
		size = 1u << input_take(in, 1) % 3;
		value = input_take(in, 2);
		bus_write(p->m.pio, value, size, input_take(in, size));
		bus_read(p->m.pio, value, size);
		break;
	case 9:
		advance(run, input_take(in, 2));
		break;
	case 10:
		advance(run, input_take(in, 3));
		break;
	case 11: /* the host was away, for up to years */
		value = input_take(in, 8) >> input_take(in, 1) % 64;
		if (value < TIME_MAX_NS - vclock_now_ns(p->m.clock))
			set_time(p, vclock_now_ns(p->m.clock) + value);
		break;
	case 12:
		memset(bytes, 'i', sizeof(bytes));
		chardev_memory_inject(p->chr, bytes, input_take(in, 1) % sizeof(bytes));
		break;
	case 13:
		chardev_memory_take(p->chr, bytes, input_take(in, 1) % sizeof(bytes));
		break;
	case 14:
		value = input_take(in, 1);
		if (value & 0x80)
			acpi_pm_power_button(p->pm);
		else
			acpi_pm_gpe(p->pm, (unsigned)value);
		break;
	case 15: /* a PCI device's wire, an ISA device's wire */
		value = input_take(in, 1);
		line = value & 2 ? isa_irq_line(p->isa, free_irqs[(value >> 4) % FREE_IRQS])
				 : ioapic_line(p->ioapic, 16 + (unsigned)(value >> 4) % 6);
		irq_set(&line, value & 1);
		break;
	case 16:
		if (input_take(in, 1) < 64)
			pc_devices_reset(p);
		break;
	case 17:
	case 18:
		if (!run->may_save)
			break;
		run->may_save--;
		if (kind == 17)
			save_and_load(p);
		else
			load_harmed(run, in);
		break;
	}
	pc_devices_run_vcpu(p);
}

/* The devices of the board that have a wire here only in step(). */
static void lower_wires(struct pc_devices *p)
{
	struct irq_line line;

	for (unsigned i = 0; i < FREE_IRQS; i++) {
		line = isa_irq_line(p->isa, free_irqs[i]);
		irq_set(&line, 0);
	}
	for (unsigned i = 16; i < 22; i++) {
		line = ioapic_line(p->ioapic, i);
		irq_set(&line, 0);
	}
}

/* Input that waits for the serial port would flow after the reset. */
static void drain_input(struct pc_devices *p)
{
	pc_out(&p->m, 0x3fc, 0);
	pc_out(&p->m, 0x3fb, 0);
	while (chardev_memory_queued(p->chr))
		pc_in(&p->m, 0x3f8);
}

static void reset_and_compare(struct pc_devices *p)
{
	struct state_writer used, new;

	drain_output(p);
	drain_input(p);
	lower_wires(p);
	pc_devices_reset(p);
	set_time(&fresh, vclock_now_ns(p->m.clock));
	pc_devices_reset(&fresh);
	pc_devices_save(p, &used);
	pc_devices_save(&fresh, &new);
	assert_same(&used, &new);
	state_writer_fini(&used);
	state_writer_fini(&new);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
	struct run run = { .may_advance_ns = ADVANCE_MAX_NS, .may_save = SAVES_MAX };
	struct input in = { bytes, len };

	if (!fresh.v)
		pc_devices_init(&fresh);
	pc_devices_init(&run.pc);
	for (unsigned i = 0; i < STEPS_MAX && in.left; i++)
		step(&run, &in);
	/* One input in four, for the same reason. */
	if (len % 4 == 0)
		save_and_load(&run.pc);
	if (len % 4 == 0 && !run.harmed)
		reset_and_compare(&run.pc);
	else
		pc_devices_reset(&run.pc);
	pc_devices_fini(&run.pc);
	return 0;
}
