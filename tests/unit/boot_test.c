/* Kernel loaders: images made here, well-formed and not, and what guest memory and entry state look
 * like after. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <elf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "boot/boot_bytes.h"
#include "boot/boot_elf.h"
#include "boot/boot_image.h"
#include "boot/boot_linux.h"
#include "boot/boot_memory.h"
#include "boot/boot_multiboot.h"
#include "boot/boot_payload.h"
#include "cpu/vcpu.h"

#define MIB (1ull << 20)

struct machine {
	struct boot_machine boot;
	char kernel[32], module[32];
	char error[BOOT_ERROR_MAX];
	struct boot_entry entry;
};

static void machine_init(struct machine *m, uint64_t mem)
{
	memset(m, 0, sizeof(*m));
	m->boot.ram = ram_new(mem);
	assert_non_null(m->boot.ram);
	m->boot.rsdp = 0xe0000;
	m->boot.range_count = 3;
	m->boot.range[0] = (struct boot_range){ 0, 0x9fc00, BOOT_RANGE_RAM };
	m->boot.range[1] = (struct boot_range){ 0x9fc00, 0x60400, BOOT_RANGE_RESERVED };
	m->boot.range[2] = (struct boot_range){ MIB, mem - MIB, BOOT_RANGE_RAM };
	strcpy(m->kernel, "/tmp/insula-boot-XXXXXX");
	close(mkstemp(m->kernel));
	strcpy(m->module, "/tmp/insula-boot-XXXXXX");
	close(mkstemp(m->module));
}

static void machine_fini(struct machine *m)
{
	ram_free(m->boot.ram);
	unlink(m->kernel);
	unlink(m->module);
}

static void file_write(const char *path, const void *bytes, size_t len)
{
	FILE *file = fopen(path, "wb");

	assert_non_null(file);
	assert_int_equal(fwrite(bytes, 1, len, file), len);
	fclose(file);
}

static int load(struct machine *m, const char *module, const char *cmdline)
{
	struct boot_options options = { .kernel = m->kernel,
					.modules = &module,
					.module_count = module ? 1 : 0,
					.cmdline = cmdline };

	m->error[0] = 0;
	return boot_load(&m->boot, &options, &m->entry, m->error);
}

static void expect_refused(struct machine *m, const char *module, const char *cmdline,
			   const char *words)
{
	assert_true(load(m, module, cmdline) < 0);
	if (!strstr(m->error, words))
		fail_msg("\"%s\" does not say \"%s\"", m->error, words);
	assert_null(strchr(m->error, '\n'));
}

static uint32_t guest32(struct machine *m, uint64_t gpa)
{
	uint32_t value = 0;

	assert_int_equal(ram_read(m->boot.ram, gpa, &value, 4), 0);
	return value;
}

static uint64_t guest64(struct machine *m, uint64_t gpa)
{
	uint64_t value = 0;

	assert_int_equal(ram_read(m->boot.ram, gpa, &value, 8), 0);
	return value;
}

static void expect_text(struct machine *m, uint64_t gpa, const char *expected)
{
	char text[64] = { 0 };

	assert_int_equal(ram_read(m->boot.ram, gpa, text, sizeof(text) - 1), 0);
	assert_string_equal(text, expected);
}

/* --- bzImage --- */

#define BZ_LEN 0x3000
static void bzimage_make(uint8_t *image)
{
	memset(image, 0x90, BZ_LEN);
	memset(image, 0, 0x400);
	image[0x1f1] = 1;
	store16(image + 0x1fe, 0xaa55);
	image[0x200] = 0xeb;
	image[0x201] = 0x6a;
	memcpy(image + 0x202, "HdrS", 4);
	store16(image + 0x206, 0x020f);
	image[0x211] = 1;
	store32(image + 0x214, 0x100000);
	store32(image + 0x22c, 0x7fffffff);
	store32(image + 0x230, 0x200000);
	image[0x234] = 1;
	store16(image + 0x236, 1);
	store32(image + 0x238, 2047);
	store64(image + 0x258, 0x1000000);
	store32(image + 0x260, 0x800000);
}

