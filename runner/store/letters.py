"""A run's dead letters, written as they happen: a heading, then one JSON object a line."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any, TextIO

from runner.errortext import shorten
from runner.store import folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_FILE = "dead.jsonl"
#: A letter's traceback and output, in the file: enough to understand it, and a million of them still fit a disk.
_MOST_TEXT = 16 * 1024


class DeadLetters:
    """The dead letters of one run. The folder is made with the first one: a run without any leaves nothing behind.

    A disk that takes no more is remembered in `trouble`; the run goes on, and counts its dead all the same.
    """

    def __init__(self, state: Path, run: str, heading: Mapping[str, Any]) -> None:
        self.path = state / "runs" / run / _FILE
        self.count = 0
        self.trouble = ""
        self._state = state
        self._heading = {"run": run, **heading}
        self._file: TextIO | None = None

    def append(self, letter: Mapping[str, Any]) -> None:
        """Write one letter; it is with the operating system when this returns."""
        self.count += 1
        if self.trouble:
            return
        try:
            if self._file is None:
                self._file = self._open()
            shortened = {
                key: shorten(value, _MOST_TEXT) if isinstance(value, str) else value for key, value in letter.items()
            }
            self._file.write(json.dumps({**shortened, "at": _now()}) + "\n")
            self._file.flush()
        except OSError as error:
            self.trouble = f"dead letters cannot be written to {self.path}: {error.strerror or error}"

    def _open(self) -> TextIO:
        folder.make(self._state, self.path.parent.name)
        file = os.fdopen(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "w", encoding="utf-8")
        file.write(json.dumps({**self._heading, "began": _now()}) + "\n")
        return file

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


# -- reading ----------------------------------------------------------------------------------


def runs(state: Path) -> list[str]:
    """The runs that have dead letters, the oldest first."""
    return folder.having(state, _FILE)


def find(state: Path, run: str = "last") -> Path:
    """The file of a run's dead letters: `last`, an id, or the beginning of one; UsageError says what there is."""
    return folder.one(state, runs(state), run, "dead letters") / _FILE


def heading(path: Path) -> dict[str, Any]:
    """What the file says of its run."""
    return next(_objects(path), {})


def letters(path: Path) -> Iterator[dict[str, Any]]:
    """The letters, in the order in which they were written; a last line that was cut off is left out."""
    objects = _objects(path)
    next(objects, None)
    yield from objects


def _objects(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if isinstance(found, dict):
                yield found
