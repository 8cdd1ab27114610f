"""A disk that records: what a ledger wrote and synced, and what a power cut, or a disk that fails, may leave of it.

    LedgerFile ──▶ apsw with a VFS of its own, and `os` as the store sees it ──▶ real files, and operations in a list

An image is a folder as it may be after a cut: what was synced, and of all that was not any part, in sectors. Names in a
folder are made and removed in their order, as journals of file systems have it, and are safe once the folder is synced.
"""

from __future__ import annotations

import errno
import os
import random
import sqlite3
import sys
from collections import defaultdict
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import apsw
from ledger_files import Mill, open_ledger
from msgspec.structs import replace

from runner import linux_only
from runner.errors import LedgerRefused
from runner.ledger.journal import LedgerImage
from runner.store import ledger_file, segments

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

    from runner.ledger.journal import JournalGroup

SECTOR = 512
NEVER = 1 << 60
#: So few, that there are many checkpoints.
CHECKPOINT_PAGES = 20
#: What becomes of operations that were not synced.
FATES = ("none", "all", "prefix", "random", "torn")


class Operation(NamedTuple):
    """One operation: `kind` is write, resize, sync, create, remove or folder (its names are synced)."""

    kind: str
    name: str
    at: int = 0
    data: bytes = b""
    failed: bool = False


class FailingDisk:
    """Counts writes, syncs and changes of size, and refuses the n-th one, as often as `times`."""

    def __init__(self, number: int = 0, error: int = errno.EIO) -> None:
        self.number, self.error = number, error
        self.count = 0
        self.has_failed = False

    def fails(self) -> bool:
        self.count += 1
        self.has_failed = self.has_failed or self.count == self.number
        return self.count == self.number


class Recorder:
    """What a ledger in a folder does, in order."""

    def __init__(self, folder: Path, failing: FailingDisk | None = None) -> None:
        self.folder = folder
        self.operations: list[Operation] = []
        self.failing = failing or FailingDisk()

    def name_of(self, path: Any) -> str:
        return str(Path(path).relative_to(self.folder))

    def note(self, kind: str, name: str, at: int = 0, data: bytes = b"") -> bool:
        """Note an operation; return True if it must fail."""
        failed = kind in {"write", "resize", "sync", "folder"} and self.failing.fails()
        self.operations.append(Operation(kind, name, at, data, failed))
        return failed


class RecordedFile(apsw.VFSFile):
    """A file of SQLite. The first sync of a new WAL syncs its folder as well: so does SQLite's own for Linux."""

    def __init__(self, recorder: Recorder, name: Any, flags: list[int]) -> None:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        self.recorder, self.name = recorder, recorder.name_of(path)
        self.is_new = not Path(path).exists()
        super().__init__("", name, flags)
        if self.is_new:
            recorder.note("create", self.name)

    def _refuse(self, code: int) -> None:
        full = self.recorder.failing.error == errno.ENOSPC
        error = (apsw.FullError if full else apsw.IOError)("refused")
        error.extendedresult = apsw.SQLITE_FULL if full else code  # type: ignore[union-attr]  # apsw takes it from there, and its stubs do not know it
        raise error

    def xWrite(self, data: bytes, offset: int) -> None:
        if self.recorder.note("write", self.name, offset, bytes(data)):
            self._refuse(apsw.SQLITE_IOERR_WRITE)
        super().xWrite(data, offset)

    def xTruncate(self, size: int) -> None:
        if self.recorder.note("resize", self.name, size):
            self._refuse(apsw.SQLITE_IOERR_TRUNCATE)
        super().xTruncate(size)

    def xSync(self, flags: int) -> None:
        if self.recorder.note("sync", self.name):
            self._refuse(apsw.SQLITE_IOERR_FSYNC)
        if self.is_new:
            self.recorder.note("folder", ".")
            self.is_new = False
        super().xSync(flags)


