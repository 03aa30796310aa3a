/*
 * insula guest build: fetches two packages with apt, takes the kernel, its
 * modules and busybox out of them and writes kernel, initrd, cmdline and
 * manifest.json. Called by the guest verb.
 *
 * Invariant: everything happens in a work folder beside the guests; the guest's
 * own folder is swapped in by rename as the last step.
 */
#include "cli/guest_build.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "boot/boot_elf.h"
#include "boot/boot_file.h"
#include "boot/boot_payload.h"
#include "cli/guest.h"
#include "cli/guest_command.h"
#include "cli/guest_cpio.h"
#include "cli/guest_module.h"
#include "cli/verb.h"

#define FILE_MAX (1u << 30)

/* The guest's init, put here by the build (guest/init/meson.build). */
extern const uint8_t guest_init_bytes[];
extern const uint64_t guest_init_len;

/*
 * Quiet, because in a command's output there is no place for the kernel's; a
 * panic is told all the same. The rest spares an interpreted kernel work that
 * nobody sees the fruits of: probing of keyboards, serial ports and audit.
 */
static const char cmdline[] =
	"console=ttyS0 quiet loglevel=1 panic=-1 random.trust_cpu=on audit=0 nowatchdog "
	"8250.nr_uarts=1 i8042.noaux i8042.nokbd cryptomgr.notests rcupdate.rcu_expedited=1";

static const char *const module_roots[] = { "virtio_pci", "virtio_console", "virtio_blk",
					    "virtio_rng", "ext4",           "crc32c_generic",
					    "button",     "evdev",          NULL };

struct recipe {
	const char *name, *kernel_package;
};

static const struct recipe recipes[] = {
	{ "debian", "linux-image-cloud-amd64" },
	{ "debian-generic", "linux-image-amd64" },
};

struct build {
	const struct recipe *recipe;
	char *work;  /* folder; removed in the end */
	char *lists; /* folder of private package lists, or NULL: the system's */
	char *kernel_package, *kernel_version, *busybox_version;
	char *target;  /* the guest's folder */
	bool unpacked; /* the kernel is an ELF file with a PVH entry */
};

