"""The journal: what has changed in the ledger since it was last asked, in groups for the ledger on disk.

    put, settle, mark, made, ended ──▶ Journal ──hand_over──▶ JournalGroup ──▶ disk ──release──▶ its chunks wake

A group is written as one transaction, and groups in their order. What one step of the ledger does is in one group:
an item's outputs, its ack, its counts and the place of its writer. A chunk sleeps until the group with which it came is
on disk, so nothing is granted that is not there; acks wait for nothing. Leases are never written: what is not acked is
owed, and ready again when a run goes on.

The acks of an ordered task are not told before its results leave the order: until then all of it is owed.

A chunk is kept as long as a subscription, a letter or a dead item refers to it. What lies in arenas is held until its
removal is on disk: before, its place must not be written over, because the ledger on disk names it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict, deque
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field
from msgspec.structs import replace

from runner.ledger.balance import ItemCounts, TaskTally

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from runner.ledger.chunks import Chunk
    from runner.ledger.leases import GivenUp
    from runner.ledger.subscriptions import ItemRange, Subscription

#: Items of a chunk that are owed: start, count, attempts, crashes.
OwedRange = tuple[int, int, int, int]
#: What of a chunk a subscription is owed, in order; None: all of it, as it came; nothing: it is over.
OwedRanges = tuple[OwedRange, ...] | None
#: The name of a subscription, and the number of a chunk.
OwedKey = tuple[str, int]


def whole_ranges(chunk: Chunk, ranges: OwedRanges) -> tuple[OwedRange, ...]:
    """Return what is owed of a chunk as ranges, also if that is all of it."""
    return ((0, chunk.count, 0, 0),) if ranges is None else ranges


class SourcePlace(Struct, frozen=True):
    """How far a source's worker has come: items that it has given, a CRC of them, and those of the first 1, 2, 4 ...

    `saved` is the place that it keeps itself, as JSON, of when it had given `saved_items`, whose CRC is `saved_crc`.
    Of `keyed` items the keys are on disk.
    """

    made: int = 0
    crc: int = 0
    checks: dict[int, int] = field(default_factory=dict)
    saved: str | None = None
    saved_items: int = 0
    saved_crc: int = 0
    keyed: int = 0


class DeadItem(Struct, frozen=True):
    """An item in the run's own store of dead letters: where it lies, and what is said of it."""

    queue: str
    chunk_number: int
    index: int
    task: str
    evidence: Any
    preview: str

    @property
    def item_id(self) -> str:
        """The id of the item."""
        return f"{self.chunk_number}.{self.index}"

    @property
    def key(self) -> tuple[str, int, int]:
        """What no other dead item of the run has."""
        return self.task, self.chunk_number, self.index


class JournalGroup(Struct, frozen=True):
    """What has changed, to be written in one transaction: of each thing its last state.

    `removed_chunks` maps numbers to whatever holds their payloads. `saved_places`: what workers have saved with their
    acks, by task and worker. `ended_tasks`: whether a task has ended well. `keys`: digests of 16 bytes, to be added to
    those of a source's worker.
    """

    number: int
    last_chunk: int
    chunks: list[Chunk]
    owed: dict[OwedKey, OwedRanges]
    removed_chunks: dict[int, Chunk]
    line_counts: dict[str, ItemCounts]
    task_tallies: dict[str, TaskTally]
    sources: dict[tuple[str, str], SourcePlace]
    saved_places: dict[tuple[str, str], str]
    ended_tasks: dict[str, bool]
    dead_items: list[DeadItem]
    keys: dict[tuple[str, str], bytes] = field(default_factory=dict)
    #: Dead items that are not dead any more.
    given_again: list[DeadItem] = field(default_factory=list)


