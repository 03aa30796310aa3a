"""What the tests are written with: runs of insula, tiny kernels, what is expected of both."""
import os
import struct
import subprocess
import time

FULL = os.environ.get("INSULA_TEST_FULL") == "1"
# A host may be busy; nothing here comes near it unless something hangs.
LIMIT_S = int(os.environ.get("INSULA_TEST_LIMIT", "120"))

USAGE, HOST_ERROR, TRIPLE_FAULT = 2, 1, 3


class Skip(Exception):
    """The reason why a test cannot be run here."""


class Failure(Exception):
    """What was seen instead of what was expected."""


def expect(condition, message):
    if not condition:
        raise Failure(message)


alive = []


def end_all(insula, folder):
    """Nothing a test started outlives it, in the background neither."""
    sockets = os.path.join(folder, "insula")
    for name in os.listdir(sockets) if os.path.isdir(sockets) else []:
        os.chmod(sockets, 0o700)
        subprocess.run([insula, "kill", name.removesuffix(".sock")], stderr=subprocess.DEVNULL, timeout=60)
    for process in alive:
        if process.poll() is None:
            process.kill()
        process.wait()
    alive.clear()


class Host:
    """One test's view of the host: the program, and a folder that is removed afterwards."""

    def __init__(self, insula, folder):
        self.insula, self.folder = insula, folder

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, data):
        path = self.path(name)
        with open(path, "wb") as file:
            file.write(data)
        return path

    def start(self, *arguments, **options):
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE,
                   "stderr": subprocess.PIPE} | options
        process = subprocess.Popen([self.insula, *arguments], **options)
        alive.append(process)
        return process

    def run(self, *arguments, input=None, limit=LIMIT_S, **options):
        if input is not None:
            options["stdin"] = subprocess.PIPE
        process = self.start(*arguments, **options)
        try:
            out, err = process.communicate(input, timeout=limit)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise Failure(f"{' '.join(arguments)}: still runs after {limit} s\n"
                          f"stdout: {(out or b'')[-2000:]!r}\nstderr: {(err or b'')[-2000:]!r}")
        return Result(arguments, process.returncode, out or b"", err or b"")

    def guest(self, *arguments, **options):
        """A run of the default guest."""
        if any(line.split()[0] == b"debian" and b"not built" in line
               for line in self.run("guest", "list").out.splitlines()):
            raise Failure("the default guest is not built: insula guest build debian")
        return self.run("run", "debian", *arguments, **options)


class Result:
    def __init__(self, arguments, status, out, err):
        self.what, self.status, self.out, self.err = " ".join(arguments), status, out, err

    def __str__(self):
        return (f"{self.what}\nstatus: {self.status}\nstdout: {self.out[-3000:]!r}\n"
                f"stderr: {self.err[-3000:]!r}")

    def expect(self, status=0, out=None, err=None):
        expect(self.status == status, f"expected status {status}\n{self}")
        if out is not None:
            expect(self.out == out, f"expected stdout {out[:200]!r}\n{self}")
        if err is not None:
            expect(self.err == err, f"expected stderr {err[:200]!r}\n{self}")
        return self

    def expect_refusal(self, status, *says):
        """One line on stderr that says all of it, nothing on stdout."""
        expect(self.status == status, f"expected status {status}\n{self}")
        expect(self.out == b"", f"expected no output\n{self}")
        text = self.err.decode()
        expect(text.startswith("insula: ") and text.endswith("\n") and text.count("\n") == 1,
               f"expected one line on stderr\n{self}")
        for words in says:
            expect(words in text, f"expected the line to say {words!r}\n{self}")
        return self


def wait_until(condition, what, limit=LIMIT_S):
    end = time.monotonic() + limit
    while not condition():
        expect(time.monotonic() < end, f"in vain: {what}")
        time.sleep(0.02)


def read_until(file, wanted, limit=LIMIT_S):
    """Reads an unbuffered descriptor until the bytes appear; all that was read."""
    seen, end = b"", time.monotonic() + limit
    os.set_blocking(file, False)
    while wanted not in seen:
        expect(time.monotonic() < end, f"waited for {wanted!r}, saw {seen[-2000:]!r}")
        try:
            chunk = os.read(file, 65536)
        except BlockingIOError:
            time.sleep(0.01)
            continue
        except OSError:  # a pty whose other end is closed
            chunk = b""
        expect(chunk, f"waited for {wanted!r}, the stream ended after {seen[-2000:]!r}")
        seen += chunk
    return seen


# ---- tiny kernels: 32-bit protected mode, multiboot, loaded at 1 MiB ----

LOAD = 0x100000
HEADER_LEN = 32


def multiboot(code):
    """A flat multiboot image that begins with `code`; addresses in it count from LOAD + HEADER_LEN."""
    magic, flags = 0x1BADB002, 0x10000
    header = struct.pack("<IIIIIIII", magic, flags, -(magic + flags) & 0xFFFFFFFF,
                         LOAD, LOAD, 0, 0, LOAD + HEADER_LEN)
    return header + code


def out8(port, value):
    return b"\x66\xba" + struct.pack("<H", port) + b"\xb0" + bytes([value]) + b"\xee"


def out16(port, value):
    return b"\x66\xba" + struct.pack("<H", port) + b"\x66\xb8" + struct.pack("<H", value) + b"\x66\xef"


def out32(port, value):
    return b"\x66\xba" + struct.pack("<H", port) + b"\xb8" + struct.pack("<I", value) + b"\xef"


def say(text):
    """Writes to COM1, waiting for room before each byte: in al,dx; test al,0x20; jz."""
    code = b""
    for byte in text.encode():
        code += b"\x66\xba\xfd\x03" + b"\xec\xa8\x20\x74\xfb" + out8(0x3F8, byte)
    return code


HALT_FOR_EVER = b"\xfa\xf4\xeb\xfd"  # cli; hlt; jmp hlt
POWER_OFF = out16(0x604, 5 << 10 | 1 << 13) + HALT_FOR_EVER
RESET = out8(0xCF9, 6) + HALT_FOR_EVER
# lidt of six zero bytes that lie right behind a short jump; ud2
TRIPLE_FAULT_CODE = (b"\xeb\x06" + bytes(6) + b"\x0f\x01\x1d" + struct.pack("<I", LOAD + HEADER_LEN + 2) +
                     b"\x0f\x0b")
