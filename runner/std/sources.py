"""Sources: lines, rows and records of a file or of standard input, names of files, numbers."""

from __future__ import annotations

import codecs
import io
import itertools
import math
import os
import re
import select
import stat
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

from runner import shared_stdin
from runner.tasks import SENT_ITEMS, Context, task

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

#: A longer line means that the file is not text.
MAX_LINE_BYTES = 64 << 20
_LOOK = 0.2
#: How far a file has been read is told after 32 lines, at most four times a second.
_LOOKS = 31


@task(mode="thread")
def lines(
    path: str = "-",
    *,
    encoding: str = "utf-8-sig",
    errors: str = "strict",
    keep_ends: bool = False,
    skip_empty: bool = False,
    most: int = MAX_LINE_BYTES,
    context: Context | None = None,
) -> Iterator[str]:
    r"""Each line of a text file, or of standard input (`-`), without its end (`\n` or `\r\n`).

    `encoding` as Python names it; the default is UTF-8, with or without a byte order mark. `errors` says what becomes
    of bytes that are no text, as for `open`. `keep_ends` leaves the line's end; `skip_empty` leaves out lines without
    anything. A line of more than `most` bytes is an error.
    """
    for _, line in _numbered_lines(path, encoding, errors, most, context):
        text = line if keep_ends else line.removesuffix("\n").removesuffix("\r")
        if text.strip("\r\n") or not skip_empty:
            yield text


@task(name="csv", mode="thread")
def csv_rows(
    path: str = "-",
    *,
    fields: list[str] | None = None,
    delimiter: str = ",",
    encoding: str = "utf-8-sig",
    errors: str = "strict",
    most: int = MAX_LINE_BYTES,
    context: Context | None = None,
) -> Iterator[dict[str, str]]:
    """Each row of a CSV file, or of standard input (`-`), as a dict of texts.

    The first row names the fields, unless `fields` does. Every row must have as many values; rows without any are
    left out.
    """
    import csv

    if len(delimiter) != 1:
        raise ValueError(f"delimiter must be a single character, not {delimiter!r}")
    csv.field_size_limit(max(csv.field_size_limit(), most))
    name, names = _shown_path(path), fields
    if double := duplicates_in(fields or ()):
        raise ValueError(f"duplicate field {double[0]!r}")
    rows = csv.reader(
        (line for _, line in _numbered_lines(path, encoding, errors, most, context)), delimiter=delimiter, strict=True
    )
    try:
        for row in filter(None, rows):
            if names is None:
                names = row
                if double := duplicates_in(names):
                    raise ValueError(f"{name}:{rows.line_num}: duplicate field {double[0]!r}")
            elif len(row) != len(names):
                raise ValueError(f"{name}:{rows.line_num}: {len(row)} values, but there are {len(names)} fields")
            else:
                yield dict(zip(names, row, strict=True))
    except csv.Error as error:
        raise ValueError(f"{name}:{rows.line_num}: invalid CSV: {error}") from None


@task(mode="thread")
def jsonl(
    path: str = "-",
    *,
    encoding: str = "utf-8-sig",
    errors: str = "strict",
    most: int = MAX_LINE_BYTES,
    context: Context | None = None,
) -> Iterator[Any]:
    """Each line of a file of JSON lines, or of standard input (`-`), as the value it is; empty lines are left out."""
    import json

    for number, line in _numbered_lines(path, encoding, errors, most, context):
        if line.strip():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                why = "nested too deeply" if isinstance(error, RecursionError) else error
                raise ValueError(f"{_shown_path(path)}:{number}: invalid JSON: {why}") from None
            yield value


@task(name="glob", mode="thread", key=".")
def glob_paths(
    pattern: str,
    *,
    root: str = ".",
    files_only: bool = True,
    hidden: bool = False,
    sort: bool = True,
    context: Context | None = None,
) -> Iterator[str]:
    """The paths that match `pattern` below `root`, relative to it; `**` is any number of folders.

    `files_only` leaves out folders and all that are not regular files; `hidden` takes names that begin with a dot as
    well. They come sorted, or with `sort = false` as the file system has them, without waiting for the last one.
    """
    import glob
    from pathlib import Path

    if not Path(root).is_dir():
        raise NotADirectoryError(f"{root}: the folder does not exist")
    found: Iterator[str] = glob.iglob(pattern, root_dir=root, recursive=True, include_hidden=hidden)  # noqa: PTH207  hidden
    wanted = (path for path in found if path and (not files_only or Path(root, path).is_file()))
    if sort:
        paths = sorted(wanted)
        _tell_total(context, len(paths))
        yield from paths
    else:
        yield from wanted


