"""Several cpus: a stock kernel brings them up, storms across them, the end said by any of them."""
import os
import shutil
import signal
import subprocess
import time

from machine import LIMIT_S, Skip, expect, read_until
from kernels import guest_files

COMPLAINTS = "stall|lockup|LOCKUP|Oops|BUG:|unstable|segfault|not responding"


def storms(host):
    """The path of the program, statically linked: the guest has no libc of its own."""
    if not shutil.which("gcc"):
        raise Skip("gcc is not installed")
    target = host.path("smp_stress")
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "smp_stress.c")
    r = subprocess.run(["gcc", "-O2", "-static", "-pthread", "-o", target, source], stderr=subprocess.PIPE)
    if r.returncode:
        raise Skip("no static libc: " + r.stderr.decode("latin-1")[-200:])
    return target


def test_counts(host):
    """All come up, up to the most that is promised."""
    for cpus in (2, 4, 16):
        r = host.guest("--cpus", str(cpus), "--", "sh", "-c", f"nproc; dmesg | grep -E '{COMPLAINTS}'")
        r.expect(1, out=b"%d\n" % cpus, err=b"")


def test_no_polls(host):
    """--halt-poll 0: halted cpus sleep at once, and are woken."""
    r = host.guest("--cpus", "2", "--halt-poll", "0", "--stats", "--", "nproc").expect(0, out=b"2\n")
    polled = [line for line in r.err.splitlines() if line.startswith(b"insula: halts: 0 ended in a poll, ")]
    expect(len(polled) == 1 and b", 0 sleeps" not in polled[0], f"halts that polled, or no sleeps\n{r}")


def test_storms(host):
    for engine in ("interpret", "translate"):
        with open(storms(host), "rb") as f:
            program = f.read()
        r = host.guest("--cpus", "4", "--engine", engine, "--", "sh", "-c",
                       "cat > /tmp/storms && chmod +x /tmp/storms && /tmp/storms && ! dmesg | grep -E "
                       f"'{COMPLAINTS}'", input=program)
        expect(r.status == 0 and r.out.endswith(b"all well on 4 cpus\n"), f"{engine}: {r}")


def ends(host, command, send=None):
    """A shell on COM1 of four cpus, `command` on cpu 3: how the run ends."""
    manifest = guest_files(host)
    process = host.start("run", "--cpus", "4", "--kernel", manifest["kernel"], "--initrd", manifest["initrd"],
                         "--append", "console=ttyS0 panic=-1", "--no-reboot", stdin=-1)
    read_until(process.stdout.fileno(), b"# ")
    process.stdin.write(command)
    process.stdin.flush()
    if send:
        read_until(process.stdout.fileno(), b"busy")
        time.sleep(0.5)
        process.send_signal(send)
    return process.wait(LIMIT_S)


def test_power_off_from_any_cpu(host):
    expect(ends(host, b"taskset 8 poweroff -f\n") == 0, "no power-off from cpu 3")


def test_reset_from_any_cpu(host):
    """--no-reboot: the reset ends the run."""
    status = ends(host, b"taskset 8 reboot -f\n")
    expect(status == 0, f"status {status} after a reset from cpu 3")


def test_power_button_while_all_are_busy(host):
    status = ends(host, b"until [ -e /dev/input/event0 ]; do sleep 0.1; done; sleep 1; "
                  b"for n in 1 2 3 4; do (while :; do :; done) & done; echo bu''sy\n", signal.SIGTERM)
    expect(status == 0, f"status {status}")
