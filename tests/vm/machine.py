# SPDX-License-Identifier: MIT
"""A machine in the emulator: it is started, does what it is told, and ends with its owner at the
latest. Two of them are joined by a cable, which is a pair of sockets."""
import base64
import os
import pathlib
import re
import selectors
import socket
import subprocess
import time

HERE = pathlib.Path(__file__).resolve().parent
BOOT_SECONDS = 150  # it takes seven where nothing else runs
DISK_BYTES = 8 << 30  # of a file with holes
END = re.compile(rb"\n\x1e(\d+)\n")  # what guest.sh says at the end of a command
END_BYTES = 6


class Broken(Exception):
    """A machine hangs, or has died."""


def make_disk(path):
    with open(path, "wb") as file:
        file.truncate(DISK_BYTES)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-E",
                    "lazy_itable_init=1,nodiscard", path], check=True)


class Machine:
    """One machine. Its files are made in `folder`; `cable` is the end that its network card gets,
    or None. What commands print is given to `show`, which may be changed at any time."""

    def __init__(self, number, kernel, folder, cable=None):
        self.name = f"machine{number}"
        self.show = None
        self.ready = False
        self.dead = False
        self.status = None  # exit status of the last command; None while it runs
        self._heard = b""
        self._console = folder / f"{self.name}.console"
        self.disk = folder / f"{self.name}.disk"
        make_disk(self.disk)
        self._port, port = socket.socketpair()
        self._monitor, monitor = socket.socketpair()
        ends = [end for end in (port, monitor, cable) if end]
        network = f"socket,id=net,fd={cable.fileno()}" if cable else "user,id=net,restrict=on"
        self._process = subprocess.Popen([
            # Who starts it may be killed: then it is, too.
            "setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64",
            "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "3G",
            "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-kernel", kernel / "vmlinux", "-initrd", folder / "initrd",
            "-append", "console=ttyS0 quiet panic=-1 nokaslr mitigations=off audit=0 "
            f"no_timer_check machine={number} guest={HERE}/guest.sh",
            "-serial", f"file:{self._console}",
            "-chardev", f"socket,id=monitor,fd={monitor.fileno()}", "-mon", "monitor",
            "-device", "virtio-serial-pci",
            "-chardev", f"socket,id=port,fd={port.fileno()}",
            "-device", "virtserialport,chardev=port",
            "-fsdev", "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap",
            "-device", "virtio-9p-pci,fsdev=host,mount_tag=host",
            "-drive", f"file={self.disk},format=raw,if=none,id=disk,cache=unsafe",
            "-device", "virtio-blk-pci,drive=disk",
            "-netdev", network,
            "-device", f"virtio-net-pci,netdev=net,mac=52:54:00:77:00:{number:02x},romfile=",
        ], pass_fds=[end.fileno() for end in ends], stdin=subprocess.DEVNULL)
        for end in ends:
            end.close()

    def start(self, command, environment=None):
        """Give it a command of bash; one at a time."""
        lines = [f"export {name}={value}" for name, value in (environment or {}).items()]
        text = "\n".join([f"cd {os.getcwd()}", "set -o pipefail", *lines, command, ""])
        self.status = None
        self._say(base64.b64encode(text.encode()))

    def stop(self):
        """Send SIGTERM to the command that runs."""
        self._say(b"stop")

    def kill_command(self):
        """Send SIGKILL to all that the command has started."""
        self._say(b"kill")

    def plug(self, is_in):
        """Put the cable into the network card, or pull it out."""
        self._monitor.sendall(f"set_link net {'on' if is_in else 'off'}\n".encode())

    def kill(self):
        """As by a power failure; for good."""
        self.dead = True
        self._process.kill()
        self._process.wait()

    def last_words(self, lines=30):
        text = self._console.read_text(errors="replace") if self._console.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def _say(self, line):
        try:
            self._port.sendall(line + b"\n")
        except OSError as error:
            raise Broken(f"{self.name} has died") from error

    def hear(self):
        """Take what the machine says now; its port must be readable."""
        data = self._port.recv(1 << 16)
        if not data:
            raise Broken(f"{self.name} has died")
        data = self._heard + data
        if not self.ready:
            self.ready = b"ready\n" in data
            self._heard = b"" if self.ready else data
            return
        end = END.search(data)
        if end:
            self._print(data[:end.start()])
            self._heard, self.status = data[end.end():], int(end.group(1))
            return
        # What may be the beginning of the end is kept until more is known.
        line = data.rfind(b"\n", max(0, len(data) - END_BYTES))
        line = len(data) if line < 0 else line
        self._print(data[:line])
        self._heard = data[line:]

    def _print(self, data):
        if data and self.show:
            self.show(data)

    def fileno(self):
        return self._port.fileno()


def wait(machines, is_over, seconds, what):
    """Listen to the machines until is_over(). Broken if that takes too long."""
    end = time.monotonic() + seconds
    with selectors.DefaultSelector() as talking:
        for machine in machines:
            if not machine.dead:
                talking.register(machine, selectors.EVENT_READ)
        while not is_over():
            left = end - time.monotonic()
            if left <= 0:
                raise Broken(f"{what}: not within {seconds} seconds")
            for key, _ in talking.select(min(left, 0.2)):
                key.fileobj.hear()
