#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""check_lines.py BENCH [OPTION...] NAME[:ONLY]...: run benches, with these options for all of them,
and see that every line is what docs/BENCHMARKS.md says."""
import json
import math
import subprocess
import sys

FIELDS = {"bench", "case", "metric", "unit", "weir", "baseline", "baseline_name", "better"}

def wrong(line):
    missing = FIELDS - line.keys()
    if missing:
        return f"lacks {', '.join(sorted(missing))}"
    if line["better"] not in ("higher", "lower"):
        return "better is neither higher nor lower"
    # Where the kernel waits before it kills, want of memory is no reason to die: there is swap.
    if "baseline_held" in line and "baseline_deaths" in line:
        return f"has a baseline that died: {line['baseline_death']}"
    if "ratio" not in line:
        return None if line.get("baseline_missing") else "has neither ratio nor baseline_missing"
    of, by = (line["weir"], line["baseline"])[:: 1 if line["better"] == "higher" else -1]
    least = {"bytes": 4096, "faults": 1}.get(line["unit"], 0)
    if not math.isclose(line["ratio"], max(of, least) / max(by, least), rel_tol=1e-3):
        return f"says ratio {line['ratio']} of {of} and {by}"
    return None

def main(bench, words):
    options = ["--quick"] + [word for word in words if word.startswith("--")]
    bad = 0
    for word in words:
        name, _, only = word.partition(":")
        if word in options:
            continue
        run = subprocess.run([bench, name] + options + ([f"--only={only}"] if only else []),
                             capture_output=True, text=True)
        lines = [json.loads(text) for text in run.stdout.splitlines()]
        print(f"{name}: {len(lines)} lines, status {run.returncode}\n{run.stderr}", end="")
        bad += run.returncode != 0 or not lines
        for line in lines:
            fault = wrong(line) or (line["bench"] != name and "names another bench")
            if fault:
                bad += 1
                print(f"{name}, {line.get('case')}: {fault}")
    return bad

sys.exit(main(sys.argv[1], sys.argv[2:]) > 0)
