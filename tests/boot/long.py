"""What takes long: only with INSULA_TEST_FULL=1 (./dev test --full)."""
import glob
import os
import re
import subprocess
import time

from machine import FULL, Skip, expect


def only_in_full():
    if not FULL:
        raise Skip("long; runs with ./dev test --full")


def test_boots_in_a_row(host):
    """Without --full: five."""
    for n in range(100 if FULL else 5):
        r = host.guest("--", "sh", "-c", "echo $((6 * 7))")
        expect(r.status == 0 and r.out == b"42\n" and r.err == b"", f"boot {n + 1}: {r}")


def test_memtest86(host):
    """memtest86+ from Debian's package completes a pass on 64 MB."""
    only_in_full()
    try:
        subprocess.run(["apt-get", "-qq", "download", "memtest86+"], cwd=host.folder, capture_output=True,
                       timeout=120, check=True)
        subprocess.run(["dpkg-deb", "-x", *glob.glob(host.path("memtest86*.deb")), host.path("m")], check=True)
    except (OSError, subprocess.SubprocessError):
        raise Skip("the package memtest86+ cannot be downloaded")
    image = next(path for path in sorted(glob.glob(host.path("m/boot/*x64*"))) if path.endswith((".bin", "x64")))
    process = host.start("run", "--kernel", image, "--mem", "64M", "--append", "console=ttyS0,115200", "--no-reboot")
    end, seen, passes = time.monotonic() + 3600, b"", 0
    os.set_blocking(process.stdout.fileno(), False)
    while not passes:
        expect(time.monotonic() < end, f"no pass within an hour: {seen[-3000:]!r}")
        expect(process.poll() is None, f"ended with {process.returncode}: {seen[-3000:]!r}")
        try:
            seen = (seen + (os.read(process.stdout.fileno(), 65536) or b""))[-200000:]
        except BlockingIOError:
            time.sleep(0.5)
        # It draws its status line anew every second or so.
        for passed, errors in re.findall(rb"Pass: +(\d+) +Errors: (\d+) ", seen):
            expect(int(errors) == 0, f"memory errors: {seen[-3000:]!r}")
            passes = max(passes, int(passed))


def ten_million(host, *options):
    """Random cases on the engine and on the bare CPU."""
    only_in_full()
    oracle = os.path.join(os.path.dirname(host.insula), "tests/oracle/oracle")
    seed = str(int(time.time()))
    done = subprocess.run([oracle, "--cases", "10000000", "--seed", seed, *options], stdin=subprocess.DEVNULL,
                          capture_output=True, timeout=14400)
    if done.returncode == 77:
        raise Skip(done.stdout.decode().strip())
    expect(done.returncode == 0, f"seed {seed}, status {done.returncode}: {done.stdout[-4000:]!r}")


def test_oracle(host):
    ten_million(host)


def test_oracle_translate(host):
    """As users run it."""
    ten_million(host, "--translate-fast")


def test_oracle_translate_block(host):
    """One instruction in a translation."""
    ten_million(host, "--translate", "--block", "1")


def test_oracle_translate_evict(host):
    """Everything forgotten again and again, in odd places."""
    ten_million(host, "--translate", "--evict", "20")


def test_oracle_translate_1m(host):
    """In a code cache of 1 MB."""
    ten_million(host, "--translate", "--code-cache", "1024")
