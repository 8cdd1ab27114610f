"""Lanes in simulated runs: what fake items are of which lane and bucket, and an oracle that follows what is executed."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from runner.ledger.journal import whole_ranges
from runner.ledger.lanes import LanedSubscription

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fake_engine import FakeWorker

    from runner.ledger.journal import LedgerImage
    from runner.supervisor.loop import Supervisor
    from runner.supervisor.plan import Plan
    from runner.transport.messages import Grant
    from runner.worker.spec import OutputGroup

#: An item: the source's worker and a number, and then each task that it has come through.
Item = tuple[Any, ...]
#: Lanes of an item, some of which share a bucket; and hashes of these, of which two differ in the seventh bit only.
LANES, BUCKETS = 5, 3
_HASHES, _HASH_BITS = (0b0000000000, 0b0000001000, 0b1000000000), 10


def lane_of(item: Item) -> int:
    """The lane of an item: its number at its source, as it were a customer's."""
    return int(item[1]) % LANES


def bucket_of(item: Item, bits: int) -> int:
    """The number of its bucket, as messages have it: the first bits of a hash, behind a one."""
    return (1 << bits) | _HASHES[lane_of(item) % BUCKETS] >> (_HASH_BITS - bits)


def sort_outputs(group: OutputGroup, items: Iterable[Item]) -> dict[int, list[Item]]:
    """The items of each chunk that a fake worker sends into a group, by bucket."""
    found: dict[int, list[Item]] = defaultdict(list)
    for item in items:
        found[bucket_of(item, group.bucket_bits) if group.lane else 0].append(item)
    return found


def who_is(worker: FakeWorker) -> tuple[int, int]:
    """A worker's place, and which of its workers it is."""
    return worker.spec.slot, worker.life


