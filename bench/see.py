"""What it costs to be seen: the small-item pipeline with and without record, live display and events.

python -m bench.see [--rounds 9] [--items 3000000]
"""

from __future__ import annotations

import argparse
import json
import os
import pty
import statistics
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

FILE = """
    [queues]
    numbers = {}
    squares = {}

    [tasks.numbers]
    args    = [%d]
    outputs = "numbers"

    [tasks.square]
    workers = 2
    inputs  = "numbers"
    outputs = "squares"

    [tasks.take]
    mode    = "thread"
    inputs  = "squares"
"""
WORK = """
from runner import task

@task
def numbers(count: int):
    yield from range(count)

@task
def square(number: int):
    return number * number + 1

@task
def take(number: int):
    pass
"""
VARIANTS = {
    "nothing": ["--no-record", "--progress", "none"],
    "record": ["--progress", "none"],
    "live display": ["--no-record", "--progress", "live"],
    "record, live display, events": ["--progress", "live", "--events", "events.jsonl"],
}


def seconds(folder: Path, options: list[str]) -> tuple[float, float]:
    """Wall and processor time of one run whose standard error is a terminal."""
    master, slave = pty.openpty()
    drain = threading.Thread(target=_drain, args=(master,), daemon=True)
    drain.start()
    dropped = {"PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"}
    environment = {key: value for key, value in os.environ.items() if key not in dropped}
    environment |= {"PYTHONPATH": str(Path(__file__).parent.parent), "TERM": "xterm"}
    before = os.times()
    command = [sys.executable, "-m", "runner", "run", "--json", *options]
    done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=slave, check=True)
    after = os.times()
    os.close(slave)
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return json.loads(done.stdout)["seconds"], used


def _drain(master: int) -> None:
    try:
        while os.read(master, 65536):
            pass
    except OSError:
        os.close(master)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--items", type=int, default=3_000_000)
    given = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in VARIANTS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "plugins").mkdir()
        (folder / "plugins" / "work.py").write_text(WORK)
        (folder / "tasks.toml").write_text(FILE % given.items)
        for _ in range(given.rounds):
            for variant, options in VARIANTS.items():
                found[variant].append(seconds(folder, options))
    bare = statistics.median(wall for wall, _ in found["nothing"])
    least = min(wall for wall, _ in found["nothing"])
    rows: list[tuple[str, float, float, float, float, float]] = []
    for variant, times in found.items():
        walls, used = zip(*times, strict=True)
        median = statistics.median(walls)
        rows.append((variant, median, median / bare, min(walls), min(walls) / least, statistics.median(used)))
    print("| shown | median s | × nothing | least s | × nothing | processor s |\n|---|---:|---:|---:|---:|---:|")
    for variant, *values in rows:
        print(f"| {variant} | " + " | ".join(f"{value:.3f}" for value in values) + " |")


if __name__ == "__main__":
    main()
