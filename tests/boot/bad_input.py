"""Input that makes no sense: one line that says so, the right status, no crash."""
import os
import struct

from kernels import guest_files
from machine import HALT_FOR_EVER, HOST_ERROR, POWER_OFF, USAGE, Skip, expect, multiboot, read_until, say

NOBODY = 65534


def elf32(entry=0x100000, phoff=52, phnum=1, phentsize=32, ident=b"\x7fELF\x01\x01\x01", program=None):
    """A 32-bit ELF with one program header and a multiboot header in its first segment."""
    magic = 0x1BADB002
    code = struct.pack("<III", magic, 0, -magic & 0xFFFFFFFF) + HALT_FOR_EVER
    if program is None:
        program = struct.pack("<IIIIIIII", 1, 4096, 0x100000, 0x100000, len(code), len(code), 7, 4096)
    header = ident.ljust(16, b"\0") + struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, entry, phoff, 0, 0, 52,
                                                  phentsize, phnum, 0, 0, 0)
    return (header + program).ljust(4096, b"\0") + code


def guest_kernel(host):
    """The default guest's kernel as Debian packs it."""
    return guest_files(host)["vmlinuz"]


def segment(offset=4096, paddr=0x100000, file_len=16, mem_len=16):
    return struct.pack("<IIIIIIII", 1, offset, paddr, paddr, file_len, mem_len, 7, 4096)


def test_kernel_missing(host):
    host.run("run", "--kernel", host.path("none")).expect_refusal(HOST_ERROR, host.path("none"), "o such file")


def test_kernel_is_a_folder(host):
    host.run("run", "--kernel", host.folder).expect_refusal(HOST_ERROR, host.folder)


def unreadable(host, name, data):
    """A file that may not be read, and how to run the program as somebody who may not: root may read anything."""
    path = host.write(name, data)
    os.chmod(path, 0)
    if not os.access(path, os.R_OK):
        return path, {}
    os.chmod(host.folder, 0o755)
    somebody = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    try:
        host.run("--version", **somebody).expect(0)
    except OSError as error:
        raise Skip(f"runs as root, and others may not run {host.insula}: {error.strerror}")
    return path, somebody


def test_kernel_unreadable(host):
    path, somebody = unreadable(host, "secret", b"x" * 100)
    host.run("run", "--kernel", path, **somebody).expect_refusal(HOST_ERROR, f"kernel {path}", "ermission denied")


def test_kernel_empty(host):
    host.run("run", "--kernel", host.write("k", b"")).expect_refusal(HOST_ERROR, "empty")


def test_kernel_is_text(host):
    host.run("run", "--kernel", host.write("k", b"hello\n" * 3000)).expect_refusal(HOST_ERROR, "kernel")


def test_kernel_truncated(host):
    """A bzImage cut at every boundary that a parser may trip over."""
    setup = bytearray(0x400)
    setup[0x1F1] = 1
    setup[0x1FE:0x200] = b"\x55\xaa"
    setup[0x200:0x202] = b"\xeb\x6a"
    setup[0x202:0x206] = b"HdrS"
    setup[0x206:0x208] = struct.pack("<H", 0x20F)
    for length in (0x1F0, 0x1FE, 0x202, 0x206, 0x208, 0x230, 0x268, 0x3FF, 0x400):
        host.run("run", "--kernel", host.write("k", bytes(setup[:length]))).expect_refusal(HOST_ERROR, "kernel")


