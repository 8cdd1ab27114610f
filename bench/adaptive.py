"""Do ranges of workers find the right number? `python -m bench.adaptive [CASE…]`, some minutes.

Loads whose right number is known are run with a range, and the changes are printed: items that sleep have the most,
items that compute the cores and no more, threads that compute stay few, and a full sink grows nothing. Then a burst is
run with the range and with fixed numbers, in turn: it is to take at most 1.3 × as long as with the best of these, by
the medians of some rounds, of which only the first one has all fixed numbers.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import sys
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import runner
from runner import events
from runner.supervisor.outcome import ProcessorMeter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CORES = len(os.sched_getaffinity(0))
#: A burst takes at most so many times as long as with the best fixed number of workers.
MOST_TIMES = 1.3
#: The fixed numbers that a burst is run with.
FIXED = (2, 4, 8, 16)
#: The range and the best of these numbers are run so often, in turn.
ROUNDS = 3
#: Other programs are in the way when they leave less than this of the processors.
MIN_IDLE = 0.85

_TOML = """
[queues]
a = {{ size = 4000 }}
b = {{ size = 10 }}

[tasks.read]
call = "bench.steps:read"
mode = "thread"
args = [{items}]
outputs = "a"

[tasks.work]
call = "bench.steps:step"
inputs = "a"
outputs = "b"
workers = {workers}
mode = "{mode}"
with = {{ wait = {wait}, cpu = {cpu} }}

[tasks.save]
call = "bench.steps:save"
inputs = "b"
mode = "thread"
with = {{ wait = {sink} }}
"""


@dataclass(frozen=True, slots=True)
class Case:
    """A load, and what is right for it, of the greatest number and of the last one."""

    name: str
    values: Mapping[str, Any]
    is_right: Callable[[int, int], bool]
    wanted: str
    is_burst: bool = False
    #: It needs processors, so other programs are in its way.
    computes: bool = False


def _values(**given: Any) -> dict[str, Any]:
    return {"items": 1500, "workers": "2..16", "mode": "process", "wait": 0.0, "cpu": 0.0, "sink": 0.0, **given}


CASES = {
    case.name: case
    for case in (
        Case("processes that sleep", _values(wait=0.1), lambda most, last: most == last == 16, "16", is_burst=True),
        Case("threads that sleep", _values(wait=0.1, mode="thread"), lambda most, last: most == last == 16, "16"),
        Case(
            "processes that compute",
            _values(items=int(600 * CORES), cpu=0.02, workers="1..16"),
            lambda most, last: most == last == CORES,
            f"{CORES}, the cores",
            computes=True,
        ),
        Case(
            "threads that compute",
            _values(items=500, cpu=0.02, mode="thread", workers="1..16"),
            lambda most, last: most <= 2 and last <= 2,
            "1 or 2",
            computes=True,
        ),
        Case("a full sink", _values(items=300, wait=0.02, sink=0.03), lambda most, last: most == last == 2, "2"),
        Case(
            "a short burst of quick items",
            _values(items=12_000, wait=0.01),
            lambda most, last: most == last == 16,
            "16",
            is_burst=True,
        ),
    )
}


@dataclass(slots=True)
class Load:
    """What came of a run: its seconds, and the numbers of workers with the times at which they were decided."""

    seconds: float
    changes: list[tuple[float, int]] = field(default_factory=list)


def run(values: Mapping[str, Any]) -> Load:
    """Run one load to its end."""
    heard: list[events.Event] = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "tasks.toml")
        workers = values["workers"] if isinstance(values["workers"], int) else f'"{values["workers"]}"'
        file.write_text(_TOML.format(**{**values, "workers": workers}))
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as err:
            result = runner.run(file, quiet=True, on_event=heard.append)
    if result.exit_code:
        raise RuntimeError(f"it ended with {result.exit_code}: {err.getvalue()}")
    began = next(event.at for event in heard if isinstance(event, events.RunStarted))
    changed = [event for event in heard if isinstance(event, events.WorkersChanged)]
    return Load(result.seconds, [(event.at - began, event.number) for event in changed])


def idle_share() -> float:
    """Return the share of the processors that other programs leave, now."""
    processors = ProcessorMeter()
    time.sleep(0.5)
    return processors.idle_share() or 0.0


def measure(case: Case) -> bool:
    """Run a case, print what came of it, and tell whether that was right."""
    before = idle_share()
    load = run(case.values)
    least = int(str(case.values["workers"]).partition("..")[0])
    numbers = [least, *(number for _, number in load.changes)]
    told = ", ".join(f"{number} at {at:.1f} s" for at, number in load.changes) or "none"
    good = case.is_right(max(numbers), numbers[-1])
    burst = ""
    if case.is_burst:
        fixed = {workers: run({**case.values, "workers": workers}).seconds for workers in FIXED}
        best = min(fixed, key=fixed.__getitem__)
        ranged, alone = [load.seconds], [fixed[best]]
        for _ in range(ROUNDS - 1):
            ranged.append(run(case.values).seconds)
            alone.append(run({**case.values, "workers": best}).seconds)
        times = statistics.median(ranged) / statistics.median(alone)
        good = good and times <= MOST_TIMES
        burst = f"{times:.2f} × of {best} workers ({statistics.median(alone):.1f} s)"
    busy = case.computes and min(before, idle_share()) < MIN_IDLE
    word = "" if good else "other programs have the cores" if busy else "**wrong**"
    print(f"| {case.name} | {case.wanted} | {told} | {load.seconds:.1f} | {burst} | {word} |", flush=True)
    return good or busy


def main() -> int:
    """Measure, and print a Markdown table; 1 when a number is not what is right for its load."""
    parser = argparse.ArgumentParser(prog="python -m bench.adaptive", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"default: all. {', '.join(CASES)}")
    given = parser.parse_args()
    if unknown := set(given.cases) - CASES.keys():
        parser.error(f"no case {', '.join(sorted(unknown))}")
    print("| load | right | changes | s | beside the best fixed number | |\n|---|---|---|--:|---|---|")
    results = [measure(CASES[name]) for name in given.cases or CASES]
    return int(not all(results))


if __name__ == "__main__":
    sys.exit(main())
