"""Records of past runs: one file each, replaced as a whole, and only so many kept.

While a run goes on it holds a lock on the file `going` beside its record, which ends with its process however that
ends: so a run in another container, whose process cannot be seen here, is known to go on.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from typing import TYPE_CHECKING, Any

import msgspec

from runner.errors import UnsafeFolder, UsageError
from runner.forked_copies import ForkHook, close_descriptors
from runner.linux_only import boot_id, process_start
from runner.posix_only import fcntl
from runner.store import run_folders
from runner.store.run_lock import LockHolder, read_holder, write_holder

if TYPE_CHECKING:
    from pathlib import Path

RECORD_FILE = "record.json"
#: What else is made of a record, and goes with it.
PAGE_FILE = "report.html"
GOING_FILE = "going"
#: How the run is now, as `ps` and `top` read it; and what they touch so that it is written more often.
STATUS_FILE, WATCHED_FILE, RECORD_WATCHED_FILE = "status.jsonl", "watched", "watched-record"
_FILES_WHILE_GOING = (GOING_FILE, STATUS_FILE, WATCHED_FILE, RECORD_WATCHED_FILE)
#: Whoever watches says so again before so many seconds are over.
WATCH_SECONDS = 6.0
#: A record is bounded, and far below this.
_MOST = 64 * 1024 * 1024
#: A status is bounded by the tasks, queues and workers of a run.
_MOST_STATUS = 16 * 1024 * 1024


class RecordFile:
    """The record of one run. `write_error` says what the disk refuses; the run goes on.

    `mark_error` says why others cannot see that it goes on.
    """

    def __init__(self, state: Path, run: str) -> None:
        self.write_error = self.mark_error = ""
        self._state, self._run = state, run
        self._lock: int | None = None
        self._fork_hook: ForkHook | None = None

    def mark_running(self) -> None:
        """Mark the run as going on until `close`; other processes can see it."""
        try:
            with run_folders.open_run_folder(self._state, self._run, make=True) as at:
                self._take_lock(at)
        except UnsafeFolder:
            pass  # the record says it
        except OSError as error:
            why = error.strerror or str(error)
            unseen = "`runner ps`, `top` and `stop` do not see this run"
            self.mark_error = f"{self._state} cannot be written ({why}): {unseen}"

    def _take_lock(self, at: int) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(GOING_FILE, dir_fd=at)
        lock = self._lock = run_folders.create_file(at, GOING_FILE)
        self._fork_hook = ForkHook(lambda: close_descriptors(lock))  # a daemon of a task's would go on holding it
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            write_holder(lock)
        except OSError:  # where the disk has no locks, the number of its process has to do
            os.unlink(GOING_FILE, dir_fd=at)

    def read_record(self) -> str:
        """Return the text of the record of a run that goes on. UsageError, or UnsafeFolder: it cannot be read."""
        return read_record(self._state / "runs" / self._run / RECORD_FILE)

    def write_record(self, text: str) -> None:
        """Replace the record; a reader sees the old one or the new one, whole."""
        try:
            with run_folders.open_run_folder(self._state, self._run, make=True) as at:
                run_folders.replace_file(at, RECORD_FILE, text.encode())
            self.write_error = ""
        except UnsafeFolder as error:
            self.write_error = f"the record of this run cannot be kept: {error}"
        except OSError as error:
            self.write_error = f"the record of this run cannot be kept in {self._state}: {error.strerror or error}"
            with contextlib.suppress(OSError, UnsafeFolder):  # an older one would say that the run was killed
                run_folders.remove_run_files(self._state, self._run, (RECORD_FILE,))

    def write_status(self, data: bytes) -> None:
        """Replace what says how the run is now. OSError, or UnsafeFolder: that cannot be done."""
        with run_folders.open_run_folder(self._state, self._run, make=True) as at:
            run_folders.replace_file(at, STATUS_FILE, data)

    def is_watched(self, file: str = WATCHED_FILE) -> bool:
        """Return True if the status of the run, or its record, was watched in the last seconds."""
        try:
            when = (self._state / "runs" / self._run / file).stat(follow_symlinks=False).st_mtime
        except OSError:
            return False
        return 0.0 <= time.time() - when < WATCH_SECONDS

    def prune_old_records(self, keep: int) -> None:
        """Remove all but the last `keep` records; dead letters stay, and so do runs that go on."""
        with contextlib.suppress(UsageError, UnsafeFolder):
            for run in recorded_runs(self._state)[: -keep or None]:
                path = self._state / "runs" / run / RECORD_FILE
                if run != self._run and not is_going_on(path, read_unchecked(path)):
                    with contextlib.suppress(OSError, UnsafeFolder):  # another runner may do the same just now
                        run_folders.remove_run_files(self._state, run, (RECORD_FILE, PAGE_FILE, *_FILES_WHILE_GOING))

    def close(self) -> None:
        """Mark the run as over."""
        if self._lock is not None:
            lock, self._lock = self._lock, None
            if self._fork_hook is not None:
                self._fork_hook.close()
            with contextlib.suppress(OSError):
                os.close(lock)
            with contextlib.suppress(OSError, UnsafeFolder):
                run_folders.remove_run_files(self._state, self._run, _FILES_WHILE_GOING)


def write_page(state: Path, run: str, text: str) -> str:
    """Write the page of a run beside its record, return its path. UsageError, or UnsafeFolder: that cannot be done."""
    path = state / "runs" / run / PAGE_FILE
    try:
        with run_folders.open_run_folder(state, run, make=True) as at:
            run_folders.replace_file(at, PAGE_FILE, text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None
    return str(path)


def recorded_runs(state: Path) -> list[str]:
    """Return the runs that have a record, the oldest first; of runs that began together, by name."""
    return run_folders.runs_with_files(state, RECORD_FILE)


def find_record(state: Path, run: str = "last") -> Path:
    """Return the file of a run's record: `last`, an id, or the beginning of one; UsageError says what there is."""
    return run_folders.select_run(state, recorded_runs(state), run, "a record") / RECORD_FILE