class RecordedVfs(apsw.VFS):
    """SQLite's files, in a folder."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.vfs_name = f"recorded-{id(recorder)}"
        super().__init__(self.vfs_name, "")

    def xOpen(self, name: Any, flags: list[int]) -> RecordedFile:
        return RecordedFile(self.recorder, name, flags)

    def xDelete(self, name: str, sync: bool) -> None:
        self.recorder.note("remove", self.recorder.name_of(name))
        super().xDelete(name, sync)


class RecordedConnection:
    """As much of a connection of `sqlite3` as the ledger needs.

    A checkpoint follows a commit as SQLite's own does, whose errors nobody hears; apsw would raise them.
    """

    def __init__(self, path: Path, vfs: RecordedVfs) -> None:
        self.connection = apsw.Connection(str(path), vfs=vfs.vfs_name)
        self.pages = 0

    def _note_pages(self, connection: Any, name: str, pages: int) -> int:
        self.pages = pages
        return int(apsw.SQLITE_OK)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except apsw.Error as error:
            translated = sqlite3.OperationalError(str(error))
            translated.sqlite_errorcode = error.extendedresult  # type: ignore[attr-defined]  # as above
            raise translated from error

    def execute(self, sql: str, *args: Any) -> Any:
        with self._translated():
            found = self.connection.execute(sql, *args)
        if "wal_autocheckpoint" in sql:
            self.connection.set_wal_hook(self._note_pages)
        if sql == "COMMIT" and self.pages >= CHECKPOINT_PAGES:
            with suppress(apsw.Error):
                self.connection.wal_checkpoint()
        return found

    def executemany(self, sql: str, rows: Any) -> Any:
        with self._translated():
            return self.connection.executemany(sql, rows)

    @property
    def in_transaction(self) -> bool:
        return bool(self.connection.in_transaction)

    def close(self) -> None:
        with self._translated():
            self.connection.close()


class RecordedOs:
    """The module `os`, as the store sees it."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.names: dict[int, str] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: Any, flags: int, mode: int = 0o777) -> int:
        name, is_new = self.recorder.name_of(path) if self._is_inside(path) else "", not Path(path).exists()
        fd = os.open(path, flags, mode)
        self.names[fd] = name
        if is_new:
            folder, _, _ = name.rpartition("/")
            if folder and not any(each.name == folder for each in self.recorder.operations):
                self.recorder.note("create", folder)
            self.recorder.note("create", name)
        return fd

    def _is_inside(self, path: Any) -> bool:
        return Path(path) == self.recorder.folder or self.recorder.folder in Path(path).parents

    def _note(self, kind: str, fd: int, at: int = 0, data: bytes = b"") -> None:
        if self.recorder.note(kind, self.names[fd], at, data):
            raise OSError(self.recorder.failing.error, os.strerror(self.recorder.failing.error))

    def pwrite(self, fd: int, data: Any, at: int) -> int:
        self._note("write", fd, at, bytes(data))
        return os.pwrite(fd, data, at)

    def posix_fallocate(self, fd: int, at: int, length: int) -> None:
        self._note("resize", fd, at + length)
        os.posix_fallocate(fd, at, length)

    def fdatasync(self, fd: int) -> None:
        self._note("sync", fd)

    def fsync(self, fd: int) -> None:
        if self.names[fd]:  # not the folder of all runs
            self._note("folder", fd)

    def unlink(self, path: Any) -> None:
        Path(path).unlink()
        self.recorder.note("remove", self.recorder.name_of(path))


class Snapshots:
    """What a ledger holds after each transaction, and after how many operations it was said to be on disk."""

    def __init__(self) -> None:
        self.images = [LedgerImage()]
        self.kept_at = [NEVER]

    def add(self, image: LedgerImage, operations: int) -> None:
        """`operations`: NEVER for a transaction of which nothing was said, because the disk refused."""
        self.images.append(copied(image))
        self.kept_at.append(operations)

    def check(self, folder: Path, operations: int) -> None:
        """Open what is left after so many operations: a transaction that was kept, or one that was under way."""
        least = max((number for number, at in enumerate(self.kept_at) if at <= operations), default=0)
        try:
            file, found = open_ledger(folder)
        except LedgerRefused as error:
            assert not least, f"{error}, and transaction {least} was on disk"
            assert "ended before it began" in str(error)
            return
        file.close()
        assert not file.damaged_chunks
        assert not found.find_faults()
        matching = [number for number, image in enumerate(self.images) if image == found]
        assert matching, "no transaction left that"
        assert matching[-1] >= least, f"transaction {least} was on disk, and {matching[-1]} is there"
        assert matching[0] <= least + 1, f"{matching[0]} is there before its time: it follows {least}"


def copied(image: LedgerImage) -> LedgerImage:
    """An image that does not change."""
    kept = {name: value.copy() if isinstance(value, (dict, set)) else value for name, value in fields_of(image)}
    return replace(image, **kept)


def fields_of(image: LedgerImage) -> list[tuple[str, Any]]:
    return [(name, getattr(image, name)) for name in image.__struct_fields__]


def _unless_refused(tell: Any) -> Any:
    """Errors on purpose for which SQLite has no use are not worth a word."""
    return lambda error: None if isinstance(error.exc_value, apsw.Error) else tell(error)