class LaneWatch:
    """Follows what is executed of queues with lanes: where, by whom, and after what. It knows which queue a lease is of."""

    def __init__(self, made: Plan) -> None:
        self.made = made
        self.seed = 0
        self.supervisor: Supervisor
        #: By queue, group of readers and lane: what has not ended, in the order in which it came.
        self.waiting: dict[tuple[str, str, int], list[Item]] = defaultdict(list)
        #: By queue, group and bucket: the worker that executes something of it, and in which lease.
        self.running: dict[tuple[str, str, int], tuple[int, int, int]] = {}
        #: What a worker has done, and not said yet.
        self.unsaid: dict[tuple[int, int], set[Item]] = defaultdict(set)
        self.begun = 0
        #: How often an item has come into a queue; and queues with lanes that have a reader in common. Of an item that
        #: came twice into these nobody knows which one has ended.
        self.times: Counter[tuple[str, Item]] = Counter()
        inputs = [set(each.config.inputs) for each in made.tasks.values()]
        self.related = {name: set().union(*(each for each in inputs if name in each)) for name in made.queues}

    def group(self, queue: str, reader: str) -> str:
        return reader if self.made.queues[queue].fanout == "copy" else ""

    def _laned(self, task_name: str) -> list[tuple[str, str]]:
        inputs = self.made.tasks[task_name].config.inputs
        return [(queue, self.group(queue, task_name)) for queue in inputs if self.made.queues[queue].lane]

    def put(self, queue: str, items: Iterable[Item]) -> None:
        if not self.made.queues[queue].lane:
            return
        items = list(items)
        self.times.update((queue, item) for item in items)
        readers = [name for name, each in self.made.tasks.items() if queue in each.config.inputs]
        for group in dict.fromkeys(self.group(queue, reader) for reader in readers):
            for item in items:
                self.waiting[queue, group, lane_of(item)].append(item)

    def restore(self, image: LedgerImage) -> None:
        """Begin with what a ledger on disk is owed."""
        for number, chunk in image.chunks.items():
            for (line, owed), ranges in image.owed.items():
                queue, _, reader = line.partition("->")
                if owed == number and self.made.queues[queue].lane:
                    for start, count, *_ in whole_ranges(chunk, ranges):
                        for item in chunk.payload[start : start + count]:
                            self.times[queue, item] += 1
                            self.waiting[queue, reader, lane_of(item)].append(item)

    def begin(self, worker: FakeWorker, grant: Grant, at: int, items: list[Item]) -> None:
        """Check that these, which are `at` that place of the lease, may be executed now, in one batch."""
        if not self._laned(worker.spec.task):
            return
        lease = self.supervisor.ledger.leases.get(grant.lease)
        if lease is None:  # its worker is being killed
            return
        who = (*who_is(worker), grant.lease)
        for line, piece in lease.locate_ranges(at - lease.finished_items, len(items)):
            queue, group = line.queue, self.group(line.queue, worker.spec.task)
            if not self.made.queues[queue].lane:
                continue
            for item in piece.chunk.payload[piece.start : piece.start + piece.count]:
                self._begin_item(queue, group, item, who, items)

    def _begin_item(self, queue: str, group: str, item: Item, who: tuple[int, int, int], batch: list[Item]) -> None:
        where = (queue, group, lane_of(item) % BUCKETS)
        other = self.running.get(where)
        assert other in (None, who), f"seed {self.seed}: {who} executes {item} of {where} beside {other}"
        self.running[where] = who
        self.begun += 1
        came = self.waiting[queue, group, lane_of(item)]
        if item not in came or self._is_ambiguous(queue, item):
            return
        before = [each for each in came[: came.index(item)] if not self._is_ambiguous(queue, each)]
        late = [each for each in before if each not in self.unsaid[who[:2]] and each not in batch]
        assert not late, f"seed {self.seed}: {item} of `{queue}` is executed before {late}"

    def _is_ambiguous(self, queue: str, item: Item) -> bool:
        return sum(self.times[name, item] for name in self.related[queue]) > 1

    def end(self, worker: FakeWorker, grant: Grant, done: Iterable[Item]) -> None:
        """The worker executes nothing of this lease at this moment; some of it is done."""
        who = (*who_is(worker), grant.lease)
        self.running = {where: each for where, each in self.running.items() if each != who}
        self.unsaid[who_is(worker)].update(done)

    def die(self, worker: FakeWorker) -> None:
        self.running = {where: each for where, each in self.running.items() if each[:2] != who_is(worker)}
        self.unsaid.pop(who_is(worker), None)

    def over(self, worker: FakeWorker | None, task_name: str, items: Iterable[Item]) -> None:
        """These have ended for good."""
        for item in items:
            for queue, group in self._laned(task_name):
                came = self.waiting[queue, group, lane_of(item)] if item[0] != "letter" else []
                if item in came:
                    came.remove(item)
            if worker is not None:
                self.unsaid[who_is(worker)].discard(item)


def lanes_hold(supervisor: Supervisor) -> None:
    """What a line with lanes says of itself is what its pieces and the leases say."""
    lines = [line for line in supervisor.ledger.subscriptions if isinstance(line, LanedSubscription)]
    leased: defaultdict[tuple[str, int], int] = defaultdict(int)
    for lease in supervisor.ledger.leases.values():
        for line, piece in lease.item_ranges:
            if isinstance(line, LanedSubscription):
                leased[line.name, line.bucket_of(piece.chunk)] += piece.count
    for line in lines:
        if line.abandoned:
            continue
        asleep: defaultdict[int, int] = defaultdict(int)
        for *_, piece, _ in line.sleeping_ranges:
            asleep[line.bucket_of(piece.chunk)] += piece.count
        sleeping, free, ready, blocked = sum(asleep.values()), set(), 0, 0
        for number, bucket in line.buckets.items():
            held = sum([piece.count for piece in bucket.pieces]) if bucket.pieces else 0
            busy = leased.get((line.name, number), 0) + asleep.get(number, 0)
            assert (bucket.items, bucket.busy_items) == (held, busy), f"{line.name}, {number}: {bucket}"
            if busy:
                blocked += held
            elif held:
                free.add(number)
                ready += held
        unkept = sum([piece.count for _, piece in line.unkept_ranges])
        assert line.sleeping_items == blocked + unkept + sleeping, line.name
        assert {number for *_, number in line.turn} == free, line.name
        assert len(line.turn) == len(free), line.name
        assert line.count == blocked + unkept + sleeping + ready, line.name
