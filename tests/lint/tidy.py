#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Taste is a test, and it only tightens: sizes, widths, first lines, marks."""
import json
import pathlib
import re
import subprocess
import sys

LIMIT = {"function": 70, "file": 800, "header": 200, "line": 100}  # a limit may only go down
MARK = re.compile(r"\b(?:TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK)\b")
HEADER_EXCEPTIONS = {"include/weir/weir.h": 400}

def functions(paths):
    out = subprocess.run(["ctags", "--output-format=json", "--fields=+ne", "--kinds-C=f", "-f", "-",
                          *map(str, paths)], capture_output=True, text=True, check=True).stdout
    for line in out.splitlines():
        tag = json.loads(line)
        yield tag["path"], tag["name"], tag["line"], tag.get("end", tag["line"]) - tag["line"] + 1

def main(root):
    bad = []
    paths = sorted(p for top in ("include", "runtime", "transport", "examples", "tests")
                   for p in (root / top).rglob("*.[ch]"))
    for path in paths:
        name = path.relative_to(root).as_posix()
        lines = path.read_text().splitlines()
        limit = LIMIT["file"] if path.suffix == ".c" else HEADER_EXCEPTIONS.get(name, LIMIT["header"])
        if len(lines) > limit:
            bad.append(f"{name}: {len(lines)} lines, at most {limit}")
        if not lines or "SPDX-License-Identifier: MIT" not in lines[0]:
            bad.append(f"{name}:1: the first line names the licence")
        for number, line in enumerate(lines, 1):
            if len(line) > LIMIT["line"]:
                bad.append(f"{name}:{number}: {len(line)} columns, at most {LIMIT['line']}")
            if MARK.search(line):
                bad.append(f"{name}:{number}: a mark is left")
    sizes = []
    for path, name, line, size in functions(paths):
        sizes.append(size)
        if size > LIMIT["function"]:
            bad.append(f"{pathlib.Path(path).relative_to(root)}:{line}: {name} has {size} lines, "
                       f"at most {LIMIT['function']}")
    sizes.sort()
    print("\n".join(bad))
    print(f"tidy: {len(bad)} findings; {len(sizes)} functions, median {sizes[len(sizes) // 2]}, "
          f"90% within {sizes[len(sizes) * 9 // 10]} lines")
    return bool(bad)

sys.exit(main(pathlib.Path(sys.argv[1])))
