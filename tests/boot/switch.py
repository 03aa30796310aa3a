"""A running VM moved between engines: in its boot, in work of every sort, on several cpus, and what is refused."""
import json
import os
import shutil
import socket
import subprocess
import time

from life import BUSY, detached, kernel, ps, stats
from machine import FULL, HALT_FOR_EVER, Skip, expect, read_until, say, wait_until

COMPLAINTS = "stall|lockup|LOCKUP|Oops|BUG:|unstable|segfault|not responding"


def work(host):
    """The program of work.c, statically linked, and what it says on this host with the argument 1."""
    if not shutil.which("gcc"):
        raise Skip("gcc is not installed")
    target = host.path("work")
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "work.c")
    r = subprocess.run(["gcc", "-O2", "-static", "-pthread", "-o", target, source], stderr=subprocess.PIPE)
    if r.returncode:
        raise Skip("no static libc: " + r.stderr.decode("latin-1")[-200:])
    want = subprocess.run([target, "1"], stdout=subprocess.PIPE, check=True).stdout
    with open(target, "rb") as file:
        return file.read(), want


class Control:
    """A connection to the VM's control socket."""

    def __init__(self, host, name):
        wait_until(lambda: self.connect(host, name), f"{name} listens")

    def connect(self, host, name):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.socket.connect(host.path(f"insula/{name}.sock"))
        except OSError:
            return False
        self.socket.settimeout(60)
        self.file = self.socket.makefile("rwb")
        return True

    def call(self, verb, **arguments):
        """The answer; None: the VM has gone."""
        try:
            self.socket.sendall(json.dumps({"verb": verb, **arguments}).encode() + b"\n")
            line = self.file.readline()
        except OSError:
            return None
        return json.loads(line) if line else None


def switch_until_end(host, process, name, gap, engines=("interpret", "translate")):
    """Back and forth until the VM ends: how often, and its whole output."""
    control, turns = Control(host, name), 0
    while process.poll() is None:
        answer = control.call("switch", engine=engines[turns % len(engines)])
        if answer is None:
            break
        if answer["ok"]:
            expect(answer["result"]["to"] == engines[turns % len(engines)], f"{answer}")
            turns += 1
        else:  # before its first instruction, or engines[0] is what it runs under; or it is over
            expect("already" in answer["error"] or "has ended" in answer["error"], f"{answer}")
            turns += "already" in answer["error"]
        time.sleep(gap)
    out, err = process.communicate(timeout=60)
    expect(process.returncode == 0, f"status {process.returncode} after {turns} switches\n{out!r}\n{err!r}")
    return turns, out


def test_verb(host):
    detached(host, "one", "--kernel", kernel(host, BUSY), "--mem", "16M", "--engine", "translate")
    for engine, was in (("interpret", "translate"), ("translate", "interpret")):
        r = host.run("switch", "one", "--engine", engine).expect(0, err=b"")
        expect(r.out.startswith(f"one: {engine}, was {was}; stood still for ".encode()), f"{r}")
        expect(ps(host)["one"]["engine"] == engine, "ps tells another engine")
        before = stats(host, "one")["thread_ns"]["vcpu0"]
        wait_until(lambda: stats(host, "one")["thread_ns"]["vcpu0"] > before, "it goes on")
    host.run("switch", "one", "--engine", "translate").expect_refusal(1, "under translate already")
    host.run("switch", "one", "--engine", "warp").expect_refusal(2, "--engine warp")
    host.run("switch", "one").expect_refusal(2, "to which engine")
    host.run("switch").expect_refusal(2, "which VM?")
    host.run("switch", "ghost", "--engine", "interpret").expect_refusal(1, "no VM named ghost")
    host.run("pause", "one").expect(0)
    host.run("switch", "one", "--engine", "interpret").expect(0)
    expect(ps(host)["one"]["state"] == "paused", "it runs")
    host.run("resume", "one").expect(0)
    host.run("kill", "one").expect(0)


def test_halted(host):
    """One that sleeps for ever is moved all the same, and wakes for its end."""
    detached(host, "one", "--kernel", kernel(host, say("up") + HALT_FOR_EVER), "--mem", "16M", "--cpus", "4")
    control = Control(host, "one")
    for turn in range(30):
        answer = control.call("switch", engine=("interpret", "translate")[turn % 2])
        expect(answer["ok"], f"{answer}")
    host.run("kill", "one").expect(0)


def test_work(host):
    """From the kernel's first instructions to the end of the work."""
    program, want = work(host)
    for cpus, gap in (("1", 0.15), ("2", 0.15), ("4", 0.2)) if FULL else (("2", 0.08),):
        process = host.start("run", "debian", "--name", "a", "--cpus", cpus, "--", "sh", "-c",
                             "cat > /tmp/w; chmod +x /tmp/w; /tmp/w 1; ! dmesg | grep -E "
                             f"'{COMPLAINTS}'", stdin=subprocess.PIPE)
        process.stdin.write(program)
        process.stdin.close()
        process.stdin = None
        turns, out = switch_until_end(host, process, "a", gap)
        expect(out == want, f"{cpus} cpus, {turns} switches: {out!r} instead of {want!r}")
        expect(turns > 2, f"only {turns} switches")
