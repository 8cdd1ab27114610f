"""The ledger of a durable run on a real disk: what was said to be on disk is there, whatever happens to it."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import durable_lives
import ledger_files
import pytest
from helpers import ROOT
from ledger_files import Mill, PicklePacker, open_ledger
from virtual_disk import VirtualDisk

from runner import linux_only
from runner.errors import LedgerRefused
from runner.store import run_lock
from runner.store.keeper import LedgerKeeper
from runner.store.ledger_file import LEDGER_FILE, LedgerFile
from runner.store.run_lock import RunLock
from runner.store.segments import LARGE_BYTES

if TYPE_CHECKING:
    from pathlib import Path

    from runner.ledger.journal import JournalGroup, LedgerImage


def written(folder: Path, steps: int = 40, seed: object = 1, **options: Any) -> LedgerImage:
    """A ledger after some steps, each in a transaction of its own or with the next ones; what it holds."""
    file, image = open_ledger(folder)
    mill, draw = Mill(image, seed, **options), random.Random(f"groups {seed}")
    waiting: list[JournalGroup] = []
    for step in range(steps):
        if (group := mill.step()) is not None:
            waiting.append(group)
            image.apply_group(group)
        if waiting and (draw.random() < 0.5 or step == steps - 1):
            file.write_groups(waiting)
            mill.ledger.wake_kept(waiting[-1].number)
            waiting.clear()
    file.close()
    assert image.owed
    return image


def read(folder: Path) -> LedgerImage:
    file, image = open_ledger(folder)
    damaged = file.damaged_chunks
    file.close()
    assert not damaged
    return image


@pytest.mark.parametrize("seed", range(6))
def test_what_was_written_is_what_is_read(tmp_path: Path, seed: int) -> None:
    first = written(tmp_path, seed=seed)
    assert read(tmp_path) == first
    second = written(tmp_path, seed=-seed - 1)  # it goes on
    assert second.last_chunk > first.last_chunk
    found = read(tmp_path)
    assert found == second
    assert list(found.chunks) == list(second.chunks), "in the order in which they came"


class FileDisk(VirtualDisk):
    """A virtual disk beside a ledger file, which must hold the same."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.file, _ = open_ledger(folder)

    def commit(self, group: JournalGroup) -> None:
        super().commit(group)
        self.file.write_groups([group])