@task(name="range", mode="thread")
def numbers(start: int, stop: int, step: int = 1, *, context: Context | None = None) -> Iterator[int]:
    """Whole numbers from `start` to below `stop`, as Python's `range` has them.

    >>> list(numbers(0, 10, 4))
    [0, 4, 8]
    """
    found = range(start, stop, step)
    _tell_total(context, len(found))
    yield from found


@task(name="arguments", mode="thread")
def command_arguments(
    sources: list[list[str] | str],
    *,
    null: bool = False,
    skip_empty: bool = False,
    columns: str = "",
    pairs: bool = False,
    context: Context | None = None,
) -> Iterator[tuple[int | str, ...]]:
    """The arguments of commands: a tuple of the job's number, from 1 on, and a value of each source.

    A source is a list of values, or the path of a file with one value on each line (`-`: standard input); with `null`
    values end in a NUL. With several sources there is a job for each combination, in which the last source changes
    first; with `pairs`, one for the first value of each, one for the second, and so on, as long as all have one.
    `skip_empty` leaves out empty values. `columns` is a regular expression at which each value is split. Bytes that
    are not UTF-8 stay as they are.

    >>> list(command_arguments([["a", "b"], ["x", "y"]]))
    [(1, 'a', 'x'), (2, 'a', 'y'), (3, 'b', 'x'), (4, 'b', 'y')]
    """
    if len([each for each in sources if each == "-"]) > 1:
        raise ValueError("`sources` names standard input (`-`) twice, which can be read once")
    found = [_source_values(each, null=null, skip_empty=skip_empty, context=context) for each in sources]
    if all(isinstance(each, list) for each in sources):
        lengths = [len(each) for each in sources]
        _tell_total(context, min(lengths, default=0) if pairs else math.prod(lengths))
    jobs: Iterator[tuple[str, ...]] = iter(())
    if pairs:
        jobs = zip(*found, strict=False)
    elif found:  # the first one is read as its values are needed, and may have no end
        others = [list(each) for each in found[1:]]
        jobs = ((first, *rest) for first in found[0] for rest in itertools.product(*others))
    split = re.compile(columns).split if columns else None
    for number, values in enumerate(jobs, 1):
        yield (number, *(values if split is None else itertools.chain.from_iterable(map(split, values))))


def _source_values(source: list[str] | str, *, null: bool, skip_empty: bool, context: Context | None) -> Iterator[str]:
    if isinstance(source, list):
        values: Iterator[str] = iter(source)
    elif null:
        values = _null_ended(source, context)
    else:
        lines_read = _numbered_lines(source, "utf-8", "surrogateescape", MAX_LINE_BYTES, context)
        values = (line.removesuffix("\n") for _, line in lines_read)
    return filter(None, values) if skip_empty else values


def _null_ended(path: str, context: Context | None) -> Iterator[str]:
    """Yield the values of a file that end in a NUL; the last one may end with the file."""
    with _open_source(path, context) as file:
        rest, number = b"", 0
        while data := file.read1(1 << 16):
            *whole, rest = (rest + data).split(b"\0")
            for value in whole:
                number += 1
                yield os.fsdecode(value)
            if len(rest) > MAX_LINE_BYTES:
                raise ValueError(f"{_shown_path(path)}: value {number + 1} has more than {MAX_LINE_BYTES:,} bytes")
        if rest:
            yield os.fsdecode(rest)


def _tell_total(context: Context | None, items: int) -> None:
    """Say how many items there will be; what has been sent of them is known."""
    if context is not None and items:
        context.progress(SENT_ITEMS, items)


def _shown_path(path: str) -> str:
    return "<stdin>" if path == "-" else path


