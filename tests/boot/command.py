"""One command in the default guest: its streams byte-exact and apart, its exit status, its signals."""
import hashlib
import os
import random
import signal
import time

from machine import expect, read_until


def test_uname(host):
    r = host.guest("--", "uname", "-s", "-m").expect(0, out=b"Linux x86_64\n", err=b"")
    expect(r.out.count(b"\n") == 1, f"{r}")


def test_exit_status(host):
    for status in (0, 1, 42, 255):
        host.guest("--", "sh", "-c", f"exit {status}").expect(status, out=b"", err=b"")


def test_killed_by_a_signal(host):
    host.guest("--", "sh", "-c", "kill -KILL $$").expect(128 + 9, out=b"")


def test_command_not_found(host):
    r = host.guest("--", "no-such-command").expect(127, out=b"")
    expect(b"no-such-command" in r.err, f"{r}")


def test_streams_apart(host):
    host.guest("--", "sh", "-c", "echo out; echo err >&2; echo out2").expect(0, out=b"out\nout2\n", err=b"err\n")


def test_arguments_exact(host):
    words = ["", "two words", "*", "$HOME", "'\"\\", "-x", "--", "\n", "ünï"]
    out = "".join(word + "\0" for word in words).encode()
    host.guest("--", "printf", "%s\\0", *words).expect(0, out=out, err=b"")


def test_binary_through_cat(host):
    """1 MiB of every byte there is, in order and at random, in and out again."""
    data = bytes(range(256)) * 1024 + random.Random(1).randbytes(768 << 10)
    r = host.guest("--", "cat", input=data).expect(0, err=b"")
    expect(r.out == data, f"{len(r.out)} bytes came back, digest {hashlib.sha256(r.out).hexdigest()}")


def test_stdin_ends(host):
    r = host.guest("--", "wc", "-c", input=b"x" * 100001).expect(0, err=b"")
    expect(r.out.strip() == b"100001", f"{r}")


def test_stdin_empty(host):
    host.guest("--", "cat").expect(0, out=b"", err=b"")


def test_stdin_from_a_file(host):
    with open(host.write("in", b"from a file\n"), "rb") as file:
        host.guest("--", "cat", stdin=file).expect(0, out=b"from a file\n")


def test_stdout_to_a_file(host):
    with open(host.path("out"), "wb") as file:
        host.guest("--", "sh", "-c", "echo to a file", stdout=file).expect(0, err=b"")
    with open(host.path("out"), "rb") as file:
        expect(file.read() == b"to a file\n", "the file holds something else")


def test_both_streams_full_at_once(host):
    """A command that writes much to both, and a reader that takes one after the other."""
    host.guest("--", "sh", "-c", "head -c 300000 /dev/zero >&2; head -c 300000 /dev/zero").expect(
        0, out=bytes(300000), err=bytes(300000))


def test_shell_reads_a_script(host):
    host.run("run", input=b"x=3\necho $((x * 14))\nexit 5\n").expect(5, out=b"42\n")


def test_interrupt_reaches_the_command(host):
    process = host.start("run", "debian", "--", "sh", "-c", "echo up; sleep 1000")
    read_until(process.stdout.fileno(), b"up")
    process.send_signal(signal.SIGINT)
    expect(process.wait(30) == 128 + signal.SIGINT, f"status {process.returncode}")


def test_sigterm_powers_off(host):
    process = host.start("run", "debian", "--", "sh", "-c", "echo up; sleep 1000")
    read_until(process.stdout.fileno(), b"up")
    process.send_signal(signal.SIGTERM)
    status = process.wait(30)
    expect(status == 128 + signal.SIGTERM, f"status {status}, stderr {process.stderr.read()!r}")


def test_sigterm_while_booting(host):
    process = host.start("run", "debian", "--", "true")
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    expect(process.wait(30) == 128 + signal.SIGTERM, f"status {process.returncode}")


