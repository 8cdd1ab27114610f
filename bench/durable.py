"""What a durable run costs: `python -m bench.durable [--quick]`, a table of figures, bars, and limits or peers.

Rates are those of the ledger alone, in this process, on the disk of `--folder` (a temporary one). Costs and latencies
are those of whole commands, durable and not, in turn; a ratio is the median of each pair's own. A bar that is missed
is said to be, and is exit code 1.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import queue
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from bench import measure
from bench.files import Task, pipeline
from bench.stamps import STAMPS
from bench.table import number
from runner.ledger.ledger import Ledger
from runner.ledger.restore import restore_ledger
from runner.ledger.subscriptions import Subscription
from runner.store.keeper import LedgerKeeper
from runner.store.ledger_file import LedgerFile
from runner.supervisor.resume import MessagePacker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.kinds import Outcome
    from runner.ledger.journal import LedgerImage

ITEM = b"x" * 200
CHUNK_ITEMS = 100
#: Chunks that are on their way at once, as in a run of some workers.
UNDER_WAY = 64
MIB = 1 << 20
ARRAY = bytes(range(256)) * (MIB // 256)
#: Of one transaction with arrays: as the keeper has it.
ARRAYS_TOGETHER = 4
ITEM_SECONDS = 100e-6
SLOW_ITEM_SECONDS = 25e-3
SYNC_SECONDS = 30e-3
QUEUES = 2
OWED_ITEMS = 100_000
#: A command whose syncs take longer: each group of groups is one.
WITH_SLOW_SYNCS = f"""
import sys, time
from runner.__main__ import main
from runner.store.ledger_file import LedgerFile
write = LedgerFile.write_groups
def slowly(self, groups):
    write(self, groups)
    time.sleep({SYNC_SECONDS})
LedgerFile.write_groups = slowly
sys.exit(main())
"""


class Figure(Struct):
    """One row: a figure and its bar, or a limit or a peer, which has none. `least`: the bar is the smallest figure."""

    name: str
    value: float
    unit: str
    bar: float | None = None
    least: bool = False

    @property
    def is_missed(self) -> bool:
        """Return True if the figure is on the wrong side of its bar."""
        return self.bar is not None and (self.value < self.bar if self.least else self.value > self.bar)


def main() -> int:
    """Measure, print the table, and say which bars are missed."""
    parser = argparse.ArgumentParser(prog="python -m bench.durable", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"only these: {', '.join(PARTS)}")
    parser.add_argument("--quick", action="store_true", help="fewer items and pairs")
    parser.add_argument("--pairs", type=int, help="pairs of commands for each cost (9; quick: 7)")
    parser.add_argument("--folder", type=Path, help="on the disk that is to be measured; default: a temporary one")
    given = parser.parse_args()
    if unknown := set(given.parts) - PARTS.keys():
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    pairs = given.pairs or (7 if given.quick else 9)
    print("| | figure | bar | |\n| --- | --: | --: | --- |", flush=True)
    missed = 0
    with tempfile.TemporaryDirectory(prefix="bench-durable-", dir=given.folder) as folder:
        for name in given.parts or PARTS:
            for figure in PARTS[name](Path(folder), given.quick, pairs):
                print(row(figure), flush=True)
                missed += figure.is_missed
    return int(missed > 0)


def row(figure: Figure) -> str:
    """A row of the table.

    >>> print(row(Figure("hop", 1234567, "items/s", 300_000, least=True)))
    | **hop** | 1,230,000 items/s | ≥ 300,000 items/s |  |
    >>> print(row(Figure("cost", 1.18, "×", 1.15)))
    | **cost** | 1.18 × | ≤ 1.15 × | missed |
    """
    if figure.bar is None:
        return f"| {figure.name} | {number(figure.value)} {figure.unit} | | |"
    bar = f"{'≥' if figure.least else '≤'} {figure.bar:,g} {figure.unit}"
    return f"| **{figure.name}** | {number(figure.value)} {figure.unit} | {bar} | {'missed' * figure.is_missed} |"


# -- the ledger alone ------------------------------------------------------------------------------


class LedgerLine:
    """A ledger with one queue, its journal, and a keeper that writes it, without workers."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.file = LedgerFile(folder, MessagePacker(), make=True)
        self.ledger = new_ledger(self.file.read_image())
        self.said: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.keeper = LedgerKeeper(self.file, folder, self.said.put)

    def keep(self) -> None:
        """Hand what has changed over."""
        assert self.ledger.journal is not None
        if (group := self.ledger.journal.hand_over()) is not None:
            self.keeper.keep(group)

    def put(self, payload: bytes, items: int) -> None:
        """Take a chunk in."""
        self.ledger.put("q", [self.ledger.make_chunk(payload, items, len(payload))], sender="source")
        self.keep()

    def hop(self, payload: bytes, items: int, chunks: int, under_way: int) -> float:
        """Return the seconds that chunks take, each in by one commit and out by a later one."""
        began, put, done = time.perf_counter(), 0, 0
        while done < chunks:
            while put < min(chunks, done + under_way):
                self.put(payload, items)
                put += 1
            number = self.said.get()
            assert number, self.keeper.trouble
            self.ledger.wake_kept(number)
            while (lease := self.ledger.grant_lease("work", 0, items)) is not None:
                self.ledger.settle_lease(lease.id, lease.count, {}, [])
                self.keep()
                done += 1
        self.close()
        return time.perf_counter() - began

    def close(self) -> None:
        """Write what waits, and close the file."""
        self.keeper.close()
        self.file.close()


