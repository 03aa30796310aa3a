"""A machine that runs insula-bench: the host itself, or a guest of a monitor that boots the
benchmark's initramfs and is spoken to over its serial console (see guest_init.c)."""

import glob
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent


class Failed(Exception):
    """A machine did not do what it was asked; the text says what."""


def parse_answer(lines, name):
    """(operations, seconds, digest), or the reason for which the workload was skipped."""
    for line in lines:
        words = line.split()
        if words[:1] == [name] and words[1:2] == ["skip"]:
            return line.split(" skip ", 1)[1]
        if words[:1] == [name] and len(words) == 4:
            return int(words[1]), float(words[2]), words[3]
    raise Failed("; ".join(lines) or "no answer")


class Host:
    """The bare host."""

    def __init__(self, program, disk):
        self.program, self.disk = program, disk

    def run(self, name, seconds):
        got = subprocess.run([self.program, name, "--seconds", str(seconds), "--disk", self.disk],
                             capture_output=True, text=True, timeout=120 + 10 * seconds)
        return parse_answer((got.stdout + got.stderr).splitlines(), name)


class Guest:
    """One boot of a monitor. Seconds are the guest's own, so settle() must find its clock right;
    or the host's, for a monitor whose guests are known to have another time."""

    def __init__(self, argv, log, boot_timeout=120, own_clock=True):
        self.clock_start, self.own_clock = None, own_clock
        self.buffer = b""
        self.log = open(log, "wb")
        self.started = time.monotonic()
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=self.log, start_new_session=True)
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.process.stdout, selectors.EVENT_READ)
        try:
            self.init_at = self._wait_for("insula-bench: init", boot_timeout)[1] - self.started
            self.ready_at = self._wait_for("insula-bench: ready", boot_timeout)[1] - self.started
        except Failed:
            self.kill()
            raise

    def _line(self, until):
        """The next line and when it came."""
        while b"\n" not in self.buffer:
            left = until - time.monotonic()
            if left <= 0 or not self.selector.select(left):
                raise Failed("timed out" + self._said())
            got = os.read(self.process.stdout.fileno(), 65536)
            if not got:
                raise Failed("the monitor ended" + self._said())
            self.buffer += got
            self.read_at = time.monotonic()
        line, self.buffer = self.buffer.split(b"\n", 1)
        return line.decode(errors="replace").strip("\r"), self.read_at

    def _said(self):
        self.log.flush()
        with open(self.log.name, errors="replace") as log:
            lines = log.read().strip().splitlines()
        return ": " + lines[-1] if lines else ""

    def _wait_for(self, text, timeout):
        until = time.monotonic() + timeout
        while True:
            line, at = self._line(until)
            if text in line:
                return line, at

    def run(self, name, seconds):
        timeout = 60 + 60 * seconds
        self.process.stdin.write(f"run {name} --seconds {seconds} --disk /dev/vda\n".encode())
        self.process.stdin.flush()
        begin, begin_at = self._wait_for("begin ", timeout)
        until, lines = time.monotonic() + timeout, []
        while True:
            line, at = self._line(until)
            if line.startswith("end "):
                break
            lines.append(line)
        answer = parse_answer(lines, name)
        if self.own_clock or isinstance(answer, str):
            return answer
        ops, guest_seconds, digest = answer
        passed = float(line.split()[1]) - float(begin.split()[1])
        return ops, guest_seconds * (at - begin_at) / passed, digest

    def _clocks(self):
        """The guest's clock and the host's, as near to each other as the console allows."""
        self.process.stdin.write(b"clock\n")
        self.process.stdin.flush()
        line, at = self._wait_for("clock ", 60)
        return float(line.split()[1]), at

    def settle(self, seconds):
        """Leaves the guest idle and then compares its clock with the host's: a guest that lost the
        CPU while it calibrated its clock counts wrong seconds for as long as it runs."""
        self.clock_start = self._clocks()
        time.sleep(seconds)
        self.clock_check()

    def clock_check(self):
        """Guest seconds for each host second since settle() began."""
        if not self.own_clock:
            return None
        guest, host = (b - a for a, b in zip(self.clock_start, self._clocks()))
        if abs(guest - host) > 0.05 + 0.01 * host:
            raise Failed(f"the guest's clock counts {guest:.3f} s in {host:.3f} s")
        return guest / host

    def own_memory(self):
        """Bytes resident in the monitor that are not guest RAM."""
        total, ram = 0, False
        with open(f"/proc/{self.process.pid}/smaps") as smaps:
            for line in smaps:
                if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
                    ram = "memfd:insula-ram" in line or "memfd:memory-backend-memfd" in line
                elif line.startswith("Rss:") and not ram:
                    total += int(line.split()[1]) * 1024
        return total

    def banner(self):
        """What the monitor said of itself."""
        self.log.flush()
        with open(self.log.name, errors="replace") as log:
            return next((line.strip() for line in log if "engine" in line), "")

    def off(self):
        try:
            self.process.stdin.write(b"off\n")
            self.process.stdin.flush()
            self.process.wait(20)
        except (OSError, subprocess.TimeoutExpired):
            pass
        self.kill()

    def kill(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.selector.close()
        try:
            self.process.stdin.close()
        except OSError:
            pass  # what it was to read is lost with it
        self.process.stdout.close()
        self.log.close()


def insula_argv(setup, engine, kernel, disk=True, cpus=1):
    argv = [setup.insula, "run", "--engine", engine, "--kernel", kernel, "--initrd", setup.initrd,
            "--append", setup.cmdline, "--mem", "512M", "--no-reboot", "--cpus", str(cpus)]
    if disk:
        argv += ["--disk", f"{setup.disk},ro"]
    return argv


def qemu_argv(setup, kernel, disk=True, cpus=1):
    argv = [shutil.which("qemu-system-x86_64"), "-accel", "tcg", "-cpu", "max",
            "-machine", "q35,memory-backend=ram", "-m", "512M", "-smp", str(cpus),
            "-object", "memory-backend-memfd,id=ram,size=512M", "-nodefaults", "-no-user-config",
            "-display", "none", "-serial", "stdio", "-no-reboot",
            "-kernel", kernel, "-initrd", setup.initrd, "-append", setup.cmdline]
    if disk:
        argv += ["-drive", f"file={setup.disk},if=none,id=disk,format=raw,readonly=on",
                 "-device", "virtio-blk-pci,drive=disk"]
    return argv


BOCHSRC = """plugin_ctrl: unmapped=1, biosdev=1, speaker=0, extfpuirq=1, parallel=0, serial=1
config_interface: textconfig
display_library: term
memory: guest=512, host=512
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/vgabios/vgabios.bin
cpu: model=corei7_haswell_4770, count=1, ips=40000000
clock: sync=none, time0=utc
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=cdrom, path={image}, status=inserted
boot: cdrom
log: @LOG@
com1: enabled=1, mode=term, dev=@SERIAL@
"""


def bochs_argv(setup):
    """Bochs has firmware and no loader, so kernel and initramfs are on a CD with GRUB. No disk:
    Bochs knows no virtio."""
    image, folder = setup.build / "bochs.iso", setup.build / "bochs"
    (folder / "boot" / "grub").mkdir(parents=True, exist_ok=True)
    shutil.copy(setup.vmlinuz, folder / "vmlinuz")
    shutil.copy(setup.initrd, folder / "initrd")
    (folder / "boot" / "grub" / "grub.cfg").write_text(
        f"set timeout=0\nlinux /vmlinuz {setup.cmdline}\ninitrd /initrd\nboot\n")
    subprocess.run(["grub-mkrescue", "-o", image, "-d", "/usr/lib/grub/i386-pc", folder],
                   check=True, capture_output=True)
    config = setup.build / "bochsrc"
    config.write_text(BOCHSRC.format(image=image))
    return [sys.executable, str(HERE / "bochs_console.py"), str(config)]


def boot(setup, column, kernel, log, disk=True, cpus=1):
    """A Guest of a column: an engine of Insula, or a peer."""
    if column == "bochs":
        return Guest(bochs_argv(setup), log, boot_timeout=400, own_clock=False)
    if column == "qemu":
        return Guest(qemu_argv(setup, kernel, disk, cpus), log)
    return Guest(insula_argv(setup, column, kernel, disk, cpus), log)


def version_of(setup, column):
    if column == "qemu":
        found = re.search(r"version (\S+)", _said_by("qemu-system-x86_64", "--version"))
    elif column == "bochs":
        found = re.search(r"Emulator (\S+)", _said_by("bochs", "-n", "-q"))
    else:
        found = re.search(r"insula (.+)", _said_by(setup.insula, "--version"))
    return found.group(1) if found else ""


def _said_by(*argv):
    got = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20)
    return got.stdout + got.stderr


def peer_missing(peer):
    """Why a peer cannot be measured here, or None."""
    if peer == "qemu" and not shutil.which("qemu-system-x86_64"):
        return "QEMU is not installed"
    if peer == "bochs":
        missing = [p for p in ("bochs", "grub-mkrescue", "xorriso", "mformat")
                   if not shutil.which(p)]
        missing += [p for p in ("/usr/share/bochs/BIOS-bochs-latest",
                                "/usr/share/vgabios/vgabios.bin", "/usr/lib/grub/i386-pc")
                    if not os.path.exists(p)]
        missing += [] if glob.glob("/usr/lib/*/bochs/plugins/libbx_term_gui.so") else ["bochs-term"]
        return f"no Bochs here ({', '.join(missing)} missing)" if missing else None
    return None


def known_engines(insula):
    """The engines that this insula has, from what it says of one that it cannot have."""
    got = subprocess.run([insula, "run", "--engine", "?"], stdin=subprocess.DEVNULL,
                         capture_output=True, text=True, timeout=20)
    known = re.search(r"known are ([a-z, ]+)", got.stderr)
    names = known.group(1).strip().split(", ") if known else ["interpret"]
    return [name for name in names if name != "auto"]
