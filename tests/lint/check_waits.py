#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Every wait of a fault is a histogram, and a fault allocates nothing and submits no write
(requirements A12, A13, C18, D14).

Reads the sources as text. From what a touch or a pin enters, everything that may be called is
followed by name; a call through a table (ops->read) may be any function that a table names so.
What sleeps (park) must do so in a function that tells how long (wr_stats_time), or in one whose
every caller does. What waits without telling (a mutex, a bell, a sleep) must not be reachable.
The back end's own read is followed no further: wr_touch_out() times it whole. A spin that yields is
seen by page_lock.
"""
import json
import pathlib
import re
import subprocess
import sys

ROOTS = ("wr_fault_on_touch", "wr_fault_pin")
PARK = re.compile(r"(?:->|\.)park\(")
FORBIDDEN = re.compile(r"\b(wr_lock_take|pthread_mutex_lock|pthread_cond_\w+|nanosleep|usleep|sleep|"
                       r"poll|ppoll|select|sem_wait)\(|->bell_wait\(")
# What may itself need memory to be freed (D14), or starts a write (C18).
ALLOCATES = re.compile(r"\b(malloc|calloc|realloc|aligned_alloc|posix_memalign|strdup|free)\(")
SUBMITS = re.compile(r"->(submit|launder)\(")
CALL = re.compile(r"(->\s*|\.)?\b([a-z_]\w*)\(")
ENTRY = re.compile(r"\.(\w+) = (\w+),")
NOISE = re.compile(r'/\*.*?\*/|"(?:\\.|[^"\\])*"', re.S)  # comments and strings
TIMED_WHOLE = {"read"}  # pager and back end: by wr_touch_out()

def functions(root):
    paths = sorted((root / "runtime").rglob("*.c"))
    out = subprocess.run(["ctags", "--output-format=json", "--fields=+ne", "--kinds-C=f", "-f", "-",
                          *map(str, paths)], capture_output=True, text=True, check=True).stdout
    texts = {str(p): p.read_text().splitlines() for p in paths}
    for line in out.splitlines():
        tag = json.loads(line)
        body = "\n".join(texts[tag["path"]][tag["line"]:tag["end"]])
        yield tag["path"], tag["name"], NOISE.sub("", body)
    for path, lines in texts.items():
        yield path, None, "\n".join(lines)

class Code:
    def __init__(self, root):
        self.body, self.by_name, self.table = {}, {}, {}
        for path, name, body in functions(root):
            if name is None:
                for member, function in ENTRY.findall(body):
                    self.table.setdefault(member, set()).add(function)
                continue
            self.body[path, name] = body
            self.by_name.setdefault(name, []).append((path, name))

    def named(self, name, path):
        """In the same file, or the one of that name elsewhere."""
        own = [key for key in self.by_name.get(name, []) if key[0] == path]
        return own or self.by_name.get(name, [])

    def calls(self, key):
        for how, name in CALL.findall(self.body[key]):
            if not how:
                yield from self.named(name, key[0])
            elif name not in TIMED_WHOLE and "/host/" not in key[0]:
                for function in self.table.get(name, ()):
                    # The host's functions are the system calls themselves.
                    yield from (k for k in self.named(function, key[0]) if "/host/" not in k[0])

def reachable(code):
    seen, todo = set(), [key for root in ROOTS for key in code.by_name.get(root, [])]
    while todo:
        key = todo.pop()
        if key not in seen:
            seen.add(key)
            todo += code.calls(key)
    return seen

def untimed(code, seen):
    """Functions that may sleep and do not tell, callers included."""
    quiet = {key for key in seen if PARK.search(code.body[key])}
    while True:
        quiet = {key for key in quiet if "wr_stats_time(" not in code.body[key]}
        more = {key for key in seen if quiet & set(code.calls(key))
                and "wr_stats_time(" not in code.body[key]}
        if more <= quiet:
            return quiet
        quiet |= more

def main(root):
    code = Code(root)
    seen = reachable(code)
    bad = [f"{name} ({pathlib.Path(path).name}) waits by {found.group(0)}...) on the way of a fault"
           for path, name in sorted(seen) if (found := FORBIDDEN.search(code.body[path, name]))]
    bad += [f"{name} ({pathlib.Path(path).name}) has {found.group(0)}...) on the way of a fault"
            for path, name in sorted(seen) for what in (ALLOCATES, SUBMITS)
            if (found := what.search(code.body[path, name]))]
    bad += [f"{name} sleeps on the way of a fault, and no histogram is told"
            for path, name in sorted(untimed(code, seen)) if name in ROOTS]
    parks = sorted(name for path, name in seen if PARK.search(code.body[path, name]))
    for must in ("wr_touch_out", "join_read", "wait_for_frame", "lock_slowly"):
        if not any(name == must for _, name in seen):
            bad.append(f"{must} is not seen: this test has gone blind")
    print("\n".join(bad))
    print(f"check_waits: {len(bad)} findings; {len(seen)} functions on the way of a fault, which "
          f"sleep in {', '.join(parks)}")
    return bool(bad)

sys.exit(main(pathlib.Path(sys.argv[1])))
