"""Sentences on a run that more than one display writes."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from runner.error_text import item_name
from runner.text import count_with_noun, printable_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from runner.events import WorkerDied
    from runner.ledger import Balance


def describe_executed(event: WorkerDied) -> str:
    """Say what a worker executed when it died, for the sentence on its death.

    >>> from runner.events import WorkerDied
    >>> describe_executed(WorkerDied(0.0, "t", "w", 1, "killed", "1.2", preview="'b'", count=3))
    " while it executed one of 3 items, the first of them item 'b' (1.2)"
    """
    if not event.item:
        return ""
    name = item_name(event.preview, event.item)
    if event.count == 1:
        return f" while it executed {name}"
    return f" while it executed one of {event.count:,} items, the first of them {name}"


def describe_outcome(balance: Balance, hows: Mapping[str, str], unfinished: Iterable[str], *, queues: bool) -> str:
    """Say how a run has ended, for its last line: the balance, or, without queues, how many tasks are ok.

    >>> from runner.ledger import Balance
    >>> describe_outcome(Balance(read=9, done=9), {"read": "ok", "eat": "ok"}, ["read"], queues=True)
    '9 read = 9 done + 0 dead + 0 dropped + 0 left; `read` had not ended'
    >>> describe_outcome(Balance(), {"sing": "ok", "dance": "failed", "rest": "ok"}, [], queues=False)
    '2 tasks ok, 1 failed'
    """
    cut = list(unfinished)
    had = f"{_list_names(cut)} had not ended" if cut else ""
    if queues:
        return f"{balance}; {had}" if had else str(balance)
    ended = Counter(how for name, how in hows.items() if name not in cut)
    parts: list[str] = []
    for how, word in (("ok", "ok"), ("failed", "failed"), ("skipped", "not started")):
        if ended[how]:
            parts.append(f"{ended[how]} {word}" if parts else f"{count_with_noun(ended[how], 'task')} {word}")
    return ", ".join([*parts, *([had] if had else [])]) or "no task"


def _list_names(names: Sequence[str]) -> str:
    """Name some tasks.

    >>> _list_names(["a"]), _list_names(["a", "b", "c", "d", "e"])
    ('`a`', '`a`, `b`, `c` and 2 more')
    """
    shown = ", ".join(f"`{printable_line(name)}`" for name in names[:3])
    return f"{shown} and {len(names) - 3:,} more" if len(names) > 3 else shown