@pytest.mark.parametrize("seed", [3, pytest.param(8, marks=pytest.mark.slow)])
def test_whole_lives_are_on_disk_as_they_were(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = FileDisk(tmp_path)
    monkeypatch.setattr(durable_lives, "VirtualDisk", lambda: disk)
    durable_lives.check_lives(seed)
    disk.file.close()
    assert disk.image.dead_items
    assert read(tmp_path) == disk.image


# -- large payloads ----------------------------------------------------------------------------


def test_large_payloads_lie_in_segments_that_are_written_over(tmp_path: Path) -> None:
    written(tmp_path, steps=200, large=1.0)
    segments = list((tmp_path / "big").iterdir())
    assert [segment.name for segment in segments] == ["000001"]
    assert (tmp_path / LEDGER_FILE).stat().st_size < 1 << 20
    assert read(tmp_path).chunks


def test_a_place_is_free_only_when_its_removal_is_on_disk(tmp_path: Path) -> None:
    file, image = open_ledger(tmp_path)
    mill = Mill(image, 1)
    ledger = mill.ledger
    payload = b"a" * LARGE_BYTES

    def write() -> None:
        assert ledger.journal is not None
        group = ledger.journal.hand_over()
        assert group is not None
        file.write_groups([group])
        ledger.wake_kept(group.number)

    ledger.put("a", [ledger.make_chunk(payload, 1, len(payload))])
    write()
    lease = ledger.grant_lease("work", 0, 1)
    assert lease is not None
    # The old chunk goes, and a new one comes, in one transaction: until it is committed both are there.
    ledger.settle_lease(lease.id, 1, {}, [("out", ledger.make_chunk(b"b" * LARGE_BYTES, 1, LARGE_BYTES))])
    write()
    ledger.put("a", [ledger.make_chunk(b"c" * LARGE_BYTES, 1, LARGE_BYTES)])
    write()
    rows = file._db.execute("SELECT number, position FROM chunk ORDER BY number").fetchall()
    file.close()
    assert rows == [(2, LARGE_BYTES), (3, 0)]
    assert [chunk.payload[:1] for chunk in read(tmp_path).chunks.values()] == [b"b", b"c"]


def test_a_segment_that_was_cut_damages_its_chunks_and_one_that_is_gone_is_refused(tmp_path: Path) -> None:
    written(tmp_path, large=1.0)
    segment = tmp_path / "big" / "000001"
    os.truncate(segment, 4096)
    file, image = open_ledger(tmp_path)
    assert file.damaged_chunks
    assert all(image.chunks[number].payload is None for number in file.damaged_chunks)
    file.close()
    segment.unlink()
    with pytest.raises(LedgerRefused, match="lacks segments"):
        open_ledger(tmp_path)


# -- what is refused ---------------------------------------------------------------------------


def flips(folder: Path, count: int | None) -> list[int]:
    """Positions in the ledger: all that hold something, or some of them."""
    data = (folder / LEDGER_FILE).read_bytes()
    found = [at for at, byte in enumerate(data) if byte] + list(range(0, len(data), 499))
    return found if count is None else random.Random(1).sample(found, count)


@pytest.mark.parametrize("count", [150, pytest.param(None, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_a_flipped_byte_is_refused_or_one_damaged_chunk_or_nothing(tmp_path: Path, count: int | None) -> None:
    image = written(tmp_path, large=0)
    path = tmp_path / LEDGER_FILE
    data = path.read_bytes()
    outcomes = {"refused": 0, "damaged": 0, "same": 0}
    for at in flips(tmp_path, count):
        wrong = bytearray(data)
        wrong[at] ^= random.Random(at).choice([1, 0x80, 0xFF])
        path.write_bytes(wrong)
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        try:
            file, found = open_ledger(tmp_path)
        except LedgerRefused:
            outcomes["refused"] += 1
            continue
        file.close()
        if file.damaged_chunks:
            outcomes["damaged"] += 1
            assert len(file.damaged_chunks) == 1
        else:
            outcomes["same"] += 1
            assert found == image, f"byte {at}"
    assert min(outcomes.values()) > 0, outcomes


def test_a_file_that_is_no_ledger_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / LEDGER_FILE
    with pytest.raises(LedgerRefused, match="has no ledger"):
        LedgerFile(tmp_path, PicklePacker())
    for data in (b"", b"not a database" * 1000):
        path.write_bytes(data)
        with pytest.raises(LedgerRefused):
            LedgerFile(tmp_path, PicklePacker())
        assert path.read_bytes() == data
    path.unlink()
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE x(y)")
        other.execute("PRAGMA user_version=1")
    other.close()
    with pytest.raises(LedgerRefused, match="is not a ledger"):
        LedgerFile(tmp_path, PicklePacker())


def test_another_format_is_refused(tmp_path: Path) -> None:
    written(tmp_path)
    with sqlite3.connect(tmp_path / LEDGER_FILE) as other:
        other.execute("PRAGMA user_version=1")
    other.close()
    with pytest.raises(LedgerRefused, match="has format 1, and this version of runner reads format 3"):
        open_ledger(tmp_path)


def test_a_ledger_that_was_cut_off_before_it_began_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    class Connection(sqlite3.Connection):
        def execute(self, sql: str, *args: Any) -> Any:
            if "CREATE TABLE owed" in sql:
                raise Killed
            return super().execute(sql, *args)

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **options: connect(*args, factory=Connection, **options))
    with pytest.raises(Killed):
        open_ledger(tmp_path)
    monkeypatch.undo()
    with pytest.raises(LedgerRefused, match="ended before it began"):
        open_ledger(tmp_path)


# -- the lock ------------------------------------------------------------------------------------


def test_a_run_is_gone_on_with_by_one_process(tmp_path: Path) -> None:
    with contextlib.closing(RunLock(tmp_path)) as lock:
        with pytest.raises(LedgerRefused, match=f"is going on: process {os.getpid()} on "):
            RunLock(tmp_path).close()
        lock.close()
    with contextlib.closing(RunLock(tmp_path)):
        os.truncate(tmp_path / "lock", 0)
        with pytest.raises(LedgerRefused, match="another process has it"):
            RunLock(tmp_path).close()


def test_network_file_systems_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_lock.refuse_network_disk(tmp_path)
    assert linux_only.file_system_of(ROOT)
    for kind in ("nfs4", "fuse.sshfs", "cifs"):
        monkeypatch.setattr(run_lock, "file_system_of", lambda _, kind=kind: kind)
        with pytest.raises(LedgerRefused, match=rf"network file system \({kind}\)"):
            run_lock.refuse_network_disk(tmp_path)


# -- the keeper ----------------------------------------------------------------------------------


class Post:
    """What a keeper says."""

    def __init__(self) -> None:
        self.said: list[int] = []
        self.changed = threading.Condition()

    def __call__(self, number: int) -> None:
        with self.changed:
            self.said.append(number)
            self.changed.notify_all()

    def wait_for(self, count: int) -> list[int]:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.said) >= count, 30)
            return list(self.said)


def test_all_groups_that_wait_are_written_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, image = open_ledger(tmp_path)
    mill, post, go = Mill(image, 1, large=0), Post(), threading.Event()
    batches: list[int] = []
    write = file.write_groups

    def slowly(groups: list[JournalGroup]) -> None:
        batches.append(len(groups))
        go.wait(30)
        write(groups)

    monkeypatch.setattr(file, "write_groups", slowly)
    keeper = LedgerKeeper(file, tmp_path, post)
    groups = [group for group in (mill.step() for _ in range(30)) if group is not None]
    for group in groups:
        image.apply_group(group)
        keeper.keep(group)
    go.set()
    keeper.close()
    file.close()
    assert sum(batches) == len(groups)
    assert len(batches) <= 3
    assert post.said[-1] == groups[-1].number
    assert read(tmp_path) == image


@pytest.mark.parametrize("place", ["fdatasync", "commit"])
def test_an_error_of_the_disk_ends_the_keeper_and_leaves_the_last_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    file, image = open_ledger(tmp_path)
    mill, post = Mill(image, 1, large=1.0), Post()
    first = mill.step() or mill.step() or mill.step()
    keeper = LedgerKeeper(file, tmp_path, post)
    keeper.keep(first)
    post.wait_for(1)
    mill.ledger.wake_kept(first.number)

    def refuse(*_: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    if place == "fdatasync":
        monkeypatch.setattr(linux_only, "sync_data", refuse)
    else:
        monkeypatch.setattr(file, "_write_changes", refuse)
    group = None
    while group is None or not group.chunks:
        group = mill.step()
    keeper.keep(group)
    assert post.wait_for(2)[-1] == 0
    assert keeper.is_broken
    assert "Input/output error" in keeper.trouble
    assert keeper.fault is None
    keeper.close()
    file.close()
    monkeypatch.undo()
    image.apply_group(first)
    assert read(tmp_path) == image


def test_an_error_of_our_own_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, image = open_ledger(tmp_path)
    monkeypatch.setattr(file, "write_groups", lambda _: 1 / 0)
    post = Post()
    keeper = LedgerKeeper(file, tmp_path, post)
    mill = Mill(image, 1)
    keeper.keep(mill.step() or mill.step() or mill.step())
    assert post.wait_for(1) == [0]
    assert isinstance(keeper.fault, ZeroDivisionError)
    assert keeper.is_broken
    keeper.close()
    file.close()


LIMITED = """
import resource, sys, threading, pathlib
sys.path[:0] = sys.argv[2:]
from ledger_files import Mill, open_ledger
from runner.store.keeper import LedgerKeeper
folder = pathlib.Path(sys.argv[1])
file, image = open_ledger(folder)
said, trouble, fine = [], threading.Event(), threading.Event()
def post(number):
    said.append(number)
    (fine if number else trouble).set()
keeper = LedgerKeeper(file, folder, post)
mill = Mill(image, 1, large=float(sys.argv[-1] == "large"))
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
last = 0
while not trouble.is_set():
    if (group := mill.step()) is None:
        continue
    image.apply_group(group)
    fine.clear()
    keeper.keep(group)
    last = group.number
    while not (trouble.is_set() or fine.wait(0.01)):
        pass
    if not trouble.is_set():
        mill.ledger.wake_kept(said[-1])
assert keeper.trouble and not keeper.is_broken, (keeper.trouble, keeper.is_broken)
print(keeper.trouble)
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
while said[-1] != last:
    fine.wait(30)
assert not keeper.trouble
keeper.close()
file.close()
file, found = open_ledger(folder)
assert found == image and not file.damaged_chunks
file.close()
print("went on")
"""


@pytest.mark.parametrize("payloads", ["small", pytest.param("large", marks=pytest.mark.slow)])
def test_a_file_that_must_not_grow_is_waited_for(tmp_path: Path, payloads: str) -> None:
    paths = [str(ROOT / "tests"), str(ROOT), payloads]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path), *paths], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.endswith("went on\n"), done.stdout + done.stderr
    assert "the ledger cannot be written" in done.stdout


