"""The ledger of a durable run on disk: SQLite for rows, segments for large payloads.

    ledger.db (-wal, -shm)   everything but large payloads; WAL and FULL, so a commit is on disk when it returns
    big/000001 ...           payloads of 64 KiB and more (`segments`)

One connection writes, in one thread. Each row has a CRC of its values, and each payload one of its own: SQLite finds
what is wrong with its pages, not with what is in them. A row that is not what it was makes the ledger unusable; a
payload that is not makes one damaged chunk.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import zlib
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from runner.errors import LedgerRefused
from runner.ledger.balance import ItemCounts, TaskTally
from runner.ledger.chunks import Chunk
from runner.ledger.journal import DeadItem, LedgerImage, SourcePlace
from runner.store import run_folders
from runner.store.key_digests import DIGEST_BYTES, sort_digests
from runner.store.segments import LARGE_BYTES, SegmentFolder, SegmentPlace, sync_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from runner.ledger.journal import JournalGroup

LEDGER_FILE = run_folders.LEDGER_FILE
#: Beginnings of the names of the files in which workers look keys up; they are written anew at each open.
KEY_FILES = "keys-"
SEGMENTS = "big"
#: Noted of the run: its queues of dead letters, in all lives.
LETTERS_KEY = "letter_queues"
#: Noted of the run: the lanes of its queues in its present life.
LANES_KEY = "lanes"
#: "rnlg"; and the format: another one is refused, as no run lives long enough to be converted.
_APPLICATION, FORMAT = 0x726E6C67, 3
_PRAGMAS = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "wal_autocheckpoint=400",
    f"journal_size_limit={64 << 20}",
    "secure_delete=OFF",
    "temp_store=MEMORY",
    "cell_size_check=ON",
    "trusted_schema=OFF",
    "mmap_size=0",
    "busy_timeout=5000",
)
_SCHEMA = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT, crc INTEGER) WITHOUT ROWID;
CREATE TABLE chunk(number INTEGER PRIMARY KEY, place INTEGER, count INTEGER, size INTEGER, origin INTEGER, rank REAL,
    bucket INTEGER, segment INTEGER, position INTEGER, length INTEGER, payload_crc INTEGER, crc INTEGER, letter BLOB,
    payload BLOB);
CREATE TABLE owed(line TEXT, number INTEGER, ranges TEXT, crc INTEGER, PRIMARY KEY(line, number)) WITHOUT ROWID;
CREATE TABLE line(name TEXT PRIMARY KEY, put INTEGER, done INTEGER, dead INTEGER, dropped INTEGER, crc INTEGER)
    WITHOUT ROWID;
CREATE TABLE task(name TEXT PRIMARY KEY, done INTEGER, dead INTEGER, dropped INTEGER, repeated INTEGER, taken INTEGER,
    sent INTEGER, read INTEGER, crc INTEGER) WITHOUT ROWID;
CREATE TABLE source(task TEXT, worker TEXT, made INTEGER, made_crc INTEGER, checks TEXT, saved TEXT,
    saved_items INTEGER, saved_crc INTEGER, keyed INTEGER, crc INTEGER, PRIMARY KEY(task, worker)) WITHOUT ROWID;
CREATE TABLE keys(seq INTEGER PRIMARY KEY, task TEXT, worker TEXT, digests BLOB, crc INTEGER);
CREATE TABLE place(task TEXT, worker TEXT, saved TEXT, crc INTEGER, PRIMARY KEY(task, worker)) WITHOUT ROWID;
CREATE TABLE ended(task TEXT PRIMARY KEY, has_ended INTEGER, crc INTEGER) WITHOUT ROWID;
CREATE TABLE dead(task TEXT, number INTEGER, at INTEGER, queue TEXT, preview TEXT, letter BLOB, crc INTEGER,
    PRIMARY KEY(task, number, at)) WITHOUT ROWID;
"""
#: The columns of each table that are read and written as they are; the CRC follows them.
_COLUMNS = {
    "meta": "key, value",
    "chunk": "number, place, count, size, origin, rank, bucket, segment, position, length, payload_crc",
    "owed": "line, number, ranges",
    "line": "name, put, done, dead, dropped",
    "task": "name, done, dead, dropped, repeated, taken, sent, read",
    "source": "task, worker, made, made_crc, checks, saved, saved_items, saved_crc, keyed",
    "keys": "seq, task, worker, digests",
    "place": "task, worker, saved",
    "ended": "task, has_ended",
    "dead": "task, number, at, queue, preview, letter",
}
_UPSERTS = {
    name: f"INSERT OR REPLACE INTO {name}({columns}, crc) VALUES({', '.join('?' * (columns.count(',') + 2))})"
    for name, columns in _COLUMNS.items()
    if name != "chunk"
}
_INSERT_KEYS = f"INSERT INTO keys({_COLUMNS['keys']}, crc) VALUES(?, ?, ?, ?, ?)"
_INSERT_CHUNK = f"INSERT INTO chunk({_COLUMNS['chunk']}, crc, letter, payload) VALUES({', '.join('?' * 14)})"


