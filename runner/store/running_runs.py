"""The runs that are going on: which there are, who executes them, and how each of them is now.

    run ──▶ going        locked by its process for as long as it lives, and by nothing else
            status.jsonl  how it is now: a few of its events, a second old at most
            watched      touched by who watches it; then its status is written more often

There is no socket and no server: a lock cannot say that a dead run is alive, and a file needs no one to answer.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import time
from typing import TYPE_CHECKING

from runner.errors import UnsafeFolder, UsageError
from runner.store import run_folders
from runner.store.records import (
    GOING_FILE,
    RECORD_WATCHED_FILE,
    STATUS_FILE,
    WATCHED_FILE,
    find_holder,
    read_status,
)
from runner.structs import dataclass

if TYPE_CHECKING:
    from pathlib import Path

    from runner.store.run_lock import LockHolder


@dataclass(frozen=True, slots=True)
class RunningRun:
    """A run that is going on. `status` is the text of its status file, empty where it has written none yet."""

    run: str
    folder: Path
    holder: LockHolder
    status: str


def check_watched_folder(state: Path, verb: str) -> None:
    """Raise UsageError for a state folder of another user, UnsafeFolder for one that must not be used."""
    owner = _foreign_owner(state)
    if owner is not None:
        command = shlex.join(["sudo", "-u", owner, "runner", verb, "--state", str(state.absolute())])
        raise UsageError(f"{state} belongs to user {owner}, who alone sees its runs and ends them: {command}")
    run_folders.check_state_folder(state)


def _foreign_owner(state: Path) -> str | None:
    """Return the name of the user whose state folder it is; None: it is this user's, or may be looked into."""
    try:
        owner = state.stat().st_uid
    except OSError:
        return None
    is_open = owner == 0 and _is_readable(state) and (_is_readable(state / "runs") or not (state / "runs").exists())
    return None if owner == os.geteuid() or is_open else _user_name(owner)


def _is_readable(folder: Path) -> bool:
    return os.access(folder, os.R_OK | os.X_OK)


def is_writable(state: Path) -> bool:
    """Return True if a run can keep something in a state folder, which may be missing."""
    there = next(each for each in (state.absolute(), *state.absolute().parents) if each.exists())
    return os.access(there, os.W_OK | os.X_OK)


def _user_name(number: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:  # of another machine, or a container
        return f"#{number}"


def find_running(state: Path) -> list[RunningRun]:
    """Return the runs in a state folder that are going on, the oldest first. UsageError: it cannot be read."""
    found = []
    for run in run_folders.runs_with_files(state, GOING_FILE, STATUS_FILE):
        folder = state / "runs" / run
        status = read_status(folder)
        if (holder := find_holder(folder, status)) is not None:
            found.append(RunningRun(run, folder, holder, status))
    return sorted(found, key=lambda each: each.run)


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
