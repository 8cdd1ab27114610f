"""A disk on virtual time, and what writes the groups of a journal to it.

The disk trusts nothing that the ledger says of itself: it writes down what each commit took from what was owed, item by
item.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from runner.engines.engine_events import GroupKept
from runner.ledger.journal import LedgerImage
from runner.supervisor.dead_letters import DeadLetterPayload

if TYPE_CHECKING:
    from runner.ledger.chunks import Chunk
    from runner.ledger.journal import JournalGroup, OwedRanges


def item_at(chunk: Chunk, index: int) -> Any:
    """The item of a fake chunk; that of a dead letter is its item."""
    if isinstance(chunk.payload, DeadLetterPayload):
        return chunk.payload.payload[chunk.payload.index]
    return chunk.payload[index]


def indices(chunk: Chunk, ranges: OwedRanges) -> set[int]:
    """The items of a chunk that are owed."""
    if ranges is None:
        return set(range(chunk.count))
    return {index for start, count, _, _ in ranges for index in range(start, start + count)}


class VirtualDisk:
    """What survives a crash, and the history of what was committed."""

    def __init__(self) -> None:
        self.image = LedgerImage()
        self.commits = 0
        #: By subscription: items that were put, in order, and items that are over (done, dead or dropped).
        self.put: dict[str, list[Any]] = defaultdict(list)
        self.over: dict[str, Counter[Any]] = defaultdict(Counter)
        #: By task: its items in the run's own store of dead letters.
        self.dead: dict[str, Counter[Any]] = defaultdict(Counter)

    def commit(self, group: JournalGroup) -> None:
        image = self.image
        places = {chunk.number: place for place, chunk in enumerate(group.chunks)}
        chunks = image.chunks | {chunk.number: chunk for chunk in group.chunks}
        before = {key: image.owed[key] for key in group.owed if key in image.owed}
        for line, number in sorted(group.owed, key=lambda key: places.get(key[1], -1)):
            chunk = chunks[number]
            if (line, number) in before:
                was = indices(chunk, before[line, number])
            else:
                was = indices(chunk, None)
                self.put[line] += [item_at(chunk, index) for index in range(chunk.count)]
            gone = was - indices(chunk, group.owed[line, number])
            self.over[line].update(item_at(chunk, index) for index in gone)
        for dead in group.dead_items:
            assert dead.chunk_number in chunks, "a dead item's chunk is not there"
            self.dead[dead.task][item_at(chunks[dead.chunk_number], dead.index)] += 1
        image.apply_group(group)
        letters = [chunk for chunk in group.chunks if isinstance(chunk.payload, DeadLetterPayload)]
        assert all(chunk.origin in image.chunks for chunk in letters), "a letter without its item"
        assert not image.find_faults()
        self.commits += 1

    def tries(self, queue: str, reader: str, number: int, index: int) -> tuple[int, int]:
        """Attempts and crashes of an item, as they are on disk."""
        for line in (queue, f"{queue}->{reader}"):
            if ranges := self.image.owed.get((line, number)):
                _, _, *tries = ranges[bisect_right(ranges, index, key=lambda each: each[0]) - 1]
                return tries[0], tries[1]
        return 0, 0


class VirtualKeeper:
    """Writes all that waits in one commit, which takes its time; a moment later it says so."""

    trouble = ""
    is_broken = False
    fault: BaseException | None = None

    def __init__(self, hub: Any, disk: VirtualDisk, seed: object, slowness: float) -> None:
        self.hub, self.disk, self.slowness = hub, disk, slowness
        self.draw = random.Random(f"keeper {seed}")
        self.waiting: list[JournalGroup] = []
        self.under_way: list[JournalGroup] = []
        self.busy = False

    def keep(self, group: JournalGroup) -> None:
        self.waiting.append(group)
        if not self.busy:
            self._begin()

    def _begin(self) -> None:
        self.busy = True
        self.under_way, self.waiting = self.waiting, []
        self.hub.at(self.draw.uniform(0, self.slowness), self._commit)

    def _commit(self) -> None:
        for group in self.under_way:
            self.disk.commit(group)
        number, self.under_way = self.under_way[-1].number, []
        self.hub.at(self.draw.uniform(0, self.slowness / 10), lambda: self._tell(number))

    def crash(self) -> None:
        """Leave the disk as a crash may: with some of the groups that were handed over, in their order."""
        groups = [*self.under_way, *self.waiting]
        for group in groups[: self.draw.randint(0, len(groups))]:
            self.disk.commit(group)

    def _tell(self, number: int) -> GroupKept:
        self.busy = False
        if self.waiting:
            self._begin()
        return GroupKept(number)
