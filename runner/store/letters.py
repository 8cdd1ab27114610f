"""A run's dead letters, written as they happen: a heading, then one JSON object a line."""

from __future__ import annotations

import json
import math
import os
import time
from typing import TYPE_CHECKING, Any, TextIO

from runner.errortext import shorten
from runner.store import folder, records

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
    """The file of a run's dead letters: `last`, an id, or the beginning of one; UsageError says what there is.

    `last` is the last run, whether it has dead letters or not: the file need not be there.
    """
    kept = runs(state)
    if run.partition("~")[0] == "last":
        kept = folder.having(state, _FILE, records.FILE) or kept
    return folder.one(state, kept, run, "dead letters") / _FILE


def heading(path: Path) -> dict[str, Any]:
    """What the file says of its run."""
    return next(_objects(path), {})


def letters(path: Path) -> Iterator[dict[str, Any]]:
    """The letters, in the order in which they were written; a last line that was cut off is left out.

    In the words of a `DeadLetter`: `item` is the value, `id` the item's id.
    """
    objects = _objects(path)
    next(objects, None)
    for found in objects:
        shown = str(found.get("preview", ""))
        letter = {"item": value(shown), "id": str(found.get("id", found.get("item", ""))), **found}
        yield {**letter, "item": value(shown)}


def value(shown: str) -> Any:
    """An item by its `repr`: the value where JSON can say it, else the `repr` as text.

    >>> value("{'name': 'a', 'sizes': (1, 2.5)}"), value("<Loaf 3>"), value("b'raw'"), value("'ab'")
    ({'name': 'a', 'sizes': (1, 2.5)}, '<Loaf 3>', "b'raw'", 'ab')
    """
    import ast

    try:
        found = ast.literal_eval(shown)
        return found if _is_json(found) else shown
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return shown


def _is_json(found: Any) -> bool:
    """Whether JSON can say it without a loss, but for tuples, which are lists there."""
    if isinstance(found, dict):
        return all(isinstance(key, str) for key in found) and all(map(_is_json, found.values()))
    if isinstance(found, (list, tuple)):
        return all(map(_is_json, found))
    return found is None or isinstance(found, (str, int)) or (isinstance(found, float) and math.isfinite(found))


def _objects(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if isinstance(found, dict):
                yield found
