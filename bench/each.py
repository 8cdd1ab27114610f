"""`runner each` beside `xargs -P`, GNU Parallel and a bare loop: `python -m bench.each [--rounds N] [--items N]`.

The contenders take turns, round after round, and each figure is compared with that of `xargs` in the same round: a
busy minute of the machine falls on all. A figure is the wall time of many commands, less that of one, for each of them;
the time for one, most of it the contender's start, has a column of its own. The commands are the cheapest there are.
The bare loop is `os.posix_spawn` and `os.wait`: what Python can do at best, without reading any output. GNU Parallel
is given fewer commands. What was printed is checked.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

BARE = """
import os, sys
left, jobs, running = int(sys.argv[1]), int(sys.argv[2]), 0
null = os.open(os.devnull, os.O_RDONLY)
while left or running:
    while left and running < jobs:
        os.posix_spawnp(sys.argv[3], [sys.argv[3], str(left)], os.environ)
        left, running = left - 1, running + 1
    os.wait()
    running -= 1
"""
#: GNU Parallel is given one command in so many.
SPARED = 5


def contenders(jobs: int, program: str) -> dict[str, list[str]]:
    """Return the command of each; `N` stands for the number of commands."""
    runner = [sys.executable, "-m", "runner", "each", "--no-record", "-q", f"-j{jobs}"]
    found = {
        "xargs -P": ["xargs", f"-P{jobs}", "-n1", program],
        "runner each": [*runner, program],
        "runner each -k": [*runner, "-k", program],
        "runner each, a text": [*runner, f"{program} {{}}"],
        "bare posix_spawn loop": [sys.executable, "-c", BARE, "N", str(jobs), program],
    }
    if shutil.which("parallel"):
        found["GNU Parallel"] = ["parallel", f"-j{jobs}", program]
    return found


def measure(command: list[str], items: int, *, prints: bool) -> float:
    """Return seconds for all of them; RuntimeError if one was not run."""
    lines = "".join(f"{number}\n" for number in range(items))
    command = [str(items) if word == "N" else word for word in command]
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        env = {**os.environ, "HOME": folder, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(command, input=lines, capture_output=True, text=True, cwd=folder, env=env, check=False)
        seconds = time.perf_counter() - began
    if done.returncode or (prints and len(done.stdout.split()) != items):
        raise RuntimeError(
            f"{command[:3]}: exit {done.returncode}, {len(done.stdout.split())} lines\n{done.stderr[-500:]}"
        )
    return seconds


def main() -> int:
    """Measure, and print a table for each program."""
    parser = argparse.ArgumentParser(prog="python -m bench.each")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--items", type=int, default=2000)
    parser.add_argument("-j", type=int, default=os.cpu_count() or 1, dest="jobs")
    given = parser.parse_args()
    worst = 0.0
    for program in ("true", "echo"):
        starts: dict[str, list[float]] = {}
        found: dict[str, list[float]] = {}
        for _ in range(given.rounds):
            for name, command in contenders(given.jobs, program).items():
                items = given.items // SPARED if name == "GNU Parallel" else given.items
                start = measure(command, 1, prints=program == "echo")
                seconds = measure(command, items, prints=program == "echo") - start
                starts.setdefault(name, []).append(start)
                found.setdefault(name, []).append(seconds / (items - 1))
        print(f"\n## `{program}`, {given.jobs} at a time, {given.items:,} commands, load {os.getloadavg()[0]:.1f}\n")
        print("| | ms for each command | min–max | × xargs | the first one, ms |\n|---|--:|--:|--:|--:|")
        for name, figures in found.items():
            ratio = statistics.median(one / base for one, base in zip(figures, found["xargs -P"], strict=True))
            low, high = min(figures) * 1000, max(figures) * 1000
            start = statistics.median(starts[name]) * 1000
            median = statistics.median(figures) * 1000
            print(f"| {name} | {median:.2f} | {low:.2f}–{high:.2f} | {ratio:.2f} | {start:.0f} |", flush=True)
            worst = max(worst, ratio) if name == "runner each" else worst
    return int(worst > 1.5)


if __name__ == "__main__":
    sys.exit(main())
