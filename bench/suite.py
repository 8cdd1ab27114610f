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
        """Round by round: this line's figure to the limit's; above 1 is better than the limit."""
        limit = next((each for each in self.lines if each.row.name == self.workload.limit), None)
        if limit is None:
            return []
        pairs = zip(line.figures, limit.figures, strict=False)
        return [bound / own if self.workload.smaller else own / bound for own, bound in pairs]


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
    try:
        if outcome.exit != 0:
            raise RuntimeError(f"exit {outcome.exit}" if isinstance(outcome.exit, int) else outcome.exit)
        wrong = workload.check(outcome, line.count)
        if wrong:
            raise RuntimeError(wrong)
        figure = workload.figure(outcome, line.count)
    except Exception as error:
        last = outcome.output.strip().splitlines()[-1:] or [""]
        line.problem = f"{error}; {last[0][:200]}" if last[0] else str(error)
        return
    line.outcomes.append(outcome)
    line.figures.append(figure)