static void progress(const struct build *b, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
static void progress(const struct build *b, const char *format, ...)
{
	va_list args;

	fprintf(stderr, "insula: guest %s: ", b->recipe->name);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
}

/* Text from a format; exits on lack of memory, as a small tool may. */
static char *text(const char *format, ...) __attribute__((format(printf, 1, 2)));
static char *text(const char *format, ...)
{
	va_list args;
	char *string;

	va_start(args, format);
	int len = vasprintf(&string, format, args);

	va_end(args);
	if (len < 0) {
		fprintf(stderr, "insula: out of memory\n");
		exit(STATUS_HOST_ERROR);
	}
	return string;
}

/* --- packages --- */

/* "-o" options for apt: ours first. Returns how many words were written. */
static size_t apt_options(const struct build *b, char *words[8])
{
	size_t n = 0;

	words[n++] = text("-qq");
	words[n++] = text("-oAPT::Sandbox::User=%s", geteuid() == 0 ? "root" : "");
	if (b->lists) {
		words[n++] = text("-oDir::State=%s/state", b->lists);
		words[n++] = text("-oDir::Cache=%s/cache", b->lists);
		words[n++] = text("-oDir::State::status=/var/lib/dpkg/status");
	}
	return n;
}

/* Runs apt-get or apt-cache with a verb and packages (NULL-terminated). Output if wanted, else "".
 * NULL on failure. */
static char *apt(const struct build *b, const char *tool, const char *verb,
		 const char *const *packages, bool loud)
{
	const char *argv[24] = { tool };
	char *words[8], *output;
	size_t n = apt_options(b, words), argc = 1;

	for (size_t i = 0; i < n; i++)
		argv[argc++] = words[i];
	argv[argc++] = verb;
	while (*packages)
		argv[argc++] = *packages++;
	if (loud)
		output = guest_command(b->work, argv, NULL, 0) ? NULL : strdup("");
	else
		output = guest_command_output(b->work, argv);
	for (size_t i = 0; i < n; i++)
		free(words[i]);
	return output;
}

/* The versioned kernel package behind linux-image-…amd64. */
static char *kernel_package_find(const struct build *b)
{
	char *depends = apt(b, "apt-cache", "depends",
			    (const char *[]){ b->recipe->kernel_package, NULL }, false);
	char *at = depends ? strstr(depends, "Depends: linux-image-") : NULL, *package = NULL;

	if (at) {
		at += strlen("Depends: ");
		package = text("%.*s", (int)strcspn(at, " \n"), at);
	}
	free(depends);
	return package;
}

/* The system's package lists if it has any, else lists of our own, which need no root either. */
static bool packages_find(struct build *b)
{
	static const char *const none[] = { NULL };

	b->kernel_package = kernel_package_find(b);
	if (b->kernel_package)
		return true;
	progress(b, "fetching package lists");
	b->lists = text("%s/apt", b->work);
	char *state = text("%s/state/lists/partial", b->lists),
	     *cache = text("%s/cache/archives/partial", b->lists);

	if (!guest_folder_make(state) && !guest_folder_make(cache)) {
		char *output = apt(b, "apt-get", "update", none, true);

		if (output)
			b->kernel_package = kernel_package_find(b);
		free(output);
	}
	free(state);
	free(cache);
	if (!b->kernel_package)
		progress(b,
			 "apt knows no package %s: is this Debian with a network? Then run apt-get "
			 "update as root "
			 "and try again",
			 b->recipe->kernel_package);
	return b->kernel_package;
}

/* The file work/PACKAGE_*.deb; the caller frees. */
static char *package_file(const struct build *b, const char *package)
{
	char *pattern = text("%s/%s_*.deb", b->work, package), *path = NULL;
	glob_t found;

	if (!glob(pattern, 0, NULL, &found)) {
		path = text("%s", found.gl_pathv[0]);
		globfree(&found);
	}
	free(pattern);
	return path;
}

/* Between the underscores of PACKAGE_VERSION_ARCH.deb; apt writes a colon as %3a. */
static char *package_version(const char *path)
{
	const char *begin = strchr(strrchr(path, '/'), '_');
	char *version =
		begin ? text("%.*s", (int)strcspn(begin + 1, "_"), begin + 1) : text("unknown");
	char *colon = strstr(version, "%3a");

	if (colon) {
		*colon = ':';
		memmove(colon + 1, colon + 3, strlen(colon + 3) + 1);
	}
	return version;
}

/* Takes what matches the patterns out of a package into work/root. */
static bool package_unpack(const struct build *b, const char *package, const char *patterns,
			   char **version)
{
	static const char script[] =
		"set -f; dpkg-deb --fsys-tarfile \"$1\" | tar -x -f - -C root --wildcards "
		"--no-same-owner $2 2>/dev/null; set +f; "
		"find root -name '*.ko.xz' -exec xz -d {} +; exit 0";
	char *file = package_file(b, package);

	if (!file) {
		progress(b, "apt-get did not bring %s", package);
		return false;
	}
	*version = package_version(file);
	int status = guest_command(
		b->work, (const char *[]){ "sh", "-c", script, "sh", file, patterns, NULL }, NULL,
		0);

	free(file);
	return status == 0;
}

static bool packages_get(struct build *b)
{
	char *root = text("%s/root", b->work);
	bool made = !guest_folder_make(root);

	free(root);
	if (!made || !packages_find(b))
		return false;
	progress(b, "downloading %s and busybox-static", b->kernel_package);
	char *output = apt(b, "apt-get", "download",
			   (const char *[]){ b->kernel_package, "busybox-static", NULL }, true);

	if (!output) {
		progress(b, "the download failed; if apt's lists are old, run apt-get update as "
			    "root and try again");
		return false;
	}
	free(output);
	progress(b, "unpacking");
	return package_unpack(
		       b, b->kernel_package,
		       "./boot/vmlinuz-* */kernel/drivers/acpi/button.ko* "
		       "*/kernel/drivers/input/evdev.ko* "
		       "*/kernel/drivers/virtio/* */kernel/drivers/char/* "
		       "*/kernel/drivers/block/* */kernel/fs/* */kernel/crypto/* */kernel/lib/*",
		       &b->kernel_version) &&
	       package_unpack(b, "busybox-static", "*/busybox", &b->busybox_version);
}

/* --- kernel --- */

static bool file_write(const char *path, const void *bytes, size_t len)
{
	FILE *file = fopen(path, "wbe");
	bool written = file && fwrite(bytes, 1, len, file) == len;

	if (file && fclose(file))
		written = false;
	if (!written)
		fprintf(stderr, "insula: %s: %s\n", path, strerror(errno));
	return written;
}

/* The first file that matches, in the unpacked packages; the caller frees. */
static char *root_file(const struct build *b, const char *pattern)
{
	char *full = text("%s/root/%s", b->work, pattern), *path = NULL;
	glob_t found;

	if (!glob(full, 0, NULL, &found)) {
		path = text("%s", found.gl_pathv[0]);
		globfree(&found);
	}
	free(full);
	return path;
}

/* Unpacks the payload into kernel.elf with the tool for its format. */
static bool payload_unpack_by_tool(const struct build *b, const struct boot_file *image,
				   const struct boot_payload *payload, const char *out)
{
	/* A kernel's xz stream is followed by its size, which is no xz stream. */
	static const char *const xz[] = { "xz", "-dc", "--single-stream", "payload", NULL };
	static const char *const zstd[] = { "zstd", "-dcq", "payload", NULL };
	static const char *const gzip[] = { "gzip", "-dc", "payload", NULL };
	const char *const *argv = payload->format == BOOT_PAYLOAD_XZ     ? xz
				  : payload->format == BOOT_PAYLOAD_ZSTD ? zstd
									 : gzip;
	char *path = text("%s/payload", b->work);
	bool unpacked = file_write(path, image->bytes + payload->offset, payload->len) &&
			guest_command(b->work, argv, out, 1) >= 0;

	free(path);
	return unpacked;
}

static bool payload_unpack(const struct build *b, const struct boot_file *image, const char *out)
{
	struct boot_payload payload;

	if (boot_payload_find(image->bytes, image->len, &payload) ||
	    payload.unpacked_len > FILE_MAX)
		return false;
	if (payload.format != BOOT_PAYLOAD_LZ4)
		return payload_unpack_by_tool(b, image, &payload, out);
	uint8_t *bytes = malloc(payload.unpacked_len);
	long len = bytes ? boot_payload_unlz4(image->bytes + payload.offset, payload.len, bytes,
					      payload.unpacked_len)
			 : -ENOMEM;
	bool unpacked = len > 0 && file_write(out, bytes, (size_t)len);

	free(bytes);
	return unpacked;
}

static bool has_pvh(const char *path)
{
	struct boot_file file;
	struct boot_elf elf;
	const char *why;

	if (boot_file_read(&file, path, FILE_MAX, &why))
		return false;
	bool pvh = !boot_elf_parse(file.bytes, file.len, &elf, &why) && elf.has_pvh;

	boot_file_fini(&file);
	return pvh;
}

/*
 * The kernel goes into the guest unpacked if it can be: unpacking itself would
 * be the longest thing an interpreted kernel does before /init.
 */
static bool kernel_make(struct build *b)
{
	char *from = root_file(b, "boot/vmlinuz-*");
	char *vmlinuz = text("%s/out/vmlinuz", b->work), *kernel = text("%s/out/kernel", b->work);
	struct boot_file image = { 0 };
	const char *why = "no vmlinuz in it";
	bool made = from && !boot_file_read(&image, from, FILE_MAX, &why);

	if (!made)
		progress(b, "package %s: %s", b->kernel_package, why);
	if (made) {
		made = file_write(vmlinuz, image.bytes, image.len);
		b->unpacked = payload_unpack(b, &image, kernel) && has_pvh(kernel);
	}
	if (made && !b->unpacked) {
		progress(b, "the kernel stays packed, which makes it start slower (is xz-utils "
			    "installed?)");
		made = file_write(kernel, image.bytes, image.len);
	}
	boot_file_fini(&image);
	free(from);
	free(vmlinuz);
	free(kernel);
	return made;
}

/* --- initramfs --- */

static bool cpio_host_file(struct guest_cpio *cpio, const char *path, unsigned mode,
			   const char *host)
{
	struct boot_file file;
	const char *why;

	if (boot_file_read(&file, host, FILE_MAX, &why)) {
		fprintf(stderr, "insula: %s: %s\n", host, why);
		return false;
	}
	guest_cpio_file(cpio, path, mode, file.bytes, file.len);
	boot_file_fini(&file);
	return true;
}

static void cpio_text(struct guest_cpio *cpio, const char *path, const char *contents)
{
	guest_cpio_file(cpio, path, 0644, contents, strlen(contents));
}

/* A name for every applet. modprobe is our init's, which knows our list of modules. */
static bool cpio_applets(const struct build *b, struct guest_cpio *cpio, const char *busybox)
{
	char *names =
		guest_command_output(b->work, (const char *[]){ busybox, "--list-full", NULL });
	char *rest = names, *name;

	while ((name = strsep(&rest, "\n"))) {
		const char *last = strrchr(name, '/') ? strrchr(name, '/') + 1 : name;

		if (!*name || !strcmp(last, "busybox") || !strcmp(last, "modprobe") ||
		    !strcmp(name, "linuxrc") || !strcmp(last, "init"))
			continue;
		guest_cpio_link(cpio, name, "/bin/busybox");
	}
	free(names);
	return names;
}

static bool cpio_modules(const struct build *b, struct guest_cpio *cpio)
{
	struct guest_modules *modules = calloc(1, sizeof(*modules));
	char *folder = text("%s/root", b->work), *list = NULL;
	size_t list_len = 0;
	bool written = modules;

	for (const char *const *name = module_roots; written && *name; name++) {
		int err = guest_modules_add(modules, folder, *name);

		if (err && err != -ENOENT) {
			progress(b, "module %s: %s", *name, strerror(-err));
			written = false;
		}
	}
	for (unsigned i = 0; written && i < modules->count; i++) {
		char *path = text("lib/modules/%s.ko", modules->module[i].name);

		written = cpio_host_file(cpio, path, 0644, modules->module[i].path);
		free(path);
	}
	FILE *out = open_memstream(&list, &list_len);

	if (out && modules)
		guest_modules_list(modules, out);
	if (out && !fclose(out))
		guest_cpio_file(cpio, "lib/modules/insula.list", 0644, list, list_len);
	if (modules)
		guest_modules_fini(modules);
	free(list);
	free(modules);
	free(folder);
	return written;
}

static bool initrd_fill(const struct build *b, struct guest_cpio *cpio)
{
	static const char *const folders[] = { "bin", "sbin",        "usr", "usr/bin", "usr/sbin",
					       "dev", "proc",        "sys", "run",     "etc",
					       "lib", "lib/modules", "mnt", "var",     "srv",
					       "opt", "home",        NULL };
	char *busybox = root_file(b, "bin/busybox");

	if (!busybox)
		busybox = root_file(b, "usr/bin/busybox");
	if (!busybox) {
		progress(b, "package busybox-static has no busybox");
		return false;
	}
	for (const char *const *folder = folders; *folder; folder++)
		guest_cpio_directory(cpio, *folder, 0755);
	guest_cpio_directory(cpio, ".", 0755);
	guest_cpio_directory(cpio, "tmp", 01777);
	guest_cpio_directory(cpio, "root", 0700);
	guest_cpio_device(cpio, "dev/console", 0600, 5, 1);
	guest_cpio_device(cpio, "dev/null", 0666, 1, 3);
	guest_cpio_file(cpio, "init", 0755, guest_init_bytes, guest_init_len);
	guest_cpio_link(cpio, "sbin/modprobe", "/init");
	guest_cpio_link(cpio, "sbin/init", "/init");
	cpio_text(cpio, "etc/passwd",
		  "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n");
	cpio_text(cpio, "etc/group", "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n");
	cpio_text(cpio, "etc/hostname", "insula\n");
	cpio_text(cpio, "etc/hosts", "127.0.0.1 localhost insula\n::1 localhost\n");
	bool filled = cpio_host_file(cpio, "bin/busybox", 0755, busybox) &&
		      cpio_applets(b, cpio, busybox) && cpio_modules(b, cpio);

	free(busybox);
	return filled;
}

static bool initrd_make(const struct build *b)
{
	char *path = text("%s/out/initrd", b->work);
	FILE *file = fopen(path, "wbe");
	struct guest_cpio cpio;
	bool made = false;

	if (file) {
		guest_cpio_begin(&cpio, file);
		made = initrd_fill(b, &cpio);
		if (!guest_cpio_end(&cpio))
			made = false;
		if (fclose(file))
			made = false;
	}
	if (!made)
		progress(b, "the initramfs could not be written");
	free(path);
	return made;
}

/* --- manifest and the last step --- */

static bool manifest_make(const struct build *b)
{
	char *path = text("%s/out/manifest.json", b->work), *line = text("%s/out/cmdline", b->work);
	char *command_line = text("%s\n", cmdline);
	char *kernel = text("%s/kernel", b->target), *vmlinuz = text("%s/vmlinuz", b->target),
	     *initrd = text("%s/initrd", b->target);
	json_t *manifest =
		json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:I}", "name", b->recipe->name,
			  "kernel", kernel, "vmlinuz", vmlinuz, "initrd", initrd, "cmdline",
			  cmdline, "package", b->kernel_package, "version", b->kernel_version,
			  "busybox_version", b->busybox_version, "built", (json_int_t)time(NULL));
	bool made = manifest && !json_dump_file(manifest, path, JSON_INDENT(2)) &&
		    file_write(line, command_line, strlen(command_line));

	json_decref(manifest);
	free(path);
	free(line);
	free(command_line);
	free(kernel);
	free(vmlinuz);
	free(initrd);
	return made;
}

