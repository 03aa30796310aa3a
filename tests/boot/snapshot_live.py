"""Snapshots of a machine that goes on meanwhile, and of work of every sort under one engine finished under another."""
import hashlib
import json
import os
import random
import subprocess
import threading
import time

from life import console, ps
from machine import FULL, Failure, expect, read_until, wait_until
from snapshot import ask, ready
from switch import COMPLAINTS, Control, work


def live(host, name, path, *arguments):
    r = host.run("snapshot", name, path, "--live", "--json", *arguments).expect(0, err=b"")
    return json.loads(r.out)


def test_shell(host):
    """Nothing of what was there is lost, nothing that came afterwards is in it; and it goes on in both."""
    path = host.path("a.snap")
    host.run("run", "debian", "-d", "--name", "a", "--mem", "256M").expect(0)
    ready(host, "a")
    shell = console(host, "a")
    ask(shell, b"x=6; echo kept > /tmp/file; dd if=/dev/urandom of=/tmp/r bs=1M count=20 2>/dev/null; echo is-$((x*2))",
        b"is-12")
    seen = ask(shell, b"md5sum < /tmp/r", b"  -")
    wanted = seen.split(b"  -")[-2].split(b"\n")[-1]
    said = live(host, "a", path)
    expect(said["rounds"] >= 1 and said["ram_bytes"] > 20 << 20, f"{said}")
    ask(shell, b"x=0; rm /tmp/file; dd if=/dev/zero of=/tmp/r bs=1M count=20 2>/dev/null; echo gone-$x", b"gone-0")
    host.run("kill", "a").expect(0)
    for arguments in ((), ("--verify",)):
        host.run("restore", path, "-d", "--name", "b", *arguments).expect(0, out=b"b\n", err=b"")
        shell = console(host, "b")
        ask(shell, b"echo $x $(cat /tmp/file)", b"6 kept\r\n")
        expect(wanted in ask(shell, b"md5sum < /tmp/r", b"  -"), "the file of 20 MB is another")
        # A live snapshot of one whose RAM is still coming out of a file.
        again = host.path("again.snap")
        live(host, "b", again)
        host.run("stop", "b").expect(0, err=b"")
        host.run("restore", again, "-d", "--name", "c", "--verify").expect(0)
        shell = console(host, "c")
        expect(wanted in ask(shell, b"md5sum < /tmp/r", b"  -"), "the file of 20 MB is another in the second")
        host.run("kill", "c").expect(0)


def test_refusals(host):
    host.run("snapshot", "a", "x", "--live", "--compress").expect_refusal(2, "not compressed")


def run_work(host, program, path, cpus, engines, after, how):
    """work.c interrupted after `after` lines of output; what it said before and after, all together."""
    first = host.start("run", "debian", "--name", "work", "--cpus", cpus, "--engine", engines[0], "--mem", "256M", "--",
                       "sh", "-c", f"cat > /tmp/w; chmod +x /tmp/w; /tmp/w 1; ! dmesg | grep -E '{COMPLAINTS}'",
                       stdin=subprocess.PIPE)
    first.stdin.write(program)
    first.stdin.close()
    first.stdin = None
    out = b""
    while out.count(b"\n") < after:
        out += read_until(first.stdout.fileno(), b"\n")
    time.sleep(0.1)
    r = host.run("snapshot", "work", path, "--stop", *how)
    rest, err = first.communicate(timeout=60)
    out += rest
    if r.status:  # it was over already
        expect(first.returncode == 0, f"{r}\n{err!r}")
        return out
    r = host.run("restore", path, "--engine", engines[1])
    r.expect(0)
    return out + r.out


def test_work_across_engines(host):
    """In x87, AVX, rep movs, a timer and HLT, a storm, a compiler's work: saved under one engine, finished by another."""
    program, want = work(host)
    path = host.path("work.snap")
    pairs = [("interpret", "translate"), ("translate", "interpret"), ("translate", "translate")]
    lines = range(1, 7) if FULL else (1, 3, 5)
    for n, after in enumerate(lines):
        for m, engines in enumerate(pairs if FULL else [pairs[n % 2]]):
            how = [("--live",), (), ("--compress",)][(n + m) % 3]
            out = run_work(host, program, path, ("1", "2")[n % 2], engines, after, how)
            expect(out == want, f"{engines}, after {after} lines, {how}: {out!r} instead of {want!r}")


def test_many_while_it_works(host):
    """Six live snapshots of one run: the run ends right, and so does what is made of each."""
    program, want = work(host)
    process = host.start("run", "debian", "--name", "work", "--cpus", "2", "--mem", "256M", "--", "sh", "-c",
                         "cat > /tmp/w; chmod +x /tmp/w; /tmp/w 1", stdin=subprocess.PIPE)
    process.stdin.write(program)
    process.stdin.close()
    process.stdin = None
    control = Control(host, "work")
    taken, began = [], read_until(process.stdout.fileno(), b"\n")
    for n in range(6 if FULL else 3):
        path = host.path(f"{n}.snap")
        answer = control.call("snapshot", path=path, live=True)
        if answer is None or not answer["ok"]:
            break
        taken.append(path)
        time.sleep(0.1)
    out, err = process.communicate(timeout=60)
    expect(process.returncode == 0 and began + out == want, f"{began + out!r} instead of {want!r}\n{err!r}")
    expect(taken, "no snapshot was taken")
    for path in taken:
        r = host.run("restore", path).expect(0)
        expect(want.endswith(r.out) and r.out, f"{path}: {r.out!r}")
