/*
 * ELF parser for kernels (System V ABI, chapters 4 and 5; notes as Xen defines
 * them for PVH). Called by the PVH and multiboot loaders and by fuzzers.
 * Invariant: what boot_elf_parse() accepts stays inside the file, its segments
 * are apart and no address sum of them wraps.
 */
#include "boot/boot_elf.h"

#include <elf.h>
#include <errno.h>
#include <string.h>

#include "boot/boot_bytes.h"
#include "boot/boot_memory.h"

#define XEN_ELFNOTE_PHYS32_ENTRY 18
#define NOTES_MAX                256

bool boot_elf_is(const uint8_t *image, size_t len)
{
	return len >= SELFMAG && !memcmp(image, ELFMAG, SELFMAG);
}

/* A program header of either class, widened. */
struct program_header {
	uint32_t type;
	uint64_t offset, vaddr, paddr, file_len, mem_len, align;
};

static struct program_header program_header_read(const uint8_t *bytes, bool is_64)
{
	if (is_64) {
		Elf64_Phdr h;

		memcpy(&h, bytes, sizeof(h));
		return (struct program_header){ h.p_type,   h.p_offset, h.p_vaddr, h.p_paddr,
						h.p_filesz, h.p_memsz,  h.p_align };
	}
	Elf32_Phdr h;

	memcpy(&h, bytes, sizeof(h));
	return (struct program_header){ h.p_type,   h.p_offset, h.p_vaddr, h.p_paddr,
					h.p_filesz, h.p_memsz,  h.p_align };
}

/* Looks for the PVH entry in one note segment. A malformed note ends the search: notes are
 * optional. */
static void notes_scan(struct boot_elf *elf, const uint8_t *notes, uint64_t len, uint64_t align)
{
	uint64_t at = 0;

	align = align == 8 ? 8 : 4;
	for (unsigned i = 0; i < NOTES_MAX && bytes_inside(at, sizeof(Elf32_Nhdr), len); i++) {
		uint64_t name_len = load32(notes + at);
		uint64_t desc_len = load32(notes + at + 4);
		uint32_t type = load32(notes + at + 8);
		uint64_t name = at + sizeof(Elf32_Nhdr);
		uint64_t desc = name + ((name_len + align - 1) & ~(align - 1));

		if (!bytes_inside(name, name_len, len) || !bytes_inside(desc, desc_len, len))
			return;
		if (type == XEN_ELFNOTE_PHYS32_ENTRY && name_len == 4 &&
		    !memcmp(notes + name, "Xen", 4) && (desc_len == 4 || desc_len == 8)) {
			elf->has_pvh = true;
			elf->pvh_entry = load32(notes + desc);
			return;
		}
		at = desc + ((desc_len + align - 1) & ~(align - 1));
	}
}

static int segment_add(struct boot_elf *elf, const struct program_header *ph, size_t len,
		       const char **why)
{
	if (!ph->mem_len && !ph->file_len)
		return 0;
	if (!bytes_inside(ph->offset, ph->file_len, len)) {
		*why = "truncated: an ELF segment lies beyond the end of the file";
		return -EINVAL;
	}
	if (ph->mem_len < ph->file_len || ph->paddr + ph->mem_len < ph->paddr) {
		*why = "an ELF segment has an impossible size";
		return -EINVAL;
	}
	if (elf->segment_count == BOOT_ELF_SEGMENTS_MAX) {
		*why = "too many ELF segments";
		return -EINVAL;
	}
	if (boot_elf_overlaps(elf, ph->paddr, ph->mem_len)) {
		*why = "ELF segments overlap";
		return -EINVAL;
	}
	elf->segment[elf->segment_count++] = (struct boot_elf_segment){
		.paddr = ph->paddr,
		.vaddr = ph->vaddr,
		.offset = ph->offset,
		.file_len = ph->file_len,
		.mem_len = ph->mem_len,
	};
	if (ph->paddr < elf->low)
		elf->low = ph->paddr;
	if (ph->paddr + ph->mem_len > elf->high)
		elf->high = ph->paddr + ph->mem_len;
	return 0;
}

