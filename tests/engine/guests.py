#!/usr/bin/env python3
"""Builds the guests of guest/tests and runs each under Insula and under QEMU TCG.

Each guest prints `ok`, `FAIL` or `skip` lines by what the manuals say and ends
through port 0xf4. A line that fails under QEMU is excused if QEMU_DEVIATES
names it with the reason; Insula has no such list. --only bochs asks a third
opinion.
"""
import argparse
import os
import shutil
import struct
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SOURCES = os.path.join(ROOT, "guest", "tests")
WIDTHS = {"limits": 32, "callgate": 32, "task": 32, "vm86": 32, "debug": 32, "shadow": 32, "fault": 32,
          "triple": 32, "rep": 32, "strings16": 32, "lock": 32, "real": 32, "smc": 32, "paging32": 32, "nmi": 32,
          "paging64": 64, "long": 64, "smc64": 64, "smp": 64, "timer": 64}
CPUS = {"smp": 4}
# Guests whose end is not a debug exit: name -> what ends them.
ENDS = {"triple": {"insula": 3, "qemu": 0, "bochs": 1}}
# Where other emulators leave the manuals, by guest: reason, and how the failing lines begin. Seen with QEMU 7.2.
LIMITS = "TCG does not check segment limits and rights on access"
SS_ABSENT = "another vector for an absent or small stack segment"
NO_EXT = "EXT stays clear in error codes of faults during delivery"
INT1 = "INT1 is undefined or single-steps"
RSVD = "P stays clear in #PF error codes for reserved bits"
LOCK = "LOCK is accepted where it is undefined"
NO_RF = "RF is not set in pushed flags"
STOPS = "stops the guest"
QEMU_DEVIATES = {
    "callgate": [(LIMITS, ["offset beyond the target's limit"]),
                 (SS_ABSENT, ["SS1 absent", "no room on SS1", "RETF: SS absent"])],
    "debug": [(NO_RF, ["RF set", "  TF and RF"]), (INT1, ["INT1"]),
              ("hits of several breakpoints and of loads are lost",
               ["read/write breakpoint", "two breakpoints", "data breakpoint and step"]),
              ("I/O breakpoints are data ones too", ["I/O breakpoint", "and behind IN", "not at the next"]),
              ("no general detect", ["general detect", "DR6.BD", "GD cleared"])],
    "fault": [(NO_EXT, ["#UD, gate", "#UD to absent", "interrupt, gate absent"]), (INT1, ["INT1"]),
              (STOPS + ": runs on at an offset beyond the handler's limit", ["offset beyond the handler's limit"])],
    "limits": [(LIMITS, ["first byte", "dword straddles", "store outside", "offset wraps", "page granular", "one-byte",
                         "expand-down", "read-only data: ", "readable code: store", "access through null",
                         "push beyond", "ESP unchanged", "EBP beyond", "running off CS", "IP is",
                         "instruction straddles", "LGS operand"]),
               (STOPS + ": runs on beyond CS's limit", [])],
    "lock": [(LOCK, ["LOCK ", "OCK "]), ("no alignment checks", ["dword at", "word at", "qword at", "push on an odd",
                                                                 "REP MOVSD"])],
    "long": [(NO_RF, ["RF set"]), ("error codes of gates count 16 bytes a vector", ["absent gate", "16-bit gate type",
                                                                                  "task gate"]),
             (SS_ABSENT, ["SS absent", "null SS with another RPL"]), ("L with D is accepted", ["CS with L and D",
                                                                                            "far jump to L and D"]),
             ("VM and RF come from R11", ["  reserved, RF and VM"]),
             ("RIP keeps its upper half in 32-bit code", ["  IP"]),
             ("EFER takes anything", ["EFER"]), (STOPS + ": CR4.PAE falls in long mode", [])],
    "paging32": [(RSVD, ["reserved bit", "PAE, reserved", "PAE, bit 63", "2 MiB page with reserved"]),
                 ("a locked store that faults is told as a load", ["locked, not present"]),
                 ("PDPTEs are read at every walk", ["PDPTE"])],
    "paging64": [(RSVD, ["reserved bit", "PS in the PML4", "bit 63 without"]),
                 ("the end of an operand is not looked at", ["load at the end"]),
                 ("#GP for the stack segment", ["RBP-based"]), (STOPS + ": #GP, then no stack for it", [])],
    "real": [(LIMITS, ["word at offset", "offset 10000", "SS: offset", "  three words"]), (LOCK, ["LOCK"])],
    "strings16": [(LIMITS, ["word at ffff", "REP MOVSW runs", "  one element", "  DI"])],
    "task": [("local enables stay in DR7", ["DR7 local"]), (NO_RF, ["RF in the saved"]),
             ("#TS for #GP", ["gate to a TSS in the LDT"]), ("no T bit", ["T bit", "  in the new task", "  DR6.BT"]),
             ("a 16-bit TSS's flags lose NT; what follows fails with it",
              ["CALL to a 16-bit", "its IP", "link", "LDT of the new", "own LDT"]),
             ("no selector in #TS by IRET", ["IRET to"])],
    "vm86": [(NO_RF, ["VM in the pushed flags"]), (LIMITS, ["offset beyond", "word at ffff"]), (INT1, ["INT1"])],
}
BOCHS_DEVIATES = {
    "debug": [(NO_RF, ["RF set"])],
    "long": [("selector in #SS for a bad IST", ["IST not canonical"]),
             ("a null SS may have any RPL", ["null SS with another RPL"])],
    "smc": [("a crossing instruction's second page is not looked up again", ["second page of an instruction"])],
}
QEMU_CPU = {}
BOCHS_CPU = {}
TIMEOUT = 60  # seconds; a guest that an emulator is known to stop gets 3
LONG = {"smp": 250, "timer": 250}  # cpus that wait for each other, on a host that may have fewer; hundreds of timers

