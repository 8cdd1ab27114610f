"""The lives of a durable run, as its ledger notes them: when each began and ended, and why.

A life that was killed has noted no end. The next one notes it instead: how long it lasted at least is known from the
files that it wrote last.
"""

from __future__ import annotations

from dataclasses import replace

import msgspec

from runner.events import RunLife
from runner.text import cut_text, format_duration, printable_line

#: Noted of a run.
LIVES_KEY = "lives"
#: A service that is restarted every minute has a thousand lives a day. The first one and the last ones are kept one by
#: one, and the others are told together: 100 are 10 kB, and more rows than that nobody reads.
MAX_LIVES = 100
_MOST_WHY = 200


def read_lives(noted: str | None) -> tuple[RunLife, ...]:
    """Return the lives that were noted; none if they cannot be read."""
    try:
        return msgspec.json.decode(noted or "[]", type=tuple[RunLife, ...])
    except msgspec.MsgspecError:
        return ()


def encode_lives(lives: tuple[RunLife, ...]) -> str:
    """Return lives as text, for the notes of a run."""
    return msgspec.json.encode(lives).decode()


def add_life(earlier: tuple[RunLife, ...], now: float, last_written: float, done_before: int) -> tuple[RunLife, ...]:
    """Return the lives of a run that begins at `now`, or goes on; if its last life has noted no end it was killed.

    Its files were last written at `last_written`.

    >>> first = add_life((), 100.0, 0.0, 0)
    >>> for life in add_life(first, 200.0, 103.5, 7): print(life.seconds, life.end, life.done_before)
    3.5 killed at an unknown moment after 3.5s 0
    0.0  7
    """
    lives = list(earlier)
    if lives and not lives[-1].end:
        seconds = round(max(0.0, min(last_written, now) - lives[-1].began), 3)
        lives[-1] = replace(
            lives[-1], seconds=seconds, end=f"killed at an unknown moment after {format_duration(seconds)}"
        )
    lives.append(RunLife(round(now, 3), done_before=done_before))
    while len(lives) > MAX_LIVES:
        older, newer = lives[1:3]
        seconds, count = older.seconds + newer.seconds, older.count + newer.count
        lives[1:3] = [replace(older, seconds=round(seconds, 3), count=count, end=newer.end)]
    return tuple(lives)


def end_life(lives: tuple[RunLife, ...], seconds: float, why: str) -> tuple[RunLife, ...]:
    """Return the lives of a run whose last life has ended.

    >>> end_life((RunLife(100.0),), 2.5, "Ctrl-C")
    (RunLife(began=100.0, seconds=2.5, end='Ctrl-C', done_before=0, count=1),)
    """
    *earlier, last = lives
    return (*earlier, replace(last, seconds=round(seconds, 3), end=cut_text(printable_line(why), _MOST_WHY)))
