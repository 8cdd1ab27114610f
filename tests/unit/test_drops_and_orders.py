"""Queues that drop items and rank them: a line of the ledger beside a list that does the same in the plainest way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import crossed
import pytest
from helpers import examples
from hypothesis import given
from hypothesis import strategies as st
from line_moves import moves, names_of

from runner.ledger.chunks import Chunk
from runner.ledger.journal import LedgerImage
from runner.ledger.ledger import Ledger
from runner.ledger.restore import restore_ledger
from runner.ledger.subscriptions import ItemRange, Subscription
from runner.tasks import To
from runner.transport.item_codec import decode_item, decode_payload
from runner.transport.messages import OBJECTS, PICKLED
from runner.worker.outputs import OutputBuffer
from runner.worker.priorities import read_priority
from runner.worker.spec import OutputGroup

ITEM_BYTES = 10


@dataclass
class Waiting:
    """One item that waits. `place`: when it came, among all."""

    name: str
    place: tuple[int, int]
    rank: float
    came_back: bool = False
    asleep: bool = False


@dataclass
class Model:
    """A queue as its page describes it."""

    full: str
    order: str
    size: int
    bytes: int
    waiting: list[Waiting] = field(default_factory=list)

    @property
    def most(self) -> int:
        return min(self.size, -(-self.bytes // ITEM_BYTES)) if self.full == "drop-new" else self.size

    def put(self, chunk: Chunk) -> list[str]:
        """Take items in, and return the names of those that are dropped."""
        came = [Waiting(f"{chunk.number}.{index}", (chunk.number, index), chunk.rank) for index in range(chunk.count)]
        if self.full == "drop-new":
            has_room = len(self.waiting) * ITEM_BYTES < self.bytes
            room = max(0, self.size - len(self.waiting)) if has_room else 0
            self.waiting += came[:room]
            return [each.name for each in came[room:]]
        self.waiting += came
        if self.full == "wait":
            return []
        dropped = []
        allowed = min(self.size, max(1, self.bytes // ITEM_BYTES))
        for each in sorted(self.waiting, key=lambda each: each.place):
            if len(self.waiting) > allowed and not each.came_back:
                self.waiting.remove(each)
                dropped.append(each.name)
        return dropped

    def take(self, most: int) -> list[str]:
        """Return the names of what is next, the next one first."""
        keys = {
            "fifo": lambda each: each.place,
            "lifo": lambda each: (-each.place[0], -each.place[1]),
            "priority": lambda each: (each.rank, each.place),
        }
        ready = sorted((each for each in self.waiting if not each.asleep), key=keys[self.order])[:most]
        for each in ready:
            self.waiting.remove(each)
        return [each.name for each in ready]


steps = moves((st.integers(1, 6), st.sampled_from([0.0, 1.0, 2.0])), (st.integers(1, 3), st.just(0)), most=40)


@examples(100, 3000)
@given(
    st.sampled_from(["wait", "drop-new", "drop-old"]),
    st.sampled_from(["fifo", "lifo", "priority"]),
    st.integers(1, 8),
    st.sampled_from([1 << 40, 1 << 40, 35, 60]),
    steps,
)
def test_a_line_does_what_the_page_says(full: Any, order: Any, size: int, bound: int, moves: list[Any]) -> None:
    line = Subscription("q", ("eat",), size=size, bytes=bound, full=full, order=order)
    model = Model(full, order, size, bound)
    held: list[ItemRange] = []
    places: dict[str, tuple[Any, ...]] = {}
    chunks = put = 0
    ended = 0
    dropped_before = 0
    for what, number, more in moves:
        if what == "put":
            chunks += 1
            chunk = Chunk(chunks, b"", number, number * ITEM_BYTES, rank=more if order == "priority" else 0.0)
            put += number
            dropped = [name for piece in line.admit_chunk(chunk) for name in names_of(piece)]
            assert sorted(dropped) == sorted(model.put(chunk))
            assert line.counts.dropped == dropped_before + len(dropped)
            dropped_before += len(dropped)
            places |= {f"{chunks}.{index}": ((chunks, index), chunk.rank) for index in range(number)}
        elif what == "take":
            pieces = line.take_ranges("eat", 1 if order != "fifo" else number, 1 << 60)
            taken = [name for piece in pieces for name in names_of(piece)]
            assert taken == model.take(len(taken))
            assert taken or not any(not each.asleep for each in model.waiting), "there was something to take"
            held += pieces
        elif what == "back" and held:
            piece = held.pop(number % len(held))
            line.give_back(piece, "eat", 1.0 if more else None)
            for name in names_of(piece):
                place, rank = places[name]
                model.waiting.append(Waiting(name, place, rank, came_back=True, asleep=bool(more)))
        elif what == "done" and held:
            piece = held.pop(number % len(held))
            line.leased_items -= piece.count
            line.counts.done += piece.count
            ended += piece.count
        elif what == "wake":
            line.wake_sleepers(2.0)
            for each in model.waiting:
                each.asleep = False
        leased = sum(piece.count for piece in held)
        assert line.count == len(model.waiting)
        assert line.held_bytes == ITEM_BYTES * len(model.waiting)
        assert line.available_items("eat") == sum(not each.asleep for each in model.waiting)
        assert put == ended + line.counts.dropped + line.count + leased


@pytest.mark.parametrize("full", ["drop-new", "drop-old"])
def test_what_a_durable_queue_drops_is_over_on_disk(full: Any) -> None:
    """Also while all that waits is not on disk yet; and the next life counts it, and has it no more."""
    image = LedgerImage()
    book = Ledger([Subscription("q", ("eat",), size=3, full=full)])
    restore_ledger(book, image)
    assert book.journal is not None
    book.put("q", [book.make_chunk(b"", 2, 2), book.make_chunk(b"", 4, 4)], sender="bake")
    first = book.journal.hand_over()
    assert first is not None
    image.apply_group(first)
    book.wake_kept(first.number)
    lease = book.grant_lease("eat", 0, 1)
    assert lease is not None
    book.release_lease(lease.id)
    book.put("q", [book.make_chunk(b"", 5, 5)], sender="bake")
    second = book.journal.hand_over()
    assert second is not None
    image.apply_group(second)
    assert not image.find_faults()
    again = Ledger([Subscription("q", ("eat",), size=3, full=full)])
    restore_ledger(again, image)
    (line,) = again.subscriptions
    assert (line.counts.put, line.counts.dropped, line.count) == (11, 8, 3)
    left = [name for piece in line.ready_ranges for name in names_of(piece)]
    assert left == (["1.0", "1.1", "2.0"] if full == "drop-new" else [lease.item_ranges[0][1].item_id, "3.3", "3.4"])


def test_the_order_survives_in_the_next_life() -> None:
    for order in ("lifo", "priority"):
        image = LedgerImage()
        book = Ledger([Subscription("q", ("eat",), order=order)])
        restore_ledger(book, image)
        assert book.journal is not None
        for rank in (2.0, 1.0, 3.0):
            book.put("q", [book.make_chunk(b"", 2, 2, rank=rank)], sender="bake")
        group = book.journal.hand_over()
        assert group is not None
        image.apply_group(group)
        again = Ledger([Subscription("q", ("eat",), order=order)])
        restore_ledger(again, image)
        leases = [again.grant_lease("eat", 0, 1) for _ in range(6)]
        names = [lease.item_ranges[0][1].item_id for lease in leases if lease is not None]
        expected = {
            "lifo": ["3.1", "3.0", "2.1", "2.0", "1.1", "1.0"],
            "priority": ["2.0", "2.1", "1.0", "1.1", "3.0", "3.1"],
        }
        assert names == expected[order]


# -- priorities, where items are made ----------------------------------------------------------


class Letter:
    def __init__(self, priority: float) -> None:
        self.priority = priority


@pytest.mark.parametrize("kind", [OBJECTS, PICKLED])
def test_items_of_one_priority_make_a_chunk_in_their_order(kind: int) -> None:
    groups = (OutputGroup("default", ("q",), kind, is_read_singly=True, has_priorities=True),)
    buffer = OutputBuffer(groups)
    items: list[Any] = [(2, "a"), {"priority": 1}, (2, "b"), [1, "c"], (2, "d")]
    for item in items:
        buffer.emit_item(item)
    found = [
        (
            output.rank,
            output.count,
            output.payload if kind == OBJECTS else [decode_item(x) for x in decode_payload(output.payload)],
        )
        for output in buffer.take_outputs()
    ]
    assert found == [(1.0, 2, [{"priority": 1}, [1, "c"]]), (2.0, 3, [(2, "a"), (2, "b"), (2, "d")])]
    assert buffer.take_outputs() == ()


def test_an_item_goes_to_a_queue_with_priorities_and_to_one_without() -> None:
    groups = (
        OutputGroup("default", ("q",), PICKLED, has_priorities=True, is_read_singly=True),
        OutputGroup("default", ("r",), PICKLED),
        OutputGroup("other", ("s",), PICKLED),
    )
    buffer = OutputBuffer(groups)
    buffer.emit_item((5, "a"))
    mark = buffer.rollback_mark()
    buffer.emit_item((4, "b"))
    buffer.roll_back_to(mark)
    buffer.emit_item(To("other", "no priority"))
    with pytest.raises(TypeError, match="a str has no `priority`"):
        buffer.emit_item("no priority")
    buffer.emit_item((3, "c"))
    assert [(output.group_index, output.rank, output.count) for output in buffer.take_outputs()] == [
        (0, 3.0, 1),
        (0, 5.0, 1),
        (1, 0.0, 2),
        (2, 0.0, 1),
    ]


@pytest.mark.parametrize("item", [{}, {"priority": "high"}, 5, (1, 2, 3), ("x", 1), Letter(float("nan")), None])
def test_an_item_without_a_number_is_refused(item: Any) -> None:
    with pytest.raises(TypeError, match="takes items with an attribute or a key `priority`"):
        read_priority(item)


def test_the_attribute_comes_first() -> None:
    assert read_priority(Letter(7)) == 7.0


# -- whole runs --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_all_features_crossed_with_drops_and_orders(seed: int) -> None:
    crossed.check(seed, ranked=True)


def test_they_do_drop() -> None:
    assert sum(crossed.check(seed, ranked=True)["dropped"] for seed in range(12, 15)) > 20


@pytest.mark.parametrize("seed", range(4))
def test_a_durable_run_with_drops_and_orders(seed: int) -> None:
    crossed.check(seed, ranked=True, durable=True)
