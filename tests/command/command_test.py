#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The command `weir`: what it shows of a program that runs, what it says of others, and its
terminal, which tmux is.

command_test.py WEIR KV HEADERS
"""
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

WEIR, KV, HEADERS = sys.argv[1:4]
PATIENCE = 60
SAMPLE = re.compile(r'^(weir_\w+)(\{(.*)\})? (\S+)$')
LABEL = re.compile(r'(\w+)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)')


def check(holds, what):
    if not holds:
        sys.exit(f"command_test: not so: {what}")


def until(condition, what):
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    sys.exit(f"command_test: never: {what}")


def weir(*words, status=0, **more):
    done = subprocess.run([WEIR, "--directory", str(place), *words], capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, timeout=PATIENCE, check=False, **more)
    check(done.returncode == status, f"{words} ends with {status}: {done}")
    check("Sanitizer" not in done.stderr, done.stderr)
    return done.stdout if status == 0 else done.stderr


def start(publish):
    return subprocess.Popen([KV, "--memory", "8m", "--times", "2", "--threads", "1", "--seconds",
                             "200", "--swap", "mem:?size=64m"], stdout=subprocess.DEVNULL,
                            env={**os.environ, "WEIR_PUBLISH": publish})


def sheets():
    return list(place.iterdir()) if place.exists() else []


# --- Prometheus -------------------------------------------------------------------------------

def parse(text):
    """Name, labels and value of each sample; the format is judged on the way."""
    types, samples, last = {}, [], None
    for line in text.splitlines():
        if line.startswith("# "):
            _, word, name, rest = line.split(" ", 3)
            check(word in ("HELP", "TYPE") and rest, line)
            if word == "TYPE":
                check(name not in types, f"{name} comes once")
                types[name], last = rest, name
            continue
        found = SAMPLE.match(line)
        check(found, f"a sample: {line}")
        name = found.group(1)
        check(name == last or (types[last] == "histogram" and
                               name in (last + "_bucket", last + "_sum", last + "_count")),
              f"{name} stands under its own TYPE, not that of {last}")
        labels = dict(LABEL.findall(found.group(3) or ""))
        check(LABEL.sub("", found.group(3) or "") == "", f"labels: {line}")
        samples.append((name, labels, float(found.group(4))))
    return types, samples


def names(header, table):
    text = (pathlib.Path(HEADERS) / header).read_text()
    body = re.search(rf"#define {table}\(X\)((?:.*\\\n)*.*\n)", text).group(1)
    return re.findall(r"X\((\w+),", body)


def look_at_metrics(pid):
    types, samples = parse(weir("metrics", str(pid)))
    for name in names("weir_stats.h", "WEIR_COUNTER_MAP"):
        check(types.get(f"weir_{name}_total") == "counter", name)
    for name in names("weir_stats.h", "WEIR_GAUGE_MAP"):
        check(types.get(f"weir_{name}") == "gauge", name)
    for name in names("weir_region.h", "WEIR_REGION_COUNTER_MAP"):
        check(types.get(f"weir_region_{name}_total") == "counter", name)
    for name in names("weir_stats.h", "WEIR_TIME_MAP"):
        check(types.get(f"weir_time_{name}_seconds") == "histogram", name)
        of = [s for s in samples if s[0].startswith(f"weir_time_{name}_seconds")]
        buckets = [s[2] for s in of if s[0].endswith("_bucket")]
        ends = [float(s[1]["le"]) for s in of if s[0].endswith("_bucket")]
        count = [s[2] for s in of if s[0].endswith("_count")]
        check(buckets == sorted(buckets) and ends == sorted(set(ends)), f"{name} only grows")
        check(ends[-1] == float("inf") and buckets[-1] == count[0], f"{name} counts all")
    values = {name: value for name, _, value in samples}
    check(values["weir_faults_total"] > 0, "faults")
    check(values["weir_budget_bytes"] == 8 << 20, "the budget")
    check(values["weir_backend_bytes"] == 64 << 20, "the back end")
    check(values["weir_region_bytes"] > 8 << 20, "the region")
    check(values["weir_published_age_seconds"] < PATIENCE, "the age")
    for name, labels, _ in samples:
        check(labels["pid"] == str(pid) and labels["program"] == "kv", f"{name}: {labels}")
        check(not name.startswith("weir_backend_") or labels["backend"] == "mem:?size=64m", name)
    return values["weir_faults_total"]


# --- A terminal -------------------------------------------------------------------------------

def tmux(*words):
    return subprocess.run(["tmux", "-S", str(home / "tmux"), "-f", "/dev/null", *words],
                          capture_output=True, text=True, check=False, timeout=PATIENCE)


def pane():
    return tmux("capture-pane", "-p").stdout


def look_at_top(pid, other):
    tmux("new-session", "-d", "-x", "80", "-y", "24", WEIR, "--directory", str(place), "-i", "0.2",
         "top")
    until(lambda: f"> {min(pid, other):>6} kv" in pane() and "REGION" in pane(), "both are shown")
    check(all(len(line) <= 80 for line in pane().splitlines()), pane())
    check("p99" in pane().splitlines()[1], f"80 columns are enough: {pane()}")
    tmux("send-keys", "Down")
    until(lambda: f"> {max(pid, other):>6} kv" in pane(), "an arrow chooses")
    tmux("send-keys", "Down" if pid > other else "Up")
    until(lambda: re.search(r"^  fault .*p99 <", pane(), re.M), "rates come")
    tmux("send-keys", "p")
    until(lambda: "PAUSED" in pane(), "p pauses")
    tmux("resize-window", "-x", "60", "-y", "12")
    until(lambda: max(map(len, pane().splitlines())) <= 60 and "PAUSED" in pane(), "it resizes")
    tmux("send-keys", "p")
    until(lambda: "arrows" in pane(), "p goes on")
    tmux("send-keys", "q")
    until(lambda: tmux("has-session").returncode != 0, "q ends")


def look_at_poor_terminals():
    check("--once" in weir("top", status=1), "no terminal")
    tmux("new-session", "-d", "sh", "-c", f"TERM=dumb {WEIR} top 2>{home}/said; echo $? >{home}/rc")
    until(lambda: (home / "rc").exists() and (home / "rc").read_text(), "TERM=dumb is refused")
    check((home / "rc").read_text() == "1\n" and "--once" in (home / "said").read_text(), "dumb")


# --- What goes wrong --------------------------------------------------------------------------

def look_at_others(pid):
    check("there is no process" in weir("report", "4194304", status=1), "nobody")
    check("does not use Weir" in weir("report", str(os.getpid()), status=1), "not Weir")
    for words in (["report", "x"], ["report", "0"], ["report", "1", "2"], ["nonsense"], [],
                  ["doctor", "1"], ["--interval=0", "top"]):
        check("weir: " in weir(*words, status=2), words)
    full = subprocess.run([WEIR, "-d", str(place), "metrics"], stdout=open("/dev/full", "w"),
                          stderr=subprocess.PIPE, text=True, check=False)
    check(full.returncode == 1 and "cannot be written" in full.stderr, full)
    if os.geteuid() == 0:
        try:
            done = subprocess.run([WEIR, "report", str(pid)], user=65534, group=65534,
                                  capture_output=True, text=True, check=False)
        except PermissionError:
            return  # nobody may not enter the directory of the build
        check(done.returncode == 1 and "another user's (root)" in done.stderr, done)


def run():
    check("no program of yours" in weir("report", status=1), "nobody runs")
    check(parse(weir("metrics"))[1] == [], "that is no error to a scraper")
    programs.append(start(str(place)))
    programs.append(start(str(place)))
    hidden = start("0")
    programs.append(hidden)
    pid, other = programs[0].pid, programs[1].pid
    until(lambda: len(sheets()) == 2, "two programs publish, and the third does not")
    until(lambda: parse(weir("metrics", str(pid)))[1] and
          "0 faults" not in weir("report", str(pid)), "faults are seen")
    report = weir("report")
    check(report.count("process ") == 2 and f"kv, process {pid}, " in report, report)
    check("budget 8.0 MiB" in report and "back end 0  mem:?size=64m" in report, report)
    check("does not use Weir" in weir("report", str(hidden.pid), status=1), "it is hidden")
    check(oct(place.stat().st_mode & 0o777) == "0o700", "the directory is private")
    check(all(oct(s.stat().st_mode & 0o777) == "0o600" for s in sheets()), "and so are sheets")
    faults = look_at_metrics(pid)
    until(lambda: look_at_metrics(pid) > faults, "they grow")
    check("REGION" in weir("top", str(pid), "--once", "-i", "0.3"), "a screen as text")
    os.kill(other, signal.SIGSTOP)
    look_at_others(pid)
    look_at_top(pid, other)
    look_at_poor_terminals()
    until(lambda: "SILENT" in weir("report", str(other)), "a stopped one is told")
    os.kill(pid, signal.SIGKILL)
    programs[0].wait()
    report = weir("report")
    check(f"process {other}" in report and f"process {pid}" not in report, "it is gone")
    check(len(sheets()) == 1, "what it left is removed")
    place.chmod(0o755)
    check("yours alone" in weir("report", status=1), "a directory that others may enter")
    place.chmod(0o700)
    said = weir("doctor")
    check("engine" in said and "file:/var/tmp" in said and "Weir works here." in said, said)
    weir("doctor", status=1, env={**os.environ, "WEIR_BUDGET": "many"})
    print("command_test: ok")


programs = []
home = pathlib.Path(tempfile.mkdtemp(prefix="weir-command-"))
place = home / "sheets"
try:
    run()
finally:
    tmux("kill-server")
    for program in programs:
        program.kill()
        program.wait()
    shutil.rmtree(home)
