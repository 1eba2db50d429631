#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""docs/OPERATIONS.md names every warning of the library, and no event that there is not.

The first column of its tables below "What events mean" has texts in backticks; "..." stands for
what varies. Each part of one must be in the sources, as a string; each warning must be in a table.
"""
import pathlib
import re
import sys

STRINGS = re.compile(r'"((?:[^"\\]|\\.)*)"(?:\s*"((?:[^"\\]|\\.)*)")*')
ONE = re.compile(r'"((?:[^"\\]|\\.)*)"')
VARIES = re.compile(r"%[-.*\d]*(?:ll|l)?[a-z]|\.\.\.|\\\"")
LEAST = 12  # characters of a part that mean something

def strings(text):
    """Every string of the source, neighbours joined."""
    return ["".join(ONE.findall(m[0])) for m in STRINGS.finditer(text)]

def parts(text):
    return [p.strip() for p in VARIES.split(text) if len(p.strip(" :;,()")) >= 3]

def promised(page):
    section = page.split("## What events mean", 1)[1]
    return [m[1] for m in re.finditer(r"^\| `([^`]+)` \|", section, re.M)]

def warnings(text):
    """The longest string said after each WEIR_WARNING, up to the end of the statement."""
    for match in re.finditer(r"\bWEIR_WARNING,", text):
        said = strings(text[match.end():].split(";\n", 1)[0])
        yield from [s for s in said if max(map(len, parts(s)), default=0) >= LEAST][:1]

def main(root):
    sources = {p: p.read_text() for top in ("runtime", "transport")
               for p in sorted((root / top).rglob("*.c")) if "memd" not in p.parts}
    # With what varies made the same, so that a part cannot end in the midst of a conversion.
    known = " ".join(VARIES.sub("...", s) for t in sources.values() for s in strings(t))
    rows = promised((root / "docs/OPERATIONS.md").read_text())
    if len(rows) < 20:
        return ["docs/OPERATIONS.md has no tables of events: this test has gone blind"]
    bad = [f'docs/OPERATIONS.md: no event says "{p}"' for row in rows for p in parts(row) if p not in known]
    said = [(p, w) for p, text in sources.items() for w in warnings(text)]
    if len(said) < 8:
        bad.append("hardly a warning is found in the sources: this test has gone blind")
    listed = [[p for p in parts(row) if len(p) >= LEAST] for row in rows]
    for path, warning in said:
        if not any(p in warning or warning in p for row in listed for p in row):
            bad.append(f'{path.relative_to(root)}: docs/OPERATIONS.md does not explain "{warning}"')
    return bad

if __name__ == "__main__":
    found = main(pathlib.Path(sys.argv[1]))
    print("\n".join(found) if found else "check_events: all explained")
    sys.exit(bool(found))