/* Swaps work/out for the guest's folder; the old one, now in work, goes with the rest. */
static bool install(const struct build *b)
{
	char *out = text("%s/out", b->work);
	int err = renameat2(AT_FDCWD, out, AT_FDCWD, b->target, RENAME_EXCHANGE);

	if (err && errno == ENOENT)
		err = rename(out, b->target);
	if (err)
		progress(b, "%s: %s", b->target, strerror(errno));
	free(out);
	return !err;
}

static const struct recipe *recipe_find(const char *name)
{
	for (size_t i = 0; i < sizeof(recipes) / sizeof(recipes[0]); i++) {
		if (!strcmp(recipes[i].name, name))
			return &recipes[i];
	}
	return NULL;
}

static bool work_make(struct build *b)
{
	char *slash = strrchr(b->target, '/');
	char *guests = text("%.*s", (int)(slash - b->target), b->target), *out;
	int err = guest_folder_make(guests);

	b->work = text("%s/.build-XXXXXX", guests);
	if (!err && !mkdtemp(b->work))
		err = -errno;
	out = text("%s/out", b->work);
	if (!err)
		err = guest_folder_make(out);
	if (err)
		progress(b, "%s: %s", guests, strerror(-err));
	free(guests);
	free(out);
	return !err;
}

static bool tools_there(const struct build *b)
{
	static const char *const tools[] = {
		"apt-get", "apt-cache", "dpkg-deb", "tar", "find", NULL
	};

	for (const char *const *tool = tools; *tool; tool++) {
		if (guest_command("/", (const char *[]){ *tool, "--version", NULL }, NULL, 1) ==
		    -ENOENT) {
			progress(b, "needs %s; guests are built on Debian or a system like it",
				 *tool);
			return false;
		}
	}
	return true;
}