def read_record(path: Path) -> str:
    """Return the text of a record. UsageError, or UnsafeFolder: it cannot be read."""
    try:
        with run_folders.open_run_file(path) as file:
            data = file.read(_MOST + 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from None
    if len(data) > _MOST:
        raise UsageError(f"{path} is larger than a record can be")
    return data.decode("utf-8", "replace")


def read_unchecked(path: Path) -> dict[str, Any]:
    """Return the content of a record, unchecked; an empty dict if it cannot be read."""
    try:
        found = json.loads(read_record(path))
    except (UsageError, UnsafeFolder, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def is_going_on(path: Path, record: dict[str, Any]) -> bool:
    """Return True if the run of a record goes on: it has not noted its end, and a process executes it."""
    return record.get("exit_code") is None and find_holder(path.parent, record=record) is not None


def find_holder(folder: Path, status: str = "", record: dict[str, Any] | None = None) -> LockHolder | None:
    """Return who executes a run now; None if nobody does: the one answer to that question.

    Its lock says so. On a disk without locks its status does, or else its record: there the process must be the same.
    `status` and `record` are what these files say, if that is known.
    """
    held = is_locked(folder / GOING_FILE)
    if held is None:
        holder = holder_of_status(status or read_status(folder))
        if holder is None:
            return _holder_of_record(read_unchecked(folder / RECORD_FILE) if record is None else record)
        return holder if holder.may_live() else None
    if not held:
        return None
    try:
        with run_folders.open_run_file(folder / GOING_FILE) as file:
            return read_holder(file.fileno()) or LockHolder(0, "", "")
    except (OSError, UnsafeFolder):
        return None


def holder_of_status(text: str) -> LockHolder | None:
    """Return who wrote a status, by its first line; None if it does not say so."""
    try:
        return msgspec.json.decode(text.partition("\n")[0].encode(), type=LockHolder)
    except msgspec.MsgspecError:
        return None


def _holder_of_record(record: dict[str, Any]) -> LockHolder | None:
    """Return the process that an unfinished record names, if that is older than the run."""
    pid = record.get("pid")
    if record.get("exit_code") is not None or not isinstance(pid, int):
        return None
    import psutil

    try:
        began = record["lives"][-1]["began"] if record.get("lives") else record.get("began")
        is_same = psutil.Process(pid).create_time() <= float(began or 0.0) + 1.0
    except (psutil.Error, ValueError, TypeError, OverflowError, LookupError):
        return None
    return LockHolder(pid, socket.gethostname(), boot_id(), process_start(pid)) if is_same else None


def read_status(folder: Path) -> str:
    """Return the text of a run's status; empty where there is none."""
    try:
        with run_folders.open_run_file(folder / STATUS_FILE) as file:
            return file.read(_MOST_STATUS).decode("utf-8", "replace")
    except (OSError, UnsafeFolder):
        return ""


def is_locked(path: Path) -> bool | None:
    """Return True if a run holds its lock, None if there is no lock."""
    try:
        with run_folders.open_run_file(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (OSError, UnsafeFolder):
        return None
    return False
