"""What a benchmark is made of: workloads, their rows, and the outcome of one run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Stamp = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What one fresh process did. Seconds and bytes; `stamps` in the order in which they were written."""

    wall: float
    cpu: float
    peak: int
    main_peak: int
    exit: int | str
    stamps: Sequence[Stamp] = ()
    began: float = 0.0
    orphans: int = 0
    output: str = ""
    series: Sequence[tuple[float, int, int]] = ()  # (when, resident bytes of the main process, of the tree)
    pss: int = 0  # each page of the tree counted once; 0 where the kernel does not tell
    page_faults: int = 0
    context_switches: int = 0

    def first(self, event: str) -> Stamp:
        """The first stamp of that name; KeyError when there is none."""
        return next(iter(self.all(event)), None) or _missing(event)

    def all(self, event: str) -> list[Stamp]:
        """All stamps of that name."""
        return [each for each in self.stamps if each["event"] == event]

    def between(self, first: str = "began", last: str = "ended") -> float:
        """Seconds from the first stamp of one name to the last of another."""
        return float((self.all(last) or [_missing(last)])[-1]["at"] - self.first(first)["at"])


def _missing(event: str) -> Stamp:
    raise KeyError(f"no stamp {event!r}")


@dataclass(frozen=True)
class Row:
    """One contender. Either `run(count)`, called in a fresh Python, or a file for `runner run`, or a command.

    `scale` is how many items it gets of the workload's count, so that slow contenders do not take all day.
    """

    name: str
    run: Callable[[int], None] | None = None
    toml: Callable[[int], str] | None = None
    command: Sequence[str] = ()
    scale: float = 1.0
    needs: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Workload:
    """One table. `figure` makes the headline number of one outcome, `check` says what is wrong with its results.

    `limit` names the row to which the others are compared; with `smaller` the smaller figure is the better one.
    """

    name: str
    title: str
    about: str
    unit: str
    rows: tuple[Row, ...]
    items: int
    quick: int
    figure: Callable[[Outcome, int], float]
    check: Callable[[Outcome, int], str | None]
    limit: str = ""
    smaller: bool = False
    extra: dict[str, Callable[[Outcome, int], float]] = field(default_factory=dict)
    timeout: float = 120.0

    def row(self, name: str) -> Row:
        """The row of that name."""
        return next(row for row in self.rows if row.name == name)


def rate(outcome: Outcome, count: int) -> float:
    """Items per second, from the source's first counted item to the sink's last."""
    return count / outcome.between()
