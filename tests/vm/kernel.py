# SPDX-License-Identifier: MIT
"""A Debian kernel for the emulator: the package is downloaded, not installed, and what is needed of
it is kept in a folder. `fetch` gives that folder; `initramfs` writes the first file system."""
import lzma
import pathlib
import re
import shutil
import struct
import subprocess
import sys

# What a machine needs to find its root, its disk, its network and its verbs. What these need in
# turn is found in them.
MODULES = ["virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "9p", "9pnet_virtio",
           "overlay", "ext4", "crc32c_generic", "crc32_generic", "dummy",
           "rdma_rxe", "rdma_ucm", "ib_umad"]
FOLDERS = ["arch", "crypto", "drivers/block", "drivers/char", "drivers/infiniband/core",
           "drivers/infiniband/sw", "drivers/net", "drivers/virtio", "fs", "lib", "net"]


class Missing(Exception):
    """There is no kernel to be had."""


def run(*command, **options):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, **options).stdout


def package_of(name):
    """The package that holds the kernel: names like linux-image-amd64 only point to it."""
    if subprocess.run(["apt-cache", "show", name], stdout=subprocess.DEVNULL,
                      stderr=subprocess.DEVNULL, check=False).returncode:
        subprocess.run(["apt-get", "update", "-qq"], check=False)
    try:
        depends = run("apt-cache", "depends", name)
    except subprocess.CalledProcessError:
        raise Missing(f"there is no package {name} in the lists of apt") from None
    found = re.search(r"Depends: (linux-image-\d\S+)", depends)
    return found.group(1) if found else name


def expand(image):
    """The kernel itself from a bzImage, where it lies compressed: unpacking is slow in an emulator.
    Offsets are those of Linux's boot protocol, 2.08."""
    data = image.read_bytes()
    if data[0x202:0x206] != b"HdrS":
        raise SystemExit(f"vm: {image} is no Linux kernel")
    start = (data[0x1f1] + 1) * 512 + struct.unpack_from("<I", data, 0x248)[0]
    packed = data[start:start + struct.unpack_from("<I", data, 0x24c)[0]]
    if packed.startswith(b"\xfd7zXZ"):
        return lzma.LZMADecompressor().decompress(packed)
    return None


def in_order(tree):
    """The modules of MODULES and all that they need, each after what it needs."""
    files = {re.sub(r"\.ko(\.xz)?$", "", p.name).replace("-", "_"): p for p in tree.rglob("*.ko*")}
    order = {}

    def add(name):
        path = files.get(name)
        if path is None or name in order:  # built in, or there already
            return
        data = path.read_bytes()
        data = lzma.decompress(data) if path.suffix == ".xz" else data
        depends = re.search(rb"\0depends=([^\0]*)\0", data).group(1).decode()
        for other in filter(None, depends.split(",")):
            add(other.replace("-", "_"))
        order[name] = data

    for name in MODULES:
        add(name.replace("-", "_"))
    return order


def unpack(package, cache, home):
    """Download the package and make `home` of it: its name, vmlinux, the modules in their order."""
    print(f"vm: downloading {package}", file=sys.stderr, flush=True)
    try:
        run("apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", package, cwd=cache)
    except subprocess.CalledProcessError:
        raise Missing(f"{package} cannot be downloaded: is there a network?") from None
    deb = next(cache.glob(f"{package}_*.deb"))
    tree, new = cache / "tree", cache / "new"
    for folder in (tree, new):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    members = ["./boot/vmlinuz-*"] + [f"./lib/modules/*/kernel/{f}/*" for f in FOLDERS]
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE) as source:
        subprocess.run(["tar", "-x", "-C", tree, "--wildcards", *members], stdin=source.stdout,
                       check=True)
    image = next((tree / "boot").glob("vmlinuz-*"))
    (new / "name").write_text(package)
    (new / "vmlinux").write_bytes(expand(image) or image.read_bytes())
    for number, (name, data) in enumerate(in_order(tree).items()):
        (new / f"{number:02}-{name}.ko").write_bytes(data)
    shutil.rmtree(tree)
    deb.unlink()
    new.rename(home)


def fetch(name, cache):
    """The folder of that kernel, from the cache if it is there: then no newer one is looked for."""
    home = cache / name
    cache.mkdir(parents=True, exist_ok=True)
    if not home.is_dir():
        unpack(package_of(name), cache, home)
    return home


def name_of(home):
    return (home / "name").read_text()


def entry(name, mode, data=b""):
    """One entry of a cpio archive as Linux reads it ("newc")."""
    name = name.encode() + b"\0"
    fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0)
    head = b"070701" + b"".join(b"%08X" % f for f in fields) + name
    return head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4)


def initramfs(home, init, path):
    """Write the first file system of a machine: busybox, the modules, and INIT."""
    busybox = shutil.which("busybox")
    parts = [entry(folder, 0o40755) for folder in ("bin", "dev", "modules", "proc", "sys", "host")]
    parts.append(entry("bin/busybox", 0o100755, pathlib.Path(busybox).read_bytes()))
    parts.append(entry("init", 0o100755, pathlib.Path(init).read_bytes()))
    parts += [entry(f"modules/{m.name}", 0o100644, m.read_bytes())
              for m in sorted(home.glob("*.ko"))]
    parts.append(entry("TRAILER!!!", 0))
    pathlib.Path(path).write_bytes(b"".join(parts))
