"""The translator seen through: against the interpreter over boots of the default guest and what its users run (`--check`); its code named and listed."""
import os
import re
import subprocess

from machine import FULL, Skip, expect

# The same on the host, and no busybox in what it prints.
SUITE = r"""
n=0; i=1; while [ $i -le 3000 ]; do n=$(( (n * 31 + i) % 1000003 )); i=$((i + 1)); done; echo $n
seq 1 4000 | md5sum; seq 1 4000 | sha1sum; seq 1 4000 | sha256sum; seq 1 4000 | sha512sum
seq 1 600 | awk '{ s += $1 * 1.5; t = t % 9973 + $1 * $1 } END { printf "%.6f %d\n", s, t }'
seq 1 2000 | awk '{ a[$1 % 97] += $1 } END { for (k = 0; k < 97; k++) printf "%d ", a[k]; print "" }'
seq 1 1500 | sed 's/\([0-9]\)\([0-9]\)$/\2-\1/' | sort -r | uniq | tail -n 40 | tr '0-9' 'a-j'
seq 1 30000 | gzip -c | gunzip -c | md5sum
seq 1 3000 | sort -n -k1 | head -n 5; seq 1 3000 | wc; seq 1 5000 | od -A x -t x1 | tail -n 3 | cut -c 1-40
(seq 1 200; seq 100 300) | sort -n | uniq -d | wc -l
f=$(mktemp); seq 1 9000 > $f; dd if=$f bs=7 skip=3 count=900 2>/dev/null | md5sum; rm -f $f
for i in 1 2 3 4 5; do (exit $i); echo $?; done; printf '%x %o %5.2f %s\n' 48879 511 3.14159 end
"""


def suite(host, *options):
    here = subprocess.run(["sh", "-c", SUITE], capture_output=True, timeout=60, env={"LC_ALL": "C", "PATH": "/bin:/usr/bin"})
    there = host.guest("--engine", "translate", *options, "--", "sh", "-c", SUITE)
    expect(there.status == 0, f"{there}")
    for want, got in zip(here.stdout.splitlines(), there.out.splitlines()):
        expect(want.split() == got.split(), f"host {want!r}\nguest {got!r}\n{there}")
    expect(len(here.stdout.splitlines()) == len(there.out.splitlines()), f"{there}")
    return there


def pingpong(host, turn):
    r = suite(host, "--check", f"pingpong={turn}")
    words = r.err.split()
    expect(b"ping-pong:" in words and int(words[words.index(b"turns,") - 1]) > 1000, f"{r}")


def only_in_full():
    if not FULL:
        raise Skip("long; runs with ./dev test --full")


def test_suite(host):
    """Nothing checked but the suite itself."""
    suite(host)


def test_pingpong_1000(host):
    pingpong(host, 1000)


def test_pingpong_random(host):
    only_in_full()
    pingpong(host, "random")


def test_pingpong_7(host):
    only_in_full()
    pingpong(host, 7)


def test_pingpong_1(host):
    only_in_full()
    pingpong(host, 1)


def lockstep(host, how):
    only_in_full()
    r = host.guest("--engine", "translate", "--check", how, "--", "uname", "-s", limit=7200)
    r.expect(0, out=b"Linux\n")
    expect(b"insula: lockstep: " in r.err and b" 0 differ;" in r.err, f"{r}")


def test_lockstep(host):
    """A boot, each translation executed by both engines."""
    lockstep(host, "lockstep")


def test_lockstep_exact(host):
    lockstep(host, "lockstep,exact")


def test_names_and_listings(host):
    """--perf-map gives perf lines that do not overlap; --log prints guest and host code of the same regions; --stats
    counts as many."""
    process = host.start("run", "--engine", "translate", "--hot", "2000", "--perf-map", "--log", "translate", "--stats", "--",
                         "true")
    path = f"/tmp/perf-{process.pid}.map"
    try:
        _, err = process.communicate(timeout=120)
        with open(path) as file:
            lines = [line.split() for line in file]
    finally:
        if os.path.exists(path):
            os.unlink(path)
    expect(process.returncode == 0, f"status {process.returncode}, {err[-2000:]!r}")
    ranges = sorted((int(at, 16), int(size, 16)) for at, size, _ in lines)
    expect(len(ranges) > 20 and all(a + n <= b for (a, n), (b, _) in zip(ranges, ranges[1:])), f"{lines[:50]}")
    named = {name.split(":")[1] for _, _, name in lines if re.fullmatch("(kernel|user):[0-9a-f]+", name)}
    listed = set(re.findall(rb"^insula: region ([0-9a-f]+), page [0-9a-f]+, cpl [03]: [0-9]+ instructions", err, re.M))
    # Of what was translated; the map forgets with the code cache, which a boot may empty near its end.
    expect(named <= {word.decode() for word in listed} and len(named) > 10, f"{len(named)} named, {len(listed)} listed")
    counts = {name: int(n) for n, name in re.findall(
        rb"([0-9]+) (regions,|traces found hot|page walks|fills|pages invalidated)", err)}
    expect(counts[b"regions,"] == len(re.findall(rb"^insula: region ", err, re.M)) <= counts[b"traces found hot"], f"{counts}")
    expect(0 < counts[b"page walks"] < counts[b"fills"] and counts[b"pages invalidated"] > 0, f"{counts}")
    rows = re.findall(rb"^  ([0-9a-f]{6,16})  (\S.*?) +\| [0-9a-f]{8,16}  (\S.*)$", err, re.M)
    expect(len(rows) > len(named) and all(b"(bad)" not in row[1] for row in rows), f"{rows[:20]}")


def test_refusals(host):
    host.run("run", "--log", "everything").expect_refusal(2, "--log everything is unknown", "translate")
    host.run("run", "--check", "lockstop").expect_refusal(2, "--check lockstop is unknown", "pingpong=random")
    host.run("run", "--check", "pingpong=0").expect_refusal(2, "--check pingpong=0 is unknown")
    host.run("run", "--check", "pingpong").expect_refusal(2, "--check pingpong is unknown")
    host.run("run", "--engine", "interpret", "--check", "lockstep").expect_refusal(2, "--check", "translate")
    host.run("run", "--cpus", "2", "--check", "lockstep").expect_refusal(2, "--check lockstep", "--cpus 1")
