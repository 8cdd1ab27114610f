"""Rounds: every contender once, in turn, again and again, so that what disturbs the machine disturbs them all."""

from __future__ import annotations

import importlib.util
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

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

    def summary(self, workload: Workload, limit: Line | None) -> dict[str, Any]:
        """What the table needs, as JSON has it; medians where nothing else is said."""

        def median(value: Callable[[Outcome], float]) -> float:
            return statistics.median(value(each) for each in self.outcomes)

        about = {"name": self.row.name, "runner": self.row.toml is not None, "count": self.count}
        if self.problem or not self.figures:
            return {**about, "problem": self.problem or "not run"}
        pairs = zip(self.figures, limit.figures, strict=False) if limit else ()
        ratios = [own / bound for own, bound in pairs if bound]
        return {
            **about,
            "figures": self.figures,
            "figure": statistics.median(self.figures),
            "ratio": statistics.median(ratios) if ratios else None,
            "extra": {name: median(lambda each, of=of: of(each, self.count)) for name, of in workload.extra.items()},
            "wall": median(lambda each: each.wall),
            "cpu": median(lambda each: each.cpu),
            "peak": median(lambda each: each.peak),
            "pss": median(lambda each: each.pss),
            "faults": median(lambda each: each.page_faults),
            "switches": median(lambda each: each.context_switches),
        }


def missing(row: Row) -> str:
    """Which package that the row needs is not installed, or nothing."""
    absent = [name for name in row.needs if importlib.util.find_spec(name) is None]
    return f"{', '.join(absent)}: not installed" if absent else ""


def measured(
    workload: Workload, rounds: int, *, quick: bool, only: str = "", tell: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Run a workload's rows (those with `only` in their names, and the limit), `rounds` times each, interleaved."""
    items = workload.quick if quick else workload.items
    rows = [row for row in workload.rows if only.lower() in row.name.lower() or row.name == workload.limit]
    lines = [Line(row, max(1, int(items * row.scale)), problem=missing(row)) for row in rows]
    for turn in range(rounds):
        for line in lines:
            if not line.problem:
                tell(f"{workload.name} {turn + 1}/{rounds}: {line.row.name}")
                once(workload, line)
    limit = next((line for line in lines if line.row.name == workload.limit), None)
    return {
        "name": workload.name,
        "title": workload.title,
        "about": workload.about,
        "unit": workload.unit,
        "smaller": workload.smaller,
        "limit": workload.limit,
        "rounds": rounds,
        "extra": list(workload.extra),
        "lines": [line.summary(workload, limit) for line in lines],
    }


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
