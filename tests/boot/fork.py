"""Forks of the default guest, and several VMs from one snapshot: each goes on by itself, as somebody else."""
import hashlib
import json
import re
import time

from life import console, kernel, ps
from machine import FULL, HALT_FOR_EVER, expect, read_until, wait_until
from snapshot import ask, ready, snapshot

# Until it is told to, or finds itself to be another: a line of its name, a number and random bytes now and then.
# Then what it has computed, from memory that it alone has written.
COMMAND = r"""echo up; me=$(hostname); n=0
while [ "$(hostname)" = $me ]; do
    n=$((n + 1)); echo "line $(hostname) $n $(head -c 16 /dev/urandom | od -An -tx8 | tr -d ' \n')"
    read -t 1 word && break
done
yes "$(hostname)" | head -c %d > /tmp/own
echo "line $(hostname) $n $(head -c 16 /dev/urandom | od -An -tx8 | tr -d ' \n')"
echo "own $(hostname) $(md5sum < /tmp/own | cut -c1-32) id $(cat /etc/machine-id) date $(date +%%s)"
sleep 1000
"""


def logs(host, name):
    return host.run("logs", name).expect(0, err=b"").out.decode()


def own_line(host, name):
    found = re.search(r"own (\S+) ([0-9a-f]{32}) id ([0-9a-f]{32}) date (\d+)\n", logs(host, name))
    return found and found.groups()


