"""Ledgers on a real disk, for tests: a packer for fake payloads, and a child that writes until it is killed.

`python ledger_files.py FOLDER SEED` goes on with the ledger in a folder, or begins one, and prints a line for each
group that is on disk.
"""

from __future__ import annotations

import pickle
import random
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.ledger.leases import Again, Dead
from runner.ledger.ledger import Ledger
from runner.ledger.restore import restore_ledger
from runner.ledger.subscriptions import Subscription
from runner.store.keeper import LedgerKeeper
from runner.store.ledger_file import LedgerFile
from runner.store.run_folders import LEDGER_FILE

if TYPE_CHECKING:
    from runner.ledger.chunks import Chunk
    from runner.ledger.journal import LedgerImage


class PicklePacker:
    """Payloads of tests, and letters that hold their items."""

    def pack_payload(self, chunk: Chunk) -> tuple[bytes, bytes]:
        packed = chunk.payload if type(chunk.payload) is bytes else pickle.dumps(chunk.payload)
        return (b"", packed) if chunk.origin else (packed, b"")

    def unpack_payload(self, payload: bytes, letter: bytes, origin: Chunk | None) -> Any:
        packed = letter if origin is not None else payload
        return pickle.loads(packed) if packed.startswith(b"\x80") else packed

    def pack_evidence(self, evidence: Any) -> bytes:
        return pickle.dumps(evidence)

    def unpack_evidence(self, data: bytes) -> Any:
        return pickle.loads(data)


def open_ledger(folder: Path) -> tuple[LedgerFile, LedgerImage]:
    """A ledger file, made if there is none, and what it holds."""
    file = LedgerFile(folder, PicklePacker(), make=not (folder / LEDGER_FILE).exists())
    try:
        return file, file.read_image()
    except BaseException:
        file.close()
        raise


def new_ledger(image: LedgerImage) -> Ledger:
    """A source's queue, a task, and what it sends."""
    ledger = Ledger([Subscription("a", ("work",)), Subscription("out", ("sink",))])
    restore_ledger(ledger, image)
    return ledger


class Mill:
    """Random work on a ledger, a step at a time, each in one group."""

    def __init__(self, image: LedgerImage, seed: int | str, *, large: float = 0.1) -> None:
        self.ledger = new_ledger(image)
        self.draw = random.Random(seed)
        self.large = large

    def payload(self, count: int) -> list[Any]:
        size = self.draw.choice([70_000, 200_000]) if self.draw.random() < self.large else 10
        return [self.draw.randbytes(size // count + 1) for _ in range(count)]

    def step(self) -> Any:
        """Do something, and return the group that it makes; None: nothing was there to do."""
        ledger, draw = self.ledger, self.draw
        assert ledger.journal is not None
        if draw.random() < 0.5:
            count = draw.randint(1, 5)
            ledger.count_produced("source", "source", count, draw.getrandbits(32), {1: 5})
            ledger.put("a", [ledger.make_chunk(self.payload(count), count, 10 * count)], sender="source")
        elif lease := ledger.grant_lease("work", 0, draw.randint(1, 7)):
            done = draw.randint(1, lease.count)
            verdicts: Any = {0: draw.choice([Again(0.0), Dead("why")])} if draw.random() < 0.3 else {}
            made = ledger.make_chunk(self.payload(done), done, 10 * done)
            settlement = ledger.settle_lease(lease.id, done, verdicts, [("out", made)])
            assert settlement is not None
            for each in settlement.dead_items:
                assert ledger.journal is not None
                ledger.journal.bury(each, "work", "item")
            ledger.wake_sleepers(1.0)
        elif lease := ledger.grant_lease("sink", 0, 10):
            ledger.settle_lease(lease.id, lease.count, {}, [])
        return ledger.journal.hand_over()


def main() -> None:
    """Write until killed."""
    folder, seed = Path(sys.argv[1]), sys.argv[2]
    file, image = open_ledger(folder)
    said = threading.Semaphore(8)
    kept: list[int] = []

    def post(number: int) -> None:
        kept.append(number)
        said.release()

    keeper = LedgerKeeper(file, folder, post)
    mill = Mill(image, f"{seed} {image.last_chunk}")
    while not keeper.is_broken:
        if (group := mill.step()) is not None:
            keeper.keep(group)
            said.acquire()
        while kept:
            mill.ledger.wake_kept(kept.pop(0))
            print("kept", flush=True)


if __name__ == "__main__":
    main()
