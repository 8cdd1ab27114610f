"""Sinks: a text file, a CSV file, a file of JSON lines, standard output; `targets` says how a file is written.

A run that is given the dead items of an earlier one (`runner dead retry`) adds to the file.
Whole or nothing: under its own name the file is either what it was before, or has every item of the run that is not
dead or dropped because of what it is. An item that the operating system does not take leaves no file.
"""

from __future__ import annotations

import contextlib
import os
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from runner.std.sources import duplicates_in, is_process_worker
from runner.std.targets import open_target, printable_path
from runner.tasks import Context, task

if TYPE_CHECKING:
    from runner.std.targets import SinkTarget


class _FileSink:
    """A file that is written whole or not at all; `_format_items` of the classes below says what an item is in it.

    Each call is one write, without a buffer in between: when it returns, the item is with the operating system.
    """

    def __init__(self, path: str, encoding: str, context: Context | None, *, partial: bool) -> None:
        if "\n".encode(encoding)[-1:] != b"\n":
            raise ValueError(f"encoding {encoding!r} cannot be written line by line; use utf-8")
        self.path, self.encoding, self.partial = path, encoding, partial
        self._context = context
        self._to: SinkTarget | None = None
        #: What an earlier worker has saved.
        self._place: dict[str, Any] | None = None
        self._headed = False
        #: Why an item is missing that the operating system did not take, for good.
        self._lost: OSError | None = None

    def _format_items(self, items: list[Any]) -> str:
        """Return the items as they stand in the file."""
        raise NotImplementedError

    def _header_text(self) -> str:
        """Return the file's beginning, if the items that `_format_items` was called with are its first."""
        return ""

    def __enter__(self) -> _FileSink:
        run, is_retry = str(getattr(self._context, "run", "")), bool(getattr(self._context, "retried_run", ""))
        self._place = getattr(self._context, "saved", None)
        self._to = open_target(
            self.path,
            run,
            append=is_retry,
            place=self._place,
            only_files=is_process_worker(),
            durable=getattr(self._context, "durable", False),
        )
        if self._to.has_content:
            self._headed = True
            try:
                self._take_head(self._to)
            except BaseException:
                self._to.close()
                raise
        return self

    def _take_head(self, to: SinkTarget) -> None:
        """Learn what must be known of a file that is added to."""

    def save(self) -> dict[str, Any] | None:
        """Return where the file ends now; the next process, if this one is killed, cuts off what comes after that."""
        return None if self._to is None else self._to.place()

    def __call__(self, item: Any) -> None:
        is_batch = isinstance(item, list) and getattr(self._context, "batched", False)
        self._write_items(item if is_batch else [item])

    def _write_items(self, items: list[Any]) -> None:
        if self._lost is not None:  # there will be no file: this item is as lost as that one
            raise OSError(self._lost.errno, self._lost.strerror)
        data = self._encode_items(items)
        if self._to is None:
            raise ValueError(f"{printable_path(self.path)} is not open: use the sink in a `with` statement")
        try:
            self._to.write(data)
        except OSError as error:
            again = getattr(self._context, "tried_again", None)
            if again is None or not again(error):
                self._lost = error
            raise
        self._headed = True

    def _encode_items(self, items: list[Any]) -> bytes:
        try:
            text = self._format_items(items)
            return (text if self._headed else self._header_text() + text).encode(self.encoding)
        except Exception:
            raise
        except BaseException as error:  # noqa: BLE001  of the item's own; it must not cost this worker its file
            raise ValueError(f"an item cannot be written: it raised {type(error).__name__}") from None

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        to, self._to = self._to, None
        if to is not None:
            with contextlib.closing(to):
                if kind is None or self.partial:
                    self._finish_file(to)

    def _finish_file(self, to: SinkTarget) -> None:
        cut = self._context is not None and self._context.stopping
        if self._lost is not None and not self.partial:
            is_not = "is not written, what was there before stays" if to.is_atomic else "has not got everything"
            why = os.strerror(self._lost.errno) if self._lost.errno else str(self._lost)
            raise OSError(self._lost.errno, f"{printable_path(self.path)} {is_not}: {why}")
        if to.is_atomic and cut and not self.partial:
            if getattr(self._context, "durable", False):
                return  # what has come is kept aside, for `runner resume`
            why = "the run was stopped, or a task that feeds it has failed; `partial = true` keeps what has come"
            sys.stderr.write(f"{printable_path(self.path)} is not written: {why}\n")
            return
        # A file that is kept has its head, however little came; a stream that was cut is not begun.
        if not self._headed and (to.is_atomic or not cut) and (head := self._header_text()):
            to.write(head.encode(self.encoding))
        to.commit()


@task(name="write_lines", mode="thread")
class WriteLines(_FileSink):
    """Write each item as one line of a text file, or to standard output (`-`).

    An item must be a text without a line's end in it, or a number. With `partial` the file is kept even when the run
    is cut short.
    """

    def __init__(
        self, path: str = "-", *, encoding: str = "utf-8", partial: bool = False, context: Context | None = None
    ) -> None:
        super().__init__(path, encoding, context, partial=partial)

    def _format_items(self, items: list[Any]) -> str:
        return "".join([_text_line(item) for item in items])