static void test_linux(void **state)
{
	struct machine m;
	uint8_t image[BZ_LEN];
	char initrd[5000];

	machine_init(&m, 64 * MIB);
	bzimage_make(image);
	memset(initrd, 'i', sizeof(initrd));
	file_write(m.kernel, image, sizeof(image));
	file_write(m.module, initrd, sizeof(initrd));
	assert_int_equal(load(&m, m.module, "quiet console=ttyS0"), 0);

	assert_int_equal(m.entry.mode, BOOT_MODE_LONG64);
	assert_int_equal(m.entry.rip, 0x100200);
	uint64_t zp = m.entry.rsi;

	assert_int_equal(guest64(&m, zp + 0x70), 0xe0000);
	assert_int_equal(guest32(&m, zp + 0x1f1 + 0x11), load32(image + 0x202));
	assert_int_equal(guest32(&m, zp + 0x218), 64 * MIB - 0x2000);
	assert_int_equal(guest32(&m, zp + 0x21c), sizeof(initrd));
	expect_text(&m, guest32(&m, zp + 0x228), "quiet console=ttyS0");
	assert_int_equal(guest32(&m, zp + 0x1e8) & 0xff, 3);
	assert_int_equal(guest64(&m, zp + 0x2d0 + 40), MIB);
	assert_int_equal(guest32(&m, 64 * MIB - 0x2000), 0x69696969);
	assert_int_equal(guest32(&m, 0x100200), 0x90909090);
	/* setup_data: one node, a seed that is not all zero */
	uint64_t node = guest64(&m, zp + 0x250);

	assert_int_equal(guest64(&m, node), 0);
	assert_int_equal(guest32(&m, node + 8), 9);
	assert_true(guest64(&m, node + 16) != 0);
	/* identity map of the first 4 GiB */
	uint64_t pdpt = guest64(&m, m.entry.cr3) & ~0xfffull;
	uint64_t pd3 = guest64(&m, pdpt + 24) & ~0xfffull;

	assert_int_equal(guest64(&m, pd3 + 511 * 8), 0xffe00083);

	struct vcpu *v = aligned_alloc(64, (sizeof(*v) + 63) & ~63ul);

	memset(v, 0, sizeof(*v));
	boot_apply(v, &m.entry);
	assert_true(vcpu_code64(v));
	assert_int_equal(v->arch.cr0 & (CR0_PE | CR0_PG), CR0_PE | CR0_PG);
	assert_int_equal(v->arch.gpr[RSI], zp);
	assert_int_equal(v->arch.rflags, 2);
	assert_int_equal(v->arch.seg[SEG_SS].selector, 0x18);
	free(v);
	machine_fini(&m);
}

static void test_linux_refused(void **state)
{
	struct machine m;
	uint8_t image[BZ_LEN];
	char *cmdline = calloc(1, 4096);

	machine_init(&m, 64 * MIB);
	bzimage_make(image);
	file_write(m.kernel, image, 0x500);
	expect_refused(&m, NULL, NULL, "truncated");
	file_write(m.kernel, image, 0x210);
	expect_refused(&m, NULL, NULL, "truncated");
	store32(image + 0x24c, BZ_LEN);
	file_write(m.kernel, image, BZ_LEN);
	expect_refused(&m, NULL, NULL, "truncated");
	store32(image + 0x24c, 0);
	image[0x201] = 0x10;
	file_write(m.kernel, image, BZ_LEN);
	expect_refused(&m, NULL, NULL, "damaged");
	bzimage_make(image);
	store16(image + 0x206, 0x020a);
	file_write(m.kernel, image, BZ_LEN);
	expect_refused(&m, NULL, NULL, "64-bit entry");
	bzimage_make(image);
	store64(image + 0x258, UINT64_MAX - 5);
	file_write(m.kernel, image, BZ_LEN);
	expect_refused(&m, NULL, NULL, "no sense");
	bzimage_make(image);
	file_write(m.kernel, image, BZ_LEN);
	memset(cmdline, 'x', 3000);
	expect_refused(&m, NULL, cmdline, "2047");
	assert_int_equal(truncate(m.module, 60 * MIB), 0);
	expect_refused(&m, m.module, NULL, "does not fit");
	assert_int_equal(truncate(m.module, 65 * MIB), 0);
	expect_refused(&m, m.module, NULL, "too large");
	expect_refused(&m, "/nonexistent/initrd", NULL, "no such file");
	unlink(m.kernel);
	expect_refused(&m, NULL, NULL, "no such file");
	file_write(m.kernel, "", 0);
	expect_refused(&m, NULL, NULL, "empty");
	file_write(m.kernel, "#!/bin/sh\necho hello\n", 21);
	expect_refused(&m, NULL, NULL, "not a bzImage, PVH or multiboot ELF");
	machine_fini(&m);

	machine_init(&m, 16 * MIB);
	bzimage_make(image);
	file_write(m.kernel, image, BZ_LEN);
	expect_refused(&m, NULL, NULL, "memory too small");
	machine_fini(&m);
	free(cmdline);
}

