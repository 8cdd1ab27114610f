"""Rounds: every contender once, in turn, again and again, so that what disturbs the machine disturbs them all."""

from __future__ import annotations

import importlib.util
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench import measure

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.kinds import Outcome, Row, Workload


@dataclass
class Line:
    """One row's runs. `problem`: why it has none, or the first thing that was wrong with one."""

    row: Row
    count: int
    outcomes: list[Outcome] = field(default_factory=list)
    figures: list[float] = field(default_factory=list)
    problem: str = ""

    def median(self, value: Callable[[Outcome], float]) -> float:
        """The median of something over the runs."""
        return statistics.median(value(each) for each in self.outcomes)


@dataclass
class Sheet:
    """One workload's lines."""

    workload: Workload
    lines: list[Line]

    def ratios(self, line: Line) -> list[float]:
        """Round by round: this line's figure divided by the limit's."""
        limit = next((each for each in self.lines if each.row.name == self.workload.limit), None)
        if limit is None:
            return []
        return [own / bound for own, bound in zip(line.figures, limit.figures, strict=False)]


def missing(row: Row) -> str:
    """Which package that the row needs is not installed, or nothing."""
    absent = [name for name in row.needs if importlib.util.find_spec(name) is None]
    return f"{', '.join(absent)}: not installed" if absent else ""


def measured(
    workload: Workload, rounds: int, *, quick: bool, only: str = "", tell: Callable[[str], None] = lambda _: None
) -> Sheet:
    """Run a workload's rows (those with `only` in their names, and the limit), `rounds` times each, interleaved."""
    items = workload.quick if quick else workload.items
    rows = [row for row in workload.rows if only.lower() in row.name.lower() or row.name == workload.limit]
    sheet = Sheet(workload, [Line(row, max(1, int(items * row.scale)), problem=missing(row)) for row in rows])
    for turn in range(rounds):
        for line in sheet.lines:
            if not line.problem:
                tell(f"{workload.name} {turn + 1}/{rounds}: {line.row.name}")
                once(workload, line)
    return sheet


def once(workload: Workload, line: Line) -> None:
    """One more run of a line; a wrong result ends the line."""
    outcome = measure.contender(workload, line.row, line.count)
    line.problem = wrong_with(workload, line.row, outcome, line.count)
    if not line.problem:
        line.outcomes.append(outcome)
        line.figures.append(workload.figure(outcome, line.count))


def wrong_with(workload: Workload, row: Row, outcome: Outcome, count: int) -> str:
    """What makes a run worthless, or nothing. A bare command has nothing to show but its exit code."""
    if outcome.exit != 0:
        problem = f"exit {outcome.exit}" if isinstance(outcome.exit, int) else outcome.exit
    else:
        try:
            problem = "" if row.command else workload.check(outcome, count) or ""
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
    last = outcome.output.strip().splitlines()[-1:]
    return "; ".join([problem, *(line[:200] for line in last)]) if problem else ""
