"""The ledger of a run in a few words, for commands that only read: what is left, and which process has the run.

Nothing is written, and nothing is made beside the ledger: one whose process has closed it is a single file, and one
whose process was killed has its `-wal` and `-shm` files, through which SQLite reads. The ledger of a run that goes on
is left alone; only its lock is looked at.
"""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING

from msgspec import Struct

from runner.errors import UnsafeFolder
from runner.store import run_folders
from runner.store.ledger_file import LEDGER_FILE, SEGMENTS
from runner.store.run_lock import LockHolder, find_lock_holder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

#: Noted of a run that has come to its end: its balance.
COMPLETE_KEY = "complete"
_WAL = f"{LEDGER_FILE}-wal"


class LedgerSummary(Struct, frozen=True):
    """The state of a durable run. `holder` has the run, and goes on with it; nothing else is known then but `bytes`.

    `left` items wait in queues, and the `unfinished` sources had more to give; None: the ledger cannot be read.
    """

    bytes: int
    holder: LockHolder | None = None
    left: int | None = None
    unfinished: tuple[str, ...] = ()
    is_complete: bool = False
    title: str = ""


def summarize_ledger(folder: Path) -> LedgerSummary | None:
    """Return what a run's ledger says; None: the run has none, or its folder must not be looked into."""
    try:
        with run_folders.open_state_folder(folder.parents[1], "runs", folder.name):
            if not (folder / LEDGER_FILE).is_file():
                return None
            size = ledger_bytes(folder)
            if (holder := find_lock_holder(folder)) is not None:
                return LedgerSummary(size, holder)
            found = _read_summary(folder, size)
            # It may have been gone on with meanwhile.
            return found if (holder := find_lock_holder(folder)) is None else LedgerSummary(size, holder)
    except (OSError, UnsafeFolder):
        return None


def ledger_bytes(folder: Path) -> int:
    """Return how large a run's ledger is on disk; 0 where there is none."""
    total = 0
    for path in (folder / LEDGER_FILE, folder / _WAL, *(folder / SEGMENTS).glob("*")):
        with contextlib.suppress(OSError):  # a run that goes on removes segments
            total += path.stat().st_size
    return total


def _read_summary(folder: Path, size: int) -> LedgerSummary:
    try:
        with _open_read_only(folder) as database:
            notes = _notes_of(database)
            (left,) = database.execute("SELECT total(put - done - dead - dropped) FROM line").fetchone()
            ended = "SELECT task FROM ended WHERE has_ended"
            sources = database.execute(f"SELECT DISTINCT task FROM source WHERE task NOT IN ({ended})")  # noqa: S608  ours
            unfinished = tuple(task for (task,) in sources)
            return LedgerSummary(
                size, None, int(left), unfinished, bool(notes.get(COMPLETE_KEY)), notes.get("title", "")
            )
    except (sqlite3.Error, OSError, UnicodeDecodeError, ValueError, TypeError):
        return LedgerSummary(size)


def read_notes(folder: Path) -> dict[str, str]:
    """Return what a ledger notes of its run, without opening it for writing; nothing if it cannot be read."""
    try:
        with (
            run_folders.open_state_folder(folder.parents[1], "runs", folder.name),
            _open_read_only(folder) as database,
        ):
            return dict(_notes_of(database))
    except (sqlite3.Error, OSError, UnsafeFolder):
        return {}


def read_dead_ids(folder: Path) -> set[tuple[str, str]] | None:
    """Return the (queue, item id) pairs of the dead items of a ledger; None where there is none to read."""
    try:
        with _open_read_only(folder) as database:
            rows = database.execute("SELECT queue, number, at FROM dead")
            return {(queue, f"{number}.{at}") for queue, number, at in rows}
    except (sqlite3.Error, OSError, UnicodeDecodeError):
        return None


def _notes_of(database: sqlite3.Connection) -> Mapping[str, str]:
    return dict(database.execute("SELECT key, value FROM meta"))


@contextlib.contextmanager
def _open_read_only(folder: Path) -> Iterator[sqlite3.Connection]:
    """Open a ledger for reading. SQLite would make a `-wal` file where there is none, unless nothing can change."""
    try:
        is_closed = not (folder / _WAL).stat().st_size
    except FileNotFoundError:
        is_closed = True
    way = "immutable=1" if is_closed else "mode=ro"
    database = sqlite3.connect(f"{(folder / LEDGER_FILE).absolute().as_uri()}?{way}", uri=True)
    with contextlib.closing(database):
        yield database