/* --- ELF --- */

#define ELF_LEN 0x3000
/* One segment of 0x1000 file bytes and 0x2000 in memory at paddr; a PVH note if asked for. */
static void elf_make(uint8_t *image, uint64_t paddr, bool pvh)
{
	Elf64_Ehdr eh = { .e_type = ET_EXEC,
			  .e_machine = EM_X86_64,
			  .e_version = 1,
			  .e_entry = 0xffffffff80001010,
			  .e_phoff = 64,
			  .e_ehsize = 64,
			  .e_phentsize = 56,
			  .e_phnum = pvh ? 2 : 1 };
	Elf64_Phdr ph[2] = {
		{ .p_type = PT_LOAD,
		  .p_offset = 0x1000,
		  .p_vaddr = 0xffffffff80001000,
		  .p_paddr = paddr,
		  .p_filesz = 0x1000,
		  .p_memsz = 0x2000 },
		{ .p_type = PT_NOTE, .p_offset = 0x200, .p_filesz = 24, .p_align = 4 }
	};

	memset(image, 0xcc, ELF_LEN);
	memset(image, 0, 0x1000);
	memcpy(eh.e_ident, ELFMAG, 4);
	eh.e_ident[EI_CLASS] = ELFCLASS64;
	eh.e_ident[EI_DATA] = ELFDATA2LSB;
	memcpy(image, &eh, sizeof(eh));
	memcpy(image + 64, ph, sizeof(ph));
	store32(image + 0x200, 4);
	store32(image + 0x204, 8);
	store32(image + 0x208, 18);
	memcpy(image + 0x20c, "Xen", 4);
	store64(image + 0x210, paddr + 0x20);
}

static void test_pvh(void **state)
{
	struct machine m;
	uint8_t image[ELF_LEN];

	machine_init(&m, 64 * MIB);
	elf_make(image, 2 * MIB, true);
	file_write(m.kernel, image, sizeof(image));
	file_write(m.module, "module bytes", 12);
	assert_int_equal(ram_zero(m.boot.ram, 2 * MIB, 0x2000), 0);
	assert_int_equal(ram_write(m.boot.ram, 2 * MIB + 0x1800, "left over", 9), 0);
	assert_int_equal(load(&m, m.module, "hello"), 0);
	assert_int_equal(m.entry.mode, BOOT_MODE_PROT32);
	assert_int_equal(m.entry.rip, 2 * MIB + 0x20);
	assert_int_equal(guest32(&m, 2 * MIB + 0x20), 0xcccccccc);
	assert_int_equal(guest32(&m, 2 * MIB + 0x1800), 0);
	uint64_t info = m.entry.rbx;

	assert_int_equal(guest32(&m, info), 0x336ec578);
	assert_int_equal(guest32(&m, info + 12), 1);
	uint64_t module = guest64(&m, info + 16);

	assert_int_equal(guest64(&m, module + 8), 12);
	expect_text(&m, guest64(&m, module), "module bytes");
	expect_text(&m, guest64(&m, info + 24), "hello");
	assert_int_equal(guest64(&m, info + 32), 0xe0000);
	assert_int_equal(guest32(&m, info + 48), 3);
	assert_int_equal(guest64(&m, guest64(&m, info + 40) + 24), 0x9fc00);

	/* A kernel that fills low memory: the information goes above it. */
	elf_make(image, 0xf000, true);
	file_write(m.kernel, image, sizeof(image));
	assert_int_equal(load(&m, NULL, NULL), 0);
	assert_true(m.entry.rbx >= MIB);
	machine_fini(&m);
}