@contextmanager
def recorded(folder: Path, patch: pytest.MonkeyPatch, failing: FailingDisk | None = None) -> Iterator[Recorder]:
    """Let ledgers be written to a disk that records."""
    recorder = Recorder(folder, failing)
    vfs = RecordedVfs(recorder)
    with patch.context() as inner:
        inner.setattr(sys, "unraisablehook", _unless_refused(sys.unraisablehook))
        inner.setattr(sqlite3, "connect", lambda path, **_: RecordedConnection(path, vfs))
        recorded_os = RecordedOs(recorder)
        for module in (segments, ledger_file, linux_only):
            inner.setattr(module, "os", recorded_os)
        inner.setattr(segments, "SEGMENT_BYTES", 1 << 20)
        yield recorder
    vfs.unregister()


def write(recorder: Recorder, seed: object, steps: int = 40, lives: int = 3, large: float = 0.3) -> Snapshots:
    """Random work in some lives, each in transactions of one group or several; a disk that fails ends it."""
    kept = Snapshots()
    for life in range(lives):
        try:
            file, image = open_ledger(recorder.folder)
        except (LedgerRefused, sqlite3.Error, OSError):
            assert recorder.failing.has_failed
            return kept
        try:
            kept.add(image, len(recorder.operations))
            if not write_life(recorder, file, image, f"{seed} {life}", steps, kept, large):
                return kept
        finally:
            if life % 2 == 0:  # killed: its WAL stays
                file._db.connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)  # type: ignore[attr-defined]
            file.close()
    return kept


def write_life(
    recorder: Recorder, file: Any, image: LedgerImage, seed: str, steps: int, kept: Snapshots, large: float
) -> bool:
    """One life; return False if the disk has ended it."""
    mill, draw = Mill(image, seed, large=large), random.Random(f"groups {seed}")
    waiting: list[JournalGroup] = []
    for step in range(steps):
        if (group := mill.step()) is not None:
            waiting.append(group)
            image.apply_group(group)
        if waiting and (draw.random() < 0.5 or step == steps - 1):
            try:
                file.write_groups(waiting)
            except (sqlite3.Error, OSError):
                assert recorder.failing.has_failed
                if recorder.failing.error != errno.ENOSPC:
                    kept.add(image, NEVER)  # it may be there
                    return False
                file.write_groups(waiting)  # as the keeper does
            kept.add(image, len(recorder.operations))
            mill.ledger.wake_kept(waiting[-1].number)
            waiting.clear()
    return True


class CutFile:
    """A file: what is on disk in any case, and what may be."""

    def __init__(self) -> None:
        self.synced = bytearray()
        self.pending: list[Operation] = []

    def sync(self) -> None:
        for each in self.pending:
            apply(self.synced, each)
        self.pending.clear()