def test_reader_that_leaves(host):
    process = host.start("run", "debian", "--", "sh", "-c", "yes | head -c 3000000; echo done >&2")
    read_until(process.stdout.fileno(), b"y\n")
    process.stdout.close()
    expect(process.wait(60) == 0, f"status {process.returncode}")
    expect(process.stderr.read() == b"done\n", "the command did not run to its end")


def test_guest_power_off_and_reboot(host):
    host.guest("--", "poweroff", "-f").expect(0)
    host.guest("--no-reboot", "--", "reboot", "-f").expect(0)
    r = host.guest("--", "reboot", "-f").expect(1)
    expect(b"reset itself" in r.err, f"{r}")


def test_panic_is_told(host):
    """The console's last words are shown when the guest dies of itself."""
    r = host.guest("--", "sh", "-c", "echo c > /proc/sysrq-trigger").expect(1)
    expect(b"anic" in r.err and b"insula: console: " in r.err, f"{r}")


def test_closed_streams(host):
    """Started with 0, 1 and 2 closed: nothing of ours may take their numbers."""
    status = os.spawnv(os.P_WAIT, "/bin/sh", ["sh", "-c", f"{host.insula} run debian -- true <&- >&- 2>&-"])
    expect(status == 0, f"status {status}")


def test_cpu_models(host):
    flags = {}
    for model in ("x86-64-v2", "x86-64-v3", "host"):
        r = host.guest("--cpu", model, "--", "grep", "-m1", "flags", "/proc/cpuinfo").expect(0)
        flags[model] = set(r.out.split())
    expect(b"sse4_2" in flags["x86-64-v2"] and b"avx2" not in flags["x86-64-v2"], "x86-64-v2 has the wrong flags")
    expect({b"avx2", b"bmi2", b"fma"} <= flags["x86-64-v3"], "x86-64-v3 has the wrong flags")


def test_memory_size(host):
    r = host.guest("--mem", "2G", "--", "awk", "/MemTotal/ { print $2 }", "/proc/meminfo").expect(0)
    expect(1_900_000 < int(r.out) < 2_100_000, f"{r}")


def test_memory_above_4g(host):
    r = host.guest("--mem", "6G", "--", "sh", "-c",
                   "awk '/MemTotal/ { print $2 }' /proc/meminfo; grep -c 'System RAM' /proc/iomem").expect(0)
    expect(5_800_000 < int(r.out.split()[0]), f"{r}")


def test_random_source(host):
    # The guest's init loads the driver beside the command: wait for it.
    r = host.guest("--", "sh", "-c", "f=/sys/class/misc/hw_random/rng_current; n=0; "
                                     "until grep -q virtio_rng $f || [ $n = 50 ]; do sleep 0.1; n=$((n+1)); done; "
                                     "cat $f; head -c 64 /dev/hwrng | wc -c").expect(0)
    expect(b"virtio_rng" in r.out and b"64" in r.out, f"{r}")


def test_clock(host):
    """The guest's wall clock is the host's, and its seconds are as long."""
    r = host.guest("--", "sh", "-c", "date +%s; cat /sys/devices/system/clocksource/clocksource0/current_clocksource; "
                                     "cut -d. -f1 /proc/uptime; sleep 2; cut -d. -f1 /proc/uptime").expect(0)
    wall, source, before, after = r.out.split()
    expect(abs(int(wall) - time.time()) < 30, f"{r}")
    expect(source in (b"kvm-clock", b"tsc"), f"{r}")
    expect(2 <= int(after) - int(before) <= 5, f"{r}")


def test_kernel_log_has_no_warning(host):
    r = host.guest("--", "dmesg", "-r").expect(0)
    bad = [line for line in r.out.splitlines()
           if line[:3] in (b"<0>", b"<1>", b"<2>", b"<3>", b"<4>") or b"WARNING" in line or b"BUG" in line]
    bad = [line for line in bad if not any(known in line for known in KNOWN_WARNINGS)]
    expect(not bad, "the kernel warns:\n" + b"\n".join(bad).decode(errors="replace"))


# What the same kernel with the same userland also says under QEMU.
KNOWN_WARNINGS = ()