# -- kill -9 -------------------------------------------------------------------------------------


def kill_at(folder: Path, lines: int, seed: int) -> int:
    """Let a child go on with a ledger until it has said so many lines; return how many groups it said were on disk."""
    child = subprocess.Popen(
        [sys.executable, ledger_files.__file__, str(folder), str(seed)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), str(ROOT)])},
    )
    assert child.stdout is not None
    kept = 0
    for line in child.stdout:
        kept += line == "kept\n"
        if kept >= lines:
            break
    child.send_signal(signal.SIGKILL)
    rest = child.stdout.read()
    child.stdout.close()
    child.wait()
    return kept + rest.count("kept\n")


def killed_again_and_again(folder: Path, kills: int, seed: int) -> None:
    draw = random.Random(seed)
    put = number = 0
    for kill in range(kills):
        kept = kill_at(folder, draw.choice([0, 1, 3, 10, 40]), seed * 1000 + kill)
        try:
            file, image = open_ledger(folder)
        except LedgerRefused as error:
            assert "ended before it began" in str(error)
            assert not kept
            (folder / LEDGER_FILE).unlink()
            continue
        assert not file.damaged_chunks
        file.close()
        came = image.line_counts["a"].put if image.line_counts else 0
        assert came >= put
        assert image.last_chunk >= number
        assert not kept or image.line_counts
        put, number = came, image.last_chunk
    assert put


def test_after_a_kill_everything_adds_up(tmp_path: Path) -> None:
    killed_again_and_again(tmp_path, 5, 1)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(3))  # whole commands are killed in tests/unit/test_bench.py
def test_after_a_hundred_kills_everything_adds_up(tmp_path: Path, seed: int) -> None:
    killed_again_and_again(tmp_path, 100, 100 + seed)