def new_ledger(image: LedgerImage) -> Ledger:
    """A queue with one reader, which goes on from an image."""
    ledger = Ledger([Subscription("q", ("work",))])
    restore_ledger(ledger, image)
    return ledger


def measure_hop(folder: Path, quick: bool, pairs: int) -> Iterator[Figure]:
    """A chunk in and out, beside queues that make a transaction of each item."""
    chunks, singles = (2_000, 300) if quick else (10_000, 1_000)
    payload = ITEM * CHUNK_ITEMS
    rates: dict[str, list[float]] = {}
    for turn in range(3):
        seconds = LedgerLine(folder / f"hop{turn}").hop(payload, CHUNK_ITEMS, chunks, UNDER_WAY)
        rates.setdefault("runner", []).append(chunks * CHUNK_ITEMS / seconds)
        for name, (package, pass_through) in PEERS.items():
            if not package or importlib.util.find_spec(package) is not None:
                own = folder / f"{name} {turn}"
                own.mkdir()
                began = time.perf_counter()
                pass_through(own, singles)
                rates.setdefault(name, []).append(singles / (time.perf_counter() - began))
    found = {name: statistics.median(each) for name, each in rates.items()}
    rate, best = found.pop("runner"), max(found[name] for name in found)
    yield Figure(f"durable hop, {CHUNK_ITEMS} items a chunk", rate, "items/s", 300_000, least=True)
    yield Figure("… by the best peer", rate / best, "×", 20, least=True)
    for name, each in found.items():
        yield Figure(f"peer, a transaction an item: {name}", each, "items/s")


