"""The benchmark's initramfs: insula-bench as /init, and the virtio modules of a guest that
`insula guest build` made. Called by bench/run."""

import stat
from pathlib import Path

MAGIC = b"070701"
HEADER = 110


def _aligned(n):
    return (n + 3) & ~3


def read(data):
    """Files of an uncompressed newc archive, by name."""
    files, at = {}, 0
    while data[at:at + 6] == MAGIC:
        field = [int(data[at + 6 + 8 * i:at + 14 + 8 * i], 16) for i in range(13)]
        size, name_len = field[6], field[11]
        name = data[at + HEADER:at + HEADER + name_len - 1].decode()
        body = at + _aligned(HEADER + name_len)
        if name == "TRAILER!!!":
            break
        files[name.lstrip("./")] = data[body:body + size]
        at = body + _aligned(size)
    if not files:
        raise ValueError("the guest's initrd is no uncompressed newc archive")
    return files


def _entry(number, name, mode, data=b"", device=(0, 0)):
    name = name.encode() + b"\0"
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, device[0], device[1], len(name), 0)
    head = MAGIC + b"".join(b"%08X" % f for f in fields) + name
    return (head + b"\0" * (_aligned(len(head)) - len(head)) +
            data + b"\0" * (_aligned(len(data)) - len(data)))


def modules_in_order(files, wanted):
    """Module files, each after those that it needs, from the guest's list of modules."""
    needs, path, order = {}, {}, []
    for line in files["lib/modules/insula.list"].decode().splitlines():
        name, file, *rest = line.split(":")[0].split()
        needs[name], path[name] = rest, "lib/modules/" + file

    def add(name):
        if name in path and path[name] not in order:
            for needed in needs[name]:
                add(needed)
            order.append(path[name])

    for name in wanted:
        add(name)
    return order


def write(to, guest_initrd, init):
    """Makes the archive. A driver that the kernel has built in is simply not in the list."""
    files = read(Path(guest_initrd).read_bytes())
    entries = [(name, stat.S_IFDIR | 0o755, b"", (0, 0))
               for name in ("dev", "proc", "sys", "tmp", "modules")]
    entries.append(("dev/console", stat.S_IFCHR | 0o600, b"", (5, 1)))
    for i, module in enumerate(modules_in_order(files, ("virtio_pci", "virtio_blk"))):
        entries.append((f"modules/{i:02}.ko", stat.S_IFREG | 0o644, files[module], (0, 0)))
    entries.append(("init", stat.S_IFREG | 0o755, Path(init).read_bytes(), (0, 0)))
    archive = b"".join(_entry(n + 1, *e) for n, e in enumerate(entries))
    Path(to).write_bytes(archive + _entry(0, "TRAILER!!!", 0))
