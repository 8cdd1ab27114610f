"""The locations of keys and values in a file, by a small scanner of TOML that tomli has already found to be correct.

tomli gives values without places, and places are wanted only when there is a problem to show; so a `SourceMap` scans
its text at the first question. Paths are tuples of keys; elements of arrays count from "0"; a path that ends in
`VALUE` is the value of a key and not the key itself.
"""

from __future__ import annotations

import bisect
import re
from typing import TYPE_CHECKING, Any

import tomli

from runner.problems import Location
from runner.secret_masks import SecretMask
from runner.text import clean_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

KeyPath = tuple[str, ...]

#: The last part of the path to a key's value.
VALUE_PART = "="

_BLANK = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}|'
    r"'''.*?'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*"|'
    r"'[^'\n]*'",
    re.DOTALL,
)
_BARE_KEY = re.compile(r"[^\s.=\]\"'#]+")
_BARE_VALUE = re.compile(r"[^,\]}#\n]+")
#: A whole line of the plainest kind, which most are: a bare key, and a value without spaces and quotes.
_PLAIN = re.compile(r"([\w-]+)[ \t]*=[ \t]*([\w.+:-]+)[ \t]*(?=[\n#]|\Z)")


def _forms_of_secret(secret: str) -> Iterator[str]:
    """Yield a secret in the forms that messages give it."""
    yield from (secret, repr(secret)[1:-1], clean_text(secret), clean_text(secret, 60), clean_text(secret, 40))


class SourceMap(dict[KeyPath, Location]):
    """Path → `Location`, each made when it is first asked for. `given` are values that came from outside the file."""

    def __init__(self, file: str, text: str) -> None:
        super().__init__()
        self.file = file
        self.text = text
        self.given: dict[KeyPath, str] = {}
        self.secrets: list[str] = []
        self._forms: list[tuple[str, ...]] = []
        self._hidden: list[KeyPath] = []
        self._spans: dict[KeyPath, tuple[int, int]] = {}
        self._lines: list[str] = []
        self._mask, self._masked = SecretMask(), 0  # of so many of the secrets
        self._scanned = False

    def get(self, path: KeyPath, default: Any = None) -> Any:
        """Return the location of exactly this path, or `default`."""
        for end in range(len(path), 0, -1) if self.given else ():
            if path[:end] in self.given:
                return Location(self.given[path[:end]])
        self._scan_text()
        if path not in self._spans:
            return default
        if (found := super().get(path)) is None:
            found = self[path] = self._make_location(*self._spans[path])
        return found

    def __contains__(self, path: object) -> bool:
        return isinstance(path, tuple) and self.get(path) is not None

    def nearest_location(self, path: KeyPath) -> Location:
        """Return the location of this path, or of its nearest parent."""
        for end in range(len(path), 0, -1):
            found = self.get(path[:end])
            if found is not None:
                return found  # type: ignore[no-any-return]  # `get` has the signature of dict's
        return Location(self.file)

    def source_line(self, place: Location) -> str:
        """Return the line of the file at a place, secrets masked; empty when the place is not in the file."""
        if place.file != self.file:
            return ""
        lines = self._masked_lines()
        return self.mask_secrets(lines[place.line - 1]) if 0 < place.line <= len(lines) else ""

    def hide_secret(self, path: KeyPath, value: object) -> None:
        """Show the value, and the text at its place, as stars from now on."""
        self._hidden.append((*path, VALUE_PART))
        if str(value):
            self.secrets.append(str(value))
            self._forms.append(tuple(_forms_of_secret(str(value))))

    def mask_secrets(self, text: str) -> str:
        """Return the text with every secret value replaced, also where a message has cut or cleaned it."""
        if len(self.secrets) > 2 * self._masked:  # made anew so seldom that thousands cost no more than reading them
            self._mask, self._masked = SecretMask(self.secrets, _forms_of_secret), len(self.secrets)
        text = self._mask.mask_same_length(text)
        for forms in self._forms[self._masked :]:
            if any(form in text for form in forms):
                text = SecretMask(forms, lambda form: (form,)).mask_same_length(text)
        return text

    def _masked_lines(self) -> list[str]:
        """Return the lines of the file, with stars in place of secrets."""
        if not self._lines:
            self._lines = self.text.split("\n")
        while self._hidden:
            self._scan_text()
            path = self._hidden.pop()
            if path in self._spans:
                start, end = self._spans[path]
                first, column = self._line_at(start)
                for number, part in enumerate(self.text[start:end].split("\n"), first):
                    shown = self._lines[number]
                    self._lines[number] = f"{shown[:column]}{'*' * len(part)}{shown[column + len(part) :]}"
                    column = 0
        return self._lines

    def _scan_text(self) -> None:
        if not self._scanned:
            self._scanned = True
            for path, start, end in TomlScanner(self.text).find_spans():
                self._spans.setdefault(path, (start, end))

    def _make_location(self, start: int, end: int) -> Location:
        line, column = self._line_at(start)
        stop = self.text.find("\n", start, end)
        length = (end if stop < 0 else stop) - start
        return Location(self.file, line + 1, column + 1, max(1, length))

    def _line_at(self, at: int) -> tuple[int, int]:
        """Return the line and column of a place in the text, counted from 0."""
        if not hasattr(self, "_starts"):
            self._starts = [0, *(found.end() for found in re.finditer("\n", self.text))]
        line = bisect.bisect_right(self._starts, at) - 1
        return line, at - self._starts[line]


