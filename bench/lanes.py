"""`python -m bench.lanes`: what lanes cost, and what one lane that is stuck costs the others.

Items are pairs (key, number) through two worker processes into a sink that is called for each. Without lanes and with
them, 100,000 keys, even and Zipf(1.2): runs take turns, and a ratio is the median of each round's own. Then 1,000 keys,
of which one hangs: which part of all other items is not done when nothing moves any more?
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import accumulate
from pathlib import Path

#: The rate with lanes, of that without; and the part of the items that one lane may hold up, of its bucket's.
LEAST_RATE, MOST_HELD = 0.5, 2.0
KEYS, STUCK_KEYS, STUCK = 100_000, 1_000, 7
WORKERS, BUCKETS = 2, 128
_PIPELINE = """
[run]
state = "{folder}/state"
record = 0
[queues]
items = {{ {lane} }}
done = {{}}
[tasks.make]
call = "bench.lanes:make"
args = ["{folder}", "{kind}", {items}]
outputs = "items"
[tasks.work]
call = "bench.lanes:{work}"
workers = {workers}
inputs = "items"
outputs = "done"
[tasks.count]
call = "bench.lanes:Count"
args = ["{folder}"]
inputs = "done"
"""


def keys_of(kind, count):
    """Return a key for each item."""
    draw = random.Random(1)
    if kind == "zipf":
        weights = list(accumulate(rank**-1.2 for rank in range(1, KEYS + 1)))
        return draw.choices(range(KEYS), cum_weights=weights, k=count)
    return [draw.randrange(STUCK_KEYS if kind == "stuck" else KEYS) for _ in range(count)]


def make(folder, kind, count):
    """Yield pairs, all made before the first."""
    items = list(zip(keys_of(kind, count), range(count), strict=True))
    Path(folder, "began").write_text(str(time.monotonic()))
    yield from items


def work(item):
    """Do next to nothing."""
    return item


def hang(item):
    """Hang over the first item of one key."""
    if item[0] == STUCK:
        time.sleep(3600)
    return item


class Count:
    """Count what comes, and note when the last one did."""

    def __init__(self, folder):
        self.folder, self.count = folder, 0
        self.file = os.open(Path(folder, "counted"), os.O_CREAT | os.O_WRONLY)

    def __call__(self, item):
        self.count += 1
        os.pwrite(self.file, b"%12d" % self.count, 0)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.file)
        Path(self.folder, "ended").write_text(str(time.monotonic()))


def write_file(folder, kind, items, lane, work="work"):
    """Write the file of a run."""
    path = Path(folder, "tasks.toml")
    word = 'lane = "key"' if lane else ""
    path.write_text(_PIPELINE.format(folder=folder, kind=kind, items=items, lane=word, work=work, workers=WORKERS))
    return [sys.executable, "-m", "runner", "run", "-q", str(path)]


def rate(kind, items, *, lane):
    """Return items per second."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        subprocess.run(write_file(folder, kind, items, lane), check=True, capture_output=True)
        assert int(Path(folder, "counted").read_text()) == items
        began, ended = (float(Path(folder, name).read_text()) for name in ("began", "ended"))
        return items / (ended - began)


def share_held(items):
    """Return the share of the other keys' items that are not done when one key hangs."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        process = subprocess.Popen(
            write_file(folder, "stuck", items, lane=True, work="hang"), stderr=subprocess.DEVNULL
        )
        counted, before, still = Path(folder, "counted"), -1, 0
        while still < 10:
            time.sleep(0.3)
            now = int(counted.read_text() or 0) if counted.exists() else 0
            still = still + 1 if now == before and now else 0
            before = now
        process.terminate()
        process.terminate()
        process.wait()
        others = sum(key != STUCK for key in keys_of("stuck", items))
        return 1 - before / others


def main():
    """Measure, print a Markdown table, and fail beyond the bars."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--items", type=int, default=400_000)
    wanted = parser.parse_args()
    print(f"| {KEYS:,} keys | without lanes, items/s | with lanes | ratio |\n|---|---:|---:|---:|")
    failed = False
    for kind in ("even", "zipf"):
        rounds = [[rate(kind, wanted.items, lane=lane) for lane in (False, True)] for _ in range(wanted.rounds)]
        ratio = statistics.median(lanes / plain for plain, lanes in rounds)
        plain, lanes = (statistics.median(each) for each in zip(*rounds, strict=True))
        print(f"| {kind} | {plain:,.0f} | {lanes:,.0f} | {ratio:.2f} |", flush=True)
        failed = failed or ratio < LEAST_RATE
    held = share_held(min(wanted.items, 50_000))
    print(f"\nOne key of {STUCK_KEYS:,} hangs: {held:.2%} of all others wait; a bucket is {1 / BUCKETS:.2%}.")
    return int(failed or held > MOST_HELD / BUCKETS)


if __name__ == "__main__":
    sys.exit(main())