def _text_line(item: Any) -> str:
    if not isinstance(item, (str, int, float)):
        raise TypeError(f"a line must be text or a number, not {type(item).__name__}; `write_jsonl` takes any value")
    text = str(item)
    if "\n" in text:
        raise ValueError(f"an item with a line's end in it would be two lines: {text[:60]!r}; `write_jsonl` takes it")
    return text + "\n"


@task(name="write_jsonl", mode="thread")
class WriteJsonl(_FileSink):
    """Write each item as one line of JSON into a file, or to standard output (`-`).

    Dataclasses, a `DeadLetter` among them, become objects. `sort_keys` writes an object's keys in order. NaN and
    infinities are errors: they are no JSON.
    """

    def __init__(
        self, path: str = "-", *, sort_keys: bool = False, partial: bool = False, context: Context | None = None
    ) -> None:
        super().__init__(path, "utf-8", context, partial=partial)
        import json

        self._encode = json.JSONEncoder(
            ensure_ascii=False, sort_keys=sort_keys, allow_nan=False, default=_to_json_value
        ).encode

    def _format_items(self, items: list[Any]) -> str:
        for item in items:
            _check_keys(item)
        return "".join([self._encode(item) + "\n" for item in items])


def _check_keys(value: Any) -> None:
    """ValueError for keys that would be the same in JSON, as 1 and "1" are: a reader would see only the last one."""
    if isinstance(value, dict):
        if {*map(type, value)} - {str}:
            import json

            words = [key if isinstance(key, str) else json.dumps(key, default=str) for key in value]
            if double := duplicates_in(words):
                raise ValueError(f"duplicate key {double[0]!r} in JSON")
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return
    for inner in value:
        if isinstance(inner, (dict, list, tuple)):
            _check_keys(inner)


def _to_json_value(value: Any) -> Any:
    """Return a value of a type that JSON lacks as one that JSON has; TypeError if there is none."""
    import dataclasses

    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"JSON has no word for an object of type {type(value).__name__}")


@task(name="write_csv", mode="thread")
class WriteCsv(_FileSink):
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
        self._given_fields = fields
        if fields is not None:
            _check_columns(fields)

    def save(self) -> dict[str, Any] | None:
        """Return the same, with columns that stand nowhere else."""
        place = super().save()
        return place if place is None or self._header or self._given_fields else {**place, "fields": self._fields}

    def _take_head(self, to: SinkTarget) -> None:
        """Take the columns from the file's first row, or from what was saved."""
        if not self._header:
            self._fields = self._fields or (self._place or {}).get("fields")
        else:
            import csv

            with open(to.content_path, encoding=self.encoding, newline="") as file:  # noqa: PTH123  a str may be any path
                columns = next(csv.reader(file, delimiter=self._delimiter), [])
            if self._fields is not None and columns != self._fields:
                raise ValueError(f"{printable_path(self.path)} has the columns {columns}, and not {self._fields}")
            _check_columns(columns)
            self._fields = columns

    def _header_text(self) -> str:
        return self._csv_rows([self._fields]) if self._header and self._fields is not None else ""

    def _format_items(self, items: list[Any]) -> str:
        return self._csv_rows([self._row_values(item) for item in items])

    def _write_items(self, items: list[Any]) -> None:
        known = self._fields
        try:
            super()._write_items(items)
        except BaseException:
            self._fields = known  # the columns are those of the first item that is written
            raise

    def _row_values(self, item: Any) -> list[Any]:
        record = item if isinstance(item, dict) else _to_json_value(item)
        if not isinstance(record, dict):
            raise TypeError(f"a row must be a dict or a dataclass, not {type(item).__name__}")
        if self._fields is None:
            fields = [str(each) for each in record]
            _check_columns(fields)
            self._fields = fields
        fields = self._fields
        if len(record) != len(fields) or any(each not in record for each in fields):
            raise ValueError(f"an item with the fields {list(record)}, where {fields} are the columns")
        return [record[each] for each in fields]

    def _csv_rows(self, rows: list[Any]) -> str:
        import csv

        lines: list[str] = []
        # Before Python 3.13 csv quotes a "\r" only when it is part of a line's end.
        writer = csv.writer(SimpleNamespace(write=lines.append), delimiter=self._delimiter, lineterminator="\r\n")
        writer.writerows(rows)
        return "".join([line[:-2] + "\n" for line in lines])


def _check_columns(fields: list[str]) -> None:
    """ValueError for columns that could not be read back."""
    if not fields:
        raise ValueError("a row needs at least one field")
    if double := duplicates_in(fields):
        raise ValueError(f"duplicate field {double[0]!r}")


@task(name="print", mode="thread")
def print_items(item: Any) -> None:
    """Print each item, with the worker's name in front unless `log = "raw"`.

    >>> print_items("hello")
    hello
    """
    sys.stdout.write(f"{item}\n")
