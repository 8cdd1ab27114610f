"""The problems of one file, as they are found: everything that reads a part of it adds to the same `Diagnostics`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.config.problems import Problem
from runner.text import MAX_COMPARED_WORDS, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runner.config.problems import Severity
    from runner.config.source_map import KeyPath, SourceMap

#: So many problems are collected; `render` shows fewer.
MAX_COLLECTED_PROBLEMS = 200
#: So many words are compared in all, each some 40 µs, to find those that were meant.
_COMPARED = 10 * MAX_COMPARED_WORDS
_HINTED = 50


class InvalidValue(Exception):
    """A value is wrong; whoever knows its key and place makes a `Problem` of it. `key` names a key below."""

    def __init__(self, code: str, message: str, hint: str = "", key: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.hint, self.key = code, message, hint, key


class AlreadyReported(Exception):
    """A value is unusable, and the report already says why."""


class TooManyProblems(Exception):
    """More problems than anybody reads: looking on would only cost time."""


class Diagnostics:
    """Collects problems and finds their places."""

    def __init__(self, places: SourceMap) -> None:
        self.source_map = places
        self.problems: list[Problem] = []
        self._compared = 0
        #: Paths whose values are wrong or missing for a reason that is reported: nothing may be concluded from them.
        self.unknown_paths: set[KeyPath] = set()

    def add_problem(self, code: str, message: str, path: KeyPath, hint: str = "", severity: Severity = "error") -> None:
        """A problem at the key (or, with `VALUE` as its last part, the value) of `path`."""
        place = self.source_map.nearest_location(path)
        mask = self.source_map.mask_secrets
        if len(self.problems) > MAX_COLLECTED_PROBLEMS:
            raise TooManyProblems
        self.problems.append(
            Problem(code, mask(message), place, severity, mask(hint), self.source_map.source_line(place))
        )

    def suggest_nearest(self, word: str, known: Iterable[str]) -> str:
        """`did you mean ...?`; nothing in a file with so many mistakes that looking would take longer than reading."""
        if len(self.problems) >= _HINTED or self._compared >= _COMPARED:
            return ""
        words = list(known)
        self._compared += min(len(words), MAX_COMPARED_WORDS)
        return did_you_mean(word, words)

    @property
    def has_errors(self) -> bool:
        """Whether there is an error."""
        return any(problem.severity == "error" for problem in self.problems)
