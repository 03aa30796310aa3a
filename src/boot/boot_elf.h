/*
 * ELF files as kernels use them: segments with a physical address, an entry and
 * the note by which a kernel offers PVH. Parsing is pure; loading checks the
 * machine's memory map.
 */
#ifndef INSULA_BOOT_BOOT_ELF_H
#define INSULA_BOOT_BOOT_ELF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "boot/boot_image.h"

#define BOOT_ELF_SEGMENTS_MAX 64

struct boot_elf_segment {
	uint64_t paddr, vaddr;
	uint64_t offset, file_len; /* inside the file */
	uint64_t mem_len;          /* >= file_len, > 0 */
};

struct boot_elf {
	bool is_64;
	uint64_t entry;     /* as the header says, usually virtual */
	uint64_t low, high; /* the segments lie in [low, high) */
	bool has_pvh;
	uint32_t pvh_entry; /* physical; has_pvh only */
	unsigned segment_count;
	struct boot_elf_segment segment[BOOT_ELF_SEGMENTS_MAX];
};

bool boot_elf_is(const uint8_t *image, size_t len);

/* Pure. 0, or -EINVAL and *why, a static sentence part. */
int boot_elf_parse(const uint8_t *image, size_t len, struct boot_elf *elf, const char **why)
	__attribute__((warn_unused_result));

/* The physical address of a virtual one inside a segment; itself if no segment has it. */
uint64_t boot_elf_physical(const struct boot_elf *elf, uint64_t vaddr);

/* True if the range touches a segment. */
bool boot_elf_overlaps(const struct boot_elf *elf, uint64_t base, uint64_t len);

/* Writes all segments, or none: -ENOSPC when one is not in usable RAM. */
int boot_elf_load(const struct boot_machine *machine, const uint8_t *image,
		  const struct boot_elf *elf) __attribute__((warn_unused_result));

#endif