static void test_elf_refused(void **state)
{
	struct machine m;
	uint8_t image[ELF_LEN];

	machine_init(&m, 64 * MIB);
	elf_make(image, 2 * MIB, false);
	file_write(m.kernel, image, sizeof(image));
	expect_refused(&m, NULL, NULL, "without a PVH note");
	elf_make(image, 63 * MIB + 0xff000, true);
	file_write(m.kernel, image, sizeof(image));
	expect_refused(&m, NULL, NULL, "memory too small");
	elf_make(image, 0x9f000, true);
	file_write(m.kernel, image, sizeof(image));
	expect_refused(&m, NULL, NULL, "memory too small");
	elf_make(image, UINT64_MAX - 0x100, true);
	file_write(m.kernel, image, sizeof(image));
	expect_refused(&m, NULL, NULL, "impossible size");
	elf_make(image, 2 * MIB, true);
	file_write(m.kernel, image, 0x1800);
	expect_refused(&m, NULL, NULL, "truncated");
	file_write(m.kernel, image, 20);
	expect_refused(&m, NULL, NULL, "truncated");
	store64(image + 32, UINT64_MAX - 8);
	file_write(m.kernel, image, sizeof(image));
	expect_refused(&m, NULL, NULL, "program headers");
	elf_make(image, 2 * MIB, true);
	store16(image + 18, EM_AARCH64);
	file_write(m.kernel, image, sizeof(image));
	expect_refused(&m, NULL, NULL, "another architecture");
	/* A note whose name length is wild is no note. */
	elf_make(image, 2 * MIB, true);
	store32(image + 0x200, UINT32_MAX - 2);
	file_write(m.kernel, image, sizeof(image));
	expect_refused(&m, NULL, NULL, "without a PVH note");
	machine_fini(&m);
}

/* A bzImage whose payload is the ELF above, as one LZ4 block of literals. Returns its length. */
static size_t packed_make(uint8_t *image, uint64_t paddr)
{
	uint8_t elf[ELF_LEN], *at = image + 0x400 + 0x300;
	uint8_t *block;
	size_t rest = ELF_LEN - 15;

	bzimage_make(image);
	elf_make(elf, paddr, true);
	store64(elf + 24, paddr + 0x10);
	store32(at, 0x184c2102);
	block = at + 8;
	*block++ = 0xf0;
	for (; rest >= 255; rest -= 255)
		*block++ = 255;
	*block++ = (uint8_t)rest;
	memcpy(block, elf, ELF_LEN);
	block += ELF_LEN;
	store32(at + 4, (uint32_t)(block - (at + 8)));
	store32(block, ELF_LEN);
	block += 4;
	store32(image + 0x248, 0x300);
	store32(image + 0x24c, (uint32_t)(block - at));
	return (size_t)(block - image);
}

