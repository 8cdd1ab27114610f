"""Is the sentence about what limits a run right? `python -m bench.limit [--rounds N] [CASE…]`.

Pipelines whose limit is known are run, the sentence is read, what it says is done, and the run is measured again. The
shortest of several runs each: what else the machine does makes them longer, never shorter.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import runner
from runner import events
from runner.report.bottleneck import find_bottleneck, other_programs_share
from runner.report.record import Bottleneck, RunRecord
from runner.supervisor.outcome import ProcessorMeter

if TYPE_CHECKING:
    from collections.abc import Mapping

CORES = len(os.sched_getaffinity(0))
#: Other programs are in the way when they take more of the machine than this; then so many more runs are tried.
LOUD, MORE = 0.15, 4
#: So many seconds a run waits for other programs to be done.
PATIENCE = 5.0
#: Progress is told only where somebody listens, and how long queues were is seen only then.
LISTENER = "from runner import hookimpl\n\n@hookimpl\ndef runner_event(event):\n    pass\n"


@dataclass(frozen=True, slots=True)
class Case:
    """One pipeline: its file, what its limit is, and, for a source, how it is made twice as fast."""

    name: str
    toml: str
    kind: str
    task: str
    faster: Mapping[str, Any] | None = None
    #: What must not help: more workers for a task that is not the limit.
    useless: Mapping[str, Any] | None = None
    #: It needs cores, so that other programs are in its way.
    computes: bool = False


def _task(name: str, call: str, mode: str = "thread", **keys: str) -> str:
    lines = [f'[tasks.{name}]\ncall = "bench.steps:{call}"\nmode = "{mode}"']
    return "\n".join([*lines, *(f"{key.rstrip('_')} = {value}" for key, value in keys.items())]) + "\n"


def _line(*tasks: str, size: int = 100) -> str:
    """Tasks one after the other, with a queue between each two."""
    text = [f"[queues]\n{''.join(f'q{at} = {{ size = {size} }}' + chr(10) for at in range(1, len(tasks)))}"]
    for at, task in enumerate(tasks):
        ends = [f'inputs = ["q{at}"]'] if at else []
        ends += [f'outputs = ["q{at + 1}"]'] if at + 1 < len(tasks) else []
        text.append(task + "\n".join(ends) + "\n")
    return "\n".join(text)


def _read(items: int) -> str:
    return _task("read", "read", with_=f"{{ items = {items} }}")


_SAVE = _task("save", "save")

CASES = {
    case.name: case
    for case in (
        Case(
            "CPU-bound stage",
            _line(_read(300), _task("crunch", "step", "process", with_="{ cpu = 0.005 }"), _SAVE),
            "work", "crunch", useless={"tasks.save.workers": 2}, computes=True,
        ),
        Case(
            "slow source",
            _line(
                _task("read", "read", with_="{ items = 300, wait = 0.005 }"),
                _task("work", "step", workers="2", with_="{ wait = 0.002 }"),
                _SAVE,
            ),
            "work", "read", faster={"tasks.read.with.wait": 0.0025}, useless={"tasks.work.workers": 3},
        ),
        Case(
            "slow sink",
            _line(
                _read(300),
                _task("work", "step", with_="{ wait = 0.001 }"),
                _task("save", "save", with_="{ wait = 0.005 }"),
            ),
            "work", "save", useless={"tasks.work.workers": 2},
        ),
        Case(
            "threads that compute",
            _line(_read(300), _task("crunch", "step", workers="2", with_="{ cpu = 0.006 }"), _SAVE),
            "interpreter", "crunch", useless={"tasks.crunch.workers": 3}, computes=True,
        ),
        Case(
            "rate",
            _line(_read(150), _task("send", "step", workers="2", rate='"100/s"', with_="{ wait = 0.002 }"), _SAVE),
            "rate", "send", useless={"tasks.send.workers": 3},
        ),
        Case(
            "balanced",
            _line(
                _read(300),
                _task("first", "step", with_="{ wait = 0.005 }"),
                _task("second", "step", with_="{ wait = 0.005 }"),
                _SAVE,
            ),
            "balanced", "", useless={"tasks.first.workers": 2},
        ),
        Case(
            "in-flight items",
            _line(_read(300), _task("fetch", "fetch", concurrency="10", with_="{ wait = 0.05 }"), _SAVE),
            "concurrency", "fetch", useless={"tasks.save.workers": 2},
        ),
        Case(
            "a process for each core",
            _line(_read(400), _task("crunch", "step", "process", workers='"auto"', with_="{ cpu = 0.005 }"), _SAVE),
            "machine", "crunch", useless={"tasks.crunch.workers": 2 * CORES}, computes=True,
        ),
        Case(
            "the next limit is near",
            _line(
                _read(450),
                _task("first", "step", workers="2", with_="{ wait = 0.009 }"),
                _task("second", "step", workers="2", with_="{ wait = 0.0075 }"),
                _SAVE,
            ),
            "work", "first", useless={"tasks.second.workers": 3},
        ),
    )
}  # fmt: skip


def run(case: Case, change: Mapping[str, Any] | None = None) -> RunRecord:
    """Run it once, as changed; its record."""
    heard: list[events.Event] = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "tasks.toml")
        file.write_text(case.toml)
        Path(folder, "plugins").mkdir()
        Path(folder, "plugins", "listen.py").write_text(LISTENER)
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as err:
            result = runner.run(file, set=dict(change or {}), quiet=True, on_event=heard.append)
    if result.exit_code:
        raise RuntimeError(f"{case.name} ended with {result.exit_code}: {err.getvalue()}")
    began = next(event for event in heard if isinstance(event, events.RunStarted))
    ended = next(event for event in heard if isinstance(event, events.RunEnded))
    parts = {"tasks": ended.tasks, "queues": ended.queues, "plan": began.plan, "idle": ended.idle, "cpu": ended.cpu}
    return RunRecord(began.run, began.title, seconds=ended.seconds, **parts)


def await_quiet() -> None:
    """Wait until other programs leave the cores alone, for a while at most."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        processors = ProcessorMeter()
        time.sleep(0.25)
        if (processors.idle_share() or 0.0) > 1 - LOUD:
            return


