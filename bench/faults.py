"""`python -m bench.faults`: what runner and its peers make of a fault. No figures, only words.

Every case runs in a fresh process, has a time limit, and is ended with everything it started.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench import measure
from bench.faulty import FAULT, ITEMS, contenders
from bench.files import Task, pipeline

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.kinds import Outcome

LIMIT = 15.0
RUNNER = "runner"
TOML = pipeline(
    Task("items", "bench.faulty:items"),
    Task("work", "bench.faulty:work", workers=2),
    Task("collect", "bench.faulty:Collected", "thread"),
)


@dataclass(frozen=True)
class Fault:
    """A row: its name, what the item meets, and what is done to the main process in the middle of the run."""

    name: str
    item: str = ""
    deed: Callable[[int], None] | None = None


def _interrupt(pid: int) -> None:
    """As a terminal does it: to everybody in the foreground."""
    os.killpg(pid, signal.SIGINT)


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


FAULTS = (
    Fault("nothing goes wrong"),
    Fault("one SIGKILL of a worker", "kill"),
    Fault("one item raises", "exception"),
    Fault("one result cannot be pickled", "unpicklable"),
    Fault("Ctrl-C", deed=_interrupt),
    Fault("death of the main process", deed=_kill),
)


def run(contender: str, fault: Fault, limit: float = LIMIT) -> Outcome:
    """One case."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        stamps = Path(folder, "stamps")
        command = [sys.executable, "-m", "bench.faulty", contender]
        if contender == RUNNER:
            file = Path(folder, "tasks.toml")
            file.write_text(f'[run]\nstate = "{folder}/state"\n{TOML}')
            command = [sys.executable, "-m", "runner", "run", str(file)]

        def meanwhile(pid: int) -> None:
            if fault.deed and _middle(stamps, limit):
                fault.deed(pid)

        return measure.run(command, stamps, limit, env={FAULT: fault.item}, meanwhile=meanwhile)


def _middle(stamps: Path, limit: float) -> bool:
    end = time.monotonic() + limit
    while time.monotonic() < end:
        if stamps.exists() and '"middle"' in stamps.read_text():
            return True
        time.sleep(0.005)
    return False


def words(fault: Fault, outcome: Outcome) -> str:
    """The outcome in words.

    >>> from bench.kinds import Outcome
    >>> words(FAULTS[1], Outcome(9, 0, 0, 0, "no end after 15 s"))
    '**hangs**'
    >>> ended = {"event": "ended", "results": 2000, "twice": 0}
    >>> words(FAULTS[1], Outcome(1, 0, 0, 0, 0, [ended]))
    'all 2,000 results'
    """
    ended = outcome.all("ended")
    hung = isinstance(outcome.exit, str)
    if fault.deed is _kill:
        said = ["no process is left" if not outcome.orphans else f"**{outcome.orphans} processes are left**"]
    elif hung:
        said = ["**hangs**" + (f" after {ended[-1]['results']:,} results" if ended else "")]
    elif fault.deed is _interrupt:
        said = [f"ends after {outcome.wall - _when(outcome):.1f} s, {_exit(outcome)}", *_tracebacks(outcome)]
    else:
        said = _verdict(outcome, int(ended[-1]["results"]) if ended else 0)
    if ended and ended[-1]["twice"]:
        said.append(f"**{ended[-1]['twice']:,} results came twice**")
    if outcome.orphans and not hung and fault.deed is not _kill:
        said.append(f"**{outcome.orphans} processes are left**")
    return "; ".join(said)


def _verdict(outcome: Outcome, results: int) -> list[str]:
    if results == ITEMS:
        return ["all 2,000 results", *([] if outcome.exit == 0 else [f"exit {outcome.exit}"])]
    if outcome.exit == 0:
        return [f"**loses {ITEMS - results:,} silently**, exit 0"]
    if results == ITEMS - 1:
        return [f"the other 1,999 results, exit {outcome.exit}"]
    return [f"**gives up** after {results:,} results: {_error(outcome.output)}"]


def _when(outcome: Outcome) -> float:
    """Seconds from the start to the middle, when the deed was done."""
    middle = outcome.all("middle")
    return float(middle[0]["at"]) - outcome.began if middle else 0.0


def _exit(outcome: Outcome) -> str:
    code = outcome.exit
    return signal.Signals(-code).name if isinstance(code, int) and code < 0 else f"exit {code}"


def _tracebacks(outcome: Outcome) -> list[str]:
    count = outcome.output.count("Traceback (most recent call last)")
    return [f"{count} traceback{'s' * (count > 1)}"] if count else []


def _error(output: str) -> str:
    """The name of the last exception that was printed.

    >>> _error("Traceback (most recent call last):\\n  File x\\nValueError: no such loaf\\n")
    'ValueError'
    """
    named = re.findall(r"^(?:\w+\.)*(\w+(?:Error|Exception|Pool|Failed))\b", output, re.MULTILINE)
    return named[-1] if named else "no error was printed"


def main() -> int:
    """Run the matrix and print it."""
    parser = argparse.ArgumentParser(prog="python -m bench.faults", description="Faults, beside the peers.")
    parser.add_argument("--only", default="", metavar="TEXT", help="only contenders with TEXT in their names")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there as well")
    given = parser.parse_args()
    names = [name for name in (RUNNER, *contenders()) if given.only.lower() in name.lower()]
    names = [name for name in names if name not in {"joblib", "mpire", "pypeln"} or importlib.util.find_spec(name)]
    lines = [f"| {ITEMS:,} items of 1 ms, 2 workers | {' | '.join(names)} |", "| --- |" + " --- |" * len(names)]
    print(*lines, sep="\n", flush=True)
    for fault in FAULTS:
        lines.append(f"| {fault.name} | {' | '.join(words(fault, run(name, fault)) for name in names)} |")
        print(lines[-1], flush=True)
    if given.markdown:
        given.markdown.write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
