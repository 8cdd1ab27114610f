"""The jobs of examples/ beside their plain versions: `python -m bench.gallery [--rounds N] [JOB…]`.

Each job is copied into a new folder, its data is made there, and both commands are run in turns. Printed are the
medians of the whole commands, the start of Python included, and the median of the ratios of each round: wall time, and
processor time of all processes that ended, since other programs share the cores.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parent.parent
CORES = len(os.sched_getaffinity(0))
LIBRARY = Path(sysconfig.get_path("stdlib"))
#: No job takes as long, however busy the machine is.
LIMIT = 900.0


@dataclass(frozen=True, slots=True)
class Job:
    """One example: what makes its data, what it is given, what its plain version is given, and what is done."""

    size: str
    plain: Sequence[str]
    run: Sequence[str] = ()
    data: Sequence[str] = ()
    needs: str = ""


JOBS = {
    "logs": Job(
        "100,000 lines of 8 files",
        ("logs", "plain.db", "plain.parquet", "plain.jsonl"),
        data=("make_logs.py", "logs", "8", "12500"),
        needs="pyarrow",
    ),
    "thumbnails": Job(
        "200 pictures of 1600 × 1200",
        ("pictures", "plain", "plain.csv"),
        data=("make_pictures.py", "pictures", "200"),
        needs="PIL",
    ),
    "scoring": Job(
        "53,910 pictures, a forest of 100 trees",
        ("model.joblib", "pictures.jsonl", "plain.csv"),
        data=("make_digits.py", "model.joblib", "pictures.jsonl", "30"),
        needs="sklearn",
    ),
    "montecarlo": Job("40 chunks of 5,000 years", ("plain.json",)),
    "census": Job("1,800 files of the standard library", ("plain.json",)),
    "etl": Job(
        "100,000 rows",
        ("orders.csv", "plain.db"),
        data=("make_orders.py", "orders.csv", "100000"),
    ),
    "shell": Job(
        f"{len([*LIBRARY.glob('*/*.py')])} files",
        (str(LIBRARY), "*/*.py", "plain.txt"),
        ("-p", f"root={LIBRARY}", "-p", "pattern=*/*.py"),
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one command: on the wall, and of processors."""

    wall: float
    cpu: float


def timed(folder: Path, *command: str) -> Timing:
    """Run a command of Python in a folder; RuntimeError if it ends other than well, or with dead items."""
    before, began = os.times(), time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT
    )
    wall, after = time.monotonic() - began, os.times()
    if done.returncode not in (0, 4):
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Timing(wall, cpu)


def measure(name: str, job: Job, rounds: int) -> str:
    """Run both in turns, and return a row of the table."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, name)
        shutil.copytree(ROOT / "examples" / name, folder, ignore=shutil.ignore_patterns("__pycache__", ".runner"))
        if job.data:
            timed(folder, *job.data)
        made = set(folder.iterdir())
        mine: list[Timing] = []
        plain: list[Timing] = []
        for _ in range(rounds):
            plain.append(timed(folder, "plain.py", *job.plain))
            mine.append(timed(folder, "-m", "runner", "run", *job.run))
            for path in set(folder.iterdir()) - made:  # a table that is there already takes other time
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    wall, cpu = (
        statistics.median(getattr(one, kind) / getattr(other, kind) for one, other in zip(mine, plain, strict=True))
        for kind in ("wall", "cpu")
    )
    seconds = [statistics.median(one.wall for one in timings) for timings in (plain, mine)]
    return f"| {name} | {job.size} | {seconds[0]:.2f} s | {seconds[1]:.2f} s | {wall:.2f} | {cpu:.2f} |"


def main() -> None:
    """Measure, and print a Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m bench.gallery", description=__doc__)
    parser.add_argument("jobs", nargs="*", metavar="JOB", help=f"default: all. {', '.join(JOBS)}")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    given = parser.parse_args()
    if unknown := set(given.jobs) - JOBS.keys():
        parser.error(f"no job {', '.join(sorted(unknown))}")
    print(f"{CORES} cores, {given.rounds} rounds\n")
    print("| job | size | plain.py | runner | runner / plain, wall | processor time |\n|---|---|--:|--:|--:|--:|")
    for name in given.jobs or JOBS:
        needed = JOBS[name].needs
        if needed and importlib.util.find_spec(needed) is None:
            print(f"{name}: {needed} is missing: pip install -e '.[examples]'", file=sys.stderr)
            continue
        print(measure(name, JOBS[name], given.rounds), flush=True)


if __name__ == "__main__":
    main()
