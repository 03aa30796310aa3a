"""Disks: what the guest writes is on the host's image, what the host wrote is in the guest."""
import hashlib
import os
import random
import subprocess

from machine import Skip, expect


def tool(*arguments, input=None):
    for folder in ("/usr/sbin", "/sbin"):
        if os.path.exists(f"{folder}/{arguments[0]}"):
            arguments = (f"{folder}/{arguments[0]}", *arguments[1:])
            break
    try:
        done = subprocess.run(arguments, input=input, capture_output=True, timeout=60)
    except FileNotFoundError:
        raise Skip(f"{arguments[0]} is not installed (package e2fsprogs)")
    expect(done.returncode == 0, f"{arguments}: {done.stdout!r} {done.stderr!r}")
    return done.stdout


def image(host, mib):
    path = host.write("disk.img", b"")
    os.truncate(path, mib << 20)
    return path


def test_ext4_written_in_the_guest_read_on_the_host(host):
    disk = image(host, 64)
    tool("mke2fs", "-q", "-t", "ext4", disk)
    data = random.Random(2).randbytes(8 << 20)
    r = host.guest("--disk", disk, "--", "sh", "-c",
                   "modprobe ext4; mount -t ext4 /dev/vda /mnt && mkdir /mnt/d && cat > /mnt/d/file && "
                   "ln -s file /mnt/d/link && i=0 && while [ $i -lt 200 ]; do echo $i > /mnt/d/n$i; "
                   "i=$((i + 1)); done && sync && umount /mnt && sha256sum < /dev/null", input=data)
    r.expect(0)
    tool("e2fsck", "-fn", disk)
    expect(tool("debugfs", "-R", "cat /d/file", disk) == data, "the file's bytes differ")
    for n in (0, 99, 199):
        expect(tool("debugfs", "-R", f"cat /d/n{n}", disk) == f"{n}\n".encode(), f"file n{n}")


def test_ext4_left_mounted_is_clean_too(host):
    """The guest's init unmounts and flushes before it reports the exit status."""
    disk = image(host, 32)
    tool("mke2fs", "-q", "-t", "ext4", disk)
    host.guest("--disk", disk, "--", "sh", "-c",
               "modprobe ext4; mount -t ext4 /dev/vda /mnt && echo kept > /mnt/file").expect(0)
    tool("e2fsck", "-fn", disk)
    expect(tool("debugfs", "-R", "cat /file", disk) == b"kept\n", "the file is not there")


def test_written_on_the_host_read_in_the_guest(host):
    data = random.Random(3).randbytes(4 << 20)
    disk = host.write("disk.img", data)
    r = host.guest("--disk", disk, "--", "cat", "/dev/vda").expect(0)
    expect(r.out == data, f"{len(r.out)} bytes, and they differ")


def test_read_only(host):
    disk = host.write("disk.img", bytes(1 << 20))
    os.chmod(disk, 0o444)
    r = host.guest("--disk", disk + ",ro", "--", "sh", "-c",
                   "cat /sys/block/vda/ro; echo x > /dev/vda && echo written; echo y | dd of=/dev/vda conv=fsync")
    expect(r.out.startswith(b"1\n") and b"written" not in r.out and r.status != 0, f"{r}")
    with open(disk, "rb") as file:
        expect(file.read() == bytes(1 << 20), "a read-only disk was written")


def test_two_disks_in_order(host):
    first, second = host.write("a", b"A" * 4096), host.write("b", b"B" * 8192)
    host.guest("--disk", first, "--disk", second + ",ro", "--", "sh", "-c",
               "head -c 1 /dev/vda; head -c 1 /dev/vdb; cat /sys/block/vda/size /sys/block/vdb/size").expect(
        0, out=b"AB8\n16\n")


def test_odd_sizes_and_offsets(host):
    """Requests of 512 bytes to 1 MiB at any sector, through the page cache and past it."""
    disk = image(host, 16)
    r = host.guest("--disk", disk, "--", "sh", "-c", """
        set -e
        head -c 1048576 /dev/urandom > /tmp/r
        for n in 1 3 7 64 255 2047; do
            dd if=/tmp/r of=/dev/vda bs=512 count=$n seek=$((n * 5)) conv=notrunc,fsync 2>/dev/null
            echo 3 > /proc/sys/vm/drop_caches
            a=$(dd if=/dev/vda bs=512 count=$n skip=$((n * 5)) 2>/dev/null | sha256sum)
            b=$(head -c $((n * 512)) /tmp/r | sha256sum)
            [ "$a" = "$b" ] || { echo "$n sectors differ"; exit 1; }
        done
        echo same""")
    r.expect(0, out=b"same\n")


def test_streamed_past_the_page_cache(host):
    """Large direct reads one after the other, which are read ahead, give the disk's bytes; and what
    the guest writes ahead of itself it reads."""
    data = random.Random(4).randbytes(24 << 20)
    disk = host.write("disk.img", data)
    fd = os.open(disk, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
    r = host.guest("--disk", disk, "--", "sh", "-c", """
        set -e
        dd if=/dev/vda bs=1M iflag=direct 2>/dev/null | sha256sum
        head -c 4096 /dev/zero | tr '\\0' x > /tmp/x
        for mib in 0 1 2 3 4 5 6 7 8 9 10 11; do
            dd if=/dev/vda bs=1M skip=$mib count=1 iflag=direct 2>/dev/null >> /tmp/read
            # Into the next piece, which is there or on its way, and the one after.
            for page in 256 600; do
                dd if=/tmp/x of=/dev/vda bs=4k seek=$((mib * 256 + page)) oflag=direct conv=notrunc 2>/dev/null
            done
        done
        sha256sum < /tmp/read""")
    changed = bytearray(data)
    for mib in range(11):
        for page in (256, 600):
            at = (mib * 256 + page) * 4096
            changed[at:at + 4096] = b"x" * 4096
    sums = [hashlib.sha256(bytes_).hexdigest().encode() + b"  -\n"
            for bytes_ in (data, changed[:12 << 20])]
    r.expect(0, out=b"".join(sums))
