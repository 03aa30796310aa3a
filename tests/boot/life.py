"""The life of a VM from outside: names, control sockets, pause and resume, stop and kill, the console of one in the
background."""
import json
import os
import signal
import socket
import stat
import struct
import subprocess
import time

from machine import HALT_FOR_EVER, expect, multiboot, read_until, say, wait_until

COUNTER = 0x200000
# Says that it is there; then inc dword [COUNTER], for ever.
BUSY = say("up") + b"\xff\x05" + struct.pack("<I", COUNTER) + b"\xeb\xf8"


def kernel(host, code, name="k"):
    return host.write(name, multiboot(code))


def detached(host, name, *arguments):
    r = host.run("run", "-d", "--name", name, *arguments).expect(0, err=b"")
    expect(r.out == name.encode() + b"\n", f"{r}")


def busy(host, name):
    detached(host, name, "--kernel", kernel(host, BUSY), "--mem", "16M")


def ps(host):
    return {vm["name"]: vm for vm in json.loads(host.run("ps", "--json").expect(0, err=b"").out)}


def stats(host, name):
    return json.loads(host.run("stats", name).expect(0, err=b"").out)


def test_ps_lists_who_runs(host):
    expect(ps(host) == {}, "somebody runs already")
    busy(host, "one")
    host.run("run", "-d", "--kernel", kernel(host, HALT_FOR_EVER), "--mem", "32M", "--cpus", "2").expect(0, out=b"vm\n")
    host.run("run", "-d", "--kernel", kernel(host, HALT_FOR_EVER), "--mem", "32M").expect(0, out=b"vm-2\n")
    vms = ps(host)
    expect(sorted(vms) == ["one", "vm", "vm-2"], f"{vms}")
    expect(vms["vm"]["cpus"] == 2 and vms["vm"]["mem_bytes"] == 32 << 20 and vms["vm"]["state"] == "running", f"{vms}")
    expect(b"vm-2" in host.run("ps").out, "the table lacks a VM")
    for name in vms:
        os.kill(vms[name]["pid"], 0)
        host.run("kill", name).expect(0, out=b"", err=b"")
    expect(ps(host) == {}, "somebody still runs")


def test_name_in_use(host):
    busy(host, "one")
    host.run("run", "-d", "--name", "one", "--kernel", kernel(host, BUSY)).expect_refusal(1, "one runs already")
    host.run("kill", "one").expect(0)
    busy(host, "one")
    host.run("kill", "one").expect(0)


def test_nobody_of_that_name(host):
    for verb in ("pause", "resume", "stop", "kill", "stats", "logs", "console"):
        host.run(verb, "ghost").expect_refusal(1, "no VM named ghost")
        host.run(verb, "../x").expect_refusal(1, "cannot be the name")
        host.run(verb).expect_refusal(2, "which VM?")


def test_socket_is_private(host):
    busy(host, "one")
    folder = host.path("insula")
    expect(stat.S_IMODE(os.stat(folder).st_mode) == 0o700, "the folder is not ours alone")
    expect(stat.S_IMODE(os.stat(folder + "/one.sock").st_mode) == 0o600, "the socket is not ours alone")
    host.run("kill", "one").expect(0)
    expect(os.listdir(folder) == [], "something was left behind")
    os.chmod(folder, 0o755)
    host.run("run", "-d", "--name", "one", "--kernel", kernel(host, BUSY)).expect_refusal(1, "not a folder of yours alone")
    host.run("ps").expect_refusal(1, "not a folder of yours alone")


def test_stale_socket_is_removed(host):
    busy(host, "one")
    os.kill(ps(host)["one"]["pid"], signal.SIGKILL)
    wait_until(lambda: ps(host) == {}, "the dead one leaves the list")
    expect(os.listdir(host.path("insula")) == [], "the stale socket is still there")
    busy(host, "one")
    os.kill(ps(host)["one"]["pid"], signal.SIGKILL)
    time.sleep(0.2)
    busy(host, "one")  # the name can be taken over without anybody having looked
    host.run("kill", "one").expect(0)


def test_pause_and_resume(host):
    busy(host, "one")
    host.run("pause", "one").expect(0, out=b"", err=b"")
    expect(ps(host)["one"]["state"] == "paused", "not paused")
    host.run("pause", "one").expect_refusal(1, "paused already")
    before = stats(host, "one")
    time.sleep(0.5)
    after = stats(host, "one")
    expect(before["uptime_ns"] == after["uptime_ns"], "its clock runs on")
    expect(before["thread_ns"]["vcpu0"] == after["thread_ns"]["vcpu0"], "its processor runs on")
    host.run("resume", "one").expect(0, out=b"", err=b"")
    host.run("resume", "one").expect_refusal(1, "not paused")
    wait_until(lambda: stats(host, "one")["thread_ns"]["vcpu0"] > after["thread_ns"]["vcpu0"], "it goes on")
    expect(stats(host, "one")["uptime_ns"] >= after["uptime_ns"] + 500_000_000, "its clock did not catch up")
    host.run("pause", "one").expect(0)
    host.run("kill", "one").expect(0)  # also while it is paused


def test_signal_ends_a_paused_one(host):
    process = host.start("run", "--name", "one", "--kernel", kernel(host, BUSY), "--mem", "16M")
    read_until(process.stdout.fileno(), b"up")
    host.run("pause", "one").expect(0)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    expect(process.wait(10) == 128 + signal.SIGTERM, f"status {process.returncode}")


