"""Bytes → dict. Whatever comes in (binary, another encoding, 1,000 levels, a million digits): a clean problem, soon."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli

if TYPE_CHECKING:
    from collections.abc import Callable

#: A file written by hand has some kilobytes; what is larger is not one.
MAX_FILE_BYTES = 1024 * 1024
#: `[tests.expect.queues.NAME]` and an argument in it are about ten levels.
MAX_NESTING = 64

STDIN = "<stdin>"

_TOKEN = re.compile(r"\"(?:[^\"\\\n]|\\.)*\"|'[^'\n]*'|#[^\n]*|[\[\]{}.=\n]")
_LONG_NUMBER = re.compile(r"[0-9_]{1000,}")


class UnreadableFile(Exception):
    """The text is not TOML, or not there. Line 0: the problem has no place; `shown`: the line, if there is no text."""

    def __init__(
        self, code: str, message: str, line: int = 0, column: int = 0, hint: str = "", shown: str = ""
    ) -> None:
        super().__init__(message)
        self.code, self.message, self.line, self.column = code, message, line, column
        self.hint, self.shown = hint, shown


def read(source: str | Path) -> tuple[Path, str]:
    """Return the folder and the text of a file (`-`: standard input); raises `UnreadableFile`."""
    if str(source) == "-":
        return Path.cwd(), decode_text(sys.stdin.buffer.read(MAX_FILE_BYTES + 1))
    path = Path(source)
    try:
        # The pipe of `runner run <(generate)`, and not a device such as /dev/zero.
        is_pipe = path.is_fifo() and str(path).startswith(("/dev/fd/", "/proc/self/fd/"))
        if not path.is_file() and not is_pipe:
            what = "this is a folder, not a file" if path.is_dir() else "this is not a regular file"
            raise UnreadableFile("E101", what if path.exists() else "the file does not exist")
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        folder = path.absolute().parent
    except OSError as error:
        raise UnreadableFile("E101", f"the file cannot be read: {error.strerror or type(error).__name__}") from None
    except ValueError:  # a NUL in the path
        raise UnreadableFile("E101", "the file is not a file name") from None
    return folder, decode_text(data)


def decode_text(data: bytes) -> str:
    r"""Return the text of UTF-8 with or without a byte order mark; raises `UnreadableFile`.

    >>> decode_text(b"\xef\xbb\xbfa = 1\r\n")
    'a = 1\n'
    """
    if len(data) > MAX_FILE_BYTES:
        raise UnreadableFile("E101", f"the file is larger than {MAX_FILE_BYTES // 1024**2} MiB, which no task file is")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UnreadableFile("E101", "the file is UTF-16; TOML is UTF-8", hint="save it as UTF-8")
    data = data.removeprefix(b"\xef\xbb\xbf")
    if b"\x00" in data:
        raise UnreadableFile("E101", "the file is binary, not text")
    try:
        return data.decode().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        text = data.decode(errors="replace")
        line, column = _line_and_column(text, len(data[: error.start].decode()))
        shown = text.split("\n")[line - 1].rstrip("\r")
        raise UnreadableFile("E101", "the file is not UTF-8 text", line, column, "save it as UTF-8", shown) from None


def parse_toml(text: str) -> dict[str, Any]:
    """Return the TOML as dicts and lists; raises `UnreadableFile`."""
    try:
        found = tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        raise _explain_syntax(text, error) from None
    except RecursionError:
        raise UnreadableFile("E102", "values or keys are nested too deeply", *_find_depth(text)) from None
    except ValueError as error:  # an integer of thousands of digits, or an invalid date
        if (number := _LONG_NUMBER.search(text)) is None:
            raise UnreadableFile("E102", f"not valid TOML: {error}") from None
        place = _line_and_column(text, number.start())
        raise UnreadableFile("E102", "a number with thousands of digits", *place) from None
    if _too_deep(found):
        raise UnreadableFile("E102", f"tables are nested more than {MAX_NESTING} levels deep", *_find_depth(text))
    return found


def parse_value(text: str) -> Any:
    r"""Return the text as a TOML value, or as a string if it is not one.

    >>> parse_value("3"), parse_value("[1, 2]"), parse_value("10s"), parse_value("1\nb = 2")
    (3, [1, 2], '10s', '1\nb = 2')
    """
    try:
        found = tomli.loads(f"v = {text}") if "\n" not in text else {}
    except (ValueError, RecursionError):
        return text
    return found["v"] if set(found) == {"v"} else text


def _explain_syntax(text: str, error: tomli.TOMLDecodeError) -> UnreadableFile:
    message = error.msg[:1].lower() + error.msg[1:]
    line, column = error.lineno, error.colno
    lines = text.split("\n")
    if line >= len(lines) and not lines[-1].strip():  # "at end of document": show the last line that says something
        line = max((number for number, one in enumerate(lines, 1) if one.strip()), default=1)
        column = len(lines[line - 1]) + 1
    column = min(column, len(lines[line - 1]) + 1)  # tomli looks two characters ahead behind a backslash
    for pattern, better, hint, column_of in _PLAINER:
        if re.match(pattern, message) and (at := column_of(lines[line - 1], column) if column_of else column):
            return UnreadableFile("E102", f"not valid TOML: {better or message}", line, at, hint)
    return UnreadableFile("E102", f"not valid TOML: {message}", line, column)


def _first_column(line: str, column: int) -> int:
    """Return the column of the key or the header: tomli reports them at the end of the line."""
    return len(line) - len(line.lstrip(" \t[")) + 1


def _opening_quote(line: str, column: int) -> int:
    """Return the column where the unclosed string begins."""
    start = 0
    for token in _TOKEN.finditer(line[: column - 1]):
        start = token.end()
    return next((start + at + 1 for at, char in enumerate(line[start:]) if char in "\"'"), column)


def _bare_word(line: str, column: int) -> int:
    """Return the column if a word without quotes stands there, else 0."""
    return column if re.match(r"[A-Za-z_][\w.:/-]*\s*(#.*)?$", line[column - 1 :]) else 0


#: Of a message of tomli: better words, a hint, and the column to show, if not the one that tomli gives.
_PLAINER: tuple[tuple[str, str, str, Callable[[str, int], int] | None], ...] = (
    (r"cannot overwrite a value", "duplicate key", "", _first_column),
    (r"cannot (declare|mutate|redefine)", "duplicate table, or a value that is not a table", "", _first_column),
    (
        r"illegal character '\\n'",
        "a string that does not end on its line",
        "its closing quote is missing",
        _opening_quote,
    ),
    (r"unclosed array", "", "`]` or a comma is missing", None),
    (r"unclosed inline table", "", "`}` or a comma is missing", None),
    (r"invalid value", "", "a string needs quotes", _bare_word),
    (r"expected '=' after a key", "", "TOML writes `key = value`", None),
)


def _line_and_column(text: str, at: int) -> tuple[int, int]:
    return text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)


def _find_depth(text: str) -> tuple[int, int]:
    """Return line and column of the first bracket or part of a key beyond `MAX_NESTING`; (0, 0) if none is found."""
    level = dots = 0
    for token in _TOKEN.finditer(text):
        word = token[0]
        level += (word in "[{") - (word in "]}")
        dots = dots + 1 if word == "." else 0 if word in "\n=" else dots
        if level > MAX_NESTING or dots > MAX_NESTING:
            return _line_and_column(text, token.start())
    return 0, 0


def _too_deep(value: dict[str, Any]) -> bool:
    """Return True if tables are nested too deeply; without recursion, because the depth is in question."""
    level: list[Any] = [value]
    for _ in range(MAX_NESTING):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]
    return bool(level)