class LedgerImage(Struct):
    """The ledger on disk, as data: a run goes on from it. The chunks are in the order in which they came in.

    `key_files` are of the sources' workers whose items have keys: too many to be read here. `again`: tasks that begin
    again although they have ended.
    """

    last_chunk: int = 0
    chunks: dict[int, Chunk] = field(default_factory=dict)
    owed: dict[OwedKey, OwedRanges] = field(default_factory=dict)
    line_counts: dict[str, ItemCounts] = field(default_factory=dict)
    task_tallies: dict[str, TaskTally] = field(default_factory=dict)
    sources: dict[tuple[str, str], SourcePlace] = field(default_factory=dict)
    saved_places: dict[tuple[str, str], str] = field(default_factory=dict)
    ended_tasks: set[str] = field(default_factory=set)
    dead_items: dict[tuple[str, int, int], DeadItem] = field(default_factory=dict)
    key_files: dict[tuple[str, str], str] = field(default_factory=dict)
    again: set[str] = field(default_factory=set)
    #: Queues that carry dead letters, or did so in an earlier life: what they were put was counted where it died.
    letter_queues: set[str] = field(default_factory=set)
    #: The lanes of queues when the run was executed last: what these are owed is in buckets of them.
    lanes: dict[str, str] = field(default_factory=dict)

    def count_done(self) -> int:
        """Return how many items are done, as the balance of the run has it."""
        return sum(max(0, -tally.surplus) for tally in self.task_tallies.values())

    def count_owed(self) -> dict[str, int]:
        """Return how many items each subscription is owed."""
        owed: dict[str, int] = defaultdict(int)
        for (line, number), ranges in self.owed.items():
            owed[line] += sum(count for _, count, *_ in whole_ranges(self.chunks[number], ranges))
        return owed

    def apply_group(self, group: JournalGroup) -> None:
        """Write a group: this is what a ledger on disk has to do, in one transaction."""
        self.last_chunk = max(self.last_chunk, group.last_chunk)
        self.chunks |= {chunk.number: chunk for chunk in group.chunks}
        for key, ranges in group.owed.items():
            self.owed[key] = ranges
            if ranges == ():
                del self.owed[key]
        for number in group.removed_chunks:
            del self.chunks[number]
        self.line_counts |= group.line_counts
        self.task_tallies |= group.task_tallies
        self.sources |= group.sources
        self.saved_places |= group.saved_places
        for name, has_ended in group.ended_tasks.items():
            (self.ended_tasks.add if has_ended else self.ended_tasks.discard)(name)
        self.dead_items |= {item.key: item for item in group.dead_items}
        for item in group.given_again:
            del self.dead_items[item.key]

    def retry_dead(self, items: Iterable[tuple[str, DeadItem]]) -> JournalGroup:
        """Return what lets dead items be owed again to the subscriptions named with them, as if never tried.

        >>> from runner.ledger.chunks import Chunk
        >>> dead = DeadItem("q", 1, 1, "eat", None, "'b'")
        >>> image = LedgerImage(1, {1: Chunk(1, b"", 2, 2)}, {}, {"q": ItemCounts(2, 1, 1)})
        >>> image.task_tallies, image.dead_items = {"eat": TaskTally(done=1, dead=1)}, {dead.key: dead}
        >>> image.apply_group(image.retry_dead([("q", dead)]))
        >>> image.owed, image.dead_items, image.find_faults()
        ({('q', 1): ((1, 1, 0, 0),)}, {}, [])
        """
        owed: dict[OwedKey, OwedRanges] = {}
        counts, tallies, given = dict[str, ItemCounts](), dict[str, TaskTally](), []
        for line, item in items:
            key = (line, item.chunk_number)
            ranges = owed.get(key, self.owed.get(key, ()))
            assert ranges is not None, "a dead item that is owed"
            owed[key] = tuple(sorted([*ranges, (item.index, 1, 0, 0)]))
            counts.setdefault(line, _copied(self.line_counts[line])).dead -= 1
            tallies.setdefault(item.task, replace(self.task_tallies[item.task])).dead -= 1
            given.append(item)
        return JournalGroup(
            0, self.last_chunk, [], owed, {}, counts, tallies, {}, {}, {}, dead_items=[], given_again=given
        )

    def find_faults(self) -> list[str]:
        """Return what does not add up: items that came in are over or owed, and what is owed is there."""
        faults = []
        owed: dict[str, int] = defaultdict(int)
        for (line, number), ranges in self.owed.items():
            if (chunk := self.chunks.get(number)) is None:
                faults.append(f"`{line}` is owed items of chunk {number}, which is not there")
            else:
                owed[line] += sum(count for _, count, *_ in whole_ranges(chunk, ranges))
        for line in {*owed, *self.line_counts}:
            counts = self.line_counts.get(line, ItemCounts())
            if missing := counts.missing - owed[line]:
                faults.append(f"`{line}` was put {counts.put:,} items, and {counts.put - missing:,} are accounted for")
        made: dict[str, int] = defaultdict(int)
        for (task, _), place in self.sources.items():
            made[task] += place.made
        read = {task: tally.read for task, tally in self.task_tallies.items()}
        faults += [
            f"task `{task}` has given {read.get(task, 0):,} items, and its workers {made[task]:,}"
            for task in {*made, *read}
            if read.get(task, 0) != made[task]
        ]
        faults += [
            f"a dead item of `{dead.queue}` is in chunk {dead.chunk_number}, which is not there"
            for dead in self.dead_items.values()
            if dead.chunk_number not in self.chunks
        ]
        return faults