def test_stop_by_force(host):
    """A guest that knows no power button."""
    busy(host, "one")
    r = host.run("stop", "one", "--timeout", "1").expect(0, out=b"")
    expect(b"by force" in r.err, f"{r}")
    host.run("run", "-d", "--name", "one", "--kernel", kernel(host, HALT_FOR_EVER)).expect(0)
    host.run("stop", "one", "-t", "0").expect(0)
    expect(ps(host) == {}, "it still runs")


def test_detached_failure_is_told(host):
    host.run("run", "-d", "--kernel", host.path("missing")).expect_refusal(1, "missing")
    expect(ps(host) == {}, "something runs")


def test_logs(host):
    detached(host, "one", "--kernel", kernel(host, say("some words\r\n") + HALT_FOR_EVER), "--mem", "16M")
    wait_until(lambda: host.run("logs", "one").expect(0, err=b"").out == b"some words\r\n", "the words are in the log")
    host.run("kill", "one").expect(0)


def connect(host, name):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    s.connect(host.path(f"insula/{name}.sock"))
    s.settimeout(20)
    return s, s.makefile("rwb")


def test_hostile_requests(host):
    busy(host, "one")
    for line in (b"\n", b"{}\n", b"[]\n", b"{\"verb\":1}\n", b"{\"verb\":\"fly\"}\n", b"\xff\xfe\n", b"{\"verb\":\"info\"\n",
                 b"{\"verb\":\"resize\",\"rows\":-1,\"cols\":70000}\n", b"{\"a\":1,\"a\":2,\"verb\":\"info\"}\n"):
        s, file = connect(host, "one")
        file.write(line)
        file.flush()
        answer = json.loads(file.readline())
        expect(answer["ok"] is False and answer["error"], f"{line!r}: {answer}")
        file.write(b"{\"verb\":\"info\"}\n")
        file.flush()
        expect(json.loads(file.readline())["ok"], "no answer after a refusal")
        s.close()
    s, file = connect(host, "one")
    s.sendall(b"x" * 65536)
    expect(b"too long" in file.readline() and file.readline() == b"", "an endless line is not refused")
    # Many at once, some that send half a line and stay, some that leave while an answer is due.
    held = [connect(host, "one") for _ in range(20)]
    for i, (s, file) in enumerate(held):
        s.sendall(b"{\"verb\":" if i % 2 else b"{\"verb\":\"pause\"}\n{\"verb\":\"resume\"}\n")
    for s, _ in held[::4]:
        s.close()
    for i in range(30):
        s, _ = connect(host, "one")
        s.sendall(b"{\"verb\":\"stats\"}\n")
        s.close()
    for s, _ in held:
        s.close()
    wait_until(lambda: ps(host)["one"]["state"] != "silent", "it answers")
    host.run("kill", "one").expect(0)


def test_requests_in_order(host):
    busy(host, "one")
    s, file = connect(host, "one")
    s.sendall(b"".join(b'{"verb":"%s"}\n' % v for v in (b"pause", b"info", b"resume", b"info", b"resume")))
    answers = [json.loads(file.readline()) for _ in range(5)]
    expect([a["ok"] for a in answers] == [True, True, True, True, False], f"{answers}")
    expect(answers[1]["result"]["state"] == "paused" and answers[3]["result"]["state"] == "running", f"{answers}")
    s.close()
    host.run("kill", "one").expect(0)


def console(host, name, **options):
    return host.start("console", name, stdin=subprocess.PIPE, **options)


def test_shell_in_the_background(host):
    """The default guest: attach, type, leave, attach again; the date after a pause; stop in order."""
    host.run("run", "debian", "-d", "--name", "deb").expect(0, out=b"deb\n")
    first = console(host, "deb")
    first.stdin.write(b"\n")
    first.stdin.flush()
    read_until(first.stdout.fileno(), b"# ")
    second = console(host, "deb")
    first.stdin.write(b"x=6; echo is-$((x*7))\n")
    first.stdin.flush()
    read_until(first.stdout.fileno(), b"is-42")
    read_until(second.stdout.fileno(), b"is-42")
    first.terminate()
    first.wait(10)
    expect(ps(host)["deb"]["state"] == "running", "it does not run on")
    host.run("pause", "deb").expect(0)
    time.sleep(3)
    host.run("resume", "deb").expect(0)
    second.stdin.write(b"date +now%s; echo all\n")
    second.stdin.flush()
    now = int(read_until(second.stdout.fileno(), b"\nall\r\n").split(b"\nnow")[-1].split()[0])
    expect(abs(now - time.time()) <= 1.5, f"the guest's date is {now}, ours {time.time()}")
    second.stdin.write(b"dmesg -r | grep -ci -e stall -e lockup -e unstable; echo complaints\n")
    second.stdin.flush()
    seen = read_until(second.stdout.fileno(), b"\ncomplaints\r\n")
    expect(b"\n0\r\n" in seen, f"{seen!r}")
    host.run("stop", "deb").expect(0, err=b"")
    expect(second.wait(10) == 0, f"status {second.returncode}")


def test_command_in_the_background(host):
    host.run("run", "debian", "-d", "--name", "job", "--", "sh", "-c", "echo working; echo also >&2; sleep 1000").expect(0)
    wait_until(lambda: b"also" in host.run("logs", "job").out, "its output is in the log")
    expect(b"working" in host.run("logs", "job").out, "its output is in the log")
    host.run("console", "job").expect_refusal(1, "no console")
    host.run("stop", "job").expect(0)
    host.run("run", "debian", "-d", "--name", "job", "--", "true").expect(0)
    wait_until(lambda: ps(host) == {}, "it ends with its command")
