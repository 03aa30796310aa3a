"""Stock kernels, in the forms in which a user may have them, with the serial console on stdin and stdout."""
import hashlib
import json
import os
import signal

from machine import Skip, expect, read_until


def guest_files(host, name="debian"):
    listed = json.loads(host.run("guest", "list", "--json").expect(0).out)
    for manifest in listed:
        if manifest["name"] == name:
            return manifest
    raise Skip(f"guest {name} is not built: insula guest build {name}")


def boot_to_shell(host, manifest, kernel, *more):
    """Boots by --kernel, waits for the shell's prompt on COM1, uses it, powers off."""
    process = host.start("run", "--kernel", manifest[kernel], "--initrd", manifest["initrd"],
                         "--append", "console=ttyS0 panic=-1", *more, stdin=-1)
    seen = read_until(process.stdout.fileno(), b"# ")
    process.stdin.write(b"echo sum $((40 + 2))\n")
    process.stdin.flush()
    seen += read_until(process.stdout.fileno(), b"sum 42")
    process.stdin.write(b"poweroff -f\n")
    process.stdin.flush()
    status = process.wait(60)
    expect(status == 0, f"status {status}; console: {seen[-2000:]!r}")
    return seen


def test_cloud_bzimage(host):
    manifest = guest_files(host)
    seen = boot_to_shell(host, manifest, "vmlinuz")
    expect(b"Linux version 6.1" in seen and b"ACPI: RSDP" in seen, "the kernel's log is not on COM1")


def test_cloud_pvh(host):
    manifest = guest_files(host)
    boot_to_shell(host, manifest, "kernel")


def test_cloud_v2_model(host):
    boot_to_shell(host, guest_files(host), "kernel", "--cpu", "x86-64-v2")


def test_cloud_without_pv_clock(host):
    """Then the kernel calibrates against the PIT or HPET: it must neither hang nor be wrong."""
    manifest = guest_files(host)
    process = host.start("run", "--kernel", manifest["kernel"], "--initrd", manifest["initrd"], "--append",
                         "console=ttyS0 panic=-1 no-kvmclock tsc_early_khz=0", stdin=-1)
    read_until(process.stdout.fileno(), b"# ")
    process.stdin.write(b"a=$(date +%s); sleep 2; echo took $(($(date +%s) - a))\n")
    process.stdin.flush()
    seen = read_until(process.stdout.fileno(), b"took ")
    while not seen.split(b"took ")[-1].strip()[:1].isdigit():
        seen += read_until(process.stdout.fileno(), b"\n")
    took = int(seen.split(b"took ")[-1].strip()[:1])
    expect(2 <= took <= 4, f"sleep 2 took {took} s")
    process.stdin.write(b"poweroff -f\n")
    process.stdin.flush()
    expect(process.wait(60) == 0, "no power-off")


def test_generic_kernel_command(host):
    guest_files(host, "debian-generic")
    r = host.run("run", "debian-generic", "--", "uname", "-r").expect(0)
    expect(r.out.endswith(b"-amd64\n") and b"cloud" not in r.out, f"{r}")


def test_generic_bzimage(host):
    boot_to_shell(host, guest_files(host, "debian-generic"), "vmlinuz")


def test_power_button(host):
    """SIGTERM: a guest that listens for the ACPI button shuts down in order, status 0."""
    manifest = guest_files(host)
    process = host.start("run", "--kernel", manifest["kernel"], "--initrd", manifest["initrd"],
                         "--append", "console=ttyS0 panic=-1", stdin=-1)
    read_until(process.stdout.fileno(), b"# ")
    process.stdin.write(b"until grep -q evdev /proc/modules && [ -e /dev/input/event0 ]; do sleep 0.1; done; sleep 1; "
                        b"echo list''ening\n")
    process.stdin.flush()
    read_until(process.stdout.fileno(), b"listening")
    process.send_signal(signal.SIGTERM)
    status = process.wait(30)
    expect(status == 0, f"status {status}")


def test_two_cpus(host):
    """Both come up and share work: processes, pipes, page faults and wake-ups across them."""
    r = host.guest("--cpus", "2", "--", "sh", "-c", """
        cat /sys/devices/system/cpu/online
        head -c 2000000 /dev/urandom > /tmp/data
        want=$(sha256sum < /tmp/data)
        for n in 1 2 3 4 5 6; do
            (for m in 1 2 3; do [ "$(cat /tmp/data | cat | sha256sum)" = "$want" ] || echo wrong; done) &
        done
        wait
        seq 200 | xargs -P 4 -n 1 true && echo done
        dmesg | grep -E 'stall|lockup|LOCKUP|Oops|BUG:' """)
    r.expect(1, out=b"0-1\ndone\n", err=b"")


def test_translated_at_once(host):
    """Everything translated when first met; a code cache that is emptied again and again; the same on two cpus."""
    for options in (("--hot", "1", "--code-cache", "8M"), ("--code-cache", "1M"), ("--hot", "5", "--cpus", "2")):
        r = host.guest("--engine", "translate", *options, "--", "sh", "-c", """
            seq 20000 | sha256sum
            dmesg | grep -E 'stall|lockup|LOCKUP|Oops|BUG:'""")
        want = hashlib.sha256(b"".join(b"%d\n" % n for n in range(1, 20001))).hexdigest()
        r.expect(1, out=f"{want}  -\n".encode(), err=b"")