static void test_linux_unpacked(void **state)
{
	static uint8_t image[0x10000];
	struct machine m;
	size_t len = packed_make(image, 0x1000000);

	machine_init(&m, 64 * MIB);
	file_write(m.kernel, image, len);
	assert_int_equal(load(&m, NULL, "quiet"), 0);
	assert_int_equal(m.entry.mode, BOOT_MODE_LONG64);
	assert_int_equal(m.entry.rip, 0x1000010);
	assert_int_equal(guest32(&m, 0x1000010), 0xcccccccc);
	assert_int_equal(guest32(&m, 0x1001000), 0);
	expect_text(&m, guest32(&m, m.entry.rsi + 0x228), "quiet");

	struct boot_options options = { .kernel = m.kernel, .packed = true };

	assert_int_equal(boot_load(&m.boot, &options, &m.entry, m.error), 0);
	assert_int_equal(m.entry.rip, 0x100200);

	/* Outside the memory the header asks for, or damaged: the guest unpacks. */
	len = packed_make(image, 0x2000000);
	file_write(m.kernel, image, len);
	assert_int_equal(load(&m, NULL, "quiet"), 0);
	assert_int_equal(m.entry.rip, 0x100200);
	len = packed_make(image, 0x1000000);
	image[0x400 + 0x300 + 9] = 254;
	file_write(m.kernel, image, len);
	assert_int_equal(load(&m, NULL, "quiet"), 0);
	assert_int_equal(m.entry.rip, 0x100200);
	machine_fini(&m);
}

static void test_lz4(void **state)
{
	/* "abcd", then 4 + 4 bytes from 2 back, then the literal "e". */
	const uint8_t stream[] = { 0x02, 0x21, 0x4c, 0x18, 9, 0, 0,    0,  0x44,
				   'a',  'b',  'c',  'd',  2, 0, 0x10, 'e' };
	uint8_t damaged[sizeof(stream)], out[16];

	assert_int_equal(boot_payload_unlz4(stream, sizeof(stream), out, sizeof(out)), 13);
	assert_memory_equal(out, "abcdcdcdcdcde", 13);
	assert_int_equal(boot_payload_unlz4(stream, sizeof(stream), out, 13), 13);
	for (size_t room = 0; room < 13; room++)
		assert_int_equal(boot_payload_unlz4(stream, sizeof(stream), out, room), -EINVAL);
	memcpy(damaged, stream, sizeof(stream));
	damaged[13] = 5; /* further back than there is anything */
	assert_int_equal(boot_payload_unlz4(damaged, sizeof(damaged), out, sizeof(out)), -EINVAL);
	damaged[13] = 0;
	assert_int_equal(boot_payload_unlz4(damaged, sizeof(damaged), out, sizeof(out)), -EINVAL);
	assert_int_equal(boot_payload_unlz4(stream, sizeof(stream) - 1, out, sizeof(out)), -EINVAL);
}

/* --- multiboot --- */

static void multiboot_elf_make(uint8_t *image)
{
	elf_make(image, MIB, false);
	store64(image + 24, MIB + 8);
	store32(image + 0x1000, 0x1badb002);
	store32(image + 0x1004, 3);
	store32(image + 0x1008, -(0x1badb002u + 3));
}

static void test_multiboot(void **state)
{
	struct machine m;
	uint8_t image[ELF_LEN];
	char module[64];

	machine_init(&m, 64 * MIB);
	multiboot_elf_make(image);
	file_write(m.kernel, image, sizeof(image));
	file_write(m.module, "module bytes", 12);
	snprintf(module, sizeof(module), "%s one two", m.module);
	assert_int_equal(load(&m, module, "arguments"), 0);
	assert_int_equal(m.entry.mode, BOOT_MODE_PROT32);
	assert_int_equal(m.entry.rip, MIB + 8);
	assert_int_equal(m.entry.rax, 0x2badb002);
	uint64_t mbi = m.entry.rbx;

	assert_int_equal(guest32(&m, mbi), 0x24d);
	assert_int_equal(guest32(&m, mbi + 4), 639);
	assert_int_equal(guest32(&m, mbi + 8), 63 * 1024);
	char expected[128];

	snprintf(expected, sizeof(expected), "%.40s arguments", m.kernel + strlen("/tmp/"));
	expect_text(&m, guest32(&m, mbi + 16), expected);
	assert_int_equal(guest32(&m, mbi + 20), 1);
	uint64_t mod = guest32(&m, mbi + 24);

	assert_int_equal(guest32(&m, mod), MIB + 0x2000);
	assert_int_equal(guest32(&m, mod + 4), MIB + 0x2000 + 12);
	expect_text(&m, guest32(&m, mod + 8), "one two");
	expect_text(&m, MIB + 0x2000, "module bytes");
	assert_int_equal(guest32(&m, mbi + 44), 3 * 24);
	assert_int_equal(guest32(&m, guest32(&m, mbi + 48)), 20);
	machine_fini(&m);
}

