"""Snapshots of the default guest: at its shell, in the middle of work, in the middle of its boot; restored in a new
process it goes on to the right result. And what a snapshot survives."""
import hashlib
import json
import os
import random
import resource
import signal
import struct
import subprocess
import time

from life import console, detached, kernel, ps
from machine import FULL, HALT_FOR_EVER, POWER_OFF, expect, read_until, say, wait_until

# Counts in ebx up to `turns`, then says what is in edx: a sum that any lost or repeated step would change.
SUM = (b"\x31\xdb\xba\x01\x00\x00\x00"          # xor ebx,ebx; mov edx,1
       b"\x69\xd2\x0d\x66\x19\x00\x01\xda\x43"  # 1: imul edx,edx,1664525; add edx,ebx; inc ebx
       b"\x81\xfb%s\x75\xef")                   # cmp ebx,turns; jne 1b


def ready(host, name):
    wait_until(lambda: ps(host).get(name, {}).get("state") == "running", f"{name} is up")


def snapshot(host, name, path, *arguments):
    host.run("snapshot", name, path, *arguments).expect(0, out=b"", err=b"")


def ask(process, words, wanted):
    process.stdin.write(words + b"\n")
    process.stdin.flush()
    return read_until(process.stdout.fileno(), wanted)


def test_shell(host):
    """What the shell knew, it knows; the date is right before the first command; no watchdog complains."""
    path = host.path("shell.snap")
    host.run("run", "debian", "-d", "--name", "a").expect(0)
    ready(host, "a")
    shell = console(host, "a")
    ask(shell, b"x=6; cd /tmp; echo kept > file; echo is-$((x*2))", b"is-12")
    up = ask(shell, b"cut -d. -f1 /proc/uptime; echo all", b"\nall\r\n")
    snapshot(host, "a", path)
    ask(shell, b"x=0; rm file; echo gone-$x", b"gone-0")
    host.run("kill", "a").expect(0)
    time.sleep(3)
    for name in ("b", "c"):
        host.run("restore", path, "-d", "--name", name).expect(0, out=name.encode() + b"\n", err=b"")
        shell = console(host, name)
        now = int(ask(shell, b"date +now%s; echo all", b"\nall\r\n").split(b"\nnow")[-1].split()[0])
        expect(abs(now - time.time()) <= 1.5, f"the guest's date is {now}, ours {time.time()}")
        ask(shell, b"echo $x $(cat file) $PWD", b"6 kept /tmp\r\n")
        seen = ask(shell, b"cut -d. -f1 /proc/uptime; echo all", b"\nall\r\n")
        expect(int(seen.split(b"\n")[-3]) >= int(up.split(b"\n")[-3]) + 3, f"{up!r} {seen!r}")
        seen = ask(shell, b"dmesg -r | grep -ci -e stall -e lockup -e unstable; echo all", b"\nall\r\n")
        expect(b"\n0\r\n" in seen, f"{seen!r}")
    # Both run from the same file, and neither sees the other.
    expect(sorted(ps(host)) == ["b", "c"], f"{ps(host)}")
    for name in ("b", "c"):
        host.run("stop", name).expect(0, err=b"")


def interrupted(host, command, after, *arguments, compress=False, engines=("auto", "auto")):
    """The command's whole output: up to the snapshot from one process and engine, the rest from another."""
    path = host.path("work.snap")
    first = host.start("run", "debian", "--name", "work", "--engine", engines[0], *arguments, "--", "sh", "-c", command)
    began = read_until(first.stdout.fileno(), b"\n") if after else b""
    time.sleep(after)
    snapshot(host, "work", path, "--stop", *(["--compress"] if compress else []))
    rest, err = first.communicate(timeout=30)
    expect(first.returncode == 0, f"status {first.returncode}, {err!r}")
    r = host.run("restore", path, "--engine", engines[1])
    return began + rest + r.out, r


def test_checksum_loop(host):
    """A loop of awk's arithmetic, begun under one engine and finished under another."""
    command = ("echo begun; seq 1 100000 | awk '{ s = (s * 31 + $1) % 1000003; if ($1 % 10000 == 0) print $1, s }'; "
               "exit 7")
    want, s = "begun\n", 0
    for i in range(1, 100001):
        s = (s * 31 + i) % 1000003
        if i % 10000 == 0:
            want += f"{i} {s}\n"
    for engines in (("interpret", "translate"), ("translate", "interpret")):
        out, r = interrupted(host, command, 0.5, engines=engines)
        expect(out == want.encode(), f"{engines}: {out!r}\n{r}")
        r.expect(7)


