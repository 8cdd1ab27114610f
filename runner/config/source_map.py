"""The locations of keys and values in a file, by a small scanner of TOML that tomli has already found to be correct.

tomli gives values without places, and places are wanted only when there is a problem to show; so a `SourceMap` scans
its text at the first question. Paths are tuples of keys; elements of arrays count from "0"; a path that ends in
`VALUE_PART` is the value of a key and not the key itself.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import re
from collections import deque
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import tomli

from runner.problems import Location
from runner.secret_masks import forms_pattern
from runner.text import clean_text

if TYPE_CHECKING:
    from runner.problems import Problem

KeyPath = tuple[str, ...]

#: The last part of the path to a key's value.
VALUE_PART = "="

_TOKEN = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}|'
    r"'''.*?'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*"|'
    r"'[^'\n]*'|"
    r"#[^\n]*|[\n\[\]{}=,.]|[^\s\[\]{}=,.\"'#]+",
    re.DOTALL,
)


class SourceMap(dict[KeyPath, Location]):
    """Path → `Location`, each made when it is first asked for. `given` are values that came from outside the file."""

    def __init__(self, file: str, text: str) -> None:
        super().__init__()
        self.file = file
        self.text = text
        self.given: dict[KeyPath, str] = {}
        self.secrets: list[str] = []
        self._hidden: list[KeyPath] = []
        self._pattern, self._masked = re.compile(""), 0  # of so many of the secrets

    def get(self, path: KeyPath, default: Any = None) -> Any:
        """Return the location of exactly this path, or `default`."""
        for end in range(len(path), 0, -1) if self.given else ():
            if path[:end] in self.given:
                return Location(self.given[path[:end]])
        if path in self._spans and path not in self:
            start, end = self._spans[path]
            line, column = self._line_at(start)
            length = len(self.text[start:end].partition("\n")[0])
            self[path] = Location(self.file, line + 1, column + 1, max(1, length))
        return super().get(path, default)

    def complete(self, problem: Problem) -> Problem:
        """Return the problem with the line of the file that it stands in, secrets masked in all that it says."""
        mask = self.mask_secrets
        shown = self.source_line(problem.place)
        return replace(problem, message=mask(problem.message), hint=mask(problem.hint), source=shown)

    def source_line(self, place: Location) -> str:
        """Return the line of the file at a place, secrets masked; empty when the place is not in the file."""
        lines = self._masked_lines() if place.file == self.file else []
        return self.mask_secrets(lines[place.line - 1]) if 0 < place.line <= len(lines) else ""

    def hide_secret(self, path: KeyPath, value: object) -> None:
        """Show the value, and the text at its place, as stars from now on."""
        self._hidden.append((*path, VALUE_PART))
        self.secrets += [str(value)] if str(value) else []

    def mask_secrets(self, text: str) -> str:
        """Return the text with every secret value replaced, also where a message has cut or cleaned it."""
        if len(self.secrets) > self._masked:
            written = (repr(each)[1:-1] for each in self.secrets)
            cut = (clean_text(each, limit) for each in self.secrets for limit in (None, 60, 40))
            forms = sorted({*self.secrets, *written, *cut})
            self._pattern, self._masked = re.compile(forms_pattern(forms)), len(self.secrets)
        # A star for each character: what stands below stays below.
        return self._pattern.sub(lambda found: "*" * len(found[0]), text) if self.secrets else text

    def _masked_lines(self) -> list[str]:
        while self._hidden:
            start, end = self._spans.get(self._hidden.pop(), (0, 0))
            first, column = self._line_at(start)
            for number, part in enumerate(self.text[start:end].split("\n"), first):
                shown = self._lines[number]
                self._lines[number] = f"{shown[:column]}{'*' * len(part)}{shown[column + len(part) :]}"
                column = 0
        return self._lines

    @cached_property
    def _lines(self) -> list[str]:
        return self.text.split("\n")

    @cached_property
    def _spans(self) -> dict[KeyPath, tuple[int, int]]:
        return TomlScanner(self.text).find_spans()

    @cached_property
    def _line_starts(self) -> list[int]:
        return [0, *(found.end() for found in re.finditer("\n", self.text))]

    def _line_at(self, at: int) -> tuple[int, int]:
        """Return the line and column of a place in the text, counted from 0."""
        line = bisect.bisect_right(self._line_starts, at) - 1
        return line, at - self._line_starts[line]


class TomlScanner:
    """Walks over the text once; `spans` gives start and end of every key, value and element."""

    def __init__(self, text: str) -> None:
        self.spans: dict[KeyPath, tuple[int, int]] = {}
        self._arrays: dict[KeyPath, int] = {}
        self._tokens = deque((found[0], *found.span()) for found in _TOKEN.finditer(text) if found[0][0] != "#")
        self._tokens.append(("\n", len(text), len(text)))

    def find_spans(self) -> dict[KeyPath, tuple[int, int]]:
        """Return all spans; what is not TOML ends the walk early instead of failing."""
        table: KeyPath = ()
        with contextlib.suppress(IndexError, ValueError):
            while True:
                self._skip("\n")
                if self._tokens[0][0] == "[":
                    table = self._read_header()
                else:
                    self._read_pair(table)
        return self.spans

    def _skip(self, *words: str) -> None:
        while self._tokens[0][0] in words:
            self._tokens.popleft()

    def _read_header(self) -> KeyPath:
        self._tokens.popleft()
        double = self._tokens[0][0] == "["
        self._skip("[")
        path: KeyPath = ()
        parts = self._read_key()
        for number, (part, start, end) in enumerate(parts):
            path += (part,)
            self.spans.setdefault(path, (start, end))
            if double and number == len(parts) - 1:
                self._arrays[path] = self._arrays.get(path, -1) + 1
            if path in self._arrays:
                path += (str(self._arrays[path]),)
                self.spans.setdefault(path, (start, end))
        self._skip("]")
        return path

    def _read_key(self) -> list[tuple[str, int, int]]:
        """Return a dotted key as (part, start, end); the `=` or `]` behind it is taken, too."""
        parts = []
        while True:
            word, start, end = self._tokens.popleft()
            parts.append((tomli.loads(f"k = {word}")["k"] if word[0] in "\"'" else word, start, end))
            if self._tokens.popleft()[0] != ".":
                return parts

    def _read_pair(self, path: KeyPath) -> None:
        for part, start, end in self._read_key():
            path += (part,)
            self.spans.setdefault(path, (start, end))
        self.spans.setdefault((*path, VALUE_PART), self._read_value(path))

    def _read_value(self, path: KeyPath) -> tuple[int, int]:
        """Return start and end of a value, after those of what is in it."""
        opening, start, end = self._tokens.popleft()
        if opening not in {"[", "{"}:
            while self._tokens[0][0] not in {",", "]", "}", "\n"}:  # a date and a time are two tokens, 1.5 is three
                end = self._tokens.popleft()[2]
            return start, end
        for number in itertools.count():
            self._skip(",", "\n")
            if self._tokens[0][0] in {"]", "}"}:
                break
            if opening == "{":
                self._read_pair(path)
            else:
                element = (*path, str(number))
                self.spans.setdefault(element, self._read_value(element))
        return start, self._tokens.popleft()[2]