static void test_multiboot_addresses(void **state)
{
	struct machine m;
	uint8_t image[ELF_LEN];
	const uint32_t words[] = { 0x1badb002,   0x10000,    -(0x1badb002u + 0x10000),
				   MIB + 0x100,  MIB,        MIB + 0x1000,
				   MIB + 0x5000, MIB + 0x200 };

	machine_init(&m, 64 * MIB);
	memset(image, 0xab, sizeof(image));
	memcpy(image + 0x300, words, sizeof(words)); /* so the load address is file offset 0x200 */
	file_write(m.kernel, image, sizeof(image));
	assert_int_equal(load(&m, NULL, NULL), 0);
	assert_int_equal(m.entry.rip, MIB + 0x200);
	assert_int_equal(guest32(&m, MIB + 0x100), 0x1badb002);
	assert_int_equal(guest32(&m, MIB + 0xffc), 0xabababab);
	assert_int_equal(guest32(&m, MIB + 0x1000), 0);

	store32(image + 0x300 + 16, MIB + 0x200); /* load address above the header */
	file_write(m.kernel, image, sizeof(image));
	expect_refused(&m, NULL, NULL, "no sense");
	memcpy(image + 0x300, words, sizeof(words));
	store32(image + 0x300 + 20, MIB + 0x100000);
	file_write(m.kernel, image, sizeof(image));
	expect_refused(&m, NULL, NULL, "truncated");
	memcpy(image + 0x300, words, sizeof(words));
	store32(image + 0x300 + 24, 0xffffffff);
	file_write(m.kernel, image, sizeof(image));
	expect_refused(&m, NULL, NULL, "memory too small");
	memcpy(image + 0x300, words, sizeof(words));
	store32(image + 0x300 + 28, 5);
	file_write(m.kernel, image, sizeof(image));
	expect_refused(&m, NULL, NULL, "entry point");
	machine_fini(&m);
}

/* Every prefix of every image, and every byte of the headers set to extremes: parsers answer, and
 * say why not. */
static void test_damaged(void **state)
{
	uint8_t image[ELF_LEN], damaged[ELF_LEN];

	for (int kind = 0; kind < 3; kind++) {
		if (kind == 0)
			bzimage_make(image);
		else if (kind == 1)
			elf_make(image, 2 * MIB, true);
		else
			multiboot_elf_make(image);
		for (size_t i = 0; i < 0x1010 * 3; i++) {
			const char *why = NULL;
			struct boot_linux linux_image;
			struct boot_elf elf;
			struct boot_multiboot mb;
			size_t len = i < 0x1010 ? i : ELF_LEN;

			memcpy(damaged, image, ELF_LEN);
			if (i >= 0x1010)
				damaged[i % 0x1010] = i < 0x2020 ? 0xff : 0x80;
			uint8_t *exact =
				malloc(len ? len : 1); /* so that a sanitizer sees a read beyond */

			memcpy(exact, damaged, len);
			assert_true(boot_linux_parse(exact, len, &linux_image, &why) == 0 || why);
			why = NULL;
			assert_true(boot_elf_parse(exact, len, &elf, &why) == 0 || why);
			why = NULL;
			assert_true(boot_multiboot_parse(exact, len, &mb, &why) == 0 || why);
			free(exact);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_linux),     cmocka_unit_test(test_linux_refused),
		cmocka_unit_test(test_pvh),       cmocka_unit_test(test_elf_refused),
		cmocka_unit_test(test_multiboot), cmocka_unit_test(test_multiboot_addresses),
		cmocka_unit_test(test_damaged),   cmocka_unit_test(test_linux_unpacked),
		cmocka_unit_test(test_lz4),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
