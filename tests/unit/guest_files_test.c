/* The initramfs writer and the reader of module metadata. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/guest_command.h"
#include "cli/guest_cpio.h"
#include "cli/guest_module.h"

static void test_cpio(void **state)
{
	char *bytes = NULL;
	size_t len = 0;
	struct guest_cpio cpio;
	FILE *file = open_memstream(&bytes, &len);

	guest_cpio_begin(&cpio, file);
	guest_cpio_directory(&cpio, "bin", 0755);
	guest_cpio_file(&cpio, "bin/hello", 0755, "12345", 5);
	guest_cpio_link(&cpio, "bin/sh", "/bin/hello");
	guest_cpio_device(&cpio, "dev", 0600, 5, 1);
	assert_true(guest_cpio_end(&cpio));
	fclose(file);
	assert_int_equal(len % 4, 0);
	assert_memory_equal(bytes, "07070100000001000041ed", 22);
	assert_memory_equal(bytes + 110, "bin\0", 4);
	/* 110 + 4 is 114, padded to 116; the second header says: regular, 5 bytes. */
	assert_memory_equal(bytes + 116, "07070100000002000081ed", 22);
	assert_memory_equal(bytes + 116 + 54, "00000005", 8);
	assert_memory_equal(bytes + 116 + 120, "12345\0\0\0", 8);
	assert_memory_equal(bytes + len - 14, "TRAILER!!!\0\0", 12);
	free(bytes);
}

/* A module file as a compiler makes it, as small as it can be. */
static size_t module_make(uint8_t *bytes, const char *info, size_t info_len)
{
	static const char names[] = "\0.modinfo\0.shstrtab";
	Elf64_Ehdr eh = {
		.e_shoff = 64, .e_shentsize = sizeof(Elf64_Shdr), .e_shnum = 3, .e_shstrndx = 2
	};
	Elf64_Shdr sh[3] = {
		{ 0 },
		{ .sh_name = 1, .sh_type = SHT_PROGBITS, .sh_offset = 512, .sh_size = info_len },
		{ .sh_name = 10, .sh_type = SHT_STRTAB, .sh_offset = 300, .sh_size = sizeof(names) }
	};

	memset(bytes, 0, 1024);
	memcpy(eh.e_ident, ELFMAG, SELFMAG);
	eh.e_ident[EI_CLASS] = ELFCLASS64;
	memcpy(bytes, &eh, sizeof(eh));
	memcpy(bytes + 64, sh, sizeof(sh));
	memcpy(bytes + 300, names, sizeof(names));
	memcpy(bytes + 512, info, info_len);
	return 512 + info_len;
}

static void expect_info(const uint8_t *bytes, size_t len, const char *key, const char *expected)
{
	char *info = guest_module_info(bytes, len, key);

	assert_non_null(info);
	assert_string_equal(info, expected);
	free(info);
}

static void test_modinfo(void **state)
{
	static const char info[] = "license=GPL\0alias=one\0alias=two\0depends=virtio,virtio_"
				   "ring\0dependsx=no\0depends=";
	uint8_t bytes[1024];
	size_t len = module_make(bytes, info, sizeof(info));

	expect_info(bytes, len, "depends", "virtio virtio_ring");
	expect_info(bytes, len, "alias", "one two");
	expect_info(bytes, len, "nothing", "");
	/* Cut off or wrong anywhere: an answer, and no read beyond the end. */
	for (size_t at = 0; at < len; at++) {
		uint8_t *cut = malloc(at ? at : 1), *wrong = malloc(len);

		memcpy(cut, bytes, at);
		memcpy(wrong, bytes, len);
		wrong[at] ^= 0xff;
		free(guest_module_info(cut, at, "depends"));
		free(guest_module_info(wrong, len, "depends"));
		free(cut);
		free(wrong);
	}
}

static void put(const char *folder, const char *name, const char *info, size_t info_len)
{
	uint8_t bytes[1024];
	char path[128];
	size_t len = module_make(bytes, info, info_len);

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	FILE *file = fopen(path, "wb");

	fwrite(bytes, 1, len, file);
	fclose(file);
}

static void test_modules(void **state)
{
	static struct guest_modules modules;
	char folder[] = "/tmp/insula-modules-XXXXXX", *list = NULL;
	size_t list_len = 0;

	assert_non_null(mkdtemp(folder));
	put(folder, "virtio-rng.ko", "depends=virtio\0alias=virtio:d4v*\0alias=hw-rng", 45);
	put(folder, "virtio.ko", "depends=", 9);
	put(folder, "loop-a.ko", "depends=loop_b", 15);
	put(folder, "loop_b.ko", "depends=loop_a", 15);
	assert_int_equal(guest_modules_add(&modules, folder, "virtio_rng"), 0);
	assert_int_equal(guest_modules_add(&modules, folder, "virtio"), 0);
	assert_true(guest_modules_add(&modules, folder, "no_such") < 0);
	assert_true(guest_modules_add(&modules, folder, "loop_a") < 0);
	FILE *out = open_memstream(&list, &list_len);

	guest_modules_list(&modules, out);
	fclose(out);
	assert_string_equal(list, "virtio virtio.ko :\nvirtio_rng virtio_rng.ko virtio : hw-rng\n");
	free(list);
	guest_modules_fini(&modules);
	guest_folder_remove(folder);
	assert_int_not_equal(access(folder, F_OK), 0);
}

static void test_commands(void **state)
{
	char *text = guest_command_output(
		"/", (const char *[]){ "sh", "-c", "pwd; echo err >&2", NULL });

	assert_string_equal(text, "/\n");
	free(text);
	assert_null(guest_command_output("/", (const char *[]){ "false", NULL }));
	assert_int_equal(
		guest_command("/", (const char *[]){ "sh", "-c", "exit 7", NULL }, NULL, 1), 7);
	assert_int_equal(guest_command("/", (const char *[]){ "no-such-tool", NULL }, NULL, 1), -2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cpio),
		cmocka_unit_test(test_modinfo),
		cmocka_unit_test(test_modules),
		cmocka_unit_test(test_commands),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
