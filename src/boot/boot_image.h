/*
 * What to boot: recognises a kernel file by its content, loads it and what goes
 * with it into guest RAM, and says in which state the first vcpu is to start.
 *
 * The vm calls boot_load() once before the first vcpu runs and again after a
 * reset of the machine. The files are hostile bytes: each loader parses them
 * into a local struct first and only then writes guest RAM, so a refused file
 * has touched nothing.
 */
#ifndef INSULA_BOOT_BOOT_IMAGE_H
#define INSULA_BOOT_BOOT_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mem/ram.h"

struct vcpu;

/* One range of the firmware memory map; the types are those of ACPI 6.4, table 15-6, which e820,
 * PVH and multiboot share. */
enum boot_range_type { BOOT_RANGE_RAM = 1, BOOT_RANGE_RESERVED = 2, BOOT_RANGE_ACPI = 3 };
struct boot_range {
	uint64_t base;
	uint64_t len;
	enum boot_range_type type;
};

#define BOOT_RANGES_MAX 16

/* What loaders must know of the machine; the board fills it in (board_boot_machine). Ranges are
 * sorted and apart. */
struct boot_machine {
	struct ram *ram;
	gpa_t rsdp; /* 0: none */
	unsigned range_count;
	struct boot_range range[BOOT_RANGES_MAX];
};

#define BOOT_MODULES_MAX 64

struct boot_options {
	const char *kernel; /* path */
	/*
	 * Paths, each with optional arguments after the first space (multiboot
	 * modules only). For Linux there may be several too: their bytes are
	 * concatenated, as initramfs images may be.
	 */
	const char *const *modules;
	size_t module_count;
	const char *cmdline; /* NULL: empty */
	bool packed;         /* a bzImage unpacks itself even where the loader could do it sooner */
};

/* The mode in which the first instruction runs. */
enum boot_mode { BOOT_MODE_REAL, BOOT_MODE_PROT32, BOOT_MODE_LONG64 };

/* Initial register state; what is not named here keeps its power-on value. */
struct boot_entry {
	enum boot_mode mode;
	const char *protocol; /* "Linux 64-bit", "PVH", "multiboot": for one line of log */
	uint64_t rip, rsp;
	uint64_t rax, rbx, rsi;
	uint64_t cr3;      /* LONG64 */
	uint64_t gdt_base; /* PROT32 and LONG64 */
	uint16_t gdt_limit;
	uint16_t cs, ds, tr; /* selectors; REAL: cs only, base = cs << 4. tr 0: power-on TR */
};

#define BOOT_ERROR_MAX 512
#define BOOT_WHY_MAX   256 /* a sentence without its "kernel FILE:" */

/*
 * 0, or -errno with one human sentence in error (BOOT_ERROR_MAX bytes, no
 * newline). On failure guest RAM may hold parts of files that were sound.
 */
int boot_load(const struct boot_machine *machine, const struct boot_options *options,
	      struct boot_entry *entry, char *error) __attribute__((warn_unused_result));

/* Writes the entry state over a freshly reset boot cpu. Before any engine entered it. */
void boot_apply(struct vcpu *v, const struct boot_entry *entry);

#endif