def by_hand(folder: Path, items: int) -> None:
    """A queue in SQLite as one writes it, with the same promise."""
    with contextlib.closing(sqlite3.connect(folder / "queue.db", isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.execute("CREATE TABLE queue(id INTEGER PRIMARY KEY, item BLOB)")
        for _ in range(items):
            db.execute("INSERT INTO queue(item) VALUES(?)", (ITEM,))
        for _ in range(items):
            taken = db.execute("DELETE FROM queue WHERE id = (SELECT min(id) FROM queue) RETURNING item").fetchone()
            assert taken == (ITEM,)


def by_huey(folder: Path, items: int) -> None:
    """Its storage, synced: taken items are deleted before they are executed."""
    from huey.storage import SqliteStorage

    storage = SqliteStorage(filename=str(folder / "queue.db"), fsync=True)
    for _ in range(items):
        storage.enqueue(ITEM)
    for _ in range(items):
        assert storage.dequeue() == ITEM
    storage.close()


def by_litequeue(folder: Path, items: int) -> None:
    """As documented."""
    from litequeue import LiteQueue

    found = LiteQueue(folder / "queue.db")
    for _ in range(items):
        found.put(ITEM.decode())
    for _ in range(items):
        found.done(found.pop().message_id)
    found.close()


def by_persist_queue(folder: Path, items: int) -> None:
    """As documented, with acknowledgements."""
    import persistqueue

    found = persistqueue.SQLiteAckQueue(str(folder))
    for _ in range(items):
        found.put(ITEM)
    for _ in range(items):
        found.ack(found.get())
    found.close()


#: The package that a peer needs, if any, and what passes items through it.
PEERS: dict[str, tuple[str, Callable[[Path, int], None]]] = {
    "SQLite by hand": ("", by_hand),
    "huey": ("huey", by_huey),
    "litequeue": ("litequeue", by_litequeue),
    "persist-queue": ("persistqueue", by_persist_queue),
}


def measure_arrays(folder: Path, quick: bool, pairs: int) -> Iterator[Figure]:
    """Large payloads in and out, beside a bare file and rows."""
    chunks = 400 if quick else 2_000
    rates: dict[str, list[float]] = {"runner": [], "bare": [], "rows": []}
    for turn in range(3):
        rates["runner"].append(chunks / LedgerLine(folder / f"arrays{turn}").hop(ARRAY, 1, chunks, UNDER_WAY))
        rates["bare"].append(chunks / bare_segment(folder / f"bare{turn}", chunks))
        rates["rows"].append(chunks / 4 / array_rows(folder / f"rows{turn}.db", chunks // 4))
    found = {name: statistics.median(each) for name, each in rates.items()}
    yield Figure("arrays of 1 MiB, durable", found["runner"], "MB/s", 500, least=True)
    yield Figure("limit: pwrite and fdatasync of a file that is there", found["bare"], "MB/s")
    yield Figure("the same as rows of SQLite", found["rows"], "MB/s")


def bare_segment(path: Path, chunks: int) -> float:
    """Return the seconds that it takes to write arrays over those before."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    os.posix_fallocate(fd, 0, UNDER_WAY * MIB)
    began = time.perf_counter()
    for at in range(chunks):
        os.pwrite(fd, ARRAY, at % UNDER_WAY * MIB)
        if at % ARRAYS_TOGETHER == ARRAYS_TOGETHER - 1:
            os.fdatasync(fd)
    seconds = time.perf_counter() - began
    os.close(fd)
    return seconds


def array_rows(path: Path, chunks: int) -> float:
    """Return the seconds that arrays take as rows, in by one transaction and out by a later one."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        for pragma in ("page_size=16384", "journal_mode=WAL", "synchronous=FULL"):
            db.execute(f"PRAGMA {pragma}")
        db.execute("CREATE TABLE chunk(number INTEGER PRIMARY KEY, payload BLOB)")
        began = time.perf_counter()
        for first in range(0, chunks, ARRAYS_TOGETHER):
            db.execute("BEGIN IMMEDIATE")
            rows = [(first + at, ARRAY) for at in range(ARRAYS_TOGETHER)]
            db.executemany("INSERT INTO chunk VALUES(?, ?)", rows)
            db.execute("DELETE FROM chunk WHERE number <= ?", (first - UNDER_WAY,))
            db.execute("COMMIT")
        return time.perf_counter() - began


# -- whole commands --------------------------------------------------------------------------------


def command(folder: Path, text: str, *, durable: bool, slow_syncs: bool = False) -> Outcome:
    """Run a file once, and check that it went well."""
    with tempfile.TemporaryDirectory(dir=folder) as own:
        file = Path(own, "tasks.toml")
        file.write_text(f'[run]\nstate = "{own}/state"\ndurable = {str(durable).lower()}\n{text}')
        start = ["-c", WITH_SLOW_SYNCS] if slow_syncs and durable else ["-m", "runner"]
        outcome = measure.run([sys.executable, *start, "run", str(file), "-q"], Path(own, "stamps"), 120)
    assert outcome.exit == 0, outcome
    return outcome


def in_pairs(folder: Path, text: str, pairs: int, *, slow_syncs: bool = False) -> list[tuple[Outcome, Outcome]]:
    """Return the outcomes of a file, durable and not, in turn."""
    found = []
    for turn in range(pairs):
        both = {}
        for durable in (True, False) if turn % 2 else (False, True):
            both[durable] = command(folder, text, durable=durable, slow_syncs=slow_syncs)
        found.append((both[True], both[False]))
    return found


def ratio(outcomes: list[tuple[Outcome, Outcome]], value: Callable[[Outcome], float]) -> float:
    """Return the median of each pair's own."""
    return statistics.median(value(durable) / value(plain) for durable, plain in outcomes)


def measure_cost(folder: Path, quick: bool, pairs: int) -> Iterator[Figure]:
    """Items that keep both cores busy, so that the ledger's work is not hidden behind another."""
    count = 20_000 if quick else 50_000
    text = pipeline(
        Task("source", "even", given=f"count = {count}, seconds = {ITEM_SECONDS}, workers = 2"),
        Task("spin", "spin", workers=2),
        Task("sink", "Total"),
    )
    found = in_pairs(folder, text, pairs)
    yield Figure("cost at items of 100 µs on 2 workers, processor time", ratio(found, lambda each: each.cpu), "×", 1.15)
    yield Figure("… elapsed", ratio(found, lambda each: each.between()), "×", 1.15)


def measure_slow_syncs(folder: Path, quick: bool, pairs: int) -> Iterator[Figure]:
    """A slow disk, and items that wait for something else."""
    count = 1_600 if quick else 3_200
    text = pipeline(
        Task("source", "even", given=f"count = {count}, seconds = {SLOW_ITEM_SECONDS}, workers = 8"),
        Task("nap", "nap", "thread", workers=8),
        Task("sink", "Total", "thread"),
    )
    found = in_pairs(folder, text, pairs, slow_syncs=True)
    name = "cost at items of 25 ms on 8 workers, each sync 30 ms slower, elapsed"
    yield Figure(name, ratio(found, lambda each: each.between()), "×", 1.05)


def measure_latency(folder: Path, quick: bool, pairs: int) -> Iterator[Figure]:
    """A slow source: what each queue adds to an item's age, in milliseconds and in syncs of this disk."""
    count = 100 if quick else 300
    text = pipeline(
        Task("ticks", "ticks", given=f"count = {count}, seconds = 0.02, workers = 1"),
        Task("pass_on", "pass_on"),
        Task("delays", "Delays"),
    )
    syncs = [sync_seconds(folder / f"sync{turn}", 50) for turn in range(3)]
    found = in_pairs(folder, text, 3 if quick else pairs)
    sync = statistics.median(syncs)

    def added(which: str) -> float:
        ages = [(float(a.first("ended")[which]), float(b.first("ended")[which])) for a, b in found]
        return statistics.median(durable - plain for durable, plain in ages) / QUEUES

    yield Figure("latency added per queue, p50", added("p50") / sync / 1000, "syncs", 2)
    yield Figure("… p99", added("p99"), "ms", 15)
    yield Figure("a sync: one small group written", sync * 1000, "ms")


def sync_seconds(folder: Path, groups: int) -> float:
    """Return the seconds that a small group takes to be on disk."""
    line = LedgerLine(folder)
    seconds = []
    for _ in range(groups):
        time.sleep(0.02)  # as the source does: a disk is slower to answer after a pause
        began = time.perf_counter()
        line.put(ITEM, 1)
        assert line.said.get()
        seconds.append(time.perf_counter() - began)
    line.close()
    return statistics.median(seconds)


def measure_resume(folder: Path, quick: bool, pairs: int) -> Iterator[Figure]:
    """What a run that goes on with many items needs more than a new one until its first item."""
    text = pipeline(
        Task("source", "texts", given=f"count = {OWED_ITEMS}"),
        Task("work", "FirstItem"),
    ).replace("q1 = {}", f"q1 = {{ size = {2 * OWED_ITEMS}, bytes = '1 GiB' }}")
    file = folder / "resume.toml"
    file.write_text(f'[run]\nstate = "{folder}/resume"\ndurable = true\n{text}')
    new, further = [], []
    run = ["run", str(file), "-q"]
    for turn in range(pairs):
        new.append(until_first(folder, [*run, "--no-durable"]))
        if not turn:
            until_first(folder, run, last="all")
        further.append(until_first(folder, ["resume", "--state", f"{folder}/resume", "-q"]))
    more = statistics.median(mine - other for mine, other in zip(further, new, strict=True))
    yield Figure("resume to the first item, more than a new run, 100 k owed", more * 1000, "ms", 300)
    yield Figure("… in chunks of 100, opened, checked and restored", open_seconds(folder / "open") * 1000, "ms", 300)


def until_first(folder: Path, args: list[str], last: str = "first") -> float:
    """Start a command, kill it when it has stamped, and return the seconds until then."""
    stamps = folder / "stamps"
    stamps.unlink(missing_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(measure.ROOT), STAMPS: str(stamps)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "runner", *args], env=environment, stdin=subprocess.DEVNULL)
    while not (found := [each for each in measure.read_stamps(stamps) if each["event"] == last]):
        assert process.poll() is None, "it has ended"
        assert time.monotonic() < began + 60, "it does not come so far"
        time.sleep(0.005)
    if last == "all":
        time.sleep(1.0)  # what the source gave last comes to disk
    process.send_signal(signal.SIGKILL)
    process.wait()
    return float(found[0]["at"]) - began


def open_seconds(folder: Path) -> float:
    """Return the seconds until a ledger with many chunks has been read, checked and restored."""
    line = LedgerLine(folder)
    for _ in range(OWED_ITEMS // CHUNK_ITEMS):
        line.put(ITEM * CHUNK_ITEMS, CHUNK_ITEMS)
    line.close()
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        file = LedgerFile(folder, MessagePacker())
        ledger = new_ledger(file.read_image())
        seconds.append(time.perf_counter() - began)
        assert ledger.available_items("work") == OWED_ITEMS
        file.close()
    return statistics.median(seconds)


PARTS: dict[str, Callable[[Path, bool, int], Iterator[Figure]]] = {
    "hop": measure_hop,
    "arrays": measure_arrays,
    "cost": measure_cost,
    "syncs": measure_slow_syncs,
    "latency": measure_latency,
    "resume": measure_resume,
}


if __name__ == "__main__":
    sys.exit(main())
