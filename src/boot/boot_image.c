/*
 * Recognises the kernel file, reads what goes with it and calls the loader.
 * Called by the vm before the machine starts and after each reset.
 * Invariant: every failure leaves one sentence that begins with "kernel FILE:"
 * or "initrd FILE:".
 */
#include "boot/boot_image.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "boot/boot_elf.h"
#include "boot/boot_file.h"
#include "boot/boot_linux.h"
#include "boot/boot_memory.h"
#include "boot/boot_multiboot.h"
#include "boot/boot_payload.h"
#include "boot/boot_pvh.h"
#include "cpu/vcpu.h"

#define KERNEL_MAX (1ull << 30)

static int refuse(char *error, const char *what, const char *path, const char *why, int err)
{
	snprintf(error, BOOT_ERROR_MAX, "%s %s: %s", what, path, why);
	return err;
}

/* Splits "path arguments"; the path is the caller's to free. */
static char *module_path(const char *option, const char **args)
{
	const char *space = strchr(option, ' ');

	*args = space ? space + 1 : NULL;
	return space ? strndup(option, (size_t)(space - option)) : strdup(option);
}

static int modules_read(const struct boot_options *options, struct boot_module *modules,
			uint64_t max_len, char *error)
{
	char why_long[BOOT_WHY_MAX];

	for (size_t i = 0; i < options->module_count; i++) {
		const char *why;
		char *path = module_path(options->modules[i], &modules[i].args);

		if (!path)
			return refuse(error, "initrd", options->modules[i], "out of host memory",
				      -ENOMEM);
		int err = boot_file_read(&modules[i].file, path, max_len, &why);

		if (err == -EFBIG) {
			snprintf(why_long, sizeof(why_long),
				 "too large for %lu MiB of guest memory",
				 (unsigned long)(max_len >> 20));
			why = why_long;
		}
		if (err)
			refuse(error, "initrd", path, why, err);
		free(path);
		if (err)
			return err;
	}
	return 0;
}

/* Linux takes one initrd; initramfs archives may follow one another at multiples of four bytes. */
static int modules_join(const struct boot_module *modules, size_t count, struct boot_file *joined)
{
	size_t len = 0;

	for (size_t i = 0; i < count; i++)
		len = ((len + 3) & ~(size_t)3) + modules[i].file.len;
	*joined = (struct boot_file){ .bytes = calloc(1, len ? len : 1), .len = len };
	if (!joined->bytes)
		return -ENOMEM;
	len = 0;
	for (size_t i = 0; i < count; i++) {
		len = (len + 3) & ~(size_t)3;
		memcpy(joined->bytes + len, modules[i].file.bytes, modules[i].file.len);
		len += modules[i].file.len;
	}
	return 0;
}

static int linux_load(const struct boot_machine *machine, const struct boot_options *options,
		      const struct boot_file *image, const struct boot_module *modules,
		      struct boot_entry *entry, char *why)
{
	struct boot_linux parsed;
	const char *short_why;
	struct boot_file joined = { 0 };
	struct boot_unpacked unpacked;
	bool is_unpacked;
	const struct boot_file *initrd = options->module_count == 1 ? &modules[0].file : &joined;
	int err = boot_linux_parse(image->bytes, image->len, &parsed, &short_why);

	if (err) {
		snprintf(why, BOOT_WHY_MAX, "%s", short_why);
		return err;
	}
	if (options->module_count > 1 && modules_join(modules, options->module_count, &joined)) {
		snprintf(why, BOOT_WHY_MAX, "out of host memory");
		return -ENOMEM;
	}
	is_unpacked = !options->packed && !boot_payload_unpack(image->bytes, image->len, &unpacked);
	err = boot_linux_load(machine, image, &parsed, is_unpacked ? &unpacked : NULL, initrd,
			      options->cmdline ? options->cmdline : "", entry, why);
	if (is_unpacked)
		boot_payload_fini(&unpacked);
	boot_file_fini(&joined);
	return err;
}

static int multiboot_load(const struct boot_machine *machine, const struct boot_options *options,
			  const struct boot_file *image, const struct boot_module *modules,
			  struct boot_entry *entry, char *why)
{
	struct boot_multiboot parsed;
	const char *short_why;
	const char *slash = strrchr(options->kernel, '/');
	char *cmdline;
	int err = boot_multiboot_parse(image->bytes, image->len, &parsed, &short_why);

	if (err) {
		snprintf(why, BOOT_WHY_MAX, "%s", short_why);
		return err;
	}
	/* Its first word is the kernel's name; the host's folders are none of the guest's business.
	 */
	if (asprintf(&cmdline, "%s %s", slash ? slash + 1 : options->kernel,
		     options->cmdline ? options->cmdline : "") < 0) {
		snprintf(why, BOOT_WHY_MAX, "out of host memory");
		return -ENOMEM;
	}
	err = boot_multiboot_load(machine, image, &parsed, modules, options->module_count, cmdline,
				  entry, why);
	free(cmdline);
	return err;
}

