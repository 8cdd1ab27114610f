"""What became of a run's dead letters afterwards: each retry says in its own folder which ones it was given.

    A/dead.jsonl   letters 57.3, 80.0     ◀── locked while they are given again: one retry at a time
    B/retry.json   {run: A, items: {57.3: 1.0, 80.0: 2.0}, ended}
    B/dead.jsonl   letter 2.0             ──▶ 57.3 is done in B; 80.0 is dead again, and B's letter is the one to retry

The letters of A stay as they are. A retry that did not end by itself has done nothing for certain, because what its
items had become may have been left in its queues: apart from those with a letter in B they can be given again.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

from runner.errors import RetryRefused, UnsafeFolder, UsageError
from runner.posix_only import fcntl
from runner.store import dead_letters, run_folders
from runner.structs import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

RETRY_FILE = "retry.json"
#: A claim has a line's worth for each item, and a run's letters fit a disk.
_MOST = 256 * 1024 * 1024
DONE, DEAD_AGAIN, NOT_FINISHED = "done", "dead again", "not finished"


@dataclass(frozen=True, slots=True)
class LetterFate:
    """What became of one letter in a later run: `how` is one of the words above."""

    run: str
    how: str


class RetryClaim:
    """The items that one run was given of another's letters, in its folder."""

    def __init__(self, state: Path, run: str, of: str, items: Mapping[str, str]) -> None:
        self._state, self._run = state, run
        self._told = {"run": of, "items": dict(items), "ended": False}

    def write(self) -> None:
        """Write it, before the run starts; RetryRefused if that is not possible."""
        try:
            self._replace_file()
        except OSError as error:
            text = f"what is retried cannot be noted in {self._state}: {error.strerror or error}; nothing was started"
            raise RetryRefused(text) from None

    def end(self) -> None:
        """Note that the run has ended by itself: what has no letter is done."""
        self._told["ended"] = True
        with contextlib.suppress(OSError, UnsafeFolder):  # then its items can be given again
            self._replace_file()

    def _replace_file(self) -> None:
        with run_folders.open_run_folder(self._state, self._run, make=True) as at:
            run_folders.replace_file(at, RETRY_FILE, json.dumps(self._told).encode())


@contextlib.contextmanager
def lock_letters(path: Path) -> Iterator[None]:
    """Hold the letters of a run; RetryRefused while another retry does."""
    with run_folders.open_run_file(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RetryRefused(f"dead items of run {path.parent.name} are being retried just now") from None
        except OSError:  # where the disk has no locks, whoever calls must see to it
            pass
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # by name: forked copies may have the descriptor still
                fcntl.flock(file, fcntl.LOCK_UN)


def read_fates(state: Path, run: str) -> dict[str, LetterFate]:
    """Return what became of the letters of a run that were retried, by item; the last retry counts."""
    fates: dict[str, LetterFate] = {}
    for later in run_folders.runs_with_files(state, RETRY_FILE):
        claim = _read_claim(state / "runs" / later / RETRY_FILE)
        if claim.get("run") != run or not isinstance(claim.get("items"), dict):
            continue
        letters = state / "runs" / later / dead_letters.DEAD_FILE
        dead = set(dead_letters.letter_ids(letters))
        for old, new in claim["items"].items():
            how = DEAD_AGAIN if str(new) in dead else DONE if claim.get("ended") is True else NOT_FINISHED
            if old not in fates or fates[old].how == NOT_FINISHED or how != NOT_FINISHED:
                fates[old] = LetterFate(later, how)
    return fates


def _read_claim(path: Path) -> dict[str, Any]:
    try:
        with run_folders.open_run_file(path) as file:
            found = json.loads(file.read(_MOST))
    except (OSError, UnsafeFolder, UsageError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