class TomlScanner:
    """Walks over the text once; `found` gives (path, start, end) of every key, value and element."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.spans: list[tuple[KeyPath, int, int]] = []
        self.arrays: dict[KeyPath, int] = {}

    def find_spans(self) -> Iterable[tuple[KeyPath, int, int]]:
        """Return all spans; what is not TOML ends the walk early instead of failing."""
        table: KeyPath = ()
        try:
            self._skip_blank()
            while self.at < len(self.text):
                if self.text[self.at] == "[":
                    table = self._read_header()
                else:
                    self._read_pair(table)
                self._skip_blank()
        except (IndexError, ValueError):
            pass
        return self.spans

    def _skip_blank(self) -> None:
        match = _BLANK.match(self.text, self.at)
        assert match is not None
        self.at = match.end()

    def _take_match(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.at)
        if match is None:
            raise ValueError(self.at)
        self.at = match.end()
        return match[0]

    def _read_header(self) -> KeyPath:
        double = self.text.startswith("[[", self.at)
        self.at += 2 if double else 1
        path: KeyPath = ()
        parts = self._read_key()
        for number, (part, start, end) in enumerate(parts):
            path += (part,)
            self.spans.append((path, start, end))
            if double and number == len(parts) - 1:
                self.arrays[path] = self.arrays.get(path, -1) + 1
            if path in self.arrays:
                path += (str(self.arrays[path]),)
                self.spans.append((path, start, end))
        self.at += 2 if double else 1
        return path

    def _read_key(self) -> list[tuple[str, int, int]]:
        """Return a dotted key as (part, start, end); `at` is then on the `=` or `]`."""
        parts = []
        while True:
            self._skip_blank()
            start = self.at
            if self.text[start] in "\"'":
                part = tomli.loads("k = " + self._take_match(_STRING))["k"]
            else:
                part = self._take_match(_BARE_KEY)
            parts.append((part, start, self.at))
            self._skip_blank()
            if self.text[self.at] != ".":
                return parts
            self.at += 1

    def _read_pair(self, table: KeyPath) -> None:
        if plain := _PLAIN.match(self.text, self.at):
            path = (*table, plain[1])
            self.spans += (path, *plain.span(1)), ((*path, VALUE_PART), *plain.span(2))
            self.at = plain.end()
            return
        path = table
        for part, start, end in self._read_key():
            path += (part,)
            self.spans.append((path, start, end))
        self.at += 1
        self._skip_blank()
        start = self.at
        self._read_value(path)
        self.spans.append(((*path, VALUE_PART), start, self.at))

    def _read_value(self, path: KeyPath) -> None:
        first = self.text[self.at]
        if first in "\"'":
            self._take_match(_STRING)
        elif first == "[":
            self._read_array(path)
        elif first == "{":
            self._read_inline_table(path)
        else:
            bare = self._take_match(_BARE_VALUE)
            self.at -= len(bare) - len(bare.rstrip())

    def _count_elements(self, end: str) -> Iterator[int]:
        """Yield the number of each element of an array or inline table, at which the caller reads it."""
        self.at += 1
        number = 0
        while True:
            self._skip_blank()
            char = self.text[self.at]
            if char not in {",", end}:
                yield number
                number += 1
                continue
            self.at += 1
            if char == end:
                return

    def _read_array(self, path: KeyPath) -> None:
        for number in self._count_elements("]"):
            start = self.at
            self._read_value((*path, str(number)))
            self.spans.append(((*path, str(number)), start, self.at))

    def _read_inline_table(self, path: KeyPath) -> None:
        for _ in self._count_elements("}"):
            self._read_pair(path)