static int pvh_load(const struct boot_machine *machine, const struct boot_options *options,
		    const struct boot_file *image, const struct boot_elf *elf,
		    const struct boot_module *modules, struct boot_entry *entry, char *why)
{
	return boot_pvh_load(machine, image, elf, modules, options->module_count,
			     options->cmdline ? options->cmdline : "", entry, why);
}

/* Order matters: a bzImage may hold bytes that look like a multiboot header, and an ELF kernel may
 * offer both. */
static int image_load(const struct boot_machine *machine, const struct boot_options *options,
		      const struct boot_file *image, const struct boot_module *modules,
		      struct boot_entry *entry, char *why)
{
	struct boot_elf elf;
	const char *short_why = "not a bzImage, PVH or multiboot ELF";

	if (image->len == 0) {
		snprintf(why, BOOT_WHY_MAX, "the file is empty");
		return -EINVAL;
	}
	if (boot_linux_is(image->bytes, image->len))
		return linux_load(machine, options, image, modules, entry, why);
	if (boot_elf_is(image->bytes, image->len)) {
		int err = boot_elf_parse(image->bytes, image->len, &elf, &short_why);

		if (!err && elf.has_pvh)
			return pvh_load(machine, options, image, &elf, modules, entry, why);
		if (!err)
			short_why = "an ELF file without a PVH note or a multiboot header";
	}
	if (boot_multiboot_is(image->bytes, image->len))
		return multiboot_load(machine, options, image, modules, entry, why);
	snprintf(why, BOOT_WHY_MAX, "%s", short_why);
	return -EINVAL;
}

int boot_load(const struct boot_machine *machine, const struct boot_options *options,
	      struct boot_entry *entry, char *error)
{
	struct boot_file image;
	struct boot_module modules[BOOT_MODULES_MAX] = { 0 };
	char why_long[BOOT_WHY_MAX];
	const char *why;

	if (options->module_count > BOOT_MODULES_MAX)
		return refuse(error, "kernel", options->kernel, "too many modules", -E2BIG);
	int err = boot_file_read(&image, options->kernel, KERNEL_MAX, &why);

	if (err)
		return refuse(error, "kernel", options->kernel, why, err);
	err = modules_read(options, modules, boot_memory_low_end(machine), error);
	if (!err) {
		err = image_load(machine, options, &image, modules, entry, why_long);
		if (err)
			refuse(error, "kernel", options->kernel, why_long, err);
	}
	for (size_t i = 0; i < options->module_count; i++)
		boot_file_fini(&modules[i].file);
	boot_file_fini(&image);
	return err;
}

static void flat_segment(struct segment *seg, uint16_t selector, uint16_t attr)
{
	*seg = (struct segment){ .selector = selector, .limit = 0xffffffff, .attr = attr };
}

void boot_apply(struct vcpu *v, const struct boot_entry *entry)
{
	struct vcpu_arch *arch = &v->arch;

	arch->rip = entry->rip;
	arch->gpr[RSP] = entry->rsp;
	arch->gpr[RAX] = entry->rax;
	arch->gpr[RBX] = entry->rbx;
	arch->gpr[RSI] = entry->rsi;
	arch->rflags = FLAG_FIXED;
	if (entry->mode == BOOT_MODE_REAL) {
		arch->seg[SEG_CS].selector = entry->cs;
		arch->seg[SEG_CS].base = (uint64_t)entry->cs << 4;
		return;
	}
	/* 0x9b, 0x93: present, accessed, execute/read and read/write; 0x8b: busy TSS. */
	bool is_64 = entry->mode == BOOT_MODE_LONG64;

	flat_segment(&arch->seg[SEG_CS], entry->cs, 0x9b | SEG_G | (is_64 ? SEG_L : SEG_DB));
	for (unsigned i = SEG_ES; i <= SEG_GS; i++) {
		if (i != SEG_CS)
			flat_segment(&arch->seg[i], entry->ds, 0x93 | SEG_G | SEG_DB);
	}
	arch->seg[SEG_LDTR] = (struct segment){ .attr = 0x2 };
	arch->seg[SEG_TR] = (struct segment){ .selector = entry->tr, .limit = 0x67, .attr = 0x8b };
	arch->gdtr = (struct dtable){ entry->gdt_base, entry->gdt_limit };
	arch->idtr = (struct dtable){ 0, 0 };
	arch->cpl = 0;
	arch->cr0 = CR0_PE | CR0_ET | CR0_NE;
	if (is_64) {
		arch->cr0 |= CR0_PG;
		arch->cr3 = entry->cr3;
		arch->cr4 = CR4_PAE;
		arch->efer = EFER_LME | EFER_LMA;
	}
}