def test_dd_and_md5sum(host):
    command = ("echo begun; dd if=/dev/zero bs=64k count=400 2>/dev/null | tr '\\0' 'x' | tee /tmp/x | md5sum; "
               "md5sum < /tmp/x")
    want = hashlib.md5(b"x" * (400 << 16)).hexdigest().encode() + b"  -\n"
    for compress, cpus in ((True, "2"), (False, "1"))[:2 if FULL else 1]:
        out, r = interrupted(host, command, 0.4, "--cpus", cpus, compress=compress)
        expect(out == b"begun\n" + 2 * want, f"{out!r}\n{r}")
        r.expect(0)


def test_in_mid_boot(host):
    for delay in (0.05, 0.2, 0.4, 0.8):
        path = host.path("boot.snap")
        first = host.start("run", "debian", "--name", "boot", "--", "sh", "-c", "echo up; uname -s; exit 3")
        time.sleep(delay)
        wait_until(lambda: "boot" in ps(host) or first.poll() is not None, "it is listed")
        r = host.run("snapshot", "boot", path, "--stop")
        if r.status:  # it was over already
            first.wait(30)
            continue
        first.communicate(timeout=30)
        host.run("restore", path).expect(3, out=b"up\nLinux\n")


def test_streams_in_flight(host):
    """Input and output that nobody has taken yet are in the snapshot: no byte is lost or comes twice."""
    data = random.Random(1).randbytes(200 << 10)
    path = host.path("cat.snap")
    first = host.start("run", "debian", "--name", "cat", "--", "sh", "-c", "echo; sleep 1000 & sleep 2; cat",
                       stdin=subprocess.PIPE)
    read_until(first.stdout.fileno(), b"\n")
    first.stdin.write(data)
    first.stdin.flush()
    snapshot(host, "cat", path, "--stop")
    out, err = first.communicate(timeout=30)
    expect(out == b"", f"{len(out)} bytes came early")
    host.run("restore", path).expect(0, out=data, err=b"")


def test_disk(host):
    """A disk in use: the snapshot flushes and names it, and a disk that was changed since is refused."""
    disk = host.path("disk.img")
    with open(disk, "wb") as file:
        file.truncate(16 << 20)
    command = ("echo begun; i=0; while [ $i -lt 12 ]; do dd if=/dev/urandom of=/tmp/x bs=64k count=16 2>/dev/null; "
               "dd if=/tmp/x of=/dev/vda bs=64k seek=$((i*16)) conv=notrunc 2>/dev/null; cat /tmp/x >> /tmp/all; "
               "i=$((i+1)); done; sync; md5sum < /tmp/all; head -c 12582912 /dev/vda | md5sum")
    out, r = interrupted(host, command, 0.5, "--disk", disk)
    lines = out.split(b"\n")
    expect(lines[0] == b"begun" and len(lines[1]) > 32 and lines[1] == lines[2], f"{r}")
    r.expect(0)
    with open(disk, "rb") as file:
        expect(hashlib.md5(file.read(12 << 20)).hexdigest().encode() in lines[1], "the disk holds something else")
    host.run("restore", host.path("work.snap")).expect_refusal(1, "changed after the snapshot", "--trust-disks")
    os.unlink(disk)
    host.run("restore", host.path("work.snap")).expect_refusal(1, "disk.img", "No such file")


def test_bare_kernel(host):
    """A kernel without an agent, in the middle of a sum; --paused, resume, and into a folder."""
    turns = 150_000_000
    code = say("go\r\n") + SUM % struct.pack("<I", turns)
    # Each nibble as a letter: mov esi,edx; mov ecx,8; 1: rol esi,4; mov eax,esi; and al,15; add al,65; out; loop 1b
    code += (b"\x89\xd6\xb9\x08\x00\x00\x00\xc1\xc6\x04\x89\xf0\x24\x0f\x04\x41\x66\xba\xf8\x03\xee\xe2\xf0" +
             say("\r\n"))
    source = host.write("sum.c", b"#include <stdio.h>\nint main(){unsigned d=1,b=0;do{d=d*1664525u+b;b++;}while(b!=%du);"
                                 b"for(int i=0;i<8;i++){d=d<<4|d>>28;putchar(65+(d&15));}}" % turns)
    subprocess.run(["cc", "-O2", "-o", host.path("sum"), source], check=True)
    want = subprocess.run([host.path("sum")], capture_output=True, check=True).stdout
    image = kernel(host, code + POWER_OFF)
    first = host.start("run", "--kernel", image, "--mem", "16M", "--name", "k")
    read_until(first.stdout.fileno(), b"go\r\n")
    folder = host.path("folder")
    os.mkdir(folder)
    snapshot(host, "k", folder, "--stop")
    first.communicate(timeout=30)
    expect(os.listdir(folder) == ["snapshot"], f"{os.listdir(folder)}")
    host.run("restore", folder, "--paused", "-d", "--name", "p").expect(0)
    expect(ps(host)["p"]["state"] == "paused", "not paused")
    json.loads(host.run("inspect", "p").expect(0).out)["vcpu.0"]["rip"]
    host.run("resume", "p").expect(0)
    host.run("restore", folder, "--verify").expect(0, out=want + b"\r\n")
    wait_until(lambda: ps(host) == {}, "the other has ended too")


