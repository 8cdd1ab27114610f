"""Sinks: a text file, a CSV file, a file of JSON lines, standard output.

    item ──▶ .NAME.PID.part, beside the file ──▶ all there: synced, renamed ──▶ NAME
                                             └─▶ cut short: removed

Whole or nothing: under its own name the file is either what it was before, or has every item of the run.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from typing import TYPE_CHECKING, Any

from runner.std.sources import in_process
from runner.tasks import Context, task

if TYPE_CHECKING:
    from types import TracebackType


class _File:
    """A file that is written whole or not at all; `text` of the classes below says what an item is in it.

    Each call is one write, without a buffer in between: when it returns, the item is with the operating system.
    """

    def __init__(self, path: str, encoding: str, context: Context | None, *, partial: bool) -> None:
        if "\n".encode(encoding)[-1:] != b"\n":
            raise ValueError(f"encoding {encoding!r} cannot be written line by line; use utf-8")
        self.path, self.encoding, self.partial = path, encoding, partial
        self._context = context
        self._fd = -1
        self._target = self._aside = ""

    def text(self, items: list[Any]) -> str:
        """The items as they stand in the file."""
        raise NotImplementedError

    def head(self) -> str:
        """What the file begins with."""
        return ""

    def __enter__(self) -> _File:
        if self.path == "-":
            return self
        if in_process():
            # A killed process's items are given again, and those of its last chunk would be in the file twice.
            raise ValueError(f'{self.path}: files are written by threads only: say `mode = "thread"`, or nothing')
        self._target = os.path.realpath(self.path)
        folder = os.path.dirname(self._target)  # noqa: PTH120
        if not os.path.isdir(folder):  # noqa: PTH112
            raise FileNotFoundError(f"{self.path}: there is no folder {folder}; make it first")
        if os.path.isdir(self._target):  # noqa: PTH112
            raise IsADirectoryError(f"{self.path}: this is a folder")
        if os.path.exists(self._target) and not os.path.isfile(self._target):  # noqa: PTH110, PTH113
            self._fd = os.open(self._target, os.O_WRONLY | os.O_CLOEXEC)  # a pipe or a device: nothing to put aside
        else:
            self._begin(folder)
        return self

    def _begin(self, folder: str) -> None:
        name = os.path.basename(self._target)  # noqa: PTH119
        self._sweep(folder, name)
        self._aside = os.path.join(folder, f".{name[:200]}.{os.getpid()}.part")  # noqa: PTH118
        try:
            self._fd = os.open(self._aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileExistsError:
            aside, self._aside = self._aside, ""
            text = f"{self.path}: another worker is writing this file; it can have one only (it writes {aside})"
            raise FileExistsError(text) from None
        with contextlib.suppress(FileNotFoundError):
            os.fchmod(self._fd, stat.S_IMODE(os.stat(self._target).st_mode))  # noqa: PTH116

    @staticmethod
    def _sweep(folder: str, name: str) -> None:
        """Remove what runs left behind that were killed."""
        front, end = f".{name[:200]}.", ".part"
        for each in os.listdir(folder):  # noqa: PTH208
            pid = each[len(front) : -len(end)]
            if each.startswith(front) and each.endswith(end) and pid.isdecimal() and not _alive(int(pid)):
                with contextlib.suppress(OSError):
                    os.unlink(os.path.join(folder, each))  # noqa: PTH108, PTH118

    def __call__(self, item: Any) -> None:
        self._write(item if isinstance(item, list) and self._batched else [item])

    @property
    def _batched(self) -> bool:
        return bool(getattr(self._context, "batched", False))

    def _write(self, items: list[Any]) -> None:
        text = self.text(items)
        if self._fd < 0:
            sys.stdout.write(text)
            return
        data = text.encode(self.encoding)
        if not self._aside:
            _write_all(self._fd, data)
            return
        before = os.lseek(self._fd, 0, os.SEEK_CUR)
        if before == 0:
            data = self.head().encode(self.encoding) + data
        try:
            _write_all(self._fd, data)
        except OSError as error:
            os.ftruncate(self._fd, before)  # no half items
            os.lseek(self._fd, before, os.SEEK_SET)
            raise OSError(error.errno, f"{self.path}: {error.strerror}") from None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fd < 0:
            return
        try:
            cut = self._context is not None and self._context.stopping
            if self._aside and kind is None and cut and not self.partial:
                why = "the run was stopped, or a task that feeds it has failed; `partial = true` keeps what has come"
                sys.stderr.write(f"{self.path} is not written: {why}\n")
            elif self._aside and (kind is None or self.partial):
                self._keep()
        finally:
            os.close(self._fd)
            self._fd = -1
            if self._aside:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._aside)  # noqa: PTH108

    def _keep(self) -> None:
        if os.lseek(self._fd, 0, os.SEEK_CUR) == 0:
            _write_all(self._fd, self.head().encode(self.encoding))
        os.fsync(self._fd)
        os.replace(self._aside, self._target)  # noqa: PTH105
        self._aside = ""
        folder = os.open(os.path.dirname(self._target), os.O_RDONLY | os.O_CLOEXEC)  # noqa: PTH120
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


@task(name="write_lines", mode="thread")
class WriteLines(_File):
    """Write each item as one line of a text file, or to standard output (`-`).

    An item must be a text without a line's end in it, or a number. With `partial` the file is kept even when the run
    is cut short.
    """

    def __init__(
        self, path: str = "-", *, encoding: str = "utf-8", partial: bool = False, context: Context | None = None
    ) -> None:
        super().__init__(path, encoding, context, partial=partial)

    def text(self, items: list[Any]) -> str:
        """The items as lines."""
        return "".join([_line(item) for item in items])


def _line(item: Any) -> str:
    if not isinstance(item, (str, int, float)):
        raise TypeError(f"a line must be text or a number, not {type(item).__name__}; `write_jsonl` takes any value")
    text = str(item)
    if "\n" in text:
        raise ValueError(f"an item with a line's end in it would be two lines: {text[:60]!r}; `write_jsonl` takes it")
    return text + "\n"


@task(name="write_jsonl", mode="thread")
class WriteJsonl(_File):
    """Write each item as one line of JSON into a file, or to standard output (`-`).

    Dataclasses, a `DeadLetter` among them, become objects. `sort_keys` writes an object's keys in order. NaN and
    infinities are errors: they are no JSON.
    """

    def __init__(
        self,
        path: str = "-",
        *,
        sort_keys: bool = False,
        partial: bool = False,
        context: Context | None = None,
    ) -> None:
        super().__init__(path, "utf-8", context, partial=partial)
        import json

        self._encode = json.JSONEncoder(ensure_ascii=False, sort_keys=sort_keys, allow_nan=False, default=_plain).encode

    def text(self, items: list[Any]) -> str:
        """The items as lines of JSON."""
        return "".join([self._encode(item) + "\n" for item in items])


def _plain(value: Any) -> Any:
    """What JSON does not know as something that it does."""
    import dataclasses

    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"JSON has no word for an object of type {type(value).__name__}")


@task(name="write_csv", mode="thread")
class WriteCsv(_File):
    """Write each item, a dict or a dataclass, as one row of a CSV file, or to standard output (`-`).

    `fields` are the columns; without it those of the first item are. An item with other fields is an error.
    `header = false` leaves out the row of names.
    """

    def __init__(
        self,
        path: str = "-",
        *,
        fields: list[str] | None = None,
        delimiter: str = ",",
        header: bool = True,
        encoding: str = "utf-8",
        partial: bool = False,
        context: Context | None = None,
    ) -> None:
        super().__init__(path, encoding, context, partial=partial)
        if len(delimiter) != 1:
            raise ValueError(f"delimiter must be a single character, not {delimiter!r}")
        self._fields, self._delimiter, self._header = fields, delimiter, header
        self._said = False

    def head(self) -> str:
        """The row of names."""
        return self._rows([self._fields]) if self._header and self._fields is not None else ""

    def text(self, items: list[Any]) -> str:
        """The items as rows."""
        rows = [self._row(item) for item in items]
        if self._fd < 0 and not self._said:
            self._said = True
            return self.head() + self._rows(rows)
        return self._rows(rows)

    def _row(self, item: Any) -> list[Any]:
        record = item if isinstance(item, dict) else _plain(item)
        if not isinstance(record, dict):
            raise TypeError(f"a row must be a dict or a dataclass, not {type(item).__name__}")
        if self._fields is None:
            self._fields = [str(each) for each in record]
        if len(record) != len(self._fields) or any(each not in record for each in self._fields):
            raise ValueError(f"an item with the fields {list(record)}, where {self._fields} are the columns")
        return [record[each] for each in self._fields]

    def _rows(self, rows: list[Any]) -> str:
        import csv
        import io

        text = io.StringIO()
        csv.writer(text, delimiter=self._delimiter, lineterminator="\n").writerows(rows)
        return text.getvalue()


@task(name="print", mode="thread")
def print_items(item: Any) -> None:
    """Print each item, with the worker's name in front unless `log = "raw"`.

    >>> print_items("hello")
    hello
    """
    sys.stdout.write(f"{item}\n")
