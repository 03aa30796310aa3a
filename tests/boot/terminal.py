"""The terminal: raw while the guest runs, as it was afterwards, whichever way it ends."""
import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
import time

from machine import (HALT_FOR_EVER, POWER_OFF, TRIPLE_FAULT, TRIPLE_FAULT_CODE, expect, multiboot, read_until, say,
                     wait_until)


class Terminal:
    """A pty with the program in its foreground; stdout and stderr are the terminal too."""

    def __init__(self, host, *arguments):
        self.master, slave = pty.openpty()
        self.slave = slave
        self.before = termios.tcgetattr(slave)
        self.process = host.start(*arguments, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
                                  preexec_fn=lambda: os.set_blocking(0, True))

    def is_raw(self):
        now = termios.tcgetattr(self.slave)
        return not now[3] & (termios.ICANON | termios.ECHO | termios.ISIG)

    def type(self, data):
        os.write(self.master, data)

    def read_until(self, wanted):
        return read_until(self.master, wanted)

    def expect_restored(self, status):
        got = self.process.wait(20)
        expect(got == status, f"status {got}, expected {status}")
        expect(termios.tcgetattr(self.slave) == self.before, "the terminal is not as it was")
        expect(os.get_blocking(self.slave), "the terminal's file was left non-blocking")
        os.close(self.slave)
        os.close(self.master)


def run(host, code, *arguments):
    terminal = Terminal(host, "run", *arguments, "--kernel", host.write("k", multiboot(code)))
    return terminal


def up_and_raw(host, rest=HALT_FOR_EVER):
    terminal = run(host, say("up") + rest)
    terminal.read_until(b"up")
    expect(terminal.is_raw(), "the terminal is not raw")
    return terminal


def test_restored_after_power_off(host):
    terminal = run(host, say("bye") + POWER_OFF)
    terminal.read_until(b"bye")
    terminal.expect_restored(0)


def test_restored_after_triple_fault(host):
    terminal = run(host, TRIPLE_FAULT_CODE)
    terminal.read_until(b"triple fault")
    terminal.expect_restored(TRIPLE_FAULT)


def test_keys_quit(host):
    terminal = up_and_raw(host)
    terminal.type(b"\x1d")
    time.sleep(0.1)
    terminal.type(b"q")
    terminal.expect_restored(0)


def test_keys_quit_a_deaf_guest(host):
    """Also when the guest never read a byte and the serial port is full, and when it is busy."""
    terminal = up_and_raw(host, b"\xfa\xeb\xfe")
    terminal.type(b"x" * 1000)
    time.sleep(0.2)
    terminal.type(b"\x1dq")
    terminal.expect_restored(0)


def test_ctrl_c_goes_to_the_guest(host):
    """Waits for a byte on COM1 and powers off if it is Ctrl-C."""
    wait = b"\x66\xba\xfd\x03\xec\xa8\x01\x74\xf7\x66\xba\xf8\x03\xec\x3c\x03"
    terminal = up_and_raw(host, wait + b"\x75" + bytes([256 - len(wait) - 2]) + POWER_OFF)
    terminal.type(b"\x03")
    terminal.expect_restored(0)


def test_restored_after_signals(host):
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        terminal = up_and_raw(host)
        terminal.process.send_signal(number)
        time.sleep(0.2)
        expect(terminal.process.poll() is None, "the first signal only asks")
        terminal.process.send_signal(number)
        terminal.expect_restored(128 + number)


def test_restored_after_a_crash(host):
    for number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE):
        terminal = up_and_raw(host)
        terminal.process.send_signal(number)
        terminal.expect_restored(-number)


def test_raw_again_after_stop(host):
    """Stopped from outside, the terminal used by a shell, continued: raw again."""
    terminal = up_and_raw(host)
    terminal.process.send_signal(signal.SIGSTOP)
    time.sleep(0.1)
    termios.tcsetattr(terminal.slave, termios.TCSANOW, terminal.before)
    terminal.process.send_signal(signal.SIGCONT)
    wait_until(terminal.is_raw, "raw mode after SIGCONT", 5)
    terminal.type(b"\x1dq")
    terminal.expect_restored(0)


def test_untouched_when_refused(host):
    terminal = Terminal(host, "run", "--kernel", host.path("none"))
    terminal.read_until(b"insula: ")
    terminal.expect_restored(1)


def test_stdin_is_no_terminal(host):
    """Then nothing is made raw, even if stdout is one."""
    master, slave = pty.openpty()
    process = host.start("run", "--kernel", host.write("k", multiboot(say("up") + HALT_FOR_EVER)), stdin=subprocess.PIPE,
                         stdout=slave, stderr=slave)
    read_until(master, b"up")
    expect(termios.tcgetattr(slave)[3] & termios.ICANON, "the terminal was made raw")
    process.kill()
    process.wait()
    os.close(slave)
    os.close(master)


class Shell(Terminal):
    """The default guest's shell on a terminal of 33 rows and 101 columns."""

    def __init__(self, host):
        super().__init__(host, "run")
        self.resize(33, 101)
        self.read_until(b"# ")

    def resize(self, rows, columns):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.process.send_signal(signal.SIGWINCH)

    def command(self, text, answer):
        self.type(text + b"\r")
        return self.read_until(answer)


def test_shell(host):
    shell = Shell(host)
    expect(shell.is_raw(), "the terminal is not raw")
    shell.command(b"echo $((40 + 2)) | tr 42 ab", b"ab")
    shell.command(b"exit 9", b"")
    shell.expect_restored(9)


def test_shell_job_control(host):
    """Ctrl-C ends the guest's command, not the guest."""
    shell = Shell(host)
    shell.command(b"sleep 1000; echo st''atus $?", b"\r\n")
    time.sleep(0.5)
    shell.type(b"\x03")
    shell.read_until(b"# ")
    shell.command(b"echo al''ive", b"alive")
    shell.type(b"\x1dq")
    shell.expect_restored(0)


def test_shell_window_size(host):
    shell = Shell(host)
    shell.command(b"stty size", b"33 101")
    shell.resize(44, 122)
    time.sleep(0.5)
    shell.command(b"stty size", b"44 122")
    shell.command(b"tty", b"/dev/")
    shell.command(b"poweroff -f", b"")
    shell.expect_restored(0)


def test_shell_sigterm(host):
    shell = Shell(host)
    shell.process.send_signal(signal.SIGTERM)
    shell.expect_restored(0)
