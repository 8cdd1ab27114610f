"""What a durable run keeps on disk while it is executed: its lock, its ledger, and the keeper that writes it."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from typing import TYPE_CHECKING

from runner.errors import LedgerRefused
from runner.store import run_folders
from runner.store.keeper import LedgerKeeper
from runner.store.ledger_file import LEDGER_FILE, LedgerFile, read_notes
from runner.store.run_lock import RunLock, refuse_network_disk
from runner.store.segments import SEGMENT_BYTES, sync_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from runner.ledger.journal import LedgerImage
    from runner.store.ledger_file import PayloadPacker

#: Noted of a run that has come to its end.
COMPLETE_KEY = "complete"
#: A run does not begin with less room than that.
_LEAST_ROOM = SEGMENT_BYTES + (64 << 20)


class DurableFolder:
    """The open ledger of one run. `is_new`: it is begun; else it goes on. LedgerRefused: neither can be.

    `image` is what the ledger held when it was opened, `meta` what was noted of the run itself.
    """

    def __init__(self, state: Path, run: str, packer: PayloadPacker, *, is_new: bool) -> None:
        self.path = state / "runs" / run
        self.keeper: LedgerKeeper | None = None
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

    def write_meta(self, values: Mapping[str, str]) -> None:
        """Note something of the run itself, before the keeper begins."""
        self._file.write_meta(values)

    def start_keeper(self, post: Callable[[int], None]) -> LedgerKeeper:
        """Return what writes from here on."""
        self.keeper = LedgerKeeper(self._file, self.path, post)
        return self.keeper

    def close(self, *, remove: bool = False, is_complete: bool = False) -> None:
        """Close everything; `remove`: nothing is left, so nothing of the ledger needs to be kept.

        `is_complete`: nothing is left to go on with, and the ledger is kept because of its dead items.
        """
        if self.keeper is not None:
            self.keeper.close()
        if is_complete and not remove:
            with contextlib.suppress(OSError, sqlite3.Error):  # then it is gone on with, and has nothing to do
                self._file.write_meta({COMPLETE_KEY: "yes"})
        self._file.close()
        if remove:
            for suffix in ("", "-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    (self.path / f"{LEDGER_FILE}{suffix}").unlink()
            shutil.rmtree(self.path / "big", ignore_errors=True)
            with contextlib.suppress(FileNotFoundError):
                (self.path / "lock").unlink()
            with contextlib.suppress(OSError):  # there may be a record
                self.path.rmdir()
        self._lock.close()


def last_unfinished_run(state: Path, wanted: Mapping[str, str]) -> str | None:
    """Return the last run with something to go on with, of those whose notes say what is `wanted`; None if none has.

    Ledgers that cannot be read are left out.
    """
    for run in reversed(resumable_runs(state)):
        meta = read_notes(state / "runs" / run)
        if COMPLETE_KEY not in meta and wanted.items() <= meta.items():
            return run
    return None


def resumable_runs(state: Path) -> list[str]:
    """Return the runs that have a ledger, the oldest first."""
    return run_folders.runs_with_files(state, LEDGER_FILE)
