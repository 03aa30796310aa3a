"""Which engine is taken and why; the engine kvm in whatever /dev/kvm there is: tiny kernels only, since it need not
run stock ones. Those are for tests/kvm/nested."""
import json
import os
import struct

from life import detached, kernel, ps
from machine import HALT_FOR_EVER, LOAD, POWER_OFF, Skip, expect, read_until, say, wait_until
from snapshot import SUM, snapshot

TURNS = 50_000
ALL = ("kvm", "interpret", "translate")


def verdict(host):
    return json.loads(host.run("doctor", "--json").expect(0).out)["kvm"]


def any_kvm(host, image):
    """From here on --engine kvm does not ask what else the host's KVM can run."""
    os.environ["INSULA_KVM"] = "any"
    r = host.run("run", "--kernel", image, "--mem", "16M", "--engine", "kvm")
    if r.status == 1 and (b"/dev/kvm cannot be opened" in r.err or b"/dev/kvm lacks" in r.err):
        raise Skip(r.err.decode().strip())
    return r


def forget():
    os.environ.pop("INSULA_KVM", None)


def sum_kernel(host):
    """A kernel that says go, then a sum, each nibble as a letter; and what it will say."""
    code = say("go\r\n") + SUM % struct.pack("<I", TURNS)
    code += (b"\x89\xd6\xb9\x08\x00\x00\x00\xc1\xc6\x04\x89\xf0\x24\x0f\x04\x41\x66\xba\xf8\x03\xee\xe2\xf0" +
             say("\r\n"))
    total = 1
    for n in range(TURNS):
        total = (total * 1664525 + n) & 0xFFFFFFFF
    letters = bytes(65 + (total >> shift & 15) for shift in range(28, -4, -4))
    return kernel(host, code + POWER_OFF), letters + b"\r\n"


def test_choice(host):
    """auto says what it took and, if that is not KVM, why; --engine kvm insists."""
    forget()
    kvm, image = verdict(host), kernel(host, POWER_OFF)
    r = host.run("run", "--kernel", image, "--mem", "16M").expect(0, out=b"")
    insists = host.run("run", "--kernel", image, "--mem", "16M", "--engine", "kvm")
    if kvm["verdict"] == "good":
        expect(b"engine kvm (the best that works here), " in r.err, f"{r}")
        insists.expect(0, out=b"")
    else:
        why = {"absent": b"/dev/kvm", "limited": b"/dev/kvm"}[kvm["verdict"]]
        expect(b"engine translate (the best that works here: " in r.err and why in r.err, f"{r}")
        insists.expect_refusal(1, "engine kvm: ", "--engine auto")
    host.run("run", "--kernel", image, "--engine", "kvn").expect_refusal(2, "did you mean kvm?")


def test_ends(host):
    try:
        any_kvm(host, kernel(host, say("up\r\n") + POWER_OFF)).expect(0, out=b"up\r\n")
        # A triple fault: lidt of a table without entries, ud2.
        fault = (b"\xeb\x06" + bytes(6) + b"\x0f\x01\x1d" + struct.pack("<I", 0x100022) + b"\x0f\x0b")
        r = host.run("run", "--kernel", kernel(host, fault), "--mem", "16M", "--engine", "kvm")
        expect(r.status == 3 and b"triple fault" in r.err, f"{r}")
    finally:
        forget()


def test_sum(host):
    """The same end state, snapshot in the middle and on under every engine; switched to and fro."""
    image, want = sum_kernel(host)
    try:
        r = any_kvm(host, image).expect(0)
        expect(r.out == b"go\r\n" + want, f"{r}")
        first = host.start("run", "--kernel", image, "--mem", "16M", "--name", "k", "--engine", "kvm")
        read_until(first.stdout.fileno(), b"go\r\n")
        snapshot(host, "k", host.path("snap"))
        for engine in ("translate", "kvm", "interpret"):
            r = host.run("switch", "k", "--engine", engine)
            if r.status and (b"no VM named k" in r.err or b" ended" in r.err):
                break  # it was done before we came
            r.expect(0)
        out = first.communicate(timeout=60)[0]
        expect(first.returncode == 0 and out == want, f"{first.returncode} {out!r}")
        for engine in ALL:
            host.run("restore", host.path("snap"), "--engine", engine).expect(0, out=want)
    finally:
        forget()


def test_pause_of_a_halted_vcpu(host):
    """Two vcpus, one halted for ever and one that was never started, stop and go on."""
    try:
        any_kvm(host, kernel(host, POWER_OFF)).expect(0)
        image = kernel(host, say("up") + HALT_FOR_EVER)
        host.run("run", "--kernel", image, "--mem", "16M", "--cpus", "2", "--engine", "kvm", "--name", "h",
                 "-d").expect(0)
        for _ in range(5):
            host.run("pause", "h").expect(0)
            expect(ps(host)["h"]["state"] == "paused", "not paused")
            host.run("resume", "h").expect(0)
        state = json.loads(host.run("inspect", "h").expect(0).out)
        expect(state["vcpu.0"]["rip"] and state["vcpu.1"]["rip"], f"{state}")
        host.run("kill", "h").expect(0)
        wait_until(lambda: ps(host) == {}, "it has ended")
    finally:
        forget()


def test_to_and_fro(host):
    """A program that never ends, moved between all engines; one that counts keeps its count."""
    try:
        any_kvm(host, kernel(host, POWER_OFF)).expect(0)
        # 1: inc ebx; jmp 1b
        detached(host, "n", "--kernel", kernel(host, b"\x31\xdb\x43\xeb\xfd"), "--mem", "16M", "--engine", "kvm")
        last = 0
        for engine in ("translate", "kvm", "interpret", "kvm", "interpret") * 2:
            host.run("switch", "n", "--engine", engine).expect(0)
            state = json.loads(host.run("inspect", "n").expect(0).out)["vcpu.0"]
            expect(LOAD <= int(state["rip"], 0) < LOAD + 64, f"{state}")
            count = int(state["gpr"][3], 0)
            expect(count > last or last > 1 << 31, f"{engine}: {count} after {last}")
            last = count
        host.run("kill", "n").expect(0)
    finally:
        forget()


def test_of_another_cpu(host):
    """A machine that began where more CPU features are: --engine kvm goes on with it or says what it lacks; auto
    goes on with it in any case."""
    try:
        any_kvm(host, kernel(host, POWER_OFF)).expect(0)
        first = host.start("run", "--kernel", kernel(host, say("go\r\n") + HALT_FOR_EVER), "--mem", "16M", "--name", "k",
                           "--engine", "translate")
        read_until(first.stdout.fileno(), b"go\r\n")
        snapshot(host, "k", host.path("halted"), "--stop")
        first.communicate(timeout=60)
        r = host.run("restore", host.path("halted"), "--engine", "kvm", "-d", "--name", "there")
        if r.status:
            r.expect_refusal(1, "features of its CPU that this host's KVM lacks", "another engine")
        host.run("restore", host.path("halted"), "-d", "--name", "any").expect(0)
        engine = "translate" if r.status else "kvm"
        expect(ps(host)["any"]["engine"] == engine, f"{ps(host)}")
    finally:
        forget()
