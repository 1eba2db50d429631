#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Every include goes down: the map below is the architecture."""
import pathlib
import re
import sys

FLOOR = {"include/weir": 0, "runtime/base": 1, "runtime/host": 2, "runtime/memory": 3,
         "runtime/paging": 4, "runtime/swap": 4, "runtime": 5}
OUTSIDE = {"transport": {"include/weir", "transport"},  # plugs, not rooms
           "runtime/calls": {"include/weir", "runtime/calls"},  # a user of the promises
           "runtime/cmd": {"include/weir", "runtime/cmd"},  # the command: likewise an application
           "runtime/heap": {"include/weir", "runtime/heap"},  # a user of the library
           "examples": {"include/weir"},                # an application sees promises only
           "tests": None}                               # tests may open any door

def room(path):
    parts = pathlib.PurePath(path).parts
    if parts[0] == "runtime" and len(parts) > 2:
        return "/".join(parts[:2])
    return "include/weir" if parts[0] == "include" else parts[0]

def target(include):
    return "include/weir" if include.startswith("weir/") else room(include)

def allowed(src, dst):
    if src in OUTSIDE:
        return OUTSIDE[src] is None or dst in OUTSIDE[src]
    return src == dst or FLOOR.get(dst, 99) < FLOOR[src]

def main(root):
    bad = 0
    for path in sorted(p for top in ("include", "runtime", "transport", "examples", "tests")
                       for p in (root / top).rglob("*.[ch]")):
        name = path.relative_to(root).as_posix()
        for number, line in enumerate(path.read_text().splitlines(), 1):
            found = re.match(r'#include ["<]((?:weir|runtime|transport|examples|tests)/[^">]+)', line)
            if found and not allowed(room(name), target(found.group(1))):
                print(f"{name}:{number}: {room(name)} may not include {found.group(1)}")
                bad += 1
            if re.match(r'#include .*\.c[">]', line):
                print(f"{name}:{number}: a source includes a source")
                bad += 1
    print(f"check_rooms: {bad} includes go up or sideways")
    return bad != 0

sys.exit(main(pathlib.Path(sys.argv[1])))
