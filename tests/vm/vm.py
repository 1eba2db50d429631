#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Machines in an emulator, with a kernel of Debian's over the host's files (docs/TESTING.md)."""
import argparse
import contextlib
import fnmatch
import os
import pathlib
import platform
import shutil
import signal
import sys
import tempfile
import time

import kernel
import machine
import runner
import tests

ROOT = pathlib.Path(__file__).resolve().parents[2]
BROKEN = 125  # exit status: it was the machine, not the command
SKIPPED = 77  # of the list: this machine has not what it takes
NEEDED = ["qemu-system-x86_64", "busybox", "mke2fs", "setpriv", "apt-get", "dpkg-deb", "rdma",
          "ibv_rc_pingpong", "rping"]


def say(text):
    print(f"vm: {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def machines(count, package):
    """That many machines, joined, ready; gone in the end, whatever happens."""
    home = kernel.fetch(package, ROOT / "build" / "vm")
    begun = time.monotonic()
    running = []
    with tempfile.TemporaryDirectory(prefix="weir-vm-") as name:
        folder = pathlib.Path(name)
        kernel.initramfs(home, machine.HERE / "init", folder / "initrd")
        ends = machine.socket.socketpair() if count == 2 else [None]
        try:
            for number, end in enumerate(ends, start=1):
                running.append(machine.Machine(number, home, folder, end))
            machine.wait(running, lambda: all(m.ready for m in running), machine.BOOT_SECONDS,
                         "starting")
            for one in running:
                one.disk.unlink()  # it goes with the machine, also if we are killed
            say(f"{kernel.name_of(home)}: ready after {time.monotonic() - begun:.1f} s")
            yield running
        except machine.Broken as broken:
            say(broken)
            for one in running:
                say(f"the end of {one.name}'s console:\n{one.last_words()}")
            sys.exit(BROKEN)
        finally:
            for one in running:
                one.kill()


def shown(name):
    """What prints the output of a machine as it comes; if it has a name, whole lines after that."""
    rest = b""

    def show(data):
        nonlocal rest
        if name:
            lines = (rest + data).splitlines(True)
            rest = b"" if not lines or lines[-1].endswith(b"\n") else lines.pop()
            data = b"".join(f"{name} | ".encode() + line for line in lines)
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    return show


def run_commands(commands, seconds, package):
    """Each in a machine of its own, all at once. The exit status is the last one's: what the others
    run ends with it."""
    with machines(len(commands), package) as running:
        last = running[-1]
        for one, command in zip(running, commands):
            one.show = shown(one.name if len(commands) > 1 else None)
            one.start(command)
        machine.wait(running, lambda: last.status is not None, seconds, "the command")
        return last.status


def run_list(patterns, wants_all, build, package):
    """The tests of tests.py whose names match, or which are not long; two machines."""
    def is_chosen(test):
        if patterns:
            return any(fnmatch.fnmatch(test.name, p) for p in patterns)
        return wants_all or not test.is_long

    def chosen(tests):
        return [t for t in tests if is_chosen(t)]
    ones, twos = chosen(tests.ONE), chosen(tests.TWO)
    if not ones and not twos:
        say("no test has such a name; there are " +
            ", ".join(t.name for t in tests.ONE + tests.TWO))
        return 2
    with machines(2, package) as running:
        return runner.Runner(running, {"B": build}).run(ones, twos)


def main():
    parser = argparse.ArgumentParser(prog="./dev vm", description=__doc__)
    parser.add_argument("--kernel", default="linux-image-amd64", metavar="PACKAGE",
                        help="Debian's package of it (linux-image-amd64)")
    parser.add_argument("--seconds", type=int, default=600,
                        help="the longest that commands may take (600)")
    parser.add_argument("--two", action="store_true",
                        help="two machines, a command for each; the second one's end is the end")
    parser.add_argument("--build", default=ROOT / "build" / "release", metavar="TREE",
                        help="the build tree that the tests are in (build/release)")
    parser.add_argument("--only", action="append", metavar="TEST",
                        help="of the tests, this one; may be a pattern, and be given again")
    parser.add_argument("--all", action="store_true", help="of the tests also those that are long")
    parser.add_argument("command", nargs="*",
                        help="of bash; without one the tests run that are in tests/vm/tests.py")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    missing = [program for program in NEEDED if not shutil.which(program)]
    try:
        if platform.machine() != "x86_64":
            raise kernel.Missing(f"the emulator runs x86-64, and this is {platform.machine()}")
        if missing:
            raise kernel.Missing(f"not installed: {', '.join(missing)}; ./dev vm installs them")
        return run(options, parser)
    except kernel.Missing as reason:
        say(f"NOT TESTED: {reason}" if not options.command else reason)
        return BROKEN if options.command else SKIPPED


def run(options, parser):
    """What is asked for; the exit status."""
    if not options.command:
        return run_list(options.only, options.all, options.build, options.kernel)
    commands = options.command if options.two else [" ".join(options.command)]
    if len(commands) != 1 + options.two:
        parser.error("--two wants two commands")
    return run_commands(commands, options.seconds, options.kernel)


if __name__ == "__main__":
    sys.exit(main())
