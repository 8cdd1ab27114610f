"""What a durable run keeps on disk while it is executed: its lock, its ledger, and the keeper that writes it."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import time
from typing import TYPE_CHECKING

import msgspec

from runner.errors import LedgerRefused, UsageError
from runner.events import RunLife
from runner.ledger.restore import drop_owed_items
from runner.ledger.subscriptions import queue_of_line
from runner.store import run_folders
from runner.store.dead_letters import DEAD_FILE
from runner.store.keeper import LedgerKeeper
from runner.store.ledger_file import KEY_FILES, LANES_KEY, LEDGER_FILE, LETTERS_KEY, LedgerFile
from runner.store.ledger_summary import COMPLETE_KEY, read_notes
from runner.store.records import RECORD_FILE
from runner.store.run_lives import LIVES_KEY, add_life, encode_lives, end_life, read_lives
from runner.store.run_lock import RunLock, refuse_network_disk
from runner.store.segments import SEGMENT_BYTES, sync_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping
    from pathlib import Path

    from runner.ledger.journal import DeadItem, JournalGroup, LedgerImage
    from runner.store.ledger_file import PayloadPacker

#: The last life of the run whose items have got their crashes.
_BLAMED_KEY = "blamed"
#: A run does not begin with less room than that.
_LEAST_ROOM = SEGMENT_BYTES + (64 << 20)


class DurableFolder:
    """The open ledger of one run. `is_new`: it is begun; else it goes on. LedgerRefused: neither can be.

    `image` is what the ledger held when it was opened, `meta` what was noted of the run itself, `lives` its lives with
    the one that begins. An earlier life was alive at `_last_written`.
    """

    def __init__(self, state: Path, run: str, packer: PayloadPacker, *, is_new: bool) -> None:
        self.path = state / "runs" / run
        self.keeper: LedgerKeeper | None = None
        self.lives: tuple[RunLife, ...] = ()
        self._first_group: JournalGroup | None = None
        self._last_written = 0.0
        try:
            self._open(state, packer, is_new=is_new)
        except OSError as error:
            raise LedgerRefused(f"{self.path} cannot hold a ledger: {error.strerror or error}") from None

    def _open(self, state: Path, packer: PayloadPacker, *, is_new: bool) -> None:
        run = self.path.name
        if is_new:
            with run_folders.open_run_folder(state, run, make=True):
                pass
            refuse_network_disk(self.path)
            free = os.statvfs(self.path)
            if free.f_bavail * free.f_frsize < _LEAST_ROOM:
                raise LedgerRefused(f"{state} has less than {_LEAST_ROOM >> 20} MiB of room, which a ledger needs")
            for folder in (state, state.parent):  # their names may be new; the ledger syncs those below
                with contextlib.suppress(PermissionError):  # of a folder that may be written, and not read
                    sync_folder(folder)
        else:
            with run_folders.open_state_folder(state, "runs", run):
                refuse_network_disk(self.path)
        self._lock = RunLock(self.path)
        self._last_written = _last_change(self.path)
        try:
            self._file = LedgerFile(self.path, packer, make=is_new)
            try:
                self.meta = self._file.read_meta()
                self.image: LedgerImage = self._file.read_image()
            except BaseException:
                self._file.close()
                raise
        except BaseException:
            self._lock.close()
            raise

    @property
    def damaged_chunks(self) -> set[int]:
        """Return the chunks whose payloads are not what they were."""
        return self._file.damaged_chunks

    def lines_of_queues(self, names: Iterable[str]) -> dict[str, int]:
        """Return the lines of queues, or single lines of copied ones, with the items that they are owed.

        UsageError: the run had no such queue.
        """
        owed, found = self.image.count_owed(), dict[str, int]()
        for name in names:
            lines = [line for line in self.image.line_counts if name in {line, queue_of_line(line)}]
            if not lines:
                known = ", ".join(sorted({queue_of_line(line) for line in self.image.line_counts})) or "none"
                raise UsageError(f"--drop: no item came into a queue `{name}` of this run; queues: {known}")
            found |= {line: owed.get(line, 0) for line in lines}
        return found

    def drop_items(self, lines: Container[str]) -> None:
        """Count what is owed to these lines as dropped; that is written when the run begins to go on."""
        self._first_group = drop_owed_items(self.image, lines)

    def begin_life(self, notes: Mapping[str, str], letter_queues: Iterable[str], lanes: Mapping[str, str]) -> None:
        """Note what a life of the run begins with, and what is dropped before it. LedgerRefused: it cannot begin."""
        self.image.letter_queues |= set(letter_queues)
        self.image.lanes = dict(lanes)
        letters = msgspec.json.encode(sorted(self.image.letter_queues)).decode()
        laned = msgspec.json.encode(self.image.lanes).decode()
        earlier = read_lives(self.meta.get(LIVES_KEY))
        if not earlier and self.meta:  # a version of runner that noted no lives has begun it
            earlier = (RunLife(end="not known"),)
        self.lives = add_life(earlier, time.time(), self._last_written, self.image.count_done())
        kept = {LETTERS_KEY: letters, LANES_KEY: laned, LIVES_KEY: encode_lives(self.lives), COMPLETE_KEY: ""}
        try:
            self._file.write_meta({**notes, **kept})
            if self._first_group is not None:
                self._file.write_groups([self._first_group])
                self.image.apply_group(self._first_group)
        except (OSError, sqlite3.Error) as error:
            raise LedgerRefused(f"{self.path} cannot be written: {error}") from None

    def write_crashes(self, group: JournalGroup, life: str) -> bool:
        """Write the crashes of what was executed when a life of the run was ended, before the keeper begins.

        False: that was written before.
        """
        if self.meta.get(_BLAMED_KEY) == life:
            return False
        try:
            self._file.write_groups([group], {_BLAMED_KEY: life})
        except (sqlite3.Error, OSError) as error:
            raise LedgerRefused(f"{self.path} cannot be written: {error}") from None
        self.image.apply_group(group)
        return True

    def retry_dead(self, items: Iterable[tuple[str, DeadItem]]) -> None:
        """Let dead items be owed again to the subscriptions named with them; that is written as with `drop_items`."""
        self._first_group = self.image.retry_dead(items)

    def start_keeper(self, post: Callable[[int], None]) -> LedgerKeeper:
        """Return what writes from here on."""
        self.keeper = LedgerKeeper(self._file, self.path, post)
        return self.keeper

    def _has_dead_items(self) -> bool:
        try:
            return self._file.has_dead_items()
        except sqlite3.Error:
            return True  # what is not known is kept

    def end_life(self, seconds: float, why: str) -> None:
        """Note when and why this life has ended; that is written at `close`."""
        self.lives = end_life(self.lives, seconds, why)

    def close(self, *, remove: bool = False, outcome: str = "") -> None:
        """Close everything; `remove`: nothing is left, so nothing of the ledger needs to be kept but dead items.

        `outcome`: how the run has ended with which nothing is left to go on, if its ledger is kept.
        """
        if self.keeper is not None:
            self.keeper.close()
            remove = remove and not self._has_dead_items()
        is_broken = self.keeper is not None and self.keeper.is_broken  # after a failed sync nothing more is written
        if self.lives and self.lives[-1].end and not remove and not is_broken:
            with contextlib.suppress(OSError, sqlite3.Error):  # then it is gone on with, and has nothing to do
                self._file.write_meta({COMPLETE_KEY: outcome, LIVES_KEY: encode_lives(self.lives)})
        self._file.close()
        if remove:
            for suffix in ("", "-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    (self.path / f"{LEDGER_FILE}{suffix}").unlink()
            shutil.rmtree(self.path / "big", ignore_errors=True)
            for name in ("lock", DEAD_FILE, *(path.name for path in self.path.glob(f"{KEY_FILES}*"))):
                with contextlib.suppress(FileNotFoundError):  # letters of items that have been done since
                    (self.path / name).unlink()
            with contextlib.suppress(OSError):  # there may be a record
                self.path.rmdir()
        self._lock.close()


def _last_change(folder: Path) -> float:
    """Return when the files that a run writes while it goes on were last changed; 0 if there are none."""
    times = [0.0]
    for name in (LEDGER_FILE, f"{LEDGER_FILE}-wal", RECORD_FILE):
        with contextlib.suppress(FileNotFoundError):
            times.append((folder / name).stat().st_mtime)
    return max(times)


def last_unfinished_run(state: Path, wanted: Mapping[str, str]) -> str | None:
    """Return the last run with something to go on with, of those whose notes say what is `wanted`; None if none has.

    Ledgers that cannot be read are left out.
    """
    for run in reversed(resumable_runs(state)):
        meta = read_notes(state / "runs" / run)
        if not meta.get(COMPLETE_KEY) and wanted.items() <= meta.items():
            return run
    return None


def resumable_runs(state: Path) -> list[str]:
    """Return the runs that have a ledger, the oldest first; of one that was killed, its `-wal` file says when."""
    with_ledger = set(run_folders.runs_with_files(state, LEDGER_FILE))
    return [run for run in run_folders.runs_with_files(state, LEDGER_FILE, f"{LEDGER_FILE}-wal") if run in with_ledger]