def best(case: Case, change: Mapping[str, Any] | None, rounds: int) -> RunRecord:
    """The shortest of some runs. What computes is run more often where other programs take the cores meanwhile."""
    quiet: list[RunRecord] = []
    loud: list[RunRecord] = []
    while len(quiet) < rounds and len(quiet) + len(loud) < rounds + (MORE if case.computes else 0):
        if case.computes:
            await_quiet()
        record = run(case, change)
        (loud if case.computes and other_programs_share(record) > LOUD else quiet).append(record)
    return min(quiet or loud, key=lambda record: record.seconds)


def what_it_says(case: Case, said: Bottleneck, record: RunRecord) -> dict[str, Any] | None:
    """The sentence's advice, as what `--set` would be given; None: it gives none."""
    plans = {plan.name: plan for plan in record.plan.tasks}
    if said.kind == "balanced" and said.gain:
        return {
            f"tasks.{name}.workers": len(plans[name].workers) + 1 for name in plans if f" for {name}" in said.sentence
        }
    if said.kind == "rate":
        return {f"tasks.{said.task}.rate": f"{2 * (plans[said.task].rate or 0):g}/s"}
    if said.kind == "concurrency":
        return {f"tasks.{said.task}.concurrency": 2 * (plans[said.task].concurrency or 0)}
    change: dict[str, Any] = {}
    if said.kind == "interpreter":
        change[f"tasks.{said.task}.mode"] = "process"
    if said.workers:
        change[f"tasks.{said.task}.workers"] = said.workers
    return change or (dict(case.faster) if said.gain and case.faster else None)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was said, and what came of it: `gain` by doing it, `otherwise` by doing what is said not to help."""

    case: Case
    said: Bottleneck | None
    runs: tuple[RunRecord, ...]
    gain: float | None
    otherwise: float | None


def measure(case: Case, rounds: int) -> Outcome:
    """Run, read, do, run again."""
    before = best(case, None, rounds)
    said = find_bottleneck(before)
    if case.computes and other_programs_share(before) > LOUD:
        return Outcome(case, said, (before,), None, None)
    change = what_it_says(case, said, before) if said else None
    done = best(case, change, rounds) if change else None
    other = best(case, case.useless, rounds) if case.useless else None
    runs = tuple(run for run in (before, done, other) if run)
    gain, otherwise = (before.seconds / run.seconds if run else None for run in (done, other))
    return Outcome(case, said, runs, gain, otherwise)


def busy_elsewhere(outcome: Outcome) -> bool:
    """Whether other programs took cores that the runs could have used."""
    return outcome.case.computes and any(other_programs_share(record) > LOUD for record in outcome.runs)


def _row(outcome: Outcome) -> str:
    said = outcome.said
    cells = [
        outcome.case.name,
        said.sentence if said else "nothing",
        f"{said.gain:.2f}" if said and said.gain else "",
        f"{outcome.gain:.2f}" if outcome.gain else "",
        ", ".join(f"`{key}` = {value}" for key, value in (outcome.case.useless or {}).items()),
        f"{outcome.otherwise:.2f}" if outcome.otherwise else "",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> int:
    """Measure, and print a Markdown table; 1 when a limit is not what it was built to be."""
    parser = argparse.ArgumentParser(prog="python -m bench.limit", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"default: all. {', '.join(CASES)}")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    given = parser.parse_args()
    if unknown := set(given.cases) - CASES.keys():
        parser.error(f"no case {', '.join(sorted(unknown))}")
    print("| pipeline | the sentence | says | does | what is not said to help | does |\n|---|---|--:|--:|---|--:|")
    wrong = 0
    for name in given.cases or CASES:
        outcome = measure(CASES[name], given.rounds)
        print(_row(outcome), flush=True)
        if busy_elsewhere(outcome):
            print(
                f"{name}: other programs keep the cores busy, so there is nothing to gain, or to measure",
                file=sys.stderr,
            )
        said = outcome.said
        wrong += said is None or said.kind != outcome.case.kind or outcome.case.task not in {"", said.task}
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