class PayloadPacker(Protocol):
    """Payloads and evidence as bytes; those who make them know how. A letter has no payload of its own."""

    def pack_payload(self, chunk: Chunk) -> tuple[bytes, bytes]:
        """Return (payload, letter) of a chunk; that of a letter is in its `origin`."""

    def unpack_payload(self, payload: bytes, letter: bytes, origin: Chunk | None) -> Any:
        """Return what was packed."""

    def pack_evidence(self, evidence: Any) -> bytes:
        """Return the evidence of a dead item."""

    def unpack_evidence(self, data: bytes) -> Any:
        """Return what was packed."""


def _crc_of(values: Sequence[Any]) -> int:
    return zlib.crc32(msgspec.msgpack.encode(values))


def _checked_row(values: Sequence[Any]) -> tuple[Any, ...]:
    return (*values, _crc_of(values))


class LedgerFile:
    """The ledger of one run. LedgerRefused: it cannot be used, and is left as it is.

    `make`: a new one, in a folder that has none; else it must be there. `damaged_chunks` are those whose payload is
    not what it was.
    """

    def __init__(self, folder: Path, packer: PayloadPacker, *, make: bool = False) -> None:
        self._path = folder / LEDGER_FILE
        self._packer = packer
        self.damaged_chunks: set[int] = set()
        self._segments = SegmentFolder(folder / SEGMENTS) if make else None
        #: Where the payloads of chunks are that are not in their rows; the place of the next chunk.
        self._segment_places: dict[int, SegmentPlace] = {}
        self._next_place = 1
        self._last_chunk = 0
        self._folder = folder
        if not make and not self._path.exists():
            raise LedgerRefused(f"{folder} has no ledger: the run was not durable")
        if make:  # SQLite would let others read it; its other files get the same mode
            os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        self._db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        try:
            with self._refusing():
                self._make_schema() if make else self._check_format()
                self._set_up()
        except BaseException:
            self._db.close()
            raise

    @contextlib.contextmanager
    def _refusing(self) -> Iterator[None]:
        """Turn what SQLite finds into the reason for a refusal."""
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError, OverflowError) as error:
            raise LedgerRefused(f"{self._path} cannot be used: {error}") from None

    def _set_up(self) -> None:
        for pragma in _PRAGMAS:
            self._db.execute(f"PRAGMA {pragma}")

    def _make_schema(self) -> None:
        """Make all tables in one transaction, its format last: a ledger that was cut off here is none."""
        self._db.execute("PRAGMA page_size=16384")
        self._set_up()
        with self._transaction():
            for statement in filter(str.strip, _SCHEMA.split(";")):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA application_id={_APPLICATION}")
            self._db.execute(f"PRAGMA user_version={FORMAT}")
        sync_folder(self._folder)
        sync_folder(self._folder.parent)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _check_format(self) -> None:
        (application,), (version,) = (
            self._db.execute(f"PRAGMA {name}").fetchone() for name in ("application_id", "user_version")
        )
        if not version and not application:
            raise LedgerRefused(f"{self._path} has no content: the run was ended before it began")
        if application != _APPLICATION:
            raise LedgerRefused(f"{self._path} is not a ledger of runner")
        if version != FORMAT:
            can = ""
            with contextlib.suppress(sqlite3.Error, TypeError):  # another format may have no such table, or no such row
                (writer,) = self._db.execute("SELECT value FROM meta WHERE key = 'runner'").fetchone()
                can = f"; runner {writer}, which has written it, can go on with it"
            text = f"{self._path} has format {version}, and this version of runner reads format {FORMAT}"
            raise LedgerRefused(f"{text}{can}")
        faults = [text for (text,) in self._db.execute("PRAGMA quick_check(3)") if text != "ok"]
        if faults:
            raise LedgerRefused(f"{self._path} is damaged: {'; '.join(faults)}")

    # -- reading -------------------------------------------------------------------------------

    def read_image(self) -> LedgerImage:
        """Return what the ledger holds, once it was checked."""
        image = LedgerImage()
        with self._refusing():
            try:
                self._read_chunks(image)
                self._read_rest(image)
                self._write_key_files(image)
            except (msgspec.MsgspecError, TypeError, ValueError) as error:
                raise LedgerRefused(f"{self._path} is damaged: {error}") from None
        if faults := image.find_faults():
            raise LedgerRefused(f"{self._path} is damaged: {'; '.join(faults[:3])}")
        self._last_chunk = image.last_chunk
        return image

    def _rows(self, table: str, more: str = "") -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a table, without their CRCs, which must be right; `more` columns follow them."""
        columns = _COLUMNS[table]
        width = columns.count(",") + 1
        for row in self._db.execute(f"SELECT {columns}, crc{more} FROM {table}"):  # noqa: S608  names of ours
            values = row[:width]
            if _crc_of(values) != row[width]:
                raise LedgerRefused(f"{self._path} is damaged: a row of `{table}` is not what it was")
            yield (*values, *row[width + 1 :])

    def _read_chunks(self, image: LedgerImage) -> None:
        rows = sorted(self._rows("chunk", ", letter, payload"), key=lambda row: row[1])
        places = {
            number: SegmentPlace(*place) for number, _, _, _, _, _, _, *place, _, _, _ in rows if place[0] is not None
        }
        self._segment_places = places
        try:
            self._segments = SegmentFolder(self._folder / SEGMENTS, places.values())
        except (OSError, KeyError) as error:
            raise LedgerRefused(f"{self._folder / SEGMENTS} lacks segments of the ledger: {error}") from None
        for number, place, count, size, origin, rank, bucket, _, _, _, payload_crc, letter, payload in rows:
            self._next_place = max(self._next_place, place + 1)
            if number in places:
                payload = self._segments.read(places[number])  # noqa: PLW2901  the row has none
            if zlib.crc32(payload, zlib.crc32(letter)) != payload_crc or origin in self.damaged_chunks:
                self.damaged_chunks.add(number)
            first = image.chunks.get(origin)
            found = None if number in self.damaged_chunks else self._packer.unpack_payload(payload, letter, first)
            image.chunks[number] = Chunk(number, found, count, size, 0, origin, rank, bucket)

    def _read_rest(self, image: LedgerImage) -> None:
        meta = dict(self._rows("meta"))
        image.last_chunk = int(meta.get("last_chunk", 0))
        image.letter_queues = set(msgspec.json.decode(meta.get(LETTERS_KEY, "[]"), type=list[str]))
        image.lanes = msgspec.json.decode(meta.get(LANES_KEY, "{}"), type=dict[str, str])
        for line, number, ranges in self._rows("owed"):
            found = None if ranges is None else msgspec.json.decode(ranges, type=tuple[tuple[int, int, int, int], ...])
            image.owed[line, number] = found
        image.line_counts = {name: ItemCounts(*counts) for name, *counts in self._rows("line")}
        image.task_tallies = {name: TaskTally(*counts) for name, *counts in self._rows("task")}
        for task, worker, made, made_crc, checks, *saved in self._rows("source"):
            decoded = msgspec.json.decode(checks, type=dict[int, int])
            image.sources[task, worker] = SourcePlace(made, made_crc, decoded, *saved)
        image.saved_places = {(task, worker): saved for task, worker, saved in self._rows("place")}
        image.ended_tasks = {task for task, has_ended in self._rows("ended") if has_ended}
        for task, number, at, queue, preview, letter in self._rows("dead"):
            evidence = self._packer.unpack_evidence(letter)
            image.dead_items[task, number, at] = DeadItem(queue, number, at, task, evidence, preview)

    def _write_key_files(self, image: LedgerImage) -> None:
        """Write the keys of each source's worker into a file, sorted: workers look them up there."""
        for number, (source, place) in enumerate(sorted(image.sources.items())):
            if not place.keyed:
                continue
            rows = self._db.execute("SELECT task, worker, digests, crc FROM keys WHERE task = ? AND worker = ?", source)
            blobs = []
            for task, worker, digests, crc in rows:
                if _crc_of((task, worker, digests)) != crc:
                    raise LedgerRefused(f"{self._path} is damaged: a row of `keys` is not what it was")
                blobs.append(digests)
            if sum(map(len, blobs)) != place.keyed * DIGEST_BYTES:
                raise LedgerRefused(f"{self._path} is damaged: keys of task `{source[0]}` are missing")
            path = image.key_files[source] = f"{self._folder.absolute()}/{KEY_FILES}{number}"
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.writelines(sort_digests(blobs))

    def read_meta(self) -> dict[str, str]:
        """Return what is known of the run itself."""
        with self._refusing():
            return dict(self._rows("meta"))

    # -- writing -------------------------------------------------------------------------------

    def has_dead_items(self) -> bool:
        """Return True if it holds dead items, which can be given again."""
        return self._db.execute("SELECT 1 FROM dead LIMIT 1").fetchone() is not None

    def write_meta(self, values: Mapping[str, str]) -> None:
        """Note something of the run itself."""
        with self._transaction():
            self._db.executemany(_UPSERTS["meta"], [_checked_row(item) for item in values.items()])

    def write_groups(self, groups: Sequence[JournalGroup], notes: Mapping[str, str] | None = None) -> None:
        """Write groups in one transaction, and what is noted of the run itself (`meta`) with them.

        sqlite3.Error or OSError: nothing of them is written.
        """
        assert self._segments is not None, "read_image comes first"
        written: dict[int, SegmentPlace] = {}
        try:
            rows = self._chunk_rows(groups, written)
            if written:
                self._segments.sync()
            with self._transaction():
                self._db.executemany(_INSERT_CHUNK, rows)
                self._write_changes(groups)
                self._upsert("meta", (notes or {}).items())
        except BaseException:
            for place in written.values():
                self._segments.free(place)
            raise
        self._next_place += len(rows)
        self._last_chunk = groups[-1].last_chunk
        self._segment_places |= written
        for group in groups:
            for number in group.removed_chunks:
                if (gone := self._segment_places.pop(number, None)) is not None:
                    self._segments.free(gone)

    def _chunk_rows(self, groups: Sequence[JournalGroup], written: dict[int, SegmentPlace]) -> list[tuple[Any, ...]]:
        """Return the rows of new chunks; their large payloads are written, and their places noted."""
        assert self._segments is not None
        rows: list[tuple[Any, ...]] = []
        for group in groups:
            for chunk in group.chunks:
                payload, letter = self._packer.pack_payload(chunk)
                crc = zlib.crc32(payload, zlib.crc32(letter))
                place: tuple[int | None, ...] = (None, None, None)
                if len(payload) >= LARGE_BYTES:
                    found = written[chunk.number] = self._segments.write(payload)
                    place, payload = (found.segment, found.position, found.length), b""
                known = (
                    chunk.number,
                    self._next_place + len(rows),
                    chunk.count,
                    chunk.size,
                    chunk.origin,
                    float(chunk.rank),
                    chunk.bucket,
                )
                rows.append((*_checked_row((*known, *place, crc)), letter, payload))
        return rows

    def _write_changes(self, groups: Sequence[JournalGroup]) -> None:
        """Write all but new chunks: of what is in several groups the last state."""
        owed = {key: ranges for group in groups for key, ranges in group.owed.items()}
        lines = {name: counts for group in groups for name, counts in group.line_counts.items()}
        tallies = {name: tally for group in groups for name, tally in group.task_tallies.items()}
        sources = {key: place for group in groups for key, place in group.sources.items()}
        places = {key: saved for group in groups for key, saved in group.saved_places.items()}
        ended = {task: has_ended for group in groups for task, has_ended in group.ended_tasks.items()}
        self._upsert("owed", ((*key, _as_text(ranges)) for key, ranges in owed.items() if ranges != ()))
        self._upsert("line", ((name, each.put, each.done, each.dead, each.dropped) for name, each in lines.items()))
        self._upsert("task", ((name, *msgspec.structs.astuple(tally)) for name, tally in tallies.items()))
        self._upsert("source", ((*key, *_source_values(at)) for key, at in sources.items()))
        keys = [(None, *key, digests) for group in groups for key, digests in group.keys.items()]
        self._db.executemany(_INSERT_KEYS, [(*row, _crc_of(row[1:])) for row in keys])
        self._upsert("place", ((*key, saved) for key, saved in places.items()))
        self._upsert("ended", ((task, int(has_ended)) for task, has_ended in ended.items()))
        pack = self._packer.pack_evidence
        dead = (each for group in groups for each in group.dead_items)
        self._upsert("dead", ((d.task, d.chunk_number, d.index, d.queue, d.preview, pack(d.evidence)) for d in dead))
        given_again = [item.key for group in groups for item in group.given_again]
        self._db.executemany("DELETE FROM dead WHERE task = ? AND number = ? AND at = ?", given_again)
        if groups[-1].last_chunk != self._last_chunk:
            self._upsert("meta", [("last_chunk", str(groups[-1].last_chunk))])
        over = [key for key, ranges in owed.items() if ranges == ()]
        self._db.executemany("DELETE FROM owed WHERE line = ? AND number = ?", over)
        removed = [(number,) for group in groups for number in group.removed_chunks]
        self._db.executemany("DELETE FROM chunk WHERE number = ?", removed)

    def _upsert(self, table: str, rows: Iterable[Sequence[Any]]) -> None:
        self._db.executemany(_UPSERTS[table], [_checked_row(row) for row in rows])

    def close(self) -> None:
        """Close everything; what is committed stays."""
        with contextlib.suppress(sqlite3.Error):  # a last checkpoint that the disk refuses is made at the next open
            self._db.close()
        if self._segments is not None:
            self._segments.close()


def _source_values(at: SourcePlace) -> tuple[Any, ...]:
    return at.made, at.crc, _as_text(at.checks), at.saved, at.saved_items, at.saved_crc, at.keyed


def _as_text(value: Any) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()