FLAGS = ["-O1", "-ffreestanding", "-fno-pic", "-fno-pie", "-fno-stack-protector", "-fcf-protection=none",
         "-mgeneral-regs-only", "-fno-asynchronous-unwind-tables", "-fno-strict-aliasing", "-mno-red-zone",
         "-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-array-bounds", "-Wno-missing-field-initializers", "-nostdlib", "-I", SOURCES]


def newer(target, inputs):
    return os.path.exists(target) and all(os.path.getmtime(i) <= os.path.getmtime(target) for i in inputs)


def build(name, out):
    width = WIDTHS[name]
    target = os.path.join(out, name + ".elf")
    source = next(p for p in (os.path.join(SOURCES, name + e) for e in (".c", ".S")) if os.path.exists(p))
    inputs = [os.path.join(SOURCES, f) for f in ("lib.c", "lib.h", "lib.ld", "start%d.S" % width)] + [source]
    extra = os.path.join(SOURCES, name + "_low.S")
    if os.path.exists(extra):
        inputs.append(extra)
    if newer(target, inputs):
        return target
    objects = []
    for i in inputs:
        if i.endswith((".c", ".S")):
            o = os.path.join(out, "%s-%s.o" % (name, os.path.basename(i)))
            subprocess.run(["gcc", "-m%d" % width] + FLAGS + ["-c", i, "-o", o], check=True)
            objects.append(o)
    linked = target + ".tmp"
    subprocess.run(["ld", "-m", "elf_i386" if width == 32 else "elf_x86_64", "-static", "-z", "max-page-size=4096",
                    "-z", "noexecstack", "--no-warn-rwx-segments", "-T", os.path.join(SOURCES, "lib.ld"), "-o", linked]
                   + objects, check=True)
    if width == 64:  # multiboot loaders take 32-bit ELF only
        subprocess.run(["objcopy", "-O", "elf32-i386", linked], check=True)
    os.rename(linked, target)
    return target


def run(command, timeout=TIMEOUT):
    try:
        p = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                           timeout=timeout)
        return p.returncode, p.stdout.decode("latin-1"), p.stderr.decode("latin-1")
    except subprocess.TimeoutExpired as e:
        return None, (e.stdout or b"").decode("latin-1"), ""


def qemu_command(name, qemu, image):
    return [qemu, "-accel", "tcg", "-cpu", QEMU_CPU.get(name, "max"), "-m", "64", "-display", "none", "-serial",
            "stdio", "-monitor", "none", "-no-reboot", "-smp", str(CPUS.get(name, 1)), "-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-kernel",
            image]


# Each guest runs on the interpreter, and on the translator with every instruction translated when first met.
TRANSLATE = ["--engine", "translate", "--hot", "1"]
ENGINES = {"insula": ["--engine", "interpret"], "translate": TRANSLATE}
# Of 64-bit guests, since nothing else is translated: the translator against the interpreter.
CHECKS = {"lockstep": [*TRANSLATE, "--check", "lockstep"], "exact": [*TRANSLATE, "--check", "lockstep,exact"],
          "pingpong": [*TRANSLATE, "--check", "pingpong=1"]}


def engines_of(name):
    """Each with its options."""
    if WIDTHS[name] != 64:
        return ENGINES
    return ENGINES | ({"pingpong": CHECKS["pingpong"]} if name in CPUS else CHECKS)


def insula_command(name, insula, image, options):
    return [insula, "run", *options, "--kernel", image, "--mem", "64M", "--debug-exit", "--no-reboot",
            "--cpus", str(CPUS.get(name, 1))]


BOCHSRC = """display_library: rfb, options="timeout=0"
romimage: file={rom}
vgaromimage: file={vga}
megs: 64
cpu: model={cpu}, count=1, ips=50000000, reset_on_triple_fault=0
com1: enabled=1, mode=file, dev={out}
log: {log}
panic: action=fatal
error: action=ignore
info: action=ignore
speaker: enabled=0
sound: driver=dummy
"""