static int manifest_print(const char *name)
{
	char *folder = guest_directory(name),
	     *path = folder ? text("%s/manifest.json", folder) : NULL;
	json_t *manifest = path ? json_load_file(path, 0, NULL) : NULL;
	int status = manifest ? STATUS_OK : STATUS_HOST_ERROR;

	if (manifest) {
		json_dumpf(manifest, stdout, JSON_INDENT(2));
		putchar('\n');
	}
	json_decref(manifest);
	free(path);
	free(folder);
	return status;
}

int guest_build(const char *name, bool json)
{
	struct build b = { .recipe = recipe_find(name) };

	if (!b.recipe) {
		fprintf(stderr,
			"insula: there is no guest %s to build; insula guest list names them\n",
			name);
		return STATUS_USAGE;
	}
	b.target = guest_directory(name);
	if (!b.target) {
		fprintf(stderr,
			"insula: neither XDG_CACHE_HOME nor HOME says where guests are kept\n");
		return STATUS_HOST_ERROR;
	}
	bool built = tools_there(&b) && work_make(&b) && packages_get(&b) && kernel_make(&b) &&
		     initrd_make(&b) && manifest_make(&b) && install(&b);

	if (b.work)
		guest_folder_remove(b.work);
	if (built)
		progress(&b, "built from %s %s in %s", b.kernel_package, b.kernel_version,
			 b.target);
	free(b.work);
	free(b.lists);
	free(b.target);
	free(b.kernel_package);
	free(b.kernel_version);
	free(b.busybox_version);
	if (!built)
		return STATUS_HOST_ERROR;
	return json ? manifest_print(name) : STATUS_OK;
}

int guest_build_list(bool json)
{
	json_t *all = json_array();

	for (const char *const *name = guest_names; *name; name++) {
		char *folder = guest_directory(*name),
		     *path = folder ? text("%s/manifest.json", folder) : NULL;
		json_t *manifest = path ? json_load_file(path, 0, NULL) : NULL;

		if (json && manifest)
			json_array_append(all, manifest);
		else if (!json && manifest)
			printf("%-15s %s %s, %s\n", *name,
			       json_string_value(json_object_get(manifest, "package")),
			       json_string_value(json_object_get(manifest, "version")), folder);
		else if (!json)
			printf("%-15s not built\n", *name);
		json_decref(manifest);
		free(path);
		free(folder);
	}
	if (json) {
		json_dumpf(all, stdout, JSON_INDENT(2));
		putchar('\n');
	}
	json_decref(all);
	return STATUS_OK;
}

int guest_build_remove(const char *name)
{
	char *folder = recipe_find(name) ? guest_directory(name) : NULL;

	if (!folder || access(folder, F_OK)) {
		fprintf(stderr, "insula: guest %s is not built\n", name);
		free(folder);
		return STATUS_HOST_ERROR;
	}
	guest_folder_remove(folder);
	free(folder);
	return STATUS_OK;
}
