#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""check_bugs.py BENCH_BUGS DIR: each historic bug makes its benchmark fall over, as the seed tells.

Runs sides of the benches by themselves, small, once without and once with the bug, and compares
what they count. Only lookup_blocks is told by a time: that of the write which is waited for.
"""
import os
import subprocess
import sys
import tempfile

MIB = 1 << 20
DELAYS_MS = (60, 240)

def run(program, bug, side, **arguments):
    """The results of one run."""
    words = [side] + [f"{name}={value}" for name, value in arguments.items()]
    environment = {name: value for name, value in os.environ.items() if name != "WEIR_BUG"}
    if bug:
        environment["WEIR_BUG"] = bug
    with tempfile.TemporaryFile() as results:
        # The program tells its results on descriptor 3.
        subprocess.run(["sh", "-c", f'exec 3>&{results.fileno()} && exec "$@"', "sh", program,
                        "--run", *words], check=True, env=environment, timeout=200,
                       pass_fds=[results.fileno()])
        results.seek(0)
        lines = [line.split() for line in results.read().decode().splitlines()]
    return {name: float(value) for name, value in lines}

class Check:
    def __init__(self):
        self.bad = 0

    def must(self, holds, text):
        print(f"{'ok ' if holds else 'BAD'} {text}")
        self.bad += not holds

def lookup_blocks(program, check, _):
    """A1: the fault takes as long as what is left of the write; without the bug it sees nothing of
    it."""
    last = 0
    for ms in DELAYS_MS:
        how = dict(budget=96 * MIB, pages=64 * MIB // 4096, samples=20, seconds=6,
                   spec=f"chaos(mem:?size=1G)?write_delay_us={ms * 1000}")
        good, bad = (run(program, bug, "wbfault", **how) for bug in (None, "lookup_blocks"))
        for kind in ("read", "write"):
            took, blocked = (r[f"{kind}_writing_p50"] / 1000 for r in (good, bad))
            check.must(took < ms / 8 < blocked,
                       f"lookup_blocks: a {kind} under a write of {ms} ms takes {took:.3g} ms, with "
                       f"the bug {blocked:.3g} ms")
        check.must(blocked > 2 * last, "lookup_blocks: it grows with the write")
        last = blocked

def bigiron(program, check, directory):
    """E2, E3, E8; E9, E11."""
    budget = 64 * MIB
    how = dict(budget=budget, pages=2 * budget // 4096, views=200, seconds=0.3,
               spec=f"watch(file:{directory}?size=512M)")
    good, whole, late = (run(program, bug, "bigiron", **how)
                         for bug in (None, "unmap_all", "late_io"))
    for metric, least in (("first_free", 8), ("soft_unchosen", 50)):
        check.must(whole[metric] >= least * max(good[metric], 1),
                   f"unmap_all: {metric} {good[metric]:.0f}, with the bug {whole[metric]:.0f}")
    for metric, least in (("first_free", 4), ("unsubmitted", 2)):
        check.must(late[metric] >= least * max(good[metric], 1),
                   f"late_io: {metric} {good[metric]:.0f}, with the bug {late[metric]:.0f}")
    check.must(good["first_free"] <= 512 and good["soft_unchosen"] == 0,
               "without a bug one cluster is taken before the first write, and nothing else unmapped")

def no_clean_first(program, check, directory):
    """E18, E24: the hot set is written and lost for a stream of pages that could be dropped."""
    how = dict(budget=32 * MIB, spec=f"file:{directory}?size=832M", seconds=0.5)
    good, bad = (run(program, bug, "copystream", **how) for bug in (None, "no_clean_first"))
    check.must(bad["resident_after"] < good["resident_after"] * 0.6,
               f"no_clean_first: {good['resident_after']:.0f} pages of the hot set are in memory "
               f"beside the stream, with the bug {bad['resident_after']:.0f}")
    stored = [r["swapout_hot"] for r in (good, bad)]
    check.must(stored[1] > 4 * stored[0], f"no_clean_first: {stored[0]:.3g} pages are written for "
               f"each touch of the hot set, with the bug {stored[1]:.3g}")

def lru_lost(program, check, _):
    """What was wanted again leaves next: hot pages are read over and over."""
    misses = []
    for bug in (None, "lru_lost"):
        misses.append(sum(run(program, bug, "policy", budget=20000 * 4096 * 2 // 5, pages=20000,
                              spec="mem:?size=320M", readahead=0, around=0, accesses=300000,
                              kind=kind)["miss_ratio"] for kind in (0, 1)))
    check.must(misses[1] > 1.1 * misses[0], f"lru_lost: misses a touch, of two Zipf loads together, "
               f"{misses[0]:.3g}, with the bug {misses[1]:.3g}")

def main(program, directory):
    check = Check()
    for bug in (lookup_blocks, bigiron, no_clean_first, lru_lost):
        with tempfile.TemporaryDirectory(dir=directory) as own:
            bug(program, check, own)
    return check.bad > 0

sys.exit(main(*sys.argv[1:]))
