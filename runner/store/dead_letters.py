"""A run's dead letters, written as they happen: a heading, then one JSON object a line."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from runner.errors import UnsafeFolder, UsageError
from runner.store import records, run_folders
from runner.text import cut_middle

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

DEAD_FILE = "dead.jsonl"
#: A letter's traceback and output, in the file: enough to understand it, and a million of them still fit a disk.
_MOST_TEXT = 16 * 1024
#: A line that is longer is none of ours: a letter has a handful of such texts.
_MOST_LINE = 4 * 1024 * 1024


class DeadLetterFile:
    """The dead letters of one run. The folder is made with the first one: a run without any leaves nothing behind.

    `write_error` says what the disk refuses; the run goes on, and counts its dead all the same. Only whole letters
    are left in the file.
    """

    def __init__(self, state: Path, run: str, heading: Mapping[str, Any]) -> None:
        self.path = state / "runs" / run / DEAD_FILE
        self.count = self.written_count = 0
        self._state, self._run = state, run
        self._heading = {"run": run, **heading}
        self._fd: int | None = None
        self._size = 0
        self._why = ""

    @property
    def write_error(self) -> str:
        """The count of letters that were not written, and why; empty if all were."""
        lost = self.count - self.written_count
        return f"{lost:,} of {self.count:,} dead letters cannot be written to {self.path}: {self._why}" if lost else ""

    def append(self, letter: Mapping[str, Any]) -> None:
        """Write one letter; it is with the operating system when this returns."""
        self.count += 1
        if self._why and self._fd is None:
            return
        try:
            if self._fd is None:
                self._open_file()
            texts = {key: cut_middle(text, _MOST_TEXT) for key, text in letter.items() if isinstance(text, str)}
            self._write_line({**letter, **texts, "at": _local_time()})
        except (UnsafeFolder, OSError) as error:
            self._why = getattr(error, "strerror", None) or str(error)
        else:
            self.written_count += 1

    def _open_file(self) -> None:
        with run_folders.open_run_folder(self._state, self._run, make=True) as at:
            try:
                self._fd = run_folders.create_file(at, DEAD_FILE)
            except FileExistsError:  # of an earlier life of a durable run
                self._fd = run_folders.append_to_file(at, DEAD_FILE, self.path)
                self._size = os.fstat(self._fd).st_size
                return
            try:
                self._write_line({**self._heading, "began": _local_time()})
            except OSError:
                self.close()
                with contextlib.suppress(OSError):
                    os.unlink(DEAD_FILE, dir_fd=at)
                raise

    def _write_line(self, found: Mapping[str, Any]) -> None:
        """Write one line, or none."""
        assert self._fd is not None
        self._size = run_folders.append_whole(self._fd, json.dumps(found).encode() + b"\n", self._size)

    def close(self) -> None:
        """Close the file."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            with contextlib.suppress(OSError):  # each letter was handed over when it was written
                if not os.fstat(fd).st_nlink:
                    self.written_count, self._why = 0, "the file was removed while the run went on"
                os.close(fd)


def _local_time() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def runs_with_dead_letters(state: Path) -> list[str]:
    """Return the runs that have dead letters, the oldest first."""
    return run_folders.runs_with_files(state, DEAD_FILE)


def find_dead_letters(state: Path, run: str = "last") -> Path:
    """Return the file of a run's dead letters: `last`, an id, or the beginning of one; UsageError says what there is.

    `last` is the last run, whether it has dead letters or not: the file need not be there.
    """
    kept = runs_with_dead_letters(state)
    if run.partition("~")[0] == "last":
        kept = run_folders.runs_with_files(state, DEAD_FILE, records.RECORD_FILE) or kept
    return run_folders.select_run(state, kept, run, "dead letters") / DEAD_FILE


def read_heading(path: Path) -> dict[str, Any]:
    """Return the file's heading, which describes its run."""
    return next(_readable_objects(path), {})


def read_letters(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the letters, in the order in which they were written; a line that is none, or was cut off, is left out.

    In the words of a `DeadLetter`: `item` is the value, `id` the item's id.
    """
    for found in _letter_objects(path):
        yield {"item": None, "id": ""} | found | {"item": value_from_repr(str(found.get("preview", "")))}


def letter_ids(path: Path) -> Iterator[str]:
    """Yield the ids of the letters' items."""
    return (str(found.get("id", "")) for found in _letter_objects(path))


def has_ledger(path: Path) -> bool:
    """Return True if the run with these letters is durable, and its ledger says what is dead."""
    return path.with_name(run_folders.LEDGER_FILE).exists()


def _letter_objects(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the letters as they are in the file; of a durable run the last one of each item that is dead now.

    An item may have been given again since, or have died once more after a crash.
    """
    objects = _readable_objects(path)
    next(objects, None)
    if not has_ledger(path):
        yield from objects
        return
    from runner.store.ledger_summary import read_dead_ids

    if (dead := read_dead_ids(path.parent)) is None:
        yield from objects
        return
    more = Counter(_item_key(found) for found in objects)
    objects = _readable_objects(path)
    next(objects, None)
    for found in objects:
        key = _item_key(found)
        more[key] -= 1
        if not more[key] and key in dead:
            yield found


def _item_key(letter: Mapping[str, Any]) -> tuple[str, str]:
    return str(letter.get("queue")), str(letter.get("id"))


def value_from_repr(shown: str) -> Any:
    """Return an item by its `repr`: the value where JSON can say it, else the `repr` as text.

    >>> value_from_repr("{'name': 'a', 'sizes': (1, 2.5)}"), value_from_repr("<Loaf 3>")
    ({'name': 'a', 'sizes': (1, 2.5)}, '<Loaf 3>')
    >>> value_from_repr("b'raw'"), value_from_repr("'ab'")
    ("b'raw'", 'ab')
    """
    import ast

    try:
        found = ast.literal_eval(shown)
        return found if _is_json(found) else shown
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return shown


def _is_json(found: Any) -> bool:
    """Return True if JSON can say it without a loss, but for tuples, which become lists."""
    if isinstance(found, dict):
        return all(isinstance(key, str) for key in found) and all(map(_is_json, found.values()))
    if isinstance(found, (list, tuple)):
        return all(map(_is_json, found))
    return found is None or isinstance(found, (str, int)) or (isinstance(found, float) and math.isfinite(found))


def count_unreadable_lines(path: Path) -> int:
    """Count the lines that are not letters, without a last one that was cut off because its run was killed."""
    return sum(found is None for found in _read_objects(path))


def _readable_objects(path: Path) -> Iterator[dict[str, Any]]:
    return (found for found in _read_objects(path) if found is not None)


def _read_objects(path: Path) -> Iterator[dict[str, Any] | None]:
    """Yield the object of every line, None for a whole line that has none."""
    try:
        with run_folders.open_run_file(path) as file:
            while line := file.readline(_MOST_LINE):
                while not line.endswith(b"\n") and (more := file.readline(_MOST_LINE)):
                    line = b"..." + more[-100:]  # too long to be a letter
                found = None
                with contextlib.suppress(ValueError, RecursionError):
                    found = json.loads(line.decode("utf-8", "replace"))
                if isinstance(found, dict):
                    yield found
                elif line.endswith(b"\n"):
                    yield None
    except FileNotFoundError:  # the run has none
        return
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from None
