"""`python -m bench.results`: results in Python beside joblib, mpire and `multiprocessing.Pool`, with two workers.

Small items and arrays of 1 MiB, given by a generator and taken one by one, or all at once. Each call is in a process of
its own, and the contenders take turns. What one item takes is the start of the workers, which is in the others as well.
"""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.table import MIB, number

SMALL, ARRAYS, ROUNDS = 100_000, 400, 5
FILE = """
[queues]
items = {}
results = {}
[tasks.work]
call = "bench.results:%s"
mode = "process"
workers = 2
ordered = %s
inputs = "items"
outputs = "results"
"""


def add_one(item):
    return item + 1


def add_to_array(array):
    array[0] += 1
    return array


def make_items(kind, count):
    if kind == "small":
        yield from range(count)
        return
    import numpy as np

    for _ in range(count):
        yield np.zeros(MIB // 8)


def runner_run(function, items, ordered):
    import runner

    path = Path(tempfile.mkdtemp(), "tasks.toml")
    path.write_text(FILE % (function.__name__, ordered))
    return runner.run(path, feed={"items": items}, collect=["results"], quiet=True).collected["results"]


def runner_stream(function, items, ordered):
    import runner

    path = Path(tempfile.mkdtemp(), "tasks.toml")
    path.write_text(FILE % (function.__name__, ordered))
    return runner.stream(path, feed={"items": items}, collect="results", quiet=True)


def joblib_all(function, items):
    from joblib import Parallel, delayed

    return Parallel(n_jobs=2)(delayed(function)(item) for item in items)


def joblib_generator(function, items):
    from joblib import Parallel, delayed

    return Parallel(n_jobs=2, return_as="generator")(delayed(function)(item) for item in items)


def mpire_imap(function, items):
    from mpire import WorkerPool

    with WorkerPool(n_jobs=2) as pool:
        yield from pool.imap(function, ((item,) for item in items))


def pool_imap(function, items):
    with multiprocessing.Pool(2) as pool:
        yield from pool.imap(function, items)


def pool_imap_chunks(function, items):
    with multiprocessing.Pool(2) as pool:
        yield from pool.imap(function, items, chunksize=100)


CONTENDERS = {
    "runner.run": lambda function, items: runner_run(function, items, "false"),
    "runner.stream": lambda function, items: runner_stream(function, items, "false"),
    "runner.stream, ordered": lambda function, items: runner_stream(function, items, "true"),
    "joblib": joblib_all,
    "joblib, generator": joblib_generator,
    "mpire imap": mpire_imap,
    "Pool.imap": pool_imap,
    "Pool.imap, chunksize=100": pool_imap_chunks,
}


def measure(name, kind, count):
    """Print the seconds and the peak memory of one call, in this process; AssertionError if an item is missing."""
    import psutil

    function = add_one if kind == "small" else add_to_array
    began = time.perf_counter()
    found = total = 0
    for item in CONTENDERS[name](function, make_items(kind, count)):
        found += 1
        total += item if kind == "small" else item[0]
    seconds = time.perf_counter() - began
    assert found == count, (name, found)
    assert total == (count * (count + 1) // 2 if kind == "small" else count)
    print(json.dumps([seconds, psutil.Process().memory_info().rss]))


def main():
    rounds = 2 if "--quick" in sys.argv else ROUNDS
    names = [name for name in CONTENDERS if _is_here(name)]
    for kind, count in (("small", 1), ("small", SMALL), ("arrays", ARRAYS)):
        seconds = {name: [] for name in names}
        for _ in range(rounds):
            for name in names:
                some = count // 10 if kind == "small" and name == "Pool.imap" and count > 1 else count
                command = [sys.executable, "-W", "ignore", "-m", "bench.results", "--one", name, kind, str(some)]
                done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ})
                if done.returncode:
                    sys.exit(f"{name}: {done.stderr}")
                took = json.loads(done.stdout.splitlines()[-1])[0]
                seconds[name].append(took if count == 1 else took / some)
        medians = {name: statistics.median(times) for name, times in seconds.items()}
        unit, factor = ("ms", 1e3) if count == 1 else ("us per item", 1e6)
        print(f"{kind}, {count:,} items: {unit}, median of {rounds}; divided by that of runner.stream")
        for name, median in medians.items():
            print(f"  {name:26} {number(median * factor):>10}  {median / medians['runner.stream']:6.2f}")


def _is_here(name):
    package = name.partition(" ")[0].rstrip(",")
    return package not in {"joblib", "mpire"} or importlib.util.find_spec(package) is not None


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        sys.modules["bench.results"] = sys.modules["__main__"]  # the functions have one home
        measure(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        main()
