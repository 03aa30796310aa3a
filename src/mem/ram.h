/*
 * Guest-physical RAM: one sealed-size memfd, mapped shared, reached by the
 * rest of the monitor only through this room.
 *
 * Layout is a PC's: low RAM from 0 up to RAM_LOW_LIMIT at most, the rest from
 * 4 GiB up. ROM images (firmware) are further slots that guests cannot write.
 * Slots never change after the machine starts.
 *
 * Engines ask ram_page() for a host pointer to one 4 KiB page when they fill
 * a TLB entry; devices use mem/dma.h and never see a pointer that outlives a
 * mapping.
 */
#ifndef INSULA_MEM_RAM_H
#define INSULA_MEM_RAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint64_t gpa_t; /* guest-physical address, bytes */
typedef uint64_t gfn_t; /* guest frame number, gpa >> 12 */

#define PAGE_SHIFT    12
#define PAGE_SIZE     4096ull
#define PAGE_MASK     (~(PAGE_SIZE - 1))
#define RAM_LOW_LIMIT 0x80000000ull /* PCI hole and ECAM begin above */
#define RAM_HIGH_BASE 0x100000000ull

struct ram;

/* size_bytes: a multiple of 4 KiB. NULL with errno on failure. */
struct ram *ram_new(uint64_t size_bytes);
void ram_free(struct ram *ram);

uint64_t ram_size(const struct ram *ram);
uint64_t ram_low_size(const struct ram *ram);  /* bytes from 0 */
uint64_t ram_high_size(const struct ram *ram); /* bytes from 4 GiB */
int ram_fd(const struct ram
		   *ram); /* the memfd: low RAM at offset 0, high RAM right after it, then ROM */

/*
 * Adds a read-only slot that holds `bytes`, padded with 0xff to whole pages.
 * gpa is page-aligned. Before the machine runs. -EINVAL, -EEXIST if it overlaps
 * another slot, -ENOSPC beyond RAM_ROM_SLOTS or RAM_ROM_BYTES.
 */
#define RAM_ROM_SLOTS 8
#define RAM_ROM_BYTES 0x1000000ull
int ram_add_rom(struct ram *ram, gpa_t gpa, const void *bytes, size_t len)
	__attribute__((warn_unused_result));

/*
 * RAM that arrives from a file, page by page as it is touched: maps size_bytes
 * at `offset` of fd (both multiples of 4 KiB) as private copy over the whole of
 * RAM, so that nothing is read now. `sums` is the offset of one CRC32C for each
 * page; a page that differs from its sum is zeroed before anybody sees it, and
 * damage_fd, an eventfd of the caller's, is written. Before the machine runs, and
 * once. The file must not change while it is mapped. From here on ram_fd() holds
 * nothing. 0 or -errno.
 */
int ram_map_file(struct ram *ram, int fd, uint64_t offset, uint64_t sums, int damage_fd)
	__attribute__((warn_unused_result));

/*
 * Copies. Many machines may begin with the same RAM: each maps one file as its own private copy,
 * and pages that it does not write stay the file's. The file is low RAM, high RAM and RAM_ROM_BYTES
 * more, as ram_fd() has it, and never changes again.
 */
/* RAM whose first contents are the file's, of which it takes a descriptor of its own. NULL with
 * errno. */
struct ram *ram_new_on(uint64_t size_bytes, int fd);
/*
 * Under the pause barrier, nothing in flight. Sets *fd, the caller's, to a file of what RAM holds
 * now. -EAGAIN: there is none but what ram_copy() makes, because this RAM already lives on a file
 * of others.
 */
int ram_base(struct ram *ram, int *fd) __attribute__((warn_unused_result));
/*
 * Copies all that is not zero into the file fd, which is empty. Allocates nothing: also in a
 * process that fork(2) has just made of one with several threads. 0 or -errno; -EIO: some of it
 * came from a snapshot and is damaged.
 */
int ram_copy(struct ram *ram, int fd) __attribute__((warn_unused_result));
/*
 * In a process made by fork(2): the RAM of the other process, or of none, becomes ours, for a
 * machine of our own. Nobody is listening, no page is watched. damage_fd as in ram_map_file().
 */
void ram_adopt(struct ram *ram, int damage_fd);

/* The first page found damaged, UINT64_MAX: none. */
gpa_t ram_damage(const struct ram *ram);

/*
 * For saving, under the pause barrier. Offsets count as in ram_fd(): low RAM,
 * then high RAM. The next range at or after *offset that may hold anything but
 * zeroes: false if there is none; else *offset and *len, whole pages.
 */
bool ram_next_data(struct ram *ram, uint64_t *offset, uint64_t *len);
/* The bytes there, within a range of ram_next_data(); valid until the VM goes on. */
const void *ram_view(struct ram *ram, uint64_t offset, uint64_t len);
/* For loading into untouched RAM before the machine runs. */
void *ram_fill(struct ram *ram, uint64_t offset, uint64_t len);

/* Host address of the page that holds gpa, or NULL if that is not RAM (or ROM, for reading). Stable
 * for the VM's life. */
void *ram_page(struct ram *ram, gpa_t gpa);
/*
 * For an engine whose hardware reaches RAM by itself: the slots, n from 0 on,
 * false if there are no more. Host addresses stand for the VM's life. RAM that
 * comes from a file is read and checked here, since nobody will ask for it page
 * by page.
 */
struct ram_slot {
	gpa_t gpa;
	uint64_t len;
	void *host;
	bool rom;
};
bool ram_slot(struct ram *ram, unsigned n, struct ram_slot *slot);
/* Every byte of [gpa, gpa+len) is RAM in one slot; ROM does not count. */
bool ram_contains(const struct ram *ram, gpa_t gpa, uint64_t len);
/* The reverse of ram_page, for a pointer it returned or one into the same page. */
gpa_t ram_gpa_of(const struct ram *ram, const void *host);

/*
 * Loaders and tests only, before the machine runs or under the pause barrier:
 * bounded copies. -EFAULT, with nothing copied, if any byte is outside RAM.
 */
int ram_write(struct ram *ram, gpa_t gpa, const void *bytes, size_t len)
	__attribute__((warn_unused_result));
/* The same with zeros, which take up no memory where that is possible. */
int ram_zero(struct ram *ram, gpa_t gpa, size_t len) __attribute__((warn_unused_result));
int ram_read(struct ram *ram, gpa_t gpa, void *bytes, size_t len)
	__attribute__((warn_unused_result));

#endif
