"""The problems of one file, as they are found: everything that reads a part of it adds to the same `Report`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.config.problems import COMPARED, Problem, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runner.config.problems import Severity
    from runner.config.source_map import Path, Places

#: So many problems are collected; `render` shows fewer.
MOST = 200
#: So many words are compared in all, each some 40 µs, to find those that were meant.
_COMPARED = 10 * COMPARED
_HINTED = 50


class Wrong(Exception):
    """A value is wrong; whoever knows its key and place makes a `Problem` of it. `key` names a key below."""

    def __init__(self, code: str, message: str, hint: str = "", key: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.hint, self.key = code, message, hint, key


class Reported(Exception):
    """A value is unusable, and the report already says why."""


class TooMany(Exception):
    """More problems than anybody reads: looking on would only cost time."""


class Report:
    """Collects problems and finds their places."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.problems: list[Problem] = []
        self._compared = 0
        #: Paths whose values are wrong or missing for a reason that is reported: nothing may be concluded from them.
        self.holes: set[Path] = set()

    def add(self, code: str, message: str, path: Path, hint: str = "", severity: Severity = "error") -> None:
        """A problem at the key (or, with `VALUE` as its last part, the value) of `path`."""
        place = self.places.near(path)
        mask = self.places.mask
        if len(self.problems) > MOST:
            raise TooMany
        self.problems.append(Problem(code, mask(message), place, severity, mask(hint), self.places.line(place)))

    def nearest(self, word: str, known: Iterable[str]) -> str:
        """`did you mean ...?`; nothing in a file with so many mistakes that looking would take longer than reading."""
        if len(self.problems) >= _HINTED or self._compared >= _COMPARED:
            return ""
        words = list(known)
        self._compared += min(len(words), COMPARED)
        return did_you_mean(word, words)

    @property
    def bad(self) -> bool:
        """Whether there is an error."""
        return any(problem.severity == "error" for problem in self.problems)