def test_refusals(host):
    detached(host, "one", "--kernel", kernel(host, say("up") + HALT_FOR_EVER), "--mem", "16M")
    good = host.path("good.snap")
    snapshot(host, "one", good)
    host.run("snapshot", "one").expect_refusal(2, "into which file")
    host.run("snapshot", "one", host.path("no/such/folder/x")).expect_refusal(1, "No such file")
    host.run("snapshot", "ghost", good).expect_refusal(1, "no VM named ghost")
    host.run("snapshot", "one", "/proc/x").expect_refusal(1, "cannot write")
    host.run("kill", "one").expect(0)
    host.run("restore").expect_refusal(2, "which file")
    host.run("restore", host.path("missing")).expect_refusal(1, "No such file")
    host.run("restore", good, "--engine", "warp").expect_refusal(2, "unknown")
    with open(good, "rb") as file:
        data = bytearray(file.read())
    host.run("restore", host.write("empty", b"")).expect_refusal(1, "not a snapshot")
    host.run("restore", host.write("text", b"hello, world\n" * 1000)).expect_refusal(1, "not a snapshot")
    host.run("restore", host.write("cut", bytes(data[:-1]))).expect_refusal(1, "is cut short")
    data[300] ^= 1
    host.run("restore", host.write("bad", bytes(data))).expect_refusal(1, "header differs")
    host.run("restore", host.write("bad", bytes(data)), "-d").expect_refusal(1, "header differs")
    expect(ps(host) == {}, "something runs")


def test_kill_9_leaves_the_old(host):
    """At every moment the file is the old one, whole, or the new one, whole."""
    path = host.path("snap")
    host.run("run", "debian", "-d", "--name", "a", "--mem", "256M").expect(0)
    ready(host, "a")
    snapshot(host, "a", path)
    host.run("kill", "a").expect(0)
    seen = set()
    for i in range(12):
        host.run("restore", path, "-d", "--name", "a").expect(0)
        pid = ps(host)["a"]["pid"]
        before = os.stat(path).st_ino
        request = host.start("snapshot", "a", path)
        time.sleep(0.01 + 0.012 * i)
        os.kill(pid, signal.SIGKILL)
        request.wait(20)
        seen.add(os.stat(path).st_ino != before)
        host.run("restore", path, "-d", "--name", "check", "--verify").expect(0)
        host.run("kill", "check").expect(0)
    expect([name for name in os.listdir(host.folder) if name not in ("snap", ".snap.partial", "insula")] == [],
           f"{os.listdir(host.folder)}")


def test_full_disk_leaves_the_old(host):
    path = host.path("snap")
    host.run("run", "debian", "-d", "--name", "a", "--mem", "256M").expect(0)
    ready(host, "a")
    snapshot(host, "a", path)
    before = (os.stat(path).st_ino, os.stat(path).st_mtime_ns)
    pid = ps(host)["a"]["pid"]
    for limit in (0, 1 << 20, 20 << 20, (256 << 20) + 5000):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        host.run("snapshot", "a", path).expect_refusal(1, "File too large")
        host.run("snapshot", "a", path, "--compress", "--stop").expect_refusal(1, "File too large") if limit < 1 << 20 else None
        expect((os.stat(path).st_ino, os.stat(path).st_mtime_ns) == before, "the earlier file is another")
        expect(not os.path.exists(host.path(".snap.partial")), "a part of a file was left")
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    shell = console(host, "a")
    ask(shell, b"echo still-$((6*7))", b"still-42")
    snapshot(host, "a", path)
    host.run("stop", "a").expect(0)
    if os.geteuid() == 0:
        small = host.path("small")
        os.mkdir(small)
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", small], stderr=subprocess.DEVNULL).returncode == 0:
            try:
                host.run("restore", path, "-d", "--name", "a").expect(0)
                host.run("snapshot", "a", small + "/x").expect_refusal(1, "No space left")
                expect(os.listdir(small) == [], f"{os.listdir(small)}")
                host.run("kill", "a").expect(0)
            finally:
                subprocess.run(["umount", small], check=True)
