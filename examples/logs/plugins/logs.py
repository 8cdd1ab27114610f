"""Lines of web-server logs become requests, and requests a table and a Parquet file."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

from runner import Reject, task

FORMAT = re.compile(r'(\S+) \S+ \S+ \[([^]]+)] "([A-Z]+) (\S+) [^"]*" (\d{3}) (\d+|-) "([^"]*)" "([^"]*)"')
COLUMNS = ("file", "line", "address", "time", "method", "path", "status", "bytes", "agent")
Line = tuple[str, int, str]  # file, number, text
Request = tuple[str, int, str, str, str, str, int, int, str]  # a value for each of COLUMNS


@task
def read(*, folder: str) -> Iterator[Line]:
    """Each line with its file and number, so that a broken one can be found again."""
    for path in sorted(Path(folder).rglob("*.log")):
        yield from lines_of(path)


def lines_of(path: Path) -> Iterator[Line]:
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            yield path.name, number, line.rstrip("\n")


@task
def parse(place: Line) -> Request:
    file, number, line = place
    match = FORMAT.fullmatch(line)
    if not match:
        raise Reject("it is not in the combined log format")
    address, time, method, target, status, size, _, agent = match.groups()
    moment = datetime.strptime(time, "%d/%b/%Y:%H:%M:%S %z").isoformat()
    path = unquote(urlsplit(target).path)
    return file, number, address, moment, method, path, int(status), 0 if size == "-" else int(size), agent


@task
class Table:
    """Puts batches into a SQLite table, in one transaction: a run that fails leaves the table as it was."""

    def __init__(self, *, database: str) -> None:
        self.database = sqlite3.connect(database, check_same_thread=False)

    def __enter__(self) -> "Table":
        self.database.execute(f"CREATE TABLE IF NOT EXISTS requests({', '.join(COLUMNS)}, PRIMARY KEY(file, line))")
        return self

    def __call__(self, requests: list[Request]) -> None:
        self.database.executemany(f"INSERT OR REPLACE INTO requests VALUES({', '.join('?' * len(COLUMNS))})", requests)

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        with closing(self.database):
            if error is None:
                self.database.commit()


@task
class Parquet:
    """Writes each batch as one row group, beside the file, which is there once it is whole."""

    def __init__(self, *, path: str) -> None:
        import pyarrow as pa  # here: the workers that parse have no need for it
        from pyarrow.parquet import ParquetWriter

        types = dict.fromkeys(COLUMNS, "string") | dict.fromkeys(("line", "status", "bytes"), "int64")
        self.path, self.part, self.table = Path(path), Path(f"{path}.part"), pa.table
        self.schema = pa.schema(list(types.items()))
        self.writer = ParquetWriter(self.part, self.schema)

    def __enter__(self) -> "Parquet":
        return self

    def __call__(self, requests: list[Request]) -> None:
        columns = dict(zip(COLUMNS, zip(*requests, strict=True), strict=True))
        self.writer.write_table(self.table(columns, self.schema))

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self.writer.close()
        if error is None:
            self.part.replace(self.path)