def _numbered_lines(
    path: str, encoding: str, errors: str, most: int, context: Context | None
) -> Iterator[tuple[int, str]]:
    """Yield lines with their numbers, ends included; only a line feed ends one. An error names file and line."""
    with _open_source(path, context) as file:
        try:
            codec = codecs.lookup(encoding).name
        except LookupError:
            raise ValueError(f"unknown encoding {encoding!r}") from None
        marked = codec == "utf-8-sig"
        if not marked and "\n".encode(encoding) != b"\n":  # a line's end is not one byte
            yield from _decoded_lines(file, path, encoding, errors, most)
            return
        size, done = _file_size(file) if context is not None else 0, 0
        number = 0
        while line := file.readline(most + 2):
            number += 1
            if size:
                done += len(line)
                if not number & _LOOKS:
                    context.progress(done, size)  # type: ignore[union-attr]  # there is a size with a context only
            if len(line.rstrip(b"\r\n")) > most:
                raise _too_long(path, number, most)
            try:  # the mark can only stand at the beginning
                text = line.decode("utf-8" if marked and number > 1 else encoding, errors)
            except UnicodeDecodeError as error:
                wrong = f"byte {error.start + 1} of the line, 0x{line[error.start]:02x}"
                hint = 'name the file\'s `encoding`, or say `errors = "replace"`'
                text = f"{wrong}, is not valid {encoding.removesuffix('-sig')}; {hint}"
                raise ValueError(f"{_shown_path(path)}:{number}: {text}") from None
            yield number, text
        if size:
            context.progress(size, size)  # type: ignore[union-attr]  # as above


def _file_size(file: Any) -> int:
    """Return bytes of a regular file, from here on; 0 of what has no size: a pipe, a terminal."""
    try:
        found = os.fstat(file.fileno())
    except (OSError, AttributeError):  # standard input, as it is read here
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


def _decoded_lines(file: Any, path: str, encoding: str, errors: str, most: int) -> Iterator[tuple[int, str]]:
    """Yield the same for encodings in which a line's end is not one byte."""
    number = 0
    with io.TextIOWrapper(file, encoding=encoding, errors=errors, newline="\n") as text:
        try:
            while line := text.readline(most + 2):
                number += 1
                if len(line) > most:
                    raise _too_long(path, number, most)
                yield number, line
        except UnicodeError as error:
            raise ValueError(f"{_shown_path(path)}: after line {number}: not valid {encoding}: {error}") from None


def _too_long(path: str, number: int, most: int) -> ValueError:
    return ValueError(f"{_shown_path(path)}:{number}: a line of more than {most:,} bytes; `most` allows longer ones")


def _open_source(path: str, context: Context | None) -> Any:
    if path != "-":
        return open(path, "rb")  # noqa: PTH123  the caller closes it; a str may be any path, Path("") is "."
    if is_process_worker():
        text = 'only threads can read standard input: set `mode = "thread"`, or nothing, in the task that reads it'
        raise ValueError(text)
    fd = shared_stdin.stdin_fd()
    if fd is None:
        raise ValueError("there is no standard input")
    return io.BufferedReader(_StoppableInput(fd, context))


class _StoppableInput(io.RawIOBase):
    """Standard input, which also ends when the run is stopped: a thread that waits in a read cannot be ended.

    It has a buffer of its own: a thread left behind in a shared one would hold its lock for ever.
    """

    def __init__(self, fd: int, context: Context | None) -> None:
        super().__init__()
        self._fd, self._context = fd, context

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Wait for bytes; 0 at the end."""
        # A signal reaches only the supervisor, so this looks for itself, five times a second while nothing comes.
        while not select.select([self._fd], [], [], _LOOK)[0]:
            if self._context is not None and self._context.stopping:
                return 0
        data = os.read(self._fd, len(buffer))
        buffer[: len(data)] = data
        return len(data)


def is_process_worker() -> bool:
    """Return True in a process worker: a process that multiprocessing has started."""
    module = sys.modules.get("multiprocessing.process")
    return module is not None and module.parent_process() is not None


def duplicates_in(words: Collection[str]) -> list[str]:
    """Return the words that are there more than once, the first one first.

    >>> duplicates_in(["a", "b", "a"])
    ['a']
    """
    return [word for word, count in Counter(words).items() if count > 1]