def test_elf_with_wild_headers(host):
    wild = {
        "segment beyond the file": elf32(program=segment(file_len=0x7FFFFFFF, mem_len=0x7FFFFFFF)),
        "segment offset beyond the file": elf32(program=segment(offset=0xFFFFF000)),
        "segment wraps": elf32(program=segment(paddr=0xFFFFF000, mem_len=0x2000)),
        "segment outside memory": elf32(program=segment(paddr=0xF0000000)),
        "segment over the tables": elf32(program=segment(paddr=0xE0000)),
        "file longer than memory": elf32(program=segment(file_len=16, mem_len=8)),
        "program headers beyond the file": elf32(phoff=0xFFFFFFF0),
        "too many program headers": elf32(phnum=0xFFFF),
        "program headers of size 0": elf32(phentsize=0),
        "no program header": elf32(phnum=0),
        "class unknown": elf32(ident=b"\x7fELF\x07\x01\x01"),
        "big-endian": elf32(ident=b"\x7fELF\x01\x02\x01"),
        "only a magic": b"\x7fELF",
    }
    for image in wild.values():
        host.run("run", "--kernel", host.write("k", image)).expect_refusal(HOST_ERROR, "kernel")


def test_initrd_missing(host):
    kernel = host.write("k", multiboot(HALT_FOR_EVER))
    host.run("run", "--kernel", kernel, "--initrd", host.path("none")).expect_refusal(HOST_ERROR, "initrd",
                                                                                    host.path("none"))


def test_initrd_too_large(host):
    kernel = host.write("k", multiboot(HALT_FOR_EVER))
    path = host.write("big", b"")
    os.truncate(path, 80 << 20)
    for image in (kernel, guest_kernel(host)):
        host.run("run", "--kernel", image, "--initrd", path, "--mem", "64M").expect_refusal(
            HOST_ERROR, f"initrd {path}", "too large for 64 MiB")


def test_initrd_unreadable(host):
    kernel = host.write("k", multiboot(HALT_FOR_EVER))
    path, somebody = unreadable(host, "secret", b"x" * 100)
    host.run("run", "--kernel", kernel, "--initrd", path, **somebody).expect_refusal(
        HOST_ERROR, f"initrd {path}", "ermission denied")
    host.run("run", "--kernel", kernel, "--initrd", host.folder).expect_refusal(HOST_ERROR, f"initrd {host.folder}")


def test_command_line_too_long(host):
    host.run("run", "--kernel", guest_kernel(host), "--append", "a" * 5000).expect_refusal(
        HOST_ERROR, "command line has 5000 bytes")


