"""The ledger itself: lines of waiting items, leases on granted ones, and the one step that settles a lease."""

from __future__ import annotations

from collections import defaultdict
from itertools import count
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from runner.ledger.balance import Balance, ItemCounts
from runner.ledger.chunks import Chunk, ReleaseOrder
from runner.ledger.leases import Again, Dead, GivenUp, Lease, Settlement, TakenBack, Verdict
from runner.ledger.subscriptions import ItemRange, Subscription, queue_of_line

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping

    from runner.ledger.journal import Journal


#: The sender of items that were dead in an earlier run, and the task of those that a queue, or a user, has dropped.
NO_TASK = ""
#: A piece on its way back, and the time before which it must not be granted.
_Returned = tuple[Subscription, ItemRange, "float | None"]


class Ledger:
    """All lines, leases and counts of one run.

    >>> book = Ledger([Subscription("q", ("eat",))])
    >>> _ = book.put("q", [book.make_chunk(["a", "b"], 2, 2)], sender="bake")
    >>> lease = book.grant_lease("eat", worker=0, most=10)
    >>> _ = book.settle_lease(lease.id, done=2, verdicts={}, outputs=[])
    >>> book.subscriptions[0].counts.done
    2
    """

    def __init__(self, subscriptions: Iterable[Subscription], ordered: Iterable[str] = ()) -> None:
        self.subscriptions = list(subscriptions)
        self.subscriptions_by_queue: dict[str, list[Subscription]] = defaultdict(list)
        self.subscriptions_by_task: dict[str, list[Subscription]] = defaultdict(list)
        self.dead_letter_queues = {line.queue for line in self.subscriptions if line.carries_dead_letters}
        self.release_orders: dict[str, ReleaseOrder] = {task: ReleaseOrder() for task in ordered}
        for line in self.subscriptions:
            line.keeps_returned = any(reader in self.release_orders for reader in line.readers)
            self.subscriptions_by_queue[line.queue].append(line)
            for reader in line.readers:
                self.subscriptions_by_task[reader].append(line)
        self.leases: dict[int, Lease] = {}
        self.repeated_items: dict[str, int] = defaultdict(int)
        self.taken_items: dict[str, int] = defaultdict(int)
        self.sent_items: dict[str, int] = defaultdict(int)
        self.source_items: dict[str, int] = defaultdict(int)
        self.task_counts: dict[str, ItemCounts] = defaultdict(ItemCounts)
        self.leased_items: dict[str, int] = defaultdict(int)
        self._chunks = count(1)
        self._leases = count(1)
        #: Of a durable run (`restore.restore_ledger`). The lines that its file no longer has, all of whose items are
        #: over, and queues whose items were letters.
        self.journal: Journal | None = None
        self.former_counts: dict[str, ItemCounts] = {}
        self.former_letter_queues: set[str] = set()
        #: Of a durable run: what ordered tasks had done, and had to be given back because its results cannot leave.
        self.taken_back: list[TakenBack] = []
        #: Of a durable run: one lease at a time is granted, because an item waits over which everything has died twice.
        self.isolates = False
        #: Items that queues with `full = "drop-..."` have dropped, in this life of the run.
        self.dropped_by_queue: dict[str, int] = defaultdict(int)
        #: Whether any item may be asleep.
        self._sleepers = False

    def make_chunk(
        self, payload: Any, items: int, size: int, shared: int = 0, origin: int = 0, rank: float = 0.0, bucket: int = 0
    ) -> Chunk:
        """Number a new chunk, of whose bytes so many are `shared`."""
        return Chunk(next(self._chunks), payload, items, size, shared, origin, rank, bucket)

    def number_chunks_from(self, number: int) -> None:
        """Number chunks from here on: smaller numbers are those of an earlier life of the run."""
        self._chunks = count(number)

    def put(self, queue: str, chunks: Iterable[Chunk], sender: str | None = None) -> None:
        """Take chunks into every line of a queue; `sender` is the task they are counted for."""
        journal = self.journal
        for line in self.subscriptions_by_queue[queue]:
            for chunk in chunks:
                if sender is not None:
                    self.sent_items[sender] += chunk.count
                for piece in line.admit_chunk(chunk, None if journal is None else journal.put(line, chunk, sender)):
                    self.dropped_by_queue[line.queue] += piece.count
                    if journal is not None:
                        journal.settle(line, piece, NO_TASK, "dropped")

    def put_retried(self, queue: str, reader: str, chunk: Chunk) -> str:
        """Take a chunk of an earlier run into the one line it comes from, and return that line's name.

        It counts as read, like what sources make.
        """
        line = next(line for line in self.subscriptions_by_task[reader] if line.queue == queue)
        line.admit_chunk(chunk)
        if queue not in self.dead_letter_queues:
            self.sent_items[NO_TASK] += chunk.count
            self.source_items[NO_TASK] += chunk.count
        return line.name

    def count_produced(
        self, task: str, worker: str, items: int, crc: int, checks: Mapping[int, int], keys: bytes = b""
    ) -> None:
        """Count a source's items, whose chunks are put in the same step; see `journal.SourcePlace`."""
        self.source_items[task] += items
        if self.journal is not None:
            self.journal.made(task, worker, items, crc, checks, keys)

    def wake_kept(self, upto: int) -> list[str]:
        """Let the items be granted that have come with the groups up to this one, which are on disk; return queues."""
        assert self.journal is not None
        self.journal.release(upto)
        return [line.queue for line in self.subscriptions if line.wake_kept(upto)]

    def waits_for_disk(self, task: str) -> bool:
        """Return True if items for this task are not on disk yet."""
        return any(line.unkept_ranges for line in self.subscriptions_by_task[task])

    def free_room_in(self, queue: str) -> int:
        """Return how many items this queue can still take, whatever its readers; 0 means that its writers wait."""
        # A queue whose readers are gone never makes its writers wait.
        least = 1 << 60
        for line in self.subscriptions_by_queue[queue]:
            if not line.abandoned:
                least = min(least, line.free_room())
        return least

    def size_bound(self, queue: str) -> int:
        """Return how many items this queue may hold, as far as its writers wait for it."""
        return min([line.size for line in self.subscriptions_by_queue[queue] if not line.abandoned], default=0)

    def set_elastic_size(self, task: str, items: int) -> None:
        """Let the task's elastic lines hold `items`, if that is more than they hold in any case."""
        for line in self.subscriptions_by_task[task]:
            if line.is_elastic:
                line.size = max(line.min_size, items)

    def remove_reader(self, task: str, over: Container[str]) -> None:
        """Remove a task that reads no more; send what its order held back, leave lines whose readers are all `over`."""
        self._end_order(task)
        for line in self.subscriptions_by_task[task]:
            line.remove_reader(task, over)

    def _end_order(self, task: str) -> None:
        """Send what the order of a task held back, if it has one; in a durable run, take back what it had done.

        There it is owed, and is executed again when the run goes on: results that left now would be out of order.
        """
        if (order := self.release_orders.get(task)) is None:
            return
        outputs = order.release_outputs(settled_only=False)
        if self.journal is None:
            self._send(task, outputs)
            return
        done = 0
        for line, piece in order.take_left_ranges():
            line.take_back(piece, task)
            done += piece.count
            if not line.carries_dead_letters:
                self.taken_items[task] -= piece.count
        self.task_counts[task].done -= done
        self.taken_back.append(TakenBack(task, done, [(queue, chunk.count) for queue, chunk in outputs]))

    def grant_lease(
        self,
        task: str,
        worker: int,
        most: int,
        most_bytes: int = 1 << 60,
        least: int = 1,
        shared_discount: int = 1,
        together: int = 1,
    ) -> Lease | None:
        """Grant up to `most` items to a worker, or nothing when fewer than `least` are available.

        `most_bytes` bounds what is granted beyond `together` items: a batch is not parted for its bytes.
        Marked pieces (an item that failed before) come alone and ignore `least`.
        """
        if self.isolates and self.leases:
            return None
        lines = self.subscriptions_by_task[task]
        pieces: list[tuple[Subscription, ItemRange]] = []
        taken = 0
        for line in lines if len(lines) == 1 and least <= 1 else self._turn(task, lines, least):
            for piece in line.take_ranges(
                task, most - taken, most_bytes, shared_discount, together - taken, joining=bool(pieces)
            ):
                pieces.append((line, piece))
                taken += piece.count
                if len(lines) > 1:
                    most_bytes -= piece.weighted_bytes(shared_discount)
            if taken >= most or (pieces and pieces[-1][1].must_be_alone):
                break
        if not pieces:
            return None
        entry = None
        if (order := self.release_orders.get(task)) is not None:
            entry = pieces[0][1].order_entry or order.append_entry()
        lease = Lease(next(self._leases), task, worker, pieces, taken, entry)
        self.leases[lease.id] = lease
        self.leased_items[task] += taken
        return lease

    def lease_lost_items(self, task: str, worker: int, crashes: int) -> Lease | None:
        """Lease the items that have so many crashes from earlier lives: the last of these is still to be judged."""
        pieces: list[tuple[Subscription, ItemRange]] = []
        for line in self.subscriptions_by_task[task]:
            pieces += [(line, replace(piece, crashes=crashes - 1)) for piece in line.take_crashed(crashes)]
        if not pieces:
            return None
        entry = self.release_orders[task].append_entry() if task in self.release_orders else None
        lease = Lease(next(self._leases), task, worker, pieces, len(pieces), entry)
        self.leases[lease.id] = lease
        self.leased_items[task] += lease.count
        return lease

    def has_crashed(self, crashes: int) -> bool:
        """Return True if anything that waits has so many crashes."""
        return any(line.has_crashed(crashes) for line in self.subscriptions)

    def pass_item(self, line: Subscription, payload: Any, size: int, sender: str, task: str, worker: int) -> Lease:
        """Grant one new item of `sender` at once: `make_chunk`, `put` and `grant_lease`, for a line that is empty.

        >>> lines = [Subscription("q", ("eat",)) for _ in range(2)]
        >>> one, other = map(Ledger, zip(lines))
        >>> lease = one.pass_item(lines[0], b"a", 1, "bake", "eat", 0)
        >>> other.put("q", [other.make_chunk(b"a", 1, 1)], "bake")
        >>> lease == other.grant_lease("eat", 0, 1), lines[0] == lines[1]
        (True, True)
        """
        line.counts.put += 1
        line.last_ticket += 1
        line.leased_items += 1
        self.sent_items[sender] += 1
        piece = ItemRange(Chunk(next(self._chunks), payload, 1, size), 0, 1, ticket=line.last_ticket)
        lease = Lease(next(self._leases), task, worker, [(line, piece)], 1)
        self.leases[lease.id] = lease
        self.leased_items[task] += 1
        return lease

    def _turn(self, task: str, lines: list[Subscription], least: int) -> list[Subscription]:
        if least > 1 and self.available_items(task) < least:
            upcoming = [line.next_range(task) for line in lines]
            if not any(piece is not None and piece.must_be_alone for piece in upcoming):
                return []
        if len(lines) == 1:
            return lines
        # What was begun first, then the fullest: a task with several inputs empties what makes others wait.
        return sorted(
            (line for line in lines if line.available_items(task)),
            key=lambda line: (task not in line.kept_for_task, -line.available_items(task)),
        )

    def returned_first(self, task: str) -> bool:
        """Return True if what would be granted next is what the order of the task waits for."""
        return task in self.release_orders and any(
            task in line.kept_for_task for line in self.subscriptions_by_task[task]
        )

    def suspect_first(self, task: str) -> bool:
        """Return True if workers have died over what would be granted next."""
        for line in self.subscriptions_by_task[task]:  # asked for each item of an async task: no generator
            piece = line.next_range(task)
            if piece is not None and piece.crashes:
                return True
        return False

    def available_items(self, task: str) -> int:
        """Return how many items could be granted to this task now."""
        available = 0
        for line in self.subscriptions_by_task[task]:
            available += line.count - line.sleeping_items
            if line.kept_for_task:
                available -= line.items_kept_for_others(task)
        return available

    def queued_items(self, task: str) -> int:
        """Return how many items wait for this task, those included that sleep before a retry."""
        return sum([line.count for line in self.subscriptions_by_task[task]])

    def has_items(self, task: str) -> bool:
        """Return True if this task has items, queued or in the hands of its workers."""
        return self.leased_items[task] > 0 or self.queued_items(task) > 0

    def wake_sleepers(self, now: float) -> None:
        """Let the items whose time has come be granted again."""
        for line in self.subscriptions:
            if line.sleeping_ranges:
                line.wake_sleepers(now)
        self._sleepers = any(line.sleeping_ranges for line in self.subscriptions)

    def next_waking(self) -> float | None:
        """Return when the next sleeping item wakes."""
        if not self._sleepers:
            return None
        return min((line.sleeping_ranges[0][0] for line in self.subscriptions if line.sleeping_ranges), default=None)

    def settle_lease(
        self,
        lease_id: int,
        done: int,
        verdicts: Mapping[int, Verdict],
        outputs: Iterable[tuple[str, Chunk]],
        *,
        more: bool = False,
    ) -> Settlement | None:
        """Apply a worker's answer in one step: its first `done` items are over, the rest goes back unmarked.

        `verdicts` says what becomes of those among the first `done` that failed, by index. None: the lease is
        no longer open (its worker was given up), and nothing of the answer counts. With `more` the worker keeps the
        rest, and goes on with it (not in an ordered task).
        """
        lease = self.leases.get(lease_id)
        if lease is None:
            return None
        result = Settlement()
        again: list[_Returned] = []
        if verdicts:
            again = self._judge(lease, done, verdicts, result)
        else:
            self._done(lease, 0, done)
        if more:
            self.leased_items[lease.task] -= done
            lease.drop_finished(done)
        else:
            del self.leases[lease_id]
            self.leased_items[lease.task] -= lease.count
            if done < lease.count:
                again += [(line, piece, None) for line, piece in lease.locate_ranges(done, lease.count - done)]
        if again:
            self._give_back(lease, again)
        sent = list(outputs)
        if lease.order_entry is not None:
            sent = self._settle_entry(lease, sent)
        if sent:
            result.fed_queues = self._send(lease.task, sent)
        return result

    def _settle_entry(self, lease: Lease, outputs: list[tuple[str, Chunk]]) -> list[tuple[str, Chunk]]:
        """Settle the entry of an ordered task's lease; return what may leave now."""
        entry = lease.order_entry
        assert entry is not None
        leaving = entry.release_order.settle_entry(entry, outputs)
        if self.journal is not None:
            for line, piece in entry.release_order.take_left_ranges():
                self.journal.settle(line, piece, lease.task, "done")
        return leaving

    def _judge(self, lease: Lease, done: int, verdicts: Mapping[int, Verdict], result: Settlement) -> list[_Returned]:
        again: list[_Returned] = []
        at = 0
        for index in sorted(verdicts):
            verdict = verdicts[index]
            self._done(lease, at, index - at)
            at = index + verdict.count
            for line, piece in lease.locate_ranges(index, verdict.count):
                again += self._apply(lease.task, line, piece, verdict, result)
        self._done(lease, at, done - at)
        return again

    def _apply(
        self, task: str, line: Subscription, piece: ItemRange, verdict: Verdict, result: Settlement
    ) -> list[_Returned]:
        """Carry out the verdict on a piece that failed; return the piece when it is given again."""
        if isinstance(verdict, Again):
            self.repeated_items[task] += piece.count
            again = replace(piece, attempts=piece.attempts + 1)
            if self.journal is not None:
                self.journal.mark(line, again, task)
            return [(line, again, verdict.until)]
        if self.journal is not None:  # also of an ordered task: such an item makes nothing that could wait
            self.journal.settle(line, piece, task, "dead" if isinstance(verdict, Dead) else "dropped")
        line.end_items(piece)
        for counts in (line.counts, self.task_counts[task]):
            if isinstance(verdict, Dead):
                counts.dead += piece.count
            else:
                counts.dropped += piece.count
        if isinstance(verdict, Dead):
            items = (piece.sub_range(index, 1) for index in range(piece.count))
            result.dead_items += [GivenUp(line.queue, item, verdict.evidence) for item in items]
        return []

    def _done(self, lease: Lease, start: int, length: int) -> None:
        whole = not start and length == lease.count
        for line, piece in lease.item_ranges if whole else lease.locate_ranges(start, length):
            line.end_items(piece)
            line.counts.done += piece.count
            self.task_counts[lease.task].done += piece.count
            if line.queue not in self.dead_letter_queues:
                self.taken_items[lease.task] += piece.count
            if self.journal is not None:
                if lease.order_entry is None:
                    self.journal.settle(line, piece, lease.task, "done")
                else:
                    lease.order_entry.acked_ranges.append((line, piece))

    def _give_back(self, lease: Lease, again: list[_Returned]) -> None:
        if (entry := lease.order_entry) is not None:
            kept: list[_Returned] = []
            for line, piece, until in sorted(again, key=lambda each: self._position(lease, each[1])):
                entry = entry.insert_behind()
                kept.append((line, replace(piece, order_entry=entry), until))
            again = kept
        for line, piece, until in again:
            line.give_back(piece, lease.task, until)
            self._sleepers = self._sleepers or until is not None

    @staticmethod
    def _position(lease: Lease, piece: ItemRange) -> tuple[int, int]:
        for at, (_, held) in enumerate(lease.item_ranges):
            if held.chunk is piece.chunk and held.start <= piece.start < held.start + held.count:
                return at, piece.start
        raise AssertionError("an item range that does not belong to this lease")

    def _send(self, task: str, outputs: list[tuple[str, Chunk]]) -> set[str]:
        fed = set()
        for queue, chunk in outputs:
            self.put(queue, [chunk], sender=task)
            fed.add(queue)
        return fed

    def release_lease(self, lease_id: int) -> None:
        """Take a lease back whose items were never started: they go where they were, unmarked."""
        self.settle_lease(lease_id, 0, {}, [])

    def settle_lost_lease(
        self, lease_id: int, suspects: range, finished: int, judge: Callable[[ItemRange], Verdict | None]
    ) -> Settlement | None:
        """Settle a lease whose worker died while it executed the items of `suspects` (indices in the lease).

        `judge` says what becomes of each of them; None: it gets a crash, and is given again alone. The others go
        back unmarked. The `finished` items before the suspects, done but not yet answered, are executed again too,
        and counted. None: the lease was not open.
        """
        lease = self.leases.pop(lease_id, None)
        if lease is None:
            return None
        self.leased_items[lease.task] -= lease.count
        self.repeated_items[lease.task] += finished
        result = Settlement()
        again: list[_Returned] = [(line, piece, None) for line, piece in lease.locate_ranges(0, suspects.start)]
        for index in suspects:
            for line, piece in lease.locate_ranges(index, 1):
                verdict = judge(piece)
                if verdict is None:
                    self.repeated_items[lease.task] += 1
                    suspect = replace(piece, crashes=piece.crashes + 1, granted_alone=True)
                    if self.journal is not None:
                        self.journal.mark(line, suspect, lease.task)
                    again.append((line, suspect, None))
                else:
                    again += self._apply(lease.task, line, piece, verdict, result)
        rest = lease.locate_ranges(suspects.stop, lease.count - suspects.stop)
        again += [(line, piece, None) for line, piece in rest]
        self._give_back(lease, again)
        if lease.order_entry is not None:
            result.fed_queues = self._send(lease.task, self._settle_entry(lease, []))
        return result

    def count_left(self) -> None:
        """Count what is still queued, leased or held back as left. Call once, when nothing runs any more."""
        for lease_id in list(self.leases):
            self.release_lease(lease_id)
        for task in self.release_orders:
            self._end_order(task)
        for line in self.subscriptions:
            line.counts.left += line.count

    def compute_run_balance(self) -> Balance:
        """Return the balance of the run; call `count_left` first.

        A source's items are read; what any task sent beyond what it took (or read) was made; what it took beyond what
        it sent has come to its end there. A dead letter was counted where its item died.
        """
        made = done = 0
        for task in {*self.taken_items, *self.sent_items, *self.source_items}:
            surplus = self.sent_items[task] - self.taken_items[task] - self.source_items[task]
            made += max(0, surplus)
            done += max(0, -surplus)
        counts = [line.counts for line in self.subscriptions if line.queue not in self.dead_letter_queues]
        counts += [
            each for line, each in self.former_counts.items() if queue_of_line(line) not in self.former_letter_queues
        ]
        return Balance(
            read=sum(self.source_items.values()),
            made=made,
            done=done,
            dead=sum(each.dead for each in counts),
            dropped=sum(each.dropped for each in counts),
            left=sum(each.left for each in counts),
            repeated=sum(self.repeated_items.values()),
        )
