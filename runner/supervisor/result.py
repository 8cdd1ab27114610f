"""The outcome of a run, and its exit code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.structs import dataclass, field

if TYPE_CHECKING:
    from runner.ledger import Balance, ItemCounts

EXIT_OK, EXIT_FAILED, EXIT_DEAD, EXIT_HALTED, EXIT_FAULT, EXIT_DEADLINE = 0, 1, 4, 5, 70, 124


@dataclass(frozen=True, slots=True)
class TaskOutcome:
    """One task's end: `how` is "ok", "failed" or "skipped"; `results` are JSON texts by worker."""

    name: str
    how: str
    why: str = ""
    done: int = 0
    dead: int = 0
    dropped: int = 0
    repeated: int = 0
    sent: int = 0
    busy_seconds: float = 0.0
    results: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """The end of a run. `lines` are the queues' tallies by name; `unbalanced` names those that do not add up.

    `unfinished` are the tasks without inputs that had not ended by themselves when the run did.
    """

    title: str
    exit_code: int
    seconds: float
    headline: Balance
    tasks: dict[str, TaskOutcome]
    lines: dict[str, ItemCounts]
    unbalanced: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    left_behind: tuple[str, ...] = ()
    #: It was ended at once: by a second signal, or because the grace was over.
    was_killed: bool = False
    letters_kept: int = 0
    trouble: str = ""
    unfinished: tuple[str, ...] = ()

    def closing_patience(self, deadline: float | None) -> float | None:
        """Return the seconds its end may wait for others: 0 when a signal or the deadline ended it; None: any."""
        if self.exit_code >= EXIT_DEADLINE:
            return 0.0
        return None if deadline is None else max(0.0, deadline - self.seconds)


def exit_code(*, fault: bool, signal: int | None, deadline: bool, halted: bool, failed: bool, dead: bool) -> int:
    """Return the exit code: when several hold, the first of 70, 130/143, 124, 5, 1, 4 wins.

    >>> exit_code(fault=False, signal=2, deadline=True, halted=False, failed=True, dead=True)
    130
    """
    if fault:
        return EXIT_FAULT
    if signal is not None:
        return 128 + signal
    if deadline:
        return EXIT_DEADLINE
    if halted:
        return EXIT_HALTED
    if failed:
        return EXIT_FAILED
    return EXIT_DEAD if dead else EXIT_OK