def test_stock_kernel_truncated(host):
    """The package's own file, cut in its header, in front of the kernel proper and in the payload."""
    with open(guest_kernel(host), "rb") as file:
        image = file.read()
    for length in (100, 512, 600, 1000, 5000, 40000, len(image) // 2, len(image) - 200000):
        host.run("run", "--kernel", host.write("k", image[:length])).expect_refusal(HOST_ERROR, "kernel")


def test_memory_too_small_for_a_kernel(host):
    host.run("run", "--kernel", guest_kernel(host), "--mem", "8M").expect_refusal(HOST_ERROR, "memory too small",
                                                                                 "at least")


def test_memory_too_small_for_the_guest(host):
    host.guest("--mem", "8M").expect_refusal(HOST_ERROR, "emory")


def test_memory_absurd(host):
    kernel = host.write("k", multiboot(HALT_FOR_EVER))
    for size, says in (("1K", "too small"), ("0M", "too small"), ("2T", "too large"),
                       ("16777216T", "not a size"), ("512", "not a size"), ("lots", "not a size"),
                       ("-5M", "not a size"), ("", "not a size"), ("5000001B", "multiple of 4K")):
        host.run("run", "--kernel", kernel, "--mem", size).expect_refusal(USAGE, "--mem", says)


def test_disk(host):
    kernel = host.write("k", multiboot(HALT_FOR_EVER))
    odd = host.write("odd", b"x" * 1000)
    empty = host.write("empty", b"")
    for disk, says in ((host.path("none"), "o such file"), (host.folder, "neither"), (odd, "512"),
                       (empty, "empty"), ("/dev/null", "neither")):
        host.run("run", "--kernel", kernel, "--disk", disk).expect_refusal(HOST_ERROR, f"disk {disk}", says)


def test_disk_unreadable(host):
    kernel = host.write("k", multiboot(HALT_FOR_EVER))
    disk, somebody = unreadable(host, "disk", bytes(4096))
    host.run("run", "--kernel", kernel, "--disk", disk, **somebody).expect_refusal(HOST_ERROR, f"disk {disk}",
                                                                                  "ermission denied")


def test_disk_not_writable(host):
    """Read-only it is fine, and the refusal says how."""
    kernel = host.write("k", multiboot(POWER_OFF))
    disk, somebody = unreadable(host, "disk", bytes(4096))
    os.chmod(disk, 0o444)
    host.run("run", "--kernel", kernel, "--disk", disk, **somebody).expect_refusal(HOST_ERROR, f"disk {disk}", "ro")
    host.run("run", "--kernel", kernel, "--disk", f"{disk},ro", **somebody).expect(0)


def test_disk_given_twice(host):
    kernel = host.write("k", multiboot(HALT_FOR_EVER))
    disk = host.write("disk", bytes(4096))
    host.run("run", "--kernel", kernel, "--disk", disk, "--disk", disk).expect_refusal(HOST_ERROR, f"disk {disk}", "use")


def test_disk_locked_by_another(host):
    kernel = host.write("k", multiboot(say("up") + HALT_FOR_EVER))
    disk = host.write("disk", bytes(1 << 20))
    first = host.start("run", "--kernel", kernel, "--disk", disk)
    read_until(first.stdout.fileno(), b"up")
    host.run("run", "--kernel", kernel, "--disk", disk).expect_refusal(HOST_ERROR, f"disk {disk}", "use")
    first.kill()
    first.wait()


def test_disk_shared_by_readers(host):
    kernel = host.write("k", multiboot(say("up") + HALT_FOR_EVER))
    second = host.write("k2", multiboot(POWER_OFF))
    disk = host.write("disk", bytes(1 << 20))
    first = host.start("run", "--kernel", kernel, "--disk", disk + ",ro")
    read_until(first.stdout.fileno(), b"up")
    host.run("run", "--kernel", second, "--disk", disk + ",ro").expect(0)
    host.run("run", "--kernel", second, "--disk", disk).expect_refusal(HOST_ERROR, f"disk {disk}", "use")


def test_command_lines(host):
    for arguments, says in (
            (("rnu",), "unknown verb rnu"),
            (("--frobnicate",), "unknown option --frobnicate"),
            (("run", "--kernal", "x"), "did you mean --kernel?"),
            (("run", "-z"), "unknown option -z"),
            (("run", "debain"), "did you mean debian?"),
            (("run", "debian", "--cpus", "0"), "--cpus 0"),
            (("run", "debian", "--cpus", "9999"), "--cpus 9999"),
            (("run", "debian", "--halt-poll", "200000"), "--halt-poll 200000"),
            (("run", "debian", "--halt-poll", "2us"), "--halt-poll 2us"),
            (("run", "debian", "--engine", "warp"), "--engine warp is unknown"),
            (("run", "debian", "--cpu", "486"), "--cpu 486 is unknown"),
            (("run", "debian", "--append"), "--append needs a value"),
            (("run", "debian", "--"), "no COMMAND after --"),
            (("guest", "fetch"), "guest"),
            (("doctor", "--yaml"), "unknown option --yaml"),
            (("help", "me"), "there is no verb me"),
            (("version", "2"), "takes no arguments")):
        host.run(*arguments).expect_refusal(USAGE, says)


def test_help(host):
    for verb in ("run", "guest", "doctor", "help", "version"):
        out = host.run(verb, "--help").expect(0, err=b"").out
        expect(b"xample" in out or verb == "version", f"{verb} --help has no example")
    host.run("--help").expect(0, err=b"")
    expect(host.run("--version").expect(0).out.startswith(b"insula "), "--version")


def test_guest_not_built(host):
    environment = dict(os.environ, XDG_CACHE_HOME=host.folder)
    host.run("run", env=environment).expect_refusal(HOST_ERROR, "insula guest build debian")
    host.run("run", "--", "true", env=environment).expect_refusal(HOST_ERROR, "insula guest build debian")
