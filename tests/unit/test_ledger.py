"""The ledger against a model: whatever is done to it, every item is in exactly one place and leaves once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from runner.ledger.leases import Again, Dead, Dropped
from runner.ledger.ledger import Ledger
from runner.ledger.subscriptions import Subscription

if TYPE_CHECKING:
    from collections.abc import Callable

    from runner.ledger.subscriptions import ItemRange


def dead_after(deaths: int) -> Callable[[ItemRange], Dead | None]:
    """A judge to whom an item is dead after so many deaths over it."""
    return lambda piece: Dead() if piece.crashes + 1 >= deaths else None


class LedgerMachine(RuleBasedStateMachine):
    """Two queues into one task (ordered or not), whose outputs go to a third queue with a sink."""

    ordered = False

    def __init__(self) -> None:
        super().__init__()
        self.book = Ledger(
            [Subscription("a", ("work",)), Subscription("b", ("work",)), Subscription("out", ("sink",))],
            ["work"] if self.ordered else [],
        )
        self.serial = 0
        self.put: list[int] = []
        self.open: list[int] = []
        self.done: list[int] = []
        self.sent: list[int] = []
        self.dead: list[int] = []
        self.dropped: list[int] = []
        self.now = 0.0

    def items(self, lease_id: int) -> list[int]:
        lease = self.book.leases[lease_id]
        return [piece.chunk.payload[piece.start + at] for _, piece in lease.item_ranges for at in range(piece.count)]

    @rule(queue=st.sampled_from("ab"), count=st.integers(1, 9))
    def a_source_puts(self, queue: str, count: int) -> None:
        payload = list(range(self.serial, self.serial + count))
        self.serial += count
        self.put += payload
        self.book.put(queue, [self.book.make_chunk(payload, count, 7 * count)], sender="source")
        self.book.source_items["source"] += count

    @rule(most=st.integers(1, 12), least=st.integers(1, 3))
    def take(self, most: int, least: int) -> None:
        lease = self.book.grant_lease("work", 0, most, least=least)
        if lease is not None:
            assert lease.count > 0
            self.open.append(lease.id)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        lease_id = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        items = self.items(lease_id)
        done = data.draw(st.integers(0, len(items)))
        failing = data.draw(st.sets(st.integers(0, done - 1), max_size=3)) if done else set()
        if self.ordered and failing:
            failing = {min(failing)}
            done = min(failing) + 1
        verdicts = {}
        for index in failing:
            verdicts[index] = data.draw(st.sampled_from([Again(self.now + 1), Dead("why"), Dropped()]))
            if isinstance(verdicts[index], Dead):
                self.dead.append(items[index])
            elif isinstance(verdicts[index], Dropped):
                self.dropped.append(items[index])
        results = [items[index] for index in range(done) if index not in failing]
        self.done += results
        self.sent += results
        outputs = [("out", self.book.make_chunk(results, len(results), len(results)))] if results else []
        settlement = self.book.settle_lease(lease_id, done, verdicts, outputs)
        assert settlement is not None
        assert len(settlement.dead_items) == sum(isinstance(each, Dead) for each in verdicts.values())
        assert self.book.settle_lease(lease_id, done, {}, outputs) is None, "a second answer must not count"

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        lease_id = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        items = self.items(lease_id)
        at = data.draw(st.integers(0, len(items) - 1))
        settlement = self.book.settle_lost_lease(lease_id, range(at, at + 1), at, dead_after(2))
        assert settlement is not None
        self.dead += [given.item_range.chunk.payload[given.item_range.start] for given in settlement.dead_items]

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.book.release_lease(self.open.pop(data.draw(st.integers(0, len(self.open) - 1))))

    @rule(seconds=st.floats(0, 3))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.book.wake_sleepers(self.now)

    @invariant()
    def everything_is_in_one_place(self) -> None:
        for line in self.book.subscriptions:
            tally = line.counts
            assert tally.put == tally.done + tally.dead + tally.dropped + line.count + line.leased_items
            assert line.held_bytes >= 0
            assert all(line.available_items(reader) >= 0 for reader in line.readers)

    def teardown(self) -> None:
        """Whatever happened: what remains can be finished, and then every item has ended exactly once."""
        for lease_id in self.open:
            self.book.release_lease(lease_id)
        self.book.wake_sleepers(1e9)
        rounds = 0
        while (lease := self.book.grant_lease("work", 0, 5)) is not None:
            rounds += 1
            assert rounds < 10_000, "it does not end"
            items = self.items(lease.id)
            self.done += items
            self.sent += items
            self.book.settle_lease(lease.id, lease.count, {}, [("out", self.book.make_chunk(items, len(items), 1))])
        assert sorted(self.done + self.dead + self.dropped) == self.put
        arrived = []
        while (lease := self.book.grant_lease("sink", 0, 1000)) is not None:
            arrived += self.items(lease.id)
            self.book.settle_lease(lease.id, lease.count, {}, [])
        assert sorted(arrived) == sorted(self.sent)
        self.book.count_left()
        assert not any(line.counts.missing for line in self.book.subscriptions)
        assert self.book.compute_run_balance().missing == 0


class OrderedMachine(LedgerMachine):
    ordered = True


TestLedger = LedgerMachine.TestCase
TestOrdered = OrderedMachine.TestCase
TestLedger.settings = TestOrdered.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)


def fifo() -> Ledger:
    return Ledger([Subscription("a", ("work",)), Subscription("out", ("sink",))], ["work"])


def chunk(book: Ledger, *items: object) -> list:
    return [book.make_chunk(list(items), len(items), len(items))]


def arrived(book: Ledger) -> list[object]:
    found: list[object] = []
    while (lease := book.grant_lease("sink", 0, 100)) is not None:
        found += [piece.chunk.payload[piece.start + at] for _, piece in lease.item_ranges for at in range(piece.count)]
        book.settle_lease(lease.id, lease.count, {}, [])
    return found


def test_ordered_results_wait_for_those_before_them() -> None:
    book = fifo()
    book.put("a", chunk(book, 1, 2, 3, 4))
    first, second = book.grant_lease("work", 0, 2), book.grant_lease("work", 1, 2)
    assert first is not None
    assert second is not None
    book.settle_lease(second.id, 2, {}, [("out", chunk(book, 30, 40)[0])])
    assert arrived(book) == []
    book.settle_lease(first.id, 2, {}, [("out", chunk(book, 10, 20)[0])])
    assert arrived(book) == [10, 20, 30, 40]


def test_ordered_results_keep_their_place_over_a_retry_and_a_hand_back() -> None:
    book = fifo()
    book.put("a", chunk(book, 1, 2, 3, 4))
    lease, last = book.grant_lease("work", 0, 3), book.grant_lease("work", 1, 1)
    assert lease is not None
    assert last is not None
    book.settle_lease(last.id, 1, {}, [("out", chunk(book, 40)[0])])
    book.settle_lease(lease.id, 2, {1: Again(5.0)}, [("out", chunk(book, 10)[0])])  # 2 fails, 3 is handed back
    assert arrived(book) == [10]
    third = book.grant_lease("work", 0, 9)
    assert third is not None
    book.settle_lease(third.id, 1, {}, [("out", chunk(book, 30)[0])])
    assert arrived(book) == []
    book.wake_sleepers(5.0)
    second = book.grant_lease("work", 0, 9)
    assert second is not None
    assert second.item_ranges[0][1].attempts == 1
    book.settle_lease(second.id, 1, {}, [("out", chunk(book, 20)[0])])
    assert arrived(book) == [20, 30, 40]


def test_a_crash_blames_one_item_and_gives_it_alone() -> None:
    book = fifo()
    book.put("a", chunk(book, *range(10)))
    lease = book.grant_lease("work", 0, 10)
    assert lease is not None
    book.settle_lost_lease(lease.id, range(4, 5), 4, dead_after(3))
    assert book.repeated_items["work"] == 5
    counts = []
    while (again := book.grant_lease("work", 0, 10)) is not None:
        counts.append((again.count, [piece.crashes for _, piece in again.item_ranges]))
        book.settle_lease(again.id, again.count, {}, [])
    assert counts == [(4, [0]), (1, [1]), (5, [0])]


def test_bytes_bound_a_queue_too() -> None:
    book = Ledger([Subscription("a", ("sink",), size=100, bytes=50)])
    book.put("a", [book.make_chunk(["x"] * 5, 5, 60)])
    assert book.free_room_in("a") == 0
    lease = book.grant_lease("sink", 0, 5, most_bytes=24)
    assert lease is not None
    assert lease.count == 2
    assert book.free_room_in("a") == 97


def test_a_copied_queue_has_a_line_for_each_reader() -> None:
    book = Ledger([Subscription("a", (name,), is_copy=True) for name in "xy"])
    book.put("a", chunk(book, 1, 2), sender="s")
    assert book.available_items("x") == book.available_items("y") == 2
    assert book.sent_items["s"] == 4


def test_what_waits_for_a_task_that_is_over_is_left_and_freed() -> None:
    book = Ledger([Subscription("a", ("x",), size=1)])
    book.put("a", chunk(book, 1, 2))
    book.remove_reader("x", {"x"})
    book.put("a", chunk(book, 3))
    assert book.free_room_in("a") > 0
    book.count_left()
    assert book.subscriptions[0].counts.left == 3
    assert not any(line.counts.missing for line in book.subscriptions)


def test_what_is_queued_leased_or_held_back_at_the_end_is_left() -> None:
    book = fifo()
    book.put("a", chunk(book, *range(9)))
    first, second = book.grant_lease("work", 0, 2), book.grant_lease("work", 1, 3)
    assert first is not None
    assert second is not None
    book.settle_lease(second.id, 3, {}, [("out", chunk(book, 20, 30, 40)[0])])  # held back by the first
    book.count_left()
    assert [(line.queue, line.counts.done, line.counts.left) for line in book.subscriptions] == [
        ("a", 3, 6),
        ("out", 0, 3),
    ]
    assert not book.leases
    assert not any(line.counts.missing for line in book.subscriptions)