int boot_elf_parse(const uint8_t *image, size_t len, struct boot_elf *elf, const char **why)
{
	uint64_t table;
	unsigned entry_len, count;

	*elf = (struct boot_elf){ .low = UINT64_MAX };
	*why = "truncated: the ELF header is cut off";
	if (!boot_elf_is(image, len) || len < sizeof(Elf32_Ehdr))
		return -EINVAL;
	elf->is_64 = image[EI_CLASS] == ELFCLASS64;
	if ((!elf->is_64 && image[EI_CLASS] != ELFCLASS32) || image[EI_DATA] != ELFDATA2LSB) {
		*why = "an ELF file of another architecture";
		return -EINVAL;
	}
	if (elf->is_64) {
		Elf64_Ehdr h;

		if (len < sizeof(h))
			return -EINVAL;
		memcpy(&h, image, sizeof(h));
		table = h.e_phoff;
		entry_len = h.e_phentsize;
		count = h.e_phnum;
		elf->entry = h.e_entry;
	} else {
		Elf32_Ehdr h;

		memcpy(&h, image, sizeof(h));
		table = h.e_phoff;
		entry_len = h.e_phentsize;
		count = h.e_phnum;
		elf->entry = h.e_entry;
	}
	uint16_t machine = load16(image + offsetof(Elf32_Ehdr, e_machine));
	uint16_t type = load16(image + offsetof(Elf32_Ehdr, e_type));

	if (machine != EM_X86_64 && machine != EM_386) {
		*why = "an ELF file of another architecture";
		return -EINVAL;
	}
	if (type != ET_EXEC && type != ET_DYN) {
		*why = "an ELF object that is not an executable";
		return -EINVAL;
	}
	if (entry_len < (elf->is_64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr)) ||
	    !bytes_inside(table, (uint64_t)entry_len * count, len)) {
		*why = "truncated or damaged: its ELF program headers lie beyond the end of the "
		       "file";
		return -EINVAL;
	}
	for (unsigned i = 0; i < count; i++) {
		struct program_header ph =
			program_header_read(image + table + (uint64_t)i * entry_len, elf->is_64);

		if (ph.type == PT_LOAD) {
			int err = segment_add(elf, &ph, len, why);

			if (err)
				return err;
		} else if (ph.type == PT_NOTE && !elf->has_pvh &&
			   bytes_inside(ph.offset, ph.file_len, len)) {
			notes_scan(elf, image + ph.offset, ph.file_len, ph.align);
		}
	}
	if (!elf->segment_count) {
		*why = "an ELF file with nothing to load";
		return -EINVAL;
	}
	return 0;
}

uint64_t boot_elf_physical(const struct boot_elf *elf, uint64_t vaddr)
{
	for (unsigned i = 0; i < elf->segment_count; i++) {
		const struct boot_elf_segment *seg = &elf->segment[i];

		if (vaddr >= seg->vaddr && vaddr - seg->vaddr < seg->mem_len)
			return seg->paddr + (vaddr - seg->vaddr);
	}
	return vaddr;
}

bool boot_elf_overlaps(const struct boot_elf *elf, uint64_t base, uint64_t len)
{
	for (unsigned i = 0; i < elf->segment_count; i++) {
		const struct boot_elf_segment *seg = &elf->segment[i];

		if (base < seg->paddr ? seg->paddr - base < len : base - seg->paddr < seg->mem_len)
			return true;
	}
	return false;
}

#define BLOCK     4096u
#define ZEROS_RUN 16u /* blocks that are worth a call */

static bool is_zero(const uint8_t *bytes, size_t len)
{
	return !bytes[0] && !memcmp(bytes, bytes + 1, len - 1);
}

/* Unpacked kernels hold megabytes of zeros, which need not take up memory. */
static int segment_write(struct ram *ram, gpa_t at, const uint8_t *bytes, uint64_t len)
{
	uint64_t written = 0;
	int err = 0;

	for (uint64_t i = 0; i + BLOCK <= len && !err;) {
		uint64_t end = i;

		while (end + BLOCK <= len && is_zero(bytes + end, BLOCK))
			end += BLOCK;
		if (end - i >= ZEROS_RUN * BLOCK) {
			err = ram_write(ram, at + written, bytes + written, i - written);
			if (!err)
				err = ram_zero(ram, at + i, end - i);
			written = end;
		}
		i = end > i ? end : i + BLOCK;
	}
	return err ? err : ram_write(ram, at + written, bytes + written, len - written);
}

int boot_elf_load(const struct boot_machine *machine, const uint8_t *image,
		  const struct boot_elf *elf)
{
	for (unsigned i = 0; i < elf->segment_count; i++) {
		if (!boot_memory_is_ram(machine, elf->segment[i].paddr, elf->segment[i].mem_len))
			return -ENOSPC;
	}
	for (unsigned i = 0; i < elf->segment_count; i++) {
		const struct boot_elf_segment *seg = &elf->segment[i];
		int err =
			segment_write(machine->ram, seg->paddr, image + seg->offset, seg->file_len);

		if (!err)
			err = ram_zero(machine->ram, seg->paddr + seg->file_len,
				       seg->mem_len - seg->file_len);
		if (err)
			return err;
	}
	return 0;
}