def expect_apart(host, names, size, began, host_name=None):
    """What each computed is right, is its own, and no two have anything random in common."""
    ids, random = set(), set()
    for name in names:
        wait_until(lambda: own_line(host, name), f"{name} has computed")
        who, digest, machine_id, date = own_line(host, name)
        wanted = host_name or name
        line = (wanted + "\n").encode()
        want = hashlib.md5((line * (size // len(line) + 1))[:size]).hexdigest()
        expect(who == wanted and digest == want, f"{name}: {who} {digest}, not {want}")
        expect(began - 1.5 <= int(date) <= time.time() + 1.5, f"{name}: the date is {date}")
        ids.add(machine_id)
        lines = re.findall(r"line (\S+) \d+ ([0-9a-f]{32})\n", logs(host, name))
        # One may have been on its way before: nothing of the user's runs until the machine is another.
        expect(sum(who != wanted for who, _ in lines) <= 1, f"{name}: {lines}")
        own = {bytes_ for who, bytes_ in lines if who == wanted}
        expect(own and not own & random, f"{name}: {lines}")
        random |= own
    expect(len(ids) == len(names), f"machine-ids: {ids}")


def parent(host, size):
    process = host.start("run", "debian", "--name", "p", "--", "sh", "-c", COMMAND % size, stdin=-1)
    seen = read_until(process.stdout.fileno(), b"line insula 1 ")
    return process, seen


def test_children(host):
    """A VM goes on beside its children, theirs forked from them too."""
    size, count = 1 << 20, 5
    process, _ = parent(host, size)
    began = time.time()
    r = host.run("fork", "p", "-n", str(count)).expect(0, err=b"")
    names = r.out.decode().split()
    expect(sorted(names) == [f"p-{i}" for i in range(1, count + 1)], f"{r}")
    expect_apart(host, names, size, began)
    # Of one that was forked before, and of a child; each has written since.
    again = host.run("fork", "p", "--name", "late").expect(0, out=b"late\n", err=b"")
    grand = host.run("fork", "p-1", "-n", "2", "--name", "grand-%d", "--json").expect(0, err=b"")
    report = json.loads(grand.out)
    expect(sorted(c["name"] for c in report["children"]) == ["grand-1", "grand-2"] and report["pause_ns"] > 0, f"{grand}")
    expect_apart(host, ["late"], size, began)
    for name in ("grand-1", "grand-2"):
        wait_until(lambda: ps(host)[name]["state"] == "running", f"{name} runs {again}")
    process.stdin.write(b"go\n")
    process.stdin.flush()
    read_until(process.stdout.fileno(), b"own insula ")
    expect_apart(host, ["p"], size, began, "insula")
    for name in names:
        host.run("stop", name).expect(0, err=b"")
    expect(sorted(ps(host)) == ["grand-1", "grand-2", "late", "p"], f"{ps(host)}")


def test_a_thousand(host):
    count, size = (1000, 1 << 16) if FULL else (20, 1 << 16)
    parent(host, size)
    began = time.time()
    names = host.run("fork", "p", "-n", str(count), "--name", "c%d", limit=300).expect(0, err=b"").out.decode().split()
    expect(len(set(names)) == count, f"{len(names)} names")
    expect_apart(host, names, size, began)


def test_restore_several(host):
    """A snapshot as a template, packed or not: the file's pages are everybody's, what is written is not."""
    host.run("run", "debian", "-d", "--name", "a").expect(0)
    ready(host, "a")
    shell = console(host, "a")
    ask(shell, b"x=6; echo common > /tmp/file; echo is-$((x*2))", b"is-12")
    for arguments in ((), ("--compress",)):
        path = host.path("template.snap")
        snapshot(host, "a", path, *arguments)
        r = host.run("restore", path, "-n", "3", "--name", "t%d").expect(0, err=b"")
        expect(sorted(r.out.split()) == [b"t1", b"t2", b"t3"], f"{r}")
        seen = set()
        for name in ("t1", "t2", "t3"):
            shell = console(host, name)
            ask(shell, b"echo $x $(cat /tmp/file) $(hostname)", f"6 common {name}\r\n".encode())
            ask(shell, f"echo of-{name} > /tmp/file; x=7; echo all-$x".encode(), b"all-7")
            seen.add(ask(shell, b"cat /etc/machine-id; echo all", b"\nall\r\n").split(b"\n")[-3])
        expect(len(seen) == 3, f"{seen}")
        for name in ("t1", "t2", "t3"):
            ask(console(host, name), b"echo $x $(cat /tmp/file)", f"7 of-{name}\r\n".encode())
            host.run("kill", name).expect(0)
    ask(console(host, "a"), b"echo $x $(cat /tmp/file) $(hostname)", b"6 common insula\r\n")


def test_disks(host):
    """A disk that can be written: each child has it as it was, and writes what nobody else sees."""
    with open(host.path("disk"), "wb") as file:
        for i in range(512):
            file.write(b"%07d\n" % i * 512)
    before = open(host.path("disk"), "rb").read()
    host.run("run", "debian", "-d", "--name", "d", "--disk", host.path("disk")).expect(0)
    ready(host, "d")

    def write(name, page, word, offset=0):
        ask(console(host, name), f"printf %-8s {word} | dd of=/dev/vda bs=1 seek={page * 4096 + offset} conv=notrunc "
            "2>/dev/null; sync; echo 3 > /proc/sys/vm/drop_caches; echo done-$((1 + 1))".encode(), b"done-2")

    def says(name, *pages):
        seen = ask(console(host, name), b"echo 3 > /proc/sys/vm/drop_caches; dd if=/dev/vda bs=64k 2>/dev/null | md5sum; "
                   b"echo all-$((1 + 1))", b"all-2")
        want = bytearray(before)
        for page, word, offset in pages:
            want[page * 4096 + offset:page * 4096 + offset + 8] = word.ljust(8).encode()
        digest = hashlib.md5(want).hexdigest().encode()
        expect(digest in seen, f"{name}: {seen!r}, not {digest!r}")

    write("d", 3, "parent")
    host.run("fork", "d", "-n", "2").expect(0, err=b"")
    write("d", 4, "later")
    write("d-1", 3, "one", 8)
    write("d-2", 511, "two", 4088)
    says("d", (3, "parent", 0), (4, "later", 0))
    says("d-1", (3, "parent", 0), (3, "one", 8))
    says("d-2", (3, "parent", 0), (511, "two", 4088))
    host.run("fork", "d-1", "--name", "grand").expect(0, err=b"")
    write("d-1", 3, "more", 16)
    says("grand", (3, "parent", 0), (3, "one", 8))
    for name in ("d-1", "d-2", "grand"):
        host.run("kill", name).expect(0)
    snapshot(host, "d", host.path("d.snap"), "--stop")
    after = open(host.path("disk"), "rb").read()
    host.run("restore", host.path("d.snap"), "-n", "2", "--name", "t%d").expect(0, err=b"")
    write("t1", 0, "t-one")
    says("t1", (3, "parent", 0), (4, "later", 0), (0, "t-one", 0))
    says("t2", (3, "parent", 0), (4, "later", 0))
    expect(open(host.path("disk"), "rb").read() == after, "a child wrote the disk itself")


def test_refused(host):
    host.run("fork", "nobody").expect_refusal(1, "nobody")
    host.run("fork", "p", "-n", "0").expect_refusal(2, "a number from 1 to 10000")
    host.run("fork", "p", "--name", "a/%d").expect_refusal(2, "--name a/%d", "letters")
    host.run("fork").expect_refusal(2, "which VM?")
    host.run("restore", "x", "-n", "2", "--name", "%d%d").expect_refusal(2, "--name %d%d")
    disk = host.write("disk", bytes(1 << 20))
    host.run("run", "-d", "--name", "d", "--kernel", kernel(host, HALT_FOR_EVER), "--mem", "16M", "--disk", disk).expect(0)
    host.run("fork", "d", "--name", "e").expect(0, out=b"e\n", err=b"")
    host.run("snapshot", "e", host.path("s")).expect_refusal(1, disk, "it can be forked, not saved")
    host.run("kill", "e").expect(0)
    host.run("kill", "d").expect(0)
    host.run("run", "-d", "--name", "d", "--kernel", kernel(host, HALT_FOR_EVER), "--mem", "16M", "--disk",
             disk + ",ro").expect(0)
    host.run("fork", "d", "--name", "d").expect_refusal(1, "0 of 1 children run", "d runs already")
    host.run("fork", "d", "--name", "e").expect(0, out=b"e\n", err=b"")
