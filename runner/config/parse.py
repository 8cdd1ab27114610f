"""Bytes → dict. Whatever comes in (binary, another encoding, 1,000 levels, a million digits): a clean problem, soon."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli

#: A file written by hand has some kilobytes; what is larger is not one.
MOST_BYTES = 1024 * 1024
#: `[tests.expect.queues.NAME]` and an argument in it are about ten levels.
MOST_LEVELS = 64

STDIN = "<stdin>"

_LONG_NUMBER = re.compile(r"[0-9_]{1000,}")


class Unreadable(Exception):
    """The text is no TOML, or not there; `line` and `column` are 0 when the problem has no place."""

    def __init__(self, code: str, message: str, line: int = 0, column: int = 0, hint: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.line, self.column, self.hint = code, message, line, column, hint


@dataclass(frozen=True, slots=True)
class Source:
    """A file as it was given: its name for people, the folder it lives in, and its text."""

    file: str
    folder: Path
    text: str


def read(source: str | Path) -> Source:
    """Read a file (`-`: standard input) and decode it; raises `Unreadable`."""
    if str(source) == "-":
        return Source(STDIN, Path.cwd(), decode(sys.stdin.buffer.read(MOST_BYTES + 1)))
    path = Path(source)
    try:
        if not path.is_file() and not _is_pipe(path):
            raise Unreadable("E101", _not_a_file(path))
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        folder = path.absolute().parent
    except OSError as error:
        raise Unreadable("E101", f"cannot be read: {error.strerror or type(error).__name__}") from None
    except ValueError:  # a NUL in the path
        raise Unreadable("E101", "is not a file name") from None
    return Source(str(path), folder, decode(data))


def _not_a_file(path: Path) -> str:
    if path.is_dir():
        return "is a folder, not a file"
    return "is not a regular file" if path.exists() else "does not exist"


def _is_pipe(path: Path) -> bool:
    """`runner run <(generate)` gives a pipe; a device such as /dev/zero is none."""
    return path.is_fifo() and str(path).startswith(("/dev/fd/", "/proc/self/fd/"))


def decode(data: bytes) -> str:
    r"""UTF-8 with or without a byte order mark; raises `Unreadable`.

    >>> decode(b"\xef\xbb\xbfa = 1\r\n")
    'a = 1\n'
    """
    if len(data) > MOST_BYTES:
        raise Unreadable("E101", f"is larger than {MOST_BYTES // 1024**2} MiB, which no task file is")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise Unreadable("E101", "is UTF-16; TOML is UTF-8", hint="save it as UTF-8")
    data = data.removeprefix(b"\xef\xbb\xbf")
    if b"\x00" in data:
        raise Unreadable("E101", "is binary, not text")
    try:
        return data.decode().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = len(data[data.rfind(b"\n", 0, error.start) + 1 : error.start].decode(errors="replace")) + 1
        raise Unreadable("E101", "is not UTF-8 text", line, column, "save it as UTF-8") from None


def parse(text: str) -> dict[str, Any]:
    """The TOML as dicts and lists; raises `Unreadable`."""
    try:
        found = tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        raise _syntax(text, error) from None
    except RecursionError:
        raise Unreadable("E102", "values or keys are nested too deeply") from None
    except ValueError as error:  # an integer of thousands of digits, or a date that is none
        raise _bad_value(text, error) from None
    if _too_deep(found):
        raise Unreadable("E102", f"tables are nested more than {MOST_LEVELS} levels deep")
    return found


def _syntax(text: str, error: tomli.TOMLDecodeError) -> Unreadable:
    message = error.msg[:1].lower() + error.msg[1:]
    line, column = error.lineno, error.colno
    lines = text.split("\n")
    if line >= len(lines) and not lines[-1].strip():  # "at end of document": show the last line that says something
        line = max((number for number, one in enumerate(lines, 1) if one.strip()), default=1)
        column = len(lines[line - 1]) + 1
    return Unreadable("E102", f"not TOML: {message}", line, column)


def _bad_value(text: str, error: ValueError) -> Unreadable:
    number = _LONG_NUMBER.search(text)
    if number is None:
        return Unreadable("E102", f"not TOML: {error}")
    line = text.count("\n", 0, number.start()) + 1
    column = number.start() - text.rfind("\n", 0, number.start())
    return Unreadable("E102", "a number of thousands of digits", line, column)


def _too_deep(value: dict[str, Any]) -> bool:
    """Without recursion: depth is what is in question."""
    level: list[Any] = [value]
    for _ in range(MOST_LEVELS):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return False
    return True
