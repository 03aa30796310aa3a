/* Kernel files of every kind: parsed, and what parses is loaded into a small machine; compressed
 * payloads unpacked. */
#include <stdint.h>
#include <stdlib.h>

#include "base/assert.h"
#include "boot/boot_elf.h"
#include "boot/boot_linux.h"
#include "boot/boot_multiboot.h"
#include "boot/boot_payload.h"
#include "boot/boot_pvh.h"

#define MEM          (3ull << 20)
#define UNPACKED_MAX (64u << 10)

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

static struct boot_machine machine;

static void machine_init(void)
{
	if (machine.ram)
		return;
	machine = (struct boot_machine){
		.ram = ram_new(MEM),
		.rsdp = 0xe0000,
		.range_count = 3,
		.range = { { 0, 0x9fc00, BOOT_RANGE_RAM },
			   { 0x9fc00, 0x60400, BOOT_RANGE_RESERVED },
			   { 0x100000, MEM - 0x100000, BOOT_RANGE_RAM } },
	};
	ASSERT(machine.ram);
}

static void payload_try(const uint8_t *bytes, size_t len)
{
	struct boot_payload payload;
	uint8_t *out = malloc(UNPACKED_MAX);
	long written = boot_payload_unlz4(bytes, len, out, UNPACKED_MAX);

	ASSERT(written <= (long)UNPACKED_MAX);
	if (!boot_payload_find(bytes, len, &payload)) {
		ASSERT(payload.offset + payload.len <= len);
		written =
			boot_payload_unlz4(bytes + payload.offset, payload.len, out, UNPACKED_MAX);
		ASSERT(written <= (long)UNPACKED_MAX);
	}
	free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
	static struct boot_multiboot mb;
	static struct boot_elf elf;
	struct boot_linux linux_image;
	struct boot_entry entry;
	const struct boot_file image = { (uint8_t *)bytes, len }, none = { 0 };
	const struct boot_module module = { .file = { (uint8_t *)bytes, len < 5000 ? len : 5000 },
					    .args = "a" };
	char why[BOOT_WHY_MAX];
	const char *words = NULL;

	struct boot_unpacked unpacked;
	bool is_unpacked = !boot_payload_unpack(bytes, len, &unpacked);

	machine_init();
	if (boot_linux_parse(bytes, len, &linux_image, &words))
		ASSERT(words);
	else if (!boot_linux_load(&machine, &image, &linux_image, is_unpacked ? &unpacked : NULL,
				  &none, "quiet", &entry, why))
		ASSERT(entry.rip >= 0x100000);
	words = NULL;
	if (boot_elf_parse(bytes, len, &elf, &words))
		ASSERT(words);
	else if (elf.has_pvh &&
		 !boot_pvh_load(&machine, &image, &elf, &module, 1, "quiet", &entry, why))
		ASSERT(entry.rbx);
	words = NULL;
	if (boot_multiboot_parse(bytes, len, &mb, &words))
		ASSERT(words);
	else if (!boot_multiboot_load(&machine, &image, &mb, &module, 1, "k", &entry, why))
		ASSERT(entry.rbx);
	payload_try(bytes, len);
	if (is_unpacked)
		boot_payload_fini(&unpacked);
	return 0;
}
