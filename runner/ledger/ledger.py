"""The ledger itself: lines of waiting items, leases on granted ones, and the one step that settles a lease."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any

from runner.ledger.balance import Flow, Headline, Tally, headline
from runner.ledger.leases import Again, Dead, GivenUp, Lease, Settlement, Verdict
from runner.ledger.ordering import Sequence
from runner.ledger.subscriptions import Chunk, Full, Line, Order, Piece
from runner.structs import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping


@dataclass(frozen=True, slots=True)
class LineSpec:
    """A queue as the ledger sees it: its bounds and who reads it. `letters`: it carries dead letters only."""

    queue: str
    readers: tuple[str, ...]
    size: int = 1000
    bytes: int = 64 * 1024 * 1024
    full: Full = "wait"
    order: Order = "fifo"
    copy: bool = False
    letters: bool = False
    elastic: bool = False


#: A piece on its way back, and the time before which it must not be granted.
_Returned = tuple[Line, Piece, "float | None"]


class Ledger:
    """All lines, leases and counts of one run.

    >>> book = Ledger([LineSpec("q", ("eat",))])
    >>> _ = book.put("q", [book.chunk(["a", "b"], 2, 2)], sender="bake")
    >>> lease = book.take("eat", worker=0, most=10)
    >>> _ = book.settle(lease.id, done=2, verdicts={}, outputs=[])
    >>> book.lines[0].tally.done
    2
    """

    def __init__(self, specs: Iterable[LineSpec], ordered: Iterable[str] = ()) -> None:
        self.lines: list[Line] = []
        self.by_queue: dict[str, list[Line]] = {}
        self.by_task: dict[str, list[Line]] = defaultdict(list)
        self.letters: set[str] = set()
        self.orders: dict[str, Sequence] = {task: Sequence() for task in ordered}
        for spec in specs:
            self._open(spec)
        self.leases: dict[int, Lease] = {}
        self.repeated: dict[str, int] = defaultdict(int)
        self.taken: dict[str, int] = defaultdict(int)
        self.sent: dict[str, int] = defaultdict(int)
        self.read: dict[str, int] = defaultdict(int)
        self.tallies: dict[str, Tally] = defaultdict(Tally)
        self.leased: dict[str, int] = defaultdict(int)
        self._chunks = count(1)
        self._leases = count(1)
        #: Whether any item may be asleep.
        self._sleepers = False

    def _open(self, spec: LineSpec) -> None:
        groups = [(reader,) for reader in spec.readers] if spec.copy else [spec.readers]
        lines = [
            Line(
                name=f"{spec.queue}->{group[0]}" if spec.copy else spec.queue,
                queue=spec.queue,
                readers=group,
                size=spec.size,
                bytes=spec.bytes,
                full=spec.full,
                order=spec.order,
                keeps=any(reader in self.orders for reader in group),
                least_size=spec.size if spec.elastic else None,
            )
            for group in groups
        ]
        self.lines.extend(lines)
        self.by_queue[spec.queue] = lines
        for line in lines:
            for reader in line.readers:
                self.by_task[reader].append(line)
        if spec.letters:
            self.letters.add(spec.queue)

    # -- coming in -----------------------------------------------------------------------------

    def chunk(self, payload: Any, count_: int, size: int, priorities: tuple[float, ...] = (), lying: int = 0) -> Chunk:
        """Number a new chunk."""
        return Chunk(next(self._chunks), payload, count_, size, priorities, lying)

    def put(self, queue: str, chunks: Iterable[Chunk], sender: str | None = None) -> None:
        """Take chunks into every line of a queue; `sender` is the task they are counted for."""
        for line in self.by_queue[queue]:
            for chunk in chunks:
                line.admit(chunk)
                if sender is not None:
                    self.sent[sender] += chunk.count

    def room(self, queues: Iterable[str]) -> int:
        """Items that all these queues can still take; 0 means that their writers wait."""
        return min((self.room_in(queue) for queue in queues), default=1 << 60)

    def room_in(self, queue: str) -> int:
        """Items that this queue can still take, whatever its readers."""
        least = 1 << 60
        for line in self.by_queue[queue]:
            # A queue that drops never makes its writers wait, nor does one whose readers are gone.
            if line.full == "wait" and not line.abandoned:
                least = min(least, line.room())
        return least

    def bound(self, queue: str) -> int:
        """Items that this queue may hold, as far as its writers wait for it."""
        return min(
            [line.size for line in self.by_queue[queue] if line.full == "wait" and not line.abandoned], default=0
        )

    def stretch(self, task: str, items: int) -> None:
        """The task's elastic lines may hold so many items, if that is more than they hold in any case."""
        for line in self.by_task[task]:
            if line.least_size is not None:
                line.size = max(line.least_size, items)

    def abandon(self, task: str, over: Container[str]) -> None:
        """The task reads no more, and sends what its order held back. Lines whose readers are all `over` are left."""
        if task in self.orders:
            self._send(task, self.orders[task].drain(), Settlement())
        for line in self.by_task[task]:
            line.leave(task, over)

    # -- going out -----------------------------------------------------------------------------

    def take(
        self,
        task: str,
        worker: int,
        most: int,
        most_bytes: int = 1 << 60,
        least: int = 1,
        light: int = 1,
        together: int = 1,
    ) -> Lease | None:
        """Grant up to `most` items to a worker, or nothing when fewer than `least` are available.

        `most_bytes` bounds what is granted beyond `together` items: a batch is not parted for its bytes.
        Marked pieces (an item that failed before) come alone and ignore `least`.
        """
        lines = self.by_task[task]
        pieces: list[tuple[Line, Piece]] = []
        taken = 0
        for line in self._turn(task, lines, least):
            for piece in line.take(task, most - taken, most_bytes, light, together - taken, joining=bool(pieces)):
                pieces.append((line, piece))
                taken += piece.count
                if len(lines) > 1:
                    most_bytes -= piece.weight(light)
            if taken >= most or (pieces and pieces[-1][1].single):
                break
        if not pieces:
            return None
        entry = None
        if (order := self.orders.get(task)) is not None:
            entry = pieces[0][1].entry or order.append()
        lease = Lease(next(self._leases), task, worker, pieces, taken, entry)
        self.leases[lease.id] = lease
        self.leased[task] += taken
        return lease

    @staticmethod
    def _turn(task: str, lines: list[Line], least: int) -> list[Line]:
        if least > 1 and not any((piece := line.next(task)) is not None and piece.single for line in lines):
            available = sum(line.available(task) for line in lines)
            if available < least:
                return []
        if len(lines) == 1:
            return lines
        # What was begun first, then the fullest: a task with several inputs empties what makes others wait.
        return sorted(
            (line for line in lines if line.available(task)),
            key=lambda line: (task not in line.kept, -line.available(task)),
        )

    def returned_first(self, task: str) -> bool:
        """Whether what would be granted next is what the order of the task waits for."""
        return task in self.orders and any(task in line.kept for line in self.by_task[task])

    def suspect_first(self, task: str) -> bool:
        """Whether workers have died over what would be granted next."""
        return any((piece := line.next(task)) is not None and piece.crashes for line in self.by_task[task])

    def available(self, task: str) -> int:
        """Items that could be granted to this task now."""
        total = 0
        for line in self.by_task[task]:
            total += line.available(task) if line.kept else line.count - line.asleep
        return total

    def queued(self, task: str) -> int:
        """Items that wait for this task, those included that sleep before a retry."""
        return sum([line.count for line in self.by_task[task]])

    def busy(self, task: str) -> bool:
        """Whether this task has items, queued or in the hands of its workers."""
        return self.leased[task] > 0 or self.queued(task) > 0

    def wake(self, now: float) -> None:
        """Let the items whose time has come be granted again."""
        for line in self.lines:
            if line.sleeping:
                line.wake(now)
        self._sleepers = any(line.sleeping for line in self.lines)

    def next_waking(self) -> float | None:
        """When the next sleeping item wakes."""
        if not self._sleepers:
            return None
        return min((when for line in self.lines if (when := line.next_waking()) is not None), default=None)

    # -- settling ------------------------------------------------------------------------------

    def settle(
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
        again = self._judge(lease, done, verdicts, result)
        if more:
            self.leased[lease.task] -= done
            lease.shorten(done)
        else:
            del self.leases[lease_id]
            self.leased[lease.task] -= lease.count
            if done < lease.count:
                again += [(line, piece, None) for line, piece in lease.locate(done, lease.count - done)]
        if again:
            self._give_back(lease, again)
        self._send(lease.task, self._in_order(lease, list(outputs)), result)
        return result

    def _judge(self, lease: Lease, done: int, verdicts: Mapping[int, Verdict], result: Settlement) -> list[_Returned]:
        again: list[_Returned] = []
        at = 0
        for index in sorted(verdicts):
            verdict = verdicts[index]
            self._done(lease, at, index - at)
            at = index + verdict.count
            for line, piece in lease.locate(index, verdict.count):
                again += self._apply(lease.task, line, piece, verdict, result)
        self._done(lease, at, done - at)
        return again

    def _apply(self, task: str, line: Line, piece: Piece, verdict: Verdict, result: Settlement) -> list[_Returned]:
        """What becomes of a piece that failed; returned when it is given again."""
        if isinstance(verdict, Again):
            self.repeated[task] += piece.count
            return [(line, replace(piece, attempts=piece.attempts + 1), verdict.until)]
        if isinstance(verdict, Dead):
            self._give_up(task, line, piece, verdict.evidence, result)
        else:
            self._over(line, piece, "dropped")
            self.tallies[task].dropped += piece.count
        return []

    def _give_up(self, task: str, line: Line, piece: Piece, evidence: Any, result: Settlement) -> None:
        self._over(line, piece, "dead")
        self.tallies[task].dead += piece.count
        result.dead += [GivenUp(line.queue, piece.part(index, 1), evidence) for index in range(piece.count)]

    def _done(self, lease: Lease, start: int, length: int) -> None:
        for line, piece in lease.locate(start, length):
            self._over(line, piece, "done")
            self.tallies[lease.task].done += piece.count
            if line.queue not in self.letters:
                self.taken[lease.task] += piece.count

    @staticmethod
    def _over(line: Line, piece: Piece, how: str) -> None:
        line.leased -= piece.count
        setattr(line.tally, how, getattr(line.tally, how) + piece.count)

    def _give_back(self, lease: Lease, again: list[_Returned]) -> None:
        if (entry := lease.entry) is not None:
            kept: list[_Returned] = []
            for line, piece, until in sorted(again, key=lambda each: self._position(lease, each[1])):
                entry = entry.behind()
                kept.append((line, replace(piece, entry=entry), until))
            again = kept
        for line, piece, until in again:
            if until is None:
                line.give_back(piece, lease.task)
            else:
                line.sleep(piece, until, lease.task)
                self._sleepers = True

    @staticmethod
    def _position(lease: Lease, piece: Piece) -> tuple[int, int]:
        for at, (_, held) in enumerate(lease.pieces):
            if held.chunk is piece.chunk and held.start <= piece.start < held.start + held.count:
                return at, piece.start
        raise AssertionError("a piece that is not of this lease")

    def _in_order(self, lease: Lease, outputs: list[tuple[str, Chunk]]) -> list[tuple[str, Chunk]]:
        return outputs if lease.entry is None else lease.entry.of.settle(lease.entry, outputs)

    def _send(self, task: str, outputs: list[tuple[str, Chunk]], result: Settlement) -> None:
        for queue, chunk in outputs:
            self.put(queue, [chunk], sender=task)
            result.fed.add(queue)

    def release(self, lease_id: int) -> None:
        """Take a lease back whose items were never started: they go where they were, unmarked."""
        self.settle(lease_id, 0, {}, [])

    def lost(
        self, lease_id: int, suspects: range, finished: int, judge: Callable[[Piece], Verdict | None]
    ) -> Settlement | None:
        """The lease's worker is gone; it executed the items of `suspects` (indices in the lease) at that moment.

        `judge` says what becomes of each of them; None: it gets a crash, and is given again alone. The others go
        back unmarked. The `finished` items before the suspects, done but not yet answered, are executed again too,
        and counted. None: the lease was not open.
        """
        lease = self.leases.pop(lease_id, None)
        if lease is None:
            return None
        self.leased[lease.task] -= lease.count
        self.repeated[lease.task] += finished
        result = Settlement()
        again: list[_Returned] = [(line, piece, None) for line, piece in lease.locate(0, suspects.start)]
        for index in suspects:
            for line, piece in lease.locate(index, 1):
                verdict = judge(piece)
                if verdict is None:
                    self.repeated[lease.task] += 1
                    again.append((line, replace(piece, crashes=piece.crashes + 1, alone=True), None))
                else:
                    again += self._apply(lease.task, line, piece, verdict, result)
        rest = lease.locate(suspects.stop, lease.count - suspects.stop)
        again += [(line, piece, None) for line, piece in rest]
        self._give_back(lease, again)
        self._send(lease.task, self._in_order(lease, []), result)
        return result

    # -- the end -------------------------------------------------------------------------------

    def source_sent(self, task: str, count_: int) -> None:
        """A source has yielded so many items."""
        self.read[task] += count_

    def count_left(self) -> None:
        """Count what is still queued, leased or held back as left. Call once, when nothing runs any more."""
        for lease_id in list(self.leases):
            self.release(lease_id)
        for task, order in self.orders.items():
            self._send(task, order.drain(), Settlement())
        for line in self.lines:
            line.tally.left += line.count

    def unbalanced(self) -> list[Line]:
        """The lines whose balance does not hold; always empty unless runner itself is wrong."""
        return [line for line in self.lines if line.tally.missing]

    def headline(self) -> Headline:
        """The balance of the run; call `count_left` first."""
        tasks = {*self.taken, *self.sent, *self.read}
        flows = [Flow(self.taken[task], self.sent[task], self.read[task]) for task in tasks]
        tallies = [line.tally for line in self.lines if line.queue not in self.letters]
        return headline(flows, tallies, sum(self.repeated.values()))
