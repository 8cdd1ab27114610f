"""The problems of one file, as they are found: everything that reads a part of it adds to the same `Diagnostics`."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.problems import Problem, nearest_location, quote_name, sorted_problems
from runner.text import MAX_COMPARED_WORDS, clean_text, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runner.config.source_map import KeyPath, SourceMap
    from runner.problems import Severity

#: So many problems are collected; `render` shows fewer.
MAX_COLLECTED_PROBLEMS = 200
#: So many words are compared in all, each some 40 µs, to find those that were meant.
_COMPARED = 10 * MAX_COMPARED_WORDS
_HINTED = 50


NAME_PATTERN = r"\w[\w-]{0,63}"
NAME_WANTED = "a name is up to 64 letters, digits, `_` and `-`"


#: Stands for a value that could not be found out; code that meets it stays silent, because the problem is reported.
UNKNOWN: Any = type("Unknown", (), {"__repr__": lambda self: "unknown", "__slots__": ()})()


class InvalidValue(Exception):
    """A value is wrong; the reader, which knows its key and place, makes a `Problem` of it. `key` names a key below."""

    def __init__(self, code: str, message: str, hint: str = "", key: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.hint, self.key = code, message, hint, key


class AlreadyReported(Exception):
    """A value is unusable, and the report already says why."""


class TooManyProblems(Exception):
    """The file has more problems than a person reads: looking on would only cost time."""


def describe_value(value: object) -> str:
    """Return a value as a message shows it: short ones as they are, others by their kind.

    >>> describe_value("thred"), describe_value(True), describe_value([1]), describe_value({})
    ('"thred"', 'true', 'a list', 'a table')
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + clean_text(value, 60) + '"'
    if isinstance(value, (int, float)):
        return clean_text(str(value), 40)
    kinds = {list: "a list", dict: "a table", Path: f'"{value}"', dt.datetime: "a date"}
    return next((word for kind, word in kinds.items() if isinstance(value, kind)), "a date or time")


def wrong_type(wanted: str, value: object, code: str = "E103", hint: str = "") -> InvalidValue:
    """Return the error of a value that has another type, or another form, than its key wants."""
    return InvalidValue(code, f"must be {wanted}, not {describe_value(value)}", hint)


def check_type(value: Any, type_: type, wanted: str) -> None:
    """Raise `wrong_type` if the value has another type; true and false are not numbers."""
    if not isinstance(value, type_) or (isinstance(value, bool) and type_ is int):
        raise wrong_type(wanted, value)


class Diagnostics:
    """Collects problems and finds their places."""

    def __init__(self, places: SourceMap) -> None:
        self.source_map = places
        self.problems: list[Problem] = []
        self._compared = 0
        #: Paths whose values are wrong or missing for a reason that is reported: nothing may be concluded from them.
        self.unknown_paths: set[KeyPath] = set()

    def add_problem(self, code: str, message: str, path: KeyPath, hint: str = "", severity: Severity = "error") -> None:
        """Add a problem at the key (or, with `VALUE_PART` as its last part, the value) of `path`."""
        if len(self.problems) > MAX_COLLECTED_PROBLEMS:
            raise TooManyProblems
        place = nearest_location(self.source_map, path, self.source_map.file)
        self.problems.append(Problem(code, message, place, severity, hint))

    def finished_problems(self) -> list[Problem]:
        """Return all problems, sorted by place, as they may be shown."""
        return sorted_problems(map(self.source_map.complete, self.problems))

    def suggest_nearest(self, word: str, known: Iterable[str]) -> str:
        """Return `did you mean ...?`; nothing in a file with more mistakes than a search for each may take time."""
        if len(self.problems) >= _HINTED or self._compared >= _COMPARED:
            return ""
        words = list(known)
        self._compared += min(len(words), MAX_COMPARED_WORDS)
        return did_you_mean(word, words)

    def check_name(self, word: str, what: str, path: KeyPath) -> bool:
        """Return True if the word can be the name of a task, a queue, ...; report it if it cannot."""
        if re.fullmatch(NAME_PATTERN, word):
            return True
        self.add_problem("E107", f"{quote_name(word)} is not a valid {what} name", path, NAME_WANTED)
        return False
