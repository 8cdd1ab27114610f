"""The runs that are going on: which there are, who executes them, and how each of them is now.

    run ──▶ going        locked by its process for as long as it lives, and by nothing else
            status.jsonl  how it is now: a few of its events, a second old at most
            watched      touched by who watches it; then its status is written more often

There is no socket and no server: a lock cannot say that a dead run is alive, and a file needs no one to answer.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

from runner.errors import UnsafeFolder, UsageError
from runner.store import run_folders
from runner.store.records import GOING_FILE, RECORD_WATCHED_FILE, STATUS_FILE, WATCHED_FILE, is_locked
from runner.store.run_lock import LockHolder, read_holder
from runner.structs import dataclass

if TYPE_CHECKING:
    from pathlib import Path

#: A status is bounded by the tasks, queues and workers of a run.
_MOST_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class RunningRun:
    """A run that is going on. `status` is the text of its status file, empty where it has written none yet."""

    run: str
    folder: Path
    holder: LockHolder
    status: str


def find_running(state: Path) -> list[RunningRun]:
    """Return the runs in a state folder that are going on, the oldest first. UsageError: it cannot be read."""
    found = []
    for run in run_folders.runs_with_files(state, GOING_FILE, STATUS_FILE):
        folder = state / "runs" / run
        status = _read_text(folder / STATUS_FILE)
        if (holder := find_holder(folder, status)) is not None:
            found.append(RunningRun(run, folder, holder, status))
    return sorted(found, key=lambda each: each.run)


def find_holder(folder: Path, status: str = "") -> LockHolder | None:
    """Return who executes a run now; None if nobody does. `status` is what its status file says, if that is known."""
    held = is_locked(folder / GOING_FILE)
    if held is None:  # on a disk without locks the status says who writes it
        holder = holder_of_status(status or _read_text(folder / STATUS_FILE))
        return holder if holder is not None and holder.may_live() else None
    if not held:
        return None
    try:
        with run_folders.open_run_file(folder / GOING_FILE) as file:
            return read_holder(file.fileno()) or LockHolder(0, "", "")
    except (OSError, UnsafeFolder):
        return None


def holder_of_status(text: str) -> LockHolder | None:
    """Return who wrote a status, by its first line; None if it does not say so."""
    import msgspec

    try:
        return msgspec.json.decode(text.partition("\n")[0].encode(), type=LockHolder)
    except msgspec.MsgspecError:
        return None


def select_running(state: Path, run: str) -> RunningRun:
    """Return the run that is meant: an id, the beginning of one, or `last`. UsageError says which there are."""
    found = find_running(state)
    if not found:
        raise UsageError(f"no run is going on in {state}; `runner list runs` has those that have ended")
    matching = [each for each in found if each.run == run] or [each for each in found if each.run.startswith(run)]
    if run == "last":
        matching = found[-1:]
    if len(matching) != 1:
        why = "is the beginning of several" if matching else "is none of them"
        raise UsageError(f"going on: {', '.join(each.run for each in found)}; `{run}` {why}")
    return matching[0]


def read_status(folder: Path) -> str:
    """Return the text of a run's status; empty where there is none."""
    return _read_text(folder / STATUS_FILE)


def watch_run(folder: Path, *, record: bool = False) -> None:
    """Have a run write its status more often for the next seconds, and its record as well.

    Where the folder is read-only, nothing happens.
    """
    for file in (WATCHED_FILE, RECORD_WATCHED_FILE) if record else (WATCHED_FILE,):
        _touch(folder, file)


def _touch(folder: Path, file: str) -> None:
    with (
        contextlib.suppress(OSError, UnsafeFolder),
        run_folders.open_state_folder(folder.parents[1], "runs", folder.name) as at,
    ):
        try:
            os.utime(file, (now := time.time(), now), dir_fd=at, follow_symlinks=False)
        except FileNotFoundError:
            os.close(run_folders.create_file(at, file))


def _read_text(path: Path) -> str:
    try:
        with run_folders.open_run_file(path) as file:
            return file.read(_MOST_BYTES).decode("utf-8", "replace")
    except (OSError, UnsafeFolder):
        return ""
