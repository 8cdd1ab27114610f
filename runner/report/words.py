"""Numbers and durations, as people read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.error_text import item_name
from runner.text import printable_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from runner.events import WorkerDied
    from runner.ledger import Balance


def format_duration(seconds: float) -> str:
    """Short, with the unit.

    >>> format_duration(0.0042), format_duration(3.25), format_duration(252), format_duration(7384)
    ('4ms', '3.2s', '4m12s', '2h03m')
    """
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 60:
        return f"{seconds:.1f}s" if seconds != int(seconds) else f"{seconds:.0f}s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s"


def describe_executed(event: WorkerDied) -> str:
    """What a worker executed when it died, for the sentence on its death.

    >>> from runner.events import WorkerDied
    >>> describe_executed(WorkerDied(0.0, "t", "w", 1, "killed", "1.2", preview="'b'", count=3))
    " while it executed one of 3 items, the first of them item 'b' (1.2)"
    """
    if not event.item:
        return ""
    name = item_name(event.preview, event.item)
    return (
        f" while it executed {name}"
        if event.count == 1
        else (f" while it executed one of {event.count:,} items, the first of them {name}")
    )


def describe_outcome(balance: Balance, hows: Mapping[str, str], unfinished: Iterable[str], *, queues: bool) -> str:
    """How a run has ended, for its last line: the balance; of a run without queues how many tasks are ok, or not.

    >>> from runner.ledger import Balance
    >>> describe_outcome(Balance(read=9, done=9), {"read": "ok", "eat": "ok"}, ["read"], queues=True)
    '9 read = 9 done + 0 dead + 0 dropped + 0 left; `read` had not ended'
    >>> describe_outcome(Balance(), {"sing": "ok", "dance": "failed", "rest": "ok"}, [], queues=False)
    '2 tasks ok, 1 failed'
    """
    cut = list(unfinished)
    had = f"{_listed(cut)} had not ended" if cut else ""
    if queues:
        return f"{balance}; {had}" if had else str(balance)
    words = {"ok": "ok", "failed": "failed", "skipped": "not started"}
    counts = [(sum(how == each for name, how in hows.items() if name not in cut), word) for each, word in words.items()]
    told = [(count, word) for count, word in counts if count]
    parts = [
        f"{count_with_noun(*(count, 'task')) if not at else count} {word}" for at, (count, word) in enumerate(told)
    ]
    return ", ".join([*parts, *([had] if had else [])]) or "no task"


def _listed(names: Sequence[str]) -> str:
    """Name some tasks.

    >>> _listed(["a"]), _listed(["a", "b", "c", "d", "e"])
    ('`a`', '`a`, `b`, `c` and 2 more')
    """
    shown = ", ".join(f"`{printable_line(name)}`" for name in names[:3])
    return f"{shown} and {len(names) - 3:,} more" if len(names) > 3 else shown


def count_with_noun(count: int, word: str) -> str:
    """A count with its word.

    >>> count_with_noun(1, "item"), count_with_noun(1200, "item")
    ('1 item', '1,200 items')
    """
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"


def format_short_time(seconds: float) -> str:
    """A short time, to two figures.

    >>> [format_short_time(seconds) for seconds in (1.48e-7, 0.0000123, 0.0042, 0.25, 3.1, 252)]
    ['0.15us', '12us', '4.2ms', '250ms', '3.1s', '4m12s']
    """
    for unit, size in (("us", 1e-6), ("ms", 1e-3), ("s", 1.0)):
        value = seconds / size
        if value < 999.5 and unit != "s":
            return (
                f"{value:.2f}{unit}"
                if value < 0.995
                else f"{value:.1f}{unit}"
                if value < 9.95
                else f"{value:.0f}{unit}"
            )
    return format_duration(seconds)


def format_count(items: int) -> str:
    """A count; from a million on to three figures.

    >>> format_count(999_999), format_count(1_234_567), format_count(10_000_000)
    ('999,999', '1.23M', '10.0M')
    """
    if items < 1_000_000:
        return f"{items:,}"
    value, unit = (items / 1e6, "M") if items < 999_500_000 else (items / 1e9, "G")
    return f"{value:.{max(0, 2 - (value >= 10) - (value >= 100))}f}{unit}"


def format_bytes(size: int) -> str:
    """Bytes in the unit that suits.

    >>> format_bytes(512), format_bytes(21_520_384), format_bytes(3_400_000_000)
    ('512B', '22MB', '3.4GB')
    """
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.0f}{unit}" if value >= 9.95 or unit == "B" else f"{value:.1f}{unit}"
        value /= 1000
    return f"{value:.1f}TB"