class Journal:
    """Notes each change, and hands over what has changed. It knows what the disk will know when all is written.

    `repeated_items` are the ledger's own, by task: they are written as they are.
    """

    def __init__(self, image: LedgerImage, repeated_items: Mapping[str, int]) -> None:
        #: The number of the group that is being collected.
        self.group_number = 1
        self._repeated_items = repeated_items
        self._owed = dict(image.owed)
        self._line_counts = defaultdict(ItemCounts, {name: _copied(each) for name, each in image.line_counts.items()})
        self._task_tallies = defaultdict(TaskTally, {name: replace(each) for name, each in image.task_tallies.items()})
        self._sources = dict(image.sources)
        self.key_files = dict(image.key_files)
        self._saved_places = dict(image.saved_places)
        #: How many subscriptions, letters and dead items refer to each chunk.
        self._references: dict[int, int] = defaultdict(int)
        for _, number in self._owed:
            self._references[number] += 1
        for chunk in image.chunks.values():
            if chunk.origin:
                self._references[chunk.origin] += 1
        for dead in image.dead_items.values():
            self._references[dead.chunk_number] += 1
        #: What must not be let go of while it is on disk.
        self._chunks_in_arenas = {number: chunk for number, chunk in image.chunks.items() if chunk.shared_bytes}
        self._groups_under_way: deque[JournalGroup] = deque()
        self._last_chunk = image.last_chunk
        self._changed = False
        self._new_chunks: list[Chunk] = []
        self._changed_owed: set[OwedKey] = set()
        self._changed_lines: set[str] = set()
        self._changed_tasks: set[str] = set()
        self._changed_sources: set[tuple[str, str]] = set()
        self._newly_saved: dict[tuple[str, str], str] = {}
        self._unreferenced: dict[int, Chunk] = {}
        self._ended_tasks: dict[str, bool] = {}
        self._dead_items: list[DeadItem] = []
        self._keys: dict[tuple[str, str], bytes] = {}

    @property
    def is_idle(self) -> bool:
        """Return True if all that has happened is on disk."""
        return not self._changed and not self._groups_under_way

    def has_unkept_ends(self, task: str) -> bool:
        """Return True if the end of an item of this task is not on disk yet."""
        return task in self._changed_tasks or any(task in group.task_tallies for group in self._groups_under_way)

    def put(self, line: Subscription, chunk: Chunk, sender: str | None) -> int:
        """Note a chunk that has come in; return the group until which it has to sleep."""
        number, references = chunk.number, self._references
        if number not in references:
            self._new_chunks.append(chunk)
            if chunk.origin:
                references[chunk.origin] += 1
            if chunk.shared_bytes:
                self._chunks_in_arenas[number] = chunk
            self._last_chunk = max(self._last_chunk, number)
        references[number] += 1
        key = (line.name, number)
        self._owed[key] = None
        self._changed_owed.add(key)
        self._line_counts[line.name].put += chunk.count
        self._changed_lines.add(line.name)
        if sender is not None:
            self._task_tallies[sender].sent += chunk.count
            self._changed_tasks.add(sender)
        self._changed = True
        return self.group_number

    def settle(self, line: Subscription, piece: ItemRange, task: str, outcome: str) -> None:
        """Note the end of items: `outcome` is "done", "dead" or "dropped"."""
        self._replace_range(line.name, piece, ())
        counts, tally = self._line_counts[line.name], self._task_tallies[task]
        setattr(counts, outcome, getattr(counts, outcome) + piece.count)
        setattr(tally, outcome, getattr(tally, outcome) + piece.count)
        if outcome == "done" and not line.carries_dead_letters:
            tally.taken += piece.count
        self._changed_lines.add(line.name)
        self._changed_tasks.add(task)

    def mark(self, line: Subscription, piece: ItemRange, task: str) -> None:
        """Note that items have been tried once more, in vain, or were executed when a worker died."""
        kept = ((piece.start, piece.count, piece.attempts, piece.crashes),)
        self._replace_range(line.name, piece, kept)
        self._changed_tasks.add(task)

    def _replace_range(self, line: str, piece: ItemRange, kept: tuple[OwedRange, ...]) -> None:
        """Put something else in the place of a piece, which is part of one range that is owed."""
        chunk, key = piece.chunk, (line, piece.chunk.number)
        ranges = whole_ranges(chunk, self._owed[key])
        at = bisect_right(ranges, piece.start, key=_range_start) - 1
        start, count, attempts, crashes = ranges[at]
        end, piece_end = start + count, piece.start + piece.count
        assert start <= piece.start < piece_end <= end, "an item range that is not owed"
        before = ((start, piece.start - start, attempts, crashes),) if piece.start > start else ()
        after = ((piece_end, end - piece_end, attempts, crashes),) if end > piece_end else ()
        ranges = (*ranges[:at], *before, *kept, *after, *ranges[at + 1 :])
        self._changed_owed.add(key)
        self._changed = True
        if ranges:
            self._owed[key] = ranges
        else:
            del self._owed[key]
            self._drop_reference(chunk.number, chunk)

    def made(self, task: str, worker: str, items: int, crc: int, checks: Mapping[int, int], keys: bytes = b"") -> None:
        """Note the items that a source has given, in the step in which they are put."""
        key = (task, worker)
        before = self.source_place(*key)
        keyed = before.keyed
        if keys:
            keyed += items
            self._keys[key] = self._keys.get(key, b"") + keys
        self._sources[key] = replace(
            before, made=before.made + items, crc=crc, checks={**before.checks, **checks}, keyed=keyed
        )
        self._changed_sources.add(key)
        self._task_tallies[task].read += items
        self._changed_tasks.add(task)
        self._changed = True

    def save_source_place(self, task: str, worker: str, saved: str, items: int, crc: int) -> None:
        """Note the place that a source has saved when it had given so many items."""
        before = self.source_place(task, worker)
        self._sources[task, worker] = replace(before, saved=saved, saved_items=items, saved_crc=crc)
        self._changed_sources.add((task, worker))
        self._changed = True

    def source_place(self, task: str, worker: str) -> SourcePlace:
        """Return how far a source's worker has come, in this life of the run and the earlier ones."""
        return self._sources.get((task, worker), SourcePlace())

    def save_place(self, task: str, worker: str, saved: str) -> None:
        """Note what a worker has saved, in the step in which its acks are applied."""
        self._saved_places[task, worker] = self._newly_saved[task, worker] = saved
        self._changed = True

    def saved_place(self, task: str, worker: str) -> str | None:
        """Return what a worker has saved last, in this life of the run or an earlier one; None for nothing."""
        return self._saved_places.get((task, worker))

    def ended(self, task: str, *, has_ended: bool = True) -> None:
        """Note that a task has ended well, or begins again."""
        self._ended_tasks[task] = has_ended
        self._changed = True

    def bury(self, given_up: GivenUp, task: str, preview: str) -> None:
        """Note a dead item that no queue takes, in the step in which it was settled; its chunk is kept."""
        piece = given_up.item_range
        self._references[piece.chunk.number] += 1
        dead = DeadItem(given_up.queue, piece.chunk.number, piece.start, task, given_up.evidence, preview)
        self._dead_items.append(dead)
        self._changed = True

    def _drop_reference(self, number: int, holder: Chunk) -> None:
        """Note one reference less to a chunk, whose payload `holder` holds."""
        self._references[number] -= 1
        if not self._references[number]:
            self._unreferenced[number] = holder

    def hand_over(self) -> JournalGroup | None:
        """Return what has changed since the last time, as a group to be written; None: nothing has."""
        if not self._changed:
            return None
        group = JournalGroup(
            number=self.group_number,
            last_chunk=self._last_chunk,
            chunks=self._new_chunks,
            owed={key: self._owed.get(key, ()) for key in self._changed_owed},
            removed_chunks=self._take_removed(),
            line_counts={name: _copied(self._line_counts[name]) for name in self._changed_lines},
            task_tallies={name: self._task_tally(name) for name in self._changed_tasks},
            sources={key: self._sources[key] for key in self._changed_sources},
            saved_places=self._newly_saved,
            ended_tasks=self._ended_tasks,
            dead_items=self._dead_items,
            keys=self._keys,
        )
        self._groups_under_way.append(group)
        self.group_number += 1
        self._changed = False
        self._new_chunks, self._ended_tasks, self._dead_items, self._newly_saved, self._keys = [], {}, [], {}, {}
        for changed in (self._changed_owed, self._changed_lines, self._changed_tasks, self._changed_sources):
            changed.clear()
        return group

    def _take_removed(self) -> dict[int, Chunk]:
        """Return the chunks to which nothing refers any more; a letter's own chunk refers to that of its item."""
        removed: dict[int, Chunk] = {}
        while self._unreferenced:
            number, holder = self._unreferenced.popitem()
            if self._references[number]:
                continue  # something refers to it again: its item is dead
            del self._references[number]
            removed[number] = self._chunks_in_arenas.pop(number, holder)
            if holder.origin and holder.number == number:
                self._drop_reference(holder.origin, holder)
        return removed

    def _task_tally(self, name: str) -> TaskTally:
        return replace(self._task_tallies[name], repeated=self._repeated_items.get(name, 0))

    def release(self, upto: int) -> None:
        """Let go of the groups up to this one: they are on disk."""
        while self._groups_under_way and self._groups_under_way[0].number <= upto:
            self._groups_under_way.popleft()


def _range_start(owed: OwedRange) -> int:
    return owed[0]


def _copied(counts: ItemCounts) -> ItemCounts:
    return ItemCounts(counts.put, counts.done, counts.dead, counts.dropped)
