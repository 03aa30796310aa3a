"""How a machine can end, and which status that is. Tiny kernels: no operating system is needed."""
import signal
import time

from machine import (HALT_FOR_EVER, POWER_OFF, RESET, TRIPLE_FAULT, TRIPLE_FAULT_CODE, expect, multiboot, out8,
                     out32, read_until, say)


def kernel(host, code):
    return "--kernel", host.write("k", multiboot(code))


def test_power_off(host):
    host.run("run", *kernel(host, say("bye") + POWER_OFF)).expect(0, out=b"bye")


def test_reset_with_no_reboot(host):
    host.run("run", "--no-reboot", *kernel(host, RESET)).expect(0)
    host.run("run", "--no-reboot", *kernel(host, out8(0x64, 0xFE) + HALT_FOR_EVER)).expect(0)


def test_reset_goes_on(host):
    """Without --no-reboot the machine starts over: RAM survives, so the kernel counts in it to three."""
    counter = 0x400000
    code = (say("x") + b"\xff\x05" + counter.to_bytes(4, "little") +          # inc dword [counter]
            b"\x83\x3d" + counter.to_bytes(4, "little") + b"\x03" +            # cmp dword [counter], 3
            b"\x74" + bytes([len(RESET)]) + RESET + POWER_OFF)                 # je over the reset
    host.run("run", *kernel(host, code)).expect(0, out=b"xxx")


def test_triple_fault(host):
    r = host.run("run", *kernel(host, TRIPLE_FAULT_CODE)).expect(TRIPLE_FAULT)
    expect(b"triple fault" in r.err, f"{r}")


def test_debug_exit(host):
    for value in (0, 1, 0x20, 0x7F):
        host.run("run", "--debug-exit", *kernel(host, out8(0xF4, value) + HALT_FOR_EVER)).expect(value << 1 | 1)
    host.run("run", "--debug-exit", *kernel(host, out32(0xF4, 0x10) + HALT_FOR_EVER)).expect(0x21)


def test_no_debug_exit_unless_asked(host):
    host.run("run", *kernel(host, out8(0xF4, 1) + POWER_OFF)).expect(0)


def test_sigterm_twice(host):
    """This kernel knows no power button: the first signal has no effect, the second ends it."""
    process = host.start("run", *kernel(host, say("up") + HALT_FOR_EVER))
    read_until(process.stdout.fileno(), b"up")
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    expect(process.poll() is None, "ended at the first SIGTERM")
    process.send_signal(signal.SIGTERM)
    expect(process.wait(10) == 128 + signal.SIGTERM, f"status {process.returncode}")


def test_busy_guest_can_be_stopped(host):
    process = host.start("run", *kernel(host, say("up") + b"\xfa\xeb\xfe"))
    read_until(process.stdout.fileno(), b"up")
    process.send_signal(signal.SIGINT)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    expect(process.wait(10) == 128 + signal.SIGINT, f"status {process.returncode}")


def test_halted_guest_takes_no_cpu(host):
    process = host.start("run", *kernel(host, say("up") + HALT_FOR_EVER))
    read_until(process.stdout.fileno(), b"up")
    time.sleep(0.2)

    def cpu_ticks():
        with open(f"/proc/{process.pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    before = cpu_ticks()
    time.sleep(1)
    expect(cpu_ticks() - before <= 5, "a halted guest keeps the host busy")


def test_console_that_nobody_reads(host):
    """A guest that fills its console: bounded memory, and it can still be stopped."""
    flood = b"\x66\xba\xf8\x03\xb0x" + b"\xee\xeb\xfd"  # out dx,al for ever, asking nobody
    process = host.start("run", *kernel(host, flood))
    time.sleep(1.5)

    def resident_kib():
        with open(f"/proc/{process.pid}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))

    before = resident_kib()
    time.sleep(1)
    expect(process.poll() is None, "ended by itself")
    expect(resident_kib() - before < 4096, "memory grows while nobody reads")
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    if process.poll() is None:  # two signals at once may have become one
        process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)  # it may be waiting for its reader: then a signal ends it plainly
    process.wait(10)


def test_reader_that_leaves(host):
    """stdout closed early: the guest goes on, the program does not die of SIGPIPE."""
    code = say("a" * 200) + POWER_OFF
    process = host.start("run", *kernel(host, code))
    process.stdout.close()
    expect(process.wait(20) == 0, f"status {process.returncode}")


def test_input_reaches_com1(host):
    """Echoes one line: in al,0x3fd; test 1; jz; in al,0x3f8; out 0x3f8; cmp al,10; jne; then off."""
    loop = (b"\x66\xba\xfd\x03\xec\xa8\x01\x74\xf7"      # wait for a byte
            b"\x66\xba\xf8\x03\xec\xee\x3c\x0a")         # read it, send it back, was it a newline?
    code = loop + b"\x75" + bytes([256 - len(loop) - 2]) + POWER_OFF
    host.run("run", *kernel(host, code), input=b"hello\nrest").expect(0, out=b"hello\n")


def test_one_line_says_what_runs(host):
    r = host.run("run", "--mem", "64M", *kernel(host, POWER_OFF)).expect(0)
    lines = r.err.decode().splitlines()
    expect(len(lines) == 1 and "engine translate" in lines[0] and "64 MiB" in lines[0] and "1 cpu" in lines[0] and
           "quits" in lines[0], f"{r}")
