"""Runs Bochs with the guest's first serial line on stdin and stdout: bochs_console.py BOCHSRC.
Called by machine.py.

Bochs wants terminals: one for the serial line, named in its configuration, which it is given here
as @SERIAL@, and one for its display, of which nothing is kept. Debian's package has its debugger
compiled in, which waits for a command before anything runs."""

import os
import pty
import select
import signal
import subprocess
import sys
import tty


def main():
    with open(sys.argv[1]) as template:
        text = template.read()
    serial, serial_name = pty.openpty()
    display, display_end = pty.openpty()
    tty.setraw(serial_name)
    folder = os.path.dirname(os.path.abspath(sys.argv[1]))
    config, commands = os.path.join(folder, "bochsrc.run"), os.path.join(folder, "bochs.commands")
    with open(config, "w") as out:
        out.write(text.replace("@SERIAL@", os.ttyname(serial_name))
                  .replace("@LOG@", os.path.join(folder, "bochs.out")))
    with open(commands, "w") as out:
        out.write("c\n")
    bochs = subprocess.Popen(
        ["bochs", "-q", "-f", config, "-rc", commands], stdin=display_end, stdout=display_end,
        stderr=display_end, env={**os.environ, "TERM": "linux"})
    signal.signal(signal.SIGTERM, lambda *_: bochs.kill())
    try:
        while bochs.poll() is None:
            ready, _, _ = select.select([0, serial, display], [], [], 1)
            if display in ready:
                os.read(display, 65536)
            if serial in ready:
                os.write(1, os.read(serial, 65536))
            if 0 in ready:
                got = os.read(0, 4096)
                if not got:
                    break
                os.write(serial, got)
    finally:
        bochs.kill()
        bochs.wait()


if __name__ == "__main__":
    main()