class CutDisk:
    """What is on the disk after some operations, and images of what may be."""

    def __init__(self, operations: list[Operation], draw: random.Random) -> None:
        self.operations, self.draw = operations, draw
        self.done = 0
        self.names: dict[str, CutFile] = {}
        self.safe_names: dict[str, CutFile] = {}
        self.pending_names: dict[str, list[tuple[str, CutFile | None]]] = defaultdict(list)

    def go_to(self, count: int) -> None:
        """Do what was done until then."""
        for each in self.operations[self.done : count]:
            self._do(each)
        self.done = count

    def _do(self, each: Operation) -> None:
        folder = each.name.rpartition("/")[0] or "."
        if each.kind == "create":
            self.names[each.name] = CutFile()
            self.pending_names[folder].append((each.name, self.names[each.name]))
        elif each.kind == "remove":
            del self.names[each.name]
            self.pending_names[folder].append((each.name, None))
        elif each.kind == "folder":
            if not each.failed:
                self._name(self.safe_names, self.pending_names.pop(each.name, []))
        elif each.kind == "sync":
            file = self.names[each.name]
            if each.failed:  # what the disk did not take may be lost, and no later sync says so
                file.pending = [each for each in file.pending if self.draw.random() < 0.5]
            else:
                file.sync()
        elif not each.failed or each.kind == "write":
            data = each.data[: self.draw.randrange(len(each.data))] if each.failed else each.data
            self.names[each.name].pending.append(each._replace(data=data))

    @staticmethod
    def _name(names: dict[str, CutFile], changes: list[tuple[str, CutFile | None]]) -> None:
        for name, file in changes:
            if file is None:
                names.pop(name, None)
            else:
                names[name] = file

    def check_image(self, folder: Path, fate: str, kept: Snapshots) -> None:
        """Look at what a cut at this moment may leave."""
        self.write_image(folder, fate)
        if (folder / "ledger.db").exists():
            kept.check(folder, self.done)
        else:
            assert not any(at <= self.done for at in kept.kept_at), "there is no ledger"

    def write_image(self, folder: Path, fate: str) -> None:
        """Write what a cut at this moment may leave."""
        folder.mkdir(parents=True)
        names = dict(self.safe_names)
        for changes in self.pending_names.values():
            share = {"none": 0, "all": len(changes)}.get(fate, self.draw.randint(0, len(changes)))
            self._name(names, changes[:share])
        for name, file in names.items():
            parent = name.rpartition("/")[0]
            if name == "big" or (parent and parent not in names):
                continue
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(self._content(file, fate))
        if "ledger.db" in names and self.draw.random() < 0.5:  # not synced by anybody, and made anew by whoever opens
            (folder / "ledger.db-shm").write_bytes(self.draw.randbytes(self.draw.choice([0, 100, 32768])))

    def _content(self, file: CutFile, fate: str) -> bytearray:
        content = bytearray(file.synced)
        draw, pending = self.draw, list(file.pending)
        if fate == "none":
            return content
        if fate == "prefix":
            pending = pending[: draw.randint(0, len(pending))]
        share = draw.choice([0.1, 0.5, 0.9])
        for place, each in enumerate(pending):
            is_last = place == len(pending) - 1
            if fate == "all" or (fate == "prefix" and not is_last):
                apply(content, each)
            elif fate == "random":
                if draw.random() < share:
                    apply(content, each)
            else:
                self._apply_torn(content, each, share)
        return content

    def _apply_torn(self, content: bytearray, each: Operation, share: float) -> None:
        """Apply some sectors of a write, in any order."""
        if each.kind != "write":
            if self.draw.random() < share:
                apply(content, each)
            return
        end = each.at + len(each.data)
        for start in range(each.at - each.at % SECTOR, end, SECTOR):
            if self.draw.random() < share:
                first, last = max(start, each.at), min(start + SECTOR, end)
                data = each.data[first - each.at : last - each.at]
                apply(content, each._replace(at=first, data=data))


def apply(content: bytearray, each: Operation) -> None:
    """Do what was to be done to a file."""
    size = each.at if each.kind == "resize" else each.at + len(each.data)
    if size > len(content):
        content.extend(bytes(size - len(content)))
    if each.kind == "resize":
        del content[each.at :]
    else:
        content[each.at : size] = each.data


def check_failure(folder: Path, patch: pytest.MonkeyPatch, number: int, error: int, **options: Any) -> bool:
    """Let the n-th operation fail, and return True if there was one; then cut the power in each way."""
    source = folder / "written"
    source.mkdir(parents=True)
    failing = FailingDisk(number, error)
    with recorded(source, patch, failing) as recorder:
        kept = write(recorder, "failing", **options)
    if (source / "ledger.db").exists():
        kept.check(source, NEVER - 1)
    disk = CutDisk(recorder.operations, random.Random(number))
    disk.go_to(len(recorder.operations))
    for fate in FATES:
        disk.check_image(folder / fate, fate, kept)
    return failing.has_failed


def write_recorded(folder: Path, patch: pytest.MonkeyPatch, seed: int, **options: Any) -> tuple[Recorder, Snapshots]:
    """One recorded run on a disk that does not fail."""
    source = folder / "written"
    source.mkdir()
    with recorded(source, patch) as recorder:
        kept = write(recorder, seed, **options)
    assert len(kept.images) > 10
    return recorder, kept


def check_kills(folder: Path, patch: pytest.MonkeyPatch, seed: int) -> None:
    """Kill a run before each of its operations: what was written before is there."""
    recorder, kept = write_recorded(folder, patch, seed, steps=10, lives=2)
    disk = CutDisk(recorder.operations, random.Random(seed))
    for cut in range(len(recorder.operations) + 1):
        disk.go_to(cut)
        disk.check_image(folder / f"killed{cut}", "all", kept)


def check_cuts(folder: Path, patch: pytest.MonkeyPatch, seed: int, images: int) -> None:
    """Cut the power of one recorded run so many times, each time anew."""
    recorder, kept = write_recorded(folder, patch, seed)
    draw = random.Random(f"cuts {seed}")
    disk = CutDisk(recorder.operations, draw)
    for number, cut in enumerate(sorted(draw.randint(0, len(recorder.operations)) for _ in range(images))):
        disk.go_to(cut)
        disk.check_image(folder / f"image{number}", FATES[number % len(FATES)], kept)