def run_bochs(name, bochs, image, out):
    """Bochs starts from a ROM that carries the image; COM1 goes to a file."""
    def path(suffix):
        return os.path.join(out, "%s-bochs.%s" % (name, suffix))
    with open(image, "rb") as f:
        entry = struct.unpack_from("<I", f.read(28), 24)[0]
    subprocess.run(["objcopy", "-O", "binary", image, path("img")], check=True)
    subprocess.run(["gcc", "-m32", "-c", os.path.join(SOURCES, "bochs_rom.S"), "-o", path("o")], check=True)
    subprocess.run(["ld", "-m", "elf_i386", "-Ttext", "0", "--oformat", "binary", "-e", "rom", "-o", path("boot"),
                    path("o")], check=True)
    with open(path("img"), "rb") as f:
        img = f.read()
    with open(path("boot"), "rb") as f:
        boot = bytearray(f.read())
    size = 0x80000
    struct.pack_into("<III", boot, 0, len(img), entry, 0x100000000 - size)
    with open(path("rom"), "wb") as f:
        f.write(img.ljust(size - len(boot), b"\0") + boot)
    vga = bytearray(32768)
    vga[0:4] = b"\x55\xaa\x40\xcb"
    vga[-1] = -sum(vga) & 255
    with open(path("vga"), "wb") as f:
        f.write(vga)
    with open(path("rc"), "w") as f:
        f.write("c\n")
    with open(path("conf"), "w") as f:
        f.write(BOCHSRC.format(rom=path("rom"), vga=path("vga"), out=path("txt"), log=path("log"),
                               cpu=BOCHS_CPU.get(name, "corei7_skylake_x")))
    if os.path.exists(path("txt")):
        os.remove(path("txt"))
    status, _, err = run([bochs, "-q", "-f", path("conf"), "-rc", path("rc")])
    text = ""
    if os.path.exists(path("txt")):
        with open(path("txt"), encoding="latin-1") as f:
            text = f.read()
    ended = "verdict:" in text
    ended = ended or name in ENDS
    return (3 if "verdict: fail" in text else 1) if ended else -1, text, err


def judge(name, engine, result, verbose):
    """Returns the number of lines that count against the engine."""
    status, out, err = result
    want = ENDS.get(name, {}).get(engine if engine in ("qemu", "bochs") else "insula", 1)
    lines = [l.rstrip("\r") for l in out.split("\n")]
    bad = [l for l in lines if l.startswith("FAIL")]
    reasons = {"qemu": QEMU_DEVIATES, "bochs": BOCHS_DEVIATES}.get(engine, {}).get(name, [])
    excuses = tuple(prefix for _, prefixes in reasons for prefix in prefixes)
    excused = [l for l in bad if l[5:].startswith(excuses)] if excuses else []
    counted = [l for l in bad if l not in excused]
    oks = sum(l.startswith("ok") for l in lines)
    skips = [l for l in lines if l.startswith("skip")]
    # A sanitizer's exit status may be any; only the verdict line tells that the guest came to its end.
    told = name in ENDS or any(l.startswith("verdict: pass") for l in lines)
    end_ok = (status == want and told) or (excused and not counted and status == 3) or \
        any(reason.startswith(STOPS) for reason, _ in reasons)
    note = "%d ok" % oks
    if skips:
        note += ", %d skipped" % len(skips)
    if excused:
        note += ", %d excused" % len(excused)
    if counted:
        note += ", %d FAILED" % len(counted)
    if not end_ok:
        note += ", ended with %s instead of %s" % ("timeout" if status is None else status, want)
    print("%-10s %-9s %s" % (name, engine, note))
    for l in counted if not verbose else lines:
        print("    " + l)
    if not end_ok and err:
        print("    stderr: " + err.strip()[-400:])
    return len(counted) + (not end_ok)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="guests to run (all)")
    parser.add_argument("--out", default=os.path.join(ROOT, "build", "guests"), help="where images are built")
    parser.add_argument("--insula", default=os.path.join(ROOT, "build", "insula"))
    parser.add_argument("--only", choices=["insula", "qemu", "bochs"])
    parser.add_argument("-v", "--verbose", action="store_true", help="show every line")
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    qemu = shutil.which("qemu-system-x86_64") if args.only in (None, "qemu") else None
    bochs = shutil.which("bochs-bin") if args.only == "bochs" else None
    insula = args.insula if args.only in (None, "insula") and os.path.exists(args.insula) else None
    if args.only in (None, "qemu") and not qemu:
        print("SKIP qemu: qemu-system-x86_64 is not installed")
    if args.only in (None, "insula") and not insula:
        print("SKIP insula: %s does not exist" % args.insula)
    failures = 0
    for name in args.names or sorted(WIDTHS):
        image = build(name, args.out)
        if insula:
            for engine, options in engines_of(name).items():
                result = run(insula_command(name, insula, image, options), LONG.get(name, TIMEOUT))
                failures += judge(name, engine, result, args.verbose)
        if qemu:
            stops = any(reason.startswith(STOPS) for reason, _ in QEMU_DEVIATES.get(name, []))
            result = run(qemu_command(name, qemu, image), 3 if stops else LONG.get(name, TIMEOUT))
            differs = judge(name, "qemu", result, args.verbose)
            # Where QEMU runs on beyond a limit, what it meets is chance; Insula alone decides the test.
            failures += differs if args.only == "qemu" else 0
        if bochs:
            failures += judge(name, "bochs", run_bochs(name, bochs, image, args.out), args.verbose)
    if not insula and not qemu and not bochs:
        return 77
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
